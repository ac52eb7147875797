//! The one task that tells the tail of the log: restores what Redis has kept, and follows it.
//!
//! ```text
//! XREAD after the last place ─▶ next position?  ─▶ Tail::extend
//!                               a seam?         ─▶ Tail::advance, or a loss where it hides ours
//!                               anything else   ─▶ look: not the log's ─▶ claim, which removes it
//!                                                        trimmed       ─▶ Tail::restart behind it
//!                                                        missing       ─▶ a loss: another log
//! ```

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::Value;

use super::{
    Backoff,
    entry::{Content, Entry, Place, event_at},
    namespace::Namespace,
    reply::{list, strange, text},
    script::{Claim, Look, Seam, Trim, claim, look},
    server::{Connection, Server, Trouble},
    view::View,
};
use crate::{
    engine::Tail,
    event::{Event, LogId},
    throttle::Throttle,
};

/// How long Redis holds a question back while there is nothing new, and how often the log is looked
/// after.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long an answer may take, which Redis may hold back, before the connection is given up.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// Entries of one answer, each of which may have 64 KiB and more.
const READ_ENTRIES: usize = 256;
/// What is due for trimming is trimmed after so long, however little it is.
const TRIM_AFTER: Duration = Duration::from_secs(30);
/// And after so long where it is a good part of what is retained.
const TRIM_SHARE_AFTER: Duration = Duration::from_secs(5);
/// How often it is asked what the log takes in Redis.
const MEASURE: Duration = Duration::from_secs(15);

/// The follower's task.
pub struct Follower {
    pub server: Arc<Server>,
    pub namespace: Arc<Namespace>,
    pub view: Arc<View>,
    pub tail: Arc<dyn Tail>,
    pub log: LogId,
    /// Of the last event that the tail was told of, or the end of a seam.
    pub position: u64,
    /// Up to where it has read, entries of others among it.
    pub read: Place,
    /// At which position something strange came next, which may have been put right by the time
    /// the log was looked at.
    pub doubted: Option<u64>,
    pub trimming: Trimming,
    pub foreign: Throttle,
    pub untrimmed: Throttle,
}

/// When old events are let go of.
pub struct Trimming {
    /// At how many events at the latest: each time the table of what is gone of each topic goes with it.
    step: u64,
    /// Up to where Redis has let go, as far as is known.
    until: u64,
    last: Instant,
    measured: Option<Instant>,
}

impl Trimming {
    /// What is retained goes in so many parts.
    const PARTS: u64 = 16;

    /// `retained` is the most events that the node retains.
    pub fn new(retained: usize, until: u64) -> Self {
        Self {
            step: retained as u64 / Self::PARTS,
            until,
            last: Instant::now(),
            measured: None,
        }
    }

    /// Seldom where little comes, since the table is larger than what is let go of then.
    fn is_due(&self, earliest: u64, position: u64) -> bool {
        let count = earliest.saturating_sub(self.until);
        // Where bytes or age bind, there are fewer.
        let share = position.saturating_sub(earliest) / Self::PARTS;
        let waited = self.last.elapsed();
        count > 0
            && (count >= self.step
                || (share > 0 && count >= share && waited >= TRIM_SHARE_AFTER)
                || waited >= TRIM_AFTER)
    }
}

/// How an entry stands to what was read before it.
enum Step {
    Event(Event),
    /// It ends here, and hides nothing that the tail was told of.
    Seam(Seam),
    Note(Vec<u8>),
    /// Of others, at a place where it does no harm.
    Foreign,
    /// Not what comes next.
    Astray,
}

impl Follower {
    /// Follows until it is dropped.
    pub async fn run(mut self, first: Connection) {
        let mut backoff = Backoff::default();
        let mut connection = Some(first);
        loop {
            let trouble = match self.follow(connection.take(), &mut backoff).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            self.view.health.does_not_follow(&trouble);
            backoff.wait().await;
        }
    }

