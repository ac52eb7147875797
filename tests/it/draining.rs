//! What happens between SIGTERM and the end of the process.

use std::time::Duration;

use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::Instant};

use crate::support::{Claims, H2, Raw, Sse, TestGateway, TlsFiles, Ws, read_all, within};

/// A grace far longer than any test waits: the drain must not need it.
const LONG: &str = "60s";

async fn readiness(gateway: &TestGateway) -> u16 {
    let answer = reqwest::get(gateway.admin_url("/readyz")).await;
    answer.expect("an answer").status().as_u16()
}

/// Until the gateway says that it is not ready.
async fn unready(gateway: &TestGateway) {
    within("the gateway to be unready", async {
        while readiness(gateway).await == 200 {}
    })
    .await;
}

/// A client that keeps a drain from ending: its request's body never comes to an end.
async fn straggler(gateway: &TestGateway) -> Raw {
    let mut raw = Raw::connect(gateway).await;
    let rest = "Content-Length: 100\r\nExpect: 100-continue\r\n\r\n";
    raw.request("POST /publish", rest).await;
    assert_eq!(raw.response_head().await.0, 100, "it is being served");
    raw
}

#[tokio::test]
async fn the_node_is_unready_first_and_still_serves_and_only_then_sends_clients_away() {
    let mut gateway = TestGateway::with_grace(LONG, "shutdown.unready = \"1500ms\"").await;
    let mut sse = gateway.sse("topics=a:*").await;
    sse.frame("live").await;
    assert_eq!(readiness(&gateway).await, 200);
    gateway.begin_stop();
    unready(&gateway).await;
    // Of the time in which nothing else changes.
    let id = gateway.publish("a:1", json!("still served")).await;
    assert_eq!(sse.event().await["id"], json!(id));
    let mut late = gateway.ws("topics=a:*").await;
    late.frame("live").await;
    assert_eq!(sse.frame("closing").await["code"], 1012);
    assert_eq!(late.close_code().await, 1012);
    gateway.stopped().await;
}

#[tokio::test]
async fn requests_during_the_drain_are_told_to_come_back() {
    let mut gateway = TestGateway::with_grace("6s", "").await;
    let straggler = straggler(&gateway).await;
    let mut sse = gateway.sse("topics=a:*").await;
    gateway.begin_stop();
    assert_eq!(sse.frame("closing").await["code"], 1012);
    let token = Claims::all("alice").token();
    for path in [
        "/publish",
        "/ticket",
        "/stats",
        "/poll?topics=a:1",
        "/events?topics=a:1",
    ] {
        let http = reqwest::Client::new();
        let request = match path {
            "/publish" | "/ticket" => http.post(gateway.url(path)).body(r#"{"topic":"a:1"}"#),
            _ => http.get(gateway.url(path)),
        };
        let answer = request.bearer_auth(&token).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer.headers().contains_key(header::RETRY_AFTER), "{path}");
        assert_eq!(answer.headers()[header::CONNECTION], "close", "{path}");
        let error: Value = answer.json().await.expect("JSON");
        assert_eq!(error["code"], "unavailable", "{path}");
    }
    // A browser's EventSource and WebSocket are told in the way that they can see.
    let path = format!("/events?native=1&topics=a:1&token={token}");
    let answer = reqwest::get(gateway.url(&path)).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(Sse::new(answer).next().await.name, "closing");
    let ws = Ws::connect(&gateway, "topics=a:1", Some(&token), None).await;
    assert_eq!(ws.expect("a handshake").close_code().await, 1013);
    drop(straggler);
    gateway.stopped().await;
}

