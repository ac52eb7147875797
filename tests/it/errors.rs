//! Every error code with its status, its body and its close code (protocol, section 8).

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Claims, Raw, RawResponse, Received, TestGateway, Ws, within};

/// What every error has in common.
fn assert_error(response: &RawResponse, status: u16, code: &str) -> Value {
    assert_eq!(response.status, status, "{response:?}");
    assert!(
        response.headers.contains("content-type: application/json"),
        "{response:?}"
    );
    let error: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!(code)),
        "{error}"
    );
    assert!(!error["message"].as_str().expect("a message").is_empty());
    for field in error.as_object().unwrap().keys() {
        assert!(
            ["type", "code", "message", "retryAfterMs"].contains(&&field[..]),
            "{error}"
        );
    }
    error
}

async fn ask(gateway: &TestGateway, line: &str, rest: &str) -> RawResponse {
    let mut raw = Raw::connect(gateway).await;
    raw.request(line, rest).await;
    raw.response().await
}

/// Without a credential.
async fn ask_bare(gateway: &TestGateway, head: &str) -> RawResponse {
    let mut raw = Raw::connect(gateway).await;
    raw.send(format!("{head}\r\n\r\n").as_bytes()).await;
    raw.response().await
}

fn with_body(body: &str) -> String {
    format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn unknown_paths_are_404_as_json() {
    let gateway = TestGateway::start().await;
    for path in [
        "/nope",
        "/events/",
        "/events/1",
        "/poll.json",
        "/publish/a",
        "//",
        "/ws%00",
        "/..%2f",
        "/WS",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let response = ask(&gateway, &format!("{method} {path}"), "\r\n").await;
            assert_error(&response, 404, "not_found");
        }
    }
}

#[tokio::test]
async fn wrong_methods_are_405_as_json() {
    let gateway = TestGateway::start().await;
    for (path, methods) in [
        ("/ws", &["POST", "PUT", "DELETE", "PATCH"][..]),
        ("/events", &["PUT", "DELETE", "PATCH"]),
        ("/poll", &["PUT", "DELETE", "PATCH"]),
        ("/publish", &["GET", "PUT", "DELETE", "PATCH"]),
        ("/ticket", &["GET", "PUT", "DELETE", "PATCH"]),
        ("/stats", &["POST", "PUT", "DELETE", "PATCH"]),
    ] {
        for method in methods {
            let response = ask(&gateway, &format!("{method} {path}?topics=a:1"), "\r\n").await;
            assert_error(&response, 405, "method_not_allowed");
        }
    }
}

