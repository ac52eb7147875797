//! `/events`: Server-Sent Events (protocol, section 5).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Claims, Raw, Sse, SseEvent, TRANSPORTS, TestGateway, replay, within};

#[tokio::test]
async fn the_stream_begins_at_once_with_retry_and_connected() {
    let gateway = TestGateway::start().await;
    let head = gateway.publish("a:1", Value::Null).await;
    let mut raw = Raw::connect(&gateway).await;
    raw.request("GET /events?topics=a:1", "\r\n").await;
    let (status, headers) = raw.response_head().await;
    assert_eq!(status, 200);
    for line in [
        "content-type: text/event-stream",
        "cache-control: no-cache, no-transform",
        "x-accel-buffering: no",
    ] {
        assert!(
            headers.lines().any(|header| header == line),
            "{line} in {headers}"
        );
    }
    assert!(!headers.contains("content-encoding"), "{headers}");
    let text = raw.text_until("\"type\":\"live\"").await;
    let retry = text.find("retry: ").expect("a retry");
    let connected = text.find("event: connected\n").expect("a connected");
    assert!(retry < connected, "{text}");
    assert!((500..=10_000).contains(&retry_of(&text)), "{text}");
    let frame = &text[connected..];
    assert!(
        frame.starts_with(&format!(
            "event: connected\nid: {head}\ndata: {{\"type\":\"connected\""
        )),
        "{text}"
    );
}

#[tokio::test]
async fn connected_says_who_where_and_how() {
    let gateway = TestGateway::start().await;
    let head = gateway.publish("a:1", Value::Null).await;
    for (query, cursor) in [
        ("topics=a:1".to_owned(), head.clone()),
        (format!("topics=a:1&cursor={head}"), head.clone()),
        (
            "topics=a:1&cursor=elsewhere-9".to_owned(),
            "elsewhere-9".to_owned(),
        ),
    ] {
        let mut sse = Sse::new(gateway.get("/events", &query, &Claims::all("alice")).await);
        let connected = sse.next().await;
        assert_eq!((&connected.name[..], &connected.id), ("connected", &cursor));
        let mut json = connected.json();
        assert!(!json["message"].take().as_str().unwrap().is_empty());
        assert!(!json["connectionId"].take().as_str().unwrap().is_empty());
        assert_eq!(
            json,
            json!({"type": "connected", "message": null, "userId": "alice",
                   "connectionId": null, "cursor": cursor, "heartbeatMs": 25000})
        );
    }
}

#[tokio::test]
async fn events_fire_message_and_carry_their_id() {
    let gateway = TestGateway::start().await;
    let mut sse = gateway.sse("topics=a:1").await;
    assert_eq!(sse.next().await.name, "live");
    for event in ["message", "order:updated", "live", "error"] {
        let body = json!({"topic": "a:1", "event": event, "data": 1});
        let (_, answer) = gateway.post(&body.to_string()).await;
        let received = sse.next().await;
        assert_eq!(
            (&received.name[..], json!(received.id)),
            ("message", answer["id"].clone())
        );
        assert_eq!(received.json()["event"], event);
    }
}

#[tokio::test]
async fn named_streams_fire_the_events_name_unless_it_is_a_frames() {
    let gateway = TestGateway::start().await;
    for query in ["named=true", "named=1"] {
        let mut sse = gateway.sse(&format!("topics=a:1&{query}")).await;
        assert_eq!(sse.next().await.name, "live");
        for (event, fired) in [
            ("order:updated", "order:updated"),
            ("message", "message"),
            (" spaced: out ", " spaced: out "),
            ("подія", "подія"),
            ("connected", "message"),
            ("live", "message"),
            ("heartbeat", "message"),
            ("reset", "message"),
            ("closing", "message"),
            ("error", "message"),
        ] {
            let body = json!({"topic": "a:1", "event": event});
            assert_eq!(gateway.post(&body.to_string()).await.0, 200);
            let received = sse.next().await;
            assert_eq!(received.name, fired);
            assert_eq!(received.json()["event"], event);
        }
    }
    let mut plain = gateway.sse("topics=a:1&named=false&rewind=10").await;
    assert_eq!(plain.next().await.name, "message");
}

