//! What the tabs of one browser share, and what they do not; in Chromium.

use serde_json::{Value, json};

use super::{
    application::Client,
    pages::{FREEZE, HEARTBEAT, chromium, numbers, publish},
};
use crate::support::{Claims, Scrape, TestGateway, record};

#[tokio::test]
async fn tabs_share_one_connection_until_the_last_is_gone() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"shareTabs": true});
    let first = Client::in_page(&js, 0, options.clone()).await;
    let second = Client::in_page(&js, 1, options.clone()).await;
    first.collect("all", json!(["order:*"]), json!({})).await;
    second.collect("all", json!(["order:*"]), json!({})).await;
    second
        .collect("paid", json!(["order:*"]), json!({"events": ["paid"]}))
        .await;
    publish(&gateway, 0..3).await;
    for tab in [&first, &second] {
        assert_eq!(tab.collected("all", 3).await, numbers(0..3));
    }
    let open = |scrape: &Scrape| {
        ["ws", "sse", "poll"].map(|transport| {
            scrape.value(&format!("tribus_connections{{transport=\"{transport}\"}}"))
        })
    };
    assert_eq!(open(&gateway.scrape().await), [1.0, 0.0, 0.0]);
    let publish_one = "return (await state.client.publish('order:1', args, { event: 'paid' })).id;";
    second.run(publish_one, json!(3)).await;
    assert_eq!(second.collected("paid", 1).await, json!([3]));
    assert_eq!(first.collected("all", 4).await, numbers(0..4));

    first.drive("await page.close();", Value::Null).await;
    publish(&gateway, 4..7).await;
    assert_eq!(second.collected("all", 7).await, numbers(0..7));
    assert_eq!(second.collected("paid", 1).await, json!([3]));
    assert_eq!(second.status("live").await["transport"], "ws");
    record(
        "client",
        &["two tabs sharing one connection, and the one that has it closed"],
        &["one connection, 0 lost and 0 repeated in each"],
    );
    second.run("state.client.close();", Value::Null).await;
    gateway
        .scrape_until("nobody to be connected", |scrape| open(scrape) == [0.0; 3])
        .await;
}

#[tokio::test]
async fn what_a_tab_no_longer_wants_the_leading_tab_gives_up() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"shareTabs": true});
    let first = Client::in_page(&js, 0, options.clone()).await;
    first.collect("all", json!(["order:*"]), json!({})).await;
    for closing in ["state.one.close();", "location.reload();"] {
        let second = Client::in_page(&js, 1, options.clone()).await;
        let wants =
            "state.one = state.client.subscribe('other:*'); await until(() => state.one.cursor);";
        second.run(wants, Value::Null).await;
        assert_eq!(gateway.scrape().await.value("tribus_subscriptions"), 2.0);
        second.run(closing, Value::Null).await;
        gateway
            .scrape_until("the filter to be gone", |scrape| {
                scrape.value("tribus_subscriptions") < 2.0
            })
            .await;
    }
}

#[tokio::test]
async fn a_tab_that_is_looked_at_takes_over_from_one_that_is_frozen() {
    let gateway = TestGateway::with(HEARTBEAT).await;
    let js = chromium(&gateway).await;
    let options = json!({"shareTabs": true});
    let first = Client::in_page(&js, 0, options.clone()).await;
    first.collect("all", json!(["order:*"]), json!({})).await;
    let second = Client::in_page(&js, 1, options).await;
    second.collect("all", json!(["order:*"]), json!({})).await;
    publish(&gateway, 0..3).await;
    second.collected("all", 3).await;
    first.drive(FREEZE, json!("frozen")).await;
    publish(&gateway, 3..6).await;
    assert_eq!(second.collected("all", 6).await, numbers(0..6));
    first.drive(FREEZE, json!("active")).await;
    publish(&gateway, 6..9).await;
    for tab in [&first, &second] {
        assert_eq!(tab.collected("all", 9).await, numbers(0..9));
    }
}

