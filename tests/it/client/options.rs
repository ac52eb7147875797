//! Options that are left out, given as undefined, unusual, or wrong; in Node.

use serde_json::{Value, json};

use super::{
    application::{Client, TRANSPORTS},
    pages::chromium,
};
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

#[tokio::test]
async fn a_tag_whose_name_holds_a_colon_is_a_condition_over_each_transport() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let tags = json!({"shop:city": "berlin"});
        client
            .collect("all", json!("order:*"), json!({"tags": tags}))
            .await;
        let events = json!([
            {"topic": "order:1", "data": "other", "tags": {"shop:city": "bonn"}},
            {"topic": "order:1", "data": "own", "tags": tags}
        ]);
        gateway.post(&events.to_string()).await;
        assert_eq!(client.collected("all", 1).await, json!(["own"]));
    }
}

#[tokio::test]
async fn a_position_that_is_null_is_none() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        gateway.publish(transport, json!(0)).await;
        let options = json!({"cursor": null, "rewind": 1});
        client.collect("all", json!(transport), options).await;
        gateway.publish(transport, json!(1)).await;
        assert_eq!(client.collected("all", 2).await, json!([0, 1]));
    }
}

#[tokio::test]
async fn a_subscription_to_nothing_is_a_mistake_that_is_told_at_once() {
    let client = Client::in_node();
    let body = "
        const { Tribus } = await load();
        const client = new Tribus('http://127.0.0.1:9');
        const refused = (...what) => {
            try { client.subscribe(...what); } catch (error) { return `${error}`; }
        };
        const got = [refused([]), refused('order:*', { events: [] }), refused('order:*', { events: ['paid'] }) ?? 'taken'];
        client.close();
        return got;";
    let words = "TypeError: subscribe: no topics, or no events";
    let refused = client.run(body, Value::Null).await;
    assert_eq!(refused, json!([words, words, "taken"]));
}

#[tokio::test]
async fn a_folder_whose_name_begins_like_a_scheme_is_none() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let body = "
        const { Tribus } = await load();
        const asked = new Promise((resolve) => {
            state.client = new Tribus('ws-gateway', { transports: ['poll'], fetch: async (url) => resolve(url) });
        });
        const url = await asked;
        state.client.close();
        return new URL(url).pathname;";
    let asked = js.run(body, Value::Null).await;
    assert_eq!(asked, "/ws-gateway/poll");
}
