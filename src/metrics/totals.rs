//! What the node has counted, in few numbers: for who watches it live.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::{Way, latency::BUCKETS, workers::Workers};
use crate::protocol::{ResetReason, Transport};

/// One value for each transport; as JSON an object by their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByTransport<T>([T; Transport::ALL.len()]);

impl<T> ByTransport<T> {
    fn each(value: impl FnMut(Transport) -> T) -> Self {
        Self(Transport::ALL.map(value))
    }
}

impl<T: Serialize> Serialize for ByTransport<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Transport::ALL.map(Transport::as_str).iter().zip(&self.0))
    }
}

/// Sums since the node started, so that whoever asks twice takes the difference; only `open` is of
/// this moment. They are read while workers go on counting, so that one may be an event ahead of
/// another, but none ever falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    pub started: Timestamp,
    /// Sessions that are open now, waiting polls among them.
    pub open: ByTransport<u64>,
    /// Events that the log accepted, without repeated ones.
    pub published: u64,
    /// Events handed to connections, replayed ones too.
    pub delivered: ByTransport<u64>,
    /// Clients that were told that they missed events.
    pub resets: ByTransport<u64>,
    /// How long live events took from their publish, by the buckets of [`super::bounds`]. One for
    /// each chunk that is written, of the oldest live event in it.
    pub latency: ByTransport<[u64; BUCKETS]>,
}

impl Totals {
    pub(super) fn of(started: Timestamp, workers: &Workers) -> Self {
        let published = |way: Way| workers.sum(|worker| &worker.published[way as usize]);
        let resets = |transport: Transport, reason: ResetReason| {
            workers.sum(|worker| &worker.resets[transport as usize][reason as usize])
        };
        Self {
            started,
            open: ByTransport::each(|transport| workers.open(transport)),
            published: Way::ALL.into_iter().map(published).sum(),
            delivered: ByTransport::each(|transport| {
                workers.sum(|worker| &worker.delivered[transport as usize])
            }),
            resets: ByTransport::each(|transport| {
                let reasons = ResetReason::ALL.into_iter();
                reasons.map(|reason| resets(transport, reason)).sum()
            }),
            latency: ByTransport::each(|transport| workers.latency(transport).counts()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::metrics::{Ending, Metrics, bounds};

    #[test]
    fn totals_are_those_of_all_workers_and_only_what_is_open_ends_with_one() {
        let metrics = Metrics::new();
        let (stays, ends) = (metrics.worker(), metrics.worker());
        for worker in [&stays, &ends] {
            worker.opened(Transport::Poll);
            worker.opened(Transport::Poll);
            worker.closed(Transport::Poll, Ending::Answered);
            worker.published(Way::Http, 2, false);
            worker.published(Way::WebSocket, 3, false);
            worker.published(Way::Http, 7, true);
            worker.delivered(Transport::Sse, 4, Some(Duration::from_micros(50)));
            worker.delivered(Transport::Sse, 1, Some(Duration::from_secs(11)));
            worker.delivered(Transport::Sse, 6, None);
            worker.reset(Transport::WebSocket, ResetReason::Expired, 1);
            worker.reset(Transport::WebSocket, ResetReason::Lagged, 2);
        }
        drop(ends);
        let totals = metrics.totals();
        let json = |value: &ByTransport<u64>| serde_json::to_value(value).unwrap();
        assert_eq!(json(&totals.open), json!({"ws": 0, "sse": 0, "poll": 1}));
        assert_eq!(totals.published, 10);
        assert_eq!(
            json(&totals.delivered),
            json!({"ws": 0, "sse": 22, "poll": 0})
        );
        assert_eq!(json(&totals.resets), json!({"ws": 6, "sse": 0, "poll": 0}));
        let mut of_sse = [0; BUCKETS];
        (of_sse[0], of_sse[BUCKETS - 1]) = (2, 2);
        let none = [0; BUCKETS];
        assert_eq!(totals.latency, ByTransport([none, of_sse, none]));
        assert!(bounds().is_sorted() && bounds().len() + 1 == of_sse.len());
    }
}
