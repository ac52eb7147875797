//! The log itself: what is appended to it, in groups, and what becomes of it when something goes
//! wrong. No thread and no clock of its own, so that a simulation can drive it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::Context as _;

use super::{
    backend::{self, Mishaps},
    directory::Directory,
    failure::Health,
    index::ChunkBuilder,
    label::{Durability, Label, Reached},
    record::{self, FORMAT, KeyRow},
    recovery::{self, Recovered},
    segment::{Commit, Segment, SegmentError, Writing},
    shelf::Shelf,
};
use crate::{
    engine::{
        Appended, EngineError, IdempotencyKey, IdempotencyLimits, Tail,
        idempotency::{IdempotencyWindow, Known},
    },
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
};

/// Names each start of the machine (proc_sys_kernel(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Into how many segments a full log is cut, about: space is given back one of them at a time.
const SEGMENTS: u64 = 16;
/// Small ones cost more syncs, large ones a longer start after a crash.
const SEGMENT_LEAST: u64 = 1 << 20;
const SEGMENT_MOST: u64 = 256 << 20;

/// What an engine is opened with.
#[derive(Clone)]
pub struct DiskOptions {
    pub durability: Durability,
    /// A segment that has grown to this is followed by another one.
    pub segment_bytes: u64,
    pub idempotency: IdempotencyLimits,
    /// Milliseconds since 1970. It may jump: what must not is measured by [`Instant`].
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// Names this start of the machine.
    pub boot: String,
    /// Names a log that begins.
    pub new_log: Arc<dyn Fn() -> Result<LogId, getrandom::Error> + Send + Sync>,
}

impl DiskOptions {
    /// For a log of which so many bytes are to be retained, on this machine.
    ///
    pub fn new(
        durability: Durability,
        retained_bytes: usize,
        idempotency: IdempotencyLimits,
    ) -> Self {
        // Where that is not told, each start of the gateway is taken for one of the machine.
        let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
        Self {
            durability,
            segment_bytes: (retained_bytes as u64 / SEGMENTS).clamp(SEGMENT_LEAST, SEGMENT_MOST),
            idempotency,
            clock: Arc::new(|| jiff::Timestamp::now().as_millisecond()),
            boot: boot.trim().to_owned(),
            new_log: Arc::new(LogId::random),
        }
    }
}

/// A publish that waits for its commit.
pub struct Request {
    pub drafts: Vec<Draft>,
    pub key: Option<IdempotencyKey>,
}

/// The writer's half of an open log.
pub struct DiskLog {
    pub(super) directory: Arc<dyn Directory>,
    pub(super) options: DiskOptions,
    pub(super) tail: Arc<dyn Tail>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) active: Arc<Segment>,
    pub(super) chunk: ChunkBuilder,
    pub(super) last: u64,
    /// The log that was given up last in this run, and where it ended: keys outlive it.
    pub(super) given_up: Option<(LogId, u64)>,
    pub(super) keys: IdempotencyWindow,
    pub(super) reached: Reached,
    pub(super) mishaps: Arc<Mishaps>,
    pub(super) health: Health,
    /// When the newest segment was begun, or opened.
    pub(super) active_since: Instant,
    /// No try of late to begin another one has failed.
    pub(super) may_roll: bool,
    pub(super) condition: Arc<Mutex<EngineState>>,
}

/// A publish of a group that is being committed.
enum Outcome {
    /// Told by the window of keys, whatever becomes of the group.
    Settled(Result<Appended, EngineError>),
    /// Good once the group is committed: its own, or that of another publish with the same key.
    Appending(Appended),
}

/// A group on its way to the disk.
#[derive(Default)]
struct Group {
    outcomes: Vec<Outcome>,
    /// The last sequence that it gives.
    last: u64,
    commit: Commit,
    events: Vec<Arc<Event>>,
    /// How many keys were remembered for it.
    keys: usize,
}

