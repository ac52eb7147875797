//! When the client tries again, when it gives up, and what it says of the network; in Node.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, Fault, Js, Manner, Network, Scrape, TestGateway, within};

async fn begin(url: &str, options: Value) -> Client {
    let tokens = [Claims::all("alice").token()];
    Client::begin(Arc::new(Js::node()), 0, url, &tokens, options).await
}

/// Something else than the gateway: the same answer to each request. When each came is told.
struct Proxy {
    url: String,
    came: mpsc::UnboundedReceiver<Instant>,
}

impl Proxy {
    async fn answering(head: &str, body: &str) -> Self {
        let answer = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (tell, came) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = client.read(&mut head).await.unwrap_or(0);
                let answered = client.write_all(answer.as_bytes()).await;
                if read == 0 || answered.is_err() || tell.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Self { url, came }
    }

    async fn next(&mut self) -> Instant {
        within("a request", self.came.recv())
            .await
            .expect("it lives")
    }
}

#[tokio::test]
async fn attempts_in_a_row_are_counted_and_a_person_may_try_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let client = begin(&format!("http://{address}/"), json!({"maxAttempts": 3})).await;
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
    let client = begin(&proxy.url, options).await;
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
        let _client = begin(&proxy.url, json!({"transports": transports})).await;
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
    let _client = begin(&proxy.url, json!({"transports": ["sse"]})).await;
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
        let client = begin(&network.url("/"), json!({})).await;
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
        let client = begin(&proxy.url, json!({"transports": [transport]})).await;
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
    let client = Client {
        js: Arc::new(Js::node()),
        page: 0,
    };
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
async fn diagnosis_tells_what_a_network_allows_and_why() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    let client = begin(&network.url("/"), json!({})).await;
    client.status("live").await;
    let diagnose = "const { transports, summary } = await state.client.diagnose();
        return [transports.map(({ transport, works, reason }) => [transport, works, reason]), summary];";
    let good = client.run(diagnose, Value::Null).await;
    assert_eq!(
        good,
        json!([
            [
                ["ws", true, "works"],
                ["sse", true, "works"],
                ["poll", true, "works"]
            ],
            "Events get through over WebSocket. WebSocket: works; SSE: works; long-poll: works."
        ])
    );
    network.set([Fault::RefuseUpgrades, Fault::BufferResponses]);
    let held = client.run(diagnose, Value::Null).await;
    assert_eq!(
        held[0],
        json!([
            ["ws", false, "WebSockets are refused"],
            [
                "sse",
                false,
                "nothing came through: the stream is held back"
            ],
            ["poll", true, "works"]
        ])
    );
    let summary = held[1].as_str().expect("words");
    assert!(
        summary
            .starts_with("Events get through over long-poll. WebSocket: WebSockets are refused;"),
        "{summary}"
    );
    network.set([Fault::Offline(Manner::Reset)]);
    let none = client.run(diagnose, Value::Null).await;
    let summary = none[1].as_str().expect("words");
    assert!(
        summary.starts_with("Nothing gets through to the gateway."),
        "{summary}"
    );
}

#[tokio::test]
async fn an_attempt_that_fails_during_a_diagnosis_is_made_again() {
    let gateway = TestGateway::start().await;
    let client = Client {
        js: Arc::new(Js::node()),
        page: 0,
    };
    // The attempt fails while the diagnosis still waits for its own.
    let body = "
        const { Tribus } = await load();
        let calls = 0;
        let fail;
        const slowFetch = (url, { signal, ...init }) => {
            calls += 1;
            if (calls > 2) return fetch(url, { signal, ...init });
            return new Promise((_, reject) => {
                if (calls === 1) fail = reject;
                else signal.onabort = reject;
            });
        };
        const client = new Tribus(args.url, { getToken: () => args.token, transports: ['poll'], fetch: slowFetch });
        await until(() => calls === 1);
        const diagnosis = client.diagnose();
        await until(() => calls === 2);
        fail(Error('cut'));
        await until(() => client.status.state === 'live');
        await diagnosis;";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    client.run(body, args).await;
}

#[tokio::test]
async fn a_closed_client_asks_for_no_token() {
    let client = Client {
        js: Arc::new(Js::node()),
        page: 0,
    };
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
