//! `limits.*`: what one client, one address and all together may take.

use serde::{Deserialize, Serialize};

use super::{ConfigError, values::Size};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    // Sizes.
    /// One event encoded: what a phone can be expected to take in one piece.
    pub event_bytes: Size,
    /// How deep `data` may nest: what JSON readers cope with.
    pub nesting: usize,
    /// One inbound WebSocket message, and the body of a request to `/events` and `/poll`.
    pub message_bytes: Size,
    /// The body of a publish.
    pub publish_bytes: Size,
    /// Path and query of a request: room for a token and some hundred topics.
    pub url_bytes: Size,
    /// One token; it has to fit into what proxies take as a header.
    pub token_bytes: Size,

    // One connection.
    /// Topic filters a connection: each costs memory on the node.
    pub subscriptions: usize,
    /// Of those, filters with wildcards, which are dearer to match.
    pub patterns: usize,
    /// Inbound messages or requests a second and connection, kept up over time.
    pub messages_per_second: u32,
    /// Messages or requests that may come at once after a quiet time.
    pub message_burst: u32,
    /// Inbound bytes a second and connection (messages and bodies), kept up over time.
    pub bytes_per_second: Size,
    /// Bytes that may come at once after a quiet time; no less than a message or body may have.
    pub byte_burst: Size,

    // One subject (of a tenant), over all its connections and transports. A token's `limits` claim
    // may set these for its subject, wider or tighter.
    /// Events that a subject publishes a second. High by default: a backend publishes for everyone.
    pub publish_events_per_second: u32,
    /// Events that a subject may publish at once; no less than a batch has.
    pub publish_burst: u32,
    /// Streams that a subject opens a second; a series of long-polls counts as one.
    pub connects_per_second: u32,
    /// Streams that a subject may open at once, as when all its devices come back.
    pub connect_burst: u32,
    /// Streams and waiting polls of one subject at the same time.
    pub connections_per_subject: u32,
    /// Of those, waiting polls.
    pub polls_per_subject: u32,
    /// Whether what a subject may take holds for all nodes together instead of each by itself. Needs an
    /// engine that nodes share.
    pub shared: bool,
    /// Idempotency keys of one subject, so that none can take the places of all.
    pub idempotency_keys_per_subject: usize,

    // One client address (an IPv6 address counts by its /56, which is what one customer gets).
    // Behind a proxy everyone has its address, unless `trusted_proxies` names it.
    /// Failed authentications; beyond them bad credentials get 429 instead of 401, and the auth
    /// hook is not asked.
    pub failed_auths_per_minute: u32,
    /// Handshakes a second: streams opened, and connections that begin with another request.
    pub handshakes_per_second: u32,
    /// Handshakes that may come at once.
    pub handshake_burst: u32,

    // The node.
    /// Streams and waiting polls, and as many TCP connections: below what memory and file
    /// descriptors allow.
    pub connections: usize,
    /// Streams opened a second: what the node bears when everyone comes back at once. Whoever
    /// comes too early is told when to try again.
    pub admissions_per_second: u32,
    /// Streams that may be opened at once.
    pub admission_burst: u32,
    /// Idempotency keys remembered for ten minutes, about 100 bytes each.
    pub idempotency_keys: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            event_bytes: Size(64 << 10),
            nesting: 128,
            message_bytes: Size(64 << 10),
            publish_bytes: Size(1 << 20),
            url_bytes: Size(16 << 10),
            token_bytes: Size(8 << 10),

            subscriptions: 1000,
            patterns: 100,
            messages_per_second: 5000,
            message_burst: 10_000,
            bytes_per_second: Size(64 << 20),
            byte_burst: Size(128 << 20),

            publish_events_per_second: 1_000_000,
            publish_burst: 1_000_000,
            connects_per_second: 10_000,
            connect_burst: 50_000,
            connections_per_subject: 25_000,
            polls_per_subject: 25_000,
            shared: false,
            idempotency_keys_per_subject: 500_000,

            failed_auths_per_minute: 500,
            handshakes_per_second: 10_000,
            handshake_burst: 50_000,

            connections: 50_000,
            admissions_per_second: 5_000,
            admission_burst: 25_000,
            idempotency_keys: 1_000_000,
        }
    }
}

impl LimitsConfig {
    /// # Errors
    /// Names the first key whose value nothing could ever pass.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("event_bytes", self.event_bytes.0),
            ("message_bytes", self.message_bytes.0),
            ("publish_bytes", self.publish_bytes.0),
            ("url_bytes", self.url_bytes.0),
            ("token_bytes", self.token_bytes.0),
            ("messages_per_second", self.messages_per_second as usize),
            ("message_burst", self.message_burst as usize),
            ("bytes_per_second", self.bytes_per_second.0),
            (
                "publish_events_per_second",
                self.publish_events_per_second as usize,
            ),
            ("publish_burst", self.publish_burst as usize),
            ("connects_per_second", self.connects_per_second as usize),
            ("connect_burst", self.connect_burst as usize),
            (
                "connections_per_subject",
                self.connections_per_subject as usize,
            ),
            ("polls_per_subject", self.polls_per_subject as usize),
            (
                "failed_auths_per_minute",
                self.failed_auths_per_minute as usize,
            ),
            ("handshakes_per_second", self.handshakes_per_second as usize),
            ("handshake_burst", self.handshake_burst as usize),
            ("connections", self.connections),
            ("admissions_per_second", self.admissions_per_second as usize),
            ("admission_burst", self.admission_burst as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(ConfigError::value(
                    &format!("limits.{key}"),
                    "must be more than 0",
                ));
            }
        }
        let largest = self.message_bytes.0.max(self.publish_bytes.0);
        if self.byte_burst.0 < largest {
            return Err(ConfigError::value(
                "limits.byte_burst",
                "must be no less than limits.message_bytes and limits.publish_bytes, or the \
                 largest of them could never pass",
            ));
        }
        Ok(())
    }
}
