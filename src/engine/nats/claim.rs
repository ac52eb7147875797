//! Has a node follow and append to the log on a connection, or finds that events of it are lost and
//! begins another one.
//!
//! What a server may lose is its end: then it gives sequences again that stood for other messages.
//! A node that has seen the log notices, since the last message that it knows is another one, or
//! none. Where another process of the server has the log and nothing is missing as far as anybody
//! knows, positions jump, since a node that is gone may have seen more. Where nobody knows anything,
//! a new log begins.

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::Stream;

use super::{
    message::Mark,
    meta::{self, FORMAT, Meta, Numbered, Stored},
    names::Names,
    numbering::Numbering,
    server::{Session, Trouble},
    streams::{Bounds, Facts, Log, message, open_log, open_meta},
};
use crate::event::LogId;

/// How often others may be quicker.
const TRIES: usize = 50;
/// How long whoever knows nothing waits for a node that does.
const VOUCHING: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Which process of the server has a log that a majority of several has.
const MAJORITY: &str = "majority";

/// What a node can tell of what it has seen.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    pub log: Option<LogId>,
    pub generation: u64,
    /// The last message that it knows of.
    pub seen: Option<Mark>,
    /// The furthest position that its clients may have.
    pub position: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    /// Positions jump.
    Jumped,
    Begun,
    Lost,
}

/// A log that was claimed.
pub struct Claim {
    pub outcome: Outcome,
    pub meta: Meta,
    pub facts: Facts,
    pub stream: Stream,
    pub meta_stream: Stream,
    /// The oldest message that is there, or that will come.
    pub first: u64,
    pub last: u64,
}

/// What there is, and whom it is for.
pub struct Claiming<'a> {
    pub session: &'a Session,
    pub names: &'a Names,
    pub bounds: Bounds,
    pub witness: &'a Witness,
}

enum Verdict {
    Keep,
    Jump,
    Begin(Outcome),
    /// A node that knows more may come.
    Wait,
}

