//! What is to be done, checked before anything is.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use super::stamp;

/// Events due within the same of these are due together, so that a high rate takes no more requests than the gateway's
/// clients would send: at most a thousand a second for each connection that publishes.
const TICK: Duration = Duration::from_millis(1);

/// Events of each topic that are published while the clients of `--resume` are away.
pub const MISSED_EACH: u32 = 100;

/// An event of the run may not be longer: the gateway takes 64 KiB with its envelope by default.
const LARGEST_SIZE: usize = 60 * 1024;

const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
const HIGHEST_RATE: u32 = 1_000_000;
const MOST_CONNECTIONS: usize = 1_000_000;

/// The wire that a client reads over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    Ws,
    Sse,
    Poll,
}

/// The clients that are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Of(Transport),
    /// Those that go from one transport to the next.
    Hopping,
    /// Those that do not read for the whole run.
    Slow,
}

/// A run, as far as it can be told before it begins.
#[derive(Debug)]
pub struct Plan {
    /// Eight hexadecimal digits, so that no two runs share topics.
    pub run: String,
    pub transports: Vec<Transport>,
    pub connections: usize,
    pub topics: u32,
    /// Events a second, over all topics.
    pub rate: u32,
    /// Bytes of an event's `data`.
    pub size: usize,
    pub duration: Duration,
    /// How long nothing at all has to come until what is missing counts as lost.
    pub grace: Duration,
    pub resume: bool,
    pub hop: bool,
    pub threads: usize,
    slow: Vec<bool>,
}

/// As it was asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub transports: Vec<Transport>,
    pub connections: usize,
    pub topics: u32,
    pub rate: u32,
    pub size: usize,
    pub duration: Duration,
    pub grace: Duration,
    /// The share of clients that do not read, from 0 to 1.
    pub slow: f64,
    pub resume: bool,
    pub hop: bool,
    pub threads: Option<usize>,
}

impl Transport {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "WebSocket",
            Self::Sse => "SSE",
            Self::Poll => "long-poll",
        }
    }
}

impl Group {
    pub const ALL: [Self; 5] = [
        Self::Of(Transport::Ws),
        Self::Of(Transport::Sse),
        Self::Of(Transport::Poll),
        Self::Hopping,
        Self::Slow,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Of(transport) => transport.name(),
            Self::Hopping => "hopping",
            Self::Slow => "slow",
        }
    }

    /// Its place in [`Group::ALL`].
    pub fn place(self) -> usize {
        match self {
            Self::Of(Transport::Ws) => 0,
            Self::Of(Transport::Sse) => 1,
            Self::Of(Transport::Poll) => 2,
            Self::Hopping => 3,
            Self::Slow => 4,
        }
    }
}

impl Plan {
    /// Checks the wish.
    ///
    /// # Errors
    /// Where it makes no sense, with what would.
    pub fn new(wish: Wish) -> Result<Self> {
        let mut transports = wish.transports.clone();
        transports.sort_by_key(|transport| *transport as u8);
        transports.dedup();
        check(&wish, &transports)?;
        let free = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = wish.threads.unwrap_or(free.saturating_sub(1).max(1));
        Ok(Self {
            run: format!("{:08x}", fastrand::u32(..)),
            slow: draw_slow(wish.connections, wish.slow),
            transports,
            connections: wish.connections,
            topics: wish.topics,
            rate: wish.rate,
            size: wish.size,
            duration: wish.duration,
            grace: wish.grace,
            resume: wish.resume,
            hop: wish.hop,
            threads: threads.min(wish.connections),
        })
    }

    pub fn topic_name(&self, topic: u32) -> String {
        format!("bench:{}:{topic}", self.run)
    }

    /// The transport that client `client` begins on.
    pub fn transport(&self, client: usize) -> Transport {
        self.transports[client % self.transports.len()]
    }

