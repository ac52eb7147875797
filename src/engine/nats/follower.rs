//! The one task that tells the tail of the log: claims it, restores what NATS has kept, follows it,
//! and does all of that again whenever something is not as it was.
//!
//! ```text
//! claim ─▶ same log, and this node's positions stand? ─▶ go on after the last message
//!          another one, or they do not               ─▶ Tail::restart
//! next message ─▶ the next sequence? ─▶ Tail::extend
//!                 anything else      ─▶ what lies in between is gone: Tail::restart behind it
//! ```

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use super::{
    Backoff,
    claim::{Claim, Claiming, created_at},
    feed::{Delivered, Feed},
    message::{Mark, Message, Unreadable, decode},
    meta::{self, Numbered},
    names::Names,
    server::{Server, Session, Trouble},
    streams::Bounds,
    trimming::Trimming,
    view::{Open, View},
};
use crate::{
    engine::{Tail, remote::event_at},
    event::Event,
    throttle::Throttle,
};

/// How often the log is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How often in a row a log may have to be claimed again on one connection.
const CLAIMS: usize = 8;

/// The follower's task.
pub struct Follower {
    pub server: Arc<Server>,
    pub names: Arc<Names>,
    pub bounds: Bounds,
    pub view: Arc<View>,
    pub tail: Arc<dyn Tail>,
    pub log: Arc<Numbered>,
    /// When the stream was made, see [`created_at`].
    pub created: String,
    /// The last message that was read, of others too.
    pub read: u64,
    /// Of the last event that the tail was told of, or where it was told to begin.
    pub position: u64,
    pub trimming: Trimming,
    pub foreign: Throttle,
    pub untrimmed: Arc<Throttle>,
    /// What is being trimmed now.
    pub trims: Option<JoinHandle<()>>,
}

