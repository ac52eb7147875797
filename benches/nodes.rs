//! What it takes from one node to another: the time from a publish to its delivery, and how many events a
//! second one server of a shared log passes on. Each node is a gateway of its own process, the server is the
//! bench's own, all of it on loopback and on the same cores as this program.
//!
//! ```sh
//! cargo bench --bench nodes                        # five rounds, medians
//! NODES_ROUNDS=3 NODES_SECONDS=2 NODES_ONLY=redis cargo bench --bench nodes
//! ```
//!
//! - **Latency** (`NODES_RATE`, 2,000 events/s): published at one node on a schedule that waits for nothing,
//!   received by a client of another one. It counts from when the publish was due, so whatever is late, this
//!   program too, shows. `http` has one request for each event over sixteen connections in turn, `ws` one
//!   connection that waits for no answer. In the base both are clients of one node with its log in memory.
//! - **Throughput**: sixteen publishers at two nodes, half of them at each, with one batch (`NODES_BATCH`,
//!   100 events) on the way each, and a client of a third node that gets all of it. Events a second until the
//!   last one is there; an event that is lost, repeated or out of its publisher's order ends the bench.
//!
//! Events are of about 300 bytes. All ways take turns in each round.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client, client::IntoClientRequest};

use support::{
    figures::{median, setting},
    gateway::{address_in_log, first, serve, websocket},
    shared::SharedLog,
    store::Store,
    token::token,
};

mod support {
    pub mod figures;
    pub mod gateway;
    pub mod shared;
    pub mod store;
    pub mod token;
}

const DATA_BYTES: usize = 200;
const PUBLISHERS: usize = 16;
/// The number of a publisher's last event.
const LAST: usize = usize::MAX;
/// So much of a schedule is not counted: what is made once is made then.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let rounds = setting("NODES_ROUNDS", 5);
    let time = Duration::from_secs(setting("NODES_SECONDS", 4) as u64);
    let rate = setting("NODES_RATE", 2000);
    let batch = setting("NODES_BATCH", 100);
    println!("{rounds} rounds of {time:?}, medians\n");
    let mut latencies: Vec<Latencies> = chosen().flat_map(Latencies::both).collect();
    let mut throughputs: Vec<(SharedLog, Vec<f64>)> =
        chosen().flatten().map(|log| (log, Vec::new())).collect();
    for _ in 0..rounds {
        for latencies in &mut latencies {
            latencies.measure(rate, time)?;
        }
        for (log, rates) in &mut throughputs {
            rates.push(throughput(*log, batch, time)?);
        }
    }
    for latencies in &latencies {
        latencies.print(rate);
    }
    for (log, rates) in &throughputs {
        println!(
            "{}, {PUBLISHERS} publishers, batches of {batch}: {:.0} events/s, least of a round {:.0}, none lost",
            log.name(),
            median(rates.iter().copied()),
            rates.iter().copied().fold(f64::INFINITY, f64::min),
        );
    }
    Ok(())
}

/// The base, which shares nothing, and the engines that `NODES_ONLY` names, or all.
fn chosen() -> impl Iterator<Item = Option<SharedLog>> {
    let only = std::env::var("NODES_ONLY").ok();
    let is_chosen = move |log: &SharedLog| {
        only.as_ref()
            .is_none_or(|only| only.split(',').any(|word| word == log.name()))
    };
    let logs = [SharedLog::Redis, SharedLog::Nats]
        .into_iter()
        .filter(is_chosen);
    std::iter::once(None).chain(logs.map(Some))
}

/// How an event is published on its schedule.
#[derive(Clone, Copy)]
enum Way {
    Http,
    WebSocket,
}

/// Of one way, in milliseconds, from each round.
struct Latencies {
    /// Of two nodes; of one with its log in memory where there is none.
    log: Option<SharedLog>,
    way: Way,
    medians: Vec<f64>,
    p99s: Vec<f64>,
    most: Vec<f64>,
}

impl Latencies {
    fn both(log: Option<SharedLog>) -> [Self; 2] {
        [Way::Http, Way::WebSocket].map(|way| Self {
            log,
            way,
            medians: Vec::new(),
            p99s: Vec::new(),
            most: Vec::new(),
        })
    }

    fn measure(&mut self, rate: usize, time: Duration) -> anyhow::Result<()> {
        let nodes = Nodes::start(self.log, if self.log.is_some() { 2 } else { 1 })?;
        let (from, to) = (nodes.address(0), nodes.address(nodes.processes.len() - 1));
        let mut subscriber = Subscriber::connect(to)?;
        let schedule = Schedule::new(rate, WARM_UP + time);
        let publishers = match self.way {
            Way::Http => publish_over_http(from, schedule)?,
            Way::WebSocket => publish_over_websocket(from, schedule)?,
        };
        let mut latencies = Vec::with_capacity(schedule.count);
        for _ in 0..schedule.count {
            let arrived = subscriber.next()?;
            let due = schedule.due(arrived.number);
            if due >= schedule.start + WARM_UP {
                latencies.push(arrived.at.duration_since(due).as_secs_f64() * 1e3);
            }
        }
        for publisher in publishers {
            end(publisher)?;
        }
        latencies.sort_by(f64::total_cmp);
        self.medians.push(latencies[latencies.len() / 2]);
        self.p99s.push(latencies[latencies.len() * 99 / 100]);
        self.most.extend(latencies.last());
        Ok(())
    }

