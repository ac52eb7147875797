//! What the node counts, and how it is exposed for Prometheus.
//!
//! Each worker adds up its own numbers, without locks and without sharing cache lines; they are
//! summed when someone asks. What is only known when asked (lag, what is retained) comes as a
//! [`NodeState`]. Labels take few values, known beforehand: never a subject, never a topic.
//!
//! One [`Metrics`] a gateway; nothing is global.

mod counters;
mod exposition;
mod latency;
mod process;
mod totals;
mod workers;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use prometheus_client::registry::Registry;

use counters::Counters;
pub use counters::{WorkerMetrics, age};
pub use latency::{BUCKETS, bounds};
pub use totals::{ByTransport, Totals};
use workers::Workers;

use crate::protocol::{CloseReason, Transport};

/// The content type of what [`Metrics::expose`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where inbound bytes come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    WebSocket,
    /// The body of a request for a stream.
    Sse,
    Poll,
    /// The body of any other request.
    Http,
}

impl Channel {
    pub const ALL: [Self; 4] = [Self::WebSocket, Self::Sse, Self::Poll, Self::Http];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => Transport::WebSocket.as_str(),
            Self::Sse => Transport::Sse.as_str(),
            Self::Poll => Transport::Poll.as_str(),
            Self::Http => "http",
        }
    }
}

/// How events are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Http,
    WebSocket,
}

impl Way {
    pub const ALL: [Self; 2] = [Self::Http, Self::WebSocket];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "ws",
        }
    }
}

/// Where something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Ws,
    Events,
    Poll,
    Publish,
    Ticket,
    Stats,
    /// The pages, and paths that do not exist.
    Other,
}

impl Endpoint {
    pub const ALL: [Self; 7] = [
        Self::Ws,
        Self::Events,
        Self::Poll,
        Self::Publish,
        Self::Ticket,
        Self::Stats,
        Self::Other,
    ];

    pub fn of_path(path: &str) -> Self {
        let named = Self::ALL
            .into_iter()
            .find(|endpoint| path.strip_prefix('/') == Some(endpoint.as_str()));
        named.unwrap_or(Self::Other)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Events => "events",
            Self::Poll => "poll",
            Self::Publish => "publish",
            Self::Ticket => "ticket",
            Self::Stats => "stats",
            Self::Other => "other",
        }
    }

    /// Where the body of a request to this endpoint is counted.
    pub const fn channel(self) -> Channel {
        match self {
            Self::Ws => Channel::WebSocket,
            Self::Events => Channel::Sse,
            Self::Poll => Channel::Poll,
            Self::Publish | Self::Ticket | Self::Stats | Self::Other => Channel::Http,
        }
    }
}

/// The kind of credential that was no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    Header,
    Ticket,
    /// A token in the query.
    Query,
    Cookie,
    /// An `auth` message.
    Message,
    /// A session that the site's own backend was asked about.
    Session,
    /// There was none.
    None,
}

impl Credential {
    pub const ALL: [Self; 7] = [
        Self::Header,
        Self::Ticket,
        Self::Query,
        Self::Cookie,
        Self::Message,
        Self::Session,
        Self::None,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Ticket => "ticket",
            Self::Query => "query",
            Self::Cookie => "cookie",
            Self::Message => "message",
            Self::Session => "session",
            Self::None => "none",
        }
    }
}

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The gateway ended it.
    Closed(CloseReason),
    /// The client left, or could not be reached any more.
    Left,
    /// A poll got its answer.
    Answered,
}

impl Ending {
    /// Each of them, in the order of [`Ending::index`].
    pub fn all() -> impl Iterator<Item = Self> {
        CloseReason::ALL
            .into_iter()
            .map(Self::Closed)
            .chain([Self::Left, Self::Answered])
    }

    const fn index(self) -> usize {
        match self {
            Self::Closed(reason) => reason as usize,
            Self::Left => CloseReason::ALL.len(),
            Self::Answered => CloseReason::ALL.len() + 1,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.as_str(),
            Self::Left => "client_left",
            Self::Answered => "answered",
        }
    }

    /// The close code, where there is one.
    pub const fn code(self) -> Option<u16> {
        match self {
            Self::Closed(reason) => Some(reason.code()),
            Self::Left | Self::Answered => None,
        }
    }
}

/// What is not counted but found out when someone asks.
#[derive(Clone, Debug, Default)]
pub struct NodeState {
    pub ready: bool,
    /// Places taken among those that `limits.connections` allows.
    pub places_taken: usize,
    pub head: u64,
    pub retained_events: usize,
    pub retained_bytes: usize,
    pub retained_bytes_in_memory: usize,
    pub engine: EngineState,
    pub lag: LagByTransport,
    /// Workers that did not tell their sessions' lag in time.
    pub silent_workers: usize,
    pub tickets: usize,
    pub revocations: usize,
    pub idempotency_keys: usize,
}

/// How the engine is that holds the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// Why it takes no publishes, in words for an operator; `None` where it does.
    pub refuses: Option<String>,
    /// Failed writes and syncs.
    pub write_failures: u64,
    /// Reads of the store that failed for good.
    pub read_failures: u64,
    /// Times that a log had to be given up for a new one.
    pub lost_logs: u64,
    /// Writes to the store, each of which may hold many publishes.
    pub commits: u64,
    /// What the log takes on disk or in Redis, in bytes.
    pub stored_bytes: u64,
    /// What the log that was given up last takes there besides.
    pub set_aside_bytes: u64,
    /// Entries of a shared store that no gateway wrote, or could make anything of.
    pub foreign_entries: u64,
}

