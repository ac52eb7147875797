//! What a gateway refuses, for a while or for good; in Node.

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, TestGateway};

/// Makes `state.client`, whose WebSocket hands each frame that it is to send to `state.onSend` first; true keeps it.
const BEGIN: &str = "
    const { Tribus, WebSocket } = await load();
    class Watched extends WebSocket {
        send(text) {
            if (!state.onSend(JSON.parse(text), this)) super.send(text);
        }
    }
    state.errors = [];
    state.statuses = [];
    state.client = new Tribus(args.url, { getToken: () => args.token, WebSocket: Watched, transports: ['ws'] });
    state.client.addEventListener('error', ({ detail }) => state.errors.push(detail.message));
    state.client.addEventListener('status', ({ detail }) => state.statuses.push(detail.state));";

#[tokio::test]
async fn a_refusal_that_may_pass_ends_no_subscription() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let watch = "
        state.asked = [];
        state.onSend = ({ type, ref }, socket) => {
            if (type !== 'subscribe') return false;
            state.asked.push(performance.now());
            if (state.asked[1]) return false;
            const refusal = { type: 'error', code: 'unavailable', message: 'not now', ref, retryAfterMs: 500 };
            socket.onmessage({ data: JSON.stringify(refusal) });
            return true;
        };";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    client.run(&format!("{watch} {BEGIN}"), args).await;
    client.collect("all", json!("order:*"), json!({})).await;
    gateway.publish("order:1", json!(1)).await;
    assert_eq!(client.collected("all", 1).await, json!([1]));
    let waited =
        "return [state.errors, state.asked.length, state.asked[1] - state.asked[0] >= 490];";
    let waited = client.run(waited, Value::Null).await;
    assert_eq!(waited, json!([["not now"], 2, true]));
}

#[tokio::test]
async fn many_subscriptions_are_asked_for_together_and_a_refused_one_keeps_out_none() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let watch = "
        state.sizes = [];
        state.onSend = ({ type, subscriptions }) => {
            if (type === 'subscribe') state.sizes.push(subscriptions.length);
            return false;
        };";
    let token = Claims::new("alice").with("subscribe", json!(["order:*"]));
    let args = json!({"url": gateway.url("/"), "token": token.token()});
    let body = format!("{watch} {BEGIN}");
    client.run(&body, args).await;
    let subscribe = "
        state.refused = [];
        state.begun = [];
        state.got = [];
        for (let number = 0; number < 450; number += 1) {
            const topic = number === 333 ? 'secret:1' : `order:${number}`;
            state.client.subscribe(topic, {
                onBegin: () => state.begun.push(number),
                onEvent: () => state.got.push(number),
                onError: ({ code }) => state.refused.push([number, code]),
            });
        }
        await until(() => state.begun.length === 449 && state.refused[0]);
        return [state.refused, state.sizes[0], state.errors];";
    let told = client.run(subscribe, Value::Null).await;
    assert_eq!(told, json!([[[333, "forbidden"]], 450, []]));
    for number in [0, 332, 334, 449] {
        gateway
            .publish(&format!("order:{number}"), json!(number))
            .await;
    }
    let got = "await until(() => state.got[3] !== undefined); return [state.got, state.statuses];";
    let got = client.run(got, Value::Null).await;
    assert_eq!(got, json!([[0, 332, 334, 449], ["live"]]));
}

#[tokio::test]
async fn a_refusal_that_nobody_listens_for_is_a_warning() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let claims = Claims::all("alice").with("subscribe", json!(["order:*"]));
    let body = "
        const { Tribus } = await load();
        const warned = new Promise((resolve) => { console.warn = (...words) => resolve(words); });
        state.client = new Tribus(args.url, { getToken: () => args.token });
        state.client.subscribe('audit:1', () => {});
        const [words, { code }] = await warned;
        return [words, code];";
    let args = json!({"url": gateway.url("/"), "token": claims.token()});
    let warned = client.run(body, args).await;
    assert_eq!(warned, json!(["tribus: audit:1:", "forbidden"]));
}

