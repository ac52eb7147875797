//! The index of one shard: from (tenant, topic) to those who subscribed a filter that matches it.
//!
//! Literal filters live in a hash map. Filters with wildcards live in a radix trie over their text,
//! whose wildcards are nodes of their own; a lookup walks it as a nondeterministic automaton, so
//! that it costs what matches or partly matches, however many other filters there are. One thread
//! owns an index: there are no locks.

use std::hash::Hash;
use std::mem;

use ahash::AHashMap;
use slab::Slab;

use crate::topic::{Tenant, Token, TopicFilter};

/// Up to this many subscribers of one filter are searched through when one leaves; more get a map
/// of their places.
const SCAN_MAX: usize = 32;

/// Who subscribed what, by tenant and topic filter.
///
/// Holds a set of entries (tenant, filter, key). A key is whatever the caller tells subscribers
/// apart by; it may have any number of filters. Nothing is kept of a filter or tenant whose last
/// entry was removed.
#[derive(Debug)]
pub struct TopicIndex<K> {
    tenants: AHashMap<Tenant, TenantIndex<K>>,
    entries: usize,
    /// Of the entries, those whose filter has wildcards.
    patterns: usize,
    scratch: Scratch,
}

impl<K: Copy + Eq + Hash> TopicIndex<K> {
    /// An index without entries.
    pub fn new() -> Self {
        Self {
            tenants: AHashMap::new(),
            entries: 0,
            patterns: 0,
            scratch: Scratch::default(),
        }
    }

    /// Adds an entry, and says whether it is new. Takes time in the length of the filter, not in
    /// the number of entries.
    pub fn insert(&mut self, tenant: &Tenant, filter: &TopicFilter, key: K) -> bool {
        let index = self.tenants.entry(tenant.clone()).or_default();
        let is_new = index.subscribers_mut(filter).insert(key);
        self.entries += usize::from(is_new);
        self.patterns += usize::from(is_new && !filter.is_literal());
        is_new
    }

    /// Takes an entry out again, and says whether it was there. Costs what [`TopicIndex::insert`]
    /// costs.
    pub fn remove(&mut self, tenant: &Tenant, filter: &TopicFilter, key: K) -> bool {
        let Some(index) = self.tenants.get_mut(tenant) else {
            return false;
        };
        let was_there = index.remove(filter, key);
        self.entries -= usize::from(was_there);
        self.patterns -= usize::from(was_there && !filter.is_literal());
        if index.is_empty() {
            self.tenants.remove(tenant);
        }
        was_there
    }

    /// Appends to `found` the key of each entry of `tenant` whose filter matches `topic`, in no
    /// particular order.
    ///
    /// A key comes once for each of its filters that match. Allocates only where `found`, or the
    /// buffers kept between lookups, are too small.
    pub fn matching(&mut self, tenant: &Tenant, topic: &str, found: &mut Vec<K>) {
        let Some(index) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(subscribers) = index.literals.get(topic) {
            found.extend_from_slice(&subscribers.keys);
        }
        if !index.patterns.is_empty() {
            Walk {
                trie: &mut index.patterns,
                scratch: &mut self.scratch,
            }
            .run(topic, found);
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// The number of entries whose filter has wildcards.
    pub fn pattern_count(&self) -> usize {
        self.patterns
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }
}

impl<K: Copy + Eq + Hash> Default for TopicIndex<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// The entries of one tenant.
#[derive(Debug)]
struct TenantIndex<K> {
    literals: AHashMap<TopicFilter, Subscribers<K>>,
    patterns: Trie<K>,
}

impl<K> Default for TenantIndex<K> {
    fn default() -> Self {
        Self {
            literals: AHashMap::new(),
            patterns: Trie::default(),
        }
    }
}

impl<K: Copy + Eq + Hash> TenantIndex<K> {
    /// The subscribers of `filter`, where it is new none as yet: the caller adds one.
    fn subscribers_mut(&mut self, filter: &TopicFilter) -> &mut Subscribers<K> {
        if filter.is_literal() {
            self.literals.entry(filter.clone()).or_default()
        } else {
            self.patterns.subscribers_mut(filter)
        }
    }

    fn remove(&mut self, filter: &TopicFilter, key: K) -> bool {
        if filter.is_literal() {
            self.remove_literal(filter, key)
        } else {
            self.patterns.remove(filter, key)
        }
    }

    fn remove_literal(&mut self, filter: &TopicFilter, key: K) -> bool {
        let Some(subscribers) = self.literals.get_mut(filter) else {
            return false;
        };
        let was_there = subscribers.remove(key);
        if subscribers.is_empty() {
            self.literals.remove(filter);
        }
        was_there
    }

    fn is_empty(&self) -> bool {
        self.literals.is_empty() && self.patterns.is_empty()
    }
}

/// A set of keys in one slice, from which one is removed in constant time.
#[derive(Debug)]
struct Subscribers<K> {
    keys: Vec<K>,
    /// Where each key stands in `keys`; only there while they are many, since most filters have one
    /// subscriber.
    places: Option<Box<AHashMap<K, usize>>>,
}

impl<K> Default for Subscribers<K> {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            places: None,
        }
    }
}

