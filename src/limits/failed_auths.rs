//! Failed authentications by address. Whether an address may try at all has to be known before a
//! site's backend is asked, without that costing anything, so this is not one of `governor`'s.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    address::{AddressKey, MOST_ADDRESSES},
    bucket::{Bucket, Clock, Rate},
};
use crate::protocol::{LimitKind, Quota, Refusal};

/// Each failure counts so many, since rates are a second and this limit is a minute: 500 a minute,
/// each counting 60, are 500 a second paid back, and 30,000 at once.
const SECONDS: u32 = 60;

type Addresses = HashMap<AddressKey, Bucket, ahash::RandomState>;

/// How many failures each address has left.
pub(super) struct FailedAuths {
    per_minute: u32,
    clock: Clock,
    addresses: Mutex<Addresses>,
}

impl FailedAuths {
    pub(super) fn new(per_minute: u32) -> Self {
        Self {
            per_minute,
            clock: Clock::start(),
            addresses: Mutex::default(),
        }
    }

    /// # Errors
    /// `rate_limited` where the address has failed too often to be asked about.
    pub(super) fn refuse_over(&self, address: IpAddr) -> Result<(), Refusal> {
        let addresses = self.addresses();
        let bucket = addresses.get(&key(address, &addresses));
        let wait = bucket.and_then(|bucket| bucket.wait(SECONDS, self.rate(), self.clock.now()));
        wait.map_or(Ok(()), |wait| Err(self.refusal(wait)))
    }

    /// # Errors
    /// `rate_limited` where this was one too many.
    pub(super) fn note(&self, address: IpAddr) -> Result<(), Refusal> {
        let mut addresses = self.addresses();
        let key = key(address, &addresses);
        let bucket = addresses.entry(key).or_default();
        let taken = bucket.take(SECONDS, self.rate(), self.clock.now());
        taken.map_err(|wait| self.refusal(wait))
    }

    pub(super) fn prune(&self) {
        let now = self.clock.now();
        let mut addresses = self.addresses();
        addresses.retain(|_, bucket| !bucket.is_full(now));
        addresses.shrink_to_fit();
    }

    fn rate(&self) -> Rate {
        Rate {
            per_second: self.per_minute,
            burst: self.per_minute.saturating_mul(SECONDS),
        }
    }

    fn refusal(&self, wait: Duration) -> Refusal {
        Refusal::rate_limited(
            "too many failed authentications from this address: wait, and come back with a good \
             token",
            LimitKind::FailedAuths,
            Quota {
                count: self.per_minute,
                window_seconds: SECONDS,
            },
            wait,
        )
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an address counts under: itself, unless it is new and there are too many.
fn key(address: IpAddr, known: &Addresses) -> AddressKey {
    let key = AddressKey::of(address);
    match known.len() >= MOST_ADDRESSES && !known.contains_key(&key) {
        true => key.widened(),
        false => key,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0001 + number).into()
    }

    #[test]
    fn asking_costs_nothing_and_knows_when_an_address_is_over() {
        let failed = FailedAuths::new(2);
        for _ in 0..2 {
            assert_eq!(failed.refuse_over(address(1)), Ok(()));
            assert_eq!(failed.note(address(1)), Ok(()));
        }
        let refused = failed.refuse_over(address(1)).expect_err("it is over");
        assert!(refused.retry_after <= Some(Duration::from_secs(30)));
        assert!(failed.note(address(1)).is_err());
        assert_eq!(failed.refuse_over(address(2)), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_stays_bounded_and_does_not_pass() {
        let failed = FailedAuths::new(10);
        let most = MOST_ADDRESSES as u32;
        for number in 0..most {
            assert_eq!(failed.note(address(number)), Ok(()));
        }
        let passed = (most..most + 1000)
            .filter(|number| failed.note(address(*number)).is_ok())
            .count();
        // Together they have one address's budget, and what comes back of it meanwhile.
        assert!((10..100).contains(&passed), "{passed}");
        assert!(failed.addresses().len() <= MOST_ADDRESSES + 1);
    }

    #[test]
    fn whoever_has_paid_back_is_forgotten() {
        let failed = FailedAuths::new(10_000_000);
        assert_eq!(failed.note(address(1)), Ok(()));
        let forgotten = (0..10_000).any(|_| {
            std::thread::yield_now();
            failed.prune();
            failed.addresses().is_empty()
        });
        assert!(forgotten);
    }
}
