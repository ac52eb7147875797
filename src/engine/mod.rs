//! Where the log lives. An engine never knows the bus; the bus never knows which engine it is.

mod idempotency;
mod memory;

use std::{future::Future, pin::Pin, sync::Arc};

pub use idempotency::{IdempotencyKey, IdempotencyLimits};
pub use memory::MemoryEngine;

use crate::event::{Cursor, Draft, Event};

/// A future of an engine, which any worker may drive.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, EngineError>> + Send + 'a>>;

/// Appends to one log and tails it.
///
/// Every implementation promises:
/// - **Order**: sequences of one log rise, and are never given to two events.
/// - **Atomicity**: a batch is appended whole, as neighbours, or not at all.
/// - **Contiguity**: the [`Tail`] sees every event of the log, once and in order.
/// - **Durability** as its name promises, before the future of `append` resolves. The memory
///   engine promises none: a restart begins a new log.
pub trait Engine: Send + Sync + 'static {
    /// Appends the drafts, or finds that the key was used before.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] where the key stands for another request;
    /// [`EngineError::KeysFull`] and [`EngineError::SubjectKeysFull`] where a new key can not be
    /// remembered;
    /// [`EngineError::Unavailable`] where nothing was appended and a retry may help.
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'_, Appended>;

    /// Whether the log has reached this cursor, and still holds what the cursor stood for. Only
    /// this answer justifies a reset.
    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool>;

    /// How many idempotency keys this node remembers.
    fn remembered_keys(&self) -> usize;
}

/// Receives the log's events from its engine, contiguously and in order. Owned by the node's bus.
pub trait Tail: Send + Sync + 'static {
    fn extend(&self, events: Vec<Arc<Event>>);
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
    #[error("{0}")]
    Unavailable(&'static str),
}
