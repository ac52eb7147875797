//! One subject on one topic: where it is connected, and what was announced of it.

use std::time::{Duration, Instant};

use ahash::AHashSet;

use super::Change;
use crate::{node::NodeId, protocol::ConnectionId};

#[derive(Debug, Default)]
pub(super) struct Member {
    /// Its connections to this node.
    here: AHashSet<ConnectionId>,
    /// What the other nodes were told last.
    told: Option<u32>,
    /// Until when it counts though its last connection to this node has gone.
    lingers_until: Option<Instant>,
    /// How many connections it has to each other node where it counts.
    there: Vec<(NodeId, u32)>,
    /// As the log says.
    is_announced: bool,
    /// A change of it is being announced by this node.
    is_announcing: bool,
    /// The position of the last change that was announced, and of the last that was a join.
    changed_at: u64,
    joined_at: u64,
}

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

    /// What another node tells: connections to it, `None` where it does not count there any more.
    pub fn set_there(&mut self, node: NodeId, connections: Option<u32>) {
        self.there.retain(|(known, _)| *known != node);
        self.there.extend(connections.map(|count| (node, count)));
    }

    /// How many connections it has to this node; `None` where it does not count here.
    pub fn count(&self) -> Option<u32> {
        self.counts_here()
            .then(|| u32::try_from(self.here.len()).unwrap_or(u32::MAX))
    }

    /// Whether the other nodes were told something else.
    pub fn tell(&mut self) -> bool {
        let count = self.count();
        std::mem::replace(&mut self.told, count) != count
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
        let there = self.there.iter().map(|(_, count)| u64::from(*count));
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
    pub fn announced(&mut self, change: Change, position: u64) {
        if position > self.changed_at {
            self.is_announced = change == Change::Join;
            self.changed_at = position;
            if self.is_announced {
                self.joined_at = position;
            }
        }
    }

    /// Nothing is known of it that would be missed.
    pub fn is_forgettable(&self) -> bool {
        self.needs().is_none() && !self.is_announced && !self.is_announcing
    }
}
