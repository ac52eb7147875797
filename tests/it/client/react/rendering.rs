//! What components show, when, and how often they render.

use serde_json::{Value, json};

use super::{Page, React};
use crate::support::{Claims, Js, TestGateway};

fn feed(options: Value) -> Value {
    json!([{"kind": "feed", "name": "feed", "topics": ["order:*"], "options": options}])
}

fn numbers(range: std::ops::Range<usize>) -> String {
    let words: Vec<_> = range.map(|number| number.to_string()).collect();
    words.join(" ")
}

/// All of them in one request, so that they come as fast as they can.
async fn publish_at_once(gateway: &TestGateway, events: impl Iterator<Item = (String, usize)>) {
    let events: Vec<_> = events
        .map(|(topic, number)| json!({"topic": topic, "data": number}))
        .collect();
    let (status, answer) = gateway.post(&json!(events).to_string()).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_component_renders_and_updates_under_strict_mode_with_each_react() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for react in React::BOTH {
        page.begin(react, &Claims::all("alice")).await;
        let version = page.value("app.version").await;
        let begins = if react == React::Newest { "19." } else { "18." };
        assert!(version.as_str().expect("text").starts_with(begins));
        let mut parts = feed(json!({}));
        let status = json!({"kind": "status", "name": "status"});
        parts.as_array_mut().expect("a list").push(status);
        page.show_live(parts).await;
        page.shows("status", "live ws").await;
        page.shows("feed", "").await;
        for number in 0..3 {
            gateway.publish("order:1", json!(number)).await;
            page.shows("feed", &numbers(0..number + 1)).await;
        }
        let last = page.value("records.feed.value.last").await;
        assert_eq!(
            (&last["topic"], &last["data"]),
            (&json!("order:1"), &json!(2))
        );
        let status = page.value("records.feed.value.status.state").await;
        assert_eq!(status, "live");
        page.run("state.client.close();", Value::Null).await;
        page.shows("status", "closed ").await;
        page.assert_no_complaints().await;
    }
}

#[tokio::test]
async fn a_busy_topic_renders_at_most_once_a_frame_and_loses_nothing() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    page.show_live(feed(json!({"limit": 3000}))).await;
    let before = page.value("[records.feed.renders, Date.now()]").await;
    let events = (0..3000).map(|number| ("order:1".to_owned(), number));
    publish_at_once(&gateway, events).await;
    page.until("records.feed.value.events.length === 3000", Value::Null)
        .await;
    let after = page.value("[records.feed.renders, Date.now()]").await;
    let difference = |index: usize| after[index].as_u64().zip(before[index].as_u64());
    let (renders, begun) = difference(0).expect("numbers");
    let (now, then) = difference(1).expect("numbers");
    let most = (now - then) / 16 + 2;
    let renders = renders - begun;
    assert!(
        (1..=most).contains(&renders),
        "{renders} renders, and {most} at most"
    );
    page.shows("feed", &numbers(0..3000)).await;
}

#[tokio::test]
async fn throttle_gives_of_each_topic_the_newest_and_the_last() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    page.show_live(feed(json!({"throttle": 300}))).await;
    let before = page.value("records.feed.renders").await;
    let events = (0..1000).map(|number| (format!("order:{}", number % 2), number));
    publish_at_once(&gateway, events).await;
    page.shows("feed", "998 999").await;
    let after = page.value("records.feed.renders").await;
    let renders = after.as_u64().expect("a number") - before.as_u64().expect("a number");
    assert!(renders <= 2, "{renders} renders");
}

#[tokio::test]
async fn a_list_is_bounded_and_may_keep_the_newest_of_each_topic() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    let part = |name: &str, options: Value| json!({"kind": "feed", "name": name, "topics": ["order:*"], "options": options});
    page.show_live(json!([
        part("default", json!({})),
        part("few", json!({"limit": 3})),
        part("latest", json!({"latest": true})),
        part("latest-few", json!({"latest": true, "limit": 2})),
    ]))
    .await;
    let events = (0..150).map(|number| (format!("order:{}", number % 3), number));
    publish_at_once(&gateway, events).await;
    gateway.publish("order:1", json!(150)).await;
    page.shows("default", &numbers(51..151)).await;
    page.shows("few", "148 149 150").await;
    page.shows("latest", "147 149 150").await;
    page.shows("latest-few", "149 150").await;
}

