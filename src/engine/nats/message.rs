//! Messages of the stream that is the log: the events of one publish each, or what a node tells the
//! others.

use serde::{Deserialize, Serialize};

use crate::engine::{
    disk::record::{RecordError, StoredRecord},
    remote::Encoded,
};

/// What a message with the events of a publish begins with.
const PUBLISH: &[u8] = b"tribus\x01";
/// What a message begins with whose rest is a note.
const NOTE: &[u8] = b"tribus\x02";

/// Behind the mark of a publish, in postcard's encoding.
#[derive(Deserialize, Serialize)]
struct Content<'a> {
    /// The digest of the request, where it had an idempotency key.
    request: Option<[u8; 16]>,
    #[serde(borrow)]
    events: Vec<Item<'a>>,
}

#[derive(Deserialize, Serialize)]
struct Item<'a> {
    is_ephemeral: bool,
    record: &'a [u8],
    trace: &'a [u8],
}

/// What a message says.
#[derive(Debug)]
pub enum Message {
    Publish(Published),
    Note(Vec<u8>),
}

/// What was published at once.
#[derive(Debug)]
pub struct Published {
    /// The digest of the request, where it had an idempotency key.
    pub request: Option<[u8; 16]>,
    pub events: Vec<StoredRecord>,
}

impl Message {
    /// How many positions it takes.
    pub fn count(&self) -> u64 {
        match self {
            Self::Publish(published) => published.events.len() as u64,
            Self::Note(_) => 1,
        }
    }

    pub fn into_events(self) -> Vec<StoredRecord> {
        match self {
            Self::Publish(published) => published.events,
            Self::Note(_) => Vec::new(),
        }
    }
}

/// Nothing that could be told to clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("no gateway wrote it")]
    Foreign,
    #[error("{0}")]
    Damaged(#[from] RecordError),
}

pub fn encode(events: &[Encoded], request: Option<[u8; 16]>) -> Vec<u8> {
    let items = events.iter().map(|event| Item {
        is_ephemeral: event.is_ephemeral,
        record: &event.record,
        trace: &event.trace,
    });
    let content = Content {
        request,
        events: items.collect(),
    };
    let encoded = postcard::to_extend(&content, PUBLISH.to_vec());
    encoded.expect("bytes, numbers and lists encode into memory")
}

pub fn encode_note(note: &[u8]) -> Vec<u8> {
    [NOTE, note].concat()
}

/// # Errors
/// Where neither [`encode`] nor [`encode_note`] made it.
pub fn decode(payload: &[u8]) -> Result<Message, Unreadable> {
    if let Some(note) = payload.strip_prefix(NOTE) {
        return Ok(Message::Note(note.to_vec()));
    }
    let content = payload.strip_prefix(PUBLISH).ok_or(Unreadable::Foreign)?;
    let content: Content<'_> = postcard::from_bytes(content).map_err(|_| RecordError::Form)?;
    let events = content.events.iter();
    let events: Result<Vec<StoredRecord>, RecordError> = events
        .map(|item| Encoded::decode(item.record, item.trace, item.is_ephemeral))
        .collect();
    Ok(Message::Publish(Published {
        request: content.request,
        events: events?,
    }))
}

/// A message, so that another one in its place is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Mark {
    pub sequence: u64,
    pub digest: u32,
}

impl Mark {
    pub fn of(sequence: u64, payload: &[u8]) -> Self {
        Self {
            sequence,
            digest: crc32fast::hash(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Draft,
        topic::{Tenant, Topic},
    };

    fn draft(ephemeral: bool) -> Draft {
        Draft {
            tenant: Tenant::named("t"),
            topic: Topic::parse("a:b").unwrap(),
            name: "n".into(),
            tags: [("k".into(), "v".into())].into(),
            ephemeral,
            trace: None,
            trace_id: None,
            body: br#""topic":"a:b","data":1}"#.to_vec(),
        }
    }

    #[test]
    fn a_publish_comes_back_from_its_message() {
        let events = [true, false].map(|ephemeral| Encoded::new(&draft(ephemeral), 42));
        let message = decode(&encode(&events, Some([7; 16]))).unwrap();
        assert_eq!(message.count(), 2);
        let Message::Publish(published) = message else {
            panic!("no publish: {message:?}");
        };
        assert_eq!(published.request, Some([7; 16]));
        let kinds = published.events.iter().map(|event| event.draft.ephemeral);
        assert_eq!(kinds.collect::<Vec<_>>(), [true, false]);
        assert_eq!(published.events[1].draft.body, draft(false).body);
        assert_eq!(published.events[1].stamp.at, 42);
    }

    #[test]
    fn a_note_comes_back_whatever_it_says() {
        for note in [&b""[..], b"{}", b"tribus\x01"] {
            let message = decode(&encode_note(note)).unwrap();
            assert_eq!(message.count(), 1);
            assert!(matches!(message, Message::Note(there) if there == note));
        }
    }

    #[test]
    fn what_others_wrote_is_told_from_what_is_damaged() {
        let mut payload = encode(&[Encoded::new(&draft(false), 1)], None);
        assert_eq!(decode(b"{}").unwrap_err(), Unreadable::Foreign);
        let middle = payload.len() / 2;
        payload[middle] ^= 1;
        assert!(matches!(decode(&payload), Err(Unreadable::Damaged(_))));
        payload.truncate(PUBLISH.len() + 1);
        assert!(matches!(decode(&payload), Err(Unreadable::Damaged(_))));
    }
}
