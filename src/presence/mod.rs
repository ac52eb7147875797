//! Who is on a topic: which subjects have a subscription to exactly this topic, on any transport
//! and any node, and the events that tell of joins and leaves.
//!
//! A node counts its own connections and hears the others' counts. What was announced is what
//! the log says: the events `presence:join` and `presence:leave` on the topic `presence:TOPIC`, which
//! every node reads. Where the two differ, a change has to be announced. The node on which it
//! happened does so at once, the others after a while if it has not; a key for each change keeps
//! it from being announced twice.
//!
//! Pure but for its lock: `cluster` tells the other nodes and appends to the log.

mod member;
mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::Notify;

use member::Member;
use places::Places;

use crate::{
    event::Event,
    node::NodeId,
    protocol::{ConnectionId, Refusal},
    topic::{Tenant, Topic, TopicFilter},
};

/// What the topics of announcements begin with.
pub const PREFIX: &str = "presence:";
/// Another node may be about to announce the same change: so long it is left to it, and up to as
/// long again, so that not all nodes do at once.
const LEFT_TO_OTHERS: Duration = Duration::from_millis(250);
/// How often the other nodes are told of one more connection, or one less, of a member: a client that
/// polls has one and none in turn.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// A change that the log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Change {
    Join,
    Leave,
}

impl Change {
    /// The name of its event.
    pub const fn event(self) -> &'static str {
        match self {
            Self::Join => "presence:join",
            Self::Leave => "presence:leave",
        }
    }

    fn of(event: &str) -> Option<Self> {
        [Self::Join, Self::Leave]
            .into_iter()
            .find(|change| change.event() == event)
    }
}

/// The event that says that nobody is on a topic until their joins follow: the node that announces
/// it does not know who was.
pub const FORGET: &str = "presence:forget";

/// A subject on a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub tenant: Tenant,
    pub topic: Topic,
    pub subject: Arc<str>,
}

/// A change to be announced.
#[derive(Debug)]
pub struct Announcement {
    pub place: Place,
    pub change: Change,
    /// The position of the join before it; 0 where this node knows of none. It tells one change from
    /// another of its kind.
    pub after: u64,
}

/// How many connections a subject has on a topic to the node that tells it; `None` where it does
/// not count there any more.
#[derive(Debug)]
pub struct Count {
    pub place: Place,
    pub connections: Option<u32>,
}

/// One of those on a topic.
#[derive(Debug, PartialEq, Eq)]
pub struct Present {
    pub subject: Arc<str>,
    pub connections: u64,
}

/// What is to be done, and when to ask again.
#[derive(Debug, Default)]
pub struct Due {
    /// What the other nodes have to be told.
    pub counts: Vec<Count>,
    pub announcements: Vec<Announcement>,
    pub next: Option<Instant>,
}

/// Who is on which topic, as far as this node knows. Shared by all workers; touched when
/// subscriptions begin and end, never when an event is delivered.
pub struct Presence {
    topics: Vec<TopicFilter>,
    grace: Duration,
    is_shared: bool,
    /// Topics that a subject may be on at once at this node.
    most_places: usize,
    state: Mutex<State>,
    /// Something has become due.
    changed: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<(Tenant, Topic), BTreeMap<Arc<str>, Member>>,
    /// Of the subjects that count here.
    places: Places,
    /// Counts that changed here and were not told yet.
    untold: BTreeSet<(Instant, Place)>,
    /// When to look whether a member came back.
    lingering: BTreeSet<(Instant, Place)>,
    /// When to look whether a change has to be announced.
    checks: BTreeSet<(Instant, Place)>,
}

/// The part of an announcement that is read back.
#[derive(Deserialize)]
struct Announced<'a> {
    #[serde(borrow)]
    data: AnnouncedData<'a>,
}

#[derive(Deserialize)]
struct AnnouncedData<'a> {
    #[serde(borrow)]
    user_id: std::borrow::Cow<'a, str>,
}

