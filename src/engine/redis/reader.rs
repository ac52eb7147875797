//! Reads of the log besides its tail: events that are not in memory, and cursors that the tail has
//! not come to.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use redis::Value;
use tokio::sync::Semaphore;

use super::{
    entry::{Content, Entry, Place, event_at},
    namespace::Namespace,
    reply::{list, number, strange, text},
    script::{Seam, claim, look},
    server::{Connection, Server, Trouble},
    view::{Followed, View, is_hidden},
};
use crate::{
    engine::{EngineError, Tail},
    event::{Cursor, Event, LogId},
    throttle::Throttle,
};

/// Reads at a time; more wait for their turn.
const READS: usize = 16;
/// How long the tail may take to go over to another log, once it is known that this one is lost.
const GIVES_UP_WITHIN: Duration = Duration::from_secs(5);

/// All reads go over one connection, made when it is needed.
pub struct Reader {
    pub server: Arc<Server>,
    pub namespace: Arc<Namespace>,
    pub view: Arc<View>,
    pub tail: Arc<dyn Tail>,
    connection: Mutex<Option<Connection>>,
    turns: Semaphore,
    unread: Throttle,
}

impl Reader {
    pub fn new(
        server: &Arc<Server>,
        namespace: &Arc<Namespace>,
        view: &Arc<View>,
        tail: &Arc<dyn Tail>,
    ) -> Self {
        Self {
            server: Arc::clone(server),
            namespace: Arc::clone(namespace),
            view: Arc::clone(view),
            tail: Arc::clone(tail),
            connection: Mutex::new(None),
            turns: Semaphore::new(READS),
            unread: Throttle::default(),
        }
    }

    /// # Errors
    /// See [`crate::engine::Engine::read`].
    pub async fn read(&self, sequences: Vec<u64>) -> Result<Vec<Arc<Event>>, EngineError> {
        // The semaphore is never closed.
        let _turn = self.turns.acquire().await;
        let followed = self.view.followed();
        let Some(log) = followed.log.clone() else {
            return Ok(Vec::new());
        };
        let mut is_again = false;
        loop {
            match self.try_to_read(&sequences, &log, &followed).await {
                Ok(events) => return Ok(events),
                // Where it was idle for long it may have been cut meanwhile.
                Err(trouble) if !is_again => {
                    tracing::debug!(%trouble, "reading the log again");
                    self.hang_up();
                    is_again = true;
                }
                Err(trouble) => return Err(self.unreadable(&trouble)),
            }
        }
    }

    async fn try_to_read(
        &self,
        sequences: &[u64],
        log: &LogId,
        followed: &Followed,
    ) -> Result<Vec<Arc<Event>>, Trouble> {
        let mut connection = self.connect().await?;
        let events = self.fetch(&mut connection, sequences, log).await?;
        if events.len() == sequences.len() {
            return Ok(events);
        }
        let is_there = |sequence: &u64| {
            let found = events.binary_search_by_key(sequence, |event| event.sequence);
            found.is_ok()
        };
        let missing = sequences.iter().filter(|sequence| !is_there(sequence));
        let last_missing = missing.max().copied().unwrap_or_default();
        let now = look(&mut connection, &self.namespace, log, None).await?;
        let is_same = now.is_as_claimed(&connection.facts.identity, log);
        if is_same && now.trimmed >= last_missing {
            self.tail.trim(now.trimmed);
            return Ok(events);
        }
        let witness = self.view.witness();
        let is_lost = is_same;
        let claim = claim(&mut connection, &self.namespace, &witness, is_lost).await?;
        self.view.claimed(&claim, &connection.facts);
        if is_lost {
            tracing::error!(sequence = last_missing, "an event of the log is gone");
        }
        self.until_given_up(followed).await?;
        Ok(Vec::new())
    }

