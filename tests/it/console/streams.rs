//! The live tail, the publish form, and the lanes.

use serde_json::{Value, json};

use super::{Console, LANES_LIVE, SOON, STATE};
use crate::support::{Claims, TestGateway, within};

#[tokio::test]
async fn what_is_published_shows_in_the_tail_and_on_every_transport() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.drive(LANES_LIVE, Value::Null).await;
    console.fill("#topic", "order:7").await;
    let data = r#"{"big":12345678901234567890.10,"text":"<img src=x onerror=alert(1)>"}"#;
    console.fill("#data", data).await;
    console.click("#publish button[type=submit]").await;
    console.reads("#published", "Published").await;
    console
        .reads("#tail-list li", "<img src=x onerror=alert(1)>")
        .await;
    let arrived = "
        await page.waitForFunction(() => document.querySelectorAll('#arrivals td.tick').length === 3);
        return page.evaluate(() => document.querySelectorAll('main img').length);";
    let images = console.drive(arrived, Value::Null).await;
    assert_eq!(images, json!(0), "what an event says is no markup");

    let response = gateway
        .get(
            "/poll",
            "topics=**&cursor=earliest",
            &Claims::all("backend"),
        )
        .await;
    let stored = within("the log", response.text()).await.expect("text");
    assert!(
        stored.contains(data),
        "to the last digit, as it was typed: {stored}"
    );
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn the_form_says_why_it_did_not_publish() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").with("publish", json!(["user:*"]));
    let console = Console::open_as(&gateway, &claims).await;
    console.reads(STATE, "Live").await;
    console.fill("#data", "{not JSON").await;
    console.click("#publish button[type=submit]").await;
    console.reads("#data-problem", "Not JSON").await;
    console.fill("#data", "1").await;
    console.click("#publish button[type=submit]").await;
    console.reads("#published", "forbidden").await;
    console.reads("#published", "publish grants: user:*").await;
}

#[tokio::test]
async fn the_tail_follows_other_topics_and_shows_only_what_is_asked_for() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    gateway.publish("order:1", json!("tea")).await;
    gateway.publish("user:1", json!("coffee")).await;
    console.reads("#tail-count", "2 events").await;

    console.fill("#text-filter", "COFFEE").await;
    console.reads("#tail-list", "user:1").await;
    assert!(!console.text("#tail-list").await.contains("order:1"));
    console.fill("#text-filter", "").await;
    console.reads("#tail-list", "order:1").await;

    console.click("#clear").await;
    console.fill("#topics", "order:*").await;
    let select = "await page.selectOption('#from', 'earliest');";
    console.drive(select, Value::Null).await;
    console.click("#follow button").await;
    console.reads("#tail-list", "order:1").await;
    console.reads("#tail-list .mark", "replayed").await;
    gateway.publish("user:2", json!(null)).await;
    gateway.publish("order:2", json!(null)).await;
    console.reads("#tail-list", "order:2").await;
    let live = "return page.textContent('#tail-list li:first-child');";
    let live = console.drive(live, Value::Null).await;
    assert!(!live.as_str().expect("a row").contains("replayed"));
    assert!(!console.text("#tail-list").await.contains("user:"));

    console.fill("#topics", " , ").await;
    console.click("#follow button").await;
    gateway.publish("order:4", json!(null)).await;
    console.reads("#tail-list", "order:4").await;
    console.fill("#topics", "no good").await;
    console.click("#follow button").await;
    console
        .reads("#banner", "The gateway refused the topics")
        .await;
    console.fill("#topics", "user:*").await;
    console.click("#follow button").await;
    gateway.publish("user:3", json!(null)).await;
    console.reads("#tail-list", "user:3").await;
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn a_paused_tail_stands_still_and_misses_nothing() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    gateway.publish("order:1", json!(null)).await;
    console.reads("#tail-list", "order:1").await;
    console.click("#pause").await;
    gateway.publish("order:2", json!(null)).await;
    console.reads("#tail-count", "paused, 1 waiting").await;
    assert!(!console.text("#tail-list").await.contains("order:2"));
    console.click("#pause").await;
    console.reads("#tail-list", "order:2").await;

    // As does one in which someone reads.
    console.click("#tail-list li:first-child summary").await;
    console
        .reads("#tail-list pre", "\"topic\": \"order:2\"")
        .await;
    gateway.publish("order:3", json!(null)).await;
    console.reads("#tail-count", "paused, 1 waiting").await;
}

#[tokio::test]
async fn the_tail_keeps_no_more_rows_than_it_shows() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let batch: Vec<Value> = (0..700)
        .map(|number| json!({"topic": format!("order:{number}"), "data": number}))
        .collect();
    let (status, _) = gateway.post(&json!(batch).to_string()).await;
    assert_eq!(status, 200);
    console.reads("#tail-count", "700 events").await;
    console
        .reads("#tail-list li:first-child", "order:699")
        .await;
    let rows = "return page.evaluate(() => document.querySelectorAll('#tail-list li').length);";
    assert_eq!(console.drive(rows, Value::Null).await, json!(200));
}