impl<K> Subscribers<K> {
    fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

impl<K: Copy + Eq + Hash> Subscribers<K> {
    fn insert(&mut self, key: K) -> bool {
        if self.place(key).is_some() {
            return false;
        }
        if let Some(places) = &mut self.places {
            places.insert(key, self.keys.len());
        }
        self.keys.push(key);
        if self.places.is_none() && self.keys.len() > SCAN_MAX {
            self.places = Some(Box::new(self.keys.iter().copied().zip(0..).collect()));
        }
        true
    }

    fn remove(&mut self, key: K) -> bool {
        let Some(place) = self.place(key) else {
            return false;
        };
        self.keys.swap_remove(place);
        if let Some(places) = &mut self.places {
            places.remove(&key);
            if let Some(&moved) = self.keys.get(place) {
                places.insert(moved, place);
            }
        }
        self.shrink();
        true
    }

    fn place(&self, key: K) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&key).copied(),
            None => self.keys.iter().position(|&other| other == key),
        }
    }

    /// Gives memory back after a crowd has left. The gaps between the bounds keep its cost constant
    /// on average.
    fn shrink(&mut self) {
        if self.keys.len() < SCAN_MAX / 2 {
            self.places = None;
        }
        if self.keys.len() < self.keys.capacity() / 4 {
            self.keys.shrink_to(self.keys.len() * 2);
            if let Some(places) = &mut self.places {
                places.shrink_to(self.keys.len() * 2);
            }
        }
    }
}

/// Where a node is in its trie.
type NodeId = u32;

const ROOT: NodeId = 0;

/// The filters with wildcards of one tenant.
///
/// Each filter is a path from the root, along one node for each wildcard and one or several for
/// each run of literal text. Every node has subscribers or children, so the trie is never larger
/// than the text of its filters. A run that was split stays split while anything is below it:
/// joining it again would save little.
#[derive(Debug)]
struct Trie<K> {
    /// Empty, or with the root in its first place.
    nodes: Slab<Node<K>>,
}

#[derive(Debug)]
struct Node<K> {
    parent: NodeId,
    step: Step,
    /// The children that are reached by literal text, by its first byte, in ascending order.
    literals: Vec<(u8, NodeId)>,
    star: Option<NodeId>,
    double_star: Option<NodeId>,
    /// Those who subscribed the filter that ends here.
    subscribers: Subscribers<K>,
    /// For wildcards: the [`Scratch::clock`] at which the node was last found to match.
    reached_at: u64,
}

/// What leads from its parent to a node.
#[derive(Debug)]
enum Step {
    /// Text, not empty but for the root, which has no parent.
    Literal(Box<[u8]>),
    Star,
    DoubleStar,
}

/// How a node tells its children apart: literal text by its first byte, since no two begin alike.
#[derive(Clone, Copy)]
enum Edge {
    Byte(u8),
    Star,
    DoubleStar,
}

impl Step {
    fn edge(&self) -> Edge {
        match self {
            Self::Literal(text) => Edge::Byte(text[0]),
            Self::Star => Edge::Star,
            Self::DoubleStar => Edge::DoubleStar,
        }
    }
}

impl<K> Default for Trie<K> {
    fn default() -> Self {
        Self { nodes: Slab::new() }
    }
}

impl<K> Trie<K> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    fn node(&self, id: NodeId) -> &Node<K> {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<K> {
        &mut self.nodes[id as usize]
    }

    fn add(&mut self, node: Node<K>) -> NodeId {
        let id = self.nodes.insert(node);
        NodeId::try_from(id).expect("memory ends before the ids do")
    }
}

