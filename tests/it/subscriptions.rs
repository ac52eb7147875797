//! Topic filters, what a subscription selects, and the ways to ask for it (protocol, sections 1, 2
//! and 4).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::hopping::sequence_of;
use crate::support::{
    Claims, Everywhere, Sse, TRANSPORTS, TestGateway, Transport, Ws, replay, topics_of, within,
};

const TOPICS: [&str; 12] = [
    "order:1",
    "order:12",
    "order:1:items",
    "order:1:items:7",
    "order:",
    "order",
    "order.created",
    "order.",
    "xorder:1",
    "repo:a/b:issues",
    "repo:",
    "Order:1",
];

/// Filters, and the topics among [`TOPICS`] that they match.
const FILTERS: [(&str, &[&str]); 16] = [
    ("order:1", &["order:1"]),
    ("order:*", &["order:1", "order:12", "order:"]),
    ("order:1*", &["order:1", "order:12"]),
    ("order:*2", &["order:12"]),
    (
        "order:**",
        &[
            "order:1",
            "order:12",
            "order:1:items",
            "order:1:items:7",
            "order:",
        ],
    ),
    ("order:*:items", &["order:1:items"]),
    ("order:**:7", &["order:1:items:7"]),
    ("order:*:*", &["order:1:items"]),
    ("order.*", &["order.created", "order."]),
    ("order*", &["order", "order.created", "order."]),
    ("*", &["order", "order.created", "order."]),
    ("*:1", &["order:1", "xorder:1", "Order:1"]),
    ("*order:1", &["order:1", "xorder:1"]),
    ("repo:**", &["repo:a/b:issues", "repo:"]),
    ("**:issues", &["repo:a/b:issues"]),
    ("**", &TOPICS),
];

#[tokio::test]
async fn filters_match_as_the_protocol_says_on_every_transport() {
    let gateway = TestGateway::start().await;
    for topic in TOPICS {
        gateway.publish(topic, Value::Null).await;
    }
    for (filter, expected) in FILTERS {
        for transport in TRANSPORTS {
            let query = format!("topics={filter}&cursor=earliest");
            let events = replay(&gateway, transport, &query).await;
            assert_eq!(topics_of(&events), expected, "{filter} on {transport:?}");
        }
    }
}

#[tokio::test]
async fn filters_match_live_events_as_they_match_replayed_ones() {
    let gateway = TestGateway::start().await;
    let mut clients = Vec::new();
    for (filter, _) in FILTERS {
        // The marker tells when all is through.
        clients.push(gateway.ws(&format!("topics={filter},the:end")).await);
    }
    for topic in TOPICS.iter().chain(&["the:end"]) {
        gateway.publish(topic, Value::Null).await;
    }
    for (mut ws, (filter, expected)) in clients.into_iter().zip(FILTERS) {
        let events = events_until_end(&mut ws).await;
        assert_eq!(topics_of(&events), expected, "{filter}");
    }
}

/// The events before one of the topic `the:end`.
async fn events_until_end(ws: &mut Ws) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let event = ws.event().await;
        if event["topic"] == "the:end" {
            return events;
        }
        events.push(event);
    }
}

#[tokio::test]
async fn an_event_that_several_filters_match_is_sent_once() {
    let gateway = TestGateway::start().await;
    let query = "topics=order:1,order:*&topics=order:**,order:1,**";
    let mut everywhere = Everywhere::open(&gateway, query).await;
    let mut late = gateway.ws("topics=order:1").await;
    late.send(json!({"type": "subscribe", "topics": ["order:*"], "cursor": "earliest"}))
        .await;
    late.send(json!({"type": "subscribe", "topic": "**"})).await;
    late.frame("live").await;
    late.frame("subscribed").await;
    late.frame("live").await;
    for n in 0..3 {
        gateway.publish("order:1", json!(n)).await;
    }
    for n in 0..3 {
        assert_eq!(everywhere.event().await["data"], n);
        assert_eq!(late.event().await["data"], n);
    }
    for transport in TRANSPORTS {
        let events = replay(&gateway, transport, &format!("{query}&cursor=earliest")).await;
        assert_eq!(events.len(), 3, "{transport:?}");
    }
}

#[tokio::test]
async fn events_and_tags_narrow_a_subscription_on_every_transport_and_in_every_form() {
    let gateway = TestGateway::start().await;
    for (event, tags) in [
        ("created", json!({})),
        ("created", json!({"region": "eu", "tier": "1"})),
        ("updated", json!({"region": "eu"})),
        ("deleted", json!({"region": "eu", "tier": "1"})),
        ("created", json!({"region": "us", "tier": "1"})),
        ("created", json!({"region": "eu:west"})),
    ] {
        let body = json!({"topic": "order:1", "event": event, "tags": tags});
        assert_eq!(gateway.post(&body.to_string()).await.0, 200);
    }
    let all = replay(&gateway, Transport::Poll, "topics=**&cursor=earliest").await;
    for (query, body, expected) in [
        ("", json!({}), vec![0, 1, 2, 3, 4, 5]),
        (
            "&event=created",
            json!({"events": ["created"]}),
            vec![0, 1, 4, 5],
        ),
        (
            "&event=created&event=updated",
            json!({"events": ["created", "updated"]}),
            vec![0, 1, 2, 4, 5],
        ),
        ("&event=create", json!({"events": ["create"]}), vec![]),
        ("&event=c*", json!({"events": ["c*"]}), vec![]),
        (
            "&tag=region:eu",
            json!({"tags": {"region": "eu"}}),
            vec![1, 2, 3],
        ),
        (
            "&tag=region:eu:west",
            json!({"tags": {"region": "eu:west"}}),
            vec![5],
        ),
        (
            "&tag=region:eu&tag=tier:1",
            json!({"tags": {"region": "eu", "tier": "1"}}),
            vec![1, 3],
        ),
        (
            "&tag=tier:1&event=created",
            json!({"tags": {"tier": "1"}, "events": ["created"]}),
            vec![1, 4],
        ),
        ("&tag=region:", json!({"tags": {"region": ""}}), vec![]),
    ] {
        for transport in TRANSPORTS {
            let query = format!("topics=order:*{query}&cursor=earliest");
            let events = replay(&gateway, transport, &query).await;
            assert_eq!(indexes(&events, &all), expected, "{transport:?} {query}");
        }
        for form in body_forms(&body) {
            for events in replays_by_body(&gateway, &form).await {
                assert_eq!(indexes(&events, &all), expected, "{form}");
            }
        }
    }
}

