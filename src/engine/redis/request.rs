//! A publish on its way to Redis.

use super::entry::Outgoing;
use crate::{
    engine::{
        Appended, IdempotencyKey,
        remote::{self, Appending},
    },
    event::Draft,
};

/// Publishes that wait, or are on their way; more are refused.
pub const WAITING: usize = 1 << 18;
/// What a publish takes besides its events.
const OVERHEAD_BYTES: usize = 256;

/// What is to be appended.
pub struct Request {
    pub events: Vec<Outgoing>,
    pub key: Option<IdempotencyKey>,
    /// The entry of the stream of what is to be published that it came in.
    pub entry: Option<String>,
}

impl Request {
    pub fn new(drafts: &[Draft], key: Option<IdempotencyKey>) -> Self {
        let at = jiff::Timestamp::now().as_millisecond();
        Self {
            events: drafts
                .iter()
                .map(|draft| Outgoing::new(draft, at))
                .collect(),
            key,
            entry: None,
        }
    }

    pub fn note(note: Vec<u8>) -> Self {
        Self {
            events: vec![Outgoing::note(note)],
            key: None,
            entry: None,
        }
    }
}

impl Appending for Request {
    /// `None` where it came in an entry that another node has moved.
    type Answer = Option<Appended>;

    fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(Outgoing::len).sum();
        OVERHEAD_BYTES + events
    }
}

pub type Requests = remote::Requests<Request>;
pub type Waiting = remote::Waiting<Request>;
pub type Answer = remote::Answer<Request>;
