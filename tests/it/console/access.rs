//! For whoever has no mouse, a small screen, the dark, or tired eyes.

use serde_json::{Value, json};

use super::{Console, LANES_LIVE, REASON, STATE};
use crate::support::{Claims, TestGateway};

/// Presses Tab until the element has the focus; each on the way has to show that it has it.
const TAB_TO: &str = "
    for (let presses = 0; presses < 60; presses += 1) {
        await page.keyboard.press('Tab');
        const { id, outline } = await page.evaluate(() => {
            const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
            return { id: document.activeElement.id, outline: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 };
        });
        if (id && !outline) throw new Error(`${id} does not show its focus`);
        if (id === args.id) {
            for (const key of args.keys) await page.keyboard.press(key);
            return;
        }
    }
    throw new Error(`Tab does not reach ${args.id}`);";

async fn tab_to(console: &Console, id: &str, keys: &[&str]) {
    console.drive(TAB_TO, json!({"id": id, "keys": keys})).await;
}

#[tokio::test]
async fn everything_is_done_with_the_keyboard_alone() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let paste = "await page.keyboard.insertText(args); await page.keyboard.press('Enter');";
    let token = Claims::all("alice").token();
    console.drive(paste, json!(token)).await;
    console.reads(STATE, "Live over WebSocket").await;

    tab_to(&console, "diagnose", &["Enter"]).await;
    console.reads("#diagnosis", "Events get through").await;
    tab_to(&console, "refuse", &["Space"]).await;
    // Which one is a matter of speed, and of other tests.
    console.reads(STATE, "Degraded to").await;
    tab_to(&console, "run", &["Enter"]).await;
    console.reads("#tail-list", "console:test").await;
    tab_to(&console, "run", &["Enter"]).await;
    console.reads("#verdict", "lost 0, repeated 0").await;

    tab_to(
        &console,
        "tail-scroll",
        &["ArrowDown", "ArrowDown", "ArrowUp", "Enter"],
    )
    .await;
    console
        .reads("#tail-list li:first-child pre", "\"topic\": \"console:")
        .await;
    tab_to(&console, "data", &["Tab", "Enter"]).await;
    console.reads("#published", "Published").await;
    tab_to(&console, "lanes-open", &["Space"]).await;
    let closed = "return page.isHidden('#lanes-body');";
    assert_eq!(console.drive(closed, Value::Null).await, json!(true));
    console.complains_of_nothing().await;
}

#[tokio::test]
async fn the_first_stop_skips_to_the_connection() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let skip = "
        await page.keyboard.press('Tab');
        const box = await page.locator(':focus').boundingBox();
        await page.keyboard.press('Enter');
        return [box.x > 0, await page.evaluate(() => document.activeElement.id)];";
    assert_eq!(
        console.drive(skip, Value::Null).await,
        json!([true, "connection"])
    );
    console.click("#forget").await;
    let hidden = "return page.isHidden('.skip');";
    assert_eq!(
        console.drive(hidden, Value::Null).await,
        json!(true),
        "there is no connection"
    );
}

#[tokio::test]
async fn a_state_that_lasts_is_announced_with_its_reason() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.reads("#announcer", "Live over WebSocket.").await;
    console.click("#offline").await;
    console
        .reads("#announcer", "Offline. There is no network.")
        .await;
    console.click("#offline").await;
    console.reads("#announcer", "Live over WebSocket.").await;
}

/// Which replace the page's backgrounds by the system's.
#[tokio::test]
async fn a_switch_shows_its_state_in_forced_colours_too() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    let pictures = "
        await page.emulateMedia({ forcedColors: 'active' });
        const pictures = [];
        for (const isOn of [false, true]) {
            await page.evaluate((isOn) => { document.querySelector('#stall').checked = isOn; }, isOn);
            pictures.push((await page.locator('#stall').screenshot()).toString('base64'));
        }
        return pictures;";
    let pictures = console.drive(pictures, Value::Null).await;
    assert_ne!(pictures[0], pictures[1]);
}

/// What would have to be scrolled sideways; code may.
const WIDE: &str = "
    return page.evaluate(() => [document.documentElement, ...document.querySelectorAll('.top, .card, .banner, .scroll, td')]
        .filter(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)
        .map(({ id, className }) => id || className));";