    /// Until the tail has gone over to another log, and whoever asked finds nothing of this one.
    async fn until_given_up(&self, followed: &Followed) -> Result<(), Trouble> {
        let mut changes = self.view.changes();
        let is_other = |now: &Followed| now.log != followed.log;
        let given_up = tokio::time::timeout(GIVES_UP_WITHIN, changes.wait_for(is_other)).await;
        match given_up {
            Ok(_) => Ok(()),
            Err(_) => Err(Trouble::Silent(GIVES_UP_WITHIN)),
        }
    }

    /// Those of these events that are there, rising.
    async fn fetch(
        &self,
        connection: &mut Connection,
        sequences: &[u64],
        log: &LogId,
    ) -> Result<Vec<Arc<Event>>, Trouble> {
        let mut pipeline = redis::pipe();
        for (first, last) in runs(sequences) {
            let (first, last) = (Place::of(first), Place::of(last));
            pipeline
                .cmd("XRANGE")
                .arg(&self.namespace.log)
                .arg(first.to_string())
                .arg(last.to_string());
        }
        let answers: Vec<Value> = pipeline.query_async(&mut connection.link).await?;
        let mut events = Vec::with_capacity(sequences.len());
        for answer in answers {
            let entries = Entry::of_range(answer).ok_or_else(strange("what XRANGE gives"))?;
            // One that can not be read is as good as gone.
            events.extend(entries.iter().filter_map(|entry| match entry.content() {
                Ok(Content::Event(record)) if entry.place.part == 0 => {
                    Some(Arc::new(event_at(record, log, entry.place.sequence)))
                }
                _ => None,
            }));
        }
        Ok(events)
    }

    /// # Errors
    /// See [`crate::engine::Engine::reached`].
    pub async fn reached(&self, cursor: &Cursor) -> Result<bool, EngineError> {
        let _turn = self.turns.acquire().await;
        match self.try_to_ask(cursor).await {
            Ok(reached) => Ok(reached),
            Err(_) => {
                self.hang_up();
                let asked = self.try_to_ask(cursor).await;
                asked.map_err(|trouble| self.unreadable(&trouble))
            }
        }
    }

    async fn try_to_ask(&self, cursor: &Cursor) -> Result<bool, Trouble> {
        let mut connection = self.connect().await?;
        let mut pipeline = redis::pipe();
        pipeline
            .atomic()
            .cmd("HMGET")
            .arg(&self.namespace.meta)
            .arg(&["log", "sequence"])
            .cmd("LRANGE")
            .arg(&self.namespace.seams)
            .arg(0)
            .arg(-1);
        let [meta, seams]: [Value; 2] = pipeline
            .query_async::<Vec<Value>>(&mut connection.link)
            .await?
            .try_into()
            .map_err(|_| Trouble::Strange("what the log's keys hold"))?;
        let parse = || {
            let [log, last] = <[Value; 2]>::try_from(list(meta)?).ok()?;
            let seams = Seam::list(seams)?;
            let is_its = text(&log) == Some(cursor.log.as_str());
            Some(is_its && cursor.sequence <= number(&last)? && !is_hidden(&seams, cursor.sequence))
        };
        parse().ok_or_else(strange("what the log's keys hold"))
    }

    async fn connect(&self) -> Result<Connection, Trouble> {
        let open = self.slot().clone();
        match open {
            Some(connection) => Ok(connection),
            // Several may do so at once; one of them stays.
            None => {
                let connection = self.server.connect().await?;
                *self.slot() = Some(connection.clone());
                Ok(connection)
            }
        }
    }

    fn hang_up(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, trouble: &Trouble) -> EngineError {
        self.view
            .health
            .read_failures
            .fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.unread.pass() {
            tracing::error!(%trouble, held_back, "can not read the log in Redis");
        }
        EngineError::Unavailable("the log can not be read now: try again later".into())
    }
}

/// Neighbours together: the first and the last of each run.
fn runs(sequences: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for sequence in sequences {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *sequence => *last = *sequence,
            _ => runs.push((*sequence, *sequence)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3, 4, 5, 9, 11, 12]), [(3, 5), (9, 9), (11, 12)]);
    }
}
