//! The budgets of subjects: the same whichever transport a client uses, so that falling back
//! neither fills them up again nor pays twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    bucket::{Bucket, Clock, Rate},
    shared::{Changes, Elsewhere, Spending, SubjectKey, Untold},
};
use crate::{
    auth::Identity,
    config::LimitsConfig,
    node::NodeId,
    protocol::{ErrorCode, LimitKind, Refusal},
};

/// Subjects whose state is kept, about 300 bytes each. One that is neither connected nor in debt
/// is forgotten, so only as many at the same time count.
const MOST_SUBJECTS: usize = 200_000;
/// The table's parts, each under its own lock.
const PARTS: usize = 16;
/// A long-poll client that asks again within this time goes on with the connection that it had.
/// Longer than clients wait after an error, and than a phone takes to find the network again.
const POLL_GAP: Duration = Duration::from_secs(60);
/// Poll series remembered for one subject between two of their polls.
const MOST_GAPS: usize = 1024;
/// Whoever has too many connections may try again after this time; when one ends is not known.
const CONNECTIONS_RETRY: Duration = Duration::from_secs(5);

/// What one subject may take: the configuration's defaults, unless its token says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubjectAllowance {
    pub publish: Rate,
    pub connect: Rate,
    pub connections: u32,
    pub polls: u32,
}

impl SubjectAllowance {
    fn new(config: &LimitsConfig) -> Self {
        Self {
            publish: Rate {
                per_second: config.publish_events_per_second,
                burst: config.publish_burst,
            },
            connect: Rate {
                per_second: config.connects_per_second,
                burst: config.connect_burst,
            },
            connections: config.connections_per_subject,
            polls: config.polls_per_subject,
        }
    }

    /// With what the token says in place of the defaults. A rate without its burst may come at
    /// once for one second.
    #[must_use]
    fn of(self, identity: &Identity) -> Self {
        let Some(claimed) = &identity.limits else {
            return self;
        };
        let rate = |default: Rate, per_second: Option<u32>, burst: Option<u32>| Rate {
            per_second: per_second.unwrap_or(default.per_second),
            burst: burst.or(per_second).unwrap_or(default.burst),
        };
        Self {
            publish: rate(
                self.publish,
                claimed.publish_events_per_second,
                claimed.publish_burst,
            ),
            connect: rate(
                self.connect,
                claimed.connects_per_second,
                claimed.connect_burst,
            ),
            connections: claimed.connections_per_subject.unwrap_or(self.connections),
            polls: claimed.polls_per_subject.unwrap_or(self.polls),
        }
    }
}

type Part = HashMap<SubjectKey, Arc<SubjectState>, ahash::RandomState>;

/// All subjects of a node that are connected, or have lately been.
pub struct SubjectLimits {
    defaults: SubjectAllowance,
    clock: Clock,
    hasher: ahash::RandomState,
    parts: [Mutex<Part>; PARTS],
    most_in_part: usize,
    /// Where the limits hold for all nodes together.
    changes: Option<Arc<Changes>>,
    /// How often each other node has begun to tell all.
    tellings: Mutex<HashMap<NodeId, u64>>,
}

/// One subject's budgets, shared by its connections.
#[derive(Debug, Default)]
pub struct SubjectState {
    publish: Bucket,
    connect: Bucket,
    connections: AtomicU32,
    polls: AtomicU32,
    /// Until when each poll series that has no poll waiting right now is remembered.
    gaps: Mutex<Vec<Instant>>,
    /// What it spends at other nodes, where that counts.
    elsewhere: Option<Box<Elsewhere>>,
    /// It is known not only from what other nodes told.
    was_here: AtomicBool,
}

impl SubjectLimits {
    pub fn new(config: &LimitsConfig) -> Self {
        Self::with_capacity(config, MOST_SUBJECTS)
    }

    fn with_capacity(config: &LimitsConfig, subjects: usize) -> Self {
        Self {
            defaults: SubjectAllowance::new(config),
            clock: Clock::start(),
            hasher: ahash::RandomState::new(),
            parts: std::array::from_fn(|_| Mutex::default()),
            most_in_part: subjects.div_ceil(PARTS),
            changes: config.shared.then(Arc::default),
            tellings: Mutex::default(),
        }
    }

