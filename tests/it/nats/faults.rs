//! What breaks and loses nothing: nobody is told to start afresh.

use super::cluster::Cluster;
use crate::{
    cluster::{NODES, faults},
    durability::rounds,
    support::within,
};

#[tokio::test]
async fn kill_9_of_a_node_loses_nothing() {
    faults::kill_9_of_a_node(Cluster::begin().await).await;
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
    faults::a_server_that_stops(Cluster::begin().await).await;
}

#[tokio::test]
async fn connections_that_are_cut_lose_nothing() {
    let cluster = Cluster::begin().await;
    let count = rounds(10, 100);
    for round in 0..count {
        cluster.flows(60).await;
        cluster.relays[round % NODES].cut();
    }
    cluster.flows(200).await;
    cluster.finish_whole("connections cut", count).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_unready_and_catches_up() {
    faults::a_node_is_cut_off(Cluster::begin().await).await;
}

#[tokio::test]
async fn clients_that_hop_to_a_node_whose_tail_is_late_are_not_reset() {
    faults::a_tail_that_is_late(Cluster::begin().await).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_in_one_direction_is_unready_and_catches_up() {
    faults::a_node_is_cut_off_in_one_direction(Cluster::begin().await).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_nodes_is_noticed_by_no_client() {
    faults::a_rolling_restart(Cluster::begin().await).await;
}

/// A client of the library that came back by itself would send what waits to a server whose log nobody
/// has claimed.
#[tokio::test]
async fn a_connection_that_is_cut_is_made_anew_once() {
    let cluster = Cluster::begin().await;
    let relay = &cluster.relays[0];
    let before = relay.accepted();
    let count = 5;
    for _ in 0..count {
        cluster.flows(60).await;
        relay.cut();
        let node = cluster.nodes[0].gateway();
        within("a publish through the node", async {
            while node.post(r#"{"topic":"elsewhere:1"}"#).await.0 != 200 {}
        })
        .await;
    }
    assert_eq!(relay.accepted(), before + count);
    cluster
        .finish_whole("connections cut, one each", count)
        .await;
}
