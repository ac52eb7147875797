//! The retained part of the log in memory, and every way to read it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use super::{
    census::TopicRange,
    history::{History, TopicHistory},
};
use crate::{
    event::Event,
    subscription::FilterSet,
    topic::{Tenant, Topic},
};

/// How much of the log is retained; the oldest events go first, whichever bound is hit.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub events: usize,
    /// What the events take in memory, see [`Event::retained_bytes`].
    pub bytes: usize,
    pub age: Option<Duration>,
}

/// The newest events are kept for the shards whatever retention says, until each has dispatched
/// them, which takes milliseconds. So live clients miss nothing where retention is shorter than a
/// burst. A shard that is further behind reads the log, and misses ephemeral events.
const RECENT_EVENTS: usize = 8192;
const RECENT_BYTES: usize = 16 * 1024 * 1024;

/// Up to this distance a page is found by looking at every event; beyond it, by the topics.
const SCAN_IS_CHEAP: usize = 512;
/// The most events that one page looks at, so that no read holds the lock for long.
const SCAN_MOST: usize = 4096;
/// And the fewest, however many patterns each event is tried against.
const SCAN_LEAST: usize = 64;
/// The most topics that one page merges.
const MERGE_TOPICS: usize = 1024;

/// Events between two positions that match, in order.
#[derive(Debug, Default)]
pub struct Page {
    pub events: Vec<Arc<Event>>,
    /// Everything that matches up to here is in the page or was before it.
    pub position: u64,
    /// The position is the end of what was asked for.
    pub complete: bool,
}

/// Bounds on a page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    pub events: usize,
    /// Of encoded envelopes; a page always takes at least one event.
    pub bytes: usize,
}

/// From where to where a page may reach.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub after: u64,
    /// Inclusive; `None` for the end of the log.
    pub until: Option<u64>,
}

/// What was asked for is no longer retained: events were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap;

/// The newest events, for a shard to dispatch.
#[derive(Debug)]
pub enum Latest {
    /// All events of the log up to the position, ephemeral ones too; fewer than asked for means
    /// that the position is the head.
    Events(u64),
    /// The shard is so far behind that it has to leave its sessions to read the log; the head is at
    /// the position.
    Behind(u64),
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
    bytes: usize,
    head: u64,
    /// The last event trimmed of any topic; 0 for none.
    trimmed: u64,
    history: History,
    recent: Recent,
}

/// The newest events, ephemeral ones too, rising by sequence.
#[derive(Debug, Default)]
struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The last event that is not here any more.
    forgotten: u64,
}

#[derive(Debug)]
struct Retained {
    /// Beside the event, so that a search does not touch every event that it passes.
    sequence: u64,
    since: Instant,
    event: Arc<Event>,
}

/// A search for the last so many events of each of many topics, which may take several steps.
#[derive(Debug)]
pub struct RewindScan {
    count: usize,
    /// Events after this position do not count.
    until: u64,
    /// How many of the filters have been searched.
    filter: usize,
    /// Where to go on within the next filter's topics; at the first where there is none.
    place: Option<Place>,
    found: Vec<u64>,
}

/// A place within one topic's history, which is searched from its end.
#[derive(Clone, Debug)]
struct Place {
    topic: Topic,
    /// Events from here on have been looked at.
    below: u64,
    taken: usize,
}

/// How much of the log there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The sequence of the newest event.
    pub head: u64,
    /// Retained events, and what they take in memory.
    pub events: usize,
    pub bytes: usize,
}

impl Window {
    pub fn new(retention: Retention) -> Self {
        Self {
            retention,
            state: RwLock::new(State {
                retained: VecDeque::new(),
                bytes: 0,
                head: 0,
                trimmed: 0,
                history: History::new(),
                recent: Recent::default(),
            }),
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
        }
    }

    /// The next topics that have retained events, in the order of tenants and topics, and how many
    /// each has: at most `most` of those that `wanted` admits. Bounded work under the lock; asking
    /// again with the last one goes on from there.
    pub fn topics(&self, wanted: &TopicRange, most: usize) -> Vec<(Tenant, Topic, usize)> {
        self.read().history.topics(wanted, most)
    }

    /// The position just before the oldest retained event.
    pub fn earliest(&self) -> u64 {
        let state = self.read();
        match state.retained.front() {
            Some(oldest) => oldest.sequence - 1,
            None => state.head,
        }
    }

    /// Takes the log's next events, in order, and trims what retention no longer holds.
    pub fn extend(&self, events: Vec<Arc<Event>>) {
        let now = Instant::now();
        let mut state = self.write();
        for event in events {
            state.push(event, now);
        }
        state.trim(&self.retention, now);
    }

    /// Trims what has become too old since the last event.
    pub fn trim_expired(&self) {
        if self.retention.age.is_some() {
            self.write().trim(&self.retention, Instant::now());
        }
    }

    /// Whether something that the filters match was trimmed after the position.
    pub fn has_gap(&self, tenant: &Tenant, filters: &FilterSet, after: u64) -> bool {
        self.read().has_gap(tenant, filters, after)
    }

