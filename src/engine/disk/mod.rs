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
mod beginning;
mod clock;
mod directory;
mod failure;
#[cfg(test)]
mod faults;
mod index;
mod inspect;
mod label;
mod log;
mod patience;
pub mod record;
mod recovery;
mod rolling;
mod segment;
mod shelf;
#[cfg(test)]
pub(crate) mod simulation;
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

pub use clock::{Ages, Stamp};
pub use directory::{Directory, File, Folder};
pub use inspect::{Depth, LogReport, SegmentReport, inspect};
pub use label::{Durability, Label};
pub use log::{DiskLog, DiskOptions, Request};
use patience::Unread;
use segment::SegmentError;
pub use shelf::Shelf;
use shelf::Unreadable;
pub(crate) use writer::Writer;
#[cfg(all(test, feature = "shuttle"))]
pub(crate) use {segment::SegmentError as LogError, writer::Desk};

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
    tail: Arc<dyn Tail>,
    condition: Arc<Mutex<EngineState>>,
    writer: Writer,
    reads: Arc<Semaphore>,
    read_failures: AtomicU64,
    unread: Arc<Unread>,
    patience: Duration,
    complaints: Throttle,
}

impl DiskEngine {
    /// Opens the log in a directory, or begins one there.
    ///
    /// # Errors
    /// Where another process has it, it can not be read or written, or it is of a newer version.
    pub fn open(path: &Path, options: DiskOptions, tail: Arc<dyn Tail>) -> anyhow::Result<Self> {
        let directory = Arc::new(Folder::open(path)?);
        Self::open_in(directory, options, tail)
    }

    fn open_in(
        directory: Arc<dyn Directory>,
        options: DiskOptions,
        tail: Arc<dyn Tail>,
    ) -> anyhow::Result<Self> {
        let start = Instant::now();
        let (durability, patience) = (options.durability, options.patience);
        let log = DiskLog::open(directory, options, Arc::clone(&tail))?;
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
            tail,
            condition: Arc::clone(log.condition()),
            writer: Writer::start(log)?,
            reads: Arc::new(Semaphore::new(READS)),
            read_failures: AtomicU64::new(0),
            unread: Arc::default(),
            patience,
            complaints: Throttle::default(),
        })
    }

    async fn read_back(&self, sequences: Vec<u64>) -> Result<Vec<Arc<Event>>, EngineError> {
        let unreadable = match self.read_again_and_again(sequences).await? {
            Ok(events) => return Ok(events),
            Err(unreadable) => unreadable,
        };
        self.read_failures.fetch_add(1, Ordering::Relaxed);
        let log = unreadable.log.clone();
        let damage = self.damage(unreadable).await?;
        self.writer.lose(log.clone(), damage).await?;
        // Nothing of it is retained any more, which the tail knows by now.
        if self.shelf.log() == log {
            return Err(unavailable());
        }
        Ok(Vec::new())
    }

    async fn read_again_and_again(
        &self,
        sequences: Vec<u64>,
    ) -> Result<Result<Vec<Arc<Event>>, Unreadable>, EngineError> {
        let mut pauses = READ_AGAIN_MS.into_iter().map(Duration::from_millis);
        let mut not_given = None;
        loop {
            let unreadable = match self.read_once(sequences.clone()).await? {
                Ok(events) => return Ok(Ok(events)),
                Err(unreadable) => unreadable,
            };
            let is_damage = matches!(unreadable.error, SegmentError::Damaged { .. });
            match pauses.next() {
                Some(pause) => {
                    // What is written tells only once why it can not be read.
                    not_given = not_given.or(Some(unreadable).filter(Unreadable::is_not_given));
                    tokio::time::sleep(pause).await;
                }
                None if is_damage => return Ok(Err(unreadable)),
                None => return Ok(Err(not_given.unwrap_or(unreadable))),
            }
        }
    }

    /// What the log is to be given up for.
    ///
    /// # Errors
    /// Where it may be possible to read it later.
    async fn damage(&self, unreadable: Unreadable) -> Result<SegmentError, EngineError> {
        let error = match &unreadable.error {
            SegmentError::Io(error) => error.to_string(),
            SegmentError::Damaged { .. } => return Ok(unreadable.error),
        };
        if let Some(held_back) = self.complaints.pass() {
            let segment = &unreadable.segment;
            tracing::error!(error, segment, held_back, "can not read the log");
        }
        if !unreadable.is_not_given() {
            return Err(unavailable());
        }
        let (unread, shelf) = (Arc::clone(&self.unread), Arc::clone(&self.shelf));
        let patience = self.patience;
        let note = move || unread.note(&unreadable, &shelf, patience);
        let noted = tokio::task::spawn_blocking(note).await;
        noted.map_err(|_| unavailable())?.ok_or_else(unavailable)
    }

    async fn read_once(
        &self,
        sequences: Vec<u64>,
    ) -> Result<Result<Vec<Arc<Event>>, Unreadable>, EngineError> {
        // The semaphore is never closed.
        let turn = Arc::clone(&self.reads).acquire_owned().await;
        let shelf = Arc::clone(&self.shelf);
        let read = tokio::task::spawn_blocking(move || {
            // Held until the disk has answered, whoever still waits for it.
            let _turn = turn;
            shelf.read(&sequences)
        });
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
    ) -> EngineFuture<'static, Appended> {
        self.writer.append(Request {
            drafts,
            key: idempotency,
        })
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

    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        self.tail.told(&note);
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_shared(&self) -> bool {
        false
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
