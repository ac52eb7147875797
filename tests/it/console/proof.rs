//! The test stream and its counts.

use serde_json::{Value, json};

use super::{CLIMBS, Console, STATE};
use crate::support::{Claims, TestGateway};

#[tokio::test]
async fn a_storm_loses_and_repeats_nothing_and_ends_on_the_best_transport() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#storm").await;
    for step in ["1 of 5", "2 of 5", "3 of 5", "4 of 5", "5 of 5"] {
        console.reads("#storm-step", step).await;
    }
    console
        .reads_within(
            CLIMBS,
            "#verdict",
            "received, lost 0, repeated 0, in order.",
        )
        .await;
    assert_eq!(console.text(STATE).await, "Live over WebSocket");
    assert_eq!(
        console.text("#count-published").await,
        console.text("#count-received").await
    );
    let carried = console.text("#carried").await;
    for transport in ["WebSocket", "SSE", "Long-poll"] {
        assert!(carried.contains(transport), "{carried}");
    }
    let history = console.text("#connection .transitions").await;
    for spell in ["Offline", "Degraded to SSE", "Degraded to Long-poll"] {
        assert!(history.contains(spell), "{history}");
    }
    let is_mended = "return page.isDisabled('#mend');";
    assert_eq!(console.drive(is_mended, Value::Null).await, json!(true));
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn a_storm_that_is_stopped_leaves_the_network_well() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#storm").await;
    console.reads("#storm-step", "3 of 5").await;
    console.click("#run").await;
    console.reads("#verdict", "lost 0, repeated 0").await;
    assert_eq!(console.text("#storm-step").await, "");
    let is_mended = "return page.isDisabled('#mend') && !await page.isChecked('#refuse');";
    assert_eq!(console.drive(is_mended, Value::Null).await, json!(true));
}

#[tokio::test]
async fn a_storm_is_over_when_someone_sets_the_network_by_hand() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#storm").await;
    console.reads("#storm-step", "3 of 5").await;
    console.click("#hold").await;
    let is_over = "
        await page.waitForFunction(() => !document.querySelector('#storm').disabled);
        return [await page.textContent('#storm-step'), await page.isChecked('#refuse'), await page.isChecked('#hold')];";
    let told = console.drive(is_over, Value::Null).await;
    assert_eq!(told, json!(["", false, true]));
    assert_eq!(console.text("#run").await, "Stop", "the stream goes on");

    // Nor does a short absence end in the middle of it.
    console.click("#offline-briefly").await;
    console.click("#storm").await;
    console.reads("#storm-step", "3 of 5").await;
    let is_refused = "return [await page.isChecked('#refuse'), await page.isChecked('#offline')];";
    let told = console.drive(is_refused, Value::Null).await;
    assert_eq!(told, json!([true, false]));
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn who_signs_out_before_a_storm_has_begun_leaves_it_to_the_next() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#offline").await;
    console.reads(STATE, "Offline").await;
    console.click("#storm").await;
    console
        .reads("#verdict", "Waiting for the client to be connected")
        .await;
    console.click("#forget").await;
    console.fill("#token", &Claims::all("bob").token()).await;
    console.click("#sign-in button").await;
    console.reads(STATE, "Live over WebSocket").await;
    console.click("#storm").await;
    console.reads("#storm-step", "1 of 5").await;
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn what_has_not_come_is_not_praised() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let verdict = "return page.getAttribute('#proof', 'data-verdict');";
    console.click("#offline").await;
    console.reads(STATE, "Offline").await;
    console.click("#run").await;
    console
        .reads("#verdict", "Waiting for the client to be connected")
        .await;
    assert_eq!(console.drive(verdict, Value::Null).await, "none");
    console.click("#offline").await;
    console.reads("#carried", "Carried by").await;
    assert_eq!(console.drive(verdict, Value::Null).await, "clean");

    console.click("#offline").await;
    console.reads(STATE, "Offline").await;
    console.drive(GROWS, Value::Null).await;
    console.click("#run").await;
    console.reads("#verdict", "on its way").await;
    let idle = "return [await page.isDisabled('#run'), await page.isDisabled('#storm')];";
    let idle = console.drive(idle, Value::Null).await;
    assert_eq!(idle, json!([true, true]), "there is nothing to stop");
    console
        .reads_within(CLIMBS, "#verdict", "had not come after 30 s")
        .await;
    assert_eq!(console.drive(verdict, Value::Null).await, "late");
}

/// More is published than before.
const GROWS: &str = "
    const before = await page.textContent('#count-published');
    await page.waitForFunction((before) => document.querySelector('#count-published').textContent !== before, before);";