/// The same subscription of `order:*` from the beginning, as bodies and messages may put it.
fn body_forms(conditions: &Value) -> Vec<Value> {
    let with = |fields: Value| {
        let mut body = conditions.clone();
        for (field, value) in fields.as_object().expect("an object") {
            body[field] = value.clone();
        }
        body
    };
    vec![
        with(json!({"topics": ["order:*"], "cursor": "earliest"})),
        with(json!({"topic": "order:*", "cursor": "earliest"})),
        with(json!({"channel": "order:*", "cursor": "earliest"})),
        json!({"subscriptions": [with(json!({"topics": ["order:*"]}))], "cursor": "earliest"}),
    ]
}

/// What a body gets on `POST /events` and `POST /poll`, and as a `subscribe` message.
async fn replays_by_body(gateway: &TestGateway, body: &Value) -> [Vec<Value>; 3] {
    let mut sse = sse_by_post(gateway, body).await;
    sse.frame("connected").await;
    let mut by_sse = Vec::new();
    loop {
        let json = sse.next().await.json();
        if json["type"] == "live" {
            break;
        }
        by_sse.push(json);
    }
    let mut poll = body.clone();
    poll["wait"] = json!(0);
    let (status, mut page) = poll_by_post(gateway, &poll).await;
    assert_eq!(status, 200, "{page}");
    let by_poll = serde_json::from_value(page["events"].take()).expect("events");
    let mut ws = gateway.ws("").await;
    let mut message = body.clone();
    message["type"] = json!("subscribe");
    assert_eq!(ws.ask(message).await["type"], "subscribed");
    let mut by_ws = Vec::new();
    loop {
        let json = ws.next().await;
        if json["type"] == "live" {
            return [by_sse, by_poll, by_ws];
        }
        by_ws.push(json);
    }
}

async fn sse_by_post(gateway: &TestGateway, body: &Value) -> Sse {
    let response = post(gateway, "/events", body).await;
    assert_eq!(response.status(), 200, "{body}");
    Sse::new(response)
}

async fn poll_by_post(gateway: &TestGateway, body: &Value) -> (u16, Value) {
    let response = post(gateway, "/poll", body).await;
    let status = response.status().as_u16();
    (status, response.json().await.expect("JSON"))
}

async fn post(gateway: &TestGateway, path: &str, body: &Value) -> reqwest::Response {
    let request = gateway.http.post(gateway.url(path));
    let request = request.bearer_auth(Claims::all("alice").token());
    within("an answer", request.json(body).send())
        .await
        .expect("an answer")
}

fn sequence(event: &Value) -> u64 {
    let id = event["id"].as_str().expect("an id");
    let (_, sequence) = id.split_once('-').expect("LOG-SEQUENCE");
    sequence.parse().expect("a number")
}

/// Where events are among all, by their ids.
fn indexes(events: &[Value], all: &[Value]) -> Vec<usize> {
    let index = |event: &Value| all.iter().position(|other| other["id"] == event["id"]);
    events
        .iter()
        .map(|event| index(event).expect("it was published"))
        .collect()
}

#[tokio::test]
async fn several_subscriptions_each_with_its_own_conditions_start_as_one() {
    let gateway = TestGateway::start().await;
    for n in 0..6 {
        let (topic, event) = ([("a:1", "x"), ("b:1", "x"), ("b:1", "y")])[n % 3];
        let body = json!({"topic": topic, "event": event, "data": n});
        assert_eq!(gateway.post(&body.to_string()).await.0, 200);
    }
    let body = json!({"cursor": "earliest", "subscriptions": [
        {"topics": ["a:*", "c:1"]},
        {"topic": "b:1", "events": ["y"]},
    ]});
    for events in replays_by_body(&gateway, &body).await {
        let data: Vec<&Value> = events.iter().map(|event| &event["data"]).collect();
        assert_eq!(data, [0, 2, 3, 5]);
    }
    let mut ws = gateway.ws("").await;
    let mut message = body;
    message["type"] = json!("subscribe");
    let subscribed = ws.ask(message).await;
    assert_eq!(
        names(&subscribed["topics"]),
        names(&json!(["a:*", "b:1", "c:1"]))
    );
    for _ in 0..4 {
        ws.event().await;
    }
    let live = ws.next().await;
    assert_eq!(
        (&live["type"], &live["topics"]),
        (&json!("live"), &subscribed["topics"])
    );
}

fn names(list: &Value) -> BTreeSet<String> {
    serde_json::from_value(list.clone()).expect("a list of strings")
}