#[tokio::test]
async fn snapshots_are_immutable_and_stay_the_same_while_nothing_changes() {
    let gateway = TestGateway::start().await;
    let page = Page::open(&gateway, React::Newest).await;
    page.show_live(feed(json!({}))).await;
    gateway.publish("order:1", json!(1)).await;
    page.shows("feed", "1").await;
    page.run("state.before = app.records.feed.value;", Value::Null)
        .await;
    let renders = page.value("records.feed.renders").await;
    page.show(feed(json!({}))).await;
    page.until("records.feed.renders > args", renders).await;
    assert_eq!(
        page.value("state.before === records.feed.value").await,
        true
    );
    gateway.publish("order:1", json!(2)).await;
    page.shows("feed", "1 2").await;
    let before = "[state.before.events.length, Object.isFrozen(state.before.events)]";
    assert_eq!(page.value(before).await, json!([1, true]));
}

#[tokio::test]
async fn a_server_renders_what_the_page_then_takes_over() {
    let gateway = TestGateway::start().await;
    let mut parts = feed(json!({}));
    let others = [
        json!({"kind": "status", "name": "status"}),
        json!({"kind": "listener", "name": "listener", "topics": ["order:*"]}),
        json!({"kind": "query", "name": "query", "topics": ["order:*"]}),
    ];
    parts.as_array_mut().expect("a list").extend(others);
    let page = Page::of(&gateway).await;
    for react in React::BOTH {
        let node = Js::node();
        node.run(&react.bundle(), Value::Null).await;
        let html = node.run("return app.html(args);", parts.clone()).await;
        let text = html.as_str().expect("text");
        assert!(text.contains("<p id=\"feed\"></p>"), "{text}");
        assert!(text.contains("connecting"), "{text}");
        assert_eq!(
            node.run("return app.complaints;", Value::Null).await,
            json!([])
        );

        page.load(react).await;
        let open = json!({"token": Claims::all("alice").token()});
        page.run(super::OPEN, open).await;
        page.run(
            "await until(() => state.client.status.state === 'live');
             app.hydrate(state.client, args.parts, args.html);
             await until(() => state.begun.includes('order:*'));",
            json!({"parts": parts, "html": html}),
        )
        .await;
        page.shows("status", "live ws").await;
        gateway.publish("order:1", json!(7)).await;
        page.shows("feed", "7").await;
        page.until("records.listener.got.includes(7)", Value::Null)
            .await;
        page.assert_no_complaints().await;
    }
}

#[tokio::test]
async fn mistakes_are_told_where_they_are_made() {
    let node = Js::node();
    node.run(&React::Newest.bundle(), Value::Null).await;
    let attempt = "try { return app.bare(...args); } catch ({ message }) { return message; }";
    let told = node.run(attempt, json!(["order:*"])).await;
    assert_eq!(
        told,
        "tribus: no client: render inside <TribusProvider client={…}>, or pass one"
    );
    for limit in [json!(0), json!(1.5), json!("all"), json!(10_001)] {
        let told = node
            .run(
                attempt,
                json!(["order:*", {"client": null, "limit": limit}]),
            )
            .await;
        let told = told.as_str().expect("text").to_owned();
        assert!(
            told.ends_with("give a whole number from 1 to 10000"),
            "{told}"
        );
    }
    let nothing = "try { app.invalidateOn(null, 'order:*', { keys: [] }); } catch ({ message }) { return message; }";
    let told = node.run(nothing, Value::Null).await;
    assert!(
        told.as_str()
            .expect("text")
            .starts_with("tribus: keys is empty")
    );
    let fine = node
        .run(attempt, json!(["order:*", {"client": null}]))
        .await;
    assert_eq!(fine, "connecting");
}
