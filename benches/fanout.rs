//! What a delivery costs: CPU time of the gateway's process, and memory of an idle connection,
//! beside the floor, a bare epoll loop that writes each ready frame with one `write` a client.
//!
//! ```sh
//! cargo bench --bench fanout                       # 2,000 clients, five rounds, medians
//! FANOUT_CLIENTS=5000 FANOUT_ROUNDS=3 cargo bench --bench fanout
//! FANOUT_ONLY=memory,redis,nats cargo bench --bench fanout     # of floor, memory, disk, redis, nats, sse
//! ```
//!
//! With a log elsewhere than in memory a delivery is compared with the one from memory, in pairs of one
//! round. The process's CPU time is all of it, also that of the thread that speaks with a disk or a server.
//!
//! The server under test is pinned to the first core and this program to the second, by
//! `taskset`. CPU time is read from `/proc`, so a busy machine blurs the figures less than it
//! blurs wall-clock time; what counts are the ratios within one run.

use std::{
    cell::{Cell, RefCell},
    io::Write,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    rc::Rc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
    task::LocalSet,
};

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

/// About what an event's frame has, so that the floor writes as much as the gateway does.
const EVENT_BYTES: usize = 190;
const IN_FLIGHT: usize = 16;

fn main() -> anyhow::Result<()> {
    // `cargo bench` passes flags of its own harness; only our own words count.
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "floor-server") {
        return floor::serve();
    }
    pin_to(1);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, measure())
}

async fn measure() -> anyhow::Result<()> {
    let clients = setting("FANOUT_CLIENTS", 2000);
    let rounds = setting("FANOUT_ROUNDS", 5);
    let events = setting("FANOUT_EVENTS", 200);
    println!("{clients} clients, {events} events a round, {rounds} rounds, medians\n");
    println!(
        "{:<24}{:>22}{:>22}{:>22}{:>18}",
        "server", "one at a time", "16 in flight", "16 on one /ws", "idle connection"
    );
    let mut tried: Vec<Tried> = Kind::chosen().map(Tried::new).collect();
    for round in 0..rounds {
        // In turns, so that a busy machine slows all of them, and every other round the other way round,
        // so that none is always the first.
        let mut turns: Vec<&mut Tried> = tried.iter_mut().collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for tried in turns {
            let round = Server::start(tried.kind)?.round(clients, events);
            tried.rounds.push(round.await?);
        }
    }
    for tried in &tried {
        let piped = tried.kind.is_piped().then(|| tried.median(Row::PIPED));
        println!(
            "{:<24}{:>19.2} µs{:>19.2} µs{:>22}{:>14.1} KiB",
            tried.kind.name(),
            tried.median(Row::SINGLE),
            tried.median(Row::BURST),
            piped.map_or_else(String::new, |piped| format!("{piped:.2} µs")),
            tried.median(Row::IDLE)
        );
    }
    compare(&tried, Kind::Floor, &[Kind::Memory, Kind::Sse]);
    compare(
        &tried,
        Kind::Memory,
        &[
            Kind::Disk,
            Kind::Shared(SharedLog::Redis),
            Kind::Shared(SharedLog::Nats),
        ],
    );
    Ok(())
}

/// Medians of the ratios within each round.
fn compare(tried: &[Tried], base: Kind, kinds: &[Kind]) {
    let of = |kind| tried.iter().find(|tried| tried.kind == kind);
    let Some(base) = of(base) else { return };
    for kind in kinds.iter().filter_map(|kind| of(*kind)) {
        let against = |figure| kind.against(base, figure);
        let piped = match base.kind.is_piped() {
            true => format!(", {:.2} with 16 on one /ws", against(Row::PIPED)),
            false => String::new(),
        };
        println!(
            "{} against {}: {:.2} one at a time, {:.2} with 16 in flight{piped}",
            kind.kind.name(),
            base.kind.name(),
            against(Row::SINGLE),
            against(Row::BURST),
        );
    }
}

/// A server, and what each round of it gave.
struct Tried {
    kind: Kind,
    rounds: Vec<Row>,
}

impl Tried {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            rounds: Vec::new(),
        }
    }

    fn median(&self, figure: Figure) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn against(&self, base: &Self, figure: Figure) -> f64 {
        let pairs = self.rounds.iter().zip(&base.rounds);
        median(pairs.map(|(row, base)| figure(row) / figure(base)))
    }
}

