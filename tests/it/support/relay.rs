//! The way between a gateway and its store: TCP passed on as it is, but late, not at all, or to
//! another server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

/// On a port of its own, until it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    state: watch::Sender<State>,
    accepted: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct State {
    server: SocketAddr,
    /// How late everything comes from the server.
    delay: Duration,
    /// Nothing passes to the server, or from it, and nothing is lost.
    is_stalled_to: bool,
    is_stalled_from: bool,
    /// Connections of an earlier one are cut.
    generation: u64,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let (state, changes) = watch::channel(State {
            server,
            delay: Duration::ZERO,
            is_stalled_to: false,
            is_stalled_from: false,
            generation: 0,
        });
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = listener.local_addr().expect("an address");
                tell.send(address).expect("the test listens");
                tokio::select! {
                    () = accept(listener, changes, &count) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: told.await.expect("the relay begins"),
            state,
            accepted,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub fn delay(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// In both directions.
    pub fn stall(&self, is_stalled: bool) {
        self.state.send_modify(|state| {
            state.is_stalled_to = is_stalled;
            state.is_stalled_from = is_stalled;
        });
    }

    /// What goes to the server.
    pub fn stall_to(&self, is_stalled: bool) {
        self.state
            .send_modify(|state| state.is_stalled_to = is_stalled);
    }

    /// What comes from the server.
    pub fn stall_from(&self, is_stalled: bool) {
        self.state
            .send_modify(|state| state.is_stalled_from = is_stalled);
    }

    /// How many connections have come.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Leads to another server, and cuts what led to the one before.
    pub fn lead_to(&self, server: SocketAddr) {
        self.state.send_modify(|state| {
            state.server = server;
            state.generation += 1;
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, state: watch::Receiver<State>, count: &AtomicUsize) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (client, _) = accepted.expect("a connection");
                count.fetch_add(1, Ordering::Relaxed);
                connections.spawn(carry(client, state.clone()));
            }
            Some(ended) = connections.join_next() => ended.expect("no panic"),
        }
    }
}

async fn carry(client: TcpStream, mut state: watch::Receiver<State>) {
    let (server, generation) = {
        let now = state.borrow();
        (now.server, now.generation)
    };
    // A server that is down hangs up on the client too.
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("an option");
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, state.clone(), false) => {}
        () = pump(from_server, to_client, state.clone(), true) => {}
        _ = state.wait_for(|state| state.generation != generation) => {}
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<State>,
    is_from_server: bool,
) {
    let generation = state.borrow().generation;
    let (sender, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let delays = state.clone();
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let delay = match is_from_server {
                true => delays.borrow().delay,
                false => Duration::ZERO,
            };
            let chunk = (Instant::now() + delay, buffer[..count].to_vec());
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = queue.recv().await {
            tokio::time::sleep_until(due).await;
            let changed = |state: &State| {
                let is_stalled = match is_from_server {
                    true => state.is_stalled_from,
                    false => state.is_stalled_to,
                };
                !is_stalled || state.generation != generation
            };
            let passes = match state.wait_for(changed).await {
                Ok(state) => state.generation == generation,
                Err(_) => false,
            };
            if !passes || to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
