//! What breaks and loses nothing: nobody is told to start afresh.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, NODES};
use crate::{
    durability::{rounds, until_ready_is},
    support::{RedisServer, Relay, SYNCED, VOLATILE},
};

/// A node that does not follow its log says so in this time.
const UNREADY_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn kill_9_of_a_node_loses_nothing() {
    let mut cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(4, 60);
    for round in 0..count {
        cluster.flows(200).await;
        let node = &mut cluster.nodes[round % NODES];
        node.kill().await;
        node.start().await;
    }
    cluster.flows(200).await;
    cluster.finish_whole("kill -9 of a node", count).await;
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
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(1, 6);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.signal("STOP");
        for node in &cluster.nodes {
            let said = until_ready_is(&node.gateway(), 503).await;
            assert!(said.contains("Redis"), "{said}");
            let (status, answer) = node.gateway().post(r#"{"topic":"elsewhere:1"}"#).await;
            assert_eq!(status, 503, "{answer}");
            assert_eq!(answer["code"], "unavailable");
        }
        tokio::time::sleep(rounds(Duration::ZERO, Duration::from_secs(60))).await;
        cluster.server.signal("CONT");
        for node in &cluster.nodes {
            until_ready_is(&node.gateway(), 200).await;
        }
    }
    cluster.flows(200).await;
    cluster.finish_whole("SIGSTOP of Redis", count).await;
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
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(1, 6);
    for round in 0..count {
        let cut_off = round % NODES;
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

/// What is sent arrives, and no answer comes; or the other way round.
#[tokio::test]
async fn a_node_that_is_cut_off_in_one_direction_is_unready_and_catches_up() {
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(1, 6);
    for round in 0..count {
        for stall in [Relay::stall_to, Relay::stall_from] {
            let cut_off = round % NODES;
            let (way, node) = (&cluster.relays[cut_off], cluster.nodes[cut_off].gateway());
            cluster.flows(100).await;
            let began = Instant::now();
            stall(way, true);
            until_ready_is(&node, 503).await;
            assert!(began.elapsed() < UNREADY_WITHIN, "{:?}", began.elapsed());
            cluster.flows(100).await;
            stall(way, false);
            until_ready_is(&node, 200).await;
        }
    }
    cluster.flows(200).await;
    let fault = "a node cut off in one direction";
    cluster.finish_whole(fault, 2 * count).await;
}

/// As an operator upgrades: one node after the other drains, ends, and is there again.
#[tokio::test]
async fn a_rolling_restart_of_all_nodes_is_noticed_by_no_client() {
    let mut cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(1, 10);
    for _ in 0..count {
        for number in 0..NODES {
            cluster.flows(100).await;
            let node = &mut cluster.nodes[number];
            node.terminate().await;
            node.start().await;
            until_ready_is(&node.gateway(), 200).await;
        }
    }
    cluster.flows(200).await;
    let fault = "rolling restart of all nodes";
    cluster.finish_whole(fault, count).await;
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

/// Of half a second behind, under load: who comes from the other node waits.
#[tokio::test]
async fn clients_that_hop_to_a_node_whose_tail_is_late_are_not_reset() {
    let cluster = Cluster::begin(VOLATILE).await;
    cluster.relays[1].delay(Duration::from_millis(500));
    let count = rounds(2, 10);
    for _ in 0..count {
        cluster.flows(300).await;
    }
    cluster.finish_whole("a tail that is late", count).await;
}
