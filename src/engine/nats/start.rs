//! A node's start: claims the log, and tells the tail what NATS has kept of it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    claim::{Claim, Claiming},
    feed::{Delivered, Feed},
    follower::{Follower, open},
    message::{Mark, Message, Unreadable, decode},
    meta::Numbered,
    names::Names,
    server::{Server, Session, Trouble},
    streams::Bounds,
    trimming::{Recent, Trimming, remembered},
    view::View,
};
use crate::{
    engine::{StoredEvent, Tail, remote::event_at},
    throttle::Throttle,
};

/// How often a log may change while it is read.
const TRIES: usize = 20;
const TRY_AFTER: Duration = Duration::from_millis(100);

/// What a node starts with.
pub struct Start<'a> {
    pub server: &'a Arc<Server>,
    pub names: &'a Arc<Names>,
    pub bounds: Bounds,
    pub view: &'a Arc<View>,
    pub tail: &'a Arc<dyn Tail>,
    /// The most events that the node retains.
    pub retained: usize,
}

/// How far the log was read.
struct Read {
    log: Arc<Numbered>,
    /// The last message.
    sequence: u64,
    position: u64,
    count: usize,
    recent: Recent,
    /// Positions that were read last, without an event to retain.
    others: Vec<u64>,
}

/// A follower that stands where what it was told ends, with its connection.
pub type Started = (Follower, Arc<Session>, Feed);

