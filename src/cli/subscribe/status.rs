//! What `subscribe` says about itself, on stderr, so that stdout holds events and nothing else.

use std::io::Write;
use std::time::Duration;

use super::feed::{Position, Transport};
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::Failure;

/// Status lines, or none with `--quiet`.
pub struct Status {
    pub quiet: bool,
}

impl Status {
    pub fn connected(
        &self,
        endpoint: &Endpoint,
        transport: Transport,
        user: Option<&str>,
        from: &Position,
        again: bool,
    ) {
        let wire = match transport {
            Transport::Ws => "WebSocket",
            Transport::Sse => "Server-Sent Events",
            Transport::Poll => "long-poll",
        };
        let user = user.map_or(String::new(), |user| format!(" as {user}"));
        match from {
            Position::After(cursor) if again => self.say(&format!("resumed after {cursor}")),
            _ => self.say(&format!("connected to {} by {wire}{user}", endpoint.base())),
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
            Failure::Unreachable(_) => "cannot connect",
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
