//! Where events were missed the client is told so, on each transport, and only where they were.

use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use crate::{
    hopping::sequence_of,
    support::{Claims, Received, Sse, TRANSPORTS, TestGateway, Transport, within},
};

/// What a resume led to: a reset, or the events up to `live`.
#[derive(Debug)]
struct Outcome {
    reset: Option<Value>,
    topics: Vec<String>,
}

impl Outcome {
    fn reason(&self) -> Option<&str> {
        self.reset.as_ref()?["reason"].as_str()
    }

    fn take(&mut self, frame: Value) {
        match frame["type"].as_str() {
            Some("event") => {
                let topic = frame["topic"].as_str().expect("a topic");
                self.topics.push(topic.to_owned());
            }
            Some("reset") => self.reset = Some(frame),
            _ => assert_eq!(frame["type"], "heartbeat"),
        }
    }
}

async fn resume(
    gateway: &TestGateway,
    transport: Transport,
    topics: &str,
    cursor: &str,
) -> Outcome {
    let query = format!("topics={topics}&cursor={cursor}");
    let mut outcome = Outcome {
        reset: None,
        topics: Vec::new(),
    };
    match transport {
        Transport::Ws => {
            let mut ws = gateway.ws(&query).await;
            assert_asked(&ws.connected, cursor);
            loop {
                match ws.next().await {
                    frame if frame["type"] == "live" => return outcome,
                    frame => outcome.take(frame),
                }
            }
        }
        Transport::Sse => {
            let mut sse = gateway.sse(&query).await;
            assert_asked(&sse.connected, cursor);
            loop {
                match sse.next().await.json() {
                    frame if frame["type"] == "live" => return outcome,
                    frame => outcome.take(frame),
                }
            }
        }
        Transport::Poll => {
            let (status, answer) = gateway.poll(&format!("{query}&wait=0&max=1000")).await;
            if status == 410 {
                outcome.take(answer);
                return outcome;
            }
            assert_eq!(status, 200, "{answer}");
            for event in answer["events"].as_array().expect("events") {
                outcome.take(event.clone());
            }
        }
    }
    outcome
}

fn assert_asked(connected: &Value, cursor: &str) {
    if cursor != "earliest" {
        assert_eq!(connected["cursor"], json!(cursor), "{connected}");
    }
}

async fn position(gateway: &TestGateway) -> String {
    let (_, start) = gateway.poll("topics=**").await;
    start["cursor"].as_str().expect("a cursor").to_owned()
}

