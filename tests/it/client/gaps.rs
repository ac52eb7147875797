//! Who is told of a gap, and who is not, over each transport, in Node.

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::TestGateway;

/// Subscribes from these positions in one turn, so that all are asked for together; what comes is
/// pushed into `state.got`.
const RESUME: &str = "
    state.got = args.cursors.map(() => []);
    args.cursors.forEach((cursor, index) => state.client.subscribe(args.topics, {
        cursor,
        onEvent: ({ data }) => state.got[index].push(data),
        onReset: (reason) => state.got[index].push(reason),
    }));";

#[tokio::test]
async fn a_position_past_retention_is_a_gap_for_its_own_subscription_alone() {
    let gateway = TestGateway::with("retention.events = 8").await;
    for transport in TRANSPORTS {
        let mut ids = Vec::new();
        for number in 0..20 {
            ids.push(gateway.publish("order:1", json!(number)).await);
        }
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let cursors = [&ids[15], &ids[1], &ids[3], &ids[17]];
        let args = json!({"topics": "order:*", "cursors": cursors});
        client.run(RESUME, args).await;
        let told = "await until(() => state.got[1][0] && state.got[2][0] && state.got[3][1]);";
        client.run(told, Value::Null).await;
        gateway.publish("order:1", json!("next")).await;
        let all =
            "await until(() => state.got.every((got) => got.at(-1) === 'next')); return state.got;";
        assert_eq!(
            client.run(all, Value::Null).await,
            json!([
                [16, 17, 18, 19, "next"],
                ["expired", "next"],
                ["expired", "next"],
                [18, 19, "next"]
            ]),
            "{transport}"
        );
    }
}