#[tokio::test]
async fn nothing_is_wider_than_a_narrow_phone() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let narrow = "await page.setViewportSize({ width: 360, height: 740 });";
    console.drive(narrow, Value::Null).await;
    assert_eq!(console.drive(WIDE, Value::Null).await, json!([]));

    let claims = Claims::all(&"a-long-name".repeat(8));
    console
        .visit(0, &format!("#token={}", claims.token()))
        .await;
    console.reads(STATE, "Live").await;
    console.drive(LANES_LIVE, Value::Null).await;
    let long = "x".repeat(120);
    gateway
        .publish(&format!("order:{long}"), json!({"text": long}))
        .await;
    console.reads("#tail-list", &long).await;
    console.reads("#arrivals", &long).await;
    // One of them at least has a time in it, which is wider than a word.
    let arrived =
        "await page.waitForFunction(() => document.querySelectorAll('td.tick').length === 3);";
    console.drive(arrived, Value::Null).await;
    assert_eq!(console.drive(WIDE, Value::Null).await, json!([]));
    console.click("#tail-list summary").await;
    console.click("#diagnose").await;
    console.reads("#diagnosis", "Events get through").await;
    console.click("#run").await;
    console.reads("#carried", "Carried by").await;
    console.fill("#topics", &format!("{long} {long}")).await;
    console.click("#follow button").await;
    console.reads("#banner", "refused the topics").await;
    console.click("#refuse").await;
    console.reads(STATE, "Degraded").await;
    assert_eq!(console.drive(WIDE, Value::Null).await, json!([]));
}

/// Contrast by WCAG 2.2: at least 4.5 to 1, for all text that is seen and not of what is disabled.
const FAINT: &str = "
    const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
        const [red, green, blue] = parts(color).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const backgroundOf = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const { backgroundColor } = getComputedStyle(at);
            if (backgroundColor.startsWith('rgb(')) return backgroundColor;
        }
        return 'rgb(255, 255, 255)';
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const node = walker.currentNode.parentElement;
        if (!walker.currentNode.data.trim() || node.closest(':disabled, option, noscript') || !node.checkVisibility({ visibilityProperty: true })) continue;
        const [one, other] = [getComputedStyle(node).color, backgroundOf(node)].map(luminance).sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) found.push(`${walker.currentNode.data.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
    }
    return found;";

#[tokio::test]
async fn all_text_is_readable_in_the_light_and_in_the_dark() {
    let gateway = TestGateway::start().await;
    let console = Console::open(&gateway).await;
    console.click("#run").await;
    console.reads("#carried", "Carried by").await;
    console.click("#refuse").await;
    console.reads(REASON, "Every event still arrives").await;
    console.click("#diagnose").await;
    console.reads("#diagnosis", "Events get through").await;
    console.fill("#topics", "no good").await;
    console.click("#follow button").await;
    console.reads("#banner", "refused the topics").await;
    console.click("#publish button[type=submit]").await;
    console.reads("#published", "Published").await;

    let mut pages = Vec::new();
    for scheme in ["light", "dark"] {
        let emulate = "await page.emulateMedia({ colorScheme: args });
            return page.evaluate(() => getComputedStyle(document.body).backgroundColor);";
        pages.push(console.drive(emulate, json!(scheme)).await);
        let faint = console.js.run(FAINT, Value::Null).await;
        assert_eq!(faint, json!([]), "{scheme}");
    }
    assert_ne!(pages[0], pages[1]);
}

#[tokio::test]
async fn nothing_moves_for_whoever_asked_for_that() {
    let gateway = TestGateway::start().await;
    let console = Console::open_with(&gateway, "").await;
    let moving = "
        await page.emulateMedia({ reducedMotion: args });
        return page.evaluate(() => [...document.querySelectorAll('*')].filter((node) =>
            ['', '::before', '::after'].some((part) => {
                const { transitionDuration, animationName } = getComputedStyle(node, part);
                return /[1-9]/.test(transitionDuration) || animationName !== 'none';
            })).length);";
    assert_ne!(
        console.drive(moving, json!("no-preference")).await,
        json!(0)
    );
    assert_eq!(console.drive(moving, json!("reduce")).await, json!(0));
}