    fn print(&self, rate: usize) {
        let log = self.log.map_or("one node, memory", SharedLog::name);
        let way = match self.way {
            Way::Http => "http",
            Way::WebSocket => "ws",
        };
        let of = |values: &Vec<f64>| median(values.iter().copied());
        println!(
            "{:<24}{rate} events/s: median {:>7.2} ms, p99 {:>7.2} ms, longest {:>7.2} ms",
            format!("{log}, {way}"),
            of(&self.medians),
            of(&self.p99s),
            of(&self.most),
        );
    }
}

/// When each event is due.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    interval: Duration,
    count: usize,
}

impl Schedule {
    fn new(rate: usize, time: Duration) -> Self {
        Self {
            // By then the publishers are there.
            start: Instant::now() + Duration::from_millis(200),
            interval: Duration::from_secs(1) / rate as u32,
            count: (rate as f64 * time.as_secs_f64()) as usize,
        }
    }

    fn due(&self, number: usize) -> Instant {
        self.start + self.interval * number as u32
    }

    /// Sleeps until an event is due, or not at all where it is late.
    fn wait_for(&self, number: usize) {
        std::thread::sleep(self.due(number).saturating_duration_since(Instant::now()));
    }
}

type Publisher = JoinHandle<anyhow::Result<()>>;

/// A pool of connections, each of which has every sixteenth event and waits for its answer.
fn publish_over_http(node: SocketAddr, schedule: Schedule) -> anyhow::Result<Vec<Publisher>> {
    let publisher = |nth| {
        let mut connection = Http::connect(node)?;
        Ok(std::thread::spawn(move || {
            for number in (nth..schedule.count).step_by(PUBLISHERS) {
                let body = event(0, number);
                schedule.wait_for(number);
                connection.publish(&body)?;
            }
            Ok(())
        }))
    };
    (0..PUBLISHERS).map(publisher).collect()
}

