//! The console at `/` as a person uses it, in headless Chromium.

mod access;
mod charts;
mod network;
mod proof;
mod signing_in;
mod streams;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Claims, Js, TestGateway};

/// The client tries better transports at least this often, and one that kept dying has to live for
/// a while before that.
const CLIMBS: Duration = Duration::from_secs(40);
/// On a busy machine a client may begin over a lesser transport, and climb first.
const SOON: Duration = Duration::from_secs(30);

const STATE: &str = "#connection .state";
const REASON: &str = "#connection .reason";

const LANES_LIVE: &str = "
    await page.waitForFunction(() =>
        [...document.querySelectorAll('.lane')].every(({ dataset }) => dataset.state === 'live'));";

/// Pages at `/` in one browser, which write down what they complain of.
struct Console {
    js: Js,
    address: String,
}

impl Console {
    /// Signed in as someone who may do everything, and live.
    async fn open(gateway: &TestGateway) -> Self {
        let console = Self::open_as(gateway, &Claims::all("alice")).await;
        console.reads(STATE, "Live over WebSocket").await;
        console
    }

    /// By a link with a token of these claims.
    async fn open_as(gateway: &TestGateway, claims: &Claims) -> Self {
        Self::open_with(gateway, &claims.token()).await
    }

    async fn open_with(gateway: &TestGateway, token: &str) -> Self {
        let console = Self {
            js: Js::chromium(&gateway.url("/")),
            address: gateway.url("/"),
        };
        console.visit(0, &format!("#token={token}")).await;
        console
    }

    /// In another tab, or anew in the same one.
    async fn visit(&self, page: usize, fragment: &str) {
        let body = "
            page.complaints = [];
            page.on('console', (message) => message.type() === 'error' && page.complaints.push(message.text()));
            page.on('pageerror', (error) => page.complaints.push(error.stack));
            page.requested = [];
            page.on('request', (request) => page.requested.push(new URL(request.url()).pathname));
            await page.goto('about:blank');
            await page.goto(args);";
        let args = json!(format!("{}{fragment}", self.address));
        self.js.drive(page, body, args).await;
    }

    /// The body of an async function of playwright's `page` and of `args`.
    async fn drive(&self, body: &str, args: Value) -> Value {
        self.js.drive(0, body, args).await
    }

    async fn click(&self, selector: &str) {
        self.drive("await page.click(args);", json!(selector)).await;
    }

    async fn fill(&self, selector: &str, text: &str) {
        let body = "await page.fill(args.selector, args.text);";
        self.drive(body, json!({"selector": selector, "text": text}))
            .await;
    }

    async fn text(&self, selector: &str) -> String {
        let text = self
            .drive("return page.textContent(args);", json!(selector))
            .await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the element's text has this in it.
    async fn reads(&self, selector: &str, text: &str) {
        self.reads_within(SOON, selector, text).await;
    }

    async fn reads_within(&self, time: Duration, selector: &str, text: &str) {
        self.reads_in(0, time, selector, text).await;
    }

    async fn reads_in(&self, page: usize, time: Duration, selector: &str, text: &str) {
        let body = "
            const reads = ({ selector, text }) => document.querySelector(selector)?.textContent.includes(text);
            try {
                await page.waitForFunction(reads, args, { timeout: 5000, polling: 20 });
                return null;
            } catch {
                return page.innerText('body');
            }";
        let args = json!({"selector": selector, "text": text});
        let end = Instant::now() + time;
        loop {
            let page_text = self.js.drive(page, body, args.clone()).await;
            match page_text {
                Value::Null => return,
                text_now if Instant::now() > end => {
                    panic!("{selector} does not read {text:?} within {time:?}: {text_now}")
                }
                _ => {}
            }
        }
    }

    /// Nothing was refused by the page's policy, and nothing failed unnoticed.
    async fn complains_of_nothing(&self) {
        let complaints = self.drive("return page.complaints;", Value::Null).await;
        assert_eq!(complaints, json!([]));
    }
}