#[tokio::test]
async fn a_subscribe_in_any_form_is_answered_with_its_topics_its_ref_and_a_cursor() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for (n, (fields, topics)) in [
        (json!({"topics": ["a:1"]}), json!(["a:1"])),
        (
            json!({"topics": ["a:1", "a:2", "a:*"]}),
            json!(["a:1", "a:2", "a:*"]),
        ),
        (json!({"topic": "b:1"}), json!(["b:1"])),
        (json!({"channel": "c:1"}), json!(["c:1"])),
        (
            json!({"subscriptions": [{"topics": ["d:1"]}, {"topic": "d:2"}, {"channel": "d:3"}]}),
            json!(["d:1", "d:2", "d:3"]),
        ),
        (
            json!({"topic": "e:1", "events": ["x"], "tags": {"k": "v"}}),
            json!(["e:1"]),
        ),
        (json!({"topic": "e:1", "rewind": 3}), json!(["e:1"])),
        (json!({"topic": "e:1", "rewind": 0}), json!(["e:1"])),
        (
            json!({"topic": "e:1", "cursor": ws.connected["cursor"], "rewind": 3}),
            json!(["e:1"]),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = fields.clone();
        message["type"] = json!("subscribe");
        message["ref"] = json!(n);
        let subscribed = ws.ask(message).await;
        let live = ws.next().await;
        for (frame, frame_type) in [(&subscribed, "subscribed"), (&live, "live")] {
            assert_eq!(frame["type"], frame_type, "{fields}: {frame}");
            assert_eq!(names(&frame["topics"]), names(&topics), "{fields}");
            assert_eq!(frame["ref"], n, "{fields}");
            assert!(is_cursor(&frame["cursor"]), "{frame}");
        }
    }
}

