//! What a shard tells of its sessions, for operators.
//!
//! A shard may have tens of thousands of sessions with a thousand filters each. So each question is
//! a task of its own on the shard's thread, which looks at some sessions and then lets the
//! worker's other tasks run. Sessions that come and go meanwhile are in the answer or not. It ends
//! early where nobody waits for the answer any more.
//!
//! Lists come in pages, in the order of their keys. Every shard gives its first so many after a
//! key; merged, they are good up to the least of the keys at which a shard stopped.

use std::{
    collections::{BTreeMap, BinaryHeap},
    ops::Bound,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::Shard;
use crate::{
    metrics::LagByTransport,
    protocol::{ConnectionId, Transport},
    session::{Peer, Session},
    topic::{Tenant, TopicFilter},
};

/// What may be looked at before the worker's other tasks get their turn: sessions, and filters
/// within them. About a quarter of a millisecond.
const SLICE: usize = 2048;

/// Topic filters shown of one connection; all are counted.
pub const MOST_TOPICS_SHOWN: usize = 5;

/// The sessions that a revocation ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub sessions: u64,
    /// When the last of their tokens is good no more, leeway included.
    pub tokens_until: Option<Timestamp>,
}

impl Ended {
    pub(super) fn note(&mut self, session: &Session) {
        if session.closed().is_none() {
            self.sessions += 1;
        }
        let until = session.identity().valid_until();
        self.tokens_until = self.tokens_until.max(Some(until));
    }

    /// Takes another shard's into account.
    pub fn merge(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.tokens_until = self.tokens_until.max(other.tokens_until);
    }
}

/// Which connections are listed.
#[derive(Clone, Debug, Default)]
pub struct ConnectionQuery {
    pub subject: Option<Box<str>>,
    pub tenant: Option<Tenant>,
    pub transport: Option<Transport>,
    /// Those that have this very filter, or where it is a literal topic, any filter that matches it.
    pub topic: Option<TopicFilter>,
    /// Those after this one, in the order of ids.
    pub after: Option<ConnectionId>,
    pub most: usize,
}

/// The connections of one shard.
#[derive(Debug)]
pub struct ConnectionPage {
    /// All of them, by transport.
    pub totals: [u64; Transport::ALL.len()],
    /// Those that the query admits, whatever page they are on.
    pub matching: u64,
    /// In no particular order.
    pub rows: Vec<ConnectionRow>,
    /// Where there are more: the last of those that were looked up.
    pub stopped_at: Option<ConnectionId>,
}

/// One connection as it is listed.
#[derive(Debug)]
pub struct ConnectionRow {
    pub id: ConnectionId,
    pub subject: Arc<str>,
    pub tenant: Tenant,
    pub peer: Peer,
    pub since: Instant,
    pub position: u64,
    pub is_live: bool,
    pub topic_count: usize,
    pub topics: Vec<TopicFilter>,
    pub mailbox_events: usize,
    pub mailbox_bytes: usize,
}

impl ConnectionQuery {
    /// Whether a session is listed, and what it cost to find out.
    fn admits(&self, session: &Session) -> (bool, usize) {
        let identity = session.identity();
        let plainly = self
            .subject
            .as_ref()
            .is_none_or(|subject| **subject == *identity.subject)
            && self
                .tenant
                .as_ref()
                .is_none_or(|tenant| *tenant == identity.tenant)
            && self
                .transport
                .is_none_or(|transport| transport == session.peer().transport);
        match &self.topic {
            Some(topic) if plainly => {
                let cost = session.filter_sets().map(|set| 1 + set.pattern_count());
                let has = session.filter_sets().any(|set| set.has_or_matches(topic));
                (has, cost.sum())
            }
            _ => (plainly, 0),
        }
    }
}

