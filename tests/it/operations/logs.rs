//! What the log says, and what it does not.

use serde_json::{Value, json};

use crate::{
    command_line::Serving,
    support::{Claims, within},
};

const DEBUG: [(&str, &str); 2] = [
    ("TRIBUS__LOG__LEVEL", "info,tribus=debug"),
    ("TRIBUS__LOG__FORMAT", "json"),
];

/// The fields of the next line with this message.
async fn line(gateway: &mut Serving, message: &str) -> Value {
    let line = gateway.program.says(&format!("\"{message}\"")).await;
    let line: Value = serde_json::from_str(&line).expect("JSON");
    line["fields"].clone()
}

async fn connect(gateway: &Serving, query: &str) -> Socket {
    let url = format!("ws://{}/ws?{query}", gateway.address);
    let connecting = tokio_tungstenite::connect_async(url);
    within("the handshake", connecting)
        .await
        .expect("a socket")
        .0
}

type Socket =
    tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn next(socket: &mut Socket) -> Value {
    let message = within("a message", futures_util::StreamExt::next(socket)).await;
    let message = message.expect("a message").expect("a message");
    serde_json::from_str(message.to_text().expect("text")).expect("JSON")
}

#[tokio::test]
async fn a_connection_can_be_followed_by_its_id_at_debug() {
    let mut gateway = Serving::json(&DEBUG).await;
    let claims = Claims::all("alice").with("tenant", json!("acme"));
    let token = claims.token();
    let mut socket = connect(&gateway, &format!("topics=a:1&token={token}")).await;
    let connected = next(&mut socket).await;
    let opened = line(&mut gateway, "connection opened").await;
    let expected = json!({
        "message": "connection opened",
        "connection_id": connected["connectionId"],
        "subject": "alice",
        "tenant": "acme",
        "transport": "ws",
        "address": "127.0.0.1",
    });
    assert_eq!(opened, expected);
    let http = reqwest::Client::new();
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let publish = http
        .post(gateway.url("/publish"))
        .bearer_auth(&token)
        .header("traceparent", format!("00-{trace_id}-00f067aa0ba902b7-01"))
        .body(json!([{"topic": "a:1"}, {"topic": "b:1", "trace_id": "mine"}]).to_string());
    assert_eq!(publish.send().await.unwrap().status(), 200);
    for (topic, sequence, trace_id) in [("a:1", 1, trace_id), ("b:1", 2, "mine")] {
        let published = line(&mut gateway, "publish accepted").await;
        let expected = json!({
            "message": "publish accepted",
            "subject": "alice",
            "tenant": "acme",
            "topic": topic,
            "sequence": sequence,
            "trace_id": trace_id,
            "duplicate": false,
        });
        assert_eq!(published, expected);
    }
    while next(&mut socket).await["type"] != "event" {}
    drop(socket);
    let mut closed = line(&mut gateway, "connection closed").await;
    let duration = closed.as_object_mut().unwrap().remove("duration_ms");
    assert!(duration.is_some_and(|duration| duration.is_u64()));
    let expected = json!({
        "message": "connection closed",
        "connection_id": connected["connectionId"],
        "subject": "alice",
        "tenant": "acme",
        "transport": "ws",
        "address": "127.0.0.1",
        "reason": "client_left",
        "events": 1,
    });
    assert_eq!(closed, expected);
}

#[tokio::test]
async fn bad_credentials_and_limits_are_told_with_the_address_at_debug() {
    let mut gateway = Serving::json(&DEBUG).await;
    let http = reqwest::Client::new();
    let poll = http.get(gateway.url("/poll?topics=a:1&token=nonsense"));
    assert_eq!(poll.send().await.unwrap().status(), 401);
    let failed = line(&mut gateway, "authentication failed").await;
    assert_eq!(failed["address"], "127.0.0.1");
    assert_eq!(failed["credential"], "query");
    assert_eq!(failed["code"], "unauthorized");
    let token = Claims::all("alice").token();
    let huge = http.post(gateway.url("/publish")).bearer_auth(token);
    let huge = huge.body("x".repeat(2 << 20)).send().await;
    if let Ok(answer) = huge {
        assert_eq!(answer.status(), 413);
    }
    let refused = loop {
        let refused = line(&mut gateway, "refused").await;
        if refused["code"] == "too_large" {
            break refused;
        }
    };
    assert_eq!(refused["address"], "127.0.0.1");
    assert_eq!(refused["limit"], "size");
    assert_eq!(refused["endpoint"], "publish");
}

