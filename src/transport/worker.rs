//! What a worker thread holds for its requests.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use jiff::Timestamp;

use super::notice::Warnings;
use crate::{
    auth::{Authenticator, Identity, RevocationList, TicketStore},
    bus::{SessionHandle, Shard},
    metrics::{Metrics, WorkerMetrics},
    protocol::{ErrorCode, LimitKind, PublishLimits, Refusal, SubscriptionLimits},
    session::{Announcement, Peer},
};

/// What the transports need of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    pub heartbeat: Duration,
    pub cookie: String,
    pub allowed_origins: Vec<String>,
    pub subscriptions: SubscriptionLimits,
    pub publish: PublishLimits,
    pub message_bytes: usize,
    pub publish_bytes: usize,
    pub quota: Quota,
    pub connections: usize,
}

/// Shared by all workers of a node.
pub struct Shared {
    pub settings: Settings,
    pub authenticator: Arc<Authenticator>,
    pub tickets: TicketStore,
    pub revocations: RevocationList,
    pub metrics: Metrics,
    pub warnings: Warnings,
    pub connections: AtomicUsize,
}

/// One per worker thread.
pub struct Worker {
    pub shared: Arc<Shared>,
    pub shard: Rc<Shard>,
}

impl Worker {
    /// The counters of this thread.
    pub fn metrics(&self) -> &WorkerMetrics {
        self.shard.metrics()
    }

    /// Takes a place among the node's connections, and holds it until the slot is dropped.
    ///
    /// # Errors
    /// `unavailable` while draining, `too_many_connections` at the node's limit.
    pub fn admit(&self) -> Result<ConnectionSlot, Refusal> {
        self.refuse_while_draining()?;
        ConnectionSlot::take(&self.shared)
    }

    fn refuse_while_draining(&self) -> Result<(), Refusal> {
        if self.shard.is_draining() {
            return Err(Refusal::unavailable(
                "the gateway is restarting: try again in a moment",
            ));
        }
        Ok(())
    }

    /// Opens a session for a client that was admitted.
    ///
    /// # Errors
    /// `unavailable` while draining, and what [`Worker::refuse_ended`] says.
    pub fn open(
        &self,
        identity: Arc<Identity>,
        peer: Peer,
        slot: ConnectionSlot,
    ) -> Result<Connection, Refusal> {
        self.refuse_while_draining()?;
        self.refuse_ended(&identity)?;
        Ok(Connection {
            session: self.shard.open(identity, peer),
            _slot: slot,
        })
    }

    /// What a stream begins with.
    pub fn connected(&self, message: &'static str) -> Announcement {
        Announcement::Connected {
            message,
            heartbeat_ms: self.shared.settings.heartbeat.as_millis() as u64,
        }
    }

    /// Asks again whether an identity is still good, after whatever was awaited since it was
    /// authenticated.
    ///
    /// # Errors
    /// `revoked`, `token_expired`.
    pub fn refuse_ended(&self, identity: &Identity) -> Result<(), Refusal> {
        let now = Timestamp::now();
        if self.shared.revocations.is_revoked(identity, now) {
            return Err(Refusal::new(
                ErrorCode::Revoked,
                "access was revoked: do not come back with this token",
            ));
        }
        if identity.is_expired(now) {
            return Err(Refusal::new(
                ErrorCode::TokenExpired,
                "the token has expired: get a fresh one",
            ));
        }
        Ok(())
    }
}

/// A session and its place among the node's connections.
pub struct Connection {
    pub session: SessionHandle,
    _slot: ConnectionSlot,
}

/// A place among the node's connections.
pub struct ConnectionSlot(Arc<Shared>);

impl ConnectionSlot {
    fn take(shared: &Arc<Shared>) -> Result<Self, Refusal> {
        let slot = Self(Arc::clone(shared));
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        if before < shared.settings.connections {
            return Ok(slot);
        }
        let refusal = Refusal::new(
            ErrorCode::TooManyConnections,
            "this node has as many connections as it takes: try again later",
        );
        Err(refusal
            .over(LimitKind::NodeConnections)
            .retry_after(Duration::from_secs(5)))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The worker that serves a request.
pub struct Here(pub Rc<Worker>);

impl FromRequest for Here {
    type Error = Refusal;
    type Future = std::future::Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let worker = request.app_data::<Rc<Worker>>();
        std::future::ready(match worker {
            Some(worker) => Ok(Self(Rc::clone(worker))),
            None => Err(Refusal::new(
                ErrorCode::Internal,
                "no worker on this thread",
            )),
        })
    }
}

/// The budget of messages and requests of one TCP connection.
pub struct ConnectionLimiter {
    limiter: RateLimiter<NotKeyed, InMemoryState, DefaultClock, NoOpMiddleware>,
    clock: DefaultClock,
}

impl ConnectionLimiter {
    pub fn new(quota: Quota) -> Self {
        let clock = DefaultClock::default();
        Self {
            limiter: RateLimiter::direct_with_clock(quota, clock.clone()),
            clock,
        }
    }

    /// # Errors
    /// `rate_limited` with the time until there is budget again.
    pub fn check(&self) -> Result<(), Refusal> {
        self.limiter.check().map_err(|not_until| {
            let refusal = Refusal::new(
                ErrorCode::RateLimited,
                "too many messages on this connection: slow down",
            );
            refusal.retry_after(not_until.wait_time_from(self.clock.now()))
        })
    }
}
