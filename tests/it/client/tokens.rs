//! What `getToken` does, and does not; in Node.

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, TestGateway};

#[tokio::test]
async fn a_login_that_ends_closes_the_client_at_the_next_refresh() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::in_node();
        let body = "
            const { Tribus, WebSocket } = await load();
            const errors = [];
            const given = [args.token, null];
            const client = new Tribus(args.url, { getToken: () => given.shift(), WebSocket, transports: [args.transport] });
            client.addEventListener('error', ({ detail }) => errors.push(detail.message));
            const ended = (async () => { for await (const event of client.subscribe('order:*')); })();
            await until(() => client.status.state === 'closed');
            await ended;
            return [errors, client.status.reason];";
        // Node takes a while to start, on a busy machine.
        client.run("await load();", Value::Null).await;
        // A fifth of it is left at the refresh, and nobody has lost the connection by then.
        let token = Claims::all("alice").expiring_in(6).token();
        let args = json!({"url": gateway.url("/"), "transport": transport, "token": token});
        let got = client.run(body, args).await;
        assert_eq!(got, json!([[], "getToken gave no token"]), "{transport}");
        gateway
            .scrape_until("nobody to be connected", |scrape| {
                scrape.value(&format!("tribus_connections{{transport=\"{transport}\"}}")) < 1.0
            })
            .await;
    }
}

#[tokio::test]
async fn a_login_that_hangs_is_asked_again() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    // Fifty times as fast.
    let body = "
        const { Tribus, WebSocket } = await load();
        const { timeout } = AbortSignal;
        AbortSignal.timeout = (ms) => timeout.call(AbortSignal, ms / 50);
        let calls = 0;
        const errors = [];
        const getToken = () => (calls += 1) === 1 ? new Promise(() => {}) : args.token;
        const client = new Tribus(args.url, { getToken, WebSocket });
        client.addEventListener('error', ({ detail }) => errors.push(detail.message));
        await until(() => client.status.state === 'live');
        return [calls, errors];";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    let got = client.run(body, args).await;
    assert_eq!(got, json!([2, ["getToken failed: no answer"]]));
}

#[tokio::test]
async fn whoever_logs_in_as_someone_else_reconnects_as_that_one() {
    let gateway = TestGateway::start().await;
    let token = |subject: &str| {
        let grants = json!([format!("{subject}:*")]);
        Claims::new(subject).with("subscribe", grants).token()
    };
    for transport in TRANSPORTS {
        let tokens = [token("alice"), token("bob")];
        let options = json!({"transports": [transport]});
        let client = Client::connect_with(&gateway, &tokens, options).await;
        client.collect("refused", json!("bob:*"), json!({})).await;
        assert_eq!(client.collected("refused", 1).await, json!(["forbidden"]));
        client.run("state.client.reconnect();", Value::Null).await;
        client.collect("own", json!("bob:*"), json!({})).await;
        gateway.publish("bob:1", json!("hello")).await;
        assert_eq!(client.collected("own", 1).await, json!(["hello"]));
        let tokens = client.run("return state.tokens;", Value::Null).await;
        assert_eq!(tokens, 2, "{transport}");
    }
}

#[tokio::test]
async fn an_answer_that_a_reconnect_did_not_wait_for_changes_nothing() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let body = "
        const { Tribus, WebSocket } = await load();
        const answers = [];
        const statuses = [];
        const errors = [];
        const getToken = () => new Promise((...answer) => answers.push(answer));
        const client = new Tribus(args.url, { getToken, WebSocket });
        client.addEventListener('status', ({ detail }) => statuses.push(detail.state));
        client.addEventListener('error', ({ detail }) => errors.push(detail.message));
        for (let count = 1; count < 4; count += 1) {
            await until(() => answers.length === count);
            if (count < 3) client.reconnect();
        }
        const [loggedOut, failing, good] = answers;
        loggedOut[0](null);
        failing[1](Error('late'));
        await new Promise((resolve) => setTimeout(resolve));
        good[0](args.token);
        await until(() => client.status.state !== 'connecting');
        client.close();
        return [statuses, errors, answers.length];";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    let got = client.run(body, args).await;
    assert_eq!(got, json!([["live", "closed"], [], 3]));
}

#[tokio::test]
async fn a_client_that_was_closed_meanwhile_is_not_closed_again() {
    let client = Client::in_node();
    let body = "
        const { Tribus } = await load();
        let answer;
        const getToken = () => new Promise((resolve) => { answer = resolve; });
        const client = new Tribus('http://127.0.0.1:9', { getToken });
        const reasons = [];
        client.addEventListener('status', ({ detail }) => reasons.push(detail.reason));
        await until(() => answer);
        client.close();
        answer(null);
        await new Promise((resolve) => setTimeout(resolve, 10));
        return reasons;";
    let reasons = client.run(body, Value::Null).await;
    assert_eq!(reasons, json!(["close() was called"]));
}

#[tokio::test]
async fn a_refresh_that_fails_is_tried_again_while_the_token_is_good() {
    let gateway = TestGateway::start().await;
    let client = Client::in_node();
    let body = "
        const { Tribus, WebSocket } = await load();
        state.statuses = [];
        state.errors = [];
        state.auths = [];
        class Watched extends WebSocket {
            send(text) {
                const { type, token } = JSON.parse(text);
                if (type === 'auth') state.auths.push(args.tokens.indexOf(token));
                super.send(text);
            }
        }
        let calls = 0;
        const getToken = () => {
            calls += 1;
            if (calls === 2) throw Error('not now');
            return args.tokens[calls === 1 ? 0 : 1];
        };
        state.client = new Tribus(args.url, { getToken, WebSocket: Watched });
        state.client.addEventListener('status', ({ detail }) => state.statuses.push(detail.state));
        state.client.addEventListener('error', ({ detail }) => state.errors.push(detail.message));
        await until(() => state.auths[1] === 1);
        return [state.statuses, state.errors, state.auths];";
    client.run("await load();", Value::Null).await;
    let tokens = [10, 600].map(|seconds| Claims::all("alice").expiring_in(seconds).token());
    let args = json!({"url": gateway.url("/"), "tokens": tokens});
    let got = client.run(body, args).await;
    let errors = json!(["getToken failed: not now"]);
    assert_eq!(got, json!([["live"], errors, [0, 1]]));
}
