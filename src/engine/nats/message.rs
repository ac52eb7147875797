//! Messages of the stream that is the log: the events of one publish each.

use serde::{Deserialize, Serialize};

use crate::engine::{
    disk::record::{RecordError, StoredRecord},
    remote::Outgoing,
};

/// What every message of ours begins with; the last byte is its form.
const MARK: &[u8] = b"tribus\x01";

/// Behind the mark, in postcard's encoding.
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
pub struct Message {
    pub request: Option<[u8; 16]>,
    pub events: Vec<StoredRecord>,
}

/// Nothing that could be told to clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("no gateway wrote it")]
    Foreign,
    #[error("{0}")]
    Damaged(#[from] RecordError),
}

pub fn encode(events: &[Outgoing], request: Option<[u8; 16]>) -> Vec<u8> {
    let items = events.iter().map(|event| Item {
        is_ephemeral: event.is_ephemeral,
        record: &event.record,
        trace: &event.trace,
    });
    let content = Content {
        request,
        events: items.collect(),
    };
    let encoded = postcard::to_extend(&content, MARK.to_vec());
    encoded.expect("bytes, numbers and lists encode into memory")
}

/// # Errors
/// Where it is not what [`encode`] made.
pub fn decode(payload: &[u8]) -> Result<Message, Unreadable> {
    let content = payload.strip_prefix(MARK).ok_or(Unreadable::Foreign)?;
    let content: Content<'_> = postcard::from_bytes(content).map_err(|_| RecordError::Form)?;
    let events = content.events.iter();
    let events: Result<Vec<StoredRecord>, RecordError> = events
        .map(|item| Outgoing::decode(item.record, item.trace, item.is_ephemeral))
        .collect();
    Ok(Message {
        request: content.request,
        events: events?,
    })
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
        let events = [true, false].map(|ephemeral| Outgoing::new(&draft(ephemeral), 42));
        let message = decode(&encode(&events, Some([7; 16]))).unwrap();
        assert_eq!(message.request, Some([7; 16]));
        let kinds = message.events.iter().map(|event| event.draft.ephemeral);
        assert_eq!(kinds.collect::<Vec<_>>(), [true, false]);
        assert_eq!(message.events[1].draft.body, draft(false).body);
        assert_eq!(message.events[1].at, 42);
    }

    #[test]
    fn what_others_wrote_is_told_from_what_is_damaged() {
        let mut payload = encode(&[Outgoing::new(&draft(false), 1)], None);
        assert_eq!(decode(b"{}").unwrap_err(), Unreadable::Foreign);
        let middle = payload.len() / 2;
        payload[middle] ^= 1;
        assert!(matches!(decode(&payload), Err(Unreadable::Damaged(_))));
        payload.truncate(MARK.len() + 1);
        assert!(matches!(decode(&payload), Err(Unreadable::Damaged(_))));
    }
}
