//! What holds for TCP connections, whatever is asked on them.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::{io::AsyncReadExt, net::TcpStream};
use tribus::listener::Deadlines;

use crate::support::{Claims, Raw, Sse, TestGateway, TlsFiles, Ws, client_frame, within};

/// Of a node for 8 streams: an eighth on top, and 16.
const SERVED: usize = 8 + 1 + 16;

fn hasty() -> Deadlines {
    Deadlines {
        head: Duration::from_secs(1),
        keep_alive: Duration::from_secs(60),
        ..Deadlines::default()
    }
}

/// Sends a byte every tenth of a second until the gateway has enough of it.
async fn trickle(raw: &mut Raw) {
    within("the connection to be cut", async {
        while raw.try_send(b"x").await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_later_head_that_trickles_in_is_cut() {
    let gateway = TestGateway::with_deadlines("", hasty()).await;
    let mut raw = Raw::connect(&gateway).await;
    for _ in 0..2 {
        raw.request("GET /poll?topics=a:1", "\r\n").await;
        assert_eq!(raw.response().await.status, 200);
    }
    raw.send(b"GET /poll?topics=a:1 HTTP/1.1\r\nHost: ").await;
    trickle(&mut raw).await;
}

#[tokio::test]
async fn a_later_head_that_stops_half_way_is_cut() {
    let gateway = TestGateway::with_deadlines("", hasty()).await;
    let mut raw = Raw::connect(&gateway).await;
    raw.request("GET /poll?topics=a:1", "\r\nGET /poll").await;
    assert_eq!(raw.response().await.status, 200);
    let mut other = Raw::connect(&gateway).await;
    other.request("GET /poll?topics=a:1", "\r\n").await;
    assert_eq!(other.response().await.status, 200);
    other.send(b"G").await;
    assert!(other.rest().await.is_empty());
    // One that came along with the request before it is found by its next byte.
    trickle(&mut raw).await;
}

#[tokio::test]
async fn half_a_head_that_came_with_the_request_before_it_does_not_keep_an_idle_connection() {
    let deadlines = Deadlines {
        keep_alive: Duration::from_secs(2),
        ..hasty()
    };
    let gateway = TestGateway::with_deadlines("", deadlines).await;
    for rest in ["\r\nGET /poll", "\r\n\r\n"] {
        let mut raw = Raw::connect(&gateway).await;
        raw.request("GET /poll?topics=a:1", rest).await;
        assert_eq!(raw.response().await.status, 200);
        assert!(raw.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_stream_that_its_client_never_speaks_on_is_not_taken_for_a_slow_head() {
    let gateway = TestGateway::with_deadlines("heartbeat = \"4s\"", hasty()).await;
    let mut sse = gateway.sse("topics=a:*").await;
    // Some of a frame's bytes, and then the rest of them long after the deadline of heads.
    let frame = client_frame(0x81, br#"{"type":"ping"}"#);
    let mut raw = Raw::websocket(&gateway, "topics=b:*").await;
    raw.send(&frame[..1]).await;
    sse.frame("heartbeat").await;
    raw.send(&frame[1..]).await;
    raw.text_until("pong").await;
    let id = gateway.publish("a:1", json!(1)).await;
    assert_eq!(sse.event().await["id"], json!(id));
}

#[tokio::test]
async fn connections_over_the_limit_are_told_so_and_get_in_when_others_have_left() {
    for tls in [false, true] {
        let files = TlsFiles::new();
        let toml = "limits.connections = 8";
        let gateway = match tls {
            false => TestGateway::with_deadlines(toml, hasty()).await,
            true => files.gateway_with(toml, hasty()).await,
        };
        let mut held = Vec::new();
        for _ in 0..SERVED {
            held.push(client(&files, tls));
            let last = held.last().expect("one");
            assert_eq!(poll(&gateway, last).await.status(), 200);
        }
        for _ in 0..3 {
            let over = client(&files, tls);
            let answer = poll(&gateway, &over).await;
            assert_eq!(answer.status(), 503);
            assert!(answer.headers().contains_key("retry-after"));
            if !tls {
                assert_eq!(answer.headers()["connection"], "close");
            }
            let error: serde_json::Value = answer.json().await.expect("JSON");
            assert_eq!(error["code"], "unavailable");
        }
        assert_eq!(poll(&gateway, &held[0]).await.status(), 200, "who is in");
        held.pop();
        within("a place to come free", async {
            while poll(&gateway, &client(&files, tls)).await.status() != 200 {}
        })
        .await;
    }
}

fn client(files: &TlsFiles, tls: bool) -> reqwest::Client {
    match tls {
        false => reqwest::Client::new(),
        true => files.authority.http(),
    }
}

async fn poll(gateway: &TestGateway, http: &reqwest::Client) -> reqwest::Response {
    let request = http.get(gateway.url("/poll?topics=a:1"));
    let request = request.bearer_auth(Claims::all("alice").token());
    within("an answer", request.send())
        .await
        .expect("an answer")
}

#[tokio::test]
async fn a_browser_over_the_limit_is_told_in_the_way_that_it_can_see() {
    let gateway = TestGateway::with_deadlines("limits.connections = 8", hasty()).await;
    let mut held = Vec::new();
    for _ in 0..SERVED {
        let raw = Raw::connect(&gateway).await;
        held.push(raw);
    }
    let token = Claims::all("alice").token();
    let path = format!("/events?native=1&topics=a:1&token={token}");
    let answer = within("an answer", reqwest::get(gateway.url(&path))).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(Sse::new(answer).next().await.name, "closing");
    let ws = Ws::connect(&gateway, "topics=a:1", Some(&token), None).await;
    let mut ws = ws.expect("the handshake succeeds");
    let error = ws.frame("error").await;
    assert_eq!(error["code"], "unavailable", "{error}");
    assert!(error["retryAfterMs"].as_u64().is_some(), "{error}");
    assert_eq!(ws.close_code().await, 1013);
}

/// Those that say nothing, and far more of them than there are places.
#[tokio::test]
async fn a_crowd_of_connections_does_not_make_the_listener_deaf() {
    let patient = Deadlines {
        first_head: Duration::from_secs(60),
        ..hasty()
    };
    let gateway = TestGateway::with_deadlines("limits.connections = 8", patient).await;
    let mut sse = gateway.sse("topics=a:*").await;
    sse.frame("live").await;
    let mut crowd = Vec::new();
    for _ in 0..SERVED + 1024 + 50 {
        crowd.push(TcpStream::connect(gateway.address).await.expect("TCP"));
    }
    // Who finds no place even to be refused in is dropped at once, and knows. Workers are not of one
    // pace, so it need not be those who came last.
    let mut ends: FuturesUnordered<_> = crowd
        .into_iter()
        .map(|mut stream| async move { stream.read(&mut [0]).await })
        .collect();
    for _ in 0..50 {
        let end = within("the end of a connection", ends.next()).await;
        assert!(!end.expect("a crowd").is_ok_and(|read| read > 0));
    }
    drop(ends);
    let http = reqwest::Client::new();
    let answer = within("a place to come free", async {
        loop {
            let request = http.post(gateway.url("/publish"));
            let request = request.bearer_auth(Claims::all("backend").token());
            match request.body(r#"{"topic":"a:1"}"#).send().await {
                Ok(answer) if answer.status() == 200 => return answer,
                _ => {}
            }
        }
    })
    .await;
    let answer: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(sse.event().await["id"], answer["id"]);
}

/// Nobody polls a transport that its client takes nothing from, and the kernel gives up on such a
/// client only after a minute.
#[tokio::test]
async fn a_client_that_takes_nothing_does_not_outlive_its_token_or_its_revocation() {
    let gateway = TestGateway::with("limits.connections = 3").await;
    let revoked = Claims::all("revoked");
    let expires = Claims::all("expires").expiring_in(6);
    let mut stuck_ws = gateway
        .narrow_ws(&revoked, "topics=a:*", "tribus.json.v1")
        .await;
    let mut stuck = Vec::new();
    for claims in [&revoked, &expires] {
        let mut sse = gateway.narrow_sse(claims, "topics=a:*", None).await;
        sse.frame("live").await;
        stuck.push(sse);
    }
    stuck_ws.frame("live").await;
    let event = json!({"topic": "a:1", "data": "x".repeat(8000)});
    for _ in 0..12 {
        let (status, _) = gateway
            .post(&json!(vec![event.clone(); 100]).to_string())
            .await;
        assert_eq!(status, 200);
    }
    let revoke = gateway.http.post(gateway.admin_url("/admin/disconnect"));
    let revoke = revoke.body(json!({"sub": "revoked"}).to_string()).send();
    assert_eq!(revoke.await.expect("an answer").status(), 200);
    let bob = Claims::all("bob");
    let mut places = Vec::new();
    within("all places to be free", async {
        while places.len() < 3 {
            let answer = gateway.get("/events", "topics=a:*", &bob).await;
            match answer.status().as_u16() {
                200 => places.push(answer),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await;
    drop((stuck_ws, stuck));
}

#[tokio::test]
async fn a_preflight_is_a_request_as_any_other() {
    let gateway = TestGateway::with_deadlines("", hasty()).await;
    let mut raw = Raw::connect(&gateway).await;
    let preflight = b"OPTIONS /poll HTTP/1.1\r\nHost: x\r\n\r\n";
    raw.send(preflight).await;
    assert_eq!(raw.response().await.status, 204);
    // Twice as long as the head of a request may take.
    tokio::time::sleep(2 * hasty().head).await;
    raw.send(preflight).await;
    assert_eq!(raw.response().await.status, 204);
}
