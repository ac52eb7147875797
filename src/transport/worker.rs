//! What a worker thread holds for its requests.

use std::{
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{FromRequest, HttpRequest, dev::Payload};
use ipnet::IpNet;
use jiff::Timestamp;

use super::{address::client_address, notice::Warnings};
use crate::{
    auth::{Authenticator, Identity, RevocationList, TicketStore},
    bus::{SessionHandle, Shard, StartPoint},
    cluster::Cluster,
    limits::{Limits, SubjectPlace, SubjectState},
    metrics::{Metrics, WorkerMetrics},
    presence::Presence,
    protocol::{
        ErrorCode, LimitKind, PublishLimits, Refusal, SubscribeRequest, SubscriptionLimits,
    },
    session::{Announcement, Peer},
    telemetry::Telemetry,
};

/// Whoever finds the node full may try again after this time, or twice as long; when a place
/// becomes free is not known.
const NODE_FULL_RETRY: Duration = Duration::from_secs(5);

/// Whoever comes during a drain may try again after this time, or twice as long.
const RESTART_RETRY: Duration = Duration::from_secs(1);

/// What the transports need of the configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, where clients are told it.
    pub node: Option<Arc<str>>,
    pub heartbeat: Duration,
    pub cookie: String,
    pub allowed_origins: Vec<String>,
    /// Whether what is served at a path is the same for everyone, and for pages of any origin to load.
    pub is_open_file: fn(&str) -> bool,
    pub subscriptions: SubscriptionLimits,
    pub publish: PublishLimits,
    pub message_bytes: usize,
    pub publish_bytes: usize,
    /// Whether `listen` is reached by https and wss only.
    pub speaks_tls: bool,
    pub url_bytes: usize,
    pub connections: usize,
    pub trusted_proxies: Vec<IpNet>,
}

/// Shared by all workers of a node.
pub struct Shared {
    pub settings: Settings,
    pub authenticator: Arc<Authenticator>,
    pub tickets: Arc<TicketStore>,
    pub revocations: Arc<RevocationList>,
    /// Who is on the topics for which that is kept.
    pub presence: Option<Arc<Presence>>,
    pub limits: Arc<Limits>,
    pub cluster: Arc<Cluster>,
    /// Where spans are exported.
    pub telemetry: Option<Arc<Telemetry>>,
    pub metrics: Metrics,
    pub warnings: Warnings,
    pub connections: Arc<AtomicUsize>,
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

    /// Takes a place among the node's connections for a stream, before it is known whose it will
    /// be. Held until the slot is dropped.
    ///
    /// # Errors
    /// `unavailable` while draining and at the node's limit.
    pub fn admit(&self) -> Result<ConnectionSlot, Refusal> {
        self.refuse_while_draining()?;
        ConnectionSlot::take(&self.shared)
    }

    fn refuse_while_draining(&self) -> Result<(), Refusal> {
        if self.shard.is_draining() {
            return Err(restarting());
        }
        Ok(())
    }

    /// Opens the session of a stream. What the node opens a second is counted here and not
    /// before, so that only those who may come in can use it up.
    ///
    /// # Errors
    /// `unavailable` while draining and while too many come at once, what
    /// [`Worker::refuse_ended`] says, `rate_limited` and `too_many_connections` at the subject's
    /// limits.
    pub fn open(
        &self,
        identity: Arc<Identity>,
        peer: Peer,
        slot: ConnectionSlot,
    ) -> Result<Connection, Refusal> {
        self.refuse_while_draining()?;
        self.refuse_ended(&identity)?;
        let place = self.shared.limits.open_stream(&identity)?;
        Ok(self.connection(identity, peer, place, slot))
    }

    /// Takes a poll's places and opens its session. One that goes on with a series costs the node
    /// no new stream.
    ///
    /// # Errors
    /// As [`Worker::admit`] and [`Worker::open`].
    pub fn open_poll(&self, identity: Arc<Identity>, peer: Peer) -> Result<Connection, Refusal> {
        let slot = self.admit()?;
        self.refuse_ended(&identity)?;
        let place = self.shared.limits.open_poll(&identity)?;
        Ok(self.connection(identity, peer, place, slot))
    }

    fn connection(
        &self,
        identity: Arc<Identity>,
        peer: Peer,
        place: SubjectPlace,
        slot: ConnectionSlot,
    ) -> Connection {
        Connection {
            session: self.shard.open(identity, peer),
            place,
            slot,
        }
    }

    /// What a stream begins with.
    pub fn connected(&self, message: &'static str) -> Announcement {
        Announcement::Connected {
            message,
            node: self.shared.settings.node.clone(),
            heartbeat_ms: self.shared.settings.heartbeat.as_millis() as u64,
        }
    }

    /// Where a request's client is, as far as the configured proxies tell.
    pub fn client_address(&self, request: &HttpRequest) -> Option<IpAddr> {
        client_address(request.head(), &self.shared.settings.trusted_proxies)
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

/// A session, and its places among its subject's and the node's connections.
pub struct Connection {
    pub session: SessionHandle,
    place: SubjectPlace,
    slot: ConnectionSlot,
}

/// The places of a connection whose session is over.
pub struct HeldPlaces {
    _place: SubjectPlace,
    _slot: ConnectionSlot,
}

impl Connection {
    /// Starts subscriptions, as [`SessionHandle::subscribe`] does; what is announced because of them is
    /// charged to the subject as if it had published it.
    ///
    /// # Errors
    /// As there, and `rate_limited`.
    pub fn subscribe(
        &self,
        request: SubscribeRequest,
        start: StartPoint,
        announcement: Announcement,
    ) -> Result<(), Refusal> {
        let identity = self.session.with(|session| Arc::clone(session.identity()));
        let subjects = &self.slot.0.limits.subjects;
        let charge = |joins| subjects.take_joins(self.subject(), &identity, joins);
        self.session.subscribe(request, start, announcement, charge)
    }

    /// Ends the session and keeps its places, for what is still to be sent.
    pub fn into_places(self) -> HeldPlaces {
        HeldPlaces {
            _place: self.place,
            _slot: self.slot,
        }
    }

    /// What the connection's subject has left to spend.
    pub fn subject(&self) -> &Arc<SubjectState> {
        self.place.state()
    }
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
        let refusal = Refusal::unavailable(
            "this node has as many connections as it takes: try again later, or another node",
        );
        Err(refusal
            .over(LimitKind::NodeConnections)
            .retry_after(NODE_FULL_RETRY.mul_f64(1.0 + fastrand::f64())))
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why nobody is let in during a drain. Those who are told so come back one by one.
pub fn restarting() -> Refusal {
    Refusal::unavailable("the gateway is restarting: try again in a moment")
        .retry_after(RESTART_RETRY.mul_f64(1.0 + fastrand::f64()))
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
