//! What durability and a shared log cost: publishes that wait for the disk or for Redis, and a resume
//! that is read from the disk. Redis is a `redis-server` of the bench's own, on loopback.
//!
//! ```sh
//! cargo bench --bench log              # five rounds, medians
//! LOG_ROUNDS=3 LOG_SECONDS=2 LOG_DIRECTORY=/mnt/disk cargo bench --bench log
//! ```
//!
//! All ways take turns in each round, so that a busy machine slows all of them. The floor is one
//! `write` and `fdatasync` at a time on the same disk.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};
use tribus::{
    engine::{
        Engine, IdempotencyLimits, MemoryEngine, StoredEvent, Tail,
        disk::{DiskEngine, DiskOptions, Durability},
        redis::{Address, RedisEngine, RedisOptions},
    },
    event::{Draft, Event, LogId},
    protocol::PublishLimits,
    topic::{Tenant, Topic},
};

use support::{
    figures::{median, setting},
    store::Store,
    token::{SECRET, token},
};

mod support {
    pub mod figures;
    pub mod store;
    pub mod token;
}

const DATA_BYTES: usize = 200;
const RETAINED_BYTES: usize = 256 << 20;
const RESUMED: usize = 10_000;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure())
}

fn directory() -> PathBuf {
    std::env::var_os("LOG_DIRECTORY")
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from)
}

/// One way to write events: so many publishers at once, each with batches of so many events.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Floor,
    Disk(Durability, usize, usize),
    Memory(usize, usize),
    /// With this `appendfsync`, or without AOF.
    Redis(Option<&'static str>, usize, usize),
}

const WAYS: [(&str, Way); 15] = [
    ("floor: write and fdatasync, one at a time", Way::Floor),
    ("disk, 1 publisher", Way::Disk(Durability::Sync, 1, 1)),
    ("disk, 64 publishers", Way::Disk(Durability::Sync, 64, 1)),
    ("disk, 256 publishers", Way::Disk(Durability::Sync, 256, 1)),
    (
        "disk, 1 publisher, batches of 100",
        Way::Disk(Durability::Sync, 1, 100),
    ),
    (
        "disk, 8 publishers, batches of 100",
        Way::Disk(Durability::Sync, 8, 100),
    ),
    (
        "disk at \"os\", 64 publishers",
        Way::Disk(Durability::Os, 64, 1),
    ),
    ("memory, 64 publishers", Way::Memory(64, 1)),
    ("memory, 8 publishers, batches of 100", Way::Memory(8, 100)),
    ("redis, 1 publisher", Way::Redis(None, 1, 1)),
    ("redis, 64 publishers", Way::Redis(None, 64, 1)),
    ("redis, 256 publishers", Way::Redis(None, 256, 1)),
    (
        "redis, 8 publishers, batches of 100",
        Way::Redis(None, 8, 100),
    ),
    (
        "redis at \"everysec\", 64 publishers",
        Way::Redis(Some("everysec"), 64, 1),
    ),
    (
        "redis at \"always\", 64 publishers",
        Way::Redis(Some("always"), 64, 1),
    ),
];

async fn measure() -> anyhow::Result<()> {
    let rounds = setting("LOG_ROUNDS", 5);
    let seconds = Duration::from_secs(setting("LOG_SECONDS", 1) as u64);
    println!(
        "events of about {} bytes, {rounds} rounds of {seconds:?}, medians\n",
        draft().body.len()
    );
    let mut rates = [const { Vec::new() }; WAYS.len()];
    let mut resumes = [const { Vec::new() }; 2];
    for _ in 0..rounds {
        for ((_, way), rates) in WAYS.iter().zip(&mut rates) {
            rates.push(way.events_a_second(seconds).await?);
        }
        let gateway = Gateway::start().await?;
        resumes[0].push(gateway.resume_by_websocket().await?);
        resumes[1].push(gateway.resume_by_sse().await?);
    }
    let floor = median(rates[0].iter().copied());
    for ((name, _), rates) in WAYS.iter().zip(&rates) {
        let rate = median(rates.iter().copied());
        println!(
            "{name:<44}{rate:>12.0} events/s{:>10.1} × floor",
            rate / floor
        );
    }
    for (name, rates) in ["WebSocket", "SSE"].iter().zip(&resumes) {
        let rate = median(rates.iter().copied());
        println!("{RESUMED} events from disk to one client, {name:<9}{rate:>9.0} events/s");
    }
    Ok(())
}

impl Way {
    async fn events_a_second(self, time: Duration) -> anyhow::Result<f64> {
        let directory = tempfile::tempdir_in(directory())?;
        let idempotency = IdempotencyLimits {
            keys: 1,
            keys_per_subject: 1,
        };
        match self {
            Self::Floor => floor(directory.path(), time),
            Self::Disk(durability, publishers, batch) => {
                let options = DiskOptions::new(durability, RETAINED_BYTES, idempotency);
                let engine = DiskEngine::open(directory.path(), options, Arc::new(Nobody))?;
                Ok(publish(Arc::new(engine), publishers, batch, time).await)
            }
            Self::Memory(publishers, batch) => {
                let engine = MemoryEngine::new(LogId::random()?, Arc::new(Nobody), idempotency);
                Ok(publish(Arc::new(engine), publishers, batch, time).await)
            }
            Self::Redis(fsync, publishers, batch) => {
                let server = Store::redis(directory.path(), fsync)?;
                let engine = engine_in(&server, idempotency)?;
                Ok(publish(Arc::new(engine), publishers, batch, time).await)
            }
        }
    }
}

