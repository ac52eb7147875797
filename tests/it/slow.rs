//! Clients that stop reading while far more is published than mailbox and kernel hold.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    hopping::sequence_of,
    support::{Claims, Sse, TestGateway, Ws},
};

/// With `EVENT_BYTES`, several times what the kernel buffers for one connection.
const FLOOD: usize = 1200;
const EVENT_BYTES: usize = 8 * 1024;
const BATCH: usize = 100;

const SUBPROTOCOLS: [&str; 2] = ["tribus.json.v1", "tribus.msgpack.v1"];

/// Publishes a batch to one topic; the ids.
async fn publish_batch(gateway: &TestGateway, topic: &str) -> Vec<u64> {
    let event = json!({"topic": topic, "data": "x".repeat(EVENT_BYTES)});
    let (status, answer) = gateway.post(&json!(vec![event; BATCH]).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let ids = answer["ids"].as_array().expect("ids");
    ids.iter().map(sequence).collect()
}

async fn flood(gateway: &TestGateway, topic: &str) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < FLOOD {
        ids.extend(publish_batch(gateway, topic).await);
    }
    ids
}

fn sequence(cursor: &Value) -> u64 {
    sequence_of(cursor.as_str().expect("a cursor"))
}

/// A client on either streaming transport.
enum Slow {
    Ws(Box<Ws>),
    Sse(Sse),
}

impl Slow {
    /// One client of each kind, live, and not reading from now on.
    async fn of_each_kind(gateway: &TestGateway, query: &str) -> Vec<(&'static str, Self)> {
        let claims = Claims::all("slow");
        let mut clients = Vec::new();
        for subprotocol in SUBPROTOCOLS {
            let mut ws = gateway.narrow_ws(&claims, query, subprotocol).await;
            ws.frame("live").await;
            clients.push((subprotocol, Self::Ws(Box::new(ws))));
        }
        let mut sse = gateway.narrow_sse(&claims, query, None).await;
        sse.frame("live").await;
        clients.push(("sse", Self::Sse(sse)));
        clients
    }

