//! What loses acknowledged events: it is noticed, and whoever missed some is told by a reset.

use std::time::Duration;

use serde_json::json;

use super::{cluster::Cluster, gateway, gateway_at};
use crate::{
    durability::rounds,
    support::{NatsServer, Node, Relay, TRANSPORTS, TestGateway, replay, within},
};

#[tokio::test]
async fn a_stream_that_is_deleted_is_told_by_a_reset() {
    let cluster = Cluster::begin().await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        let jetstream = cluster.server.jetstream().await;
        let name = format!("TRIBUS_{}", Cluster::NAMESPACE);
        jetstream.delete_stream(name).await.expect("it is gone");
    }
    cluster.flows(200).await;
    cluster
        .finish_with_a_loss("deletion of the stream", count)
        .await;
}

/// Sequences go on, so whoever has seen it all goes on too, and all others are told.
#[tokio::test]
async fn a_stream_that_is_purged_is_told_to_whoever_missed_something() {
    let cluster = Cluster::begin().await;
    let count = rounds(3, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        let log = cluster.stream("").await;
        log.purge().await.expect("it is purged");
    }
    cluster.flows(200).await;
    let verdict = cluster.finish().await;
    assert_eq!(verdict.logs, 1, "{verdict}");
    // At least of the client that begins before the first event.
    assert!(verdict.resets() > 0, "{verdict}");
    crate::durability::report("purge by others", count, &verdict);
}

/// Of messages that others delete one by one.
#[tokio::test]
async fn holes_in_the_log_are_told_to_whoever_needs_what_was_there() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let a = gateway(server, &namespace).await;
    let mut ids = Vec::new();
    for number in 0..40 {
        let filler = "x".repeat(1000);
        ids.push(a.publish("x", json!([number, filler])).await);
    }
    let log = server.stream(&namespace, "").await;
    assert!(log.delete_message(10).await.expect("an answer"));
    let late = gateway(server, &namespace).await;
    for node in [&a, &late] {
        let before = format!("topics=x&cursor={}&wait=0", ids[3]);
        let (status, page) = node.poll(&before).await;
        assert_eq!(status, 410, "{page}");
        let behind = format!("topics=x&cursor={}&wait=0", ids[15]);
        let (status, page) = node.poll(&behind).await;
        assert_eq!(status, 200, "{page}");
        assert_eq!(page["events"][0]["id"], json!(ids[16]));
    }
}

/// Nothing comes after it that would show the hole.
#[tokio::test]
async fn a_node_starts_though_the_last_message_is_gone() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let a = gateway(server, &namespace).await;
    let before = a.publish("x", json!(1)).await;
    a.publish("x", json!(2)).await;
    a.stop().await;
    let log = server.stream(&namespace, "").await;
    let last = log.get_info().await.expect("an answer").state.last_sequence;
    // What nodes tell each other comes behind the events.
    for sequence in 2..=last {
        let _ = log.delete_message(sequence).await;
    }
    let late = within("the node to start", gateway(server, &namespace)).await;
    let (status, page) = late.poll(&format!("topics=x&cursor={before}&wait=0")).await;
    assert_eq!(status, 410, "{page}");
    let next = late.publish("x", json!(3)).await;
    let there = replay(&late, TRANSPORTS[0], "topics=x&cursor=earliest").await;
    let ids: Vec<_> = there.iter().map(|event| &event["id"]).collect();
    assert_eq!(ids, [&json!(next)]);
}

/// The server comes back as it was on disk some time ago: nodes know of more.
#[tokio::test]
async fn a_server_that_lost_its_end_is_told_by_a_reset() {
    let mut cluster = Cluster::begin().await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        let snapshot = cluster.server.snapshot();
        cluster.server.start_again().await;
        cluster.flows(200).await;
        cluster.server.kill();
        cluster.server.restore(&snapshot);
        cluster.server.start_again().await;
    }
    cluster.flows(200).await;
    cluster
        .finish_with_a_loss("a server that lost its end", count)
        .await;
}

/// Nobody is there who knows what was acknowledged before.
#[tokio::test]
async fn a_server_that_was_restarted_while_no_node_ran_begins_another_log() {
    let mut server = NatsServer::start().await;
    let mut node = Node::new(&[("BUS__ENGINE", "nats"), ("BUS__NATS__URL", &server.url())]);
    node.start().await;
    let id = node.gateway().publish("x", json!(1)).await;
    for (is_restarted, status) in [(false, 200), (true, 410)] {
        node.kill().await;
        if is_restarted {
            server.kill();
            server.start_again().await;
        }
        node.start().await;
        let (told, page) = node
            .gateway()
            .poll(&format!("topics=x&cursor={id}&wait=0"))
            .await;
        assert_eq!(told, status, "{page}");
    }
    node.terminate().await;
}

