//! What publishers and consumers know of each other: what was published, and how far it was read.

use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;
use tokio::sync::watch;

use crate::support::within;

/// An event that a publisher was told the id of.
#[derive(Clone, Debug)]
pub struct Published {
    pub sequence: u64,
    pub tenant: Option<&'static str>,
    pub topic: String,
    pub event: String,
    pub tags: Vec<(String, String)>,
    pub ephemeral: bool,
    pub data: Value,
}

#[derive(Default)]
pub struct State {
    pub published: Vec<Published>,
    /// The newest sequence that a publisher was told.
    pub head: u64,
    /// The sequence of each consumer's cursor.
    consumed: Vec<u64>,
    pub stopped: bool,
}

/// Publishers run ahead of the slowest consumer by no more than `ahead` events.
pub struct Tide {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    ahead: u64,
}

impl Tide {
    pub fn new(ahead: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            ahead,
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with the lock")
    }

    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let outcome = act(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        outcome
    }

    pub fn add_consumer(&self, start: u64) -> usize {
        self.change(|state| {
            state.consumed.push(start);
            state.consumed.len() - 1
        })
    }

    pub fn consumed(&self, consumer: usize, sequence: u64) {
        self.change(|state| state.consumed[consumer] = sequence);
    }

    pub fn published(&self, events: Vec<Published>) {
        self.change(|state| {
            for event in events {
                state.head = state.head.max(event.sequence);
                state.published.push(event);
            }
        });
    }

    pub fn stop(&self) {
        self.change(|state| state.stopped = true);
    }

    /// Waits for the consumers; false where the publisher is to end.
    pub async fn may_publish(&self) -> bool {
        self.wait(|state| state.stopped || !self.is_high(state))
            .await;
        !self.state().stopped
    }

    /// Waits until `more` events were published, or the publishers wait for the consumers.
    pub async fn rises(&self, more: u64) {
        let from = self.state().head;
        self.wait(|state| state.stopped || state.head >= from + more || self.is_high(state))
            .await;
    }

    fn is_high(&self, state: &State) -> bool {
        let slowest = state.consumed.iter().min();
        slowest.is_some_and(|slowest| state.head >= slowest.saturating_add(self.ahead))
    }

    async fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut changes = self.changes.subscribe();
        while !until(&self.state()) {
            within("the other side of the tide", changes.changed())
                .await
                .expect("the tide lives as long as its test");
        }
    }
}

/// The sequence in a cursor, which is opaque to clients and not to this test.
pub fn sequence_of(cursor: &str) -> u64 {
    let (_, sequence) = cursor.split_once('-').expect("LOG-SEQUENCE");
    sequence.parse().expect("a sequence")
}
