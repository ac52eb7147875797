//! The faults of `support::Network` do what they say: else tests on hostile networks prove nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{
    Claims, DEADLINE, Fault, Kind, Manner, Network, Received, Sse, TestGateway, Ws, within,
};

const HEARTBEAT: &str = "heartbeat = \"1s\"";
/// What does not come in such a time does not come, where it is else there at once.
const A_WHILE: Duration = Duration::from_millis(400);

async fn network() -> (TestGateway, Network) {
    let gateway = TestGateway::with(HEARTBEAT).await;
    let network = Network::before(&gateway).await;
    (gateway, network)
}

async fn handshake(network: &Network, gateway: &TestGateway) -> Result<Ws, String> {
    let token = Claims::all("alice").token();
    let through = network.gateway(gateway);
    let handshake = Ws::connect(&through, "topics=order:*", Some(&token), None).await;
    handshake.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_good_network_passes_everything_as_it_is() {
    let (gateway, network) = network().await;
    let through = network.gateway(&gateway);
    let mut ws = through.ws("topics=order:*").await;
    let mut sse = through.sse("topics=order:*").await;
    // Longer than what is read at once.
    let long = "x".repeat(40_000);
    let id = through.publish("order:1", json!(long)).await;
    for event in [ws.event().await, sse.event().await] {
        assert_eq!(event["id"], id.as_str());
        assert_eq!(event["data"], long.as_str());
    }
    let (status, page) = through.poll("topics=order:*&cursor=earliest").await;
    assert_eq!((status, &page["events"][0]["id"]), (200, &json!(id)));
    let page = reqwest::get(network.url("/")).await.expect("the page");
    let direct = reqwest::get(gateway.url("/")).await.expect("the page");
    assert_eq!(page.text().await.ok(), direct.text().await.ok());
    let kinds = [
        Kind::WebSocket,
        Kind::Stream,
        Kind::Poll,
        Kind::Publish,
        Kind::Other,
    ];
    assert_eq!(kinds.map(|kind| network.requests(kind)), [1; 5]);
}

#[tokio::test]
async fn the_pages_own_origin_passes() {
    let (gateway, network) = network().await;
    let origin = format!("http://{}", network.address);
    let answer = gateway
        .http
        .get(network.url("/poll?topics=order:*"))
        .header("Origin", origin)
        .bearer_auth(Claims::all("alice").token())
        .send();
    assert_eq!(
        within("a poll", answer).await.expect("an answer").status(),
        200
    );
}

#[tokio::test]
async fn upgrades_are_refused_or_hung_up_on() {
    let (gateway, network) = network().await;
    network.set([Fault::RefuseUpgrades]);
    let refused = handshake(&network, &gateway).await.err();
    assert_eq!(refused.as_deref(), Some("HTTP error: 403 Forbidden"));
    network.set([Fault::HangUpOnUpgrades]);
    let hung_up = handshake(&network, &gateway)
        .await
        .err()
        .expect("no WebSocket");
    assert!(!hung_up.contains("HTTP error"), "{hung_up}");
    assert_eq!(network.struck(&Fault::RefuseUpgrades), 1);
    assert_eq!(network.struck(&Fault::HangUpOnUpgrades), 1);
    network.clear();
    assert!(handshake(&network, &gateway).await.is_ok());
}

#[tokio::test]
async fn frames_are_dropped_after_the_upgrade() {
    let (gateway, network) = network().await;
    let mut before = network.gateway(&gateway).ws("topics=order:*").await;
    before.frame("live").await;
    network.set([Fault::DropFrames]);
    let mut ws = handshake(&network, &gateway)
        .await
        .expect("the upgrade passes");
    gateway.publish("order:1", json!(1)).await;
    for ws in [&mut ws, &mut before] {
        let nothing = tokio::time::timeout(A_WHILE, ws.receive()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
    assert_eq!(network.struck(&Fault::DropFrames), 2);
    network.clear();
    let nothing = tokio::time::timeout(A_WHILE, ws.receive()).await;
    assert!(nothing.is_err(), "it stays dead: {nothing:?}");
}

#[tokio::test]
async fn websockets_are_killed_without_a_close() {
    let (gateway, network) = network().await;
    let after = Duration::from_millis(300);
    network.set([Fault::KillWebSockets { after }]);
    let begun = Instant::now();
    let mut ws = network.gateway(&gateway).ws("topics=order:*").await;
    let ended = loop {
        match ws.receive().await {
            Received::Json(_) => {}
            ended => break ended,
        }
    };
    assert!(matches!(ended, Received::End), "{ended:?}");
    assert!(begun.elapsed() >= after);
    assert_eq!(network.struck(&Fault::KillWebSockets { after }), 1);
}

#[tokio::test]
async fn what_does_not_end_is_buffered() {
    let (gateway, network) = network().await;
    let through = network.gateway(&gateway);
    network.set([Fault::BufferResponses]);
    let claims = Claims::all("alice");
    let stream = through.get("/events", "topics=order:*", &claims);
    tokio::pin!(stream);
    let nothing = tokio::time::timeout(A_WHILE, &mut stream).await;
    assert!(nothing.is_err(), "not even the head");
    let id = through.publish("order:1", json!(1)).await;
    let (_, page) = through.poll("topics=order:*&cursor=earliest").await;
    assert_eq!(page["events"][0]["id"], id.as_str());
    assert_eq!(network.struck(&Fault::BufferResponses), 1);
    network.clear();
    let mut sse = Sse::new(within("the stream", stream).await);
    assert_eq!(sse.event().await["id"], id.as_str());
}

#[tokio::test]
async fn long_responses_are_cut() {
    let (gateway, network) = network().await;
    let through = network.gateway(&gateway);
    let after = Duration::from_millis(300);
    network.set([Fault::CutResponses { after }]);
    let begun = Instant::now();
    let mut sse = through.sse("topics=order:*").await;
    while sse.try_next().await.is_some() {}
    assert!(begun.elapsed() >= after);
    let poll = through
        .http
        .get(through.url("/poll?topics=order:*&cursor=earliest&wait=5"))
        .bearer_auth(Claims::all("alice").token());
    assert!(within("the cut", poll.send()).await.is_err());
    assert_eq!(network.struck(&Fault::CutResponses { after }), 2);
    let mut ws = through.ws("topics=order:*").await;
    tokio::time::sleep(after).await;
    let id = through.publish("order:1", json!(1)).await;
    assert_eq!(ws.event().await["id"], id.as_str());
}

#[tokio::test]
async fn bodies_of_posts_are_swallowed() {
    let (gateway, network) = network().await;
    let through = network.gateway(&gateway);
    network.set([Fault::SwallowBodies]);
    for _ in 0..2 {
        let (status, answer) = through.post(r#"{"topic":"order:1"}"#).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")));
    }
    assert_eq!(network.struck(&Fault::SwallowBodies), 2);
    network.clear();
    through.publish("order:1", json!(1)).await;
}

#[tokio::test]
async fn latency_counts_in_each_direction() {
    let (gateway, network) = network().await;
    let mut ws = network.gateway(&gateway).ws("").await;
    let latency = Fault::Latency {
        delay: Duration::from_millis(150),
        jitter: Duration::from_millis(50),
    };
    network.set([latency.clone()]);
    let asked = Instant::now();
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
    assert!(
        asked.elapsed() >= Duration::from_millis(300),
        "{:?}",
        asked.elapsed()
    );
    assert!(network.struck(&latency) >= 2);
}

#[tokio::test]
async fn loss_stalls_and_resets() {
    let (gateway, network) = network().await;
    let mut ws = network.gateway(&gateway).ws("").await;
    network.set([Fault::Loss {
        stall: 1.0,
        reset: 0.0,
    }]);
    let asked = Instant::now();
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
    assert!(
        asked.elapsed() >= Duration::from_millis(400),
        "{:?}",
        asked.elapsed()
    );
    let resets = Fault::Loss {
        stall: 0.0,
        reset: 1.0,
    };
    network.set([resets.clone()]);
    ws.send(json!({"type": "ping"})).await;
    assert!(matches!(ws.receive().await, Received::End));
    assert!(network.struck(&resets) >= 3);
}

#[tokio::test]
async fn an_offline_network_resets_what_comes() {
    let (gateway, network) = network().await;
    let mut ws = network.gateway(&gateway).ws("").await;
    let offline = Fault::Offline(Manner::Reset);
    network.set([offline.clone()]);
    assert!(matches!(ws.receive().await, Received::End));
    assert!(handshake(&network, &gateway).await.is_err());
    assert_eq!(network.struck(&offline), 2);
    network.clear();
    assert!(handshake(&network, &gateway).await.is_ok());
}

#[tokio::test]
async fn a_network_goes_silent_and_comes_back() {
    let (gateway, network) = network().await;
    let mut ws = network.gateway(&gateway).ws("topics=order:*").await;
    ws.frame("live").await;
    let offline = Fault::Offline(Manner::Silent);
    network.set([offline.clone()]);
    gateway.publish("order:1", json!(1)).await;
    // Until the gateway has given it up: its heartbeats are not answered.
    let patience = Duration::from_secs(4);
    let nothing = tokio::time::timeout(patience, ws.receive()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    let connecting = handshake(&network, &gateway);
    tokio::pin!(connecting);
    assert!(
        tokio::time::timeout(A_WHILE, &mut connecting)
            .await
            .is_err()
    );
    assert_eq!(network.struck(&offline), 1);
    network.clear();
    assert!(connecting.await.is_ok());
    let nothing = tokio::time::timeout(A_WHILE, ws.receive()).await;
    assert!(nothing.is_err(), "it stays dead: {nothing:?}");
}

#[tokio::test]
async fn each_connection_is_cut_at_its_own_byte() {
    let (gateway, network) = network().await;
    let cut = Fault::CutAtRandomByte { below: 4000 };
    network.set([cut.clone()]);
    let mut lengths = Vec::new();
    while lengths.len() < 3 {
        lengths.push(within("the cut", received(&network, &gateway)).await);
    }
    assert!(lengths.iter().all(|length| *length < 4000), "{lengths:?}");
    lengths.dedup();
    assert_eq!(lengths.len(), 3, "{lengths:?}");
    assert_eq!(network.struck(&cut), 3);
    let other = Network::before(&gateway).await;
    other.set([cut]);
    assert_eq!(
        within("the cut", received(&other, &gateway)).await,
        lengths[0],
        "of one seed"
    );
}

/// Bytes of a stream of many events, until it is cut.
async fn received(network: &Network, gateway: &TestGateway) -> usize {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = tokio::net::TcpStream::connect(network.address).await;
    let mut stream = stream.expect("a connection");
    let request = format!(
        "GET /events?topics=order:* HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\n\r\n",
        Claims::all("alice").token()
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut received = Vec::new();
    let begun = Instant::now();
    loop {
        let read = stream.read_buf(&mut received);
        match tokio::time::timeout(Duration::from_millis(20), read).await {
            Ok(read) => {
                if read.expect("an orderly end") == 0 {
                    return received.len();
                }
            }
            Err(_) => {
                gateway.publish("order:1", json!("x".repeat(500))).await;
            }
        }
        assert!(begun.elapsed() < DEADLINE);
    }
}
