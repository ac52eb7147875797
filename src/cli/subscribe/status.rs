//! What `subscribe` says about itself, on stderr, so that stdout holds events and nothing else.

use std::fmt;
use std::io::Write;
use std::time::Duration;

use super::feed::{Position, Transport};
use crate::cli::failure::Failure;

/// Topics that a line names before it counts the rest.
const TOPICS_SHOWN: usize = 5;

/// Status lines, or none with `--quiet`.
pub struct Status {
    pub quiet: bool,
}

/// What the first line tells of a connection.
pub struct Connected<'a> {
    pub to: &'a str,
    pub by: Transport,
    pub user: Option<&'a str>,
    /// As the gateway was asked for them: a pattern that the shell has replaced by file names shows here.
    pub topics: &'a [String],
}

impl fmt::Display for Connected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = match self.by {
            Transport::Ws => "WebSocket",
            Transport::Sse => "Server-Sent Events",
            Transport::Poll => "long-poll",
        };
        write!(f, "connected to {} by {wire}", self.to)?;
        if let Some(user) = self.user {
            write!(f, " as {user}")?;
        }
        let shown = self.topics.len().min(TOPICS_SHOWN);
        write!(f, ", following {}", self.topics[..shown].join(", "))?;
        match self.topics.len() - shown {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Status {
    pub fn connected(&self, connected: &Connected<'_>) {
        self.say(&connected.to_string());
    }

    pub fn resumed(&self, position: &Position) {
        if let Position::After(cursor) = position {
            self.say(&format!("resumed after {cursor}"));
        }
    }

    pub fn live(&self, position: &Position) {
        if let Position::After(cursor) = position {
            self.say(&format!("live at {cursor}"));
        }
    }

    pub fn reset(&self, reason: &str, topics: &[String], position: &Position) {
        let place = match position {
            Position::After(cursor) => cursor,
            Position::Now | Position::Rewind(_) => "now",
        };
        let topics = if topics.is_empty() {
            String::new()
        } else {
            format!(" of {}", topics.join(", "))
        };
        self.say(&format!(
            "reset ({reason}): events{topics} were missed; going on from {place}"
        ));
    }

    pub fn lost(&self, failure: &Failure, pause: Duration) {
        let what = match failure {
            Failure::Unreachable(_) | Failure::Untrusted(_) => "cannot connect",
            Failure::Broken(_) => "connection lost",
            Failure::Refused(_) => "the gateway ended it",
        };
        self.say(&format!(
            "{what}: {failure}; reconnecting in {:.1} s",
            pause.as_secs_f64()
        ));
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            // A closed stderr is no reason to stop: the events are what counts.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_shows_what_is_followed() {
        let line = |count: usize, user| {
            let topics: Vec<_> = (1..=count).map(|topic| format!("order:{topic}")).collect();
            let connected = Connected {
                to: "http://h:1",
                by: Transport::Poll,
                user,
                topics: &topics,
            };
            connected.to_string()
        };
        let start = "connected to http://h:1 by long-poll";
        assert_eq!(line(1, None), format!("{start}, following order:1"));
        assert_eq!(
            line(2, Some("alice")),
            format!("{start} as alice, following order:1, order:2")
        );
        let many = line(7, None);
        assert!(many.ends_with("order:4, order:5 and 2 more"), "{many}");
    }
}
