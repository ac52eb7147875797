//! What the other nodes tell of their connections.
//!
//! A node that tells all anew begins a *round*: who was told of before still counts there until the
//! round has come to its end, and only then those do not who were not told of in it.

use std::time::{Duration, Instant};

use super::{Counts, Member, State};
use crate::node::NodeId;

/// A node from which nothing comes is waited for no longer: perhaps it does not keep presence.
const EXPECTED_WITHIN: Duration = Duration::from_secs(15);

/// A node that tells its counts.
pub(super) struct Teller {
    /// The last note of it.
    last: u64,
    round: u64,
    /// All of the round was heard so far, and it has not come to its end.
    is_in_round: bool,
    /// Since when all of its counts are waited for; `None` where they were heard.
    expected_since: Option<Instant>,
}

impl Teller {
    fn new(now: Instant) -> Self {
        Self {
            last: 0,
            round: 0,
            is_in_round: false,
            expected_since: Some(now),
        }
    }
}

impl State {
    /// A node is there: whoever it is that is only there is not known before it has told.
    pub(super) fn expect(&mut self, node: NodeId, now: Instant) {
        self.tellers.entry(node).or_insert_with(|| Teller::new(now));
    }

    /// Every node tells all from now on.
    pub(super) fn expect_all(&mut self, now: Instant) {
        for teller in self.tellers.values_mut() {
            teller.expected_since = Some(now);
        }
    }

    /// Whether all is known of all nodes: who is not known to be anywhere is nowhere.
    pub(super) fn is_whole(&self, now: Instant) -> bool {
        let is_expected = |teller: &Teller| {
            let since = teller.expected_since;
            since.is_some_and(|since| now.duration_since(since) < EXPECTED_WITHIN)
        };
        self.is_informed && !self.tellers.values().any(is_expected)
    }

    pub(super) fn hear(&mut self, node: NodeId, told: Counts, now: Instant) {
        let teller = self.tellers.entry(node).or_insert_with(|| Teller::new(now));
        if told.number <= teller.last {
            // What was told again has overtaken it.
            return;
        }
        let has_missed = told.after > teller.last;
        teller.last = told.number;
        if told.begins_anew {
            teller.round += 1;
            teller.is_in_round = true;
        } else if has_missed {
            teller.is_in_round = false;
        }
        let round = teller.round;
        let ends_round = told.is_last && std::mem::take(&mut teller.is_in_round);
        if ends_round {
            teller.expected_since = None;
        }
        for count in told.counts {
            match count.connections {
                Some(connections) => self
                    .member(&count.place)
                    .set_there(node, connections, round),
                None => match self.known(&count.place) {
                    Some(member) => member.unset_there(node),
                    None => continue,
                },
            }
            self.check_later(count.place, now);
        }
        if ends_round {
            self.change_all(now, |member| member.end_round(node, round));
        }
    }

    /// A node is gone, and with it its connections.
    pub(super) fn forget_node(&mut self, node: NodeId, now: Instant) {
        self.tellers.remove(&node);
        self.change_all(now, |member| member.unset_there(node));
    }

    fn change_all(&mut self, now: Instant, change: impl Fn(&mut Member)) {
        let mut changed = Vec::new();
        self.for_each(|place, member| {
            change(member);
            if member.needs().is_some() || member.is_forgettable(now) {
                changed.push(place());
            }
        });
        for place in changed {
            self.check_later(place, now);
        }
    }
}
