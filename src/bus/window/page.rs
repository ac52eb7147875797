//! Pages: the events between two positions that a session's filters match, in order.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use super::{Retained, State};
use crate::{
    bus::history::TopicHistory,
    event::Event,
    subscription::{FilterSet, Foretold},
    topic::Tenant,
};

/// Up to this distance a page is found by looking at every event; beyond it, by the topics.
const SCAN_IS_CHEAP: usize = 512;
/// The most events that one page looks at, so that no read holds the lock for long.
pub(super) const SCAN_MOST: usize = 4096;
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

/// Bounds on a page, and on what is fetched for one.
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

/// Why there is no page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPage {
    /// What was asked for is no longer retained: events were missed.
    Gap,
    /// It begins with events that only the engine still has: these, rising, and perhaps more
    /// after them.
    Stored(Vec<u64>),
}

/// Events that were read back from the engine for one session, rising.
#[derive(Debug, Default)]
pub struct Fetched(Vec<Arc<Event>>);

impl Fetched {
    pub fn new(mut events: Vec<Arc<Event>>) -> Self {
        events.sort_unstable_by_key(|event| event.sequence);
        Self(events)
    }

    pub fn get(&self, sequence: u64) -> Option<&Arc<Event>> {
        let at = self
            .0
            .binary_search_by_key(&sequence, |event| event.sequence);
        at.ok().map(|at| &self.0[at])
    }
}

/// What is to be fetched, within a page's limits.
pub(super) struct Wanted {
    sequences: Vec<u64>,
    bytes: usize,
    limits: PageLimits,
}

impl Wanted {
    pub(super) fn new(limits: PageLimits) -> Self {
        Self {
            sequences: Vec::new(),
            bytes: 0,
            limits,
        }
    }

    /// False where there is no room for more. The first always fits.
    pub(super) fn push(&mut self, retained: &Retained) -> bool {
        let bytes = self.bytes + retained.bytes as usize;
        let fits = self.sequences.is_empty()
            || (bytes <= self.limits.bytes && self.sequences.len() < self.limits.events);
        if fits {
            self.bytes = bytes;
            self.sequences.push(retained.sequence);
        }
        fits
    }

    pub(super) fn into_sequences(mut self) -> Vec<u64> {
        self.sequences.sort_unstable();
        self.sequences
    }
}

impl State {
    /// The next page in a range that has no gap.
    pub(super) fn page(
        &self,
        (tenant, filters): (&Tenant, &FilterSet),
        range: Range,
        limits: PageLimits,
        fetched: &Fetched,
    ) -> Result<Page, NoPage> {
        let from = self.index_after(range.after);
        let to = match range.until {
            Some(until) => self.index_after(until).max(from),
            None => self.retained.len(),
        };
        let end = range.until.unwrap_or(self.head);
        let reader = Reader {
            state: self,
            tenant,
            filters,
            fetched,
            page: PageBuilder::new(range.after, limits),
        };
        if to - from > SCAN_IS_CHEAP
            && let Some(topics) = self.topics_of(tenant, filters, range.after)
        {
            return reader.merge(&topics, end);
        }
        reader.scan(from..to, end)
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
}

/// What became of an event that a page came to.
enum Step {
    /// It is in the page, or not wanted.
    Past,
    Full,
    /// Only the engine has it.
    Stored,
}

/// Reads one page.
struct Reader<'a> {
    state: &'a State,
    tenant: &'a Tenant,
    filters: &'a FilterSet,
    fetched: &'a Fetched,
    page: PageBuilder,
}

