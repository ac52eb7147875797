//! The one place where everything concrete meets: bind, tell the address, run until told to stop.

use std::{
    cell::RefCell,
    future::Future,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    rc::Rc,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, ServerHandle},
    middleware::from_fn,
    rt::net::TcpStream,
    web,
};
use anyhow::Context;
use ipnet::IpNet;

use crate::{
    admin,
    auth::{Authenticator, RevocationList, TicketStore},
    bus::{Bus, Retention, Shard, ShardCommand},
    config::{Config, EngineKind, List, Network},
    engine::{Engine, IdempotencyLimits, MemoryEngine},
    event::LogId,
    limits::{ConnectionLimiter, ConnectionRates, Limits},
    page,
    protocol::{PublishLimits, SubscriptionLimits},
    session::SessionLimits,
    telemetry::Telemetry,
    transport::{self, Settings, Shared, Worker},
};

/// Ends a connection whose peer takes nothing, or acknowledges nothing, for this long (protocol,
/// section 4).
const WRITE_STALL: Duration = Duration::from_secs(60);
/// Connections that wait to be accepted; a storm of reconnects comes all at once.
const LISTEN_BACKLOG: u32 = 4096;
/// How long a connection may stay idle between two requests: longer than the 60 s for which proxies
/// and clients' pools keep theirs, so that they are the ones to close it. Whoever closes may do so
/// just when the other sends a request, which is then lost.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a connection that the gateway ends may take to read what was sent to it last. Browsers
/// tell their page of a Close only when this is over.
const LINGER: Duration = Duration::from_millis(500);
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
}

impl Gateway {
    /// Checks the keys, opens the log and binds the ports.
    ///
    /// # Errors
    /// Names what is wrong: a key that is unfit, an address that is taken.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let authenticator = Arc::new(Authenticator::new(config.auth_options())?);
        let shared = Arc::new(Shared {
            settings: settings(&config),
            authenticator,
            tickets: TicketStore::new(),
            revocations: RevocationList::new(),
            limits: Limits::new(&config.limits),
            telemetry: Telemetry::start(&config.telemetry)?,
            connections: AtomicUsize::new(0),
        });
        Ok(Self {
            listeners: bind("listen", &config.listen)?,
            admin_listeners: bind("admin_listen", &config.admin_listen)?,
            bus: open_bus(&config)?,
            shared,
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
        let grace = self.config.shutdown.grace.0;
        let readiness = admin::Readiness::default();
        let clients = self.client_server(grace)?;
        let operators = self.admin_server(&readiness)?;
        let background = [
            tokio::spawn(Arc::clone(&self.shared.authenticator).refresh_jwks_forever()),
            tokio::spawn(trim_forever(Arc::clone(&self.bus))),
            tokio::spawn(prune_forever(Arc::clone(&self.shared))),
        ];
        let handle = clients.handle();
        let admin_handle = operators.handle();
        let clients = tokio::task::spawn_local(clients);
        let operators = tokio::task::spawn_local(operators);
        readiness.set(true);
        let mut clients = std::pin::pin!(clients);
        let ended = tokio::select! {
            () = stop => None,
            ended = &mut clients => Some(ended),
        };
        if ended.is_none() {
            readiness.set(false);
            self.drain(&handle, grace).await;
        }
        admin_handle.stop(false).await;
        let _ = operators.await;
        for task in background {
            task.abort();
        }
        if let Some(telemetry) = self.shared.telemetry.clone() {
            let _ = tokio::task::spawn_blocking(move || telemetry.shut_down()).await;
        }
        match ended {
            None => Ok(()),
            Some(ended) => Ok(ended.context("the server's task failed")??),
        }
    }

    async fn drain(&self, handle: &ServerHandle, grace: Duration) {
        self.bus
            .command(ShardCommand::Drain { spread: grace })
            .await;
        // Streams end by themselves now; the server waits for them as for any request.
        handle.stop(true).await;
    }

    fn client_server(&self, grace: Duration) -> anyhow::Result<actix_web::dev::Server> {
        let (bus, shared) = (Arc::clone(&self.bus), Arc::clone(&self.shared));
        let rates = shared.limits.connection;
        let limits = SessionLimits {
            subscriptions: shared.settings.subscriptions,
        };
        let mut server = HttpServer::new(move || {
            let worker = Rc::new(Worker {
                shared: Arc::clone(&shared),
                shard: shard_of_this_thread(&bus, limits, &shared.telemetry),
            });
            App::new()
                .app_data(worker)
                .wrap(from_fn(transport::guard_origin))
                .configure(transport::configure)
                .configure(page::configure)
                .default_service(web::to(transport::not_found))
        })
        .on_connect(move |stream, data| prepare_connection(stream, data, rates))
        .backlog(LISTEN_BACKLOG)
        .max_connections(self.config.limits.connections.saturating_add(1024))
        .h1_allow_half_closed(false)
        .keep_alive(KEEP_ALIVE)
        .client_disconnect_timeout(LINGER)
        .shutdown_timeout(grace.as_secs().max(1))
        .disable_signals();
        if let Some(workers) = self.config.workers {
            server = server.workers(workers);
        }
        for listener in &self.listeners {
            server = server.listen(listener.try_clone()?)?;
        }
        Ok(server.run())
    }

    fn admin_server(&self, readiness: &admin::Readiness) -> anyhow::Result<actix_web::dev::Server> {
        let operator = admin::Operator {
            readiness: readiness.clone(),
            bus: Arc::clone(&self.bus),
            shared: Arc::clone(&self.shared),
        };
        let mut server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(operator.clone()))
                .configure(admin::configure)
        })
        .workers(1)
        .shutdown_timeout(1)
        .disable_signals();
        for listener in &self.admin_listeners {
            server = server.listen(listener.try_clone()?)?;
        }
        Ok(server.run())
    }
}

