//! The retained part of the log, and every way to read it.
//!
//! Of every retained event the window knows topic, position and size. The newest events it holds
//! themselves; where the engine keeps the log, older ones have to be fetched from there.

mod page;
mod recent;
mod rewind;

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use page::Wanted;
use recent::Recent;

pub use page::{Fetched, NoPage, Page, PageLimits, Range};
pub use recent::Latest;
pub use rewind::{RewindScan, RewindStep};

use super::{
    census::TopicRange,
    history::{History, TopicKey},
};
use crate::{
    engine::StoredEvent,
    event::Event,
    subscription::FilterSet,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
    topic::{Tenant, Topic},
};

/// How much of the log is retained; the oldest events go first, whichever bound is hit.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub events: usize,
    /// What the events would take in memory, see [`Event::retained_bytes`].
    pub bytes: usize,
    pub age: Option<Duration>,
    /// Of these bytes, how many stay in memory: the newest events', where the engine keeps all;
    /// `None` where it keeps none.
    pub bytes_in_memory: Option<usize>,
    /// The most positions behind the oldest event that hold none, of ephemeral events and of notes,
    /// where the engine keeps these as long; `None` where it keeps none.
    pub others: Option<usize>,
}

/// The node's window of the log.
///
/// Written by the engine's tail, read by every session at its own pace. The lock is held for
/// bounded work only, and never across an await.
#[derive(Debug)]
pub struct Window {
    retention: Retention,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// Rising by sequence; ephemeral events leave holes.
    retained: VecDeque<Retained>,
    /// How many of the oldest are not in memory.
    stored: usize,
    bytes: usize,
    bytes_in_memory: usize,
    head: u64,
    /// Positions that hold no event to retain, behind the oldest one that is; see [`Retention`].
    others: VecDeque<u64>,
    /// The last event trimmed of any topic; 0 for none.
    trimmed: u64,
    history: History,
    recent: Recent,
}

#[derive(Debug)]
struct Retained {
    /// Beside the event, so that a search does not touch every event that it passes.
    sequence: u64,
    since: Instant,
    bytes: u32,
    key: Arc<TopicKey>,
    /// `None` where only the engine has it.
    event: Option<Arc<Event>>,
}

/// How much of the log there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The sequence of the newest event.
    pub head: u64,
    /// Retained events, and what they would take in memory.
    pub events: usize,
    pub bytes: usize,
    /// What those that are in memory take.
    pub bytes_in_memory: usize,
}

/// Where an event is.
#[derive(Debug)]
pub enum Whereabouts {
    Here(Arc<Event>),
    Stored,
    /// Not retained, if it ever was.
    Gone,
}

