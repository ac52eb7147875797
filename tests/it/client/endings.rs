//! What is left of a client that was closed: nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    application::{Client, TRANSPORTS},
    pages::chromium,
};
use crate::support::{Claims, Fault, Network, Scrape, TestGateway};

fn open(scrape: &Scrape) -> [f64; 3] {
    TRANSPORTS
        .map(|transport| scrape.value(&format!("tribus_connections{{transport=\"{transport}\"}}")))
}

#[tokio::test]
async fn close_ends_loops_and_connection() {
    let gateway = TestGateway::start().await;
    for (index, transport) in TRANSPORTS.into_iter().enumerate() {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client.collect("all", json!("order:*"), json!({})).await;
        let mut expected = [0.0; 3];
        expected[index] = 1.0;
        gateway
            .scrape_until("it to be connected", |scrape| open(scrape) == expected)
            .await;
        let body = "
            const ended = (async () => { for await (const event of state.client.subscribe('order:*')); })();
            state.client.close();
            await ended;
            return state.client.status;";
        let status = client.run(body, Value::Null).await;
        assert_eq!(
            status,
            json!({"state": "closed", "reason": "close() was called"})
        );
        gateway
            .scrape_until("nobody to be connected", |scrape| open(scrape) == [0.0; 3])
            .await;
    }
}

/// Shorter than the trial of a transport that kept dying goes on.
const AT_ONCE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn close_ends_the_trial_of_a_better_transport_too() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    network.set([Fault::KillWebSockets {
        after: Duration::from_secs(4),
    }]);
    let client = Client::started(&network.url("/"), json!({})).await;
    // It died twice, and has to live for eight seconds before it is trusted.
    client.status("degraded").await;
    network.clear();
    gateway
        .scrape_until("a trial", |scrape| open(scrape) == [1.0, 1.0, 0.0])
        .await;
    let begun = Instant::now();
    client.run("state.client.close();", Value::Null).await;
    gateway
        .scrape_until("nobody to be connected", |scrape| open(scrape) == [0.0; 3])
        .await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_closed_client_listens_to_its_page_no_more() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let client = Client {
        js: js.clone(),
        page: 0,
    };
    let count = "
        const expression = '[window, document].map((target) => Object.values(getEventListeners(target)).flat().length)';
        const { result } = await cdp.send('Runtime.evaluate', { expression, includeCommandLineAPI: true, returnByValue: true });
        return result.value;";
    let before = client.drive(count, Value::Null).await;
    let options = json!({"shareTabs": true, "persist": true});
    let tokens = [Claims::all("alice").token()];
    let client = Client::settled(Arc::clone(&js), 0, "/", &tokens, options).await;
    let meanwhile = client.drive(count, Value::Null).await;
    assert_ne!(meanwhile, before);
    client.run("state.client.close();", Value::Null).await;
    assert_eq!(client.drive(count, Value::Null).await, before);
}

#[tokio::test]
async fn whoever_reconnects_as_soon_as_it_is_closed_keeps_what_it_subscribes_then() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let body = "
        const { Tribus, WebSocket } = await load();
        state.got = [];
        state.ended = [];
        // Logged out, until somebody logs in.
        const given = [null, args.token];
        state.client = new Tribus(args.url, { getToken: () => given.shift(), WebSocket });
        const subscribe = (name) => state.client.subscribe('order:*', {
            onEvent: ({ data }) => state.got.push([name, data]),
            onBegin: () => (state.begun = name),
        }).next().then(() => state.ended.push(name));
        subscribe('old');
        state.client.addEventListener('status', ({ detail }) => {
            if (detail.state !== 'closed') return;
            state.client.reconnect();
            subscribe('new');
        });
        await until(() => state.begun);";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    client.run(body, args).await;
    gateway.publish("order:1", json!(1)).await;
    let got = "await until(() => state.got[0]); return [state.got, state.ended];";
    let got = client.run(got, Value::Null).await;
    assert_eq!(got, json!([[["new", 1]], ["old"]]));
}
