//! What a session wants to see: topic filters with their conditions. Pure.

use std::{ops::Bound, rc::Rc};

use crate::{
    event::{Event, Tags},
    topic::TopicFilter,
};

/// Event names and tags that an event must have besides a matching topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Any of these names; `None` admits all.
    pub events: Option<Box<[Box<str>]>>,
    /// All of these tags, with equal values.
    pub tags: Tags,
}

impl Conditions {
    pub fn is_empty(&self) -> bool {
        self.events.is_none() && self.tags.is_empty()
    }

    pub fn admit(&self, event: &Event) -> bool {
        let name_fits = match &self.events {
            Some(names) => names.contains(&event.name),
            None => true,
        };
        name_fits && self.tags.iter().all(|tag| event.tags.contains(tag))
    }
}

/// One topic filter of a session, its conditions, and from where on it counts.
#[derive(Clone, Debug)]
pub struct Subscription {
    pub filter: TopicFilter,
    /// Shared by the filters that were subscribed together; `None` admits every event.
    pub conditions: Option<Rc<Conditions>>,
    /// Only events after this sequence.
    pub after: u64,
}

impl Subscription {
    fn admits(&self, event: &Event) -> bool {
        event.sequence > self.after && self.conditions_admit(event)
    }

    fn conditions_admit(&self, event: &Event) -> bool {
        match &self.conditions {
            Some(conditions) => conditions.admit(event),
            None => true,
        }
    }
}

/// What topic and position of an event tell about whether it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foretold {
    Wanted,
    Unwanted,
    /// It depends on the event's name or tags.
    Open,
}

/// The subscriptions of one session, at most one a filter.
///
/// Sorted by filter, literal ones apart, so that a match costs one binary search and the patterns.
#[derive(Clone, Debug, Default)]
pub struct FilterSet {
    literals: Vec<Subscription>,
    patterns: Vec<Subscription>,
}

impl FilterSet {
    pub fn len(&self) -> usize {
        self.literals.len() + self.patterns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.patterns.is_empty()
    }

    pub fn pattern_count(&self) -> usize {
        self.patterns.len()
    }

    pub fn get(&self, filter: &TopicFilter) -> Option<&Subscription> {
        let side = self.side(filter);
        let at = side.binary_search_by(|subscription| subscription.filter.cmp(filter));
        at.ok().map(|at| &side[at])
    }

    pub fn contains(&self, filter: &TopicFilter) -> bool {
        self.get(filter).is_some()
    }

    /// Adds the subscription; one of the same filter is replaced. True where the filter is new.
    pub fn insert(&mut self, subscription: Subscription) -> bool {
        let side = self.side_mut(&subscription.filter);
        match side.binary_search_by(|other| other.filter.cmp(&subscription.filter)) {
            Ok(at) => {
                side[at] = subscription;
                false
            }
            Err(at) => {
                // Most sessions have a filter or two, and there are many sessions.
                side.reserve_exact(usize::from(side.len() < 4));
                side.insert(at, subscription);
                true
            }
        }
    }

    /// True where the filter was there.
    pub fn remove(&mut self, filter: &TopicFilter) -> bool {
        let side = self.side_mut(filter);
        match side.binary_search_by(|other| other.filter.cmp(filter)) {
            Ok(at) => {
                side.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Subscription> {
        self.literals.iter().chain(&self.patterns)
    }

    pub fn into_subscriptions(self) -> impl Iterator<Item = Subscription> {
        self.literals.into_iter().chain(self.patterns)
    }

    pub fn literals(&self) -> &[Subscription] {
        &self.literals
    }

    pub fn patterns(&self) -> &[Subscription] {
        &self.patterns
    }

    /// Whether any of the subscriptions wants the event.
    pub fn matches(&self, event: &Event) -> bool {
        self.literal(event.topic.as_str())
            .is_some_and(|subscription| subscription.admits(event))
            || self.patterns.iter().any(|subscription| {
                subscription.admits(event) && subscription.filter.matches(event.topic.as_str())
            })
    }

    /// What [`FilterSet::matches`] would say, as far as that can be told without the event.
    pub fn foretell(&self, topic: &str, sequence: u64) -> Foretold {
        let literal = self.literal(topic).into_iter();
        let patterns = self.patterns.iter();
        let mut foretold = Foretold::Unwanted;
        for subscription in literal.chain(patterns.filter(|pattern| pattern.filter.matches(topic)))
        {
            match subscription.conditions {
                _ if sequence <= subscription.after => {}
                None => return Foretold::Wanted,
                Some(_) => foretold = Foretold::Open,
            }
        }
        foretold
    }

    /// As [`FilterSet::matches`], whatever the positions from which the subscriptions count.
    pub fn wants(&self, event: &Event) -> bool {
        self.iter().any(|subscription| {
            subscription.filter.matches(event.topic.as_str())
                && subscription.conditions_admit(event)
        })
    }

    /// True where a matching topic is all that it takes, for every event after the position.
    pub fn is_plain_after(&self, position: u64) -> bool {
        self.iter()
            .all(|subscription| subscription.conditions.is_none() && subscription.after <= position)
    }

    /// Whether this very filter is here, or where it is a literal topic, one that matches it.
    pub fn has_or_matches(&self, filter: &TopicFilter) -> bool {
        let matches = |pattern: &Subscription| pattern.filter.matches(filter.as_str());
        self.contains(filter) || (filter.is_literal() && self.patterns.iter().any(matches))
    }

    /// The literal filters, and apart from them those with wildcards, each in order from a text on.
    pub fn sides_from<'a>(
        &'a self,
        from: Bound<&'a str>,
    ) -> [impl Iterator<Item = &'a TopicFilter>; 2] {
        [&self.literals, &self.patterns].map(|side| {
            let start = side.partition_point(|subscription| {
                let text = subscription.filter.as_str();
                match from {
                    Bound::Included(from) => text < from,
                    Bound::Excluded(from) => text <= from,
                    Bound::Unbounded => false,
                }
            });
            side[start..]
                .iter()
                .map(|subscription| &subscription.filter)
        })
    }

    fn literal(&self, topic: &str) -> Option<&Subscription> {
        let at = self
            .literals
            .binary_search_by(|subscription| subscription.filter.as_str().cmp(topic))
            .ok()?;
        Some(&self.literals[at])
    }

    fn side(&self, filter: &TopicFilter) -> &Vec<Subscription> {
        if filter.is_literal() {
            &self.literals
        } else {
            &self.patterns
        }
    }

    fn side_mut(&mut self, filter: &TopicFilter) -> &mut Vec<Subscription> {
        if filter.is_literal() {
            &mut self.literals
        } else {
            &mut self.patterns
        }
    }
}
