//! The scripts, each of which Redis runs as one step.

use std::sync::LazyLock;

use redis::{Script, Value};

use super::{
    namespace::Namespace,
    reply::{list, number, strange, text},
    server::{Connection, Trouble},
};
use crate::event::LogId;

/// The version of all that is stored. A log of a newer one is left alone.
pub const FORMAT: u32 = 1;

/// More positions than any server loses at once; a jump is by up to twice as many. Two to the power of 53 is
/// enough for four million of them.
const LEAST_JUMP: u64 = 1 << 30;

static CLAIM: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("common.lua"),
        include_str!("claim.lua")
    ))
});
static LOOK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("common.lua"),
        include_str!("look.lua")
    ))
});
pub static APPEND: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(
        include_str!("common.lua"),
        include_str!("append.lua")
    ))
});

/// Positions between these two stand for nothing: a server may have lost what they stood for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seam {
    pub from: u64,
    pub to: u64,
}

impl Seam {
    fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(' ')?;
        Some(Self {
            from: from.parse().ok()?,
            to: to.parse().ok()?,
        })
    }

    /// Whether the position was given to an event that is lost, if it ever was.
    pub fn hides(&self, position: u64) -> bool {
        (self.from + 1..self.to).contains(&position)
    }

    /// Those that Redis lists.
    pub fn list(value: Value) -> Option<Vec<Self>> {
        let seams = list(value)?;
        seams.iter().map(|seam| Self::parse(text(seam)?)).collect()
    }
}

/// What a node has seen of a log: nobody knows better what a server has lost.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// `None` where it has seen nothing yet.
    pub log: Option<LogId>,
    /// Of whatever log: positions rise from one to the next.
    pub seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing happened to the log.
    Kept,
    /// Another process of the server has it, and nothing is known to be lost.
    Seamed,
    /// There was none.
    Begun,
    /// It had lost events, and this is another one.
    Lost,
}

/// The log as it is claimed on a connection.
#[derive(Clone, Debug)]
pub struct Claim {
    pub outcome: Outcome,
    pub log: LogId,
    pub last: u64,
    pub trimmed: u64,
    /// Entries that others had put into the stream.
    pub foreign: u64,
    pub seams: Vec<Seam>,
}

/// Claims the log for a connection. `is_lost`: the node knows that events of its log are lost.
///
/// # Errors
/// Where Redis does not do it, or the log is a newer version's.
pub async fn claim(
    connection: &mut Connection,
    namespace: &Namespace,
    witness: &Witness,
    is_lost: bool,
) -> Result<Claim, Trouble> {
    let name = LogId::random().map_err(|_| Trouble::Strange("the machine's randomness"))?;
    let known = witness.log.as_ref().map_or("", LogId::as_str);
    let facts = &connection.facts;
    let answer: Value = CLAIM
        .key(&namespace.log)
        .key(&namespace.meta)
        .key(&namespace.seams)
        .key(&namespace.trims)
        .arg(&facts.identity)
        .arg(known)
        .arg(witness.seen)
        .arg(name.as_str())
        .arg(u8::from(facts.has_all()))
        .arg(u8::from(is_lost))
        .arg(FORMAT)
        .arg(LEAST_JUMP + fastrand::u64(..LEAST_JUMP))
        .invoke_async(&mut connection.link)
        .await?;
    let answer = list(answer).ok_or_else(strange("the answer to a claim"))?;
    if let [newer, format] = answer.as_slice()
        && text(newer) == Some("newer")
    {
        return Err(Trouble::Newer(text(format).unwrap_or_default().to_owned()));
    }
    parse_claim(answer).ok_or_else(strange("the answer to a claim"))
}

fn parse_claim(answer: Vec<Value>) -> Option<Claim> {
    let [outcome, log, last, trimmed, foreign, seams] = <[Value; 6]>::try_from(answer).ok()?;
    Some(Claim {
        outcome: match text(&outcome)? {
            "kept" => Outcome::Kept,
            "seam" => Outcome::Seamed,
            "begun" => Outcome::Begun,
            "lost" => Outcome::Lost,
            _ => return None,
        },
        log: LogId::parse(text(&log)?).ok()?,
        last: number(&last)?,
        trimmed: number(&trimmed)?,
        foreign: number(&foreign)?,
        seams: Seam::list(seams)?,
    })
}

/// How the log is.
#[derive(Clone, Debug)]
pub struct Look {
    pub identity: String,
    /// `None` where there is none.
    pub log: Option<LogId>,
    pub last: u64,
    pub trimmed: u64,
    pub has_stream: bool,
}

impl Look {
    /// Whether nothing has happened to the log that takes a claim.
    pub fn is_as_claimed(&self, identity: &str, log: &LogId) -> bool {
        self.has_stream && self.identity == identity && self.log.as_ref() == Some(log)
    }
}

/// Up to where a log is to be trimmed, and what is gone of each topic then.
pub struct Trim {
    pub until: u64,
    pub topics: Vec<u8>,
}

/// # Errors
/// Where Redis does not tell.
pub async fn look(
    connection: &mut Connection,
    namespace: &Namespace,
    log: &LogId,
    trim: Option<&Trim>,
) -> Result<Look, Trouble> {
    let mut call = LOOK.prepare_invoke();
    call.key(&namespace.log)
        .key(&namespace.meta)
        .key(&namespace.trims)
        .arg(log.as_str());
    match trim {
        Some(trim) => call.arg(trim.until).arg(&trim.topics),
        None => call.arg("").arg(""),
    };
    let answer: Value = call.invoke_async(&mut connection.link).await?;
    let parse = || {
        let [identity, log, last, trimmed, there] = <[Value; 5]>::try_from(list(answer)?).ok()?;
        Some(Look {
            identity: text(&identity)?.to_owned(),
            log: LogId::parse(text(&log)?).ok(),
            last: number(&last)?,
            trimmed: number(&trimmed)?,
            has_stream: number(&there)? == 1,
        })
    };
    parse().ok_or_else(strange("how the log is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seam_hides_what_lies_between_its_ends() {
        let seam = Seam::parse("7 20").unwrap();
        let hidden: Vec<u64> = (5..22).filter(|position| seam.hides(*position)).collect();
        assert_eq!(hidden, (8..20).collect::<Vec<_>>());
        assert_eq!(Seam::parse("7"), None);
    }
}