    /// The state of an identity's subject.
    ///
    /// # Errors
    /// `unavailable` while there are more subjects than are kept.
    pub fn state(&self, identity: &Identity) -> Result<Arc<SubjectState>, Refusal> {
        let key = (identity.tenant.clone(), Arc::clone(&identity.subject));
        let mut part = self.part(&key);
        if part.len() >= self.most_in_part && !part.contains_key(&key) {
            self.make_room(&mut part);
        }
        let state = self.state_in(&mut part, key).ok_or_else(|| {
            Refusal::unavailable(
                "more users at once than this node keeps account of: try again later",
            )
        })?;
        state.was_here.store(true, Ordering::Relaxed);
        Ok(state)
    }

    /// For one who comes to this node.
    fn make_room(&self, part: &mut Part) {
        // Poll series between two polls are forgotten too: one that comes again pays again, and nobody
        // can fill the table with them.
        let gaps_until = Instant::now() + POLL_GAP;
        self.forget_idle(part, gaps_until);
        if part.len() < self.most_in_part {
            return;
        }
        // Of those that other nodes told of, some at a time: until more is told of them they count there
        // alone.
        let mut enough = self.most_in_part.div_ceil(16);
        let now = self.clock.now();
        part.retain(|_, state| {
            let goes =
                enough > 0 && Arc::strong_count(state) == 1 && !state.matters_here(now, gaps_until);
            enough -= usize::from(goes);
            !goes
        });
    }

    /// `None` where there is no room for one more.
    fn state_in(&self, part: &mut Part, key: SubjectKey) -> Option<Arc<SubjectState>> {
        if let Some(state) = part.get(&key) {
            return Some(Arc::clone(state));
        }
        if part.len() >= self.most_in_part {
            return None;
        }
        let elsewhere = self.changes.as_ref();
        let state = Arc::new(SubjectState {
            elsewhere: elsewhere.map(|changes| Box::new(Elsewhere::new(key.clone(), changes))),
            ..SubjectState::default()
        });
        part.insert(key, Arc::clone(&state));
        Some(state)
    }

    /// Waits until there is something to tell other nodes; for ever where limits are each node's own.
    pub async fn changed(&self) {
        match &self.changes {
            Some(changes) => changes.wait().await,
            None => std::future::pending().await,
        }
    }

    /// What the others are to be told, from now on known to whoever takes it only.
    pub fn take_untold(&self) -> Untold {
        let changes = self.changes.as_ref();
        changes.map(|changes| changes.take()).unwrap_or_default()
    }

    /// Has all told, for a node that may have missed some. With the number that [`Untold::whole`] has
    /// reached then; `None` where nobody is told.
    pub fn ask_for_all(&self) -> Option<u64> {
        Some(self.changes.as_ref()?.ask_for_all())
    }

