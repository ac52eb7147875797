//! What breaks and loses nothing: nobody is told to start afresh.

use std::time::Duration;

use super::cluster::Cluster;
use crate::durability::{rounds, until_ready_is};

#[tokio::test]
async fn kill_9_of_a_node_loses_nothing() {
    let mut cluster = Cluster::begin().await;
    let count = rounds(4, 60);
    for round in 0..count {
        cluster.flows(200).await;
        let node = &mut cluster.nodes[round % 2];
        node.kill().await;
        node.start().await;
    }
    cluster.flows(200).await;
    cluster.finish_whole("kill -9 of a node", count).await;
}

/// What NATS has acknowledged is with the operating system.
#[tokio::test]
async fn kill_9_of_nats_loses_nothing_where_the_machine_and_a_node_go_on() {
    let mut cluster = Cluster::begin().await;
    let count = rounds(3, 40);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        cluster.server.start_again().await;
    }
    cluster.flows(200).await;
    cluster.finish_whole("kill -9 of NATS", count).await;
}

/// Whoever vouched for the log goes and comes with it: in order, so that the next one knows.
#[tokio::test]
async fn nats_and_nodes_that_end_in_order_may_be_started_again() {
    let mut cluster = Cluster::begin().await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        for node in &mut cluster.nodes {
            node.terminate().await;
        }
        cluster.server.kill();
        cluster.server.start_again().await;
        for node in &mut cluster.nodes {
            node.start().await;
        }
    }
    cluster.flows(200).await;
    cluster.finish_whole("an end of everything", count).await;
}

#[tokio::test]
async fn a_nats_that_stops_is_told_by_readyz_and_goes_on_where_it_was() {
    let cluster = Cluster::begin().await;
    let count = rounds(1, 6);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.signal("STOP");
        for node in &cluster.nodes {
            let said = until_ready_is(&node.gateway(), 503).await;
            assert!(said.contains("NATS"), "{said}");
            let (status, answer) = node.gateway().post(r#"{"topic":"elsewhere:1"}"#).await;
            assert_eq!(status, 503, "{answer}");
            assert_eq!(answer["code"], "unavailable");
        }
        // Long enough that both ends give the connections up.
        tokio::time::sleep(Duration::from_secs(rounds(1, 60))).await;
        cluster.server.signal("CONT");
        for node in &cluster.nodes {
            until_ready_is(&node.gateway(), 200).await;
        }
    }
    cluster.flows(200).await;
    cluster.finish_whole("SIGSTOP of NATS", count).await;
}

#[tokio::test]
async fn connections_that_are_cut_lose_nothing() {
    let cluster = Cluster::begin().await;
    let count = rounds(10, 100);
    for round in 0..count {
        cluster.flows(60).await;
        cluster.relays[round % 2].cut();
    }
    cluster.flows(200).await;
    cluster.finish_whole("connections cut", count).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_unready_and_catches_up() {
    let cluster = Cluster::begin().await;
    let count = rounds(1, 6);
    for round in 0..count {
        let cut_off = round % 2;
        cluster.flows(200).await;
        cluster.relays[cut_off].stall(true);
        until_ready_is(&cluster.nodes[cut_off].gateway(), 503).await;
        cluster.flows(200).await;
        cluster.relays[cut_off].stall(false);
        until_ready_is(&cluster.nodes[cut_off].gateway(), 200).await;
    }
    cluster.flows(200).await;
    cluster.finish_whole("a node cut off", count).await;
}

/// Of half a second behind, under load: who comes from the other node waits.
#[tokio::test]
async fn clients_that_hop_to_a_node_whose_tail_is_late_are_not_reset() {
    let cluster = Cluster::begin().await;
    cluster.relays[1].delay(Duration::from_millis(500));
    cluster.flows(rounds(600, 10_000)).await;
    cluster.finish_whole("a tail that is late", 1).await;
}
