//! The log on the disk of one machine: what was acknowledged is there after any crash.
//!
//! ```text
//! append ─▶ queue ─▶ writer thread ─▶ one redb commit and sync for all that wait ─▶ tail ─▶ answers
//!                       │ segments: one redb database each, the last one is written
//! read ─▶ a few threads ┴▶ the segment of the sequence
//! ```
//!
//! A directory holds `log.json` (which log it is, and how its last run ended), the segments, named
//! by the sequence after which their events come, `reached` (the last acknowledged sequence, never
//! waited for), `trims` (what was trimmed of each topic before the oldest segment), and `lost-…`,
//! the last log that had to be given up.

mod backend;
mod directory;
mod failure;
mod index;
mod inspect;
mod label;
mod log;
pub mod record;
mod recovery;
mod rolling;
mod segment;
mod shelf;
#[cfg(test)]
mod simulation;
mod writer;

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

pub use directory::{Directory, File, Folder};
pub use inspect::{Depth, LogReport, SegmentReport, inspect};
pub use label::{Durability, Label};
pub use log::{DiskLog, DiskOptions, Request};
pub use shelf::Shelf;
use shelf::Unreadable;
use writer::Writer;

use super::{Appended, Engine, EngineError, EngineFuture, IdempotencyKey, Tail};
use crate::{
    event::{Cursor, Draft, Event},
    metrics::EngineState,
    throttle::Throttle,
};

/// Reads of the disk at a time; more wait for their turn.
const READS: usize = 4;
/// After how many milliseconds a read that failed is tried again: where a write failed, nothing can
/// be read from its segment until the writer has opened it anew, and a log is not given up for one
/// bad look.
const READ_AGAIN_MS: [u64; 4] = [20, 60, 180, 540];

/// The engine: hands publishes to the writer, and reads what it has written.
pub struct DiskEngine {
    durability: Durability,
    shelf: Arc<Shelf>,
    condition: Arc<Mutex<EngineState>>,
    writer: Writer,
    reads: Semaphore,
    read_failures: AtomicU64,
    unread: Throttle,
}

impl DiskEngine {
    /// Opens the log in a directory, or begins one there.
    ///
    /// # Errors
    /// Where another process has it, it can not be read or written, or it is of a newer version.
    pub fn open(path: &Path, options: DiskOptions, tail: Arc<dyn Tail>) -> anyhow::Result<Self> {
        let start = Instant::now();
        let directory = Arc::new(Folder::open(path)?);
        let durability = options.durability;
        let log = DiskLog::open(directory, options, tail)?;
        tracing::info!(
            log = log.shelf().log().as_str(),
            last = log.last(),
            segments = log.shelf().segments().len(),
            took_ms = start.elapsed().as_millis() as u64,
            "the log is open"
        );
        Ok(Self {
            durability,
            shelf: Arc::clone(log.shelf()),
            condition: Arc::clone(log.condition()),
            writer: Writer::start(log)?,
            reads: Semaphore::new(READS),
            read_failures: AtomicU64::new(0),
            unread: Throttle::default(),
        })
    }

    async fn read_back(&self, sequences: Vec<u64>) -> Result<Vec<Arc<Event>>, EngineError> {
        let mut pauses = READ_AGAIN_MS.into_iter().map(Duration::from_millis);
        let Unreadable { log, error } = loop {
            match self.read_once(sequences.clone()).await? {
                Ok(events) => return Ok(events),
                Err(unreadable) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => break unreadable,
                },
            }
        };
        self.read_failures.fetch_add(1, Ordering::Relaxed);
        if let segment::SegmentError::Io(error) = error {
            if let Some(held_back) = self.unread.pass() {
                tracing::error!(%error, held_back, "can not read the log");
            }
            return Err(unavailable());
        }
        self.writer.lose(log.clone(), error).await?;
        // Nothing of it is retained any more, which the tail knows by now.
        if self.shelf.log() == log {
            return Err(unavailable());
        }
        Ok(Vec::new())
    }

    async fn read_once(
        &self,
        sequences: Vec<u64>,
    ) -> Result<Result<Vec<Arc<Event>>, Unreadable>, EngineError> {
        // The semaphore is never closed.
        let _turn = self.reads.acquire().await;
        let shelf = Arc::clone(&self.shelf);
        let read = tokio::task::spawn_blocking(move || shelf.read(&sequences));
        read.await.map_err(|_| unavailable())
    }
}

fn unavailable() -> EngineError {
    EngineError::Unavailable("the log can not be read now: try again later".into())
}

impl Engine for DiskEngine {
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'_, Appended> {
        Box::pin(self.writer.append(Request {
            drafts,
            key: idempotency,
        }))
    }

    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool> {
        // Whoever has a cursor may come with it before the writer has answered.
        let reached = cursor.log == self.shelf.log()
            && cursor.sequence <= self.shelf.last()
            && cursor.check.is_none();
        Box::pin(std::future::ready(Ok(reached)))
    }

    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        Box::pin(self.read_back(sequences))
    }

    fn remembered_keys(&self) -> usize {
        self.writer.remembered_keys()
    }

    fn condition(&self) -> EngineState {
        let condition = self.condition.lock();
        let mut condition = condition.unwrap_or_else(PoisonError::into_inner).clone();
        condition.read_failures = self.read_failures.load(Ordering::Relaxed);
        if self.writer.has_ended() {
            let ended = || "the log is closed: restart the gateway".to_owned();
            condition.refuses.get_or_insert_with(ended);
        }
        condition
    }

    fn durability(&self) -> Option<&'static str> {
        Some(self.durability.as_str())
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(self.writer.close())
    }
}
