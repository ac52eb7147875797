//! When something was stored, and how old it is for the next run of the gateway.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment, by two clocks of which neither is good for everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stamp {
    /// Milliseconds since 1970, by a clock that somebody may set.
    pub at: i64,
    /// Milliseconds since the machine was started, also while it was suspended. Nothing changes
    /// these, but they tell nothing after another start.
    pub up: u64,
}

impl Stamp {
    pub fn now() -> Self {
        Self {
            at: jiff::Timestamp::now().as_millisecond(),
            up: up(),
        }
    }

    /// As long before this.
    pub fn before(self, age: Duration) -> Self {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        Self {
            at: self.at.saturating_sub_unsigned(age),
            up: self.up.saturating_sub(age),
        }
    }
}

/// `CLOCK_BOOTTIME`, clock_gettime(2).
#[cfg(target_os = "linux")]
fn up() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let Ok(up) = Duration::try_from(clock_gettime(ClockId::Boottime)) else {
        return 0;
    };
    u64::try_from(up.as_millis()).unwrap_or(u64::MAX)
}

/// Nothing names a start of the machine there, so that this is never looked at.
#[cfg(not(target_os = "linux"))]
fn up() -> u64 {
    0
}

/// How old is what was stored in earlier runs.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    pub now: Stamp,
    /// What came after this sequence was stored in the same start of the machine; `None` where
    /// nothing was, as far as is known.
    pub boot_after: Option<u64>,
}

impl Ages {
    /// Of what came with a sequence. Nothing is from the future, whatever clocks say.
    pub fn of(&self, sequence: u64, stored: Stamp) -> Duration {
        let is_of_this_boot = self.boot_after.is_some_and(|after| sequence > after);
        let up = self.now.up.checked_sub(stored.up);
        // A container may be given a time of its own.
        let since_boot = up.filter(|_| is_of_this_boot);
        let by_clock = || u64::try_from(self.now.at.saturating_sub(stored.at)).unwrap_or(0);
        Duration::from_millis(since_boot.unwrap_or_else(by_clock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_a_start_of_the_machine_no_setting_of_the_clock_makes_anything_older() {
        let stored = Stamp { at: 1000, up: 500 };
        let ages = Ages {
            now: Stamp { at: 9000, up: 700 },
            boot_after: Some(7),
        };
        assert_eq!(ages.of(8, stored), Duration::from_millis(200));
        assert_eq!(ages.of(7, stored), Duration::from_secs(8));
        let other = Ages {
            boot_after: None,
            ..ages
        };
        assert_eq!(other.of(8, stored), Duration::from_secs(8));
        let set_back = Ages {
            now: Stamp { at: 10, up: 100 },
            boot_after: Some(7),
        };
        assert_eq!(set_back.of(8, stored), Duration::ZERO);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_clock_of_the_machine_s_start_goes_on() {
        let before = Stamp::now();
        std::thread::sleep(Duration::from_millis(5));
        let ages = Ages {
            now: Stamp::now(),
            boot_after: Some(0),
        };
        assert!(ages.of(1, before) >= Duration::from_millis(4));
    }
}
