//! Numbers that one worker thread adds up, and that anyone may read.

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Channel, Credential, Ending, Endpoint, Way, latency::Histogram};
use crate::protocol::{CloseReason, ErrorCode, LimitKind, Refusal, ResetReason, Transport};

pub(super) const TRANSPORTS: usize = Transport::ALL.len();
pub(super) const CODES: usize = ErrorCode::ALL.len();
pub(super) const LIMITS: usize = LimitKind::ALL.len();
pub(super) const RESETS: usize = ResetReason::ALL.len();
/// Of the server's making, and the two that are not.
pub(super) const ENDINGS: usize = CloseReason::ALL.len() + 2;

/// A number with one writer, which spares it the locked instruction that several would need.
#[derive(Debug, Default)]
pub(super) struct Number(AtomicU64);

impl Number {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// What one worker has counted since it started. On cache lines of its own, so that no worker
/// waits for another's writes.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    /// The worker has ended: what it counted stays, what it held is gone.
    pub(super) ended: AtomicBool,
    pub(super) dispatched: Number,
    pub(super) subscriptions: Number,
    pub(super) patterns: Number,
    pub(super) opened: [Number; TRANSPORTS],
    pub(super) closed: [[Number; ENDINGS]; TRANSPORTS],
    pub(super) delivered: [Number; TRANSPORTS],
    pub(super) sent_bytes: [Number; TRANSPORTS],
    pub(super) received_bytes: [Number; Channel::ALL.len()],
    pub(super) published: [Number; Way::ALL.len()],
    pub(super) duplicates: [Number; Way::ALL.len()],
    pub(super) replays: [Number; TRANSPORTS],
    pub(super) resets: [[Number; RESETS]; TRANSPORTS],
    pub(super) refusals: [[Number; CODES]; Endpoint::ALL.len()],
    pub(super) auth_failures: [[Number; CODES]; Credential::ALL.len()],
    pub(super) limit_hits: [Number; LIMITS],
    pub(super) latency: [Histogram; TRANSPORTS],
}

/// A worker's hold on its counters. It stays on the thread that made it, which is what makes that
/// thread the only writer.
#[derive(Debug)]
pub struct WorkerMetrics {
    counters: Arc<Counters>,
    stays_here: PhantomData<*const ()>,
}

impl WorkerMetrics {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            stays_here: PhantomData,
        }
    }

    /// A session was opened.
    pub fn opened(&self, transport: Transport) {
        self.counters.opened[transport as usize].add(1);
    }

    /// A session has ended.
    pub fn closed(&self, transport: Transport, ending: Ending) {
        self.counters.closed[transport as usize][ending.index()].add(1);
    }

    /// Events were handed to a connection; with how long the oldest live one of them took.
    pub fn delivered(&self, transport: Transport, events: u64, latency: Option<Duration>) {
        self.counters.delivered[transport as usize].add(events);
        if let Some(latency) = latency {
            self.counters.latency[transport as usize].observe(latency);
        }
    }

    /// Clients were told that they missed events.
    pub fn reset(&self, transport: Transport, reason: ResetReason, count: u64) {
        self.counters.resets[transport as usize][reason as usize].add(count);
    }

    pub fn replay_started(&self, transport: Transport) {
        self.counters.replays[transport as usize].add(1);
    }

    pub fn sent_bytes(&self, transport: Transport, bytes: usize) {
        self.counters.sent_bytes[transport as usize].add(bytes as u64);
    }

    pub fn received_bytes(&self, channel: Channel, bytes: usize) {
        self.counters.received_bytes[channel as usize].add(bytes as u64);
    }

    /// The log has taken events, or had them already.
    pub fn published(&self, way: Way, events: u64, duplicate: bool) {
        let counters = match duplicate {
            true => &self.counters.duplicates,
            false => &self.counters.published,
        };
        counters[way as usize].add(events);
    }

    /// A client is told that something was refused.
    pub fn refused(&self, endpoint: Endpoint, refusal: &Refusal) {
        self.counters.refusals[endpoint as usize][refusal.code as usize].add(1);
        if let Some(limit) = refusal.limit {
            self.counters.limit_hits[limit.kind as usize].add(1);
        }
    }

    pub fn auth_failed(&self, credential: Credential, code: ErrorCode) {
        self.counters.auth_failures[credential as usize][code as usize].add(1);
    }

    /// The position up to which every live session of the worker was offered everything.
    pub fn set_dispatched(&self, position: u64) {
        self.counters.dispatched.set(position);
    }

    /// How many topic filters the worker's sessions have, and how many of them with wildcards.
    pub fn set_subscriptions(&self, filters: usize, patterns: usize) {
        self.counters.subscriptions.set(filters as u64);
        self.counters.patterns.set(patterns as u64);
    }
}

impl Drop for WorkerMetrics {
    fn drop(&mut self) {
        self.counters.ended.store(true, Ordering::Relaxed);
    }
}

/// How long ago an event was accepted; events of this process can not be younger than now.
pub fn age(accepted: Instant, now: Instant) -> Duration {
    now.saturating_duration_since(accepted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_counts_by_kind_has_a_place_for_each_kind() {
        fn in_order<T: Copy>(all: &[T], index: impl Fn(T) -> usize) {
            let places: Vec<usize> = all.iter().map(|kind| index(*kind)).collect();
            assert_eq!(places, (0..all.len()).collect::<Vec<_>>());
        }
        in_order(&Transport::ALL, |kind| kind as usize);
        in_order(&ErrorCode::ALL, |kind| kind as usize);
        in_order(&LimitKind::ALL, |kind| kind as usize);
        in_order(&ResetReason::ALL, |kind| kind as usize);
        in_order(&CloseReason::ALL, |kind| kind as usize);
        in_order(&Endpoint::ALL, |kind| kind as usize);
        in_order(&Credential::ALL, |kind| kind as usize);
        in_order(&Channel::ALL, |kind| kind as usize);
        in_order(&Way::ALL, |kind| kind as usize);
        in_order(&Ending::all().collect::<Vec<_>>(), Ending::index);
    }

    #[test]
    fn the_counters_of_two_workers_share_no_cache_line() {
        assert_eq!(align_of::<Counters>(), 128);
        assert_eq!(size_of::<Counters>() % 128, 0);
    }
}