impl ConnectionRow {
    fn of(session: &Session) -> Self {
        let identity = session.identity();
        let (mailbox_events, mailbox_bytes) = session.mailbox_size();
        Self {
            id: session.id(),
            subject: Arc::clone(&identity.subject),
            tenant: identity.tenant.clone(),
            peer: session.peer(),
            since: session.since(),
            position: session.stream_position(),
            is_live: !session.is_behind(),
            topic_count: session.filter_sets().map(|set| set.len()).sum(),
            topics: session
                .all_filters()
                .take(MOST_TOPICS_SHOWN)
                .cloned()
                .collect(),
            mailbox_events,
            mailbox_bytes,
        }
    }
}

/// Which topics and topic filters are listed: a range of them in the order of tenants and texts.
#[derive(Clone, Debug, Default)]
pub struct TopicRange {
    tenant: Option<Tenant>,
    prefix: String,
    after: Option<(Tenant, String)>,
}

impl TopicRange {
    /// Those that begin with `prefix`, of one tenant or of all, after a place in their order.
    pub fn new(tenant: Option<Tenant>, prefix: String, after: Option<(Tenant, String)>) -> Self {
        Self {
            tenant,
            prefix,
            after,
        }
    }

    /// The same range from a later place on.
    #[must_use]
    pub fn from(&self, after: (Tenant, String)) -> Self {
        Self {
            after: Some(after),
            ..self.clone()
        }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The first tenant that may have anything.
    pub(super) fn first_tenant(&self) -> Option<&Tenant> {
        let after = self.after.as_ref().map(|(tenant, _)| tenant);
        self.tenant.as_ref().max(after)
    }

    pub(super) fn may_have(&self, tenant: &Tenant) -> bool {
        let asked = self.tenant.as_ref().is_none_or(|asked| asked == tenant);
        let to_come = self.after.as_ref().is_none_or(|(last, _)| last <= tenant);
        asked && to_come
    }

    /// From where on a tenant's topics are in the range, if they begin with the prefix.
    pub(super) fn lower_bound(&self, tenant: &Tenant) -> Bound<&str> {
        match &self.after {
            Some((last, topic)) if last == tenant && **topic >= *self.prefix => {
                Bound::Excluded(topic.as_str())
            }
            _ => Bound::Included(self.prefix.as_str()),
        }
    }
}

/// The topic filters of one shard.
#[derive(Debug)]
pub struct TopicPage {
    /// In order.
    pub rows: Vec<TopicRow>,
    pub has_more: bool,
}

/// A topic filter, and how many connections of the shard have it.
#[derive(Debug)]
pub struct TopicRow {
    pub tenant: Tenant,
    pub filter: TopicFilter,
    pub subscribers: u64,
}

pub(super) async fn tell_lag(shard: Rc<Shard>, reply: mpsc::Sender<LagByTransport>) {
    let mut lag = LagByTransport::default();
    let head = shard.bus().window().head();
    let visited = visit(&shard, &reply, |_, session| {
        let behind = head.saturating_sub(session.stream_position());
        if session.closed().is_none() {
            lag.add(session.peer().transport, session.is_behind(), behind);
        }
        0
    });
    if visited.await {
        let _ = reply.try_send(lag);
    }
}

pub(super) async fn list_connections(
    shard: Rc<Shard>,
    query: Arc<ConnectionQuery>,
    reply: mpsc::Sender<ConnectionPage>,
) {
    let mut page = ConnectionPage {
        totals: [0; Transport::ALL.len()],
        matching: 0,
        rows: Vec::new(),
        stopped_at: None,
    };
    // The first ids after the place asked for, the last of them on top.
    let mut first = BinaryHeap::new();
    let mut has_more = false;
    let visited = visit(&shard, &reply, |key, session| {
        page.totals[session.peer().transport as usize] += 1;
        let (admitted, cost) = query.admits(session);
        page.matching += u64::from(admitted);
        if admitted && query.after.is_none_or(|after| session.id() > after) {
            first.push((session.id(), key));
            if first.len() > query.most {
                first.pop();
                has_more = true;
            }
        }
        cost
    });
    if !visited.await {
        return;
    }
    if has_more {
        page.stopped_at = first.peek().map(|(id, _)| *id);
    }
    for part in first.into_vec().chunks(SLICE / (1 + MOST_TOPICS_SHOWN)) {
        for (id, key) in part {
            let sessions = shard.sessions();
            // It may be gone, and its place be taken by another.
            if let Some(session) = sessions.get(*key)
                && session.borrow().id() == *id
            {
                page.rows.push(ConnectionRow::of(&session.borrow()));
            }
        }
        tokio::task::yield_now().await;
    }
    let _ = reply.try_send(page);
}

pub(super) async fn list_topics(
    shard: Rc<Shard>,
    range: Arc<TopicRange>,
    most: usize,
    reply: mpsc::Sender<TopicPage>,
) {
    let mut first = FirstTopics {
        counts: BTreeMap::new(),
        most,
        has_more: false,
    };
    let visited = visit(&shard, &reply, |_, session| first.visit(session, &range));
    if visited.await {
        let rows = first.counts.into_iter();
        let _ = reply.try_send(TopicPage {
            rows: rows
                .map(|((tenant, filter), subscribers)| TopicRow {
                    tenant,
                    filter,
                    subscribers,
                })
                .collect(),
            has_more: first.has_more,
        });
    }
}

/// The first so many topic filters of the sessions seen so far. What was pushed out has that many
/// before it and never comes back in, so the counts of what stays are whole.
struct FirstTopics {
    counts: BTreeMap<(Tenant, TopicFilter), u64>,
    most: usize,
    has_more: bool,
}

impl FirstTopics {
    /// Counts a session's filters in the range; what it cost.
    fn visit(&mut self, session: &Session, range: &TopicRange) -> usize {
        let tenant = &session.identity().tenant;
        if !range.may_have(tenant) {
            return 0;
        }
        let from = range.lower_bound(tenant);
        let mut looked_at = 0;
        for (nth, set) in session.filter_sets().enumerate() {
            for side in set.sides_from(from) {
                let side = side.take_while(|filter| filter.as_str().starts_with(range.prefix()));
                for filter in side {
                    looked_at += 1;
                    if self.is_beyond(tenant, filter) {
                        self.has_more = true;
                        break;
                    }
                    // One that is subscribed anew stands in a replay as well.
                    let seen = session
                        .filter_sets()
                        .take(nth)
                        .any(|set| set.contains(filter));
                    if !seen {
                        self.count(tenant, filter);
                    }
                }
            }
        }
        looked_at
    }

