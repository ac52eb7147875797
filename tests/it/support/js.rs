use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::{Mutex as AsyncMutex, oneshot},
};

use super::within;

type Answers = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// JavaScript that runs in Node or in a page, with the client of `static/`; killed when it is dropped.
pub struct Js {
    input: AsyncMutex<ChildStdin>,
    answers: Answers,
    count: AtomicU64,
    _process: Child,
}

impl Js {
    /// `scripts/test-tools.sh` installs what this needs.
    pub fn node() -> Self {
        Self::host(None)
    }

    /// In a page of headless Chromium that was opened at this URL; `load` asks its origin for the
    /// client.
    pub fn chromium(url: &str) -> Self {
        Self::host(Some(url))
    }

    fn host(url: Option<&str>) -> Self {
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js/host.mjs"))
            .args(url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node runs");
        let input = process.stdin.take().expect("its input");
        let output = process.stdout.take().expect("its output");
        let answers = Answers::default();
        let waiting = answers.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: Value = serde_json::from_str(&line).expect("a line of JSON");
                let id = answer["id"].as_u64().expect("an id");
                let waiter = waiting.lock().expect("a lock").remove(&id);
                let _ = waiter.expect("someone waits for it").send(answer);
            }
            waiting.lock().expect("a lock").clear();
        });
        Self {
            input: AsyncMutex::new(input),
            answers,
            count: AtomicU64::new(0),
            _process: process,
        }
    }

    /// Runs the body of an async function of `load` (the client's exports), `state` (kept between
    /// runs) and `args`; what it returns.
    pub async fn run(&self, body: &str, args: Value) -> Value {
        self.run_in(0, body, args).await
    }

    /// As [`Js::run`], in another page of the browser: another tab, opened when it is first named.
    pub async fn run_in(&self, page: usize, body: &str, args: Value) -> Value {
        self.ask(json!({"run": body, "args": args, "page": page}))
            .await
    }

    /// Runs the body of an async function of playwright's `page`, `context` and `cdp`, a session of
    /// the debugger's protocol: what a person or the system does to a page of Chromium.
    pub async fn drive(&self, page: usize, body: &str, args: Value) -> Value {
        self.ask(json!({"drive": body, "args": args, "page": page}))
            .await
    }

    async fn ask(&self, mut question: Value) -> Value {
        let id = self.count.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        self.answers.lock().expect("a lock").insert(id, tell);
        question["id"] = json!(id);
        let line = format!("{question}\n");
        let mut input = self.input.lock().await;
        input.write_all(line.as_bytes()).await.expect("node reads");
        drop(input);
        let answer = within("JavaScript", told).await.expect("node lives");
        assert_eq!(answer["error"], Value::Null, "{question}");
        answer["value"].clone()
    }
}
