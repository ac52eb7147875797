//! Others write into the keys of the log.

use std::time::Duration;

use serde_json::json;

use super::{cluster::Cluster, gateway};
use crate::{
    durability::rounds,
    support::{RedisServer, TRANSPORTS, VOLATILE, replay},
};

/// Events that were there before, and those that come after, are all delivered, and nobody is reset.
#[tokio::test]
async fn entries_that_no_gateway_wrote_are_left_out_and_do_no_harm() {
    let server = RedisServer::shared().await;
    let namespace = RedisServer::namespace();
    let log = RedisServer::key(&namespace, "log");
    let a = gateway(server, &namespace).await;
    let b = gateway(server, &namespace).await;
    let mut ws = b.ws("topics=x").await;
    let mut ids = Vec::new();
    let mut foreign = 0;
    for round in 0..3u64 {
        ids.push(json!(a.publish("x", json!(round)).await));
        let last = ids.last().and_then(|id| id.as_str()).expect("an id");
        let last: u64 = last
            .rsplit_once('-')
            .expect("LOG-SEQUENCE")
            .1
            .parse()
            .expect("a number");
        // Beside the last, in the next one's place, and by the clock.
        for place in [
            format!("{last}-7"),
            format!("{}-0", last + 1),
            "*".to_owned(),
        ] {
            // A gateway that was quicker has removed what stood in its way.
            if server
                .try_command(&["XADD", &log, &place, "field", "value"])
                .is_ok()
            {
                foreign += 1;
            }
        }
        ids.push(json!(a.publish("x", json!("after")).await));
    }
    assert!(foreign > 3, "{foreign}");
    for id in &ids {
        assert_eq!(ws.event().await["id"], *id);
    }
    let late = gateway(server, &namespace).await;
    for node in [&a, &b, &late] {
        let there = replay(node, TRANSPORTS[0], "topics=x&cursor=earliest").await;
        let got: Vec<_> = there.iter().map(|event| event["id"].clone()).collect();
        assert_eq!(got, ids);
        let scrape = node.scrape().await;
        assert_eq!(scrape.value("tribus_log_lost_total"), 0.0);
    }
}

/// At any moment, in the place of the next event or beyond, while two nodes append and read.
#[tokio::test]
async fn entries_that_no_gateway_wrote_lose_and_repeat_nothing_under_load() {
    let cluster = Cluster::begin(VOLATILE).await;
    let count = rounds(400, 20_000);
    let mut put = 0;
    for round in 0..count {
        let meta = cluster
            .server
            .command(&["HGET", &Cluster::key("meta"), "sequence"]);
        let ::redis::Value::BulkString(last) = meta else {
            panic!("{meta:?}");
        };
        let last: u64 = std::str::from_utf8(&last)
            .expect("digits")
            .parse()
            .expect("a number");
        let place = match round % 3 {
            0 => format!("{}-0", last + 1 + round as u64 % 5),
            1 => format!("{last}-{}", round + 1),
            _ => "*".to_owned(),
        };
        let add = ["XADD", &Cluster::key("log"), &place, "e", "value"];
        put += usize::from(cluster.server.try_command(&add).is_ok());
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..8))).await;
    }
    assert!(put > count / 4, "{put}");
    cluster.finish_whole("entries of others", put).await;
}

#[tokio::test]
async fn an_idempotency_key_that_is_something_else_is_as_good_as_none() {
    let server = RedisServer::start(VOLATILE).await;
    let gateway = gateway(&server, "n").await;
    let mut ws = gateway.ws("topics=x").await;
    let publish = json!({"type": "publish", "topic": "x", "key": "k"});
    ws.send(publish.clone()).await;
    ws.event().await;
    let ::redis::Value::Array(keys) = server.command(&["KEYS", "tribus:{n}:key:*"]) else {
        panic!("no list");
    };
    let [::redis::Value::BulkString(key)] = &keys[..] else {
        panic!("{keys:?}");
    };
    let key = std::str::from_utf8(key).expect("UTF-8");
    server.command(&["DEL", key]);
    server.command(&["RPUSH", key, "x"]);
    ws.send(publish).await;
    ws.event().await;
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_refused_and_left_alone() {
    let server = RedisServer::start(VOLATILE).await;
    server.command(&["HSET", "tribus:{n}:meta", "format", "99", "log", "later"]);
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nbus.engine = \"redis\"\n\
         bus.namespace = \"n\"\nbus.redis.url = \"{}\"\nauth.hs256_secret = \"{}\"",
        server.url(),
        crate::support::SECRET,
    );
    let config = tribus::config::Config::from_toml(&config).expect("a configuration");
    let refused = tribus::gateway::Gateway::bind(config)
        .err()
        .expect("an error");
    let refused = format!("{refused:#}");
    assert!(refused.contains("format 99"), "{refused}");
    assert!(refused.contains("newer version"), "{refused}");
    assert_eq!(
        server.command(&["HGET", "tribus:{n}:meta", "log"]),
        ::redis::Value::BulkString(b"later".to_vec())
    );
}
