//! Messages and bytes of one connection.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Budget, Client};
use crate::support::{Claims, Raw, RawResponse, Received, TestGateway, Ws};

const TEN: &str = "limits.messages_per_second = 1\nlimits.message_burst = 10";

/// Room for two bodies or messages at once.
const BYTES: &str = "limits.bytes_per_second = \"1B\"\nlimits.byte_burst = \"8KiB\"\n\
                     limits.message_bytes = \"4KiB\"\nlimits.publish_bytes = \"4KiB\"";

fn assert_limited(response: &RawResponse, policy: &str) {
    assert_eq!(response.status, 429, "{response:?}");
    let error: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(error["code"], "rate_limited");
    let header = |name: &str| {
        let line = response
            .headers
            .lines()
            .find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} {response:?}"))
            .trim()
            .to_owned()
    };
    let seconds: u64 = header("retry-after:").parse().expect("seconds");
    let wait = error["retryAfterMs"].as_u64().expect("when to come back");
    assert_eq!(seconds, wait.div_ceil(1000));
    assert_eq!(header("ratelimit-policy:"), policy);
    let name = policy.split(';').next().expect("a name");
    assert_eq!(header("ratelimit:"), format!("{name};r=0;t={seconds}"));
}

#[tokio::test]
async fn what_no_endpoint_answers_is_a_request_too() {
    let gateway = TestGateway::with(TEN).await;
    for (line, rest, status) in [
        ("GET /nowhere", "\r\n", 404),
        ("OPTIONS /poll", "\r\n", 204),
        ("GET /poll", "Origin: https://evil.example\r\n\r\n", 403),
        ("DELETE /poll", "\r\n", 405),
        ("GET /publish", "\r\n", 405),
        ("POST /stats", "Content-Length: 0\r\n\r\n", 405),
    ] {
        let mut flooder = Raw::connect(&gateway).await;
        let mut budget = Budget::of(10);
        for _ in 0..100 {
            flooder.request(line, rest).await;
            match flooder.response().await {
                response if response.status == status => budget.take(),
                response => assert_limited(&response, "\"messages\";q=10;w=10"),
            }
        }
        budget.assert_used_up();
    }
}

#[tokio::test]
async fn a_flood_of_requests_on_one_connection_is_429_and_other_connections_go_on() {
    let gateway = TestGateway::with(TEN).await;
    let requests = [
        ("GET /poll?topics=a:1", "\r\n"),
        (
            "POST /poll",
            "Content-Length: 16\r\n\r\n{\"topics\":[\"a\"]}",
        ),
        (
            "POST /publish",
            "Content-Length: 15\r\n\r\n{\"topic\":\"a:1\"}",
        ),
        ("POST /ticket", "Content-Length: 0\r\n\r\n"),
        ("GET /stats", "\r\n"),
    ];
    for (line, rest) in requests {
        let mut flooder = Raw::connect(&gateway).await;
        let mut budget = Budget::of(10);
        for _ in 0..100 {
            flooder.request(line, rest).await;
            match flooder.response().await {
                response if response.status == 200 => budget.take(),
                response => {
                    assert_limited(&response, "\"messages\";q=10;w=10");
                    // A body that is not read ends its connection.
                    if response.headers.contains("connection: close") {
                        break;
                    }
                }
            }
        }
        budget.assert_used_up();
        let mut neighbour = Raw::connect(&gateway).await;
        for _ in 0..10 {
            neighbour.request(line, rest).await;
            assert_eq!(neighbour.response().await.status, 200, "{line}");
        }
    }
}

#[tokio::test]
async fn urls_that_are_too_long_count_as_requests_too() {
    let gateway = TestGateway::with(&format!("{TEN}\nlimits.url_bytes = \"100B\"")).await;
    let mut flooder = Raw::connect(&gateway).await;
    let line = format!("GET /poll?_={}", "a".repeat(100));
    let mut budget = Budget::of(10);
    for _ in 0..50 {
        flooder.request(&line, "\r\n").await;
        match flooder.response().await.status {
            413 => budget.take(),
            status => assert_eq!(status, 429),
        }
    }
    budget.assert_used_up();
}

