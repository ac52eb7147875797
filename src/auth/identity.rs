//! Who a client is and what it may do.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

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
    /// Whether it may see what the whole node counts, which tells of other tenants too.
    pub stats: bool,
    /// `exp` as the token has it, without leeway.
    pub expires_at: Timestamp,
    /// `jti`: what a single token is revoked by.
    pub token_id: Option<Arc<str>>,
    /// `limits`: what its subject may take, where the token says so.
    pub limits: Option<Box<ClaimedLimits>>,
}

/// The `limits` claim: the configuration's limits of a subject, by the same names, each in place
/// of the default. None of them is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClaimedLimits {
    /// Events that the subject may publish a second.
    pub publish_events_per_second: Option<u32>,
    /// Events that it may publish at once; as many as a second where only the rate is given.
    pub publish_burst: Option<u32>,
    /// Streams that it may open a second.
    pub connects_per_second: Option<u32>,
    /// Streams that it may open at once; as many as a second where only the rate is given.
    pub connect_burst: Option<u32>,
    /// Streams and waiting polls at the same time.
    pub connections_per_subject: Option<u32>,
    /// Of those, waiting polls.
    pub polls_per_subject: Option<u32>,
}

impl ClaimedLimits {
    /// Whether one of them is 0, which would lock the subject out; grants are for that.
    pub(super) fn has_zero(&self) -> bool {
        let all = [
            self.publish_events_per_second,
            self.publish_burst,
            self.connects_per_second,
            self.connect_burst,
            self.connections_per_subject,
            self.polls_per_subject,
        ];
        all.contains(&Some(0))
    }
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

/// Bytes of `sub`, `tenant` and `jti`, which stand in keys and logs.
const MAX_NAME_BYTES: usize = 255;

/// Why no token can have this as its `sub`, `tenant` or `jti`.
pub fn name_problem(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("empty")
    } else if text.len() > MAX_NAME_BYTES {
        Some("longer than 255 bytes")
    } else if text.contains(char::is_control) {
        Some("contains a control character")
    } else {
        None
    }
}

/// `at + by`, held at the end of time instead of overflowing.
pub(super) fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}
