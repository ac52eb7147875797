//! What one connection, one subject, one address and the whole node may take.
//!
//! | of | what | kept |
//! |---|---|---|
//! | a TCP connection | messages, bytes | with the connection (`connection`) |
//! | a subject of a tenant | publishes, connects, connections, waiting polls | in one table, whatever the transport (`subject`) |
//! | a client address | handshakes, failed authentications | in one table (`address`) |
//! | the node | admissions | here |
//!
//! Everything kept by a key is pruned by [`Limits::prune`] once it says no more than its absence
//! would, and is bounded besides.

mod address;
mod bucket;
mod connection;
mod subject;

use std::time::Duration;

pub use address::{AddressKey, AddressLimits};
pub use bucket::Rate;
pub use connection::{ConnectionLimiter, ConnectionRates};
pub use subject::{SubjectAllowance, SubjectLimits, SubjectPlace, SubjectState};

use bucket::{Bucket, Clock};

use crate::{
    config::LimitsConfig,
    protocol::{LimitKind, Refusal},
};

/// The longest time for which a client that can not be admitted is sent away.
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

    /// Takes one stream from what the node bears a second.
    ///
    /// # Errors
    /// `unavailable`, with a time to come back at.
    pub fn admit(&self) -> Result<(), Refusal> {
        self.admissions.admit()
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
    /// Appointments given to those that were sent away: one after the other at the same rate, so
    /// that a storm comes back as a stream.
    appointments: Bucket,
}

impl Admissions {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            clock: Clock::start(),
            taken: Bucket::default(),
            appointments: Bucket::default(),
        }
    }

    fn admit(&self) -> Result<(), Refusal> {
        let now = self.clock.now();
        let Err(free_in) = self.taken.take(1, self.rate, now) else {
            return Ok(());
        };
        let queued = self.appointments.queue(self.rate, now);
        let wait = free_in.saturating_add(queued).min(LONGEST_WAIT);
        Err(Refusal::unavailable(
            "more clients come at once than this node takes: come back at the time told",
        )
        .over(LimitKind::Admissions)
        .retry_after(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn nobody_is_sent_away_for_longer_than_half_a_minute() {
        let admissions = Admissions::new(Rate {
            per_second: 1,
            burst: 1,
        });
        let longest = (0..1000)
            .filter_map(|_| admissions.admit().err()?.retry_after)
            .max();
        assert_eq!(longest, Some(LONGEST_WAIT));
    }
}
