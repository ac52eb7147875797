//! What one client has seen of its topic: what came, and what did not.

use std::ops::Range;

/// Gaps that are kept one by one; what a client misses beyond them is counted, and a late arrival of it not recognised.
const MOST_GAPS: usize = 1024;

/// Events of a topic are numbered from 0 without a gap, and published in this order; so the next number is known.
#[derive(Debug, Default)]
pub struct Tally {
    next: u32,
    delivered: u64,
    repeated: u64,
    out_of_order: u64,
    strays: u64,
    resets: u64,
    /// Ascending and disjoint, all below `next`; no reset told of them.
    gaps: Vec<Range<u32>>,
    beyond_gaps: u64,
    told: u64,
    /// A reset came, and no event since: the gap that shows with the next one was told.
    excused: bool,
}

/// The account of a client, or of many added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Events that came, each counted once.
    pub delivered: u64,
    /// Events that the gateway had accepted and that never came.
    pub lost: u64,
    pub repeated: u64,
    pub out_of_order: u64,
    /// Events of topics that the client had not subscribed.
    pub strays: u64,
    /// How often a client was told that it had missed events.
    pub resets: u64,
    /// Events that did not come, and of which a reset had told.
    pub missed_by_reset: u64,
}

/// Events of one topic that the gateway did not accept for certain, ascending: nobody can have lost them.
#[derive(Clone, Debug, Default)]
pub struct Unaccepted(Vec<Range<u32>>);

impl Tally {
    /// Notes that event `number` came.
    pub fn note(&mut self, number: u32) {
        if number >= self.next {
            self.skip_to(number);
            self.next = number.saturating_add(1);
            self.delivered += 1;
        } else if self.fill(number) {
            self.delivered += 1;
            self.out_of_order += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// Notes that an event of another topic came.
    pub fn note_stray(&mut self) {
        self.strays += 1;
    }

    /// Notes that the client was told of a gap.
    pub fn note_reset(&mut self) {
        self.resets += 1;
        self.excused = true;
    }

    /// Whether the event before `goal` has come, or the client was told that it missed what is before it.
    pub fn has_come_to(&self, goal: u32) -> bool {
        self.next >= goal || self.excused
    }

    /// The account, where `published` events of the topic were tried to be published.
    pub fn account(mut self, published: u32, unaccepted: &Unaccepted) -> Account {
        if self.next < published {
            self.skip_to(published);
        }
        let missing: u64 = self.gaps.iter().map(length).sum();
        let excused: u64 = self.gaps.iter().map(|gap| unaccepted.within(gap)).sum();
        Account {
            delivered: self.delivered,
            lost: missing - excused + self.beyond_gaps,
            repeated: self.repeated,
            out_of_order: self.out_of_order,
            strays: self.strays,
            resets: self.resets,
            missed_by_reset: self.told,
        }
    }

    fn skip_to(&mut self, number: u32) {
        let gap = self.next..number;
        if self.excused {
            self.told += length(&gap);
            self.excused = false;
        } else if !gap.is_empty() {
            if self.gaps.len() < MOST_GAPS {
                self.gaps.push(gap);
            } else {
                self.beyond_gaps += length(&gap);
            }
        }
    }

    /// Takes `number` out of the gaps; false where it is in none.
    fn fill(&mut self, number: u32) -> bool {
        let Some(place) = self.gaps.iter().position(|gap| gap.contains(&number)) else {
            return false;
        };
        let gap = self.gaps.remove(place);
        let parts = [gap.start..number, number + 1..gap.end];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        self.gaps.splice(place..place, parts);
        true
    }
}

impl std::ops::AddAssign for Account {
    fn add_assign(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.repeated += other.repeated;
        self.out_of_order += other.out_of_order;
        self.strays += other.strays;
        self.resets += other.resets;
        self.missed_by_reset += other.missed_by_reset;
    }
}

impl Account {
    /// Whether a client lost, repeated or misplaced something without being told.
    pub fn is_faulty(&self) -> bool {
        self.lost + self.repeated + self.out_of_order + self.strays > 0
    }
}

impl Unaccepted {
    pub const NONE: Self = Self(Vec::new());

    /// Adds `number`, which is beyond all others.
    pub fn push(&mut self, number: u32) {
        match self.0.last_mut() {
            Some(last) if last.end == number => last.end += 1,
            _ => self.0.push(number..number + 1),
        }
    }

    /// Adds those of another one, all beyond these.
    pub fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// The number after the last accepted one of so many.
    pub fn end_of_accepted(&self, published: u32) -> u32 {
        let from_last = self.0.iter().rev();
        from_last.fold(
            published,
            |end, range| if range.end == end { range.start } else { end },
        )
    }

    fn within(&self, gap: &Range<u32>) -> u64 {
        let common = |range: &Range<u32>| range.start.max(gap.start)..range.end.min(gap.end);
        self.0.iter().map(|range| length(&common(range))).sum()
    }
}

fn length(range: &Range<u32>) -> u64 {
    u64::from(range.end.saturating_sub(range.start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(numbers: &[u32], published: u32) -> Account {
        let mut tally = Tally::default();
        for number in numbers {
            tally.note(*number);
        }
        tally.account(published, &Unaccepted::default())
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        let good = account(&[0, 1, 2], 3);
        assert_eq!((good.delivered, good.is_faulty()), (3, false));
        let gap = account(&[0, 3, 4], 5);
        assert_eq!((gap.lost, gap.repeated, gap.out_of_order), (2, 0, 0));
        let tail = account(&[0, 1], 5);
        assert_eq!((tail.lost, tail.delivered), (3, 2));
        let again = account(&[0, 1, 1, 0, 2], 3);
        assert_eq!((again.repeated, again.lost, again.delivered), (2, 0, 3));
        let swapped = account(&[0, 2, 3, 1, 1], 4);
        assert_eq!((swapped.out_of_order, swapped.lost), (1, 0));
        assert_eq!((swapped.delivered, swapped.repeated), (4, 1));
        assert_eq!(account(&[], 7).lost, 7);
    }

    #[test]
    fn what_a_reset_told_of_is_not_lost_and_only_the_gap_after_it() {
        let mut tally = Tally::default();
        tally.note(0);
        tally.note_reset();
        tally.note(5);
        tally.note(7);
        let account = tally.account(8, &Unaccepted::default());
        assert_eq!((account.resets, account.missed_by_reset), (1, 4));
        assert_eq!(account.lost, 1);
        let mut tail = Tally::default();
        tail.note_reset();
        let account = tail.account(8, &Unaccepted::default());
        assert_eq!((account.lost, account.missed_by_reset), (0, 8));
    }

    #[test]
    fn what_was_not_accepted_is_not_lost() {
        let mut unaccepted = Unaccepted::default();
        for number in [1, 2, 6, 7] {
            unaccepted.push(number);
        }
        assert_eq!(unaccepted.end_of_accepted(8), 6);
        assert_eq!(unaccepted.end_of_accepted(9), 9);
        let mut tally = Tally::default();
        tally.note(0);
        tally.note(4);
        let account = tally.account(8, &unaccepted);
        // 3 and 5.
        assert_eq!((account.delivered, account.lost), (2, 2));
    }

    #[test]
    fn many_gaps_are_counted_without_being_kept() {
        let mut tally = Tally::default();
        let most = u32::try_from(MOST_GAPS).unwrap();
        for number in 0..2 * most {
            tally.note(2 * number + 1);
        }
        assert_eq!(tally.gaps.len(), MOST_GAPS);
        let account = tally.account(4 * most, &Unaccepted::default());
        assert_eq!(account.lost, u64::from(2 * most));
    }
}
