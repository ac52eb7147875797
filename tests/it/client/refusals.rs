//! What a gateway refuses over a WebSocket, for a while or for good; in Node.

use serde_json::{Value, json};

use super::application::Client;
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
async fn many_subscriptions_are_asked_for_in_groups_and_a_refused_one_keeps_out_none() {
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
        return [state.refused, Math.max(...state.sizes), state.errors];";
    let told = client.run(subscribe, Value::Null).await;
    assert_eq!(told, json!([[[333, "forbidden"]], 200, []]));
    for number in [0, 332, 334, 449] {
        gateway
            .publish(&format!("order:{number}"), json!(number))
            .await;
    }
    let got = "await until(() => state.got[3] !== undefined); return [state.got, state.statuses];";
    let got = client.run(got, Value::Null).await;
    assert_eq!(got, json!([[0, 332, 334, 449], ["live"]]));
}