/// Microseconds of CPU a delivery, and KiB a connection.
struct Row {
    single: f64,
    burst: f64,
    /// Not a number where it was not measured.
    piped: f64,
    idle: f64,
}

type Figure = fn(&Row) -> f64;

impl Row {
    const SINGLE: Figure = |row| row.single;
    const BURST: Figure = |row| row.burst;
    const PIPED: Figure = |row| row.piped;
    const IDLE: Figure = |row| row.idle;
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Floor,
    /// A WebSocket of a gateway whose log is in memory, as it is where nothing else is said.
    Memory,
    Disk,
    Shared(SharedLog),
    Sse,
}

impl Kind {
    const ALL: [(&str, Self); 6] = [
        ("floor", Self::Floor),
        ("memory", Self::Memory),
        ("disk", Self::Disk),
        ("redis", Self::Shared(SharedLog::Redis)),
        ("nats", Self::Shared(SharedLog::Nats)),
        ("sse", Self::Sse),
    ];

    /// Those that `FANOUT_ONLY` names, or all.
    fn chosen() -> impl Iterator<Item = Self> {
        let only = std::env::var("FANOUT_ONLY").ok();
        let is_chosen = move |name: &str| {
            only.as_ref()
                .is_none_or(|only| only.split(',').any(|word| word == name))
        };
        let all = Self::ALL.into_iter();
        all.filter(move |(name, _)| is_chosen(name))
            .map(|(_, kind)| kind)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor: bare epoll",
            Self::Memory => "tribus, WebSocket",
            Self::Disk => "tribus, log on disk",
            Self::Shared(SharedLog::Redis) => "tribus, log in Redis",
            Self::Shared(SharedLog::Nats) => "tribus, log in NATS",
            Self::Sse => "tribus, SSE",
        }
    }

    /// Whether it is also measured with a publisher that does not wait on one connection.
    fn is_piped(self) -> bool {
        !matches!(self, Self::Floor | Self::Sse)
    }
}

/// A server under test, killed when it is dropped.
struct Server {
    kind: Kind,
    process: Child,
    address: SocketAddr,
    /// Where the log is shared. Like this program, it is pinned to the second core.
    _store: Option<Store>,
    _log: tempfile::TempDir,
}

