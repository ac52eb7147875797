//! The `limits` claim: a token that widens or tightens its subject's limits.

use serde_json::{Value, json};

use super::{Budget, Client, Visit, batch};
use crate::support::{Answer, Claims, Credentials, Door, TRANSPORTS, TestGateway, Transport};

fn with(limits: Value) -> Claims {
    Claims::all("alice").with("limits", limits)
}

const TIGHT: &str = "limits.publish_events_per_second = 1\nlimits.publish_burst = 2\n\
                     limits.connects_per_second = 1\nlimits.connect_burst = 2\n\
                     limits.connections_per_subject = 2\nlimits.polls_per_subject = 1";

#[tokio::test]
async fn a_claim_tightens_what_the_configuration_leaves_open() {
    let gateway = TestGateway::start().await;
    let claims = with(json!({"publish_events_per_second": 1, "publish_burst": 5,
        "connects_per_second": 1, "connect_burst": 4}));
    let alice = Client::new(&gateway, &claims);
    let mut publishes = Budget::of(5);
    while alice.publish(&json!({"topic": "a:1"})).await.is_ok() {
        publishes.take();
    }
    publishes.assert_used_up();
    let mut connects = Budget::of(4);
    let mut held = Vec::new();
    let refused = loop {
        match alice.visit(Transport::Sse, "").await {
            Visit::In(stream) => {
                connects.take();
                held.push(stream);
            }
            Visit::Out(refused) => break refused,
        }
    };
    refused.assert(Transport::Sse, "rate_limited");
    refused.assert_rate("\"connect\";q=4;w=4");
    connects.assert_used_up();
}

#[tokio::test]
async fn a_rate_alone_is_its_own_burst() {
    let gateway = TestGateway::start().await;
    let alice = Client::new(&gateway, &with(json!({"publish_events_per_second": 7})));
    let refused = alice.publish(&batch("a:1", 8)).await.expect_err("8 of 7");
    assert_eq!((refused.status, refused.code()), (413, "too_large"));
    assert!(alice.publish(&batch("a:1", 7)).await.is_ok());
}

#[tokio::test]
async fn a_claim_widens_what_the_configuration_tightens() {
    let gateway = TestGateway::with(TIGHT).await;
    let claims = with(
        json!({"publish_events_per_second": 1000, "publish_burst": 1000,
        "connects_per_second": 1000, "connect_burst": 1000,
        "connections_per_subject": 1000, "polls_per_subject": 1000}),
    );
    let alice = Client::new(&gateway, &claims);
    assert!(alice.publish(&batch("a:1", 1000)).await.is_ok());
    let mut held = Vec::new();
    for _ in 0..10 {
        for transport in TRANSPORTS {
            held.push(alice.must_enter(transport, "").await);
        }
    }
    let bob = Client::new(&gateway, &Claims::all("bob"));
    let refused = bob.publish(&batch("a:1", 3)).await.expect_err("3 of 2");
    assert_eq!(refused.status, 413);
}

#[tokio::test]
async fn what_a_claim_leaves_out_is_as_configured() {
    let gateway = TestGateway::with(TIGHT).await;
    let alice = Client::new(&gateway, &with(json!({"connect_burst": 100})));
    let _held = [
        alice.must_enter(Transport::Ws, "").await,
        alice.must_enter(Transport::Sse, "").await,
    ];
    for transport in TRANSPORTS {
        let refused = alice.must_be_refused(transport, "").await;
        refused.assert(transport, "too_many_connections");
    }
}

#[tokio::test]
async fn a_refresh_in_band_brings_other_limits_and_no_new_budget() {
    let gateway = TestGateway::start().await;
    let tight = with(json!({"publish_events_per_second": 1, "publish_burst": 60}));
    let wide = with(json!({"publish_events_per_second": 1, "publish_burst": 100}));
    let alice = Client::new(&gateway, &tight);
    let mut ws = gateway.ws_as(&tight, "").await;
    let publish = json!({"type": "publish", "topic": "a:1"});
    let mut budget = Budget::of(100);
    assert!(alice.publish(&batch("a:1", 60)).await.is_ok());
    (0..60).for_each(|_| budget.take());
    while ws.ask(publish.clone()).await["type"] == "published" {
        budget.take();
    }
    let token = wide.token();
    let reply = ws.ask(json!({"type": "auth", "token": token})).await;
    assert_eq!(reply["type"], "auth_success");
    while ws.ask(publish.clone()).await["type"] == "published" {
        budget.take();
    }
    budget.assert_used_up();
    let refused = alice.publish(&json!({"topic": "a:1"})).await;
    let wait = refused.expect_err("tight again").retry_after_ms();
    assert!(wait > 30_000, "{wait}");
}

#[tokio::test]
async fn a_malformed_claim_makes_the_token_bad_at_every_door() {
    let gateway = TestGateway::start().await;
    let malformed = [
        json!(null),
        json!(true),
        json!(100),
        json!("publish_burst"),
        json!([]),
        json!([1, 1, 1, 1, 1, 1]),
        json!({"publish_bursts": 10}),
        json!({"PUBLISH_BURST": 10}),
        json!({"publish_burst": 10, "messages_per_second": 10}),
        json!({"publish_burst": 0}),
        json!({"publish_events_per_second": 0}),
        json!({"connects_per_second": 0}),
        json!({"connect_burst": 0}),
        json!({"connections_per_subject": 0}),
        json!({"polls_per_subject": 0}),
        json!({"publish_burst": -1}),
        json!({"publish_burst": 1.5}),
        json!({"publish_burst": "10"}),
        json!({"publish_burst": null}),
        json!({"publish_burst": [10]}),
        json!({"publish_burst": 4_294_967_296_u64}),
    ];
    for claim in malformed {
        let token = with(claim.clone()).token();
        for door in Door::ALL {
            let answer = gateway.knock(door, &Credentials::bearer(&token)).await;
            assert_eq!(answer, door.refusal("unauthorized"), "{claim} at {door:?}");
        }
    }
    for claim in [json!({}), json!({"publish_burst": 4_294_967_295_u64})] {
        let token = with(claim.clone()).token();
        for door in Door::ALL {
            let answer = gateway.knock(door, &Credentials::bearer(&token)).await;
            assert_eq!(answer, Answer::LetIn, "{claim} at {door:?}");
        }
    }
}

#[tokio::test]
async fn a_malformed_claim_in_band_is_refused_and_the_old_limits_stay() {
    let gateway = TestGateway::start().await;
    let tight = with(json!({"publish_events_per_second": 1, "publish_burst": 3}));
    let mut ws = gateway.ws_as(&tight, "").await;
    let bad = with(json!({"publish_burst": 0})).token();
    let refused = ws.ask(json!({"type": "auth", "token": bad})).await;
    assert_eq!(refused["code"], "unauthorized", "{refused}");
    let alice = Client::new(&gateway, &tight);
    let refused = alice.publish(&batch("a:1", 4)).await.expect_err("4 of 3");
    assert_eq!(refused.status, 413);
    let mut budget = Budget::of(3);
    let publish = json!({"type": "publish", "topic": "a:1"});
    while ws.ask(publish.clone()).await["type"] == "published" {
        budget.take();
    }
    budget.assert_used_up();
}
