//! Keeps a log line that clients can provoke from filling a disk.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Lets one line through each [`Throttle::INTERVAL`], and counts the others. One for each kind of
/// line; any thread may ask.
#[derive(Debug)]
pub struct Throttle {
    since: Instant,
    /// Milliseconds after `since` from which the next line may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(1);

    fn new(since: Instant) -> Self {
        Self {
            since,
            next: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }

    /// Whether a line may be written now: how many were held back since the last one.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let at = millis(now.duration_since(self.since));
        let next = self.next.load(Ordering::Relaxed);
        let after = at.saturating_add(millis(Self::INTERVAL));
        let first = at >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if first {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_tells_how_many_did_not() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        let at = |millis| throttle.pass_at(start + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1000), Some(2));
        assert_eq!(at(1001), None);
        assert_eq!(at(5000), Some(1));
    }
}
