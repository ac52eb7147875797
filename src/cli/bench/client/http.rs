//! HTTP/1.1 answers, read as they come.

use reqwest::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RETRY_AFTER,
};

/// Most headers that an answer may have.
const MOST_HEADERS: usize = 64;

/// Longest line between chunks that is put up with.
const LONGEST_CHUNK_LINE: usize = 256;

/// What comes before an answer's body.
#[derive(Debug)]
pub struct Head {
    pub status: u16,
    pub framing: Framing,
    /// Those that say something about a refusal, the kind of body, or where to resume.
    pub headers: HeaderMap,
    /// Whether the connection takes another request.
    pub keeps_alive: bool,
}

/// Where a body ends.
#[derive(Debug)]
pub enum Framing {
    /// After so many bytes more.
    Length(usize),
    Chunked(Chunks),
    /// With the connection.
    ToEnd,
}

/// The state between the chunks of a body.
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    line: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// The size, as far as its digits have come.
    #[default]
    Start,
    Size(usize),
    /// What stands behind a size.
    Extension(usize),
    Data(usize),
    AfterData,
    /// Behind the last chunk, at the beginning of a line, or within it.
    Trailer,
    TrailerLine,
    Done,
}

/// What is no HTTP.
#[derive(Debug, thiserror::Error)]
#[error("the answer is not HTTP/1.1")]
pub struct Malformed;

impl Head {
    /// Reads the head at the beginning of `bytes`, with its length; `None` while it is not whole.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed),
        };
        let head = Self::of(&answer)?;
        Ok(Some((head, length)))
    }

    fn of(answer: &httparse::Response<'_, '_>) -> Result<Self, Malformed> {
        let mut head = Self {
            status: answer.code.ok_or(Malformed)?,
            framing: Framing::ToEnd,
            headers: HeaderMap::new(),
            keeps_alive: answer.version == Some(1),
        };
        for header in answer.headers.iter() {
            head.take(header)?;
        }
        if matches!(head.framing, Framing::ToEnd) {
            head.keeps_alive = false;
        }
        Ok(head)
    }

    fn take(&mut self, header: &httparse::Header<'_>) -> Result<(), Malformed> {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
        if is("transfer-encoding") && text.eq_ignore_ascii_case("chunked") {
            self.framing = Framing::Chunked(Chunks::default());
        } else if is("content-length") && !matches!(self.framing, Framing::Chunked(_)) {
            self.framing = Framing::Length(text.parse().map_err(|_| Malformed)?);
        } else if is("connection") && text.eq_ignore_ascii_case("close") {
            self.keeps_alive = false;
        }
        let kept = [CONTENT_TYPE, RETRY_AFTER, LOCATION, LAST_MODIFIED, ETAG];
        let kept = kept.into_iter().find(|name: &HeaderName| is(name.as_str()));
        if let (Some(name), Ok(value)) = (kept, HeaderValue::from_bytes(header.value)) {
            self.headers.insert(name, value);
        }
        Ok(())
    }

    pub fn is_event_stream(&self) -> bool {
        let kind = self.headers.get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with("text/event-stream"))
    }
}

impl Framing {
    /// Takes the body's bytes that begin at `from` of `bytes`, and puts them together from there on. Gives where they
    /// end, and whether the body does too.
    pub fn decode(&mut self, bytes: &mut [u8], from: usize) -> Result<(usize, bool), Malformed> {
        match self {
            Self::Length(left) => {
                let come = (bytes.len() - from).min(*left);
                *left -= come;
                Ok((from + come, *left == 0))
            }
            Self::Chunked(chunks) => chunks.decode(bytes, from),
            Self::ToEnd => Ok((bytes.len(), false)),
        }
    }
}