/// Their ids.
async fn publish_many(gateway: &TestGateway, topics: &[String], filler: usize) -> Vec<String> {
    let events: Vec<_> = topics
        .iter()
        .map(|topic| json!({"topic": topic, "data": "x".repeat(filler)}))
        .collect();
    let (status, answer) = gateway.post(&json!(events).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let ids = answer["ids"].as_array().expect("ids").iter();
    ids.map(|id| id.as_str().expect("an id").to_owned())
        .collect()
}

fn numbered(name: &str, count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{name}:{number}"))
        .collect()
}

#[tokio::test]
async fn retention_overrun_while_away_is_told_on_each_transport() {
    for retention in ["events = 8", "bytes = \"16KiB\""] {
        let gateway = TestGateway::with(&format!("retention.{retention}")).await;
        let away = position(&gateway).await;
        publish_many(&gateway, &["lost:1".into()], 2000).await;
        publish_many(&gateway, &numbered("filler", 7), 2000).await;
        publish_many(&gateway, &["kept:1".into()], 2000).await;
        for transport in TRANSPORTS {
            let place = format!("{retention} {transport:?}");
            for topics in ["lost:1", "lost:*", "**", "kept:1,lost:1"] {
                let lost = resume(&gateway, transport, topics, &away).await;
                assert_eq!(lost.reason(), Some("expired"), "{place} {topics}: {lost:?}");
                assert!(lost.topics.is_empty(), "{place} {topics}: {lost:?}");
            }
            for (topics, expected) in [
                ("kept:1", vec!["kept:1"]),
                ("nobody:1", vec![]),
                ("filler:6,kept:1,nobody:1", vec!["filler:6", "kept:1"]),
            ] {
                let kept = resume(&gateway, transport, topics, &away).await;
                assert_eq!(kept.reason(), None, "{place} {topics}");
                assert_eq!(kept.topics, expected, "{place} {topics}");
            }
        }
    }
}

#[tokio::test]
async fn an_event_that_became_too_old_while_away_is_told_on_each_transport() {
    let gateway = TestGateway::with("retention.age = \"300ms\"").await;
    let away = position(&gateway).await;
    gateway.publish("lost:1", json!(1)).await;
    within("the event to expire", async {
        let quiet = format!("topics=quiet:1&cursor={away}&wait=1");
        while resume(&gateway, Transport::Poll, "lost:1", &away)
            .await
            .reset
            .is_none()
        {
            assert_eq!(gateway.poll(&quiet).await.0, 200);
        }
    })
    .await;
    for transport in TRANSPORTS {
        let lost = resume(&gateway, transport, "lost:1", &away).await;
        assert_eq!(lost.reason(), Some("expired"), "{transport:?}");
        let quiet = resume(&gateway, transport, "quiet:1", &away).await;
        assert!(quiet.reset.is_none(), "{transport:?}: {quiet:?}");
    }
}

#[tokio::test]
async fn after_a_reset_the_client_goes_on_from_its_cursor_without_another_gap() {
    let gateway = TestGateway::with("retention.events = 4").await;
    let away = position(&gateway).await;
    publish_many(&gateway, &numbered("a", 6), 1).await;
    for transport in TRANSPORTS {
        let lost = resume(&gateway, transport, "a:*", &away).await;
        let reset = lost.reset.expect("a reset");
        let cursor = reset["cursor"].as_str().expect("a cursor");
        let id = gateway.publish("a:next", json!(1)).await;
        assert!(sequence_of(cursor) < sequence_of(&id), "{transport:?}");
        let next = resume(&gateway, transport, "a:*", cursor).await;
        assert!(next.reset.is_none(), "{transport:?}: {next:?}");
        assert_eq!(next.topics, ["a:next"], "{transport:?}");
    }
}

#[tokio::test]
async fn a_cursor_that_this_log_never_gave_is_a_reset_on_each_transport() {
    let gone = TestGateway::start().await;
    let of_gone = gone.publish("a:1", json!(1)).await;
    gone.stop().await;
    let gateway = TestGateway::start().await;
    let id = gateway.publish("a:1", json!(1)).await;
    let (log, _) = id.split_once('-').expect("LOG-SEQUENCE");
    for cursor in [
        of_gone,
        "forged-0".to_owned(),
        "forged-1.c0ffee".to_owned(),
        format!("{log}-2"),
        format!("{log}-{}", u64::MAX),
        format!("{log}-1.c0ffee"),
        format!("{log}-0.0"),
    ] {
        for transport in TRANSPORTS {
            let outcome = resume(&gateway, transport, "a:1", &cursor).await;
            let place = format!("{transport:?} {cursor}");
            assert_eq!(outcome.reason(), Some("unknown_log"), "{place}");
            assert!(outcome.topics.is_empty(), "{place}: {outcome:?}");
            let reset = outcome.reset.expect("a reset");
            assert_eq!(reset["cursor"], json!(id), "{place}");
        }
    }
}

const MALFORMED: [&str; 12] = [
    "",
    "x",
    "-",
    "x-",
    "-1",
    "x-01",
    "x-1-2",
    "x-1.",
    "x-99999999999999999999",
    "Earliest",
    "x y-1",
    "ключ-1",
];

#[tokio::test]
async fn a_malformed_cursor_is_refused_on_each_transport() {
    let gateway = TestGateway::start().await;
    let long = format!("{}-1", "x".repeat(64));
    for cursor in MALFORMED.into_iter().chain([&*long]) {
        let encoded = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect::<String>();
        let query = format!("topics=a&cursor={encoded}");
        let claims = Claims::all("alice");
        let body = json!({"topics": ["a"], "cursor": cursor}).to_string();
        for path in ["/events", "/poll"] {
            let by_body = gateway.http.post(gateway.url(path)).body(body.clone());
            let by_body = by_body.bearer_auth(claims.token()).send();
            for response in [
                gateway.get(path, &query, &claims).await,
                within("an answer", by_body).await.expect("an answer"),
            ] {
                assert_eq!(response.status(), 400, "{path} {cursor:?}");
                let error: Value = response.json().await.expect("JSON");
                assert_eq!(error["code"], "bad_cursor", "{path} {cursor:?}");
            }
        }
        // Errors in the URL come as frames, and the connection stays.
        let mut ws = crate::support::Ws::connect(&gateway, &query, Some(&claims.token()), None)
            .await
            .expect("the handshake succeeds");
        let error = ws.frame("error").await;
        assert_eq!(error["code"], "bad_cursor", "{cursor:?}");
        ws.frame("connected").await;
        let subscribe = json!({"type": "subscribe", "topics": ["a"], "cursor": cursor, "ref": 7});
        let error = ws.ask(subscribe).await;
        assert_eq!(
            (&error["code"], &error["ref"]),
            (&json!("bad_cursor"), &json!(7))
        );
        assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
    }
}

#[tokio::test]
async fn hostile_last_event_ids_are_refused_and_never_served_from_elsewhere() {
    let gateway = TestGateway::start().await;
    let before = position(&gateway).await;
    gateway.publish("a", json!(1)).await;
    let open = async |id: &[u8]| {
        let request = gateway
            .http
            .get(gateway.url(&format!("/events?topics=a&cursor={before}")))
            .header(
                "Last-Event-ID",
                HeaderValue::from_bytes(id).expect("a header value"),
            )
            .bearer_auth(Claims::all("alice").token());
        within("an answer", request.send())
            .await
            .expect("an answer")
    };
    let long = format!("x-{}", "1".repeat(4000));
    let bad: [&[u8]; 6] = [
        b"\xff\xfe",
        b"x",
        b"x-1\tx-2",
        b"0",
        "ключ-1".as_bytes(),
        long.as_bytes(),
    ];
    for id in bad {
        let response = open(id).await;
        assert_eq!(response.status(), 400, "{id:?}");
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["code"], "bad_cursor", "{id:?}");
    }
    // An empty one is what a browser has before the first id: the cursor of the URL counts.
    let mut sse = Sse::new(open(b"").await);
    assert_eq!(sse.frame("connected").await["cursor"], json!(before));
    assert_eq!(sse.event().await["data"], json!(1));
    let mut sse = Sse::new(open(b"forged-7").await);
    assert_eq!(sse.frame("reset").await["reason"], "unknown_log");
}

