//! Positions of the log, and the messages of the stream that they stand for.
//!
//! A message holds the events of one publish, and its sequence is given by NATS. An event's position
//! is that sequence with the event's index behind it, on top of a base. Where nobody knows up to
//! where positions have been given, the base jumps: no server loses so many events at once, so no
//! position is given twice, and what lies in between stands for nothing.

use serde::{Deserialize, Serialize};

/// Of a position, how many bits are the index: a publish has at most 4,096 events.
const INDEX_BITS: u32 = 12;
const MOST_INDEX: u64 = (1 << INDEX_BITS) - 1;
/// By how much positions jump at least: 16 million publishes.
const JUMP: u64 = 1 << 36;
/// And by how much more at most, by chance: a server that forgets its end and that it had jumped is
/// given another jump, to where nobody has been.
const MORE: u64 = 1 << 42;
/// Stretches that are remembered. What lies before the oldest is then not vouched for.
const STRETCHES: usize = 1000;

/// How messages are numbered, from one of them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stretch {
    /// The last message of the stretch before.
    pub after: u64,
    /// A multiple of what a message has positions.
    pub base: u64,
}

impl Stretch {
    fn position(&self, sequence: u64, index: u64) -> u64 {
        let offset = sequence.saturating_mul(1 << INDEX_BITS);
        self.base.saturating_add(offset).saturating_add(index)
    }

    /// Before its first event.
    fn start(&self) -> u64 {
        self.position(self.after, MOST_INDEX)
    }
}

/// The numbering of one log: its stretches, rising. There is at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Numbering(Vec<Stretch>);

impl Numbering {
    /// Of a log that begins after a message, with positions beyond `beyond`.
    pub fn begin(after: u64, beyond: u64) -> Self {
        Self(vec![stretch_beyond(after, beyond)])
    }

    /// Of a numbering that was read: none without a stretch.
    pub fn is_whole(&self) -> bool {
        let rises =
            |pair: &[Stretch]| pair[0].after <= pair[1].after && pair[0].base < pair[1].base;
        !self.0.is_empty() && self.0.windows(2).all(rises)
    }

    /// Has the positions of what comes after a message jump, beyond `beyond` too.
    pub fn jump(&mut self, after: u64, beyond: u64) {
        let last = self.end_of(after).max(beyond);
        self.0.push(stretch_beyond(after, last));
        if self.0.len() > STRETCHES {
            self.0.remove(0);
        }
    }

    /// The last message before the log, or before the oldest stretch that is remembered.
    pub fn after(&self) -> u64 {
        self.0.first().map_or(0, |stretch| stretch.after)
    }

    /// The last message whose numbering is settled.
    pub fn settled(&self) -> u64 {
        self.0.last().map_or(0, |stretch| stretch.after)
    }

    /// The position before the log's first event.
    pub fn start(&self) -> u64 {
        self.0.first().map_or(0, Stretch::start)
    }

    /// The position of an event of a message; `None` before the log.
    pub fn position(&self, sequence: u64, index: u64) -> Option<u64> {
        let at = self.0.partition_point(|stretch| stretch.after < sequence);
        Some(self.0[..at].last()?.position(sequence, index))
    }

    /// The position behind a message, whatever it has events; the start before the log.
    pub fn end_of(&self, sequence: u64) -> u64 {
        let end = self.position(sequence, MOST_INDEX);
        end.unwrap_or_else(|| self.start())
    }

    /// The message and the index that a position stands for; `None` where it stands for nothing.
    pub fn place(&self, position: u64) -> Option<(u64, u64)> {
        let at = self.0.partition_point(|stretch| stretch.start() < position);
        let stretch = self.0[..at].last()?;
        let offset = position.checked_sub(stretch.base)?;
        let sequence = offset >> INDEX_BITS;
        let is_in = self.0.get(at).is_none_or(|next| sequence <= next.after);
        is_in.then_some((sequence, offset & MOST_INDEX))
    }

    /// The position behind all messages up to the last one, and beyond a jump after it.
    pub fn top(&self, last: u64) -> u64 {
        let start = self.0.last().map_or(0, Stretch::start);
        self.end_of(last).max(start)
    }

    /// Whether a cursor of the log may stand at a position.
    pub fn knows(&self, position: u64) -> bool {
        let is_start = |stretch: &Stretch| stretch.start() == position;
        self.0.iter().any(is_start) || self.place(position).is_some()
    }
}

fn stretch_beyond(after: u64, beyond: u64) -> Stretch {
    let begun = Stretch { after, base: 0 };
    // Where nothing has been given yet there is nothing to jump over.
    if beyond == 0 {
        return begun;
    }
    let start = beyond.saturating_add(JUMP + fastrand::u64(..MORE));
    let base = start.saturating_sub(begun.start()) & !MOST_INDEX;
    Stretch { after, base }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_stands_for_an_event_of_a_message_and_comes_back_from_it() {
        let mut numbering = Numbering::begin(0, 0);
        assert_eq!(numbering.position(1, 0), Some(4096));
        assert_eq!(numbering.place(4096 + 7), Some((1, 7)));
        numbering.jump(10, 0);
        for (sequence, index) in [(1, 0), (10, 4095), (11, 0), (1_000_000, 3)] {
            let position = numbering.position(sequence, index).unwrap();
            assert_eq!(numbering.place(position), Some((sequence, index)));
        }
        assert!(numbering.is_whole());
    }

    #[test]
    fn what_a_jump_leaves_out_stands_for_nothing() {
        let mut numbering = Numbering::begin(5, 0);
        numbering.jump(10, 0);
        let last = numbering.position(10, 4095).unwrap();
        let next = numbering.position(11, 0).unwrap();
        assert!(next - last > JUMP - 4096 && next - last <= JUMP + MORE + 4096);
        for hidden in [last + 1, (last + next) / 2, next - 2, 0] {
            assert!(!numbering.knows(hidden), "{hidden}");
        }
        for known in [numbering.start(), last, numbering.top(10), next] {
            assert!(numbering.knows(known), "{known}");
        }
        assert!((last + 1..next).contains(&numbering.top(10)));
        assert_eq!(numbering.position(5, 0), None);
    }

    #[test]
    fn a_log_begins_beyond_what_was_seen_whatever_the_stream_counts() {
        for (after, seen) in [(0, 1 << 40), (1 << 30, 5), (7, (7 << 12) + 3)] {
            let numbering = Numbering::begin(after, seen);
            let first = numbering.position(after + 1, 0).unwrap();
            assert!(first > seen, "{after} {seen}: {first}");
            assert!(numbering.start() < first && numbering.knows(numbering.start()));
        }
    }

    #[test]
    fn the_same_jump_is_never_made_twice() {
        let jumps: std::collections::HashSet<u64> = (0..100)
            .map(|_| {
                let mut numbering = Numbering::begin(0, 0);
                numbering.jump(10, 0);
                numbering.top(10)
            })
            .collect();
        assert_eq!(jumps.len(), 100);
    }

    #[test]
    fn a_jump_goes_beyond_what_a_node_saw_elsewhere_and_old_stretches_are_forgotten() {
        let mut numbering = Numbering::begin(0, 0);
        numbering.jump(3, 1 << 50);
        assert!(numbering.position(4, 0).unwrap() > 1 << 50);
        for after in 4..1100 {
            numbering.jump(after, 0);
        }
        assert!(numbering.after() > 0 && !numbering.knows(4096));
    }
}
