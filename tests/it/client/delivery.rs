//! What an application gets from the client, over each transport, in Node.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, Fault, Js, Network, TestGateway, record};

#[tokio::test]
async fn each_subscription_gets_its_events_once_and_in_order_over_each_transport() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let topic = |name: &str| format!("{transport}-{name}");
        client.collect("all", json!([topic("**")]), json!({})).await;
        client
            .collect("same", json!([topic("**")]), json!({}))
            .await;
        let paid = json!({"events": ["paid"], "tags": {"shop": "a"}});
        client
            .collect("paid", json!([topic("order:*")]), paid)
            .await;
        for number in 0..30 {
            let name = if number % 2 == 0 { "paid" } else { "made" };
            let shop = if number % 4 == 0 { "a" } else { "b" };
            let event = json!({
                "topic": topic(&format!("order:{}", number % 3)),
                "event": name, "tags": {"shop": shop}, "data": number,
            });
            assert_eq!(gateway.post(&event.to_string()).await.0, 200);
        }
        gateway.publish(&topic("end"), json!("end")).await;
        let mut all: Vec<Value> = (0..30).map(|number| json!(number)).collect();
        all.push(json!("end"));
        assert_eq!(
            client.collected("all", all.len()).await,
            json!(all),
            "{transport}"
        );
        assert_eq!(
            client.collected("same", all.len()).await,
            json!(all),
            "{transport}"
        );
        let paid = json!([0, 4, 8, 12, 16, 20, 24, 28]);
        assert_eq!(client.collected("paid", 8).await, paid, "{transport}");
    }
}

#[tokio::test]
async fn a_late_subscription_begins_in_the_past_and_repeats_nothing_for_the_others() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let topic = format!("order-{transport}:1");
        let all = format!("order-{transport}:*");
        let first = gateway.publish(&topic, json!(1)).await;
        gateway.publish(&topic, json!(2)).await;
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client
            .collect("live", json!([all]), json!({"cursor": first}))
            .await;
        client.collected("live", 1).await;
        client
            .collect("resumed", json!([all]), json!({"cursor": first}))
            .await;
        client
            .collect("rewound", json!([topic]), json!({"rewind": 1}))
            .await;
        client
            .collect("earliest", json!([topic]), json!({"cursor": "earliest"}))
            .await;
        client.collected("earliest", 2).await;
        gateway.publish(&topic, json!(3)).await;
        for (name, expected) in [
            ("live", json!([2, 3])),
            ("resumed", json!([2, 3])),
            ("rewound", json!([2, 3])),
            ("earliest", json!([1, 2, 3])),
        ] {
            let count = expected.as_array().map_or(0, Vec::len);
            let got = client.collected(name, count).await;
            assert_eq!(got, expected, "{name} over {transport}");
        }
    }
}

