//! What is known of a log besides its events: one record, changed by compare and set.

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage, stream::Stream};
use serde::{Deserialize, Serialize};

use super::{
    message::Mark,
    names::Names,
    numbering::Numbering,
    server::{Session, Trouble},
    streams::last_message,
};
use crate::event::LogId;

/// The version of all that is stored. A log of a newer one is left alone.
pub const FORMAT: u32 = 1;

/// A log and how it is numbered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Numbered {
    #[serde(with = "log_id")]
    pub log: LogId,
    pub numbering: Numbering,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Meta {
    pub format: u32,
    /// Rises with each new log, so that a record that went back is noticed.
    pub generation: u64,
    #[serde(flatten)]
    pub now: Numbered,
    /// The one before, for keys that were used in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Numbered>,
    /// When the log's stream was made: another one has another log.
    pub created: String,
    /// The process of the server that the log was last claimed on, or a word for a majority.
    pub identity: String,
    /// The last message that a node saw which ended in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Mark>,
}

/// What every version can read.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// The record as it is stored.
#[derive(Debug)]
pub struct Stored {
    /// `None` where nobody could make sense of it, as if there were none.
    pub meta: Option<Meta>,
    /// What it is replaced by; 0 where there is none.
    pub revision: u64,
}

/// # Errors
/// Where the server does not tell, or the log is of a newer format.
pub async fn read(stream: &Stream, names: &Names) -> Result<Stored, Trouble> {
    let Some(message) = last_message(stream, &names.meta_subject).await? else {
        return Ok(Stored {
            meta: None,
            revision: 0,
        });
    };
    if let Ok(Versioned { format }) = serde_json::from_slice(&message.payload)
        && format > FORMAT
    {
        return Err(Trouble::Newer(format));
    }
    let meta: Option<Meta> = serde_json::from_slice(&message.payload).ok();
    Ok(Stored {
        meta: meta.filter(|meta| meta.now.numbering.is_whole()),
        revision: message.sequence,
    })
}

/// Replaces the record of a revision, unless another node was quicker: whether it did.
///
/// # Errors
/// Where the server does not tell.
pub async fn replace(
    session: &Session,
    names: &Names,
    meta: &Meta,
    revision: u64,
) -> Result<bool, Trouble> {
    let payload = serde_json::to_vec(meta).map_err(|_| Trouble::Strange("what is to be stored"))?;
    let message = PublishMessage::build()
        .payload(payload.into())
        .expected_stream(&names.meta)
        .expected_last_subject_sequence(revision);
    let subject = names.meta_subject.clone();
    let sent = session.jetstream.send_publish(subject, message).await;
    let sent = sent.map_err(|error| Trouble::asked("to store what is known of the log", &error))?;
    match sent.await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
        Err(error) => Err(Trouble::asked("to store what is known of the log", &error)),
    }
}

mod log_id {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::event::LogId;

    pub fn serialize<S: Serializer>(log: &LogId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(log.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogId, D::Error> {
        let text = String::deserialize(deserializer)?;
        LogId::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_comes_back_from_its_json() {
        let meta = Meta {
            format: FORMAT,
            generation: 3,
            now: Numbered {
                log: LogId::parse("a1").unwrap(),
                numbering: Numbering::begin(5, 77),
            },
            before: None,
            created: "2026-01-01T00:00:00Z".to_owned(),
            identity: "NABC".to_owned(),
            ended: Some(Mark::of(9, b"x")),
        };
        let text = serde_json::to_string(&meta).unwrap();
        assert!(text.contains(r#""log":"a1""#), "{text}");
        assert_eq!(serde_json::from_str::<Meta>(&text).unwrap(), meta);
    }
}
