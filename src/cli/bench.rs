//! `tribus bench`: load on a deployment over all three transports, with a count of what each client got.

mod client;
mod complaints;
mod course;
mod dialect;
mod outcome;
mod plan;
mod progress;
mod publisher;
mod reader;
mod record;
mod report;
mod server;
mod stages;
mod stamp;
mod table;
mod tally;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};

use self::course::Course;
use self::dialect::{Dialect, Peer};
use self::outcome::Outcome;
use self::plan::{Plan, Transport, Wish};
use self::progress::Progress;
use self::server::Process;
use self::target::Target;
use super::endpoint::{Endpoint, EndpointArgs};
use super::failure::{Attempt, Failure, Refusal};
use super::open_files;

/// Files besides the connections: of the publisher, the selectors, and the process's own.
const RESERVE: u64 = 64;

/// What the parser of the command line exits with too.
const WRONG_USAGE: u8 = 2;

/// An answer to a first question that takes longer is none.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  tribus bench                                           1,000 clients on all transports, for 10 seconds
  tribus bench --url https://live.example.org --connections 5000 --topics 100 --rate 200 --duration 30s
  tribus bench --transport ws --topics 1 --rate 20       one topic for everyone
  tribus bench --resume --hop                            from transport to transport; in the end all back at once
  tribus bench --slow 5%                                 one in twenty that does not read
  tribus bench --peer nchan --url http://127.0.0.1:18180 --report nchan.html
                                                         another server, by the same count
  tribus bench --pid $(pgrep -x tribus) --json | jq .gateway
                                                         what a gateway on this machine takes for it

Each client follows one topic, named bench:RUN:0 and so on, and counts its events. Events are published on a schedule that \
waits for nobody, and their latency counts from when they were due, so that a gateway that falls behind shows. A \
client whose connection ends comes back with its cursor.

The token has to be granted `bench:**` for both, and to be good to the end, as by: tribus token --sub bench --subscribe 'bench:**' \
--publish 'bench:**' --ttl 1h. It is one subject, so the gateway's limits of a subject hold for all clients together.

Exit codes: 0 where every client got every event, once and in order, or was told of a gap by a reset; 1 where one did not, \
or was not let in, or nothing could be published; 2 wrong usage.";

/// Put load on a gateway over all three transports, and count what each client got
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    endpoint: EndpointArgs,

    /// Wires to read over, in even shares
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "ws,sse,poll",
        value_name = "WIRES"
    )]
    transport: Vec<Transport>,

    /// Clients, each with a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1000)]
    connections: usize,

    /// Topics; each client follows one of them
    #[arg(long, value_name = "N", default_value_t = 10)]
    topics: u32,

    /// Events a second, over all topics
    #[arg(long, value_name = "N", default_value_t = 50)]
    rate: u32,

    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    size: usize,

    /// How long to publish
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    duration: Duration,

    /// What has not come when nothing at all came for this long counts as lost
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    grace: Duration,

    /// In the end cut all connections, publish 100 events of each topic, and have everyone back at once
    #[arg(long)]
    resume: bool,

    /// Share of clients that read nothing until all is published
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_share)]
    slow: f64,

    /// Each client goes on over the next transport every 3 seconds, with its cursor
    #[arg(long)]
    hop: bool,

    /// Process of the gateway, on this machine: tell its CPU time and memory
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Threads that read; by default one for each core but one
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Measure another server instead: its own frames, the same count. It is not shown the token
    #[arg(long, value_enum, value_name = "SERVER")]
    peer: Option<Peer>,

    /// Path of the peer where events are published, one a request; {topic} stands for the topic
    #[arg(long, value_name = "PATH", requires = "peer")]
    peer_publish: Option<String>,

    /// Path of the peer where a topic is subscribed; {topic} stands for the topic
    #[arg(long, value_name = "PATH", requires = "peer")]
    peer_subscribe: Option<String>,

    /// Also write a page with the table and charts to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs it, and prints what came out.
