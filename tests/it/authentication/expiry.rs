//! Tokens that end while their client is connected, and fresh ones on a live WebSocket.

use serde_json::{Value, json};

use crate::support::{Answer, Claims, Received, TestGateway, Ws, now};

/// Soon, and late enough for the client to be connected by then on a busy machine.
const SOON: i64 = 2;

async fn closing_then(ws: &mut Ws, code: u16) {
    let closing = ws.frame("closing").await;
    assert_eq!(closing["code"], code, "{closing}");
    match ws.receive().await {
        Received::Close(got, _) => assert_eq!(got, code),
        other => panic!("expected Close after closing, got {other:?}"),
    }
}

#[tokio::test]
async fn a_websocket_ends_with_closing_and_4004_when_its_token_does() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").expiring_in(SOON);
    let mut ws = gateway.ws_as(&claims, "topics=order:*").await;
    let closing = ws.frame("closing").await;
    assert!(now() >= end_of(&claims), "ended before its token");
    assert_eq!(closing["code"], 4004);
    assert!(closing["reconnectAfterMs"].is_u64(), "{closing}");
    assert!(matches!(ws.receive().await, Received::Close(4004, _)));
}

#[tokio::test]
async fn a_stream_ends_after_closing_when_its_token_does() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").expiring_in(SOON);
    let mut sse = gateway.sse_as(&claims, "topics=order:*").await;
    let last = loop {
        let event = sse.next().await;
        if event.name == "closing" {
            break event;
        }
    };
    assert_eq!(last.json()["code"], 4004);
    let wait = last.json()["reconnectAfterMs"]
        .as_u64()
        .expect("when to come back");
    assert_eq!(last.retry, Some(u128::from(wait)));
    assert!(sse.try_next().await.is_none(), "nothing follows closing");
}

#[tokio::test]
async fn a_waiting_poll_is_answered_401_when_its_token_ends() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=order:1").await;
    let cursor = start["cursor"].as_str().unwrap();
    let claims = Claims::all("alice").expiring_in(SOON);
    let query = format!("topics=order:1&wait=30&cursor={cursor}");
    let (status, answer) = gateway.poll_as(&claims, &query).await;
    assert_eq!((status, &answer["code"]), (401, &json!("token_expired")));
}

#[tokio::test]
async fn a_fresh_token_moves_the_end_of_a_websocket_in_both_directions() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .ws_as(&Claims::all("alice").expiring_in(SOON), "topics=order:*")
        .await;
    let longer = Claims::all("alice").expiring_in(SOON + 2);
    let success = ws.ask(auth(&longer)).await;
    assert_eq!(success["type"], "live", "{success}");
    assert_eq!(ws.next().await["type"], "auth_success");
    closing_then(&mut ws, 4004).await;
    assert!(now() >= end_of(&longer), "ended with its first token");

    let mut ws = gateway.ws("").await;
    ws.send(auth(&Claims::all("alice").expiring_in(SOON))).await;
    ws.frame("auth_success").await;
    closing_then(&mut ws, 4004).await;
}

#[tokio::test]
async fn a_fresh_token_of_somebody_else_is_forbidden_and_a_bad_one_refused() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=order:*").await;
    ws.frame("live").await;
    let wrong_key = Claims::all("alice").signed_with("another-secret-of-more-than-32-bytes");
    for (token, code) in [
        (Claims::all("bob").token(), "forbidden"),
        (
            Claims::all("alice").with("tenant", json!("acme")).token(),
            "forbidden",
        ),
        (wrong_key, "unauthorized"),
        (
            Claims::all("alice").expiring_in(-60).token(),
            "token_expired",
        ),
    ] {
        let error = ws
            .ask(json!({"type": "auth", "token": token, "ref": code}))
            .await;
        assert_eq!(error["type"], "error", "{error}");
        assert_eq!(
            (&error["code"], &error["ref"]),
            (&json!(code), &json!(code))
        );
    }
    let id = gateway.publish("order:1", json!(1)).await;
    assert_eq!(
        ws.event().await["id"],
        json!(id),
        "the connection goes on as before"
    );
}

#[tokio::test]
async fn a_fresh_token_with_fewer_grants_ends_what_it_does_not_grant() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=order:*,invoice:1,chat:**").await;
    ws.frame("live").await;
    let fewer = Claims::new("alice").with("subscribe", json!(["order:*", "chat:1"]));
    ws.send(auth(&fewer)).await;
    ws.frame("auth_success").await;
    let ended = ws.frame("unsubscribed").await;
    let mut topics: Vec<&str> = ended["topics"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    topics.sort_unstable();
    assert_eq!(topics, ["chat:**", "invoice:1"]);
    assert!(ended["reason"].is_string(), "{ended}");
    for topic in ["invoice:1", "chat:1", "chat:2"] {
        gateway.publish(topic, json!(1)).await;
    }
    let id = gateway.publish("order:1", json!(1)).await;
    assert_eq!(
        ws.event().await["id"],
        json!(id),
        "only what is still granted"
    );
    let refused = ws.ask(json!({"type": "publish", "topic": "order:1"})).await;
    assert_eq!(
        refused["code"], "forbidden",
        "the publish grants are gone too"
    );
}

#[tokio::test]
async fn more_grants_of_a_fresh_token_count_at_once() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws_as(&Claims::new("alice"), "").await;
    let subscribe = json!({"type": "subscribe", "topics": ["order:1"]});
    assert_eq!(ws.ask(subscribe.clone()).await["code"], "forbidden");
    ws.send(auth(&Claims::all("alice"))).await;
    ws.frame("auth_success").await;
    assert_eq!(ws.ask(subscribe).await["type"], "subscribed");
}

#[tokio::test]
async fn a_connection_that_came_within_the_leeway_ends_with_it() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").expiring_in(-3);
    let mut ws = gateway.ws_as(&claims, "").await;
    closing_then(&mut ws, 4004).await;
    let again = Ws::connect(&gateway, "", Some(&claims.token()), None).await;
    let answer = again.expect("a handshake").answer().await;
    assert_eq!(answer, Answer::refused(1008, "token_expired"));
}

fn end_of(claims: &Claims) -> i64 {
    claims.0["exp"].as_i64().expect("a number")
}

fn auth(claims: &Claims) -> Value {
    json!({"type": "auth", "token": claims.token()})
}
