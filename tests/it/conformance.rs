//! What every engine promises, through the gateway: the same for all of them.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use serde_json::{Value, json};
use tempfile::TempDir;
use tribus::{
    engine::{
        Engine, IdempotencyLimits, StoredEvent, Tail,
        disk::{DiskEngine, DiskOptions, Durability},
        nats::{self, NatsEngine, NatsOptions},
        redis::{self, RedisEngine, RedisOptions},
    },
    event::{Cursor, Draft, Event, LogId},
    protocol::PublishLimits,
    topic::{Tenant, Topic},
};

use crate::support::{Claims, NatsServer, RedisServer, TRANSPORTS, TestGateway, replay, within};

/// Where a log is; next to nothing of it is in memory where the engine has it elsewhere.
struct Store {
    engine: &'static str,
    toml: String,
    _directory: TempDir,
}

impl Store {
    async fn all() -> [Self; 4] {
        let directory = || tempfile::tempdir().expect("a directory");
        let (memory, disk, redis, nats) = (directory(), directory(), directory(), directory());
        let path = disk.path().display().to_string();
        let url = RedisServer::shared().await.url();
        let namespace = RedisServer::namespace();
        let nats_url = NatsServer::shared().await.url();
        let nats_namespace = NatsServer::namespace();
        [
            Self {
                engine: "memory",
                toml: "bus.engine = \"memory\"".to_owned(),
                _directory: memory,
            },
            Self {
                engine: "disk",
                toml: format!(
                    "bus.engine = \"disk\"\nbus.disk.path = {path:?}\nbus.disk.memory = \"4KiB\""
                ),
                _directory: disk,
            },
            Self {
                engine: "redis",
                toml: format!(
                    "bus.engine = \"redis\"\nbus.redis.url = \"{url}\"\n\
                     bus.namespace = \"{namespace}\"\nbus.redis.memory = \"4KiB\""
                ),
                _directory: redis,
            },
            Self {
                engine: "nats",
                toml: format!(
                    "bus.engine = \"nats\"\nbus.nats.url = \"{nats_url}\"\n\
                     bus.namespace = \"{nats_namespace}\"\nbus.nats.memory = \"4KiB\""
                ),
                _directory: nats,
            },
        ]
    }

    async fn open(&self, more: &str) -> TestGateway {
        TestGateway::with(&format!("{}\n{more}", self.toml)).await
    }

    /// Whether its log outlives the gateway.
    fn is_lasting(&self) -> bool {
        self.engine != "memory"
    }
}