#[tokio::test]
async fn events_that_a_restart_loses_are_counted_as_lost() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let address = gateway.address;
    console.click("#run").await;
    console.reads("#carried", "Carried by WebSocket").await;
    console.click("#offline").await;
    console.reads(STATE, "Offline").await;
    // A log in memory is gone with its gateway.
    gateway.stop().await;
    let _gateway = TestGateway::on(address).await;
    console.drive(GROWS, Value::Null).await;
    console.click("#offline").await;
    console.reads(STATE, "Live").await;
    console.drive(GROWS, Value::Null).await;
    console.click("#run").await;
    console.reads("#verdict", "was told of 1 gap").await;
    let lost = console.text("#count-lost").await;
    assert_ne!(lost, "0");
    let verdict = "return page.getAttribute('#proof', 'data-verdict');";
    assert_eq!(console.drive(verdict, Value::Null).await, "broken");
}

#[tokio::test]
async fn a_publish_whose_answer_is_lost_is_repeated_and_counts_once() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let lose = "
        let count = 0;
        await page.route('**/publish', async (route) => {
            count += 1;
            if (count > 3) return route.continue();
            await route.fetch();
            await route.abort();
        });";
    console.drive(lose, Value::Null).await;
    console.click("#run").await;
    console.reads("#carried", "Carried by").await;
    console.drive(GROWS, Value::Null).await;
    console.drive(GROWS, Value::Null).await;
    console.drive(GROWS, Value::Null).await;
    console.click("#run").await;
    console
        .reads("#verdict", "received, lost 0, repeated 0, in order.")
        .await;
}

#[tokio::test]
async fn a_token_that_grants_no_test_stream_is_told_what_is_missing() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").with("publish", json!(["order:*"]));
    let console = Console::open_as(&gateway, &claims).await;
    console.reads(STATE, "Live").await;
    console.click("#run").await;
    console
        .reads("#verdict", "The token grants no topics console:*")
        .await;
    console.reads("#verdict", "publish grants: order:*").await;
}

/// What the page counts by, with streams that are worse than any gateway's.
#[tokio::test]
async fn the_ledger_tells_what_was_lost_from_what_was_late_or_came_twice() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let body = "
        const { Ledger } = await import('/console/ledger.js');
        const told = (fill) => {
            const ledger = new Ledger();
            fill(ledger);
            const { published, received, lost, repeated, disordered, onTheWay, isClean } = ledger;
            return [published, received, lost, repeated, disordered, onTheWay, isClean];
        };
        const publish = (ledger, count, log = 'a') =>
            ledger.publish(1, Array.from({ length: count }, (_, index) => `${log}-${index + 1}`));
        const receive = (ledger, ...numbers) => numbers.forEach((number) => ledger.receive(number));
        return {
            clean: told((ledger) => { publish(ledger, 3); receive(ledger, 1, 2, 3); }),
            waiting: told((ledger) => { publish(ledger, 3); receive(ledger, 1); }),
            overtaken: told((ledger) => { publish(ledger, 4); receive(ledger, 1, 4); }),
            twice: told((ledger) => { publish(ledger, 2); receive(ledger, 1, 2, 1, 2); }),
            late: told((ledger) => { publish(ledger, 3); receive(ledger, 1, 3, 2); }),
            lateTwice: told((ledger) => { publish(ledger, 3); receive(ledger, 1, 3, 2, 2); }),
            reset: told((ledger) => { publish(ledger, 4); receive(ledger, 1); ledger.reset('a-3'); receive(ledger, 4); }),
            restarted: told((ledger) => { publish(ledger, 2); receive(ledger, 1); ledger.reset('b-0'); }),
            answerLost: told((ledger) => { publish(ledger, 2); receive(ledger, 1, 2, 3, 4); }),
            answerLate: told((ledger) => { receive(ledger, 1, 2, 3); publish(ledger, 4); }),
            toldBefore: told((ledger) => { ledger.reset('a-2'); publish(ledger, 3); receive(ledger, 3); }),
        };";
    let told = console.js.run(body, Value::Null).await;
    let expected = json!({
        // published, received, lost, repeated, disordered, on the way, clean
        "clean": [3, 3, 0, 0, 0, 0, true],
        "waiting": [3, 1, 0, 0, 0, 2, true],
        "overtaken": [4, 2, 2, 0, 0, 0, false],
        "twice": [2, 2, 0, 2, 0, 0, false],
        "late": [3, 3, 0, 0, 1, 0, false],
        "lateTwice": [3, 3, 0, 1, 1, 0, false],
        "reset": [4, 2, 2, 0, 0, 0, false],
        "restarted": [2, 1, 1, 0, 0, 0, false],
        "answerLost": [4, 4, 0, 0, 0, 0, true],
        "answerLate": [4, 3, 0, 0, 0, 1, true],
        "toldBefore": [3, 1, 2, 0, 0, 0, false],
    });
    assert_eq!(told, expected);
}
