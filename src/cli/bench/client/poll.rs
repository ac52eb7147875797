//! Long-poll: request after request on one connection.

use reqwest::header::{ETAG, LAST_MODIFIED};
use serde::Deserialize;

use super::http::{Framing, Head};
use super::link::{Item, Kept, refusal};
use crate::cli::bench::dialect::Peer;
use crate::cli::failure::{Failure, Refusal};

/// The state is the head of an answer, once it has come. Bytes that are kept are then of the body, without its chunks.
#[derive(Debug, Default)]
pub struct Poll {
    peer: Option<Peer>,
    head: Option<Head>,
    is_live: bool,
}

/// What stands in an answer before its events.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    cursor: String,
    reconnect_after_ms: Option<u64>,
}

impl Poll {
    pub fn new(peer: Option<Peer>) -> Self {
        Self {
            peer,
            ..Self::default()
        }
    }

    /// Whether the first answer comes with the first event, instead of at once with a cursor.
    pub fn waits_at_once(&self) -> bool {
        self.peer.is_some()
    }

    pub fn read(
        &mut self,
        buffer: &mut [u8],
        fresh: usize,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<Kept, Failure> {
        let (mut start, mut from) = (0, fresh);
        if self.head.is_none() {
            let Some((mut head, length)) = Head::parse(buffer)? else {
                return Ok(0..buffer.len());
            };
            if !matches!(head.status, 200 | 410) {
                let refused = refusal(&mut head, buffer, length)?;
                return refused.map_or(Ok(0..buffer.len()), Err);
            }
            (start, from) = (length, length);
            self.head = Some(head);
        }
        let Some(head) = &mut self.head else {
            return Ok(0..buffer.len());
        };
        let (end, is_over) = head.framing.decode(buffer, from)?;
        if !is_over {
            if matches!(head.framing, Framing::ToEnd) {
                return Err(Failure::Broken(
                    "an answer of unknown length came".to_owned(),
                ));
            }
            return Ok(start..end);
        }
        let (status, keeps_alive) = (head.status, head.keeps_alive);
        let message_id = message_id(head);
        self.head = None;
        if self.peer.is_some() {
            sink(Item::Events(&buffer[start..end]));
            sink(Item::Cursor(message_id.unwrap_or_default().as_bytes()));
        } else {
            self.take(status, &buffer[start..end], sink)?;
        }
        if !keeps_alive {
            return Err(Failure::Broken(
                "the gateway ended the connection after an answer".to_owned(),
            ));
        }
        sink(Item::Again);
        Ok(0..0)
    }

    fn take(
        &mut self,
        status: u16,
        body: &[u8],
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<(), Failure> {
        if status == 410 {
            sink(Item::Reset);
        }
        let (cursor, reconnect_after_ms) = match quick_cursor(body) {
            Some(cursor) => (cursor.to_owned(), None),
            None => {
                let answer: Answer = serde_json::from_slice(body).map_err(|_| {
                    Failure::Broken("an answer came that is not of the protocol".to_owned())
                })?;
                (answer.cursor.into_bytes(), answer.reconnect_after_ms)
            }
        };
        sink(Item::Events(body));
        sink(Item::Cursor(&cursor));
        if !self.is_live {
            self.is_live = true;
            sink(Item::Live);
        }
        match reconnect_after_ms {
            Some(milliseconds) => Err(Failure::Refused(Refusal {
                status: None,
                code: "restarting".to_owned(),
                message: "the gateway asked to come back".to_owned(),
                retry_after: Some(std::time::Duration::from_millis(milliseconds)),
            })),
            None => Ok(()),
        }
    }
}

/// Of Nchan, which tells a message's time and its number within that second in the headers of caches.
fn message_id(head: &Head) -> Option<String> {
    let text = |name| head.headers.get(name)?.to_str().ok();
    let modified = text(LAST_MODIFIED)?;
    let time = jiff::fmt::rfc2822::parse(modified).ok()?.timestamp();
    Some(format!("{}:{}", time.as_second(), text(ETAG)?))
}

/// The cursor of an answer with events and nothing else, without parsing these.
fn quick_cursor(body: &[u8]) -> Option<&[u8]> {
    let cursor = body.strip_prefix(br#"{"cursor":""#)?;
    let length = memchr::memchr(b'"', cursor)?;
    let is_all = cursor[length..].starts_with(br#"","events":[{"#) && body.ends_with(b"}]}");
    is_all.then_some(&cursor[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_after_the_other_wherever_they_are_cut() {
        let answer = |status: &str, body: &str| {
            format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let answers = [
            answer("200 OK", r#"{"cursor":"a-1","events":[]}"#),
            answer("200 OK", r#"{"cursor":"a-2","events":[{"id":"a-2"}]}"#),
            answer(
                "410 Gone",
                r#"{"type":"reset","reason":"expired","cursor":"a-7"}"#,
            ),
        ];
        for step in [1, 4, 1000] {
            let mut poll = Poll::default();
            let mut seen = Vec::new();
            for answer in &answers {
                let mut kept = Vec::new();
                for piece in answer.as_bytes().chunks(step) {
                    let fresh = kept.len();
                    kept.extend_from_slice(piece);
                    let range = poll.read(&mut kept, fresh, &mut |item| match item {
                        Item::Cursor(cursor) => {
                            seen.push(String::from_utf8_lossy(cursor).into_owned())
                        }
                        Item::Events(_) => {}
                        other => seen.push(format!("{other:?}")),
                    });
                    kept = kept[range.unwrap()].to_vec();
                }
                assert!(kept.is_empty());
            }
            let expected = [
                "a-1", "Live", "Again", "a-2", "Again", "Reset", "a-7", "Again",
            ];
            assert_eq!(seen, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn a_gateway_that_drains_says_when_to_come_back() {
        let body = r#"{"cursor":"a-1","events":[],"reconnectAfterMs":70}"#;
        let failure = Poll::default()
            .take(200, body.as_bytes(), &mut |_| {})
            .unwrap_err();
        assert_eq!(
            failure.retry_after(),
            Some(std::time::Duration::from_millis(70))
        );
    }
}
