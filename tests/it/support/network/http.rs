//! As much of HTTP/1.1 (RFC 9112) as it takes to see where messages begin and end.

use bytes::{Bytes, BytesMut};

use super::Kind;

/// The start line and the headers of a request or a response.
pub struct Head(String);

impl Head {
    /// Takes it from the buffer once it is complete.
    pub fn take(buffer: &mut BytesMut) -> Option<Self> {
        let length = end_of(buffer, b"\r\n\r\n")?;
        let bytes = buffer.split_to(length).to_vec();
        Some(Self(String::from_utf8(bytes).expect("a head of UTF-8")))
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn method(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
    }

    pub fn status(&self) -> u16 {
        let status = self.0.split(' ').nth(1).and_then(|code| code.parse().ok());
        status.expect("a status")
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn is_upgrade(&self) -> bool {
        self.header("upgrade")
            .is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"))
    }

    pub fn is_stream(&self) -> bool {
        self.header("content-type")
            .is_some_and(|kind| kind.starts_with("text/event-stream"))
    }

    pub fn kind(&self) -> Kind {
        if self.is_upgrade() {
            return Kind::WebSocket;
        }
        let target = self.0.split(' ').nth(1).unwrap_or_default();
        match target.split('?').next() {
            Some("/events") => Kind::Stream,
            Some("/poll") => Kind::Poll,
            Some("/publish") => Kind::Publish,
            _ => Kind::Other,
        }
    }

    /// Announces an empty body, whatever there was.
    pub fn emptied(&self) -> Self {
        let framing = |line: &str| {
            let name = line.split(':').next().unwrap_or_default();
            name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
        };
        let lines = self.0.trim_end().lines().filter(|line| !framing(line));
        let kept: String = lines.flat_map(|line| [line, "\r\n"]).collect();
        Self(format!("{kept}Content-Length: 0\r\n\r\n"))
    }
}

/// Where a body ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    /// So much is left of this chunk, its line break included.
    Chunk(u64),
    ChunkSize,
    /// The lines after the last chunk.
    Trailers,
    ToTheEnd,
}

const NONE: Body = Body::Length(0);

impl Body {
    pub fn of_request(head: &Head) -> Self {
        Self::announced(head).unwrap_or(NONE)
    }

    pub fn of_response(head: &Head, request: &Head) -> Self {
        if request.method() == "HEAD" || matches!(head.status(), 100..200 | 204 | 304) {
            return NONE;
        }
        Self::announced(head).unwrap_or(Self::ToTheEnd)
    }

    fn announced(head: &Head) -> Option<Self> {
        if head.header("transfer-encoding").is_some() {
            return Some(Self::ChunkSize);
        }
        let length = head.header("content-length")?;
        Some(Self::Length(length.parse().expect("a length")))
    }

    pub fn is_over(&self) -> bool {
        *self == NONE
    }

    /// What of the buffer belongs to this body, its framing included.
    pub fn take(&mut self, buffer: &mut BytesMut) -> Bytes {
        let mut taken = 0;
        while let Some(length) = self.part(&buffer[taken..]) {
            taken += length;
        }
        buffer.split_to(taken).freeze()
    }

    /// The length of the next part, where there is one.
    fn part(&mut self, bytes: &[u8]) -> Option<usize> {
        let available = bytes.len();
        if available == 0 {
            return None;
        }
        match self {
            Self::ToTheEnd => Some(available),
            Self::Length(0) => None,
            Self::Length(left) => Some(spend(left, available)),
            Self::Chunk(left) => {
                let length = spend(left, available);
                if *left == 0 {
                    *self = Self::ChunkSize;
                }
                Some(length)
            }
            Self::ChunkSize => {
                let length = end_of(bytes, b"\r\n")?;
                let line = str::from_utf8(&bytes[..length]).expect("a chunk's size");
                let digits = line.split([';', '\r']).next().unwrap_or_default();
                let size = u64::from_str_radix(digits.trim(), 16).expect("a chunk's size");
                *self = match size {
                    0 => Self::Trailers,
                    size => Self::Chunk(size + 2),
                };
                Some(length)
            }
            Self::Trailers => {
                let length = end_of(bytes, b"\r\n")?;
                if length == 2 {
                    *self = NONE;
                }
                Some(length)
            }
        }
    }
}

fn spend(left: &mut u64, available: usize) -> usize {
    let length = (*left).min(available as u64);
    *left -= length;
    length as usize
}

fn end_of(bytes: &[u8], end: &[u8]) -> Option<usize> {
    let at = bytes.windows(end.len()).position(|part| part == end)?;
    Some(at + end.len())
}