/// One connection, and a thread that reads its answers.
fn publish_over_websocket(node: SocketAddr, schedule: Schedule) -> anyhow::Result<Vec<Publisher>> {
    let mut stream = connect(node)?;
    stream.write_all(websocket("").as_bytes())?;
    let mut answers = stream.try_clone()?;
    let write = std::thread::spawn(move || {
        for number in 0..schedule.count {
            let event = event(0, number);
            let message = format!(r#"{{"type":"publish",{}"#, &event[1..]);
            let frame = masked(&message)?;
            schedule.wait_for(number);
            stream.write_all(&frame)?;
        }
        Ok(())
    });
    let read = std::thread::spawn(move || {
        let (mut seen, mut buffer) = (0, vec![0; 64 << 10]);
        let mut kept = Vec::new();
        while seen < schedule.count {
            let len = answers.read(&mut buffer)?;
            anyhow::ensure!(len > 0, "the gateway closed a publisher's connection");
            kept.extend_from_slice(&buffer[..len]);
            let text = String::from_utf8_lossy(&kept);
            anyhow::ensure!(!text.contains(r#""type":"error""#), "refused: {text}");
            let mark = r#""type":"published""#;
            seen += text.matches(mark).count();
            // A mark may be cut in two.
            let cut = kept.len().saturating_sub(mark.len() - 1);
            kept.drain(..cut);
        }
        Ok(())
    });
    Ok(vec![write, read])
}

/// RFC 6455, section 5.2: text of more than 125 bytes, under a mask that changes nothing.
fn masked(message: &str) -> anyhow::Result<Vec<u8>> {
    let mut frame = vec![0x81, 0x80 | 126];
    frame.extend_from_slice(&u16::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(message.as_bytes());
    Ok(frame)
}

fn end<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    let ended = thread.join();
    ended.map_err(|_| anyhow::anyhow!("a publisher has panicked"))?
}

/// Events a second that the client of another node got, of publishers that each wait for an answer.
fn throughput(log: SharedLog, batch: usize, time: Duration) -> anyhow::Result<f64> {
    let nodes = Nodes::start(Some(log), 3)?;
    let mut subscriber = Subscriber::connect(nodes.address(2))?;
    let start = Instant::now();
    let publisher = |nth: usize| {
        let mut connection = Http::connect(nodes.address(nth % 2))?;
        Ok(std::thread::spawn(move || {
            let mut count = 0;
            while start.elapsed() < time {
                let events: Vec<String> = (count..count + batch).map(|n| event(nth, n)).collect();
                connection.publish(&format!("[{}]", events.join(",")))?;
                count += batch;
            }
            connection.publish(&event(nth, LAST))?;
            Ok(count)
        }))
    };
    let publishers: anyhow::Result<Vec<JoinHandle<anyhow::Result<usize>>>> =
        (0..PUBLISHERS).map(publisher).collect();
    let (received, last) = receive(&mut subscriber)?;
    let published: anyhow::Result<Vec<usize>> = publishers?.into_iter().map(end).collect();
    let published = published?;
    anyhow::ensure!(
        received[..] == published[..],
        "{received:?} of {published:?}"
    );
    Ok(received.iter().sum::<usize>() as f64 / last.duration_since(start).as_secs_f64())
}

/// Receives all that is published: how many events of each publisher, and when the last one came.
fn receive(subscriber: &mut Subscriber) -> anyhow::Result<([usize; PUBLISHERS], Instant)> {
    let (mut received, mut ended) = ([0; PUBLISHERS], 0);
    loop {
        let Arrival {
            publisher,
            number,
            at,
        } = subscriber.next()?;
        if number == LAST {
            ended += 1;
            if ended == PUBLISHERS {
                return Ok((received, at));
            }
            continue;
        }
        let next = &mut received[publisher];
        anyhow::ensure!(
            number == *next,
            "{number} of publisher {publisher} came instead of {next}"
        );
        *next += 1;
    }
}

/// What is published: its data begins with who published it, and its number there.
fn event(publisher: usize, number: usize) -> String {
    let data = format!("{:<DATA_BYTES$}", format!("{publisher} {number}"));
    format!(r#"{{"topic":"bench:1","event":"message","data":"{data}"}}"#)
}

/// Gateways with one log, killed when they are dropped.
struct Nodes {
    processes: Vec<(Child, SocketAddr)>,
    _store: Option<Store>,
    _directory: tempfile::TempDir,
}

impl Nodes {
    fn start(log: Option<SharedLog>, count: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let store = log.map(|log| log.start(directory.path())).transpose()?;
        let mut nodes = Self {
            processes: Vec::new(),
            _store: store,
            _directory: directory,
        };
        for _ in 0..count {
            let mut command = Command::new(env!("CARGO_BIN_EXE_tribus"));
            serve(&mut command);
            if let (Some(log), Some(store)) = (log, &nodes._store) {
                log.configure(&mut command, store);
            }
            let mut process = command.stdout(Stdio::null()).spawn()?;
            let stderr = process.stderr.take();
            // Killed from here on, whatever comes.
            nodes.processes.push((process, ([127, 0, 0, 1], 0).into()));
            let address = first(stderr.context("stderr")?, address_in_log)?;
            nodes.processes.last_mut().context("a node")?.1 = address;
        }
        for (_, address) in &nodes.processes {
            Subscriber::connect(*address)?;
        }
        Ok(nodes)
    }

    fn address(&self, nth: usize) -> SocketAddr {
        self.processes[nth].1
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for (process, _) in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn connect(node: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(node)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A connection that publishes, one request after the other.
struct Http {
    stream: TcpStream,
    token: String,
}

impl Http {
    fn connect(node: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            stream: connect(node)?,
            token: token(),
        })
    }

    fn publish(&mut self, body: &str) -> anyhow::Result<()> {
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        let (mut answer, mut buffer) = (Vec::new(), [0; 16 << 10]);
        // Its body is one object of JSON.
        while !answer.ends_with(b"}") {
            let len = self.stream.read(&mut buffer)?;
            anyhow::ensure!(len > 0, "the gateway closed a publisher's connection");
            answer.extend_from_slice(&buffer[..len]);
        }
        let text = || String::from_utf8_lossy(&answer).into_owned();
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "refused: {}", text());
        Ok(())
    }
}

/// A client of `/ws` that hears of all events.
struct Subscriber(WebSocket<TcpStream>);

struct Arrival {
    publisher: usize,
    number: usize,
    at: Instant,
}

impl Subscriber {
    /// Once its subscription is live. A node takes nobody before it knows what the others know.
    fn connect(node: SocketAddr) -> anyhow::Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Self::try_to_connect(node) {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
                connected => return connected,
            }
        }
    }

    fn try_to_connect(node: SocketAddr) -> anyhow::Result<Self> {
        let mut request = format!("ws://{node}/ws?topics=bench:*").into_client_request()?;
        let token = format!("Bearer {}", token());
        let headers = request.headers_mut();
        headers.insert("authorization", token.parse()?);
        let (socket, _) = client::client(request, connect(node)?)?;
        let mut subscriber = Self(socket);
        while !subscriber.text()?.starts_with(r#"{"type":"live""#) {}
        Ok(subscriber)
    }

    fn text(&mut self) -> anyhow::Result<String> {
        loop {
            match self.0.read()? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(_) => anyhow::bail!("the gateway closed a subscriber's connection"),
                // The answer to a Ping goes out with the next read.
                _ => {}
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<Arrival> {
        loop {
            let text = self.text()?;
            let at = Instant::now();
            if text.starts_with(r#"{"type":"heartbeat""#) {
                continue;
            }
            anyhow::ensure!(text.starts_with(r#"{"type":"event""#), "{text}");
            let data = text.split_once(r#""data":""#).context("data")?.1;
            let mut words = data.split(' ');
            let mut word = || anyhow::Ok(words.next().context("a number")?.parse()?);
            return Ok(Arrival {
                publisher: word()?,
                number: word()?,
                at,
            });
        }
    }
}
