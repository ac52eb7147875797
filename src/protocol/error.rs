//! Error codes, refusals and close reasons: one meaning on every transport.

use std::{borrow::Cow, time::Duration};

use crate::{event::CursorError, topic::TopicError};

/// Why something was refused (protocol, section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    Unauthorized,
    TokenExpired,
    Revoked,
    Forbidden,
    BadRequest,
    BadTopic,
    BadCursor,
    NotFound,
    MethodNotAllowed,
    Conflict,
    TooLarge,
    RateLimited,
    TooManySubscriptions,
    TooManyConnections,
    Unavailable,
    Internal,
}

impl ErrorCode {
    /// In the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::Unauthorized,
        Self::TokenExpired,
        Self::Revoked,
        Self::Forbidden,
        Self::BadRequest,
        Self::BadTopic,
        Self::BadCursor,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::TooLarge,
        Self::RateLimited,
        Self::TooManySubscriptions,
        Self::TooManyConnections,
        Self::Unavailable,
        Self::Internal,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::Forbidden => "forbidden",
            Self::BadRequest => "bad_request",
            Self::BadTopic => "bad_topic",
            Self::BadCursor => "bad_cursor",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::TooManySubscriptions => "too_many_subscriptions",
            Self::TooManyConnections => "too_many_connections",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }

    pub const fn http_status(self) -> u16 {
        match self {
            Self::Unauthorized | Self::TokenExpired | Self::Revoked => 401,
            Self::Forbidden => 403,
            Self::BadRequest | Self::BadTopic | Self::BadCursor => 400,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::RateLimited | Self::TooManySubscriptions | Self::TooManyConnections => 429,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The WebSocket close that ends a connection refused at its start with this code.
    const fn refused_connection_close(self) -> CloseReason {
        match self {
            Self::TooLarge => CloseReason::TooLarge,
            Self::TooManySubscriptions | Self::TooManyConnections => {
                CloseReason::TooManyConnections
            }
            Self::Unavailable => CloseReason::Unavailable,
            Self::Internal => CloseReason::Internal,
            Self::Revoked => CloseReason::Revoked,
            Self::Unauthorized
            | Self::TokenExpired
            | Self::Forbidden
            | Self::BadRequest
            | Self::BadTopic
            | Self::BadCursor
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::Conflict
            | Self::RateLimited => CloseReason::Refused,
        }
    }
}

/// Which limit a refusal is about; each is a key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// Messages and requests of one connection.
    Messages,
    /// Inbound bytes of one connection.
    Bytes,
    /// Events that a subject publishes.
    Publish,
    /// Streams that a subject opens.
    Connect,
    /// Failed authentications of an address.
    FailedAuths,
    /// Handshakes of an address.
    Handshakes,
    /// Streams opened on the node.
    Admissions,
    /// Connections of a subject.
    SubjectConnections,
    /// Waiting polls of a subject.
    SubjectPolls,
    /// Connections of the node.
    NodeConnections,
    /// Topic filters of one connection.
    Subscriptions,
    /// Topics of a subject on which it is told who is there.
    PresenceTopics,
    /// Outstanding tickets.
    Tickets,
    /// Remembered idempotency keys.
    IdempotencyKeys,
    /// A size: of a message, body, token, URL or event.
    Size,
}

impl LimitKind {
    /// In the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Messages,
        Self::Bytes,
        Self::Publish,
        Self::Connect,
        Self::FailedAuths,
        Self::Handshakes,
        Self::Admissions,
        Self::SubjectConnections,
        Self::SubjectPolls,
        Self::NodeConnections,
        Self::Subscriptions,
        Self::PresenceTopics,
        Self::Tickets,
        Self::IdempotencyKeys,
        Self::Size,
    ];

    /// The name in metrics and in the `RateLimit` headers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Publish => "publish",
            Self::Connect => "connect",
            Self::FailedAuths => "failed_auths",
            Self::Handshakes => "handshakes",
            Self::Admissions => "admissions",
            Self::SubjectConnections => "subject_connections",
            Self::SubjectPolls => "subject_polls",
            Self::NodeConnections => "node_connections",
            Self::Subscriptions => "subscriptions",
            Self::PresenceTopics => "presence_topics",
            Self::Tickets => "tickets",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Size => "size",
        }
    }
}

/// The limit that a refusal is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitHit {
    pub kind: LimitKind,
    /// How much is allowed in each window, where it is a rate: what the `RateLimit-Policy` header
    /// tells.
    pub quota: Option<Quota>,
}

/// So many in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub count: u32,
    pub window_seconds: u32,
}

/// What the client gets in place of what it asked for. The message tells a person what was wrong
/// and what to do; it never carries a token or a ticket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: Cow<'static, str>,
    /// How long to wait before trying again, where waiting helps.
    pub retry_after: Option<Duration>,
    /// The limit that was reached, where it is one.
    pub limit: Option<LimitHit>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            limit: None,
        }
    }

    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn too_large(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::TooLarge, message).over(LimitKind::Size)
    }

    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Unavailable, message).retry_after(Duration::from_secs(1))
    }

    /// More than a rate allows.
    pub fn rate_limited(
        message: impl Into<Cow<'static, str>>,
        kind: LimitKind,
        quota: Quota,
        wait: Duration,
    ) -> Self {
        Self {
            limit: Some(LimitHit {
                kind,
                quota: Some(quota),
            }),
            ..Self::new(ErrorCode::RateLimited, message).retry_after(wait)
        }
    }

    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Names the limit that was reached.
    #[must_use]
    pub fn over(mut self, kind: LimitKind) -> Self {
        self.limit = Some(LimitHit { kind, quota: None });
        self
    }

    /// The WebSocket close that ends a connection refused at its start. Whoever came too often may
    /// come back; whoever failed to authenticate too often needs another credential first.
    pub fn connection_close(&self) -> CloseReason {
        let failed_auths = self
            .limit
            .is_some_and(|hit| hit.kind == LimitKind::FailedAuths);
        match self.code {
            ErrorCode::RateLimited if !failed_auths => CloseReason::TooManyConnections,
            code => code.refused_connection_close(),
        }
    }

    /// `retryAfterMs` as it goes over the wire: rounded up, since whoever comes a moment too early
    /// is refused again.
    pub fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after
            .map(|wait| wait.as_nanos().div_ceil(1_000_000).max(1) as u64)
    }
}

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        Self::new(ErrorCode::BadTopic, error.to_string())
    }
}

