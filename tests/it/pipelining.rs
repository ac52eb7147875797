//! Clients that go on sending behind a response that has no end.

use serde_json::json;

use crate::support::{Claims, Raw, TestGateway};

/// More than the 128 KiB that actix reads ahead.
const FLOOD_BYTES: usize = 300_000;

fn request(path: &str) -> String {
    let token = Claims::all("alice").token();
    format!("GET {path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {token}\r\n\r\n")
}

#[tokio::test]
async fn a_stream_ends_where_junk_is_sent_behind_it() {
    let gateway = TestGateway::start().await;
    let mut client = Raw::connect(&gateway).await;
    client.send(request("/events?topics=a:1").as_bytes()).await;
    client.text_until("event: live").await;
    client.send("x".repeat(FLOOD_BYTES).as_bytes()).await;
    // The end is what matters: unread junk may cost the client the last words.
    client.rest().await;
}

#[tokio::test]
async fn a_few_requests_behind_a_stream_do_not_end_it() {
    let gateway = TestGateway::start().await;
    let mut client = Raw::connect(&gateway).await;
    client.send(request("/events?topics=a:1").as_bytes()).await;
    client.text_until("event: live").await;
    client
        .send(request("/poll?topics=a:1").repeat(20).as_bytes())
        .await;
    for n in 0..3 {
        let id = gateway.publish("a:1", json!(n)).await;
        let seen = client.text_until(&id).await;
        assert!(!seen.contains("event: closing"), "{seen}");
    }
}
