//! One client's wire: what is asked, and what is made of the answer.

use std::time::Duration;

use serde::Deserialize;

use super::http::{Head, Malformed};
use super::{poll, sse, ws};
use crate::cli::bench::dialect::Peer;
use crate::cli::bench::plan::Transport;
use crate::cli::bench::target::Target;
use crate::cli::failure::{Failure, Refusal};

/// Longest body of a refusal that is waited for.
const REFUSAL_LIMIT: usize = 16 * 1024;

/// What was read off the wire.
#[derive(Debug)]
pub enum Item<'a> {
    /// The subscription is in effect: nothing from here on is missed.
    Live,
    /// Bytes that hold the `data` of an event, or of several.
    Events(&'a [u8]),
    /// Where to resume, now that all before it was read.
    Cursor(&'a [u8]),
    Reset,
    /// To be sent back as it is.
    Reply(Vec<u8>),
    /// The answer is complete, and the next request due.
    Again,
    /// The end of the connection.
    Ended(Failure),
}

/// The bytes of the buffer that are to be there again, in front of what is read next.
pub type Kept = std::ops::Range<usize>;

/// A connection's protocol, with its state.
#[derive(Debug)]
pub enum Link {
    Ws(ws::WebSocket),
    Sse(sse::Stream),
    Poll(poll::Poll),
}

impl Link {
    pub fn new(transport: Transport, peer: Option<Peer>) -> Self {
        match transport {
            Transport::Ws => Self::Ws(ws::WebSocket::new(peer)),
            Transport::Sse => Self::Sse(sse::Stream::new(peer)),
            Transport::Poll => Self::Poll(poll::Poll::new(peer)),
        }
    }

    /// The request that subscribes, at this path and query.
    pub fn request(&self, target: &Target, path: &str) -> Vec<u8> {
        match self {
            Self::Ws(link) => link.request(target, path),
            Self::Sse(_) => target.get(path, "Accept: text/event-stream\r\n"),
            Self::Poll(_) => target.get(path, ""),
        }
    }

    /// Whether the request alone makes the client miss nothing more, and its answer may take long.
    pub fn is_live_when_asked(&self, has_cursor: bool) -> bool {
        matches!(self, Self::Poll(poll) if has_cursor || poll.waits_at_once())
    }

    /// Reads what is in `buffer`, of which the bytes from `fresh` on were not there the last time, and tells `sink`.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        fresh: usize,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Kept {
        let read = match self {
            Self::Ws(link) => link.read(buffer, sink),
            Self::Sse(link) => link.read(buffer, fresh, sink),
            Self::Poll(link) => link.read(buffer, fresh, sink),
        };
        read.unwrap_or_else(|failure| {
            sink(Item::Ended(failure));
            0..0
        })
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Broken(malformed.to_string())
    }
}

/// The refusal in an answer whose head has been read and whose body begins at `from`; `None` while it is not whole.
pub fn refusal(
    head: &mut Head,
    buffer: &mut [u8],
    from: usize,
) -> Result<Option<Failure>, Failure> {
    let come = buffer.len() - from;
    let (end, is_whole) = match &head.framing {
        // All of it is looked at again each time, so the state must not move.
        super::http::Framing::Length(length) => (from + come.min(*length), come >= *length),
        super::http::Framing::Chunked(_) => {
            let mut chunks = super::http::Framing::Chunked(super::http::Chunks::default());
            let mut copy = buffer[from..].to_vec();
            let (end, is_whole) = chunks.decode(&mut copy, 0)?;
            if is_whole {
                buffer[from..from + end].copy_from_slice(&copy[..end]);
            }
            (from + end, is_whole)
        }
        super::http::Framing::ToEnd => (buffer.len(), true),
    };
    let told = is_whole || come > REFUSAL_LIMIT;
    let body = &buffer[from..end];
    Ok(told.then(|| Failure::Refused(Refusal::of_http(head.status, &head.headers, body))))
}

/// What the gateway says besides events, on any transport.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Control {
    r#type: String,
    cursor: Option<String>,
    code: Option<serde_json::Value>,
    message: Option<String>,
    retry_after_ms: Option<u64>,
    reconnect_after_ms: Option<u64>,
}

/// Reads one JSON object as the gateway writes them.
pub fn read_frame(json: &[u8], sink: &mut impl FnMut(Item<'_>)) {
    if json.starts_with(br#"{"type":"event""#) {
        sink(Item::Events(json));
        if let Some(cursor) = id_of_event(json) {
            sink(Item::Cursor(cursor));
        }
        return;
    }
    match serde_json::from_slice(json) {
        Ok(control) => read_control(&control, sink),
        Err(_) => sink(Item::Ended(Failure::Broken(
            "a frame came that is not of the protocol".to_owned(),
        ))),
    }
}

fn read_control(control: &Control, sink: &mut impl FnMut(Item<'_>)) {
    match control.r#type.as_str() {
        "reset" => sink(Item::Reset),
        "closing" | "error" => return sink(Item::Ended(Failure::Refused(refused(control)))),
        _ => {}
    }
    if let Some(cursor) = &control.cursor {
        sink(Item::Cursor(cursor.as_bytes()));
    }
    if control.r#type == "connected" {
        sink(Item::Live);
    }
}

fn refused(control: &Control) -> Refusal {
    let milliseconds = control.retry_after_ms.or(control.reconnect_after_ms);
    let (status, code) = match &control.code {
        Some(serde_json::Value::String(code)) => (None, code.clone()),
        Some(serde_json::Value::Number(close)) => {
            let close = close.as_u64().and_then(|close| u16::try_from(close).ok());
            let of_close = close.map(|close| Refusal::of_close(close, "").code);
            (close, of_close.unwrap_or_default())
        }
        _ => (None, control.r#type.clone()),
    };
    Refusal {
        status,
        code,
        message: control.message.clone().unwrap_or_default(),
        retry_after: milliseconds.map(Duration::from_millis),
    }
}

/// The envelope begins with its type and its id.
fn id_of_event(json: &[u8]) -> Option<&[u8]> {
    const BEFORE: &[u8] = br#"{"type":"event","id":""#;
    let id = json.strip_prefix(BEFORE)?;
    Some(&id[..memchr::memchr(b'"', id)?])
}
