//! Where a subscription begins, and when it says so; in Node.

use std::time::Duration;

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, Fault, Manner, Network, TestGateway};

#[tokio::test]
async fn a_subscription_says_once_that_it_has_begun() {
    for transport in TRANSPORTS {
        let gateway = TestGateway::start().await;
        let last = gateway.publish("order:1", json!(0)).await;
        let network = Network::before(&gateway).await;
        let through = network.gateway(&gateway);
        let client = Client::connect(&through, json!({"transports": [transport]})).await;
        let begin = "
            state.begun = [];
            for (const options of [{}, { cursor: args }, { rewind: 1 }, { events: ['message'], rewind: 1 }]) {
                const told = [];
                state.begun.push(told);
                const one = state.client.subscribe('order:*', {
                    ...options,
                    onBegin: () => told.push(Boolean(one.cursor)),
                    onEvent: ({ data }) => told.push(data),
                });
            }
            const gone = state.client.subscribe('order:*', { onBegin: () => state.begun[0].push('gone') });
            gone.close();
            await until(() => state.begun.every((told) => told.includes(true)));";
        client.run(begin, json!(last)).await;
        // It goes on over another link, and that is no beginning.
        network.set([Fault::Offline(Manner::Reset)]);
        client
            .run("await until(() => state.errors[0]);", Value::Null)
            .await;
        network.clear();
        gateway.publish("order:1", json!(1)).await;
        let end = "
            await until(() => state.begun.every((told) => told.at(-1) === 1));
            return state.begun;";
        let expected = json!([[true, 1], [true, 1], [0, true, 1], [0, true, 1]]);
        let mut begun = client.run(end, Value::Null).await;
        // Over a WebSocket the last ones follow the beginning.
        if transport == "ws" && begun[2] == json!([true, 0, 1]) {
            begun[2] = expected[2].clone();
        }
        assert_eq!(begun, expected, "{transport}");
    }
}

#[tokio::test]
async fn the_last_of_certain_names_are_as_many_whatever_others_want_of_the_topic() {
    let gateway = TestGateway::start().await;
    for number in 0..30 {
        let event = if number % 10 == 0 { "paid" } else { "seen" };
        let body = json!({"topic": "order:1", "event": event, "data": number});
        assert_eq!(gateway.post(&body.to_string()).await.0, 200);
    }
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client.collect("all", json!("order:1"), json!({})).await;
        let paid = json!({"events": ["paid"], "rewind": 2});
        client.collect("paid", json!("order:1"), paid).await;
        let got = client.collected("paid", 2).await;
        assert_eq!(got, json!([10, 20]), "{transport}");
        let body = json!({"topic": "order:1", "event": "paid", "data": "next"});
        gateway.post(&body.to_string()).await;
        let got = client.collected("paid", 3).await;
        assert_eq!(got, json!([10, 20, "next"]), "{transport}");
        // Not among the last ones of the next transport.
        for number in [10, 20] {
            let body = json!({"topic": "order:1", "event": "paid", "data": number});
            gateway.post(&body.to_string()).await;
        }
    }
}

#[tokio::test]
async fn the_last_of_several_busy_topics_are_no_more_than_was_asked_for() {
    let gateway = TestGateway::start().await;
    for topic in ["order:1", "order:2", "order:3"] {
        let events: Vec<Value> = (0..80)
            .map(|number| json!({"topic": topic, "data": number}))
            .collect();
        assert_eq!(gateway.post(&json!(events).to_string()).await.0, 200);
    }
    let end = gateway.publish("end", json!("end")).await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let last = json!({"events": ["message"], "rewind": 50});
        client.collect("last", json!("order:*"), last).await;
        client
            .run(
                "
                state.end = [];
                state.client.subscribe('end', { rewind: 1, onEvent: ({ id }) => state.end.push(id) });
                await until(() => state.end.includes(args));",
                json!(end),
            )
            .await;
        let last = client.collected("last", 150).await;
        let expected: Vec<Value> = (0..3).flat_map(|_| 30..80).map(Value::from).collect();
        assert_eq!(last, json!(expected), "{transport}");
    }
}

/// The first answer is there, but not read yet, when another subscription wants more of the past.
#[tokio::test]
async fn what_begins_further_back_while_an_answer_is_under_way_misses_nothing() {
    let gateway = TestGateway::start().await;
    let mut ids = Vec::new();
    for number in 0..10 {
        ids.push(gateway.publish("order:1", json!(number)).await);
    }
    let network = Network::before(&gateway).await;
    network.set([Fault::Latency {
        delay: Duration::from_millis(100),
        jitter: Duration::ZERO,
    }]);
    for transport in TRANSPORTS {
        let client = Client::in_node();
        let body = "
            const { Tribus, WebSocket } = await load();
            state.late = [];
            let isAsked = false;
            const counted = (...request) => { isAsked = true; return fetch(...request); };
            const client = new Tribus(args.url, {
                transports: [args.transport], getToken: () => args.token, WebSocket, fetch: counted,
            });
            client.subscribe('order:*', { cursor: args.cursors[1], onEvent: () => {} });
            await until(() => isAsked || args.transport === 'ws');
            client.subscribe('order:*', { cursor: args.cursors[0], onEvent: ({ data }) => state.late.push(data) });
            await until(() => state.late.includes(9));
            return state.late;";
        let args = json!({
            "url": network.url("/"), "transport": transport, "cursors": [ids[2], ids[7]],
            "token": Claims::all("alice").token(),
        });
        let late = client.run(body, args).await;
        assert_eq!(late, json!([3, 4, 5, 6, 7, 8, 9]), "{transport}");
    }
}
