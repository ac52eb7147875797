//! Several nodes, and which one it is.

use crate::support::{Claims, TestGateway};

#[tokio::test]
async fn a_node_with_a_name_tells_it_on_every_transport() {
    for (toml, name) in [("node = \"eu-1\"", Some("eu-1")), ("", None)] {
        let gateway = TestGateway::with(toml).await;
        let claims = Claims::all("alice");
        let connected = gateway.ws("topics=a").await.connected.clone();
        assert_eq!(connected["node"].as_str(), name, "{connected}");
        let connected = gateway.sse("topics=a").await.connected.clone();
        assert_eq!(connected["node"].as_str(), name, "{connected}");
        let answer = gateway.get("/poll", "topics=a&wait=0", &claims).await;
        let header = answer.headers().get("tribus-node");
        assert_eq!(header.map(|name| name.to_str().expect("text")), name);
    }
}