/// As [`TestGateway::post`], whatever the engine tells of its durability.
async fn post(gateway: &TestGateway, key: Option<&str>, body: &Value) -> (u16, Value) {
    let mut request = gateway.http.post(gateway.url("/publish"));
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let token = Claims::all("backend").token();
    let answer = request
        .bearer_auth(token)
        .body(body.to_string())
        .send()
        .await;
    let answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn publish(gateway: &TestGateway, topic: &str, data: Value) -> String {
    let (status, answer) = post(gateway, None, &json!({"topic": topic, "data": data})).await;
    assert_eq!(status, 200, "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

fn sequence(id: &Value) -> u64 {
    let id = id.as_str().expect("an id");
    let sequence = id.rsplit_once('-').expect("LOG-SEQUENCE").1;
    sequence.parse().expect("a number")
}

#[tokio::test]
async fn batches_are_neighbours_and_everyone_sees_one_order() {
    const PUBLISHERS: u64 = 8;
    const BATCHES: u64 = 10;
    const EVENTS: u64 = 5;
    for store in Store::all().await {
        let gateway = store.open("").await;
        let mut ws = gateway.ws("topics=x").await;
        let mut sse = gateway.sse("topics=x").await;
        let publishers = (0..PUBLISHERS).map(|publisher| {
            let gateway = &gateway;
            async move {
                for batch in 0..BATCHES {
                    let events =
                        (0..EVENTS).map(|at| json!({"topic": "x", "data": [publisher, batch, at]}));
                    let body = Value::Array(events.collect());
                    let (status, answer) = post(gateway, None, &body).await;
                    assert_eq!(status, 200, "{answer}");
                    let ids = answer["ids"].as_array().expect("ids");
                    let first = sequence(&ids[0]);
                    let there: Vec<u64> = ids.iter().map(sequence).collect();
                    assert_eq!(there, (first..first + EVENTS).collect::<Vec<_>>());
                }
            }
        });
        join_all(publishers).await;
        let stored = replay(&gateway, TRANSPORTS[1], "topics=x&cursor=earliest").await;
        assert_eq!(
            stored.len() as u64,
            PUBLISHERS * BATCHES * EVENTS,
            "{}",
            store.engine
        );
        let mut last = 0;
        for event in &stored {
            let position = sequence(&event["id"]);
            assert!(position > last, "{}: {event} after {last}", store.engine);
            last = position;
            assert_eq!(ws.event().await, *event);
            assert_eq!(sse.event().await, *event);
        }
        for batch in stored.chunks(EVENTS as usize) {
            for (event, at) in batch.iter().zip(0..EVENTS) {
                assert_eq!(event["data"][0], batch[0]["data"][0], "{}", store.engine);
                assert_eq!(event["data"][2], json!(at), "{}", store.engine);
            }
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_under_its_key_is_there_once_also_at_the_same_time() {
    for store in Store::all().await {
        let gateway = store.open("").await;
        let body = json!([{"topic": "x"}, {"topic": "y"}]);
        let at_once = (0..8).map(|_| post(&gateway, Some("k"), &body));
        let answers = join_all(at_once).await;
        let ids: BTreeSet<String> = answers.iter().map(|(_, a)| a["ids"].to_string()).collect();
        assert_eq!(ids.len(), 1, "{}: {answers:?}", store.engine);
        let again = answers.iter().filter(|(_, a)| a["duplicate"] == true);
        assert_eq!(again.count(), 7, "{}: {answers:?}", store.engine);
        let (status, answer) = post(&gateway, Some("k"), &json!({"topic": "x"})).await;
        assert_eq!(
            (status, &answer["code"]),
            (409, &json!("conflict")),
            "{}",
            store.engine
        );
        let there = replay(&gateway, TRANSPORTS[0], "topics=**&cursor=earliest").await;
        assert_eq!(there.len(), 2, "{}", store.engine);
    }
}

#[tokio::test]
async fn whatever_is_retained_is_read_back_as_it_was_on_every_transport() {
    for store in Store::all().await {
        let gateway = store.open("").await;
        let mut ids = Vec::new();
        for number in 0..120u64 {
            let filler = "é".repeat(number as usize * 9);
            ids.push(publish(&gateway, "x", json!([number, filler])).await);
        }
        for transport in TRANSPORTS {
            for start in [0, 59, 119] {
                let cursor = format!("topics=x&cursor={}", ids[start]);
                let events = replay(&gateway, transport, &cursor).await;
                let got: Vec<&str> = events.iter().filter_map(|e| e["id"].as_str()).collect();
                assert_eq!(got, ids[start + 1..], "{} {transport:?}", store.engine);
                for (event, number) in events.iter().zip(start as u64 + 1..) {
                    let filler = "é".repeat(number as usize * 9);
                    assert_eq!(event["data"], json!([number, filler]));
                }
            }
        }
    }
}

#[tokio::test]
async fn only_positions_that_the_log_has_reached_are_gone_on_from() {
    for store in Store::all().await {
        let gateway = store.open("").await;
        let id = publish(&gateway, "x", json!(1)).await;
        let (log, last) = id.rsplit_once('-').expect("LOG-SEQUENCE");
        let last: u64 = last.parse().expect("a number");
        for reached in [last, last - 1] {
            let query = format!("topics=x&cursor={log}-{reached}&wait=0");
            assert_eq!(gateway.poll(&query).await.0, 200, "{}", store.engine);
        }
        for other in [
            // What nodes tell each other has positions too.
            format!("{log}-{}", last + 1_000_000),
            format!("{log}-{}", u64::MAX),
            format!("{id}.check"),
            format!("other-{last}"),
        ] {
            let (status, page) = gateway.poll(&format!("topics=x&cursor={other}")).await;
            assert_eq!(status, 410, "{} {other}: {page}", store.engine);
            assert_eq!(page["reason"], "unknown_log", "{}", store.engine);
        }
    }
}

#[tokio::test]
async fn a_log_that_lasts_is_the_same_after_a_restart_and_another_one_is_told() {
    let narrow = "retention.events = 16";
    for store in Store::all().await {
        let before = store.open(narrow).await;
        let quiet = publish(&before, "quiet", json!(1)).await;
        let trimmed = publish(&before, "x", json!(0)).await;
        let keyed = json!({"topic": "x", "data": "keyed"});
        let (_, first) = post(&before, Some("k"), &keyed).await;
        for number in 0..400 {
            publish(&before, "x", json!(number)).await;
        }
        let kept = publish(&before, "x", json!("kept")).await;
        let last = publish(&before, "x", json!("last")).await;
        before
            .scrape_until("the log to be trimmed", |scrape| {
                scrape.value("tribus_retained_events") <= 16.0
            })
            .await;
        before.stop().await;
        let after = store.open(narrow).await;
        let (status, page) = after.poll(&format!("topics=x&cursor={kept}&wait=0")).await;
        if !store.is_lasting() {
            assert_eq!((status, &page["reason"]), (410, &json!("unknown_log")));
            continue;
        }
        assert_eq!(
            (status, &page["events"][0]["id"]),
            (200, &json!(last)),
            "{}",
            store.engine
        );
        let (status, page) = after
            .poll(&format!("topics=x&cursor={trimmed}&wait=0"))
            .await;
        assert_eq!(
            (status, &page["reason"]),
            (410, &json!("expired")),
            "{}",
            store.engine
        );
        // Its own event is gone by now, and nothing came after it.
        let (status, page) = after
            .poll(&format!("topics=quiet&cursor={quiet}&wait=0"))
            .await;
        assert_eq!(status, 200, "{}: {page}", store.engine);
        let (_, again) = post(&after, Some("k"), &keyed).await;
        assert_eq!(again["id"], first["id"], "{}", store.engine);
        assert_eq!(again["duplicate"], true, "{}", store.engine);
        let next = publish(&after, "x", json!("next")).await;
        assert!(
            sequence(&json!(next)) > sequence(&json!(last)),
            "{}",
            store.engine
        );
    }
}

/// Asks the engine for each event's cursor while it is told of the event: what it is answered without
/// waiting.
#[derive(Default)]
struct Asking {
    engine: OnceLock<Arc<dyn Engine>>,
    log: Mutex<Option<LogId>>,
    answers: Mutex<Vec<Option<bool>>>,
}

impl Tail for Asking {
    fn told(&self, _: &[u8]) {}

    fn begin(&self, log: LogId, _: u64, _: &[u8]) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    fn restore(&self, _: Vec<StoredEvent>, _: u64) {}

    fn restart(&self, log: LogId, position: u64) {
        self.begin(log, position, &[]);
    }

    fn extend(&self, events: Vec<Arc<Event>>) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let log = log.clone().expect("it has begun");
        let engine = self.engine.get().expect("it was told");
        let ask = |event: &Arc<Event>| {
            let cursor = Cursor::new(log.clone(), event.sequence);
            engine.reached(&cursor).now_or_never().and_then(Result::ok)
        };
        let answers = events.iter().map(ask);
        let mut all = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(answers);
    }

    fn advance(&self, _: u64) {}

    fn trim(&self, _: u64) {}

    fn earliest(&self) -> u64 {
        0
    }

    fn trims(&self) -> Vec<u8> {
        Vec::new()
    }
}

/// A client may be given an event and come back with its cursor before its publisher has an answer.
#[tokio::test]
async fn a_cursor_is_reached_as_soon_as_anybody_can_have_it() {
    let limits = IdempotencyLimits {
        keys: 10,
        keys_per_subject: 10,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let options = DiskOptions::new(Durability::Os, 1 << 20, limits);
    let url = RedisServer::shared().await.url();
    let publish = PublishLimits {
        event_bytes: 1 << 10,
        nesting: 10,
        own_topics: None,
    };
    let redis = RedisOptions {
        address: redis::Address::Direct(url.clone()),
        shown: url,
        namespace: RedisServer::namespace(),
        timeout: Duration::from_secs(5),
        retained: 100,
        idempotency: limits,
        publish,
    };
    let url = NatsServer::shared().await.url();
    let nats = NatsOptions {
        address: nats::Address {
            urls: vec![url.clone()],
            credentials: None,
        },
        shown: url,
        namespace: NatsServer::namespace(),
        timeout: Duration::from_secs(5),
        bounds: nats::Bounds {
            replicas: 1,
            bytes: 1 << 20,
            age: None,
        },
        retained: 100,
        idempotency: limits,
        publish,
    };
    let tails = [(); 3].map(|()| Arc::new(Asking::default()));
    let tail = |at: usize| Arc::clone(&tails[at]) as Arc<dyn Tail>;
    let disk = DiskEngine::open(directory.path(), options, tail(0)).expect("it opens");
    let redis = RedisEngine::open(redis, tail(1)).expect("it opens");
    let nats = NatsEngine::open(nats, tail(2)).expect("it opens");
    let engines: [Arc<dyn Engine>; 3] = [Arc::new(disk), Arc::new(redis), Arc::new(nats)];
    for (engine, tail) in engines.into_iter().zip(&tails) {
        tail.engine.set(Arc::clone(&engine)).ok().expect("once");
        for _ in 0..20 {
            engine
                .append(vec![draft()], None)
                .await
                .expect("it takes it");
        }
        within("the tail to be told", async {
            let count = || {
                let answers = tail.answers.lock();
                answers.unwrap_or_else(PoisonError::into_inner).len()
            };
            while count() < 20 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        engine.close().await.expect("it ends");
        let answers = tail.answers.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*answers, vec![Some(true); 20]);
    }
}

fn draft() -> Draft {
    Draft {
        tenant: Tenant::none(),
        topic: Topic::parse("x").expect("a topic"),
        name: "message".into(),
        tags: Box::default(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: br#""topic":"x","data":1}"#.to_vec(),
    }
}
