//! Judges WebSocket frames by the size that they announce, before anything is buffered.
//!
//! `actix_ws` looks at a frame's size only once all of it has come, so a client could make the
//! gateway hold as much as it cares to send. This stream stands between socket and decoder,
//! follows the frame headers (RFC 6455, section 5.2), and stops at one that announces too much.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{error::PayloadError, web};
use bytes::Bytes;
use tokio_stream::Stream;

/// Set once a frame announced more than the limit; the stream has ended then.
pub type TooLarge = Rc<Cell<bool>>;

pub struct FrameGuard {
    payload: web::Payload,
    scanner: HeaderScanner,
    max_frame_bytes: u64,
    too_large: TooLarge,
}

impl FrameGuard {
    pub fn new(payload: web::Payload, max_frame_bytes: usize, too_large: TooLarge) -> Self {
        Self {
            payload,
            scanner: HeaderScanner::default(),
            max_frame_bytes: max_frame_bytes as u64,
            too_large,
        }
    }
}

impl Stream for FrameGuard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.too_large.get() {
            return Poll::Ready(None);
        }
        let next = Pin::new(&mut this.payload).poll_next(cx);
        if let Poll::Ready(Some(Ok(chunk))) = &next
            && let Some(fit) = this.scanner.scan(chunk, this.max_frame_bytes)
        {
            // What came before the frame is still to be answered.
            this.too_large.set(true);
            return Poll::Ready((fit > 0).then(|| Ok(chunk.slice(..fit))));
        }
        next
    }
}

/// Follows frame headers through a stream that is cut anywhere.
#[derive(Default)]
struct HeaderScanner {
    /// Bytes of the current frame's mask and payload still to pass.
    body_left: u64,
    header: [u8; 10],
    header_len: usize,
}

impl HeaderScanner {
    /// Passes over a chunk; the index at which a frame begins (in this chunk, or 0) that announces
    /// more than `max`.
    fn scan(&mut self, chunk: &[u8], max: u64) -> Option<usize> {
        let mut at = 0;
        let mut frame_start = 0;
        while at < chunk.len() {
            if self.body_left > 0 {
                let passed = self.body_left.min((chunk.len() - at) as u64);
                self.body_left -= passed;
                at += passed as usize;
                continue;
            }
            if self.header_len == 0 {
                frame_start = at;
            }
            self.header[self.header_len] = chunk[at];
            self.header_len += 1;
            at += 1;
            if let Some((payload_len, masked)) = self.complete_header() {
                if payload_len > max {
                    return Some(frame_start);
                }
                self.body_left = payload_len + if masked { 4 } else { 0 };
                self.header_len = 0;
            }
        }
        None
    }

    /// Payload length, and whether a mask precedes it, once enough of the header is there.
    fn complete_header(&self) -> Option<(u64, bool)> {
        let second = *self.header[..self.header_len].get(1)?;
        let extended_len = match second & 0x7f {
            126 => 2,
            127 => 8,
            short => return Some((u64::from(short), second & 0x80 != 0)),
        };
        let extended = self.header[..self.header_len].get(2..2 + extended_len)?;
        let len = extended
            .iter()
            .fold(0_u64, |len, byte| len << 8 | u64::from(*byte));
        Some((len, second & 0x80 != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(len: usize) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match len {
            0..126 => bytes.push(0x80 | len as u8),
            126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(vec![0x7f; len]);
        bytes
    }

    #[test]
    fn frames_that_fit_pass_however_the_stream_is_cut() {
        let stream: Vec<u8> = [0, 1, 125, 126, 300, 65_535, 65_536, 7]
            .into_iter()
            .flat_map(frame)
            .collect();
        for cut in [1, 2, 3, 5, 7, 1000, stream.len()] {
            let mut scanner = HeaderScanner::default();
            for chunk in stream.chunks(cut) {
                assert_eq!(scanner.scan(chunk, 65_536), None, "cut at {cut}");
            }
            assert_eq!((scanner.body_left, scanner.header_len), (0, 0));
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_found_by_its_header() {
        let mut stream = frame(10);
        let start = stream.len();
        stream.extend([0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0]);
        let mut scanner = HeaderScanner::default();
        assert_eq!(scanner.scan(&stream, 65_536), Some(start));
        let found = |cut: usize| {
            let mut scanner = HeaderScanner::default();
            stream
                .chunks(cut)
                .any(|chunk| scanner.scan(chunk, 65_536).is_some())
        };
        assert!((1..stream.len()).all(found));
    }
}
