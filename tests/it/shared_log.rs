//! Several gateways on one log, in each of the servers that they can share.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Claims, Relay, SharedLog, TRANSPORTS, TestGateway, replay};

#[tokio::test]
async fn what_is_published_at_one_node_is_received_at_the_other() {
    for log in SharedLog::of_each_engine().await {
        let a = log.gateway().await;
        let b = log.gateway().await;
        let mut ws = b.ws("topics=x").await;
        let mut sse = b.sse("topics=x").await;
        let (_, start) = b.poll("topics=x").await;
        let mut cursor = start["cursor"].as_str().expect("a cursor").to_owned();
        for number in 0..50 {
            let id = a.publish("x", json!(number)).await;
            assert_eq!(ws.event().await["id"], json!(id));
            assert_eq!(sse.event().await["data"], json!(number));
            let (_, page) = b.poll(&format!("topics=x&cursor={cursor}")).await;
            assert_eq!(page["events"][0]["id"], json!(id));
            page["cursor"]
                .as_str()
                .expect("a cursor")
                .clone_into(&mut cursor);
        }
    }
}

#[tokio::test]
async fn an_ephemeral_event_reaches_those_who_are_at_other_nodes_and_is_not_replayed() {
    for log in SharedLog::of_each_engine().await {
        let a = log.gateway().await;
        let b = log.gateway().await;
        let mut ws = b.ws("topics=x").await;
        let (status, answer) = a.post(r#"{"topic":"x","ephemeral":true}"#).await;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(ws.event().await["id"], answer["id"]);
        let kept = a.publish("x", json!(1)).await;
        for node in [a, b, log.gateway().await] {
            let there = replay(&node, TRANSPORTS[0], "topics=x&cursor=earliest").await;
            let ids: Vec<_> = there.iter().map(|event| &event["id"]).collect();
            assert_eq!(ids, [&json!(kept)]);
        }
    }
}

#[tokio::test]
async fn a_cursor_of_one_node_is_good_at_another_on_every_transport() {
    for log in SharedLog::of_each_engine().await {
        let a = log.gateway().await;
        let b = log.gateway().await;
        let mut ids = Vec::new();
        for number in 0..40 {
            ids.push(json!(a.publish("x", json!(number)).await));
        }
        // One that starts now has only what the server has kept.
        let late = log.gateway().await;
        for node in [&a, &b, &late] {
            for transport in TRANSPORTS {
                let cursor = ids[9].as_str().expect("an id");
                let events = replay(node, transport, &format!("topics=x&cursor={cursor}")).await;
                let got: Vec<&Value> = events.iter().map(|event| &event["id"]).collect();
                assert_eq!(got, ids[10..].iter().collect::<Vec<_>>(), "{transport:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_that_was_used_at_one_node_is_known_at_the_other() {
    for log in SharedLog::of_each_engine().await {
        let nodes = [log.gateway().await, log.gateway().await];
        let (status, first) =
            post_with_key(&nodes[0], "k", r#"[{"topic":"x"},{"topic":"y"}]"#).await;
        assert_eq!(status, 200, "{first}");
        assert_eq!(first["duplicate"], Value::Null);
        for node in &nodes {
            let (status, again) =
                post_with_key(node, "k", r#"[{"topic":"x"},{"topic":"y"}]"#).await;
            assert_eq!((status, &again["ids"]), (200, &first["ids"]));
            assert_eq!(again["duplicate"], json!(true));
            let (status, other) = post_with_key(node, "k", r#"{"topic":"x"}"#).await;
            assert_eq!((status, &other["code"]), (409, &json!("conflict")));
        }
        let there = replay(&nodes[1], TRANSPORTS[0], "topics=**&cursor=earliest").await;
        assert_eq!(there.len(), 2);
    }
}

async fn post_with_key(node: &TestGateway, key: &str, body: &str) -> (u16, Value) {
    let request = node.http.post(node.url("/publish")).body(body.to_owned());
    let request = request.bearer_auth(Claims::all("backend").token());
    let answer = request.header("Idempotency-Key", key).send().await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test]
async fn a_node_that_starts_under_traffic_has_all_of_it() {
    for log in SharedLog::of_each_engine().await {
        let a = log.gateway().await;
        let mut ids: Vec<Value> = Vec::new();
        for _ in 0..3 {
            let (started, mut while_starting) = tokio::join!(log.gateway(), async {
                let mut ids = Vec::new();
                for number in 0..60 {
                    ids.push(json!(a.publish("x", json!(number)).await));
                }
                ids
            });
            ids.append(&mut while_starting);
            // It may be a moment behind the other one; who comes with a cursor waits for it.
            let last = ids.last().and_then(Value::as_str).expect("an id");
            replay(&started, TRANSPORTS[0], &format!("topics=x&cursor={last}")).await;
            let there = replay(&started, TRANSPORTS[0], "topics=x&cursor=earliest").await;
            let got: Vec<&Value> = there.iter().map(|event| &event["id"]).collect();
            assert_eq!(got, ids.iter().collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_client_that_is_ahead_of_its_new_node_waits_for_it_and_is_not_reset() {
    for log in SharedLog::of_each_engine().await {
        let relay = Relay::to(log.server).await;
        let a = log.gateway().await;
        let late = log.gateway_with(relay.address, "").await;
        relay.delay(Duration::from_millis(500));
        for transport in TRANSPORTS {
            let id = a.publish("x", json!("ahead")).await;
            let events = replay(&late, transport, &format!("topics=x&cursor={id}")).await;
            assert_eq!(events, [] as [Value; 0]);
            let (status, page) = late.poll(&format!("topics=x&cursor={id}&wait=0")).await;
            assert_eq!(status, 200, "{page}");
        }
    }
}

#[tokio::test]
async fn a_cursor_that_no_node_gave_is_a_reset_at_all_of_them() {
    for log in SharedLog::of_each_engine().await {
        let a = log.gateway().await;
        let id = a.publish("x", json!(1)).await;
        let b = log.gateway().await;
        let name = id.split_once('-').expect("LOG-SEQUENCE").0;
        // Far ahead, for what nodes tell each other has positions too.
        for cursor in [
            format!("{name}-1000000000"),
            format!("{id}.c"),
            "other-1".to_owned(),
        ] {
            for node in [&a, &b] {
                let (status, page) = node.poll(&format!("topics=x&cursor={cursor}")).await;
                assert_eq!((status, &page["reason"]), (410, &json!("unknown_log")));
            }
        }
    }
}

/// What one node lets go of is gone for the other, which says so.
#[tokio::test]
async fn retention_of_one_node_holds_for_all() {
    for log in SharedLog::of_each_engine().await {
        let wide = log.gateway().await;
        let narrow = log.gateway_with(log.server, "retention.events = 16").await;
        let quiet = wide.publish("quiet", json!(1)).await;
        let first = wide.publish("x", json!(0)).await;
        for number in 0..400 {
            wide.publish("x", json!(number)).await;
        }
        narrow
            .scrape_until("the node to retain 16", |scrape| {
                scrape.value("tribus_retained_events") <= 16.0
            })
            .await;
        let mut nodes = vec![narrow];
        // In NATS what is let go of stays for ten minutes, for its keys, and other nodes may use it.
        if log.engine == "redis" {
            wide.scrape_until("the other node to follow", |scrape| {
                scrape.value("tribus_retained_events") < 400.0
            })
            .await;
            nodes.extend([wide, log.gateway().await]);
        }
        for node in nodes {
            let (status, page) = node.poll(&format!("topics=x&cursor={first}&wait=0")).await;
            assert_eq!(
                (status, &page["reason"]),
                (410, &json!("expired")),
                "{page}"
            );
            // Of this topic nothing was missed.
            let (status, page) = node
                .poll(&format!("topics=quiet&cursor={quiet}&wait=0"))
                .await;
            assert_eq!(status, 200, "{page}");
        }
    }
}

/// An old event keeps all that comes after it in the log, which must not be without a bound.
#[tokio::test]
async fn what_is_not_retained_does_not_pile_up_behind_an_old_event() {
    for log in SharedLog::of_each_engine().await {
        let node = log.gateway_with(log.server, "retention.events = 10").await;
        let old = node.publish("x", json!(1)).await;
        for _ in 0..15 {
            let (status, _) = node.post(r#"{"topic":"y","ephemeral":true}"#).await;
            assert_eq!(status, 200);
        }
        let (status, _) = node.poll(&format!("topics=x&cursor={old}&wait=0")).await;
        assert_eq!(status, 200);
        assert_eq!(node.scrape().await.value("tribus_retained_events"), 1.0);
        // Those before a restart count too.
        node.stop().await;
        let node = log.gateway_with(log.server, "retention.events = 10").await;
        assert_eq!(node.scrape().await.value("tribus_retained_events"), 1.0);
        for _ in 0..10 {
            let (status, _) = node.post(r#"{"topic":"y","ephemeral":true}"#).await;
            assert_eq!(status, 200);
        }
        node.scrape_until("the old event to be let go of", |scrape| {
            scrape.value("tribus_retained_events") == 0.0
        })
        .await;
    }
}