#[tokio::test]
async fn head_is_a_wrong_method_without_a_body_and_the_connection_goes_on() {
    let gateway = TestGateway::start().await;
    for path in [
        "/events?topics=a:1",
        "/poll?topics=a:1",
        "/publish",
        "/stats",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.request(&format!("HEAD {path}"), "\r\n").await;
        let (status, _) = raw.response_head().await;
        assert_eq!(status, 405, "{path}");
        raw.request("GET /poll?topics=a:1", "\r\n").await;
        assert_eq!(raw.response().await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_codes_of_400_are_the_same_on_every_endpoint() {
    let gateway = TestGateway::start().await;
    for (line, rest, code) in [
        ("GET /events?topics=a%20b", "\r\n".to_owned(), "bad_topic"),
        ("GET /poll?topics=a%20b", "\r\n".to_owned(), "bad_topic"),
        (
            "POST /publish",
            with_body(r#"{"topic":"a b"}"#),
            "bad_topic",
        ),
        (
            "GET /events?topics=a&cursor=x",
            "\r\n".to_owned(),
            "bad_cursor",
        ),
        (
            "GET /poll?topics=a&cursor=x",
            "\r\n".to_owned(),
            "bad_cursor",
        ),
        ("GET /events?what=x", "\r\n".to_owned(), "bad_request"),
        ("GET /poll?what=x", "\r\n".to_owned(), "bad_request"),
        ("GET /stats?tenant=x", "\r\n".to_owned(), "bad_request"),
        ("POST /events", with_body("x"), "bad_request"),
        ("POST /poll", with_body("x"), "bad_request"),
        ("POST /publish", with_body("[]"), "bad_request"),
    ] {
        assert_error(&ask(&gateway, line, &rest).await, 400, code);
    }
}

#[tokio::test]
async fn without_a_token_every_endpoint_is_401() {
    let gateway = TestGateway::start().await;
    for head in [
        "GET /events?topics=a:1 HTTP/1.1\r\nHost: x",
        "GET /poll?topics=a:1 HTTP/1.1\r\nHost: x",
        "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
        "POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
        "POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
        "POST /ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 0",
        "GET /stats HTTP/1.1\r\nHost: x",
    ] {
        assert_error(&ask_bare(&gateway, head).await, 401, "unauthorized");
    }
    let expired = Claims::all("alice").expiring_in(-60).token();
    let head =
        format!("GET /poll?topics=a:1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {expired}");
    assert_error(&ask_bare(&gateway, &head).await, 401, "token_expired");
}

#[tokio::test]
async fn outside_the_grants_is_forbidden_everywhere() {
    let gateway = TestGateway::start().await;
    let claims = Claims::new("bob")
        .with("subscribe", json!(["a:*"]))
        .with("publish", json!(["a:*"]));
    for path in ["/events", "/poll"] {
        let response = gateway.get(path, "topics=a:1,b:1", &claims).await;
        assert_eq!(response.status(), 403, "{path}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!("forbidden"))
        );
    }
    let (status, error) = gateway.post_as(&claims, r#"{"topic":"b:1"}"#).await;
    assert_eq!((status, &error["code"]), (403, &json!("forbidden")));
    let mut ws = Ws::connect(&gateway, "topics=b:1", Some(&claims.token()), None)
        .await
        .unwrap();
    assert_eq!(ws.next().await["code"], "forbidden");
    assert_eq!(ws.next().await["type"], "connected");
    for message in [
        json!({"type": "subscribe", "topics": ["a:1", "b:1"]}),
        json!({"type": "publish", "topic": "b:1"}),
    ] {
        assert_eq!(ws.ask(message).await["code"], "forbidden");
    }
    assert_eq!(gateway.post(r#"{"topic":"a:1"}"#).await.0, 200);
    assert_eq!(
        ws.ask(json!({"type": "ping"})).await["type"],
        "pong",
        "and not subscribed to a:1"
    );
}

#[tokio::test]
async fn conflict_and_too_large_have_their_status() {
    let gateway = TestGateway::start().await;
    let key = "Idempotency-Key: k\r\n";
    let first = ask(
        &gateway,
        "POST /publish",
        &format!("{key}{}", with_body(r#"{"topic":"a:1"}"#)),
    )
    .await;
    assert_eq!(first.status, 200);
    let other = ask(
        &gateway,
        "POST /publish",
        &format!("{key}{}", with_body(r#"{"topic":"a:2"}"#)),
    )
    .await;
    assert_error(&other, 409, "conflict");
    for path in ["/publish", "/events", "/poll"] {
        let response = ask(
            &gateway,
            &format!("POST {path}"),
            "Content-Length: 9999999\r\n\r\n",
        )
        .await;
        assert_error(&response, 413, "too_large");
    }
}

#[tokio::test]
async fn a_full_engine_is_unavailable_with_retry_after() {
    let gateway = TestGateway::with("limits.idempotency_keys = 1").await;
    let body = with_body(r#"{"topic":"a:1"}"#);
    let publish = |key: &str| format!("Idempotency-Key: {key}\r\n{body}");
    assert_eq!(
        ask(&gateway, "POST /publish", &publish("a")).await.status,
        200
    );
    let refused = ask(&gateway, "POST /publish", &publish("b")).await;
    let error = assert_error(&refused, 503, "unavailable");
    assert!(retry_after(&refused) >= 1);
    assert!(
        error["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0),
        "{error}"
    );
    // A known key needs no room, and neither does a publish without one.
    assert_eq!(
        ask(&gateway, "POST /publish", &publish("a")).await.status,
        200
    );
    assert_eq!(ask(&gateway, "POST /publish", &body).await.status, 200);
    let mut ws = gateway.ws("").await;
    let reply = ws
        .ask(json!({"type": "publish", "topic": "a:1", "key": "b", "ref": 1}))
        .await;
    assert_eq!(
        (&reply["code"], &reply["ref"]),
        (&json!("unavailable"), &json!(1))
    );
    assert!(
        reply["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0),
        "{reply}"
    );
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

fn retry_after(response: &RawResponse) -> u64 {
    let line = response
        .headers
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    line.expect("Retry-After").parse().expect("whole seconds")
}

const SLOW: &str = "limits.messages_per_second = 1\nlimits.message_burst = 3";

#[tokio::test]
async fn requests_over_the_rate_of_their_connection_are_429_with_retry_after() {
    let gateway = TestGateway::with(SLOW).await;
    for (line, rest) in [
        ("GET /poll?topics=a:1", "\r\n".to_owned()),
        ("POST /publish", with_body(r#"{"topic":"a:1"}"#)),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        for _ in 0..3 {
            raw.request(line, &rest).await;
            assert_eq!(raw.response().await.status, 200, "{line}");
        }
        raw.request(line, &rest).await;
        let refused = raw.response().await;
        let error = assert_error(&refused, 429, "rate_limited");
        assert_eq!(retry_after(&refused), 1);
        let wait = error["retryAfterMs"].as_u64().expect("when to come back");
        assert!((1..=1000).contains(&wait), "{error}");
        // Another connection has its own budget.
        assert_eq!(ask(&gateway, line, &rest).await.status, 200);
    }
}

#[tokio::test]
async fn a_connection_has_budget_again_when_it_was_told() {
    let gateway = TestGateway::with(SLOW).await;
    let mut raw = Raw::connect(&gateway).await;
    let refused = loop {
        raw.request("GET /poll?topics=a:1", "\r\n").await;
        match raw.response().await {
            response if response.status == 200 => {}
            response => break response,
        }
    };
    let error = assert_error(&refused, 429, "rate_limited");
    let wait = error["retryAfterMs"].as_u64().expect("when to come back");
    tokio::time::sleep(Duration::from_millis(wait + 20)).await;
    raw.request("GET /poll?topics=a:1", "\r\n").await;
    assert_eq!(raw.response().await.status, 200);
}

#[tokio::test]
async fn a_message_over_the_rate_has_no_effect_and_is_told_so() {
    let gateway = TestGateway::with(SLOW).await;
    let mut ws = gateway.ws("").await;
    let mut replies = Vec::new();
    for n in 0..5 {
        ws.send(json!({"type": "publish", "topic": "a:1", "data": n, "ref": n}))
            .await;
    }
    for n in 0..5 {
        let reply = ws.next().await;
        assert_eq!(reply["ref"], n, "{reply}");
        replies.push(reply);
    }
    // The handshake may have taken some of the burst.
    let taken = replies
        .iter()
        .take_while(|reply| reply["type"] == "published")
        .count();
    assert!((1..=3).contains(&taken), "{replies:?}");
    for reply in &replies[taken..] {
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!("rate_limited"))
        );
        let wait = reply["retryAfterMs"].as_u64().expect("when to come back");
        assert!((1..=1000).contains(&wait), "{reply}");
    }
    let (_, page) = gateway.poll("topics=a:1&cursor=earliest").await;
    assert_eq!(page["events"].as_array().unwrap().len(), taken);
    let wait = replies[4]["retryAfterMs"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_millis(wait + 20)).await;
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn a_client_that_keeps_on_over_the_rate_is_closed_with_1008() {
    let gateway = TestGateway::with(SLOW).await;
    let pings = [
        Message::text(r#"{"type":"ping"}"#),
        Message::Ping("x".into()),
    ];
    for ping in pings {
        let mut ws = gateway.ws("").await;
        let flood = async {
            for _ in 0..1000 {
                if futures_util::SinkExt::send(&mut ws.socket, ping.clone())
                    .await
                    .is_err()
                {
                    break;
                }
            }
            let mut refused = 0;
            loop {
                match ws.receive().await {
                    Received::Json(frame) => {
                        refused += usize::from(frame["code"] == "rate_limited")
                    }
                    Received::Close(code, _) => return (code, refused),
                    Received::End => panic!("no Close frame"),
                }
            }
        };
        let (code, refused) = within("the close", flood).await;
        assert_eq!(code, 1008);
        assert!((10..1000).contains(&refused), "told {refused} times before");
    }
}

#[tokio::test]
async fn the_rate_of_a_connection_counts_opening_a_stream() {
    let gateway =
        TestGateway::with("limits.messages_per_second = 1\nlimits.message_burst = 1").await;
    let mut raw = Raw::connect(&gateway).await;
    raw.request("GET /poll?topics=a:1", "\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    raw.request("GET /events?topics=a:1", "\r\n").await;
    let refused = raw.response().await;
    assert_error(&refused, 429, "rate_limited");
    assert_eq!(retry_after(&refused), 1);
}

#[tokio::test]
async fn at_the_limit_of_connections_every_transport_is_refused() {
    let gateway = TestGateway::with("limits.connections = 2").await;
    let _ws = gateway.ws("").await;
    let sse = gateway.sse("topics=a:1").await;
    for path in ["/events", "/poll"] {
        let refused = ask(&gateway, &format!("GET {path}?topics=a:1"), "\r\n").await;
        assert_error(&refused, 503, "unavailable");
        assert!(retry_after(&refused) >= 1);
    }
    let token = Claims::all("alice").token();
    let mut ws = Ws::connect(&gateway, "topics=a:1", Some(&token), None)
        .await
        .unwrap();
    let error = ws.next().await;
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!("unavailable"))
    );
    assert!(
        error["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0),
        "{error}"
    );
    assert_eq!(ws.close_code().await, 1013);
    // Publishing takes no connection's place.
    assert_eq!(gateway.post(r#"{"topic":"a:1"}"#).await.0, 200);
    drop(sse);
    gateway.publish("a:1", Value::Null).await;
}

#[tokio::test]
async fn a_closed_websocket_gives_its_place_back() {
    let gateway = TestGateway::with("limits.connections = 1").await;
    for _ in 0..3 {
        let mut ws = gateway.ws("").await;
        ws.send_message(Message::Close(None)).await;
        assert_eq!(ws.close_code().await, 1005);
        // The place is free before the Close frame is answered.
    }
}

#[tokio::test]
async fn the_place_of_a_client_that_vanished_is_free_again_without_a_heartbeat() {
    let gateway = TestGateway::with("limits.connections = 1").await;
    let cursor = gateway.publish("a:1", Value::Null).await;
    let lines = [
        "GET /events?topics=a:1".to_owned(),
        format!("GET /poll?topics=a:1&cursor={cursor}&wait=55"),
    ];
    let mut ws = Raw::websocket(&gateway, "topics=a:1").await;
    ws.text_until("live").await;
    assert_eq!(probe(&gateway).await, 503);
    drop(ws);
    within("the websocket's place", free_place(&gateway)).await;
    for line in lines {
        let client = within("the client's place", occupy(&gateway, &line)).await;
        drop(client);
        within(&format!("the place of {line}"), free_place(&gateway)).await;
    }
}

/// Sends the request until it shows in that others are refused: a probe that comes before it takes
/// the only place itself.
async fn occupy(gateway: &TestGateway, line: &str) -> Raw {
    loop {
        let mut raw = Raw::connect(gateway).await;
        raw.request(line, "\r\n").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        if probe(gateway).await == 503 {
            return raw;
        }
    }
}

async fn free_place(gateway: &TestGateway) {
    while probe(gateway).await != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn probe(gateway: &TestGateway) -> u16 {
    gateway.poll("topics=a:1").await.0
}

#[tokio::test]
async fn a_malformed_request_does_not_harm_the_next_client() {
    let gateway = TestGateway::start().await;
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut raw = Raw::connect(&gateway).await;
        raw.send(bytes).await;
        drop(raw);
        assert_eq!(gateway.poll("topics=a:1").await.0, 200);
    }
}

#[tokio::test]
async fn a_mistake_of_the_first_hour_is_told_with_what_to_do() {
    let gateway = TestGateway::start().await;
    let token = Claims::all("alice").token();
    let bad_filter = Claims::all("alice").with("subscribe", json!(["a", "b c"]));
    let (publish, poll) = (gateway.url("/publish"), gateway.url("/poll"));
    let (post, get) = (
        || gateway.http.post(&publish),
        |query: &str| gateway.http.get(format!("{poll}?{query}")),
    );
    for (request, words) in [
        (
            post().bearer_auth(&token).body("topic=order:1"),
            "send a JSON object",
        ),
        (
            post().bearer_auth(&token),
            "there is nothing to read: send a JSON object",
        ),
        (post().bearer_auth(""), "it is empty; is the variable set"),
        (
            get("topics=a").bearer_auth(bad_filter.token()),
            "`subscribe`: entry 2 is no topic filter",
        ),
        (
            get("topik=a").bearer_auth(&token),
            "known are topics (also topic, channel), event (also events)",
        ),
        (
            get("topik=a").bearer_auth(&token),
            "token (also access_token)",
        ),
        (
            gateway
                .http
                .get(gateway.admin_url("/admin/connections?x=1")),
            "unknown field `x`, expected one of `subject`",
        ),
    ] {
        let answer = within("an answer", request.send())
            .await
            .expect("an answer");
        let error: Value = answer.json().await.expect("JSON");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(words), "{words} in {message}");
        assert!(!message.contains("Query deserialize"), "{message}");
    }
    let mut ws = gateway.ws("").await;
    ws.send_message(Message::binary(r#"{"type":"ping"}"#)).await;
    let closed = loop {
        if let Received::Close(1003, reason) = ws.receive().await {
            break reason;
        }
    };
    assert!(closed.contains("send text"), "{closed}");
}

/// Each is another name, not a mistake.
#[tokio::test]
async fn the_other_names_of_parameters_are_known_on_every_transport() {
    let gateway = TestGateway::start().await;
    for query in [
        "topic=order:1",
        "channel=order:1",
        "topics=order:1&events=paid",
    ] {
        let (status, page) = gateway.poll(&format!("{query}&wait=0")).await;
        assert_eq!(status, 200, "{query}: {page}");
        let live = gateway.sse(query).await.frame("live").await;
        assert_eq!(live["topics"], json!(["order:1"]), "{query}");
        let live = gateway.ws(query).await.frame("live").await;
        assert_eq!(live["topics"], json!(["order:1"]), "{query}");
    }
}
