//! A rate limit whose rate is given with each request, since a token may widen or tighten its
//! subject's: a token bucket. What was taken is remembered as a number, not as a time, so that
//! another rate finds the same number taken and pays it back at its own pace. Where the rate is
//! fixed, `governor` does the same.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::protocol::Quota;

/// What is owed is counted in billionths, since so many a second are as many billionths a nanosecond.
const BILLION: u64 = 1_000_000_000;

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

/// What was taken and not paid back. Nothing at first.
#[derive(Debug, Default)]
pub(super) struct Bucket(Mutex<Owed>);

#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    billionths: u64,
    /// When it was so much.
    at: u64,
    /// When all will have been paid back, at the rate of the last one who took.
    until: u64,
}

impl Bucket {
    /// Takes `count` at once, or nothing. `count` is no more than the burst.
    ///
    /// # Errors
    /// The time until there will be as much.
    pub(super) fn take(&self, count: u32, rate: Rate, now: u64) -> Result<(), Duration> {
        let mut owed = self.owed();
        *owed = owed.with(count, rate, now)?;
        Ok(())
    }

    /// The time until `count` could be taken; `None` where they could be now.
    pub(super) fn wait(&self, count: u32, rate: Rate, now: u64) -> Option<Duration> {
        self.owed().with(count, rate, now).err()
    }

    /// Puts back what was taken in vain.
    pub(super) fn give_back(&self, count: u32) {
        let mut owed = self.owed();
        owed.billionths = owed.billionths.saturating_sub(u64::from(count) * BILLION);
    }

    /// Adds what was taken elsewhere at a rate, however much is owed already: at most another burst, so
    /// that nobody waits for ever.
    pub(super) fn owe(&self, count: u32, rate: Rate, now: u64) {
        if count > 0 {
            let mut owed = self.owed();
            *owed = owed.more(count, rate, now);
        }
    }

    /// Whether nothing is owed, so that a new bucket would be the same.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.owed().until <= now
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Owed {
    /// With so many taken now.
    ///
    /// # Errors
    /// The time until there will be as much.
    fn with(self, count: u32, rate: Rate, now: u64) -> Result<Self, Duration> {
        // Another thread may have looked at the clock later, and come first.
        let now = now.max(self.at);
        let per_second = u64::from(rate.per_second.max(1));
        let paid_back = (now - self.at).saturating_mul(per_second);
        // Each is less than 2^32 billion, so that two of them fit.
        let billionths = self.billionths.saturating_sub(paid_back) + u64::from(count) * BILLION;
        let allowed = u64::from(rate.burst) * BILLION;
        if billionths > allowed {
            let wait = (billionths - allowed).div_ceil(per_second);
            return Err(Duration::from_nanos(wait));
        }
        Ok(Self {
            billionths,
            at: now,
            until: now.saturating_add(billionths.div_ceil(per_second)),
        })
    }

    fn more(self, count: u32, rate: Rate, now: u64) -> Self {
        let now = now.max(self.at);
        let per_second = u64::from(rate.per_second.max(1));
        let paid_back = (now - self.at).saturating_mul(per_second);
        let most = 2 * u64::from(rate.burst) * BILLION;
        let billionths = self.billionths.saturating_sub(paid_back) + u64::from(count) * BILLION;
        let billionths = billionths.min(most.max(self.billionths));
        Self {
            billionths,
            at: now,
            until: now.saturating_add(billionths.div_ceil(per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use governor::{RateLimiter, clock::FakeRelativeClock};
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = BILLION;

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

    const TIGHT: Rate = Rate {
        per_second: 1,
        burst: 60,
    };
    const WIDE: Rate = Rate {
        per_second: 100,
        burst: 100,
    };

    #[test]
    fn another_rate_finds_the_same_number_taken() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(60, TIGHT, 0), Ok(()));
        assert!(bucket.take(1, TIGHT, 0).is_err());
        assert_eq!(bucket.take(40, WIDE, 0), Ok(()));
        assert_eq!(bucket.take(1, WIDE, 0), Err(Duration::from_millis(10)));
        assert_eq!(bucket.take(1, TIGHT, 0), Err(Duration::from_secs(41)));
    }

    #[test]
    fn a_wider_rate_pays_back_at_its_own_pace() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(60, TIGHT, 0), Ok(()));
        assert_eq!(bucket.take(100, WIDE, SECOND * 6 / 10), Ok(()));
    }

    #[test]
    fn going_back_and_forth_between_two_rates_gives_no_more_than_the_wider_one() {
        let bucket = Bucket::default();
        let mut taken = 0;
        for millisecond in 0..10_000 {
            for rate in [WIDE, TIGHT, WIDE] {
                while bucket.take(1, rate, millisecond * 1_000_000).is_ok() {
                    taken += 1;
                }
            }
        }
        assert!(taken <= 100 + 10 * 100, "{taken}");
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(60, TIGHT, 0), Ok(()));
        bucket.give_back(2);
        assert_eq!(bucket.take(2, TIGHT, 0), Ok(()));
        assert_eq!(bucket.take(1, TIGHT, 0), Err(Duration::from_secs(1)));
        bucket.give_back(1000);
        assert_eq!(bucket.take(60, TIGHT, 0), Ok(()));
    }

    #[test]
    fn the_largest_numbers_there_are_do_not_overflow() {
        let slowest = Rate {
            per_second: 1,
            burst: u32::MAX,
        };
        let fastest = Rate {
            per_second: u32::MAX,
            burst: u32::MAX,
        };
        let bucket = Bucket::default();
        assert_eq!(bucket.take(u32::MAX, slowest, 0), Ok(()));
        let wait = bucket.take(u32::MAX, slowest, 0).expect_err("used up");
        assert_eq!(wait, Duration::from_secs(u64::from(u32::MAX)));
        assert!(!bucket.is_full(SECOND));
        assert_eq!(bucket.take(u32::MAX, fastest, SECOND), Ok(()));
        assert_eq!(bucket.take(u32::MAX, fastest, u64::MAX), Ok(()));
        assert_eq!(slowest.quota().window_seconds, u32::MAX);
    }

    #[test]
    fn several_threads_together_get_no_more_than_one() {
        let bucket = Bucket::default();
        let taken: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|_| bucket.take(1, TIGHT, 0).is_ok())
                            .count()
                    })
                })
                .collect();
            let counts = workers
                .into_iter()
                .map(|worker| worker.join().expect("a count"));
            counts.sum()
        });
        assert_eq!(taken, 60);
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
