//! `tribus publish`: one event from the command line, or a file of them.

mod key_chain;
mod lines;
mod ndjson;
mod post;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::value::RawValue;

use self::ndjson::Source;
use self::post::Publisher;
use super::endpoint::{Endpoint, EndpointArgs};
use super::failure::Attempt;
use super::tag::Tag;

/// Retries must end while the gateway still knows the key, which it forgets after 10 minutes.
const LONGEST_RETRY: Duration = Duration::from_secs(9 * 60);

const EXAMPLES: &str = "\
Examples:
  tribus publish order:123 '{\"status\":\"paid\"}' --event order:updated
  tribus publish chat:1 --text 'Hello there' --tag lang:en
  tribus publish order:123                               an event without data
  tribus publish --file events.ndjson                    one event object a line
  generate | tribus publish --file -

A line of a file is what POST /publish takes: {\"topic\":\"order:1\",\"event\":\"created\",\"data\":{…}}.

Every event is sent with an idempotency key, so that a retry publishes nothing twice. The keys of a \
file come from its content: the same command again within 10 minutes publishes only what was not \
there yet; --again publishes it all anew.";

/// Publish an event, or a file of events
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "tribus publish [OPTIONS] <TOPIC> [DATA]\n       tribus publish [OPTIONS] --file <FILE>"
)]
pub struct Args {
    /// Topic to publish to
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    topic: Option<String>,

    /// Data of the event: JSON, or any text with --text
    #[arg(conflicts_with = "file", allow_negative_numbers = true)]
    data: Option<String>,

    #[command(flatten)]
    endpoint: EndpointArgs,

    /// Name of the event; `message` if none is given
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    event: Option<String>,

    /// Tag to filter by, as key:value or key=value; may be repeated
    #[arg(long = "tag", value_name = "KEY:VALUE", value_parser = Tag::parse, conflicts_with = "file")]
    tags: Vec<Tag>,

    /// Idempotency key: the same key within 10 minutes publishes once; random if none is given
    #[arg(long, value_parser = parse_key, conflicts_with = "file")]
    key: Option<String>,

    /// Deliver to those who are there now and never replay
    #[arg(long, conflicts_with = "file")]
    ephemeral: bool,

    /// Send DATA as a JSON string, whatever it holds
    #[arg(long, requires = "data", conflicts_with = "file")]
    text: bool,

    /// Publish each line of this file, in order; `-` reads stdin
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Publish the file anew, even what was published within the last 10 minutes
    #[arg(long, requires = "file", conflicts_with = "topic")]
    again: bool,

    /// Report bad lines and go on, instead of stopping at the first
    #[arg(long, requires = "file", conflicts_with = "topic")]
    skip_bad: bool,

    /// How long to go on trying while the gateway is busy or away; at most 9m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_retry_for)]
    retry_for: Duration,
}

/// The body of a publish. `data` goes as it was given: numbers keep their digits.
#[derive(Serialize)]
struct Event<'a> {
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ephemeral: bool,
}

/// Publishes what was asked for.
pub async fn run(args: Args) -> Result<ExitCode> {
    let publisher = Publisher::new(Endpoint::new(args.endpoint.clone())?, args.retry_for)?;
    match &args.file {
        Some(path) => {
            ndjson::publish(publisher, Source::of(path), args.again, args.skip_bad).await?
        }
        None => publish_one(publisher, &args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn publish_one(mut publisher: Publisher, args: &Args) -> Result<()> {
    let topic = args.topic.as_ref().context("a topic is needed")?;
    refuse_file_as_topic(topic, args)?;
    let body =
        serde_json::to_vec(&event(topic, args)?).context("the event cannot be written as JSON")?;
    let key = args.key.clone().map_or_else(random_key, Ok)?;
    let accepted = match publisher.publish(body.into(), &key, &say).await {
        Ok(accepted) => accepted,
        Err(failure) => {
            bail!(failure.explain(Attempt {
                endpoint: publisher.endpoint(),
                grant: "publish",
                topics: std::slice::from_ref(topic)
            }))
        }
    };
    if accepted.duplicate && args.key.is_some() {
        say("this key was used before: the event was already there");
    }
    print_id(&accepted.id)
}

/// Without data, the name of a file is more likely one where `--file` was forgotten.
fn refuse_file_as_topic(topic: &str, args: &Args) -> Result<()> {
    if args.data.is_none() && Path::new(topic).is_file() {
        bail!(
            "{topic} is a file: publish its lines with --file {topic}\n  \
             where it is the topic that is meant, give DATA too, if only null"
        );
    }
    Ok(())
}

fn event<'a>(topic: &'a str, args: &'a Args) -> Result<Event<'a>> {
    Ok(Event {
        topic,
        event: args.event.as_deref(),
        data: args
            .data
            .as_deref()
            .map(|data| parse_data(data, args.text))
            .transpose()?,
        tags: args
            .tags
            .iter()
            .map(|Tag { key, value }| (key.as_str(), value.as_str()))
            .collect(),
        ephemeral: args.ephemeral,
    })
}

fn parse_data(data: &str, is_text: bool) -> Result<Box<RawValue>> {
    if is_text {
        return serde_json::value::to_raw_value(data).context("the text cannot be written as JSON");
    }
    serde_json::from_str(data).map_err(|reason| {
        anyhow::anyhow!(
            "DATA is not JSON: {reason}\n  quote it for the shell, as '{{\"a\":1}}', or send it as a string with --text"
        )
    })
}

fn parse_key(text: &str) -> Result<String, &'static str> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a key has one or more visible ASCII characters and no space")
    }
}

fn parse_retry_for(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|reason| format!("{reason}; write it as 30s or 2m"))?;
    if time <= LONGEST_RETRY {
        Ok(time)
    } else {
        Err("at most 9m: later the gateway may not know the key".to_owned())
    }
}

/// A key that no one else has used.
fn random_key() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("no random numbers are to be had"))?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn print_id(id: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{id}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the id to stdout")
        }
        _ => Ok(()),
    }
}

fn say(line: &str) {
    // A closed stderr must not undo what was published.
    let _ = writeln!(std::io::stderr(), "{line}");
}
