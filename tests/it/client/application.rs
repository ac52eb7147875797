//! An application that uses the client, in Node or in a page of Chromium.

use std::{sync::Arc, time::Instant};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
};

use crate::support::{Claims, Js, TestGateway, within};

pub const TRANSPORTS: [&str; 3] = ["ws", "sse", "poll"];

/// Awaits in JavaScript; the deadline is that of the whole run.
const UNTIL: &str = "
    const until = async (check) => {
        while (!check()) await new Promise((resolve) => setTimeout(resolve, 5));
    };";

/// Makes `state.client`.
const MAKE: &str = "
    const { Tribus, WebSocket } = await load();
    state.statuses = [];
    state.resets = [];
    state.errors = [];
    state.tokens = 0;
    state.client = new Tribus(args.url, {
        getToken: () => args.tokens[Math.min(state.tokens++, args.tokens.length - 1)],
        WebSocket, ...args.options,
    });
    state.client.addEventListener('status', ({ detail }) => state.statuses.push(detail));
    state.client.addEventListener('reset', ({ detail }) => state.resets.push(detail.reason));
    state.client.addEventListener('error', ({ detail }) => state.errors.push(detail.message));";

const SETTLED: &str = "await until(() => /live|degraded|closed/.test(state.client.status.state));";

pub struct Client {
    pub js: Arc<Js>,
    pub page: usize,
}

impl Client {
    /// In Node, once it is live, or closed for good.
    pub async fn connect(gateway: &TestGateway, options: Value) -> Self {
        Self::connect_with(gateway, &[Claims::all("alice").token()], options).await
    }

    /// Each call of `getToken` gets the next of these, and then the last.
    pub async fn connect_with(gateway: &TestGateway, tokens: &[String], options: Value) -> Self {
        let js = Arc::new(Js::node());
        Self::settled(js, 0, &gateway.url("/"), tokens, options).await
    }

    /// In this page of Chromium, once it is live.
    pub async fn in_page(js: &Arc<Js>, page: usize, options: Value) -> Self {
        let tokens = [Claims::all("alice").token()];
        Self::settled(js.clone(), page, "/", &tokens, options).await
    }

    /// Once it is live, or closed for good.
    pub async fn settled(
        js: Arc<Js>,
        page: usize,
        url: &str,
        tokens: &[String],
        options: Value,
    ) -> Self {
        let client = Self::begin(js, page, url, tokens, options).await;
        client.run(SETTLED, Value::Null).await;
        client
    }

    /// In Node, without waiting for anything.
    pub async fn started(url: &str, options: Value) -> Self {
        let tokens = [Claims::all("alice").token()];
        Self::begin(Arc::new(Js::node()), 0, url, &tokens, options).await
    }

    /// Nothing but Node.
    pub fn in_node() -> Self {
        Self {
            js: Arc::new(Js::node()),
            page: 0,
        }
    }

    /// Without waiting for anything.
    pub async fn begin(
        js: Arc<Js>,
        page: usize,
        url: &str,
        tokens: &[String],
        options: Value,
    ) -> Self {
        let client = Self { js, page };
        let args = json!({"url": url, "tokens": tokens, "options": options});
        client.run(MAKE, args).await;
        client
    }

    pub async fn run(&self, body: &str, args: Value) -> Value {
        let body = format!("{UNTIL} {body}");
        self.js.run_in(self.page, &body, args).await
    }

    /// What a person or the system does to its page.
    pub async fn drive(&self, body: &str, args: Value) -> Value {
        self.js.drive(self.page, body, args).await
    }

    /// Subscribes, and pushes what comes into `state[name]`; returns once the gateway knows.
    pub async fn collect(&self, name: &str, topics: Value, options: Value) {
        let body = "
            const got = (state[args.name] = []);
            const one = state.client.subscribe(args.topics, {
                ...args.options,
                onEvent: (event) => got.push(event.data),
                onReset: (reason) => got.push(reason),
                onError: (error) => got.push(error.code),
            });
            await until(() => one.cursor || got[0]);";
        let args = json!({"name": name, "topics": topics, "options": options});
        self.run(body, args).await;
    }

    /// What was collected under `name`, once it is as much as `count`.
    pub async fn collected(&self, name: &str, count: usize) -> Value {
        let body =
            "await until(() => state[args.name].length >= args.count); return state[args.name];";
        self.run(body, json!({"name": name, "count": count})).await
    }

    /// Its status, once it is in this state.
    pub async fn status(&self, state: &str) -> Value {
        let body =
            "await until(() => state.client.status.state === args); return state.client.status;";
        self.run(body, json!(state)).await
    }
}

/// Something else than the gateway: the same answer to each request. When each came is told.
pub struct Proxy {
    pub url: String,
    came: mpsc::UnboundedReceiver<Instant>,
}

impl Proxy {
    pub async fn answering(head: &str, body: &str) -> Self {
        let answer = format!(
            "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let (tell, came) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = client.read(&mut head).await.unwrap_or(0);
                let answered = client.write_all(answer.as_bytes()).await;
                if read == 0 || answered.is_err() || tell.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Self { url, came }
    }

    pub async fn next(&mut self) -> Instant {
        within("a request", self.came.recv())
            .await
            .expect("it lives")
    }
}
