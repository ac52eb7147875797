//! The non-empty lines of a file or of stdin, bounded in length, read ahead on a thread of their own.

use std::io::{self, BufRead, BufReader, Read};

use tokio::sync::mpsc;

/// Longest line: what the gateway takes as the body of a publish.
pub const LINE_LIMIT: usize = 1024 * 1024;

/// Lines that are read before they are sent; with [`LINE_LIMIT`] this bounds the memory.
const READ_AHEAD: usize = 8;

/// A line, without its ending.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Counted from 1, empty lines included, as an editor does.
    pub number: u64,
    /// Position in the input after this line.
    pub end: u64,
    pub content: Content,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    Whole(Vec<u8>),
    /// Longer than [`LINE_LIMIT`]: only its beginning.
    TooLong(Vec<u8>),
}

/// Starts reading. The thread ends with the input, or soon after the receiver is dropped; one that waits for
/// input does not keep the program from ending, as a task of the runtime would.
pub fn read(input: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Line>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut lines = Lines {
            input: BufReader::with_capacity(64 * 1024, input),
            number: 0,
            end: 0,
        };
        while let Some(line) = lines.next_line().transpose() {
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                break;
            }
        }
    });
    receiver
}

struct Lines<R> {
    input: R,
    number: u64,
    end: u64,
}

impl<R: BufRead> Lines<R> {
    fn next_line(&mut self) -> io::Result<Option<Line>> {
        loop {
            let Some(content) = self.next_content()? else {
                return Ok(None);
            };
            self.number += 1;
            if !matches!(&content, Content::Whole(bytes) if bytes.trim_ascii().is_empty()) {
                return Ok(Some(Line {
                    number: self.number,
                    end: self.end,
                    content,
                }));
            }
        }
    }

    fn next_content(&mut self) -> io::Result<Option<Content>> {
        let mut bytes = Vec::new();
        // Two more than the limit, for a line of just that length and its CR LF.
        let limit = LINE_LIMIT as u64 + 2;
        self.end += self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut bytes)? as u64;
        if bytes.is_empty() {
            return Ok(None);
        }
        let ended = bytes.pop_if(|byte| *byte == b'\n').is_some();
        if ended {
            bytes.pop_if(|byte| *byte == b'\r');
        }
        if bytes.len() <= LINE_LIMIT {
            return Ok(Some(Content::Whole(bytes)));
        }
        if !ended {
            self.end += self.input.skip_until(b'\n')? as u64;
        }
        bytes.truncate(LINE_LIMIT);
        Ok(Some(Content::TooLong(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8]) -> Vec<Line> {
        let mut lines = Lines {
            input: BufReader::with_capacity(7, text),
            number: 0,
            end: 0,
        };
        std::iter::from_fn(|| lines.next_line().unwrap()).collect()
    }

    fn whole(number: u64, end: u64, text: &str) -> Line {
        Line {
            number,
            end,
            content: Content::Whole(text.into()),
        }
    }

    #[test]
    fn empty_lines_are_counted_and_left_out_and_the_last_needs_no_ending() {
        let read = lines(b"one\n\n  \r\n two \r\nthree");
        assert_eq!(
            read,
            [
                whole(1, 4, "one"),
                whole(4, 16, " two "),
                whole(5, 21, "three")
            ]
        );
        assert_eq!(lines(b""), []);
    }

    #[test]
    fn a_line_may_have_the_limit_and_not_one_byte_more() {
        let longest = "x".repeat(LINE_LIMIT);
        for ending in ["", "\n", "\r\n"] {
            let read = lines(format!("{longest}{ending}").as_bytes());
            assert_eq!(
                read,
                [whole(1, (LINE_LIMIT + ending.len()) as u64, &longest)]
            );
        }
        for excess in [1, 2, 3, 5000] {
            let text = format!("{longest}{}\nnext\n", "y".repeat(excess));
            let read = lines(text.as_bytes());
            assert_eq!(
                read[0].content,
                Content::TooLong(longest.clone().into_bytes()),
                "{excess} too many"
            );
            assert_eq!(read[1..], [whole(2, text.len() as u64, "next")]);
        }
    }
}
