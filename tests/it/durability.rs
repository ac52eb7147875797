//! Nothing that was acknowledged is lost, whatever breaks: the gateway as a process of its own,
//! its log on a real disk, publishers and clients that never stop, one fault after the other, and
//! one [`Checker`] of all that was published and seen.
//!
//! `TRIBUS_SOAK=1` makes the rounds many and long, and tells what each fault came to.

mod checker;
mod clocks;
mod damage;
mod failing;
mod kills;
mod network;
mod offline;
mod restarts;

use std::{io::Write, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{Checker, Claims, Hopper, Load, Node, TestGateway, Verdict, within};

/// What the clients of a scene want, by wildcards and by name.
const TOPICS: [&[&str]; 4] = [&["load:*"], &["load:*"], &["load:1", "load:6"], &["load:3"]];

/// How long clients may take to come to the end.
pub const CATCH_UP: Duration = Duration::from_secs(60);

fn is_soak() -> bool {
    std::env::var_os("TRIBUS_SOAK").is_some()
}

/// How much of something: in the quick round, and in the long one.
pub fn rounds<T>(quick: T, long: T) -> T {
    if is_soak() { long } else { quick }
}

/// What a fault came to, past what the test harness captures.
pub fn report(fault: &str, rounds: usize, came_to: &impl std::fmt::Display) {
    let line = format!("{fault}: {rounds} rounds, {came_to}\n");
    if is_soak() {
        let told = std::io::stdout().write_all(line.as_bytes());
        told.expect("standard output");
    } else {
        print!("{line}");
    }
}

/// A gateway under load, with clients that hop.
struct Scene {
    node: Node,
    checker: Arc<Checker>,
    /// What publishers and clients connect to.
    address: SocketAddr,
    load: Load,
    hoppers: Vec<JoinHandle<()>>,
    /// The cursor of whoever was there before the first event.
    start: String,
}

impl Scene {
    async fn begin(settings: &[(&str, &str)]) -> Self {
        let mut node = Node::new(settings);
        node.start().await;
        let address = node.address;
        Self::around(node, address).await
    }

    /// Around a gateway that runs, which is reached at this address.
    async fn around(node: Node, address: SocketAddr) -> Self {
        let checker = Arc::new(Checker::default());
        let (status, start) = node.gateway().poll("topics=load:*").await;
        assert_eq!(status, 200, "{start}");
        let start = start["cursor"].as_str().expect("a cursor").to_owned();
        let mut scene = Self {
            load: Load::start(&checker, address),
            node,
            checker,
            address,
            hoppers: Vec::new(),
            start,
        };
        for _ in TOPICS {
            scene.add_hopper();
        }
        scene
    }

    /// A client that resumes from before the first event.
    fn add_hopper(&mut self) {
        let number = self.hoppers.len();
        let topics = TOPICS[number % TOPICS.len()];
        let name = format!("client-{number}");
        let hopper = Hopper::start(&self.checker, self.address, &name, topics, &self.start);
        self.hoppers.push(hopper);
    }

    /// Until so many more events are acknowledged.
    async fn flows(&self, events: u64) {
        let total = self.checker.acknowledged() + events;
        self.checker.until_acknowledged(total).await;
    }

    /// So many batches of large events, about 200 KiB each, one after the other.
    async fn flood(&self, batches: usize) {
        let gateway = self.node.gateway();
        for _ in 0..batches {
            let (number, events) = self.checker.publish_bulky(50, 4000);
            let body = serde_json::to_string(&events).expect("JSON");
            let (status, answer) = gateway.post(&body).await;
            assert_eq!(status, 200, "{answer}");
            let ids: Result<Vec<String>, _> = serde_json::from_value(answer["ids"].clone());
            self.checker.acknowledge(number, &ids.expect("ids"));
        }
    }

    /// Everyone comes to the end, one more client from the beginning of the log too.
    async fn finish(mut self) -> Verdict {
        self.load.stop().await;
        self.hoppers.push(Hopper::start(
            &self.checker,
            self.node.address,
            "late",
            TOPICS[0],
            &self.start,
        ));
        let gateway = self.node.gateway();
        let checker = Arc::clone(&self.checker);
        let coming = futures_util::future::join_all(self.hoppers);
        tokio::pin!(coming);
        let until = tokio::time::Instant::now() + CATCH_UP;
        while tokio::time::Instant::now() < until {
            publish_end(&gateway, &checker).await;
            // Where they were told to start afresh after it, they wait for another one.
            let while_awaited = Duration::from_secs(5);
            if let Ok(ended) = tokio::time::timeout(while_awaited, &mut coming).await {
                ended.into_iter().for_each(|ended| ended.expect("no panic"));
                self.node.terminate().await;
                return checker.sound();
            }
        }
        checker.sound();
        panic!("clients did not come to the end within {CATCH_UP:?}");
    }
}

pub async fn publish_end(gateway: &TestGateway, checker: &Checker) {
    within("the last publish to be answered", async {
        loop {
            let (number, event) = checker.publish_end();
            let (status, answer) = gateway.post(&event.to_string()).await;
            if status == 200 {
                let id = answer["id"].as_str().expect("an id").to_owned();
                return checker.acknowledge(number, &[id]);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// A gateway's calls of one kind under `strace`, of which some fail or are its last.
struct Strace(Vec<String>);

impl Strace {
    const TRACE: &str = "trace";

    /// `inject` as in strace(1); calls are counted for each thread. It is on entering a call that a
    /// signal comes: a call at which the gateway is killed is not made.
    fn new(directory: &Path, call: &str, inject: &str) -> Self {
        let trace = directory.join(Self::TRACE);
        let trace = trace.to_str().expect("UTF-8");
        let (traced, inject) = (format!("trace={call}"), format!("inject={call}:{inject}"));
        // The gateway is the process that was started, and strace its own child.
        let words = ["strace", "-D", "-f", "-qq", "-o", trace];
        let more = ["-e", &traced, "-e", "signal=none", "-e", &inject];
        let all = words.iter().chain(&more);
        Self(all.map(|word| (*word).to_owned()).collect())
    }

    fn words(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// What was traced last.
    fn read(directory: &Path) -> String {
        std::fs::read_to_string(directory.join(Self::TRACE)).expect("a trace")
    }
}

/// All events that follow a cursor now, page by page.
async fn read_after(gateway: &TestGateway, cursor: &str) -> Vec<Value> {
    let claims = Claims::all("reader").expiring_in(24 * 3600);
    let (mut cursor, mut all) = (cursor.to_owned(), Vec::new());
    loop {
        let query = format!("topics=load:*&wait=0&max=1000&cursor={cursor}");
        let (status, mut page) = gateway.poll_as(&claims, &query).await;
        assert_eq!(status, 200, "{page}");
        let events: Vec<Value> = serde_json::from_value(page["events"].take()).expect("events");
        let again = &page["reconnectAfterMs"];
        assert!(again.is_null(), "the engine can not read: {page}");
        if events.is_empty() {
            return all;
        }
        all.extend(events);
        page["cursor"]
            .as_str()
            .expect("a cursor")
            .clone_into(&mut cursor);
    }
}

/// Whether the gateway is ready, and what it says.
pub async fn readiness(gateway: &TestGateway) -> (u16, String) {
    let answer = gateway.http.get(gateway.admin_url("/readyz")).send();
    let answer = within("/readyz", answer).await.expect("an answer");
    (
        answer.status().as_u16(),
        answer.text().await.expect("a body"),
    )
}

/// Until `/readyz` answers with this status; what it says then.
pub async fn until_ready_is(gateway: &TestGateway, status: u16) -> String {
    within(&format!("/readyz to say {status}"), async {
        loop {
            match readiness(gateway).await {
                (now, said) if now == status => return said,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}