    /// The subjects that are connected, or have spent what was not told.
    pub fn spenders(&self) -> Vec<SubjectKey> {
        let mut spenders = Vec::new();
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            let those = part.iter().filter(|(_, state)| state.is_spender());
            spenders.extend(those.map(|(key, _)| key.clone()));
        }
        spenders
    }

    /// What these have spent since they were asked about last, and what they have now. One that was
    /// forgotten has nothing, which the others have to be told all the same.
    pub fn take_spending(&self, keys: &[SubjectKey]) -> Vec<Spending> {
        let spending = |key: &SubjectKey| {
            let state = self.part(key).get(key).cloned();
            let spending = state.and_then(|state| state.spending());
            spending.unwrap_or_else(|| Spending::nothing(key.clone()))
        };
        keys.iter().map(spending).collect()
    }

    /// Takes back what was taken and could not be told, to be told once more.
    pub fn put_back(&self, spending: &[Spending]) {
        for spending in spending {
            let state = self.part(&spending.key).get(&spending.key).cloned();
            if let Some(elsewhere) = state.as_ref().and_then(|state| state.elsewhere.as_ref()) {
                elsewhere.put_back(spending);
            }
        }
        self.owe(spending.iter().map(|spending| &spending.key));
    }

    /// These still have to be told.
    pub fn owe<'a>(&self, keys: impl Iterator<Item = &'a SubjectKey>) {
        if let Some(changes) = &self.changes {
            keys.for_each(|key| changes.note(key));
        }
    }

    /// All still have to be told.
    pub fn owe_all(&self) {
        if let Some(changes) = &self.changes {
            changes.owe_all();
        }
    }

    /// Another node begins to tell all that its subjects have.
    pub fn begin_telling(&self, node: NodeId) {
        *self.tellings().entry(node).or_default() += 1;
    }

    /// It has: those that it did not mention have nothing there.
    pub fn end_telling(&self, node: NodeId) {
        let telling = self.tellings().get(&node).copied();
        self.forget_unmentioned(node, Some(telling.unwrap_or_default()));
    }

    /// Takes into account what a subject spent at another node.
    pub fn hear(&self, node: NodeId, spending: Spending) {
        if self.changes.is_none() {
            return;
        }
        let state = self.state_in(&mut self.part(&spending.key), spending.key);
        // Where there is no room those that are here come first, and it counts there alone.
        let Some(state) = state else {
            return;
        };
        let now = self.clock.now();
        let publish = spending.publish_rate.unwrap_or(self.defaults.publish);
        let connect = spending.connect_rate.unwrap_or(self.defaults.connect);
        state.publish.owe(spending.published, publish, now);
        state.connect.owe(spending.connects, connect, now);
        if let Some(elsewhere) = &state.elsewhere {
            let telling = self.tellings().get(&node).copied().unwrap_or_default();
            elsewhere.set_there(node, spending.connections, spending.polls, telling);
        }
    }

    /// Another node is gone, and its connections with it.
    pub fn forget_node(&self, node: NodeId) {
        self.tellings().remove(&node);
        self.forget_unmentioned(node, None);
    }

    fn forget_unmentioned(&self, node: NodeId, telling: Option<u64>) {
        for part in &self.parts {
            let part = part.lock().unwrap_or_else(PoisonError::into_inner);
            for elsewhere in part.values().filter_map(|state| state.elsewhere.as_ref()) {
                elsewhere.forget_unmentioned(node, telling);
            }
        }
    }

    fn tellings(&self) -> MutexGuard<'_, HashMap<NodeId, u64>> {
        self.tellings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many events from the subject's publish budget.
    ///
    /// # Errors
    /// `rate_limited` with the time until there is budget again; `too_large` for more than the
    /// subject may ever publish at once.
    pub fn take_publish(
        &self,
        state: &SubjectState,
        identity: &Identity,
        events: usize,
    ) -> Result<(), Refusal> {
        let rate = self.defaults.of(identity).publish;
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        if events > rate.burst {
            return Err(Refusal::new(
                ErrorCode::TooLarge,
                format!(
                    "you may publish {} events at once: send the batch in parts",
                    rate.burst
                ),
            )
            .over(LimitKind::Publish));
        }
        let taken = state.publish.take(events, rate, self.clock.now());
        if let (Ok(()), Some(elsewhere)) = (&taken, &state.elsewhere) {
            elsewhere.note_published(events, told(rate, self.defaults.publish));
        }
        taken.map_err(|wait| {
            Refusal::rate_limited(
                "you publish too much: slow down",
                LimitKind::Publish,
                rate.quota(),
                wait,
            )
        })
    }

    /// Takes from the publish budget what the gateway announces for the subject. More than the burst
    /// takes all of it, and the rest is owed.
    ///
    /// # Errors
    /// `rate_limited` with the time until there is budget again.
    pub fn take_joins(
        &self,
        state: &SubjectState,
        identity: &Identity,
        joins: usize,
    ) -> Result<(), Refusal> {
        let (rate, now) = (self.defaults.of(identity).publish, self.clock.now());
        let joins = u32::try_from(joins).unwrap_or(u32::MAX);
        let at_once = joins.min(rate.burst);
        state.publish.take(at_once, rate, now).map_err(|wait| {
            Refusal::rate_limited(
                "you join more topics than you may publish events: slow down",
                LimitKind::Publish,
                rate.quota(),
                wait,
            )
        })?;
        state.publish.owe(joins - at_once, rate, now);
        if let Some(elsewhere) = &state.elsewhere {
            elsewhere.note_published(joins, told(rate, self.defaults.publish));
        }
        Ok(())
    }

    /// Takes a place among the subject's connections for a stream.
    ///
    /// # Errors
    /// `rate_limited` where the subject opens too many, `too_many_connections` where it has too
    /// many.
    pub(super) fn place_for_stream(&self, identity: &Identity) -> Result<SubjectPlace, Refusal> {
        let allowance = self.defaults.of(identity);
        let place = SubjectPlace::connection(self.state(identity)?, allowance)?;
        self.take_connect(&place.state, allowance)?;
        Ok(place)
    }

    /// Takes a place for a poll. The first of a series counts as a connect, as a stream does;
    /// those that follow go on with it.
    ///
    /// # Errors
    /// As [`SubjectLimits::place_for_stream`], and `too_many_connections` for too many waiting
    /// polls.
    pub(super) fn place_for_poll(&self, identity: &Identity) -> Result<SubjectPlace, Refusal> {
        let allowance = self.defaults.of(identity);
        let mut place = SubjectPlace::connection(self.state(identity)?, allowance)?;
        place.become_poll(allowance)?;
        if !place.goes_on {
            self.take_connect(&place.state, allowance)?;
            place.is_counted_series = true;
        }
        Ok(place)
    }

    fn take_connect(
        &self,
        state: &SubjectState,
        allowance: SubjectAllowance,
    ) -> Result<(), Refusal> {
        let taken = state.connect.take(1, allowance.connect, self.clock.now());
        if let (Ok(()), Some(elsewhere)) = (&taken, &state.elsewhere) {
            elsewhere.note_connect(told(allowance.connect, self.defaults.connect));
        }
        taken.map_err(|wait| {
            Refusal::rate_limited(
                "you connect too often: slow down",
                LimitKind::Connect,
                allowance.connect.quota(),
                wait,
            )
        })
    }

    pub(super) fn prune(&self) {
        for part in &self.parts {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            self.forget_idle(&mut part, Instant::now());
            part.shrink_to_fit();
        }
    }

    /// Forgets those that nobody holds and that owe nothing, and whose poll series have ended by
    /// `gaps_until`.
    fn forget_idle(&self, part: &mut Part, gaps_until: Instant) {
        let now = self.clock.now();
        part.retain(|_, state| Arc::strong_count(state) > 1 || !state.is_idle(now, gaps_until));
    }

    fn part(&self, key: &SubjectKey) -> MutexGuard<'_, Part> {
        let index = self.hasher.hash_one(key) as usize % PARTS;
        self.parts[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl SubjectState {
    /// Puts events back that were taken from the publish budget and not appended.
    pub fn give_back_publish(&self, events: u32) {
        self.publish.give_back(events);
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.take_back_published(events);
        }
    }

    /// Whether a new state would be the same.
    fn is_idle(&self, now: u64, gaps_until: Instant) -> bool {
        let elsewhere = self.elsewhere.as_ref();
        let is_elsewhere = elsewhere.is_some_and(|elsewhere| elsewhere.connections() > 0);
        !is_elsewhere && self.owes_nothing(now, gaps_until)
    }

    /// Whether one that nobody holds is kept for more than what other nodes told.
    fn matters_here(&self, now: u64, gaps_until: Instant) -> bool {
        self.was_here.load(Ordering::Relaxed) && !self.owes_nothing(now, gaps_until)
    }

    fn owes_nothing(&self, now: u64, gaps_until: Instant) -> bool {
        let no_gap = self.gaps().iter().all(|until| *until <= gaps_until);
        self.publish.is_full(now) && self.connect.is_full(now) && no_gap
    }

    /// Whether other nodes are to know of it.
    fn is_spender(&self) -> bool {
        let spent = self.elsewhere.as_ref();
        self.connections.load(Ordering::Relaxed) > 0
            || spent.is_some_and(|elsewhere| elsewhere.has_spent())
    }

    /// What to tell other nodes; `None` where nobody is told.
    fn spending(&self) -> Option<Spending> {
        let connections = self.connections.load(Ordering::Relaxed);
        let polls = self.polls.load(Ordering::Relaxed);
        Some(self.elsewhere.as_ref()?.take(connections, polls))
    }

    /// Connections and waiting polls at other nodes.
    fn elsewhere(&self) -> (u32, u32) {
        let elsewhere = self.elsewhere.as_ref();
        elsewhere.map_or((0, 0), |elsewhere| {
            (elsewhere.connections(), elsewhere.polls())
        })
    }

    fn note_change(&self) {
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.note();
        }
    }

    /// Takes over a poll series that has no poll waiting.
    fn resume_series(&self) -> bool {
        let now = Instant::now();
        // The newest is the one most likely meant, and the others end by themselves.
        self.gaps().pop().is_some_and(|until| until > now)
    }

    fn pause_series(&self) {
        let now = Instant::now();
        let mut gaps = self.gaps();
        if gaps.len() >= MOST_GAPS {
            gaps.retain(|until| *until > now);
        }
        if gaps.len() < MOST_GAPS {
            gaps.push(now + POLL_GAP);
        }
    }

    fn gaps(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.gaps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among a subject's connections, held until it is dropped.
#[derive(Debug)]
pub struct SubjectPlace {
    state: Arc<SubjectState>,
    is_poll: bool,
    /// A poll of a series that was paid for.
    goes_on: bool,
    is_counted_series: bool,
}

impl SubjectPlace {
    /// Whether this is a poll that goes on with a series, so that nobody connects anew.
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    pub fn state(&self) -> &Arc<SubjectState> {
        &self.state
    }

    /// Puts back what a new stream or series cost its subject, since it does not begin after all.
    pub(super) fn give_back_connect(&mut self) {
        self.state.connect.give_back(1);
        if let Some(elsewhere) = &self.state.elsewhere {
            elsewhere.take_back_connect();
        }
        self.is_counted_series = false;
    }

    fn connection(state: Arc<SubjectState>, allowance: SubjectAllowance) -> Result<Self, Refusal> {
        let before = state.connections.fetch_add(1, Ordering::Relaxed);
        let place = Self {
            state,
            is_poll: false,
            goes_on: false,
            is_counted_series: false,
        };
        let (elsewhere, _) = place.state.elsewhere();
        place.state.note_change();
        if before.saturating_add(elsewhere) >= allowance.connections {
            return Err(too_many(
                format!(
                    "you have {} connections, which is all that you may have: close one",
                    allowance.connections
                ),
                LimitKind::SubjectConnections,
            ));
        }
        Ok(place)
    }

    fn become_poll(&mut self, allowance: SubjectAllowance) -> Result<(), Refusal> {
        let before = self.state.polls.fetch_add(1, Ordering::Relaxed);
        self.is_poll = true;
        let (_, elsewhere) = self.state.elsewhere();
        if before.saturating_add(elsewhere) >= allowance.polls {
            return Err(too_many(
                format!(
                    "you have {} polls waiting, which is all that you may have",
                    allowance.polls
                ),
                LimitKind::SubjectPolls,
            ));
        }
        self.goes_on = self.state.resume_series();
        Ok(())
    }
}

impl Drop for SubjectPlace {
    fn drop(&mut self) {
        if self.is_poll {
            self.state.polls.fetch_sub(1, Ordering::Relaxed);
        }
        if self.goes_on || self.is_counted_series {
            self.state.pause_series();
        }
        self.state.connections.fetch_sub(1, Ordering::Relaxed);
        self.state.note_change();
    }
}

/// The rate that other nodes have to be told.
fn told(rate: Rate, default: Rate) -> Option<Rate> {
    (rate != default).then_some(rate)
}

fn too_many(message: String, kind: LimitKind) -> Refusal {
    Refusal::new(ErrorCode::TooManyConnections, message)
        .over(kind)
        .retry_after(CONNECTIONS_RETRY)
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::auth::ClaimedLimits;
    use crate::topic::Tenant;

    pub(in crate::limits) fn identity(subject: &str, limits: Option<ClaimedLimits>) -> Identity {
        Identity {
            subject: subject.into(),
            tenant: Tenant::none(),
            subscribe: Vec::new(),
            publish: Vec::new(),
            trusted: false,
            stats: false,
            expires_at: Timestamp::MAX,
            token_id: None,
            limits: limits.map(Box::new),
        }
    }

    fn limits(capacity: usize) -> SubjectLimits {
        SubjectLimits::with_capacity(&LimitsConfig::default(), capacity)
    }

    fn known(limits: &SubjectLimits) -> usize {
        let parts = limits.parts.iter();
        parts.map(|part| part.lock().expect("no panic").len()).sum()
    }

    /// Prunes until nobody is known; false where somebody stays.
    pub(in crate::limits) fn forgets_all(limits: &SubjectLimits) -> bool {
        (0..10_000).any(|_| {
            std::thread::yield_now();
            limits.prune();
            known(limits) == 0
        })
    }

    fn slow_publisher(subject: &str) -> Identity {
        let claimed = ClaimedLimits {
            publish_events_per_second: Some(1),
            publish_burst: Some(100),
            ..ClaimedLimits::default()
        };
        identity(subject, Some(claimed))
    }

    #[test]
    fn an_idle_subject_is_forgotten() {
        let limits = limits(1000);
        for number in 0..100 {
            let alice = identity(&format!("alice-{number}"), None);
            drop(limits.place_for_stream(&alice).expect("a place"));
        }
        assert!(forgets_all(&limits));
    }

    #[test]
    fn a_connected_subject_is_never_forgotten() {
        let limits = limits(1000);
        let alice = identity("alice", None);
        let place = limits.place_for_stream(&alice).expect("a place");
        assert!(!forgets_all(&limits));
        let state = limits.state(&alice).expect("its state");
        assert!(Arc::ptr_eq(place.state(), &state));
        drop((place, state));
        assert!(forgets_all(&limits));
    }

    #[test]
    fn a_subject_in_debt_is_not_forgotten() {
        let limits = limits(1000);
        let alice = slow_publisher("alice");
        let take = |events| {
            let state = limits.state(&alice).expect("its state");
            limits.take_publish(&state, &alice, events)
        };
        assert_eq!(take(100), Ok(()));
        limits.prune();
        assert_eq!(known(&limits), 1);
        assert!(take(50).is_err(), "its debt was forgotten");
    }

    #[test]
    fn a_poll_series_is_not_forgotten_between_two_polls() {
        let limits = limits(1000);
        let alice = identity("alice", None);
        drop(limits.place_for_poll(&alice).expect("a place"));
        assert!(!forgets_all(&limits));
        assert!(limits.place_for_poll(&alice).expect("a place").goes_on());
    }

    #[test]
    fn at_capacity_new_subjects_are_unavailable_and_known_ones_go_on() {
        let limits = limits(PARTS * 4);
        let mut places = Vec::new();
        let mut refused = Vec::new();
        for number in 0..PARTS * 40 {
            let subject = identity(&format!("subject-{number}"), None);
            match limits.place_for_stream(&subject) {
                Ok(place) => places.push((subject, place)),
                Err(refusal) => refused.push((subject, refusal)),
            }
        }
        assert_eq!(places.len(), PARTS * 4);
        assert_eq!(known(&limits), PARTS * 4);
        for (_, refusal) in &refused {
            assert_eq!(refusal.code, ErrorCode::Unavailable);
            assert!(refusal.retry_after.is_some());
        }
        for (subject, _) in &places {
            assert!(limits.place_for_stream(subject).is_ok());
            assert!(limits.place_for_poll(subject).is_ok());
        }
        drop(places);
        assert!((0..10_000).any(|_| {
            std::thread::yield_now();
            limits.place_for_stream(&refused[0].0).is_ok()
        }));
    }

    #[test]
    fn subjects_in_debt_count_and_idle_ones_make_room_at_once() {
        let limits = limits(PARTS);
        let mut taken = 0;
        for number in 0..PARTS * 40 {
            let subject = slow_publisher(&format!("subject-{number}"));
            if let Ok(state) = limits.state(&subject) {
                taken += 1;
                limits.take_publish(&state, &subject, 50).expect("a burst");
            }
        }
        assert_eq!((taken, known(&limits)), (PARTS, PARTS));
        let idle = self::limits(PARTS);
        for number in 0..PARTS * 40 {
            assert!(
                idle.state(&identity(&format!("subject-{number}"), None))
                    .is_ok()
            );
        }
        assert!(known(&idle) <= PARTS);
    }

    #[test]
    fn poll_series_between_polls_take_nobodys_place() {
        let limits = limits(PARTS);
        for number in 0..PARTS * 40 {
            let subject = identity(&format!("subject-{number}"), None);
            let refused = (0..10_000).all(|_| {
                std::thread::yield_now();
                limits.place_for_poll(&subject).is_err()
            });
            assert!(!refused, "subject {number}");
        }
        assert!(known(&limits) <= PARTS);
    }

    #[test]
    fn subjects_of_other_nodes_take_nobodys_place_here() {
        let config = LimitsConfig {
            shared: true,
            ..LimitsConfig::default()
        };
        let limits = SubjectLimits::with_capacity(&config, PARTS * 4);
        let other = NodeId::random().expect("randomness");
        let hear_of_many = || {
            for number in 0..PARTS * 40 {
                let key = (Tenant::none(), format!("there-{number}").into());
                let spending = Spending {
                    connections: 1,
                    published: 100,
                    publish_rate: Some(Rate {
                        per_second: 1,
                        burst: 100,
                    }),
                    ..Spending::nothing(key)
                };
                limits.hear(other, spending);
            }
        };
        hear_of_many();
        assert_eq!(known(&limits), PARTS * 4);
        let here: Vec<_> = (0..PARTS * 40)
            .map(|number| identity(&format!("here-{number}"), None))
            .filter_map(|subject| limits.place_for_stream(&subject).ok())
            .collect();
        assert_eq!(here.len(), PARTS * 4);
        hear_of_many();
        assert_eq!(known(&limits), PARTS * 4);
    }

    #[test]
    fn places_come_back_whatever_the_refusal() {
        let limits = limits(1000);
        let alice = identity(
            "alice",
            Some(ClaimedLimits {
                connections_per_subject: Some(2),
                polls_per_subject: Some(1),
                connects_per_second: Some(1),
                connect_burst: Some(3),
                ..ClaimedLimits::default()
            }),
        );
        let over = |refusal: Refusal| refusal.limit.expect("a limit").kind;
        for _ in 0..10 {
            let poll = limits.place_for_poll(&alice).expect("a poll");
            let second = limits.place_for_poll(&alice).expect_err("one poll only");
            assert_eq!(over(second), LimitKind::SubjectPolls);
            drop(poll);
        }
        let first = limits.place_for_stream(&alice).expect("a stream");
        let second = limits.place_for_stream(&alice).expect("a stream");
        for _ in 0..10 {
            let refused = limits
                .place_for_stream(&alice)
                .expect_err("two streams only");
            assert_eq!(over(refused), LimitKind::SubjectConnections);
        }
        drop((first, second));
        for _ in 0..10 {
            let refused = limits
                .place_for_stream(&alice)
                .expect_err("three connects only");
            assert_eq!(over(refused), LimitKind::Connect);
        }
        let state = limits.state(&alice).expect("its state");
        assert_eq!(state.connections.load(Ordering::Relaxed), 0);
        assert_eq!(state.polls.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn as_many_series_go_on_as_were_paid_for() {
        let limits = limits(1000);
        let alice = identity(
            "alice",
            Some(ClaimedLimits {
                connects_per_second: Some(1),
                connect_burst: Some(3),
                ..ClaimedLimits::default()
            }),
        );
        let poll = || limits.place_for_poll(&alice);
        let three: Vec<_> = (0..3).map(|_| poll().expect("paid for")).collect();
        assert!(poll().is_err());
        drop(three);
        for _ in 0..100 {
            let three: Vec<_> = (0..3).map(|_| poll().expect("goes on")).collect();
            assert!(three.iter().all(SubjectPlace::goes_on));
            assert!(poll().is_err());
        }
    }

    #[test]
    fn the_series_remembered_of_a_subject_are_bounded() {
        let limits = limits(1000);
        let alice = identity("alice", None);
        let polls: Vec<_> = (0..MOST_GAPS + 500)
            .map(|_| limits.place_for_poll(&alice).expect("a poll"))
            .collect();
        drop(polls);
        let state = limits.state(&alice).expect("its state");
        assert_eq!(state.gaps().len(), MOST_GAPS);
    }

    #[test]
    fn a_batch_above_the_burst_could_never_pass_and_is_told_so() {
        let limits = limits(1000);
        let alice = slow_publisher("alice");
        let state = limits.state(&alice).expect("its state");
        let refused = limits.take_publish(&state, &alice, 101).expect_err("101");
        assert_eq!(refused.code, ErrorCode::TooLarge);
        assert_eq!(limits.take_publish(&state, &alice, 100), Ok(()));
    }
}
