//! `examples/react` as its README starts it: its backend in Node, its page in Chromium, a gateway between.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::UNTIL;
use crate::support::{Claims, Js, Program, TestGateway};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/react")
}

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).expect("a file")
}

struct Example {
    gateway: Option<TestGateway>,
    address: SocketAddr,
    url: String,
    page: Js,
    _backend: Program,
}

impl Example {
    /// The gateway has to know the page's address, and the backend the gateway's.
    async fn start() -> Self {
        let address = free_address();
        let mut node = Command::new("node");
        node.arg("server.js")
            .current_dir(folder())
            .env("PORT", "0")
            .env("TRIBUS_URL", format!("http://{address}"))
            .env("TRIBUS_TOKEN", Claims::all("developer").token());
        let mut backend = Program::start(node);
        let line = backend.prints("open http://").await;
        let url = line.trim_start_matches("open ").to_owned();
        let gateway = gateway_for(address, &url).await;
        let example = Self {
            gateway: Some(gateway),
            address,
            page: Js::chromium(&url),
            url,
            _backend: backend,
        };
        example.until("text('.status') === 'live over ws'").await;
        example
    }

    /// Waits until JavaScript's `condition` holds; `text` is that of a selector's first element, and
    /// `order` the status that is shown of an order.
    async fn until(&self, condition: &str) {
        let body = format!(
            "{UNTIL}
             const text = (selector) => document.querySelector(selector)?.textContent;
             const order = (id) => text(`[data-order='${{id}}'] td:last-child`);
             const count = () => document.querySelectorAll('[data-order]').length;
             await until(() => {condition});"
        );
        self.page.run(&body, Value::Null).await;
    }

    async fn click(&self, selector: &str) {
        let body = "document.querySelector(args).click();";
        self.page.run(body, json!(selector)).await;
    }

    /// As another page, or another user, does it: nothing here but its event tells of it.
    async fn ask(&self, path: &str, body: Value) -> u16 {
        let http = reqwest::Client::new();
        let request = http
            .post(format!("{}{path}", self.url))
            .body(body.to_string());
        request.send().await.expect("an answer").status().as_u16()
    }
}

async fn gateway_for(address: SocketAddr, url: &str) -> TestGateway {
    let origins = format!("auth.allowed_origins = [\"{url}\"]");
    TestGateway::on_with(address, &origins).await
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// Its backend where there is no gateway, with a port of its choice.
fn backend_alone(port: &str) -> Command {
    let mut node = Command::new("node");
    node.arg("server.js")
        .current_dir(folder())
        .env("PORT", port)
        .env("TRIBUS_URL", format!("http://{}", free_address()))
        .env("TRIBUS_TOKEN", "a-token");
    node
}

#[tokio::test]
async fn the_example_says_which_origin_it_is_and_that_no_gateway_is_there() {
    let mut backend = Program::start(backend_alone("0"));
    let line = backend.prints("open http://").await;
    let url = line.trim_start_matches("open ").to_owned();
    let origins = backend.prints("TRIBUS__AUTH__ALLOWED_ORIGINS=").await;
    assert!(origins.ends_with(&format!("='[\"{url}\"]'")), "{origins}");
    let away = backend.says("is it running?").await;
    assert!(away.contains("ECONNREFUSED"), "{away}");
    let page = Js::chromium(&url);
    let body = format!(
        "{UNTIL}
         const status = () => document.querySelector('.status')?.textContent ?? '';
         await until(() => /^connecting: ./.test(status()));"
    );
    page.run(&body, Value::Null).await;
}

#[tokio::test]
async fn the_example_says_what_to_do_where_its_port_is_taken_or_nothing_is_installed() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let copy = tempfile::tempdir().expect("a folder");
    for name in ["server.js", "orders.js", "package.json"] {
        fs::write(copy.path().join(name), read(name)).expect("a file");
    }
    let mut bare = backend_alone("0");
    bare.current_dir(copy.path());
    for (command, words) in [
        (
            backend_alone(&port),
            format!("port {port} is taken: choose another, such as PORT="),
        ),
        (bare, "run `npm ci` first".to_owned()),
    ] {
        let ended = Program::start(command).ended().await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.contains(&words), "{words} in {ended:?}");
        assert!(!ended.stderr.contains("    at "), "{ended:?}");
    }
}

#[tokio::test]
async fn the_example_renders_and_updates_when_others_change_something() {
    let example = Example::start().await;
    example.until("count() === 3 && order(1) === 'Pay'").await;
    assert_eq!(example.ask("/api/orders/1/pay", Value::Null).await, 200);
    example.until("order(1) === 'paid'").await;
    example.until("text('ol').includes('Tea: paid')").await;
    let order = json!({"item": "Cup", "price": 7});
    assert_eq!(example.ask("/api/orders", order).await, 201);
    example.until("count() === 4 && order(4) === 'Pay'").await;
    for nothing in [json!({"item": "", "price": 7}), Value::Null] {
        assert_eq!(example.ask("/api/orders", nothing).await, 400);
    }
    assert_eq!(example.ask("//", Value::Null).await, 404);
    assert_eq!(example.ask("/api/orders/2/pay", Value::Null).await, 200);
}

