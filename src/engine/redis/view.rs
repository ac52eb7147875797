//! What this node knows of the log, for those who write, follow and read it.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{
    SERVER,
    script::{Claim, Outcome, Seam, Witness},
    server::Facts,
};
use crate::{
    engine::remote::Health,
    event::{Cursor, LogId},
};

/// Seams that Redis remembers: what was forgotten lies before the oldest.
const SEAMS: usize = 1000;

/// How far the tail has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// `None` before the start.
    pub log: Option<LogId>,
    pub position: u64,
}

/// Shared by all tasks of one engine.
pub struct View {
    pub health: Health,
    /// There was no log before this node came.
    pub began: AtomicBool,
    known: Mutex<Known>,
    /// The last position that Redis told of.
    end: AtomicU64,
    followed: watch::Sender<Followed>,
}

struct Known {
    witness: Witness,
    seams: Vec<Seam>,
    facts: Option<Facts>,
}

impl View {
    pub fn new() -> Self {
        Self {
            health: Health::new(SERVER),
            began: AtomicBool::default(),
            known: Mutex::new(Known {
                witness: Witness::default(),
                seams: Vec::new(),
                facts: None,
            }),
            end: AtomicU64::default(),
            followed: watch::Sender::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node can tell of what it has seen.
    pub fn witness(&self) -> Witness {
        self.known().witness.clone()
    }

    /// An event of this position is known to this node, which a server that does not have it has
    /// lost.
    pub fn saw(&self, log: &LogId, position: u64) {
        let witness = &mut self.known().witness;
        // Positions rise from one log to the next.
        if position > witness.seen || witness.log.is_none() {
            witness.seen = position;
            witness.log = Some(log.clone());
        }
    }

    pub fn claimed(&self, claim: &Claim, facts: &Facts) {
        let mut known = self.known();
        known.seams.clone_from(&claim.seams);
        let is_news = known.facts.replace(facts.clone()).as_ref() != Some(facts);
        drop(known);
        if is_news {
            tell_of(facts);
        }
        self.saw(&claim.log, claim.last);
        self.health
            .foreign
            .fetch_add(claim.foreign, Ordering::Relaxed);
        let server = facts.identity.as_str();
        match claim.outcome {
            Outcome::Kept => {}
            Outcome::Begun => {
                self.began.store(true, Ordering::Relaxed);
                tracing::info!(log = claim.log.as_str(), "a new log begins");
            }
            Outcome::Seamed => tracing::warn!(
                server,
                "another process of Redis has the log, and as far as this node knows all of it"
            ),
            Outcome::Lost => {
                self.health.lost_logs.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    server,
                    log = claim.log.as_str(),
                    "the log in Redis has lost events: clients are told to start afresh"
                );
            }
        }
        if claim.foreign > 0 {
            tracing::error!(
                entries = claim.foreign,
                "removed entries of the log that no gateway wrote"
            );
        }
    }

    /// Redis has told where the log ends now.
    pub fn ends_at(&self, position: u64) {
        self.end.store(position, Ordering::Relaxed);
    }

    /// How many positions the tail has to go to what this node knows to be given.
    pub fn behind(&self) -> u64 {
        let seen = self.known().witness.seen;
        let end = seen.max(self.end.load(Ordering::Relaxed));
        end.saturating_sub(self.followed().position)
    }

    pub fn facts(&self) -> Option<Facts> {
        self.known().facts.clone()
    }

    /// The tail is at a position.
    pub fn follows(&self, log: &LogId, position: u64) {
        self.saw(log, position);
        self.followed.send_if_modified(|followed| {
            let is_new = followed.position != position || followed.log.as_ref() != Some(log);
            if is_new {
                *followed = Followed {
                    log: Some(log.clone()),
                    position,
                };
            }
            is_new
        });
    }

    pub fn passed(&self, seam: Seam) {
        let seams = &mut self.known().seams;
        if !seams.contains(&seam) {
            seams.push(seam);
        }
    }

    pub fn followed(&self) -> Followed {
        self.followed.borrow().clone()
    }

    pub fn changes(&self) -> watch::Receiver<Followed> {
        self.followed.subscribe()
    }

    /// Whether the log has reached a cursor, where this node can tell without Redis.
    pub fn has_reached(&self, cursor: &Cursor) -> Option<bool> {
        if cursor.check.is_some() {
            return Some(false);
        }
        let followed = self.followed();
        let is_behind =
            followed.log.as_ref() == Some(&cursor.log) && cursor.sequence <= followed.position;
        is_behind.then(|| !is_hidden(&self.known().seams, cursor.sequence))
    }
}

fn tell_of(facts: &Facts) {
    let durability = facts.durability.unwrap_or("none");
    tracing::info!(
        version = facts.version,
        server = facts.identity,
        durability,
        "the log is in Redis"
    );
    if let Some(policy) = &facts.eviction {
        tracing::warn!(
            policy,
            "Redis may evict the log or idempotency keys at maxmemory: set maxmemory-policy to \
             noeviction"
        );
    }
}

/// Whether a position stands for nothing, or nobody knows any more.
pub fn is_hidden(seams: &[Seam], position: u64) -> bool {
    let is_forgotten = |seam: &Seam| seams.len() >= SEAMS && position < seam.from;
    seams.first().is_some_and(is_forgotten) || seams.iter().any(|seam| seam.hides(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(name: &str) -> LogId {
        LogId::parse(name).unwrap()
    }

    #[test]
    fn a_cursor_that_the_tail_has_passed_needs_no_redis_and_one_in_a_hole_is_not_reached() {
        let view = View::new();
        view.follows(&log("a"), 30);
        view.passed(Seam { from: 10, to: 20 });
        let judge = |cursor: &str| view.has_reached(&cursor.parse().unwrap());
        for reached in ["a-0", "a-10", "a-20", "a-30"] {
            assert_eq!(judge(reached), Some(true), "{reached}");
        }
        for hidden in ["a-11", "a-19", "a-5.c"] {
            assert_eq!(judge(hidden), Some(false), "{hidden}");
        }
        for unknown in ["a-31", "b-5"] {
            assert_eq!(judge(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn what_lies_before_the_oldest_seam_is_not_vouched_for_once_some_were_forgotten() {
        let seam = |number: u64| Seam {
            from: 100 * number + 5,
            to: 100 * number + 50,
        };
        let seams: Vec<Seam> = (1..=SEAMS as u64).map(seam).collect();
        assert!(is_hidden(&seams, 104));
        assert!(!is_hidden(&seams[1..], 104));
        assert!(!is_hidden(&seams, 105));
    }

    #[test]
    fn a_node_vouches_for_the_last_log_it_saw_and_for_the_furthest_position() {
        let view = View::new();
        view.saw(&log("a"), 7);
        view.saw(&log("a"), 5);
        assert_eq!(view.witness().seen, 7);
        view.saw(&log("b"), 1000);
        view.saw(&log("a"), 8);
        let witness = view.witness();
        assert_eq!((witness.log, witness.seen), (Some(log("b")), 1000));
    }
}
