//! `tribus subscribe`: print events as they come, for as long as wanted.

mod cursor_file;
mod feed;
mod follow;
mod item;
mod poll;
mod sse;
mod sse_parser;
mod status;
#[cfg(test)]
mod tests;
mod ws;

use std::io::{BufWriter, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use self::cursor_file::{CursorFile, is_cursor};
use self::feed::{Position, Selection, Transport};
use self::follow::{Follower, Link};
use self::status::Status;
use super::endpoint::{Endpoint, EndpointArgs};
use super::tag::Tag;

const EXAMPLES: &str = "\
Examples:
  tribus subscribe 'order:*'                             what is published from now on
  tribus subscribe 'order:*' invoice:7 --rewind 10       the last ten of each topic first
  tribus subscribe 'repo:**' --cursor earliest --count 5 | jq .data
  tribus subscribe 'order:*' --event order:paid --tag region:eu --transport sse
  tribus subscribe 'order:*' --cursor-file order.cursor >> orders.ndjson
                                                         goes on where the last run ended

Filters: `*` matches within a segment (order:* matches order:1, not order:1:items), `**` any number \
of segments. Quote them, or the shell takes them for file names.

The command follows for ever: when the connection is lost it comes back and resumes after the last \
event. A gateway that cannot be reached at the start is given 5 seconds.

Exit codes: 0 after --count events or when the reader of stdout has gone; 1 refused; 2 wrong usage; \
3 a reset with --fail-on-reset.";

/// Print events of topics, one JSON envelope a line, resuming after every loss of connection
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = "tribus subscribe [OPTIONS] <FILTER>...")]
pub struct Args {
    /// Topics or topic filters to subscribe to
    #[arg(required = true, value_name = "FILTER")]
    topics: Vec<String>,

    #[command(flatten)]
    endpoint: EndpointArgs,

    /// The wire to read over; the events are the same on all of them
    #[arg(long, value_enum, default_value = "ws")]
    transport: Transport,

    /// Begin after this cursor (any event's id), or with `earliest` at the oldest retained event
    #[arg(long, value_name = "CURSOR", value_parser = parse_cursor)]
    cursor: Option<String>,

    /// Begin with the last N retained events of each topic
    #[arg(long, value_name = "N", conflicts_with = "cursor", value_parser = clap::value_parser!(u32).range(1..=100))]
    rewind: Option<u32>,

    /// Only events of this name; may be repeated
    #[arg(long = "event", value_name = "NAME")]
    events: Vec<String>,

    /// Only events with this tag, as key:value or key=value; all of several must match
    #[arg(long = "tag", value_name = "KEY:VALUE", value_parser = Tag::parse)]
    tags: Vec<Tag>,

    /// Exit after N events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Keep the last cursor in this file and begin there; --cursor and --rewind count only while it is empty
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,

    /// Exit with code 3 when events were missed, instead of going on after the gap
    #[arg(long)]
    fail_on_reset: bool,

    /// No status lines on stderr
    #[arg(long, short)]
    quiet: bool,
}

/// Follows the subscription until its end.
pub async fn run(args: Args) -> Result<ExitCode> {
    let endpoint = Endpoint::new(args.endpoint)?;
    let cursor_file = args
        .cursor_file
        .as_deref()
        .map(CursorFile::open)
        .transpose()?;
    let selection = Selection {
        topics: parse_topics(args.topics)?,
        events: args.events,
        tags: args.tags,
    };
    let follower = Follower {
        client: endpoint.client()?,
        endpoint,
        transport: args.transport,
        selection,
        position: position(cursor_file.as_ref(), args.cursor, args.rewind),
        cursor_file,
        remaining: args.count,
        fail_on_reset: args.fail_on_reset,
        out: BufWriter::new(std::io::stdout()),
        status: Status { quiet: args.quiet },
        link: Link::default(),
    };
    match follower.follow().await {
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        end => end,
    }
}

fn position(file: Option<&CursorFile>, cursor: Option<String>, rewind: Option<u32>) -> Position {
    let saved = file.and_then(CursorFile::cursor).map(str::to_owned);
    match (saved.or(cursor), rewind) {
        (Some(cursor), _) => Position::After(cursor),
        (None, Some(count)) => Position::Rewind(count),
        (None, None) => Position::Now,
    }
}

/// A comma separates filters in the query, so one may be given here as well.
fn parse_topics(given: Vec<String>) -> Result<Vec<String>> {
    let topics: Vec<_> = given
        .iter()
        .flat_map(|topics| topics.split(','))
        .map(str::to_owned)
        .collect();
    if topics.iter().any(String::is_empty) {
        bail!("a topic filter is empty");
    }
    Ok(topics)
}

fn parse_cursor(text: &str) -> Result<String, &'static str> {
    if is_cursor(text) {
        Ok(text.to_owned())
    } else {
        Err("a cursor has 1 to 64 letters, digits, `.`, `_` or `-`: an event's `id`, or `earliest`")
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
