//! One publish budget a subject, on `/ws` and `/publish` together.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Budget, Client, batch, event};
use crate::support::{Claims, TestGateway, Ws};

const TEN: &str = "limits.publish_events_per_second = 1\nlimits.publish_burst = 10";

/// Publishes and gives the reply.
async fn publish_by_ws(ws: &mut Ws) -> Value {
    ws.ask(json!({"type": "publish", "topic": "a:1"})).await
}

fn was_accepted(reply: &Value) -> bool {
    if reply["type"] == "published" {
        return true;
    }
    assert_eq!(
        (&reply["type"], &reply["code"]),
        (&json!("error"), &json!("rate_limited")),
        "{reply}"
    );
    assert!(reply["retryAfterMs"].as_u64().is_some_and(|wait| wait > 0));
    false
}

async fn is_accepted_by_ws(ws: &mut Ws) -> bool {
    was_accepted(&publish_by_ws(ws).await)
}

async fn is_accepted_by_http(client: &Client<'_>) -> bool {
    match client.publish(&event("a:1")).await {
        Ok(_) => true,
        Err(refused) => {
            assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
            refused.assert_rate("\"publish\";q=10;w=10");
            false
        }
    }
}

/// How many events there are of `a:1`.
async fn published(gateway: &TestGateway) -> u64 {
    let reader = Claims::all("reader");
    let (_, page) = gateway
        .poll_as(&reader, "topics=a:1&cursor=earliest&max=1000&wait=0")
        .await;
    page["events"].as_array().expect("events").len() as u64
}

#[tokio::test]
async fn what_is_used_up_on_ws_is_used_up_on_publish() {
    let gateway = TestGateway::with(TEN).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let (mut first, mut second) = (gateway.ws("").await, gateway.ws("").await);
    let mut budget = Budget::of(10);
    for _ in 0..40 {
        let was_in = is_accepted_by_ws(&mut first).await;
        budget.take_if(was_in);
    }
    for _ in 0..20 {
        let was_in = is_accepted_by_http(&alice).await;
        budget.take_if(was_in);
        let was_in = is_accepted_by_ws(&mut second).await;
        budget.take_if(was_in);
    }
    budget.assert_used_up();
    assert_eq!(published(&gateway).await, budget.taken);
}

#[tokio::test]
async fn what_is_used_up_on_publish_is_used_up_on_ws() {
    let gateway = TestGateway::with(TEN).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(10);
    for _ in 0..40 {
        let was_in = is_accepted_by_http(&alice).await;
        budget.take_if(was_in);
    }
    // A new connection brings no new budget.
    for _ in 0..5 {
        let mut ws = gateway.ws("").await;
        for _ in 0..5 {
            let was_in = is_accepted_by_ws(&mut ws).await;
            budget.take_if(was_in);
        }
    }
    budget.assert_used_up();
    assert_eq!(published(&gateway).await, budget.taken);
}

#[tokio::test]
async fn hopping_with_every_event_neither_fills_the_budget_up_nor_pays_twice() {
    let gateway = TestGateway::with(TEN).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(10);
    for _ in 0..20 {
        let was_in = is_accepted_by_ws(&mut gateway.ws("").await).await;
        budget.take_if(was_in);
        let was_in = is_accepted_by_http(&alice).await;
        budget.take_if(was_in);
    }
    budget.assert_used_up();
    assert_eq!(published(&gateway).await, budget.taken);
}

#[tokio::test]
async fn a_flood_by_one_subject_leaves_others_their_budgets() {
    let gateway = TestGateway::with(TEN).await;
    let flooder = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(10);
    while is_accepted_by_http(&flooder).await {
        budget.take();
    }
    let neighbours = [
        Claims::all("bob"),
        Claims::all("alice").with("tenant", json!("acme")),
    ];
    for claims in neighbours {
        let neighbour = Client::new(&gateway, &claims);
        let mut ws = gateway.ws_as(&claims, "").await;
        for _ in 0..5 {
            assert!(is_accepted_by_http(&neighbour).await);
            // One a second may have come back; what counts is the neighbour.
            is_accepted_by_http(&flooder).await;
            assert!(is_accepted_by_ws(&mut ws).await);
        }
    }
}

