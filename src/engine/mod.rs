//! Where the log lives. An engine never knows the bus; the bus never knows which engine it is.

pub mod disk;
mod idempotency;
mod memory;
pub mod nats;
pub mod redis;
mod remote;

use std::{borrow::Cow, future::Future, pin::Pin, sync::Arc, time::Duration};

pub use idempotency::{IdempotencyKey, IdempotencyLimits};
pub use memory::MemoryEngine;

use crate::{
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
    topic::{Tenant, Topic},
};

/// A future of an engine, which any worker may drive.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// Appends to one log and tails it.
///
/// Every implementation promises:
/// - **Order**: sequences of one log rise, and are never given to two events.
/// - **Atomicity**: a batch is appended whole, as neighbours, or not at all.
/// - **Contiguity**: the [`Tail`] sees every event of the log, once and in order.
/// - **Durability** as its name promises, before the future of `append` resolves and before the
///   tail sees the event. The memory engine promises none: a restart begins a new log.
pub trait Engine: Send + Sync + 'static {
    /// Appends the drafts, or finds that the key was used before. Publishes take their places in the
    /// log in the order of these calls, and are appended whether the future is waited for or not.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where the key stands for another request;
    /// [`EngineError::KeysFull`] and [`EngineError::SubjectKeysFull`] where a new key can not be
    /// remembered;
    /// [`EngineError::TooLarge`] where the log's server does not take so much at once;
    /// [`EngineError::Unavailable`] where nothing was acknowledged and a retry may help.
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'static, Appended>;

    /// Whether the log has reached this cursor, and still holds what the cursor stood for. Only
    /// this answer justifies a reset. Asked for every cursor that a client brings, so an engine
    /// answers without I/O where its tail has been told as much.
    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool>;

    /// Reads events back that the tail was told of and does not hold any more: all of these
    /// sequences that are still in the log, in order.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where one of them can not be read now. An engine that can
    /// never read it again begins a new log first.
    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>>;

    /// Tells all nodes of the log something, this one too: each one's tail hears it once, between the
    /// events where it was told. It is not read back; whoever comes later has to ask.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where it is not known to have been told.
    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()>;

    /// Whether other nodes may have the same log.
    fn is_shared(&self) -> bool;

    /// Whether the log began with this engine, so that no node has told anything before.
    fn began(&self) -> bool {
        !self.is_shared()
    }

    /// How many idempotency keys this node remembers.
    fn remembered_keys(&self) -> usize;

    /// How it is, for operators.
    fn condition(&self) -> EngineState;

    /// What is known of the server that has the log; `None` where this process has it.
    fn server(&self) -> Option<LogServer> {
        None
    }

    /// What an acknowledged publish outlives, by the name that it is told under; `None` where that
    /// is nothing.
    fn durability(&self) -> Option<&'static str>;

    /// Ends the run of the log: what comes later is refused.
    ///
    /// # Errors
    /// Where it was ended before.
    fn close(&self) -> EngineFuture<'_, ()>;
}

/// Receives the log's events from its engine, contiguously and in order. Owned by the node's bus,
/// which settles what is retained.
pub trait Tail: Send + Sync + 'static {
    /// The log is this one, and its events after a position follow. `trims` is what
    /// [`Tail::trims`] gave in an earlier run of this log. Called before anything else.
    fn begin(&self, log: LogId, position: u64, trims: &[u8]);

    /// Events that the log holds already, up to a position. Called between `begin` and the first
    /// `extend`.
    fn restore(&self, events: Vec<StoredEvent>, until: u64);

    /// The log goes on under another name, and nothing up to the position can be had any more.
    fn restart(&self, log: LogId, position: u64);

    fn extend(&self, events: Vec<Arc<Event>>);

    /// What a node told, see [`Engine::tell`].
    fn told(&self, note: &[u8]);

    /// At a position there is no event to retain; where it lies behind the last one, the log has come
    /// to there. After `restore` called for each one that the log still holds.
    fn advance(&self, position: u64);

    /// Whoever else keeps the log has let go of what lies up to a position.
    fn trim(&self, position: u64);

    /// The position before the oldest event that is retained: the engine may drop what lies
    /// before it.
    fn earliest(&self) -> u64;

    /// What was trimmed of each topic, to be kept with the log: whoever resumes a topic of which
    /// nothing was trimmed needs no reset, however old the cursor.
    fn trims(&self) -> Vec<u8>;
}

/// What the tail is to know of an event that only the engine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    pub sequence: u64,
    pub tenant: Tenant,
    pub topic: Topic,
    /// As [`Event::retained_bytes`] would tell.
    pub bytes: u32,
    pub age: Duration,
}

/// A server that keeps the log, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogServer {
    /// Where it is, without a password.
    pub address: String,
    pub version: Option<String>,
    /// `None` where it has none.
    pub role: Option<&'static str>,
    /// How many servers keep the log, `disk` or `memory` of each, and the name of their cluster; `None`
    /// where it does not tell.
    pub replicas: Option<usize>,
    pub storage: Option<&'static str>,
    pub cluster: Option<String>,
    /// Positions that this node knows to be given, and its tail has not come to; `None` where it does
    /// not count them.
    pub behind: Option<u64>,
    /// How long ago the server last told what comes next, or that nothing does.
    pub heard: Duration,
}

/// The answer to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The position of the first event; the batch's others follow it without a hole.
    pub first: Cursor,
    pub count: u64,
    /// The key was used before: these are the positions given then.
    pub duplicate: bool,
}

impl Appended {
    /// The position of the batch's last event.
    pub fn last_sequence(&self) -> u64 {
        self.first.sequence + self.count.saturating_sub(1)
    }

    /// The events' ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.count).map(|offset| {
            Cursor::new(self.first.log.clone(), self.first.sequence + offset).to_string()
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    #[error("this idempotency key was used for another request in the last 10 minutes")]
    Conflict,
    #[error(
        "this node remembers as many idempotency keys of the last 10 minutes as it can: try again later"
    )]
    KeysFull,
    #[error("you used as many idempotency keys in the last 10 minutes as you may: slow down")]
    SubjectKeysFull,
    /// What no repetition helps against.
    #[error("{0}")]
    TooLarge(Cow<'static, str>),
    #[error("{0}")]
    Unavailable(Cow<'static, str>),
}
