//! Judges WebSocket frames in front of the decoder, by what only whoever sees the bytes first can
//! know.
//!
//! `actix_ws` decodes all that it can get before it gives out the first message, drops what it has
//! where an error follows, and looks at a frame only once all of it has come. So this stream, which
//! stands between socket and decoder and follows the frame headers (RFC 6455, section 5.2),
//!
//! - refuses a frame that announces too much before anything of it is buffered;
//! - refuses text that is not UTF-8 as soon as it is known, not when the message ends (section 8.1);
//! - refuses a Close whose reason is not UTF-8, for which the decoder has no error of its own;
//! - hands on one frame at a time, so that every message before a violation has its effect however
//!   TCP has cut the stream.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_web::{error::PayloadError, web};
use bytes::Bytes;
use tokio_stream::Stream;

use crate::protocol::CloseReason;

/// What the guard tells whoever polls the decoder behind it.
#[derive(Debug, Default)]
pub struct Gate(Cell<GateState>);

#[derive(Clone, Copy, Debug, Default)]
enum GateState {
    #[default]
    Open,
    /// The decoder has a whole frame, and will be told that there is nothing more.
    FrameEnded,
    /// It was told so. There may be more: only who asks again finds out.
    Paused,
    Refused(CloseReason),
}

impl Gate {
    /// Whether a pending decoder has only come to the end of a frame, and is to be polled again.
    pub fn is_paused(&self) -> bool {
        matches!(self.0.get(), GateState::Paused)
    }

    /// Why the guard has ended the stream, where it did.
    pub fn refused(&self) -> Option<CloseReason> {
        match self.0.get() {
            GateState::Refused(reason) => Some(reason),
            GateState::Open | GateState::FrameEnded | GateState::Paused => None,
        }
    }
}

pub struct FrameGuard {
    payload: web::Payload,
    /// What has come behind the frame that the decoder works on.
    rest: Bytes,
    scanner: FrameScanner,
    gate: Rc<Gate>,
}

impl FrameGuard {
    /// `max_frame_bytes` bounds the payload of a frame.
    pub fn new(payload: web::Payload, max_frame_bytes: usize, gate: Rc<Gate>) -> Self {
        Self {
            payload,
            rest: Bytes::new(),
            scanner: FrameScanner::new(max_frame_bytes as u64),
            gate,
        }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        if self.rest.is_empty() {
            Pin::new(&mut self.payload).poll_next(cx)
        } else {
            Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))))
        }
    }
}