#[tokio::test]
async fn a_batch_costs_its_events_or_nothing() {
    let gateway =
        TestGateway::with("limits.publish_events_per_second = 1\nlimits.publish_burst = 1000")
            .await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    assert!(alice.publish(&batch("a:1", 600)).await.is_ok());
    let refused = alice.publish(&batch("a:1", 600)).await.expect_err("1200");
    assert_eq!((refused.status, refused.code()), (429, "rate_limited"));
    refused.assert_rate("\"publish\";q=1000;w=1000");
    let wait = refused.retry_after_ms();
    assert!((150_000..=200_000).contains(&wait), "{wait}");
    assert!(alice.publish(&batch("a:1", 400)).await.is_ok());
    assert!(alice.publish(&batch("a:1", 100)).await.is_err());
}

#[tokio::test]
async fn a_batch_above_the_burst_is_too_large_and_costs_nothing() {
    let gateway = TestGateway::with(TEN).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    for _ in 0..5 {
        let refused = alice
            .publish(&batch("a:1", 11))
            .await
            .expect_err("11 of 10");
        assert_eq!((refused.status, refused.code()), (413, "too_large"));
        assert!(
            refused.error["message"]
                .as_str()
                .unwrap()
                .contains("10 events")
        );
    }
    assert!(alice.publish(&batch("a:1", 10)).await.is_ok());
}

#[tokio::test]
async fn what_the_log_did_not_take_costs_nothing() {
    let gateway = TestGateway::with(
        "limits.publish_events_per_second = 1\nlimits.publish_burst = 1000\n\
         limits.idempotency_keys_per_subject = 1",
    )
    .await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut ws = gateway.ws("").await;
    let first = json!({"type": "publish", "topic": "a:1", "data": 1, "key": "k"});
    assert_eq!(ws.ask(first).await["type"], "published");
    // The same again on both transports, another body under the key, and a key too many.
    let keyed = |key: &'static str, body: Value| {
        let request = gateway.http.post(gateway.url("/publish"));
        let request = request
            .header("Idempotency-Key", key)
            .body(body.to_string());
        async { alice.send(request).await.map_err(|refused| refused.status) }
    };
    let many = |data: u64| json!(vec![json!({"topic": "a:1", "data": data}); 300]);
    for _ in 0..10 {
        let again = keyed("k", json!({"topic": "a:1", "data": 1})).await;
        let again: Value = again.expect("an answer").json().await.expect("JSON");
        assert_eq!(again["duplicate"], true);
        let again = json!({"type": "publish", "topic": "a:1", "data": 1, "key": "k"});
        assert_eq!(ws.ask(again).await["duplicate"], true);
        assert_eq!(keyed("k", many(2)).await.expect_err("a conflict"), 409);
        assert_eq!(keyed("l", many(3)).await.expect_err("no place"), 429);
    }
    assert!(alice.publish(&batch("a:1", 999)).await.is_ok());
    assert!(alice.publish(&batch("a:1", 100)).await.is_err());
}

#[tokio::test]
async fn a_refused_publisher_may_go_on_when_it_was_told() {
    let gateway =
        TestGateway::with("limits.publish_events_per_second = 1\nlimits.publish_burst = 1").await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut ws = gateway.ws("").await;
    let mut budget = Budget::of(1);
    for _ in 0..3 {
        let refused = loop {
            match alice.publish(&event("a:1")).await {
                Ok(_) => budget.take(),
                Err(refused) => break refused,
            }
        };
        tokio::time::sleep(Duration::from_millis(refused.retry_after_ms())).await;
        assert!(is_accepted_by_ws(&mut ws).await);
        budget.take();
    }
}

#[tokio::test]
async fn whoever_publishes_on_over_the_budget_is_closed_with_1008_and_its_neighbour_is_not() {
    let gateway = TestGateway::with(TEN).await;
    let mut neighbour = gateway.ws_as(&Claims::all("bob"), "topics=a:1").await;
    neighbour.frame("live").await;
    let mut ws = gateway.ws("").await;
    let publish = json!({"type": "publish", "topic": "a:1"});
    for _ in 0..400 {
        if ws.try_send(&publish).await.is_err() {
            break;
        }
    }
    assert_eq!(ws.close_code().await, 1008);
    for _ in 0..10 {
        assert_eq!(neighbour.event().await["topic"], "a:1");
    }
    assert_eq!(neighbour.ask(json!({"type": "ping"})).await["type"], "pong");
    assert!(is_accepted_by_ws(&mut neighbour).await);
}
