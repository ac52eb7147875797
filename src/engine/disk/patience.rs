//! What the disk does not give, though nothing says that it has changed: a bad sector. It is tried
//! for a while, and counts as lost then, since nobody would ever be served otherwise.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{
    segment::SegmentError,
    shelf::{Shelf, Unreadable},
};
use crate::event::LogId;

/// For how long it is tried: a disk that comes back takes less.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// And how many times at least.
const TRIES: u32 = 3;

/// What Linux says where a disk or its file system can not give what is there: EIO, ENODATA,
/// EBADMSG, EILSEQ and EUCLEAN, by their numbers. Whatever else fails may be mended by an operator.
const NOT_GIVEN: [i32; 5] = [5, 61, 74, 84, 117];

/// Whether a read failed in a way that may last.
pub fn is_not_given(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    number.is_some_and(|number| NOT_GIVEN.contains(&number))
}

/// Since when, and how often, something was tried in vain.
#[derive(Clone, Copy, Debug)]
pub struct Tried {
    since: Instant,
    times: u32,
}

impl Tried {
    /// For the first time.
    pub fn once() -> Self {
        Self {
            since: Instant::now(),
            times: 1,
        }
    }

    pub fn again(&mut self) {
        self.times += 1;
    }

    pub fn is_enough(&self, patience: Duration) -> bool {
        self.times >= TRIES && self.since.elapsed() >= patience
    }

    /// What is lost is as good as changed.
    pub fn damage(&self, name: &str, error: &io::Error) -> SegmentError {
        let (seconds, times) = (self.since.elapsed().as_secs(), self.times);
        SegmentError::Damaged {
            name: name.to_owned(),
            what: format!("the disk did not give it in {times} tries over {seconds} s: {error}"),
        }
    }
}

/// What readers could not read lately: one place of a log, so that this does not grow. Another one is looked
/// at once this can be read again.
#[derive(Debug, Default)]
pub struct Unread(Mutex<Option<Place>>);

#[derive(Clone, Debug)]
struct Place {
    log: LogId,
    sequences: Vec<u64>,
    tried: Tried,
}

impl Unread {
    /// Takes note of a read that failed: what the log is to be given up for, where the same could not
    /// be read for long. May read it once more.
    pub fn note(
        &self,
        failed: &Unreadable,
        shelf: &Shelf,
        patience: Duration,
    ) -> Option<SegmentError> {
        let place = self.try_again(failed)?;
        if !place.tried.is_enough(patience) {
            return None;
        }
        // Others may have failed meanwhile, and this one not: a disk with a bad contact.
        match shelf.read(&place.sequences) {
            Ok(_) => {
                self.set(Place::of(failed));
                None
            }
            Err(Unreadable { log, .. }) if log != place.log => None,
            Err(Unreadable { segment, error, .. }) => match error {
                SegmentError::Io(error) if is_not_given(&error) => {
                    Some(place.tried.damage(&segment, &error))
                }
                SegmentError::Io(_) => None,
                damaged @ SegmentError::Damaged { .. } => Some(damaged),
            },
        }
    }

    /// What was unreadable before, tried once more; `None` where this is the first.
    fn try_again(&self, failed: &Unreadable) -> Option<Place> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.as_mut().filter(|place| place.log == failed.log) {
            Some(place) => {
                place.tried.again();
                Some(place.clone())
            }
            None => {
                *slot = Some(Place::of(failed));
                None
            }
        }
    }

    fn set(&self, place: Place) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some(place);
    }
}

impl Place {
    fn of(failed: &Unreadable) -> Self {
        Self {
            log: failed.log.clone(),
            sequences: failed.sequences.clone(),
            tried: Tried::once(),
        }
    }
}
