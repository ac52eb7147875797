//! What the device does to the client: it has no network, or its clock is wrong; in Node.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::application::Client;
use crate::support::{Claims, Fault, Network, TestGateway, now};

/// What browsers have, and Node 20 has not.
const OFFLINE: &str = "
    state.device = { onLine: false };
    Object.defineProperty(globalThis, 'navigator', { value: state.device, configurable: true });";

/// From now on the clock goes wrong by so many milliseconds.
const SET_CLOCK: &str = "
    const { now } = Date;
    Date.now = () => now() + args;";

#[tokio::test]
async fn attempts_of_a_device_without_a_network_do_not_count() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let node = Client::in_node();
    node.run(OFFLINE, Value::Null).await;
    let url = format!("http://{address}/");
    let tokens = [Claims::all("alice").token()];
    let client = Client::begin(node.js, 0, &url, &tokens, json!({"maxAttempts": 2})).await;
    let states = "
        await until(() => state.errors.length === 4);
        return [...new Set(state.statuses.map(({ state }) => state))];";
    assert_eq!(client.run(states, Value::Null).await, json!(["offline"]));
    client.run("state.device.onLine = true;", Value::Null).await;
    let status = client.status("closed").await;
    let reason = "gave up after 2 attempts: the gateway is not reached";
    assert_eq!(status["reason"], reason);
}

#[tokio::test]
async fn a_clock_that_is_set_back_hides_no_dead_connection() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    let client = Client::started(&network.url("/"), json!({"transports": ["ws"]})).await;
    client.collect("all", json!("order:*"), json!({})).await;
    network.set([Fault::DropFrames]);
    client.run(SET_CLOCK, json!(-3_600_000)).await;
    let fell = "await until(() => state.errors[0]); return state.errors;";
    let errors = client.run(fell, Value::Null).await;
    assert_eq!(errors, json!(["it fell silent"]));
    network.clear();
    gateway.publish("order:1", json!(1)).await;
    assert_eq!(client.collected("all", 1).await, json!([1]));
}

#[tokio::test]
async fn a_clock_that_is_ahead_asks_for_no_token_again_and_again() {
    let gateway = TestGateway::start().await;
    let node = Client::in_node();
    // To this device each token of an hour is over in four seconds.
    node.run(SET_CLOCK, json!(3_596_000)).await;
    let tokens = [Claims::all("alice").with("iat", json!(now())).token()];
    let client = Client::settled(node.js, 0, &gateway.url("/"), &tokens, json!({})).await;
    let count = "
        await new Promise((resolve) => setTimeout(resolve, 6000));
        return [state.tokens, state.client.status.state];";
    assert_eq!(client.run(count, Value::Null).await, json!([1, "live"]));
}
