//! A node's start: claims the log, and tells the tail what Redis has kept of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use redis::Value;

use super::{
    entry::{Content, Entry, Place, event_at},
    follower::{Follower, PATIENCE, Trimming},
    namespace::Namespace,
    reply::strange,
    script::{Claim, Seam, claim, look},
    server::{Connection, Server, Trouble},
    view::View,
};
use crate::{
    engine::{StoredEvent, Tail},
    event::LogId,
    throttle::Throttle,
};

/// Entries of one answer, each of which may have 64 KiB and more.
const PAGE: usize = 256;
/// How often a log may change while it is read.
const TRIES: usize = 5;

/// A follower that stands where what it was told ends, with its connection.
///
/// # Errors
/// Where Redis can not be reached, or does not answer.
pub async fn start(
    server: &Arc<Server>,
    namespace: &Arc<Namespace>,
    view: &Arc<View>,
    tail: &Arc<dyn Tail>,
    retained: usize,
) -> Result<(Follower, Connection), Trouble> {
    let mut start = Start {
        connection: server.connect_for(PATIENCE).await?,
        namespace,
        view,
        tail: tail.as_ref(),
    };
    let (log, read) = start.restore_log().await?;
    view.follows(&log, read.position);
    view.health.heard();
    let follower = Follower {
        server: Arc::clone(server),
        namespace: Arc::clone(namespace),
        view: Arc::clone(view),
        tail: Arc::clone(tail),
        log,
        position: read.position,
        read: read.place,
        doubted: None,
        trimming: Trimming::new(retained, read.trimmed),
        foreign: Throttle::default(),
        untrimmed: Throttle::default(),
    };
    Ok((follower, start.connection))
}

struct Start<'a> {
    connection: Connection,
    namespace: &'a Namespace,
    view: &'a View,
    tail: &'a dyn Tail,
}

/// How far the log was read.
struct Read {
    position: u64,
    place: Place,
    trimmed: u64,
    /// Positions of the page without an event to retain.
    others: Vec<u64>,
}

impl Start<'_> {
    async fn restore_log(&mut self) -> Result<(LogId, Read), Trouble> {
        let mut is_lost = false;
        for _ in 0..TRIES {
            let witness = self.view.witness();
            let claim = claim(&mut self.connection, self.namespace, &witness, is_lost).await?;
            self.view.claimed(&claim, &self.connection.facts);
            match self.restore(&claim).await? {
                Some(read) => return Ok((claim.log, read)),
                None => is_lost = self.has_lost(&claim).await?,
            }
        }
        Err(Trouble::Contested)
    }

    /// Whether what could not be read is lost, and was not trimmed or left behind meanwhile.
    async fn has_lost(&mut self, claim: &Claim) -> Result<bool, Trouble> {
        let now = look(&mut self.connection, self.namespace, &claim.log, None).await?;
        let identity = &self.connection.facts.identity;
        Ok(now.is_as_claimed(identity, &claim.log) && now.trimmed == claim.trimmed)
    }

    /// Tells the tail of all events up to the last that was claimed; `None` where there is a hole.
    async fn restore(&mut self, claim: &Claim) -> Result<Option<Read>, Trouble> {
        let trims = self.trims(claim.trimmed).await?;
        self.tail.begin(claim.log.clone(), claim.trimmed, &trims);
        let mut read = Read {
            position: claim.trimmed,
            place: Place::of(claim.trimmed),
            trimmed: claim.trimmed,
            others: Vec::new(),
        };
        let start = Instant::now();
        let mut count = 0;
        while read.position < claim.last {
            let entries = self.page(read.place).await?;
            if entries.is_empty() {
                return Ok(None);
            }
            let mut events = Vec::with_capacity(entries.len());
            for entry in entries {
                // What comes behind is for the follower, and may be anything yet.
                if read.position >= claim.last {
                    break;
                }
                if !self.take(entry, claim, &mut read, &mut events) {
                    return Ok(None);
                }
            }
            count += events.len();
            self.tail.restore(events, read.position);
            for position in read.others.drain(..) {
                self.tail.advance(position);
            }
        }
        tracing::info!(
            log = claim.log.as_str(),
            last = read.position,
            events = count,
            took_ms = start.elapsed().as_millis() as u64,
            "the log is open"
        );
        Ok(Some(read))
    }

    /// False where the entry is not what comes next.
    fn take(
        &self,
        entry: Entry,
        claim: &Claim,
        read: &mut Read,
        events: &mut Vec<StoredEvent>,
    ) -> bool {
        let Place { sequence, part } = entry.place;
        match entry.content() {
            _ if part != 0 && sequence == read.position => {}
            Ok(Content::Event(record)) if part == 0 && sequence == read.position + 1 => {
                let age = jiff::Timestamp::now()
                    .as_millisecond()
                    .saturating_sub(record.stamp.at);
                let event = event_at(record, &claim.log, sequence);
                read.position = sequence;
                if event.ephemeral {
                    read.others.push(sequence);
                } else {
                    events.push(StoredEvent {
                        sequence,
                        bytes: u32::try_from(event.retained_bytes()).unwrap_or(u32::MAX),
                        tenant: event.tenant,
                        topic: event.topic,
                        age: Duration::from_millis(u64::try_from(age).unwrap_or(0)),
                    });
                }
            }
            // What nodes told each other before is not for this one.
            Ok(Content::Note(_)) if part == 0 && sequence == read.position + 1 => {
                read.position = sequence;
                read.others.push(sequence);
            }
            Ok(Content::Seam { from }) if part == 0 && from == read.position => {
                self.view.passed(Seam { from, to: sequence });
                read.position = sequence;
            }
            Ok(_) | Err(_) => return false,
        }
        read.place = entry.place;
        true
    }

    async fn page(&mut self, after: Place) -> Result<Vec<Entry>, Trouble> {
        let mut range = redis::cmd("XRANGE");
        range
            .arg(&self.namespace.log)
            .arg(format!("({after}"))
            .arg("+")
            .arg("COUNT")
            .arg(PAGE);
        let answer: Value = range.query_async(&mut self.connection.link).await?;
        Entry::of_range(answer).ok_or_else(strange("what XRANGE gives"))
    }

    /// What was trimmed of each topic up to a position; nothing where nobody knows.
    async fn trims(&mut self, until: u64) -> Result<Vec<u8>, Trouble> {
        let mut get = redis::cmd("GET");
        get.arg(&self.namespace.trims);
        let stored: Option<Vec<u8>> = get.query_async(&mut self.connection.link).await?;
        let stored = stored.unwrap_or_default();
        let end = stored.iter().position(|byte| *byte == b' ');
        let (position, table) = stored.split_at(end.unwrap_or_default());
        match position == until.to_string().as_bytes() {
            true => Ok(table[1..].to_vec()),
            false => Ok(Vec::new()),
        }
    }
}