fn is_cursor(value: &Value) -> bool {
    let text = value.as_str().expect("a cursor");
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[tokio::test]
async fn a_ref_is_echoed_as_it_came_by_every_reply() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for reference in [
        r#""a""#,
        r#""""#,
        r#""\u00e9\"""#,
        "0",
        "-1",
        "1.50",
        "1e3",
        "123456789012345678901234567890",
    ] {
        for (fields, replies) in [
            (r#""type":"ping""#, &["pong"][..]),
            (r#""type":"publish","topic":"a:1""#, &["published"]),
            (
                r#""type":"subscribe","topic":"b:1""#,
                &["subscribed", "live"],
            ),
            (r#""type":"unsubscribe","topic":"b:1""#, &["unsubscribed"]),
            (r#""type":"nonsense""#, &["error"]),
            (r#""type":"publish","topic":"a b""#, &["error"]),
            (r#""nothing":1"#, &["error"]),
        ] {
            ws.send_text(&format!(r#"{{{fields},"ref":{reference}}}"#))
                .await;
            for reply in replies {
                let text = ws.next_text().await;
                assert!(
                    text.starts_with(&format!(r#"{{"type":"{reply}""#)),
                    "{text}"
                );
                assert!(text.contains(&format!(r#""ref":{reference}"#)), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_reply_to_a_message_without_ref_has_none() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for message in [
        json!({"type": "ping"}),
        json!({"type": "x"}),
        json!({"type": "subscribe", "topic": "a"}),
    ] {
        let reply = ws.ask(message).await;
        assert!(reply.get("ref").is_none(), "{reply}");
    }
}

#[tokio::test]
async fn a_refused_message_names_what_is_wrong_and_has_no_effect() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=kept:1").await;
    ws.frame("live").await;
    for (message, code, named) in refused_messages() {
        let mut with_ref = message.clone();
        with_ref["ref"] = json!("r");
        let reply = ws.ask(with_ref).await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!(code)),
            "{message}: {reply}"
        );
        assert_eq!(reply["ref"], "r", "{message}");
        let text = reply["message"].as_str().expect("a message");
        assert!(text.contains(named), "{message}: {text}");
    }
    for text in [
        "",
        "nonsense",
        "{",
        "[]",
        "1",
        "null",
        r#"{"type":"ping"}{"type":"ping"}"#,
        r#"{"type":"ping","type":"ping"}"#,
    ] {
        ws.send_text(text).await;
        let reply = ws.next().await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!("bad_request")),
            "{text}"
        );
    }
    gateway.publish("other:1", Value::Null).await;
    gateway.publish("kept:1", json!(1)).await;
    assert_eq!(ws.next().await["topic"], "kept:1");
}

fn refused_messages() -> Vec<(Value, &'static str, &'static str)> {
    let mut cases = vec![
        (json!({}), "bad_request", "type"),
        (json!({"type": 7}), "bad_request", "type"),
        (json!({"type": "shout"}), "bad_request", "shout"),
        (json!({"type": "ping", "extra": 1}), "bad_request", "extra"),
        (json!({"type": "auth"}), "bad_request", "token"),
        (json!({"type": "auth", "token": 1}), "bad_request", "token"),
        (json!({"type": "unsubscribe"}), "bad_request", "topics"),
        (
            json!({"type": "unsubscribe", "topics": []}),
            "bad_request",
            "topics",
        ),
        (
            json!({"type": "unsubscribe", "topics": ["kept:1"], "events": ["x"]}),
            "bad_request",
            "events",
        ),
        (
            json!({"type": "unsubscribe", "topics": ["kept:1", "a b"]}),
            "bad_topic",
            "",
        ),
        (json!({"type": "subscribe"}), "bad_request", "topics"),
        (
            json!({"type": "subscribe", "subscriptions": []}),
            "bad_request",
            "topics",
        ),
        (
            json!({"type": "subscribe", "subscriptions": [{}]}),
            "bad_request",
            "topics",
        ),
        (
            json!({"type": "subscribe", "subscriptions": [{"topic": "other:1", "cursor": "earliest"}]}),
            "bad_request",
            "cursor",
        ),
        (
            json!({"type": "subscribe", "subscriptions": [{"topic": "other:1"}, {"topic": "a b"}]}),
            "bad_topic",
            "",
        ),
    ];
    for (field, value, code, named) in [
        ("topics", json!([]), "bad_request", "topics"),
        ("topics", json!("other:1"), "bad_request", "topics"),
        ("topics", json!([1]), "bad_request", "topics"),
        ("topics", json!(["other:1", ""]), "bad_topic", ""),
        ("topics", json!(["other:1", "a,b"]), "bad_topic", ""),
        ("topics", json!(["a b"]), "bad_topic", ""),
        ("topics", json!(["a\u{0}"]), "bad_topic", ""),
        ("topics", json!(["t".repeat(256)]), "bad_topic", ""),
        ("topic", json!(["other:1"]), "bad_request", "topic"),
        ("topic", json!("a b"), "bad_topic", ""),
        ("channel", json!(1), "bad_request", "channel"),
    ] {
        let mut message = json!({"type": "subscribe"});
        message[field] = value;
        cases.push((message, code, named));
    }
    for (field, value, code, named) in [
        ("topic", json!("other:1"), "bad_request", "topic"),
        (
            "subscriptions",
            json!([{"topic": "other:1"}]),
            "bad_request",
            "subscriptions",
        ),
        ("events", json!([]), "bad_request", "events"),
        ("events", json!([""]), "bad_request", "events"),
        ("events", json!("x"), "bad_request", "events"),
        ("tags", json!({"a": 1}), "bad_request", "tags"),
        ("tags", json!(["a"]), "bad_request", "tags"),
        ("cursor", json!("nonsense"), "bad_cursor", ""),
        ("cursor", json!(""), "bad_cursor", ""),
        ("cursor", json!(1), "bad_request", "cursor"),
        (
            "cursor",
            json!(format!("k-{}", "1".repeat(70))),
            "bad_cursor",
            "",
        ),
        ("rewind", json!(101), "bad_request", "rewind"),
        ("rewind", json!(-1), "bad_request", "rewind"),
        ("rewind", json!("1"), "bad_request", "rewind"),
        ("rewind", json!(1.5), "bad_request", "rewind"),
        ("wait", json!(1), "bad_request", "wait"),
        ("max", json!(1), "bad_request", "max"),
        ("named", json!(true), "bad_request", "named"),
        ("whatever", json!(1), "bad_request", "whatever"),
    ] {
        let mut message = json!({"type": "subscribe", "topics": ["other:1"]});
        message[field] = value;
        cases.push((message, code, named));
    }
    cases
}

#[tokio::test]
async fn a_bad_ref_is_refused() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for reference in [json!({}), json!([]), json!(true), json!("r".repeat(200))] {
        let reply = ws.ask(json!({"type": "ping", "ref": reference})).await;
        assert_eq!(reply["code"], "bad_request", "{reference}: {reply}");
    }
}

#[tokio::test]
async fn subscribing_a_filter_again_replaces_its_events_and_tags() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=order:*&event=created").await;
    ws.frame("live").await;
    let publish = async |n: u64| {
        for event in ["created", "updated"] {
            let tags = json!({"n": if event == "created" { "1" } else { "2" }});
            let body = json!({"topic": "order:1", "event": event, "data": n, "tags": tags});
            assert_eq!(gateway.post(&body.to_string()).await.0, 200);
        }
        gateway.publish("the:end", Value::Null).await;
    };
    ws.ask(json!({"type": "subscribe", "topic": "the:end"}))
        .await;
    ws.frame("live").await;
    for (n, (conditions, expected)) in [
        (json!({"events": ["updated"]}), &["updated"][..]),
        (json!({"tags": {"n": "1"}}), &["created"]),
        (json!({}), &["created", "updated"]),
        (json!({"events": ["created"], "tags": {"n": "2"}}), &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = conditions.clone();
        message["type"] = json!("subscribe");
        message["topics"] = json!(["order:*"]);
        assert_eq!(ws.ask(message).await["type"], "subscribed");
        ws.frame("live").await;
        publish(n as u64).await;
        let events = events_until_end(&mut ws).await;
        let names: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
        assert_eq!(names, expected, "{conditions}");
        assert!(events.iter().all(|event| event["data"] == n), "{events:?}");
    }
}

#[tokio::test]
async fn no_event_of_a_filter_follows_its_unsubscribed() {
    let gateway = TestGateway::start().await;
    for fields in [
        json!({"topics": ["gone:*"]}),
        json!({"topic": "gone:*"}),
        json!({"channel": "gone:*"}),
    ] {
        let mut ws = gateway.ws("topics=gone:*,kept:1").await;
        ws.frame("live").await;
        gateway.publish("gone:1", json!(1)).await;
        assert_eq!(ws.next().await["data"], 1);
        // A burst that is under way when the client asks.
        let burst: Vec<Value> = (0..200)
            .map(|n| json!({"topic": "gone:1", "data": n}))
            .collect();
        assert_eq!(gateway.post(&Value::from(burst).to_string()).await.0, 200);
        let mut message = fields.clone();
        message["type"] = json!("unsubscribe");
        message["ref"] = json!("bye");
        let reply = ws.ask(message).await;
        assert_eq!(
            reply,
            json!({"type": "unsubscribed", "topics": ["gone:*"], "ref": "bye"})
        );
        gateway.publish("gone:1", json!(2)).await;
        gateway.publish("kept:1", json!(3)).await;
        let next = ws.next().await;
        assert_eq!(
            (&next["topic"], &next["data"]),
            (&json!("kept:1"), &json!(3))
        );
    }
}

#[tokio::test]
async fn unsubscribing_what_was_never_subscribed_is_answered_all_the_same() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1,a:*").await;
    ws.frame("live").await;
    let reply = ws
        .ask(json!({"type": "unsubscribe", "topics": ["b:1", "a:1"]}))
        .await;
    assert_eq!(names(&reply["topics"]), names(&json!(["b:1", "a:1"])));
    // The other filter still matches the topic.
    gateway.publish("a:1", json!(1)).await;
    assert_eq!(ws.next().await["data"], 1);
}

#[tokio::test]
async fn an_unsubscribed_filter_can_be_subscribed_again() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1").await;
    let cursor = ws.frame("live").await["cursor"].clone();
    for n in 0..3 {
        ws.ask(json!({"type": "unsubscribe", "topic": "a:1"})).await;
        gateway.publish("a:1", json!(n)).await;
        let message = json!({"type": "subscribe", "topic": "a:1", "cursor": cursor});
        assert_eq!(ws.ask(message).await["type"], "subscribed");
        for before in 0..=n {
            assert_eq!(ws.next().await["data"], before);
        }
        assert_eq!(ws.next().await["type"], "live");
    }
}

#[tokio::test]
async fn a_late_subscribe_replays_while_other_events_wait_and_loses_nothing() {
    const OLD: usize = 600;
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=**").await;
    let old: Vec<Value> = (0..OLD)
        .map(|n| json!({"topic": format!("old:{}", n % 7), "data": "x".repeat(400)}))
        .collect();
    assert_eq!(gateway.post(&Value::from(old).to_string()).await.0, 200);
    let mut ws = gateway.ws("topics=now:1").await;
    ws.frame("live").await;
    gateway.publish("now:1", json!(0)).await;
    ws.send(json!({"type": "subscribe", "topics": ["old:*"], "cursor": start["cursor"], "ref": 1}))
        .await;
    for n in 1..20 {
        let topic = if n % 2 == 0 { "now:1" } else { "old:1" };
        gateway.publish(topic, json!(n)).await;
    }
    let frames = frames_until(&mut ws, OLD + 20).await;
    let place = |frame_type: &str| {
        let found = frames.iter().position(|frame| frame["type"] == frame_type);
        found.unwrap_or_else(|| panic!("no {frame_type}"))
    };
    let (subscribed, live) = (place("subscribed"), place("live"));
    let replayed = &frames[subscribed + 1..live];
    assert!(
        replayed.len() >= OLD,
        "the replay comes between `subscribed` and `live`"
    );
    for event in replayed {
        assert!(
            event["topic"].as_str().unwrap().starts_with("old:"),
            "{event}"
        );
    }
    let before = &frames[..subscribed];
    assert!(
        before.iter().all(|event| event["topic"] == "now:1"),
        "{before:?}"
    );
    assert_each_once(&frames, OLD + 20);
    for part in [replayed, &frames[live + 1..]] {
        let ids: Vec<u64> = part.iter().map(sequence).collect();
        assert!(ids.is_sorted(), "in order within the replay, and after it");
    }
    assert_every_cursor_is_safe(&gateway, "topics=now:1,old:*", &frames, subscribed).await;
}

/// Frames until so many events have come.
async fn frames_until(ws: &mut Ws, mut events: usize) -> Vec<Value> {
    let mut frames = Vec::new();
    while events > 0 {
        let frame = ws.next().await;
        events -= usize::from(frame["type"] == "event");
        frames.push(frame);
    }
    frames
}

fn assert_each_once(frames: &[Value], count: usize) {
    let events = frames.iter().filter(|frame| frame["type"] == "event");
    let ids: BTreeSet<u64> = events.map(sequence).collect();
    assert_eq!(ids.len(), count);
}

/// A client that drops after any of the frames from `first` on gets by a resume all that it had
/// not received until then.
async fn assert_every_cursor_is_safe(
    gateway: &TestGateway,
    query: &str,
    frames: &[Value],
    first: usize,
) {
    let mut missing = sequences_after(gateway, query, "earliest").await;
    for (n, frame) in frames.iter().enumerate() {
        let is_event = frame["type"] == "event";
        if is_event {
            missing.remove(&sequence(frame));
        }
        // Every control frame, and a sample of the events.
        if n < first || (is_event && n % 97 != 0) {
            continue;
        }
        let cursor = frame.get("cursor").unwrap_or(&frame["id"]);
        let resumed = sequences_after(gateway, query, cursor.as_str().expect("a cursor")).await;
        let lost: Vec<&u64> = missing.difference(&resumed).collect();
        assert!(lost.is_empty(), "resuming from {frame} loses {lost:?}");
    }
    assert!(missing.is_empty(), "{missing:?}");
}

async fn sequences_after(gateway: &TestGateway, query: &str, cursor: &str) -> BTreeSet<u64> {
    let query = format!("{query}&cursor={cursor}");
    let events = replay(gateway, Transport::Poll, &query).await;
    events.iter().map(sequence).collect()
}

/// So many events of 400 bytes each, which a client that does not read can not have received.
async fn publish_many(gateway: &TestGateway, topic: &str, count: usize) {
    let filler = "x".repeat(400);
    for at in (0..count).step_by(1000) {
        let batch: Vec<Value> = (at..count.min(at + 1000))
            .map(|n| json!({"topic": topic, "data": {"n": n, "filler": filler}}))
            .collect();
        assert_eq!(gateway.post(&Value::from(batch).to_string()).await.0, 200);
    }
}

#[tokio::test]
async fn unsubscribing_ends_a_replay_that_is_under_way() {
    let gateway = TestGateway::start().await;
    publish_many(&gateway, "old:1", 20_000).await;
    let mut ws = gateway.ws("topics=now:1").await;
    ws.frame("live").await;
    ws.send(json!({"type": "subscribe", "topic": "old:1", "cursor": "earliest", "ref": "s"}))
        .await;
    assert_eq!(ws.next().await["type"], "subscribed");
    ws.send(json!({"type": "unsubscribe", "topic": "old:1", "ref": "u"}))
        .await;
    let mut replayed = 0;
    let unsubscribed = loop {
        match ws.next().await {
            frame if frame["type"] == "event" => replayed += 1,
            frame => break frame,
        }
    };
    assert_eq!(
        (&unsubscribed["type"], &unsubscribed["ref"]),
        (&json!("unsubscribed"), &json!("u"))
    );
    assert!(replayed < 20_000, "the replay was still under way");
    gateway.publish("now:1", json!("go on")).await;
    loop {
        match ws.next().await {
            frame if frame["type"] == "event" => {
                assert_eq!(frame["data"], "go on");
                return;
            }
            frame => assert_eq!(
                (&frame["type"], &frame["topics"]),
                (&json!("live"), &json!([]))
            ),
        }
    }
}

#[tokio::test]
async fn subscribing_a_filter_again_during_its_replay_gives_every_later_event_once() {
    let gateway = TestGateway::start().await;
    publish_many(&gateway, "old:1", 3000).await;
    let mut ws = gateway.ws("").await;
    let message = json!({"type": "subscribe", "topic": "old:1", "cursor": "earliest"});
    ws.send(message.clone()).await;
    ws.send(message).await;
    gateway.publish("old:1", json!({"n": 3000})).await;
    gateway.publish("old:1", json!({"n": 3001})).await;
    let mut lives = 0;
    let mut received = Vec::new();
    // Twice the past, and what is newer once or with the second replay too.
    while lives < 2 || received.last() != Some(&3001) {
        match ws.next().await {
            frame if frame["type"] == "event" => {
                received.push(frame["data"]["n"].as_u64().unwrap())
            }
            frame if frame["type"] == "live" => lives += 1,
            frame => assert_eq!(frame["type"], "subscribed"),
        }
    }
    for n in 0..3000 {
        assert_eq!(received.iter().filter(|got| **got == n).count(), 2, "{n}");
    }
    for n in 3000..3002 {
        assert!(
            (1..=2).contains(&received.iter().filter(|got| **got == n).count()),
            "{n}"
        );
    }
    gateway.publish("old:1", json!("one")).await;
    gateway.publish("old:1", json!("two")).await;
    assert_eq!(ws.next().await["data"], "one");
    assert_eq!(ws.next().await["data"], "two");
}

#[tokio::test]
async fn the_cursor_of_connected_is_before_all_that_a_rewind_gives() {
    let gateway = TestGateway::start().await;
    let first = gateway.publish("a:1", json!(0)).await;
    let second = gateway.publish("a:1", json!(1)).await;
    for n in 2..4 {
        gateway.publish("a:1", json!(n)).await;
    }
    let ws = gateway.ws("topics=a:1&rewind=3").await;
    let sse = gateway.sse("topics=a:1&rewind=3").await;
    for connected in [ws.connected, sse.connected] {
        let cursor = connected["cursor"].as_str().expect("a cursor");
        let position = sequence_of(cursor);
        // Before what the rewind gives, and not before what it leaves out.
        assert!((sequence_of(&first)..sequence_of(&second)).contains(&position));
    }
}

#[tokio::test]
async fn several_urls_of_one_subscription_mean_the_same() {
    let gateway = TestGateway::start().await;
    for topic in ["a:1", "b:1", "c:1"] {
        gateway.publish(topic, Value::Null).await;
    }
    for query in [
        "topics=a:1,b:1",
        "topics=a:1&topics=b:1",
        "topics=a%3A1%2Cb%3a1",
        "&topics=a:1,b:1&&_=1700000000",
        "cursor=earliest&topics=b:1,a:1,b:1",
    ] {
        for transport in TRANSPORTS {
            let events = replay(&gateway, transport, &format!("{query}&cursor=earliest")).await;
            assert_eq!(topics_of(&events), ["a:1", "b:1"], "{transport:?} {query}");
        }
    }
}

#[tokio::test]
async fn subscribes_one_after_the_other_replay_one_after_the_other() {
    let gateway = TestGateway::start().await;
    for n in 0..10 {
        gateway.publish(&format!("t:{}", n % 5), json!(n)).await;
    }
    let mut ws = gateway.ws("").await;
    for n in 0..5 {
        let message =
            json!({"type": "subscribe", "topic": format!("t:{n}"), "cursor": "earliest", "ref": n});
        ws.send(message).await;
    }
    ws.send(json!({"type": "ping"})).await;
    let mut pongs = 0;
    let mut next = async || loop {
        match ws.next().await {
            frame if frame["type"] == "pong" => pongs += 1,
            frame => return frame,
        }
    };
    for n in 0..5 {
        let subscribed = next().await;
        assert_eq!(
            (&subscribed["type"], &subscribed["ref"]),
            (&json!("subscribed"), &json!(n))
        );
        assert_eq!(next().await["data"], n);
        assert_eq!(next().await["data"], n + 5);
        let live = next().await;
        assert_eq!((&live["type"], &live["ref"]), (&json!("live"), &json!(n)));
    }
    if pongs == 0 {
        assert_eq!(ws.next().await["type"], "pong");
    }
}

#[tokio::test]
async fn rewind_gives_the_last_events_of_each_topic_in_order_then_live() {
    let gateway = TestGateway::start().await;
    for n in 0..12 {
        gateway.publish(&format!("room:{}", n % 3), json!(n)).await;
    }
    for n in 12..20 {
        gateway.publish("room:0", json!(n)).await;
    }
    for (query, expected) in [
        ("topics=room:*&rewind=1", vec![10, 11, 19]),
        ("topics=room:*&rewind=2", vec![7, 8, 10, 11, 18, 19]),
        ("topics=room:1,room:2&rewind=2", vec![7, 8, 10, 11]),
        ("topics=room:1&rewind=100", vec![1, 4, 7, 10]),
        ("topics=room:9&rewind=5", vec![]),
        ("topics=room:*&rewind=0", vec![]),
    ] {
        for transport in TRANSPORTS {
            let events = replay(&gateway, transport, query).await;
            let data: Vec<u64> = events
                .iter()
                .map(|event| event["data"].as_u64().unwrap())
                .collect();
            assert_eq!(data, expected, "{transport:?} {query}");
        }
    }
    let mut ws = gateway.ws("").await;
    ws.send(json!({"type": "subscribe", "topics": ["room:2", "room:1"], "rewind": 1}))
        .await;
    ws.frame("subscribed").await;
    assert_eq!(ws.next().await["data"], 10);
    assert_eq!(ws.next().await["data"], 11);
    assert_eq!(ws.next().await["type"], "live");
    gateway.publish("room:1", json!("new")).await;
    assert_eq!(ws.next().await["data"], "new");
}

#[tokio::test]
async fn rewind_counts_the_events_that_the_conditions_select() {
    let gateway = TestGateway::start().await;
    for n in 0..6 {
        let event = if n < 2 { "rare" } else { "common" };
        let body = json!({"topic": "room:1", "event": event, "data": n});
        assert_eq!(gateway.post(&body.to_string()).await.0, 200);
    }
    for transport in TRANSPORTS {
        let events = replay(&gateway, transport, "topics=room:1&event=rare&rewind=1").await;
        let data: Vec<&Value> = events.iter().map(|event| &event["data"]).collect();
        assert_eq!(data, [1], "{transport:?}: the last matching event");
    }
}

#[tokio::test]
async fn with_a_cursor_rewind_has_no_effect() {
    let gateway = TestGateway::start().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(gateway.publish("a:1", json!(n)).await);
    }
    for transport in TRANSPORTS {
        let query = format!("topics=a:1&rewind=4&cursor={}", ids[2]);
        let events = replay(&gateway, transport, &query).await;
        assert_eq!(events.len(), 1, "{transport:?}");
    }
}

#[tokio::test]
async fn a_late_subscribe_past_retention_is_told_by_a_reset_with_its_topics_and_ref() {
    let gateway = TestGateway::with("retention.events = 5").await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(gateway.publish("a:1", json!(n)).await);
    }
    let mut ws = gateway.ws("topics=b:1").await;
    ws.frame("live").await;
    for (cursor, reason) in [
        (ids[0].clone(), "expired"),
        ("elsewhere-7".to_owned(), "unknown_log"),
    ] {
        let message = json!({"type": "subscribe", "topic": "a:1", "cursor": cursor, "ref": "r"});
        let subscribed = ws.ask(message).await;
        assert_eq!(
            (&subscribed["type"], &subscribed["ref"]),
            (&json!("subscribed"), &json!("r"))
        );
        let reset = ws.next().await;
        let head = json!(ids.last());
        assert_eq!(
            reset,
            json!({"type": "reset", "reason": reason, "cursor": head, "topics": ["a:1"], "ref": "r"})
        );
        assert_eq!(ws.next().await["type"], "live");
        ids.push(gateway.publish("a:1", json!("after")).await);
        assert_eq!(ws.next().await["data"], "after");
    }
}

#[tokio::test]
async fn a_cursor_past_retention_is_a_reset_on_every_transport() {
    let gateway = TestGateway::with("retention.events = 5").await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(gateway.publish("a:1", json!(n)).await);
    }
    for (cursor, reason) in [
        (ids[0].clone(), "expired"),
        ("elsewhere-7".to_owned(), "unknown_log"),
    ] {
        let query = format!("topics=a:1&cursor={cursor}");
        let expected = json!({"type": "reset", "reason": reason, "cursor": ids.last()});
        let mut ws = gateway.ws(&query).await;
        assert_eq!(ws.connected["cursor"], json!(cursor));
        assert_eq!(ws.next().await, expected);
        assert_eq!(ws.next().await["type"], "live");
        let mut sse = gateway.sse(&query).await;
        assert_eq!(sse.connected["cursor"], json!(cursor));
        let reset = sse.next().await;
        assert_eq!(
            (reset.name.as_str(), reset.json()),
            ("reset", expected.clone())
        );
        assert_eq!(json!(reset.id), expected["cursor"]);
        assert_eq!(gateway.poll(&query).await, (410, expected.clone()));
        ids.push(gateway.publish("a:1", json!("after")).await);
        let resume = format!("topics=a:1&cursor={}", expected["cursor"].as_str().unwrap());
        assert_eq!(gateway.poll(&resume).await.1["events"][0]["data"], "after");
        assert_eq!(ws.next().await["data"], "after");
        assert_eq!(sse.event().await["data"], "after");
    }
    for transport in TRANSPORTS {
        let events = replay(&gateway, transport, "topics=a:1&cursor=earliest").await;
        assert_eq!(events.len(), 5, "{transport:?}: `earliest` never resets");
    }
}

#[tokio::test]
async fn a_quiet_literal_topic_is_not_reset_for_what_others_lost() {
    let gateway = TestGateway::with("retention.events = 5").await;
    let cursor = gateway.publish("busy:1", json!(0)).await;
    for n in 0..20 {
        gateway.publish("busy:1", json!(n)).await;
    }
    for transport in TRANSPORTS {
        let events = replay(
            &gateway,
            transport,
            &format!("topics=quiet:1&cursor={cursor}"),
        )
        .await;
        assert!(events.is_empty(), "{transport:?}");
    }
}

#[tokio::test]
async fn bad_queries_are_refused_on_every_transport() {
    let gateway = TestGateway::start().await;
    gateway.publish("a:1", Value::Null).await;
    for (query, code) in [
        ("topics=", "bad_topic"),
        ("topics=a,,b", "bad_topic"),
        ("topics=a%20b", "bad_topic"),
        ("topics=a+b", "bad_topic"),
        ("topics=a%00", "bad_topic"),
        (&format!("topics={}", "t".repeat(256)), "bad_topic"),
        ("topics=a:1&cursor=nonsense", "bad_cursor"),
        ("topics=a:1&cursor=", "bad_cursor"),
        ("topics=a:1&cursor=a-1-1", "bad_cursor"),
        ("topics=a:1&cursor=%00", "bad_cursor"),
        ("topics=a:1&rewind=101", "bad_request"),
        ("topics=a:1&rewind=-1", "bad_request"),
        ("topics=a:1&rewind=x", "bad_request"),
        ("topics=a:1&tag=novalue", "bad_request"),
        ("topics=a:1&event=", "bad_request"),
        ("topics=a:1&topicz=x", "bad_request"),
        ("topics=%ff", "bad_request"),
    ] {
        for path in ["/events", "/poll"] {
            let response = gateway.get(path, query, &Claims::all("alice")).await;
            assert_eq!(response.status(), 400, "{path}?{query}");
            let error: Value = response.json().await.unwrap();
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("error"), &json!(code)),
                "{path}?{query}"
            );
        }
        let token = Claims::all("alice").token();
        let mut ws = Ws::connect(&gateway, query, Some(&token), None)
            .await
            .expect("a handshake");
        let error = ws.next().await;
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "/ws?{query}"
        );
        assert_eq!(ws.next().await["type"], "connected", "/ws?{query}");
        assert_eq!(
            ws.ask(json!({"type": "ping"})).await["type"],
            "pong",
            "/ws?{query}"
        );
    }
}

#[tokio::test]
async fn too_many_subscriptions_are_refused_on_every_transport() {
    let gateway = TestGateway::with("limits.subscriptions = 3\nlimits.patterns = 1").await;
    for query in ["topics=a,b,c,d", "topics=a:*,b:*"] {
        for path in ["/events", "/poll"] {
            let response = gateway.get(path, query, &Claims::all("alice")).await;
            assert_eq!(response.status(), 429, "{path}?{query}");
            assert!(
                response.headers().contains_key("retry-after"),
                "{path}?{query}"
            );
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["code"], "too_many_subscriptions", "{path}?{query}");
        }
        let token = Claims::all("alice").token();
        let mut ws = Ws::connect(&gateway, query, Some(&token), None)
            .await
            .expect("a handshake");
        assert_eq!(ws.next().await["code"], "too_many_subscriptions");
        assert_eq!(ws.close_code().await, 1013);
    }
    let mut ws = gateway.ws("topics=a,b:*").await;
    ws.frame("live").await;
    for topics in [json!(["c", "d"]), json!(["c:*"])] {
        let refused = ws
            .ask(json!({"type": "subscribe", "topics": topics, "ref": 1}))
            .await;
        assert_eq!(
            (&refused["code"], &refused["ref"]),
            (&json!("too_many_subscriptions"), &json!(1))
        );
    }
    // One again, and one in place of another, are no more than before.
    for message in [
        json!({"type": "subscribe", "topics": ["a", "b:*", "c"]}),
        json!({"type": "unsubscribe", "topic": "b:*"}),
        json!({"type": "subscribe", "topics": ["c:*"]}),
    ] {
        let reply = ws.ask(message.clone()).await;
        assert_ne!(reply["type"], "error", "{message}: {reply}");
        if message["type"] == "subscribe" {
            ws.frame("live").await;
        }
    }
}

#[tokio::test]
async fn without_topics_a_connection_gets_no_events_and_can_subscribe_later() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    gateway.publish("a:1", json!(0)).await;
    assert_eq!(
        ws.ask(json!({"type": "subscribe", "topic": "a:1"})).await["type"],
        "subscribed"
    );
    assert_eq!(ws.next().await["type"], "live");
    gateway.publish("a:1", json!(1)).await;
    assert_eq!(ws.next().await["data"], 1);
}
