//! Complaints about the backend, few enough to be read: clients decide how often one is due.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// From one complaint to the next.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Complaints {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Instant>,
    /// Not told since.
    others: u64,
}

impl Complaints {
    /// Calls `tell` with the number of complaints passed over before, unless it was called a moment ago.
    pub fn note(&self, tell: impl FnOnce(u64)) {
        if let Some(others) = self.due(Instant::now()) {
            tell(others);
        }
    }

    fn due(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .last
            .is_some_and(|last| now.duration_since(last) < PAUSE)
        {
            state.others += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_due_now_and_then_and_tells_of_those_in_between() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        assert_eq!(complaints.due(start), Some(0));
        assert_eq!(complaints.due(start), None);
        assert_eq!(complaints.due(start + PAUSE / 2), None);
        assert_eq!(complaints.due(start + PAUSE), Some(2));
        assert_eq!(complaints.due(start + PAUSE), None);
    }
}
