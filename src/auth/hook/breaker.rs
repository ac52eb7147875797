//! The circuit breaker: a backend that is down is left alone for a while, and nobody waits for it.
//!
//! ```text
//!            5 failures in a row
//!   Closed ───────────────────────▶ Open ◀─────────────┐ fails: a longer pause
//!     ▲                              │ the pause is over │
//!     │          succeeds            ▼                   │
//!     └───────────────────────── one probe ─────────────┘
//! ```
//!
//! Own code, since the crates there are let every caller through once the pause is over, and none tells how long it
//! lasts, which is what clients are told as `retryAfterMs`.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Fewer may be chance.
const FAILURES_TO_OPEN: u32 = 5;

/// The first pause; each failed probe doubles it up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// What others are told to wait while a probe is under way.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// Decides whether a call may be made. Knows time only as it is given.
#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// In a row, while closed.
    failures: u32,
    /// Pauses since it was last closed.
    pauses: u32,
    /// The end of the pause; `None` while closed.
    until: Option<Instant>,
    probing: bool,
}

/// The right to make one call. Dropped unsettled, it has decided nothing, and another may probe.
#[must_use]
pub(super) struct Permit<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
}

/// What a call's outcome changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Calls are refused for this long.
    Opened(Duration),
    /// Calls are made again.
    Closed,
}

impl Breaker {
    /// # Errors
    /// How long no call is to be made.
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, Duration> {
        let mut state = self.state();
        if let Some(wait) = state.wait(now) {
            return Err(wait);
        }
        let is_probe = state.until.is_some();
        state.probing = is_probe;
        Ok(Permit {
            breaker: self,
            is_probe,
        })
    }

    /// How long calls are refused from now on; `None` where one would be admitted.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.state().wait(now)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wait(&self, now: Instant) -> Option<Duration> {
        let until = self.until?;
        if now < until {
            return Some(until - now);
        }
        self.probing.then_some(PROBE_WAIT)
    }

    fn open(&mut self, now: Instant) -> Change {
        let pause = jittered(pause(self.pauses));
        *self = Self {
            failures: 0,
            pauses: self.pauses.saturating_add(1),
            until: Some(now + pause),
            probing: false,
        };
        Change::Opened(pause)
    }
}

impl Permit<'_> {
    /// The backend answered, whatever it said: also a call that began before the pause shows that it is there.
    pub fn succeeded(mut self) -> Change {
        self.is_probe = false;
        let before = std::mem::take(&mut *self.breaker.state());
        match before.until {
            Some(_) => Change::Closed,
            None => Change::None,
        }
    }

    /// The backend is down or overloaded.
    pub fn failed(mut self, now: Instant) -> Change {
        let is_probe = std::mem::take(&mut self.is_probe);
        let mut state = self.breaker.state();
        if is_probe && state.probing {
            return state.open(now);
        }
        if state.until.is_some() {
            // A call from before the pause says nothing new.
            return Change::None;
        }
        state.failures += 1;
        match state.failures < FAILURES_TO_OPEN {
            true => Change::None,
            false => state.open(now),
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.state().probing = false;
        }
    }
}

fn pause(pauses: u32) -> Duration {
    MIN_PAUSE.saturating_mul(1 << pauses.min(16)).min(MAX_PAUSE)
}

/// A little less, so that the nodes of a cluster do not probe in step.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(breaker: &Breaker, now: Instant) -> Permit<'_> {
        breaker.admit(now).expect("a permit")
    }

    fn refused(breaker: &Breaker, now: Instant) -> Duration {
        breaker.admit(now).err().expect("no permit")
    }

    /// Fails until it opens; the length of the pause.
    fn open(breaker: &Breaker, now: Instant) -> Duration {
        for _ in 1..FAILURES_TO_OPEN {
            assert_eq!(admit(breaker, now).failed(now), Change::None);
        }
        match admit(breaker, now).failed(now) {
            Change::Opened(pause) => pause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tells_how_long() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let pause = open(&breaker, now);
        assert!(
            pause <= MIN_PAUSE && pause >= MIN_PAUSE.mul_f64(0.75),
            "{pause:?}"
        );
        assert_eq!(refused(&breaker, now), pause);
        let half = pause / 2;
        assert_eq!(refused(&breaker, now + half), pause - half);
        assert_eq!(breaker.wait(now + half), Some(pause - half));
    }

    #[test]
    fn a_success_in_between_begins_the_count_anew() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..FAILURES_TO_OPEN {
                assert_eq!(admit(&breaker, now).failed(now), Change::None);
            }
            assert_eq!(admit(&breaker, now).succeeded(), Change::None);
        }
        assert_eq!(breaker.wait(now), None);
    }

    #[test]
    fn after_the_pause_one_probe_decides() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let later = now + open(&breaker, now);
        let probe = admit(&breaker, later);
        assert_eq!(refused(&breaker, later), PROBE_WAIT);
        assert_eq!(probe.succeeded(), Change::Closed);
        let (first, second) = (admit(&breaker, later), admit(&breaker, later));
        assert_eq!(first.succeeded(), Change::None);
        assert_eq!(second.failed(later), Change::None, "the count began anew");
    }

    #[test]
    fn each_failed_probe_doubles_the_pause_up_to_the_longest() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        let mut last = open(&breaker, now);
        for longest in [2, 4, 8, 16, 30, 30, 30] {
            now += last;
            let Change::Opened(pause) = admit(&breaker, now).failed(now) else {
                panic!("a failed probe opens it again");
            };
            let longest = Duration::from_secs(longest);
            assert!(
                pause <= longest && pause >= longest.mul_f64(0.75),
                "{pause:?}"
            );
            last = pause;
        }
        assert_eq!(admit(&breaker, now + last).succeeded(), Change::Closed);
        let short = open(&breaker, now);
        assert!(short <= MIN_PAUSE, "the pauses begin anew: {short:?}");
    }

    #[test]
    fn a_probe_that_was_dropped_makes_room_for_another() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let later = now + open(&breaker, now);
        drop(admit(&breaker, later));
        assert_eq!(admit(&breaker, later).succeeded(), Change::Closed);
    }

    #[test]
    fn calls_from_before_the_pause_do_not_lengthen_it_and_may_end_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let (slow, slower) = (admit(&breaker, now), admit(&breaker, now));
        let pause = open(&breaker, now);
        assert_eq!(slow.failed(now), Change::None);
        assert_eq!(refused(&breaker, now), pause);
        assert_eq!(slower.succeeded(), Change::Closed);
        assert_eq!(admit(&breaker, now).succeeded(), Change::None);
    }
}
