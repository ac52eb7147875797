//! Who a client is and what it may do.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::topic::{Tenant, TopicFilter, covers};

/// How far clocks may differ: a token is good until this long after `exp`, and from this long before `nbf`.
pub const LEEWAY: SignedDuration = SignedDuration::from_secs(5);

/// What a verified token says: shared by every connection and ticket that came from it. Holds no secrets.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// `sub`: 1 to 255 bytes, no control characters.
    pub subject: Arc<str>,
    /// `tenant`: every topic below lives in it.
    pub tenant: Tenant,
    /// Filters that may be subscribed to.
    pub subscribe: Vec<TopicFilter>,
    /// Filters that a published topic has to match.
    pub publish: Vec<TopicFilter>,
    /// Whether it may say on whose behalf it publishes (`user_id`).
    pub trusted: bool,
    /// `exp` as the token has it, without leeway.
    pub expires_at: Timestamp,
    /// `jti`: what a single token is revoked by.
    pub token_id: Option<Arc<str>>,
}

impl Identity {
    /// Whether the grants cover everything that `filter` can match.
    pub fn may_subscribe(&self, filter: &TopicFilter) -> bool {
        covers(&self.subscribe, filter)
    }

    /// Whether one of the grants matches `topic`.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|grant| grant.matches(topic))
    }

    /// The first moment at which the identity is no longer good: [`LEEWAY`] after `exp`.
    pub fn valid_until(&self) -> Timestamp {
        later(self.expires_at, LEEWAY)
    }

    /// Whether the identity has ended at `now`. The same rule as for a token that is presented, so that a token which
    /// was let in is not thrown out in the same second.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        now >= self.valid_until()
    }
}

/// `at + by`, held at the end of time instead of overflowing.
pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
