//! Which retained events belong to which topic, and what was trimmed of each.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use super::census::TopicRange;
use crate::topic::{Tenant, Topic, TopicFilter};

/// The retained events of one topic.
#[derive(Debug, Default)]
pub(super) struct TopicHistory {
    /// Rising.
    pub(super) sequences: VecDeque<u64>,
    /// The last trimmed event of this topic; 0 for none.
    trimmed: u64,
}

impl TopicHistory {
    /// The retained events after a position.
    pub(super) fn after(&self, position: u64) -> impl Iterator<Item = u64> + '_ {
        let from = self.sequences.partition_point(|seq| *seq <= position);
        self.sequences.range(from..).copied()
    }

    fn newest(&self) -> u64 {
        self.sequences.back().copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct TenantHistory {
    topics: BTreeMap<Topic, TopicHistory>,
    trimmed: u64,
}

/// The index by tenant and topic. Holds a topic as long as the log holds one of its events; of
/// what is gone it keeps the last trimmed position in a table of fixed size.
#[derive(Debug)]
pub(super) struct History {
    tenants: BTreeMap<Tenant, TenantHistory>,
    trimmed: TrimTable,
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            tenants: BTreeMap::new(),
            trimmed: TrimTable::new(),
        }
    }

    pub(super) fn push(&mut self, tenant: &Tenant, topic: &Topic, sequence: u64) {
        if !self.tenants.contains_key(tenant) {
            let trimmed = self.trimmed.last_trimmed(tenant, None);
            let history = TenantHistory {
                trimmed,
                ..TenantHistory::default()
            };
            self.tenants.insert(tenant.clone(), history);
        }
        let Some(of_tenant) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(history) = of_tenant.topics.get_mut(topic.as_str()) {
            history.sequences.push_back(sequence);
            return;
        }
        let history = TopicHistory {
            sequences: VecDeque::from([sequence]),
            trimmed: self.trimmed.last_trimmed(tenant, Some(topic.as_str())),
        };
        of_tenant.topics.insert(topic.clone(), history);
    }

    /// Takes note that the topic's oldest event, which is the log's oldest too, was trimmed.
    pub(super) fn trim(&mut self, tenant: &Tenant, topic: &Topic, sequence: u64) {
        let Some(of_tenant) = self.tenants.get_mut(tenant) else {
            return;
        };
        of_tenant.trimmed = sequence;
        if let Some(history) = of_tenant.topics.get_mut(topic.as_str()) {
            history.sequences.pop_front();
            history.trimmed = sequence;
            if history.sequences.is_empty() {
                of_tenant.topics.remove(topic.as_str());
                self.trimmed.note(tenant, Some(topic.as_str()), sequence);
            }
        }
        if of_tenant.topics.is_empty() {
            self.trimmed.note(tenant, None, sequence);
            self.tenants.remove(tenant);
        }
    }

    /// A position after which nothing that the filter matches was trimmed. Exact for literal
    /// topics, but for those that the table had to forget; for patterns that of the whole tenant.
    pub(super) fn trimmed(&self, tenant: &Tenant, filter: &TopicFilter) -> u64 {
        let of_tenant = self.tenants.get(tenant);
        if !filter.is_literal() {
            return match of_tenant {
                Some(history) => history.trimmed,
                None => self.trimmed.last_trimmed(tenant, None),
            };
        }
        match of_tenant.and_then(|history| history.topics.get(filter.as_str())) {
            Some(history) => history.trimmed,
            None => self.trimmed.last_trimmed(tenant, Some(filter.as_str())),
        }
    }

    /// The next retained topics in a range, and how many events each has.
    pub(super) fn topics(&self, wanted: &TopicRange, most: usize) -> Vec<(Tenant, Topic, usize)> {
        let first = wanted.first_tenant().cloned().unwrap_or_default();
        let tenants = self.tenants.range(first..);
        let mut found = Vec::new();
        for (tenant, of_tenant) in tenants.take_while(|(tenant, _)| wanted.may_have(tenant)) {
            let range = (wanted.lower_bound(tenant), Bound::Unbounded);
            let topics = of_tenant.topics.range::<str, _>(range);
            let topics = topics.take_while(|(topic, _)| topic.starts_with(wanted.prefix()));
            for (topic, history) in topics {
                if found.len() == most {
                    return found;
                }
                found.push((tenant.clone(), topic.clone(), history.sequences.len()));
            }
        }
        found
    }

    pub(super) fn topic(&self, tenant: &Tenant, topic: &str) -> Option<&TopicHistory> {
        self.tenants.get(tenant)?.topics.get(topic)
    }

    /// The retained topics that the filter may match, in order, from one of them on.
    pub(super) fn candidates<'a>(
        &'a self,
        tenant: &Tenant,
        filter: &'a TopicFilter,
        from: Option<&Topic>,
    ) -> impl Iterator<Item = (&'a Topic, &'a TopicHistory)> + use<'a> {
        let prefix = filter.literal_prefix();
        let from = from.map_or(prefix, Topic::as_str).to_owned();
        let exact = filter.is_literal();
        self.tenants
            .get(tenant)
            .map(|history| {
                let range = (Bound::Included(from.as_str()), Bound::Unbounded);
                history.topics.range::<str, _>(range)
            })
            .into_iter()
            .flatten()
            .take_while(move |(topic, _)| {
                let topic = topic.as_str();
                topic == prefix || (!exact && topic.starts_with(prefix))
            })
    }

    /// The retained topics that share the filter's literal prefix, matching or not, in order.
    pub(super) fn with_prefix_of<'a>(
        &'a self,
        tenant: &Tenant,
        filter: &'a TopicFilter,
    ) -> impl Iterator<Item = (&'a Topic, &'a TopicHistory)> {
        let prefix = filter.literal_prefix();
        self.tenants
            .get(tenant)
            .map(|history| {
                history
                    .topics
                    .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            })
            .into_iter()
            .flatten()
            .take_while(move |(topic, _)| topic.as_str().starts_with(prefix))
    }
}

