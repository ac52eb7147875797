//! What the gateway and the wire see of the hooks, and that each event comes once whatever React
//! mounts when.

use serde_json::{Value, json};

use super::{Page, React};
use crate::support::{Claims, TestGateway, within};

const SUBSCRIBES: &str = "state.sent.filter(({ type }) => type === 'subscribe').length";
const UNSUBSCRIBES: &str = "state.sent.filter(({ type }) => type === 'unsubscribe').length";

fn part(kind: &str, name: &str, topics: Value, options: Value) -> Value {
    json!({"kind": kind, "name": name, "topics": topics, "options": options})
}

/// How many connections have this very filter.
async fn subscribers(gateway: &TestGateway, filter: &str) -> u64 {
    let url = gateway.admin_url("/admin/topics?limit=1000");
    let answer = within("a list", gateway.http.get(url).send()).await;
    let list: Value = answer.expect("an answer").json().await.expect("JSON");
    let topics = list["topics"].as_array().expect("topics");
    let found = topics.iter().find(|topic| topic["topic"] == filter);
    found.map_or(0, |topic| topic["subscribers"].as_u64().expect("a number"))
}

async fn await_subscribers(gateway: &TestGateway, filter: &str, count: u64) {
    let counted = async {
        while subscribers(gateway, filter).await != count {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    within(&format!("{count} subscribers of {filter}"), counted).await;
}

#[tokio::test]
async fn components_that_want_the_same_share_one_subscription_until_the_last_has_gone() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for react in React::BOTH {
        page.begin(react, &Claims::all("alice")).await;
        let options = json!({"events": ["message", "paid"]});
        let reordered = json!({"events": ["paid", "message"]});
        let all = json!([
            part("feed", "one", json!(["order:*", "user:*"]), options.clone()),
            part("feed", "two", json!(["user:*", "order:*"]), reordered),
            part(
                "feed",
                "three",
                json!(["order:*", "user:*", "user:*"]),
                options
            ),
        ]);
        page.show_live(all.clone()).await;
        gateway.publish("order:1", json!(1)).await;
        for number in 2..6 {
            // Each render has arrays and objects of its own.
            page.show(all.clone()).await;
            gateway.publish("user:1", json!(number)).await;
            page.shows(
                "three",
                &(1..=number)
                    .map(|n| n.to_string())
                    .collect::<Vec<_>>()
                    .join(" "),
            )
            .await;
        }
        let same = "['two', 'three'].every((name) => records[name].value.events === records.one.value.events)";
        page.until(same, Value::Null).await;
        assert_eq!(page.value(SUBSCRIBES).await, 1, "{react:?}");
        assert_eq!(subscribers(&gateway, "order:*").await, 1);

        // One stays, and takes the place of another that goes.
        let mut stays = all[1].clone();
        stays["id"] = json!("another");
        page.show(json!([stays])).await;
        page.until("!document.getElementById('one')", Value::Null)
            .await;
        gateway.publish("user:1", json!(6)).await;
        page.shows("two", "1 2 3 4 5 6").await;
        // Longer than the subscription outlives its last component.
        let waits = "await new Promise((resolve) => setTimeout(resolve, 1200));";
        page.run(waits, Value::Null).await;
        gateway.publish("user:1", json!(7)).await;
        page.shows("two", "1 2 3 4 5 6 7").await;
        assert_eq!(page.value(UNSUBSCRIBES).await, 0, "{react:?}");

        page.show(json!([])).await;
        await_subscribers(&gateway, "order:*", 0).await;
        assert_eq!(page.value(UNSUBSCRIBES).await, 1, "{react:?}");
        assert_eq!(page.value(SUBSCRIBES).await, 1, "{react:?}");
    }
}

#[tokio::test]
async fn events_that_come_while_components_mount_again_come_once_and_in_order() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for react in React::BOTH {
        let start = gateway.publish("before", json!(0)).await;
        page.begin(react, &Claims::all("alice")).await;
        let options = json!({"cursor": start, "limit": 1000});
        let count = 120;
        let publishing = async {
            for number in 0..count {
                gateway.publish("order:1", json!(number)).await;
            }
        };
        let mounting = async {
            for round in 0..30 {
                // Another id is another instance.
                let mut shown = part("feed", "feed", json!(["order:*"]), options.clone());
                shown["id"] = json!(round);
                page.show(json!([shown])).await;
                if round % 3 == 0 {
                    page.show(json!([])).await;
                }
            }
        };
        tokio::join!(publishing, mounting);
        page.until("records.feed?.value.events?.length >= args", json!(count))
            .await;
        let got = page
            .value("records.feed.value.events.map(({ data }) => data)")
            .await;
        assert_eq!(got, json!((0..count).collect::<Vec<_>>()), "{react:?}");
        page.show(json!([])).await;
        await_subscribers(&gateway, "order:*", 0).await;
    }
}

