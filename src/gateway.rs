//! The one place where everything concrete meets: bind, tell the address, run until told to stop.

mod store;

use std::{
    cell::RefCell,
    future::Future,
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix_server::ServerHandle;
use actix_web::{App, dev::Extensions, middleware::from_fn, web};
use anyhow::Context;
use ipnet::IpNet;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    admin,
    auth::Authenticator,
    bus::{Bus, Shard, ShardCommand},
    cluster::{Agreed, Cluster},
    config::{Config, List, Network},
    limits::{ConnectionLimiter, ConnectionRates, Limits},
    listener::{self, Deadlines, LISTEN_BACKLOG, Listening, Places, Tls},
    metrics::Metrics,
    page,
    presence::{self, Presence},
    protocol::{PublishLimits, SubscriptionLimits},
    session::SessionLimits,
    telemetry::Telemetry,
    transport::{self, Settings, Shared, Warnings, Worker},
};

/// Connections of operators and what they watch with.
const ADMIN_CONNECTIONS: usize = 256;
/// Of the grace, what ending the process itself may take.
const STOP_MARGIN: Duration = Duration::from_millis(250);
/// How often a drain looks whether everyone has left.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How often budgets that are full again are forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(5);
/// How often events that have become too old are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// A gateway with its ports bound, not serving yet.
pub struct Gateway {
    config: Config,
    listeners: Vec<TcpListener>,
    admin_listeners: Vec<TcpListener>,
    bus: Arc<Bus>,
    shared: Arc<Shared>,
    tls: Option<Arc<Tls>>,
    places: Arc<Places>,
    deadlines: Deadlines,
}