/// What was trimmed last of topics that are no longer indexed.
///
/// Of fixed size, so that topics named once cost nothing for ever: buckets of eight topics each,
/// and where a ninth comes, the bucket forgets the one trimmed longest ago and remembers only that
/// anything up to there may have been trimmed. So the last hundred thousand topics are exact, and
/// older ones err towards a reset.
#[derive(Debug)]
struct TrimTable {
    buckets: Box<[Bucket]>,
    hasher: ahash::RandomState,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Hash of tenant and topic, and the last trimmed position; 0 marks a free slot.
    slots: [(u64, u64); TrimTable::SLOTS],
    /// Any topic that has no slot here may have been trimmed up to this position.
    forgotten: u64,
}

impl TrimTable {
    const BUCKETS: usize = 16_384;
    const SLOTS: usize = 8;

    fn new() -> Self {
        Self {
            buckets: vec![Bucket::default(); Self::BUCKETS].into(),
            hasher: ahash::RandomState::new(),
        }
    }

    fn last_trimmed(&self, tenant: &Tenant, topic: Option<&str>) -> u64 {
        let hash = self.hash(tenant, topic);
        let bucket = &self.buckets[Self::bucket_of(hash)];
        bucket
            .slots
            .iter()
            .find(|(slot_hash, sequence)| *slot_hash == hash && *sequence > 0)
            .map_or(bucket.forgotten, |(_, sequence)| *sequence)
    }

    fn note(&mut self, tenant: &Tenant, topic: Option<&str>, sequence: u64) {
        let hash = self.hash(tenant, topic);
        let bucket = &mut self.buckets[Self::bucket_of(hash)];
        if let Some(slot) = bucket.slots.iter_mut().find(|slot| slot.0 == hash) {
            *slot = (hash, sequence);
        } else if let Some(oldest) = bucket.slots.iter_mut().min_by_key(|slot| slot.1) {
            bucket.forgotten = bucket.forgotten.max(oldest.1);
            *oldest = (hash, sequence);
        }
    }

    fn hash(&self, tenant: &Tenant, topic: Option<&str>) -> u64 {
        self.hasher.hash_one((tenant, topic))
    }

    fn bucket_of(hash: u64) -> usize {
        (hash % Self::BUCKETS as u64) as usize
    }
}

impl TopicHistory {
    /// Whether anything after the position is retained.
    pub(super) fn has_after(&self, position: u64) -> bool {
        self.newest() > position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> Topic {
        Topic::parse(name).unwrap()
    }

    fn filter(name: &str) -> TopicFilter {
        TopicFilter::parse(name).unwrap()
    }

    #[test]
    fn what_was_trimmed_is_known_by_topic_even_when_the_topic_is_gone() {
        let none = Tenant::none();
        let mut history = History::new();
        history.push(&none, &topic("a"), 1);
        history.push(&none, &topic("b"), 2);
        history.push(&none, &topic("b"), 3);
        history.trim(&none, &topic("a"), 1);
        history.trim(&none, &topic("b"), 2);
        assert_eq!(history.trimmed(&none, &filter("a")), 1);
        assert_eq!(history.trimmed(&none, &filter("b")), 2);
        assert_eq!(history.trimmed(&none, &filter("c")), 0);
        assert_eq!(history.trimmed(&none, &filter("c*")), 2);
        assert_eq!(history.trimmed(&Tenant::named("t"), &filter("**")), 0);
        history.push(&none, &topic("a"), 4);
        assert_eq!(history.trimmed(&none, &filter("a")), 1);
    }

    #[test]
    fn a_full_table_errs_towards_a_reset_and_never_the_other_way() {
        let none = Tenant::none();
        let mut table = TrimTable::new();
        let topics = 400_000;
        for sequence in 1..=topics {
            table.note(&none, Some(&format!("t:{sequence}")), sequence);
        }
        for sequence in (1..=topics).step_by(97) {
            assert!(table.last_trimmed(&none, Some(&format!("t:{sequence}"))) >= sequence);
        }
        let exact = (topics - 60_000..=topics)
            .filter(|seq| table.last_trimmed(&none, Some(&format!("t:{seq}"))) == *seq)
            .count();
        assert!(exact > 59_000, "only {exact} of the last 60,001 are exact");
    }
}