#[tokio::test]
async fn a_component_that_is_hidden_and_shown_again_is_called_with_what_came_meanwhile() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    let parts = |is_hidden: bool| {
        // What waits for its throttle when it is hidden was not given to it.
        let slow = json!({"throttle": 300});
        let mut parts = [
            part("listener", "quick", json!(["order:*"]), json!({})),
            part("listener", "slow", json!(["order:*"]), slow),
        ];
        for part in &mut parts {
            part["isHidden"] = json!(is_hidden);
        }
        json!(parts)
    };
    page.show_live(parts(false)).await;
    let mut published = Vec::new();
    for _ in 0..3 {
        for is_hidden in [false, true] {
            let number = published.len();
            published.push(number);
            gateway.publish("order:1", json!(number)).await;
            if is_hidden {
                let got = page.value("records.quick.got.length").await;
                assert_eq!(got, number, "it is hidden");
            } else {
                let all = json!(published.len());
                page.until("records.quick.got.length === args", all).await;
            }
            page.show(parts(!is_hidden)).await;
            let subscribers = u64::from(is_hidden);
            await_subscribers(&gateway, "order:*", subscribers).await;
        }
        page.until(
            "records.quick.got.length === args && records.slow.got.at(-1) === args - 1",
            json!(published.len()),
        )
        .await;
    }
    let got = page.value("records.quick.got").await;
    assert_eq!(got, json!(published));
    let slow = page.value("records.slow.got").await;
    let slow = slow.as_array().expect("a list");
    let numbers: Vec<_> = slow.iter().map(Value::as_u64).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{slow:?}");
}

#[tokio::test]
async fn what_is_gone_listens_to_the_client_no_more() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    page.load(React::Newest).await;
    page.connect(&Claims::all("alice")).await;
    // Only what the hooks ask of it, since the client listens to itself too.
    let counted = "
        const { client } = state;
        state.listeners = 0;
        app.open({
            get status() {
                return client.status;
            },
            subscribe: (...given) => client.subscribe(...given),
            addEventListener(...given) {
                state.listeners += 1;
                client.addEventListener(...given);
            },
            removeEventListener(...given) {
                state.listeners -= 1;
                client.removeEventListener(...given);
            },
        });
        await until(() => app.show);";
    page.run(counted, Value::Null).await;
    page.show_live(json!([
        part("feed", "feed", json!(["order:*"]), json!({})),
        part("listener", "listener", json!(["user:*"]), json!({})),
        part("query", "query", json!(["shop:*"]), json!({})),
        {"kind": "status", "name": "status"},
    ]))
    .await;
    let listening = page.value("state.listeners").await;
    assert!(listening.as_u64() >= Some(4), "{listening}");
    page.show(json!([])).await;
    for filter in ["order:*", "user:*", "shop:*"] {
        await_subscribers(&gateway, filter, 0).await;
    }
    page.until("state.listeners === 0", Value::Null).await;
}

#[tokio::test]
async fn other_topics_are_another_subscription_and_no_topics_are_none() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    let shown = |topics: Value| json!([part("feed", "feed", topics, json!({}))]);
    for none in [
        Value::Null,
        json!([]),
        json!(""),
        json!([null]),
        json!([false, ""]),
    ] {
        page.show(shown(none)).await;
        page.shows("feed", "").await;
    }
    assert_eq!(page.value(SUBSCRIBES).await, 0);
    page.show_live(shown(json!(["order:*"]))).await;
    gateway.publish("order:1", json!(1)).await;
    page.shows("feed", "1").await;
    page.show_live(shown(json!(["user:*"]))).await;
    page.shows("feed", "").await;
    gateway.publish("user:1", json!(2)).await;
    page.shows("feed", "2").await;
    await_subscribers(&gateway, "order:*", 0).await;
    assert_eq!(subscribers(&gateway, "user:*").await, 1);
    // As `user && topicOf(user)` makes it.
    for unknown in [Value::Null, json!(false), json!("")] {
        page.show(shown(json!([unknown, "order:*"]))).await;
        await_subscribers(&gateway, "order:*", 1).await;
        gateway.publish("order:1", json!(3)).await;
        page.shows("feed", "3").await;
        page.show(shown(json!([]))).await;
        await_subscribers(&gateway, "order:*", 0).await;
    }
    page.assert_no_complaints().await;
}

#[tokio::test]
async fn a_list_that_is_hidden_and_shown_again_has_what_came_meanwhile() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    let shown = |is_hidden: bool| {
        let options = json!({"rewind": 10});
        let mut part = part("feed", "feed", json!(["order:*"]), options);
        part["isHidden"] = json!(is_hidden);
        json!([part])
    };
    gateway.publish("order:1", json!(1)).await;
    page.show_live(shown(false)).await;
    page.shows("feed", "1").await;
    gateway.publish("order:1", json!(2)).await;
    page.shows("feed", "1 2").await;
    page.show(shown(true)).await;
    await_subscribers(&gateway, "order:*", 0).await;
    gateway.publish("order:1", json!(3)).await;
    gateway.publish("order:1", json!(4)).await;
    page.show(shown(false)).await;
    page.shows("feed", "3 4").await;
    gateway.publish("order:1", json!(5)).await;
    page.shows("feed", "3 4 5").await;
    page.until("!records.feed.value.reset", Value::Null).await;
    page.assert_no_complaints().await;
}

