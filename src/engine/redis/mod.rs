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
    future::{Ready, ready},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;

pub use server::Address;

use follower::Follower;
use ingest::Ingest;
use namespace::Namespace;
use reader::Reader;
use request::{Request, Requests, WAITING};
use server::{Connection, Server, Trouble};
use view::View;
use writer::Writer;

use super::{
    Appended, Engine, EngineFuture, IdempotencyKey, IdempotencyLimits, LogServer, Tail,
    remote::{Backoff, EngineThread, not_sent},
};
use crate::{
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
    protocol::PublishLimits,
    throttle::Throttle,
};

/// What the server is called in messages.
const SERVER: &str = "Redis";

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
    thread: EngineThread,
}

impl RedisEngine {
    /// Opens the log of a namespace, or begins one there, and tells the tail what there is.
    ///
    /// # Errors
    /// Where there is no server that will do, or the log is of a newer version.
    pub fn open(options: RedisOptions, tail: Arc<dyn Tail>) -> anyhow::Result<Self> {
        let server = Arc::new(Server::new(options.address, options.shown, options.timeout));
        let namespace = Arc::new(Namespace::new(&options.namespace));
        let view = Arc::new(View::new());
        let (requests, incoming) = Requests::new(SERVER, WAITING, options.timeout);
        let requests = Arc::new(requests);
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
        let reader = Arc::new(Reader::new(&server, &namespace, &view, &tail));
        let what = format!("the log in Redis at {}", server.shown());
        let thread = EngineThread::start("tribus-redis", &what, || tasks.start())?;
        Ok(Self {
            requests,
            reader,
            view,
            server,
            thread,
        })
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
    /// Opens the log, and leaves it to tasks of their own; there is nothing to be done at the end.
    async fn start(self) -> Result<Ready<()>, Trouble> {
        let (follower, connection) = self.begin().await?;
        tokio::spawn(follower.run(connection));
        tokio::spawn(self.writer.run());
        tokio::spawn(self.ingest.run());
        Ok(ready(()))
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
        let answer = self.requests.append(request, &self.view.health);
        Box::pin(async {
            answer
                .await?
                .ok_or_else(|| not_sent("another node has taken it"))
        })
    }

    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        let answer = self.requests.append(Request::note(note), &self.view.health);
        Box::pin(async { answer.await.map(|_| ()) })
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn began(&self) -> bool {
        self.view.began.load(Ordering::Relaxed)
    }

    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool> {
        if let Some(reached) = self.view.has_reached(cursor) {
            return Box::pin(std::future::ready(Ok(reached)));
        }
        let (reader, cursor) = (Arc::clone(&self.reader), cursor.clone());
        Box::pin(
            self.thread
                .run(async move { reader.reached(&cursor).await }),
        )
    }

    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        let reader = Arc::clone(&self.reader);
        Box::pin(self.thread.run(async move { reader.read(sequences).await }))
    }

    fn remembered_keys(&self) -> usize {
        self.view.health.keys.load(Ordering::Relaxed)
    }

    fn condition(&self) -> EngineState {
        self.view.health.condition(self.server.shown())
    }

    fn server(&self) -> Option<LogServer> {
        let facts = self.view.facts();
        Some(LogServer {
            address: self.server.shown().to_owned(),
            // It speaks to no other.
            role: facts.is_some().then_some("master"),
            version: facts.map(|facts| facts.version),
            replicas: None,
            storage: None,
            cluster: None,
            behind: Some(self.view.behind()),
            heard: self.view.health.heard_ago(),
        })
    }

    fn durability(&self) -> Option<&'static str> {
        self.view.facts()?.durability
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(self.thread.end())
    }
}