impl<K: Copy + Eq + Hash> Trie<K> {
    fn subscribers_mut(&mut self, filter: &TopicFilter) -> &mut Subscribers<K> {
        if self.nodes.is_empty() {
            self.add(Node::new(ROOT, Step::Literal(Box::default())));
        }
        let end = filter.tokens().fold(ROOT, |from, token| match token {
            Token::Literal(text) => self.grow_literal(from, text.as_bytes()),
            Token::Star => self.grow(from, Step::Star),
            Token::DoubleStar => self.grow(from, Step::DoubleStar),
        });
        &mut self.node_mut(end).subscribers
    }

    fn grow(&mut self, from: NodeId, step: Step) -> NodeId {
        if let Some(there) = self.node(from).child(step.edge()) {
            return there;
        }
        let child = self.add(Node::new(from, step));
        self.attach(child);
        child
    }

    fn grow_literal(&mut self, mut from: NodeId, mut text: &[u8]) -> NodeId {
        while let Some(&first) = text.first() {
            let Some(child) = self.node(from).child(Edge::Byte(first)) else {
                return self.grow(from, Step::Literal(text.into()));
            };
            let shared = common_prefix(self.node(child).text(), text);
            from = self.split(child, shared);
            text = &text[shared..];
        }
        from
    }

    /// Cuts the text of `lower` after `at` bytes, and returns the node of the upper part.
    fn split(&mut self, lower: NodeId, at: usize) -> NodeId {
        let node = self.node(lower);
        let (head, tail) = node.text().split_at(at);
        if tail.is_empty() {
            return lower;
        }
        let (head, tail, parent) = (head.into(), tail.into(), node.parent);
        let upper = self.add(Node::new(parent, Step::Literal(head)));
        self.attach(upper);
        let node = self.node_mut(lower);
        (node.parent, node.step) = (upper, Step::Literal(tail));
        self.attach(lower);
        upper
    }

    fn remove(&mut self, filter: &TopicFilter, key: K) -> bool {
        let Some(end) = self.find(filter) else {
            return false;
        };
        let was_there = self.node_mut(end).subscribers.remove(key);
        self.prune(end);
        was_there
    }

    fn find(&self, filter: &TopicFilter) -> Option<NodeId> {
        self.nodes.get(ROOT as usize)?;
        filter.tokens().try_fold(ROOT, |from, token| match token {
            Token::Literal(text) => self.find_literal(from, text.as_bytes()),
            Token::Star => self.node(from).child(Edge::Star),
            Token::DoubleStar => self.node(from).child(Edge::DoubleStar),
        })
    }

    fn find_literal(&self, mut from: NodeId, mut text: &[u8]) -> Option<NodeId> {
        while let Some(&first) = text.first() {
            from = self.node(from).child(Edge::Byte(first))?;
            text = text.strip_prefix(self.node(from).text())?;
        }
        Some(from)
    }

    /// Drops the node where nothing needs it, then its ancestors alike.
    fn prune(&mut self, mut id: NodeId) {
        while self.node(id).is_unused() {
            if id == ROOT {
                // Not merely the root's removal: this gives the arena back, and the root its id
                // again.
                self.nodes = Slab::new();
                return;
            }
            let node = self.nodes.remove(id as usize);
            self.node_mut(node.parent).set_child(node.step.edge(), None);
            id = node.parent;
        }
    }

    /// Makes the node a child of its parent, in the place of one on the same edge.
    fn attach(&mut self, id: NodeId) {
        let node = self.node(id);
        let (parent, edge) = (node.parent, node.step.edge());
        self.node_mut(parent).set_child(edge, Some(id));
    }
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(a, b)| a == b).count()
}

impl<K> Node<K> {
    fn new(parent: NodeId, step: Step) -> Self {
        Self {
            parent,
            step,
            literals: Vec::new(),
            star: None,
            double_star: None,
            subscribers: Subscribers::default(),
            reached_at: 0,
        }
    }

    /// The literal text that leads here; empty for wildcards and the root.
    fn text(&self) -> &[u8] {
        match &self.step {
            Step::Literal(text) => text,
            Step::Star | Step::DoubleStar => &[],
        }
    }

    fn child(&self, edge: Edge) -> Option<NodeId> {
        match edge {
            Edge::Byte(byte) => self
                .literal_place(byte)
                .ok()
                .map(|place| self.literals[place].1),
            Edge::Star => self.star,
            Edge::DoubleStar => self.double_star,
        }
    }