#[tokio::test]
async fn a_topic_outside_the_grants_ends_its_own_subscription_alone() {
    let gateway = TestGateway::start().await;
    let token = Claims::new("alice")
        .with("subscribe", json!(["order:*"]))
        .token();
    for transport in TRANSPORTS {
        let options = json!({"transports": [transport]});
        let client = Client::connect_with(&gateway, std::slice::from_ref(&token), options).await;
        client
            .collect("granted", json!(["order:*"]), json!({}))
            .await;
        client
            .collect("refused", json!(["secret:*"]), json!({}))
            .await;
        assert_eq!(client.collected("refused", 1).await, json!(["forbidden"]));
        gateway.publish("order:1", json!(transport)).await;
        let granted = client.collected("granted", 1).await;
        assert_eq!(granted, json!([transport]), "{transport}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_nothing_is_missed() {
    let gateway = TestGateway::start().await;
    let page = gateway.url("/favicon.svg");
    let all = TRANSPORTS.into_iter().flat_map(|transport| {
        [("node", Js::node()), ("chromium", Js::chromium(&page))]
            .map(|(host, js)| stay_through_expiry(&gateway, js, host, transport))
    });
    let counts = futures_util::future::join_all(all).await;
    let count: usize = counts.iter().sum();
    let told = format!("nothing interrupted, 0 lost and 0 repeated of {count} events");
    record(
        "client",
        &["a token that is renewed twice, on each transport"],
        &[&told],
    );
}

/// How many events came meanwhile.
async fn stay_through_expiry(gateway: &TestGateway, js: Js, host: &str, transport: &str) -> usize {
    // Browsers take a while to start, on a busy machine.
    js.run("await load();", Value::Null).await;
    let topic = &format!("{host}:{transport}");
    let tokens: Vec<String> = [5, 10, 3600]
        .map(|seconds| Claims::all("alice").expiring_in(seconds).token())
        .into();
    let options = json!({"transports": [transport]});
    let client = Client::settled(Arc::new(js), 0, &gateway.url("/"), &tokens, options).await;
    client.collect("all", json!([topic]), json!({})).await;
    let mut published = Vec::new();
    while client.run("return state.tokens;", Value::Null).await != json!(3) {
        published.push(json!(published.len()));
        let number = published.last().cloned().expect("a number");
        gateway.publish(topic, number).await;
    }
    gateway.publish(topic, json!("end")).await;
    published.push(json!("end"));
    let got = client.collected("all", published.len()).await;
    assert_eq!(got, json!(published), "{transport}");
    let states = "return state.statuses.map(({ state }) => state);";
    let states = client.run(states, Value::Null).await;
    assert_eq!(
        states,
        json!(["live"]),
        "{transport}: nothing was interrupted"
    );
    published.len()
}

#[tokio::test]
async fn a_refused_login_is_final_and_says_so() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let expired = Claims::all("alice").expiring_in(-60).token();
        let options = json!({"transports": [transport]});
        let client = Client::connect_with(&gateway, &[expired], options).await;
        let status = client.run("return state.client.status;", Value::Null).await;
        assert_eq!(status["state"], "closed", "{status}");
        let reason = status["reason"].as_str().expect("a reason");
        assert!(reason.starts_with("the login was refused"), "{reason}");
        assert_eq!(
            client.run("return state.tokens;", Value::Null).await,
            2,
            "a fresh one was asked for"
        );
        let refused = "try { await state.client.subscribe('a').next(); } catch (error) { return error.code; }";
        assert_eq!(client.run(refused, Value::Null).await, "closed");
    }
}

#[tokio::test]
async fn whoever_is_revoked_does_not_come_back() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let token = Claims::all(transport).token();
        let options = json!({"transports": [transport]});
        let client = Client::connect_with(&gateway, &[token], options).await;
        client.collect("all", json!(["order:*"]), json!({})).await;
        gateway.revoke(json!({"sub": transport})).await;
        let code = client.collected("all", 1).await;
        let closed = "await until(() => state.client.status.state === 'closed');
            return [state.client.status.reason, state.tokens];";
        let closed = client.run(closed, Value::Null).await;
        let reason = closed[0].as_str().expect("a reason");
        assert!(reason.starts_with("revoked"), "{transport}: {reason}");
        assert_eq!(closed[1], 1, "{transport}: no other token was asked for");
        assert_eq!(
            code.as_array().map(Vec::len),
            Some(1),
            "{transport}: {code}"
        );
    }
}

#[tokio::test]
async fn a_restart_is_a_reset_and_no_failure_of_the_transport() {
    let gateway = TestGateway::start().await;
    let address = gateway.address;
    let client = Client::connect(&gateway, json!({})).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    gateway.publish("order:1", json!(1)).await;
    client.collected("all", 1).await;
    gateway.stop().await;
    let gateway = TestGateway::on(address).await;
    assert_eq!(client.collected("all", 2).await, json!([1, "unknown_log"]));
    gateway.publish("order:1", json!(2)).await;
    assert_eq!(
        client.collected("all", 3).await,
        json!([1, "unknown_log", 2])
    );
    let status = client.run("return state.client.status;", Value::Null).await;
    assert_eq!(status, json!({"state": "live", "transport": "ws"}));
}

#[tokio::test]
async fn a_slow_loop_is_told_what_it_missed() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({"buffer": 3})).await;
    let begin = "
        state.loop = state.client.subscribe('order:*', { onReset: (reason) => state.resets.push(reason) });
        await until(() => state.loop.cursor);";
    client.run(begin, Value::Null).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    for number in 0..5 {
        gateway.publish("order:1", json!(number)).await;
    }
    client.collected("all", 5).await;
    let read = "const { value } = await state.loop.next(); return [state.resets, value.data];";
    assert_eq!(client.run(read, Value::Null).await, json!([["lagged"], 4]));
}

