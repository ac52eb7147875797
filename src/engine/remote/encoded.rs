//! An event as a server keeps it: its record and its trace.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    engine::disk::{
        Stamp,
        record::{self, RecordError, StoredRecord},
    },
    event::{Cursor, Draft, Event, LogId, TraceContext},
};

/// The record's checksum does not take in the sequence, which is not known before the server has it.
const NO_SEQUENCE: u64 = 0;

/// An event on its way to the server.
#[derive(Debug)]
pub struct Encoded {
    pub is_ephemeral: bool,
    pub record: Vec<u8>,
    /// Empty where it is not traced.
    pub trace: Vec<u8>,
}

impl Encoded {
    /// `at` is in milliseconds since 1970.
    pub fn new(draft: &Draft, at: i64) -> Self {
        let trace = draft.trace.as_deref();
        Self {
            is_ephemeral: draft.ephemeral,
            record: record::encode_event(draft, NO_SEQUENCE, Stamp { at, up: 0 }),
            trace: trace.map_or_else(Vec::new, encode_trace),
        }
    }

    /// # Errors
    /// Where no gateway wrote the record.
    pub fn decode(
        record: &[u8],
        trace: &[u8],
        is_ephemeral: bool,
    ) -> Result<StoredRecord, RecordError> {
        let mut record = record::decode_event(record, NO_SEQUENCE)?;
        record.draft.ephemeral = is_ephemeral;
        record.draft.trace = decode_trace(trace).map(Arc::new);
        Ok(record)
    }
}

/// The event that a record is at a position.
pub fn event_at(record: StoredRecord, log: &LogId, sequence: u64) -> Event {
    let position = Cursor::new(log.clone(), sequence);
    record.into_draft().seal(&position, Instant::now())
}

/// Trace and span, then when the publish was accepted, in microseconds since 1970, little-endian.
fn encode_trace(trace: &TraceContext) -> Vec<u8> {
    let accepted = trace.accepted.duration_since(SystemTime::UNIX_EPOCH);
    let micros = accepted.map_or(0, |since| since.as_micros() as u64);
    [&trace.trace_id[..], &trace.span_id, &micros.to_le_bytes()].concat()
}

fn decode_trace(bytes: &[u8]) -> Option<TraceContext> {
    let (trace_id, rest) = bytes.split_first_chunk()?;
    let (span_id, rest) = rest.split_first_chunk()?;
    let micros = u64::from_le_bytes(*rest.first_chunk()?);
    Some(TraceContext {
        trace_id: *trace_id,
        span_id: *span_id,
        accepted: SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros))?,
    })
}
