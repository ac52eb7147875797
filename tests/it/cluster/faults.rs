//! What befalls nodes and their ways to the log, whatever server it is in, and loses nothing: nobody is
//! told to start afresh.

use std::time::{Duration, Instant};

use super::{Cluster, LogServer, NODES};
use crate::{
    durability::{rounds, until_ready_is},
    support::Relay,
};

/// A node that does not follow its log says so in this time.
const UNREADY_WITHIN: Duration = Duration::from_secs(10);

pub async fn kill_9_of_a_node<S: LogServer>(mut cluster: Cluster<S>) {
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

pub async fn a_node_is_cut_off<S: LogServer>(cluster: Cluster<S>) {
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
pub async fn a_node_is_cut_off_in_one_direction<S: LogServer>(cluster: Cluster<S>) {
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
pub async fn a_rolling_restart<S: LogServer>(mut cluster: Cluster<S>) {
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

/// Of half a second behind, under load: who comes from the other node waits.
pub async fn a_tail_that_is_late<S: LogServer>(cluster: Cluster<S>) {
    cluster.relays[1].delay(Duration::from_millis(500));
    let count = rounds(2, 10);
    for _ in 0..count {
        cluster.flows(300).await;
    }
    cluster.finish_whole("a tail that is late", count).await;
}

pub async fn a_server_that_stops<S: LogServer>(cluster: Cluster<S>) {
    let count = rounds(1, 6);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.signal("STOP");
        for node in &cluster.nodes {
            let said = until_ready_is(&node.gateway(), 503).await;
            assert!(said.contains(S::NAME), "{said}");
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
    let fault = format!("SIGSTOP of {}", S::NAME);
    cluster.finish_whole(&fault, count).await;
}
