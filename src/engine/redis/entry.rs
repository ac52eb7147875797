//! Entries of the stream that is the log.
//!
//! One field tells what an entry is: `e` is an event, `x` an ephemeral one, each with its record,
//! `s` a seam, with the position after which it was made, and `n` what a node tells the others. A
//! traced event has its trace in `t`.

use redis::Value;

use super::reply::{list, text};
pub use crate::engine::remote::event_at;
use crate::{
    engine::{
        disk::record::{RecordError, StoredRecord},
        remote::Encoded,
    },
    event::Draft,
};

const EVENT: &[u8] = b"e";
const EPHEMERAL: &[u8] = b"x";
const SEAM: &[u8] = b"s";
const TRACE: &[u8] = b"t";
const NOTE: &[u8] = b"n";

/// An event on its way to Redis, or a note.
#[derive(Debug)]
pub struct Outgoing {
    /// The name of its field.
    pub kind: &'static [u8],
    pub record: Vec<u8>,
    /// Empty where it is not traced.
    pub trace: Vec<u8>,
}

impl Outgoing {
    /// `at` is in milliseconds since 1970.
    pub fn new(draft: &Draft, at: i64) -> Self {
        let encoded = Encoded::new(draft, at);
        Self {
            kind: match encoded.is_ephemeral {
                true => EPHEMERAL,
                false => EVENT,
            },
            record: encoded.record,
            trace: encoded.trace,
        }
    }

    pub fn note(note: Vec<u8>) -> Self {
        Self {
            kind: NOTE,
            record: note,
            trace: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.record.len() + self.trace.len()
    }
}

/// The place of an entry. Those of the log have no second part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub sequence: u64,
    pub part: u64,
}

impl Place {
    pub fn of(sequence: u64) -> Self {
        Self { sequence, part: 0 }
    }

    fn parse(id: &str) -> Option<Self> {
        let (sequence, part) = id.split_once('-')?;
        Some(Self {
            sequence: sequence.parse().ok()?,
            part: part.parse().ok()?,
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.sequence, self.part)
    }
}

/// One entry as it was read.
#[derive(Debug)]
pub struct Entry {
    pub place: Place,
    /// Names and values in turn.
    fields: Vec<Value>,
}

/// What an entry says.
#[derive(Debug)]
pub enum Content {
    Event(StoredRecord),
    Seam { from: u64 },
    Note(Vec<u8>),
}

/// What is at a position is nothing that a gateway wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("it has no field of the log's")]
    Foreign,
}

impl Entry {
    /// The entries that `XRANGE` gives.
    pub fn of_range(value: Value) -> Option<Vec<Self>> {
        list(value)?.into_iter().map(Self::parse).collect()
    }

    /// Those that `XREAD` gives of its only stream: none where nothing came.
    pub fn of_read(value: Value) -> Option<Vec<Self>> {
        if value == Value::Nil {
            return Some(Vec::new());
        }
        let stream = list(value)?.into_iter().next()?;
        let entries = list(stream)?.into_iter().nth(1)?;
        Self::of_range(entries)
    }

    fn parse(value: Value) -> Option<Self> {
        let [id, fields] = <[Value; 2]>::try_from(list(value)?).ok()?;
        Some(Self {
            place: Place::parse(text(&id)?)?,
            fields: list(fields)?,
        })
    }

    /// Names and values of all fields; `None` where they are not UTF-8.
    pub fn texts(&self) -> Option<Vec<(&str, &str)>> {
        let pairs = self.fields.chunks_exact(2);
        pairs
            .map(|pair| Some((text(&pair[0])?, text(&pair[1])?)))
            .collect()
    }

    fn field(&self, name: &[u8]) -> Option<&[u8]> {
        let mut pairs = self.fields.chunks_exact(2);
        pairs.find_map(|pair| match pair {
            [Value::BulkString(key), Value::BulkString(value)] if key == name => Some(&value[..]),
            _ => None,
        })
    }

    /// # Errors
    /// Where no gateway wrote it.
    pub fn content(&self) -> Result<Content, Unreadable> {
        if let Some(from) = self.field(SEAM) {
            let from = std::str::from_utf8(from)
                .ok()
                .and_then(|from| from.parse().ok());
            let from = from.ok_or(Unreadable::Foreign)?;
            return Ok(Content::Seam { from });
        }
        if let Some(note) = self.field(NOTE) {
            return Ok(Content::Note(note.to_vec()));
        }
        let ephemeral = self.field(EPHEMERAL);
        let record = self.field(EVENT).or(ephemeral).ok_or(Unreadable::Foreign)?;
        let trace = self.field(TRACE).unwrap_or_default();
        let record = Encoded::decode(record, trace, ephemeral.is_some())?;
        Ok(Content::Event(record))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use super::*;
    use crate::{
        event::{Cursor, Draft, TraceContext},
        topic::{Tenant, Topic},
    };

    fn entry(id: &str, fields: &[(&[u8], &[u8])]) -> Entry {
        let fields = fields.iter().flat_map(|(name, value)| [*name, *value]);
        let fields = fields
            .map(|word| Value::BulkString(word.to_vec()))
            .collect();
        let id = Value::BulkString(id.as_bytes().to_vec());
        let range = Value::Array(vec![Value::Array(vec![id, Value::Array(fields)])]);
        Entry::of_range(range).unwrap().remove(0)
    }

    #[test]
    fn an_event_comes_back_from_its_entry_with_its_trace() {
        let trace = TraceContext {
            trace_id: [7; 16],
            span_id: [9; 8],
            accepted: SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567),
        };
        let draft = Draft {
            tenant: Tenant::named("t"),
            topic: Topic::parse("a:b").unwrap(),
            name: "n".into(),
            tags: [("k".into(), "v".into())].into(),
            ephemeral: true,
            trace: Some(Arc::new(trace)),
            trace_id: None,
            body: br#""topic":"a:b","data":1}"#.to_vec(),
        };
        let sent = Outgoing::new(&draft, 42);
        let entry = entry("7-0", &[(sent.kind, &sent.record), (b"t", &sent.trace)]);
        assert_eq!(entry.place, Place::of(7));
        let Ok(Content::Event(record)) = entry.content() else {
            panic!("no event: {entry:?}");
        };
        assert_eq!(record.stamp.at, 42);
        let log: Cursor = "log-7".parse().unwrap();
        let before = draft.seal(&log, std::time::Instant::now());
        let after = event_at(record, &log.log, 7);
        assert_eq!(after.json(), before.json());
        assert_eq!((after.ephemeral, after.trace), (true, before.trace));
    }

    #[test]
    fn what_others_wrote_is_told_from_an_event() {
        let foreign = entry("7-0", &[(b"field", b"value")]);
        assert_eq!(foreign.content().unwrap_err(), Unreadable::Foreign);
        let broken = entry("7-0", &[(b"e", b"value")]);
        assert!(matches!(broken.content(), Err(Unreadable::Record(_))));
        let seam = entry("7-0", &[(b"s", b"x")]);
        assert_eq!(seam.content().unwrap_err(), Unreadable::Foreign);
    }

    #[test]
    fn a_read_without_entries_is_none_and_not_strange() {
        assert_eq!(Entry::of_read(Value::Nil).map(|read| read.len()), Some(0));
        assert!(Entry::of_read(Value::Int(1)).is_none());
    }
}
