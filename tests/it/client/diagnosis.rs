//! What `diagnose()` says of a network; in Node.

use serde_json::{Value, json};

use super::application::Client;
use crate::support::{Claims, Fault, Js, Manner, Network, TestGateway};

#[tokio::test]
async fn diagnosis_tells_what_a_network_allows_and_why() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    let client = Client::started(&network.url("/"), json!({})).await;
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
    let client = Client::in_node();
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
        const { transports } = await diagnosis;
        client.close();
        return [transports[0].works, calls > 3];";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    assert_eq!(client.run(body, args).await, json!([true, true]));
}

#[tokio::test]
async fn on_a_page_of_another_origin_the_diagnosis_says_what_to_look_at() {
    let [page, gateway] = [TestGateway::start().await, TestGateway::start().await];
    // An error is a page without a policy of its own.
    let js = Js::chromium(&page.url("/a-page-of-its-own"));
    let body = "
        const { Tribus } = await import(`${args.url}/tribus.js`);
        const client = new Tribus(args.url, { getToken: () => args.token });
        const { summary } = await client.diagnose();
        client.close();
        return summary;";
    let args = json!({"url": gateway.url(""), "token": Claims::all("alice").token()});
    let summary = js.run(body, args).await;
    let hint = format!("is {} in its auth.allowed_origins?", page.url(""));
    assert!(
        summary
            .as_str()
            .is_some_and(|summary| summary.ends_with(&hint)),
        "{summary}"
    );
}