pub async fn run(args: Args) -> Result<ExitCode> {
    let endpoint = Endpoint::new(args.endpoint.clone())?;
    let plan = match Plan::new(wish(&args)) {
        Ok(plan) => plan,
        Err(nonsense) => {
            eprintln!("error: {nonsense}");
            return Ok(ExitCode::from(WRONG_USAGE));
        }
    };
    let process = args.pid.map(Process::find).transpose()?;
    args.report.as_deref().map(report::try_file).transpose()?;
    allow_files(plan.connections)?;
    let dialect = dialect(&args);
    let is_gateway = dialect == Dialect::Tribus;
    if is_gateway {
        knock(&endpoint, &plan).await?;
    }
    let target = Target::find(&endpoint, is_gateway)?;
    let course = Arc::new(Course::new(plan, target, dialect));
    let progress = Progress::new(args.json);
    let findings = stages::run(&course, process.as_ref(), &progress)?;
    drop(progress);
    let outcome = Outcome::new(endpoint.base(), &course, &findings);
    print(&outcome, args.json)?;
    if let Some(file) = &args.report {
        report::write(&outcome, file)?;
    }
    Ok(if outcome.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn dialect(args: &Args) -> Dialect {
    let Some(peer) = args.peer else {
        return Dialect::Tribus;
    };
    let (publish, subscribe) = peer.paths();
    Dialect::Of {
        peer,
        publish: args.peer_publish.as_deref().unwrap_or(publish).to_owned(),
        subscribe: args
            .peer_subscribe
            .as_deref()
            .unwrap_or(subscribe)
            .to_owned(),
    }
}

fn wish(args: &Args) -> Wish {
    let is_spoken = |transport: &Transport| args.peer.is_none_or(|peer| peer.has(*transport));
    Wish {
        transports: args.transport.iter().copied().filter(is_spoken).collect(),
        connections: args.connections,
        topics: args.topics,
        rate: args.rate,
        size: args.size,
        duration: args.duration,
        grace: args.grace,
        slow: args.slow,
        resume: args.resume,
        hop: args.hop,
        threads: args.threads,
    }
}

/// Has the process hold as many connections.
fn allow_files(connections: usize) -> Result<()> {
    let allowed = open_files::raise().context("cannot raise the limit of open files")?;
    let needed = connections as u64 + RESERVE;
    if allowed < needed {
        bail!(
            "--connections {connections} takes {needed} open files, and this process may have {allowed}: raise its limit \
             (ulimit -Hn), or give fewer"
        );
    }
    Ok(())
}

/// Asks once for what every client will ask for, so that a refusal is told once and with what to do.
async fn knock(endpoint: &Endpoint, plan: &Plan) -> Result<()> {
    let client = endpoint.client()?;
    let topic = plan.topic_name(0);
    let poll = endpoint.http("poll", [("topics", topic.clone())]);
    ask(endpoint, client.get(poll), "subscribe", &topic).await?;
    // Ephemeral, and of a topic that no client follows.
    let body = format!(r#"{{"topic":"bench:{}:knock","ephemeral":true}}"#, plan.run);
    let publish = client.post(endpoint.http("publish", []));
    let publish = publish.header(CONTENT_TYPE, "application/json").body(body);
    ask(endpoint, publish, "publish", &topic).await
}

async fn ask(
    endpoint: &Endpoint,
    mut request: reqwest::RequestBuilder,
    grant: &'static str,
    topic: &str,
) -> Result<()> {
    if let Some(credential) = endpoint.credential() {
        request = request.header(AUTHORIZATION, credential.clone());
    }
    let failure = match request.timeout(FIRST_ANSWER).send().await {
        Ok(answer) if answer.status().is_success() => return Ok(()),
        Ok(answer) => Failure::Refused(Refusal::of_response(answer).await),
        Err(error) => Failure::of_request(&error),
    };
    // Not the topic of this run, but what is good for all of them.
    debug_assert!(topic.starts_with("bench:"));
    bail!(failure.explain(Attempt {
        endpoint,
        grant,
        topics: &["bench:**".to_owned()],
    }))
}

fn print(outcome: &Outcome, as_json: bool) -> Result<()> {
    let printed = if as_json {
        serde_json::to_writer(std::io::stdout().lock(), outcome)
            .map_err(std::io::Error::from)
            .and_then(|()| std::io::Write::write_all(&mut std::io::stdout(), b"\n"))
    } else {
        table::print(outcome, &mut anstream::stdout().lock())
    };
    match printed {
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("cannot print the outcome"),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|reason| format!("{reason}; write it as 30s or 2m"))
}

fn parse_share(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err("a share is written as 5%, from 0% to below 100%".to_owned()),
    }
}