/// How far sessions are behind, by transport.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LagByTransport([Lag; Transport::ALL.len()]);

/// How far the sessions of one transport are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Sessions that read from the log.
    pub behind: u64,
    /// The most events of the log, of any topic, that one of the sessions has not been served.
    pub most_events: u64,
}

impl LagByTransport {
    pub fn of(&self, transport: Transport) -> Lag {
        self.0[transport as usize]
    }

    /// Takes a session into account.
    pub fn add(&mut self, transport: Transport, is_behind: bool, events: u64) {
        let lag = &mut self.0[transport as usize];
        lag.behind += u64::from(is_behind);
        lag.most_events = lag.most_events.max(events);
    }

    /// Takes the sessions of another worker into account.
    pub fn merge(&mut self, other: &Self) {
        for (lag, other) in self.0.iter_mut().zip(other.0) {
            lag.behind += other.behind;
            lag.most_events = lag.most_events.max(other.most_events);
        }
    }
}

/// All numbers of one gateway.
pub struct Metrics {
    registry: Registry,
    node: Arc<Node>,
}

/// What the registry's collector reads.
#[derive(Debug)]
struct Node {
    started: Timestamp,
    /// A worker that ended stays, so that totals never fall; workers are few and rarely end.
    workers: RwLock<Vec<Arc<Counters>>>,
    /// As of the last exposition.
    state: Mutex<NodeState>,
}

impl Node {
    fn workers(&self) -> Workers {
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner);
        Workers::new(workers.clone())
    }
}

impl Metrics {
    pub fn new() -> Self {
        let node = Arc::new(Node {
            started: Timestamp::now(),
            workers: RwLock::default(),
            state: Mutex::default(),
        });
        let mut registry = Registry::with_prefix("tribus");
        registry.register_collector(Box::new(Arc::clone(&node)));
        Self { registry, node }
    }

    /// Counters for the worker of this thread, which live as long as it does.
    pub fn worker(&self) -> WorkerMetrics {
        let counters = Arc::new(Counters::default());
        self.node
            .workers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&counters));
        WorkerMetrics::new(counters)
    }

    /// What all workers have counted until now.
    pub fn totals(&self) -> Totals {
        Totals::of(self.node.started, &self.node.workers())
    }

    /// All numbers in the text format of OpenMetrics 1.0.
    ///
    /// # Errors
    /// None in practice: writing to a string does not fail.
    pub fn expose(&self, state: NodeState) -> Result<String, std::fmt::Error> {
        *self
            .node
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = state;
        let mut text = String::with_capacity(32 * 1024);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_line(text: &str, line: &str) -> bool {
        text.lines().any(|there| there == line)
    }

    #[test]
    fn a_workers_queue_is_what_it_has_not_dispatched_yet() {
        let metrics = Metrics::new();
        let (quick, slow) = (metrics.worker(), metrics.worker());
        quick.set_dispatched(10);
        slow.set_dispatched(3);
        let state = NodeState {
            head: 10,
            silent_workers: 1,
            ..NodeState::default()
        };
        let text = metrics.expose(state).unwrap();
        for line in [
            r#"tribus_worker_queue_events{worker="0"} 0"#,
            r#"tribus_worker_queue_events{worker="1"} 7"#,
            "tribus_silent_workers 1",
            "tribus_ready 0",
        ] {
            assert!(has_line(&text, line), "{line} in {text}");
        }
    }

    #[test]
    fn what_a_worker_counted_stays_when_it_ends_and_what_it_held_does_not() {
        let metrics = Metrics::new();
        let (stays, ends) = (metrics.worker(), metrics.worker());
        for worker in [&stays, &ends] {
            worker.opened(Transport::Sse);
            worker.set_subscriptions(3, 1);
        }
        drop(ends);
        let text = metrics.expose(NodeState::default()).unwrap();
        for line in [
            r#"tribus_connections{transport="sse"} 1"#,
            r#"tribus_connections_opened_total{transport="sse"} 2"#,
            "tribus_subscriptions 3",
            "tribus_patterns 1",
            r#"tribus_worker_queue_events{worker="0"} 0"#,
        ] {
            assert!(has_line(&text, line), "{line} in {text}");
        }
        assert!(!text.contains(r#"worker="1""#));
    }

    #[test]
    fn an_endpoint_is_known_by_its_path() {
        for (path, endpoint) in [
            ("/ws", Endpoint::Ws),
            ("/events", Endpoint::Events),
            ("/poll", Endpoint::Poll),
            ("/publish", Endpoint::Publish),
            ("/ticket", Endpoint::Ticket),
            ("/stats", Endpoint::Stats),
            ("/", Endpoint::Other),
            ("/nowhere", Endpoint::Other),
            ("/ws/more", Endpoint::Other),
            ("/other", Endpoint::Other),
        ] {
            assert_eq!(Endpoint::of_path(path), endpoint, "{path}");
        }
    }
}
