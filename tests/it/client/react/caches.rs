//! TanStack Query and SWR kept fresh: nothing falls between a load and the subscription, bursts cost few
//! loads, a gap loads anew, and an optimistic update is shown, kept, and rolled back.

use serde_json::{Value, json};

use super::{Page, React, UNTIL};
use crate::support::{Claims, Js, TestGateway};

const LIBRARIES: [&str; 2] = ["query", "swr"];

async fn begin(page: &Page) {
    page.begin(React::Newest, &Claims::all("alice")).await;
}

const LOADS: &str = "app.backend.loads";

/// Whoever asks the backend from now on waits.
const HOLD_ANSWERS: &str = "app.backend.gate = new Promise((resolve) => (state.answer = resolve));";

/// As [`HOLD_ANSWERS`], and what it answers changes as soon as it has been asked.
const CHANGE_ONCE_ASKED: &str = "
    const gate = new Promise((resolve) => (state.answer = resolve));
    Object.defineProperty(app.backend, 'gate', {
        configurable: true,
        get() {
            this.value = 1;
            return gate;
        },
    });";

const ANSWER: &str = "delete app.backend.gate; state.answer();";

fn part(library: &str, options: Value) -> Value {
    json!([{"kind": library, "name": library, "topics": ["order:*"], "options": options}])
}

/// Shows it, and waits until its subscription has begun and the refetch that follows is done.
async fn settle(page: &Page, library: &str) {
    page.show_live(part(library, json!({"throttle": 0}))).await;
    page.until("app.backend.loads === 2", Value::Null).await;
    page.shows(library, "0").await;
}

/// As a backend does it: the change first, then the event.
async fn change(page: &Page, gateway: &TestGateway, value: usize) {
    page.run("app.backend.value = args;", json!(value)).await;
    gateway.publish("order:1", json!(value)).await;
}

#[tokio::test]
async fn a_change_is_loaded_when_its_event_comes() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for react in React::BOTH {
        for library in LIBRARIES {
            page.begin(react, &Claims::all("alice")).await;
            settle(&page, library).await;
            for value in 1..4 {
                change(&page, &gateway, value).await;
                page.shows(library, &value.to_string()).await;
            }
            assert_eq!(page.value(LOADS).await, 5, "{library}: one for each event");
            page.assert_no_complaints().await;
        }
    }
}

#[tokio::test]
async fn a_change_between_the_load_and_the_subscription_is_loaded_too() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        // Nobody is connected yet, and no event of this change will ever come.
        page.load(React::Newest).await;
        let late = "
            state.login = new Promise((resolve) => (state.logIn = () => resolve(args.token)));
            const { Tribus } = await load();
            state.client = new Tribus('/', { getToken: () => state.login });
            app.open(state.client);
            await until(() => app.show);";
        let args = json!({"token": Claims::all("alice").token()});
        page.run(late, args).await;
        page.show(part(library, json!({}))).await;
        page.shows(library, "0").await;
        change(&page, &gateway, 1).await;
        page.run("state.logIn();", Value::Null).await;
        page.shows(library, "1").await;
    }
}

#[tokio::test]
async fn a_change_during_the_first_load_is_loaded_too() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        let start = gateway.publish("before", json!(0)).await;
        // Found by the refetch when the subscription begins, or by the one event that comes.
        for options in [json!({}), json!({"cursor": start})] {
            begin(&page).await;
            let begins = options["cursor"].is_null();
            let gate = if begins {
                CHANGE_ONCE_ASKED
            } else {
                HOLD_ANSWERS
            };
            page.run(gate, Value::Null).await;
            page.show(part(library, options.clone())).await;
            page.until("app.backend.loads >= 1", Value::Null).await;
            page.until("state.begun.includes('order:*')", Value::Null)
                .await;
            if !begins {
                change(&page, &gateway, 1).await;
            }
            // The load still waits, so a refetch that is to follow it can only be on its way by now.
            page.run(
                "await new Promise((resolve) => setTimeout(resolve, 500));",
                Value::Null,
            )
            .await;
            page.run(ANSWER, Value::Null).await;
            page.shows(library, "1").await;
        }
    }
}

#[tokio::test]
async fn a_load_that_began_at_a_known_position_is_not_repeated() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        let start = gateway.publish("before", json!(0)).await;
        // A change that the load saw, and whose event comes after the position: once more, to be safe.
        begin(&page).await;
        page.show_live(part(library, json!({"cursor": start})))
            .await;
        page.shows(library, "0").await;
        let waits =
            "await new Promise((resolve) => setTimeout(resolve, 600)); return app.backend.loads;";
        assert_eq!(page.run(waits, Value::Null).await, 1, "{library}");
        change(&page, &gateway, 1).await;
        page.shows(library, "1").await;
        assert_eq!(page.value(LOADS).await, 2, "{library}");
    }
}