impl Presence {
    /// For topics that match one of these. A member whose last connection has gone counts for `grace`
    /// more. Other nodes are told only where the log `is_shared`.
    pub fn new(topics: Vec<TopicFilter>, grace: Duration, is_shared: bool) -> Self {
        Self {
            topics,
            grace,
            is_shared,
            most_places: usize::MAX,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Where a subject may be on so many topics at once at this node, those that it left within the
    /// grace among them. By default there is no bound.
    #[must_use]
    pub fn with_most_places(self, most_places: usize) -> Self {
        Self {
            most_places,
            ..self
        }
    }

    /// Whether it is known who is on this topic.
    pub fn covers(&self, topic: &str) -> bool {
        topic.len() + PREFIX.len() <= Topic::MAX_BYTES
            && !topic.starts_with(PREFIX)
            && self.topics.iter().any(|filter| filter.matches(topic))
    }

    /// How long a member counts whose last connection has gone.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// What has to be announced of a subject.
    pub fn needs(&self, place: &Place) -> Option<Change> {
        self.lock().known(place).and_then(|member| member.needs())
    }

    /// A connection to this node has subscribed to topics that are covered, all of one subject's; where
    /// there is an error, it has to none of them. `charge` is asked for so many joins as have to be
    /// announced for it.
    ///
    /// # Errors
    /// `too_many_subscriptions` above the topics that a subject may be on, and what `charge` says.
    pub fn enter(
        &self,
        places: Vec<Place>,
        connection: ConnectionId,
        now: Instant,
        charge: impl FnOnce(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Some(first) = places.first() else {
            return Ok(());
        };
        let mut state = self.lock();
        let (more, joins) = state.count_new(&places);
        state
            .places
            .admit(first, more, self.most_places, self.grace)?;
        if joins > 0 {
            charge(joins)?;
        }
        for place in places {
            state.enter(place, connection, now);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// A connection to this node has subscribed to it no more.
    pub fn leave(&self, place: Place, connection: ConnectionId, now: Instant) {
        let mut state = self.lock();
        let Some(member) = state.known(&place) else {
            return;
        };
        let lingers_until = member.leave(connection, self.grace, now);
        state.tell(&place, now + TELL_AFTER);
        if let Some(until) = lingers_until {
            state.lingering.insert((until, place));
        }
        self.changed.notify_one();
    }

    /// Another node's counts.
    pub fn hear(&self, node: NodeId, counts: Vec<Count>, now: Instant) {
        let mut state = self.lock();
        for count in counts {
            state
                .member(&count.place)
                .set_there(node, count.connections);
            state.check_later(count.place, now);
        }
        self.changed.notify_one();
    }

    /// Another node is gone, and with it its connections.
    pub fn forget_node(&self, node: NodeId, now: Instant) {
        let mut state = self.lock();
        let mut changed = Vec::new();
        state.for_each(|place, member| {
            member.set_there(node, None);
            if member.needs().is_some() {
                changed.push(place());
            }
        });
        for place in changed {
            state.check_later(place, now);
        }
        self.changed.notify_one();
    }

    /// An event that is about to be seen. Called for each event of the log, in order.
    pub fn read(&self, event: &Event, now: Instant) {
        let Some(topic) = event.topic.strip_prefix(PREFIX) else {
            return;
        };
        let Ok(topic) = Topic::parse(topic) else {
            return;
        };
        if &*event.name == FORGET {
            return self.read_forget((event.tenant.clone(), topic), event.sequence, now);
        }
        let announced = serde_json::from_slice::<Announced<'_>>(event.json());
        let (Some(change), Ok(announced)) = (Change::of(&event.name), announced) else {
            return;
        };
        let place = Place {
            tenant: event.tenant.clone(),
            topic,
            subject: announced.data.user_id.into(),
        };
        let mut state = self.lock();
        let member = state.member(&place);
        member.announced(change, event.sequence);
        if member.counts_here() {
            state.check(place, now);
        } else {
            state.check_later(place, now);
        }
        self.changed.notify_one();
    }

    fn read_forget(&self, topic: (Tenant, Topic), position: u64, now: Instant) {
        let mut state = self.lock();
        let Some(members) = state.topics.get_mut(&topic) else {
            return;
        };
        let subjects: Vec<_> = members.keys().cloned().collect();
        for member in members.values_mut() {
            member.announced(Change::Leave, position);
        }
        let (tenant, topic) = topic;
        for subject in subjects {
            let (tenant, topic) = (tenant.clone(), topic.clone());
            let place = Place {
                tenant,
                topic,
                subject,
            };
            state.check_later(place, now);
        }
        self.changed.notify_one();
    }

    /// Those on a topic whose subjects come after one, in order, at most so many; and how many there
    /// are in all. What was announced up to a position that was read before is in it.
    pub fn list(
        &self,
        tenant: &Tenant,
        topic: &Topic,
        after: Option<&str>,
        most: usize,
    ) -> (Vec<Present>, usize) {
        let state = self.lock();
        let Some(members) = state.topics.get(&(tenant.clone(), topic.clone())) else {
            return (Vec::new(), 0);
        };
        let present = || members.iter().filter(|(_, member)| member.is_announced());
        let page = present()
            .filter(|(subject, _)| after.is_none_or(|after| &***subject > after))
            .take(most)
            .map(|(subject, member)| Present {
                subject: Arc::clone(subject),
                connections: member.connections(),
            });
        (page.collect(), present().count())
    }

    /// Waits until something may be due.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is due now. Of each announcement the end has to be told.
    pub fn take_due(&self, now: Instant) -> Due {
        let mut state = self.lock();
        state.expire(now);
        let counts = state.take_untold(now);
        Due {
            counts: if self.is_shared { counts } else { Vec::new() },
            announcements: state.take_announcements(now),
            next: state.next_due(),
        }
    }

    /// An announcement has been made, or could not be made; when to look whether another is needed.
    pub fn end_announcement(&self, place: &Place, check_at: Instant) {
        let mut state = self.lock();
        if let Some(member) = state.known(place) {
            member.end_announcing();
            state.check(place.clone(), check_at);
        }
        self.changed.notify_one();
    }

    /// All counts of this node, to be told to all others, which forget those told before.
    pub fn counts(&self) -> Vec<Count> {
        let mut counts = Vec::new();
        self.lock().for_each(|place, member| {
            // What is told here is what the others know last.
            member.tell();
            counts.extend(member.count().map(|connections| Count {
                place: place(),
                connections: Some(connections),
            }));
        });
        counts
    }

    /// Who is announced, and at which position: for a node that has not read all of the log that
    /// this one has.
    pub fn announced(&self) -> Vec<(Place, u64)> {
        let mut announced = Vec::new();
        self.lock().for_each(|place, member| {
            announced.extend(member.announced_at().map(|position| (place(), position)));
        });
        announced
    }

    /// Takes what another node has read of the log before this one began to read it, at `began`. What came
    /// later this one has read itself.
    pub fn learn(&self, announced: Vec<(Place, u64)>, began: u64, now: Instant) {
        let mut state = self.lock();
        for (place, position) in announced {
            if position <= began {
                state.member(&place).announced(Change::Join, position);
                state.check_later(place, now);
            }
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn for_each(&mut self, mut act: impl FnMut(&dyn Fn() -> Place, &mut Member)) {
        for ((tenant, topic), members) in &mut self.topics {
            for (subject, member) in members {
                let place = || Place {
                    tenant: tenant.clone(),
                    topic: topic.clone(),
                    subject: Arc::clone(subject),
                };
                act(&place, member);
            }
        }
    }

    fn member(&mut self, place: &Place) -> &mut Member {
        let topic = (place.tenant.clone(), place.topic.clone());
        let members = self.topics.entry(topic).or_default();
        members.entry(Arc::clone(&place.subject)).or_default()
    }

    fn known(&mut self, place: &Place) -> Option<&mut Member> {
        let topic = (place.tenant.clone(), place.topic.clone());
        self.topics.get_mut(&topic)?.get_mut(&place.subject)
    }

    /// On how many of these their subject does not count yet here, and of how many of them nobody was
    /// told, or is about to be.
    fn count_new(&mut self, places: &[Place]) -> (usize, usize) {
        let (mut more, mut joins) = (0, 0);
        for place in places.iter().collect::<HashSet<_>>() {
            let member = self.known(place);
            more += usize::from(!member.as_ref().is_some_and(|member| member.counts_here()));
            let is_told = |member: &Member| member.is_announced() || member.needs().is_some();
            joins += usize::from(!member.is_some_and(|member| is_told(member)));
        }
        (more, joins)
    }

    fn enter(&mut self, place: Place, connection: ConnectionId, now: Instant) {
        if self.member(&place).enter(connection) {
            self.places.add(&place);
            self.tell(&place, now);
            self.check(place, now);
        } else {
            self.tell(&place, now + TELL_AFTER);
        }
    }

    fn tell(&mut self, place: &Place, at: Instant) {
        self.untold.insert((at, place.clone()));
    }

    fn take_untold(&mut self, now: Instant) -> Vec<Count> {
        let mut counts = Vec::new();
        while let Some((at, _)) = self.untold.first()
            && *at <= now
            && let Some((_, place)) = self.untold.pop_first()
        {
            let Some(member) = self.known(&place) else {
                continue;
            };
            if member.tell() {
                counts.push(Count {
                    connections: member.count(),
                    place,
                });
            }
        }
        counts
    }

    fn check(&mut self, place: Place, at: Instant) {
        self.checks.insert((at, place));
    }

    fn check_later(&mut self, place: Place, now: Instant) {
        let delay = LEFT_TO_OTHERS.mul_f64(1.0 + fastrand::f64());
        self.check(place, now + delay);
    }

    /// Those who have not come back count no more.
    fn expire(&mut self, now: Instant) {
        while let Some((until, _)) = self.lingering.first()
            && *until <= now
            && let Some((_, place)) = self.lingering.pop_first()
        {
            if self.known(&place).is_some_and(|member| member.expire(now)) {
                self.places.remove(&place);
                self.tell(&place, now);
                self.check(place, now);
            }
        }
    }

    fn take_announcements(&mut self, now: Instant) -> Vec<Announcement> {
        let mut announcements = Vec::new();
        while let Some((at, _)) = self.checks.first()
            && *at <= now
            && let Some((_, place)) = self.checks.pop_first()
        {
            let Some(member) = self.known(&place) else {
                continue;
            };
            if let Some((change, after)) = member.begin_announcing() {
                announcements.push(Announcement {
                    place,
                    change,
                    after,
                });
            } else if member.is_forgettable() {
                self.forget(&place);
            }
        }
        announcements
    }

    fn forget(&mut self, place: &Place) {
        let topic = (place.tenant.clone(), place.topic.clone());
        if let Some(members) = self.topics.get_mut(&topic) {
            members.remove(&place.subject);
            if members.is_empty() {
                self.topics.remove(&topic);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let queues = [&self.untold, &self.lingering, &self.checks];
        let firsts = queues.into_iter().filter_map(|queue| queue.first());
        firsts.map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod simulation;
