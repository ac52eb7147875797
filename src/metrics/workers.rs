//! The numbers of all workers, added up: what the exposition and the totals read.

use std::sync::{Arc, atomic::Ordering};

use super::{
    counters::{Counters, Number},
    latency::Summary,
};
use crate::protocol::Transport;

/// All workers of a node, those that have ended too.
pub(super) struct Workers(Vec<Arc<Counters>>);

impl Workers {
    pub(super) fn new(workers: Vec<Arc<Counters>>) -> Self {
        Self(workers)
    }

    pub(super) fn sum(&self, number: impl Fn(&Counters) -> &Number) -> u64 {
        self.0.iter().map(|worker| number(worker).get()).sum()
    }

    /// As [`Workers::sum`], of the workers that still run.
    pub(super) fn sum_running(&self, number: impl Fn(&Counters) -> &Number) -> u64 {
        self.running().map(|(_, worker)| number(worker).get()).sum()
    }

    pub(super) fn running(&self) -> impl Iterator<Item = (usize, &Counters)> {
        let workers = self.0.iter().map(|worker| &**worker).enumerate();
        workers.filter(|(_, worker)| !worker.ended.load(Ordering::Relaxed))
    }

    /// Sessions of a transport that are open now.
    pub(super) fn open(&self, transport: Transport) -> u64 {
        let at = transport as usize;
        self.running()
            .map(|(_, worker)| {
                let closed: u64 = worker.closed[at].iter().map(Number::get).sum();
                worker.opened[at].get().saturating_sub(closed)
            })
            .sum()
    }

    pub(super) fn latency(&self, transport: Transport) -> Summary {
        let mut summary = Summary::default();
        for worker in &self.0 {
            summary.add(&worker.latency[transport as usize]);
        }
        summary
    }
}
