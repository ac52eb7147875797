//! Clients of HTTP/2 that give their streams no window.

use std::time::Duration;

use serde_json::json;
use tribus::listener::Deadlines;

use crate::support::{Claims, H2, TestGateway, TlsFiles, within};

/// Takes a stream's first bytes, and none after.
const NARROW: u32 = 300;

async fn flood(gateway: &TestGateway, topic: &str) {
    for n in 0..20 {
        gateway.publish(topic, json!([n, "x".repeat(1000)])).await;
    }
}

#[tokio::test]
async fn a_stream_without_window_is_reset_and_the_others_of_its_connection_go_on() {
    let files = TlsFiles::new();
    let deadlines = Deadlines {
        write_stall: Duration::from_secs(1),
        ..Deadlines::default()
    };
    let gateway = files.gateway_with("", deadlines).await;
    let alice = Claims::all("alice");
    let mut h2 = H2::connect(&files, &gateway, NARROW).await;
    let driven = h2.drive();
    let mut stalled = h2.get("/events?topics=a:*", &alice).await;
    let mut good = h2.get("/events?topics=a:*", &alice).await;
    let reading = tokio::spawn(async move {
        let mut seen = String::new();
        while !seen.contains("the last") {
            let chunk = within("a chunk", good.body_mut().data()).await;
            let chunk = chunk.expect("the stream goes on").expect("no reset");
            seen += &String::from_utf8_lossy(&chunk);
            let flow = good.body_mut().flow_control();
            flow.release_capacity(chunk.len()).expect("a window");
        }
    });
    flood(&gateway, "a:1").await;
    let ended = async {
        // Reads what was sent, and gives no window for more.
        while let Some(chunk) = stalled.body_mut().data().await {
            if let Err(error) = chunk {
                return error.reason();
            }
        }
        None
    };
    let reason = within("the stream to be reset", ended).await;
    assert_eq!(reason, Some(h2::Reason::CANCEL));
    gateway.publish("a:1", json!("the last")).await;
    reading.await.expect("the other stream goes on");
    driven.abort();
}

#[tokio::test]
async fn a_stream_without_window_does_not_outlive_its_token_or_its_revocation() {
    let files = TlsFiles::new();
    let gateway = files.gateway("limits.connections = 2").await;
    let mut h2 = H2::connect(&files, &gateway, NARROW).await;
    let driven = h2.drive();
    let expires = Claims::all("expires").expiring_in(3);
    let mut expiring = h2.get("/events?topics=a:*", &expires).await;
    let mut revoked = h2.get("/events?topics=a:*", &Claims::all("revoked")).await;
    flood(&gateway, "a:1").await;
    let revoke = gateway.http.post(gateway.admin_url("/admin/disconnect"));
    let revoke = revoke.body(json!({"sub": "revoked"}).to_string()).send();
    assert_eq!(revoke.await.expect("an answer").status(), 200);
    // Long before a stalled write ends them, which takes a minute.
    for stream in [&mut expiring, &mut revoked] {
        let ended = async { while let Some(Ok(_)) = stream.body_mut().data().await {} };
        within("the stream to be reset", ended).await;
    }
    let mut other = H2::connect(&files, &gateway, 65_535).await;
    let others_driven = other.drive();
    let bob = Claims::all("bob");
    let taken = within("both places to be free", async {
        let mut streams = Vec::new();
        while streams.len() < 2 {
            let stream = other.get("/events?topics=a:*", &bob).await;
            if stream.status() == 200 {
                streams.push(stream);
            }
        }
        streams
    })
    .await;
    assert_eq!(h2.get("/poll?topics=a:1", &bob).await.status(), 503);
    drop(taken);
    driven.abort();
    others_driven.abort();
}

#[tokio::test]
async fn what_a_stalled_stream_missed_comes_when_it_gets_a_window_again() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let mut h2 = H2::connect(&files, &gateway, NARROW).await;
    let driven = h2.drive();
    let mut stream = h2.get("/events?topics=a:*", &Claims::all("alice")).await;
    for n in 0..400 {
        let data = json!([n, "x".repeat(1000)]);
        gateway.publish("a:1", data).await;
    }
    gateway.publish("a:1", json!("the last")).await;
    let mut seen = String::new();
    while !seen.contains("the last") {
        let chunk = within("a chunk", stream.body_mut().data()).await;
        let chunk = chunk.expect("the stream goes on").expect("no reset");
        seen += &String::from_utf8_lossy(&chunk);
        let flow = stream.body_mut().flow_control();
        flow.release_capacity(chunk.len()).expect("a window");
    }
    let mut position = 0;
    for n in 0..400 {
        let event = format!("\"data\":[{n},");
        position += seen[position..]
            .find(&event)
            .expect("in order, none missing");
    }
    assert!(!seen.contains("event: reset"));
    driven.abort();
}
