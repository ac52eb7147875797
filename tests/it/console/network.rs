//! Breaking the network, and what the page says about it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{CLIMBS, Console, LANES_LIVE, REASON, SOON, STATE};
use crate::support::TestGateway;

const HISTORY: &str = "#connection .transitions";

#[tokio::test]
async fn a_websocket_that_is_killed_comes_back() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#kill").await;
    console.reads(HISTORY, "the WebSocket was cut").await;
    console
        .reads_within(CLIMBS, STATE, "Live over WebSocket")
        .await;
    let history = console.text(HISTORY).await;
    assert!(
        !history.contains("Degraded"),
        "no transport failed: {history}"
    );
    gateway.publish("order:1", json!(null)).await;
    console.reads("#tail-list", "order:1").await;
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn going_offline_is_seen_and_what_was_missed_is_made_up_for() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#offline").await;
    console.reads(STATE, "Offline").await;
    console.reads(REASON, "no network").await;
    console.reads("#open-now", "Nothing is open").await;
    gateway.publish("order:1", json!(null)).await;
    // What the page publishes takes the real network.
    console.fill("#topic", "order:2").await;
    console.click("#publish button[type=submit]").await;
    console.reads("#published", "Published").await;
    assert_eq!(console.text("#tail-list").await, "");
    console.click("#offline").await;
    console.reads(STATE, "Live over WebSocket").await;
    for topic in ["order:1", "order:2"] {
        console.reads("#tail-list", topic).await;
    }
    let marks = "return page.evaluate(() => document.querySelectorAll('#tail-list .mark').length);";
    let marks = console.drive(marks, Value::Null).await;
    assert_eq!(marks, json!(2), "both are marked as replayed");

    console.click("#offline-briefly").await;
    console.reads(STATE, "Offline").await;
    console.reads(STATE, "Live over WebSocket").await;
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn each_transport_marks_what_it_makes_up_for_and_nothing_else() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.drive(LANES_LIVE, Value::Null).await;
    console.click("#offline").await;
    console.reads("#open-now", "Nothing is open").await;
    gateway.publish("order:1", json!(null)).await;
    console.click("#offline").await;
    let marked = "await page.waitForFunction(() => document.querySelectorAll('#arrivals .replay').length === 3);";
    console.drive(marked, Value::Null).await;
    console.drive(LANES_LIVE, Value::Null).await;
    gateway.publish("order:2", json!(null)).await;
    let ticked = "await page.waitForFunction(() => document.querySelectorAll('#arrivals .tick').length === 3);";
    console.drive(ticked, Value::Null).await;
}

#[tokio::test]
async fn the_history_is_bounded_and_goes_on_where_nothing_changed() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let body = "
        const { History } = await import('/console/timeline.js');
        const history = new History();
        const began = [];
        for (const reason of [undefined, 'refused', undefined])
            began.push(history.enter({ state: 'connecting', reason }));
        const { reason } = history.now;
        for (let count = 0; count < 300; count += 1) {
            history.enter({ state: 'live', transport: 'ws' });
            history.enter({ state: 'degraded', transport: 'sse' });
        }
        return [began, reason, history.spells.length];";
    let told = console.js.run(body, Value::Null).await;
    assert_eq!(told, json!([[true, false, false], "refused", 200]));
}

#[tokio::test]
async fn it_degrades_with_the_reason_and_climbs_back() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#refuse").await;
    console.reads(STATE, "Degraded to SSE").await;
    console.reads(REASON, "WebSockets are refused.").await;

    console.click("#diagnose").await;
    console
        .reads("#diagnosis", "Events get through over SSE.")
        .await;
    console
        .reads("#diagnosis", "WebSocket WebSockets are refused")
        .await;

    console.click("#hold").await;
    console
        .reads_within(CLIMBS, STATE, "Degraded to Long-poll")
        .await;
    gateway.publish("order:1", json!(null)).await;
    console.reads("#tail-list", "order:1").await;

    console.click("#mend").await;
    console
        .reads_within(CLIMBS, STATE, "Live over WebSocket")
        .await;
    let strip = "return page.getAttribute('#connection .strip svg', 'aria-label');";
    let strip = console.drive(strip, Value::Null).await;
    for name in ["WebSocket for", "SSE for", "Long-poll for"] {
        assert!(strip.as_str().expect("words").contains(name), "{strip}");
    }
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn a_stream_that_stalls_is_noticed_by_its_heartbeat() {
    let gateway = TestGateway::with("heartbeat = \"1s\"").await;
    let console = Console::open(&gateway).await;
    console
        .reads("#connection .heard", "a heartbeat is due every 1 s")
        .await;
    console.click("#refuse").await;
    console.reads(STATE, "Degraded to SSE").await;
    console.click("#stall").await;
    console.reads(HISTORY, "it fell silent").await;
    console
        .reads_within(CLIMBS, STATE, "Degraded to Long-poll")
        .await;
    console.click("#mend").await;
    console
        .reads_within(CLIMBS, STATE, "Live over WebSocket")
        .await;
}

/// The client's signal for its polls lives as long as its connection.
#[tokio::test]
async fn polls_leave_no_listeners_behind() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.drive(LANES_LIVE, Value::Null).await;
    let count = "
        await page.evaluate(() => {
            window.listeners = 0;
            for (const [name, step] of [['addEventListener', 1], ['removeEventListener', -1]]) {
                const real = AbortSignal.prototype[name];
                AbortSignal.prototype[name] = function (...given) {
                    window.listeners += step;
                    return real.apply(this, given);
                };
            }
        });";
    console.drive(count, Value::Null).await;
    for number in 1..=20 {
        gateway.publish("order:1", json!(number)).await;
        let came = format!("{number} event");
        console
            .reads(".lane[data-lane='poll'] .counts", &came)
            .await;
    }
    let left = console
        .drive("return page.evaluate('listeners');", Value::Null)
        .await;
    assert!(left.as_i64().expect("a number") < 5, "{left} listeners");
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_told_and_a_gap_is_marked() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let address = gateway.address;
    gateway.publish("order:1", json!(null)).await;
    console.reads("#tail-list", "order:1").await;
    gateway.stop().await;
    console
        .reads("#banner", "The gateway can not be reached")
        .await;
    let gateway = TestGateway::on(address).await;
    let patient = Duration::from_secs(60);
    console.reads_within(patient, STATE, "Live").await;
    console
        .reads_within(SOON, "#banner", "Events were missed")
        .await;
    console
        .reads("#tail-list .reset", "Events were missed (unknown_log)")
        .await;
    gateway.publish("order:2", json!(null)).await;
    console.reads("#tail-list", "order:2").await;
    console.click("#banner button").await;
    let hidden = "return page.isHidden('#banner');";
    assert_eq!(console.drive(hidden, Value::Null).await, json!(true));
}
