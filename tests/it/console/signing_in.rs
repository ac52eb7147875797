//! With a link, with a pasted token, and out again.

use serde_json::{Value, json};

use super::{Console, STATE};
use crate::support::{Claims, TestGateway};

#[tokio::test]
async fn a_link_signs_in_for_this_tab_and_leaves_no_token_in_the_address() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let address = console.drive("return page.url();", Value::Null).await;
    assert_eq!(address, json!(gateway.url("/")));
    assert!(console.text("#holder-name").await.starts_with("alice"));

    console.drive("await page.reload();", Value::Null).await;
    console.reads(STATE, "Live over WebSocket").await;

    console.click("#forget").await;
    assert!(is_signed_out(&console).await);
    console.drive("await page.reload();", Value::Null).await;
    assert!(is_signed_out(&console).await, "it was forgotten");
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn a_pasted_token_signs_in_and_what_is_no_token_is_told_at_once() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    console.reads("#token-problem", "Paste a token first").await;
    console.fill("#token", "not a token").await;
    console.click("#sign-in button").await;
    console
        .reads("#token-problem", "three parts of letters")
        .await;
    let token = Claims::all("bob").token();
    for pasted in [
        token.clone(),
        // What the gateway prints, and what curl sends.
        format!("  export TRIBUS_TOKEN={token}"),
        format!("http://127.0.0.1:8080/#token={token}"),
        format!("Authorization: Bearer {token}"),
    ] {
        console.fill("#token", &pasted).await;
        console.click("#sign-in button").await;
        console.reads(STATE, "Live over WebSocket").await;
        assert_eq!(console.text("#token-problem").await, "");
        assert!(console.text("#holder-name").await.starts_with("bob"));
        console.click("#forget").await;
    }
}

#[tokio::test]
async fn a_token_that_the_gateway_refuses_is_told_and_forgotten() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice");
    let forged = claims.signed_with("another secret, of as many bytes as it needs");
    let expired = claims.expiring_in(-60).token();
    for (token, title) in [
        (forged, "The gateway refused the token"),
        (expired, "The token has expired"),
    ] {
        let console = Console::open_with(&gateway, &token).await;
        console.reads("#banner", title).await;
        assert!(is_signed_out(&console).await);
        let kept = console
            .drive(
                "return page.evaluate('sessionStorage.getItem(\"tribus.token\")');",
                Value::Null,
            )
            .await;
        assert_eq!(kept, Value::Null);
        let focused = console
            .drive(
                "return page.evaluate('document.activeElement.id');",
                Value::Null,
            )
            .await;
        assert_eq!(focused, "token", "ready for another one");
    }
}

#[tokio::test]
async fn a_client_that_is_revoked_is_shown_out() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let disconnected = gateway
        .http
        .post(gateway.admin_url("/admin/disconnect"))
        .body(r#"{"sub":"alice"}"#)
        .send()
        .await
        .expect("an answer");
    assert_eq!(disconnected.status(), 200);
    console
        .reads("#banner", "The gateway refused the token")
        .await;
    assert!(is_signed_out(&console).await);
}

/// No subscription is there to be told.
#[tokio::test]
async fn a_client_that_ends_while_it_follows_nothing_is_shown_out() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.fill("#topics", "no good").await;
    console.click("#follow button").await;
    console.reads("#banner", "refused the topics").await;
    gateway.revoke(json!({"sub": "alice"})).await;
    console.reads("#banner", "The client has ended").await;
    console.reads("#banner", "Revoked").await;
    assert!(is_signed_out(&console).await);
}

#[tokio::test]
async fn a_series_ends_when_its_publisher_signs_out() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#series").await;
    console.reads("#published", "1 of 10").await;
    console.click("#forget").await;
    let is_over = "await page.waitForFunction(() => !document.querySelector('#series').disabled);";
    console.drive(is_over, Value::Null).await;
    let page = gateway
        .get(
            "/poll",
            "topics=**&cursor=earliest",
            &Claims::all("backend"),
        )
        .await;
    let page: Value = page.json().await.expect("JSON");
    let events = page["events"].as_array().expect("events").len();
    assert!((1..5).contains(&events), "{events} published");
    assert_eq!(console.text("#published").await, "");
}

#[tokio::test]
async fn a_diagnosis_is_not_shown_to_who_signs_in_meanwhile() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#refuse").await;
    console.click("#hold").await;
    console.click("#diagnose").await;
    console.reads("#diagnosis", "Trying each transport").await;
    let other = "await page.evaluate((hash) => { location.hash = hash; }, args);";
    let link = format!("token={}", Claims::all("bob").token());
    console.drive(other, json!(link)).await;
    console.reads("#holder-name", "bob").await;
    let is_over = "
        await page.waitForFunction(() => !document.querySelector('#diagnose').disabled);
        return page.isHidden('#diagnosis');";
    assert_eq!(console.drive(is_over, Value::Null).await, json!(true));
}

async fn is_signed_out(console: &Console) -> bool {
    let body = "return await page.isVisible('#sign-in') && !await page.isVisible('#connection');";
    console.drive(body, Value::Null).await == json!(true)
}
