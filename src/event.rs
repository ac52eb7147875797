//! The event, its cursor and its encodings. Pure: no I/O, no clock.
//!
//! An event is encoded once. [`Draft`] holds everything that the publisher decides, already as
//! JSON; sealing it with a position puts the `id` in front and yields the [`Event`], whose bytes
//! every subscriber of every transport shares.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::topic::{Tenant, Topic};

/// Longest cursor a client may send, in bytes (protocol, section 2).
pub const MAX_CURSOR_BYTES: usize = 64;

/// Names one log: positions of the same log compare by sequence, positions of different logs do
/// not compare at all. 1 to 24 bytes of `[A-Za-z0-9_]`, made by the engine when the log begins.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LogId(Arc<str>);

impl LogId {
    const MAX_BYTES: usize = 24;

    /// A random id for a log that begins now: 48 bits in base 36.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut value = getrandom::u64()? >> 16;
        let mut text = String::with_capacity(10);
        while value > 0 || text.is_empty() {
            let digit = u32::try_from(value % 36).unwrap_or(0);
            text.push(char::from_digit(digit, 36).unwrap_or('0'));
            value /= 36;
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// # Errors
    /// Where it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, CursorError> {
        let valid = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(is_word_byte);
        valid.then(|| Self(text.into())).ok_or(CursorError)
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A position in a log: everything up to and including `sequence` lies behind it.
///
/// Written `LOG-SEQUENCE` with an optional `.CHECK` of the entry, which engines whose log can lose
/// its tail use to notice a sequence handed out twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub log: LogId,
    pub sequence: u64,
    pub check: Option<Box<str>>,
}

impl Cursor {
    pub fn new(log: LogId, sequence: u64) -> Self {
        Self {
            log,
            sequence,
            check: None,
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log.as_str(), self.sequence)?;
        match &self.check {
            Some(check) => write!(f, ".{check}"),
            None => Ok(()),
        }
    }
}

/// The text is not a cursor. It is not repeated in the message, since it is hostile input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a cursor: send back one that the gateway gave, such as an event's id, or `earliest`"
)]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() > MAX_CURSOR_BYTES {
            return Err(CursorError);
        }
        let (log, position) = text.split_once('-').ok_or(CursorError)?;
        let (sequence, check) = match position.split_once('.') {
            Some((sequence, check)) => (sequence, Some(parse_check(check)?)),
            None => (position, None),
        };
        Ok(Self {
            log: LogId::parse(log)?,
            sequence: parse_sequence(sequence)?,
            check,
        })
    }
}

/// Only the canonical decimal form, so that a cursor reads back as the very text that came.
fn parse_sequence(text: &str) -> Result<u64, CursorError> {
    let canonical = text == "0" || text.starts_with(|c: char| ('1'..='9').contains(&c));
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !canonical || !digits {
        return Err(CursorError);
    }
    text.parse().map_err(|_| CursorError)
}

fn parse_check(text: &str) -> Result<Box<str>, CursorError> {
    let valid = !text.is_empty() && text.bytes().all(is_word_byte);
    valid.then(|| text.into()).ok_or(CursorError)
}

fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Flat string tags of an event, in the publisher's order.
pub type Tags = Box<[(Box<str>, Box<str>)]>;

/// The span that a traced publish's deliveries belong to (W3C Trace Context, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    /// When the gateway took the publish.
    pub accepted: SystemTime,
}

/// An event that has been accepted and not yet been given its position.
#[derive(Clone, Debug)]
pub struct Draft {
    pub tenant: Tenant,
    pub topic: Topic,
    pub name: Box<str>,
    pub tags: Tags,
    /// Delivered to those who are there now, never retained.
    pub ephemeral: bool,
    /// Where the publish is traced.
    pub trace: Option<Arc<TraceContext>>,
    /// As it stands in `body`; here for logs.
    pub trace_id: Option<Box<str>>,
    /// The envelope's JSON from `"topic"` to the closing brace.
    pub body: Vec<u8>,
}

/// What stands before the cursor in every envelope.
const ENVELOPE_START: &[u8] = br#"{"type":"event","id":""#;
/// What stands between the cursor and the draft's body.
const ENVELOPE_JOINT: &[u8] = br#"","#;
/// Room for a WebSocket frame header of up to 64 KiB and more (RFC 6455, section 5.2).
const MAX_FRAME_HEADER_BYTES: usize = 10;

impl Draft {
    /// The length in bytes of the envelope that this draft will have, its cursor counted at the
    /// longest.
    pub fn max_encoded_len(&self) -> usize {
        ENVELOPE_START.len() + MAX_CURSOR_BYTES + ENVELOPE_JOINT.len() + self.body.len()
    }

