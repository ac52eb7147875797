//! A publish on its way to NATS.

use bytes::Bytes;

use super::message::{encode, encode_note};
use crate::{
    engine::{
        Appended, IdempotencyKey,
        remote::{self, Appending, Encoded},
    },
    event::Draft,
};

/// Publishes that wait, or are on their way; more are refused.
pub const WAITING: usize = 8192;
/// What a publish takes besides its events.
const OVERHEAD_BYTES: usize = 512;

/// What is to be appended.
pub struct Request {
    pub payload: Bytes,
    pub count: u64,
    pub key: Option<IdempotencyKey>,
    /// It comes from a message that is there to be published, whose place is in no limit.
    pub is_moved: bool,
}

impl Request {
    pub fn new(drafts: &[Draft], key: Option<IdempotencyKey>) -> Self {
        let at = jiff::Timestamp::now().as_millisecond();
        let events: Vec<Encoded> = drafts.iter().map(|draft| Encoded::new(draft, at)).collect();
        Self {
            payload: encode(&events, key.map(|key| key.request)).into(),
            count: events.len() as u64,
            key,
            is_moved: false,
        }
    }

    pub fn note(note: &[u8]) -> Self {
        Self {
            payload: encode_note(note).into(),
            count: 1,
            key: None,
            is_moved: false,
        }
    }
}

impl Appending for Request {
    type Answer = Appended;

    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.payload.len()
    }
}

pub type Requests = remote::Requests<Request>;
pub type Waiting = remote::Waiting<Request>;
pub type Answer = remote::Answer<Request>;