thread_local! {
    /// A worker serves several listeners with one shard, so that a node has one shard a thread.
    static SHARD: RefCell<Option<Rc<Shard>>> = const { RefCell::new(None) };
}

fn shard_of_this_thread(
    bus: &Arc<Bus>,
    limits: SessionLimits,
    telemetry: &Option<Arc<Telemetry>>,
) -> Rc<Shard> {
    SHARD.with_borrow_mut(|slot| {
        let shard = slot
            .take()
            .filter(|shard| Arc::ptr_eq(shard.bus(), bus))
            .unwrap_or_else(|| Shard::start(Arc::clone(bus), limits, telemetry.clone()));
        Rc::clone(slot.insert(shard))
    })
}

fn bind(key: &str, address: &str) -> anyhow::Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .with_context(|| {
            format!("configuration key `{key}`: {address:?} is no address: write 127.0.0.1:8080")
        })?
        .collect();
    // A name may stand for several addresses, not all of which this machine has.
    let mut failure = None;
    let mut listeners = Vec::new();
    for address in addresses {
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if listeners.is_empty() => Err(error).with_context(|| {
            format!(
                "can not listen on {address}: is another program using the port? choose another \
                 with the configuration key `{key}`"
            )
        }),
        _ => Ok(listeners),
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG as i32)?;
    Ok(socket.into())
}

fn open_bus(config: &Config) -> anyhow::Result<Arc<Bus>> {
    let log = LogId::random().context("the operating system has no randomness to give")?;
    let retention = Retention {
        events: config.retention.events,
        bytes: config.retention.bytes.0,
        age: config.retention.age.map(|age| age.0),
    };
    let idempotency = IdempotencyLimits {
        keys: config.limits.idempotency_keys,
        keys_per_subject: config.limits.idempotency_keys_per_subject,
    };
    Ok(match config.bus.engine {
        EngineKind::Memory => Bus::open(log, retention, |log, tail| {
            Arc::new(MemoryEngine::new(log, tail, idempotency)) as Arc<dyn Engine>
        }),
    })
}

fn settings(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        heartbeat: config.heartbeat.0,
        cookie: config.auth.cookie.clone(),
        allowed_origins: config.auth.allowed_origins.0.clone(),
        subscriptions: SubscriptionLimits {
            subscriptions: limits.subscriptions,
            patterns: limits.patterns,
        },
        publish: PublishLimits {
            event_bytes: limits.event_bytes.0,
            nesting: limits.nesting,
        },
        message_bytes: limits.message_bytes.0,
        publish_bytes: limits.publish_bytes.0,
        url_bytes: limits.url_bytes.0,
        connections: limits.connections,
        trusted_proxies: networks(&config.trusted_proxies),
    }
}

fn networks(list: &List<Network>) -> Vec<IpNet> {
    list.0.iter().map(|network| network.0).collect()
}

/// Called once for each TCP connection, before its first request.
fn prepare_connection(stream: &dyn std::any::Any, data: &mut Extensions, rates: ConnectionRates) {
    data.insert(Arc::new(ConnectionLimiter::new(rates)));
    if let Some(stream) = stream.downcast_ref::<TcpStream>() {
        let socket = socket2::SockRef::from(stream);
        // Best effort: without these, a vanished peer is found by missing Pongs and heartbeats.
        let _ = socket.set_tcp_user_timeout(Some(WRITE_STALL));
        let _ = socket.set_tcp_nodelay(true);
    }
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