    /// The one that follows on `transport`.
    pub fn next_transport(&self, transport: Transport) -> Transport {
        let place = self.transports.iter().position(|of| *of == transport);
        let next = place.map_or(0, |place| place + 1);
        self.transports[next % self.transports.len()]
    }

    /// The topic of client `client`: each has clients on all transports.
    pub fn topic(&self, client: usize) -> u32 {
        let round = client / self.transports.len();
        // Below the number of topics, which fits.
        (round % self.topics as usize) as u32
    }

    pub fn is_slow(&self, client: usize) -> bool {
        self.slow[client]
    }

    pub fn group(&self, client: usize) -> Group {
        if self.is_slow(client) {
            Group::Slow
        } else if self.hop {
            Group::Hopping
        } else {
            Group::Of(self.transport(client))
        }
    }

    /// Events that are published in the steady phase.
    pub fn events(&self) -> u64 {
        let events = self.duration.as_secs_f64() * f64::from(self.rate);
        // Bounded by what was checked.
        (events as u64).max(1)
    }

    /// When the steady phase's event `event` is due, after its beginning.
    pub fn due(&self, event: u64) -> Duration {
        let due = Duration::from_secs_f64(event as f64 / f64::from(self.rate));
        if Duration::from_secs(1) / self.rate >= TICK {
            return due;
        }
        let ticks = due.as_nanos() / TICK.as_nanos();
        // As many as there are milliseconds in a day, at most.
        TICK * ticks as u32
    }
}

fn check(wish: &Wish, transports: &[Transport]) -> Result<()> {
    let shares = transports.len();
    ensure!(
        shares > 0,
        "--transport names none that this peer has: give ws"
    );
    ensure!(
        (1..=MOST_CONNECTIONS).contains(&wish.connections),
        "--connections is from 1 to {MOST_CONNECTIONS}"
    );
    ensure!(
        wish.connections >= shares,
        "--connections {} is less than one for each of {shares} transports: name fewer by --transport",
        wish.connections
    );
    ensure!(
        (1..stamp::MOST_TOPICS).contains(&wish.topics),
        "--topics is from 1 to {}",
        stamp::MOST_TOPICS - 1
    );
    let most_topics = wish.connections.div_ceil(shares);
    ensure!(
        wish.topics as usize <= most_topics,
        "--topics {} is more than {} connections on {shares} transports can follow, one topic each: give at most {most_topics}",
        wish.topics,
        wish.connections
    );
    ensure!(
        (1..=HIGHEST_RATE).contains(&wish.rate),
        "--rate is from 1 to {HIGHEST_RATE} events a second"
    );
    ensure!(
        (stamp::LEAST_SIZE..=LARGEST_SIZE).contains(&wish.size),
        "--size is from {} bytes, which the number and the time of an event take, to {LARGEST_SIZE}",
        stamp::LEAST_SIZE
    );
    ensure!(
        wish.duration >= Duration::from_millis(100) && wish.duration <= LONGEST,
        "--duration is from 100ms to 24h"
    );
    let all = wish.duration.as_secs_f64() * f64::from(wish.rate);
    ensure!(
        all / f64::from(wish.topics) < f64::from(u32::MAX / 2),
        "--rate and --duration make more events of a topic than can be numbered: shorten it, or give more --topics"
    );
    ensure!(
        wish.grace >= Duration::from_millis(100) && wish.grace <= LONGEST,
        "--grace is from 100ms to 24h"
    );
    ensure!(
        (0.0..1.0).contains(&wish.slow),
        "--slow is from 0% to below 100%"
    );
    ensure!(wish.threads != Some(0), "--threads is at least 1");
    if wish.hop && shares < 2 {
        bail!("--hop goes from one transport to the next: name two or three by --transport");
    }
    Ok(())
}