#[tokio::test]
async fn a_restart_of_the_gateway_is_a_reset_in_the_state_and_by_the_callback() {
    let gateway = TestGateway::start().await;
    let address = gateway.address;
    let page = Page::open(&gateway, React::Newest).await;
    page.show_live(json!([
        part("feed", "one", json!(["order:*"]), json!({})),
        part("feed", "two", json!(["order:*"]), json!({})),
        part("listener", "listener", json!(["order:*"]), json!({})),
    ]))
    .await;
    gateway.publish("order:1", json!(1)).await;
    page.shows("two", "1").await;
    gateway.stop().await;
    let gateway = TestGateway::on(address).await;
    page.until("records.listener.got.length === 2", Value::Null)
        .await;
    gateway.publish("order:1", json!(2)).await;
    page.shows("one", "2").await;
    page.shows("two", "2").await;
    page.until("records.listener.got.length === 3", Value::Null)
        .await;
    let listened = page.value("records.listener.got").await;
    assert_eq!(listened, json!([1, "unknown_log", 2]));
    for name in ["one", "two"] {
        let told = page
            .value(&format!(
                "[records.{name}.resets, records.{name}.value.reset]"
            ))
            .await;
        let expected = json!([["unknown_log"], {"reason": "unknown_log", "count": 1}]);
        assert_eq!(told, expected, "{name}");
    }
}

#[tokio::test]
async fn a_refused_topic_is_an_error_in_the_state_and_by_the_callback() {
    let gateway = TestGateway::start().await;
    let claims = Claims::new("alice").with("subscribe", json!(["order:*"]));
    let page = Page::of(&gateway).await;
    page.begin(React::Newest, &claims).await;
    page.show(json!([
        part("feed", "refused", json!(["secret:*"]), json!({})),
        part("feed", "granted", json!(["order:*"]), json!({})),
    ]))
    .await;
    page.until(
        "records.refused?.value.error && state.begun[0]",
        Value::Null,
    )
    .await;
    let told = page
        .value("[records.refused.errors, records.refused.value.error.code]")
        .await;
    assert_eq!(told, json!([["forbidden"], "forbidden"]));
    gateway.publish("order:1", json!(1)).await;
    page.shows("granted", "1").await;
    let told = page
        .value("[records.granted.errors, records.granted.value.error ?? null]")
        .await;
    assert_eq!(told, json!([[], null]));
}

#[tokio::test]
async fn a_client_that_is_told_to_come_back_as_soon_as_it_is_closed_goes_on_where_it_stood() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    // Before the hooks listen, which hear of the end when the client is further.
    let login = "
        state.client.addEventListener('status', ({ detail }) => {
            if (detail.state !== 'closed') return;
            state.token = args;
            state.client.reconnect();
        });";
    page.run(login, json!(Claims::all("bob").token())).await;
    page.show_live(json!([part("feed", "feed", json!(["order:*"]), json!({}))]))
        .await;
    gateway.publish("order:1", json!(1)).await;
    page.shows("feed", "1").await;
    gateway.revoke(json!({"sub": "alice"})).await;
    page.until("records.feed.errors.length === 1", Value::Null)
        .await;
    gateway.publish("order:1", json!(2)).await;
    page.shows("feed", "1 2").await;
    page.until("!records.feed.value.error", Value::Null).await;
}

#[tokio::test]
async fn a_client_that_was_closed_and_comes_back_goes_on_where_it_stood() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    page.show_live(json!([
        part("feed", "feed", json!(["order:*"]), json!({})),
        part("listener", "listener", json!(["order:*"]), json!({})),
    ]))
    .await;
    gateway.publish("order:1", json!(1)).await;
    page.shows("feed", "1").await;
    gateway.revoke(json!({"sub": "alice"})).await;
    page.until("records.feed.value.error", Value::Null).await;
    let told = "[records.feed.value.status.state, records.feed.errors.length]";
    assert_eq!(page.value(told).await, json!(["closed", 1]));
    gateway.publish("order:1", json!(2)).await;
    let login = "state.token = args; state.client.reconnect();";
    page.run(login, json!(Claims::all("bob").token())).await;
    page.shows("feed", "1 2").await;
    page.until("!records.feed.value.error", Value::Null).await;
    gateway.publish("order:1", json!(3)).await;
    page.shows("feed", "1 2 3").await;
    page.until("records.listener.got.length === 3", Value::Null)
        .await;
    assert_eq!(page.value("records.listener.got").await, json!([1, 2, 3]));
    assert_eq!(
        page.value("records.feed.value.reset ?? null").await,
        Value::Null
    );
}
