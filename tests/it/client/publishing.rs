//! Publishing what is large, and where answers do not come; in Node.

use serde_json::{Value, json};

use super::application::Client;
use crate::support::{Claims, TestGateway};

#[tokio::test]
async fn large_events_are_published_beside_the_websocket() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({})).await;
    client.collect("all", json!("order:*"), json!({})).await;
    let publish = "
        const { id } = await state.client.publish('order:1', 'x'.repeat(40_000));
        try {
            await state.client.publish('order:1', 'é'.repeat(60_000));
        } catch (error) {
            return [Boolean(id), error.code, state.statuses.map(({ state }) => state)];
        }";
    // A message that is longer than a WebSocket's may be would end the connection.
    let told = client.run(publish, Value::Null).await;
    assert_eq!(told, json!([true, "too_large", ["live"]]));
    let length = "await until(() => state.all[0]); return state.all.map(({ length }) => length);";
    assert_eq!(client.run(length, Value::Null).await, json!([40_000]));
}

#[tokio::test]
async fn an_answer_that_never_comes_is_asked_for_again_and_counts_once() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    // The first one arrives, and its answer does not. Waits are fifty times as short.
    let body = "
        const { Tribus } = await load();
        const { timeout } = AbortSignal;
        AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 50);
        let count = 0;
        const lossy = async (url, { signal, ...init }) => {
            if (!url.endsWith('/publish') || (count += 1) > 1) return fetch(url, { signal, ...init });
            await fetch(url, init);
            return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(Error('late'))));
        };
        state.client = new Tribus(args.url, { getToken: () => args.token, fetch: lossy, transports: ['poll'] });
        state.all = [];
        const one = state.client.subscribe('order:*', ({ data }) => state.all.push(data));
        await until(() => one.cursor);
        const { duplicate } = await state.client.publish('order:1', 1);
        await state.client.publish('order:1', 2);
        await until(() => state.all.at(-1) === 2);
        return [duplicate, count, state.all];";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    let told = client.run(body, args).await;
    assert_eq!(told, json!([true, 3, [1, 2]]));
}
