//! The gateway's numbers.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Console, STATE};
use crate::support::{Claims, TestGateway};

/// Longer than the page waits between two questions.
const A_WHILE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_charts_show_what_the_gateway_counts() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let value = |chart: &str, series: &str| format!("#chart-{chart} [data-series='{series}'] b");
    // The page's own four clients.
    console.reads(&value("connections", "ws"), "2").await;
    console.reads(&value("connections", "sse"), "1").await;
    let events = json!(vec![json!({"topic": "order:1"}); 50]).to_string();
    gateway.post(&events).await;
    let had = "
        await page.waitForFunction(() => {
            const words = document.querySelector('#chart-rate svg').getAttribute('aria-label');
            const [, published] = /published \\S+ now, at most (\\d+)/.exec(words) ?? [];
            const [, delivered] = /delivered \\S+ now, at most (\\d+)/.exec(words) ?? [];
            return Number(published) > 10 && Number(delivered) > Number(published);
        });";
    console.drive(had, Value::Null).await;
    console.reads("#retained", "50 events retained").await;
    console.reads(&value("latency", "p99"), "ms").await;
    let drawn = "return page.evaluate(() => document.querySelector('#chart-rate path').getAttribute('d').length);";
    let drawn = console.drive(drawn, Value::Null).await;
    assert!(drawn.as_u64().expect("a length") > 20, "{drawn}");
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn a_token_without_the_claim_is_told_so_and_asks_once() {
    let gateway = TestGateway::start().await;
    let claims = Claims::new("alice").with("subscribe", json!(["**"]));
    let console = Console::open_as(&gateway, &claims).await;
    console.reads(STATE, "Live").await;
    console.reads("#charts-note", "has no stats claim").await;
    let hidden = "return page.isHidden('#charts-body');";
    assert_eq!(console.drive(hidden, Value::Null).await, json!(true));
    tokio::time::sleep(A_WHILE).await;
    let asked = "return page.requested.filter((path) => path === '/stats').length;";
    assert_eq!(console.drive(asked, Value::Null).await, json!(1));
}

#[tokio::test]
async fn the_numbers_of_a_gateway_that_is_gone_are_called_old() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let address = gateway.address;
    console.reads("#retained", "0 events retained").await;
    assert_eq!(console.text("#charts-note").await, "");
    gateway.stop().await;
    console
        .reads(
            "#charts-note",
            "can not be reached. These are the numbers of",
        )
        .await;
    let _gateway = TestGateway::on(address).await;
    let is_fresh = "
        await page.waitForFunction(() => document.querySelector('#charts-note').textContent === '');
        return page.isVisible('#charts-body');";
    assert_eq!(console.drive(is_fresh, Value::Null).await, json!(true));
}

#[tokio::test]
async fn rates_and_quantiles_are_those_between_two_answers() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let body = "
        const { Meter } = await import('/console/meter.js');
        const answer = (second, published, delivered, counts, startedAt = 'then') => ({
            timestamp: new Date(1e12 + second * 1000).toISOString(), startedAt, published,
            connections: { ws: 1, sse: 0, poll: 0 }, delivered: { ws: delivered, sse: 10, poll: 0 },
            latency: { bounds: [0.001, 0.01], counts: { ws: counts, sse: [0, 0, 0], poll: [0, 0, 0] } },
        });
        const meter = new Meter();
        return [
            answer(0, 100, 100, [5, 5, 5]),
            answer(2, 110, 140, [5, 5, 5]),
            answer(3, 110, 140, [15, 5, 5]),
            answer(4, 110, 140, [15, 15, 5]),
            answer(5, 110, 140, [15, 15, 1005]),
            answer(20, 110, 140, [15, 15, 1005]),
            answer(26, 4, 0, [0, 0, 0], 'now'),
        ].map((each) => meter.take(each)).map(({ published, delivered, p50, p99 }) =>
            [published, delivered, p50, p99].map((value) => value === null ? null : Math.round(value * 100) / 100));";
    let told = console.js.run(body, Value::Null).await;
    let expected = json!([
        // published and delivered a second, p50 and p99 in milliseconds
        [null, null, null, null],
        [5, 20, null, null],
        [0, 0, 0.5, 0.99],
        [0, 0, 1, 9.82],
        [0, 0, 10, 10],
        // What is long ago counts no more.
        [0, 0, null, null],
        [null, null, null, null],
    ]);
    assert_eq!(told, expected);
}

/// As behind a balancer that deals the questions out.
#[tokio::test]
async fn answers_of_several_nodes_are_added_up() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let body = "
        const { Meter } = await import('/console/meter.js');
        const answer = (node, second, published, ws, fast) => ({
            node, timestamp: new Date(1e12 + second * 1000).toISOString(), startedAt: node, published,
            connections: { ws, sse: 1, poll: 0 }, delivered: { ws: 2 * published, sse: 0, poll: 0 },
            latency: { bounds: [0.001, 0.01], counts: { ws: [fast, 0, 0], sse: [0, 0, 0], poll: [0, 0, 0] } },
        });
        const meter = new Meter();
        return [
            answer('b', 0, 100, 3, 0),
            answer('a', 1, 1000, 4, 0),
            answer('b', 2, 120, 3, 10),
            answer('a', 3, 1010, 5, 10),
            // One of them is gone.
            answer('a', 24, 1010, 5, 10),
        ].map((each) => meter.take(each)).map(({ nodes, connections, published, delivered, p50 }) =>
            [nodes.join(), connections.ws, connections.sse, published, delivered, p50]);";
    let told = console.js.run(body, Value::Null).await;
    let expected = json!([
        ["b", 3, 1, null, null, null],
        ["a,b", 7, 2, null, null, null],
        ["a,b", 7, 2, 10, 20, 0.5],
        ["a,b", 8, 2, 15, 30, 0.5],
        ["a", 5, 1, 0, 0, null],
    ]);
    assert_eq!(told, expected);
}
