//! The newest events, for the shards to dispatch.

use std::{collections::VecDeque, sync::Arc};

use crate::event::Event;

/// The newest events are kept for the shards whatever retention says, until each has dispatched
/// them, which takes milliseconds. So live clients miss nothing where retention is shorter than a
/// burst. A shard that is further behind reads the log, and misses ephemeral events.
const RECENT_EVENTS: usize = 8192;
const RECENT_BYTES: usize = 16 * 1024 * 1024;

/// The newest events, for a shard to dispatch.
#[derive(Debug)]
pub enum Latest {
    /// All events of the log up to the position, ephemeral ones too; fewer than asked for means
    /// that the position is the head.
    Events(u64),
    /// The shard is so far behind that it has to leave its sessions to read the log; the head is at
    /// the position.
    Behind(u64),
}

/// The newest events, ephemeral ones too, rising by sequence.
#[derive(Debug, Default)]
pub(super) struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The last event that is not here any more.
    forgotten: u64,
}

impl Recent {
    /// Of a log that is there already up to the head.
    pub(super) fn after(head: u64) -> Self {
        Self {
            forgotten: head,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.retained_bytes();
        self.events.push_back(event);
        while self.events.len() > RECENT_EVENTS || self.bytes > RECENT_BYTES {
            let Some(oldest) = self.events.pop_front() else {
                return;
            };
            self.bytes -= oldest.retained_bytes();
            self.forgotten = oldest.sequence;
        }
    }

    /// Appends up to `most` of the events after a position to `into`.
    pub(super) fn latest(
        &self,
        after: u64,
        head: u64,
        most: usize,
        into: &mut Vec<Arc<Event>>,
    ) -> Latest {
        if after < self.forgotten {
            return Latest::Behind(head);
        }
        let from = self.events.partition_point(|event| event.sequence <= after);
        let unseen = self.events.range(from..);
        let all_fit = unseen.len() <= most;
        into.extend(unseen.take(most).map(Arc::clone));
        match into.last() {
            Some(last) if !all_fit => Latest::Events(last.sequence),
            _ => Latest::Events(head),
        }
    }
}