    async fn follow(
        &mut self,
        connection: Option<Connection>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Trouble> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => {
                let mut connection = self.server.connect_for(PATIENCE).await?;
                self.claim(&mut connection, false).await?;
                connection
            }
        };
        let mut looked = Instant::now();
        loop {
            let entries = self.read(&mut connection).await?;
            self.view.health.heard();
            backoff.reset();
            self.take(entries, &mut connection).await?;
            if looked.elapsed() >= LOOK_AFTER {
                self.look_after(&mut connection).await?;
                looked = Instant::now();
            }
        }
    }

    async fn read(&self, connection: &mut Connection) -> Result<Vec<Entry>, Trouble> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT")
            .arg(READ_ENTRIES)
            .arg("BLOCK")
            .arg(LOOK_AFTER.as_millis() as u64)
            .arg("STREAMS")
            .arg(&self.namespace.log)
            .arg(self.read.to_string());
        let answer = read.query_async::<Value>(&mut connection.link).await?;
        Entry::of_read(answer).ok_or_else(strange("what XREAD gives"))
    }

    /// Tells the tail of what was read, up to where it makes sense.
    async fn take(
        &mut self,
        entries: Vec<Entry>,
        connection: &mut Connection,
    ) -> Result<(), Trouble> {
        let mut events = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.step(&entry) {
                Step::Event(event) => {
                    self.position = event.sequence;
                    events.push(Arc::new(event));
                }
                Step::Seam(seam) => {
                    self.tell(&mut events);
                    self.view.passed(seam);
                    self.position = seam.to;
                    self.tail.advance(seam.to);
                }
                Step::Note(note) => {
                    self.tell(&mut events);
                    self.position = entry.place.sequence;
                    self.tail.told(&note);
                    self.tail.advance(self.position);
                }
                Step::Foreign => self.note_foreign(entry.place),
                Step::Astray => {
                    self.tell(&mut events);
                    return self.mend(entry.place.sequence, connection).await;
                }
            }
            self.read = entry.place;
        }
        self.tell(&mut events);
        Ok(())
    }

    fn tell(&mut self, events: &mut Vec<Arc<Event>>) {
        // Whoever hears of an event may come back with its cursor at once.
        self.view.follows(&self.log, self.position);
        if !events.is_empty() {
            self.tail.extend(std::mem::take(events));
        }
    }

    fn step(&self, entry: &Entry) -> Step {
        let Place { sequence, part } = entry.place;
        if part != 0 {
            // What stands further ahead would hide those to come.
            return match sequence == self.position {
                true => Step::Foreign,
                false => Step::Astray,
            };
        }
        match entry.content() {
            Ok(Content::Event(record)) if sequence == self.position + 1 => {
                Step::Event(event_at(record, &self.log, sequence))
            }
            Ok(Content::Note(note)) if sequence == self.position + 1 => Step::Note(note),
            Ok(Content::Seam { from }) if from == self.position && from < sequence => {
                Step::Seam(Seam { from, to: sequence })
            }
            Ok(_) | Err(_) => Step::Astray,
        }
    }

    fn note_foreign(&self, place: Place) {
        self.view.health.foreign.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.foreign.pass() {
            tracing::warn!(%place, held_back, "skipped an entry of the log that no gateway wrote");
        }
    }

    /// Finds out why an entry of this sequence comes next.
    async fn mend(&mut self, sequence: u64, connection: &mut Connection) -> Result<(), Trouble> {
        let now = look(connection, &self.namespace, &self.log, None).await?;
        let is_same = now.is_as_claimed(&connection.facts.identity, &self.log);
        if !is_same || sequence > now.last {
            return self.claim(connection, false).await;
        }
        if now.trimmed > self.position && now.trimmed + 1 >= sequence {
            tracing::warn!(
                position = self.position,
                trimmed = now.trimmed,
                "events were trimmed before this node had read them"
            );
            self.restart(self.log.clone(), now.trimmed);
            return Ok(());
        }
        // Whoever put it there may have been quicker than the log's next event, and the look slower.
        if self.doubted.replace(self.position) != Some(self.position) {
            return Ok(());
        }
        tracing::error!(
            position = self.position,
            next = sequence,
            "the log has a hole"
        );
        self.claim(connection, true).await
    }

    async fn claim(&mut self, connection: &mut Connection, is_lost: bool) -> Result<(), Trouble> {
        let witness = self.view.witness();
        let claim = claim(connection, &self.namespace, &witness, is_lost).await?;
        self.view.claimed(&claim, &connection.facts);
        if claim.log != self.log {
            self.adopt(&claim);
        }
        Ok(())
    }

    /// Goes over to another log. What this node's clients have seen of the one before is no part of
    /// it, so they are to notice: positions rise.
    fn adopt(&mut self, claim: &Claim) {
        let position = match claim.trimmed > self.position {
            true => claim.trimmed,
            false => claim.last,
        };
        self.restart(claim.log.clone(), position);
    }

    fn restart(&mut self, log: LogId, position: u64) {
        self.tail.restart(log.clone(), position);
        self.view.follows(&log, position);
        self.log = log;
        self.position = position;
        self.read = Place::of(position);
        self.trimming.until = position;
    }

    /// Does what is due, about once a second: notices what became of the log while nothing was
    /// published, and lets go of what is not retained.
    async fn look_after(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        ensure_master(connection).await?;
        let now = match self.due_for_trimming() {
            Some(trim) => self.trim(&trim, connection).await?,
            None => look(connection, &self.namespace, &self.log, None).await?,
        };
        if !now.is_as_claimed(&connection.facts.identity, &self.log) || self.position > now.last {
            return self.claim(connection, false).await;
        }
        self.view.ends_at(now.last);
        self.note_trimmed(&now);
        self.measure(connection).await
    }

    /// A server that takes no writes is followed all the same.
    async fn trim(&self, trim: &Trim, connection: &mut Connection) -> Result<Look, Trouble> {
        match look(connection, &self.namespace, &self.log, Some(trim)).await {
            Err(trouble) if trouble.is_refusal() => {
                if let Some(held_back) = self.untrimmed.pass() {
                    tracing::warn!(%trouble, held_back, "the log in Redis can not be trimmed");
                }
                look(connection, &self.namespace, &self.log, None).await
            }
            looked => looked,
        }
    }

    fn due_for_trimming(&mut self) -> Option<Trim> {
        let earliest = self.tail.earliest();
        if !self.trimming.is_due(earliest, self.position) {
            return None;
        }
        self.trimming.last = Instant::now();
        // The table after the position: what it tells too much errs towards a reset.
        Some(Trim {
            until: earliest,
            topics: self.tail.trims(),
        })
    }

    fn note_trimmed(&mut self, now: &Look) {
        if now.trimmed > self.trimming.until {
            self.trimming.until = now.trimmed;
            self.tail.trim(now.trimmed);
        }
    }

    async fn measure(&mut self, connection: &mut Connection) -> Result<(), Trouble> {
        let measured = self.trimming.measured;
        if measured.is_some_and(|measured| measured.elapsed() < MEASURE) {
            return Ok(());
        }
        self.trimming.measured = Some(Instant::now());
        let mut usage = redis::cmd("MEMORY");
        usage.arg("USAGE").arg(&self.namespace.log);
        match usage.query_async::<Option<u64>>(&mut connection.link).await {
            Ok(bytes) => {
                let bytes = bytes.unwrap_or_default();
                self.view
                    .health
                    .stored_bytes
                    .store(bytes, Ordering::Relaxed);
                Ok(())
            }
            // Whoever may not ask does without.
            Err(error) if error.is_io_error() => Err(error.into()),
            Err(_) => Ok(()),
        }
    }
}

/// A master that was demoted goes on answering, and is not where the log goes on.
async fn ensure_master(connection: &mut Connection) -> Result<(), Trouble> {
    let role: Value = redis::cmd("ROLE").query_async(&mut connection.link).await?;
    let role = list(role).unwrap_or_default();
    match role.first().and_then(text) {
        Some("master") => Ok(()),
        _ => Err(Trouble::Replica),
    }
}
