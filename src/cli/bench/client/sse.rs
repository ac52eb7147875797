//! Server-Sent Events.

use super::http::{Framing, Head};
use super::link::{Item, Kept, read_frame, refusal};
use crate::cli::bench::dialect::Peer;
use crate::cli::failure::Failure;

/// The state is the body's framing, once the head has come. Bytes that are kept are of the body, without its chunks.
#[derive(Debug, Default)]
pub struct Stream {
    peer: Option<Peer>,
    body: Option<Framing>,
}

impl Stream {
    pub fn new(peer: Option<Peer>) -> Self {
        Self { peer, body: None }
    }

    pub fn read(
        &mut self,
        buffer: &mut [u8],
        fresh: usize,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<Kept, Failure> {
        let (mut start, mut from) = (0, fresh);
        if self.body.is_none() {
            let Some((mut head, length)) = Head::parse(buffer)? else {
                return Ok(0..buffer.len());
            };
            if head.status != 200 || !head.is_event_stream() {
                let refused = refusal(&mut head, buffer, length)?;
                return refused.map_or(Ok(0..buffer.len()), Err);
            }
            (start, from) = (length, length);
            self.body = Some(head.framing);
            if self.peer.is_some() {
                sink(Item::Live);
            }
        }
        let Some(body) = &mut self.body else {
            return Ok(0..buffer.len());
        };
        let (end, is_over) = body.decode(buffer, from)?;
        let used = match self.peer {
            None => read_lines(&buffer[start..end], sink),
            Some(_) => read_blocks(&buffer[start..end], sink),
        };
        if is_over {
            return Err(Failure::Broken("the stream ended".to_owned()));
        }
        Ok(start + used..end)
    }
}

/// Reads whole lines, and gives how many bytes they were. The gateway's `data` is one line, with the cursor in it.
fn read_lines(body: &[u8], sink: &mut impl FnMut(Item<'_>)) -> usize {
    let mut used = 0;
    for end in memchr::memchr_iter(b'\n', body) {
        let line = &body[used..end];
        used = end + 1;
        if let Some(data) = line.strip_prefix(b"data: ") {
            read_frame(data, sink);
        }
    }
    used
}

/// Reads whole events of any server, of which the id may come before the data, and gives how many bytes they were.
fn read_blocks(body: &[u8], sink: &mut impl FnMut(Item<'_>)) -> usize {
    let mut used = 0;
    for end in memchr::memmem::find_iter(body, b"\n\n") {
        let block = &body[used..end];
        used = end + 2;
        sink(Item::Events(block));
        let mut lines = block.split(|byte| *byte == b'\n');
        if let Some(id) = lines.find_map(|line| line.strip_prefix(b"id: ")) {
            sink(Item::Cursor(id));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_read_wherever_it_is_cut() {
        let body = "retry: 3000\nevent: connected\nid: a-1\ndata: {\"type\":\"connected\",\"cursor\":\"a-1\"}\n\n\
                    id: a-2\ndata: {\"type\":\"event\",\"id\":\"a-2\",\"data\":1}\n\n\
                    event: heartbeat\nid: a-3\ndata: {\"type\":\"heartbeat\",\"cursor\":\"a-3\"}\n\n";
        let mut wire = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.as_bytes().chunks(37) {
            wire.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            wire.extend_from_slice(chunk);
            wire.extend_from_slice(b"\r\n");
        }
        for step in [1, 2, 5, 41, wire.len()] {
            let mut stream = Stream::default();
            let (mut kept, mut cursors, mut events, mut live) = (Vec::new(), Vec::new(), 0, 0);
            for piece in wire.chunks(step) {
                let fresh = kept.len();
                kept.extend_from_slice(piece);
                let range = stream.read(&mut kept, fresh, &mut |item| match item {
                    Item::Cursor(cursor) => cursors.push(cursor.to_vec()),
                    Item::Events(_) => events += 1,
                    Item::Live => live += 1,
                    other => panic!("{other:?}"),
                });
                kept = kept[range.unwrap()].to_vec();
            }
            assert_eq!(cursors, [b"a-1", b"a-2", b"a-3"], "in pieces of {step}");
            assert_eq!((events, live), (1, 1));
        }
    }
}
