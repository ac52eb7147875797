//! What the streams of one HTTP/2 connection may take, and what their client may do with them.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tribus::listener::Deadlines;

use crate::support::{Claims, H2, TlsFiles, read_all, within};

const WINDOW: u32 = 65_535;

// Types of frames, and a code of errors (RFC 9113, sections 6 and 7).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const ENHANCE_YOUR_CALM: u8 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn a_reset_stream_is_over_at_once_and_its_place_is_free() {
    let files = TlsFiles::new();
    let gateway = files.gateway("limits.connections = 1").await;
    let alice = Claims::all("alice");
    let mut h2 = H2::connect(&files, &gateway, WINDOW).await;
    let driven = h2.drive();
    let stream = h2.get("/events?topics=a:*", &alice).await;
    assert_eq!(stream.status(), 200);
    assert_eq!(h2.get("/events?topics=a:*", &alice).await.status(), 503);
    // Dropping the body resets the stream; so does giving up a poll that waits.
    drop(stream);
    free_again(&mut h2, &alice).await;
    let (_, page) = gateway.poll("topics=a:*").await;
    let cursor = page["cursor"].as_str().expect("a cursor").to_owned();
    let path = format!("/poll?topics=a:*&cursor={cursor}&wait=55");
    let request = h2.request("GET", &path, &alice);
    let (response, _) = h2.send.send_request(request, true).expect("it is sent");
    taken(&mut h2, &alice).await;
    drop(response);
    free_again(&mut h2, &alice).await;
    driven.abort();
}

async fn free_again(h2: &mut H2, claims: &Claims) {
    within("the place to be free", async {
        while h2.get("/events?topics=a:*", claims).await.status() != 200 {}
    })
    .await;
}

async fn taken(h2: &mut H2, claims: &Claims) {
    within("the place to be taken", async {
        while h2.get("/events?topics=a:*", claims).await.status() == 200 {}
    })
    .await;
}

#[tokio::test]
async fn the_budget_of_a_connection_is_one_for_all_its_streams() {
    let files = TlsFiles::new();
    let budget = "limits.messages_per_second = 1\nlimits.message_burst = 3";
    let gateway = files.gateway(budget).await;
    let alice = Claims::all("alice");
    let mut h2 = H2::connect(&files, &gateway, WINDOW).await;
    let driven = h2.drive();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let answer = h2.get("/poll?topics=a:1", &alice).await;
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429]);
    let mut other = H2::connect(&files, &gateway, WINDOW).await;
    let others_driven = other.drive();
    assert_eq!(other.get("/poll?topics=a:1", &alice).await.status(), 200);
    driven.abort();
    others_driven.abort();
}

#[tokio::test]
async fn a_connection_has_a_hundred_streams_and_no_more() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let mut h2 = H2::connect(&files, &gateway, WINDOW).await;
    let driven = h2.drive();
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(h2.get("/events?topics=a:*", &Claims::all("alice")).await);
    }
    assert_eq!(h2.send.current_max_send_streams(), 100);
    gateway.publish("a:1", json!("everyone")).await;
    for stream in &mut streams {
        let mut seen = String::new();
        while !seen.contains("everyone") {
            let chunk = within("a chunk", stream.body_mut().data()).await;
            let chunk = chunk.expect("the stream goes on").expect("no reset");
            seen += &String::from_utf8_lossy(&chunk);
        }
    }
    driven.abort();
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let mut sse = gateway.sse("topics=a:*").await;
    sse.frame("live").await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    // In one TLS record, so that all of it is there before the first request is looked at.
    for stream in (1..200).step_by(2) {
        let get = [0x82, 0x87, 0x84, 0x41, 1, b'x'];
        flood.extend(frame(HEADERS, 0x5, stream, &get));
        flood.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    let mut stream = files.connect(&gateway, &["h2"]).await;
    stream.write_all(&flood).await.expect("it is sent");
    let mut answer = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut answer)).await;
    let mut code = None;
    while answer.len() >= 9 {
        let length =
            usize::from(answer[0]) << 16 | usize::from(answer[1]) << 8 | usize::from(answer[2]);
        let frame: Vec<u8> = answer.drain(..9 + length).collect();
        if frame[3] == GOAWAY {
            code = Some(frame[16]);
        }
    }
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    let id = gateway.publish("a:1", json!(1)).await;
    assert_eq!(sse.event().await["id"], json!(id));
}

#[tokio::test]
async fn heads_and_bodies_over_their_limits_are_refused_and_the_connection_stays() {
    let files = TlsFiles::new();
    let gateway = files.gateway("limits.publish_bytes = \"1KiB\"").await;
    let alice = Claims::all("alice");
    let mut h2 = H2::connect(&files, &gateway, WINDOW).await;
    let driven = h2.drive();
    let mut request = h2.request("GET", "/poll?topics=a:1", &alice);
    let long = "x".repeat(80_000).parse().expect("a value");
    request.headers_mut().insert("x-long", long);
    let (response, _) = h2.send.send_request(request, true).expect("it is sent");
    let response = within("an answer", response).await.expect("an answer");
    assert_eq!(response.status(), 431);
    let request = h2.request("POST", "/publish", &alice);
    let (response, mut body) = h2.send.send_request(request, false).expect("it is sent");
    let part = bytes::Bytes::from(vec![b' '; 2048]);
    body.send_data(part, false).expect("it is sent");
    let response = within("an answer", response).await.expect("an answer");
    assert_eq!(response.status(), 413, "before the end of the body");
    assert_eq!(h2.get("/poll?topics=a:1", &alice).await.status(), 200);
    driven.abort();
}

#[tokio::test]
async fn a_client_that_does_not_answer_pings_is_taken_for_gone() {
    let files = TlsFiles::new();
    let deadlines = Deadlines {
        ping: Duration::from_millis(300),
        ..Deadlines::default()
    };
    let toml = "limits.connections = 1";
    let gateway = files.gateway_with(toml, deadlines).await;
    let alice = Claims::all("alice");
    let mut silent = H2::connect(&files, &gateway, WINDOW).await;
    let request = silent.request("GET", "/events?topics=a:*", &alice);
    let (mut response, _) = silent.send.send_request(request, true).expect("sent");
    let mut connection = silent.connection.take().expect("not driven");
    // Driven until its stream has begun, and never again.
    let began = within("a response", async {
        tokio::select! {
            response = &mut response => response,
            _ = &mut connection => panic!("the connection ended"),
        }
    });
    assert_eq!(began.await.expect("a response").status(), 200);
    let mut other = H2::connect(&files, &gateway, WINDOW).await;
    let driven = other.drive();
    free_again(&mut other, &alice).await;
    assert!(!driven.is_finished(), "who answers stays");
    driven.abort();
    drop(connection);
}

#[tokio::test]
async fn a_connection_without_requests_is_asked_to_leave() {
    let files = TlsFiles::new();
    let deadlines = Deadlines {
        ping: Duration::from_millis(300),
        ..Deadlines::default()
    };
    let gateway = files.gateway_with("", deadlines).await;
    let mut h2 = H2::connect(&files, &gateway, WINDOW).await;
    let answer = h2.send.clone().send_request(
        h2.request("GET", "/poll?topics=a:1", &Claims::all("alice")),
        true,
    );
    let driven = h2.drive();
    let (response, _) = answer.expect("it is sent");
    let mut response = within("an answer", response).await.expect("an answer");
    assert!(read_all(response.body_mut()).await.is_some());
    let ended = within("the connection to end", driven).await;
    ended.expect("no panic").expect("a GOAWAY without an error");
}
