//! Several gateways on one log.

use serde_json::json;

use super::gateway;
use crate::support::{RedisServer, TRANSPORTS, replay};

#[tokio::test]
async fn what_is_published_at_one_node_is_received_at_the_other() {
    let server = RedisServer::shared().await;
    let namespace = RedisServer::namespace();
    let a = gateway(server, &namespace).await;
    let b = gateway(server, &namespace).await;
    let mut ws = b.ws("topics=x").await;
    let mut sse = b.sse("topics=x").await;
    for number in 0..50 {
        let id = a.publish("x", json!(number)).await;
        assert_eq!(ws.event().await["id"], json!(id));
        assert_eq!(sse.event().await["data"], json!(number));
    }
    let _ = (TRANSPORTS, replay);
}
