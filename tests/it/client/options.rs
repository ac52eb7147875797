//! Options that are left out, given as undefined, or wrong; in Node.

use serde_json::{Value, json};

use super::application::Client;
use crate::support::{Claims, TestGateway};

fn args(url: &str) -> Value {
    json!({"url": url, "token": Claims::all("alice").token()})
}

#[tokio::test]
async fn undefined_options_are_the_usual_ones() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    // Node 20 has no WebSocket of its own, as browsers do.
    let body = "
        const { Tribus, WebSocket } = await load();
        globalThis.WebSocket = WebSocket;
        const unset = { transports: undefined, buffer: undefined, WebSocket: undefined, fetch: undefined, sse: undefined };
        state.client = new Tribus(args.url, { getToken: () => args.token, ...unset });
        state.got = [];
        const one = state.client.subscribe('order:*', {
            buffer: undefined, batch: undefined, throttle: undefined, events: undefined, tags: undefined,
            onEvent: ({ data }) => state.got.push(data),
            onReset: (reason) => state.got.push(reason),
        });
        await until(() => one.cursor);
        return state.client.status;";
    let status = client.run(body, args(&gateway.url("/"))).await;
    assert_eq!(status, json!({"state": "live", "transport": "ws"}));
    gateway.publish("order:1", json!(1)).await;
    let got = "await until(() => state.got[0]); return state.got;";
    assert_eq!(client.run(got, Value::Null).await, json!([1]));
}

#[tokio::test]
async fn transports_that_there_are_not_are_refused_at_once() {
    let client = Client::in_node();
    let body = "
        const { Tribus } = await load();
        const refused = (transports) => {
            try { new Tribus('http://127.0.0.1:9', { transports }); } catch (error) { return `${error}`; }
        };
        return [refused([]), refused(['ws', 'carrier-pigeon'])];";
    let words = "TypeError: transports: give some of ws,sse,poll";
    let refused = client.run(body, Value::Null).await;
    assert_eq!(refused, json!([words, words]));
}

#[tokio::test]
async fn the_url_of_a_websocket_is_a_gateway_too() {
    let gateway = TestGateway::start().await;
    let url = gateway.url("").replace("http", "ws");
    for transports in [json!(["ws"]), json!(["sse"])] {
        let client = Client::started(&url, json!({"transports": transports})).await;
        client.collect("all", json!("order:*"), json!({})).await;
        gateway.publish("order:1", json!(1)).await;
        assert_eq!(client.collected("all", 1).await, json!([1]));
    }
}

#[tokio::test]
async fn a_batch_without_a_wait_still_gives_arrays() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({})).await;
    let body = "
        state.batches = [];
        const one = state.client.subscribe('order:*', {
            batch: 0,
            onEvent: (events) => state.batches.push(events.map(({ data }) => data)),
        });
        await until(() => one.cursor);";
    client.run(body, Value::Null).await;
    gateway.publish("order:1", json!(1)).await;
    let batches = "await until(() => state.batches[0]); return state.batches;";
    assert_eq!(client.run(batches, Value::Null).await, json!([[1]]));
}

#[tokio::test]
async fn a_batch_that_is_full_is_handed_over_early() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({"buffer": 4})).await;
    let body = "
        state.batches = [];
        const one = state.client.subscribe('order:*', {
            batch: 60000,
            onEvent: (events) => state.batches.push(events.map(({ data }) => data)),
            onReset: (reason) => state.batches.push(reason),
        });
        await until(() => one.cursor);";
    client.run(body, Value::Null).await;
    let burst: Vec<Value> = (0..10)
        .map(|number| json!({"topic": "order:1", "data": number}))
        .collect();
    gateway.post(&json!(burst).to_string()).await;
    let batches = "await until(() => state.batches[1]); return state.batches;";
    let batches = client.run(batches, Value::Null).await;
    assert_eq!(batches, json!([[0, 1, 2, 3], [4, 5, 6, 7]]));
}
