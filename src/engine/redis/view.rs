//! What this node knows of the log, for those who write, follow and read it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    script::{Claim, Outcome, Seam, Witness},
    server::{Facts, Trouble},
};
use crate::{
    event::{Cursor, LogId},
    metrics::EngineState,
};

/// A node that has not been told anything for so long does not follow its log.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);
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
    known: Mutex<Known>,
    followed: watch::Sender<Followed>,
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
    seams: Vec<Seam>,
    facts: Option<Facts>,
    /// When Redis last told what comes after the tail's position.
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
                seams: Vec::new(),
                facts: None,
                followed_at: Instant::now(),
                follow_trouble: None,
                write_trouble: None,
            }),
            followed: watch::Sender::default(),
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
        self.foreign.fetch_add(claim.foreign, Ordering::Relaxed);
        let server = facts.identity.as_str();
        match claim.outcome {
            Outcome::Kept => {}
            Outcome::Begun => tracing::info!(log = claim.log.as_str(), "a new log begins"),
            Outcome::Seamed => tracing::warn!(
                server,
                "another process of Redis has the log, and as far as this node knows all of it"
            ),
            Outcome::Lost => {
                self.lost_logs.fetch_add(1, Ordering::Relaxed);
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

    /// Redis has told what comes next, or that there is nothing.
    pub fn heard(&self) {
        let mut known = self.known();
        known.followed_at = Instant::now();
        if known.follow_trouble.take().is_some() {
            tracing::info!("this node follows the log in Redis again");
        }
    }

    pub fn does_not_follow(&self, trouble: &Trouble) {
        let told = self.known().follow_trouble.replace(trouble.to_string());
        if told.is_none() {
            tracing::warn!(%trouble, "this node can not follow the log in Redis");
        }
    }

    pub fn can_append(&self) {
        if self.known().write_trouble.take().is_some() {
            tracing::info!("Redis takes publishes again");
        }
    }

    pub fn can_not_append(&self, trouble: &Trouble) {
        let mut known = self.known();
        let since = known.write_trouble.take().map(|(since, _)| since);
        if since.is_none() {
            tracing::warn!(%trouble, "Redis takes no publishes");
        }
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
        if silent >= FOLLOWS_WITHIN {
            let seconds = silent.as_secs();
            let why = known.follow_trouble.as_deref().unwrap_or("no answer");
            return Some(format!(
                "Redis at {server} has not told what is new for {seconds} s: {why}"
            ));
        }
        let (since, why) = known.write_trouble.as_ref()?;
        (since.elapsed() >= FOLLOWS_WITHIN)
            .then(|| format!("nothing can be appended to the log in Redis at {server}: {why}"))
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