#[tokio::test]
async fn a_flood_on_a_websocket_ends_it_and_leaves_its_neighbour_alone() {
    let gateway = TestGateway::with(TEN).await;
    let floods = [
        Message::text(r#"{"type":"ping"}"#),
        Message::text("nonsense"),
        Message::Ping("x".into()),
        Message::Pong("x".into()),
    ];
    for message in floods {
        // The same subject on another connection.
        let mut neighbour = gateway.ws("topics=a:1").await;
        neighbour.frame("live").await;
        let mut flooder = gateway.ws("topics=a:1").await;
        assert_eq!(flood(&mut flooder, &message, 1000).await, 1008, "{message}");
        let id = gateway.publish("a:1", Value::Null).await;
        assert_eq!(neighbour.event().await["id"], id);
        assert_eq!(neighbour.ask(json!({"type": "ping"})).await["type"], "pong");
    }
}

/// Sends on until the gateway closes; its code.
async fn flood(ws: &mut Ws, message: &Message, count: usize) -> u16 {
    for _ in 0..count {
        if futures_util::SinkExt::send(&mut ws.socket, message.clone())
            .await
            .is_err()
        {
            break;
        }
    }
    ws.close_code().await
}

#[tokio::test]
async fn a_websocket_over_its_rate_can_still_be_closed_in_order() {
    let gateway = TestGateway::with(TEN).await;
    let mut ws = gateway.ws("").await;
    let mut budget = Budget::of(10);
    while ws.ask(json!({"type": "ping"})).await["type"] == "pong" {
        budget.take();
    }
    ws.send_message(Message::Close(None)).await;
    match ws.receive().await {
        Received::Close(code, _) => assert_eq!(code, 1005),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_refused_publish_on_a_websocket_has_no_effect_whichever_limit_it_is() {
    let gateway = TestGateway::with(TEN).await;
    let mut ws = gateway.ws("").await;
    let publish = json!({"type": "publish", "topic": "a:1"});
    let mut published = 0;
    for _ in 0..30 {
        published += usize::from(ws.ask(publish.clone()).await["type"] == "published");
    }
    let reader = Claims::all("reader");
    let (_, page) = gateway.poll_as(&reader, "topics=a:1&cursor=earliest").await;
    assert_eq!(page["events"].as_array().expect("events").len(), published);
}

#[tokio::test]
async fn bytes_of_websocket_messages_are_limited() {
    let gateway = TestGateway::with(BYTES).await;
    let mut ws = gateway.ws("").await;
    let padded = |length: usize| {
        let ping = r#"{"type":"ping","ref":1}"#;
        Message::text(format!("{ping}{}", " ".repeat(length - ping.len())))
    };
    for _ in 0..2 {
        ws.send_message(padded(4096)).await;
        assert_eq!(ws.next().await["type"], "pong");
    }
    ws.send_message(padded(4096)).await;
    let refused = ws.next().await;
    assert_eq!(
        (&refused["code"], &refused["ref"]),
        (&json!("rate_limited"), &json!(1))
    );
    assert!(
        refused["message"]
            .as_str()
            .expect("a message")
            .contains("bytes")
    );
    let wait = refused["retryAfterMs"].as_u64().expect("when to come back");
    assert!(wait > 60_000, "{wait}");
    let mut neighbour = gateway.ws("").await;
    neighbour.send_message(padded(4096)).await;
    assert_eq!(neighbour.next().await["type"], "pong");
    assert_eq!(flood(&mut ws, &padded(4096), 400).await, 1008);
}

fn event_of(length: usize) -> String {
    let event = r#"{"topic":"a:1"}"#;
    format!("{event}{}", " ".repeat(length - event.len()))
}

fn announced(body: &str) -> String {
    format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str) -> String {
    let half = body.len() / 2;
    let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
    let (first, second) = (chunk(&body[..half]), chunk(&body[half..]));
    format!("Transfer-Encoding: chunked\r\n\r\n{first}{second}0\r\n\r\n")
}

#[tokio::test]
async fn bytes_of_bodies_are_limited_announced_and_in_chunks() {
    let gateway = TestGateway::with(BYTES).await;
    let body = event_of(4096);
    for rest in [announced(&body), chunked(&body)] {
        let mut raw = Raw::connect(&gateway).await;
        for _ in 0..2 {
            raw.request("POST /publish", &rest).await;
            assert_eq!(raw.response().await.status, 200);
        }
        raw.request("POST /publish", &rest).await;
        let refused = raw.response().await;
        assert_limited(&refused, "\"bytes\";q=8192;qu=\"content-bytes\";w=512");
        let mut neighbour = Raw::connect(&gateway).await;
        neighbour.request("POST /publish", &rest).await;
        assert_eq!(neighbour.response().await.status, 200);
    }
}

#[tokio::test]
async fn bytes_of_bodies_are_limited_on_the_transports_too() {
    let gateway = TestGateway::with(BYTES).await;
    let subscribe = r#"{"topics":["a:1"]}"#;
    let body = format!("{subscribe}{}", " ".repeat(4096 - subscribe.len()));
    let mut raw = Raw::connect(&gateway).await;
    for _ in 0..2 {
        raw.request("POST /poll", &announced(&body)).await;
        assert_eq!(raw.response().await.status, 200);
    }
    for line in ["POST /poll", "POST /events"] {
        raw.request(line, &announced(&body)).await;
        let refused = raw.response().await;
        assert_limited(&refused, "\"bytes\";q=8192;qu=\"content-bytes\";w=512");
        // What was refused is skipped or ends the connection; either way the next one is good.
        raw = Raw::connect(&gateway).await;
        for _ in 0..2 {
            raw.request("POST /poll", &announced(&body)).await;
            assert_eq!(raw.response().await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_connection_starts_with_a_full_budget_however_many_were_before_it() {
    let gateway = TestGateway::with(TEN).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    for _ in 0..5 {
        let mut ws = Ws::connect(&gateway, "", Some(&alice.token), None)
            .await
            .expect("the handshake succeeds");
        ws.frame("connected").await;
        for _ in 0..9 {
            assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
        }
    }
}
