//! A log that the gateway wrote, cut and changed at very many places, each of which the engine
//! opens in this process.

mod memory;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use memory::Memory;
use serde_json::{Value, json};
use tribus::{
    engine::{
        IdempotencyLimits, StoredEvent, Tail,
        disk::{DiskLog, DiskOptions, Durability, Request},
    },
    event::{Draft, Event, LogId, Tags},
    topic::{Tenant, Topic},
};

use super::{read_after, report, rounds};
use crate::support::Node;

/// What the bus was told.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<LogId>>);

impl Told {
    fn log(&self) -> LogId {
        let logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.last().expect("a log").clone()
    }

    fn add(&self, log: LogId) {
        let mut logs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logs.push(log);
    }
}

impl Tail for Told {
    fn told(&self, _: &[u8]) {}

    fn begin(&self, log: LogId, _: u64, _: &[u8]) {
        self.add(log);
    }

    fn restore(&self, _: Vec<StoredEvent>, _: u64) {}

    fn restart(&self, log: LogId, _: u64) {
        self.add(log);
    }

    fn extend(&self, _: Vec<Arc<Event>>) {}

    fn advance(&self, _: u64) {}

    fn trim(&self, _: u64) {}

    fn earliest(&self) -> u64 {
        0
    }

    fn trims(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// A log that the gateway wrote, and left by `kill -9` or properly.
struct Written {
    files: BTreeMap<String, Vec<u8>>,
    /// By their sequences.
    events: BTreeMap<u64, Value>,
    log: String,
}

impl Written {
    /// With so many events of so many bytes at most, in segments of a MiB.
    async fn by_gateway(events: usize, filler: usize, properly: bool) -> Self {
        let mut node = Node::new(&[("RETENTION__BYTES", "16MiB")]);
        node.start().await;
        let gateway = node.gateway();
        let (_, start) = gateway.poll("topics=load:*").await;
        let start = start["cursor"].as_str().expect("a cursor").to_owned();
        let mut left = events;
        while left > 0 {
            let batch = fastrand::usize(1..=20).min(left);
            let filler = "x".repeat(fastrand::usize(0..filler));
            let events: Vec<_> = (0..batch)
                .map(|at| json!({"topic": format!("load:{at}"), "data": filler}))
                .collect();
            let (status, answer) = gateway.post(&json!(events).to_string()).await;
            assert_eq!(status, 200, "{answer}");
            left -= batch;
        }
        let read = read_after(&gateway, &start).await;
        assert_eq!(read.len(), events);
        if properly {
            node.terminate().await;
        } else {
            node.kill().await;
        }
        Self::read(&node, &start, read)
    }

    fn read(node: &Node, start: &str, events: Vec<Value>) -> Self {
        let files = std::fs::read_dir(node.log()).expect("a log");
        let files = files.map(|file| {
            let file = file.expect("a file");
            let bytes = std::fs::read(file.path()).expect("a file");
            (file.file_name().into_string().expect("UTF-8"), bytes)
        });
        let events = events.into_iter().map(|event| {
            let id = event["id"].as_str().expect("an id");
            let (_, sequence) = id.rsplit_once('-').expect("LOG-SEQUENCE");
            (sequence.parse().expect("a sequence"), event)
        });
        Self {
            files: files.collect(),
            events: events.collect(),
            log: start.rsplit_once('-').expect("LOG-SEQUENCE").0.to_owned(),
        }
    }

    /// The newest segment that there is.
    fn active(&self) -> &str {
        let segments = self.files.keys().filter(|name| name.ends_with(".segment"));
        segments.max().expect("a segment")
    }

    /// Opens it as it would be found after `damage`.
    fn after(&self, damage: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> CameTo {
        let mut files = self.files.clone();
        damage(&mut files);
        let told = Arc::new(Told::default());
        let directory = Arc::new(Memory::of(&files));
        let log = DiskLog::open(directory, options(), Arc::clone(&told) as Arc<dyn Tail>);
        let mut log = match log {
            Ok(log) => log,
            Err(error) => return CameTo::Refused(error.to_string()),
        };
        let is_whole = self.is_whole(&mut log, &told);
        self.assert_goes_on(&mut log, &told);
        match (is_whole, told.log().as_str() == self.log) {
            (true, true) => CameTo::Whole,
            (true, false) => CameTo::GivenUpByCommit,
            (false, _) => CameTo::GivenUp,
        }
    }

    /// Whether all of it is there; where it is not, another log must go on.
    fn is_whole(&self, log: &mut DiskLog, told: &Told) -> bool {
        if told.log().as_str() != self.log {
            return false;
        }
        let sequences: Vec<u64> = self.events.keys().copied().collect();
        match log.shelf().read(&sequences) {
            Ok(events) => {
                assert_eq!(events.len(), sequences.len(), "none is left out");
                for (event, (sequence, expected)) in events.iter().zip(&self.events) {
                    assert_eq!(event.sequence, *sequence);
                    let read: Value = serde_json::from_slice(event.json()).expect("JSON");
                    assert_eq!(read, *expected);
                }
                let newest = sequences.last().copied().unwrap_or_default();
                assert!(log.last() >= newest, "it ends at {}", log.last());
                true
            }
            Err(unreadable) => {
                log.lose(&unreadable.log, &unreadable.error);
                assert_ne!(told.log().as_str(), self.log, "another log goes on");
                false
            }
        }
    }

    /// It can be written, and at no offset that was given before. Damage that only a commit comes upon
    /// makes another log go on.
    fn assert_goes_on(&self, log: &mut DiskLog, told: &Told) {
        let mut append = || {
            let drafts = vec![draft()];
            let mut answers = log.append(vec![Request { drafts, key: None }]);
            log.roll();
            answers.remove(0)
        };
        let appended = append().or_else(|refusal| {
            assert_ne!(told.log().as_str(), self.log, "{refusal}");
            append()
        });
        let appended = appended.expect("it can be written");
        assert_eq!(appended.first.log, told.log());
        let is_new = appended.first.log.as_str() != self.log
            || !self.events.contains_key(&appended.first.sequence);
        assert!(is_new, "{} is given again", appended.first);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum CameTo {
    Whole,
    GivenUp,
    /// All of it could be read, and nothing written to it.
    GivenUpByCommit,
    Refused(String),
}

#[derive(Default)]
struct Tally {
    whole: usize,
    given_up: usize,
    refused: usize,
}

impl Tally {
    fn add(&mut self, came_to: &CameTo) {
        match came_to {
            CameTo::Whole => self.whole += 1,
            CameTo::GivenUp | CameTo::GivenUpByCommit => self.given_up += 1,
            CameTo::Refused(why) => {
                assert!(why.contains("newer Tribus"), "{why}");
                self.refused += 1;
            }
        }
    }

    fn report(&self, fault: &str, events: usize) {
        let Self {
            whole,
            given_up,
            refused,
        } = self;
        let came_to = format!(
            "{events} events acknowledged, {whole} times all of them read back, {given_up} times \
             another log, {refused} times refused as newer"
        );
        report(fault, whole + given_up + refused, &came_to);
    }
}

fn options() -> DiskOptions {
    let limits = IdempotencyLimits {
        keys: 1000,
        keys_per_subject: 1000,
    };
    DiskOptions::new(Durability::Sync, 16 << 20, limits)
}

fn draft() -> Draft {
    Draft {
        tenant: Tenant::none(),
        topic: Topic::parse("load:1").expect("a topic"),
        name: "message".into(),
        tags: Tags::default(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: br#""topic":"load:1","event":"message","data":1}"#.to_vec(),
    }
}

#[tokio::test]
async fn the_last_segment_cut_at_every_byte_is_whole_or_given_up() {
    for properly in [false, true] {
        let written = Written::by_gateway(200, 300, properly).await;
        let active = written.active().to_owned();
        let len = written.files[&active].len();
        let mut tally = Tally::default();
        let mut at = 0;
        while at <= len {
            tally.add(&written.after(|files| {
                if let Some(segment) = files.get_mut(&active) {
                    segment.truncate(at);
                }
            }));
            at += rounds(fastrand::usize(1..=len / 150), 1);
        }
        let uncut = written.after(|_| {});
        assert_eq!(uncut, CameTo::Whole, "as it was left");
        assert!(tally.given_up > 0, "no cut was found");
        let left = if properly { "closed" } else { "killed" };
        tally.report(
            &format!("a cut of the last segment, {left}"),
            written.events.len(),
        );
    }
}

/// A restart would come upon it again, so that the log would never be written again.
#[tokio::test]
async fn damage_that_only_a_commit_comes_upon_makes_another_log_go_on() {
    let written = Written::by_gateway(200, 300, true).await;
    let active = written.active().to_owned();
    let pages = (0..written.files[&active].len()).step_by(4096);
    // Where redb says how many of something there are, and where each of them ends.
    let places = pages.flat_map(|page| page + 24..page + 32);
    let came_to = places.map(|at| {
        written.after(|files| {
            if let Some(file) = files.get_mut(&active) {
                file[at] ^= 1 << 6;
            }
        })
    });
    let by_commit = came_to.filter(|came_to| *came_to == CameTo::GivenUpByCommit);
    assert!(by_commit.count() > 0, "only readers came upon damage");
}

/// As if another version of redb had written it, which the label knows better.
#[tokio::test]
async fn a_changed_version_of_the_store_is_damage_and_no_reason_not_to_start() {
    let written = Written::by_gateway(20, 300, true).await;
    let active = written.active().to_owned();
    // Of both commits that redb keeps.
    let bits = [64, 192].map(|byte| 8 * byte..8 * byte + 8);
    let mut tally = Tally::default();
    for bit in bits.into_iter().flatten() {
        tally.add(&written.after(|files| {
            if let Some(file) = files.get_mut(&active) {
                file[bit / 8] ^= 1 << (bit % 8);
            }
        }));
    }
    assert!(tally.given_up > 0, "no version was changed");
    assert_eq!(tally.refused, 0);
}

#[tokio::test]
async fn a_bit_that_flips_anywhere_never_changes_an_event_and_never_hides_one() {
    for properly in [false, true] {
        let written = Written::by_gateway(600, 6000, properly).await;
        let segments = written
            .files
            .keys()
            .filter(|name| name.ends_with(".segment"));
        assert!(segments.count() > 1, "some are sealed");
        for name in written.files.keys() {
            let bits = 8 * written.files[name].len();
            if bits == 0 {
                continue;
            }
            let mut tally = Tally::default();
            let small = !name.ends_with(".segment");
            for round in 0..rounds(40, if small { bits } else { 4000 }) {
                let bit = if small && rounds(false, true) {
                    round
                } else {
                    fastrand::usize(0..bits)
                };
                tally.add(&written.after(|files| {
                    if let Some(file) = files.get_mut(name) {
                        file[bit / 8] ^= 1 << (bit % 8);
                    }
                }));
            }
            let left = if properly { "closed" } else { "killed" };
            tally.report(
                &format!("a flipped bit of {name}, {left}"),
                written.events.len(),
            );
        }
    }
}
