//! Between the sockets and the transports: who may connect, TLS, which version of HTTP, and the
//! deadlines that hold for a connection whatever is asked on it.
//!
//! ```text
//!              accept ─▶ a place? ── no ──▶ dropped
//!                          │
//!       `tls.cert` given? ─┴─ no ──▶ Wire<TcpStream> ──▶ actix's HTTP/1 dispatcher ─▶ App
//!              │ yes                                      ▲                            ▲
//!              ▼                            http/1.1      │                            │
//!          handshake ──▶ Wire<TlsStream> ──── ALPN ───────┘                            │
//!                                              └── h2 ──▶ http2 ───────────────────────┘
//! ```
//!
//! HTTP/1 is actix's; HTTP/2 is ours, over the `h2` crate, since actix's dispatcher does not poll a
//! response that its client gives no window, so that such a stream would outlive its token, and it
//! bounds neither the streams of a connection nor what is buffered for one.

mod admission;
mod bind;
mod connection;
mod handshake;
mod http1;
mod http2;
mod requests;
mod rounds;
mod tls;

use std::{
    net::{IpAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::Request;
use actix_server::ServerBuilder;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory, map_config};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{AppConfig, Extensions, ServiceResponse},
    rt::net::TcpStream,
};
use tokio::sync::watch;

pub use admission::Places;
pub use bind::{bind, refuse_same, resolve};
pub use requests::{account_for, refuse_without_place};
pub use tls::{Tls, TlsError};

use connection::Link;
use rounds::Rounds;

/// Connections that wait to be accepted; a storm of reconnects comes all at once.
pub const LISTEN_BACKLOG: u32 = 4096;
/// What the kernel queues for a connection beyond what the client's receive window takes. Its own
/// limit is several MiB, behind which a Ping would wait, and which many slow clients would fill.
const UNSENT_BYTES: u32 = 128 * 1024;
/// How long a connection that the gateway ends may take to read what was sent to it last. Browsers
/// tell their page of a Close only when this is over.
const LINGER: Duration = Duration::from_millis(500);

/// How long clients may take. A connection that exceeds one is cut.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a TLS handshake, from the client's first byte.
    pub handshake: Duration,
    /// For the first byte and the whole head of a connection's first request.
    pub first_head: Duration,
    /// For the head of a later request, from its first byte.
    pub head: Duration,
    /// Between requests.
    pub keep_alive: Duration,
    /// For taking any of what is written to it.
    pub write_stall: Duration,
    /// Between two questions to an HTTP/2 client whether it is still there; one without requests
    /// for so long is asked to leave.
    pub ping: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_head: Duration::from_secs(5),
            head: Duration::from_secs(10),
            // Longer than the 60 s for which proxies and clients' pools keep theirs, so that they are
            // the ones to close it: whoever closes may do so just when the other sends a request,
            // which is then lost.
            keep_alive: Duration::from_secs(75),
            // The protocol's, section 4.
            write_stall: Duration::from_secs(60),
            ping: Duration::from_secs(30),
        }
    }
}

/// How connections are taken, on every listener and worker of a node.
#[derive(Clone)]
pub struct Listening {
    pub places: Arc<Places>,
    pub deadlines: Deadlines,
    /// Becomes true when the node drains.
    pub draining: watch::Receiver<bool>,
    /// Without it the listener speaks HTTP/1 in clear text.
    pub tls: Option<Arc<Tls>>,
    /// Asked before a TLS handshake, which costs a signature: whether this address may have another.
    pub may_handshake: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Called once for each connection, with what its requests will find as connection data.
    pub prepare: Arc<dyn Fn(&mut Extensions) + Send + Sync>,
}

/// Adds a listening socket to the server. `app` is called once on each worker.
///
/// # Errors
/// When the socket can not be made ready.
pub fn listen<F, I, S, B>(
    server: ServerBuilder,
    socket: TcpListener,
    listening: &Listening,
    app: F,
) -> std::io::Result<ServerBuilder>
where
    F: Fn() -> I + Clone + Send + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = Error,
            InitError = (),
        > + 'static,
    S::Future: 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let address = socket.local_addr()?;
    let name = format!("clients-{address}");
    let listening = listening.clone();
    // What it tells of scheme and address is for URLs to itself, and the gateway makes none.
    let app = move || map_config(app().into_factory(), |()| AppConfig::default());
    match listening.tls.clone() {
        None => server.listen(name, socket, move || {
            let door = Door::open(&listening);
            http1::clear_text(door, app())
        }),
        Some(tls) => server.listen(name, socket, move || {
            let door = Door::open(&listening);
            let (app, tls) = (app(), Arc::clone(&tls));
            fn_factory(move || {
                let (door, tls) = (Rc::clone(&door), Arc::clone(&tls));
                let app = app.new_service(());
                async move { handshake::service(door, tls, Rc::new(app.await?)).await }
            })
        }),
    }
}

/// One listener's on one worker.
struct Door {
    listening: Listening,
    rounds: Rc<Rounds>,
}

impl Door {
    fn open(listening: &Listening) -> Rc<Self> {
        let (deadlines, draining) = (listening.deadlines, listening.draining.clone());
        Rc::new(Self {
            listening: listening.clone(),
            rounds: Rounds::start(deadlines, draining),
        })
    }

    /// Takes a place for a connection that was accepted. `None` where so many are over the limit
    /// that refusing another properly would cost too much.
    fn admit(&self, stream: &TcpStream) -> Option<admission::Place> {
        let Some(place) = self.listening.places.take() else {
            self.rounds.note_dropped();
            return None;
        };
        let socket = socket2::SockRef::from(stream);
        // Best effort: without these, a vanished peer is found by missing Pongs and heartbeats.
        let _ = socket.set_tcp_user_timeout(Some(self.listening.deadlines.write_stall));
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
        Some(place)
    }

    fn data(&self, link: &Rc<Link>) -> Extensions {
        let mut data = Extensions::new();
        self.fill(link, &mut data);
        data
    }

    fn fill(&self, link: &Rc<Link>, data: &mut Extensions) {
        data.insert(Rc::clone(link));
        (self.listening.prepare)(data);
    }
}
