//! How an engine fares with its server.

use std::{
    fmt::Display,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::metrics::EngineState;

/// A node that has not been told anything for so long does not follow its log.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);

/// Kept by those who write, follow and read a log in a server, and shown to operators.
pub struct Health {
    /// What the server is called.
    server: &'static str,
    known: Mutex<Known>,
    pub commits: AtomicU64,
    pub write_failures: AtomicU64,
    pub read_failures: AtomicU64,
    pub lost_logs: AtomicU64,
    pub foreign: AtomicU64,
    pub stored_bytes: AtomicU64,
    /// Idempotency keys that this node remembers.
    pub keys: AtomicUsize,
}

struct Known {
    /// When the server last told what comes after the tail's position.
    followed_at: Instant,
    follow_trouble: Option<String>,
    /// Since when nothing can be appended, and why.
    write_trouble: Option<(Instant, String)>,
}

impl Health {
    pub fn new(server: &'static str) -> Self {
        Self {
            server,
            known: Mutex::new(Known {
                followed_at: Instant::now(),
                follow_trouble: None,
                write_trouble: None,
            }),
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

    /// The server has told what comes next, or that there is nothing.
    pub fn heard(&self) {
        let mut known = self.known();
        known.followed_at = Instant::now();
        if known.follow_trouble.take().is_some() {
            tracing::info!("this node follows the log in {} again", self.server);
        }
    }

    pub fn does_not_follow(&self, trouble: &dyn Display) {
        let told = self.known().follow_trouble.replace(trouble.to_string());
        if told.is_none() {
            tracing::warn!(%trouble, "this node can not follow the log in {}", self.server);
        }
    }

    pub fn can_append(&self) {
        if self.known().write_trouble.take().is_some() {
            tracing::info!("{} takes publishes again", self.server);
        }
    }

    pub fn can_not_append(&self, trouble: &dyn Display) {
        let mut known = self.known();
        let since = known.write_trouble.take().map(|(since, _)| since);
        if since.is_none() {
            tracing::warn!(%trouble, "{} takes no publishes", self.server);
        }
        known.write_trouble = Some((since.unwrap_or_else(Instant::now), trouble.to_string()));
    }

    /// Why nothing can be appended, where that has been so for some time.
    pub fn unwritable_for(&self, time: Duration) -> Option<String> {
        let known = self.known();
        let (since, why) = known.write_trouble.as_ref()?;
        (since.elapsed() >= time).then(|| why.clone())
    }

    /// How long ago the server told last what comes next.
    pub fn heard_ago(&self) -> Duration {
        self.known().followed_at.elapsed()
    }

    /// For operators, with the address of the server.
    pub fn condition(&self, address: &str) -> EngineState {
        EngineState {
            refuses: self.refuses(address),
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
    fn refuses(&self, address: &str) -> Option<String> {
        let server = self.server;
        let known = self.known();
        let silent = known.followed_at.elapsed();
        if silent >= FOLLOWS_WITHIN {
            let seconds = silent.as_secs();
            let why = known.follow_trouble.as_deref().unwrap_or("no answer");
            return Some(format!(
                "{server} at {address} has not told what is new for {seconds} s: {why}"
            ));
        }
        let (since, why) = known.write_trouble.as_ref()?;
        (since.elapsed() >= FOLLOWS_WITHIN)
            .then(|| format!("nothing can be appended to the log in {server} at {address}: {why}"))
    }
}