    /// Gives the event its position and encodes it, once and for all. `accepted` is when this
    /// process took the event on, of which its age is told.
    pub fn seal(self, position: &Cursor, accepted: Instant) -> Event {
        let id = position.to_string();
        let json_len = ENVELOPE_START.len() + id.len() + ENVELOPE_JOINT.len() + self.body.len();
        let mut frame = BytesMut::with_capacity(MAX_FRAME_HEADER_BYTES + json_len);
        put_frame_header(&mut frame, TEXT_FRAME, json_len);
        let header_len = frame.len();
        frame.extend_from_slice(ENVELOPE_START);
        frame.extend_from_slice(id.as_bytes());
        frame.extend_from_slice(ENVELOPE_JOINT);
        frame.extend_from_slice(&self.body);
        Event {
            sequence: position.sequence,
            tenant: self.tenant,
            topic: self.topic,
            name: self.name,
            tags: self.tags,
            ephemeral: self.ephemeral,
            trace: self.trace,
            accepted,
            frame: frame.freeze(),
            json_at: header_len,
            id_len: id.len(),
        }
    }
}

/// One event of the log, immutable and shared by everyone who reads it.
#[derive(Debug)]
pub struct Event {
    pub sequence: u64,
    pub tenant: Tenant,
    pub topic: Topic,
    pub name: Box<str>,
    pub tags: Tags,
    pub ephemeral: bool,
    /// Where its publish is traced.
    pub trace: Option<Arc<TraceContext>>,
    /// When this process took it on.
    pub accepted: Instant,
    frame: Bytes,
    json_at: usize,
    id_len: usize,
}

impl Event {
    /// The envelope: one line of JSON, the same bytes on every transport.
    pub fn json(&self) -> &[u8] {
        &self.frame[self.json_at..]
    }

    /// The envelope as a whole unmasked WebSocket text frame.
    pub fn ws_frame(&self) -> &Bytes {
        &self.frame
    }

    /// The event's cursor as it stands in the envelope.
    pub fn id(&self) -> &[u8] {
        let start = self.json_at + ENVELOPE_START.len();
        &self.frame[start..start + self.id_len]
    }

    /// Roughly what retaining this event costs in memory, in bytes.
    pub fn retained_bytes(&self) -> usize {
        let tags: usize = self
            .tags
            .iter()
            .map(|(key, value)| key.len() + value.len() + 2 * size_of::<Box<str>>())
            .sum();
        size_of::<Self>() + RETAINED_OVERHEAD_BYTES + self.frame.len() + self.name.len() + tags
    }
}

/// Reference counts, allocator headers, and the entries in the log and the history index.
const RETAINED_OVERHEAD_BYTES: usize = 96;

/// First byte of an unfragmented text frame (RFC 6455, section 5.2).
pub const TEXT_FRAME: u8 = 0x81;
/// First byte of an unfragmented binary frame.
pub const BINARY_FRAME: u8 = 0x82;

/// Appends the header of an unmasked WebSocket frame (RFC 6455, section 5.2) of `len` bytes.
pub fn put_frame_header(into: &mut BytesMut, first_byte: u8, len: usize) {
    into.put_u8(first_byte);
    if len < 126 {
        into.put_u8(len as u8);
    } else if let Ok(len) = u16::try_from(len) {
        into.put_u8(126);
        into.put_u16(len);
    } else {
        into.put_u8(127);
        into.put_u64(len as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_as_the_text_that_came() {
        for text in [
            "k3f9x2-0",
            "k3f9x2-1042",
            "a_B-18446744073709551615",
            "l-7.c0ffee",
        ] {
            assert_eq!(
                text.parse::<Cursor>().map(|c| c.to_string()),
                Ok(text.into())
            );
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        let long = format!("{}-1", "x".repeat(64));
        let cases = [
            "",
            "-",
            "k",
            "k-",
            "-5",
            "k-x",
            "k-01",
            "k-+1",
            "k--1",
            "k-1.",
            "k-1.a.b",
            "k-1-2",
            "k 1-2",
            "k-1\n",
            "k-18446744073709551616",
            "ключ-1",
            &long,
        ];
        for text in cases {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text:?}");
        }
    }

    #[test]
    fn sealing_puts_the_id_into_the_envelope_and_the_frame_around_it() {
        for filler in [1, 100, 200, 70_000] {
            let event = draft(filler).seal(&"k3f9x2-7".parse().unwrap(), Instant::now());
            let json: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
            assert_eq!(json["id"], "k3f9x2-7");
            assert_eq!(event.id(), b"k3f9x2-7");
            let mut header = BytesMut::new();
            put_frame_header(&mut header, TEXT_FRAME, event.json().len());
            assert_eq!(
                event.ws_frame()[..],
                [&header[..], event.json()].concat()[..]
            );
        }
    }

    fn draft(filler: usize) -> Draft {
        Draft {
            tenant: Tenant::none(),
            topic: Topic::parse("a:b").unwrap(),
            name: "message".into(),
            tags: Box::default(),
            ephemeral: false,
            trace: None,
            trace_id: None,
            body: format!(r#""topic":"a:b","data":"{}"}}"#, "x".repeat(filler)).into_bytes(),
        }
    }
}
