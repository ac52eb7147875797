//! What becomes of the client in a page that is reloaded, frozen, cut off, or old-fashioned; in Chromium.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::application::{Client, TRANSPORTS};
use crate::support::{Claims, Fault, Js, Manner, Network, Scrape, TestGateway, record};

/// Long enough for the gateway to notice that a page is frozen.
pub const HEARTBEAT: &str = "heartbeat = \"500ms\"";

/// As the browser does to a page that nobody looks at.
pub const FREEZE: &str = "await cdp.send('Page.setWebLifecycleState', { state: args });";

pub async fn chromium(gateway: &TestGateway) -> Arc<Js> {
    Arc::new(Js::chromium(&gateway.url("/favicon.svg")))
}

pub async fn publish(gateway: &TestGateway, data: std::ops::Range<usize>) {
    for number in data {
        gateway.publish("order:1", json!(number)).await;
    }
}

pub fn numbers(data: std::ops::Range<usize>) -> Value {
    data.collect()
}

#[tokio::test]
async fn a_reload_misses_nothing_where_positions_persist() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"persist": true});
    let client = Client::in_page(&js, 0, options.clone()).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    client.collect("other", json!("other:*"), json!({})).await;
    publish(&gateway, 0..3).await;
    client.collected("all", 3).await;
    client.drive("await page.reload();", Value::Null).await;
    publish(&gateway, 3..6).await;

    let client = Client::in_page(&js, 0, options.clone()).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    assert_eq!(client.collected("all", 3).await, numbers(3..6));
    // A subscription that was closed in the page begins anew.
    let again = "
        const one = state.client.subscribe('other:*');
        await until(() => one.cursor);
        one.close();
        await new Promise((resolve) => setTimeout(resolve));";
    client.run(again, Value::Null).await;
    gateway.publish("other:1", json!("missed")).await;
    client.collect("again", json!("other:*"), json!({})).await;
    gateway.publish("other:1", json!("new")).await;
    assert_eq!(client.collected("again", 1).await, json!(["new"]));
}

#[tokio::test]
async fn a_crashed_page_goes_on_from_what_was_kept_last() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    // A page that crashes hears no `pagehide`.
    let deafen = "addEventListener('pagehide', (event) => event.stopImmediatePropagation(), true);";
    js.run(deafen, Value::Null).await;
    let options = json!({"persist": "orders"});
    let client = Client::in_page(&js, 0, options.clone()).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    publish(&gateway, 0..3).await;
    let last = gateway.publish("order:1", json!(3)).await;
    client.collected("all", 4).await;
    let kept = "
        const key = () => Object.keys(sessionStorage).find((key) => key.startsWith('tribus:at:orders:'));
        await until(() => sessionStorage.getItem(key())?.includes(args));";
    client.run(kept, json!(last)).await;
    client.drive("await page.reload();", Value::Null).await;
    publish(&gateway, 4..6).await;
    let client = Client::in_page(&js, 0, options).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    assert_eq!(client.collected("all", 2).await, numbers(4..6));
}

#[tokio::test]
async fn a_page_that_was_frozen_goes_on_though_its_connection_is_dead() {
    let gateway = TestGateway::with(HEARTBEAT).await;
    // Browsers send requests into connections that are dead without a word, and wait; WebSockets are new ones.
    for (transport, manner) in [
        ("ws", Manner::Silent),
        ("sse", Manner::Reset),
        ("poll", Manner::Reset),
    ] {
        let network = Network::before(&gateway).await;
        let js = Arc::new(Js::chromium(&network.url("/favicon.svg")));
        let options = json!({"transports": [transport]});
        let client = Client::in_page(&js, 0, options).await;
        client.collect("all", json!(["order:*"]), json!({})).await;
        publish(&gateway, 0..3).await;
        client.collected("all", 3).await;
        client.drive(FREEZE, json!("frozen")).await;
        network.set([Fault::Offline(manner)]);
        publish(&gateway, 3..6).await;
        if transport == "ws" {
            let open = "tribus_connections{transport=\"ws\"}";
            let is_given_up = |scrape: &Scrape| scrape.value(open) < 1.0;
            gateway
                .scrape_until("the gateway to give it up", is_given_up)
                .await;
        }
        network.clear();
        publish(&gateway, 6..9).await;
        client.drive(FREEZE, json!("active")).await;
        let seen = "document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));";
        client.run(seen, Value::Null).await;
        publish(&gateway, 9..12).await;
        let got = client.collected("all", 12).await;
        assert_eq!(got, numbers(0..12), "{transport}");
        client.run("state.client.close();", Value::Null).await;
    }
    record(
        "client",
        &["a page frozen while its connection dies, and resumed, on each transport"],
        &["0 lost and 0 repeated"],
    );
}

