//! Backends publish straight into Redis.

use std::time::Duration;

use serde_json::{Value, json};

use super::gateway;
use crate::support::{Claims, RedisServer};

fn ingest(server: &RedisServer, namespace: &str, fields: &[&str]) {
    let key = RedisServer::key(namespace, "ingest");
    server.command(&[&["XADD", &key, "*"], fields].concat());
}

#[tokio::test]
async fn what_a_backend_puts_into_redis_is_published_once_and_in_order() {
    let server = RedisServer::shared().await;
    let namespace = RedisServer::namespace();
    let nodes = [
        gateway(server, &namespace).await,
        gateway(server, &namespace).await,
    ];
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.ws("topics=order:*").await);
    }
    for number in 0..300 {
        // So that both move them, each in the belief that it is the only one.
        server.command(&["DEL", &RedisServer::key(&namespace, "ingest-lease")]);
        tokio::time::sleep(Duration::from_millis(10)).await;
        let data = number.to_string();
        ingest(server, &namespace, &["topic", "order:1", "data", &data]);
    }
    for ws in &mut clients {
        for number in 0..300 {
            assert_eq!(ws.event().await["data"], json!(number));
        }
    }
    let key = RedisServer::key(&namespace, "ingest");
    assert_eq!(server.command(&["XLEN", &key]), ::redis::Value::Int(0));
}

#[tokio::test]
async fn an_entry_has_the_fields_of_a_publish() {
    let server = RedisServer::shared().await;
    let namespace = RedisServer::namespace();
    let node = gateway(server, &namespace).await;
    let claims = Claims::all("alice").with("tenant", json!("shop"));
    let mut ws = node.ws_as(&claims, "topics=order:*").await;
    let fields = [
        "tenant",
        "shop",
        "topic",
        "order:7",
        "event",
        "order:paid",
        "data",
        "{\"sum\":1.50}",
        "user_id",
        "bob",
        "tags",
        "{\"country\":\"de\"}",
        "key",
        "k",
    ];
    ingest(server, &namespace, &fields);
    // Under the same key it is there already.
    ingest(server, &namespace, &fields);
    ingest(server, &namespace, &["tenant", "shop", "topic", "order:8"]);
    let event = ws.event().await;
    assert_eq!(event["topic"], "order:7");
    assert_eq!(event["event"], "order:paid");
    assert_eq!(event["data"], json!({"sum": 1.5}));
    assert_eq!(event["user_id"], "bob");
    assert_eq!(event["tags"], json!({"country": "de"}));
    assert_eq!(ws.event().await["topic"], "order:8");
}

#[tokio::test]
async fn a_malformed_entry_is_dropped_and_counted_and_those_behind_it_come() {
    let server = RedisServer::shared().await;
    let namespace = RedisServer::namespace();
    let node = gateway(server, &namespace).await;
    let mut ws = node.ws("topics=x").await;
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let large = format!("\"{}\"", "x".repeat(70_000));
    let malformed: [&[&str]; 9] = [
        &["data", "1"],
        &["topic", "no spaces", "data", "1"],
        &["topic", "x", "data", "{"],
        &["topic", "x", "data", "1,\"topic\":\"y\""],
        &["topic", "x", "data", &deep],
        &["topic", "x", "data", &large],
        &["topic", "x", "tags", "[1]"],
        &["topic", "x", "colour", "red"],
        &["topic", "x", "tenant", ""],
    ];
    for fields in malformed {
        ingest(server, &namespace, fields);
    }
    ingest(server, &namespace, &["topic", "x", "data", "\"good\""]);
    assert_eq!(ws.event().await["data"], Value::from("good"));
    let scrape = node.scrape().await;
    assert_eq!(scrape.value("tribus_log_foreign_entries_total"), 9.0);
}
