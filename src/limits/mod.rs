//! What one connection, one subject, one address and the whole node may take.
//!
//! | of | what | kept |
//! |---|---|---|
//! | a TCP connection | messages, bytes | with the connection (`connection`) |
//! | a subject of a tenant | publishes, connects, connections, waiting polls | in one table, whatever the transport (`subject`) |
//! | a client address | handshakes, failed authentications | in one table each (`address`, `failed_auths`) |
//! | the node | admissions | here |
//!
//! The limits of subjects hold for each node by itself, or for all together (`shared`).
//!
//! Everything kept by a key is pruned by [`Limits::prune`] once it says no more than its absence
//! would, and is bounded besides.

mod address;
mod bucket;
mod connection;
mod failed_auths;
mod shared;
mod subject;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

pub use address::{AddressKey, AddressLimits};
pub use bucket::Rate;
pub use connection::{ConnectionLimiter, ConnectionRates};
pub use shared::{Spending, SubjectKey, Untold};
pub use subject::{SubjectAllowance, SubjectLimits, SubjectPlace, SubjectState};

use bucket::{Bucket, Clock};

use crate::{
    auth::Identity,
    config::LimitsConfig,
    protocol::{LimitKind, Refusal},
};

/// The longest time for which a client that can not be admitted is sent away. Where a storm is
/// larger than what the node takes in that time, those beyond come back in the second half of it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The limits of one node, shared by its workers.
pub struct Limits {
    pub connection: ConnectionRates,
    pub subjects: SubjectLimits,
    pub addresses: AddressLimits,
    admissions: Admissions,
}

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        Self {
            connection: ConnectionRates::new(config),
            subjects: SubjectLimits::new(config),
            addresses: AddressLimits::new(config),
            admissions: Admissions::new(Rate {
                per_second: config.admissions_per_second,
                burst: config.admission_burst,
            }),
        }
    }

    /// Takes a place for a stream, from its subject's budgets and from what the node bears a
    /// second. Whoever the node refuses has not spent anything of its subject's.
    ///
    /// # Errors
    /// `rate_limited` where the subject opens too many, `too_many_connections` where it has too
    /// many, `unavailable` with a time to come back at where the node takes no more just now.
    pub fn open_stream(&self, identity: &Identity) -> Result<SubjectPlace, Refusal> {
        self.admit(self.subjects.place_for_stream(identity)?)
    }

    /// Takes a place for a poll. The first of a series counts as a stream does; those that follow
    /// go on with it, which costs nobody a new stream.
    ///
    /// # Errors
    /// As [`Limits::open_stream`], and `too_many_connections` for too many waiting polls.
    pub fn open_poll(&self, identity: &Identity) -> Result<SubjectPlace, Refusal> {
        let place = self.subjects.place_for_poll(identity)?;
        if place.goes_on() {
            return Ok(place);
        }
        self.admit(place)
    }

    /// After the subject's own limits, so that one that connects too often spends nothing of the
    /// node's.
    fn admit(&self, mut place: SubjectPlace) -> Result<SubjectPlace, Refusal> {
        if let Err(refusal) = self.admissions.admit() {
            place.give_back_connect();
            return Err(refusal);
        }
        Ok(place)
    }

    /// Forgets what is idle. To be called every few seconds.
    pub fn prune(&self) {
        self.subjects.prune();
        self.addresses.prune();
    }
}

/// How fast the node takes streams, and when those that come too early may come back.
struct Admissions {
    rate: Rate,
    clock: Clock,
    taken: Bucket,
    /// The last appointment given to one that was sent away: one after the other at the same
    /// rate, so that a storm comes back as a stream.
    last_appointment: AtomicU64,
}

