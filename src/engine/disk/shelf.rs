//! The log's segments as readers see them, while the writer goes on.

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::segment::{Segment, SegmentError};
use crate::{
    event::{Event, LogId},
    sync::{Mutex, RwLock},
};

/// How many segments besides the one that is written are open at a time.
const MOST_OPEN: usize = 8;

/// One per log, shared by the writer and all readers.
#[derive(Debug)]
pub struct Shelf {
    state: RwLock<State>,
    /// The last sequence that is as durable as it is to be; known here before anybody hears of it.
    last: AtomicU64,
    /// Those that were read last, the latest at the end.
    open: Mutex<VecDeque<Arc<Segment>>>,
}

#[derive(Debug)]
struct State {
    log: LogId,
    /// Rising; the last one is written.
    segments: Vec<Arc<Segment>>,
}

/// Something that should be in the log can not be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Which log it was.
    pub log: LogId,
    pub error: SegmentError,
}

impl Shelf {
    pub fn new(log: LogId, segments: Vec<Arc<Segment>>, last: u64) -> Self {
        Self {
            state: RwLock::new(State { log, segments }),
            last: AtomicU64::new(last),
            open: Mutex::default(),
        }
    }

    /// Puts another log in the place of this one.
    pub fn replace(&self, log: LogId, segments: Vec<Arc<Segment>>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State { log, segments };
        drop(state);
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    pub fn reach(&self, last: u64) {
        self.last.store(last, Ordering::Release);
    }

    pub fn log(&self) -> LogId {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.log.clone()
    }

    pub fn segments(&self) -> Vec<Arc<Segment>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.segments.clone()
    }

    pub fn push(&self, segment: Arc<Segment>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.segments.push(segment);
    }

    /// Takes the oldest segment out.
    pub fn drop_oldest(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let oldest = state.segments.remove(0);
        drop(state);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|segment| !Arc::ptr_eq(segment, &oldest));
    }

    /// The events of these sequences, rising, but for those that were dropped with their segments.
    ///
    /// # Errors
    /// Where one of the others is not there, or not what was written.
    pub fn read(&self, sequences: &[u64]) -> Result<Vec<Arc<Event>>, Unreadable> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let (log, segments) = (state.log.clone(), state.segments.clone());
        drop(state);
        let mut events = Vec::with_capacity(sequences.len());
        let mut rest = sequences;
        while let Some(first) = rest.first() {
            let next = segments.partition_point(|segment| segment.after() < *first);
            let end = segments.get(next).map_or(u64::MAX, |next| next.after());
            let (here, later) = rest.split_at(rest.partition_point(|sequence| *sequence <= end));
            if let Some(at) = next.checked_sub(1) {
                let read = self.read_segment(&segments[at], here);
                let records = read.map_err(|error| Unreadable {
                    log: log.clone(),
                    error,
                })?;
                let sealed = records
                    .into_iter()
                    .map(|(sequence, record)| record.into_event(&log, sequence));
                events.extend(sealed);
            }
            rest = later;
        }
        Ok(events)
    }

    fn read_segment(
        &self,
        segment: &Arc<Segment>,
        sequences: &[u64],
    ) -> Result<Vec<(u64, super::record::StoredRecord)>, SegmentError> {
        self.note_open(segment);
        let records = segment.read(sequences)?;
        if records.len() < sequences.len() {
            let is_missing = |sequence: &&u64| !records.iter().any(|(at, _)| at == *sequence);
            let missing = sequences.iter().find(is_missing).copied().unwrap_or(0);
            return Err(SegmentError::Damaged {
                name: segment.name().to_owned(),
                what: format!("at {missing} there is no event"),
            });
        }
        Ok(records)
    }

    /// Closes what was not read for the longest time, but for the segment that is written.
    fn note_open(&self, segment: &Arc<Segment>) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let sealed = state
            .segments
            .split_last()
            .map_or(&[][..], |(_, sealed)| sealed);
        // One that was dropped meanwhile closes with the last who reads it.
        if !sealed.iter().any(|other| Arc::ptr_eq(other, segment)) {
            return;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, segment));
        open.push_back(Arc::clone(segment));
        let oldest = (open.len() > MOST_OPEN).then(|| open.pop_front()).flatten();
        drop((open, state));
        if let Some(oldest) = oldest {
            oldest.close();
        }
    }
}
