//! What this node knows of the log, for those who write, follow and read it.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_nats::jetstream::stream::Stream;
use tokio::sync::watch;

use super::{
    SERVER,
    claim::{Claim, Outcome, Witness},
    message::Mark,
    meta::Numbered,
    server::{Session, Trouble},
    streams::Facts,
};
use crate::{engine::remote::Health, event::Cursor};

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
    pub health: Health,
    /// There was no log before this node came.
    pub began: AtomicBool,
    known: Mutex<Known>,
    followed: watch::Sender<Followed>,
    /// `None` while it is not claimed.
    open: watch::Sender<Option<Arc<Open>>>,
}

struct Known {
    witness: Witness,
    facts: Option<Facts>,
}

impl View {
    pub fn new() -> Self {
        Self {
            health: Health::new(SERVER),
            began: AtomicBool::default(),
            known: Mutex::new(Known {
                witness: Witness::default(),
                facts: None,
            }),
            followed: watch::Sender::default(),
            open: watch::Sender::default(),
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
            Outcome::Begun => {
                self.began.store(true, Ordering::Relaxed);
                tracing::info!(log = log.as_str(), "a new log begins");
            }
            Outcome::Jumped => tracing::warn!(
                last = claim.last,
                "another process of NATS has the log, and as far as this node knows all of it"
            ),
            Outcome::Lost => {
                self.health.lost_logs.fetch_add(1, Ordering::Relaxed);
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
        self.health.can_append();
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

    /// The log is neither followed nor open any more.
    pub fn is_cut_off(&self, trouble: &Trouble) {
        self.close();
        self.health.does_not_follow(trouble);
        self.health.can_not_append(trouble);
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