    /// The next page of retained events that the filters match in a range.
    ///
    /// # Errors
    /// [`Gap`] where matching events after the position were trimmed.
    pub fn page(
        &self,
        tenant: &Tenant,
        filters: &FilterSet,
        range: Range,
        limits: PageLimits,
    ) -> Result<Page, Gap> {
        let state = self.read();
        if state.has_gap(tenant, filters, range.after) {
            return Err(Gap);
        }
        let from = state.index_after(range.after);
        let to = match range.until {
            Some(until) => state.index_after(until).max(from),
            None => state.retained.len(),
        };
        let page = PageBuilder::new(range.after, limits);
        let end = range.until.unwrap_or(state.head);
        if to - from > SCAN_IS_CHEAP
            && let Some(topics) = state.topics_of(tenant, filters, range.after)
        {
            return Ok(state.merge(page, &topics, filters, end));
        }
        Ok(state.scan(page, tenant, filters, from..to, end))
    }

    /// Takes a search for events to rewind to one step further, which holds the lock for bounded
    /// work; true where it is complete.
    pub fn scan_for_rewind(
        &self,
        tenant: &Tenant,
        filters: &FilterSet,
        scan: &mut RewindScan,
    ) -> bool {
        let state = self.read();
        let mut budget = SCAN_MOST;
        for subscription in filters.iter().skip(scan.filter) {
            let place = scan.place.take();
            let from = place.as_ref().map(|place| &place.topic);
            for (topic, history) in state.history.candidates(tenant, &subscription.filter, from) {
                let mut place = match &place {
                    Some(place) if place.topic == *topic => place.clone(),
                    _ => Place::start_of(topic),
                };
                if budget == 0 {
                    scan.place = Some(place);
                    return false;
                }
                budget -= 1;
                if subscription.filter.matches(topic.as_str())
                    && !scan.take_from(&state, filters, history, &mut place, &mut budget)
                {
                    scan.place = Some(place);
                    return false;
                }
            }
            scan.filter += 1;
        }
        true
    }

    /// The event of a sequence, where it is still retained.
    pub fn event(&self, sequence: u64) -> Option<Arc<Event>> {
        self.read().event(sequence).cloned()
    }