impl Server {
    fn start(kind: Kind) -> anyhow::Result<Self> {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).stdout(Stdio::piped());
        let log = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let mut store = None;
        if kind == Kind::Floor {
            command.arg(std::env::current_exe()?).arg("floor-server");
            command.stdin(Stdio::piped());
        } else {
            serve(command.arg(env!("CARGO_BIN_EXE_tribus")));
        }
        match kind {
            Kind::Floor | Kind::Memory | Kind::Sse => {}
            Kind::Disk => {
                command
                    .env("TRIBUS__BUS__ENGINE", "disk")
                    .env("TRIBUS__BUS__DISK__PATH", log.path());
            }
            Kind::Shared(shared) => {
                let server = shared.start(log.path())?;
                shared.configure(&mut command, &server);
                store = Some(server);
            }
        }
        let mut process = command.spawn()?;
        let address = match (process.stdout.take(), process.stderr.take()) {
            (Some(stdout), _) if kind == Kind::Floor => {
                first(stdout, |line| line.trim().parse().ok())?
            }
            (_, Some(stderr)) => first(stderr, address_in_log)?,
            _ => anyhow::bail!("the server has no output"),
        };
        Ok(Self {
            kind,
            process,
            address,
            _store: store,
            _log: log,
        })
    }

    async fn round(mut self, clients: usize, events: usize) -> anyhow::Result<Row> {
        let empty = self.memory_kib()?;
        let arrivals = Rc::new(Arrivals::default());
        for _ in 0..clients {
            let stream = self.connect().await?;
            tokio::task::spawn_local(read_forever(self.kind, stream, Rc::clone(&arrivals)));
        }
        arrivals.ready.wait_for(clients).await;
        let idle = (self.memory_kib()? - empty) / clients as f64;
        let mut publisher = Publisher::of(&mut self);
        // The first events allocate what later ones reuse.
        self.drive(&mut publisher, &arrivals, clients, 10, 1)
            .await?;
        let single = self
            .drive(&mut publisher, &arrivals, clients, events, 1)
            .await?;
        let burst = self
            .drive(&mut publisher, &arrivals, clients, events * 4, IN_FLIGHT)
            .await?;
        let mut piped = f64::NAN;
        if self.kind.is_piped() {
            let mut publisher = Publisher::Piped(self.open(&websocket("")).await?);
            let driven = self.drive(&mut publisher, &arrivals, clients, events * 4, IN_FLIGHT);
            piped = driven.await?;
        }
        Ok(Row {
            single,
            burst,
            piped,
            idle,
        })
    }

    /// CPU microseconds a delivery, with so many events published at once, and the next when all
    /// of them have reached everyone.
    async fn drive(
        &self,
        publisher: &mut Publisher,
        arrivals: &Arrivals,
        clients: usize,
        events: usize,
        in_flight: usize,
    ) -> anyhow::Result<f64> {
        let before = self.cpu_seconds()?;
        let start = arrivals.events.count.get();
        for turn in 1..=events / in_flight {
            publisher.publish(in_flight).await?;
            let awaited = turn * in_flight * clients;
            arrivals.events.wait_for(start + awaited).await;
        }
        let spent = self.cpu_seconds()? - before;
        Ok(spent * 1e6 / (events / in_flight * in_flight * clients) as f64)
    }

    async fn connect(&self) -> anyhow::Result<TcpStream> {
        let request = match self.kind {
            Kind::Floor => return Ok(TcpStream::connect(self.address).await?),
            Kind::Memory | Kind::Disk | Kind::Shared(_) => websocket("?topics=bench:*"),
            Kind::Sse => format!(
                "GET /events?topics=bench:* HTTP/1.1\r\nHost: bench\r\n\
                 Authorization: Bearer {}\r\n\r\n",
                token()
            ),
        };
        self.open(&request).await
    }

    async fn open(&self, request: &str) -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.address).await?;
        stream.write_all(request.as_bytes()).await?;
        Ok(stream)
    }

    fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/schedstat", self.process.id()))?;
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.id()))?;
        let mut nanoseconds = 0.0;
        for task in tasks {
            let path = task?.path().join("schedstat");
            let text = std::fs::read_to_string(path).unwrap_or_else(|_| stat.clone());
            nanoseconds += text
                .split_whitespace()
                .next()
                .unwrap_or("0")
                .parse::<f64>()?;
        }
        Ok(nanoseconds / 1e9)
    }

    fn memory_kib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kib.unwrap_or("0").parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pin_to(core: usize) {
    let pid = std::process::id().to_string();
    let _ = Command::new("taskset")
        .args(["-cp", &core.to_string(), &pid])
        .stdout(Stdio::null())
        .status();
}

/// Publishes events, each with a request of its own and those in flight over connections of their own, as
/// a backend's pool does, or all of those in flight over one WebSocket; or makes the floor write frames to
/// everyone.
enum Publisher {
    /// Connected when they are needed: the gateway does not wait long for the first request of one.
    Http(SocketAddr, Vec<TcpStream>),
    Piped(TcpStream),
    Floor(RefCell<std::process::ChildStdin>),
}

impl Publisher {
    fn of(server: &mut Server) -> Self {
        match server.process.stdin.take() {
            Some(stdin) => Self::Floor(RefCell::new(stdin)),
            None => Self::Http(server.address, Vec::new()),
        }
    }

    async fn publish(&mut self, count: usize) -> anyhow::Result<()> {
        let streams = match self {
            Self::Floor(stdin) => {
                return Ok(stdin
                    .borrow_mut()
                    .write_all("\n".repeat(count).as_bytes())?);
            }
            Self::Piped(stream) => return publish_piped(stream, count).await,
            Self::Http(address, streams) => {
                while streams.len() < count {
                    streams.push(TcpStream::connect(*address).await?);
                }
                streams
            }
        };
        let body = r#"{"topic":"bench:1","event":"tick"}"#;
        let request = format!(
            "POST /publish HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            token(),
            body.len()
        );
        for stream in &mut streams[..count] {
            stream.write_all(request.as_bytes()).await?;
        }
        for stream in &mut streams[..count] {
            read_answer(stream).await?;
        }
        Ok(())
    }
}

