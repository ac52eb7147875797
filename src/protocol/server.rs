//! What the gateway sends besides events.

use std::sync::Arc;

use serde::Serialize;

use super::{CloseReason, PresenceAnswer, Refusal, client::Ref};

/// Why events were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetReason {
    /// The cursor lies behind what is retained.
    Expired,
    /// The cursor is of a log, or of an entry, that this bus does not have.
    UnknownLog,
    /// The connection itself was too slow and fell behind what is retained.
    Lagged,
}

impl ResetReason {
    /// In the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Expired, Self::UnknownLog, Self::Lagged];

    /// The name on the wire, and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::UnknownLog => "unknown_log",
            Self::Lagged => "lagged",
        }
    }
}

/// A control frame. Cursors in it are stream cursors (protocol, section 2) but for `published`.
#[derive(Clone, Debug, Serialize)]
#[serde(
    tag = "type",
    rename_all = "snake_case",
    rename_all_fields = "camelCase"
)]
pub enum ServerFrame {
    AuthSuccess {
        user_id: Box<str>,
        expires_at: String,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Connected {
        message: &'static str,
        user_id: Box<str>,
        connection_id: Box<str>,
        cursor: String,
        heartbeat_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<Arc<str>>,
    },
    Subscribed {
        topics: Vec<String>,
        cursor: String,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Live {
        topics: Vec<String>,
        cursor: String,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Unsubscribed {
        topics: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Published {
        id: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        duplicate: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        durability: Option<&'static str>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Presence {
        #[serde(flatten)]
        answer: PresenceAnswer,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Pong {
        cursor: String,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Heartbeat {
        cursor: String,
    },
    Reset {
        reason: ResetReason,
        cursor: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        topics: Option<Vec<String>>,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
    },
    Closing {
        code: u16,
        message: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reconnect_after_ms: Option<u64>,
    },
    Error {
        code: &'static str,
        message: String,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<Ref>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
}

impl ServerFrame {
    pub fn error(refusal: &Refusal, reference: Option<Ref>) -> Self {
        Self::Error {
            code: refusal.code.as_str(),
            message: refusal.message.to_string(),
            reference,
            retry_after_ms: refusal.retry_after_ms(),
        }
    }

    /// `reconnect_after_ms` is left out where the client should not come back by itself.
    pub fn closing(reason: CloseReason, reconnect_after_ms: u64) -> Self {
        Self::Closing {
            code: reason.code(),
            message: reason.message(),
            reconnect_after_ms: reason.reconnect().then_some(reconnect_after_ms),
        }
    }

    /// The frame's `type`, which is also the SSE event name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AuthSuccess { .. } => "auth_success",
            Self::Connected { .. } => "connected",
            Self::Subscribed { .. } => "subscribed",
            Self::Live { .. } => "live",
            Self::Unsubscribed { .. } => "unsubscribed",
            Self::Published { .. } => "published",
            Self::Presence { .. } => "presence",
            Self::Pong { .. } => "pong",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Reset { .. } => "reset",
            Self::Closing { .. } => "closing",
            Self::Error { .. } => "error",
        }
    }

    /// The stream cursor that the frame carries.
    pub fn stream_cursor(&self) -> Option<&str> {
        match self {
            Self::Connected { cursor, .. }
            | Self::Subscribed { cursor, .. }
            | Self::Live { cursor, .. }
            | Self::Pong { cursor, .. }
            | Self::Heartbeat { cursor }
            | Self::Reset { cursor, .. } => Some(cursor),
            Self::AuthSuccess { .. }
            | Self::Unsubscribed { .. }
            | Self::Published { .. }
            | Self::Presence { .. }
            | Self::Closing { .. }
            | Self::Error { .. } => None,
        }
    }

    /// Compact JSON of one line.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a frame holds only strings, numbers and booleans")
    }
}
