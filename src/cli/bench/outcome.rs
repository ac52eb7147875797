//! The findings in numbers for people and programs: what the table shows and `--json` prints.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::complaints::Complaint;
use super::course::Course;
use super::dialect::Peer;
use super::plan::Group;
use super::reader::Members;
use super::record;
use super::stages::{Findings, Gateway};
use super::tally::Account;

/// A thread of clients that is busier than this may be what was measured.
const BUSY: f64 = 0.85;

/// Threads of clients that were ready and without a core for a larger share of the time may be too.
const WAITED: f64 = 0.1;

/// A publisher that is further behind its schedule, in milliseconds at the 99th percentile, may be too.
const BEHIND: f64 = 10.0;

/// Of `--json`. Times are in milliseconds unless their name says otherwise.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// No client lost, repeated or misplaced an event, all took part, and something was published.
    pub ok: bool,
    pub url: String,
    /// The server with `--peer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<&'static str>,
    pub run: String,
    pub connections: usize,
    pub topics: u32,
    pub rate: u32,
    pub size: usize,
    pub duration_seconds: f64,
    pub opened_in_seconds: f64,
    pub groups: Vec<Row>,
    pub total: Row,
    pub published: Publishing,
    pub deliveries_per_second: f64,
    /// Clients that were not let in, or not in time, by reason.
    pub refused: Vec<Complaint>,
    /// Attempts to connect that were made again.
    pub delayed: Vec<Complaint>,
    /// Connections that ended under a client that was live.
    pub cut: Vec<Complaint>,
    pub hops: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catch_up: Option<CatchingUp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Cost>,
    pub bench: Own,
    pub timeline: Vec<Second>,
    /// For the report.
    #[serde(skip)]
    pub curves: Vec<Curve>,
}

/// The latency of a group at many percentiles.
#[derive(Debug)]
pub struct Curve {
    pub name: String,
    /// A share of the deliveries, below 1, and the milliseconds within which they came.
    pub points: Vec<(f64, f64)>,
}

/// The clients of one group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub name: String,
    pub connections: usize,
    /// Those that were subscribed when the events began; the others are left out of what follows.
    pub live: usize,
    #[serde(flatten)]
    pub account: Account,
    /// From when an event was due until a client had it.
    pub latency: Times,
}

/// Percentiles, in milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Times {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Publishing {
    pub accepted: u64,
    pub failed: u64,
    pub failures: Vec<Complaint>,
    /// From when an event was due until it was sent.
    pub behind: Times,
    /// From sending until the answer.
    pub answered: Times,
}

/// After all had left and come back at once.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CatchingUp {
    pub clients: usize,
    pub complete: usize,
    pub deliveries: u64,
    pub seconds: f64,
    /// From opening the connections until a client had all it missed.
    pub client: Times,
}

/// What the gateway's process took.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    pub cpu_microseconds_per_delivery: f64,
    /// In cores, of the steady phase.
    pub cpu_seconds: f64,
    pub bytes_per_idle_connection: f64,
    pub memory_before_bytes: u64,
    pub memory_idle_bytes: u64,
    pub memory_after_bytes: u64,
}

/// How busy the bench itself was.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Own {
    pub threads: usize,
    /// Of the time of its threads of clients, in the steady phase: from 0 to 1.
    pub busy: f64,
    /// Of the same time, the share for which they were ready and other programs had the cores.
    pub waited: f64,
}

/// One second of the run, from the first event on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    pub second: usize,
    pub deliveries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

impl Outcome {
    pub fn new(url: &str, course: &Course, findings: &Findings) -> Self {
        let plan = &course.plan;
        let share = &findings.share;
        let total = total(findings);
        let published = &findings.published;
        let gave_all = findings
            .catch_up
            .as_ref()
            .is_none_or(|back| back.complete == back.clients);
        let everyone = total.live == total.connections;
        Self {
            ok: everyone && gave_all && published.accepted > 0 && !total.account.is_faulty(),
            url: url.to_owned(),
            peer: course.dialect.peer().map(Peer::name),
            run: plan.run.clone(),
            connections: plan.connections,
            topics: plan.topics,
            rate: plan.rate,
            size: plan.size,
            duration_seconds: plan.duration.as_secs_f64(),
            opened_in_seconds: findings.opened_in.as_secs_f64(),
            groups: rows(findings),
            total,
            published: Publishing {
                accepted: published.accepted,
                failed: published.failed,
                failures: published.failures.listed(),
                behind: Times::of(&published.behind),
                answered: Times::of(&published.answered),
            },
            deliveries_per_second: per_second(findings),
            refused: share.refused.listed(),
            delayed: share.delayed.listed(),
            cut: share.cut.listed(),
            hops: share.hops,
            catch_up: findings.catch_up.as_ref().map(|back| CatchingUp {
                clients: back.clients,
                complete: back.complete,
                deliveries: back.deliveries,
                seconds: back.took.as_secs_f64(),
                client: Times::of(&share.catch_up),
            }),
            gateway: findings
                .gateway
                .as_ref()
                .map(|gateway| cost(gateway, findings)),
            bench: Own {
                threads: plan.threads,
                busy: ratio(share.busy, share.steady) / plan.threads as f64,
                waited: ratio(share.waited, share.steady) / plan.threads as f64,
            },
            timeline: timeline(findings),
            curves: curves(findings),
        }
    }