#[tokio::test]
async fn a_tail_that_stood_still_for_long_says_what_it_does_not_keep() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.fill("#text-filter", "tea").await;
    gateway.publish("order:first", json!("tea")).await;
    console.reads("#tail-list", "order:first").await;
    console.click("#pause").await;
    let batch: Vec<Value> = (0..700)
        .map(|number| {
            let data = if number % 100 == 0 { "tea" } else { "coffee" };
            json!({"topic": format!("order:{number}"), "data": data})
        })
        .collect();
    let (status, _) = gateway.post(&json!(batch).to_string()).await;
    assert_eq!(status, 200);
    console
        .reads(
            "#tail-count",
            "paused, 700 waiting, the newest 500 are kept",
        )
        .await;
    console.click("#pause").await;
    console.reads("#tail-list", "order:600").await;
    let rows = "
        return page.evaluate(() => [...document.querySelectorAll('#tail-list li')].map((row) =>
            (row.querySelector('.topic') ?? row).textContent));";
    let expected = json!([
        "order:600",
        "order:500",
        "order:400",
        "order:300",
        "order:200",
        "200 events came here, and are no longer kept.",
        "order:first",
    ]);
    assert_eq!(console.drive(rows, Value::Null).await, expected);
}

#[tokio::test]
async fn times_are_those_of_the_readers_zone() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let travel = "await cdp.send('Emulation.setTimezoneOverride', { timezoneId: 'Asia/Kolkata' });";
    console.drive(travel, Value::Null).await;
    let link = format!("#token={}", Claims::all("alice").token());
    console.visit(0, &link).await;
    console.reads(STATE, "Live over WebSocket").await;
    let event = json!({"topic": "order:1", "timestamp": "2026-01-25T18:30:00.123Z"});
    let (status, _) = gateway.post(&event.to_string()).await;
    assert_eq!(status, 200);
    console.reads("#tail-list time", "00:00:00.123").await;
    let title = console
        .drive(
            "return page.getAttribute('#tail-list time', 'title');",
            Value::Null,
        )
        .await;
    assert_eq!(title, "2026-01-25T18:30:00.123Z");
}

#[tokio::test]
async fn a_tab_that_is_left_at_once_keeps_no_place_for_its_lanes() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let in_and_out = "
        await page.evaluate((token) => {
            document.querySelector('#token').value = token;
            document.querySelector('#sign-in').requestSubmit();
            document.querySelector('#forget').click();
        }, args);";
    let token = Claims::all("alice").token();
    console.drive(in_and_out, json!(token)).await;
    console.visit(1, &format!("#token={token}")).await;
    console.reads_in(1, SOON, STATE, "Live").await;
    console.js.drive(1, LANES_LIVE, Value::Null).await;
}

/// A browser has six connections to one host, over HTTP/1.1, for all its tabs.
#[tokio::test]
async fn one_tab_at_a_time_has_its_lanes_open() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.drive(LANES_LIVE, Value::Null).await;
    let link = format!("#token={}", Claims::all("alice").token());
    console.visit(1, &link).await;
    console.reads_in(1, SOON, STATE, "Live").await;
    console
        .reads_in(1, SOON, "#lanes-note", "another tab may need them")
        .await;

    let open = "await page.check('#lanes-open');";
    console.js.drive(1, open, Value::Null).await;
    console.js.drive(1, LANES_LIVE, Value::Null).await;
    console
        .reads("#lanes-note", "another tab opened its lanes")
        .await;
    gateway.publish("order:1", json!(null)).await;
    console.reads("#tail-list", "order:1").await;
    console.reads_in(1, SOON, "#arrivals", "order:1").await;
    console.click("#publish button[type=submit]").await;
    console.reads("#published", "Published").await;

    // Closed by hand they stay so, whatever is followed.
    let close = "await page.uncheck('#lanes-open');";
    console.js.drive(1, close, Value::Null).await;
    let follow = "
        await page.fill('#topics', 'order:*');
        await page.click('#follow button');
        await page.waitForFunction(() => document.querySelector('#snippet').textContent.includes('order:*'));";
    console.js.drive(1, follow, Value::Null).await;
    gateway.publish("order:2", json!(null)).await;
    console.reads_in(1, SOON, "#tail-list", "order:2").await;
    let is_open = "return page.isChecked('#lanes-open');";
    let is_open = console.js.drive(1, is_open, Value::Null).await;
    assert_eq!(is_open, json!(false));
}

/// What lanes may bring, and no gateway of a test does.
#[tokio::test]
async fn the_table_of_arrivals_is_bounded_and_tells_what_was_missed_or_came_twice() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let body = "
        const { Table } = await import('/console/table.js');
        const root = document.createElement('table');
        root.createTHead().insertRow();
        const body = root.createTBody();
        const [ws, sse] = ['ws', 'sse'].map((key) => ({ key, name: key, origin: null, cursor: null }));
        const table = new Table(root, [ws, sse]);
        const event = (number) => ({ id: `a-${number}`, topic: 'order:1', event: 'paid', data: number });
        const shown = async () => {
            await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
            return [...body.rows].map((row) => [...row.cells].slice(1).map(({ className }) => className).join(' '));
        };
        const told = { again: [table.add(ws, event(1)), table.add(ws, event(1)), table.add(sse, event(1), true)] };
        table.add(ws, event(2));
        table.add(ws, event(3));
        table.addReset(sse, 'a-2');
        told.cells = await shown();
        for (let number = 4; number <= 150; number += 1) table.add(ws, event(number));
        told.rows = (await shown()).length;
        told.forgotten = table.add(sse, event(5));
        told.rowsAfter = (await shown()).length;
        table.hide();
        table.add(sse, event(150));
        table.add(ws, event(151));
        told.afterHiding = await shown();
        return told;";
    let told = console.js.run(body, Value::Null).await;
    let expected = json!({
        "again": [false, true, false],
        "cells": ["tick waits", "tick miss", "miss replay"],
        "rows": 100,
        "forgotten": false,
        "rowsAfter": 100,
        "afterHiding": ["tick waits"],
    });
    assert_eq!(told, expected);
}
