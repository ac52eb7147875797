//! What loses acknowledged events: it is noticed, and whoever missed some is told by a reset.

use std::time::Duration;

use serde_json::json;

use super::{cluster::Cluster, gateway, gateway_at};
use crate::{
    durability::{report, rounds},
    support::{EVERYSEC, RedisServer, Relay, SYNCED, TestGateway, VOLATILE, within},
};

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_told_by_a_reset() {
    let mut cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        cluster.server.start_again().await;
    }
    cluster.flows(200).await;
    cluster
        .finish_with_a_loss("kill -9 of a volatile Redis", count)
        .await;
}

/// While the disk syncs, Redis puts off writing to its file, by up to two seconds (redis.conf,
/// `appendfsync`): what it acknowledged then is lost now and again.
#[tokio::test]
async fn what_a_redis_that_syncs_each_second_loses_is_told_by_a_reset() {
    let mut cluster = Cluster::begin(EVERYSEC).await;
    let count = rounds(3, 40);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.kill();
        cluster.server.start_again().await;
    }
    cluster.flows(200).await;
    let verdict = cluster.finish().await;
    assert_eq!(verdict.resets() > 0, verdict.logs > 1, "{verdict}");
    report("kill -9 of Redis, appendfsync everysec", count, &verdict);
}

#[tokio::test]
async fn a_redis_that_is_emptied_is_told_by_a_reset() {
    let cluster = Cluster::begin(SYNCED).await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.command(&["FLUSHALL"]);
    }
    cluster.flows(200).await;
    cluster.finish_with_a_loss("FLUSHALL", count).await;
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_told_by_a_reset() {
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(200).await;
        cluster.server.command(&["DEL", &Cluster::key("log")]);
    }
    cluster.flows(200).await;
    cluster.finish_with_a_loss("DEL of the stream", count).await;
}

#[tokio::test]
async fn a_stream_that_others_trim_is_told_by_a_reset_once_that_is_missed() {
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(2, 20);
    for _ in 0..count {
        cluster.flows(400).await;
        cluster
            .server
            .command(&["XTRIM", &Cluster::key("log"), "MAXLEN", "10"]);
    }
    // Whoever begins where it was trimmed finds out.
    let read = format!("topics=load:*&cursor={}&wait=0", cluster.start);
    within("the loss to be noticed", async {
        while cluster.lost_logs().await < 1.0 {
            cluster.nodes[0].gateway().poll(&read).await;
        }
    })
    .await;
    cluster.flows(200).await;
    cluster.finish_with_a_loss("XTRIM by others", count).await;
}

/// The events that the old master acknowledged last are known to nodes and clients, and to no
/// server any more.
#[tokio::test]
async fn the_promotion_of_a_replica_that_is_behind_is_told_by_a_reset() {
    let mut cluster = Cluster::begin(VOLATILE).await;
    cluster.flows(200).await;
    let replica = RedisServer::start(VOLATILE).await;
    let between = Relay::to(cluster.server.address).await;
    replica.follow(between.address).await;
    cluster.flows(100).await;
    between.stall(true);
    cluster.flows(200).await;
    cluster.server.kill();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    for relay in &cluster.relays {
        relay.lead_to(replica.address);
    }
    cluster.server = replica;
    cluster.flows(200).await;
    cluster
        .finish_with_a_loss("promotion of a replica that is behind", 1)
        .await;
}

/// A quiet log: nobody publishes, and nobody asks.
#[tokio::test]
async fn a_loss_is_noticed_while_nothing_is_published() {
    let server = RedisServer::start(VOLATILE).await;
    for loss in [
        &["FLUSHALL"][..],
        &["DEL", "tribus:{n}:log"],
        &["DEL", "tribus:{n}:meta"],
    ] {
        let gateway = gateway(&server, "n").await;
        gateway.publish("x", json!(1)).await;
        let mut ws = gateway.ws("topics=x").await;
        server.command(loss);
        let reset = within("the reset", ws.frame("reset")).await;
        let id = gateway.publish("x", json!(2)).await;
        assert_eq!(ws.event().await["id"], json!(id), "{loss:?}: {reset}");
        let (_, page) = gateway.poll(&format!("topics=x&cursor={id}&wait=0")).await;
        assert_eq!(page["events"], json!([]), "{page}");
    }
}