    fn set_child(&mut self, edge: Edge, child: Option<NodeId>) {
        match edge {
            Edge::Byte(byte) => self.set_literal(byte, child),
            Edge::Star => self.star = child,
            Edge::DoubleStar => self.double_star = child,
        }
    }

    fn set_literal(&mut self, byte: u8, child: Option<NodeId>) {
        match (self.literal_place(byte), child) {
            (Ok(place), Some(child)) => self.literals[place].1 = child,
            (Err(place), Some(child)) => self.literals.insert(place, (byte, child)),
            (Ok(place), None) => drop(self.literals.remove(place)),
            (Err(_), None) => {}
        }
    }

    fn literal_place(&self, byte: u8) -> Result<usize, usize> {
        self.literals
            .binary_search_by_key(&byte, |&(first, _)| first)
    }

    fn is_unused(&self) -> bool {
        self.subscribers.is_empty()
            && self.literals.is_empty()
            && self.star.is_none()
            && self.double_star.is_none()
    }
}

/// What lookups keep, so that they need not allocate.
#[derive(Debug, Default)]
struct Scratch {
    /// Goes up by one with every byte of every lookup, in whichever trie.
    clock: u64,
    here: States,
    next: States,
}

/// Where a lookup stands in a trie: all paths that match the topic so far.
#[derive(Debug, Default)]
struct States {
    /// Nodes of literal text, with how much of it was matched.
    literals: Vec<(NodeId, usize)>,
    /// Nodes of wildcards.
    wildcards: Vec<NodeId>,
}

impl States {
    fn clear(&mut self) {
        self.literals.clear();
        self.wildcards.clear();
    }
}

/// One lookup: the trie as a nondeterministic automaton that reads a topic byte by byte.
///
/// No state is ever held twice, so a step costs at most the size of the trie. A state is entered
/// from one other only, its predecessor on the path, save that a wildcard is also entered from
/// itself: only wildcards need a check.
struct Walk<'a, K> {
    trie: &'a mut Trie<K>,
    scratch: &'a mut Scratch,
}

