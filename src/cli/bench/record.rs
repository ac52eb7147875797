//! How long deliveries took, and how many there were in each second.

use hdrhistogram::Histogram;

use super::course::nanoseconds;
use super::plan::Group;

/// Latencies are kept in microseconds, to three digits, up to this.
const LONGEST: u64 = 3_600_000_000;
const DIGITS: u8 = 3;

/// Seconds of which deliveries are told one by one, as many as a run may have and its end may take.
const MOST_SECONDS: usize = 2 * 24 * 60 * 60;

/// What a thread measured, in parts that add up.
#[derive(Debug)]
pub struct Record {
    latency: [Histogram<u64>; Group::ALL.len()],
    /// When the first event was due.
    start: u64,
    /// Of each group, in each second since then.
    seconds: Vec<[u64; Group::ALL.len()]>,
    delivered: u64,
    last: u64,
    is_measuring: bool,
}

impl Record {
    pub fn new() -> Self {
        Self {
            latency: std::array::from_fn(|_| histogram()),
            start: 0,
            seconds: Vec::new(),
            delivered: 0,
            last: 0,
            is_measuring: true,
        }
    }

    /// Notes a delivery of an event that was due at `due`, both in nanoseconds since the run began.
    pub fn note(&mut self, group: Group, due: u64, now: u64) {
        self.delivered += 1;
        self.last = now;
        if self.is_measuring {
            let latency = now.saturating_sub(due) / 1000;
            self.latency[group.place()].saturating_record(latency);
        }
        let second =
            usize::try_from(now.saturating_sub(self.start) / 1_000_000_000).unwrap_or(usize::MAX);
        if second >= self.seconds.len() {
            if second >= MOST_SECONDS {
                return;
            }
            self.seconds.resize(second + 1, [0; Group::ALL.len()]);
        }
        self.seconds[second][group.place()] += 1;
    }

    /// Has the seconds counted from `start` on, before there are deliveries.
    pub fn start_at(&mut self, start: u64) {
        self.start = start;
    }

    /// From now on deliveries are counted without their latency: the events waited for clients that were away.
    pub fn stop_measuring(&mut self) {
        self.is_measuring = false;
    }

    /// Deliveries so far, repeated ones too.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// When the last one was.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub fn latency(&self, group: Group) -> &Histogram<u64> {
        &self.latency[group.place()]
    }

    /// Deliveries of all groups in each second since the first event was due.
    pub fn seconds(&self) -> impl Iterator<Item = u64> {
        self.seconds.iter().map(|groups| groups.iter().sum())
    }

    pub fn merge(&mut self, other: &Self) {
        for (own, others) in self.latency.iter_mut().zip(&other.latency) {
            merge(own, others);
        }
        let length = self.seconds.len().max(other.seconds.len());
        self.seconds.resize(length, [0; Group::ALL.len()]);
        for (own, others) in self.seconds.iter_mut().zip(&other.seconds) {
            for (own, others) in own.iter_mut().zip(others) {
                *own += others;
            }
        }
        self.delivered += other.delivered;
        self.last = self.last.max(other.last);
    }
}

/// An empty one, of microseconds.
pub fn histogram() -> Histogram<u64> {
    // The bounds are constants that it takes.
    Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds of a histogram")
}

/// Adds `others` to `own`; both are of [`histogram`], so that all values fit.
pub fn merge(own: &mut Histogram<u64>, others: &Histogram<u64>) {
    for value in others.iter_recorded() {
        own.saturating_record_n(value.value_iterated_to(), value.count_at_value());
    }
}

/// Notes a time.
pub fn note(histogram: &mut Histogram<u64>, time: std::time::Duration) {
    histogram.saturating_record(nanoseconds(time) / 1000);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::plan::Transport;

    #[test]
    fn deliveries_of_all_threads_add_up() {
        let (mut one, mut other) = (Record::new(), Record::new());
        let ws = Group::Of(Transport::Ws);
        one.note(ws, 0, 2_000_000);
        one.note(Group::Slow, 0, 9_000_000_000);
        other.note(ws, 1_000_000_000, 1_004_000_000);
        one.merge(&other);
        assert_eq!(one.delivered(), 3);
        assert_eq!(one.latency(ws).len(), 2);
        assert!((3990..=4010).contains(&one.latency(ws).max()));
        let seconds: Vec<_> = one.seconds().collect();
        assert_eq!((seconds[0], seconds[1], seconds[9]), (1, 1, 1));
        assert_eq!(one.last(), 9_000_000_000);
    }

    #[test]
    fn an_event_that_came_before_it_was_due_took_no_time_and_one_that_took_longer_than_kept_counts()
    {
        let mut record = Record::new();
        record.note(Group::Slow, 5, 4);
        record.note(Group::Slow, 0, u64::MAX / 2);
        assert_eq!(record.latency(Group::Slow).len(), 2);
        record.stop_measuring();
        record.note(Group::Slow, 0, 4);
        assert_eq!(
            (record.latency(Group::Slow).len(), record.delivered()),
            (2, 3)
        );
    }
}
