//! A file of events, one a line: published in order, and only once however often it is run.

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::key_chain::KeyChain;
use super::lines::{self, Content, LINE_LIMIT, Line};
use super::post::{Accepted, Publisher};
use super::progress::Progress;
use super::say;
use crate::cli::failure::{Attempt, Failure};

/// Where the lines come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    Stdin,
    File(PathBuf),
}

/// What has been done so far.
#[derive(Debug, Default)]
struct Tally {
    published: u64,
    duplicates: u64,
    skipped: u64,
    last_id: Option<String>,
}

/// Why a line was not published.
enum Trouble {
    /// This line is at fault, and another may do better.
    Line(String),
    /// No line would do better.
    Gateway(String),
}

impl Source {
    /// `-` is stdin.
    pub fn of(path: &Path) -> Self {
        if path == Path::new("-") {
            Self::Stdin
        } else {
            Self::File(path.to_owned())
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Stdin => "stdin".to_owned(),
            Self::File(path) => format!("--file {}", path.display()),
        }
    }

    /// The input, and its length where that is known.
    fn open(self) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
        let name = self.name();
        match self {
            Self::Stdin => {
                if stdin().is_terminal() {
                    say(
                        "reading events from the terminal, one JSON object a line; end with Ctrl-D",
                    );
                }
                Ok((Box::new(stdin()), None))
            }
            Self::File(path) => {
                let file = File::open(&path).with_context(|| format!("cannot open {name}"))?;
                let about = file
                    .metadata()
                    .with_context(|| format!("cannot read {name}"))?;
                let length = about.is_file().then_some(about.len());
                Ok((Box::new(file), length))
            }
        }
    }
}

/// Publishes every line and tells the outcome on stderr.
pub async fn publish(
    mut publisher: Publisher,
    source: Source,
    again: bool,
    skip_bad: bool,
) -> Result<()> {
    let name = source.name();
    let (input, length) = source.open()?;
    let mut chain = if again {
        KeyChain::salted()?
    } else {
        KeyChain::new()
    };
    let mut tally = Tally::default();
    let progress = Progress::new(length);
    let mut lines = lines::read(input);
    while let Some(line) = lines.recv().await {
        let line = line.map_err(|reason| {
            anyhow::anyhow!("cannot read {name}: {reason}\n  {}", tally.before())
        })?;
        let (number, end) = (line.number, line.end);
        match publish_line(&mut publisher, &mut chain, line, &progress).await {
            Ok(accepted) => tally.count(accepted),
            Err(Trouble::Line(why)) if skip_bad => {
                tally.skipped += 1;
                progress.say(&format!("line {number} skipped: {why}"));
            }
            Err(Trouble::Line(why)) => bail!("line {number}: {why}\n  {}", tally.before()),
            Err(Trouble::Gateway(why)) => {
                bail!(
                    "line {number}: {why}\n  {}; the same command again within 10 minutes goes on here",
                    tally.before()
                )
            }
        }
        progress.advance(end, tally.total());
    }
    drop(progress);
    say(&tally.summary());
    Ok(())
}

async fn publish_line(
    publisher: &mut Publisher,
    chain: &mut KeyChain,
    line: Line,
    progress: &Progress,
) -> Result<Accepted, Trouble> {
    let bytes = match line.content {
        Content::Whole(bytes) => bytes,
        Content::TooLong(beginning) => {
            // It has its place in the chain all the same: the keys after it must not depend on --skip-bad.
            chain.next(&beginning);
            return Err(Trouble::Line(format!("longer than {LINE_LIMIT} bytes")));
        }
    };
    let key = chain.next(&bytes);
    check_object(&bytes).map_err(Trouble::Line)?;
    let body = Bytes::from(bytes);
    let sent = publisher
        .publish(body.clone(), &key, &|text| progress.say(text))
        .await;
    sent.map_err(|failure| {
        let topic = topic_of(&body);
        let attempt = Attempt {
            endpoint: publisher.endpoint(),
            grant: "publish",
            topics: topic.as_slice(),
        };
        let why = failure.explain(attempt);
        if is_fault_of_line(&failure) {
            Trouble::Line(why)
        } else {
            Trouble::Gateway(why)
        }
    })
}

/// Tells what is not an event object before it is sent; an array would be a batch with a single key.
fn check_object(bytes: &[u8]) -> Result<(), String> {
    let value: &RawValue =
        serde_json::from_slice(bytes).map_err(|reason| format!("not JSON: {reason}"))?;
    if value.get().starts_with('{') {
        Ok(())
    } else {
        Err(
            "not a JSON object: each line is one event, as {\"topic\":\"order:1\",\"data\":…}"
                .to_owned(),
        )
    }
}

/// The line's topic, or nothing where it has none to show.
fn topic_of(line: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        topic: String,
    }
    serde_json::from_slice(line)
        .ok()
        .map(|Event { topic }| topic)
}

fn is_fault_of_line(failure: &Failure) -> bool {
    const FAULTS: [&str; 5] = [
        "bad_request",
        "bad_topic",
        "too_large",
        "forbidden",
        "conflict",
    ];
    matches!(failure, Failure::Refused(refusal) if FAULTS.contains(&refusal.code.as_str()))
}

impl Tally {
    fn count(&mut self, accepted: Accepted) {
        if accepted.duplicate {
            self.duplicates += 1;
        } else {
            self.published += 1;
        }
        self.last_id = Some(accepted.id);
    }

    /// Events that are on the bus, whoever put them there.
    fn total(&self) -> u64 {
        self.published + self.duplicates
    }

    fn before(&self) -> String {
        format!(
            "{} before it ({} were already there)",
            events(self.published, "published"),
            self.duplicates
        )
    }

    fn summary(&self) -> String {
        let last = self
            .last_id
            .as_ref()
            .map_or(String::new(), |id| format!(", last id {id}"));
        let skipped = match self.skipped {
            0 => String::new(),
            1 => ", 1 bad line skipped".to_owned(),
            count => format!(", {count} bad lines skipped"),
        };
        format!(
            "{} ({} were already there){last}{skipped}",
            events(self.published, "published"),
            self.duplicates
        )
    }
}

fn events(count: u64, verb: &str) -> String {
    format!("{verb} {count} event{}", if count == 1 { "" } else { "s" })
}