/// Subscribes to `args.count` times as many topics as `args.each` says; of each subscription that has begun, or was
/// refused, the number goes to `state.begun`, or to `state.refused` with the code.
const SUBSCRIBE_TO_MANY: &str = "
    state.begun = [];
    state.refused = [];
    state.got = [];
    state.all = [];
    for (let number = 0; number < args.count; number += 1) {
        const topics = Array.from({ length: args.each }, (_, topic) => args.topic.replace('N', number).replace('T', topic));
        state.all.push(state.client.subscribe(topics, {
            onBegin: () => state.begun.push(number),
            onEvent: ({ data }) => state.got.push([number, data]),
            onError: ({ code }) => state.refused.push([number, code]),
        }));
    }
    await until(() => state.begun.length + state.refused.length === args.count);";

#[tokio::test]
async fn subscriptions_that_are_too_much_for_one_message_go_in_several() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({"transports": ["ws"]})).await;
    // 80 KiB of topics, in pieces that are 2 KiB each.
    let topic = "tenant-7:workspace-N:a-document-with-a-name-that-is-rather-long-T:changes";
    let args = json!({"count": 50, "each": 20, "topic": topic});
    client.run(SUBSCRIBE_TO_MANY, args).await;
    let last = topic.replace('N', "49").replace('T', "19");
    gateway.publish(&last, json!("last")).await;
    let got = "await until(() => state.got[0]); return [state.got, state.refused, state.statuses.map(({ state }) => state)];";
    let got = client.run(got, Value::Null).await;
    assert_eq!(got, json!([[[49, "last"]], [], ["live"]]));
    // To close them all takes more than one message may hold, too.
    client
        .run("state.all.forEach((one) => one.close());", Value::Null)
        .await;
    gateway
        .scrape_until("all to be gone", |scrape| {
            scrape.value("tribus_subscriptions") < 1.0
        })
        .await;
    let statuses = "return state.statuses.length;";
    assert_eq!(client.run(statuses, Value::Null).await, 1);
}

#[tokio::test]
async fn a_subscription_too_many_keeps_out_none_of_the_others() {
    let gateway = TestGateway::with("limits.patterns = 10").await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let args = json!({"count": 13, "each": 1, "topic": "order-N:*"});
        client.run(SUBSCRIBE_TO_MANY, args).await;
        gateway.publish("order-9:1", json!("hello")).await;
        let got = "await until(() => state.got[0]);
            return [state.got, state.begun.sort((a, b) => a - b), state.refused.sort(([a], [b]) => a - b)];";
        let got = client.run(got, Value::Null).await;
        let code = "too_many_subscriptions";
        let refused = json!([[10, code], [11, code], [12, code]]);
        let begun: Value = (0..10).collect();
        assert_eq!(got, json!([[[9, "hello"]], begun, refused]), "{transport}");
        client.status("live").await;
    }
}

#[tokio::test]
async fn what_is_too_much_for_a_request_is_refused_and_the_rest_goes_on() {
    let gateway = TestGateway::with("limits.message_bytes = \"8KiB\"").await;
    for transport in ["sse", "poll"] {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let topic = "tenant-7:workspace-N:a-document-with-a-name-that-is-rather-long-T:changes";
        let args = json!({"count": 10, "each": 12, "topic": topic});
        client.run(SUBSCRIBE_TO_MANY, args).await;
        let first = topic.replace(['N', 'T'], "0");
        gateway.publish(&first, json!("first")).await;
        let got = "await until(() => state.got[0]);
            return [state.got, state.begun.length > 4, new Set(state.refused.map(([, code]) => code)).size, state.refused[0][1]];";
        let got = client.run(got, Value::Null).await;
        let expected = json!([[[0, "first"]], true, 1, "too_large"]);
        assert_eq!(got, expected, "{transport}");
    }
}

#[tokio::test]
async fn a_subscription_that_alone_is_too_much_is_refused_alone() {
    let gateway = TestGateway::with("limits.message_bytes = \"8KiB\"").await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client.collect("orders", json!("order:*"), json!({})).await;
        let args = json!({"count": 1, "each": 500, "topic": "a-topic-with-a-long-name-N:T"});
        client.run(SUBSCRIBE_TO_MANY, args).await;
        let refused = client.run("return state.refused;", Value::Null).await;
        assert_eq!(refused, json!([[0, "too_large"]]), "{transport}");
        gateway.publish("order:1", json!(1)).await;
        assert_eq!(client.collected("orders", 1).await, json!([1]));
    }
}
