//! One subject on one topic: where it is connected, and what was announced of it.

use std::time::{Duration, Instant};

use ahash::AHashSet;

use super::Change;
use crate::{node::NodeId, protocol::ConnectionId};

#[derive(Debug, Default)]
pub(super) struct Member {
    /// Its connections to this node.
    here: AHashSet<ConnectionId>,
    told: Told,
    /// Until when it counts though its last connection to this node has gone.
    lingers_until: Option<Instant>,
    /// The other nodes where it counts.
    there: Vec<There>,
    /// As the log says.
    is_announced: bool,
    /// A change of it is being announced by this node.
    is_announcing: bool,
    /// The position of the last change that was announced, and of the last that was a join.
    changed_at: u64,
    joined_at: u64,
    /// When this node learnt of the last leave.
    left_at: Option<Instant>,
}

/// What the other nodes were told last; `None` where it does not count here.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Surely(Option<u32>),
    /// It is being told, or could not be.
    Maybe,
}

impl Default for Told {
    fn default() -> Self {
        Self::Surely(None)
    }
}

/// Where it counts at another node.
#[derive(Debug)]
struct There {
    node: NodeId,
    connections: u32,
    /// When that was told: see [`super::hearing`].
    round: u64,
}

/// How long a member is remembered that has left, so that nodes that look at it one after the other
/// know of the same change before its next one. All of them forget it at the same time.
pub(super) const REMEMBERED: Duration = Duration::from_secs(10);

impl Member {
    /// Whether it is the first connection to this node.
    pub fn enter(&mut self, connection: ConnectionId) -> bool {
        self.here.insert(connection);
        self.lingers_until.take().is_none() && self.here.len() == 1
    }

    /// When to look whether it came back, where this was its last connection to this node.
    pub fn leave(
        &mut self,
        connection: ConnectionId,
        grace: Duration,
        now: Instant,
    ) -> Option<Instant> {
        if self.here.remove(&connection) && self.here.is_empty() {
            self.lingers_until = Some(now + grace);
        }
        self.lingers_until
    }

    /// Whether its time is over.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = self.lingers_until.is_some_and(|until| until <= now);
        if is_over {
            self.lingers_until = None;
        }
        is_over
    }

    /// What another node tells in one of its rounds.
    pub fn set_there(&mut self, node: NodeId, connections: u32, round: u64) {
        self.unset_there(node);
        self.there.push(There {
            node,
            connections,
            round,
        });
    }

    /// It does not count at another node any more.
    pub fn unset_there(&mut self, node: NodeId) {
        self.there.retain(|there| there.node != node);
    }

    /// It does not count at another node that has told all in a round, unless it was told of then.
    pub fn end_round(&mut self, node: NodeId, round: u64) {
        self.there
            .retain(|there| there.node != node || there.round == round);
    }

    /// How many connections it has to this node; `None` where it does not count here.
    pub fn count(&self) -> Option<u32> {
        self.counts_here()
            .then(|| u32::try_from(self.here.len()).unwrap_or(u32::MAX))
    }

    /// Whether the other nodes may have been told something else.
    pub fn is_untold(&self) -> bool {
        self.told != Told::Surely(self.count())
    }

    /// What the other nodes are about to be told.
    pub fn begin_telling(&mut self) -> Option<u32> {
        self.told = Told::Maybe;
        self.count()
    }

    /// They were told this.
    pub fn end_telling(&mut self, connections: Option<u32>) {
        self.told = Told::Surely(connections);
    }

    /// Whether the other nodes know that it counts here, or that it does not. Who is told of a change
    /// and does not know why it was announced would take it back.
    pub fn is_known_to_others(&self) -> bool {
        match self.told {
            Told::Surely(count) => count.is_some() == self.counts_here(),
            Told::Maybe => false,
        }
    }

    /// The position at which it was announced; `None` where it is not.
    pub fn announced_at(&self) -> Option<u64> {
        self.is_announced.then_some(self.changed_at)
    }

    pub fn counts_here(&self) -> bool {
        !self.here.is_empty() || self.lingers_until.is_some()
    }

    pub fn is_announced(&self) -> bool {
        self.is_announced
    }

    pub fn connections(&self) -> u64 {
        let there = self.there.iter().map(|there| u64::from(there.connections));
        self.here.len() as u64 + there.sum::<u64>()
    }

    /// What has to be announced, so that the log says what is.
    pub fn needs(&self) -> Option<Change> {
        let is_present = self.counts_here() || !self.there.is_empty();
        match (is_present, self.is_announced) {
            (true, false) => Some(Change::Join),
            (false, true) => Some(Change::Leave),
            _ => None,
        }
    }

    /// Begins to announce what has to be, unless that is under way; with the position of the join
    /// before it.
    pub fn begin_announcing(&mut self) -> Option<(Change, u64)> {
        let change = self.needs().filter(|_| !self.is_announcing)?;
        self.is_announcing = true;
        Some((change, self.joined_at))
    }

    pub fn end_announcing(&mut self) {
        self.is_announcing = false;
    }

    /// What the log says.
    pub fn announced(&mut self, change: Change, position: u64, now: Instant) {
        if position <= self.changed_at {
            return;
        }
        self.changed_at = position;
        self.is_announced = change == Change::Join;
        match change {
            Change::Join => self.joined_at = position,
            Change::Leave => self.left_at = Some(now),
        }
    }

    /// Nothing is known of it that would be missed.
    pub fn is_forgettable(&self, now: Instant) -> bool {
        let is_remembered = self
            .left_at
            .is_some_and(|at| now.duration_since(at) < REMEMBERED);
        self.needs().is_none()
            && !self.is_announced
            && !self.is_announcing
            && !is_remembered
            && !self.counts_here()
            && self.told == Told::Surely(None)
    }
}
