//! How long events take from the publisher to the connection.

use std::time::Duration;

use super::counters::Number;

/// Upper bounds of the buckets in nanoseconds, 50 µs to 10 s; what takes longer has one of its own.
const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];
/// One for each bound, and one for what takes longer.
pub const BUCKETS: usize = BOUNDS.len() + 1;

/// The upper bound of each bucket but the last in seconds, ascending.
pub fn bounds() -> [f64; BUCKETS - 1] {
    BOUNDS.map(seconds)
}

/// Observations in buckets, written by one thread.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [Number; BUCKETS],
    nanoseconds: Number,
}

/// Several histograms added up.
#[derive(Debug, Default)]
pub(super) struct Summary {
    buckets: [u64; BUCKETS],
    nanoseconds: u64,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < took)].add(1);
        self.nanoseconds.add(took);
    }
}

impl Summary {
    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *sum += bucket.get();
        }
        self.nanoseconds += histogram.nanoseconds.get();
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn seconds(&self) -> f64 {
        seconds(self.nanoseconds)
    }

    /// What fell into each bucket and no lower one.
    pub(super) fn counts(&self) -> [u64; BUCKETS] {
        self.buckets
    }

    /// [`Summary::counts`] with the upper bound of each bucket in seconds.
    pub(super) fn buckets(&self) -> [(f64, u64); BUCKETS] {
        std::array::from_fn(|at| {
            let bound = BOUNDS
                .get(at)
                .map_or(f64::INFINITY, |bound| seconds(*bound));
            (bound, self.buckets[at])
        })
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_falls_into_the_lowest_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 10_000_000, 10_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut summary = Summary::default();
        summary.add(&histogram);
        summary.add(&histogram);
        let filled: Vec<(f64, u64)> = summary
            .buckets()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(
            filled,
            [(50e-6, 4), (100e-6, 2), (10.0, 2), (f64::INFINITY, 2)]
        );
        assert_eq!(summary.count(), 10);
        assert!((summary.seconds() - 40.000_204).abs() < 1e-9);
    }
}