impl Gateway {
    /// Checks the keys, opens the log and binds the ports.
    ///
    /// # Errors
    /// Names what is wrong: a key that is unfit, an address that is taken.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let authenticator = Arc::new(Authenticator::new(config.auth_options())?);
        listener::refuse_same(
            ("listen", &config.listen),
            ("admin_listen", &config.admin_listen),
        )?;
        let tls = Tls::load(&config.tls)?;
        let [listeners, admin_listeners] = listener::bind([
            ("listen", &config.listen),
            ("admin_listen", &config.admin_listen),
        ])?;
        let bus = store::open(&config)?;
        let (revocations, tickets) = (Arc::default(), Arc::default());
        let presence = presence(&config, bus.is_shared());
        let limits = Arc::new(Limits::new(&config.limits));
        let connections = Arc::new(AtomicUsize::new(0));
        let agreed = Agreed {
            name: config.node.clone(),
            connections: Arc::clone(&connections),
            revocations: Arc::clone(&revocations),
            tickets: Arc::clone(&tickets),
            limits: Arc::clone(&limits),
            presence: presence.clone(),
        };
        let cluster = Cluster::join(Arc::clone(&bus), agreed)
            .context("the operating system has no randomness to give")?;
        let shared = Arc::new(Shared {
            settings: settings(&config),
            authenticator,
            tickets,
            cluster,
            revocations,
            presence,
            limits,
            telemetry: Telemetry::start(&config.telemetry)?,
            metrics: Metrics::new(),
            warnings: Warnings::default(),
            connections,
        });
        Ok(Self {
            listeners,
            admin_listeners,
            bus,
            shared,
            tls,
            places: Places::new(config.limits.connections),
            deadlines: Deadlines::default(),
            config,
        })
    }

    /// The address that clients connect to.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// What verifies tokens, for keys to be read again.
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.shared.authenticator
    }

    /// What new TLS handshakes go by, for certificates to be read again; `None` in clear text.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// How long clients may take, where that is not to be the default.
    pub fn set_deadlines(&mut self, deadlines: Deadlines) {
        self.deadlines = deadlines;
    }

    /// The address for operators.
    ///
    /// # Errors
    /// When the operating system does not tell.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin_listeners[0].local_addr()
    }

    /// Serves until `stop` completes, then drains: clients are told to come back, and get the
    /// configured grace to leave.
    ///
    /// # Errors
    /// When the server can not start or ends by itself.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let readiness = admin::Readiness::default();
        let (start_draining, draining) = watch::channel(false);
        let clients = self.client_server(draining)?;
        // Nothing is ever told to the operators' listener by this: it is there until the end.
        let (_keeps_serving, never) = watch::channel(false);
        let operators = self.admin_server(&readiness, never)?;
        let background = [
            tokio::spawn(Arc::clone(&self.shared.authenticator).refresh_jwks_forever()),
            tokio::spawn(trim_forever(Arc::clone(&self.bus))),
            tokio::spawn(prune_forever(Arc::clone(&self.shared))),
            tokio::spawn(Arc::clone(&self.shared.cluster).run()),
        ];
        let handle = clients.handle();
        let admin_handle = operators.handle();
        let operators = tokio::task::spawn_local(operators);
        let mut stop = std::pin::pin!(stop);
        // Who was turned away elsewhere is not let in because this node does not know yet: until
        // then clients wait to be accepted.
        let is_informed = tokio::select! {
            () = self.shared.cluster.informed() => true,
            () = &mut stop => false,
        };
        let ended = if is_informed {
            let mut clients = tokio::task::spawn_local(clients);
            readiness.set(admin::Phase::Ready);
            tokio::select! {
                () = stop => None,
                ended = &mut clients => Some(ended),
            }
        } else {
            None
        };
        let grace_end = Instant::now() + self.config.shutdown.grace.0;
        if ended.is_none() {
            readiness.set(admin::Phase::Draining);
        }
        if is_informed && ended.is_none() {
            self.drain(&handle, &start_draining).await;
        }
        let leaving = self.shared.cluster.leave();
        // A log that can not be reached does not prolong the grace.
        let leave_until = grace_end.max(Instant::now() + STOP_MARGIN);
        if timeout_at(leave_until, leaving).await.is_err() {
            tracing::warn!("the other nodes do not know yet that this one has gone");
        }
        // Nobody publishes any more.
        if let Err(error) = self.bus.close_log().await {
            tracing::error!(%error, "the log was not closed");
        }
        admin_handle.stop(false).await;
        let _ = operators.await;
        for task in background {
            task.abort();
        }
        if let Some(telemetry) = self.shared.telemetry.clone() {
            // What is left of the grace, so that a collector that hangs does not prolong it.
            let left = grace_end.saturating_duration_since(Instant::now());
            let shut_down = move || telemetry.shut_down(left.max(STOP_MARGIN));
            let _ = tokio::task::spawn_blocking(shut_down).await;
        }
        match ended {
            None => Ok(()),
            Some(ended) => Ok(ended.context("the server's task failed")??),
        }
    }

    /// Unready first, while clients are still served; then every client is told to come back, and
    /// whoever has not left at the end of the grace is cut.
    async fn drain(&self, server: &ServerHandle, start_draining: &watch::Sender<bool>) {
        let shutdown = &self.config.shutdown;
        let grace = shutdown.grace.0;
        let end = Instant::now() + grace.saturating_sub(STOP_MARGIN.min(grace / 2));
        sleep(shutdown.unready.0).await;
        start_draining.send_replace(true);
        let everyone_left = async {
            self.bus
                .command(ShardCommand::Drain { spread: grace })
                .await;
            while self.places.taken() > 0 {
                sleep(DRAIN_LOOK).await;
            }
        };
        if timeout_at(end, everyone_left).await.is_err() {
            let left = self.places.taken();
            tracing::warn!(
                left,
                "cutting connections that did not end within the grace"
            );
        }
        server.stop(false).await;
    }

    fn client_server(
        &self,
        draining: watch::Receiver<bool>,
    ) -> anyhow::Result<actix_server::Server> {
        let rates = self.shared.limits.connection;
        let listening = Listening {
            places: Arc::clone(&self.places),
            deadlines: self.deadlines,
            draining,
            tls: self.tls.clone(),
            may_handshake: self.handshake_budget(),
            prepare: Arc::new(move |data| prepare_connection(data, rates)),
        };
        let (bus, shared) = (Arc::clone(&self.bus), Arc::clone(&self.shared));
        let limits = SessionLimits {
            subscriptions: shared.settings.subscriptions,
        };
        let app = move || {
            let worker = Rc::new(Worker {
                shared: Arc::clone(&shared),
                shard: shard_of_this_thread(&bus, limits, &shared),
            });
            App::new()
                .app_data(worker)
                .wrap(from_fn(listener::refuse_without_place))
                .wrap(from_fn(transport::guard_origin))
                .wrap(from_fn(listener::account_for))
                .configure(transport::configure)
                .configure(page::configure)
                .default_service(web::to(transport::not_found))
        };
        let mut server = actix_server::Server::build()
            .backlog(LISTEN_BACKLOG)
            // Admission is ours; at this limit the listener would stop to accept.
            .max_concurrent_connections(usize::MAX)
            .disable_signals();
        if let Some(workers) = self.config.workers {
            server = server.workers(workers);
        }
        for socket in &self.listeners {
            server = listener::listen(server, socket.try_clone()?, &listening, app.clone())?;
        }
        Ok(server.run())
    }

    /// An address over its handshakes is hung up on. A trusted proxy stands for many addresses,
    /// which are charged by their requests.
    fn handshake_budget(&self) -> Arc<dyn Fn(IpAddr) -> bool + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |address| {
            let address = address.to_canonical();
            let trusted = &shared.settings.trusted_proxies;
            trusted.iter().any(|network| network.contains(&address))
                || shared.limits.addresses.take_handshake(address).is_ok()
        })
    }

    /// The operators' own listener: always in clear text, and served to the end of the drain.
    fn admin_server(
        &self,
        readiness: &admin::Readiness,
        draining: watch::Receiver<bool>,
    ) -> anyhow::Result<actix_server::Server> {
        let listening = Listening {
            places: Places::new(ADMIN_CONNECTIONS),
            deadlines: self.deadlines,
            draining,
            tls: None,
            may_handshake: Arc::new(|_| true),
            prepare: Arc::new(|_| {}),
        };
        let addresses: Result<Vec<SocketAddr>, _> = self
            .admin_listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect();
        let operator = admin::Operator::new(
            readiness.clone(),
            Arc::clone(&self.bus),
            Arc::clone(&self.shared),
            addresses?.iter().all(|address| address.ip().is_loopback()),
            self.config.bus.engine,
        );
        let app = move || {
            App::new()
                .app_data(web::Data::new(operator.clone()))
                .wrap(from_fn(listener::account_for))
                .configure(admin::configure)
        };
        let mut server = actix_server::Server::build()
            .workers(1)
            .max_concurrent_connections(usize::MAX)
            .disable_signals();
        for socket in &self.admin_listeners {
            server = listener::listen(server, socket.try_clone()?, &listening, app.clone())?;
        }
        Ok(server.run())
    }
}

