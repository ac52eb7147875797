//! What a connection brings, whichever the transport: the protocol's messages, read.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;

use crate::cli::failure::{Failure, Refusal};

/// What a connection brings.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    Connected {
        cursor: Option<String>,
        user: Option<String>,
        heartbeat: Option<Duration>,
    },
    /// An event; `raw` is its envelope as it came.
    Event { id: Option<String>, raw: String },
    /// A stream cursor that came without an event.
    Cursor(String),
    /// The replay is over.
    Live(Option<String>),
    /// Events were missed.
    Reset {
        reason: String,
        cursor: Option<String>,
        topics: Vec<String>,
    },
    /// The server set the least time to wait before a reconnect.
    RetryAfter(Duration),
    /// A sign of life with nothing in it.
    Alive,
    /// The end of this connection; nothing follows.
    Ended(Ending),
}

/// A failure, comparable by its text for the sake of tests.
#[derive(Debug)]
pub struct Ending(pub Failure);

impl Item {
    /// Reads one message of the gateway: an event's envelope or a control frame.
    pub fn decode(raw: String) -> Self {
        #[derive(Deserialize)]
        struct Head<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(default, borrow)]
            id: Option<Cow<'a, str>>,
        }
        // Only the head of an event is read, so that its bytes and numbers stay what they are.
        match serde_json::from_str(&raw) {
            Ok(Head { kind, id }) if kind == "event" => Self::Event {
                id: id.map(Cow::into_owned),
                raw,
            },
            Ok(Head { kind, .. }) => Control::decode(&kind, &raw),
            Err(_) => Self::broken(
                "what came is not of the Tribus protocol: is this the gateway's address?",
            ),
        }
    }

    pub fn broken(why: impl Into<String>) -> Self {
        Self::Ended(Ending(Failure::Broken(why.into())))
    }

    pub fn refused(refusal: Refusal) -> Self {
        Self::Ended(Ending(Failure::Refused(refusal)))
    }
}

impl PartialEq for Ending {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_string() == other.0.to_string()
    }
}

impl Eq for Ending {}

/// The fields of all control frames; which of them are there depends on the type.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Control {
    cursor: Option<String>,
    user_id: Option<String>,
    heartbeat_ms: Option<u64>,
    reason: Option<String>,
    code: Option<Code>,
    message: Option<String>,
    reconnect_after_ms: Option<u64>,
    retry_after_ms: Option<u64>,
    #[serde(default)]
    topics: Vec<String>,
}

/// `closing` carries a close code, `error` a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum Code {
    Close(u16),
    Word(String),
}

impl Control {
    fn decode(kind: &str, raw: &str) -> Item {
        let control: Self = match serde_json::from_str(raw) {
            Ok(control) => control,
            Err(reason) => {
                return Item::broken(format!("a frame of type {kind} is malformed: {reason}"));
            }
        };
        match kind {
            "connected" => control.connected(),
            "live" => Item::Live(control.cursor),
            "reset" => control.reset(),
            "closing" | "error" => Item::refused(control.refusal()),
            _ => control.cursor.map_or(Item::Alive, Item::Cursor),
        }
    }

    fn connected(self) -> Item {
        let heartbeat = self
            .heartbeat_ms
            .filter(|ms| *ms > 0)
            .map(Duration::from_millis);
        Item::Connected {
            cursor: self.cursor,
            user: self.user_id,
            heartbeat,
        }
    }

    fn reset(self) -> Item {
        Item::Reset {
            reason: self.reason.unwrap_or_default(),
            cursor: self.cursor,
            topics: self.topics,
        }
    }

    fn refusal(self) -> Refusal {
        let message = self.message.unwrap_or_default();
        let mut refusal = match self.code {
            Some(Code::Close(status)) => Refusal::of_close(status, &message),
            Some(Code::Word(code)) => Refusal {
                status: None,
                code,
                message,
                retry_after: None,
            },
            None => Refusal {
                status: None,
                code: String::new(),
                message,
                retry_after: None,
            },
        };
        refusal.retry_after = self
            .reconnect_after_ms
            .or(self.retry_after_ms)
            .map(Duration::from_millis);
        refusal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Remedy;

    fn decode(raw: &str) -> Item {
        Item::decode(raw.to_owned())
    }

    fn refusal(raw: &str) -> Failure {
        match decode(raw) {
            Item::Ended(Ending(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_event_keeps_its_bytes() {
        let raw = r#"{"type":"event","id":"k-7","topic":"a","data":{"n":1.00000000000000000001, "type":"x"}}"#;
        assert_eq!(
            decode(raw),
            Item::Event {
                id: Some("k-7".into()),
                raw: raw.into()
            }
        );
    }

    #[test]
    fn an_event_may_nest_deeper_than_a_parser_recurses() {
        let raw = format!(
            r#"{{"type":"event","id":"k-7","data":{}{}}}"#,
            "[".repeat(5000),
            "]".repeat(5000)
        );
        assert_eq!(
            decode(&raw),
            Item::Event {
                id: Some("k-7".into()),
                raw: raw.clone()
            }
        );
    }

    #[test]
    fn control_frames_become_items() {
        let connected = decode(
            r#"{"type":"connected","userId":"alice","cursor":"k-1","heartbeatMs":25000,"x":1}"#,
        );
        let heartbeat = Some(Duration::from_secs(25));
        assert_eq!(
            connected,
            Item::Connected {
                cursor: Some("k-1".into()),
                user: Some("alice".into()),
                heartbeat
            }
        );
        assert_eq!(
            decode(r#"{"type":"heartbeat","cursor":"k-2"}"#),
            Item::Cursor("k-2".into())
        );
        assert_eq!(
            decode(r#"{"type":"live","topics":["a"],"cursor":"k-3"}"#),
            Item::Live(Some("k-3".into()))
        );
        assert_eq!(decode(r#"{"type":"news"}"#), Item::Alive);
        let reset = decode(r#"{"type":"reset","reason":"expired","cursor":"k-9"}"#);
        assert_eq!(
            reset,
            Item::Reset {
                reason: "expired".into(),
                cursor: Some("k-9".into()),
                topics: vec![]
            }
        );
    }

    #[test]
    fn closing_and_error_end_a_connection_with_their_remedy() {
        let drained =
            refusal(r#"{"type":"closing","code":1012,"message":"bye","reconnectAfterMs":1234}"#);
        assert_eq!(
            (drained.remedy(), drained.retry_after()),
            (Remedy::Retry, Some(Duration::from_millis(1234)))
        );
        assert_eq!(
            refusal(r#"{"type":"closing","code":4004,"message":"expired"}"#).remedy(),
            Remedy::RenewToken
        );
        assert_eq!(
            refusal(r#"{"type":"closing","code":4005,"message":"revoked"}"#).remedy(),
            Remedy::GiveUp
        );
        assert_eq!(
            refusal(r#"{"type":"error","code":"forbidden","message":"no"}"#).remedy(),
            Remedy::GiveUp
        );
        assert_eq!(refusal("<html>").remedy(), Remedy::Retry);
    }
}