#[tokio::test]
async fn a_heartbeat_comes_when_no_event_did_and_carries_the_current_position() {
    let gateway = TestGateway::with("heartbeat = \"200ms\"").await;
    let mut sse = gateway.sse("topics=quiet:1").await;
    assert_eq!(sse.connected["heartbeatMs"], 200);
    assert_eq!(sse.next().await.name, "live");
    let since = Instant::now();
    let elsewhere = gateway.publish("busy:1", Value::Null).await;
    for _ in 0..3 {
        let heartbeat = sse.next().await;
        assert_eq!(
            (&heartbeat.name[..], &heartbeat.id),
            ("heartbeat", &elsewhere)
        );
        assert_eq!(
            heartbeat.json(),
            json!({"type": "heartbeat", "cursor": elsewhere})
        );
    }
    assert!(
        since.elapsed() >= Duration::from_millis(550),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test]
async fn last_event_id_wins_over_cursor() {
    let gateway = TestGateway::start().await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(gateway.publish("a:1", json!(n)).await);
    }
    for (last_event_id, cursor, expected) in [
        (Some(&ids[2][..]), &ids[0][..], vec![3]),
        (Some("earliest"), &ids[2], vec![0, 1, 2, 3]),
        (Some(""), &ids[1], vec![2, 3]),
        (None, &ids[1], vec![2, 3]),
    ] {
        let query = format!("topics=a:1&cursor={cursor}");
        let mut sse = stream(&gateway, &query, last_event_id).await;
        assert_eq!(
            data_until_live(&mut sse).await,
            expected,
            "{last_event_id:?} {cursor}"
        );
    }
}

async fn stream(gateway: &TestGateway, query: &str, last_event_id: Option<&str>) -> Sse {
    let response = request(gateway, query, last_event_id).await;
    assert_eq!(response.status(), 200, "{query}");
    Sse::new(response)
}

async fn request(
    gateway: &TestGateway,
    query: &str,
    last_event_id: Option<&str>,
) -> reqwest::Response {
    let mut request = gateway.http.get(gateway.url(&format!("/events?{query}")));
    if let Some(id) = last_event_id {
        request = request.header(
            "Last-Event-ID",
            reqwest::header::HeaderValue::from_bytes(id.as_bytes()).unwrap(),
        );
    }
    let sent = request.bearer_auth(Claims::all("alice").token()).send();
    within("an answer", sent).await.expect("an answer")
}

