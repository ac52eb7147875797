//! The promises of a durable log, held against all that was answered and all that clients saw:
//!
//! - Each acknowledged event reaches each eligible client that stays or resumes inside retention
//!   exactly once and in order, or that client gets a reset.
//! - Unacknowledged events appear whole, as their batch, or not at all.
//! - No position (log and sequence) is ever given to two events.
//! - An idempotency key that is used again within 10 minutes gets the first answer again, also
//!   after restarts of the same log.
//! - No false alarms: a log that nothing was done to but what its durability outlives is not given
//!   up, and nobody inside retention gets a reset.
//!
//! Every method panics where a promise is broken.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use crate::{
    bus::Retention,
    engine::{Appended, EngineError, StoredEvent, disk::Stamp},
    event::{Cursor, Draft, Event, LogId},
    subscription::FilterSet,
    topic::Tenant,
};

/// How long a key is remembered at least, with some time for the simulation itself to run.
const KEY_LIFETIME: Duration = Duration::from_secs(590);

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub stamp: Stamp,
    /// Which start of the machine it is.
    pub boot: u32,
}

impl Moment {
    /// How long after another one this is, as far as any clock tells.
    fn since(self, earlier: Self) -> Duration {
        let passed = match self.boot == earlier.boot {
            true => self.stamp.up - earlier.stamp.up,
            false => u64::try_from(self.stamp.at - earlier.stamp.at).unwrap_or(0),
        };
        Duration::from_millis(passed)
    }
}

pub struct Checker {
    retention: Retention,
    logs: HashMap<LogId, Log>,
    current: Option<LogId>,
    batches: Vec<Batch>,
    /// By the number in an event's data: its batch, and where in it.
    events: Vec<(usize, usize)>,
    /// Of the current log, as the window should hold them.
    retained: VecDeque<Held>,
    heard: u64,
    trims_are_unknown: bool,
}

#[derive(Default)]
struct Log {
    /// The number of each event that is known to be in the log.
    events: BTreeMap<u64, usize>,
    /// The last event that was trimmed, whenever that was.
    trimmed: u64,
    /// The position after which it began.
    after: u64,
    /// Why it may be lost.
    excuse: Option<&'static str>,
}

struct Batch {
    drafts: Vec<Draft>,
    at: Moment,
    key: Option<Key>,
    place: Option<Cursor>,
    /// More than ten minutes have passed, as some clock told.
    expired: bool,
}

/// A client's idempotency key, and which request was made under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub key: u8,
    pub request: u8,
}

struct Held {
    sequence: u64,
    bytes: usize,
    age: Duration,
}

impl Batch {
    fn may_be_at(&self, first: &Cursor) -> bool {
        match &self.place {
            Some(place) => place == first,
            None => self.is_ephemeral(),
        }
    }

    /// Nobody can tell afterwards whether it was appended, but by its key.
    fn is_ephemeral(&self) -> bool {
        self.drafts.iter().all(|draft| draft.ephemeral)
    }
}

