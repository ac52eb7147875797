//! The event-stream format, read incrementally: bytes in any pieces, frames out.
//!
//! Our own, because the crates at hand are tied to a stream type, hide comments (our sign of life) or are unkept.

use std::time::Duration;

/// Longest line and longest frame: far above any event, so that a wrong server cannot fill the memory.
const FRAME_LIMIT: usize = 16 * 1024 * 1024;

/// What the parser saw.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    Frame(SseFrame),
    /// The server set the time to wait before a reconnect.
    Retry(Duration),
    /// A comment: nothing to read, but the connection lives.
    Comment,
}

/// One dispatched frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SseFrame {
    /// Empty where the server named none.
    pub event: String,
    pub data: String,
    /// The last event id of the stream so far; empty where there was none.
    pub id: String,
}

/// A line or frame that exceeds every bound.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    /// The last line ended with CR: a LF right after it belongs to it, even in the next chunk.
    after_cr: bool,
    /// A byte order mark may stand before the first line only.
    begun: bool,
    event: String,
    data: String,
    id: String,
}

impl SseParser {
    /// Takes the next bytes, wherever they were cut, and returns what they completed.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Seen>, TooLong> {
        let mut seen = Vec::new();
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
            let (part, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            if self.line.len() + part.len() > FRAME_LIMIT {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if let Some((terminator, rest)) = rest.split_first() {
                self.after_cr = *terminator == b'\r';
                seen.extend(self.end_line()?);
                bytes = rest;
            } else {
                bytes = rest;
            }
        }
        Ok(seen)
    }

    fn end_line(&mut self) -> Result<Option<Seen>, TooLong> {
        let line = std::mem::take(&mut self.line);
        let mut line = String::from_utf8_lossy(&line);
        if !std::mem::replace(&mut self.begun, true) && line.starts_with('\u{feff}') {
            line = line['\u{feff}'.len_utf8()..].to_owned().into();
        }
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value))
    }

    fn field(&mut self, field: &str, value: &str) -> Result<Option<Seen>, TooLong> {
        match field {
            "" => return Ok(Some(Seen::Comment)),
            "event" => value.clone_into(&mut self.event),
            "data" if self.data.len() + value.len() > FRAME_LIMIT => return Err(TooLong),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                return Ok(value
                    .parse()
                    .ok()
                    .map(Duration::from_millis)
                    .map(Seen::Retry));
            }
            _ => {}
        }
        Ok(None)
    }

    /// A blank line: the frame is whole. One without data is dropped, but its id counts.
    fn dispatch(&mut self) -> Option<Seen> {
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return None;
        }
        data.pop();
        Some(Seen::Frame(SseFrame {
            event,
            data,
            id: self.id.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "\u{feff}retry: 1500\n: hello\n\nevent: connected\nid: k-1\ndata: {\"type\":\"connected\"}\n\n\
                          id:k-2\ndata:{\"ä\":1}\n\ndata: one\ndata\ndata:  two\n\nunknown: x\nid\nretry: soon\ndata: x\n\n";

    fn frame(event: &str, data: &str, id: &str) -> Seen {
        Seen::Frame(SseFrame {
            event: event.into(),
            data: data.into(),
            id: id.into(),
        })
    }

    fn expected() -> Vec<Seen> {
        vec![
            Seen::Retry(Duration::from_millis(1500)),
            Seen::Comment,
            frame("connected", r#"{"type":"connected"}"#, "k-1"),
            frame("", r#"{"ä":1}"#, "k-2"),
            frame("", "one\n\n two", "k-2"),
            frame("", "x", ""),
        ]
    }

    #[test]
    fn every_line_ending_and_every_cut_gives_the_same_frames() {
        for ending in ["\n", "\r", "\r\n"] {
            let stream = STREAM.replace('\n', ending);
            for size in 1..=stream.len() {
                let mut parser = SseParser::default();
                let pieces = stream.as_bytes().chunks(size);
                let seen: Vec<_> = pieces
                    .flat_map(|piece| parser.push(piece).unwrap())
                    .collect();
                assert_eq!(seen, expected(), "ending {ending:?}, pieces of {size}");
            }
        }
    }

    #[test]
    fn a_frame_that_was_cut_off_by_the_end_is_not_dispatched() {
        let mut parser = SseParser::default();
        assert_eq!(
            parser.push(b"data: whole\n\ndata: cut\n").unwrap(),
            [frame("", "whole", "")]
        );
    }

    #[test]
    fn an_id_with_nul_is_ignored_and_an_id_without_data_is_kept() {
        let mut parser = SseParser::default();
        let seen = parser.push(b"id: a\n\nid: b\0c\ndata: 1\n\n").unwrap();
        assert_eq!(seen, [frame("", "1", "a")]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; FRAME_LIMIT];
        assert_eq!(parser.push(&piece), Ok(vec![]));
        assert_eq!(parser.push(b"x"), Err(TooLong));
    }
}
