//! One connect budget a subject, on `/ws`, `/events` and `/poll` together.

use std::time::Duration;

use serde_json::json;

use super::{Budget, Client, Held, Visit};
use crate::support::{Claims, TRANSPORTS, TestGateway, Transport};

const SIX: &str = "limits.connects_per_second = 1\nlimits.connect_burst = 6";

#[tokio::test]
async fn all_transports_spend_one_budget() {
    let gateway = TestGateway::with(SIX).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(6);
    // The first poll of a series is a connect; the others go on with it.
    alice.must_enter(Transport::Poll, "").await;
    budget.take();
    for turn in 0..20 {
        let transport = [Transport::Ws, Transport::Sse][turn % 2];
        match alice.visit(transport, "").await {
            Visit::In(held) => {
                budget.take();
                held.leave().await;
            }
            Visit::Out(refused) => {
                refused.assert(transport, "rate_limited");
                if transport == Transport::Sse {
                    refused.assert_rate("\"connect\";q=6;w=6");
                }
            }
        }
    }
    budget.assert_used_up();
}

#[tokio::test]
async fn each_transport_refuses_once_another_has_spent_the_budget() {
    let gateway =
        TestGateway::with("limits.connects_per_second = 1\nlimits.connect_burst = 1").await;
    let mut subject = 0;
    for spender in TRANSPORTS {
        for transport in TRANSPORTS {
            // A poll goes on with the series before it.
            if (spender, transport) == (Transport::Poll, Transport::Poll) {
                continue;
            }
            // Where a second has passed there is one more, so another subject tries again.
            let refused = loop {
                subject += 1;
                assert!(subject < 200, "there is no limit");
                let claims = Claims::all(&format!("subject-{subject}"));
                let client = Client::new(&gateway, &claims);
                let _spent = client.must_enter(spender, "").await;
                if let Visit::Out(refused) = client.visit(transport, "").await {
                    break refused;
                }
            };
            refused.assert(transport, "rate_limited");
            if transport != Transport::Ws {
                refused.assert_rate("\"connect\";q=1;w=1");
            }
        }
    }
}

#[tokio::test]
async fn a_series_of_polls_is_one_connect_however_many_there_are() {
    let gateway = TestGateway::with(SIX).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(6);
    let mut cursor = gateway.publish("a:1", json!(0)).await;
    budget.take();
    for number in 1..100 {
        let query = format!("topics=a:1&cursor={cursor}&wait=20");
        cursor = gateway.publish("a:1", json!(number)).await;
        alice.must_enter(Transport::Poll, &query).await;
    }
    while let Visit::In(held) = alice.visit(Transport::Ws, "").await {
        held.leave().await;
        budget.take();
    }
    budget.assert_used_up();
    // And the series goes on although the budget is spent.
    for _ in 0..20 {
        alice.must_enter(Transport::Poll, "topics=a:1").await;
    }
}

#[tokio::test]
async fn others_connect_while_one_subject_has_spent_its_budget() {
    let gateway = TestGateway::with(SIX).await;
    let flooder = Client::new(&gateway, &Claims::all("alice"));
    for claims in [
        Claims::all("bob"),
        Claims::all("alice").with("tenant", json!("acme")),
    ] {
        for _ in 0..20 {
            flooder.visit(Transport::Ws, "").await;
            flooder.visit(Transport::Sse, "").await;
        }
        let neighbour = Client::new(&gateway, &claims);
        for transport in TRANSPORTS {
            neighbour.must_enter(transport, "").await;
        }
    }
}

#[tokio::test]
async fn publishing_and_tickets_are_no_connects() {
    let gateway = TestGateway::with(SIX).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(6);
    for _ in 0..20 {
        alice
            .publish(&json!({"topic": "a:1"}))
            .await
            .expect("published");
        gateway.ticket(&Claims::all("alice"), "once").await;
    }
    while let Visit::In(_) = alice.visit(Transport::Sse, "").await {
        budget.take();
    }
    budget.assert_used_up();
}

#[tokio::test]
async fn a_refused_client_may_connect_when_it_was_told() {
    let gateway =
        TestGateway::with("limits.connects_per_second = 1\nlimits.connect_burst = 1").await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let mut budget = Budget::of(1);
    for transport in [Transport::Ws, Transport::Sse] {
        for _ in 0..2 {
            let refused = loop {
                match alice.visit(transport, "").await {
                    Visit::In(_) => budget.take(),
                    Visit::Out(refused) => break refused,
                }
            };
            tokio::time::sleep(Duration::from_millis(refused.retry_after_ms())).await;
            alice.must_enter(transport, "").await;
            budget.take();
        }
    }
}

#[tokio::test]
async fn a_native_event_source_is_told_in_a_stream_when_to_come_back() {
    let gateway = TestGateway::with("limits.connections_per_subject = 1").await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let _held = alice.must_enter(Transport::Ws, "").await;
    assert_closing(&gateway, &Claims::all("alice"), 5000).await;
}

/// The stream says `closing` and ends, with this `retry`.
async fn assert_closing(gateway: &TestGateway, claims: &Claims, retry: u128) {
    let response = gateway.get("/events", "topics=a:1&native=1", claims).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut sse = crate::support::Sse::new(response);
    let closing = sse.next().await;
    assert_eq!(
        (closing.name.as_str(), closing.retry),
        ("closing", Some(retry))
    );
    assert_eq!(closing.json()["code"], 1013);
    assert_eq!(closing.json()["reconnectAfterMs"], retry as u64);
    assert!(sse.try_next().await.is_none());
}

#[tokio::test]
async fn a_refused_stream_holds_nothing() {
    let gateway = TestGateway::with(
        "limits.connects_per_second = 1\nlimits.connect_burst = 1\nlimits.connections = 10",
    )
    .await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let _held: Held = alice.must_enter(Transport::Ws, "").await;
    for _ in 0..10 {
        for transport in TRANSPORTS {
            let visit = alice.visit(transport, "").await;
            if let Visit::Out(refused) = visit {
                refused.assert(transport, "rate_limited");
            }
        }
    }
    let bob = Client::new(&gateway, &Claims::all("bob"));
    bob.must_enter(Transport::Ws, "").await;
}
