//! When the client tries again, when it gives up, and what it is told meanwhile; in Node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::application::{Client, Proxy, TRANSPORTS};
use crate::support::{Claims, Fault, Manner, Network, Scrape, TestGateway};

#[tokio::test]
async fn attempts_in_a_row_are_counted_and_a_person_may_try_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let client = Client::started(&format!("http://{address}/"), json!({"maxAttempts": 3})).await;
    let status = client.status("closed").await;
    assert_eq!(
        status["reason"],
        "gave up after 3 attempts: the gateway is not reached"
    );
    let attempts = client.run("return state.errors.length;", Value::Null).await;
    assert_eq!(attempts, 3);
    let gateway = TestGateway::on(address).await;
    client.run("state.client.reconnect();", Value::Null).await;
    client.status("live").await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    // It was connected, so that all of its attempts are there again.
    gateway.stop().await;
    client.status("closed").await;
    let attempts = client
        .run("return state.errors.length - 3;", Value::Null)
        .await;
    assert_eq!(attempts, 4, "the loss, and three attempts");
}

#[tokio::test]
async fn reconnecting_by_hand_waits_for_nothing() {
    let mut proxy = Proxy::answering("503 Service Unavailable\r\nRetry-After: 600", "busy").await;
    let options = json!({"transports": ["poll"]});
    let client = Client::started(&proxy.url, options).await;
    proxy.next().await;
    client
        .run("await until(() => state.errors[0]);", Value::Null)
        .await;
    client.run("state.client.reconnect();", Value::Null).await;
    proxy.next().await;
    let reason = client.run("return state.errors[0];", Value::Null).await;
    assert_eq!(reason, "HTTP 503");
}

#[tokio::test]
async fn it_comes_back_no_sooner_than_a_proxy_says() {
    for transports in [json!(["poll"]), json!(["sse"]), json!(["sse", "poll"])] {
        let mut proxy = Proxy::answering("503 Service Unavailable\r\nRetry-After: 2", "busy").await;
        let _client = Client::started(&proxy.url, json!({"transports": transports})).await;
        let mut last = proxy.next().await;
        for _ in 1..transports.as_array().map_or(0, Vec::len) {
            last = proxy.next().await;
        }
        let waited = proxy.next().await - last;
        assert!(waited >= Duration::from_millis(1900), "{waited:?}");
    }
}

#[tokio::test]
async fn a_stream_that_was_cut_is_asked_for_again_when_it_said() {
    let body = "retry: 1500\nevent: connected\nid: k-1\ndata: {\"type\":\"connected\",\"cursor\":\"k-1\",\"heartbeatMs\":25000}\n\n";
    let mut proxy = Proxy::answering("200 OK\r\nContent-Type: text/event-stream", body).await;
    let _client = Client::started(&proxy.url, json!({"transports": ["sse"]})).await;
    let first = proxy.next().await;
    let waited = proxy.next().await - first;
    assert!(waited >= Duration::from_millis(1400), "{waited:?}");
}

/// What the client waits for a transport before it tries the next one beside it.
const PATIENCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_drop_after_a_while_is_no_fault_of_the_transport() {
    let gateway = TestGateway::start().await;
    for transport in ["ws", "sse"] {
        let network = Network::before(&gateway).await;
        if transport == "sse" {
            network.set([Fault::RefuseUpgrades]);
        }
        let client = Client::started(&network.url("/"), json!({})).await;
        client.collect("all", json!(["order:*"]), json!({})).await;
        tokio::time::sleep(PATIENCE + Duration::from_millis(500)).await;
        network.set([Fault::Offline(Manner::Reset)]);
        client
            .run("await until(() => state.errors[0]);", Value::Null)
            .await;
        network.set((transport == "sse").then_some(Fault::RefuseUpgrades));
        gateway.publish("order:1", json!(1)).await;
        client.collected("all", 1).await;
        let seen = "return [...new Set(state.statuses.map(({ transport }) => transport))].filter(Boolean);";
        let seen = client.run(seen, Value::Null).await;
        assert_eq!(seen, json!([transport]));
    }
}

#[tokio::test]
async fn a_page_of_a_captive_portal_is_no_gateway() {
    let portal = "<!doctype html><title>Welcome to our Wi-Fi</title>";
    for (transport, reason) in [
        ("poll", "the answer is not the gateway's"),
        ("sse", "the stream was cut"),
        ("ws", "WebSockets are refused"),
    ] {
        let proxy = Proxy::answering("200 OK\r\nContent-Type: text/html", portal).await;
        let client = Client::started(&proxy.url, json!({"transports": [transport]})).await;
        let first = client
            .run(
                "await until(() => state.errors[0]); return state.errors[0];",
                Value::Null,
            )
            .await;
        assert_eq!(first, reason);
    }
}