#[tokio::test]
async fn events_after_the_position_of_the_load_are_not_missed() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        begin(&page).await;
        let start = gateway.publish("before", json!(0)).await;
        // As a server does that renders the page: position, load, and then time goes by.
        let warm = "app.queryClient.setQueryData(['value'], 0); return null;";
        page.run(warm, Value::Null).await;
        change(&page, &gateway, 1).await;
        page.show(part(library, json!({"cursor": start}))).await;
        page.shows(library, "1").await;
    }
}

#[tokio::test]
async fn a_burst_costs_few_loads_and_the_last_change_is_shown() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        begin(&page).await;
        settle(&page, library).await;
        let options = json!({"throttle": 1000});
        page.show(part(library, options)).await;
        page.run("app.backend.value = 1;", Value::Null).await;
        let events: Vec<_> = (0..500)
            .map(|number| json!({"topic": "order:1", "data": number}))
            .collect();
        gateway.post(&json!(events).to_string()).await;
        change(&page, &gateway, 2).await;
        page.shows(library, "2").await;
        let loads = page.value(LOADS).await.as_u64().expect("a number");
        assert!(loads <= 4, "{library}: {loads}");
    }
}

#[tokio::test]
async fn a_slow_load_is_not_restarted_by_each_event() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        begin(&page).await;
        settle(&page, library).await;
        page.run(HOLD_ANSWERS, Value::Null).await;
        change(&page, &gateway, 1).await;
        page.until("app.backend.loads === 3", Value::Null).await;
        for value in 2..20 {
            change(&page, &gateway, value).await;
        }
        assert_eq!(page.value(LOADS).await, 3, "{library}");
        page.run(ANSWER, Value::Null).await;
        page.shows(library, "19").await;
        let got = page.value(&format!("records.{library}.got")).await;
        assert!(got.as_array().expect("a list").contains(&json!(1)), "{got}");
    }
}

#[tokio::test]
async fn components_with_the_same_cache_load_together() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        begin(&page).await;
        let parts: Vec<_> = ["one", "two", "three"]
            .map(
                |name| json!({"kind": library, "name": name, "topics": ["order:*"], "options": {}}),
            )
            .into();
        page.show_live(json!(parts)).await;
        page.until("app.backend.loads === 2", Value::Null).await;
        change(&page, &gateway, 1).await;
        for name in ["one", "two", "three"] {
            page.shows(name, "1").await;
        }
        assert_eq!(page.value(LOADS).await, 3, "{library}");
    }
}

#[tokio::test]
async fn a_reset_loads_everything_anew() {
    for library in LIBRARIES {
        let gateway = TestGateway::start().await;
        let address = gateway.address;
        let page = Page::open(&gateway, React::Newest).await;
        settle(&page, library).await;
        gateway.stop().await;
        // Whose event is lost with the gateway.
        page.run("app.backend.value = 1;", Value::Null).await;
        let _gateway = TestGateway::on(address).await;
        page.shows(library, "1").await;
        let resets = page.value(&format!("records.{library}.resets")).await;
        assert_eq!(resets, json!(["unknown_log"]), "{library}");
    }
}

#[tokio::test]
async fn an_optimistic_update_stays_while_events_of_others_come_and_until_it_is_settled() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for library in LIBRARIES {
        for fails in [false, true] {
            begin(&page).await;
            settle(&page, library).await;
            let begin = format!(
                "app.backend.fails = args;
                 app.backend.gate = new Promise((resolve) => (state.answer = resolve));
                 app.records.{library}.change(9);"
            );
            page.run(&begin, json!(fails)).await;
            page.shows(library, "9").await;
            let heard = "const heard = new Promise((resolve) =>
                state.client.addEventListener('event', () => setTimeout(resolve, 100), { once: true }));
                await state.client.publish('order:1', 0);
                await heard;
                return document.getElementById(args).textContent;";
            assert_eq!(page.run(heard, json!(library)).await, "9", "{library}");
            page.run(
                &format!(
                    "app.records.{library}.got.length = 0; delete app.backend.gate; state.answer();"
                ),
                Value::Null,
            )
            .await;
            let outcome = if fails { "0" } else { "9" };
            page.shows(library, outcome).await;
            page.until("app.backend.loads >= 3", Value::Null).await;
            page.shows(library, outcome).await;
            let flickers = if fails { json!([0]) } else { json!([]) };
            let got = page.value(&format!("records.{library}.got")).await;
            assert_eq!(got, flickers, "{library}, fails: {fails}");
        }
    }
}

