//! When old messages are let go of, and what is remembered of them.

use std::time::{Duration, Instant};

use async_nats::jetstream::{message::PublishMessage, stream::Stream};
use serde::{Deserialize, Serialize};

use super::{
    meta::Numbered,
    names::Names,
    server::{Trouble, told},
    streams::last_message,
    view::Open,
};
use crate::engine::Tail;

/// What is due for trimming is trimmed after so long, however little it is.
const TRIM_AFTER: Duration = Duration::from_secs(30);
/// Of what a node retains, what each purge lets go at least, unless it is for the time.
const STEP: u64 = 16;

pub struct Trimming {
    /// At how many events: each time the table of what is gone of each topic goes with it.
    step: u64,
    /// The last message that is gone.
    pub until: u64,
    last: Instant,
}

impl Trimming {
    /// `retained` is the most events that the node retains.
    pub fn new(retained: usize, until: u64) -> Self {
        Self {
            step: (retained as u64 / STEP).max(1),
            until,
            last: Instant::now(),
        }
    }

    /// Lets go of messages of which the node retains nothing.
    ///
    /// # Errors
    /// Where NATS does not do it.
    pub async fn trim(
        &mut self,
        open: &Open,
        names: &Names,
        tail: &dyn Tail,
    ) -> Result<(), Trouble> {
        let earliest = tail.earliest();
        let Some((sequence, _)) = open.log.numbering.place(earliest) else {
            return Ok(());
        };
        // More of its events may be retained.
        let until = sequence.saturating_sub(1);
        let count = until.saturating_sub(self.until);
        if count < self.step && (count == 0 || self.last.elapsed() < TRIM_AFTER) {
            return Ok(());
        }
        self.last = Instant::now();
        // The table first, and made after the position: what it tells too much errs towards a reset.
        remember(open, names, earliest, &tail.trims()).await;
        let purge = open.stream.purge().sequence(until + 1).await;
        purge.map_err(|error| Trouble::asked("to let go of old messages", &error))?;
        self.until = until;
        Ok(())
    }
}

/// Of the table, in bytes, what is in one message: well below what servers take by default.
const PART_BYTES: usize = 512 << 10;

/// What stands in front of a part, as a line of its own.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Heading {
    log: String,
    /// Up to where the table tells.
    position: u64,
    parts: usize,
}

/// Stores what was trimmed of each topic up to a position, for nodes that start later. Where that
/// fails they reset more clients than they would have to, and nothing else.
async fn remember(open: &Open, names: &Names, position: u64, trims: &[u8]) {
    let heading = Heading {
        log: open.log.log.as_str().to_owned(),
        position,
        parts: trims.len().div_ceil(PART_BYTES).max(1),
    };
    let Ok(mut line) = serde_json::to_vec(&heading) else {
        return;
    };
    line.push(b'\n');
    for (number, part) in trims.chunks(PART_BYTES).enumerate() {
        let message = PublishMessage::build()
            .payload([&line, part].concat().into())
            .expected_stream(&names.meta);
        let subject = names.trims_part(number);
        let sent = match open.session.jetstream.send_publish(subject, message).await {
            Ok(sent) => sent.await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!(why = told(&error), "can not store what was trimmed");
            return;
        }
    }
}

/// Up to where the table of a log tells, and the table; `None` where there is none.
///
/// # Errors
/// [`Trouble::Stale`] where another node stores its own just now.
pub async fn remembered(
    stream: &Stream,
    names: &Names,
    log: &Numbered,
) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
    let Some((heading, mut table)) = part(stream, names, 0).await? else {
        return Ok(None);
    };
    if heading.log != log.log.as_str() {
        return Ok(None);
    }
    for number in 1..heading.parts {
        match part(stream, names, number).await? {
            Some((other, part)) if other == heading => table.extend_from_slice(&part),
            _ => return Err(Trouble::Stale),
        }
    }
    Ok(Some((heading.position, table)))
}

async fn part(
    stream: &Stream,
    names: &Names,
    number: usize,
) -> Result<Option<(Heading, Vec<u8>)>, Trouble> {
    let stored = last_message(stream, &names.trims_part(number)).await?;
    Ok(stored.and_then(|stored| {
        let end = stored.payload.iter().position(|byte| *byte == b'\n')?;
        let heading = serde_json::from_slice(&stored.payload[..end]).ok()?;
        Some((heading, stored.payload[end + 1..].to_vec()))
    }))
}