    /// Appends up to `most` of the newest events after a position to `into`.
    pub fn latest(&self, after: u64, most: usize, into: &mut Vec<Arc<Event>>) -> Latest {
        let state = self.read();
        if after < state.recent.forgotten {
            return Latest::Behind(state.head);
        }
        let events = &state.recent.events;
        let from = events.partition_point(|event| event.sequence <= after);
        let unseen = events.range(from..);
        let all_fit = unseen.len() <= most;
        into.extend(unseen.take(most).map(Arc::clone));
        match into.last() {
            Some(last) if !all_fit => Latest::Events(last.sequence),
            _ => Latest::Events(state.head),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RewindScan {
    pub fn new(count: usize, until: u64) -> Self {
        Self {
            count,
            until,
            filter: 0,
            place: None,
            found: Vec::new(),
        }
    }

    /// What was found, in the order of the log.
    pub fn into_sequences(mut self) -> Vec<u64> {
        self.found.sort_unstable();
        self.found.dedup();
        self.found
    }

    /// Takes the last matching events of one topic; false where the budget ran out, with the place
    /// to go on from.
    fn take_from(
        &mut self,
        state: &State,
        filters: &FilterSet,
        history: &TopicHistory,
        place: &mut Place,
        budget: &mut usize,
    ) -> bool {
        let cost = filters.pattern_count().max(1);
        let below = place.below.min(self.until.saturating_add(1));
        let to = history.sequences.partition_point(|seq| *seq < below);
        for sequence in history.sequences.range(..to).rev().copied() {
            if place.taken == self.count {
                return true;
            }
            if *budget == 0 {
                return false;
            }
            *budget = budget.saturating_sub(cost);
            place.below = sequence;
            if state
                .event(sequence)
                .is_some_and(|event| filters.matches(event))
            {
                self.found.push(sequence);
                place.taken += 1;
            }
        }
        true
    }
}

impl Place {
    fn start_of(topic: &Topic) -> Self {
        Self {
            topic: topic.clone(),
            below: u64::MAX,
            taken: 0,
        }
    }
}

impl Recent {
    fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.retained_bytes();
        self.events.push_back(event);
        while self.events.len() > RECENT_EVENTS || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.retained_bytes();
            self.forgotten = oldest.sequence;
        }
    }
}

impl State {
    fn push(&mut self, event: Arc<Event>, now: Instant) {
        debug_assert!(event.sequence > self.head, "the tail is in order");
        self.head = event.sequence;
        self.recent.push(Arc::clone(&event));
        if event.ephemeral {
            return;
        }
        self.history
            .push(&event.tenant, &event.topic, event.sequence);
        self.bytes += event.retained_bytes();
        self.retained.push_back(Retained {
            sequence: event.sequence,
            since: now,
            event,
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

    fn trim_oldest(&mut self) {
        let Some(Retained { event, .. }) = self.retained.pop_front() else {
            return;
        };
        self.bytes -= event.retained_bytes();
        self.trimmed = event.sequence;
        self.history
            .trim(&event.tenant, &event.topic, event.sequence);
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

    fn event(&self, sequence: u64) -> Option<&Arc<Event>> {
        let at = self.index_after(sequence).checked_sub(1)?;
        let found = self.retained.get(at)?;
        (found.sequence == sequence).then_some(&found.event)
    }

    /// The topics that hold something for the filters after a position; `None` where there are
    /// so many to look at that reading the log in order is cheaper.
    fn topics_of<'a>(
        &'a self,
        tenant: &'a Tenant,
        filters: &'a FilterSet,
        after: u64,
    ) -> Option<Vec<&'a TopicHistory>> {
        let mut found = Vec::new();
        let mut looked_at = 0;
        for history in self.all_histories_near(tenant, filters) {
            looked_at += 1;
            if looked_at > MERGE_TOPICS {
                return None;
            }
            if let Some(history) = history
                && history.has_after(after)
            {
                found.push(history);
            }
        }
        Some(found)
    }

    /// Each topic that the filters may match once for each such filter; `None` for one that was
    /// looked at and does not match.
    fn all_histories_near<'a>(
        &'a self,
        tenant: &'a Tenant,
        filters: &'a FilterSet,
    ) -> impl Iterator<Item = Option<&'a TopicHistory>> + use<'a> {
        let literals = filters
            .literals()
            .iter()
            .map(|subscription| self.history.topic(tenant, subscription.filter.as_str()));
        let patterns = filters.patterns().iter().flat_map(|subscription| {
            let filter = &subscription.filter;
            self.history
                .with_prefix_of(tenant, filter)
                .map(|(topic, history)| filter.matches(topic.as_str()).then_some(history))
        });
        literals.chain(patterns)
    }

    /// Reads the log in order.
    fn scan(
        &self,
        mut page: PageBuilder,
        tenant: &Tenant,
        filters: &FilterSet,
        indices: std::ops::Range<usize>,
        end: u64,
    ) -> Page {
        let most = most_looked_at(filters);
        let all_looked_at = indices.len() <= most;
        for retained in self.retained.range(indices).take(most) {
            let event = &retained.event;
            if event.tenant == *tenant && filters.matches(event) && !page.push(event) {
                return page.cut();
            }
            page.position = retained.sequence;
        }
        if all_looked_at {
            page.complete(end)
        } else {
            page.cut()
        }
    }

    /// Reads the given topics only, in the order of the log.
    fn merge(
        &self,
        mut page: PageBuilder,
        topics: &[&TopicHistory],
        filters: &FilterSet,
        end: u64,
    ) -> Page {
        let after = page.position;
        let mut readers: Vec<_> = topics.iter().map(|topic| topic.after(after)).collect();
        let mut next = BinaryHeap::new();
        for (reader, sequences) in readers.iter_mut().enumerate() {
            next.extend(sequences.next().map(|sequence| Reverse((sequence, reader))));
        }
        let most = most_looked_at(filters);
        let mut looked_at = 0;
        while let Some(Reverse((sequence, reader))) = next.pop() {
            if sequence > end {
                break;
            }
            looked_at += 1;
            if looked_at > most {
                return page.cut();
            }
            let following = readers[reader].next();
            next.extend(following.map(|following| Reverse((following, reader))));
            // A topic that two filters match comes twice.
            if sequence == page.position {
                continue;
            }
            if let Some(event) = self.event(sequence)
                && filters.matches(event)
                && !page.push(event)
            {
                return page.cut();
            }
            page.position = sequence;
        }
        page.complete(end)
    }
}

/// How many events may be matched while the lock is held: each pattern is tried on each of them.
fn most_looked_at(filters: &FilterSet) -> usize {
    (SCAN_MOST / filters.pattern_count().max(1)).max(SCAN_LEAST)
}

struct PageBuilder {
    events: Vec<Arc<Event>>,
    bytes: usize,
    position: u64,
    limits: PageLimits,
}

impl PageBuilder {
    fn new(after: u64, limits: PageLimits) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            position: after,
            limits,
        }
    }

    /// False where the event does not fit any more.
    fn push(&mut self, event: &Arc<Event>) -> bool {
        let len = event.json().len();
        let full = self.events.len() >= self.limits.events
            || (!self.events.is_empty() && self.bytes + len > self.limits.bytes);
        if !full {
            self.bytes += len;
            self.events.push(Arc::clone(event));
        }
        !full
    }

    /// The page ends at its last position, and there may be more.
    fn cut(self) -> Page {
        Page {
            events: self.events,
            position: self.position,
            complete: false,
        }
    }

    fn complete(self, end: u64) -> Page {
        Page {
            events: self.events,
            position: end.max(self.position),
            complete: true,
        }
    }
}