#[tokio::test]
async fn earliest_gives_all_that_is_retained_without_a_reset() {
    let gateway = TestGateway::with("retention.events = 5").await;
    for transport in TRANSPORTS {
        let empty = resume(&gateway, transport, "**", "earliest").await;
        assert!(
            empty.reset.is_none() && empty.topics.is_empty(),
            "{transport:?}"
        );
    }
    publish_many(&gateway, &numbered("a", 9), 1).await;
    for transport in TRANSPORTS {
        for (topics, expected) in [
            ("**", &["a:4", "a:5", "a:6", "a:7", "a:8"][..]),
            ("a:0,a:7", &["a:7"]),
            ("a:0", &[]),
        ] {
            let outcome = resume(&gateway, transport, topics, "earliest").await;
            assert!(
                outcome.reset.is_none(),
                "{transport:?} {topics}: {outcome:?}"
            );
            assert_eq!(outcome.topics, expected, "{transport:?} {topics}");
        }
    }
}

#[tokio::test]
async fn earliest_is_no_reset_either_while_the_log_is_trimmed_all_the_time() {
    let gateway = std::sync::Arc::new(TestGateway::with("retention.events = 2").await);
    publish_many(&gateway, &numbered("a", 20), 1).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let publishing = tokio::spawn({
        let gateway = std::sync::Arc::clone(&gateway);
        async move {
            while stopped.try_recv().is_err() {
                publish_many(&gateway, &numbered("a", 20), 1).await;
            }
        }
    });
    for round in 0..60 {
        let (status, answer) = gateway.poll("topics=a:*&cursor=earliest&wait=5").await;
        assert_eq!(status, 200, "round {round}: {answer}");
        let mut sse = gateway.sse("topics=a:*&cursor=earliest").await;
        assert_first_is_no_reset(&sse.next().await.json());
        let mut ws = gateway.ws("topics=a:*&cursor=earliest").await;
        assert_first_is_no_reset(&ws.next().await);
    }
    stop.send(()).expect("still publishing");
    publishing.await.expect("publishing goes well");
}

