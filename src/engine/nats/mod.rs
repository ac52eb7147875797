//! The log in NATS JetStream, shared by all gateways of one namespace.
//!
//! ```text
//! append ─▶ queue ─▶ writer: one message for each publish ─▶ the stream ─▶ answers
//!                                                              │
//! tail ◀─ follower: a consumer from the last message on ◀──────┤
//! read, reached ◀─ reader: message by message ◀────────────────┤
//! backends ─▶ the stream of what is to be published ─▶ ingest ─┘
//! ```
//!
//! NATS gives out the sequences, and each node hears of an event, its own too, by following the
//! stream: so they all see one order. What a server may have lost is found out by claiming the log on
//! each new connection, see `claim`.

mod claim;
mod feed;
mod follower;
mod ingest;
mod message;
mod meta;
mod names;
mod numbering;
mod reader;
mod request;
mod server;
mod start;
mod streams;
mod trimming;
mod view;
mod writer;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

pub use server::Address;
pub use streams::Bounds;

use ingest::Ingest;
use names::Names;
use reader::Reader;
use request::{Request, Requests, WAITING};
use server::{Server, Trouble};
use start::{Start, Started};
use view::View;
use writer::Writer;

use super::{
    Appended, Engine, EngineFuture, IdempotencyKey, IdempotencyLimits, LogServer, Tail,
    remote::{Backoff, EngineThread},
};
use crate::{
    event::{Cursor, Draft, Event},
    metrics::EngineState,
    protocol::PublishLimits,
    throttle::Throttle,
};

/// What the server is called in messages.
const SERVER: &str = "NATS";
/// How long the end of a run may take, which spares clients a reset where NATS is restarted too.
const END_WITHIN: Duration = Duration::from_secs(1);

/// What an engine is opened with.
pub struct NatsOptions {
    pub address: Address,
    /// The servers in messages, without a password.
    pub shown: String,
    pub namespace: String,
    /// How long an answer may take.
    pub timeout: Duration,
    pub bounds: Bounds,
    /// The most events that this node retains.
    pub retained: usize,
    pub idempotency: IdempotencyLimits,
    /// Of what backends publish into NATS.
    pub publish: PublishLimits,
}

/// The engine. All of its I/O is done by one thread, which ends with it.
pub struct NatsEngine {
    requests: Arc<Requests>,
    reader: Arc<Reader>,
    view: Arc<View>,
    server: Arc<Server>,
    thread: EngineThread,
}

impl NatsEngine {
    /// Opens the log of a namespace, or begins one there, and tells the tail what there is.
    ///
    /// # Errors
    /// Where there is no server that will do, or the log is of a newer version.
    pub fn open(options: NatsOptions, tail: Arc<dyn Tail>) -> anyhow::Result<Self> {
        let server = Arc::new(Server::new(options.address, options.shown, options.timeout));
        let names = Arc::new(Names::new(&options.namespace));
        let view = Arc::new(View::new());
        let (requests, incoming) = Requests::new(SERVER, WAITING, options.timeout);
        let requests = Arc::new(requests);
        let tasks = Tasks {
            server: Arc::clone(&server),
            names: Arc::clone(&names),
            view: Arc::clone(&view),
            writer: Writer::new(&names, &view, incoming, options.idempotency),
            ingest: Ingest {
                names: Arc::clone(&names),
                view: Arc::clone(&view),
                requests: Arc::clone(&requests),
                bounds: options.bounds,
                limits: options.publish,
                malformed: Throttle::default(),
            },
            tail: Arc::clone(&tail),
            bounds: options.bounds,
            retained: options.retained,
        };
        let reader = Arc::new(Reader::new(&names, &view, &tail));
        let what = format!("the log in NATS at {}", server.shown());
        let thread = EngineThread::start("tribus-nats", &what, || tasks.start())?;
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
    server: Arc<Server>,
    names: Arc<Names>,
    view: Arc<View>,
    writer: Writer,
    ingest: Ingest,
    tail: Arc<dyn Tail>,
    bounds: Bounds,
    retained: usize,
}

impl Tasks {
    /// Opens the log, and leaves it to tasks of their own; comes with what is to be done at the end.
    async fn start(self) -> Result<impl Future<Output = ()>, Trouble> {
        let (follower, session, feed) = self.begin().await?;
        tokio::spawn(follower.run(session, feed));
        tokio::spawn(self.writer.run());
        tokio::spawn(self.ingest.run());
        let (view, names) = (self.view, self.names);
        Ok(async move {
            let _ = tokio::time::timeout(END_WITHIN, end(&view, &names)).await;
        })
    }

    /// Tries for a while, since NATS may be starting too.
    async fn begin(&self) -> Result<Started, Trouble> {
        let (began, mut backoff) = (Instant::now(), Backoff::default());
        let start = Start {
            server: &self.server,
            names: &self.names,
            bounds: self.bounds,
            view: &self.view,
            tail: &self.tail,
            retained: self.retained,
        };
        loop {
            match start.start().await {
                Err(trouble) if trouble.may_pass() && began.elapsed() < self.server.timeout() => {
                    backoff.wait().await;
                }
                begun => return begun,
            }
        }
    }
}

/// Notes up to where the log was seen, so that the next run can tell whether it is all there.
async fn end(view: &View, names: &Names) {
    let (Some(open), Some(seen)) = (view.open(), view.witness().seen) else {
        return;
    };
    let Ok(stored) = meta::read(&open.meta_stream, names).await else {
        return;
    };
    if let Some(mut meta) = stored.meta.filter(|meta| meta.now == *open.log) {
        meta.ended = Some(seen);
        // Where it can not be noted the next run errs towards a reset.
        let _ = meta::replace(&open.session, names, &meta, stored.revision).await;
    }
}

impl Engine for NatsEngine {
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'static, Appended> {
        let request = Request::new(&drafts, idempotency);
        Box::pin(self.requests.append(request, &self.view.health))
    }

    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        let answer = self
            .requests
            .append(Request::note(&note), &self.view.health);
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
            role: None,
            replicas: facts.as_ref().map(|facts| facts.replicas),
            storage: facts.as_ref().map(|facts| match facts.is_in_memory {
                true => "memory",
                false => "disk",
            }),
            cluster: facts.as_ref().and_then(|facts| facts.cluster.clone()),
            version: facts.map(|facts| facts.version),
            // What it has seen are messages, of which some are several positions.
            behind: None,
            heard: self.view.health.heard_ago(),
        })
    }

    fn durability(&self) -> Option<&'static str> {
        self.view.facts()?.durability()
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(self.thread.end())
    }
}