async fn data_until_live(sse: &mut Sse) -> Vec<u64> {
    let mut data = Vec::new();
    loop {
        let json = sse.next().await.json();
        match json["type"].as_str() {
            Some("live") => return data,
            Some("event") => data.push(json["data"].as_u64().expect("a number")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_hostile_last_event_id_is_a_bad_cursor() {
    let gateway = TestGateway::start().await;
    for id in ["nonsense", "a-1-1", "é", "a-1\u{80}", &"x".repeat(5000)] {
        let response = request(&gateway, "topics=a:1", Some(id)).await;
        assert_eq!(response.status(), 400, "{id}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["code"], "bad_cursor", "{id}");
    }
}

#[tokio::test]
async fn an_event_source_that_reconnects_with_any_last_id_misses_nothing() {
    let gateway = TestGateway::with("heartbeat = \"200ms\"").await;
    for n in 0..3 {
        gateway.publish("a:1", json!(n)).await;
    }
    let mut sse = stream(&gateway, "topics=a:1&cursor=earliest", None).await;
    let mut frames = Vec::new();
    while frames
        .last()
        .is_none_or(|frame: &SseEvent| frame.name != "heartbeat")
    {
        frames.push(sse.next().await);
    }
    gateway.publish("a:1", json!(3)).await;
    frames.push(sse.next().await);
    let mut seen = 0;
    for frame in frames {
        seen += u64::from(frame.json()["type"] == "event");
        let mut again = stream(&gateway, "topics=a:1", Some(&frame.id)).await;
        let expected: Vec<u64> = (seen..4).collect();
        assert_eq!(
            data_until_live(&mut again).await,
            expected,
            "after {frame:?}"
        );
    }
}

#[tokio::test]
async fn the_post_form_takes_flags_from_the_query_and_the_rest_from_its_body() {
    let gateway = TestGateway::start().await;
    let body = json!({"topic": "a:1", "event": "made", "data": 0});
    assert_eq!(gateway.post(&body.to_string()).await.0, 200);
    for (query, body, fired) in [
        (
            "",
            json!({"topics": ["a:1"], "cursor": "earliest"}),
            "message",
        ),
        (
            "?named=1",
            json!({"topics": ["a:1"], "cursor": "earliest"}),
            "made",
        ),
        (
            "",
            json!({"topics": ["a:1"], "cursor": "earliest", "named": true}),
            "made",
        ),
        ("", json!({"topics": ["a:*"], "rewind": 1}), "message"),
    ] {
        let mut sse = Sse::new(post(&gateway, &format!("/events{query}"), &body.to_string()).await);
        assert_eq!(sse.next().await.name, "connected", "{body}");
        assert_eq!(sse.next().await.name, fired, "{body}");
        assert_eq!(sse.next().await.name, "live", "{body}");
    }
}

async fn post(gateway: &TestGateway, path: &str, body: &str) -> reqwest::Response {
    let request = gateway.http.post(gateway.url(path)).body(body.to_owned());
    let sent = request.bearer_auth(Claims::all("alice").token()).send();
    within("an answer", sent).await.expect("an answer")
}

#[tokio::test]
async fn bad_bodies_are_refused() {
    let gateway = TestGateway::start().await;
    for path in ["/events", "/poll"] {
        for (body, code) in [
            ("", "bad_request"),
            ("nonsense", "bad_request"),
            ("[]", "bad_request"),
            (r#"{"topics":"a:1"}"#, "bad_request"),
            (r#"{"topics":["a:1"],"nope":1}"#, "bad_request"),
            (r#"{"topics":["a:1"],"type":"subscribe"}"#, "bad_request"),
            (r#"{"topics":["a:1"],"ref":1}"#, "bad_request"),
            (
                r#"{"topics":["a:1"],"subscriptions":[{"topic":"b:1"}]}"#,
                "bad_request",
            ),
            (r#"{"topics":["a b"]}"#, "bad_topic"),
            (r#"{"topics":["a:1"],"cursor":"nonsense"}"#, "bad_cursor"),
            (r#"{"topics":["a:1"],"rewind":101}"#, "bad_request"),
        ] {
            let response = post(&gateway, path, body).await;
            assert_eq!(response.status(), 400, "{path} {body}");
            let error: Value = response.json().await.unwrap();
            assert_eq!(
                (&error["type"], &error["code"]),
                (&json!("error"), &json!(code)),
                "{path} {body}"
            );
        }
        let big = json!({"topics": ["a:1"], "tags": {"a": "x".repeat(70_000)}}).to_string();
        assert_eq!(post(&gateway, path, &big).await.status(), 413, "{path}");
    }
}

#[tokio::test]
async fn closing_comes_with_retry_when_the_gateway_drains() {
    let gateway = TestGateway::start().await;
    let mut sse = gateway.sse("topics=a:1").await;
    let live = sse.next().await;
    assert_eq!(live.name, "live");
    gateway.stop().await;
    let closing = sse.next().await;
    assert_eq!((&closing.name[..], &closing.id), ("closing", &live.id));
    let json = closing.json();
    assert_eq!(
        (&json["type"], &json["code"]),
        (&json!("closing"), &json!(1012))
    );
    let wait = json["reconnectAfterMs"]
        .as_u64()
        .expect("when to come back");
    assert!(wait <= 2000, "within the grace: {wait}");
    assert_eq!(closing.retry, Some(u128::from(wait)));
    assert!(sse.try_next().await.is_none());
}

#[tokio::test]
async fn a_native_stream_gets_a_transient_refusal_as_a_stream_that_says_when_to_come_back() {
    let gateway = TestGateway::with("limits.connections = 1").await;
    let _one = gateway.sse("topics=a:1").await;
    let refused = request(&gateway, "topics=a:1", None).await;
    assert_eq!(refused.status(), 503);
    let response = request(&gateway, "topics=a:1&native=1", None).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    // The text says more than a parser does, which may pass over a `retry` without an event.
    let text = within("the whole stream", response.text()).await.unwrap();
    let (_, data) = text
        .split_once("event: closing\ndata: ")
        .expect("a closing");
    let json: Value = serde_json::from_str(data).unwrap();
    assert_eq!(
        (&json["type"], &json["code"]),
        (&json!("closing"), &json!(1013))
    );
    let wait = json["reconnectAfterMs"]
        .as_u64()
        .expect("when to come back");
    assert!(wait > 0);
    assert_eq!(retry_of(&text), wait);
}

/// The first `retry` of a stream.
fn retry_of(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("retry: "));
    line.expect("a retry").parse().expect("a number")
}

#[tokio::test]
async fn a_native_stream_keeps_its_last_id_through_a_transient_refusal() {
    let gateway = TestGateway::with("limits.connections = 1").await;
    let _one = gateway.sse("topics=a:1").await;
    let mut refused = stream(&gateway, "topics=a:1&native=1", Some("elsewhere-7")).await;
    let closing = refused.next().await;
    // An empty `id` field would reset it; none at all leaves it.
    assert_eq!((&closing.name[..], &closing.id[..]), ("closing", ""));
    let text = within(
        "a body",
        request(&gateway, "topics=a:1&native=1", None).await.text(),
    )
    .await
    .unwrap();
    assert!(!text.contains("\nid"), "{text}");
}

#[tokio::test]
async fn a_native_stream_gets_a_final_refusal_as_a_status() {
    let gateway = TestGateway::start().await;
    for (query, status) in [
        ("topics=a%20b&native=1", 400),
        ("topics=a:1&cursor=x&native=1", 400),
        ("topics=a:1&native=maybe", 400),
    ] {
        assert_eq!(
            request(&gateway, query, None).await.status(),
            status,
            "{query}"
        );
    }
    let forbidden = Claims::new("bob").with("subscribe", json!(["b:*"]));
    let response = gateway
        .get("/events", "topics=a:1&native=1", &forbidden)
        .await;
    assert_eq!(response.status(), 403);
}

#[tokio::test]
async fn a_native_stream_is_like_any_other_otherwise() {
    let gateway = TestGateway::start().await;
    gateway.publish("a:1", json!(5)).await;
    let mut sse = gateway.sse("topics=a:1&native=1&cursor=earliest").await;
    assert_eq!(data_until_live(&mut sse).await, [5]);
    for transport in TRANSPORTS {
        let query = "topics=a:1&cursor=earliest&native=1&named=1";
        assert_eq!(
            replay(&gateway, transport, query).await.len(),
            1,
            "{transport:?}"
        );
    }
}

#[tokio::test]
async fn last_event_id_wins_over_the_cursor_of_a_body_too() {
    let gateway = TestGateway::start().await;
    let id = gateway.publish("a:1", json!(0)).await;
    gateway.publish("a:1", json!(1)).await;
    let body = json!({"topics": ["a:1"], "cursor": "earliest"}).to_string();
    let request = gateway
        .http
        .post(gateway.url("/events"))
        .header("Last-Event-ID", &id);
    let sent = request
        .bearer_auth(Claims::all("alice").token())
        .body(body)
        .send();
    let mut sse = Sse::new(within("an answer", sent).await.unwrap());
    assert_eq!(data_until_live(&mut sse).await, [1]);
}