#[tokio::test]
async fn the_example_says_what_became_of_each_payment() {
    let example = Example::start().await;
    example.until("count() === 3").await;
    example.click("[data-order='3'] button").await;
    example.until("order(3) === 'paid'").await;
    example.click("[data-order='1'] button").await;
    example.until("order(3) === 'Pay'").await;
    let declined =
        "text(\"[data-order='3'] .error\") === 'the card was declined: 180 is more than 100'";
    example.until(declined).await;
    example.until("order(1) === 'paid'").await;
    example.until(declined).await;
    example
        .until("document.querySelectorAll('.error').length === 1")
        .await;
}

#[tokio::test]
async fn the_example_keeps_what_was_typed_where_an_order_is_refused() {
    let example = Example::start().await;
    example.until("count() === 3").await;
    let order = "
        const { fetch } = window;
        window.fetch = async () => new Response('{\"error\":\"sold out\"}', { status: 400 });
        const [item, price] = document.querySelectorAll('form input');
        item.value = 'Cup';
        price.value = '7';
        document.querySelector('form').requestSubmit();
        await until(() => document.querySelector('form + .error')?.textContent === 'sold out');
        const kept = item.value;
        window.fetch = fetch;
        document.querySelector('form').requestSubmit();
        await until(() => item.value === '' && !document.querySelector('form + .error'));
        return kept;";
    let kept = example
        .page
        .run(&format!("{UNTIL} {order}"), Value::Null)
        .await;
    assert_eq!(kept, "Cup");
    example.until("count() === 4").await;
}

#[tokio::test]
async fn the_example_shows_a_payment_in_advance_and_takes_it_back_where_it_fails() {
    let example = Example::start().await;
    example.until("count() === 3").await;
    // What is shown of the two orders from now on, each time that it changes.
    let watch = "
        state.shown = { 1: [], 3: [] };
        const look = () => {
            for (const id in state.shown) {
                const text = document.querySelector(`[data-order='${id}'] td:last-child`)?.textContent;
                if (state.shown[id].at(-1) !== text) state.shown[id].push(text);
            }
        };
        look();
        new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });";
    example.page.run(watch, Value::Null).await;
    example.click("[data-order='1'] button").await;
    example.until("order(1) === 'paid'").await;
    example.click("[data-order='3'] button").await;
    example.until("order(3) === 'paid'").await;
    assert_eq!(
        example
            .ask("/api/orders", json!({"item": "Cup", "price": 7}))
            .await,
        201,
        "its event comes while both payments are under way"
    );
    example.until("order(3) === 'Pay'").await;
    example
        .until("text('.error') === 'the card was declined: 180 is more than 100'")
        .await;
    example.until("count() === 4").await;
    let shown = example.page.run("return state.shown;", Value::Null).await;
    assert_eq!(
        shown,
        json!({"1": ["Pay", "paid"], "3": ["Pay", "paid", "Pay"]})
    );
}

#[tokio::test]
async fn the_example_takes_back_what_failed_also_where_it_can_not_load_anew() {
    let example = Example::start().await;
    example.until("count() === 3").await;
    let hang = "
        const { fetch } = window;
        window.fetch = (path, init) => (path === '/api/orders' && !init ? new Promise(() => {}) : fetch(path, init));";
    example.page.run(hang, Value::Null).await;
    example.click("[data-order='3'] button").await;
    example.until("order(3) === 'paid'").await;
    example.until("order(3) === 'Pay'").await;
}

#[tokio::test]
async fn the_example_loads_anew_when_events_were_missed() {
    let mut example = Example::start().await;
    example.until("count() === 3").await;
    let gateway = example.gateway.take().expect("a gateway");
    gateway.stop().await;
    example
        .until("text('.status').startsWith('connecting')")
        .await;
    assert_eq!(example.ask("/api/orders/2/pay", Value::Null).await, 200);
    let _gateway = gateway_for(example.address, &example.url).await;
    example.until("text('.status') === 'live over ws'").await;
    example.until("order(2) === 'paid'").await;
    example
        .until("text('.gap')?.includes('missed (unknown_log)')")
        .await;
}

#[test]
fn the_readme_of_the_example_says_how_it_is_started() {
    let readme = read("README.md");
    let package: Value = serde_json::from_str(&read("package.json")).expect("JSON");
    assert_eq!(package["scripts"]["start"], "node server.js");
    for line in [
        "TRIBUS__AUTH__ALLOWED_ORIGINS='[\"http://127.0.0.1:3000\"]' make run",
        "cd examples/react\nnpm ci\nnpm start",
    ] {
        assert!(readme.contains(line), "{line}");
    }
    let links = readme.split("](").skip(1);
    let files: Vec<_> = links.filter_map(|link| link.split(')').next()).collect();
    assert_eq!(files.len(), 4);
    for file in files {
        assert!(folder().join(file).exists(), "{file}");
    }
}
