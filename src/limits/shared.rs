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

use crate::{node::NodeId, topic::Tenant};

/// Whose budgets they are.
pub type SubjectKey = (Tenant, Arc<str>);

/// What a subject spent at one node: since it told last, and what it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spending {
    pub key: SubjectKey,
    pub published: u32,
    pub connects: u32,
    pub connections: u32,
    pub polls: u32,
}

/// The subjects of which there is something to tell.
#[derive(Debug, Default)]
pub(super) struct Changes {
    keys: Mutex<HashSet<SubjectKey, ahash::RandomState>>,
    changed: Notify,
}

impl Changes {
    pub(super) fn take(&self) -> Vec<SubjectKey> {
        self.keys().drain().collect()
    }

    pub(super) async fn wait(&self) {
        self.changed.notified().await;
    }

    fn note(&self, key: &SubjectKey) {
        let mut keys = self.keys();
        if !keys.contains(key) {
            keys.insert(key.clone());
            self.changed.notify_one();
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashSet<SubjectKey, ahash::RandomState>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One subject's share in it.
#[derive(Debug)]
pub(super) struct Elsewhere {
    key: SubjectKey,
    changes: Arc<Changes>,
    published: AtomicU32,
    connects: AtomicU32,
    /// Connections, and waiting polls among them, at each other node where it has any.
    there: Mutex<Vec<(NodeId, u32, u32)>>,
    connections: AtomicU32,
    polls: AtomicU32,
}

impl Elsewhere {
    pub(super) fn new(key: SubjectKey, changes: &Arc<Changes>) -> Self {
        Self {
            key,
            changes: Arc::clone(changes),
            published: AtomicU32::default(),
            connects: AtomicU32::default(),
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

    pub(super) fn note_published(&self, events: u32) {
        self.published.fetch_add(events, Ordering::Relaxed);
        self.note();
    }

    pub(super) fn note_connect(&self) {
        self.connects.fetch_add(1, Ordering::Relaxed);
        self.note();
    }

    pub(super) fn take_back_published(&self, events: u32) {
        take_back(&self.published, events);
    }

    pub(super) fn take_back_connect(&self) {
        take_back(&self.connects, 1);
    }

    /// Something has changed that the others are to know.
    pub(super) fn note(&self) {
        self.changes.note(&self.key);
    }

    /// What to tell, given what the subject has here.
    pub(super) fn take(&self, connections: u32, polls: u32) -> Spending {
        Spending {
            key: self.key.clone(),
            published: self.published.swap(0, Ordering::Relaxed),
            connects: self.connects.swap(0, Ordering::Relaxed),
            connections,
            polls,
        }
    }

    pub(super) fn set_there(&self, node: NodeId, connections: u32, polls: u32) {
        let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        there.retain(|(known, ..)| *known != node);
        if connections > 0 {
            there.push((node, connections, polls));
        }
        let sum =
            |of: fn(&(NodeId, u32, u32)) -> u32| there.iter().map(of).fold(0, u32::saturating_add);
        self.connections
            .store(sum(|entry| entry.1), Ordering::Relaxed);
        self.polls.store(sum(|entry| entry.2), Ordering::Relaxed);
    }
}

/// What was told already is not taken back: it is paid back in time.
fn take_back(spent: &AtomicU32, count: u32) {
    let order = Ordering::Relaxed;
    let _ = spent.fetch_update(order, order, |spent| Some(spent.saturating_sub(count)));
}
