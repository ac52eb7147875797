//! The log in Redis, shared by all gateways of one namespace.
//!
//! ```text
//! append ─▶ queue ─▶ writer: one script for all that wait ─▶ the stream ─▶ answers
//!                                                              │
//! tail ◀─ follower: XREAD from the last position on ◀──────────┤
//! read, reached ◀─ reader: XRANGE ◀────────────────────────────┤
//! backends ─▶ the stream of what is to be published ─▶ ingest ─┘
//! ```
//!
//! Redis gives out the positions, within the script, and each node hears of an event, its own too,
//! by following the stream: so they all see one order. What a server may have lost is found out by
//! claiming the log on each new connection, see `claim.lua`.

mod entry;
mod follower;
mod ingest;
mod namespace;
mod reader;
mod reply;
mod request;
mod script;
mod server;
mod start;
mod view;
mod writer;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::Ordering,
        mpsc::{self, SyncSender},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    runtime::{Handle, Runtime},
    sync::watch,
};

pub use server::Address;

use follower::Follower;
use ingest::Ingest;
use namespace::Namespace;
use reader::Reader;
use request::{Request, Requests, not_sent};
use server::{Connection, Server, Trouble};
use view::View;
use writer::Writer;

use super::{
    Appended, Engine, EngineError, EngineFuture, IdempotencyKey, IdempotencyLimits, Tail,
    remote::Backoff,
};
use crate::{
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
    protocol::PublishLimits,
    throttle::Throttle,
};

/// What an engine is opened with.
pub struct RedisOptions {
    pub address: Address,
    /// The server in messages, without a password.
    pub shown: String,
    pub namespace: String,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The most events that this node retains.
    pub retained: usize,
    pub idempotency: IdempotencyLimits,
    /// Of what backends publish into Redis.
    pub publish: PublishLimits,
}

/// The engine. All of its I/O is done by one thread, which ends with it.
pub struct RedisEngine {
    requests: Arc<Requests>,
    reader: Arc<Reader>,
    view: Arc<View>,
    server: Arc<Server>,
    runtime: Handle,
    stop: watch::Sender<bool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RedisEngine {
    /// Opens the log of a namespace, or begins one there, and tells the tail what there is.
    ///
    /// # Errors
    /// Where there is no server that will do, or the log is of a newer version.
    pub fn open(options: RedisOptions, tail: Arc<dyn Tail>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let server = Arc::new(Server::new(options.address, options.shown, options.timeout));
        let namespace = Arc::new(Namespace::new(&options.namespace));
        let view = Arc::new(View::new());
        let (requests, incoming) = Requests::new(options.timeout);
        let requests = Arc::new(requests);
        let (stop, stopped) = watch::channel(false);
        let tasks = Tasks {
            writer: Writer::new(&server, &namespace, &view, incoming, options.idempotency),
            ingest: Ingest {
                server: Arc::clone(&server),
                namespace: Arc::clone(&namespace),
                view: Arc::clone(&view),
                requests: Arc::clone(&requests),
                limits: options.publish,
                name: LogId::random()
                    .context("the operating system has no randomness to give")?
                    .as_str()
                    .to_owned(),
                malformed: Throttle::default(),
            },
            tail: Arc::clone(&tail),
            retained: options.retained,
            timeout: options.timeout,
        };
        let engine = Self {
            reader: Arc::new(Reader::new(&server, &namespace, &view, &tail)),
            requests,
            view,
            runtime: runtime.handle().clone(),
            stop,
            thread: Mutex::new(None),
            server,
        };
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("tribus-redis".to_owned())
            .spawn(move || tasks.run(&runtime, &tell, stopped))?;
        *engine.thread() = Some(thread);
        let begun = told.recv().context("the thread of the log has ended")?;
        // Its sources say again what it says.
        let shown = engine.server.shown();
        begun.map_err(|trouble| anyhow::anyhow!("the log in Redis at {shown}: {trouble}"))?;
        Ok(engine)
    }

    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on the engine's thread, where its connections are.
    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        let ended = |_| EngineError::Unavailable("the log is closed".into());
        self.runtime.spawn(work).await.map_err(ended)?
    }
}

/// What the engine's thread does.
struct Tasks {
    writer: Writer,
    ingest: Ingest,
    tail: Arc<dyn Tail>,
    retained: usize,
    timeout: Duration,
}

impl Tasks {
    /// Until it is told to stop, or nobody is left who could.
    fn run(
        self,
        runtime: &Runtime,
        tell: &SyncSender<Result<(), Trouble>>,
        mut stop: watch::Receiver<bool>,
    ) {
        runtime.block_on(async {
            let begun = self.begin().await;
            let (follower, connection) = match begun {
                Ok(begun) => begun,
                Err(trouble) => {
                    let _ = tell.send(Err(trouble));
                    return;
                }
            };
            let _ = tell.send(Ok(()));
            tokio::spawn(follower.run(connection));
            tokio::spawn(self.writer.run());
            tokio::spawn(self.ingest.run());
            let _ = stop.wait_for(|stop| *stop).await;
        });
    }

    /// Tries for a while, since Redis may be starting too.
    async fn begin(&self) -> Result<(Follower, Connection), Trouble> {
        let (began, mut backoff) = (Instant::now(), Backoff::default());
        let Writer {
            server,
            namespace,
            view,
            ..
        } = &self.writer;
        loop {
            match start::start(server, namespace, view, &self.tail, self.retained).await {
                Err(trouble) if trouble.may_pass() && began.elapsed() < self.timeout => {
                    backoff.wait().await;
                }
                begun => return begun,
            }
        }
    }
}

impl Engine for RedisEngine {
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'static, Appended> {
        let request = Request::new(&drafts, idempotency);
        let answer = self.requests.append(request, &self.view);
        Box::pin(async {
            answer
                .await?
                .ok_or_else(|| not_sent("another node has taken it"))
        })
    }

    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        let answer = self.requests.append(Request::note(note), &self.view);
        Box::pin(async { answer.await.map(|_| ()) })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool> {
        if let Some(reached) = self.view.has_reached(cursor) {
            return Box::pin(std::future::ready(Ok(reached)));
        }
        let (reader, cursor) = (Arc::clone(&self.reader), cursor.clone());
        Box::pin(self.on_thread(async move { reader.reached(&cursor).await }))
    }

    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        let reader = Arc::clone(&self.reader);
        Box::pin(self.on_thread(async move { reader.read(sequences).await }))
    }

    fn remembered_keys(&self) -> usize {
        self.view.keys.load(Ordering::Relaxed)
    }

    fn condition(&self) -> EngineState {
        self.view.condition(self.server.shown())
    }

    fn durability(&self) -> Option<&'static str> {
        self.view.facts()?.durability
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            if self.stop.send_replace(true) {
                return Err(EngineError::Unavailable("the log is closed".into()));
            }
            let thread = self.thread().take();
            if let Some(thread) = thread {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
            Ok(())
        })
    }
}
