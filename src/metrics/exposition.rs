//! The names, helps and labels of everything that is exposed.
//!
//! Of families with two labels only the series that have counted something are written; all others
//! are written from the start, so that an alert sees their first increment.

use std::{fmt::Error, sync::PoisonError};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use super::{
    Channel, Credential, Ending, Endpoint, EngineState, Node, NodeState, Way,
    counters::{Counters, Number},
    latency::Summary,
    process::Process,
    workers::Workers,
};
use crate::protocol::{ErrorCode, LimitKind, ResetReason, Transport};

/// Writes families.
struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

/// A family's name, its unit and its help.
struct Family {
    name: &'static str,
    unit: Option<Unit>,
    help: &'static str,
}

const fn family(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        unit: None,
        help,
    }
}

const fn family_in(name: &'static str, unit: Unit, help: &'static str) -> Family {
    Family {
        name,
        unit: Some(unit),
        help,
    }
}

type OneLabel = [(&'static str, &'static str); 1];

fn transport_label(transport: Transport) -> OneLabel {
    [("transport", transport.as_str())]
}

impl Page<'_, '_> {
    fn counters<L: EncodeLabelSet>(
        &mut self,
        family: &Family,
        series: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), Error> {
        let (name, unit) = (family.name, family.unit.as_ref());
        let mut encoder = self
            .0
            .encode_descriptor(name, family.help, unit, MetricType::Counter)?;
        for (labels, value) in series {
            let mut encoder = encoder.encode_family(&labels)?;
            encoder.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    fn counter(&mut self, family: &Family, value: u64) -> Result<(), Error> {
        let (name, unit) = (family.name, family.unit.as_ref());
        self.0
            .encode_descriptor(name, family.help, unit, MetricType::Counter)?
            .encode_counter::<NoLabelSet, u64, f64>(&value, None)
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        family: &Family,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        let (name, unit) = (family.name, family.unit.as_ref());
        let mut encoder = self
            .0
            .encode_descriptor(name, family.help, unit, MetricType::Gauge)?;
        for (labels, value) in series {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge(&mut self, family: &Family, value: impl EncodeGaugeValue) -> Result<(), Error> {
        let (name, unit) = (family.name, family.unit.as_ref());
        self.0
            .encode_descriptor(name, family.help, unit, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn histograms<L: EncodeLabelSet>(
        &mut self,
        family: &Family,
        series: impl IntoIterator<Item = (L, Summary)>,
    ) -> Result<(), Error> {
        let (name, unit) = (family.name, family.unit.as_ref());
        let mut encoder =
            self.0
                .encode_descriptor(name, family.help, unit, MetricType::Histogram)?;
        for (labels, summary) in series {
            encoder
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    summary.seconds(),
                    summary.count(),
                    &summary.buckets(),
                    None,
                )?;
        }
        Ok(())
    }
}

impl Collector for Node {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let workers = self.workers();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.clone();
        let mut page = Page(&mut encoder);
        connections(&mut page, &workers, &state)?;
        lag(&mut page, &workers, &state)?;
        events(&mut page, &workers)?;
        bytes(&mut page, &workers)?;
        refusals(&mut page, &workers)?;
        log(&mut page, &workers, &state)?;
        node(&mut page, self, &state)
    }
}

fn connections(page: &mut Page<'_, '_>, workers: &Workers, state: &NodeState) -> Result<(), Error> {
    page.gauges(
        &family(
            "connections",
            "Open connections of authenticated clients, waiting polls among them. A sudden fall \
             means that clients were cut off: look at tribus_connections_closed_total.",
        ),
        Transport::ALL.map(|kind| (transport_label(kind), workers.open(kind))),
    )?;
    page.gauge(
        &family(
            "places_taken",
            "Places taken of limits.connections, clients that have not authenticated yet among \
             them. Close to the limit: raise it, or add nodes.",
        ),
        state.places_taken as u64,
    )?;
    page.counters(
        &family(
            "connections_opened",
            "Connections of authenticated clients that were opened; each poll counts. Many more \
             than are open: clients reconnect often, look for the reason in \
             tribus_connections_closed_total.",
        ),
        Transport::ALL.map(|kind| {
            let opened = workers.sum(|worker| &worker.opened[kind as usize]);
            (transport_label(kind), opened)
        }),
    )?;
    page.counters(
        &family(
            "connections_closed",
            "Connections that ended, by why: the reasons of docs/protocol.md with their close \
             code, client_left where the client or the network ended it, answered for a poll. Many \
             silent: a proxy drops idle connections, lower heartbeat.",
        ),
        Transport::ALL.into_iter().flat_map(|transport| {
            Ending::all().filter_map(move |ending| closed(workers, transport, ending))
        }),
    )
}

type ClosedLabels = [(&'static str, String); 3];

fn closed(workers: &Workers, transport: Transport, ending: Ending) -> Option<(ClosedLabels, u64)> {
    let count = workers.sum(|worker| &worker.closed[transport as usize][ending.index()]);
    let code = ending.code().map_or(String::new(), |code| code.to_string());
    let labels = [
        ("transport", transport.as_str().to_owned()),
        ("reason", ending.as_str().to_owned()),
        ("code", code),
    ];
    (count > 0).then_some((labels, count))
}

fn lag(page: &mut Page<'_, '_>, workers: &Workers, state: &NodeState) -> Result<(), Error> {
    page.gauges(
        &family(
            "connections_behind",
            "Connections that read from the log, because they resume or are slow, and are not \
             live. Many for long: clients or their networks are slow, or the node is overloaded \
             (see tribus_worker_queue_events).",
        ),
        Transport::ALL.map(|kind| (transport_label(kind), state.lag.of(kind).behind)),
    )?;
    page.gauges(
        &family(
            "connection_lag_events",
            "Events of the log that the connection furthest behind has not been served. Close to \
             tribus_retained_events: that client is about to get a reset, raise retention.events \
             if it is one that matters.",
        ),
        Transport::ALL.map(|kind| (transport_label(kind), state.lag.of(kind).most_events)),
    )?;
    page.gauge(
        &family(
            "silent_workers",
            "Workers that did not tell their connections' lag in time for this scrape, and are \
             missing in it. Not 0 for several scrapes: a worker is overloaded or stuck.",
        ),
        state.silent_workers as u64,
    )?;
    page.gauges(
        &family(
            "worker_queue_events",
            "Events that a worker has not offered to its live connections yet. Rising: the \
             worker's core is saturated, add workers, cores or nodes.",
        ),
        workers.running().map(|(number, worker)| {
            let behind = state.head.saturating_sub(worker.dispatched.get());
            ([("worker", number.to_string())], behind)
        }),
    )?;
    page.histograms(
        &family_in(
            "publish_to_write_latency",
            Unit::Seconds,
            "From the moment when a publish was accepted until its event is handed to a \
             connection, for live deliveries only. Observed once for each chunk that is written, \
             for the oldest live event in it. A rising tail without tribus_connections_behind: the \
             node is overloaded.",
        ),
        Transport::ALL.map(|kind| (transport_label(kind), workers.latency(kind))),
    )
}

fn events(page: &mut Page<'_, '_>, workers: &Workers) -> Result<(), Error> {
    page.counters(
        &family(
            "events_published",
            "Events that the log accepted, by the way they came. What the node is given to do.",
        ),
        by_way(workers, |worker| &worker.published),
    )?;
    page.counters(
        &family(
            "events_duplicate",
            "Events that were published again under the same idempotency key, and not appended. \
             Many: a publisher does not get its answers in time.",
        ),
        by_way(workers, |worker| &worker.duplicates),
    )?;
    page.counters(
        &family(
            "events_delivered",
            "Events handed to connections, replayed ones too. What the node does; divided by \
             tribus_events_published_total it is the fan-out.",
        ),
        by_transport(workers, |worker| &worker.delivered),
    )?;
    page.counters(
        &family(
            "replays",
            "Subscriptions that began with events of the log; each poll with a cursor is one. A \
             storm of them on ws or sse: many clients came back at once.",
        ),
        by_transport(workers, |worker| &worker.replays),
    )?;
    page.counters(
        &family(
            "resets",
            "Clients that were told that they missed events. expired and lagged: retention is too \
             short for them; unknown_log: the log began anew.",
        ),
        Transport::ALL.into_iter().flat_map(|transport| {
            ResetReason::ALL.map(|reason| {
                let labels = [
                    ("transport", transport.as_str()),
                    ("reason", reason.as_str()),
                ];
                let (at, why) = (transport as usize, reason as usize);
                (labels, workers.sum(|worker| &worker.resets[at][why]))
            })
        }),
    )
}

fn by_way(
    workers: &Workers,
    numbers: impl Fn(&Counters) -> &[Number; Way::ALL.len()],
) -> [(OneLabel, u64); Way::ALL.len()] {
    Way::ALL.map(|way| {
        let sum = workers.sum(|worker| &numbers(worker)[way as usize]);
        ([("way", way.as_str())], sum)
    })
}

fn by_transport(
    workers: &Workers,
    numbers: impl Fn(&Counters) -> &[Number; Transport::ALL.len()],
) -> [(OneLabel, u64); Transport::ALL.len()] {
    Transport::ALL.map(|transport| {
        let sum = workers.sum(|worker| &numbers(worker)[transport as usize]);
        (transport_label(transport), sum)
    })
}

fn bytes(page: &mut Page<'_, '_>, workers: &Workers) -> Result<(), Error> {
    page.counters(
        &family_in(
            "received",
            Unit::Bytes,
            "Bytes of messages and request bodies that clients sent, without the framing of HTTP, \
             TLS and TCP. http: publishes and tickets.",
        ),
        Channel::ALL.map(|channel| {
            let sum = workers.sum(|worker| &worker.received_bytes[channel as usize]);
            ([("transport", channel.as_str())], sum)
        }),
    )?;
    page.counters(
        &family_in(
            "sent",
            Unit::Bytes,
            "Bytes handed to connections: events and control frames, without the framing of HTTP, \
             TLS and TCP. Size the network by its rate.",
        ),
        by_transport(workers, |worker| &worker.sent_bytes),
    )
}

fn refusals(page: &mut Page<'_, '_>, workers: &Workers) -> Result<(), Error> {
    page.counters(
        &family(
            "refusals",
            "Requests and messages that were refused, by the error codes of docs/protocol.md. \
             internal: a bug, see the log; unavailable: the node is draining or full; others: a \
             client does something wrong.",
        ),
        Endpoint::ALL.into_iter().flat_map(|endpoint| {
            ErrorCode::ALL.into_iter().filter_map(move |code| {
                let (at, why) = (endpoint as usize, code as usize);
                let count = workers.sum(|worker| &worker.refusals[at][why]);
                let labels = [("endpoint", endpoint.as_str()), ("code", code.as_str())];
                (count > 0).then_some((labels, count))
            })
        }),
    )?;
    page.counters(
        &family(
            "auth_failures",
            "Credentials that were refused, by error code and kind of credential. A burst of \
             unauthorized: keys were rotated without the gateway, or someone guesses; \
             token_expired: clients refresh too late.",
        ),
        Credential::ALL.into_iter().flat_map(|credential| {
            ErrorCode::ALL.into_iter().filter_map(move |code| {
                let (at, why) = (credential as usize, code as usize);
                let count = workers.sum(|worker| &worker.auth_failures[at][why]);
                let labels = [("code", code.as_str()), ("credential", credential.as_str())];
                (count > 0).then_some((labels, count))
            })
        }),
    )?;
    page.counters(
        &family(
            "limit_hits",
            "Refusals because of a limit, by which. Rising with well-behaved clients: raise that \
             key of limits; node_connections and admissions: the node is full.",
        ),
        LimitKind::ALL.map(|limit| {
            let sum = workers.sum(|worker| &worker.limit_hits[limit as usize]);
            ([("limit", limit.as_str())], sum)
        }),
    )
}

fn log(page: &mut Page<'_, '_>, workers: &Workers, state: &NodeState) -> Result<(), Error> {
    page.gauge(
        &family(
            "head_sequence",
            "The sequence of the newest event. Its rate is that of all publishes; nodes of one log \
             that differ for long are not in step.",
        ),
        state.head,
    )?;
    page.gauge(
        &family(
            "retained_events",
            "Events that clients can resume from. Divided by the rate of publishes it is how long \
             a client may be away.",
        ),
        state.retained_events as u64,
    )?;
    page.gauge(
        &family_in(
            "retained",
            Unit::Bytes,
            "What retained events take, about. At retention.bytes it is what trims the log, and not \
             retention.events.",
        ),
        state.retained_bytes as u64,
    )?;
    page.gauge(
        &family_in(
            "retained_in_memory",
            Unit::Bytes,
            "Of tribus_retained_bytes what is in memory. Clients that were away for longer are \
             served from the disk or Redis: at bus.disk.memory or bus.redis.memory with many of \
             them, raise it.",
        ),
        state.retained_bytes_in_memory as u64,
    )?;
    engine(page, &state.engine)?;
    page.gauge(
        &family(
            "subscriptions",
            "Topic filters of all connections. Each costs memory.",
        ),
        workers.sum_running(|worker| &worker.subscriptions),
    )?;
    page.gauge(
        &family(
            "patterns",
            "Topic filters of all connections that have wildcards. Each costs time at publishes \
             that it nearly matches.",
        ),
        workers.sum_running(|worker| &worker.patterns),
    )
}

fn engine(page: &mut Page<'_, '_>, engine: &EngineState) -> Result<(), Error> {
    page.gauge(
        &family(
            "log_writable",
            "1 where the log takes publishes, 0 where it can not be written: /readyz says why.",
        ),
        u64::from(engine.refuses.is_none()),
    )?;
    page.counter(
        &family(
            "log_write_failures",
            "Failed writes and syncs of the log. After one of them publishes are refused.",
        ),
        engine.write_failures,
    )?;
    page.counter(
        &family(
            "log_read_failures",
            "Failed reads of the log. Each ends a connection with `unavailable`.",
        ),
        engine.read_failures,
    )?;
    page.counter(
        &family(
            "log_lost",
            "Times that the log was damaged or had lost events, was given up for a new one, and all \
             clients were told to start afresh.",
        ),
        engine.lost_logs,
    )?;
    page.counter(
        &family(
            "log_commits",
            "Commits of the log to the disk, or calls of Redis. Publishes that came at the same time \
             share one.",
        ),
        engine.commits,
    )?;
    page.counter(
        &family(
            "log_foreign_entries",
            "Entries in Redis that no gateway wrote, or could make an event of: they were left out. The \
             gateway's log says what was wrong with them.",
        ),
        engine.foreign_entries,
    )?;
    page.gauge(
        &family_in(
            "log_stored",
            Unit::Bytes,
            "What the log takes on the disk or in Redis; 0 where it is in memory.",
        ),
        engine.stored_bytes,
    )?;
    page.gauge(
        &family_in(
            "log_set_aside",
            Unit::Bytes,
            "What a log that was given up takes on the disk besides, lost-... in its directory, which \
             may be removed.",
        ),
        engine.set_aside_bytes,
    )
}

fn node(page: &mut Page<'_, '_>, node: &Node, state: &NodeState) -> Result<(), Error> {
    page.gauge(
        &family(
            "ready",
            "1 where the node takes clients, 0 while it starts or drains.",
        ),
        u64::from(state.ready),
    )?;
    page.gauge(
        &family(
            "tickets_outstanding",
            "Tickets that may still be used. At 100,000 no more are issued.",
        ),
        state.tickets as u64,
    )?;
    page.gauge(
        &family(
            "revocations_in_force",
            "Tokens and subjects that POST /admin/disconnect refuses. They live in memory: a \
             restart forgets them.",
        ),
        state.revocations as u64,
    )?;
    page.gauge(
        &family(
            "idempotency_keys",
            "Idempotency keys remembered. At limits.idempotency_keys publishes with new keys are \
             refused: raise it.",
        ),
        state.idempotency_keys as u64,
    )?;
    process(page, node)
}

fn process(page: &mut Page<'_, '_>, node: &Node) -> Result<(), Error> {
    page.0
        .encode_descriptor("build", "The version that runs.", None, MetricType::Info)?
        .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
    let process = Process::now();
    page.gauge(
        &family_in(
            "process_start_time",
            Unit::Seconds,
            "When the gateway started, in seconds since 1970. A change is a restart.",
        ),
        node.started.as_millisecond() as f64 / 1e3,
    )?;
    for (family, value) in [
        (
            family(
                "process_open_fds",
                "Open file descriptors. Each connection takes one.",
            ),
            process.open_files,
        ),
        (
            family(
                "process_max_fds",
                "Open file descriptors that the process may have. Must exceed limits.connections \
                 by some hundreds.",
            ),
            process.most_open_files,
        ),
        (
            family_in(
                "process_resident_memory",
                Unit::Bytes,
                "Memory of the process. Rising with steady connections and full retention: a leak.",
            ),
            process.resident_bytes,
        ),
    ] {
        if let Some(value) = value {
            page.gauge(&family, value)?;
        }
    }
    Ok(())
}
