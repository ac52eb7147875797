//! When old messages are let go of, and what is remembered of them: first nodes retain nothing of them,
//! then nobody asks for their keys any more.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{message::PublishMessage, stream::Stream};
use serde::{Deserialize, Serialize};

use super::{
    meta::Numbered,
    names::Names,
    numbering::Numbering,
    server::{Trouble, told},
    streams::last_message,
    view::Open,
};
use crate::engine::{Tail, idempotency::KEY_LIFETIME};

/// What is due for trimming is trimmed after so long, however little it is.
const TRIM_AFTER: Duration = Duration::from_secs(30);
/// Of what a node retains, what each purge lets go at least, unless it is for the time.
const STEP: u64 = 16;

/// Messages are kept for so long whatever is retained, and a minute more for clocks that differ: a server
/// that starts knows the keys of those messages that it has, and no others.
const KEPT_FOR_KEYS: i64 = KEY_LIFETIME.as_secs() as i64 + 60;

pub struct Trimming {
    /// At how many events: each time the table of what is gone of each topic goes with it.
    step: u64,
    /// The last message of which the node retains nothing, as far as it was noted.
    pub until: u64,
    /// The last message that this node has let go of.
    gone: Arc<AtomicU64>,
    last: Instant,
    recent: Recent,
}

impl Trimming {
    /// `retained` is the most events that the node retains.
    pub fn new(retained: usize, until: u64, recent: Recent) -> Self {
        Self {
            step: (retained as u64 / STEP).max(1),
            until,
            gone: Arc::default(),
            last: Instant::now(),
            recent,
        }
    }

    /// Nothing up to a message is retained, which may be of another stream than those before.
    pub fn restart(&mut self, sequence: u64) {
        self.until = sequence;
        // What is on its way says nothing of what comes now.
        self.gone = Arc::default();
        self.recent = Recent::default();
    }

    /// A message has come, of so many seconds since 1970.
    pub fn came(&mut self, sequence: u64, published: i64) {
        self.recent.came(sequence, published);
    }

    /// What is to be done in NATS now, of which the noting counts as done.
    pub fn take_due(&mut self, numbering: &Numbering, tail: &dyn Tail) -> Option<Trim> {
        let earliest = tail.earliest();
        let (sequence, _) = numbering.place(earliest)?;
        // More of its events may be retained.
        let until = sequence.saturating_sub(1);
        let count = until.saturating_sub(self.until);
        if count < self.step && self.last.elapsed() < TRIM_AFTER {
            return None;
        }
        self.last = Instant::now();
        let gone = until.min(self.recent.old(jiff::Timestamp::now().as_second()));
        let trim = Trim {
            // Made after the position: what it tells too much errs towards a reset.
            table: (count > 0).then(|| (earliest, tail.trims())),
            // Asked for nothing, NATS would let go of everything.
            gone: (gone > self.gone.load(Ordering::Relaxed)).then_some(gone),
            has_gone: Arc::clone(&self.gone),
        };
        self.until = self.until.max(until);
        Some(trim)
    }
}

/// What a node has to tell NATS of messages that it does not retain.
pub struct Trim {
    /// What was trimmed of each topic, up to a position.
    table: Option<(u64, Vec<u8>)>,
    /// The last message of which nobody asks for the key any more.
    gone: Option<u64>,
    has_gone: Arc<AtomicU64>,
}

impl Trim {
    /// # Errors
    /// Where NATS does not let go of messages. It is tried again.
    pub async fn carry_out(self, open: &Open, names: &Names) -> Result<(), Trouble> {
        if let Some((position, table)) = self.table {
            remember(open, names, position, &table).await;
        }
        if let Some(gone) = self.gone {
            let purge = open.stream.purge().sequence(gone + 1).await;
            purge.map_err(|error| Trouble::asked("to let go of old messages", &error))?;
            self.has_gone.store(gone, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// When the latest messages came, one entry for each second: some hundreds.
#[derive(Debug, Default)]
pub struct Recent {
    seconds: VecDeque<(i64, u64)>,
    /// The last message that is not among them any more.
    old: u64,
}

impl Recent {
    pub fn came(&mut self, sequence: u64, published: i64) {
        match self.seconds.back_mut() {
            // A clock that was set back makes no message older than it is.
            Some((second, last)) if published <= *second => *last = sequence,
            _ => self.seconds.push_back((published, sequence)),
        }
        self.forget_before(published - KEPT_FOR_KEYS);
    }

    /// The last message that is old enough.
    fn old(&mut self, now: i64) -> u64 {
        self.forget_before(now - KEPT_FOR_KEYS);
        self.old
    }

    fn forget_before(&mut self, second: i64) {
        while let Some((at, last)) = self.seconds.front()
            && *at < second
        {
            self.old = *last;
            self.seconds.pop_front();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_old_when_its_key_is_forgotten_whatever_clocks_do() {
        let mut recent = Recent::default();
        for (sequence, at) in [(1, 1000), (2, 1000), (3, 1001), (4, 990), (5, 1002)] {
            recent.came(sequence, at);
        }
        assert_eq!(recent.old(1000 + KEPT_FOR_KEYS), 0);
        assert_eq!(recent.old(1001 + KEPT_FOR_KEYS), 2);
        assert_eq!(recent.old(1002 + KEPT_FOR_KEYS), 4);
        recent.came(6, 9000);
        assert_eq!((recent.old, recent.seconds.len()), (5, 1));
    }
}
