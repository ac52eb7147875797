//! What subjects spend at other nodes, where their limits hold for all nodes together.
//!
//! Each node tells what its subjects have spent since it told last, and how many connections they
//! have; nobody waits for that, so that a subject that spends at several nodes at the same moment
//! may go over its limit by what it spends until they hear of each other, which takes some milliseconds.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::Notify;

use super::bucket::Rate;
use crate::{node::NodeId, topic::Tenant};

/// Whose budgets they are.
pub type SubjectKey = (Tenant, Arc<str>);

/// Subjects that are noted one by one; where more have changed, all are told.
const MOST_CHANGES: usize = 200_000;

/// What a subject spent at one node: since it told last, and what it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    pub key: SubjectKey,
    pub published: u32,
    pub connects: u32,
    pub connections: u32,
    pub polls: u32,
    /// At which rates it spent last, where its token says so; else at those that are configured.
    pub publish_rate: Option<Rate>,
    pub connect_rate: Option<Rate>,
}

impl Spending {
    /// Of a subject that is not known any more.
    pub(super) fn nothing(key: SubjectKey) -> Self {
        Self {
            key,
            published: 0,
            connects: 0,
            connections: 0,
            polls: 0,
            publish_rate: None,
            connect_rate: None,
        }
    }
}

/// What the other nodes are to be told next.
#[derive(Debug, Default)]
pub struct Untold {
    /// Those that changed; none where all are to be told.
    pub keys: Vec<SubjectKey>,
    /// All are to be told, and this is the last of those who asked for it.
    pub whole: Option<u64>,
}

/// The subjects of which there is something to tell.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pending: Mutex<Pending>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    keys: HashSet<SubjectKey, ahash::RandomState>,
    /// All are to be told, whether they changed or not.
    whole: bool,
    /// How often that was asked for.
    asked: u64,
}

impl Changes {
    pub(super) fn take(&self) -> Untold {
        let mut pending = self.pending();
        let whole = std::mem::take(&mut pending.whole).then_some(pending.asked);
        let keys = pending.keys.drain();
        let keys = keys.filter(|_| whole.is_none()).collect();
        Untold { keys, whole }
    }

    pub(super) async fn wait(&self) {
        self.changed.notified().await;
    }

    /// Has all told; the number is that of [`Untold::whole`] from which on it was.
    pub(super) fn ask_for_all(&self) -> u64 {
        let mut pending = self.pending();
        pending.whole = true;
        pending.asked += 1;
        self.changed.notify_one();
        pending.asked
    }

    /// All could not be told.
    pub(super) fn owe_all(&self) {
        self.pending().whole = true;
        self.changed.notify_one();
    }