impl Reader<'_> {
    /// Reads the log in order.
    fn scan(mut self, indices: std::ops::Range<usize>, end: u64) -> Result<Page, NoPage> {
        let most = most_looked_at(self.filters);
        let all_looked_at = indices.len() <= most;
        let mut rest = self.state.retained.range(indices).take(most);
        while let Some(retained) = rest.next() {
            match self.step(retained) {
                Step::Past => self.page.position = retained.sequence,
                Step::Full => return Ok(self.page.cut()),
                Step::Stored => return self.stop_at(retained, rest),
            }
        }
        Ok(if all_looked_at {
            self.page.complete(end)
        } else {
            self.page.cut()
        })
    }

    /// Reads the given topics only, in the order of the log.
    fn merge(mut self, topics: &[&TopicHistory], end: u64) -> Result<Page, NoPage> {
        let after = self.page.position;
        let mut merged = Merged::new(topics, after);
        let most = most_looked_at(self.filters);
        let mut looked_at = 0;
        while let Some(sequence) = merged.next().filter(|sequence| *sequence <= end) {
            looked_at += 1;
            if looked_at > most {
                return Ok(self.page.cut());
            }
            let Some(retained) = self.state.get(sequence) else {
                continue;
            };
            match self.step(retained) {
                Step::Past => self.page.position = sequence,
                Step::Full => return Ok(self.page.cut()),
                Step::Stored => {
                    let state = self.state;
                    let rest = merged.take(most).take_while(|sequence| *sequence <= end);
                    return self.stop_at(retained, rest.filter_map(|sequence| state.get(sequence)));
                }
            }
        }
        Ok(self.page.complete(end))
    }

    fn step(&mut self, retained: &Retained) -> Step {
        if retained.key.tenant != *self.tenant {
            return Step::Past;
        }
        let here = retained.event.as_ref();
        let Some(event) = here.or_else(|| self.fetched.get(retained.sequence)) else {
            return if self.may_want(retained) {
                Step::Stored
            } else {
                Step::Past
            };
        };
        if self.filters.matches(event) && !self.page.push(event) {
            return Step::Full;
        }
        Step::Past
    }

    fn may_want(&self, retained: &Retained) -> bool {
        let topic = retained.key.topic.as_str();
        self.filters.foretell(topic, retained.sequence) != Foretold::Unwanted
    }

    /// The page ends before an event that only the engine has. Where it has come nowhere, that
    /// one is to be fetched, and those after it.
    fn stop_at<'a>(
        self,
        first: &Retained,
        rest: impl Iterator<Item = &'a Retained>,
    ) -> Result<Page, NoPage> {
        if self.page.has_advanced() {
            return Ok(self.page.cut());
        }
        let mut wanted = Wanted::new(self.page.limits);
        wanted.push(first);
        for retained in rest {
            let is_wanted = retained.event.is_none()
                && retained.key.tenant == *self.tenant
                && self.may_want(retained);
            if is_wanted && !wanted.push(retained) {
                break;
            }
        }
        Err(NoPage::Stored(wanted.into_sequences()))
    }
}

/// The sequences of several topics, rising, each once.
struct Merged<'a> {
    readers: Vec<Box<dyn Iterator<Item = u64> + 'a>>,
    next: BinaryHeap<Reverse<(u64, usize)>>,
    last: u64,
}

impl<'a> Merged<'a> {
    fn new(topics: &[&'a TopicHistory], after: u64) -> Self {
        let mut merged = Self {
            readers: Vec::with_capacity(topics.len()),
            next: BinaryHeap::with_capacity(topics.len()),
            last: after,
        };
        for (reader, topic) in topics.iter().enumerate() {
            merged.readers.push(Box::new(topic.after(after)));
            merged.advance(reader);
        }
        merged
    }

    fn advance(&mut self, reader: usize) {
        let following = self.readers[reader].next();
        self.next
            .extend(following.map(|sequence| Reverse((sequence, reader))));
    }
}

impl Iterator for Merged<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            let Reverse((sequence, reader)) = self.next.pop()?;
            self.advance(reader);
            // A topic that two filters match comes twice.
            if sequence > self.last {
                self.last = sequence;
                return Some(sequence);
            }
        }
    }
}

/// How many events may be matched while the lock is held: each pattern is tried on each of them.
fn most_looked_at(filters: &FilterSet) -> usize {
    (SCAN_MOST / filters.pattern_count().max(1)).max(SCAN_LEAST)
}

struct PageBuilder {
    events: Vec<Arc<Event>>,
    bytes: usize,
    after: u64,
    position: u64,
    limits: PageLimits,
}

impl PageBuilder {
    fn new(after: u64, limits: PageLimits) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            after,
            position: after,
            limits,
        }
    }

    fn has_advanced(&self) -> bool {
        self.position > self.after
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