impl Claiming<'_> {
    /// # Errors
    /// Where the server does not answer, or its streams are of no use.
    pub async fn claim(&self) -> Result<Claim, Trouble> {
        let since = Instant::now();
        let mut tries = 0;
        while tries < TRIES {
            let log = match open_log(self.session, self.names, self.bounds).await {
                // Another node is making it.
                Err(Trouble::Stale) => {
                    tries += 1;
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                log => log?,
            };
            let replicas = log.facts.replicas;
            let meta_stream = match open_meta(self.session, self.names, replicas).await {
                Err(Trouble::Stale) => {
                    tries += 1;
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                stream => stream?,
            };
            let stored = meta::read(&meta_stream, self.names).await?;
            let verdict = self.judge(&log, &stored, since.elapsed()).await?;
            let settled = match verdict {
                Verdict::Wait => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
                Verdict::Keep => stored.meta.map(|meta| (Outcome::Kept, meta)),
                Verdict::Jump => self.jump(&log, stored).await?,
                Verdict::Begin(outcome) => self.begin(&log, stored, outcome).await?,
            };
            if let Some((outcome, meta)) = settled {
                return Ok(Claim {
                    outcome,
                    meta,
                    first: log.info.state.first_sequence.max(1),
                    last: log.info.state.last_sequence,
                    facts: log.facts,
                    stream: log.stream,
                    meta_stream,
                });
            }
            tries += 1;
        }
        Err(Trouble::Contested)
    }

    async fn judge(
        &self,
        log: &Log,
        stored: &Stored,
        waited: Duration,
    ) -> Result<Verdict, Trouble> {
        let witness = self.witness;
        let Some(meta) = &stored.meta else {
            let is_new = witness.log.is_none();
            let outcome = if is_new {
                Outcome::Begun
            } else {
                Outcome::Lost
            };
            return Ok(Verdict::Begin(outcome));
        };
        let lost = Ok(Verdict::Begin(Outcome::Lost));
        let last = log.info.state.last_sequence;
        if meta.created != created(log)
            || last < meta.now.numbering.settled()
            || witness.generation > meta.generation
        {
            return lost;
        }
        let is_known = witness.log.as_ref() == Some(&meta.now.log);
        if is_known && !holds(log, witness.seen).await? {
            return lost;
        }
        if identity(self.session, &log.facts) == meta.identity {
            // A node never goes back to positions that it has passed in another log.
            let goes_back = !is_known
                && witness.position > 0
                && witness.position >= meta.now.numbering.end_of(last);
            return Ok(if goes_back {
                Verdict::Jump
            } else {
                Verdict::Keep
            });
        }
        if is_known {
            return Ok(Verdict::Jump);
        }
        let ended = meta.ended.filter(|ended| ended.sequence == last);
        if ended.is_some() && holds(log, ended).await? {
            return Ok(Verdict::Jump);
        }
        // Nobody can tell what this server does not have any more, but a node that is about to.
        match waited < VOUCHING && last > meta.now.numbering.after() {
            true => Ok(Verdict::Wait),
            false => lost,
        }
    }

    /// `None` where another node was quicker.
    async fn jump(&self, log: &Log, stored: Stored) -> Result<Option<(Outcome, Meta)>, Trouble> {
        let Some(mut meta) = stored.meta else {
            return Ok(None);
        };
        let last = log.info.state.last_sequence;
        meta.now.numbering.jump(last, self.witness.position);
        meta.identity = identity(self.session, &log.facts);
        meta.ended = None;
        self.store(meta, stored.revision, Outcome::Jumped).await
    }

    async fn begin(
        &self,
        log: &Log,
        stored: Stored,
        outcome: Outcome,
    ) -> Result<Option<(Outcome, Meta)>, Trouble> {
        let last = log.info.state.last_sequence;
        let before = stored.meta;
        let passed = before.as_ref().map(|meta| {
            let numbering = &meta.now.numbering;
            numbering.end_of(last.max(numbering.settled()))
        });
        let beyond = passed.unwrap_or_default().max(self.witness.position);
        let generation = before.as_ref().map_or(0, |meta| meta.generation);
        let is_same_stream = |meta: &Meta| meta.created == created(log);
        let name = LogId::random()
            .map_err(|_| Trouble::Strange("what the operating system gives as randomness"))?;
        let meta = Meta {
            format: FORMAT,
            generation: generation.max(self.witness.generation) + 1,
            now: Numbered {
                log: name,
                numbering: Numbering::begin(last, beyond),
            },
            created: created(log),
            before: before.filter(is_same_stream).map(|meta| meta.now),
            identity: identity(self.session, &log.facts),
            ended: None,
        };
        self.store(meta, stored.revision, outcome).await
    }

    async fn store(
        &self,
        meta: Meta,
        revision: u64,
        outcome: Outcome,
    ) -> Result<Option<(Outcome, Meta)>, Trouble> {
        let is_stored = meta::replace(self.session, self.names, &meta, revision).await?;
        Ok(is_stored.then_some((outcome, meta)))
    }
}

/// When the stream was made, which no other of its name was.
pub fn created(log: &Log) -> String {
    created_at(&log.info)
}

pub fn created_at(info: &async_nats::jetstream::stream::Info) -> String {
    info.created.unix_timestamp_nanos().to_string()
}

fn identity(session: &Session, facts: &Facts) -> String {
    match facts.is_replicated() {
        true => MAJORITY.to_owned(),
        false => session.server_id.clone(),
    }
}

/// Whether a message is what it was. One that was trimmed meanwhile can not be told.
async fn holds(log: &Log, seen: Option<Mark>) -> Result<bool, Trouble> {
    let Some(seen) = seen else {
        return Ok(true);
    };
    let state = &log.info.state;
    if seen.sequence > state.last_sequence {
        return Ok(false);
    }
    let there = message(&log.stream, seen.sequence).await?;
    Ok(there.is_none_or(|there| Mark::of(seen.sequence, &there.payload) == seen))
}