#[tokio::test]
async fn a_prefetch_that_was_under_way_counts_as_stale() {
    let gateway = TestGateway::start().await;
    let page = Page::of(&gateway).await;
    for is_first in [true, false] {
        begin(&page).await;
        if !is_first {
            page.run("await app.prefetch();", Value::Null).await;
        }
        page.run(HOLD_ANSWERS, Value::Null).await;
        let invalidated = format!(
            "const prefetched = app.prefetch();
             await until(() => app.queryClient.isFetching());
             const done = app.invalidate(['value']);
             {ANSWER}
             await Promise.all([prefetched, done]);
             return app.queryClient.getQueryState(['value']).isInvalidated;"
        );
        let is_stale = page.run(&invalidated, Value::Null).await;
        assert_eq!(is_stale, true, "first: {is_first}");
    }
}

/// Without React, in Node: what is invalidated is in `state.got`.
async fn invalidate_in_node(gateway: &TestGateway) -> Js {
    let js = Js::node();
    js.run(&React::Newest.bundle(), Value::Null).await;
    let begin = "
        const { Tribus, WebSocket } = await load();
        state.got = [];
        state.heard = 0;
        state.client = new Tribus(args.url, { getToken: () => args.token, WebSocket });
        state.client.addEventListener('event', () => (state.heard += 1));
        state.rule = app.invalidateOn(state.client, 'order:*', {
            keys: ['all'],
            keysOf: ({ data }) => (data === null ? undefined : [`order ${data.toFixed()}`]),
            invalidate: (key) => {
                state.got.push(key);
                if (key === 'order 13') throw Error('unlucky');
                return key === 'order 7' ? new Promise(() => {}) : undefined;
            },
            throttle: 0,
        });
        await until(() => state.got[0]);";
    let args = json!({"url": gateway.url("/"), "token": Claims::all("alice").token()});
    js.run(&format!("{UNTIL} {begin}"), args).await;
    js
}

async fn invalidated(js: &Js, count: usize) -> Value {
    let body = "await until(() => state.got.length >= args); return state.got.splice(0);";
    js.run(&format!("{UNTIL} {body}"), json!(count)).await
}

#[tokio::test]
async fn an_event_may_tell_what_it_changes() {
    let gateway = TestGateway::start().await;
    let js = invalidate_in_node(&gateway).await;
    assert_eq!(invalidated(&js, 1).await, json!(["all"]), "it has begun");
    for (data, key) in [
        (json!(1), "order 1"),
        (json!(13), "order 13"),
        (json!(13), "order 13"),
        (Value::Null, "all"),
        (json!("no number, which throws"), "all"),
    ] {
        gateway.publish("order:1", data).await;
        assert_eq!(invalidated(&js, 1).await, json!([key]));
    }
}

#[tokio::test]
async fn more_keys_than_anyone_looks_at_are_all_of_them() {
    let gateway = TestGateway::start().await;
    let js = invalidate_in_node(&gateway).await;
    invalidated(&js, 1).await;
    for (count, expected) in [(99, 100), (101, 1)] {
        js.run("state.release = state.rule.hold();", Value::Null)
            .await;
        let events: Vec<_> = (0..count)
            .map(|number| json!({"topic": "order:1", "data": 100 + number}))
            .collect();
        gateway.post(&json!(events).to_string()).await;
        let release = "await until(() => state.heard >= args);
            state.heard = 0;
            state.release();";
        js.run(&format!("{UNTIL} {release}"), json!(count)).await;
        let got = invalidated(&js, expected).await;
        let got = got.as_array().expect("a list");
        assert_eq!(got.len(), expected, "{got:?}");
        assert!(got.contains(&json!("all")), "{got:?}");
    }
}

#[tokio::test]
async fn a_load_that_hangs_and_a_hold_that_is_forgotten_end_after_a_while() {
    let gateway = TestGateway::start().await;
    let js = invalidate_in_node(&gateway).await;
    invalidated(&js, 1).await;
    gateway.publish("order:1", json!(7)).await;
    assert_eq!(
        invalidated(&js, 1).await,
        json!(["order 7"]),
        "and it hangs"
    );
    gateway.publish("order:1", json!(7)).await;
    gateway.publish("order:1", json!(8)).await;
    assert_eq!(invalidated(&js, 1).await, json!(["order 8"]), "not held up");
    js.run("state.rule.hold();", Value::Null).await;
    gateway.publish("order:1", json!(9)).await;
    let mut got = invalidated(&js, 3).await;
    got.as_array_mut()
        .expect("a list")
        .sort_by_key(Value::to_string);
    assert_eq!(got, json!(["all", "order 7", "order 9"]));
}
