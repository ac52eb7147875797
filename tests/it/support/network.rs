//! A hostile network between a client and the gateway: a proxy that passes everything as it is,
//! Host and Origin included, but for the faults which the test has set.
//!
//! A connection goes through two stages: the last mile, which knows only bytes, and a middlebox,
//! which understands HTTP/1.1 and meddles with it.

mod http;
mod last_mile;
mod middlebox;
mod weather;

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
};

pub use self::weather::{Kind, Manner};
use self::weather::{Tally, Weather};
use super::TestGateway;

/// What a network does to what passes through it. Faults combine.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Answers WebSocket handshakes with 403, as a corporate proxy does.
    RefuseUpgrades,
    HangUpOnUpgrades,
    /// Lets the handshake pass, and nothing after the 101, in either direction. A WebSocket that
    /// was struck stays dead.
    DropFrames,
    /// Ends each WebSocket without a Close frame.
    KillWebSockets {
        after: Duration,
    },
    /// Holds each response back until it has ended, which a stream never does.
    BufferResponses,
    /// Ends each response that takes longer; WebSockets are no responses.
    CutResponses {
        after: Duration,
    },
    /// Passes the head of a POST with a `Content-Length` of 0, and nothing of its body.
    SwallowBodies,
    /// In each direction.
    Latency {
        delay: Duration,
        jitter: Duration,
    },
    /// What a lossy link does to TCP: with these chances for each read, what follows is some
    /// hundred milliseconds late, or the connection is reset.
    Loss {
        stall: f64,
        reset: f64,
    },
    Offline(Manner),
    /// Ends each connection after a random number of bytes to the client, less than this.
    CutAtRandomByte {
        below: u64,
    },
}

/// The network in front of one gateway, on a port of its own, until it is dropped.
pub struct Network {
    pub address: SocketAddr,
    weather: watch::Sender<Weather>,
    tally: Arc<Tally>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    pub async fn before(gateway: &TestGateway) -> Self {
        Self::seeded(gateway, 0).await
    }

    /// What happens at random depends on the seed and on the order of the connections.
    pub async fn seeded(gateway: &TestGateway, seed: u64) -> Self {
        let (weather, changes) = watch::channel(Weather::default());
        let tally = Arc::new(Tally::default());
        let path = Path {
            gateway: gateway.address,
            weather: changes,
            tally: tally.clone(),
            rng: fastrand::Rng::with_seed(seed),
        };
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        // Tests may block their own thread, as those do that run other programs.
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("an address");
                tell.send(address).expect("the test listens");
                tokio::select! {
                    () = accept(listener, path) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: told.await.expect("the network begins"),
            weather,
            tally,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// From now on these faults and no others, for what is open too.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        self.weather.send_replace(Weather::of(faults));
    }

    pub fn clear(&self) {
        self.set([]);
    }

    /// The gateway as it is seen through this network, for the clients of the tests.
    pub fn gateway(&self, behind: &TestGateway) -> TestGateway {
        TestGateway::at(self.address, behind.admin)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// How many requests of this kind came, whatever became of them.
    pub fn requests(&self, kind: Kind) -> usize {
        self.tally.requests(kind)
    }

    /// How often faults like this one struck, whatever their parameters.
    pub fn struck(&self, fault: &Fault) -> usize {
        self.tally.struck(fault)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the network did not panic");
            }
        }
    }
}

/// What one connection has to know.
#[derive(Clone)]
struct Path {
    gateway: SocketAddr,
    weather: watch::Receiver<Weather>,
    tally: Arc<Tally>,
    rng: fastrand::Rng,
}

async fn accept(listener: TcpListener, mut path: Path) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a connection");
                let mut own = path.clone();
                own.rng = path.rng.fork();
                connections.spawn(carry(client, own));
            }
            Some(ended) = connections.join_next() => ended.expect("no panic"),
        }
    }
}

async fn carry(client: TcpStream, path: Path) {
    if path.offline() == Some(Manner::Reset) {
        path.strike(&Fault::Offline(Manner::Reset));
        return reset(&client);
    }
    // As a handshake that is sent again until the network is back.
    path.until(|weather| weather.offline().is_none().then_some(()))
        .await;
    client.set_nodelay(true).expect("an option");
    let (near, far) = tokio::io::duplex(64 * 1024);
    // The middlebox ends with an error where either end is gone, which is the end of it anyway.
    let (_, _) = tokio::join!(
        last_mile::carry(client, near, &path),
        middlebox::pass(far, &path)
    );
}

/// Ends with a reset once it is dropped.
fn reset(client: &TcpStream) {
    // A client that is gone already needs none.
    let _ = SockRef::from(client).set_linger(Some(Duration::ZERO));
}
