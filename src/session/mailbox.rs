//! What waits to be sent to one client, within bounds.

use std::{cell::OnceCell, collections::VecDeque, rc::Rc, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    bus::{Page, PageLimits},
    event::Event,
    protocol::ServerFrame,
};

/// Events waiting in one mailbox. Enough for a burst between two turns of the transport; what is
/// more is read from the log.
const MAILBOX_EVENTS: usize = 128;
/// Bytes of events waiting in one mailbox; one event always fits.
const MAILBOX_BYTES: usize = 128 * 1024;
/// A mailbox that was larger than this gives its memory back when it is empty.
const MAILBOX_IDLE_CAPACITY: usize = 8;
/// Replies waiting in one mailbox before the transport should stop reading the client's messages.
const MAILBOX_FRAMES: usize = 64;

/// One event on its way to the sessions of one shard. What is not the event's own
/// encoding is made at most once, by the first session that needs it.
#[derive(Debug)]
pub struct Delivery {
    pub event: Arc<Event>,
    pub msgpack_frame: OnceCell<Bytes>,
    is_live: bool,
}

impl Delivery {
    /// An event that the shard offers to its live sessions.
    pub fn live(event: Arc<Event>) -> Self {
        Self {
            event,
            msgpack_frame: OnceCell::new(),
            is_live: true,
        }
    }

    /// An event that one session read from the log.
    pub fn from_log(event: Arc<Event>) -> Self {
        Self {
            is_live: false,
            ..Self::live(event)
        }
    }

    /// When a live event was accepted.
    pub(super) fn live_since(&self) -> Option<Instant> {
        self.is_live.then_some(self.event.accepted)
    }
}

/// What a transport is to send.
#[derive(Clone, Debug)]
pub enum Outgoing {
    Event(Rc<Delivery>),
    Frame(Box<ServerFrame>),
}

impl Outgoing {
    /// Whether the client learns a position from it to resume from.
    pub(super) fn tells_position(&self) -> bool {
        match self {
            Self::Event(_) => true,
            Self::Frame(frame) => frame.stream_cursor().is_some(),
        }
    }
}

#[derive(Default)]
pub(super) struct Mailbox {
    queue: VecDeque<Outgoing>,
    events: usize,
    bytes: usize,
}

impl Mailbox {
    /// A page that just fills an empty mailbox.
    pub(super) const PAGE: PageLimits = PageLimits {
        events: MAILBOX_EVENTS,
        bytes: MAILBOX_BYTES,
    };

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The events that wait, and their bytes.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.events, self.bytes)
    }

    pub(super) fn has_events(&self) -> bool {
        self.events > 0
    }

    /// So many replies wait that no more should be made.
    pub(super) fn is_congested(&self) -> bool {
        self.queue.len() - self.events >= MAILBOX_FRAMES
    }

    pub(super) fn is_full(&self) -> bool {
        self.events >= MAILBOX_EVENTS || self.bytes >= MAILBOX_BYTES
    }

    pub(super) fn push_event(&mut self, delivery: Rc<Delivery>) {
        self.events += 1;
        self.bytes += delivery.event.json().len();
        self.queue.push_back(Outgoing::Event(delivery));
    }

    pub(super) fn push_page(&mut self, page: Page) {
        for event in page.events {
            self.push_event(Rc::new(Delivery::from_log(event)));
        }
    }

    pub(super) fn push_frame(&mut self, frame: ServerFrame) {
        self.queue.push_back(Outgoing::Frame(Box::new(frame)));
    }

    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let outgoing = self.queue.pop_front()?;
        if let Outgoing::Event(delivery) = &outgoing {
            self.events -= 1;
            self.bytes -= delivery.event.json().len();
        }
        if self.queue.is_empty() && self.queue.capacity() > MAILBOX_IDLE_CAPACITY {
            self.queue = VecDeque::new();
        }
        Some(outgoing)
    }

    pub(super) fn retain_events(&mut self, wanted: impl Fn(&Event) -> bool) {
        for outgoing in std::mem::take(&mut self.queue) {
            match outgoing {
                Outgoing::Event(delivery) if !wanted(&delivery.event) => {
                    self.events -= 1;
                    self.bytes -= delivery.event.json().len();
                }
                other => self.queue.push_back(other),
            }
        }
    }
}
