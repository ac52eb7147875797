//! Sizes of URLs and tokens, and the number of idempotency keys; other sizes stand beside what
//! they belong to.

use serde_json::{Value, json};

use crate::support::{Answer, Claims, Credentials, Door, Raw, TestGateway, Ws};

/// A request line whose URL has so many bytes.
fn line(door: Door, url_bytes: usize) -> String {
    let method = match door {
        Door::Ws | Door::Events | Door::Poll | Door::Stats => "GET",
        Door::Publish | Door::Ticket => "POST",
    };
    let url = format!("{}?_=", door.path());
    let padding = "a".repeat(url_bytes - url.len());
    format!("{method} {url}{padding}")
}

#[tokio::test]
async fn a_url_may_have_so_many_bytes_and_not_more_at_every_door() {
    let gateway = TestGateway::with("limits.url_bytes = \"500B\"").await;
    for door in Door::ALL.into_iter().filter(|door| *door != Door::Ws) {
        let rest = match door {
            Door::Publish => "Content-Length: 15\r\n\r\n{\"topic\":\"a:1\"}",
            Door::Ticket => "Content-Length: 0\r\n\r\n",
            _ => "\r\n",
        };
        let mut raw = Raw::connect(&gateway).await;
        raw.request(&line(door, 500), rest).await;
        assert_eq!(raw.response_head().await.0, 200, "{door:?}");
        let mut raw = Raw::connect(&gateway).await;
        raw.request(&line(door, 501), rest).await;
        let refused = raw.response().await;
        assert_eq!(refused.status, 413, "{door:?}");
        let error: Value = serde_json::from_str(&refused.body).expect("JSON");
        assert_eq!(error["code"], "too_large");
        assert!(
            error["message"]
                .as_str()
                .expect("a message")
                .contains("500 bytes")
        );
    }
}

#[tokio::test]
async fn a_websocket_with_a_longer_url_is_told_and_closed() {
    let gateway = TestGateway::with("limits.url_bytes = \"500B\"").await;
    let token = Claims::all("alice").token();
    let query = |bytes: usize| format!("_={}", "a".repeat(bytes - "/ws?_=".len()));
    let mut ws = Ws::connect(&gateway, &query(500), Some(&token), None)
        .await
        .expect("the handshake succeeds");
    assert_eq!(ws.answer().await, Answer::LetIn);
    let mut ws = Ws::connect(&gateway, &query(501), Some(&token), None)
        .await
        .expect("the handshake succeeds");
    assert_eq!(ws.answer().await, Answer::refused(1009, "too_large"));
}

#[tokio::test]
async fn a_token_may_have_so_many_bytes_and_not_more_however_it_is_given() {
    let token = Claims::all("alice").token();
    let fits = format!("limits.token_bytes = \"{}B\"", token.len());
    let too_long = format!("limits.token_bytes = \"{}B\"", token.len() - 1);
    let ways = [
        Credentials::bearer(&token),
        Credentials::parameter("token", &token),
        Credentials::parameter("access_token", &token),
    ];
    let first = json!({"type": "auth", "token": token});
    let gateway = TestGateway::with(&fits).await;
    for door in Door::ALL {
        for way in &ways {
            assert_eq!(
                gateway.knock(door, way).await,
                Answer::LetIn,
                "{way:?} at {door:?}"
            );
        }
    }
    let mut ws = connect_bare(&gateway).await;
    assert_eq!(ws.ask(first.clone()).await["type"], "auth_success");
    let gateway = TestGateway::with(&too_long).await;
    for door in Door::ALL {
        for way in &ways {
            let answer = gateway.knock(door, way).await;
            assert_eq!(answer, door.refusal("unauthorized"), "{way:?} at {door:?}");
        }
        let answer = gateway.knock(door, &Credentials::cookie(&token)).await;
        assert_eq!(answer, door.no_credential(), "a cookie at {door:?}");
    }
    let mut ws = connect_bare(&gateway).await;
    ws.send(first).await;
    assert_eq!(ws.answer().await, Answer::refused(4002, "unauthorized"));
}

async fn connect_bare(gateway: &TestGateway) -> Ws {
    let connected = Ws::connect(gateway, "", None, None).await;
    connected.expect("the handshake succeeds")
}

async fn publish_keyed(gateway: &TestGateway, claims: &Claims, key: &str) -> reqwest::Response {
    gateway
        .http
        .post(gateway.url("/publish"))
        .bearer_auth(claims.token())
        .header("Idempotency-Key", key)
        .body(r#"{"topic":"a:1"}"#)
        .send()
        .await
        .expect("an answer")
}

#[tokio::test]
async fn a_subject_with_all_its_idempotency_keys_is_limited_and_others_are_not() {
    let gateway = TestGateway::with("limits.idempotency_keys_per_subject = 3").await;
    let alice = Claims::all("alice");
    let mut ws = gateway.ws_as(&alice, "").await;
    let by_ws = |key: &str| json!({"type": "publish", "topic": "a:1", "key": key});
    for key in ["k0", "k1"] {
        assert_eq!(publish_keyed(&gateway, &alice, key).await.status(), 200);
    }
    assert_eq!(ws.ask(by_ws("k2")).await["type"], "published");
    for number in 0..20 {
        let key = format!("l{number}");
        let refused = publish_keyed(&gateway, &alice, &key).await;
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["retry-after"], "1");
        let error: Value = refused.json().await.expect("JSON");
        assert_eq!(error["code"], "rate_limited");
        assert_eq!(ws.ask(by_ws(&key)).await["code"], "rate_limited");
    }
    // Those that are known are answered, and without a key there is no limit.
    for key in ["k0", "k1", "k2"] {
        let again = publish_keyed(&gateway, &alice, key).await;
        let again: Value = again.json().await.expect("JSON");
        assert_eq!(again["duplicate"], true, "{key}");
    }
    gateway.publish("a:1", Value::Null).await;
    for other in [
        Claims::all("bob"),
        Claims::all("alice").with("tenant", json!("acme")),
    ] {
        for key in ["l0", "l1", "l2"] {
            assert_eq!(publish_keyed(&gateway, &other, key).await.status(), 200);
        }
        assert_eq!(publish_keyed(&gateway, &other, "l3").await.status(), 429);
    }
}