impl From<CursorError> for Refusal {
    fn from(error: CursorError) -> Self {
        Self::new(ErrorCode::BadCursor, error.to_string())
    }
}

/// Why the gateway ends a connection (protocol, sections 3, 4 and 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The connection's first credential was refused, or its URL was.
    Refused,
    /// No `auth` came in time.
    AuthTimeout,
    /// The `auth` that came first was bad.
    AuthFailed,
    /// Something else came before `auth`.
    AuthExpected,
    TokenExpired,
    Revoked,
    /// The client was silent for too long.
    Silent,
    /// The gateway is draining.
    Draining,
    ProtocolViolation,
    UnsupportedFrame,
    BadUtf8,
    TooLarge,
    /// The client kept on after being told of a rate limit.
    RateLimited,
    TooManyConnections,
    Unavailable,
    Internal,
    /// The stream ticket was used for a newer stream.
    Superseded,
}

impl CloseReason {
    /// In the order of their declaration.
    pub const ALL: [Self; 17] = [
        Self::Refused,
        Self::AuthTimeout,
        Self::AuthFailed,
        Self::AuthExpected,
        Self::TokenExpired,
        Self::Revoked,
        Self::Silent,
        Self::Draining,
        Self::ProtocolViolation,
        Self::UnsupportedFrame,
        Self::BadUtf8,
        Self::TooLarge,
        Self::RateLimited,
        Self::TooManyConnections,
        Self::Unavailable,
        Self::Internal,
        Self::Superseded,
    ];

    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::AuthTimeout => "auth_timeout",
            Self::AuthFailed => "auth_failed",
            Self::AuthExpected => "auth_expected",
            Self::TokenExpired => "token_expired",
            Self::Revoked => "revoked",
            Self::Silent => "silent",
            Self::Draining => "draining",
            Self::ProtocolViolation => "protocol_violation",
            Self::UnsupportedFrame => "unsupported_frame",
            Self::BadUtf8 => "bad_utf8",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::TooManyConnections => "too_many_connections",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Superseded => "superseded",
        }
    }

    /// The WebSocket close code (RFC 6455, section 7.4), also the `code` of `closing`.
    pub const fn code(self) -> u16 {
        match self {
            Self::Refused | Self::RateLimited => 1008,
            Self::AuthTimeout => 4001,
            Self::AuthFailed => 4002,
            Self::AuthExpected => 4003,
            Self::TokenExpired => 4004,
            Self::Revoked => 4005,
            Self::Superseded => 4006,
            Self::Silent => 1001,
            Self::Draining => 1012,
            Self::ProtocolViolation => 1002,
            Self::UnsupportedFrame => 1003,
            Self::BadUtf8 => 1007,
            Self::TooLarge => 1009,
            Self::TooManyConnections | Self::Unavailable => 1013,
            Self::Internal => 1011,
        }
    }

    pub const fn message(self) -> &'static str {
        match self {
            Self::Refused => "the connection was refused",
            Self::AuthTimeout => "no auth message came in time",
            Self::AuthFailed => "the token was refused",
            Self::AuthExpected => "the first message must be auth",
            Self::TokenExpired => "the token has expired: get a fresh one and come back",
            Self::Revoked => "access was revoked: do not come back",
            Self::Superseded => "a newer stream took over this ticket",
            Self::Silent => "nothing was heard from the client for too long",
            Self::Draining => "the gateway is restarting: come back with your last cursor",
            Self::ProtocolViolation => "websocket protocol violation",
            Self::UnsupportedFrame => {
                "wrong frame kind: send text, or binary messages with the subprotocol tribus.msgpack.v1"
            }
            Self::BadUtf8 => "text that is not UTF-8",
            Self::TooLarge => "message over the size limit",
            Self::RateLimited => "too many messages after being told to slow down",
            Self::TooManyConnections => "too many connections",
            Self::Unavailable => "the gateway can not serve this now",
            Self::Internal => "internal error",
        }
    }

    /// Whether the same client may come back by itself, so that `closing` tells it when.
    pub const fn reconnect(self) -> bool {
        match self {
            Self::TokenExpired
            | Self::Silent
            | Self::Draining
            | Self::TooManyConnections
            | Self::Unavailable
            | Self::Internal
            | Self::RateLimited => true,
            Self::Refused
            | Self::AuthTimeout
            | Self::AuthFailed
            | Self::AuthExpected
            | Self::Revoked
            | Self::Superseded
            | Self::ProtocolViolation
            | Self::UnsupportedFrame
            | Self::BadUtf8
            | Self::TooLarge => false,
        }
    }
}
