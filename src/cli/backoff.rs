//! How long to wait before the next attempt: exponential with full jitter.

use std::time::Duration;

/// The shortest pause: an attempt that follows at once finds what the last one found, and costs the gateway.
pub const LEAST: Duration = Duration::from_millis(100);

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// Counts failed attempts and draws the pause after each.
///
/// Full jitter (anything from [`LEAST`] to the ceiling) spreads the clients that one restart cut off together.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next attempt; its ceiling doubles with each call.
    pub fn pause(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        LEAST + (ceiling - LEAST).mul_f64(fastrand::f64())
    }

    /// Forgets the failures, after a connection that has proved itself.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        let doubled = 2u32
            .checked_pow(self.failures)
            .and_then(|factor| FIRST.checked_mul(factor));
        doubled.map_or(LONGEST, |ceiling| ceiling.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_and_starts_again_after_a_reset() {
        let mut backoff = Backoff::default();
        let mut ceilings = Vec::new();
        for _ in 0..9 {
            ceilings.push(backoff.ceiling().as_millis());
            let _ = backoff.pause();
        }
        assert_eq!(
            ceilings,
            [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]
        );
        backoff.reset();
        assert_eq!(backoff.ceiling(), FIRST);
    }

    #[test]
    fn a_pause_is_drawn_from_the_whole_range_and_never_outside_it() {
        let pauses: Vec<_> = (0..1000).map(|_| Backoff { failures: 2 }.pause()).collect();
        let range = LEAST..=Duration::from_secs(1);
        assert!(pauses.iter().all(|pause| range.contains(pause)));
        assert!(
            pauses
                .iter()
                .any(|pause| *pause < Duration::from_millis(200))
        );
        assert!(
            pauses
                .iter()
                .any(|pause| *pause > Duration::from_millis(800))
        );
    }

    #[test]
    fn it_does_not_overflow_after_many_failures() {
        assert!(Backoff { failures: u32::MAX }.pause() <= LONGEST);
    }
}