/// Further on, a log that is trimmed this fast leaves even live clients behind.
fn assert_first_is_no_reset(frame: &Value) {
    assert_ne!(frame["type"], "reset", "{frame}");
}

#[tokio::test]
async fn of_very_many_trimmed_topics_each_is_told_and_no_other() {
    const TOPICS: usize = 20_000;
    const RETAINED: usize = 500;
    let gateway = TestGateway::with(&format!("retention.events = {RETAINED}")).await;
    let start = position(&gateway).await;
    let mut ids = Vec::new();
    for batch in numbered("t", TOPICS).chunks(2000) {
        ids.extend(publish_many(&gateway, batch, 1).await);
    }
    for number in (0..TOPICS).step_by(251) {
        let topic = format!("t:{number}");
        let away = resume(&gateway, Transport::Poll, &topic, &start).await;
        if number < TOPICS - RETAINED {
            assert_eq!(away.reason(), Some("expired"), "{topic}");
        } else {
            assert_eq!(away.topics, [&*topic], "{away:?}");
        }
        let seen = resume(&gateway, Transport::Poll, &topic, &ids[number]).await;
        assert!(
            seen.reset.is_none() && seen.topics.is_empty(),
            "{topic}: {seen:?}"
        );
        let never = resume(
            &gateway,
            Transport::Poll,
            &format!("never:{number}"),
            &start,
        )
        .await;
        assert!(never.reset.is_none(), "never:{number}: {never:?}");
    }
}

#[tokio::test]
async fn heartbeats_keep_a_subscriber_of_quiet_topics_within_retention() {
    // Long enough that who publishes meanwhile, and answers no Ping, is not taken for silent.
    let gateway = TestGateway::with("heartbeat = \"500ms\"\nretention.events = 4").await;
    let query = "topics=quiet:1";
    let mut ws = gateway.ws(query).await;
    let mut sse = gateway.sse(query).await;
    publish_many(&gateway, &numbered("busy", 3), 1).await;
    publish_many(&gateway, &numbered("busy", 4), 1).await;
    let head = position(&gateway).await;
    let mut cursors = Vec::new();
    for frames in 0.. {
        assert!(frames < 100, "no heartbeat carries the head");
        let frame = ws.next().await;
        assert_ne!(frame["type"], "reset", "nothing of this topic was trimmed");
        if frame["cursor"] == json!(head) {
            cursors.push(frame["cursor"].clone());
            break;
        }
    }
    for frames in 0.. {
        assert!(frames < 100, "no heartbeat carries the head");
        let event = sse.next().await;
        assert_ne!(event.name, "reset", "nothing of this topic was trimmed");
        if event.id == head {
            cursors.push(json!(event.id));
            break;
        }
    }
    for cursor in cursors {
        let cursor = cursor.as_str().expect("a cursor");
        for transport in TRANSPORTS {
            let outcome = resume(&gateway, transport, "**", cursor).await;
            assert!(outcome.reset.is_none(), "{transport:?}: {outcome:?}");
        }
    }
}