impl Follower {
    /// Follows until it is dropped.
    pub async fn run(mut self, session: Arc<Session>, feed: Feed) {
        let mut backoff = Backoff::default();
        let mut begun = Some((session, feed));
        loop {
            let followed = match begun.take() {
                Some((session, feed)) => self.stay(session, Some(feed), &mut backoff).await,
                None => match self.server.connect().await {
                    Ok(session) => self.stay(session, None, &mut backoff).await,
                    Err(trouble) => Err(trouble),
                },
            };
            let trouble = match followed {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            tracing::debug!(%trouble, "the log in NATS can not be followed now");
            self.view.is_cut_off(&trouble);
            backoff.wait().await;
        }
    }

    /// Follows on one connection.
    async fn stay(
        &mut self,
        session: Arc<Session>,
        mut feed: Option<Feed>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        let mut stale = 0;
        loop {
            let mut feed = match feed.take() {
                Some(feed) => feed,
                None => self.claim(&session).await?,
            };
            let since = Instant::now();
            let trouble = match self.pump(&session, &mut feed, backoff).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            stale = if since.elapsed() < LOOK_AFTER {
                stale + 1
            } else {
                0
            };
            match trouble {
                Trouble::Stale if stale < CLAIMS => backoff.wait().await,
                trouble => return Err(trouble),
            }
        }
    }

    /// A feed that goes on where the tail stands.
    async fn claim(&mut self, session: &Arc<Session>) -> Result<Feed, Trouble> {
        self.view.close();
        // What it would let go of may be another log's by now.
        if let Some(trims) = self.trims.take() {
            trims.abort();
        }
        let witness = self.view.witness();
        let claiming = Claiming {
            session,
            names: &self.names,
            bounds: self.bounds,
            witness: &witness,
        };
        let claim = claiming.claim().await?;
        self.view.claimed(&claim);
        self.adopt(&claim);
        let feed = Feed::open(session, &claim.stream, self.read + 1).await?;
        self.view.opened(open(session, &claim, &self.log));
        Ok(feed)
    }

    /// Goes over to what was claimed. What this node's clients have seen of another log is no part
    /// of it, and positions that were given up stand for nothing.
    fn adopt(&mut self, claim: &Claim) {
        let is_same = claim.meta.now.log == self.log.log;
        let stands = is_same && claim.meta.now.numbering.knows(self.position);
        self.log = Arc::new(claim.meta.now.clone());
        self.created.clone_from(&claim.meta.created);
        if !stands {
            self.restart_in(claim);
        }
        self.view.follows(&self.log, self.position);
    }

    /// At the beginning, unless that would take this node's clients back: positions rise.
    fn restart_in(&mut self, claim: &Claim) {
        let numbering = &self.log.numbering;
        let begin = numbering.after().max(claim.first - 1);
        let passed = self.view.witness().position.max(self.position);
        let (sequence, position) = match numbering.end_of(begin) {
            position if position > passed => (begin, position),
            _ => (claim.last, numbering.top(claim.last)),
        };
        self.restart(sequence, position);
    }

    /// Nothing up to a message can be had any more.
    fn restart_after(&mut self, sequence: u64) {
        self.restart(sequence, self.log.numbering.end_of(sequence));
    }

    fn restart(&mut self, sequence: u64, position: u64) {
        self.read = sequence;
        self.position = position;
        self.trimming.restart(sequence);
        self.tail.restart(self.log.log.clone(), self.position);
        self.view.follows(&self.log, self.position);
    }

    async fn pump(
        &mut self,
        session: &Session,
        feed: &mut Feed,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        let mut looked = Instant::now();
        loop {
            let delivered = tokio::select! {
                biased;
                delivered = feed.next() => delivered?,
                () = session.lost() => return Err(Trouble::Cut),
            };
            self.view.health.heard();
            self.take(delivered).await?;
            if looked.elapsed() >= LOOK_AFTER {
                self.look_after().await?;
                backoff.reset();
                looked = Instant::now();
            }
        }
    }

    /// Tells the tail of what was delivered.
    async fn take(&mut self, delivered: Vec<Delivered>) -> Result<(), Trouble> {
        let mut events = Vec::with_capacity(delivered.len());
        for message in delivered {
            if message.sequence != self.read + 1 {
                self.tell(&mut events);
                self.skip_to(message.sequence).await?;
            }
            self.read = message.sequence;
            self.take_one(&message, &mut events);
        }
        self.tell(&mut events);
        Ok(())
    }

    fn take_one(&mut self, message: &Delivered, events: &mut Vec<Arc<Event>>) {
        let mark = Mark::of(message.sequence, &message.payload);
        self.view.saw(&self.log, mark);
        self.trimming.came(message.sequence, message.published);
        let records = match decode(&message.payload) {
            Ok(Message::Publish(published)) => published.events,
            Ok(Message::Note(note)) => return self.take_note(message.sequence, &note, events),
            Err(Unreadable::Foreign) => return self.note_foreign(message.sequence),
            Err(unreadable @ Unreadable::Damaged(_)) => {
                tracing::error!(sequence = message.sequence, %unreadable, "a message is damaged");
                self.view.health.lost_logs.fetch_add(1, Ordering::Relaxed);
                self.tell(events);
                return self.restart_after(message.sequence);
            }
        };
        for (index, record) in records.into_iter().enumerate() {
            let Some(position) = self.log.numbering.position(message.sequence, index as u64) else {
                continue;
            };
            self.position = position;
            events.push(Arc::new(event_at(record, &self.log.log, position)));
        }
    }

    fn take_note(&mut self, sequence: u64, note: &[u8], events: &mut Vec<Arc<Event>>) {
        self.tell(events);
        if let Some(position) = self.log.numbering.position(sequence, 0) {
            self.position = position;
        }
        self.view.follows(&self.log, self.position);
        self.tail.told(note);
        self.tail.advance(self.position);
    }

    fn tell(&self, events: &mut Vec<Arc<Event>>) {
        // Whoever hears of an event may come back with its cursor at once.
        self.view.follows(&self.log, self.position);
        if !events.is_empty() {
            self.tail.extend(std::mem::take(events));
        }
    }

    fn note_foreign(&self, sequence: u64) {
        self.view.health.foreign.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.foreign.pass() {
            tracing::warn!(
                sequence,
                held_back,
                "skipped a message of the log that no gateway wrote"
            );
        }
    }

    /// What lies before a message is not there any more, and this node has not read it.
    async fn skip_to(&mut self, sequence: u64) -> Result<(), Trouble> {
        let open = self.view.open().ok_or(Trouble::Stale)?;
        let info = open.stream.get_info().await;
        let info = info.map_err(|error| Trouble::asked("to tell of the log", &error))?;
        if info.state.first_sequence >= sequence {
            tracing::warn!(
                read = self.read,
                first = sequence,
                "messages were trimmed before this node had read them"
            );
        } else {
            tracing::error!(read = self.read, next = sequence, "the log has a hole");
            self.view.health.lost_logs.fetch_add(1, Ordering::Relaxed);
        }
        self.restart_after(sequence - 1);
        Ok(())
    }

    /// Does what is due, about once a second: notices what became of the log while nothing was
    /// published, and lets go of what is not retained.
    async fn look_after(&mut self) -> Result<(), Trouble> {
        let open = self.view.open().ok_or(Trouble::Stale)?;
        let info = open.stream.get_info().await;
        let info = match info {
            Ok(info) => info,
            // It may be gone.
            Err(error) => {
                tracing::debug!(%error, "the log's stream can not be asked");
                return Err(Trouble::Stale);
            }
        };
        let stored = meta::read(&open.meta_stream, &self.names).await?;
        let is_same = stored.meta.is_some_and(|meta| meta.now == *self.log);
        let last = info.state.last_sequence;
        if !is_same || created_at(&info) != self.created || last < self.read {
            return Err(Trouble::Stale);
        }
        self.view
            .health
            .stored_bytes
            .store(info.state.bytes, Ordering::Relaxed);
        self.note_trimmed(info.state.first_sequence.saturating_sub(1).min(self.read));
        self.trim(open);
        Ok(())
    }

    /// Beside the deliveries, which do not wait for it; a log that can not be trimmed is followed all
    /// the same.
    fn trim(&mut self, open: Arc<Open>) {
        if self
            .trims
            .as_ref()
            .is_some_and(|trims| !trims.is_finished())
        {
            return;
        }
        let due = self
            .trimming
            .take_due(&self.log.numbering, self.tail.as_ref());
        let Some(trim) = due else {
            return;
        };
        let (names, untrimmed) = (Arc::clone(&self.names), Arc::clone(&self.untrimmed));
        self.trims = Some(tokio::spawn(async move {
            if let Err(trouble) = trim.carry_out(&open, &names).await
                && let Some(held_back) = untrimmed.pass()
            {
                tracing::warn!(%trouble, held_back, "the log in NATS can not be trimmed");
            }
        }));
    }

    fn note_trimmed(&mut self, until: u64) {
        if until > self.trimming.until {
            self.trimming.until = until;
            self.tail.trim(self.log.numbering.end_of(until));
        }
    }
}

/// What a claim opens.
pub fn open(session: &Arc<Session>, claim: &Claim, log: &Arc<Numbered>) -> Open {
    Open {
        session: Arc::clone(session),
        stream: claim.stream.clone(),
        meta_stream: claim.meta_stream.clone(),
        log: Arc::clone(log),
        before: claim.meta.before.clone(),
    }
}
