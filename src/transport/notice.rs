//! What is said about clients that were refused: numbers and debug lines for all of them, and a
//! warning, now and then, where an operator should do something.

use std::net::IpAddr;

use actix_web::{dev::RequestHead, http::header};

use super::worker::Worker;
use crate::{
    metrics::{Credential, Endpoint},
    protocol::{ErrorCode, LimitKind, Refusal},
    throttle::Throttle,
};

/// Keeps the warnings that clients can provoke rare, each kind for itself.
#[derive(Debug, Default)]
pub struct Warnings {
    node_full: Throttle,
    tickets_full: Throttle,
    idempotency_full: Throttle,
    internal: Throttle,
    origin: Throttle,
}

/// Of an origin in the log; longer ones are no page's that anyone would add to a list.
const SHOWN_ORIGIN: usize = 100;

impl Worker {
    /// A client is told of a refusal, on whatever endpoint. Each refusal is noted once, where it
    /// leaves the gateway.
    pub fn note_refusal(&self, endpoint: Endpoint, refusal: &Refusal, address: Option<IpAddr>) {
        self.metrics().refused(endpoint, refusal);
        tracing::debug!(
            endpoint = endpoint.as_str(),
            code = refusal.code.as_str(),
            limit = refusal.limit.map(|limit| limit.kind.as_str()),
            address = address.map(tracing::field::display),
            "refused"
        );
        self.shared.warnings.warn_of(refusal);
    }

    /// A web page may not connect, which its author finds out by this line or not at all.
    pub fn warn_of_origin(&self, head: &RequestHead) {
        let Some(held_back) = self.shared.warnings.origin.pass() else {
            return;
        };
        let origin = head.headers().get(header::ORIGIN);
        let origin = origin.map_or_else(Default::default, |origin| {
            String::from_utf8_lossy(origin.as_bytes())
        });
        let origin: String = origin.chars().take(SHOWN_ORIGIN).collect();
        tracing::warn!(
            held_back,
            ?origin,
            "a web page of this origin was refused: if it is yours, add the origin to \
             auth.allowed_origins (localhost and 127.0.0.1 are two)"
        );
    }

    /// A credential was no good, or there was none.
    pub fn note_auth_failure(
        &self,
        credential: Credential,
        refusal: &Refusal,
        address: Option<IpAddr>,
    ) {
        self.metrics().auth_failed(credential, refusal.code);
        tracing::debug!(
            credential = credential.as_str(),
            code = refusal.code.as_str(),
            address = address.map(tracing::field::display),
            "authentication failed"
        );
    }
}

impl Warnings {
    fn warn_of(&self, refusal: &Refusal) {
        let limit = refusal.limit.map(|limit| limit.kind);
        let (throttle, advice) = match (limit, refusal.code) {
            (Some(LimitKind::NodeConnections | LimitKind::Admissions), _) => (
                &self.node_full,
                "clients are refused because the node is full: raise limits.connections or \
                 limits.admissions_per_second, or add nodes",
            ),
            (Some(LimitKind::Tickets), ErrorCode::Unavailable) => (
                &self.tickets_full,
                "no more tickets are issued because too many are outstanding",
            ),
            (Some(LimitKind::IdempotencyKeys), ErrorCode::Unavailable) => (
                &self.idempotency_full,
                "publishes are refused because too many idempotency keys are remembered: raise \
                 limits.idempotency_keys",
            ),
            (_, ErrorCode::Internal) => (&self.internal, "an internal error: please report it"),
            _ => return,
        };
        if let Some(held_back) = throttle.pass() {
            tracing::warn!(held_back, error = %refusal.message, "{advice}");
        }
    }
}
