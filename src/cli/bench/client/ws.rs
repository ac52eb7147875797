//! WebSocket (RFC 6455), as much of it as a client needs that reads.

use super::http::Head;
use super::link::{Item, Kept, read_frame, refusal};
use crate::cli::bench::dialect::Peer;
use crate::cli::bench::target::Target;
use crate::cli::failure::{Failure, Refusal};

/// Any 16 bytes in base64 are good; the answer to them is not a secret.
const KEY: &str = "dHJpYnVzLWJlbmNoLXJ1bg==";

/// A longer message is none of the gateway's.
const LONGEST_FRAME: u64 = 4 << 20;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

#[derive(Debug, Default)]
pub struct WebSocket {
    peer: Option<Peer>,
    is_open: bool,
    /// What has come of a message in several frames.
    fragments: Vec<u8>,
}

/// A frame within the buffer.
struct Frame {
    is_last: bool,
    opcode: u8,
    start: usize,
    end: usize,
}

impl WebSocket {
    pub fn new(peer: Option<Peer>) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }

    pub fn request(&self, target: &Target, path: &str) -> Vec<u8> {
        let subprotocol = match self.peer {
            None => "Sec-WebSocket-Protocol: tribus.json.v1\r\n",
            // With the id of each message in front of it.
            Some(Peer::Nchan) => "Sec-WebSocket-Protocol: ws+meta.nchan\r\n",
            Some(Peer::Ws | Peer::SocketIo) => "",
        };
        let headers = format!(
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {KEY}\r\n{subprotocol}"
        );
        target.get(path, &headers)
    }

    pub fn read(
        &mut self,
        buffer: &mut [u8],
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<Kept, Failure> {
        let mut place = 0;
        if !self.is_open {
            let Some((mut head, length)) = Head::parse(buffer)? else {
                return Ok(0..buffer.len());
            };
            if head.status != 101 {
                let refused = refusal(&mut head, buffer, length)?;
                return refused.map_or(Ok(0..buffer.len()), Err);
            }
            self.is_open = true;
            place = length;
            if matches!(self.peer, Some(Peer::Nchan | Peer::Ws)) {
                sink(Item::Live);
            }
        }
        while let Some(frame) = Frame::parse(buffer, place)? {
            place = frame.end;
            self.take(&frame, &buffer[frame.start..frame.end], sink)?;
        }
        Ok(place..buffer.len())
    }

    fn take(
        &mut self,
        frame: &Frame,
        payload: &[u8],
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<(), Failure> {
        match frame.opcode {
            TEXT if frame.is_last => self.read_text(payload, sink),
            TEXT | CONTINUATION => {
                self.fragments.extend_from_slice(payload);
                if self.fragments.len() as u64 > LONGEST_FRAME {
                    return Err(too_long());
                }
                if frame.is_last {
                    let message = std::mem::take(&mut self.fragments);
                    self.read_text(&message, sink);
                }
            }
            PING => sink(Item::Reply(masked(PONG, payload))),
            PONG => {}
            CLOSE => return Err(closed(payload)),
            _ => {
                return Err(Failure::Broken(
                    "a frame came that was not agreed on".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

impl WebSocket {
    fn read_text(&self, text: &[u8], sink: &mut impl FnMut(Item<'_>)) {
        match self.peer {
            None => read_frame(text, sink),
            Some(Peer::Ws) => sink(Item::Events(text)),
            Some(Peer::Nchan) => read_with_meta(text, sink),
            Some(Peer::SocketIo) => read_packet(text, sink),
        }
    }
}

/// Of Nchan: lines such as `id: 1767225600:0`, an empty one, and the message.
fn read_with_meta(text: &[u8], sink: &mut impl FnMut(Item<'_>)) {
    sink(Item::Events(text));
    if let Some(id) = text.strip_prefix(b"id: ") {
        let end = memchr::memchr(b'\n', id).unwrap_or(id.len());
        sink(Item::Cursor(&id[..end]));
    }
}

/// Of Engine.IO 4 and Socket.IO: a digit for the packet's kind, of a message another one for its own.
fn read_packet(packet: &[u8], sink: &mut impl FnMut(Item<'_>)) {
    match packet {
        [b'0', ..] => sink(Item::Reply(masked(TEXT, b"40"))),
        [b'2', ..] => sink(Item::Reply(masked(TEXT, b"3"))),
        [b'4', b'0', ..] => sink(Item::Live),
        [b'4', b'2', ..] => sink(Item::Events(packet)),
        [b'1', ..] | [b'4', b'1' | b'4', ..] => sink(Item::Ended(Failure::Broken(
            "the server ended the session".to_owned(),
        ))),
        _ => {}
    }
}

impl Frame {
    /// The frame that begins at `place`; `None` while it is not whole.
    fn parse(buffer: &[u8], place: usize) -> Result<Option<Self>, Failure> {
        let bytes = &buffer[place..];
        let [first, second, ..] = *bytes else {
            return Ok(None);
        };
        let (header, length) = match second & 0x7f {
            126 => match bytes.get(2..4) {
                Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
                _ => return Ok(None),
            },
            127 => match bytes.get(2..10).map(<[u8; 8]>::try_from) {
                Some(Ok(length)) => (10, u64::from_be_bytes(length)),
                _ => return Ok(None),
            },
            length => (2, u64::from(length)),
        };
        if length > LONGEST_FRAME {
            return Err(too_long());
        }
        if second & 0x80 != 0 {
            return Err(Failure::Broken(
                "a masked frame came, which servers do not send".to_owned(),
            ));
        }
        let start = place + header;
        // Below the limit, which fits.
        let end = start + length as usize;
        let frame = Self {
            is_last: first & 0x80 != 0,
            opcode: first & 0x0f,
            start,
            end,
        };
        Ok((end <= buffer.len()).then_some(frame))
    }
}

fn too_long() -> Failure {
    Failure::Broken("a message is longer than any event".to_owned())
}

fn closed(payload: &[u8]) -> Failure {
    match payload {
        [a, b, reason @ ..] => Failure::Refused(Refusal::of_close(
            u16::from_be_bytes([*a, *b]),
            &String::from_utf8_lossy(reason),
        )),
        _ => Failure::Broken("the connection was closed".to_owned()),
    }
}

/// A short frame as clients send it: its payload has at most 125 bytes.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(125)];
    let mask = fastrand::u32(..).to_be_bytes();
    // At most 125.
    let mut frame = vec![0x80 | opcode, 0x80 | payload.len() as u8];
    frame.extend_from_slice(&mask);
    let bytes = payload.iter().zip(mask.iter().cycle());
    frame.extend(bytes.map(|(byte, mask)| byte ^ mask));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// What is read off `wire`, which comes in pieces of `step` bytes.
    fn read(wire: &[u8], step: usize) -> Vec<String> {
        let mut link = WebSocket::default();
        let mut kept = Vec::new();
        let mut items = Vec::new();
        for piece in wire.chunks(step) {
            kept.extend_from_slice(piece);
            let range = match link.read(&mut kept, &mut |item| items.push(shown(&item))) {
                Ok(range) => range,
                Err(failure) => {
                    items.push(failure.to_string());
                    return items;
                }
            };
            kept = kept[range].to_vec();
        }
        items
    }

    fn shown(item: &Item<'_>) -> String {
        match item {
            Item::Events(bytes) => format!("events {}", bytes.len()),
            Item::Cursor(cursor) => format!("cursor {}", String::from_utf8_lossy(cursor)),
            Item::Reply(reply) => format!("reply {}", reply.len()),
            Item::Ended(failure) => format!("ended {failure}"),
            other => format!("{other:?}"),
        }
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap();
        let mut frame = vec![first];
        match u8::try_from(length) {
            Ok(short) if short < 126 => frame.push(short),
            _ => {
                frame.push(126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_read_wherever_they_are_cut() {
        let long = format!(
            r#"{{"type":"event","id":"a-2","data":"{}"}}"#,
            "x".repeat(300)
        );
        let wire = [
            HEAD,
            &frame(0x81, br#"{"type":"connected","cursor":"a-1"}"#),
            &frame(0x81, long.as_bytes()),
            &frame(0x89, b"ping"),
            &frame(0x01, br#"{"type":"heart"#),
            &frame(0x80, br#"beat","cursor":"a-3"}"#),
            &frame(0x81, br#"{"type":"reset","cursor":"a-9"}"#),
            &frame(0x88, b"\x03\xf4restart"),
        ]
        .concat();
        let expected = [
            "cursor a-1",
            "Live",
            &format!("events {}", long.len()),
            "cursor a-2",
            "reply 10",
            "cursor a-3",
            "Reset",
            "cursor a-9",
            "restarting: restart (close 1012)",
        ];
        for step in [1, 2, 3, 7, 50, wire.len()] {
            assert_eq!(read(&wire, step), expected, "in pieces of {step}");
        }
    }

    #[test]
    fn frames_of_peers_are_read() {
        let read = |peer, wire: &[&[u8]]| {
            let mut link = WebSocket::new(Some(peer));
            let mut items = Vec::new();
            let read = link.read(&mut wire.concat(), &mut |item| items.push(shown(&item)));
            read.expect("good frames");
            items
        };
        let nchan = read(Peer::Nchan, &[HEAD, &frame(0x81, b"id: 17:0\n\n@x")]);
        assert_eq!(nchan, ["Live", "events 12", "cursor 17:0"]);
        let session = [
            HEAD,
            &frame(0x81, b"0{\"sid\":\"a\"}"),
            &frame(0x81, b"40{\"sid\":\"b\"}"),
            &frame(0x81, b"2"),
            &frame(0x81, b"42[\"event\",\"@x\"]"),
        ];
        assert_eq!(
            read(Peer::SocketIo, &session),
            ["reply 8", "Live", "reply 7", "events 16"]
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_gateways_words() {
        let body = r#"{"type":"error","code":"forbidden","message":"no"}"#;
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(read(answer.as_bytes(), 5), ["forbidden: no (HTTP 403)"]);
        let error = [
            HEAD,
            &frame(
                0x81,
                br#"{"type":"error","code":"rate_limited","message":"slow down","retryAfterMs":5}"#,
            ),
        ]
        .concat();
        assert_eq!(read(&error, 9), ["ended rate_limited: slow down"]);
    }
}