/// Which clients are slow: so many of them, spread at random over transports and topics.
fn draw_slow(connections: usize, share: f64) -> Vec<bool> {
    let wanted = (connections as f64 * share).round() as usize;
    let count = if share > 0.0 { wanted.max(1) } else { 0 };
    let mut slow = vec![false; connections];
    slow[..count].fill(true);
    fastrand::shuffle(&mut slow);
    slow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            transports: Transport::value_variants().to_vec(),
            connections: 60,
            topics: 10,
            rate: 50,
            size: 256,
            duration: Duration::from_secs(2),
            grace: Duration::from_secs(1),
            slow: 0.0,
            resume: false,
            hop: false,
            threads: None,
        }
    }

    #[test]
    fn clients_are_spread_evenly_over_transports_and_topics() {
        let plan = Plan::new(wish()).unwrap();
        for topic in 0..10 {
            for &transport in Transport::value_variants() {
                let here = |client: &usize| {
                    plan.topic(*client) == topic && plan.transport(*client) == transport
                };
                assert_eq!((0..60).filter(here).count(), 2);
            }
        }
    }

    #[test]
    fn events_are_due_evenly_and_together_where_they_are_many() {
        let plan = Plan::new(wish()).unwrap();
        assert_eq!(plan.events(), 100);
        assert_eq!(plan.due(0), Duration::ZERO);
        assert_eq!(plan.due(99), Duration::from_millis(1980));
        let many = Plan::new(Wish {
            rate: 10_000,
            ..wish()
        })
        .unwrap();
        assert_eq!(many.due(9), Duration::ZERO);
        assert_eq!(many.due(19), Duration::from_millis(1));
    }

    #[test]
    fn the_share_of_slow_clients_is_kept() {
        for (share, expected) in [(0.0, 0), (0.05, 3), (0.001, 1), (0.5, 30)] {
            let plan = Plan::new(Wish {
                slow: share,
                ..wish()
            })
            .unwrap();
            assert_eq!(plan.slow.iter().filter(|slow| **slow).count(), expected);
        }
    }

    #[test]
    fn nonsense_is_told_with_what_would_make_sense() {
        let told = |wish: Wish| Plan::new(wish).unwrap_err().to_string();
        let cases = [
            (
                Wish {
                    connections: 0,
                    ..wish()
                },
                "--connections is from 1",
            ),
            (
                Wish {
                    connections: 2,
                    topics: 1,
                    ..wish()
                },
                "name fewer by --transport",
            ),
            (
                Wish {
                    topics: 21,
                    ..wish()
                },
                "at most 20",
            ),
            (
                Wish {
                    topics: 0,
                    ..wish()
                },
                "--topics is from 1",
            ),
            (Wish { rate: 0, ..wish() }, "--rate is from 1"),
            (Wish { size: 37, ..wish() }, "--size is from 38"),
            (
                Wish {
                    duration: Duration::ZERO,
                    ..wish()
                },
                "--duration is from 100ms",
            ),
            (
                Wish {
                    slow: 1.0,
                    ..wish()
                },
                "--slow is from 0%",
            ),
            (
                Wish {
                    threads: Some(0),
                    ..wish()
                },
                "--threads",
            ),
            (
                Wish {
                    transports: vec![Transport::Ws; 2],
                    hop: true,
                    ..wish()
                },
                "two or three by --transport",
            ),
            (
                Wish {
                    rate: 1_000_000,
                    topics: 1,
                    duration: LONGEST,
                    ..wish()
                },
                "more events of a topic than can be numbered",
            ),
        ];
        for (wish, part) in cases {
            let text = told(wish);
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_hop_leads_through_the_named_transports_and_round() {
        let plan = Plan::new(Wish {
            transports: vec![Transport::Poll, Transport::Ws],
            hop: true,
            ..wish()
        })
        .unwrap();
        assert_eq!(plan.next_transport(Transport::Ws), Transport::Poll);
        assert_eq!(plan.next_transport(Transport::Poll), Transport::Ws);
    }
}