#[tokio::test]
async fn a_login_that_fails_for_a_moment_is_tried_again() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let body = "
        const { Tribus, WebSocket } = await load();
        let calls = 0;
        const getToken = async () => {
            calls += 1;
            if (calls === 1) throw Error('the login server is busy');
            return args.token;
        };
        state.errors = [];
        state.client = new Tribus(args.url, { getToken, WebSocket });
        state.client.addEventListener('error', ({ detail }) => state.errors.push(detail.message));
        await until(() => state.client.status.state === 'live');
        return [calls, state.errors];";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    let got = client.run(body, args.clone()).await;
    assert_eq!(
        got,
        json!([2, ["getToken failed: the login server is busy"]])
    );
    let logged_out = "
        const { Tribus, WebSocket } = await load();
        const client = new Tribus(args.url, { getToken: () => null, WebSocket });
        await until(() => client.status.state === 'closed');
        return client.status.reason;";
    assert_eq!(client.run(logged_out, args).await, "getToken gave no token");
}

#[tokio::test]
async fn a_platform_without_websockets_goes_on_without() {
    let gateway = TestGateway::start().await;
    let options = json!({"WebSocket": null});
    let client = Client::connect(&gateway, options).await;
    let status = client.run("return state.client.status;", Value::Null).await;
    let expected = json!({"state": "degraded", "transport": "sse", "reason": "no WebSocket"});
    assert_eq!(status, expected);
}

#[tokio::test]
async fn an_abort_signal_ends_a_loop_and_its_subscription() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({})).await;
    let body = "
        const abort = new AbortController();
        const ended = (async () => {
            const got = [];
            for await (const { data } of state.client.subscribe('order:*', { signal: abort.signal })) got.push(data);
            return got;
        })();
        const other = state.client.subscribe('other:*');
        await until(() => other.cursor);
        state.abort = abort;
        state.ended = ended;";
    client.run(body, Value::Null).await;
    gateway.publish("order:1", json!(1)).await;
    // The loop has it, for this one was told of it after the loop.
    client
        .collect("seen", json!("order:1"), json!({"rewind": 1}))
        .await;
    client.collected("seen", 1).await;
    let filters = |scrape: &Scrape| scrape.value("tribus_subscriptions");
    assert_eq!(filters(&gateway.scrape().await), 3.0);
    let got = client
        .run("state.abort.abort(); return state.ended;", Value::Null)
        .await;
    assert_eq!(got, json!([1]));
    gateway
        .scrape_until("the filter to be gone", |scrape| filters(scrape) == 2.0)
        .await;
}

#[tokio::test]
async fn characters_that_end_lines_in_javascript_pass_every_transport() {
    let gateway = TestGateway::start().await;
    let text = "line\u{2028}data: {\u{2029}\u{85}\u{b}\u{c}end";
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client.collect("all", json!(["order:*"]), json!({})).await;
        gateway.publish("order:1", json!(text)).await;
        gateway.publish("order:1", json!("next")).await;
        let got = client.collected("all", 2).await;
        assert_eq!(got, json!([text, "next"]), "{transport}");
    }
}

#[tokio::test]
async fn a_closed_client_asks_for_no_token() {
    let client = Client::in_node();
    let body = "
        const { Tribus, WebSocket } = await load();
        let calls = 0;
        let give;
        const getToken = () => new Promise((resolve) => { calls += 1; give = resolve; });
        const client = new Tribus('http://127.0.0.1:9', { getToken, WebSocket });
        await until(() => give);
        client.close();
        give(args);
        await new Promise((resolve) => setTimeout(resolve, 2500));
        return [calls, client.status.state];";
    let token = Claims::all("alice").expiring_in(2).token();
    let got = client.run(body, json!(token)).await;
    assert_eq!(got, json!([1, "closed"]));
}

#[tokio::test]
async fn a_wait_that_no_timer_holds_is_no_reason_to_hurry() {
    let mut proxy = Proxy::answering("503 Service Unavailable\r\nRetry-After: 99999999", "").await;
    let client = Client::started(&proxy.url, json!({"transports": ["poll"]})).await;
    proxy.next().await;
    client
        .run("await until(() => state.errors[0]);", Value::Null)
        .await;
    // It waits, for an hour at most.
    let wait = "
        await new Promise((resolve) => setTimeout(resolve, 1500));
        return state.errors.length;";
    assert_eq!(client.run(wait, Value::Null).await, 1);
}