fn engine_in(redis: &Store, idempotency: IdempotencyLimits) -> anyhow::Result<RedisEngine> {
    let url = format!("redis://{}", redis.address());
    let options = RedisOptions {
        address: Address::Direct(url.clone()),
        shown: url,
        namespace: "bench".to_owned(),
        timeout: Duration::from_secs(5),
        retained: usize::MAX,
        idempotency,
        publish: PublishLimits {
            event_bytes: 64 << 10,
            nesting: 128,
            own_topics: None,
        },
    };
    RedisEngine::open(options, Arc::new(Nobody))
}

fn floor(directory: &Path, time: Duration) -> anyhow::Result<f64> {
    let mut file = File::create(directory.join("floor"))?;
    let event = draft().body;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        file.write_all(&event)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Each publisher waits for its answer before it publishes again.
async fn publish(engine: Arc<dyn Engine>, publishers: usize, batch: usize, time: Duration) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..publishers)
        .map(|_| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                let mut count = 0;
                while start.elapsed() < time {
                    let drafts = (0..batch).map(|_| draft()).collect();
                    engine.append(drafts, None).await.expect("the log is well");
                    count += batch;
                    // The memory engine never waits.
                    tokio::task::yield_now().await;
                }
                count
            })
        })
        .collect();
    let mut events = 0;
    for task in tasks {
        events += task.await.expect("a publisher ends well");
    }
    let rate = events as f64 / start.elapsed().as_secs_f64();
    engine.close().await.expect("the log closes");
    rate
}

fn draft() -> Draft {
    let data = "x".repeat(DATA_BYTES);
    let body = format!(
        r#""topic":"bench:1","event":"message","data":"{data}","timestamp":"2026-01-25T10:30:00.000Z","user_id":"bench"}}"#
    );
    Draft {
        tenant: Tenant::none(),
        topic: Topic::parse("bench:1").expect("a good topic"),
        name: "message".into(),
        tags: Box::default(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: body.into_bytes(),
    }
}

/// A tail that retains all that fits, and looks at nothing.
struct Nobody;

impl Tail for Nobody {
    fn told(&self, _: &[u8]) {}

    fn begin(&self, _: LogId, _: u64, _: &[u8]) {}
    fn restore(&self, _: Vec<StoredEvent>, _: u64) {}
    fn restart(&self, _: LogId, _: u64) {}
    fn extend(&self, _: Vec<Arc<Event>>) {}
    fn advance(&self, _: u64) {}
    fn trim(&self, _: u64) {}
    fn earliest(&self) -> u64 {
        0
    }
    fn trims(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// A gateway whose log is on disk, and not in memory.
struct Gateway {
    process: Child,
    address: String,
    cursor: String,
    _log: tempfile::TempDir,
}

impl Gateway {
    async fn start() -> anyhow::Result<Self> {
        let log = tempfile::tempdir_in(directory())?;
        let port = free_port()?;
        let process = Command::new(env!("CARGO_BIN_EXE_tribus"))
            .args(["serve", "--admin-listen", "127.0.0.1:0", "--workers", "1"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .env("TRIBUS__AUTH__HS256_SECRET", SECRET)
            .env("TRIBUS__BUS__ENGINE", "disk")
            .env("TRIBUS__BUS__DISK__PATH", log.path())
            .env("TRIBUS__BUS__DISK__MEMORY", "4KiB")
            .stderr(Stdio::null())
            .spawn()?;
        let mut gateway = Self {
            process,
            address: format!("127.0.0.1:{port}"),
            cursor: String::new(),
            _log: log,
        };
        let data = "x".repeat(DATA_BYTES);
        let event = format!(r#"{{"topic":"bench:1","data":"{data}"}}"#);
        let batch = format!("[{}]", vec![event; 1000].join(","));
        gateway.cursor = gateway.publish(&batch).await?;
        for _ in 1..RESUMED / 1000 + 2 {
            gateway.publish(&batch).await?;
        }
        Ok(gateway)
    }

    /// The first id of what was published; waits for the gateway to be there.
    async fn publish(&self, batch: &str) -> anyhow::Result<String> {
        let url = format!("http://{}/publish", self.address);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let request = reqwest::Client::new().post(&url).bearer_auth(token());
            match request.body(batch.to_owned()).send().await {
                Ok(answer) => {
                    let answer: serde_json::Value = answer.error_for_status()?.json().await?;
                    let id = answer["ids"][0].as_str().context("ids")?;
                    return Ok(id.to_owned());
                }
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Events a second, from the request on.
    async fn resume_by_websocket(&self) -> anyhow::Result<f64> {
        let url = format!(
            "ws://{}/ws?topics=bench:1&cursor={}",
            self.address, self.cursor
        );
        let mut request = url.into_client_request()?;
        let token = format!("Bearer {}", token());
        request
            .headers_mut()
            .insert("authorization", token.parse()?);
        let start = Instant::now();
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
        let mut count = 0;
        while count < RESUMED {
            match socket.next().await.context("the stream goes on")?? {
                Message::Text(text) => {
                    count += usize::from(text.starts_with(r#"{"type":"event""#));
                }
                Message::Ping(data) => socket.send(Message::Pong(data)).await?,
                _ => {}
            }
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    async fn resume_by_sse(&self) -> anyhow::Result<f64> {
        let url = format!(
            "http://{}/events?topics=bench:1&cursor={}",
            self.address, self.cursor
        );
        let start = Instant::now();
        let answer = reqwest::Client::new().get(url).bearer_auth(token()).send();
        let mut stream = answer.await?.error_for_status()?.bytes_stream();
        let mut count = 0;
        while count < RESUMED {
            let part = stream.next().await.context("the stream goes on")??;
            // One empty line ends each event.
            count += part.windows(2).filter(|pair| pair == b"\n\n").count();
        }
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> anyhow::Result<u16> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port())
}