#[tokio::test]
async fn an_offline_page_says_so_and_is_back_at_once() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let client = Client::in_page(&js, 0, json!({"maxAttempts": 2})).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    publish(&gateway, 0..2).await;
    client.collected("all", 2).await;
    let offline = "await context.setOffline(args);";
    client.drive(offline, json!(true)).await;
    client.status("offline").await;
    publish(&gateway, 2..4).await;
    // Attempts of an offline device prove nothing, so none of them counts, and it says nothing else meanwhile.
    let reconnect = "
        state.statuses = [];
        for (let count = 0; count < 5; count += 1) {
            const { length } = state.errors;
            state.client.reconnect();
            await until(() => state.errors.length > length);
        }
        return [...new Set([...state.statuses, state.client.status].map(({ state }) => state))];";
    let states = client.run(reconnect, Value::Null).await;
    assert_eq!(states, json!(["offline"]));
    client.drive(offline, json!(false)).await;
    let status = client.status("live").await;
    assert_eq!(status, json!({"state": "live", "transport": "ws"}));
    assert_eq!(client.collected("all", 4).await, numbers(0..4));
}

#[tokio::test]
async fn a_new_network_is_tried_while_the_old_connection_still_stands() {
    let gateway = TestGateway::with(HEARTBEAT).await;
    let network = Network::before(&gateway).await;
    network.set([Fault::RefuseUpgrades]);
    let js = Arc::new(Js::chromium(&network.url("/favicon.svg")));
    let client = Client::in_page(&js, 0, json!({})).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    client.status("degraded").await;
    network.clear();
    // As when a phone leaves its office: no `offline` comes before it.
    client
        .run("dispatchEvent(new Event('online'));", Value::Null)
        .await;
    let back = tokio::time::timeout(Duration::from_secs(5), client.status("live"));
    let back = back.await.expect("it does not wait for its next probe");
    assert_eq!(back["transport"], "ws");
    gateway.publish("order:1", json!(0)).await;
    assert_eq!(client.collected("all", 1).await, numbers(0..1));
}

#[tokio::test]
async fn the_browsers_own_event_source_reads_streams_through_tickets() {
    let gateway = TestGateway::with(HEARTBEAT).await;
    let network = Network::before(&gateway).await;
    let js = Arc::new(Js::chromium(&network.url("/favicon.svg")));
    let options = json!({"sse": "native", "transports": ["sse"]});
    let client = Client::in_page(&js, 0, options).await;
    client.collect("all", json!(["order:*"]), json!({})).await;
    client
        .collect("paid", json!(["order:*"]), json!({"events": ["paid"]}))
        .await;
    publish(&gateway, 0..3).await;
    client.collected("all", 3).await;
    network.set([Fault::CutResponses {
        after: Duration::from_millis(300),
    }]);
    publish(&gateway, 3..6).await;
    client
        .run("await until(() => state.errors.length > 1);", Value::Null)
        .await;
    network.clear();
    publish(&gateway, 6..9).await;
    gateway
        .post(r#"{"topic":"order:1","event":"paid","data":9}"#)
        .await;
    assert_eq!(client.collected("all", 10).await, numbers(0..10));
    assert_eq!(client.collected("paid", 1).await, json!([9]));
}

#[tokio::test]
async fn more_topics_than_a_url_holds_are_read_without_the_browsers_own_event_source() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"sse": "native", "transports": ["sse"]});
    let client = Client::in_page(&js, 0, options).await;
    let topics: Vec<String> = (0..300)
        .map(|number| format!("a-topic-with-a-long-name:{number}"))
        .collect();
    client.collect("all", json!(topics), json!({})).await;
    gateway.publish(&topics[299], json!(1)).await;
    assert_eq!(client.collected("all", 1).await, json!([1]));
}

#[tokio::test]
async fn a_position_that_persists_is_for_those_who_are_there_when_it_is_asked_for() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"persist": true});
    let client = Client::in_page(&js, 0, options.clone()).await;
    client.collect("all", json!("order:*"), json!({})).await;
    publish(&gateway, 0..3).await;
    client.collected("all", 3).await;
    client.drive("await page.reload();", Value::Null).await;
    publish(&gateway, 3..6).await;

    let client = Client::begin(js.clone(), 0, "/", &[Claims::all("alice").token()], options).await;
    let both = "
        state.both = [[], []];
        for (const got of state.both) state.client.subscribe('order:*', ({ data }) => got.push(data));
        await until(() => state.both.every((got) => got.length >= 3));
        return state.both;";
    let both = client.run(both, Value::Null).await;
    assert_eq!(both, json!([[3, 4, 5], [3, 4, 5]]));
    // One that comes later begins when it comes.
    client.collect("late", json!("order:*"), json!({})).await;
    publish(&gateway, 6..7).await;
    assert_eq!(client.collected("late", 1).await, numbers(6..7));
}