    /// What makes the figures doubtful, for people to read.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.bench.busy > BUSY {
            doubts.push(format!(
                "the bench itself was busy for {:.0} % of the time: latencies may be its own; give it more --threads, or \
                 another machine",
                self.bench.busy * 100.0
            ));
        }
        if self.bench.waited > WAITED {
            doubts.push(format!(
                "the bench itself waited for a core for {:.0} % of the time, since other programs had them: latencies may be \
                 its own",
                self.bench.waited * 100.0
            ));
        }
        if self.published.behind.p99 > BEHIND {
            doubts.push(format!(
                "events were sent up to {} late (99 %), since the gateway answered slowly or this machine is busy; their \
                 latency counts from when they were due",
                milliseconds(self.published.behind.p99)
            ));
        }
        doubts
    }
}

impl Times {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// A time in milliseconds with as many digits as it deserves.
pub fn milliseconds(time: f64) -> String {
    match time {
        _ if time < 10.0 => format!("{time:.2} ms"),
        _ if time < 100.0 => format!("{time:.1} ms"),
        _ if time < 10_000.0 => format!("{time:.0} ms"),
        _ => format!("{:.1} s", time / 1000.0),
    }
}

fn rows(findings: &Findings) -> Vec<Row> {
    let groups = Group::ALL.into_iter().zip(&findings.share.groups);
    groups
        .filter(|(_, members)| members.connections > 0)
        .map(|(group, members)| {
            let latency = Times::of(findings.share.record.latency(group));
            row(group.name(), *members, latency)
        })
        .collect()
}

/// All clients; the latency is of those that read, since that of slow ones is their own doing.
fn total(findings: &Findings) -> Row {
    let mut all = Members::default();
    for members in &findings.share.groups {
        all.connections += members.connections;
        all.live += members.live;
        all.account += members.account;
    }
    let mut latency = record::histogram();
    for group in Group::ALL {
        if group != Group::Slow {
            record::merge(&mut latency, findings.share.record.latency(group));
        }
    }
    row("all", all, Times::of(&latency))
}

fn row(name: &str, members: Members, latency: Times) -> Row {
    Row {
        name: name.to_owned(),
        connections: members.connections,
        live: members.live,
        account: members.account,
        latency,
    }
}

/// Up to the percentile that the slowest of the deliveries stands for.
fn curves(findings: &Findings) -> Vec<Curve> {
    const STEPS: u32 = 160;
    const NINES: f64 = 4.0;
    let curve = |group: Group| {
        let latency = findings.share.record.latency(group);
        let most = (latency.len() as f64).log10().min(NINES);
        let share = |step| 1.0 - 10f64.powf(-most * f64::from(step) / f64::from(STEPS));
        let points = (0..=STEPS).map(share);
        Curve {
            name: group.name().to_owned(),
            points: points
                .map(|share| (share, latency.value_at_quantile(share) as f64 / 1000.0))
                .collect(),
        }
    };
    let groups = Group::ALL.into_iter();
    groups
        .filter(|group| !findings.share.record.latency(*group).is_empty())
        .map(curve)
        .collect()
}

fn cost(gateway: &Gateway, findings: &Findings) -> Cost {
    let live: usize = findings
        .share
        .groups
        .iter()
        .map(|members| members.live)
        .sum();
    let grown = gateway.memory_idle.saturating_sub(gateway.memory_before);
    Cost {
        cpu_microseconds_per_delivery: gateway.cpu.as_secs_f64() * 1e6
            / findings.deliveries.max(1) as f64,
        cpu_seconds: gateway.cpu.as_secs_f64(),
        bytes_per_idle_connection: grown as f64 / live.max(1) as f64,
        memory_before_bytes: gateway.memory_before,
        memory_idle_bytes: gateway.memory_idle,
        memory_after_bytes: gateway.memory_after,
    }
}

fn per_second(findings: &Findings) -> f64 {
    let steady = findings.share.steady.as_secs_f64();
    if steady > 0.0 {
        findings.steady_deliveries as f64 / steady
    } else {
        0.0
    }
}

fn timeline(findings: &Findings) -> Vec<Second> {
    let samples = findings.gateway.iter().flat_map(|gateway| &gateway.memory);
    let mut memory: Vec<_> = samples
        .map(|(at, bytes)| {
            (
                at.saturating_sub(findings.started_at) / 1_000_000_000,
                *bytes,
            )
        })
        .collect();
    memory.dedup_by_key(|(second, _)| *second);
    let memory_at = |wanted: usize| {
        let found = memory.binary_search_by_key(&(wanted as u64), |(second, _)| *second);
        found.ok().map(|place| memory[place].1)
    };
    let seconds = findings.share.record.seconds().enumerate();
    seconds
        .map(|(second, deliveries)| Second {
            second,
            deliveries,
            memory_bytes: memory_at(second),
        })
        .collect()
}

fn ratio(part: Duration, whole: Duration) -> f64 {
    if whole.is_zero() {
        0.0
    } else {
        part.as_secs_f64() / whole.as_secs_f64()
    }
}