async fn read_answer(stream: &mut TcpStream) -> anyhow::Result<()> {
    let mut answer = Vec::new();
    // Its body is one object of JSON.
    while !answer.ends_with(b"}") {
        let len = stream.read_buf(&mut answer).await?;
        anyhow::ensure!(len > 0, "the gateway closed a publisher's connection");
    }
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "a publish was refused");
    Ok(())
}

async fn publish_piped(stream: &mut TcpStream, count: usize) -> anyhow::Result<()> {
    let message = r#"{"type":"publish","topic":"bench:1","event":"tick"}"#;
    // RFC 6455, section 5.2: text of fewer than 126 bytes, under a mask that changes nothing.
    let mut frame = vec![0x81, 0x80 | u8::try_from(message.len())?, 0, 0, 0, 0];
    frame.extend_from_slice(message.as_bytes());
    stream.write_all(&frame.repeat(count)).await?;
    let mut answers = Vec::new();
    while find_all(&answers, br#""type":"published""#).0 < count {
        let len = stream.read_buf(&mut answers).await?;
        anyhow::ensure!(len > 0, "the gateway closed a publisher's connection");
        let (errors, _) = find_all(&answers, br#""type":"error""#);
        anyhow::ensure!(errors == 0, "a publish was refused");
    }
    Ok(())
}

#[derive(Default)]
struct Arrivals {
    ready: Counter,
    events: Counter,
}

#[derive(Default)]
struct Counter {
    count: Cell<usize>,
    target: Cell<usize>,
    reached: Notify,
}

impl Counter {
    fn add(&self, more: usize) {
        self.count.set(self.count.get() + more);
        if self.count.get() >= self.target.get() {
            self.reached.notify_one();
        }
    }

    async fn wait_for(&self, target: usize) {
        self.target.set(target);
        while self.count.get() < target {
            self.reached.notified().await;
        }
    }
}

/// Counts events by a mark that each has once.
async fn read_forever(kind: Kind, mut stream: TcpStream, arrivals: Rc<Arrivals>) {
    let mark: &[u8] = if kind == Kind::Floor {
        b"\n"
    } else {
        br#"{"type":"event""#
    };
    let live: &[u8] = br#"{"type":"live""#;
    let mut is_live = kind == Kind::Floor;
    if is_live {
        arrivals.ready.add(1);
    }
    let mut buffer = vec![0; 16 * 1024];
    let mut kept = 0;
    loop {
        let Ok(read @ 1..) = stream.read(&mut buffer[kept..]).await else {
            return;
        };
        let seen = &buffer[..kept + read];
        if !is_live && find_all(seen, live).0 > 0 {
            is_live = true;
            arrivals.ready.add(1);
        }
        let (count, end) = find_all(seen, mark);
        arrivals.events.add(count);
        // A mark may be cut in two.
        let rest = seen.len() - end;
        kept = rest.min(mark.len() - 1);
        let from = seen.len() - kept;
        buffer.copy_within(from..from + kept, 0);
    }
}

/// How often the mark occurs, and where its last occurrence ends.
fn find_all(text: &[u8], mark: &[u8]) -> (usize, usize) {
    let (mut count, mut end) = (0, 0);
    while let Some(at) = text[end..]
        .windows(mark.len())
        .position(|part| part == mark)
    {
        count += 1;
        end += at + mark.len();
    }
    (count, end)
}

/// The kernel's share alone.
mod floor {
    use std::{
        io::{BufRead, Write},
        net::{TcpListener, TcpStream},
        sync::{Arc, Mutex, PoisonError},
    };

    use super::EVENT_BYTES;

    pub fn serve() -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        println!("{}", listener.local_addr()?);
        let clients: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let accepted = Arc::clone(&clients);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = client.set_nodelay(true);
                let _ = client.set_nonblocking(true);
                let mut accepted = accepted.lock().unwrap_or_else(PoisonError::into_inner);
                accepted.push(client);
            }
        });
        let mut frame = vec![b'x'; EVENT_BYTES + 2];
        frame.push(b'\n');
        for line in std::io::stdin().lock().lines() {
            line?;
            let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
            for client in clients.iter_mut() {
                client.write_all(&frame)?;
            }
        }
        Ok(())
    }
}
