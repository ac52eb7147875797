//! What all threads of a run share.

use std::time::{Duration, Instant};

use super::dialect::Dialect;
use super::plan::Plan;
use super::stamp::Stamps;
use super::target::Target;

/// One run. All its times are of one clock, since one process publishes and receives.
#[derive(Debug)]
pub struct Course {
    pub plan: Plan,
    pub target: Target,
    pub dialect: Dialect,
    pub stamps: Stamps,
    began: Instant,
}

impl Course {
    pub fn new(plan: Plan, target: Target, dialect: Dialect) -> Self {
        Self {
            stamps: Stamps::new(&plan.run, plan.size),
            plan,
            target,
            dialect,
            began: Instant::now(),
        }
    }

    /// Nanoseconds since the run began.
    pub fn now(&self) -> u64 {
        nanoseconds(self.began.elapsed())
    }
}

/// Those of some 500 years fit.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
