//! What this node knows of the log, for those who write, follow and read it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::stream::Stream;
use tokio::sync::watch;

use super::{
    claim::{Claim, Outcome, Witness},
    message::Mark,
    meta::Numbered,
    server::{Session, Trouble},
    streams::Facts,
};
use crate::{event::Cursor, metrics::EngineState};

/// A node that has not been told anything for so long does not follow its log.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// How far the tail has come.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// `None` before the start.
    pub log: Option<Arc<Numbered>>,
    pub position: u64,
}

/// The log as it was claimed on a connection.
pub struct Open {
    pub session: Arc<Session>,
    pub stream: Stream,
    pub meta_stream: Stream,
    pub log: Arc<Numbered>,
    /// The log before this one, in the same stream.
    pub before: Option<Numbered>,
}

/// Shared by all tasks of one engine.
pub struct View {
    known: Mutex<Known>,
    followed: watch::Sender<Followed>,
    /// `None` while it is not claimed.
    open: watch::Sender<Option<Arc<Open>>>,
    pub commits: AtomicU64,
    pub write_failures: AtomicU64,
    pub read_failures: AtomicU64,
    pub lost_logs: AtomicU64,
    pub foreign: AtomicU64,
    pub stored_bytes: AtomicU64,
    pub keys: AtomicUsize,
}

struct Known {
    witness: Witness,
    facts: Option<Facts>,
    /// When NATS last told what comes after the tail's position.
    followed_at: Instant,
    follow_trouble: Option<String>,
    /// Since when nothing can be appended, and why.
    write_trouble: Option<(Instant, String)>,
}

