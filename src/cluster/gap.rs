//! What a node does not know of tickets: from when it began, or missed a part of the log, until another
//! node has told it.
//!
//! ```text
//! missed ─▶ asked ─▶ the question is heard ─▶ acts are done, and kept ─▶ the answer is heard
//!                              └ the answer is what another node had at some time after it ┘
//! ```
//! So those acts, done once more after what the answer says, lead to what all others have: an act that
//! is in the answer already changes nothing when it is done again, in order with all after it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use super::note::{TicketAct, TicketEntry};
use crate::{auth::Outstanding, node::NodeId};

/// Acts that are kept while an answer is awaited.
const MOST_ACTS: usize = 10_000;
/// Tickets of answers that are not whole yet.
const MOST_TOLD: usize = 200_000;

pub(super) type Act = (Timestamp, TicketAct);

/// `None` while the node knows all.
pub(super) struct Gap(Mutex<Option<Open>>);

#[derive(Default)]
struct Open {
    /// There may be tickets that others have used.
    is_doubtful: bool,
    /// The question whose answer counts.
    number: Option<u64>,
    /// Whether it was heard; only then, what was done since.
    is_heard: bool,
    acts: Vec<Act>,
    /// What each node told of its answer.
    told: HashMap<NodeId, Vec<Outstanding>>,
}

/// What ends it.
pub(super) struct Closed {
    /// There may be tickets that others have used.
    pub is_doubtful: bool,
    pub tickets: Vec<Outstanding>,
    pub acts: Vec<Act>,
}

impl Gap {
    /// Of a node that is new, where there are others.
    pub fn new(is_shared: bool) -> Self {
        Self(Mutex::new(is_shared.then(Open::default)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_open(&self) -> bool {
        self.lock().is_some()
    }

    /// Whether an answer may still come.
    pub fn is_heard(&self) -> bool {
        self.lock().as_ref().is_some_and(|open| open.is_heard)
    }

    /// Whether nothing was asked since something was missed.
    pub fn is_unasked(&self) -> bool {
        let state = self.lock();
        state.as_ref().is_some_and(|open| open.number.is_none())
    }

    pub fn is_doubtful(&self) -> bool {
        self.lock().as_ref().is_some_and(|open| open.is_doubtful)
    }

    /// A part of the log was missed: no answer counts that was asked for before.
    pub fn missed(&self) {
        *self.lock() = Some(Open {
            is_doubtful: true,
            ..Open::default()
        });
    }

    /// Names a question that is about to be asked.
    pub fn ask(&self) -> u64 {
        let number = fastrand::u64(..);
        if let Some(open) = &mut *self.lock() {
            *open = Open {
                is_doubtful: open.is_doubtful,
                number: Some(number),
                ..Open::default()
            };
        }
        number
    }

    /// The node's own question has come; whether its answer is waited for.
    pub fn hear_own(&self, number: u64) -> bool {
        let mut state = self.lock();
        let asked = state.as_mut().filter(|open| open.number == Some(number));
        asked.map(|open| open.is_heard = true).is_some()
    }

    /// Keeps what is done while an answer is awaited. `false` where there is no room for more.
    pub fn record(&self, at: Timestamp, act: &TicketAct) -> bool {
        let mut state = self.lock();
        let Some(open) = state.as_mut().filter(|open| open.is_heard) else {
            return true;
        };
        if open.acts.len() >= MOST_ACTS {
            return false;
        }
        open.acts.push((at, act.clone()));
        true
    }

    /// A part of another node's answer.
    pub fn hear(&self, from: NodeId, number: u64, tickets: Vec<TicketEntry>) {
        let mut state = self.lock();
        let Some(open) = state.as_mut().filter(|open| open.number == Some(number)) else {
            return;
        };
        let count: usize = open.told.values().map(Vec::len).sum();
        let room = MOST_TOLD.saturating_sub(count);
        // Of a later version are those that grant what this one does not know.
        let tickets = tickets
            .into_iter()
            .filter_map(|ticket| ticket.try_into().ok());
        open.told
            .entry(from)
            .or_default()
            .extend(tickets.take(room));
    }

    /// Another node has told all that it knows, which is all there is.
    pub fn close(&self, from: NodeId, number: u64) -> Option<Closed> {
        let mut state = self.lock();
        let mut open = state.take_if(|open| open.is_heard && open.number == Some(number))?;
        Some(Closed {
            is_doubtful: open.is_doubtful,
            tickets: open.told.remove(&from).unwrap_or_default(),
            acts: open.acts,
        })
    }

    /// Nobody tells it who knows all: what others told, and what was done meanwhile. `None` where it was closed, or
    /// is to be asked for anew.
    pub fn close_unanswered(&self) -> Option<Closed> {
        let open = self.lock().take_if(|open| open.is_heard)?;
        Some(Closed {
            is_doubtful: open.is_doubtful,
            tickets: open.told.into_values().flatten().collect(),
            acts: open.acts,
        })
    }
}
