//! Who is on a topic: which subjects have a subscription to exactly this topic, on any transport
//! and any node, and the events that tell of joins and leaves.
//!
//! A node counts its own connections and hears the others' counts. What was announced is what
//! the log says: the events `presence:join` and `presence:leave` on the topic `presence:TOPIC`, which
//! every node reads. Where the two differ, a change has to be announced. The node on which it
//! happened does so at once, the others after a while if it has not; a key for each change keeps
//! it from being announced twice. A node announces only what it has told the others of its own
//! connections, and no leave while it does not know all of theirs.
//!
//! Pure but for its lock: `cluster` tells the other nodes and appends to the log.

mod hearing;
mod member;
mod places;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::sync::Notify;

pub use telling::Counts;

use hearing::Teller;
use member::{Member, REMEMBERED};
use places::Places;
use telling::Telling;

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

/// How long a leave is put off where this node does not know all that others have told.
const PUT_OFF: Duration = Duration::from_millis(500);

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
#[derive(Clone, Debug)]
pub struct Announcement {
    pub place: Place,
    pub change: Change,
    /// The position of the join before it; 0 where this node knows of none. It tells one change from
    /// another of its kind.
    pub after: u64,
}

/// How many connections a subject has on a topic to the node that tells it; `None` where it does
/// not count there any more.
#[derive(Clone, Debug)]
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

/// Where an announcement came to in the log.
#[derive(Clone, Copy, Debug)]
pub struct Appended {
    pub position: u64,
    /// It was there before, put there by whichever node.
    pub is_duplicate: bool,
    /// Up to where this node has read the log.
    pub read_until: u64,
}

/// What is to be done, and when to ask again.
#[derive(Debug, Default)]
pub struct Due {
    pub announcements: Vec<Announcement>,
    pub next: Option<Instant>,
}

/// Who is on which topic, as far as this node knows. Shared by all workers; touched when
/// subscriptions begin and end, never when an event is delivered.
pub struct Presence {
    topics: Vec<TopicFilter>,
    grace: Duration,
    /// Topics that a subject may be on at once at this node.
    most_places: usize,
    state: Mutex<State>,
    /// Something is to be announced, or told.
    changed: Notify,
    has_to_tell: Notify,
}

#[derive(Default)]
struct State {
    is_shared: bool,
    topics: HashMap<(Tenant, Topic), Members>,
    /// Of the subjects that count here.
    places: Places,
    telling: Telling,
    tellers: HashMap<NodeId, Teller>,
    /// This node was told what was announced before it began to read the log, or after it missed a
    /// part of it.
    is_informed: bool,
    /// When to look whether a member came back.
    lingering: BTreeSet<(Instant, Place)>,
    /// When to look whether a change has to be announced.
    checks: BTreeSet<(Instant, Place)>,
}

