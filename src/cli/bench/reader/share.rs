//! What a thread of clients tells of them: while the run goes on, and in the end.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::cli::bench::complaints::Complaints;
use crate::cli::bench::plan::Group;
use crate::cli::bench::record::{self, Record};
use crate::cli::bench::tally::Account;

/// How far the clients of a thread have come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sight {
    pub live: usize,
    /// Not there and on the way.
    pub coming: usize,
    pub left: usize,
    /// Of those that take part, how many have all that was published.
    pub complete: usize,
    pub taking_part: usize,
    pub delivered: u64,
    /// Nanoseconds since the run began.
    pub last_delivery: u64,
    pub last_live: u64,
}

/// What a thread and its clients have to tell in the end.
#[derive(Debug)]
pub struct Share {
    pub record: Record,
    /// By [`Group::place`].
    pub groups: [Members; Group::ALL.len()],
    /// Why clients did not come in; only those that did not try again.
    pub refused: Complaints,
    /// Attempts that failed and were followed by another one.
    pub delayed: Complaints,
    /// Connections that ended while their client was live.
    pub cut: Complaints,
    pub hops: u64,
    /// From opening all connections again until a client has all it missed.
    pub catch_up: Histogram<u64>,
    /// CPU time of the thread, how long it was ready and had no core, and the time, of the steady phase.
    pub busy: Duration,
    pub waited: Duration,
    pub steady: Duration,
}

/// The clients of a group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members {
    pub connections: usize,
    /// Those that took part.
    pub live: usize,
    pub account: Account,
}

impl Sight {
    /// Adds what another thread sees.
    pub fn add(&mut self, other: Self) {
        self.live += other.live;
        self.coming += other.coming;
        self.left += other.left;
        self.complete += other.complete;
        self.taking_part += other.taking_part;
        self.delivered += other.delivered;
        self.last_delivery = self.last_delivery.max(other.last_delivery);
        self.last_live = self.last_live.max(other.last_live);
    }
}

impl Share {
    pub fn new() -> Self {
        Self {
            record: Record::new(),
            groups: [Members::default(); Group::ALL.len()],
            refused: Complaints::default(),
            delayed: Complaints::default(),
            cut: Complaints::default(),
            hops: 0,
            catch_up: record::histogram(),
            busy: Duration::ZERO,
            waited: Duration::ZERO,
            steady: Duration::ZERO,
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.record.merge(&other.record);
        for (own, others) in self.groups.iter_mut().zip(&other.groups) {
            own.connections += others.connections;
            own.live += others.live;
            own.account += others.account;
        }
        self.refused.merge(other.refused);
        self.delayed.merge(other.delayed);
        self.cut.merge(other.cut);
        self.hops += other.hops;
        record::merge(&mut self.catch_up, &other.catch_up);
        self.busy += other.busy;
        self.waited += other.waited;
        self.steady = self.steady.max(other.steady);
    }
}