impl Chunks {
    fn decode(&mut self, bytes: &mut [u8], from: usize) -> Result<(usize, bool), Malformed> {
        let mut place = from;
        let mut end = from;
        while place < bytes.len() && self.state != ChunkState::Done {
            if let ChunkState::Data(left) = self.state {
                let come = left.min(bytes.len() - place);
                bytes.copy_within(place..place + come, end);
                place += come;
                end += come;
                self.state = match left - come {
                    0 => ChunkState::AfterData,
                    left => ChunkState::Data(left),
                };
            } else {
                self.take(bytes[place])?;
                place += 1;
            }
        }
        Ok((end, self.state == ChunkState::Done))
    }

    /// One byte between the chunks.
    fn take(&mut self, byte: u8) -> Result<(), Malformed> {
        use ChunkState::{AfterData, Data, Done, Extension, Size, Start, Trailer, TrailerLine};
        self.line += 1;
        if self.line > LONGEST_CHUNK_LINE {
            return Err(Malformed);
        }
        if byte == b'\n' {
            self.line = 0;
        }
        self.state = match (self.state, byte) {
            (Size(0) | Extension(0), b'\n') => Trailer,
            (Size(size) | Extension(size), b'\n') => Data(size),
            (Size(size), b'\r' | b' ' | b';') | (Extension(size), _) => Extension(size),
            (Start, digit) => Size(digit_value(digit)?),
            (Size(size), digit) => Size(
                size.checked_mul(16)
                    .and_then(|size| size.checked_add(digit_value(digit).ok()?))
                    .ok_or(Malformed)?,
            ),
            (AfterData, b'\r') => AfterData,
            (AfterData, b'\n') => Start,
            (Trailer, b'\r') => Trailer,
            (Trailer, b'\n') => Done,
            (Trailer, _) => TrailerLine,
            (TrailerLine, b'\n') => Trailer,
            (TrailerLine, _) => TrailerLine,
            (AfterData | Data(_) | Done, _) => return Err(Malformed),
        };
        Ok(())
    }
}

fn digit_value(digit: u8) -> Result<usize, Malformed> {
    let value = char::from(digit).to_digit(16).ok_or(Malformed)?;
    usize::try_from(value).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_put_together_wherever_they_are_cut() {
        let whole = b"5;x=1\r\nhello\r\n1\r\n \r\nA\r\nworld-wide\r\n0\r\nt: 1\r\n\r\n";
        for step in 1..whole.len() {
            let mut framing = Framing::Chunked(Chunks::default());
            let mut body = Vec::new();
            let mut done = false;
            for piece in whole.chunks(step) {
                let mut piece = piece.to_vec();
                let (end, is_last) = framing.decode(&mut piece, 0).unwrap();
                body.extend_from_slice(&piece[..end]);
                done = is_last;
            }
            assert_eq!((body.as_slice(), done), (&b"hello world-wide"[..], true));
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for bytes in [&b"x\r\n"[..], b"2\r\nabc", b"fffffffffffffffff\r\n"] {
            let mut framing = Framing::Chunked(Chunks::default());
            assert!(framing.decode(&mut bytes.to_vec(), 0).is_err());
        }
        let mut endless = vec![b'0'; 2 * LONGEST_CHUNK_LINE];
        assert!(Chunks::default().decode(&mut endless, 0).is_err());
    }

    #[test]
    fn a_head_tells_where_its_body_ends() {
        let head = |text: &str| Head::parse(text.as_bytes()).unwrap();
        assert!(head("HTTP/1.1 200 OK\r\nContent-Le").is_none());
        let refusal = "HTTP/1.1 429 No\r\nContent-Length: 3\r\nRetry-After: 7\r\n\r\nabc";
        let (whole, length) = head(refusal).unwrap();
        assert_eq!(&refusal[length..], "abc");
        assert_eq!((whole.status, whole.keeps_alive), (429, true));
        assert_eq!(whole.headers[RETRY_AFTER], "7");
        assert!(matches!(whole.framing, Framing::Length(3)));
        let (stream, _) = head("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert!(stream.is_event_stream());
        assert!(matches!(stream.framing, Framing::Chunked(_)));
        let (old, _) = head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(!old.keeps_alive);
        assert!(Head::parse(b"SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }
}
