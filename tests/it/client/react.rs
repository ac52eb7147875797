//! The hooks for React, against the real gateway: in Chromium under StrictMode with the newest and the
//! oldest React that they are for, and rendered in Node.

mod caches;
mod example;
mod rendering;
mod subscribing;

use std::{collections::HashMap, path::Path, process::Command, sync::Mutex};

use serde_json::{Value, json};

use crate::support::{Claims, Js, TestGateway};

/// The newest React, and the oldest one that the hooks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum React {
    Newest,
    Oldest,
}

impl React {
    const BOTH: [Self; 2] = [Self::Newest, Self::Oldest];

    /// `tests/js/react.jsx` with the hooks, this React, and what else they are tested with.
    fn bundle(self) -> String {
        static BUILT: Mutex<Option<HashMap<React, String>>> = Mutex::new(None);
        let mut built = BUILT.lock().expect("a lock");
        let built = built.get_or_insert_default();
        built.entry(self).or_insert_with(|| self.build()).clone()
    }

    fn build(self) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
        let mut esbuild = Command::new("node_modules/.bin/esbuild");
        esbuild.current_dir(&folder).args([
            "react.jsx",
            "--bundle",
            "--format=iife",
            "--jsx=automatic",
            // The package is a link to static/, and its React is to be found here.
            "--preserve-symlinks",
            "--define:process.env.NODE_ENV=\"development\"",
            "--log-level=warning",
        ]);
        if self == Self::Oldest {
            esbuild.args(["react", "react-dom"].map(|name| {
                let package = folder.join("react-18/node_modules").join(name);
                format!("--alias:{name}={}", package.display())
            }));
        }
        let output = esbuild.output().expect("esbuild runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Awaits in JavaScript; the deadline is that of the whole run.
const UNTIL: &str = "
    const until = async (check) => {
        for (let value; ; await new Promise((resolve) => setTimeout(resolve, 5)))
            if ((value = await check())) return value;
    };";

/// Connects a client whose frames are looked at: what it sends, and the topics whose subscriptions
/// have begun.
const OPEN: &str = "
    const { Tribus } = await load();
    state.sent = [];
    state.begun = [];
    state.token = args.token;
    state.client = new Tribus('/', {
        getToken: () => state.token,
        WebSocket: class extends WebSocket {
            constructor(url) {
                super(url);
                this.addEventListener('message', ({ data }) => {
                    const { type, topics } = JSON.parse(data);
                    if (type === 'subscribed') state.begun.push(...topics);
                });
            }
            send(frame) {
                state.sent.push(JSON.parse(frame));
                super.send(frame);
            }
        },
    });";

/// A page of the gateway with the bundle's components.
struct Page {
    js: Js,
}

impl Page {
    /// One that is not there, for such have no policy.
    async fn of(gateway: &TestGateway) -> Self {
        let js = Js::chromium(&gateway.url("/no-such-page"));
        Self { js }
    }

    /// With a client that may do everything, and nothing shown yet.
    async fn open(gateway: &TestGateway, react: React) -> Self {
        let page = Self::of(gateway).await;
        page.begin(react, &Claims::all("alice")).await;
        page
    }

    /// Begins anew, with this React, and a client of its own.
    async fn begin(&self, react: React, claims: &Claims) {
        self.load(react).await;
        self.connect(claims).await;
        self.run("app.open(state.client);", Value::Null).await;
        self.run("await until(() => app.show);", Value::Null).await;
    }

    /// Only the client, which is not handed to the hooks yet.
    async fn connect(&self, claims: &Claims) {
        self.run(OPEN, json!({"token": claims.token()})).await;
    }

    /// Only the bundle; what was there before is gone.
    async fn load(&self, react: React) {
        let close =
            "globalThis.app?.close(); state.client?.close(); document.body.textContent = '';";
        self.run(close, Value::Null).await;
        self.js.run(&react.bundle(), Value::Null).await;
    }

    async fn run(&self, body: &str, args: Value) -> Value {
        self.js.run(&format!("{UNTIL} {body}"), args).await
    }

    /// Shows these components in place of those that are there.
    async fn show(&self, parts: Value) {
        self.run("app.show(args);", parts).await;
    }

    /// Shows these, and waits until the subscriptions to all their topics have begun.
    async fn show_live(&self, parts: Value) {
        let body = "
            state.begun.length = 0;
            app.show(args);
            const topics = args.flatMap((part) => part.topics ?? []);
            await until(() => topics.every((topic) => state.begun.includes(topic)));";
        self.run(body, parts).await;
    }

    /// Waits until JavaScript's `condition` of `args` and `records` holds.
    async fn until(&self, condition: &str, args: Value) {
        let body = format!("const {{ records }} = app; await until(() => {condition});");
        self.run(&body, args).await;
    }

    /// Waits until this element shows this text.
    async fn shows(&self, id: &str, text: &str) {
        let condition = "document.getElementById(args[0])?.textContent === args[1]";
        self.until(condition, json!([id, text])).await;
    }

    async fn value(&self, expression: &str) -> Value {
        let body = format!("const {{ records }} = app; return {expression};");
        self.run(&body, Value::Null).await
    }

    /// What React, or the hooks, complained about in the console.
    async fn assert_no_complaints(&self) {
        assert_eq!(self.value("app.complaints").await, json!([]));
    }
}