/// Those of whom something is known on one topic.
#[derive(Default)]
struct Members {
    by_subject: BTreeMap<Arc<str>, Member>,
    /// How many of them are announced.
    announced: usize,
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
            most_places: usize::MAX,
            state: Mutex::new(State {
                is_shared,
                is_informed: !is_shared,
                ..State::default()
            }),
            changed: Notify::new(),
            has_to_tell: Notify::new(),
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
        self.notify();
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
        self.notify();
    }

    /// What another node tells of its connections.
    pub fn hear(&self, node: NodeId, told: Counts, now: Instant) {
        self.lock().hear(node, told, now);
        self.changed.notify_one();
    }

    /// Another node is there, which will tell all of its connections.
    pub fn expect(&self, node: NodeId, now: Instant) {
        self.lock().expect(node, now);
    }

    /// Another node is gone, and with it its connections.
    pub fn forget_node(&self, node: NodeId, now: Instant) {
        self.lock().forget_node(node, now);
        self.changed.notify_one();
    }

    /// This node does not know what was announced, nor all that others have told, until it
    /// [`Presence::is_informed`]; nor whether another has asked.
    pub fn has_missed(&self) {
        self.lock().is_informed = false;
        self.tell_all();
    }

    /// This node has asked the others, who all tell all of their connections from now on.
    pub fn has_asked(&self, now: Instant) {
        self.lock().expect_all(now);
    }

    /// This node knows what was announced, or nobody does.
    pub fn is_informed(&self) {
        self.lock().is_informed = true;
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
        state.announced(&place, change, event.sequence, now);
        if state.member(&place).counts_here() {
            state.check(place, now);
        } else {
            state.check_later(place, now);
        }
        self.changed.notify_one();
    }

    fn read_forget(&self, topic: (Tenant, Topic), position: u64, now: Instant) {
        let mut state = self.lock();
        let Some(members) = state.topics.get(&topic) else {
            return;
        };
        let subjects: Vec<_> = members.by_subject.keys().cloned().collect();
        let (tenant, topic) = topic;
        for subject in subjects {
            let (tenant, topic) = (tenant.clone(), topic.clone());
            let place = Place {
                tenant,
                topic,
                subject,
            };
            state.announced(&place, Change::Leave, position, now);
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
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = members.by_subject.range::<str, _>((from, Bound::Unbounded));
        let page = later
            .filter(|(_, member)| member.is_announced())
            .take(most)
            .map(|(subject, member)| Present {
                subject: Arc::clone(subject),
                connections: member.connections(),
            });
        (page.collect(), members.announced)
    }

    /// Waits until something may be due.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is due now. Of each announcement the end has to be told.
    pub fn take_due(&self, now: Instant) -> Due {
        let mut state = self.lock();
        if state.expire(now) {
            self.has_to_tell.notify_one();
        }
        Due {
            announcements: state.take_announcements(now),
            next: state.next_due(),
        }
    }

    /// An announcement was appended to the log. Where the log had it, and there must have been more
    /// since, the position after which the next one of its kind is to be announced.
    pub fn appended(&self, what: &Announcement, came_to: Appended, now: Instant) -> Option<u64> {
        let Appended {
            position,
            is_duplicate,
            read_until,
        } = came_to;
        let place = &what.place;
        let mut state = self.lock();
        // What this node has read stands in the log after all that it knows of an earlier join. A leave
        // belongs to one join, and there is no second one of it.
        let is_known = what.change == Change::Join && is_duplicate && position <= read_until;
        if !is_known {
            state.announced(place, what.change, position, now);
            return None;
        }
        let needs = state.known(place).and_then(|member| member.needs());
        // It may be in the part that this node has missed, and be the last one.
        (state.is_informed && needs == Some(what.change)).then_some(position)
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

    /// Tells the other nodes all counts, since one of them knows nothing of them.
    pub fn tell_all(&self) {
        self.lock().telling.tell_all();
        self.has_to_tell.notify_one();
    }

    /// Waits until there may be something to tell.
    pub async fn has_to_tell(&self) {
        self.has_to_tell.notified().await;
    }

    /// What the other nodes are to be told now, of at most so many members, or when to ask again.
    /// Whether it was told has to be told to [`Presence::counts_told`] before there is more.
    pub fn take_counts(&self, now: Instant, most: usize) -> Result<Counts, Option<Instant>> {
        let mut state = self.lock();
        let note = state.take_counts(now, most);
        note.ok_or_else(|| state.telling.next_due(now))
    }

    /// The other nodes were told, or perhaps not: then they are told again.
    pub fn counts_told(&self, note: Counts, is_told: bool, now: Instant) {
        self.lock().counts_told(note, is_told, now);
        self.changed.notify_one();
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
                state.announced(&place, Change::Join, position, now);
                state.check_later(place, now);
            }
        }
        self.changed.notify_one();
    }

    fn notify(&self) {
        self.changed.notify_one();
        self.has_to_tell.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody is on a topic after its last announcements, in order; where they are not whole, there were
/// others before them. Rather not where it can not be told.
pub fn leaves_nobody(announcements: &[Arc<Event>], is_whole: bool) -> bool {
    let mut last_of = HashMap::new();
    for event in announcements.iter().rev() {
        if &*event.name == FORGET {
            return !last_of.values().any(|change| *change == Change::Join);
        }
        let announced = serde_json::from_slice::<Announced<'_>>(event.json());
        let (Some(change), Ok(announced)) = (Change::of(&event.name), announced) else {
            return false;
        };
        last_of.entry(announced.data.user_id).or_insert(change);
    }
    is_whole && !last_of.values().any(|change| *change == Change::Join)
}

impl State {
    fn for_each(&mut self, mut act: impl FnMut(&dyn Fn() -> Place, &mut Member)) {
        for ((tenant, topic), members) in &mut self.topics {
            for (subject, member) in &mut members.by_subject {
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
        members
            .by_subject
            .entry(Arc::clone(&place.subject))
            .or_default()
    }

    fn known(&mut self, place: &Place) -> Option<&mut Member> {
        let topic = (place.tenant.clone(), place.topic.clone());
        let members = self.topics.get_mut(&topic)?;
        members.by_subject.get_mut(&place.subject)
    }

    /// What the log says of a member.
    fn announced(&mut self, place: &Place, change: Change, position: u64, now: Instant) {
        let topic = (place.tenant.clone(), place.topic.clone());
        let members = self.topics.entry(topic).or_default();
        let subject = Arc::clone(&place.subject);
        let member = members.by_subject.entry(subject).or_default();
        let was_announced = member.is_announced();
        member.announced(change, position, now);
        match (was_announced, member.is_announced()) {
            (false, true) => members.announced += 1,
            (true, false) => members.announced -= 1,
            _ => {}
        }
        if change == Change::Leave {
            self.check(place.clone(), now + REMEMBERED);
        }
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
        if self.is_shared {
            self.telling.tell(place, at);
        }
    }

    fn check(&mut self, place: Place, at: Instant) {
        self.checks.insert((at, place));
    }

    fn check_later(&mut self, place: Place, now: Instant) {
        let delay = LEFT_TO_OTHERS.mul_f64(1.0 + fastrand::f64());
        self.check(place, now + delay);
    }

    /// Those who have not come back count no more. Whether there are any.
    fn expire(&mut self, now: Instant) -> bool {
        let mut are_any = false;
        while let Some((until, _)) = self.lingering.first()
            && *until <= now
            && let Some((_, place)) = self.lingering.pop_first()
        {
            if self.known(&place).is_some_and(|member| member.expire(now)) {
                are_any = true;
                self.places.remove(&place);
                self.tell(&place, now);
                self.check(place, now);
            }
        }
        are_any
    }

    fn take_announcements(&mut self, now: Instant) -> Vec<Announcement> {
        let (is_shared, is_whole) = (self.is_shared, self.is_whole(now));
        let mut announcements = Vec::new();
        while let Some((at, _)) = self.checks.first()
            && *at <= now
            && let Some((_, place)) = self.checks.pop_first()
        {
            let Some(member) = self.known(&place) else {
                continue;
            };
            match member.needs() {
                None if member.is_forgettable(now) => self.forget(&place),
                // It is looked at again when they were told.
                Some(_) if is_shared && !member.is_known_to_others() => {}
                Some(Change::Leave) if !is_whole => self.check(place, now + PUT_OFF),
                _ => {
                    let begun = member.begin_announcing();
                    announcements.extend(begun.map(|(change, after)| Announcement {
                        place,
                        change,
                        after,
                    }));
                }
            }
        }
        announcements
    }

    fn forget(&mut self, place: &Place) {
        let topic = (place.tenant.clone(), place.topic.clone());
        if let Some(members) = self.topics.get_mut(&topic) {
            members.by_subject.remove(&place.subject);
            if members.by_subject.is_empty() {
                self.topics.remove(&topic);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let queues = [&self.lingering, &self.checks];
        let firsts = queues.into_iter().filter_map(|queue| queue.first());
        firsts.map(|(at, _)| *at).min()
    }
}

#[cfg(test)]
mod simulation;
