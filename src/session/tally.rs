//! What a chunk for a client holds, added up while the chunk is made.

use std::time::{Duration, Instant};

use super::{Delivery, Outgoing};
use crate::{
    metrics::{WorkerMetrics, age},
    protocol::{ResetReason, ServerFrame, Transport},
};

/// Adds up what a transport takes out of a session, so that it is counted once a chunk.
#[derive(Debug, Default)]
pub struct Tally {
    events: u64,
    /// When the first live event was accepted, which is the oldest: events come in order.
    oldest_live: Option<Instant>,
    resets: [u32; ResetReason::ALL.len()],
}

impl Tally {
    pub fn note(&mut self, outgoing: &Outgoing) {
        match outgoing {
            Outgoing::Event(delivery) => self.note_event(delivery),
            Outgoing::Frame(frame) => self.note_frame(frame),
        }
    }

    pub fn note_event(&mut self, delivery: &Delivery) {
        self.events += 1;
        if self.oldest_live.is_none() {
            self.oldest_live = delivery.live_since();
        }
    }

    pub fn note_frame(&mut self, frame: &ServerFrame) {
        if let ServerFrame::Reset { reason, .. } = frame {
            self.resets[*reason as usize] += 1;
        }
    }

    /// Counts all of it; `now` is when the chunk goes out.
    pub(crate) fn count(&self, metrics: &WorkerMetrics, transport: Transport, now: Instant) {
        if self.events > 0 {
            metrics.delivered(transport, self.events, self.latency(now));
        }
        for reason in ResetReason::ALL {
            let count = self.resets[reason as usize];
            if count > 0 {
                metrics.reset(transport, reason, u64::from(count));
            }
        }
    }

    fn latency(&self, now: Instant) -> Option<Duration> {
        self.oldest_live.map(|accepted| age(accepted, now))
    }
}