impl Start<'_> {
    /// # Errors
    /// Where NATS can not be reached, or does not answer.
    pub async fn start(&self) -> Result<Started, Trouble> {
        let session = self.server.connect().await?;
        for _ in 0..TRIES {
            match self.try_to_start(&session).await {
                Err(Trouble::Stale) => tokio::time::sleep(TRY_AFTER).await,
                started => return started,
            }
        }
        Err(Trouble::Contested)
    }

    async fn try_to_start(&self, session: &Arc<Session>) -> Result<Started, Trouble> {
        let witness = self.view.witness();
        let claiming = Claiming {
            session,
            names: self.names,
            bounds: self.bounds,
            witness: &witness,
        };
        let claim = claiming.claim().await?;
        self.view.claimed(&claim);
        let start = Instant::now();
        let mut read = self.begin(&claim).await?;
        let trimmed = read.sequence;
        let mut feed = Feed::open(session, &claim.stream, read.sequence + 1).await?;
        while read.sequence < claim.last {
            let delivered = feed.next().await?;
            if delivered.is_empty() {
                if feed.is_at_end().await? {
                    self.give_up(claim.last, &mut read);
                }
                continue;
            }
            let next = delivered.first().map(|message| message.sequence);
            if next != Some(read.sequence + 1) {
                ensure_nothing_was_trimmed(&claim, read.sequence).await?;
            }
            self.restore(delivered, &mut read);
        }
        tracing::info!(
            log = read.log.log.as_str(),
            last = read.position,
            events = read.count,
            took_ms = start.elapsed().as_millis() as u64,
            "the log is open"
        );
        self.view.follows(&read.log, read.position);
        self.view.health.heard();
        self.view.opened(open(session, &claim, &read.log));
        let follower = Follower {
            server: Arc::clone(self.server),
            names: Arc::clone(self.names),
            bounds: self.bounds,
            view: Arc::clone(self.view),
            tail: Arc::clone(self.tail),
            log: read.log,
            created: claim.meta.created.clone(),
            read: read.sequence,
            position: read.position,
            trimming: Trimming::new(self.retained, trimmed, read.recent),
            foreign: Throttle::default(),
            untrimmed: Arc::default(),
            trims: None,
        };
        Ok((follower, Arc::clone(session), feed))
    }

    /// Begins with what is there, or where the table of what was trimmed ends.
    async fn begin(&self, claim: &Claim) -> Result<Read, Trouble> {
        let log = Arc::new(claim.meta.now.clone());
        let numbering = &log.numbering;
        let sequence = numbering.after().max(claim.first - 1);
        let mut read = Read {
            position: numbering.end_of(sequence),
            sequence,
            count: 0,
            recent: Recent::default(),
            others: Vec::new(),
            log: Arc::clone(&log),
        };
        let remembered = remembered(&claim.meta_stream, self.names, &log).await?;
        // One that tells of less than is gone is of no use.
        let table = remembered.filter(|(position, _)| {
            numbering
                .place(*position)
                .is_some_and(|(trimmed, _)| trimmed > sequence || *position == read.position)
        });
        let mut trims = Vec::new();
        if let Some((position, table)) = table {
            trims = table;
            read.position = read.position.max(position);
            // What lies before is there for its keys only; of the message itself more may be retained.
            if let Some((trimmed, _)) = numbering.place(position) {
                read.sequence = sequence.max(trimmed.saturating_sub(1).min(claim.last));
            }
        }
        self.tail.begin(log.log.clone(), read.position, &trims);
        Ok(read)
    }

    /// What lies up to a message is gone, and nobody knows what it was.
    fn give_up(&self, sequence: u64, read: &mut Read) {
        tracing::error!(read = read.sequence, gone = sequence, "the log has a hole");
        read.count = 0;
        read.sequence = sequence;
        read.position = read.log.numbering.end_of(sequence);
        self.tail.begin(read.log.log.clone(), read.position, &[]);
    }

    fn restore(&self, delivered: Vec<Delivered>, read: &mut Read) {
        let mut events = Vec::new();
        for message in delivered {
            let is_next = message.sequence == read.sequence + 1;
            if !is_next || !self.take(&message, read, &mut events) {
                events.clear();
                self.give_up(message.sequence - u64::from(!is_next), read);
                if !is_next && !self.take(&message, read, &mut events) {
                    read.sequence = message.sequence;
                }
            }
        }
        self.tail.restore(events, read.position);
        for position in read.others.drain(..) {
            self.tail.advance(position);
        }
    }

    /// False where it is damaged.
    fn take(&self, message: &Delivered, read: &mut Read, events: &mut Vec<StoredEvent>) -> bool {
        let mark = Mark::of(message.sequence, &message.payload);
        self.view.saw(&read.log, mark);
        read.recent.came(message.sequence, message.published);
        let records = match decode(&message.payload) {
            Ok(Message::Publish(published)) => published.events,
            // What nodes told each other before is not for this one.
            Ok(Message::Note(_)) => {
                read.sequence = message.sequence;
                let position = read.log.numbering.position(message.sequence, 0);
                read.position = read.position.max(position.unwrap_or_default());
                read.others.extend(position);
                return true;
            }
            Err(Unreadable::Foreign) => Vec::new(),
            Err(Unreadable::Damaged(_)) => return false,
        };
        read.sequence = message.sequence;
        for (index, record) in records.into_iter().enumerate() {
            let position = read.log.numbering.position(message.sequence, index as u64);
            // What the table tells of as trimmed is no more to be had.
            let Some(position) = position.filter(|position| *position > read.position) else {
                continue;
            };
            read.position = position;
            let now = jiff::Timestamp::now().as_millisecond();
            let age = u64::try_from(now.saturating_sub(record.stamp.at)).unwrap_or(0);
            let event = event_at(record, &read.log.log, position);
            if event.ephemeral {
                read.others.push(position);
            } else {
                read.count += 1;
                events.push(StoredEvent {
                    sequence: position,
                    bytes: u32::try_from(event.retained_bytes()).unwrap_or(u32::MAX),
                    tenant: event.tenant,
                    topic: event.topic,
                    age: Duration::from_millis(age),
                });
            }
        }
        true
    }
}

/// # Errors
/// [`Trouble::Stale`] where others have trimmed what comes after a message.
async fn ensure_nothing_was_trimmed(claim: &Claim, sequence: u64) -> Result<(), Trouble> {
    let info = claim.stream.get_info().await;
    let info = info.map_err(|error| Trouble::asked("to tell of the log", &error))?;
    match info.state.first_sequence > sequence + 1 {
        true => Err(Trouble::Stale),
        false => Ok(()),
    }
}
