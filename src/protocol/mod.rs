//! The wire protocol's frames, errors and close codes, as `docs/protocol.md` states them. Pure.

mod client;
mod connection;
mod error;
mod msgpack;
mod presence;
mod publish;
mod server;
mod subscribe;
mod traceparent;
mod transport;

pub use client::{ClientFrame, ClientMessage, Ref, decode_object};
pub use connection::{ConnectionId, ConnectionIdError};
pub use error::{CloseReason, ErrorCode, LimitHit, LimitKind, Quota, Refusal};
pub use msgpack::{MsgpackError, json_to_msgpack, msgpack_to_json};
pub use presence::{PresenceAnswer, PresenceMember, PresenceRequest};
pub(crate) use publish::Fingerprint;
pub use publish::{Publish, PublishLimits, PublishRequest, Publisher};
pub use server::{ResetReason, ServerFrame};
pub use subscribe::{Query, Start, SubscribeRequest, SubscriptionLimits};
pub use traceparent::TraceParent;
pub use transport::Transport;
