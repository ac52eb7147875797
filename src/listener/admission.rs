//! How many TCP connections the node holds.
//!
//! ```text
//!     0 ──────────── limits.connections ── + headroom ── + to be refused ──▶
//!       streams and requests     │ requests only   │ 503, then closed │ dropped at once
//! ```
//!
//! Streams are counted apart, where sessions are opened. actix's own limit is never reached: at it
//! the listener would stop to accept, and clients would wait without a word.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Connections beyond the limit that may be told so. Each takes a few KiB, for the seconds that
/// its first request may take.
const REFUSED_AT_ONCE: usize = 1024;
/// Besides the part of the limit: for a node whose limit is small.
const LEAST_HEADROOM: usize = 16;

/// The connections of a node.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    most: usize,
}

impl Places {
    /// For so many connections with a stream each; publishers and those who only ask get an eighth
    /// on top, since they must get through when all streams are taken.
    pub fn new(connections: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            most: connections.saturating_add(connections / 8 + LEAST_HEADROOM),
        })
    }

    /// The most connections that are open at once, those included that are only told to go.
    pub fn most_held(&self) -> usize {
        self.most.saturating_add(REFUSED_AT_ONCE)
    }

    /// The connections that are open now.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Takes a place, held until it is dropped; `None` beyond those that can be refused properly.
    pub(super) fn take(self: &Arc<Self>) -> Option<Place> {
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            places: Arc::clone(self),
            is_over: before >= self.most,
        };
        (before < self.most_held()).then_some(place)
    }
}

/// One connection's place.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    is_over: bool,
}

impl Place {
    /// The connection is only told that there is no place.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_served_then_refused_then_dropped_and_come_free_again() {
        let places = Places::new(80);
        let most = 80 + 10 + LEAST_HEADROOM;
        let mut held: Vec<Place> = (0..most).filter_map(|_| places.take()).collect();
        assert!(held.iter().all(|place| !place.is_over()));
        held.extend((0..REFUSED_AT_ONCE).filter_map(|_| places.take()));
        assert_eq!(held.len(), most + REFUSED_AT_ONCE);
        assert!(held[most..].iter().all(Place::is_over));
        assert!(places.take().is_none());
        assert_eq!(places.taken(), held.len());
        held.truncate(most - 1);
        assert!(places.take().is_some_and(|place| !place.is_over()));
    }
}