/// The positions of events that a server lost are given to no others, and a cursor that stands for
/// one of them is told from one that the log has reached.
#[tokio::test]
async fn a_cursor_of_an_event_that_a_server_lost_is_never_taken_for_another() {
    let server = RedisServer::start(VOLATILE).await;
    let behind = RedisServer::start(VOLATILE).await;
    let relay = Relay::to(server.address).await;
    let first = gateway_at(&relay.url(), "n", "").await;
    first.publish("x", json!(1)).await;
    behind.follow(server.address).await;
    behind.has_caught_up_with(&server).await;
    behind.command(&["REPLICAOF", "NO", "ONE"]);
    let lost = first.publish("x", json!("lost")).await;
    // The only node that knows of it is gone with the server.
    first.stop().await;
    relay.lead_to(behind.address);
    let second = gateway_at(&relay.url(), "n", "").await;
    let id = second.publish("x", json!(2)).await;
    assert_ne!(id, lost);
    let (status, page) = second.poll(&format!("topics=x&cursor={lost}&wait=0")).await;
    assert_eq!((status, &page["type"]), (410, &json!("reset")), "{page}");
}

/// A node that has not seen what is lost vouches for all that it has seen, and the one that has seen
/// it comes later: it is not taken in by positions that go on behind a gap.
#[tokio::test]
async fn a_node_that_saw_what_is_lost_says_so_after_another_one_went_on_without_it() {
    let mut master = RedisServer::start(VOLATILE).await;
    let replica = RedisServer::start(VOLATILE).await;
    let between = Relay::to(master.address).await;
    let ways = [
        Relay::to(master.address).await,
        Relay::to(master.address).await,
    ];
    let a = gateway_at(&ways[0].url(), "n", "").await;
    let b = gateway_at(&ways[1].url(), "n", "").await;
    let mut clients = [a.ws("topics=x").await, b.ws("topics=x").await];
    let kept = a.publish("x", json!("kept")).await;
    for ws in &mut clients {
        assert_eq!(ws.event().await["id"], json!(kept));
    }
    replica.follow(between.address).await;
    between.stall(true);
    ways[1].stall(true);
    let lost = a.publish("x", json!("lost")).await;
    assert_eq!(clients[0].event().await["id"], json!(lost));
    ways[0].stall(true);
    master.kill();
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    ways[1].lead_to(replica.address);
    ways[1].stall(false);
    let after = published(&b).await;
    let log = |id: &str| id.split_once('-').expect("LOG-SEQUENCE").0.to_owned();
    assert_eq!(log(&after), log(&kept), "nothing is known to be lost");
    assert_eq!(clients[1].event().await["id"], json!(after));
    let (status, page) = b.poll(&format!("topics=x&cursor={lost}&wait=0")).await;
    assert_eq!((status, &page["reason"]), (410, &json!("unknown_log")));
    ways[0].lead_to(replica.address);
    ways[0].stall(false);
    for ws in &mut clients {
        ws.frame("reset").await;
    }
    let last = published(&b).await;
    assert_ne!(log(&last), log(&kept));
    for ws in &mut clients {
        assert_eq!(ws.event().await["id"], json!(last));
    }
}

/// Of the log that a node has just begun on an empty server, positions are behind those of a node
/// that was cut off meanwhile.
#[tokio::test]
async fn a_node_that_was_cut_off_takes_up_a_log_that_began_without_it() {
    let server = RedisServer::start(VOLATILE).await;
    for ahead in [3, 30] {
        let way = Relay::to(server.address).await;
        let old = gateway_at(&way.url(), "n", "").await;
        let mut ws = old.ws("topics=x").await;
        for number in 0..10 {
            old.publish("x", json!(number)).await;
            ws.event().await;
        }
        way.stall(true);
        server.command(&["FLUSHALL"]);
        let new = gateway(&server, "n").await;
        for number in 0..ahead {
            new.publish("x", json!(number)).await;
        }
        way.cut();
        way.stall(false);
        ws.frame("reset").await;
        let id = new.publish("x", json!("after")).await;
        assert_eq!(ws.event().await["id"], json!(id));
        let id = published(&old).await;
        assert_eq!(ws.event().await["id"], json!(id));
        for node in [&old, &new] {
            let (status, page) = node.poll(&format!("topics=x&cursor={id}&wait=0")).await;
            assert_eq!((status, &page["events"]), (200, &json!([])), "{page}");
        }
        server.command(&["FLUSHALL"]);
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