#[tokio::test]
async fn a_refused_subscription_of_one_tab_is_refused_there_alone() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let token = Claims::new("bob").with("subscribe", json!(["order:*"]));
    let tokens = [token.token()];
    let mut tabs = Vec::new();
    for page in 0..2 {
        let options = json!({"shareTabs": true});
        let tab = Client::begin(js.clone(), page, "/", &tokens, options).await;
        tab.collect("all", json!("order:*"), json!({})).await;
        tabs.push(tab);
    }
    tabs[1]
        .collect("secret", json!("secret:*"), json!({}))
        .await;
    assert_eq!(tabs[1].collected("secret", 1).await, json!(["forbidden"]));
    let typed = "
        const { TribusError } = await load();
        try { await state.client.subscribe('secret:2').next(); } catch (error) { return error instanceof TribusError; }";
    assert_eq!(tabs[1].run(typed, Value::Null).await, json!(true));
    gateway.publish("order:1", json!(1)).await;
    for tab in &tabs {
        assert_eq!(tab.collected("all", 1).await, json!([1]));
    }
}

#[tokio::test]
async fn tabs_of_two_users_or_of_unknown_ones_share_nothing() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let token = |subject: &str| {
        let grants = json!([format!("{subject}:*")]);
        Claims::new(subject).with("subscribe", grants).token()
    };
    // The first login fails in both tabs, so that whose they are is not known yet.
    let begin = "
        const { Tribus, WebSocket } = await load();
        let calls = 0;
        state.client = new Tribus('/', {
            shareTabs: true, WebSocket,
            getToken: () => { if ((calls += 1) === 1) throw Error('busy'); return args; },
        });
        await until(() => state.client.status.state === 'live');";
    let mut tabs = Vec::new();
    for (page, subject) in ["alice", "bob"].into_iter().enumerate() {
        let tab = Client {
            js: js.clone(),
            page,
        };
        tab.run(begin, json!(token(subject))).await;
        tabs.push(tab);
    }
    tabs[0].collect("own", json!("alice:*"), json!({})).await;
    tabs[1].collect("own", json!("bob:*"), json!({})).await;
    tabs[1]
        .collect("foreign", json!("alice:*"), json!({}))
        .await;
    gateway.publish("alice:1", json!("secret")).await;
    gateway.publish("bob:1", json!("hello")).await;
    assert_eq!(tabs[0].collected("own", 1).await, json!(["secret"]));
    assert_eq!(tabs[1].collected("own", 1).await, json!(["hello"]));
    assert_eq!(tabs[1].collected("foreign", 1).await, json!(["forbidden"]));
}

/// Two tabs, of which the first has the connection; each wants topics of its own.
async fn leader_and_follower(gateway: &TestGateway, options: Value) -> [Client; 2] {
    let js = chromium(gateway).await;
    let leader = Client::in_page(&js, 0, options.clone()).await;
    leader.collect("own", json!("order:*"), json!({})).await;
    let follower = Client::in_page(&js, 1, options).await;
    follower.collect("own", json!("chat:*"), json!({})).await;
    [leader, follower]
}

#[tokio::test]
async fn a_tab_is_told_nothing_of_what_only_another_one_wants() {
    let gateway = TestGateway::start().await;
    let address = gateway.address;
    let options = json!({"shareTabs": true, "persist": true});
    let [leader, follower] = leader_and_follower(&gateway, options).await;
    let listen = "
        state.heard = [];
        state.warned = [];
        console.warn = (text) => state.warned.push(text);
        for (const type of ['event', 'reset'])
            state.client.addEventListener(type, ({ detail }) => state.heard.push(detail.topic ?? detail.topics));";
    for tab in [&leader, &follower] {
        tab.run(listen, Value::Null).await;
    }
    gateway.publish("chat:1", json!(1)).await;
    follower.collected("own", 1).await;
    gateway.publish("order:1", json!(1)).await;
    leader.collected("own", 1).await;
    gateway.stop().await;
    let gateway = TestGateway::on(address).await;
    for tab in [&leader, &follower] {
        assert_eq!(tab.collected("own", 2).await, json!([1, "unknown_log"]));
    }
    gateway.publish("chat:1", json!(2)).await;
    gateway.publish("order:1", json!(2)).await;
    for tab in [&leader, &follower] {
        // Told once, however many were told of it.
        let own = tab.collected("own", 3).await;
        assert_eq!(own, json!([1, "unknown_log", 2]));
    }
    let heard = "return [state.heard, state.warned];";
    let told = leader.run(heard, Value::Null).await;
    assert_eq!(told, json!([["order:1", ["order:*"], "order:1"], []]));
    let told = follower.run(heard, Value::Null).await;
    assert_eq!(told, json!([["chat:1", ["chat:*"], "chat:1"], []]));
    let kept = "
        dispatchEvent(new Event('pagehide'));
        return Object.entries(sessionStorage).filter(([key]) => key.startsWith('tribus:at:')).map(([, kept]) => Object.keys(JSON.parse(kept)));";
    let kept = leader.run(kept, Value::Null).await;
    assert_eq!(kept, json!([["[[\"order:*\"],null,null]"]]));
}

