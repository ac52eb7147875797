//! `auth` as the first message of `/ws`.

use std::time::{Duration, Instant};

use serde_json::json;

use tokio_tungstenite::tungstenite::Message;

use crate::support::{Answer, Claims, TestGateway, Ws};

async fn stranger(gateway: &TestGateway, query: &str) -> Ws {
    Ws::connect(gateway, query, None, None)
        .await
        .expect("a handshake")
}

#[tokio::test]
async fn a_token_as_the_first_message_opens_the_connection_with_what_its_url_asks_for() {
    let gateway = TestGateway::start().await;
    let mut ws = stranger(&gateway, "topics=order:*").await;
    let claims = Claims::all("alice");
    let success = ws
        .ask(json!({"type": "auth", "token": claims.token(), "ref": 7}))
        .await;
    assert_eq!(success["type"], "auth_success");
    assert_eq!(success["userId"], "alice");
    assert_eq!(success["ref"], 7);
    let expires: jiff::Timestamp = success["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(json!(expires.as_second()), claims.0["exp"]);
    let connected = ws.frame("connected").await;
    assert_eq!(connected["userId"], "alice");
    let id = gateway.publish("order:1", json!(1)).await;
    assert_eq!(ws.event().await["id"], json!(id));
}

#[tokio::test]
async fn a_bad_token_as_the_first_message_is_told_and_closed_with_4002() {
    let gateway = TestGateway::start().await;
    let wrong_key = Claims::all("alice").signed_with("another-secret-of-more-than-32-bytes");
    let expired = Claims::all("alice").expiring_in(-60).token();
    for (token, code) in [
        (wrong_key.as_str(), "unauthorized"),
        ("", "unauthorized"),
        ("a.b.c", "unauthorized"),
        (expired.as_str(), "token_expired"),
    ] {
        let mut ws = stranger(&gateway, "").await;
        ws.send(json!({"type": "auth", "token": token})).await;
        assert_eq!(ws.answer().await, Answer::refused(4002, code));
    }
}

#[tokio::test]
async fn an_auth_message_without_a_readable_token_is_a_bad_token() {
    let gateway = TestGateway::start().await;
    for text in [
        r#"{"type":"auth"}"#,
        r#"{"type":"auth","token":5}"#,
        r#"{"type":"auth","token":"x","extra":1}"#,
    ] {
        let mut ws = stranger(&gateway, "").await;
        ws.send_text(text).await;
        assert_eq!(
            ws.answer().await,
            Answer::refused(4002, "unauthorized"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn any_other_first_message_is_told_and_closed_with_4003() {
    let gateway = TestGateway::start().await;
    for text in [
        r#"{"type":"ping"}"#,
        r#"{"type":"subscribe","topics":["order:1"]}"#,
        r#"{"type":"publish","topic":"order:1"}"#,
        r#"{"type":"nonsense"}"#,
        "not json",
        "",
        "[]",
    ] {
        let mut ws = stranger(&gateway, "").await;
        ws.send_text(text).await;
        assert_eq!(
            ws.answer().await,
            Answer::refused(4003, "unauthorized"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn messagepack_that_is_none_is_another_first_message_too() {
    let gateway = TestGateway::start().await;
    let mut ws = Ws::connect(&gateway, "", None, Some("tribus.msgpack.v1"))
        .await
        .unwrap();
    ws.send_message(Message::binary(vec![0xc1])).await;
    assert_eq!(ws.answer().await, Answer::refused(4003, "unauthorized"));
}

#[tokio::test]
async fn nothing_of_the_url_is_told_before_the_token_is_known() {
    let gateway = TestGateway::start().await;
    let mut ws = stranger(&gateway, "topics=%20&cursor=!").await;
    ws.send(json!({"type": "auth", "token": Claims::all("alice").token()}))
        .await;
    assert_eq!(ws.next().await["type"], "auth_success");
    assert_eq!(ws.next().await["type"], "error");
    assert_eq!(ws.next().await["type"], "connected");
}

#[tokio::test]
async fn a_client_that_does_not_say_who_it_is_is_closed_with_4001_after_five_seconds() {
    let gateway = TestGateway::start().await;
    let mut ws = stranger(&gateway, "topics=order:1").await;
    let since = Instant::now();
    // A Ping is no message, and buys no time.
    ws.send_message(Message::Ping("x".into())).await;
    assert_eq!(ws.answer().await, Answer::refused(4001, "unauthorized"));
    assert!(
        since.elapsed() > Duration::from_secs(4),
        "{:?}",
        since.elapsed()
    );
}