/// A quiet log: nobody publishes, and nobody asks.
#[tokio::test]
async fn a_loss_is_noticed_while_nothing_is_published() {
    let server = NatsServer::shared().await;
    for of in ["", "_META"] {
        let namespace = NatsServer::namespace();
        let gateway = gateway(server, &namespace).await;
        gateway.publish("x", json!(1)).await;
        let mut ws = gateway.ws("topics=x").await;
        let jetstream = server.jetstream().await;
        let name = format!("TRIBUS_{namespace}{of}");
        jetstream.delete_stream(name).await.expect("it is gone");
        let reset = within("the reset", ws.frame("reset")).await;
        let id = published(&gateway).await;
        assert_eq!(ws.event().await["id"], json!(id), "{of:?}: {reset}");
        let (_, page) = gateway.poll(&format!("topics=x&cursor={id}&wait=0")).await;
        assert_eq!(page["events"], json!([]), "{page}");
    }
}

/// The positions of events that a server lost are given to no others, and a cursor that stands for
/// one of them is told from one that the log has reached.
#[tokio::test]
async fn a_cursor_of_an_event_that_a_server_lost_is_never_taken_for_another() {
    let mut server = NatsServer::start().await;
    let ways = [
        Relay::to(server.address).await,
        Relay::to(server.address).await,
    ];
    let [a, b] = [&ways[0], &ways[1]].map(|way| format!("nats://{}", way.address));
    let a = gateway_at(&a, "n", "").await;
    let b = gateway_at(&b, "n", "").await;
    let mut ws = b.ws("topics=x").await;
    let kept = a.publish("x", json!("kept")).await;
    assert_eq!(ws.event().await["id"], json!(kept));
    ways[0].stall(true);
    ways[1].stall(true);
    server.kill();
    let snapshot = server.snapshot();
    server.start_again().await;
    ways[0].cut();
    ways[0].stall(false);
    let lost = published(&a).await;
    // The only node that knows of it is gone with the end of the log.
    ways[0].stall(true);
    server.kill();
    server.restore(&snapshot);
    server.start_again().await;
    ways[1].cut();
    ways[1].stall(false);
    let log = |id: &str| id.split_once('-').expect("LOG-SEQUENCE").0.to_owned();
    for _ in 0..3 {
        let after = published(&b).await;
        assert_ne!(after, lost);
        assert_eq!(log(&after), log(&kept), "nothing is known to be lost");
        assert_eq!(ws.event().await["id"], json!(after));
        let (status, page) = b.poll(&format!("topics=x&cursor={lost}&wait=0")).await;
        assert_eq!((status, &page["reason"]), (410, &json!("unknown_log")));
    }
    // And the one that has seen it comes later.
    let mut old = a.ws("").await;
    old.send(json!({"type": "subscribe", "topic": "x"})).await;
    ways[0].cut();
    ways[0].stall(false);
    ws.frame("reset").await;
    old.frame("reset").await;
    let last = published(&b).await;
    assert_ne!(log(&last), log(&kept));
    for ws in [&mut ws, &mut old] {
        assert_eq!(ws.event().await["id"], json!(last));
    }
}

/// Of the log that a node has just begun, positions are behind those of a node that was cut off
/// meanwhile.
#[tokio::test]
async fn a_node_that_was_cut_off_takes_up_a_log_that_began_without_it() {
    let server = NatsServer::shared().await;
    for ahead in [3, 30] {
        let namespace = NatsServer::namespace();
        let way = Relay::to(server.address).await;
        let old = gateway_at(&format!("nats://{}", way.address), &namespace, "").await;
        let mut ws = old.ws("topics=x").await;
        for number in 0..10 {
            old.publish("x", json!(number)).await;
            ws.event().await;
        }
        way.stall(true);
        let jetstream = server.jetstream().await;
        for of in ["", "_META"] {
            let name = format!("TRIBUS_{namespace}{of}");
            jetstream.delete_stream(name).await.expect("it is gone");
        }
        let new = gateway(server, &namespace).await;
        for number in 0..ahead {
            new.publish("x", json!(number)).await;
        }
        way.cut();
        way.stall(false);
        ws.frame("reset").await;
        within("both to count alike", async {
            loop {
                let id = new.publish("x", json!("after")).await;
                if ws.event().await["id"] == json!(id) {
                    break;
                }
                // It is told within a second that the other one had positions jump.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        let id = published(&old).await;
        assert_eq!(ws.event().await["id"], json!(id));
        for node in [&old, &new] {
            let (status, page) = node.poll(&format!("topics=x&cursor={id}&wait=0")).await;
            assert_eq!((status, &page["events"]), (200, &json!([])), "{page}");
        }
    }
}

/// The id of an event, once the node takes one.
async fn published(node: &TestGateway) -> String {
    within("a publish to be taken", async {
        loop {
            match node.post(r#"{"topic":"x"}"#).await {
                (200, answer) => break answer["id"].as_str().expect("an id").to_owned(),
                (status, answer) => assert_eq!(status, 503, "{answer}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}