/// Whatever clients do wrong, and however often, an operator's disk is safe.
#[tokio::test]
async fn a_flood_of_bad_requests_leaves_no_lines_at_the_default_level() {
    // Few enough for whatever number of open files the machine allows.
    let gateway = Serving::start(&[("TRIBUS__LIMITS__CONNECTIONS", "500")]).await;
    let began = std::time::Instant::now();
    let http = reqwest::Client::new();
    let token = Claims::all("alice").token();
    for round in 0..50 {
        for request in [
            http.get(gateway.url("/poll?topics=a:1&token=nonsense")),
            http.get(gateway.url("/poll?topics=a%20b"))
                .bearer_auth(&token),
            http.get(gateway.url("/nowhere")),
            http.post(gateway.url("/publish"))
                .bearer_auth(&token)
                .body("not json"),
            http.get(gateway.url("/ws")).bearer_auth(&token),
            http.get(gateway.url("/events?topics=a:1"))
                .header("Origin", "https://evil.example"),
        ] {
            let answer = within("an answer", request.send()).await.unwrap();
            assert!(answer.status().is_client_error(), "{}", answer.status());
        }
        for bytes in broken_requests(&token) {
            let stream = tokio::net::TcpStream::connect(&gateway.address);
            let mut stream = stream.await.unwrap();
            // The gateway may have hung up meanwhile.
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await;
            if round % 10 == 0 {
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
                let mut answer = Vec::new();
                let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
                let _ = within("the end", read).await;
            }
        }
    }
    let ended = gateway.terminate().await;
    assert_eq!(ended.code, Some(0));
    // Of refused web pages one line a second.
    let (of_origins, lines): (Vec<&str>, Vec<&str>) = ended
        .stderr
        .lines()
        .partition(|line| line.contains("auth.allowed_origins"));
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    assert!(of_origins.len() <= 1 + seconds, "{of_origins:#?}");
    assert!(lines.len() <= 4, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("listening")));
    assert!(lines.iter().any(|line| line.contains("stopped")));
}

/// Requests that are none, and WebSocket frames that break the rules.
fn broken_requests(token: &str) -> Vec<Vec<u8>> {
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let websocket = |frames: &[u8]| [upgrade.as_bytes(), frames].concat();
    vec![
        b"nonsense\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"POST /publish HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nx"
            .to_vec(),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000)).into_bytes(),
        // Not masked, an opcode that does not exist, a fragment within a fragment.
        websocket(&[0x81, 0x02, b'h', b'i']),
        websocket(&[0x83, 0x80, 0, 0, 0, 0]),
        websocket(&[0x01, 0x80, 0, 0, 0, 0, 0x01, 0x80, 0, 0, 0, 0]),
    ]
}

#[tokio::test]
async fn what_an_operator_must_act_on_is_told_and_not_once_for_each_client() {
    let gateway = Serving::start(&[("TRIBUS__LIMITS__CONNECTIONS", "1")]).await;
    let token = Claims::all("alice").token();
    let first = connect(&gateway, &format!("token={token}")).await;
    let http = reqwest::Client::new();
    let mut refused = 0;
    for _ in 0..300 {
        let poll = http.get(gateway.url("/poll?topics=a:1"));
        let answer = poll.bearer_auth(&token).send().await.unwrap();
        refused += usize::from(answer.status() == 503);
    }
    assert_eq!(refused, 300);
    drop(first);
    let ended = gateway.terminate().await;
    let full = |line: &&str| line.contains("WARN") && line.contains("limits.connections");
    let warnings = ended.stderr.lines().filter(full).count();
    assert!(
        (1..100).contains(&warnings),
        "{warnings} warnings in {}",
        ended.stderr
    );
}
