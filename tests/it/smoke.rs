//! The shortest way through everything.

use serde_json::json;

use crate::support::TestGateway;

#[tokio::test]
async fn one_event_reaches_all_three_transports_with_the_same_bytes() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=order:*").await;
    let cursor = start["cursor"].as_str().unwrap();
    let mut ws = gateway.ws("topics=order:*").await;
    let mut sse = gateway.sse("topics=order:*").await;
    let id = gateway.publish("order:1", json!({"n": 1})).await;
    let by_ws = ws.event().await;
    let by_sse = sse.event().await;
    let (status, page) = gateway
        .poll(&format!("topics=order:*&cursor={cursor}"))
        .await;
    assert_eq!(status, 200);
    assert_eq!(page["events"], json!([by_ws]));
    assert_eq!(by_ws, by_sse);
    assert_eq!(by_ws["id"], json!(id));
    assert_eq!(page["cursor"], json!(id));
}
