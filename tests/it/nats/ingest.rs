//! Backends publish straight into NATS.

use std::time::Duration;

use async_nats::jetstream::{Context, context::PublishErrorKind};
use serde_json::{Value, json};

use super::gateway;
use crate::support::{Claims, NatsServer, Node, within};

async fn ingest(server: &NatsServer, namespace: &str, message: impl Into<String>) {
    let jetstream = server.jetstream().await;
    put(&jetstream, namespace, message).await;
}

async fn put(jetstream: &Context, namespace: &str, message: impl Into<String>) {
    let subject = format!("tribus.{namespace}.ingest");
    let message: String = message.into();
    within("the queue to take it", async {
        loop {
            // A node makes the stream soon after its start.
            let sent = jetstream.publish(subject.clone(), message.clone().into());
            match sent.await.expect("it is sent").await {
                Ok(_) => break,
                Err(error) => assert_eq!(error.kind(), PublishErrorKind::StreamNotFound),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Until a node moves what comes.
async fn until_moved(jetstream: &Context, namespace: &str) {
    let queue = format!("TRIBUS_{namespace}_INGEST");
    within("the node to move what comes", async {
        loop {
            if let Ok(queue) = jetstream.get_stream(&queue).await
                && queue.cached_info().state.consumer_count > 0
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_backend_puts_into_nats_is_published_once_and_in_order() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let nodes = [
        gateway(server, &namespace).await,
        gateway(server, &namespace).await,
    ];
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.ws("topics=order:*").await);
    }
    let jetstream = server.jetstream().await;
    for number in 0..300 {
        put(
            &jetstream,
            &namespace,
            json!({"topic": "order:1", "data": number}).to_string(),
        )
        .await;
    }
    for ws in &mut clients {
        for number in 0..300 {
            assert_eq!(ws.event().await["data"], json!(number));
        }
    }
    let queue = server.stream(&namespace, "_INGEST").await;
    within("the queue to be empty", async {
        while queue.get_info().await.expect("an answer").state.messages > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_message_has_the_fields_of_a_publish() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let node = gateway(server, &namespace).await;
    let claims = Claims::all("alice").with("tenant", json!("shop"));
    let mut ws = node.ws_as(&claims, "topics=order:*").await;
    let message = json!({
        "tenant": "shop",
        "topic": "order:7",
        "event": "order:paid",
        "data": {"sum": 1.50},
        "user_id": "bob",
        "tags": {"country": "de"},
        "key": "k",
    });
    ingest(server, &namespace, message.to_string()).await;
    // Under the same key it is there already.
    ingest(server, &namespace, message.to_string()).await;
    let other = json!({"tenant": "shop", "topic": "order:8"});
    ingest(server, &namespace, other.to_string()).await;
    let event = ws.event().await;
    assert_eq!(event["topic"], "order:7");
    assert_eq!(event["event"], "order:paid");
    assert_eq!(event["data"], json!({"sum": 1.5}));
    assert_eq!(event["user_id"], "bob");
    assert_eq!(event["tags"], json!({"country": "de"}));
    assert_eq!(ws.event().await["topic"], "order:8");
}

#[tokio::test]
async fn a_malformed_message_is_dropped_and_counted_and_those_behind_it_come() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let node = gateway(server, &namespace).await;
    let mut ws = node.ws("topics=x").await;
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    let large = "x".repeat(70_000);
    let malformed = [
        "nothing of JSON".to_owned(),
        r#"{"data":1}"#.to_owned(),
        r#"{"topic":"no spaces","data":1}"#.to_owned(),
        r#"{"topic":"x","data":1"#.to_owned(),
        format!(r#"{{"topic":"x","data":{deep}}}"#),
        format!(r#"{{"topic":"x","data":"{large}"}}"#),
        r#"{"topic":"x","tags":[1]}"#.to_owned(),
        r#"{"topic":"x","colour":"red"}"#.to_owned(),
        r#"{"topic":"x","tenant":""}"#.to_owned(),
        r#"[{"topic":"x"}]"#.to_owned(),
        // The key was used for something else.
        r#"{"topic":"y","key":"k","data":2}"#.to_owned(),
    ];
    let count = malformed.len();
    ingest(server, &namespace, r#"{"topic":"y","key":"k","data":1}"#).await;
    for message in malformed {
        ingest(server, &namespace, message).await;
    }
    ingest(server, &namespace, r#"{"topic":"x","data":"good"}"#).await;
    assert_eq!(ws.event().await["data"], Value::from("good"));
    let scrape = node.scrape().await;
    assert_eq!(
        scrape.value("tribus_log_foreign_entries_total"),
        count as f64
    );
}

/// A node of its own server, in the namespace `n`, that moves what comes.
async fn a_node_that_moves() -> (NatsServer, Node) {
    let server = NatsServer::start().await;
    let settings = [
        ("BUS__ENGINE", "nats"),
        ("BUS__NATS__URL", &*server.url()),
        ("BUS__NAMESPACE", "n"),
    ];
    let mut node = Node::new(&settings);
    node.start().await;
    let jetstream = server.jetstream().await;
    until_moved(&jetstream, "n").await;
    (server, node)
}

/// The node that moves them is killed among them: another one goes on.
#[tokio::test]
async fn what_a_node_was_moving_when_it_was_killed_is_published_once_and_in_order() {
    let (server, mut first) = a_node_that_moves().await;
    let jetstream = server.jetstream().await;
    let other = gateway(&server, "n").await;
    let mut ws = other.ws("topics=order:*").await;
    for number in 0..300 {
        if number == 150 {
            first.kill().await;
        }
        put(
            &jetstream,
            "n",
            json!({"topic": "order:1", "data": number}).to_string(),
        )
        .await;
    }
    for number in 0..300 {
        assert_eq!(ws.event().await["data"], json!(number));
    }
    let id = other.publish("order:1", json!("last")).await;
    assert_eq!(ws.event().await["id"], json!(id));
}

/// Its connection stands, and nobody is there.
#[tokio::test]
async fn what_waits_for_a_node_that_is_stopped_is_moved_by_another() {
    let (server, mut first) = a_node_that_moves().await;
    let jetstream = server.jetstream().await;
    let other = gateway(&server, "n").await;
    let mut ws = other.ws("topics=order:*").await;
    first.program().signal("STOP");
    let event = json!({"topic": "order:1", "data": 1});
    put(&jetstream, "n", event.to_string()).await;
    let came = tokio::time::timeout(Duration::from_secs(30), ws.event()).await;
    assert_eq!(came.expect("it is moved")["data"], 1);
    first.program().signal("CONT");
    let event = json!({"topic": "order:1", "data": 2});
    put(&jetstream, "n", event.to_string()).await;
    assert_eq!(ws.event().await["data"], 2);
}