    fn is_beyond(&self, tenant: &Tenant, filter: &TopicFilter) -> bool {
        let last = self.counts.last_key_value();
        self.counts.len() >= self.most
            && last.is_none_or(|((last, text), _)| (tenant, filter) > (last, text))
    }

    fn count(&mut self, tenant: &Tenant, filter: &TopicFilter) {
        *self
            .counts
            .entry((tenant.clone(), filter.clone()))
            .or_default() += 1;
        if self.counts.len() > self.most {
            self.counts.pop_last();
            self.has_more = true;
        }
    }
}

/// Visits each session, in slices; a visit returns what it cost beyond the session itself. False
/// where nobody waits for the answer any more.
async fn visit<T>(
    shard: &Shard,
    reply: &mpsc::Sender<T>,
    mut visit: impl FnMut(usize, &Session) -> usize,
) -> bool {
    let mut key = 0;
    while !reply.is_closed() {
        let mut left = SLICE;
        {
            let sessions = shard.sessions();
            while left > 0 {
                if key >= sessions.capacity() {
                    return true;
                }
                let cost = sessions
                    .get(key)
                    .map_or(0, |session| visit(key, &session.borrow()));
                left = left.saturating_sub(1 + cost);
                key += 1;
            }
        }
        tokio::task::yield_now().await;
    }
    false
}
