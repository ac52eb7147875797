//! A rate limit whose rate is given with each request, since a token may widen or tighten its
//! subject's: the generic cell rate algorithm (ITU-T I.371), one number of state. Where the rate is
//! fixed, `governor` does the same.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::protocol::Quota;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// So many a second, kept up over time, and so many at once after a quiet time. Neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_second: u32,
    pub burst: u32,
}

impl Rate {
    /// As the `RateLimit-Policy` header tells it: the whole burst, and the time in which it comes
    /// back.
    pub fn quota(self) -> Quota {
        Quota {
            count: self.burst,
            window_seconds: self.burst.div_ceil(self.per_second.max(1)),
        }
    }

    fn nanos_of(self, count: u64) -> u64 {
        let per_second = u128::from(self.per_second.max(1));
        let nanos = u128::from(count) * u128::from(NANOS_PER_SECOND) / per_second;
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// Monotonic nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What was taken, as the time at which all of it will have been paid back. Full at first.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `count` at once, or nothing. `count` is no more than the burst.
    ///
    /// # Errors
    /// The time until there will be as much.
    pub(super) fn take(&self, count: u32, rate: Rate, now: u64) -> Result<(), Duration> {
        let cost = rate.nanos_of(u64::from(count));
        let allowed = rate.nanos_of(u64::from(rate.burst));
        let mut known = self.0.load(Ordering::Relaxed);
        loop {
            let paid_back_at = known.max(now).saturating_add(cost);
            let debt = paid_back_at - now;
            if debt > allowed {
                return Err(Duration::from_nanos(debt - allowed));
            }
            let exchanged = self.0.compare_exchange_weak(
                known,
                paid_back_at,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match exchanged {
                Ok(_) => return Ok(()),
                Err(newer) => known = newer,
            }
        }
    }

    /// Joins a queue that is served at this rate; the time until its turn.
    pub(super) fn queue(&self, rate: Rate, now: u64) -> Duration {
        let cost = rate.nanos_of(1);
        let mut turn = now;
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                // A queue longer than anyone is told to wait need not be remembered.
                let longest = now.saturating_add(super::LONGEST_WAIT.as_nanos() as u64);
                turn = last.max(now).saturating_add(cost).min(longest);
                Some(turn)
            });
        Duration::from_nanos(turn - now)
    }

    /// Whether nothing is owed, so that a new bucket would be the same.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::{RateLimiter, clock::FakeRelativeClock};
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let rate = Rate {
            per_second: 10,
            burst: 5,
        };
        let bucket = Bucket::default();
        for _ in 0..5 {
            assert_eq!(bucket.take(1, rate, SECOND), Ok(()));
        }
        let wait = Duration::from_millis(100);
        assert_eq!(bucket.take(1, rate, SECOND), Err(wait));
        assert!(!bucket.is_full(SECOND));
        assert_eq!(bucket.take(1, rate, SECOND + SECOND / 10), Ok(()));
        assert!(bucket.is_full(2 * SECOND));
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let rate = Rate {
            per_second: 1,
            burst: 10,
        };
        let bucket = Bucket::default();
        assert_eq!(bucket.take(8, rate, 0), Ok(()));
        assert!(bucket.take(3, rate, 0).is_err());
        assert_eq!(bucket.take(2, rate, 0), Ok(()));
    }

    #[test]
    fn another_rate_finds_the_same_debt() {
        let tight = Rate {
            per_second: 1,
            burst: 1,
        };
        let wide = Rate {
            per_second: 100,
            burst: 100,
        };
        let bucket = Bucket::default();
        assert_eq!(bucket.take(100, wide, 0), Ok(()));
        assert!(bucket.take(1, tight, 0).is_err());
        assert!(bucket.take(1, wide, 0).is_err());
    }

    proptest! {
        /// The library's limiter, which has one rate for all, as the oracle.
        #[test]
        fn it_decides_as_governor_does(
            per_second in 1_u32..1000,
            burst in 1_u32..50,
            steps in prop::collection::vec((0_u64..50, 1_u32..5), 1..100),
        ) {
            let nonzero = |number| NonZeroU32::new(number).expect("not 0");
            let quota = governor::Quota::per_second(nonzero(per_second)).allow_burst(nonzero(burst));
            let clock = FakeRelativeClock::default();
            let oracle = RateLimiter::direct_with_clock(quota, clock.clone());
            let rate = Rate { per_second, burst };
            let bucket = Bucket::default();
            let mut now = 0;
            let mut differences = 0;
            for (millis, count) in steps {
                clock.advance(Duration::from_millis(millis));
                now += millis * 1_000_000;
                let count = count.min(burst);
                let ours = bucket.take(count, rate, now).is_ok();
                let theirs = matches!(oracle.check_n(nonzero(count)), Ok(Ok(())));
                differences += u32::from(ours != theirs);
            }
            // It rounds a cell's time down to whole nanoseconds, so at a tie the two may differ.
            prop_assert!(differences <= 1, "{differences} differences");
        }
    }
}
