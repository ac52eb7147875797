//! Stored records: whatever is on the disk under a good checksum is read or refused, and what is read
//! is written again as something that reads the same.

use tribus::{
    engine::disk::{
        Ages, Stamp,
        record::{
            self, End, IndexChunk, KeyRow, RecordError, StoredRecord, decode_event, encode_event,
        },
    },
    event::Cursor,
};

const SEQUENCE: u64 = 7;

pub fn check(data: &[u8]) {
    // Nearly always refused for its checksum, and never more than refused.
    let _ = decode_event(data, SEQUENCE);
    let stored = with_checksum(data);
    if let Ok(read) = decode_event(&stored, SEQUENCE) {
        check_event(read);
    }
    if let Ok(chunk) = record::decode::<IndexChunk>(&stored, SEQUENCE) {
        check_chunk(&chunk);
    }
    check_piece::<Vec<KeyRow>>(&stored);
    check_piece::<End>(&stored);
    if !stored.is_empty() {
        let mut changed = stored;
        let bit = data.len() % (8 * changed.len());
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = decode_event(&changed, SEQUENCE).expect_err("a changed bit is noticed");
        assert_eq!(error, RecordError::Checksum);
    }
}

fn check_event(read: StoredRecord) {
    let (stamp, draft) = (read.stamp, read.into_draft());
    let again = decode_event(&encode_event(&draft, SEQUENCE, stamp), SEQUENCE);
    let again = again.expect("what was read is written so that it reads");
    assert_eq!(again.stamp, stamp);
    let log: Cursor = "log-7".parse().expect("a cursor");
    let now = std::time::Instant::now();
    let (one, other) = (draft.seal(&log, now), again.into_draft().seal(&log, now));
    assert_eq!(one.json(), other.json());
    assert_eq!((&one.tenant, &one.topic), (&other.tenant, &other.topic));
    assert_eq!((&one.name, &one.tags), (&other.name, &other.tags));
}

fn check_chunk(chunk: &IndexChunk) {
    check_same(chunk);
    // After everything that was stored, by either clock.
    let ages = Ages {
        now: Stamp {
            at: i64::MAX,
            up: u64::MAX,
        },
        boot_after: Some(chunk.after),
    };
    let Ok(events) = chunk.events(&ages) else {
        return;
    };
    assert_eq!(events.len(), chunk.entries.len());
    assert!(events.is_sorted_by(|one, next| one.sequence < next.sequence));
    let within = chunk.after + 1..=chunk.until;
    assert!(events.iter().all(|event| within.contains(&event.sequence)));
}

fn check_piece<T>(stored: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    if let Ok(piece) = record::decode::<T>(stored, SEQUENCE) {
        check_same(&piece);
    }
}

fn check_same<T>(piece: &T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let again = record::decode::<T>(&record::encode(piece, SEQUENCE), SEQUENCE);
    assert_eq!(again.as_ref(), Ok(piece));
}

/// The input as something that was stored, or nearly all of its runs would end at the checksum.
fn with_checksum(content: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&SEQUENCE.to_le_bytes());
    hasher.update(content);
    [&hasher.finalize().to_le_bytes(), content].concat()
}