impl Admissions {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            clock: Clock::start(),
            taken: Bucket::default(),
            last_appointment: AtomicU64::default(),
        }
    }

    fn admit(&self) -> Result<(), Refusal> {
        let now = self.clock.now();
        let Err(free_in) = self.taken.take(1, self.rate, now) else {
            return Ok(());
        };
        let wait = free_in.saturating_add(self.appointment(now));
        Err(Refusal::unavailable(
            "more clients come at once than this node takes: come back at the time told",
        )
        .over(LimitKind::Admissions)
        .retry_after(wait.min(LONGEST_WAIT)))
    }

    /// The time until the next free appointment.
    fn appointment(&self, now: u64) -> Duration {
        let one = Duration::from_secs(1) / self.rate.per_second.max(1);
        let longest = now.saturating_add(LONGEST_WAIT.as_nanos() as u64);
        let next = |last: u64| last.max(now).saturating_add(one.as_nanos() as u64);
        let order = Ordering::Relaxed;
        let queued = self.last_appointment.fetch_update(order, order, |last| {
            Some(next(last)).filter(|at| *at <= longest)
        });
        match queued {
            Ok(last) => Duration::from_nanos(next(last) - now),
            // Not all at the same time.
            Err(_) => LONGEST_WAIT.mul_f64(0.5 + fastrand::f64() / 2.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::ClaimedLimits;

    #[test]
    fn a_storm_is_sent_away_to_come_back_one_after_the_other() {
        let admissions = Admissions::new(Rate {
            per_second: 10,
            burst: 5,
        });
        let waits: Vec<Duration> = (0..45)
            .filter_map(|_| admissions.admit().err()?.retry_after)
            .collect();
        assert!(waits.len() >= 35, "{waits:?}");
        assert!(waits.is_sorted(), "{waits:?}");
        let last = *waits.last().expect("refused ones");
        assert!(last > Duration::from_secs(3), "{last:?}");
    }

    #[test]
    fn nobody_is_sent_away_for_longer_than_half_a_minute_and_not_all_to_the_same_moment() {
        let admissions = Admissions::new(Rate {
            per_second: 1,
            burst: 1,
        });
        let waits: Vec<Duration> = (0..1000)
            .filter_map(|_| admissions.admit().err()?.retry_after)
            .collect();
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT), "{waits:?}");
        let beyond = waits.iter().skip(30);
        for half in [LONGEST_WAIT * 5 / 8, LONGEST_WAIT * 7 / 8] {
            let near = beyond
                .clone()
                .filter(|wait| wait.abs_diff(half) < LONGEST_WAIT / 8);
            assert!(near.count() > 300, "{waits:?}");
        }
    }

    fn alice(limits: ClaimedLimits) -> Identity {
        subject::tests::identity("alice", Some(limits))
    }

    fn crowded() -> Limits {
        Limits::new(&LimitsConfig {
            admissions_per_second: 1,
            admission_burst: 1,
            ..LimitsConfig::default()
        })
    }

    fn over(opened: Result<SubjectPlace, Refusal>) -> Option<LimitKind> {
        opened.err()?.limit.map(|hit| hit.kind)
    }

    #[test]
    fn whoever_the_node_refuses_has_spent_nothing_of_its_subjects() {
        let limits = crowded();
        let alice = alice(ClaimedLimits {
            connects_per_second: Some(1),
            connect_burst: Some(2),
            ..ClaimedLimits::default()
        });
        assert!(limits.open_stream(&alice).is_ok());
        for _ in 0..5 {
            assert_eq!(
                over(limits.open_stream(&alice)),
                Some(LimitKind::Admissions)
            );
            assert_eq!(over(limits.open_poll(&alice)), Some(LimitKind::Admissions));
        }
    }

    #[test]
    fn a_poll_that_the_node_refused_is_no_series_to_go_on_with() {
        let limits = crowded();
        let alice = alice(ClaimedLimits::default());
        assert!(limits.open_stream(&alice).is_ok());
        for _ in 0..5 {
            assert_eq!(over(limits.open_poll(&alice)), Some(LimitKind::Admissions));
        }
    }

    #[test]
    fn a_subject_that_connects_too_often_takes_nothing_of_what_the_node_bears() {
        let limits = Limits::new(&LimitsConfig {
            admissions_per_second: 1,
            admission_burst: 3,
            ..LimitsConfig::default()
        });
        let alice = alice(ClaimedLimits {
            connects_per_second: Some(1),
            connect_burst: Some(1),
            ..ClaimedLimits::default()
        });
        assert!(limits.open_stream(&alice).is_ok());
        for _ in 0..100 {
            assert_eq!(over(limits.open_stream(&alice)), Some(LimitKind::Connect));
        }
        let bob = subject::tests::identity("bob", None);
        assert!(limits.open_stream(&bob).is_ok());
        assert!(limits.open_poll(&bob).is_ok());
    }

    #[test]
    fn by_default_one_subject_opens_twenty_thousand_streams_from_one_address() {
        let limits = Limits::new(&LimitsConfig::default());
        let alice = subject::tests::identity("alice", None);
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        let places: Vec<SubjectPlace> = (0..20_000)
            .map(|_| {
                limits.addresses.take_handshake(address)?;
                limits.open_stream(&alice)
            })
            .collect::<Result<_, _>>()
            .expect("a place for each");
        assert!(places.len() < LimitsConfig::default().connections);
        let poll = limits.open_poll(&alice);
        assert!(poll.is_ok(), "{poll:?}");
    }
}
