//! The last so many events of each matching topic.

use super::{
    Fetched, PageLimits, State,
    page::{SCAN_MOST, Wanted},
};
use crate::{
    bus::history::TopicHistory,
    subscription::{FilterSet, Foretold},
    topic::{Tenant, Topic},
};

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

/// How far a step of the search has come.
#[derive(Debug, PartialEq, Eq)]
pub enum RewindStep {
    Complete,
    More,
    /// It goes on with events that only the engine has.
    Stored(Vec<u64>),
}

/// A place within one topic's history, which is searched from its end.
#[derive(Clone, Debug)]
struct Place {
    topic: Topic,
    /// Events from here on have been looked at.
    below: u64,
    taken: usize,
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

    pub(super) fn step(
        &mut self,
        state: &State,
        (tenant, filters): (&Tenant, &FilterSet),
        limits: PageLimits,
        fetched: &Fetched,
    ) -> RewindStep {
        let mut budget = SCAN_MOST;
        for subscription in filters.iter().skip(self.filter) {
            let place = self.place.take();
            let from = place.as_ref().map(|place| &place.topic);
            for (topic, history) in state.history.candidates(tenant, &subscription.filter, from) {
                let mut place = match &place {
                    Some(place) if place.topic == *topic => place.clone(),
                    _ => Place::start_of(topic),
                };
                if budget == 0 {
                    self.place = Some(place);
                    return RewindStep::More;
                }
                budget -= 1;
                if !subscription.filter.matches(topic.as_str()) {
                    continue;
                }
                let search = TopicSearch {
                    state,
                    filters,
                    history,
                    limits,
                    fetched,
                };
                let step = self.take_from(&search, &mut place, &mut budget);
                if step != RewindStep::Complete {
                    self.place = Some(place);
                    return step;
                }
            }
            self.filter += 1;
        }
        RewindStep::Complete
    }

    /// Takes the last matching events of one topic, as far as the budget goes.
    fn take_from(
        &mut self,
        search: &TopicSearch<'_>,
        place: &mut Place,
        budget: &mut usize,
    ) -> RewindStep {
        let cost = search.filters.pattern_count().max(1);
        let below = place.below.min(self.until.saturating_add(1));
        let to = search.history.sequences.partition_point(|seq| *seq < below);
        for (at, sequence) in search.history.sequences.range(..to).enumerate().rev() {
            if place.taken == self.count {
                return RewindStep::Complete;
            }
            if *budget == 0 {
                return RewindStep::More;
            }
            *budget = budget.saturating_sub(cost);
            match search.foretell(place.topic.as_str(), *sequence) {
                Foretold::Wanted => {
                    self.found.push(*sequence);
                    place.taken += 1;
                }
                Foretold::Unwanted => {}
                Foretold::Open => return RewindStep::Stored(search.wanted(at)),
            }
            place.below = *sequence;
        }
        RewindStep::Complete
    }
}

/// What one topic is searched with.
struct TopicSearch<'a> {
    state: &'a State,
    filters: &'a FilterSet,
    history: &'a TopicHistory,
    limits: PageLimits,
    fetched: &'a Fetched,
}

impl TopicSearch<'_> {
    fn foretell(&self, topic: &str, sequence: u64) -> Foretold {
        let Some(retained) = self.state.get(sequence) else {
            return Foretold::Unwanted;
        };
        let here = retained.event.as_ref();
        match here.or_else(|| self.fetched.get(sequence)) {
            Some(event) if self.filters.matches(event) => Foretold::Wanted,
            Some(_) => Foretold::Unwanted,
            None => self.filters.foretell(topic, sequence),
        }
    }

    /// The topic's events that are looked at next, from one on backwards.
    fn wanted(&self, from: usize) -> Vec<u64> {
        let mut wanted = Wanted::new(self.limits);
        for sequence in self.history.sequences.range(..=from).rev() {
            let Some(retained) = self.state.get(*sequence) else {
                continue;
            };
            if retained.event.is_none() && !wanted.push(retained) {
                break;
            }
        }
        wanted.into_sequences()
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
