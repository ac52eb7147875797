//! The log of one process: gone with it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    Appended, Engine, EngineError, EngineFuture, IdempotencyKey, Tail,
    idempotency::{IdempotencyLimits, IdempotencyWindow, Known},
};
use crate::{
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
};

/// Hands out positions and passes events on. What the node's bus retains is all that there is of
/// this log, so the engine keeps nothing itself.
pub struct MemoryEngine {
    log: LogId,
    tail: Arc<dyn Tail>,
    /// The last position that was given, for whoever asks while the tail is being told. Set under the
    /// lock of the keys, and before the tail hears.
    last: AtomicU64,
    idempotency: Mutex<IdempotencyWindow>,
}

impl MemoryEngine {
    /// Begins a new log. When as many keys as `idempotency` allows are younger than their ten
    /// minutes, a publish with a new key is refused.
    pub fn new(log: LogId, tail: Arc<dyn Tail>, idempotency: IdempotencyLimits) -> Self {
        tail.begin(log.clone(), 0, &[]);
        Self {
            log,
            tail,
            last: AtomicU64::new(0),
            idempotency: Mutex::new(IdempotencyWindow::new(idempotency)),
        }
    }

    fn append_now(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<&IdempotencyKey>,
    ) -> Result<Appended, EngineError> {
        let now = Instant::now();
        let count = drafts.len() as u64;
        // The tail is extended under the lock, so that it sees events in the order of their
        // positions. Nothing in here waits.
        let mut keys = self.keys();
        if let Some(key) = idempotency {
            match keys.look_up(key, now) {
                Known::New => {}
                Known::Before(first, count) => return Ok(self.appended(first, count, true)),
                Known::Conflict => return Err(EngineError::Conflict),
                Known::Full => return Err(EngineError::KeysFull),
                Known::SubjectFull => return Err(EngineError::SubjectKeysFull),
            }
        }
        let first = self.last.load(Ordering::Relaxed) + 1;
        let events = drafts.into_iter().zip(first..).map(|(draft, sequence)| {
            Arc::new(draft.seal(&Cursor::new(self.log.clone(), sequence), now))
        });
        let events = events.collect();
        self.last.store(first + count - 1, Ordering::Release);
        self.tail.extend(events);
        if let Some(key) = idempotency {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            keys.remember(key, first, count, now);
        }
        Ok(self.appended(first, count, false))
    }

    fn keys(&self) -> MutexGuard<'_, IdempotencyWindow> {
        self.idempotency
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn appended(&self, first: u64, count: u64, duplicate: bool) -> Appended {
        Appended {
            first: Cursor::new(self.log.clone(), first),
            count,
            duplicate,
        }
    }
}

impl Engine for MemoryEngine {
    fn append(
        &self,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> EngineFuture<'static, Appended> {
        let appended = self.append_now(drafts, idempotency.as_ref());
        Box::pin(std::future::ready(appended))
    }

    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool> {
        let last = self.last.load(Ordering::Acquire);
        let reached = cursor.log == self.log && cursor.sequence <= last && cursor.check.is_none();
        Box::pin(std::future::ready(Ok(reached)))
    }

    fn read(&self, _: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn tell(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        self.tail.told(&note);
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn condition(&self) -> EngineState {
        EngineState::default()
    }

    fn durability(&self) -> Option<&'static str> {
        None
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn remembered_keys(&self) -> usize {
        self.keys().len(Instant::now())
    }
}