#[tokio::test]
async fn a_tab_that_logs_in_as_someone_else_gets_a_connection_of_its_own() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"shareTabs": true});
    let leader = Client::in_page(&js, 0, options.clone()).await;
    leader.collect("own", json!("order:*"), json!({})).await;
    let tokens = [
        Claims::all("alice").token(),
        Claims::new("bob")
            .with("subscribe", json!(["bob:*"]))
            .token(),
    ];
    let other = Client::settled(js, 1, "/", &tokens, options).await;
    other.collect("alice", json!("order:*"), json!({})).await;
    let open = |scrape: &Scrape| scrape.value("tribus_connections{transport=\"ws\"}");
    assert_eq!(open(&gateway.scrape().await), 1.0);
    other.run("state.client.reconnect();", Value::Null).await;
    other.collect("bob", json!("bob:*"), json!({})).await;
    gateway.publish("bob:1", json!("hello")).await;
    assert_eq!(other.collected("bob", 1).await, json!(["hello"]));
    // What alice could see is not bob's.
    assert_eq!(other.collected("alice", 1).await, json!(["forbidden"]));
    assert_eq!(open(&gateway.scrape().await), 2.0);
    gateway.publish("order:1", json!(1)).await;
    assert_eq!(leader.collected("own", 1).await, json!([1]));
}

#[tokio::test]
async fn a_client_that_reconnects_while_it_logs_in_connects_once_and_stays_closed() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let body = "
        const until = async (check) => {
            while (!check()) await new Promise((resolve) => setTimeout(resolve, 5));
        };
        const { Tribus } = await load();
        const answers = [];
        const sockets = [];
        class Counted extends WebSocket {
            constructor(url) {
                super(url);
                sockets.push(this);
            }
        }
        const options = { shareTabs: true, WebSocket: Counted, getToken: () => new Promise((resolve) => answers.push(resolve)) };
        const client = new Tribus('/', options);
        await until(() => answers[0]);
        client.reconnect();
        await until(() => answers[1]);
        answers.forEach((answer) => answer(args));
        await until(() => client.status.state === 'live');
        client.close();
        const count = sockets.length;
        dispatchEvent(new Event('online'));
        await new Promise((resolve) => setTimeout(resolve, 500));
        return [count, sockets.length, client.status.state];";
    let token = Claims::all("alice").token();
    let got = js.run(body, json!(token)).await;
    assert_eq!(got, json!([1, 1, "closed"]));
}

#[tokio::test]
async fn a_tab_without_a_connection_keeps_its_token_fresh_and_publishes() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"shareTabs": true});
    let _leader = Client::in_page(&js, 0, options.clone()).await;
    // What loads the page counts for the life of a token.
    js.run_in(1, "await load();", Value::Null).await;
    let tokens = [3, 600].map(|seconds| Claims::all("alice").expiring_in(seconds).token());
    let second = Client::settled(js.clone(), 1, "/", &tokens, options).await;
    let publish = "
        await until(() => state.tokens === 2);
        await new Promise((resolve) => setTimeout(resolve, args));
        return [typeof (await state.client.publish('order:1', 1)).id, state.errors];";
    // By then the first one is over.
    let published = second.run(publish, json!(1500)).await;
    assert_eq!(published, json!(["string", []]));
    let connections = gateway
        .scrape()
        .await
        .value("tribus_connections{transport=\"ws\"}");
    assert!((connections - 1.0).abs() < f64::EPSILON, "{connections}");
}