impl<K: Copy> Walk<'_, K> {
    fn run(&mut self, topic: &str, found: &mut Vec<K>) {
        self.begin_step();
        self.enter_literal(ROOT, 0);
        for &byte in topic.as_bytes() {
            self.read(byte);
        }
        self.collect(found);
    }

    fn begin_step(&mut self) {
        self.scratch.clock += 1;
        mem::swap(&mut self.scratch.here, &mut self.scratch.next);
        self.scratch.next.clear();
    }

    fn read(&mut self, byte: u8) {
        self.begin_step();
        let here = mem::take(&mut self.scratch.here);
        for &id in &here.wildcards {
            self.read_at_wildcard(id, byte);
        }
        for &(id, matched) in &here.literals {
            self.read_at_literal(id, matched, byte);
        }
        self.scratch.here = here;
    }

    fn read_at_wildcard(&mut self, id: NodeId, byte: u8) {
        if byte != b':' || matches!(self.trie.node(id).step, Step::DoubleStar) {
            self.enter_wildcard(id);
        }
        self.read_at_end(id, byte);
    }

    fn read_at_literal(&mut self, id: NodeId, matched: usize, byte: u8) {
        match self.trie.node(id).text().get(matched) {
            Some(&expected) if expected == byte => self.enter_literal(id, matched + 1),
            Some(_) => {}
            None => self.read_at_end(id, byte),
        }
    }

    fn read_at_end(&mut self, id: NodeId, byte: u8) {
        if let Some(child) = self.trie.node(id).child(Edge::Byte(byte)) {
            self.enter_literal(child, 1);
        }
    }

    fn enter_literal(&mut self, id: NodeId, matched: usize) {
        self.scratch.next.literals.push((id, matched));
        let node = self.trie.node(id);
        if matched == node.text().len() {
            // A wildcard may match nothing, and is never followed by another.
            let wildcards = [node.star, node.double_star];
            wildcards
                .into_iter()
                .flatten()
                .for_each(|wildcard| self.enter_wildcard(wildcard));
        }
    }

    fn enter_wildcard(&mut self, id: NodeId) {
        let clock = self.scratch.clock;
        if mem::replace(&mut self.trie.node_mut(id).reached_at, clock) != clock {
            self.scratch.next.wildcards.push(id);
        }
    }

    fn collect(&self, found: &mut Vec<K>) {
        let States {
            literals,
            wildcards,
        } = &self.scratch.next;
        let at_end =
            |&&(id, matched): &&(NodeId, usize)| matched == self.trie.node(id).text().len();
        let ended = literals.iter().filter(at_end).map(|&(id, _)| id);
        for id in ended.chain(wildcards.iter().copied()) {
            found.extend_from_slice(&self.trie.node(id).subscribers.keys);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text).unwrap()
    }

    fn index_of(filters: &[&str]) -> TopicIndex<usize> {
        let mut index = TopicIndex::new();
        for (key, text) in filters.iter().enumerate() {
            index.insert(&Tenant::none(), &filter(text), key);
        }
        index
    }

    fn matching(index: &mut TopicIndex<usize>, topic: &str) -> Vec<usize> {
        matching_of(index, &Tenant::none(), topic)
    }

    fn matching_of(index: &mut TopicIndex<usize>, tenant: &Tenant, topic: &str) -> Vec<usize> {
        let mut found = Vec::new();
        index.matching(tenant, topic, &mut found);
        found.sort_unstable();
        found
    }

    fn assert_holds_nothing<K: Copy + Eq + Hash>(index: &TopicIndex<K>) {
        assert_eq!((index.len(), index.is_empty()), (0, true));
        assert!(index.tenants.is_empty());
    }

    #[test]
    fn literal_and_wildcard_filters_are_found() {
        let mut index = index_of(&["order:1", "order:*", "order:**", "*", "**:1", "order:1*"]);
        assert_eq!(matching(&mut index, "order:1"), [0, 1, 2, 4, 5]);
        assert_eq!(matching(&mut index, "order:1:1"), [2, 4]);
        assert_eq!(matching(&mut index, "order"), [3]);
    }

    #[test]
    fn a_key_comes_once_for_each_of_its_filters() {
        let mut index = TopicIndex::new();
        for text in ["a", "a*", "**"] {
            assert!(index.insert(&Tenant::none(), &filter(text), 7));
        }
        assert_eq!(matching(&mut index, "a"), [7, 7, 7]);
    }

    #[test]
    fn inserting_again_changes_nothing() {
        let mut index = index_of(&["a*"]);
        assert!(!index.insert(&Tenant::none(), &filter("a*"), 0));
        assert_eq!(index.len(), 1);
        assert_eq!(matching(&mut index, "a"), [0]);
        assert!(index.remove(&Tenant::none(), &filter("a*"), 0));
        assert!(!index.remove(&Tenant::none(), &filter("a*"), 0));
        assert_holds_nothing(&index);
    }

    #[test]
    fn removing_what_is_not_there_changes_nothing() {
        let mut index = index_of(&["abc*", "x"]);
        for text in ["ab*", "abcd*", "abc**", "abc", "y", "*"] {
            assert!(!index.remove(&Tenant::none(), &filter(text), 0), "{text}");
        }
        assert!(!index.remove(&Tenant::none(), &filter("x"), 0));
        assert!(!index.remove(&Tenant::named("t"), &filter("abc*"), 0));
        assert_eq!(index.len(), 2);
    }

    #[test]
    fn tenants_do_not_see_each_other() {
        let mut index = index_of(&["a:b", "a:*"]);
        index.insert(&Tenant::named("t"), &filter("a:*"), 5);
        let mut found = Vec::new();
        index.matching(&Tenant::named("t"), "a:b", &mut found);
        index.matching(&Tenant::named("other"), "a:b", &mut found);
        assert_eq!(found, [5]);
        assert_eq!(matching(&mut index, "a:b"), [0, 1]);
        index.remove(&Tenant::named("t"), &filter("a:*"), 5);
        assert_eq!(index.tenants.len(), 1);
    }

    #[test]
    fn a_crowd_on_one_filter_leaves_in_any_order_and_frees_its_memory() {
        for text in ["news", "news:*"] {
            let mut index = TopicIndex::new();
            (0..15_000).for_each(|key| assert!(index.insert(&Tenant::none(), &filter(text), key)));
            (0..15_000)
                .step_by(2)
                .for_each(|key| assert!(index.remove(&Tenant::none(), &filter(text), key)));
            let left = (1..14_999).step_by(2).rev();
            left.for_each(|key| assert!(index.remove(&Tenant::none(), &filter(text), key)));
            let entries = index.tenants.get_mut(&Tenant::none()).unwrap();
            assert!(entries.subscribers_mut(&filter(text)).keys.capacity() <= SCAN_MAX);
            assert!(index.remove(&Tenant::none(), &filter(text), 14_999));
            assert_holds_nothing(&index);
        }
    }

    #[test]
    fn a_lookup_follows_only_the_patterns_that_partly_match() {
        let mut index = TopicIndex::new();
        for n in 0..10_000 {
            for text in [
                format!("user:{n}:*"),
                format!("*:{n}"),
                format!("**:{n}:*:x"),
            ] {
                index.insert(&Tenant::none(), &filter(&text), n);
            }
        }
        assert_eq!(matching(&mut index, "user:1234:x"), [1234]);
        assert_eq!(matching(&mut index, "user:1234"), [1234]);
        for states in [&index.scratch.here, &index.scratch.next] {
            assert!(
                states.literals.capacity() <= 16 && states.wildcards.capacity() <= 16,
                "{states:?}"
            );
        }
    }

    #[test]
    fn a_hostile_pattern_never_holds_a_state_twice() {
        let mut index = index_of(&[&"*aaa".repeat(8), &"**aaa".repeat(8)]);
        assert_eq!(matching(&mut index, &"a".repeat(255)), [0, 1]);
        assert!(index.scratch.next.literals.len() <= 8 * 3 * 2 + 1);
        assert!(index.scratch.next.wildcards.len() <= 8 * 2);
    }

    #[test]
    fn patterns_share_nodes_and_splitting_keeps_what_is_below() {
        let mut index = index_of(&["abcd*", "abxy*", "ab*", "abc**"]);
        assert_eq!(matching(&mut index, "abcd"), [0, 2, 3]);
        assert!(index.remove(&Tenant::none(), &filter("ab*"), 2));
        assert_eq!(matching(&mut index, "abxyz"), [1]);
        assert_eq!(matching(&mut index, "abcd"), [0, 3]);
    }

    type Entry = (Tenant, TopicFilter, usize);

    fn tenants() -> impl Strategy<Value = Tenant> {
        prop_oneof![Just(Tenant::none()), Just(Tenant::named("t"))]
    }

    fn entries() -> impl Strategy<Value = Entry> {
        (
            tenants(),
            "[ab:é*]{1,6}".prop_map(|text| filter(&text)),
            0..3_usize,
        )
    }

    /// The model: what an index with these entries must find.
    fn expected(entries: &[Entry], tenant: &Tenant, topic: &str) -> Vec<usize> {
        let matches = |entry: &&Entry| entry.0 == *tenant && entry.1.matches(topic);
        let mut keys: Vec<_> = entries
            .iter()
            .filter(matches)
            .map(|entry| entry.2)
            .collect();
        keys.sort_unstable();
        keys
    }

    /// What is inserted, and the entries that are removed again, by where they stand among those
    /// that are there.
    fn changes() -> impl Strategy<Value = Vec<(Entry, Option<prop::sample::Index>)>> {
        vec(
            (entries(), prop::option::of(any::<prop::sample::Index>())),
            1..60,
        )
    }

    proptest! {
        #[test]
        fn the_index_agrees_with_a_list(
            changes in changes(),
            topics in vec("[ab:éê]{1,8}", 1..10),
        ) {
            let (mut index, mut list) = (TopicIndex::new(), Vec::<Entry>::new());
            for (entry, removed) in changes {
                let is_new = !list.contains(&entry);
                prop_assert_eq!(index.insert(&entry.0, &entry.1, entry.2), is_new);
                if is_new {
                    list.push(entry);
                }
                if let Some(removed) = removed {
                    let (tenant, filter, key) = list.swap_remove(removed.index(list.len()));
                    prop_assert!(index.remove(&tenant, &filter, key));
                }
                prop_assert_eq!(index.len(), list.len());
                for topic in &topics {
                    for tenant in [Tenant::none(), Tenant::named("t")] {
                        let found = matching_of(&mut index, &tenant, topic);
                        prop_assert_eq!(found, expected(&list, &tenant, topic), "{}", topic);
                    }
                }
            }
            for (tenant, filter, key) in list {
                prop_assert!(index.remove(&tenant, &filter, key));
            }
            assert_holds_nothing(&index);
        }
    }
}
