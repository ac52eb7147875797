//! What this node tells the others of its connections: changes as they come, and all of them anew for a node
//! that may have missed some.
//!
//! Counts are looked up when they are about to be told, one note after the other. So the last word on a
//! member in the log is what it was last, also where a note has to be told a second time.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Instant,
};

use super::{Count, Place, State};

/// What all nodes are to be told at once.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Rises from note to note; one that is told again has another.
    pub number: u64,
    /// The last note that is known to have been told: whoever has not heard it has missed something.
    pub after: u64,
    /// Who is not told of from here to the one that `is_last` does not count here.
    pub begins_anew: bool,
    pub is_last: bool,
    pub counts: Vec<Count>,
}

#[derive(Default)]
pub(super) struct Telling {
    /// What changed, and when the others are to be told.
    untold: BTreeSet<(Instant, Place)>,
    /// What was told, perhaps to nobody.
    again: BTreeSet<Place>,
    /// Those who are still to be told of, where all are told anew.
    anew: Option<VecDeque<Place>>,
    /// The next note is the first of these.
    begins_anew: bool,
    /// Afterwards all are to be told of once more.
    wants_anew: bool,
    given: u64,
    told: u64,
}

impl Telling {
    /// Of a member whose count has changed.
    pub fn tell(&mut self, place: &Place, at: Instant) {
        self.untold.insert((at, place.clone()));
    }

    /// Tells all, for a node that knows nothing of them. Who asks meanwhile is told after that.
    pub fn tell_all(&mut self) {
        self.wants_anew = true;
    }

    /// When there is something to be told.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.wants_anew || self.anew.is_some() || !self.again.is_empty() {
            return Some(now);
        }
        self.untold.first().map(|(at, _)| *at)
    }

    /// Whose turn it is, and whether it is to be told of in any case.
    fn next(&mut self, now: Instant) -> Option<(Place, bool)> {
        if let Some(place) = self.again.pop_first() {
            return Some((place, false));
        }
        if self.untold.first().is_some_and(|(at, _)| *at <= now) {
            return self.untold.pop_first().map(|(_, place)| (place, false));
        }
        let place = self.anew.as_mut()?.pop_front()?;
        Some((place, true))
    }

    /// Whether all are told of with what was taken.
    fn is_at_the_last(&self) -> bool {
        self.anew.as_ref().is_some_and(VecDeque::is_empty) && self.again.is_empty()
    }
}

impl State {
    /// The next note, of at most so many members. Whether it was told has to be told to
    /// [`State::counts_told`] before there is another.
    pub(super) fn take_counts(&mut self, now: Instant, most: usize) -> Option<Counts> {
        if self.telling.anew.is_none() && std::mem::take(&mut self.telling.wants_anew) {
            self.telling.anew = Some(self.places_to_tell());
            self.telling.begins_anew = true;
        }
        let mut counts = Vec::new();
        while counts.len() < most
            && let Some((place, is_anew)) = self.telling.next(now)
        {
            let Some(member) = self.known(&place) else {
                continue;
            };
            // Who does not count any more is told of for its own sake.
            if member.is_untold() || (is_anew && member.counts_here()) {
                let connections = member.begin_telling();
                counts.push(Count { place, connections });
            }
        }
        let telling = &mut self.telling;
        let (begins_anew, is_last) = (telling.begins_anew, telling.is_at_the_last());
        if counts.is_empty() && !begins_anew && !is_last {
            return None;
        }
        telling.given += 1;
        Some(Counts {
            number: telling.given,
            after: telling.told,
            begins_anew,
            is_last,
            counts,
        })
    }

    pub(super) fn counts_told(&mut self, note: Counts, is_told: bool, now: Instant) {
        if !is_told {
            let places = note.counts.into_iter().map(|count| count.place);
            return self.telling.again.extend(places);
        }
        self.telling.told = note.number;
        self.telling.begins_anew &= !note.begins_anew;
        if note.is_last {
            self.telling.anew = None;
        }
        for Count { place, connections } in note.counts {
            if let Some(member) = self.known(&place) {
                member.end_telling(connections);
                self.check(place, now);
            }
        }
    }

    /// Who counts here, and who does as far as the others know: by its turn it may again.
    fn places_to_tell(&mut self) -> VecDeque<Place> {
        let mut places = VecDeque::new();
        self.for_each(|place, member| {
            if member.counts_here() || member.is_untold() {
                places.push_back(place());
            }
        });
        places
    }
}
