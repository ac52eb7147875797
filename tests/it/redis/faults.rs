//! What breaks and loses nothing: nobody is told to start afresh.

use super::cluster::Cluster;
use crate::{
    cluster::{NODES, faults},
    durability::{rounds, until_ready_is},
    support::{RedisServer, SYNCED, VOLATILE},
};

#[tokio::test]
async fn kill_9_of_a_node_loses_nothing() {
    faults::kill_9_of_a_node(Cluster::begin(VOLATILE).await).await;
}

#[tokio::test]
async fn kill_9_of_a_redis_that_syncs_each_write_loses_nothing() {
    let mut cluster = Cluster::begin(SYNCED).await;
    let count = rounds(3, 40);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        cluster.server.start_again().await;
    }
    cluster.flows(200).await;
    cluster
        .finish_whole("kill -9 of Redis, appendfsync always", count)
        .await;
}

/// A node that starts knows nothing of the log: the server's word has to do.
#[tokio::test]
async fn nodes_and_a_redis_that_syncs_each_write_may_all_be_killed_at_once() {
    let mut cluster = Cluster::begin(SYNCED).await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        for node in &mut cluster.nodes {
            node.kill().await;
        }
        cluster.server.start_again().await;
        for node in &mut cluster.nodes {
            node.start().await;
        }
    }
    cluster.flows(200).await;
    cluster.finish_whole("kill -9 of everything", count).await;
}

#[tokio::test]
async fn a_redis_that_stops_is_told_by_readyz_and_goes_on_where_it_was() {
    faults::a_server_that_stops(Cluster::begin(VOLATILE).await).await;
}

#[tokio::test]
async fn a_redis_that_is_out_of_memory_refuses_publishes_and_is_read_and_trimmed_all_the_same() {
    let events = [("RETENTION__EVENTS", "400")];
    let cluster = Cluster::begin_with(VOLATILE, &events).await;
    cluster.flows(800).await;
    let maxmemory = |bytes: &str| {
        cluster
            .server
            .command(&["CONFIG", "SET", "maxmemory", bytes])
    };
    maxmemory("100kb");
    for node in &cluster.nodes {
        let said = until_ready_is(&node.gateway(), 503).await;
        assert!(said.contains("maxmemory"), "{said}");
        let (status, answer) = node.gateway().post(r#"{"topic":"elsewhere:1"}"#).await;
        assert_eq!(status, 503, "{answer}");
        let told = answer["message"].as_str().expect("a message");
        assert!(told.contains("nothing was published"), "{told}");
        let (status, page) = node
            .gateway()
            .poll("topics=load:*&cursor=earliest&wait=0")
            .await;
        assert_eq!(status, 200, "{page}");
        assert_ne!(page["events"][0], serde_json::Value::Null, "{page}");
    }
    maxmemory("0");
    for node in &cluster.nodes {
        until_ready_is(&node.gateway(), 200).await;
    }
    cluster.flows(200).await;
    assert_eq!(cluster.lost_logs().await, 0.0);
    let verdict = cluster.finish().await;
    assert_eq!(verdict.logs, 1, "{verdict}");
}

#[tokio::test]
async fn connections_that_redis_or_the_network_cuts_lose_nothing() {
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(10, 100);
    for round in 0..count {
        cluster.flows(60).await;
        if round % 2 == 0 {
            cluster
                .server
                .command(&["CLIENT", "KILL", "TYPE", "normal"]);
        } else {
            cluster.relays[round / 2 % NODES].cut();
        }
    }
    cluster.flows(200).await;
    cluster.finish_whole("connections cut", count).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_unready_and_catches_up() {
    faults::a_node_is_cut_off(Cluster::begin(VOLATILE).await).await;
}

#[tokio::test]
async fn a_node_that_is_cut_off_in_one_direction_is_unready_and_catches_up() {
    faults::a_node_is_cut_off_in_one_direction(Cluster::begin(VOLATILE).await).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_nodes_is_noticed_by_no_client() {
    faults::a_rolling_restart(Cluster::begin(VOLATILE).await).await;
}

#[tokio::test]
async fn a_replica_that_has_it_all_may_be_promoted() {
    let mut cluster = Cluster::begin(VOLATILE).await;
    cluster.flows(200).await;
    let replica = RedisServer::start(VOLATILE).await;
    replica.follow(cluster.server.address).await;
    cluster.flows(200).await;
    // Nothing more is acknowledged by the old master before it is gone.
    for relay in &cluster.relays {
        relay.stall(true);
    }
    replica.has_caught_up_with(&cluster.server).await;
    cluster.server.kill();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    for relay in &cluster.relays {
        relay.lead_to(replica.address);
        relay.stall(false);
    }
    cluster.server = replica;
    cluster.flows(200).await;
    cluster.finish_whole("promotion of a replica", 1).await;
}

#[tokio::test]
async fn clients_that_hop_to_a_node_whose_tail_is_late_are_not_reset() {
    faults::a_tail_that_is_late(Cluster::begin(VOLATILE).await).await;
}