    pub(super) fn note(&self, key: &SubjectKey) {
        let mut pending = self.pending();
        if pending.whole || pending.keys.contains(key) {
            return;
        }
        if pending.keys.len() < MOST_CHANGES {
            pending.keys.insert(key.clone());
        } else {
            pending.keys = HashSet::default();
            pending.whole = true;
        }
        self.changed.notify_one();
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subject's share in it.
#[derive(Debug)]
pub(super) struct Elsewhere {
    key: SubjectKey,
    changes: Arc<Changes>,
    published: Spent,
    connects: Spent,
    /// At each other node where it has any.
    there: Mutex<Vec<There>>,
    connections: AtomicU32,
    polls: AtomicU32,
}

/// A subject at another node.
#[derive(Debug)]
struct There {
    node: NodeId,
    connections: u32,
    /// Waiting ones, among the connections.
    polls: u32,
    /// In which of the node's tellings it was last mentioned.
    telling: u64,
}

impl Elsewhere {
    pub(super) fn new(key: SubjectKey, changes: &Arc<Changes>) -> Self {
        Self {
            key,
            changes: Arc::clone(changes),
            published: Spent::default(),
            connects: Spent::default(),
            there: Mutex::default(),
            connections: AtomicU32::default(),
            polls: AtomicU32::default(),
        }
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn polls(&self) -> u32 {
        self.polls.load(Ordering::Relaxed)
    }

    /// `rate` is what its token says.
    pub(super) fn note_published(&self, events: u32, rate: Option<Rate>) {
        self.published.add(events, rate);
        self.note();
    }

    /// As [`Elsewhere::note_published`].
    pub(super) fn note_connect(&self, rate: Option<Rate>) {
        self.connects.add(1, rate);
        self.note();
    }

    pub(super) fn take_back_published(&self, events: u32) {
        self.published.take_back(events);
    }

    pub(super) fn take_back_connect(&self) {
        self.connects.take_back(1);
    }

    /// Something has changed that the others are to know.
    pub(super) fn note(&self) {
        self.changes.note(&self.key);
    }

    /// What to tell, given what the subject has here.
    pub(super) fn take(&self, connections: u32, polls: u32) -> Spending {
        let (published, publish_rate) = self.published.take();
        let (connects, connect_rate) = self.connects.take();
        Spending {
            key: self.key.clone(),
            published,
            connects,
            connections,
            polls,
            publish_rate,
            connect_rate,
        }
    }

    /// Whether there is something to tell but its connections.
    pub(super) fn has_spent(&self) -> bool {
        self.published.is_some() || self.connects.is_some()
    }

    /// What was taken and could not be told.
    pub(super) fn put_back(&self, spending: &Spending) {
        self.published
            .put_back(spending.published, spending.publish_rate);
        self.connects
            .put_back(spending.connects, spending.connect_rate);
    }

    /// What it has at another node, as was said in the node's telling of this number.
    pub(super) fn set_there(&self, node: NodeId, connections: u32, polls: u32, telling: u64) {
        let mut there = self.there();
        there.retain(|known| known.node != node);
        if connections > 0 {
            there.push(There {
                node,
                connections,
                polls,
                telling,
            });
        }
        self.sum(&there);
    }

    /// It has nothing at a node, unless that was said in its telling of this number.
    pub(super) fn forget_unmentioned(&self, node: NodeId, telling: Option<u64>) {
        let mut there = self.there();
        there.retain(|known| known.node != node || Some(known.telling) == telling);
        self.sum(&there);
    }

    fn sum(&self, there: &[There]) {
        let sum = |of: fn(&There) -> u32| there.iter().map(of).fold(0, u32::saturating_add);
        let order = Ordering::Relaxed;
        self.connections
            .store(sum(|there| there.connections), order);
        self.polls.store(sum(|there| there.polls), order);
    }

    fn there(&self) -> MutexGuard<'_, Vec<There>> {
        self.there.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was spent of one budget and not told yet.
#[derive(Debug, Default)]
struct Spent(Mutex<(u32, Option<Rate>)>);

impl Spent {
    fn add(&self, count: u32, rate: Option<Rate>) {
        let mut spent = self.spent();
        *spent = (spent.0.saturating_add(count), rate);
    }

    /// What was told already is not taken back: it is paid back in time.
    fn take_back(&self, count: u32) {
        let mut spent = self.spent();
        spent.0 = spent.0.saturating_sub(count);
    }

    fn take(&self) -> (u32, Option<Rate>) {
        std::mem::take(&mut *self.spent())
    }

    /// Of earlier, so that a rate that is known meanwhile is the later one.
    fn put_back(&self, count: u32, rate: Option<Rate>) {
        let mut spent = self.spent();
        let rate = if spent.0 > 0 { spent.1 } else { rate };
        *spent = (spent.0.saturating_add(count), rate);
    }

    fn is_some(&self) -> bool {
        self.spent().0 > 0
    }

    fn spent(&self) -> MutexGuard<'_, (u32, Option<Rate>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        auth::{ClaimedLimits, Identity},
        config::LimitsConfig,
        limits::{
            SubjectLimits,
            subject::tests::{forgets_all, identity},
        },
    };

    /// Of one node, where each subject may have one connection to all of them.
    fn node() -> SubjectLimits {
        SubjectLimits::new(&LimitsConfig {
            shared: true,
            connections_per_subject: 1,
            publish_events_per_second: 1,
            publish_burst: 10,
            ..LimitsConfig::default()
        })
    }

    fn key(identity: &Identity) -> SubjectKey {
        (identity.tenant.clone(), Arc::clone(&identity.subject))
    }

    /// What a node tells next.
    fn told(node: &SubjectLimits) -> Vec<Spending> {
        node.take_spending(&node.take_untold().keys)
    }

    fn is_let_in(node: &SubjectLimits, identity: &Identity) -> bool {
        node.place_for_stream(identity).is_ok()
    }

    #[test]
    fn that_a_subject_has_gone_is_told_though_it_was_forgotten_before() {
        let (a, b, id) = (node(), node(), NodeId::random().expect("randomness"));
        let alice = identity("alice", None);
        let place = a.place_for_stream(&alice).expect("a place");
        for spending in told(&a) {
            b.hear(id, spending);
        }
        assert!(!is_let_in(&b, &alice));
        drop(place);
        assert!(forgets_all(&a));
        for spending in told(&a) {
            b.hear(id, spending);
        }
        assert!(is_let_in(&b, &alice));
    }

    #[test]
    fn what_could_not_be_told_is_told_once_more() {
        let a = node();
        let alice = identity("alice", None);
        let state = a.state(&alice).expect("its state");
        a.take_publish(&state, &alice, 3).expect("within its burst");
        let place = a.place_for_stream(&alice).expect("a place");
        let untold = told(&a);
        assert!(told(&a).is_empty());
        a.put_back(&untold);
        a.take_publish(&state, &alice, 2).expect("within its burst");
        drop(place);
        let again = told(&a);
        let expected = Spending {
            published: 5,
            connects: 1,
            ..Spending::nothing(key(&alice))
        };
        assert_eq!(again, [expected]);
    }

    #[test]
    fn whom_a_whole_telling_does_not_mention_is_gone_at_its_end_and_not_before() {
        let (b, id) = (node(), NodeId::random().expect("randomness"));
        let other = NodeId::random().expect("randomness");
        let subjects = ["alice", "bob", "carol"].map(|name| identity(name, None));
        let [alice, bob, carol] = &subjects;
        let connected = |identity| Spending {
            connections: 1,
            ..Spending::nothing(key(identity))
        };
        b.begin_telling(id);
        b.hear(id, connected(alice));
        b.hear(id, connected(bob));
        b.end_telling(id);
        b.hear(other, connected(carol));
        b.begin_telling(id);
        b.hear(id, connected(bob));
        for subject in &subjects {
            assert!(!is_let_in(&b, subject), "{}", subject.subject);
        }
        b.end_telling(id);
        let let_in = subjects.each_ref().map(|subject| is_let_in(&b, subject));
        assert_eq!(let_in, [true, false, false]);
        b.forget_node(id);
        assert!(is_let_in(&b, bob));
    }

    #[test]
    fn all_are_told_who_are_connected_or_have_spent() {
        let a = node();
        let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| identity(name, None));
        let place = a.place_for_stream(&alice).expect("a place");
        let state = a.state(&bob).expect("its state");
        a.take_publish(&state, &bob, 3).expect("within its burst");
        let idle = a.state(&carol).expect("its state");
        assert_eq!(a.ask_for_all(), Some(1));
        let untold = a.take_untold();
        assert_eq!((untold.whole, untold.keys.len()), (Some(1), 0));
        let spenders: HashSet<_> = a.spenders().into_iter().collect();
        assert_eq!(spenders, HashSet::from([key(&alice), key(&bob)]));
        a.owe_all();
        assert_eq!(a.take_untold().whole, Some(1));
        assert_eq!(a.take_untold().whole, None);
        drop((place, idle));
    }

    #[test]
    fn where_too_many_have_changed_all_are_told() {
        let changes = Changes::default();
        let note = |number: usize| {
            let name: Arc<str> = number.to_string().into();
            changes.note(&(Tenant::none(), name));
        };
        (0..MOST_CHANGES).for_each(note);
        let untold = changes.take();
        assert_eq!((untold.keys.len(), untold.whole), (MOST_CHANGES, None));
        (0..=MOST_CHANGES).for_each(note);
        let untold = changes.take();
        assert_eq!((untold.keys.len(), untold.whole), (0, Some(0)));
    }

    /// With other limits of publishing than the configuration's, which are 10 at once and one a second.
    fn claiming(per_second: u32, burst: u32) -> Identity {
        let claimed = ClaimedLimits {
            publish_events_per_second: Some(per_second),
            publish_burst: Some(burst),
            ..ClaimedLimits::default()
        };
        identity("alice", Some(claimed))
    }

    /// How long a subject that spends its whole burst at one node has to wait for it at another.
    fn wait_elsewhere(config: &LimitsConfig, alice: &Identity, burst: usize) -> Option<Duration> {
        let [a, b] = [(); 2].map(|()| SubjectLimits::new(config));
        let state = a.state(alice).expect("its state");
        a.take_publish(&state, alice, burst).expect("its burst");
        for spending in told(&a) {
            b.hear(NodeId::random().expect("randomness"), spending);
        }
        // Enough for a million a second to be paid back, and the subject forgotten.
        std::thread::sleep(Duration::from_millis(2));
        b.prune();
        let state = b.state(alice).expect("its state");
        let again = b.take_publish(&state, alice, burst);
        again.expect_err("nothing is left").retry_after
    }

    #[test]
    fn what_a_token_allows_counts_elsewhere_at_its_own_rate() {
        let tight = LimitsConfig {
            shared: true,
            publish_events_per_second: 1,
            publish_burst: 10,
            ..LimitsConfig::default()
        };
        let wide = wait_elsewhere(&tight, &claiming(10, 1000), 1000);
        assert!(wide > Some(Duration::from_secs(95)), "{wide:?}");
        let open = LimitsConfig {
            shared: true,
            ..LimitsConfig::default()
        };
        let narrow = wait_elsewhere(&open, &claiming(1, 20), 20);
        assert!(narrow > Some(Duration::from_secs(15)), "{narrow:?}");
    }
}
