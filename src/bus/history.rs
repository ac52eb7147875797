//! Which retained events belong to which topic, and what was trimmed of each.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::{census::TopicRange, trims::TrimTable};
use crate::topic::{Tenant, Topic, TopicFilter};

/// A topic with its tenant: one for all of its retained events.
#[derive(Debug)]
pub(super) struct TopicKey {
    pub(super) tenant: Tenant,
    pub(super) topic: Topic,
}

/// The retained events of one topic.
#[derive(Debug)]
pub(super) struct TopicHistory {
    key: Arc<TopicKey>,
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

    /// Whether anything after the position is retained.
    pub(super) fn has_after(&self, position: u64) -> bool {
        self.sequences
            .back()
            .is_some_and(|newest| *newest > position)
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

/// What was trimmed of each topic, at one time.
#[derive(Debug)]
pub(super) struct Trims {
    /// Of what is retained in part: the last trimmed position of each topic, and of each tenant.
    indexed: Vec<(u64, Tenant, Option<Topic>)>,
    table: TrimTable,
}

impl Trims {
    /// In the form in which [`History::restore_trims`] takes it.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        let Self {
            mut indexed,
            mut table,
        } = self;
        // The table forgets what was noted with the lowest position first.
        indexed.sort_unstable();
        for (trimmed, tenant, topic) in &indexed {
            table.note(tenant, topic.as_ref().map(Topic::as_str), *trimmed);
        }
        table.to_bytes()
    }
}

impl History {
    pub(super) fn new() -> Self {
        Self {
            tenants: BTreeMap::new(),
            trimmed: TrimTable::new(),
        }
    }

    /// Notes the topic's newest event, which is the log's newest too.
    pub(super) fn push(&mut self, tenant: &Tenant, topic: &Topic, sequence: u64) -> Arc<TopicKey> {
        if let Some(of_tenant) = self.tenants.get_mut(tenant)
            && let Some(history) = of_tenant.topics.get_mut(topic.as_str())
        {
            history.sequences.push_back(sequence);
            return Arc::clone(&history.key);
        }
        let of_tenant = self
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| TenantHistory {
                topics: BTreeMap::new(),
                trimmed: self.trimmed.last_trimmed(tenant, None),
            });
        let key = Arc::new(TopicKey {
            tenant: tenant.clone(),
            topic: topic.clone(),
        });
        let history = TopicHistory {
            key: Arc::clone(&key),
            sequences: VecDeque::from([sequence]),
            trimmed: self.trimmed.last_trimmed(tenant, Some(topic.as_str())),
        };
        of_tenant.topics.insert(topic.clone(), history);
        key
    }

    /// Takes note that the topic's oldest event, which is the log's oldest too, was trimmed.
    pub(super) fn trim(&mut self, key: &TopicKey, sequence: u64) {
        let TopicKey { tenant, topic } = key;
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

    /// The last retained events of a topic, at most so many; and whether there were none before them.
    pub(super) fn newest(&self, tenant: &Tenant, topic: &Topic, most: usize) -> (Vec<u64>, bool) {
        let of_tenant = self.tenants.get(tenant);
        let history = of_tenant.and_then(|of_tenant| of_tenant.topics.get(topic.as_str()));
        let Some(history) = history else {
            return (Vec::new(), false);
        };
        let skipped = history.sequences.len().saturating_sub(most);
        let newest = history.sequences.range(skipped..).copied().collect();
        (newest, skipped == 0 && history.trimmed == 0)
    }

    /// Anything of any topic may have been trimmed up to a position.
    pub(super) fn trim_all(&mut self, until: u64) {
        self.tenants.clear();
        self.trimmed = TrimTable::all_until(until);
    }

    /// What was trimmed, copied: to be put in order without any lock.
    pub(super) fn trims(&self) -> Trims {
        let tenants = self.tenants.iter();
        let indexed = tenants.flat_map(|(tenant, of_tenant)| {
            let topics = of_tenant.topics.iter();
            topics
                .map(move |(topic, history)| (history.trimmed, tenant, Some(topic)))
                .chain([(of_tenant.trimmed, tenant, None)])
        });
        let indexed = indexed.filter(|(trimmed, ..)| *trimmed > 0);
        Trims {
            indexed: indexed
                .map(|(trimmed, tenant, topic)| (trimmed, tenant.clone(), topic.cloned()))
                .collect(),
            table: self.trimmed.clone(),
        }
    }

    /// Takes what was trimmed in an earlier run up to a position, before anything is pushed. Where
    /// that can not be read, anything may have been.
    pub(super) fn restore_trims(&mut self, trims: &[u8], until: u64) {
        self.trimmed = TrimTable::from_bytes(trims).unwrap_or_else(|| TrimTable::all_until(until));
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
        let first = history.push(&none, &topic("a"), 1);
        let second = history.push(&none, &topic("b"), 2);
        history.push(&none, &topic("b"), 3);
        history.trim(&first, 1);
        history.trim(&second, 2);
        assert_eq!(history.trimmed(&none, &filter("a")), 1);
        assert_eq!(history.trimmed(&none, &filter("b")), 2);
        assert_eq!(history.trimmed(&none, &filter("c")), 0);
        assert_eq!(history.trimmed(&none, &filter("c*")), 2);
        assert_eq!(history.trimmed(&Tenant::named("t"), &filter("**")), 0);
        history.push(&none, &topic("a"), 4);
        assert_eq!(history.trimmed(&none, &filter("a")), 1);
    }

    #[test]
    fn the_next_run_knows_what_was_trimmed() {
        let none = Tenant::none();
        let mut history = History::new();
        let first = history.push(&none, &topic("a"), 1);
        let second = history.push(&none, &topic("b"), 2);
        history.push(&none, &topic("b"), 3);
        history.trim(&first, 1);
        history.trim(&second, 2);
        let mut next = History::new();
        next.restore_trims(&history.trims().into_bytes(), 2);
        assert_eq!(next.trimmed(&none, &filter("a")), 1);
        assert_eq!(next.trimmed(&none, &filter("b")), 2);
        assert_eq!(next.trimmed(&none, &filter("c")), 0);
        assert_eq!(next.trimmed(&none, &filter("c*")), 2);
        next.push(&none, &topic("b"), 3);
        assert_eq!(next.trimmed(&none, &filter("b")), 2);
    }

    #[test]
    fn where_all_was_trimmed_every_topic_was() {
        let none = Tenant::none();
        let mut history = History::new();
        history.push(&none, &topic("a"), 1);
        history.trim_all(7);
        assert_eq!(history.trimmed(&none, &filter("a")), 7);
        assert_eq!(history.trimmed(&Tenant::named("t"), &filter("**")), 7);
        history.push(&none, &topic("a"), 8);
        assert_eq!(history.trimmed(&none, &filter("a")), 7);
    }
}