impl View {
    pub fn new() -> Self {
        Self {
            known: Mutex::new(Known {
                witness: Witness::default(),
                facts: None,
                followed_at: Instant::now(),
                follow_trouble: None,
                write_trouble: None,
            }),
            followed: watch::Sender::default(),
            open: watch::Sender::default(),
            commits: AtomicU64::default(),
            write_failures: AtomicU64::default(),
            read_failures: AtomicU64::default(),
            lost_logs: AtomicU64::default(),
            foreign: AtomicU64::default(),
            stored_bytes: AtomicU64::default(),
            keys: AtomicUsize::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node can tell of what it has seen.
    pub fn witness(&self) -> Witness {
        self.known().witness.clone()
    }

    /// This message of the log is known to this node, which a server that has another one there, or
    /// none, has lost.
    pub fn saw(&self, log: &Numbered, mark: Mark) {
        let witness = &mut self.known().witness;
        let is_further = |seen: Mark| mark.sequence > seen.sequence;
        if witness.log.as_ref() == Some(&log.log) && witness.seen.is_none_or(is_further) {
            witness.seen = Some(mark);
            witness.position = witness.position.max(log.numbering.end_of(mark.sequence));
        }
    }

    /// From here on it is this log that the node knows.
    pub fn claimed(&self, claim: &Claim) {
        let mut known = self.known();
        let log = &claim.meta.now.log;
        if known.witness.log.as_ref() != Some(log) {
            known.witness.log = Some(log.clone());
            known.witness.seen = None;
        }
        known.witness.generation = claim.meta.generation;
        let is_news = known.facts.replace(claim.facts.clone()).as_ref() != Some(&claim.facts);
        drop(known);
        if is_news {
            tell_of(&claim.facts);
        }
        match claim.outcome {
            Outcome::Kept => {}
            Outcome::Begun => tracing::info!(log = log.as_str(), "a new log begins"),
            Outcome::Jumped => tracing::warn!(
                last = claim.last,
                "another process of NATS has the log, and as far as this node knows all of it"
            ),
            Outcome::Lost => {
                self.lost_logs.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    log = log.as_str(),
                    last = claim.last,
                    "the log in NATS has lost events: clients are told to start afresh"
                );
            }
        }
    }

    pub fn facts(&self) -> Option<Facts> {
        self.known().facts.clone()
    }

    /// The log can be appended to and read by this.
    pub fn opened(&self, open: Open) {
        self.open.send_replace(Some(Arc::new(open)));
        self.known().write_trouble = None;
    }

    /// It is about to be claimed again, and whoever wants to append or read waits.
    pub fn close(&self) {
        self.open.send_replace(None);
    }

    pub fn open(&self) -> Option<Arc<Open>> {
        self.open.borrow().clone()
    }

    pub fn openings(&self) -> watch::Receiver<Option<Arc<Open>>> {
        self.open.subscribe()
    }

    /// The tail is at a position.
    pub fn follows(&self, log: &Arc<Numbered>, position: u64) {
        let witness = &mut self.known().witness;
        witness.position = witness.position.max(position);
        self.followed.send_replace(Followed {
            log: Some(Arc::clone(log)),
            position,
        });
    }

    pub fn followed(&self) -> Followed {
        self.followed.borrow().clone()
    }

    /// Whether the log has reached a cursor, where this node can tell without NATS.
    pub fn has_reached(&self, cursor: &Cursor) -> Option<bool> {
        if cursor.check.is_some() {
            return Some(false);
        }
        let followed = self.followed();
        let log = followed.log.filter(|log| log.log == cursor.log)?;
        let is_behind = cursor.sequence <= followed.position;
        is_behind.then(|| log.numbering.knows(cursor.sequence))
    }

    /// NATS has told what comes next, or that there is nothing.
    pub fn heard(&self) {
        let mut known = self.known();
        known.followed_at = Instant::now();
        known.follow_trouble = None;
    }

    /// The log is neither followed nor open any more.
    pub fn is_cut_off(&self, trouble: &Trouble) {
        self.close();
        let mut known = self.known();
        known.follow_trouble = Some(trouble.to_string());
        let since = known.write_trouble.take().map(|(since, _)| since);
        known.write_trouble = Some((since.unwrap_or_else(Instant::now), trouble.to_string()));
    }

    /// Why nothing can be appended, where that has been so for some time.
    pub fn unwritable_for(&self, time: Duration) -> Option<String> {
        let known = self.known();
        let (since, why) = known.write_trouble.as_ref()?;
        (since.elapsed() >= time).then(|| why.clone())
    }

    pub fn condition(&self, server: &str) -> EngineState {
        EngineState {
            refuses: self.refuses(server),
            write_failures: self.write_failures.load(Ordering::Relaxed),
            read_failures: self.read_failures.load(Ordering::Relaxed),
            lost_logs: self.lost_logs.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
            set_aside_bytes: 0,
            foreign_entries: self.foreign.load(Ordering::Relaxed),
        }
    }

    /// Why the node is not fit for clients, in words for an operator.
    fn refuses(&self, server: &str) -> Option<String> {
        let known = self.known();
        let silent = known.followed_at.elapsed();
        (silent >= FOLLOWS_WITHIN).then(|| {
            let seconds = silent.as_secs();
            let why = known.follow_trouble.as_deref().unwrap_or("no answer");
            format!("NATS at {server} has not told what is new for {seconds} s: {why}")
        })
    }
}

/// The log once it is claimed; `None` where the engine is gone.
pub async fn usable(openings: &mut watch::Receiver<Option<Arc<Open>>>) -> Option<Arc<Open>> {
    let is_usable =
        |open: &Option<Arc<Open>>| open.as_ref().is_some_and(|open| !open.session.is_lost());
    openings.wait_for(is_usable).await.ok()?.clone()
}

fn tell_of(facts: &Facts) {
    tracing::info!(
        version = facts.version,
        replicas = facts.replicas,
        cluster = facts.cluster.as_deref().unwrap_or("none"),
        durability = facts.durability().unwrap_or("none"),
        "the log is in NATS"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::nats::numbering::Numbering, event::LogId};

    fn log(name: &str) -> Arc<Numbered> {
        Arc::new(Numbered {
            log: LogId::parse(name).unwrap(),
            numbering: Numbering::begin(0, 0),
        })
    }

    #[test]
    fn a_cursor_that_the_tail_has_passed_needs_no_nats_and_one_in_a_hole_is_not_reached() {
        let view = View::new();
        let mut jumped = log("a").as_ref().clone();
        jumped.numbering.jump(2, 0);
        let next = jumped.numbering.position(3, 0).unwrap();
        view.follows(&Arc::new(jumped), next);
        let judge = |cursor: String| view.has_reached(&cursor.parse().unwrap());
        for (position, expected) in [
            (4096, true),
            (2 << 12, true),
            (next, true),
            (next - 2, false),
        ] {
            assert_eq!(judge(format!("a-{position}")), Some(expected), "{position}");
        }
        assert_eq!(judge("a-4096.c".to_owned()), Some(false));
        for unknown in [format!("a-{}", next + 1), "b-4096".to_owned()] {
            assert_eq!(judge(unknown), None);
        }
    }
}