impl DiskLog {
    /// Opens the log in a directory, repairs what a crash left half done, and tells the tail what
    /// there is. A log that has lost something that was acknowledged is set aside for a new one.
    ///
    /// # Errors
    /// Where the directory can not be used, or is a newer version's.
    pub fn open(
        directory: Arc<dyn Directory>,
        options: DiskOptions,
        tail: Arc<dyn Tail>,
    ) -> anyhow::Result<Self> {
        let Recovered {
            log,
            segments,
            active,
            chunk,
            last,
            keys,
            mishaps,
            lost_logs,
            is_old,
            is_full,
        } = recovery::recover(directory.as_ref(), &options, tail.as_ref())?;
        let shelf = Arc::new(Shelf::new(log, segments, last));
        let mut opened = Self {
            reached: Reached::open(directory.as_ref())?,
            directory,
            options,
            tail,
            shelf,
            active,
            chunk,
            last,
            given_up: None,
            keys,
            mishaps,
            health: Health::Well,
            active_since: Instant::now(),
            may_roll: true,
            condition: Arc::default(),
        };
        opened.update_condition(|condition| condition.lost_logs = lost_logs);
        let begun = if is_full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            opened.begin_run()
        };
        match begun {
            Ok(()) => opened.look_for_mishaps(),
            // Who only reads is served.
            Err(error) if is_old && backend::is_full(&error) => opened.fail(&error.into()),
            Err(error) => return Err(error).context("can not write to its directory"),
        }
        opened.measure();
        Ok(opened)
    }

    /// From here on the last run's word on how it ended does not hold any more.
    pub(super) fn begin_run(&self) -> io::Result<()> {
        self.reached.write(self.last)?;
        self.write_label(&self.shelf.log(), false)
    }

    pub fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    /// How it is, kept up to date.
    pub fn condition(&self) -> &Arc<Mutex<EngineState>> {
        &self.condition
    }

    /// The last sequence that was acknowledged.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How many keys are remembered.
    pub fn remembered_keys(&mut self) -> usize {
        self.keys.len(Instant::now())
    }

    /// Appends all of these publishes with one sync, and tells the tail of them: the answers, in
    /// their order.
    pub fn append(&mut self, requests: Vec<Request>) -> Vec<Result<Appended, EngineError>> {
        if self.health != Health::Well {
            return requests.iter().map(|_| Err(self.refusal())).collect();
        }
        let mut group = self.gather(requests);
        if group.last > self.last {
            match self.active.commit(&group.commit) {
                Ok(()) => self.settle(&mut group),
                Err(error) => self.give_up(&mut group, &error),
            }
        }
        let answers = group.outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Settled(answer) => answer,
            Outcome::Appending(appended) => Ok(appended),
        });
        answers.collect()
    }

    /// Gives sequences to the publishes of a group, as if it were written already.
    fn gather(&mut self, requests: Vec<Request>) -> Group {
        let (now, at) = (Instant::now(), (self.options.clock)());
        let log = self.shelf.log();
        let mut group = Group {
            last: self.last,
            ..Group::default()
        };
        for Request { drafts, key } in requests {
            let (first, count) = (group.last + 1, drafts.len() as u64);
            if let Some(key) = &key {
                if let Some(known) = self.look_up(key, &log, now) {
                    group.outcomes.push(known);
                    continue;
                }
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                self.keys.remember(key, first, count, now);
                group.keys += 1;
                group.commit.keys.push(KeyRow::new(key, first, count, at));
            }
            for (draft, sequence) in drafts.into_iter().zip(first..) {
                group.add(draft, sequence, at, &log, &mut self.chunk);
            }
            group.outcomes.push(Outcome::Appending(Appended {
                first: Cursor::new(log.clone(), first),
                count,
                duplicate: false,
            }));
            group.last = first + count - 1;
        }
        self.chunk.reach(group.last);
        group.commit.chunks.extend(self.chunk.take_full());
        group.commit.end = self.chunk.end();
        group
    }

    /// What a key that was used before is answered with.
    fn look_up(&mut self, key: &IdempotencyKey, log: &LogId, now: Instant) -> Option<Outcome> {
        let refused = match self.keys.look_up(key, now) {
            Known::New => return None,
            Known::Before(first, count) => {
                let log = match &self.given_up {
                    Some((given_up, last)) if first <= *last => given_up,
                    _ => log,
                };
                let appended = Appended {
                    first: Cursor::new(log.clone(), first),
                    count,
                    duplicate: true,
                };
                return Some(if first > self.last {
                    Outcome::Appending(appended)
                } else {
                    Outcome::Settled(Ok(appended))
                });
            }
            Known::Conflict => EngineError::Conflict,
            Known::Full => EngineError::KeysFull,
            Known::SubjectFull => EngineError::SubjectKeysFull,
        };
        Some(Outcome::Settled(Err(refused)))
    }

    /// The group is as durable as it is to be.
    fn settle(&mut self, group: &mut Group) {
        self.last = group.last;
        self.shelf.reach(self.last);
        self.update_condition(|condition| condition.commits += 1);
        // Before anybody hears of it, so that it is known to have been there.
        if let Err(error) = self.reached.write(self.last) {
            self.mishaps.note_write(&error);
            self.fail(&error.into());
        }
        self.tail.extend(std::mem::take(&mut group.events));
    }

    /// Nobody may ever hear of the group's events, unless the disk turns out to have them.
    fn give_up(&mut self, group: &mut Group, error: &SegmentError) {
        self.keys.forget_newest(group.keys);
        self.fail(error);
        let refusal = self.refusal();
        for outcome in &mut group.outcomes {
            if let Outcome::Appending(_) = outcome {
                *outcome = Outcome::Settled(Err(refusal.clone()));
            }
        }
    }

    /// Does what is due, about once a second: goes on after a full disk, and gives space back.
    pub fn look_after(&mut self) {
        self.look_for_mishaps();
        self.drop_old_segments();
        if matches!(self.health, Health::Full | Health::Reopening) {
            self.recover();
        }
        self.may_roll = true;
        self.roll();
        self.measure();
    }

    /// Ends the log's run, so that the next start knows that nothing is missing.
    ///
    /// # Errors
    /// Where the next start has to repair it instead.
    pub fn close(mut self) -> Result<(), SegmentError> {
        if self.health != Health::Well {
            return Err(io::Error::other("it could not be written before").into());
        }
        self.store_chunk()?;
        let segments = self.shelf.segments();
        for segment in &segments {
            segment.close();
        }
        if self.options.durability == Durability::Os {
            // Who reads later that it ended well relies on that, whatever became of the machine.
            recovery::sync_all(self.directory.as_ref(), &segments)?;
        }
        if self.mishaps.need_restart() {
            return Err(io::Error::other("a segment could not be closed").into());
        }
        Ok(self.write_label(&self.shelf.log(), true)?)
    }

    pub(super) fn write_label(&self, log: &LogId, clean: bool) -> io::Result<()> {
        let label = Label {
            format: FORMAT,
            log: log.clone(),
            durability: self.options.durability,
            boot: self.options.boot.clone(),
            clean,
            last: self.last,
        };
        label.write(self.directory.as_ref())
    }

    pub(super) fn writing(&self) -> Writing {
        Writing {
            syncs: self.options.durability == Durability::Sync,
            mishaps: Arc::clone(&self.mishaps),
        }
    }

    fn measure(&self) {
        let segments = self.shelf.segments();
        let bytes = segments.iter().filter_map(|segment| segment.bytes().ok());
        let bytes = bytes.sum();
        self.update_condition(|condition| condition.stored_bytes = bytes);
    }

    pub(super) fn update_condition(&self, update: impl FnOnce(&mut EngineState)) {
        update(
            &mut self
                .condition
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Group {
    fn add(&mut self, draft: Draft, sequence: u64, at: i64, log: &LogId, chunk: &mut ChunkBuilder) {
        let record = (!draft.ephemeral).then(|| record::encode_event(&draft, sequence, at));
        let event = draft.seal(&Cursor::new(log.clone(), sequence), Instant::now());
        if let Some(record) = record {
            chunk.push(&event, at);
            self.commit.events.push((sequence, record));
        }
        self.events.push(Arc::new(event));
    }
}