#[tokio::test]
async fn the_cursor_of_a_subscription_is_behind_nothing_that_was_not_given() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({})).await;
    let begin = "
        state.one = state.client.subscribe('order:*', { throttle: 60000, onEvent: () => {}, onReset: () => {} });
        await until(() => state.one.cursor);
        state.begun = state.one.cursor;";
    client.run(begin, Value::Null).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    gateway.publish("order:1", json!(1)).await;
    client.collected("all", 1).await;
    let cursors = "
        const before = state.one.cursor;
        state.one.close();
        return [before === state.begun, state.one.cursor === state.begun];";
    let is_kept = client.run(cursors, Value::Null).await;
    assert_eq!(is_kept, json!([true, true]));
}

#[tokio::test]
async fn busy_topics_come_as_their_newest_or_in_batches() {
    let gateway = TestGateway::start().await;
    let client = Client::connect(&gateway, json!({})).await;
    client
        .collect("newest", json!(["order:*"]), json!({"throttle": 400}))
        .await;
    let body = "
        state.batches = [];
        const one = state.client.subscribe('order:*', { batch: 400, onEvent: (events) => state.batches.push(events.map(({ data }) => data)) });
        await until(() => one.cursor);";
    client.run(body, Value::Null).await;
    let events: Vec<Value> = (0..6)
        .map(|number| json!({"topic": format!("order:{}", number % 2), "data": number}))
        .collect();
    gateway.post(&json!(events).to_string()).await;
    assert_eq!(client.collected("newest", 2).await, json!([4, 5]));
    assert_eq!(
        client.collected("batches", 1).await,
        json!([[0, 1, 2, 3, 4, 5]])
    );
}

#[tokio::test]
async fn publishing_works_over_each_transport_and_counts_once() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        let publish =
            "return state.client.publish('order:1', { id: 1 }, { event: 'paid', key: args });";
        let first = client.run(publish, json!(transport)).await;
        let again = client.run(publish, json!(transport)).await;
        assert_eq!(
            again,
            json!({"id": first["id"], "duplicate": true}),
            "{transport}"
        );
        let refused =
            "try { await state.client.publish('a b'); } catch (error) { return error.code; }";
        assert_eq!(
            client.run(refused, Value::Null).await,
            "bad_topic",
            "{transport}"
        );
    }
}

/// What the client does not do once it is closed, however far it had come.
#[tokio::test]
async fn nothing_comes_after_an_end() {
    let gateway = TestGateway::start().await;
    for transport in TRANSPORTS {
        let client = Client::connect(&gateway, json!({"transports": [transport]})).await;
        client.collect("all", json!(["order:*"]), json!({})).await;
        let body = "
            state.late = [];
            const under = state.client.subscribe('order:*', { onEvent: ({ data }) => state.late.push(data) });
            await null;
            await null;
            under.close();
            const first = state.client.subscribe('order:*', { onEvent: ({ data }) => { state.late.push(data); first.close(); } });
            await until(() => first.cursor);";
        client.run(body, Value::Null).await;
        let events: Vec<Value> = (0..5)
            .map(|number| json!({"topic": "order:1", "data": number}))
            .collect();
        gateway.post(&json!(events).to_string()).await;
        client.collected("all", 5).await;
        let late = client.run("return state.late;", Value::Null).await;
        assert_eq!(late, json!([0]), "{transport}");
    }
}

#[tokio::test]
async fn a_subscription_begins_over_a_busy_long_poll_of_a_slow_line() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    network.set([Fault::Latency {
        delay: Duration::from_millis(150),
        jitter: Duration::ZERO,
    }]);
    let through = network.gateway(&gateway);
    let client = Client::connect(&through, json!({"transports": ["poll"]})).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    // There is something new whenever a poll comes.
    let busy = async {
        loop {
            gateway.publish("order:1", json!(1)).await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    let begins = client.collect("late", json!(["order:1"]), json!({}));
    tokio::select! {
        () = busy => {}
        () = begins => {}
    }
    gateway.publish("order:1", json!("last")).await;
    client
        .run(
            "await until(() => state.late.at(-1) === 'last');",
            Value::Null,
        )
        .await;
}