impl Window {
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            state: RwLock::new(State::after(0)),
        }
    }

    /// The sequence of the newest event; 0 where there was none yet.
    pub fn head(&self) -> u64 {
        self.read().head
    }

    pub fn extent(&self) -> Extent {
        let state = self.read();
        Extent {
            head: state.head,
            events: state.retained.len(),
            bytes: state.bytes,
            bytes_in_memory: state.bytes_in_memory,
        }
    }

    /// The next topics that have retained events, in the order of tenants and topics, and how many
    /// each has: at most `most` of those that `wanted` admits. Bounded work under the lock; asking
    /// again with the last one goes on from there.
    pub fn topics(&self, wanted: &TopicRange, most: usize) -> Vec<(Tenant, Topic, usize)> {
        self.read().history.topics(wanted, most)
    }

    /// The last retained events of a topic, at most so many, rising; and whether there were none before
    /// them.
    pub fn newest(&self, tenant: &Tenant, topic: &Topic, most: usize) -> (Vec<u64>, bool) {
        self.read().history.newest(tenant, topic, most)
    }

    /// The position just before the oldest retained event.
    pub fn earliest(&self) -> u64 {
        let state = self.read();
        match state.retained.front() {
            Some(oldest) => oldest.sequence - 1,
            None => state.head,
        }
    }

    /// Forgets everything: the log goes on after `head`, and nothing before that is retained.
    pub fn restart(&self, head: u64) {
        let mut state = self.write();
        *state = State::after(head);
        state.trimmed = head;
        state.history.trim_all(head);
    }

    /// Begins with a log whose oldest event comes after `position`: `trims` is what was trimmed
    /// before, see [`Window::trims`].
    pub fn begin_after(&self, position: u64, trims: &[u8]) {
        let mut state = self.write();
        *state = State::after(position);
        state.trimmed = position;
        state.history.restore_trims(trims, position);
    }

    /// Takes the events that the engine has kept after the head and up to a position, in order.
    pub fn restore(&self, events: Vec<StoredEvent>, until: u64) {
        let now = Instant::now();
        let mut state = self.write();
        for event in events {
            state.restore(event, now);
        }
        state.head = until;
        state.recent = Recent::after(until);
        state.trim(&self.retention, now);
    }

    /// What was trimmed of each topic, within fixed bounds: for the engine to keep until the next
    /// run.
    pub fn trims(&self) -> Vec<u8> {
        let trims = self.read().history.trims();
        trims.into_bytes()
    }

    /// Takes the log's next events, in order, and trims what retention no longer holds.
    pub fn extend(&self, events: Vec<Arc<Event>>) {
        let now = Instant::now();
        let mut state = self.write();
        for event in events {
            if event.ephemeral {
                state.pass(event.sequence, &self.retention);
            }
            state.push(event, now);
        }
        state.trim(&self.retention, now);
        if let Some(bytes) = self.retention.bytes_in_memory {
            state.leave_to_engine(bytes);
        }
    }

    /// At a position of the log there is no event; nor is there one between it and the head, if it lies
    /// behind that.
    pub fn advance(&self, position: u64) {
        let mut state = self.write();
        state.head = state.head.max(position);
        state.pass(position, &self.retention);
    }

    /// Trims what lies up to a position, whatever this node would retain.
    pub fn trim_until(&self, position: u64) {
        self.write().trim_until(position);
    }

    /// Trims what has become too old since the last event.
    pub fn trim_expired(&self) {
        if self.retention.age.is_some() {
            self.write().trim(&self.retention, Instant::now());
        }
    }

    /// The next page of retained events that the filters match in a range, of those in memory and
    /// in `fetched`.
    ///
    /// # Errors
    /// [`NoPage::Gap`] where matching events after the position were trimmed; [`NoPage::Stored`]
    /// where the next one is in neither.
    pub fn page(
        &self,
        tenant: &Tenant,
        filters: &FilterSet,
        range: Range,
        limits: PageLimits,
        fetched: &Fetched,
    ) -> Result<Page, NoPage> {
        let state = self.read();
        if state.has_gap(tenant, filters, range.after) {
            return Err(NoPage::Gap);
        }
        state.page((tenant, filters), range, limits, fetched)
    }

    /// Takes a search for events to rewind to one step further, which holds the lock for bounded
    /// work.
    pub fn scan_for_rewind(
        &self,
        tenant: &Tenant,
        filters: &FilterSet,
        scan: &mut RewindScan,
        limits: PageLimits,
        fetched: &Fetched,
    ) -> RewindStep {
        scan.step(&self.read(), (tenant, filters), limits, fetched)
    }

    /// Of these events, from the first on, a page of those that only the engine has.
    pub fn stored_of<'a>(
        &self,
        sequences: impl Iterator<Item = &'a u64>,
        limits: PageLimits,
    ) -> Vec<u64> {
        let state = self.read();
        let mut wanted = Wanted::new(limits);
        for sequence in sequences {
            let Some(retained) = state.get(*sequence) else {
                continue;
            };
            if retained.event.is_none() && !wanted.push(retained) {
                break;
            }
        }
        wanted.into_sequences()
    }

    pub fn event(&self, sequence: u64) -> Whereabouts {
        match self.read().get(sequence).map(|found| &found.event) {
            Some(Some(event)) => Whereabouts::Here(Arc::clone(event)),
            Some(None) => Whereabouts::Stored,
            None => Whereabouts::Gone,
        }
    }

    /// Appends up to `most` of the newest events after a position to `into`.
    pub fn latest(&self, after: u64, most: usize, into: &mut Vec<Arc<Event>>) -> Latest {
        let state = self.read();
        state.recent.latest(after, state.head, most, into)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn after(head: u64) -> Self {
        Self {
            retained: VecDeque::new(),
            stored: 0,
            bytes: 0,
            bytes_in_memory: 0,
            head,
            others: VecDeque::new(),
            trimmed: 0,
            history: History::new(),
            recent: Recent::after(head),
        }
    }

    fn push(&mut self, event: Arc<Event>, now: Instant) {
        debug_assert!(event.sequence > self.head, "the tail is in order");
        self.head = event.sequence;
        self.recent.push(Arc::clone(&event));
        if event.ephemeral {
            return;
        }
        let bytes = u32::try_from(event.retained_bytes()).unwrap_or(u32::MAX);
        self.bytes += bytes as usize;
        self.bytes_in_memory += bytes as usize;
        self.retained.push_back(Retained {
            sequence: event.sequence,
            since: now,
            bytes,
            key: self
                .history
                .push(&event.tenant, &event.topic, event.sequence),
            event: Some(event),
        });
    }

    fn restore(&mut self, event: StoredEvent, now: Instant) {
        debug_assert!(event.sequence > self.head, "the log is in order");
        self.head = event.sequence;
        self.bytes += event.bytes as usize;
        self.stored += 1;
        self.retained.push_back(Retained {
            sequence: event.sequence,
            since: now.checked_sub(event.age).unwrap_or(now),
            bytes: event.bytes,
            key: self
                .history
                .push(&event.tenant, &event.topic, event.sequence),
            event: None,
        });
    }

    fn trim(&mut self, retention: &Retention, now: Instant) {
        while let Some(oldest) = self.retained.front() {
            let too_many = self.retained.len() > retention.events || self.bytes > retention.bytes;
            let too_old = retention
                .age
                .is_some_and(|age| now.duration_since(oldest.since) >= age);
            if !too_many && !too_old {
                return;
            }
            self.trim_oldest();
        }
    }

    fn trim_until(&mut self, position: u64) {
        let is_gone = |oldest: &Retained| oldest.sequence <= position;
        while self.retained.front().is_some_and(is_gone) {
            self.trim_oldest();
        }
    }

    /// Nothing is retained at a position: of many of them the engine can let go only with the events
    /// before them.
    fn pass(&mut self, position: u64, retention: &Retention) {
        let Some(most) = retention.others else {
            return;
        };
        let earliest = self
            .retained
            .front()
            .map_or(self.head, |oldest| oldest.sequence);
        while self.others.front().is_some_and(|other| *other < earliest) {
            self.others.pop_front();
        }
        self.others.push_back(position);
        if self.others.len() > most
            && let Some(other) = self.others.pop_front()
        {
            self.trim_until(other);
        }
    }

    fn trim_oldest(&mut self) {
        let Some(oldest) = self.retained.pop_front() else {
            return;
        };
        self.bytes -= oldest.bytes as usize;
        match oldest.event {
            Some(_) => self.bytes_in_memory -= oldest.bytes as usize,
            None => self.stored -= 1,
        }
        self.trimmed = oldest.sequence;
        self.history.trim(&oldest.key, oldest.sequence);
    }

    /// Lets go of the oldest events in memory, down to so many bytes.
    fn leave_to_engine(&mut self, bytes: usize) {
        while self.bytes_in_memory > bytes
            && let Some(oldest) = self.retained.get_mut(self.stored)
        {
            oldest.event = None;
            self.bytes_in_memory -= oldest.bytes as usize;
            self.stored += 1;
        }
    }

    fn has_gap(&self, tenant: &Tenant, filters: &FilterSet, after: u64) -> bool {
        after < self.trimmed
            && filters.iter().any(|subscription| {
                let after = after.max(subscription.after);
                self.history.trimmed(tenant, &subscription.filter) > after
            })
    }

    /// The index of the first retained event after a position.
    fn index_after(&self, position: u64) -> usize {
        let Some(oldest) = self.retained.front() else {
            return 0;
        };
        if position < oldest.sequence {
            return 0;
        }
        // Without holes the index follows from the sequence; holes only move it forward.
        let without_holes = (position - oldest.sequence) as usize + 1;
        let last = without_holes.min(self.retained.len());
        if last > 0 && self.retained[last - 1].sequence == position {
            return last;
        }
        self.retained
            .partition_point(|retained| retained.sequence <= position)
    }

    fn get(&self, sequence: u64) -> Option<&Retained> {
        let at = self.index_after(sequence).checked_sub(1)?;
        let found = self.retained.get(at)?;
        (found.sequence == sequence).then_some(found)
    }
}
