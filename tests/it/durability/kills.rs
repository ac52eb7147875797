//! The gateway is killed: at any time, and at each step of its work.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::{Scene, Strace, report, rounds};
use crate::support::Node;

/// Small segments, so that some come to an end.
const SETTINGS: &[(&str, &str)] = &[("RETENTION__BYTES", "32MiB")];

#[tokio::test]
async fn kill_9_under_load() {
    let mut scene = Scene::begin(SETTINGS).await;
    let count = rounds(6, 100);
    for _ in 0..count {
        scene.flows(fastrand::u64(20..300)).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
        scene.node.kill().await;
        scene.node.start().await;
    }
    scene.flows(100).await;
    let lost = scene.node.gateway().scrape().await;
    assert_eq!(lost.value("tribus_log_lost_total"), 0.0);
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("kill -9 under load", count, &verdict);
}

/// What it is killed at, on entering it: the call itself is not made.
struct Step {
    call: &'static str,
    /// Which call of a thread.
    number: u32,
}

impl Step {
    /// Starts it: whether it came to listen before it was killed.
    async fn start(&self, node: &mut Node) -> bool {
        let inject = format!("signal=SIGKILL:when={}", self.number);
        let strace = Strace::new(node.directory(), self.call, &inject);
        node.try_to_start(&strace.words(), &[]).await
    }

    /// The last call was begun, and never came back.
    fn assert_was_the_last(&self, directory: &Path) {
        let trace = Strace::read(directory);
        let begun = trace.lines().rev().find(|line| line.contains(self.call));
        let begun = begun.unwrap_or_else(|| panic!("{} was not called", self.call));
        let is_open = begun.ends_with("= ?") || begun.contains("<unfinished");
        assert!(is_open, "{} was done: {begun}", self.call);
    }
}

#[tokio::test]
async fn a_kill_between_write_and_sync_and_at_any_write_loses_nothing() {
    let mut scene = Scene::begin(SETTINGS).await;
    scene.flows(50).await;
    scene.node.kill().await;
    let numbers: Vec<u32> = rounds(vec![1, 2, 4, 23], (1..=60).collect());
    let calls = rounds(
        vec!["fdatasync", "pwrite64"],
        vec!["fdatasync", "pwrite64", "fdatasync"],
    );
    let mut count = 0;
    for call in calls {
        for number in numbers.iter().copied() {
            let step = Step { call, number };
            step.start(&mut scene.node).await;
            // Where it came to listen, the load leads it there.
            let ended = scene.node.ended().await;
            assert_eq!(ended.code, None, "{call} {number}: {}", ended.stderr);
            step.assert_was_the_last(scene.node.directory());
            count += 1;
        }
    }
    scene.node.start().await;
    scene.flows(100).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("kill at a write or sync", count, &verdict);
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        if file.path().is_file() {
            fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
        }
    }
}

/// A log of two segments, and what was answered of it.
struct TwoSegments {
    node: Node,
    id: String,
    log: String,
}

impl TwoSegments {
    /// Killed.
    async fn write() -> Self {
        let mut node = Node::new(&[("RETENTION__BYTES", "16MiB")]);
        node.start().await;
        let gateway = node.gateway();
        let id = gateway.publish("load:1", 1.into()).await;
        let log = id.rsplit_once('-').expect("LOG-SEQUENCE").0.to_owned();
        let events: Vec<_> = (0..10)
            .map(|_| json!({"topic": "load:1", "data": "x".repeat(50_000)}))
            .collect();
        while node.segments().len() < 2 {
            let (status, answer) = gateway.post(&json!(events).to_string()).await;
            assert_eq!(status, 200, "{answer}");
        }
        // Of the newest one too something must be there.
        gateway.publish("load:1", 2.into()).await;
        node.kill().await;
        Self { node, id, log }
    }

    /// As it is found where a segment of it is damaged, and nothing tells where it ended.
    fn with_damage_in(&self, segment: usize) -> PathBuf {
        let damaged = self.node.directory().join(format!("damaged-{segment}"));
        copy(&self.node.log(), &damaged);
        let name = self.node.segments()[segment].clone();
        let name = name.file_name().expect("a name");
        fs::write(damaged.join(name), vec![0; 4096]).expect("damage");
        fs::remove_file(damaged.join("reached")).expect("damage");
        damaged
    }

    /// Every client hears that it has missed something.
    async fn assert_is_given_up(&self, after: &str) {
        let gateway = self.node.gateway();
        let (_, page) = gateway.poll("topics=load:*").await;
        let cursor = page["cursor"].as_str().expect("a cursor");
        let log = &self.log;
        assert!(
            !cursor.starts_with(log),
            "{after} the lost log goes on at {cursor}"
        );
        let query = format!("topics=load:*&cursor={}", self.id);
        let (_, page) = gateway.poll(&query).await;
        assert_eq!(page["type"], "reset", "{after}: {page}");
    }
}

/// A log that was lost is never gone on with, in whatever state its end was left: not without the
/// segment that was damaged either. In which order names are moved is the file system's, so that the
/// damage is in the oldest segment once, and once in the newest.
#[tokio::test]
async fn a_start_that_gives_a_log_up_may_be_killed_at_each_of_its_steps() {
    let mut written = TwoSegments::write().await;
    let damaged = [0, 1].map(|segment| written.with_damage_in(segment));
    let mut count = 0;
    let calls = rounds(
        vec!["rename", "fsync"],
        vec!["rename", "fsync", "fdatasync", "pwrite64", "ftruncate"],
    );
    for (call, damaged) in calls
        .iter()
        .flat_map(|call| damaged.iter().map(move |damaged| (*call, damaged)))
    {
        for number in 1.. {
            let node = &mut written.node;
            copy(damaged, &node.log());
            let step = Step { call, number };
            if step.start(node).await {
                node.kill().await;
                break;
            }
            node.ended().await;
            node.start().await;
            let after = format!("{} and {call} {number}", damaged.display());
            written.assert_is_given_up(&after).await;
            written.node.kill().await;
            count += 1;
        }
    }
    report(
        "kill in a start that gives a log up",
        count,
        &"no old log goes on",
    );
}