impl Checker {
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            logs: HashMap::new(),
            current: None,
            batches: Vec::new(),
            events: Vec::new(),
            retained: VecDeque::new(),
            heard: 0,
            trims_are_unknown: false,
        }
    }

    /// The number that the next event of the next batch is to carry.
    pub fn next_event(&self) -> usize {
        self.events.len()
    }

    /// The number of the next publish.
    pub fn next_batch(&self) -> usize {
        self.batches.len()
    }

    /// A publish is tried: its number.
    pub fn publishing(&mut self, drafts: Vec<Draft>, key: Option<Key>, at: Moment) -> usize {
        let batch = self.batches.len();
        self.events
            .extend((0..drafts.len()).map(|index| (batch, index)));
        self.batches.push(Batch {
            drafts,
            at,
            key,
            place: None,
            expired: false,
        });
        batch
    }

    /// It is this time.
    pub fn at(&mut self, now: Moment) {
        for batch in &mut self.batches {
            batch.expired |= now.since(batch.at) >= KEY_LIFETIME;
        }
    }

    /// From now on the current log may be lost.
    pub fn excuse(&mut self, why: &'static str) {
        if let Some(log) = &self.current {
            self.log(&log.clone()).excuse = Some(why);
        }
    }

    /// For want of space nobody knows any more what was trimmed, so that anything may have been.
    pub fn forget_trims(&mut self) {
        self.trims_are_unknown = true;
    }

    pub fn is_excused(&self) -> bool {
        let current = self.current.as_ref().and_then(|log| self.logs.get(log));
        current.is_some_and(|log| log.excuse.is_some())
    }

    fn log(&mut self, log: &LogId) -> &mut Log {
        self.logs.entry(log.clone()).or_default()
    }

    /// The log was opened, and all that the tail was told of could be read.
    pub fn opened(
        &mut self,
        log: &LogId,
        begins_after: u64,
        restored: &[StoredEvent],
        last: u64,
        now: Moment,
    ) {
        self.begin(log, begins_after);
        self.heard = last;
        self.retained.clear();
        for event in restored {
            self.retained.push_back(Held {
                sequence: event.sequence,
                bytes: event.bytes as usize,
                age: event.age,
            });
        }
        let restored: BTreeMap<u64, &StoredEvent> = restored
            .iter()
            .map(|event| (event.sequence, event))
            .collect();
        let record = &self.logs[log];
        if let Some((newest, _)) = record.events.last_key_value() {
            assert!(
                *newest <= last,
                "{newest} was told of, and it ends at {last}"
            );
        }
        for (sequence, number) in &record.events {
            let (batch, index) = self.events[*number];
            let batch = &self.batches[batch];
            let draft = &batch.drafts[index];
            if draft.ephemeral {
                continue;
            }
            if *sequence <= begins_after {
                let trimmed = record.trimmed;
                assert!(
                    *sequence <= trimmed,
                    "{sequence} is gone, and only {trimmed} was trimmed"
                );
                continue;
            }
            let Some(event) = restored.get(sequence) else {
                panic!("event {number} at {sequence} is missing without a word");
            };
            assert_eq!(event.age, now.since(batch.at), "the age of {sequence}");
            assert_eq!((&event.tenant, &event.topic), (&draft.tenant, &draft.topic));
        }
        for sequence in restored.keys() {
            assert!(
                record.events.contains_key(sequence),
                "{sequence} was not read"
            );
        }
        self.trim();
    }

    /// The current log is another one: clients are to be told.
    pub fn begin(&mut self, log: &LogId, after: u64) {
        if self.current.as_ref() == Some(log) {
            return;
        }
        if self.current.is_some() {
            assert!(self.is_excused(), "the log was given up for nothing");
        }
        assert!(!self.logs.contains_key(log), "a log has come back");
        self.log(log).after = after;
        self.current = Some(log.clone());
    }

    /// The log was lost while it was open.
    pub fn restarted(&mut self, log: &LogId, last: u64) {
        self.begin(log, last);
        self.heard = last;
        self.retained.clear();
    }

    /// The tail was told of these events.
    pub fn extended(&mut self, events: &[std::sync::Arc<Event>]) {
        for event in events {
            assert_eq!(
                event.sequence,
                self.heard + 1,
                "the tail has missed something"
            );
            self.heard = event.sequence;
            self.saw(event);
            if !event.ephemeral {
                self.retained.push_back(Held {
                    sequence: event.sequence,
                    bytes: event.retained_bytes(),
                    age: Duration::ZERO,
                });
            }
        }
        self.trim();
    }

    fn trim(&mut self) {
        let mut bytes: usize = self.retained.iter().map(|held| held.bytes).sum();
        while let Some(oldest) = self.retained.front() {
            let too_many =
                self.retained.len() > self.retention.events || bytes > self.retention.bytes;
            let too_old = self.retention.age.is_some_and(|age| oldest.age >= age);
            if !too_many && !too_old {
                return;
            }
            bytes -= oldest.bytes;
            let sequence = oldest.sequence;
            self.retained.pop_front();
            if let Some(log) = self.current.clone() {
                let log = self.log(&log);
                log.trimmed = log.trimmed.max(sequence);
            }
        }
    }

    /// The window holds this much.
    pub fn holds(&self, events: usize, bytes: usize) {
        let held: usize = self.retained.iter().map(|held| held.bytes).sum();
        let expected = (self.retained.len(), held);
        assert_eq!((events, bytes), expected, "what is retained");
    }

    /// Somebody was shown an event: it is the one that was published, whole, and the only one at
    /// its position.
    pub fn saw(&mut self, event: &Event) {
        let id: Cursor = std::str::from_utf8(event.id()).unwrap().parse().unwrap();
        assert_eq!(Some(&id.log), self.current.as_ref(), "the log of an event");
        let json: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
        let number = json["data"].as_u64().unwrap() as usize;
        let (batch, index) = self.events[number];
        let batch = &mut self.batches[batch];
        let draft = &batch.drafts[index];
        assert!(event.json().ends_with(&draft.body), "the body of {number}");
        assert_eq!((&event.tenant, &event.topic), (&draft.tenant, &draft.topic));
        assert_eq!((&event.name, &event.tags), (&draft.name, &draft.tags));
        let first = Cursor::new(id.log.clone(), id.sequence - index as u64);
        if let Some(place) = &batch.place {
            assert_eq!(*place, first, "the place of event {number}");
            return;
        }
        batch.place = Some(first.clone());
        let count = batch.drafts.len();
        let log = self.logs.entry(first.log).or_default();
        for index in 0..count {
            let sequence = first.sequence + index as u64;
            let before = log.events.insert(
                sequence,
                number + index - (id.sequence - first.sequence) as usize,
            );
            assert_eq!(before, None, "{sequence} was given to two events");
        }
    }

    /// A publish was answered; `sound` where nothing was wrong with the disk, and `group` is where
    /// the publishes that it was committed with begin.
    pub fn answered(
        &mut self,
        batch: usize,
        answer: &Result<Appended, EngineError>,
        sound: bool,
        group: usize,
    ) {
        let asked = &self.batches[batch];
        let before = self.batches[..batch]
            .iter()
            .enumerate()
            .filter(|(_, other)| {
                let of_key = |key: &Option<Key>| key.map(|key| key.key);
                asked.key.is_some() && of_key(&other.key) == of_key(&asked.key)
            });
        let before: Vec<(usize, &Batch)> = before.collect();
        let in_log = |other: &Batch| {
            let place = other.place.as_ref();
            place.is_some_and(|place| Some(&place.log) == self.current.as_ref())
        };
        match answer {
            Ok(appended) if appended.duplicate => {
                // A log that is lost while it is open leaves the keys, with the ids that they stood for.
                let first = before.iter().any(|(_, other)| {
                    other.key == asked.key
                        && other.may_be_at(&appended.first)
                        && appended.count == other.drafts.len() as u64
                });
                assert!(first, "a key's answer is not the first one: {appended:?}");
                assert_eq!(asked.place, None, "it is a duplicate, and was appended");
            }
            Ok(appended) => {
                assert_eq!(asked.place.as_ref(), Some(&appended.first));
                assert_eq!(appended.count, asked.drafts.len() as u64);
                for (number, other) in before {
                    assert!(
                        other.expired || !in_log(other) || self.is_excused(),
                        "batch {batch} repeats the key of {number}, and was appended again"
                    );
                }
            }
            Err(EngineError::Conflict) => {
                assert_eq!(asked.place, None);
                let other = before.iter().any(|(number, other)| {
                    let may_be_there = other.place.is_some() || other.is_ephemeral();
                    other.key != asked.key && (*number >= group || may_be_there)
                });
                assert!(other, "there is nothing that batch {batch} conflicts with");
            }
            Err(error) => {
                assert_eq!(asked.place, None, "{error}, and was appended");
                assert!(!sound, "nothing is wrong with the disk: {error}");
            }
        }
    }

    /// A client was told that it missed something after a position of the log that was current.
    pub fn reset(&self, tenant: &Tenant, filters: &FilterSet, log: &LogId, after: u64) {
        // Where it is not known any more what was trimmed, anything may have been.
        if self.current.as_ref() != Some(log) || self.is_excused() || self.trims_are_unknown {
            return;
        }
        let record = &self.logs[log];
        let missed = record
            .events
            .range(after + 1..=record.trimmed.max(after + 1));
        let missed = missed.filter(|(sequence, _)| **sequence <= record.trimmed);
        let is_near = |number: usize| {
            let (batch, index) = self.events[number];
            let draft = &self.batches[batch].drafts[index];
            let near = |filter: &crate::topic::TopicFilter| {
                !filter.is_literal() || filter.matches(draft.topic.as_str())
            };
            !draft.ephemeral
                && draft.tenant == *tenant
                && filters
                    .iter()
                    .any(|subscription| near(&subscription.filter))
        };
        assert!(
            missed.into_iter().any(|(_, number)| is_near(*number)),
            "a reset after {after} for nothing"
        );
    }

    /// A client was told that its cursor is of no log.
    pub fn unknown(&self, cursor: &Cursor) {
        assert_ne!(
            self.current.as_ref(),
            Some(&cursor.log),
            "{cursor} is not known any more"
        );
    }

    /// A client has come from one position to another of the current log, and got these on the way.
    pub fn passed(
        &mut self,
        (tenant, filters): (&Tenant, &FilterSet),
        (log, after): (&LogId, u64),
        until: u64,
        got: &[std::sync::Arc<Event>],
    ) {
        let mut at = after;
        for event in got {
            self.saw(event);
            assert!(event.sequence > at, "{} after {at}", event.sequence);
            at = event.sequence;
            assert!(event.tenant == *tenant && filters.matches(event));
        }
        assert!(at <= until, "got {at} before {until}");
        let Some(current) = self.current.as_ref() else {
            return;
        };
        let record = &self.logs[current];
        assert!(
            log == current || after >= record.after,
            "a client at {after} was not told that the log is another"
        );
        if after >= until {
            return;
        }
        for (sequence, number) in record.events.range(after + 1..=until) {
            let (batch, index) = self.events[*number];
            let draft = &self.batches[batch].drafts[index];
            if draft.ephemeral || draft.tenant != *tenant {
                continue;
            }
            let position = Cursor::new(self.current.clone().unwrap(), *sequence);
            let event = draft.clone().seal(&position, std::time::Instant::now());
            assert!(
                !filters.matches(&event)
                    || got
                        .binary_search_by_key(sequence, |got| got.sequence)
                        .is_ok(),
                "a client between {after} and {until} has missed {sequence}"
            );
        }
    }
}