#[tokio::test]
async fn a_late_subscribe_that_missed_events_resets_its_own_topics_only() {
    let gateway = TestGateway::with("retention.events = 4").await;
    let away = position(&gateway).await;
    publish_many(&gateway, &numbered("lost", 6), 1).await;
    let mut ws = gateway.ws("topics=other:1").await;
    ws.frame("live").await;
    let subscribe = json!({"type": "subscribe", "topics": ["lost:*"], "cursor": away, "ref": "r"});
    ws.send(subscribe).await;
    assert_eq!(ws.frame("subscribed").await["ref"], "r");
    let reset = ws.frame("reset").await;
    assert_eq!(reset["reason"], "expired");
    assert_eq!(reset["topics"], json!(["lost:*"]));
    assert_eq!(reset["ref"], "r");
    assert_eq!(ws.frame("live").await["ref"], "r");
    gateway.publish("other:1", json!(1)).await;
    gateway.publish("lost:7", json!(2)).await;
    assert_eq!(ws.event().await["topic"], "other:1");
    assert_eq!(ws.event().await["topic"], "lost:7");
}

#[tokio::test]
async fn a_gap_on_a_websocket_leaves_the_connection_open() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a&cursor=forged-1").await;
    assert_eq!(ws.frame("reset").await["reason"], "unknown_log");
    ws.frame("live").await;
    gateway.publish("a", json!(1)).await;
    match ws.receive().await {
        Received::Json(event) => assert_eq!(event["data"], json!(1)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn live_clients_miss_nothing_where_retention_is_shorter_than_a_burst() {
    let gateway = TestGateway::with("retention.events = 2").await;
    let mut ws = gateway.ws("topics=a:*").await;
    let mut sse = gateway.sse("topics=a:*").await;
    let batch: Vec<_> = (0..60)
        .map(|n| json!({"topic": format!("a:{n}"), "data": n}))
        .collect();
    gateway.post(&json!(batch).to_string()).await;
    for n in 0..60 {
        assert_eq!(ws.event().await["data"], n);
        assert_eq!(sse.event().await["data"], n);
    }
}

/// More topics than one step looks at.
#[tokio::test]
async fn a_rewind_over_thousands_of_topics_gives_the_last_of_each_in_order() {
    let gateway = TestGateway::start().await;
    for half in 0..2 {
        let batch: Vec<_> = (0..3000)
            .map(|n| json!({"topic": format!("t:{n}"), "data": half}))
            .collect();
        assert_eq!(gateway.post(&json!(batch).to_string()).await.0, 200);
    }
    let mut others: Vec<_> = (3000..6000)
        .map(|n| json!({"topic": format!("t:{n}"), "data": 1}))
        .collect();
    others.push(json!({"topic": "u:1"}));
    gateway.post(&json!(others).to_string()).await;
    let mut ws = gateway.ws("topics=t:*&rewind=1").await;
    for n in 0..6000 {
        let event = ws.event().await;
        assert_eq!(event["topic"], format!("t:{n}"));
        assert_eq!(event["data"], 1);
    }
    ws.frame("live").await;
}

/// With so many patterns a page looks at few events, and a turn at few pages.
#[tokio::test]
async fn many_patterns_over_a_long_log_miss_nothing() {
    let gateway = TestGateway::start().await;
    let batch: Vec<_> = (0..4000)
        .map(|n| json!({"topic": format!("t:{n}"), "data": n}))
        .collect();
    gateway.post(&json!(batch).to_string()).await;
    let filters: Vec<_> = (0..100).map(|n| format!("*:{n:02}*9")).collect();
    let wanted = |n: usize| n.to_string().len() >= 3 && n % 10 == 9;
    let expected: Vec<_> = (0..4000).filter(|n| wanted(*n) && *n >= 109).collect();
    let query = format!(
        "topics={}&cursor=earliest&wait=0&max=1000",
        filters.join(",")
    );
    let (status, page) = gateway.poll(&query).await;
    assert_eq!(status, 200);
    let seen: Vec<_> = page["events"].as_array().unwrap().iter().collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|event| event["data"].as_u64().unwrap() as usize)
        .filter(|n| *n >= 109)
        .collect();
    assert_eq!(seen, expected);
}