impl Stream for FrameGuard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match this.gate.0.get() {
            GateState::Refused(_) => return Poll::Ready(None),
            GateState::FrameEnded => {
                this.gate.0.set(GateState::Paused);
                return Poll::Pending;
            }
            GateState::Open | GateState::Paused => this.gate.0.set(GateState::Open),
        }
        let mut chunk = match ready!(this.poll_chunk(cx)) {
            Some(Ok(chunk)) => chunk,
            end => return Poll::Ready(end),
        };
        match this.scanner.scan(&chunk) {
            Scanned::Inside => {}
            Scanned::FrameEnds(at) => {
                this.rest = chunk.split_off(at);
                this.gate.0.set(GateState::FrameEnded);
            }
            Scanned::Refused(reason) => {
                this.gate.0.set(GateState::Refused(reason));
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scanned {
    /// The chunk ends inside a frame.
    Inside,
    /// A frame ends at this index; nothing behind it was looked at.
    FrameEnds(usize),
    Refused(CloseReason),
}

/// What a fragment of a message has to have on average: each is kept in a buffer of its own until
/// the message ends, which costs more than a fragment of a few bytes itself.
const LEAST_FRAGMENT_BYTES: u64 = 64;
/// Fragments of a message that may be smaller.
const SMALL_FRAGMENTS: u64 = 64;

/// Follows frames through a stream that is cut anywhere.
struct FrameScanner {
    max_frame_bytes: u64,
    /// Continuations of the message under way.
    fragments: u64,
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    /// Bytes of the current frame's payload, and those of them still to come.
    payload_len: u64,
    payload_left: u64,
    /// The message under way is text, of which more frames are to come.
    in_text: bool,
    utf8: Utf8,
}

/// Two bytes, a length of up to eight, and the mask.
const MAX_HEADER_BYTES: usize = 14;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

impl FrameScanner {
    fn new(max_frame_bytes: u64) -> Self {
        Self {
            max_frame_bytes,
            fragments: 0,
            header: [0; MAX_HEADER_BYTES],
            header_len: 0,
            payload_len: 0,
            payload_left: 0,
            in_text: false,
            utf8: Utf8::default(),
        }
    }

    /// Looks at what of a chunk belongs to the current frame.
    fn scan(&mut self, chunk: &[u8]) -> Scanned {
        let start = if self.payload_left > 0 {
            0
        } else {
            match self.read_header(chunk) {
                Ok(Some(start)) => start,
                Ok(None) => return Scanned::Inside,
                Err(reason) => return Scanned::Refused(reason),
            }
        };
        let piece = self.payload_left.min((chunk.len() - start) as u64) as usize;
        let end = start + piece;
        if !self.judge(&chunk[start..end]) {
            return Scanned::Refused(CloseReason::BadUtf8);
        }
        self.payload_left -= piece as u64;
        if self.payload_left > 0 {
            return Scanned::Inside;
        }
        self.header_len = 0;
        Scanned::FrameEnds(end)
    }

    /// Reads on in a header; the index behind it, where it ends in this chunk.
    fn read_header(&mut self, chunk: &[u8]) -> Result<Option<usize>, CloseReason> {
        for (at, byte) in chunk.iter().enumerate() {
            self.header[self.header_len] = *byte;
            self.header_len += 1;
            let Some((len_end, payload_len)) = self.announced() else {
                continue;
            };
            if payload_len > self.max_frame_bytes {
                return Err(CloseReason::TooLarge);
            }
            if self.header_len == len_end + self.mask_len() {
                self.count_fragment()?;
                self.begin(payload_len);
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }

    /// Where the length ends in the header, and the payload's length, once it is there.
    fn announced(&self) -> Option<(usize, u64)> {
        let header = &self.header[..self.header_len];
        let extended_len = match header.get(1)? & 0x7f {
            126 => 2,
            127 => 8,
            short => return Some((2, u64::from(short))),
        };
        let extended = header.get(2..2 + extended_len)?;
        let len = extended
            .iter()
            .fold(0_u64, |len, byte| len << 8 | u64::from(*byte));
        Some((2 + extended_len, len))
    }

    fn mask_len(&self) -> usize {
        if self.header[1] & 0x80 == 0 { 0 } else { 4 }
    }

    /// The mask; zeros where there is none, which the decoder refuses.
    fn mask(&self) -> [u8; 4] {
        let mut mask = [0; 4];
        let len = self.mask_len();
        mask[..len].copy_from_slice(&self.header[self.header_len - len..self.header_len]);
        mask
    }

    /// A message may be sent in fragments, but not in crumbs.
    fn count_fragment(&mut self) -> Result<(), CloseReason> {
        match self.opcode() {
            TEXT | BINARY => self.fragments = 0,
            CONTINUATION => self.fragments += 1,
            _ => {}
        }
        let most = SMALL_FRAGMENTS + self.max_frame_bytes / LEAST_FRAGMENT_BYTES;
        if self.fragments > most {
            return Err(CloseReason::TooLarge);
        }
        Ok(())
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x0f
    }

    fn is_final(&self) -> bool {
        self.header[0] & 0x80 != 0
    }

    fn begin(&mut self, payload_len: u64) {
        self.payload_len = payload_len;
        self.payload_left = payload_len;
        match self.opcode() {
            TEXT => {
                self.in_text = true;
                self.utf8 = Utf8::default();
            }
            BINARY => self.in_text = false,
            CLOSE => self.utf8 = Utf8::default(),
            _ => {}
        }
    }

    /// Whether a piece of the current frame's payload, with what came before it, may be UTF-8
    /// where it has to be.
    fn judge(&mut self, piece: &[u8]) -> bool {
        let ends_frame = self.payload_left == piece.len() as u64;
        let offset = (self.payload_len - self.payload_left) as usize;
        match self.opcode() {
            // The decoder judges a message that ends here, and most come in one piece.
            TEXT | CONTINUATION if self.is_final() && ends_frame => {
                self.in_text = false;
                true
            }
            TEXT | CONTINUATION if self.in_text => self.utf8.admits(piece, self.mask(), offset),
            CLOSE => {
                let reason_at = CLOSE_CODE_BYTES.saturating_sub(offset).min(piece.len());
                let reason = &piece[reason_at..];
                self.utf8.admits(reason, self.mask(), offset + reason_at)
                    && !(ends_frame && self.utf8.is_incomplete())
            }
            _ => true,
        }
    }
}

const CLOSE_CODE_BYTES: usize = 2;

/// Follows UTF-8 through pieces that may end inside a character.
#[derive(Default)]
struct Utf8 {
    /// The first bytes of a character that is not complete yet.
    begun: [u8; 3],
    begun_len: usize,
}

impl Utf8 {
    /// How much is unmasked at a time, on the stack.
    const BLOCK_BYTES: usize = 512;

    /// Takes masked bytes whose first is `offset` bytes into the payload; whether what has come
    /// is UTF-8, but for a last character that may still become complete.
    fn admits(&mut self, piece: &[u8], mask: [u8; 4], offset: usize) -> bool {
        let mut block = [0; Self::BLOCK_BYTES];
        let mut offset = offset;
        for part in piece.chunks(Self::BLOCK_BYTES - self.begun.len()) {
            let len = self.begun_len + part.len();
            block[..self.begun_len].copy_from_slice(&self.begun[..self.begun_len]);
            for (into, byte) in block[self.begun_len..].iter_mut().zip(part) {
                *into = byte ^ mask[offset % 4];
                offset += 1;
            }
            if !self.take(&block[..len]) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        self.begun_len = 0;
        let Err(error) = std::str::from_utf8(bytes) else {
            return true;
        };
        let begun = &bytes[error.valid_up_to()..];
        if error.error_len().is_none() {
            self.begun_len = begun.len();
            self.begun[..begun.len()].copy_from_slice(begun);
        }
        error.error_len().is_none()
    }

    fn is_incomplete(&self) -> bool {
        self.begun_len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN: u8 = 0x80;
    const PING: u8 = 9;
    const MASK: [u8; 4] = [0x11, 0x92, 0x73, 0xf4];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | len as u8),
            len @ 126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(0x80 | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(MASK);
        let masked = payload.iter().zip(MASK.iter().cycle());
        bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Cuts a stream into chunks of `cut` bytes: the indices at which frames end, up to where one
    /// is refused, with the index up to which it had come by then.
    fn scan(stream: &[u8], cut: usize) -> (Vec<usize>, Option<(usize, CloseReason)>) {
        let mut scanner = FrameScanner::new(65_536);
        let mut ends = Vec::new();
        for (index, chunk) in stream.chunks(cut).enumerate() {
            let mut at = 0;
            while at < chunk.len() {
                match scanner.scan(&chunk[at..]) {
                    Scanned::Inside => at = chunk.len(),
                    Scanned::FrameEnds(end) => {
                        at += end;
                        ends.push(index * cut + at);
                    }
                    Scanned::Refused(reason) => {
                        return (ends, Some((index * cut + chunk.len(), reason)));
                    }
                }
            }
        }
        (ends, None)
    }

    #[test]
    fn frames_that_fit_pass_one_by_one_however_the_stream_is_cut() {
        let frames = [0, 1, 125, 126, 300, 65_535, 65_536, 7];
        let frames = frames.map(|len| frame(FIN | TEXT, &vec![b'x'; len]));
        let mut ends = Vec::new();
        for frame in &frames {
            ends.push(ends.last().unwrap_or(&0) + frame.len());
        }
        let stream = frames.concat();
        for cut in [1, 2, 3, 5, 7, 1000, stream.len()] {
            assert_eq!(scan(&stream, cut), (ends.clone(), None), "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_found_by_its_length() {
        let before = frame(FIN | BINARY, &[0xff; 10]);
        let head = [0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0];
        let stream = [&before[..], &head].concat();
        for cut in 1..=stream.len() {
            let refused = (stream.len(), CloseReason::TooLarge);
            assert_eq!(scan(&stream, cut), (vec![before.len()], Some(refused)));
        }
    }

    #[test]
    fn text_is_refused_at_the_first_byte_that_no_utf_8_has_there() {
        let pad = "é".repeat(700);
        for (good, bad) in [
            (&b"a"[..], 0xff_u8),
            (b"\xce\xba\xf4", 0x90),
            (b"\xed", 0xa0),
            (b"\xe0", 0x80),
            (b"\xf0\x90\x80", b'a'),
            (b"", 0x80),
        ] {
            let text = [pad.as_bytes(), good, &[bad], pad.as_bytes()].concat();
            let bad_at = pad.len() + good.len();
            for split in [1, 700, 701, bad_at - 1, bad_at, bad_at + 1] {
                let stream = [
                    frame(TEXT, &text[..split]),
                    frame(FIN | PING, b"\xff"),
                    frame(FIN | CONTINUATION, &text[split..]),
                ]
                .concat();
                let (_, refused) = scan(&stream, 1);
                let seen = refused.expect("refused").0;
                assert!(seen < stream.len(), "before the message ended");
                let last = stream[seen - 1];
                let offset = if split <= bad_at {
                    bad_at - split
                } else {
                    bad_at
                };
                assert_eq!(last ^ MASK[offset % 4], bad, "{good:x?} split at {split}");
            }
        }
    }

    #[test]
    fn good_text_passes_wherever_it_is_cut_into_frames_and_chunks() {
        let text = "κόσμε \u{10ffff}\u{fffd}\u{0}é".repeat(40);
        let text = text.as_bytes();
        for split in 0..text.len() {
            let stream = [
                frame(TEXT, &text[..split]),
                frame(CONTINUATION, b""),
                frame(FIN | PING, b"\xff\xfe"),
                frame(CONTINUATION, &text[split..]),
                frame(FIN | CONTINUATION, b""),
                frame(BINARY, b"\xff"),
                frame(FIN | CONTINUATION, b"\xff"),
            ]
            .concat();
            for cut in [1, 64, stream.len()] {
                assert_eq!(scan(&stream, cut).1, None, "{split}, {cut}");
            }
        }
    }

    #[test]
    fn a_close_has_to_have_a_reason_of_whole_characters() {
        for (payload, good) in [
            (&b""[..], true),
            (b"\x03\xe8", true),
            (b"\x03\xe8bye \xc3\xa9", true),
            (b"\x03\xe8\xc3", false),
            (b"\x03\xe8bye \xff.", false),
        ] {
            let stream = [frame(TEXT, b"\xc3"), frame(FIN | CLOSE, payload)].concat();
            for cut in 1..=stream.len() {
                let refused = scan(&stream, cut).1.map(|(_, reason)| reason);
                let expected = (!good).then_some(CloseReason::BadUtf8);
                assert_eq!(refused, expected, "{payload:x?} cut at {cut}");
            }
        }
    }
}