    /// The next event or reset.
    async fn next(&mut self) -> Value {
        loop {
            let frame = match self {
                Self::Ws(ws) => ws.next().await,
                Self::Sse(sse) => sse.next().await.json(),
            };
            if frame["type"] != "heartbeat" {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_stopped_reading_gets_everything_once_and_in_order_after_all() {
    let gateway = TestGateway::start().await;
    let mut fast = gateway.ws("topics=a:*").await;
    fast.frame("live").await;
    let clients = Slow::of_each_kind(&gateway, "topics=a:*").await;
    let mut published = Vec::new();
    while published.len() < FLOOD {
        let ids = publish_batch(&gateway, "a:1").await;
        for id in &ids {
            assert_eq!(
                sequence(&fast.event().await["id"]),
                *id,
                "others are served meanwhile"
            );
        }
        published.extend(ids);
    }
    for (kind, mut client) in clients {
        for id in &published {
            let event = client.next().await;
            assert_eq!(event["type"], "event", "{kind}: {}", event["reason"]);
            assert_eq!(sequence(&event["id"]), *id, "{kind}");
        }
        // It is live again.
        let last = gateway.publish("a:2", json!("last")).await;
        assert_eq!(client.next().await["id"], json!(last), "{kind}");
        published.push(sequence_of(&last));
    }
}

#[tokio::test]
async fn a_client_that_falls_behind_retention_is_told_lagged_and_goes_on_from_there() {
    let gateway = TestGateway::with("retention.events = 250").await;
    let clients = Slow::of_each_kind(&gateway, "topics=a:*").await;
    let published = flood(&gateway, "a:1").await;
    let head = *published.last().expect("a flood");
    for (kind, mut client) in clients {
        let mut expected = published.iter();
        let reset = loop {
            let frame = client.next().await;
            if frame["type"] == "reset" {
                break frame;
            }
            assert_eq!(Some(&sequence(&frame["id"])), expected.next(), "{kind}");
        };
        assert!(expected.len() > 250, "{kind}: nothing was missed");
        assert_eq!(reset["reason"], "lagged", "{kind}");
        assert!(sequence(&reset["cursor"]) >= head, "{kind}: {reset}");
        let next = gateway.publish("a:2", json!(kind)).await;
        let cursor = reset["cursor"].as_str().expect("a cursor");
        let (status, resumed) = gateway.poll(&format!("topics=a:*&cursor={cursor}")).await;
        assert_eq!(status, 200, "{kind}: {resumed}");
        let resumed = &resumed["events"][0];
        let mut event = client.next().await;
        while event["id"] != json!(next) {
            assert_eq!(event["topic"], "a:2", "{kind}: {event}");
            event = client.next().await;
        }
        assert!(
            sequence(&resumed["id"]) > sequence(&reset["cursor"]),
            "{kind}"
        );
    }
}

#[tokio::test]
async fn a_client_that_reads_too_slowly_for_a_ping_to_reach_it_in_time_is_not_silent() {
    let gateway = TestGateway::with("heartbeat = \"400ms\"").await;
    let mut ws = gateway
        .narrow_ws(&Claims::all("slow"), "topics=a:1", SUBPROTOCOLS[0])
        .await;
    ws.frame("live").await;
    let mut client = Slow::Ws(Box::new(ws));
    // What waits in the gateway and its kernel is passed in more time than the silence for which
    // a client is closed; and so long it is slow.
    let slow_until = Instant::now() + Duration::from_secs(4);
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < FLOOD {
            let event = client.next().await;
            assert_eq!(event["type"], "event", "{event}");
            seen.push(sequence(&event["id"]));
            if Instant::now() < slow_until {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        seen
    };
    let (seen, published) = futures_util::join!(reading, flood(&gateway, "a:1"));
    assert!(seen == published, "{} events", seen.len());
    let last = gateway.publish("a:1", json!("last")).await;
    assert_eq!(client.next().await["id"], json!(last));
}

#[tokio::test]
async fn messages_of_a_slow_client_are_answered_in_order_and_have_effect_in_order() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .narrow_ws(&Claims::all("slow"), "topics=a:1", SUBPROTOCOLS[0])
        .await;
    ws.frame("live").await;
    flood(&gateway, "a:1").await;
    let before = gateway.publish("b:1", json!("before")).await;
    let cursor = ws.connected["cursor"].clone();
    assert_eq!(
        cursor,
        Value::Null,
        "the narrow client reads `connected` itself"
    );
    let (log, sequence_before) = before.split_once('-').expect("LOG-SEQUENCE");
    let before_b = sequence_before.parse::<u64>().expect("a sequence") - 1;
    for (reference, message) in [
        json!({"type": "ping"}),
        json!({"type": "subscribe", "topics": ["b:*"], "cursor": format!("{log}-{before_b}")}),
        json!({"type": "ping"}),
        json!({"type": "publish", "topic": "b:1", "data": "published"}),
        json!({"type": "unsubscribe", "topics": ["a:1"]}),
        json!({"type": "subscribe", "topics": ["c:1"]}),
        json!({"type": "unsubscribe", "topics": ["c:1"]}),
        json!({"type": "nonsense"}),
        json!({"type": "ping"}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = message;
        message["ref"] = json!(reference);
        ws.send(message).await;
    }
    let mut replies = Vec::new();
    let mut of_b = Vec::new();
    while replies.last().is_none_or(|(reference, _)| *reference != 8) || of_b.len() < 2 {
        let frame = ws.next().await;
        if frame["type"] == "event" {
            let unsubscribed = replies.iter().any(|(_, kind)| kind == "unsubscribed");
            let is_a = frame["topic"] == "a:1";
            assert!(!(is_a && unsubscribed), "an event after `unsubscribed`");
            if !is_a {
                of_b.push(frame["data"].clone());
            }
        } else if frame["type"] != "live" {
            let kind = frame["type"].as_str().expect("a type").to_owned();
            replies.push((frame["ref"].as_u64().expect("a ref"), kind));
        }
    }
    let expected = [
        "pong",
        "subscribed",
        "pong",
        "published",
        "unsubscribed",
        "subscribed",
        "unsubscribed",
        "error",
        "pong",
    ];
    let expected: Vec<_> = (0..).zip(expected.map(str::to_owned)).collect();
    assert_eq!(replies, expected);
    assert_eq!(of_b, ["before", "published"]);
}

#[tokio::test]
async fn subscribing_a_filter_again_while_slow_loses_and_repeats_nothing() {
    for again in [json!(["a:1"]), json!(["a:*"]), json!(["a:1", "**"])] {
        let gateway = TestGateway::start().await;
        let mut ws = gateway
            .narrow_ws(&Claims::all("slow"), "topics=a:1", SUBPROTOCOLS[0])
            .await;
        ws.frame("live").await;
        let mut published = flood(&gateway, "a:1").await;
        ws.send(json!({"type": "subscribe", "topics": again})).await;
        ws.send(json!({"type": "publish", "topic": "a:1", "data": "last"}))
            .await;
        let mut seen = Vec::new();
        let mut last = None;
        while last.is_none() || seen.len() < FLOOD + 1 {
            let frame = ws.next().await;
            match frame["type"].as_str() {
                Some("event") => seen.push(sequence(&frame["id"])),
                Some("published") => last = Some(sequence(&frame["id"])),
                _ => assert_ne!(frame["type"], "reset", "{again}"),
            }
        }
        published.extend(last);
        assert!(
            seen == published,
            "{again}: {} of {}",
            seen.len(),
            published.len()
        );
    }
}

#[tokio::test]
async fn what_an_old_and_a_late_subscription_match_is_sent_once_amid_a_flood() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .narrow_ws(&Claims::all("slow"), "topics=a:*", SUBPROTOCOLS[0])
        .await;
    ws.frame("live").await;
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < FLOOD {
            let frame = ws.next().await;
            if frame["type"] != "event" {
                assert_ne!(frame["type"], "reset");
                continue;
            }
            seen.push(sequence(&frame["id"]));
            if seen.len().is_multiple_of(20) {
                let overlapping = ["a:1", "**", "a:*", "*:1"][seen.len() / 20 % 4];
                ws.send(json!({"type": "subscribe", "topics": [overlapping]}))
                    .await;
            }
        }
        seen
    };
    let (seen, published) = futures_util::join!(reading, flood(&gateway, "a:1"));
    assert_eq!(seen, published);
}

#[tokio::test]
async fn the_id_of_a_rewound_event_is_safe_to_resume_from_though_the_client_was_slow() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .narrow_ws(&Claims::all("slow"), "topics=a:1", SUBPROTOCOLS[0])
        .await;
    ws.frame("live").await;
    let published = flood(&gateway, "a:1").await;
    gateway.publish("b:1", json!(1)).await;
    let second = gateway.publish("b:1", json!(2)).await;
    gateway.publish("b:1", json!(3)).await;
    ws.send(json!({"type": "subscribe", "topics": ["b:1"], "rewind": 2}))
        .await;
    let mut seen = BTreeSet::new();
    let cursor = loop {
        let frame = ws.next().await;
        if frame["type"] == "event" {
            seen.insert(sequence(&frame["id"]));
        }
        if frame["topic"] == "b:1" {
            break frame["id"].as_str().expect("an id").to_owned();
        }
    };
    assert_eq!(cursor, second);
    drop(ws);
    let mut sse = gateway
        .sse(&format!("topics=a:1,b:1&cursor={cursor}"))
        .await;
    loop {
        let event = sse.event().await;
        seen.insert(sequence(&event["id"]));
        if event["data"] == json!(3) {
            break;
        }
    }
    let lost: Vec<_> = published.iter().filter(|id| !seen.contains(id)).collect();
    assert!(
        lost.is_empty(),
        "{} lost, the first {:?}",
        lost.len(),
        lost[0]
    );
}

#[tokio::test]
async fn every_stream_cursor_that_a_slow_client_is_given_is_safe() {
    let gateway = TestGateway::start().await;
    let query = "topics=a:1";
    let (_, start) = gateway.poll(query).await;
    let start = start["cursor"].as_str().expect("a cursor").to_owned();
    let published = flood(&gateway, "a:1").await;
    let query = format!("{query}&cursor={start}");
    let mut ws = gateway
        .narrow_ws(&Claims::all("slow"), &query, SUBPROTOCOLS[0])
        .await;
    // A reply never overtakes what was before it, not even `connected`.
    ws.send(json!({"type": "ping"})).await;
    let mut last = sequence_of(&start);
    let mut expected = published.iter();
    let mut pongs = 0;
    while expected.len() > 0 {
        let frame = ws.next().await;
        if frame["type"] == "event" {
            last = sequence(&frame["id"]);
            assert_eq!(expected.next(), Some(&last));
            if last.is_multiple_of(64) {
                ws.send(json!({"type": "ping"})).await;
            }
        } else {
            pongs += usize::from(frame["type"] == "pong");
            assert_eq!(sequence(&frame["cursor"]), last, "{frame}");
        }
    }
    assert!(pongs > 3, "only {pongs} cursors were looked at");
}