thread_local! {
    /// A worker serves several listeners with one shard, so that a node has one shard a thread.
    static SHARD: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

fn shard_of_this_thread(bus: &Arc<Bus>, limits: SessionLimits, shared: &Shared) -> Rc<Shard> {
    SHARD.with_borrow_mut(|slot| {
        let shard = slot
            .take()
            .filter(|shard| Arc::ptr_eq(shard.bus(), bus))
            .unwrap_or_else(|| {
                let metrics = shared.metrics.worker();
                let watched_by = (shared.presence.clone(), shared.telemetry.clone());
                Shard::start(Arc::clone(bus), limits, metrics, watched_by)
            });
        Rc::clone(slot.insert(shard))
    })
}

fn publish_limits(config: &Config) -> PublishLimits {
    PublishLimits {
        event_bytes: config.limits.event_bytes.0,
        nesting: config.limits.nesting,
        own_topics: (!config.presence.topics.0.is_empty()).then_some(presence::PREFIX),
    }
}

fn presence(config: &Config, is_shared: bool) -> Option<Arc<Presence>> {
    let config = &config.presence;
    let topics: Vec<_> = config
        .topics
        .0
        .iter()
        .map(|filter| filter.0.clone())
        .collect();
    (!topics.is_empty()).then(|| {
        let presence = Presence::new(topics, config.grace.0, is_shared);
        Arc::new(presence.with_most_places(config.topics_per_subject))
    })
}

fn settings(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        node: config.node.as_deref().map(Arc::from),
        heartbeat: config.heartbeat.0,
        cookie: config.auth.cookie.clone(),
        allowed_origins: config.auth.allowed_origins.0.clone(),
        is_open_file: page::is_client,
        subscriptions: SubscriptionLimits {
            subscriptions: limits.subscriptions,
            patterns: limits.patterns,
        },
        publish: publish_limits(config),
        message_bytes: limits.message_bytes.0,
        publish_bytes: limits.publish_bytes.0,
        speaks_tls: config.tls.cert.is_some(),
        url_bytes: limits.url_bytes.0,
        connections: limits.connections,
        trusted_proxies: networks(&config.trusted_proxies),
    }
}

fn networks(list: &List<Network>) -> Vec<IpNet> {
    list.0.iter().map(|network| network.0).collect()
}

/// Called once for each connection, before its first request.
fn prepare_connection(data: &mut Extensions, rates: ConnectionRates) {
    data.insert(Arc::new(ConnectionLimiter::new(rates)));
}

async fn trim_forever(bus: Arc<Bus>) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        interval.tick().await;
        bus.window().trim_expired();
    }
}

async fn prune_forever(shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(PRUNE_INTERVAL);
    loop {
        interval.tick().await;
        shared.limits.prune();
    }
}