#[tokio::test]
async fn positions_persist_though_a_client_that_was_refused_is_closed_too() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let options = json!({"persist": true});
    let client = Client::in_page(&js, 0, options.clone()).await;
    client.collect("all", json!("order:*"), json!({})).await;
    publish(&gateway, 0..3).await;
    client.collected("all", 3).await;
    gateway.revoke(json!({"sub": "alice", "for": "1s"})).await;
    client.status("closed").await;
    client.run("state.client.close();", Value::Null).await;
    client.drive("await page.reload();", Value::Null).await;
    publish(&gateway, 3..6).await;
    let bob = Claims::all("bob").token();
    let client = Client::begin(js.clone(), 0, "/", &[bob], options).await;
    client.collect("all", json!("order:*"), json!({})).await;
    assert_eq!(client.collected("all", 3).await, numbers(3..6));
}

/// What the heap may grow by between two thousand and ten thousand more events: what is measured
/// is some ten kilobytes, and one event that was kept each time would be two megabytes.
const GROWTH_BYTES: f64 = 500_000.0;

#[tokio::test]
async fn memory_stays_flat_over_ten_thousand_events() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let mut grown = Vec::new();
    for (page, transport) in TRANSPORTS.into_iter().enumerate() {
        let client = Client::in_page(&js, page, json!({"transports": [transport]})).await;
        let begin = "
            state.count = 0;
            const onEvent = () => (state.count += 1);
            state.client.subscribe('order:*', { onEvent });
            state.client.subscribe(['order:1', 'order:2'], { onEvent, latest: true });
            state.loop = (async () => { for await (const event of state.client.subscribe('**')) state.count += 1; })();
            state.unread = state.client.subscribe('order:*', { buffer: 50, onReset: () => {} });
            await until(() => state.unread.cursor);";
        client.run(begin, Value::Null).await;
        let mut used = Vec::new();
        let mut published = 0;
        for batches in [20, 100] {
            for _ in 0..batches {
                let events: Vec<Value> = (0..100)
                    .map(|number| json!({"topic": format!("order:{}", number % 3), "data": "x".repeat(200)}))
                    .collect();
                let (status, answer) = gateway.post(&json!(events).to_string()).await;
                assert_eq!(status, 200, "{answer}");
                published += 100;
                // In step, so that the gateway has nobody to call slow.
                let all = json!(published / 3 * 8 - published / 100);
                client
                    .run("await until(() => state.count >= args);", all)
                    .await;
            }
            let heap = "
                await cdp.send('HeapProfiler.collectGarbage');
                return (await cdp.send('Runtime.getHeapUsage')).usedSize;";
            let heap = client.drive(heap, Value::Null).await;
            used.push(heap.as_f64().expect("a number"));
        }
        let growth = used[1] - used[0];
        grown.push(format!("{transport} {:+.0} KiB", growth / 1024.0));
        assert!(growth < GROWTH_BYTES, "{transport}: {used:?}");
        client.run("state.client.close();", Value::Null).await;
    }
    let grown = format!("heap {}", grown.join(", "));
    record(
        "client",
        &["memory after 2,000 events and after 12,000"],
        &[&grown],
    );
}

/// As where the gateway was upgraded while a page was open: names inside the two modules are new in each version.
#[tokio::test]
async fn a_page_keeps_the_extras_of_its_own_version() {
    let gateway = TestGateway::start().await;
    let js = chromium(&gateway).await;
    let client = Client::in_page(&js, 0, json!({})).await;
    let loaded = "
        const loads = () => performance.getEntriesByType('resource');
        await until(() => loads().some(({ name, responseEnd }) => name.endsWith('/tribus-extras.js') && responseEnd));";
    client.run(loaded, Value::Null).await;
    let other = "
        await page.route('**/tribus-extras.js', (route) =>
            route.fulfill({ contentType: 'text/javascript', body: 'export const use = () => \"of another version\";' }));";
    client.drive(other, Value::Null).await;
    let publish = "return typeof (await state.client.publish('order:1', 1)).id;";
    assert_eq!(client.run(publish, Value::Null).await, "string");
}