#[tokio::test]
async fn a_drain_ends_when_everyone_has_left_and_idle_connections_are_closed_for_it() {
    let mut gateway = TestGateway::with_grace(LONG, "").await;
    let mut sse = gateway.sse("topics=a:*").await;
    let mut ws = gateway.ws("topics=a:*").await;
    // One between two requests, and one before its first.
    let mut idle = Raw::connect(&gateway).await;
    idle.request("GET /poll?topics=a:1", "\r\n").await;
    assert_eq!(idle.response().await.status, 200);
    let mut fresh = Raw::connect(&gateway).await;
    gateway.begin_stop();
    assert_eq!(sse.frame("closing").await["code"], 1012);
    assert_eq!(ws.close_code().await, 1012);
    assert!(idle.rest().await.is_empty());
    assert!(fresh.rest().await.is_empty());
    gateway.stopped().await;
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_its_connection_ends() {
    let mut gateway = TestGateway::with_grace(LONG, "").await;
    let mut publisher = Raw::connect(&gateway).await;
    let body = r#"{"topic":"a:1"}"#;
    let rest = format!(
        "Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        body.len()
    );
    publisher.request("POST /publish", &rest).await;
    assert_eq!(publisher.response_head().await.0, 100);
    let mut sse = gateway.sse("topics=a:*").await;
    gateway.begin_stop();
    assert_eq!(sse.frame("closing").await["code"], 1012);
    publisher.send(body.as_bytes()).await;
    let answer = publisher.response().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(publisher.rest().await.is_empty());
    gateway.stopped().await;
}

/// The grace is what an orchestrator waits before it kills; a busy machine gets some on top here.
#[tokio::test]
async fn no_client_holds_the_process_up_beyond_the_grace() {
    let grace = Duration::from_secs(3);
    let mut gateway = TestGateway::with_grace("3s", "shutdown.unready = \"500ms\"").await;
    let slow = Claims::all("slow");
    let slow_ws = gateway
        .narrow_ws(&slow, "topics=a:*", "tribus.json.v1")
        .await;
    let slow_sse = gateway.narrow_sse(&slow, "topics=a:*", None).await;
    let event = json!({"topic": "a:1", "data": "x".repeat(8000)});
    for _ in 0..6 {
        let (status, _) = gateway
            .post(&json!(vec![event.clone(); 100]).to_string())
            .await;
        assert_eq!(status, 200);
    }
    let half_body = straggler(&gateway).await;
    let mut half_head = Raw::connect(&gateway).await;
    half_head
        .send(b"GET /poll?topics=a:1 HTTP/1.1\r\nHost: ")
        .await;
    let since = Instant::now();
    gateway.begin_stop();
    gateway.stopped().await;
    let took = since.elapsed();
    assert!(took < grace * 2, "{took:?} of {grace:?}");
    drop((slow_ws, slow_sse, half_body, half_head));
}

#[tokio::test]
async fn no_client_of_tls_or_http2_holds_the_process_up_either() {
    let grace = Duration::from_secs(3);
    let files = TlsFiles::new();
    let mut gateway = files.gateway_with_grace("3s").await;
    let mut narrow = H2::connect(&files, &gateway, 300).await;
    let driven = narrow.drive();
    let stalled = narrow.get("/events?topics=a:*", &Claims::all("slow")).await;
    gateway.publish("a:1", json!("x".repeat(20_000))).await;
    let half_shaken = TcpStream::connect(gateway.address).await.expect("TCP");
    let mut half_hello = TcpStream::connect(gateway.address).await.expect("TCP");
    half_hello.write_all(&[22, 3, 1]).await.expect("sent");
    let since = Instant::now();
    gateway.begin_stop();
    gateway.stopped().await;
    let took = since.elapsed();
    assert!(took < grace * 2, "{took:?} of {grace:?}");
    drop((stalled, half_shaken, half_hello));
    driven.abort();
}

#[tokio::test]
async fn streams_and_polls_over_http2_are_told_and_their_connection_says_goaway() {
    let files = TlsFiles::new();
    let mut gateway = files.gateway_with_grace(LONG).await;
    let alice = Claims::all("alice");
    let (_, page) = gateway.poll("topics=a:1").await;
    let cursor = page["cursor"].as_str().expect("a cursor").to_owned();
    let mut h2 = H2::connect(&files, &gateway, 65_535).await;
    let driven = h2.drive();
    let mut events = h2.get("/events?topics=a:*", &alice).await;
    let path = format!("/poll?topics=a:*&cursor={cursor}&wait=55");
    let request = h2.request("GET", &path, &alice);
    let (poll, _) = h2.send.send_request(request, true).expect("it is sent");
    // An answer on the same connection: the poll before it was received.
    assert_eq!(h2.get("/poll?topics=a:1", &alice).await.status(), 200);
    let mut ws = files.ws(&gateway, "topics=a:*").await;
    let request = h2.request("POST", "/publish", &alice);
    let (published, mut body) = h2.send.send_request(request, false).expect("it is sent");
    gateway.begin_stop();
    let stream = read_all(events.body_mut()).await.expect("no reset");
    let stream = String::from_utf8_lossy(&stream).into_owned();
    assert!(stream.contains("event: closing\n"), "{stream}");
    let refused = within("a GOAWAY", async {
        loop {
            if let Err(error) = h2.send.clone().ready().await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(refused.await.is_go_away());
    let mut answer = within("the poll's answer", poll).await.expect("an answer");
    let page = read_all(answer.body_mut()).await.expect("a whole body");
    let page: Value = serde_json::from_slice(&page).expect("JSON");
    assert!(page["reconnectAfterMs"].is_u64(), "{page}");
    assert_eq!(ws.close_code().await, 1012);
    // What was under way is done, and the connection ends with it.
    let event = bytes::Bytes::from_static(br#"{"topic":"a:1"}"#);
    body.send_data(event, true).expect("it is sent");
    let published = within("an answer", published).await.expect("an answer");
    assert_eq!(published.status(), 200);
    let ended = within("the connection to end", driven).await;
    ended.expect("no panic").expect("a GOAWAY without an error");
    gateway.stopped().await;
}
