//! What is stored, byte for byte. Everything here is read back from a disk that may have changed
//! it: each piece carries a checksum, and reading never trusts a length.
//!
//! An event's record is a CRC-32 of all that follows it and of the event's sequence, four bytes
//! little-endian; then the [`Head`] in postcard's encoding; then the envelope from `"topic"` on.
//! The other pieces are postcard behind the same checksum.

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::clock::Stamp;
use crate::{
    engine::IdempotencyKey,
    event::{Cursor, Draft, Event, LogId},
    topic::{Tenant, Topic},
};

/// The version of all that is stored. A log of another one is left alone.
pub const FORMAT: u32 = 2;

const CHECKSUM_BYTES: usize = 4;

/// What is stored has changed since it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it has no form that this version writes")]
    Form,
}

/// Of an event, what stands beside its envelope.
#[derive(Debug, Deserialize, Serialize)]
struct Head<'a> {
    /// When it was appended.
    stamp: Stamp,
    tenant: Option<&'a str>,
    topic: &'a str,
    name: &'a str,
    #[serde(borrow)]
    tags: Vec<(&'a str, &'a str)>,
}

/// An event that was read back.
#[derive(Debug)]
pub struct StoredRecord {
    pub stamp: Stamp,
    pub(in crate::engine) draft: Draft,
}

/// Encodes an accepted event as the record of a sequence.
pub fn encode_event(draft: &Draft, sequence: u64, stamp: Stamp) -> Vec<u8> {
    let tags = draft.tags.iter();
    let head = Head {
        stamp,
        tenant: draft.tenant.as_deref(),
        topic: draft.topic.as_str(),
        name: &draft.name,
        tags: tags.map(|(key, value)| (&**key, &**value)).collect(),
    };
    let mut record = encode_after(vec![0; CHECKSUM_BYTES], &head);
    record.extend_from_slice(&draft.body);
    put_checksum(&mut record, sequence);
    record
}

/// Reads the record of a sequence.
///
/// # Errors
/// Where it is not what [`encode_event`] wrote for this sequence.
pub fn decode_event(record: &[u8], sequence: u64) -> Result<StoredRecord, RecordError> {
    let content = checked(record, sequence)?;
    let (head, body) =
        postcard::take_from_bytes::<Head<'_>>(content).map_err(|_| RecordError::Form)?;
    let tags = head.tags.iter();
    Ok(StoredRecord {
        stamp: head.stamp,
        draft: Draft {
            tenant: head.tenant.map_or_else(Tenant::none, Tenant::named),
            topic: Topic::parse(head.topic).map_err(|_| RecordError::Form)?,
            name: head.name.into(),
            tags: tags
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            ephemeral: false,
            trace: None,
            trace_id: None,
            body: body.to_vec(),
        },
    })
}

impl StoredRecord {
    /// The event as it was accepted.
    pub fn into_draft(self) -> Draft {
        self.draft
    }

    /// The event as it was before.
    pub fn into_event(self, log: &LogId, sequence: u64) -> Arc<Event> {
        let position = Cursor::new(log.clone(), sequence);
        Arc::new(self.draft.seal(&position, std::time::Instant::now()))
    }
}

/// Part of a segment's index: its events after a sequence, up to another one.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct IndexChunk {
    pub after: u64,
    pub until: u64,
    /// Tenant and topic, each pair once.
    pub topics: Vec<(Option<String>, String)>,
    pub entries: Vec<IndexEntry>,
}

/// An event in an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct IndexEntry {
    /// Sequences after the chunk's `after`.
    pub offset: u64,
    /// Among the chunk's topics.
    pub topic: u32,
    /// See [`Event::retained_bytes`].
    pub bytes: u32,
    /// When it was appended.
    pub stamp: Stamp,
}

/// Where a segment ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct End {
    /// The last sequence that was given to an event, stored or not.
    pub last: u64,
    /// Events that no chunk of the index tells of yet, so that none of them can go missing
    /// unnoticed.
    pub unindexed: u64,
}

/// An idempotency key that stands for the events from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct KeyRow {
    pub subject: [u8; 16],
    pub scoped: [u8; 16],
    pub request: [u8; 16],
    pub first: u64,
    pub count: u32,
    /// When it was used.
    pub stamp: Stamp,
}

impl KeyRow {
    pub fn new(key: &IdempotencyKey, first: u64, count: u32, stamp: Stamp) -> Self {
        Self {
            subject: key.subject,
            scoped: key.scoped,
            request: key.request,
            first,
            count,
            stamp,
        }
    }

    pub fn key(&self) -> IdempotencyKey {
        IdempotencyKey {
            subject: self.subject,
            scoped: self.scoped,
            request: self.request,
            is_the_gateways: false,
        }
    }
}

/// Encodes a piece that is stored under a number.
pub fn encode(piece: &impl Serialize, number: u64) -> Vec<u8> {
    let mut bytes = encode_after(vec![0; CHECKSUM_BYTES], piece);
    put_checksum(&mut bytes, number);
    bytes
}

/// Reads the piece that is stored under a number.
///
/// # Errors
/// Where it is not what [`encode`] wrote for this number.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], number: u64) -> Result<T, RecordError> {
    postcard::from_bytes(checked(bytes, number)?).map_err(|_| RecordError::Form)
}

fn encode_after(start: Vec<u8>, piece: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(piece, start).expect("strings, numbers and lists encode into memory")
}

fn put_checksum(bytes: &mut [u8], number: u64) {
    if let Some((checksum, content)) = bytes.split_first_chunk_mut::<CHECKSUM_BYTES>() {
        *checksum = checksum_of(content, number).to_le_bytes();
    }
}

fn checked(bytes: &[u8], number: u64) -> Result<&[u8], RecordError> {
    let (checksum, content) = bytes
        .split_first_chunk::<CHECKSUM_BYTES>()
        .ok_or(RecordError::Form)?;
    if u32::from_le_bytes(*checksum) != checksum_of(content, number) {
        return Err(RecordError::Checksum);
    }
    Ok(content)
}

fn checksum_of(content: &[u8], number: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { at: 42, up: 7 };

    fn draft() -> Draft {
        Draft {
            tenant: Tenant::named("t"),
            topic: Topic::parse("a:b").unwrap(),
            name: "n".into(),
            tags: [("k".into(), "v".into())].into(),
            ephemeral: false,
            trace: None,
            trace_id: None,
            body: br#""topic":"a:b","data":1}"#.to_vec(),
        }
    }

    #[test]
    fn an_event_reads_back_as_it_was() {
        let log: Cursor = "log-7".parse().unwrap();
        let before = draft().seal(&log, std::time::Instant::now());
        let record = decode_event(&encode_event(&draft(), 7, STAMP), 7).unwrap();
        assert_eq!(record.stamp, STAMP);
        let after = record.into_event(&log.log, 7);
        assert_eq!(after.json(), before.json());
        assert_eq!(
            (&after.tenant, &after.topic),
            (&before.tenant, &before.topic)
        );
        assert_eq!((&after.name, &after.tags), (&before.name, &before.tags));
        assert_eq!(after.retained_bytes(), before.retained_bytes());
    }

    #[test]
    fn no_changed_bit_and_no_cut_goes_unnoticed() {
        let record = encode_event(&draft(), 7, STAMP);
        for bit in 0..8 * record.len() {
            let mut changed = record.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_event(&changed, 7).is_err(), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(decode_event(&record[..len], 7).is_err(), "cut at {len}");
        }
        assert_eq!(decode_event(&record, 8).unwrap_err(), RecordError::Checksum);
    }
}
