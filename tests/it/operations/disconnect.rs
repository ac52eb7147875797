//! `POST /admin/disconnect`: what it answers, and for how long tokens are refused.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{Answer, Claims, Credentials, Door, TestGateway, now};

const DAY: i64 = 24 * 3600;

fn refused_until(answer: &Value) -> Timestamp {
    let until = answer["refusedUntil"].as_str().expect("a time");
    until.parse().expect("RFC 3339")
}

/// Asserts that tokens are refused for so many seconds, but for what the test itself took.
fn assert_refused_for(answer: &Value, seconds: i64) {
    let left = refused_until(answer).as_second() - now();
    assert!(
        (seconds - 60..=seconds + 1).contains(&left),
        "{left} s, not {seconds} s: {answer}"
    );
}

#[tokio::test]
async fn it_tells_how_many_connections_it_ended_on_all_workers() {
    let gateway = TestGateway::start().await;
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(gateway.ws("topics=a:1").await);
    }
    let sse = gateway.sse("topics=a:1").await;
    let mut other = gateway.ws_as(&Claims::all("bob"), "").await;
    let answer = gateway.revoke(json!({"sub": "alice"})).await;
    assert_eq!(answer["disconnected"], 6);
    assert_refused_for(&answer, DAY);
    assert_eq!(answer.get("silentWorkers"), None);
    for ws in &mut open {
        assert_eq!(ws.close_code().await, 4005);
    }
    assert_eq!(other.ask(json!({"type": "ping"})).await["type"], "pong");
    let answer = gateway.revoke(json!({"sub": "nobody"})).await;
    assert_eq!(answer["disconnected"], 0);
    drop(sse);
}

#[tokio::test]
async fn a_token_that_lives_longer_than_a_day_is_refused_until_it_expires() {
    let gateway = TestGateway::start().await;
    let month = Claims::all("alice")
        .expiring_in(30 * DAY)
        .with("jti", json!("a1"));
    let mut ws = gateway.ws_as(&month, "").await;
    let short = Claims::all("alice").with("jti", json!("a2"));
    let mut other = gateway.ws_as(&short, "").await;
    let answer = gateway.revoke(json!({"jti": "a1"})).await;
    assert_eq!(answer["disconnected"], 1);
    // With the leeway that a presented token has.
    assert_refused_for(&answer, 30 * DAY + 5);
    assert_eq!(ws.close_code().await, 4005);
    assert_eq!(other.ask(json!({"type": "ping"})).await["type"], "pong");
    let answer = gateway.revoke(json!({"sub": "alice"})).await;
    assert_eq!(answer["disconnected"], 1);
    assert_refused_for(&answer, DAY);
}

#[tokio::test]
async fn a_token_that_is_not_connected_is_refused_until_it_expires_once_it_was_seen() {
    let gateway = TestGateway::start().await;
    let month = Claims::all("alice")
        .expiring_in(30 * DAY)
        .with("jti", json!("a1"));
    let answer = gateway.revoke(json!({"jti": "a1"})).await;
    assert_refused_for(&answer, DAY);
    let refused = gateway
        .knock(Door::Poll, &Credentials::bearer(&month.token()))
        .await;
    assert_eq!(refused, Answer::refused(401, "revoked"));
    // A revocation is never shortened, so asking for a moment tells how long it holds.
    let answer = gateway.revoke(json!({"jti": "a1", "for": "1s"})).await;
    assert_refused_for(&answer, 30 * DAY + 5);
}

#[tokio::test]
async fn the_operator_may_say_how_long() {
    let gateway = TestGateway::start().await;
    let until = Timestamp::now() + SignedDuration::from_hours(48);
    for (number, (time, seconds)) in [
        (json!({"for": "2h"}), 2 * 3600),
        (json!({"for": "90d"}), 90 * DAY),
        (json!({"until": until.to_string()}), 2 * DAY),
    ]
    .into_iter()
    .enumerate()
    {
        for who in [
            json!({"jti": format!("t{number}")}),
            json!({"sub": format!("s{number}"), "tenant": "acme"}),
        ] {
            let mut body = who;
            for (key, value) in time.as_object().unwrap() {
                body[key] = value.clone();
            }
            assert_refused_for(&gateway.revoke(body).await, seconds);
        }
    }
}

#[tokio::test]
async fn access_that_was_ended_for_a_moment_comes_back() {
    let gateway = TestGateway::start().await;
    let alice = Claims::all("alice").with("jti", json!("a1"));
    let mut ws = gateway.ws_as(&alice, "").await;
    gateway.revoke(json!({"jti": "a1", "for": "300ms"})).await;
    assert_eq!(ws.close_code().await, 4005);
    let back = async {
        let credentials = Credentials::bearer(&alice.token());
        while gateway.knock(Door::Poll, &credentials).await != Answer::LetIn {}
    };
    crate::support::within("access again", back).await;
}

#[tokio::test]
async fn a_time_that_makes_no_sense_is_refused_and_nobody_is_put_out() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for body in [
        json!({"sub": "alice", "for": "soon"}),
        json!({"sub": "alice", "for": 7}),
        json!({"sub": "alice", "for": "0s"}),
        json!({"sub": "alice", "until": "tomorrow"}),
        json!({"sub": "alice", "until": "2020-01-01T00:00:00Z"}),
        json!({"sub": "alice", "for": "1h", "until": "2100-01-01T00:00:00Z"}),
    ] {
        let request = gateway.http.post(gateway.admin_url("/admin/disconnect"));
        let answer = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        let error: Value = answer.json().await.unwrap();
        assert_eq!(error["code"], "bad_request", "{body}");
    }
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}
