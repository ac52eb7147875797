//! The budgets of client addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU32,
};

use governor::{
    Quota as GovernorQuota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::keyed::HashMapStateStore,
};

use super::{connection::told, failed_auths::FailedAuths};
use crate::{
    config::LimitsConfig,
    protocol::{LimitKind, Refusal},
};

/// Addresses remembered one by one, about 100 bytes each; while there are as many, all count
/// together with their wider network.
pub(super) const MOST_ADDRESSES: usize = 100_000;

/// What counts as one client: an IPv4 address, or the /56 of an IPv6 address, which is what one
/// customer commonly gets (RFC 6177).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey(IpAddr);

impl AddressKey {
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => leading_v6(v6, 56).into(),
        })
    }

    /// The network that stands for an address when there are too many: few enough to count all.
    pub(super) fn widened(self) -> Self {
        Self(match self.0 {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & 0xff00_0000).into(),
            IpAddr::V6(v6) => leading_v6(v6, 16).into(),
        })
    }
}

fn leading_v6(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits)))
}

/// One rate for each address.
struct Budget {
    limiter: RateLimiter<
        AddressKey,
        HashMapStateStore<AddressKey>,
        MonotonicClock,
        NoOpMiddleware<std::time::Instant>,
    >,
    kind: LimitKind,
    message: &'static str,
}

impl Budget {
    fn new(quota: GovernorQuota, kind: LimitKind, message: &'static str) -> Self {
        Self {
            limiter: RateLimiter::new(quota, HashMapStateStore::default(), MonotonicClock),
            kind,
            message,
        }
    }

    fn take(&self, address: IpAddr) -> Result<(), Refusal> {
        let mut key = AddressKey::of(address);
        if self.limiter.len() >= MOST_ADDRESSES {
            key = key.widened();
        }
        self.limiter.check_key(&key).map_err(|not_until| {
            Refusal::rate_limited(
                self.message,
                self.kind,
                told(not_until.quota()),
                not_until.wait_time_from(MonotonicClock.now()),
            )
        })
    }

    fn prune(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// Handshakes and failed authentications, by address.
pub struct AddressLimits {
    handshakes: Budget,
    failed_auths: FailedAuths,
}

impl AddressLimits {
    pub fn new(config: &LimitsConfig) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let handshakes = GovernorQuota::per_second(at_least_one(config.handshakes_per_second))
            .allow_burst(at_least_one(config.handshake_burst));
        Self {
            handshakes: Budget::new(
                handshakes,
                LimitKind::Handshakes,
                "too many handshakes from this address: slow down",
            ),
            failed_auths: FailedAuths::new(config.failed_auths_per_minute),
        }
    }

    /// Takes one handshake.
    ///
    /// # Errors
    /// `rate_limited`.
    pub fn take_handshake(&self, address: IpAddr) -> Result<(), Refusal> {
        self.handshakes.take(address)
    }

    /// Whether the address may still try credentials that only a backend can judge.
    ///
    /// # Errors
    /// `rate_limited` where too many of its credentials were refused.
    pub fn refuse_failing(&self, address: IpAddr) -> Result<(), Refusal> {
        self.failed_auths.refuse_over(address)
    }

    /// Notes that a credential was refused.
    ///
    /// # Errors
    /// `rate_limited` where there were too many, to be told in place of why it was refused.
    pub fn note_failed_auth(&self, address: IpAddr) -> Result<(), Refusal> {
        self.failed_auths.note(address)
    }

    pub(super) fn prune(&self) {
        self.handshakes.prune();
        self.failed_auths.prune();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(address: &str) -> AddressKey {
        AddressKey::of(address.parse().expect("an address"))
    }

    #[test]
    fn one_customer_has_one_budget() {
        assert_eq!(key("2001:db8:1:200::1"), key("2001:db8:1:2ff:ffff::9"));
        assert_ne!(key("2001:db8:1:200::1"), key("2001:db8:1:300::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.2"), key("192.0.2.1"));
    }

    #[test]
    fn whoever_is_quiet_is_forgotten() {
        let limits = AddressLimits::new(&LimitsConfig {
            handshakes_per_second: 1_000_000,
            ..LimitsConfig::default()
        });
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(limits.take_handshake(address), Ok(()));
        let forgotten = (0..10_000).any(|_| {
            std::thread::yield_now();
            limits.prune();
            limits.handshakes.limiter.is_empty()
        });
        assert!(forgotten);
    }
}
