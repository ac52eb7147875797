//! Reads of the log besides its tail: events that are not in memory, and cursors that the tail has
//! not come to.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::jetstream::stream::{DirectGetErrorKind, Stream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::{
    message::decode,
    meta,
    names::Names,
    server::Trouble,
    streams::message,
    view::{Open, View, usable},
};
use crate::{
    engine::{EngineError, Tail, remote::event_at},
    event::{Cursor, Event},
    throttle::Throttle,
};

/// Reads at a time; more wait for their turn.
const READS: usize = 16;
/// Messages that one read asks for at a time.
const QUESTIONS: usize = 32;
/// How long a read waits for the log to be claimed again.
const CLAIMED_WITHIN: Duration = Duration::from_secs(2);

pub struct Reader {
    pub names: Arc<Names>,
    pub view: Arc<View>,
    pub tail: Arc<dyn Tail>,
    turns: Semaphore,
    unread: Throttle,
}

/// Events of one message: its sequence, and their indices.
type Wanted = (u64, Vec<u64>);

impl Reader {
    pub fn new(names: &Arc<Names>, view: &Arc<View>, tail: &Arc<dyn Tail>) -> Self {
        Self {
            names: Arc::clone(names),
            view: Arc::clone(view),
            tail: Arc::clone(tail),
            turns: Semaphore::new(READS),
            unread: Throttle::default(),
        }
    }

    /// # Errors
    /// See [`crate::engine::Engine::read`].
    pub async fn read(&self, positions: Vec<u64>) -> Result<Vec<Arc<Event>>, EngineError> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let read = self.try_to_read(&positions).await;
        read.map_err(|trouble| self.unreadable(&trouble))
    }

    async fn try_to_read(&self, positions: &[u64]) -> Result<Vec<Arc<Event>>, Trouble> {
        let open = self.open().await?;
        let wanted = wanted(&open, positions);
        let answers: Vec<(Wanted, Option<Bytes>)> = stream::iter(wanted)
            .map(|wanted| async {
                let payload = fetch(&open.stream, wanted.0).await?;
                Ok::<_, Trouble>((wanted, payload))
            })
            .buffered(QUESTIONS)
            .try_collect()
            .await?;
        let mut events = Vec::with_capacity(positions.len());
        let mut gone = None;
        for ((sequence, indices), payload) in answers {
            let found = payload.and_then(|payload| decode(&payload).ok());
            let Some(found) = found else {
                gone = Some(sequence);
                continue;
            };
            for (index, record) in found.into_events().into_iter().enumerate() {
                let index = index as u64;
                let position = open.log.numbering.position(sequence, index);
                if let Some(position) = position.filter(|_| indices.contains(&index)) {
                    events.push(Arc::new(event_at(record, &open.log.log, position)));
                }
            }
        }
        if let Some(gone) = gone {
            self.forget(&open, gone).await?;
        }
        self.forget_unplaced(&open, positions);
        Ok(events)
    }

    /// Positions that stand for nothing any more, since how they were numbered is forgotten.
    fn forget_unplaced(&self, open: &Open, positions: &[u64]) {
        let is_unplaced = |position: &&u64| open.log.numbering.place(**position).is_none();
        if let Some(last) = positions.iter().rfind(is_unplaced) {
            self.tail.trim(*last);
        }
    }

    /// A message is not there any more, so whoever needs it, or what lies before it, is to notice.
    async fn forget(&self, open: &Open, sequence: u64) -> Result<(), Trouble> {
        let info = open.stream.get_info().await;
        let info = info.map_err(|error| Trouble::asked("to tell of the log", &error))?;
        let trimmed = info.state.first_sequence.saturating_sub(1);
        if sequence > trimmed {
            tracing::error!(sequence, "a message of the log is gone");
            self.view.health.lost_logs.fetch_add(1, Ordering::Relaxed);
        }
        let followed = self.view.followed().log;
        if followed.is_some_and(|log| log.log == open.log.log) {
            let until = open.log.numbering.end_of(sequence.max(trimmed));
            self.tail.trim(until);
        }
        Ok(())
    }

    /// # Errors
    /// See [`crate::engine::Engine::reached`].
    pub async fn reached(&self, cursor: &Cursor) -> Result<bool, EngineError> {
        let _turn = self.turns.acquire().await;
        let reached = self.try_to_ask(cursor).await;
        reached.map_err(|trouble| self.unreadable(&trouble))
    }

    async fn try_to_ask(&self, cursor: &Cursor) -> Result<bool, Trouble> {
        let open = self.open().await?;
        // Another node may know of a log that this one does not follow yet.
        let stored = meta::read(&open.meta_stream, &self.names).await?;
        let log = stored.meta.map(|meta| meta.now);
        let Some(log) = log.filter(|log| log.log == cursor.log) else {
            return Ok(false);
        };
        let Some((sequence, index)) = log.numbering.place(cursor.sequence) else {
            return Ok(log.numbering.knows(cursor.sequence));
        };
        let info = open.stream.get_info().await;
        let info = info.map_err(|error| Trouble::asked("to tell of the log", &error))?;
        if sequence < info.state.first_sequence {
            return Ok(sequence <= info.state.last_sequence);
        }
        let payload = fetch(&open.stream, sequence).await?;
        let count = payload.and_then(|payload| Some(decode(&payload).ok()?.count()));
        Ok(count.is_some_and(|count| index < count))
    }

    async fn open(&self) -> Result<Arc<Open>, Trouble> {
        let mut openings = self.view.openings();
        let open = tokio::time::timeout(CLAIMED_WITHIN, usable(&mut openings)).await;
        open.ok().flatten().ok_or(Trouble::Cut)
    }

    fn unreadable(&self, trouble: &Trouble) -> EngineError {
        self.view
            .health
            .read_failures
            .fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.unread.pass() {
            tracing::error!(%trouble, held_back, "can not read the log in NATS");
        }
        EngineError::Unavailable("the log can not be read now: try again later".into())
    }
}

/// The messages of rising positions, each once.
fn wanted(open: &Open, positions: &[u64]) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let places = positions
        .iter()
        .filter_map(|position| open.log.numbering.place(*position));
    for (sequence, index) in places {
        match wanted.last_mut() {
            Some((last, indices)) if *last == sequence => indices.push(index),
            _ => wanted.push((sequence, vec![index])),
        }
    }
    wanted
}

/// What a message holds; `None` where it is not there.
async fn fetch(stream: &Stream, sequence: u64) -> Result<Option<Bytes>, Trouble> {
    // Any server that has the stream answers that, and only its leader the other.
    match stream.direct_get(sequence).await {
        Ok(message) => return Ok(Some(message.payload)),
        Err(error) => match error.kind() {
            DirectGetErrorKind::NotFound => {}
            _ => tracing::debug!(%error, "a message has to be asked of the leader"),
        },
    }
    Ok(message(stream, sequence).await?.map(|there| there.payload))
}
