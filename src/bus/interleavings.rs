//! The seams between the log's writer and its readers, in many interleavings of their threads:
//! `cargo test --lib --features shuttle interleavings`.

use std::{path::Path, rc::Rc, sync::Arc, time::Duration};

use futures_util::FutureExt;
use jiff::Timestamp;
use shuttle::thread;

use super::{Bus, Fetched, Retention, SessionHandle, Shard, StartPoint};
use crate::{
    auth::Identity,
    engine::{
        Appended, Engine, EngineError, EngineFuture, IdempotencyKey, IdempotencyLimits,
        MemoryEngine, Tail,
        disk::{DiskLog, DiskOptions, Durability, Folder, Request},
    },
    event::{Cursor, Draft, Event, LogId},
    metrics::{EngineState, Metrics},
    protocol::{ServerFrame, Start, SubscribeRequest, SubscriptionLimits, Transport},
    session::{Announcement, Outgoing, Peer, Session, SessionLimits},
    subscription::Subscription,
    sync::Mutex,
    topic::{Tenant, Topic, TopicFilter},
};

const IDEMPOTENCY: IdempotencyLimits = IdempotencyLimits {
    keys: 16,
    keys_per_subject: 16,
};
/// Published before anybody subscribes, and by then.
const BEFORE: u64 = 6;
const ALL: u64 = 30;

#[test]
fn a_replay_goes_live_without_a_seam() {
    interleave(
        || {
            let bus = Bus::open(retention(None), |tail| {
                let log = LogId::random().map_err(drop)?;
                Ok::<_, ()>(Arc::new(MemoryEngine::new(log, tail, IDEMPOTENCY)) as Arc<dyn Engine>)
            });
            resume_while_publishing(bus.unwrap(), &[1, 2, 1]);
        },
        500,
    );
}

#[test]
fn a_replay_from_disk_goes_live_without_a_seam_while_segments_roll() {
    interleave(
        || {
            let directory = tempfile::tempdir().unwrap();
            let bus = Bus::open(retention(Some(1500)), |tail| {
                let engine = OnDisk::open(directory.path(), tail);
                Ok::<_, ()>(Arc::new(engine) as Arc<dyn Engine>)
            });
            resume_while_publishing(bus.unwrap(), &[3, 1]);
        },
        100,
    );
}

fn interleave(threads: impl Fn() + Send + Sync + 'static, runs: usize) {
    let mut config = shuttle::Config::new();
    // redb's calls do not fit into what a thread has by default.
    config.stack_size = 1 << 20;
    let scheduler = shuttle::scheduler::RandomScheduler::new(runs);
    shuttle::Runner::new(scheduler, config).run(threads);
}

/// Several clients resume and go live while events are published in batches of these sizes.
fn resume_while_publishing(bus: Arc<Bus>, batches: &'static [u64]) {
    for _ in 0..BEFORE {
        publish(&bus, 1);
    }
    let publisher = {
        let bus = Arc::clone(&bus);
        thread::spawn(move || {
            let mut left = ALL - BEFORE;
            for size in batches.iter().cycle() {
                let size = left.min(*size);
                publish(&bus, size);
                left -= size;
                if left == 0 {
                    return;
                }
            }
        })
    };
    let clients = [1, BEFORE].map(|after| {
        let bus = Arc::clone(&bus);
        thread::spawn(move || {
            let seen = Client::resume(&bus, after).read_to(ALL);
            let expected: Vec<u64> = (after + 1..=ALL).collect();
            assert_eq!(seen, expected);
        })
    });
    publisher.join().unwrap();
    for client in clients {
        client.join().unwrap();
    }
}

fn retention(bytes_in_memory: Option<usize>) -> Retention {
    Retention {
        events: 1000,
        bytes: 1 << 20,
        age: None,
        bytes_in_memory,
    }
}

fn publish(bus: &Bus, count: u64) {
    let drafts = (0..count).map(|_| draft()).collect();
    let appended = bus.engine.append(drafts, None).now_or_never();
    appended.expect("these engines never wait").unwrap();
}

fn draft() -> Draft {
    Draft {
        tenant: Tenant::none(),
        topic: Topic::parse("a:1").unwrap(),
        name: "message".into(),
        tags: Box::default(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: br#""topic":"a:1","data":null}"#.to_vec(),
    }
}

/// A session on a shard of its own thread.
struct Client {
    bus: Arc<Bus>,
    shard: Rc<Shard>,
    session: SessionHandle,
}

impl Client {
    fn resume(bus: &Arc<Bus>, after: u64) -> Self {
        let limits = SessionLimits {
            subscriptions: SubscriptionLimits {
                subscriptions: 10,
                patterns: 10,
            },
        };
        let metrics = Metrics::new().worker();
        let shard = Shard::new(Arc::clone(bus), limits, metrics, (None, None));
        let peer = Peer {
            transport: Transport::WebSocket,
            address: None,
        };
        let session = shard.open(Arc::new(alice()), peer);
        let start = StartPoint::After {
            position: after,
            asked: bus.cursor(after),
        };
        let connected = Announcement::Connected {
            message: "",
            node: None,
            heartbeat_ms: 0,
        };
        session.subscribe(everything(), start, connected).unwrap();
        Self {
            bus: Arc::clone(bus),
            shard,
            session,
        }
    }

    /// The sequences that it is given, up to one.
    fn read_to(&self, last: u64) -> Vec<u64> {
        let mut seen = Vec::new();
        while seen.last() != Some(&last) {
            self.shard.catch_up();
            while let Some(outgoing) = self.next() {
                match outgoing {
                    Outgoing::Event(delivery) => seen.push(delivery.event.sequence),
                    Outgoing::Frame(frame) => {
                        assert!(!matches!(*frame, ServerFrame::Reset { .. }), "{frame:?}");
                    }
                }
            }
            thread::yield_now();
        }
        seen
    }

    fn next(&self) -> Option<Outgoing> {
        let outgoing = self.session.with(|session| session.next(&self.bus));
        if let Some(wanted) = self.session.with(Session::take_wanted) {
            let read = self.bus.engine.read(wanted).now_or_never();
            let fetched = read
                .expect("these engines never wait")
                .ok()
                .map(Fetched::new);
            self.session.with(|session| session.take_fetched(fetched));
        }
        outgoing
    }
}

fn alice() -> Identity {
    Identity {
        subject: "alice".into(),
        tenant: Tenant::none(),
        subscribe: vec![TopicFilter::parse("**").unwrap()],
        publish: Vec::new(),
        trusted: false,
        stats: false,
        expires_at: Timestamp::now() + Duration::from_secs(3600),
        token_id: None,
        limits: None,
    }
}

fn everything() -> SubscribeRequest {
    SubscribeRequest {
        subscriptions: vec![Subscription {
            filter: TopicFilter::parse("a:*").unwrap(),
            conditions: None,
            after: 0,
        }],
        start: Start::Now,
    }
}

/// The disk engine without its thread: whoever publishes writes.
struct OnDisk {
    log: Mutex<DiskLog>,
    shelf: Arc<crate::engine::disk::Shelf>,
}

impl OnDisk {
    fn open(path: &Path, tail: Arc<dyn Tail>) -> Self {
        let mut options = DiskOptions::new(Durability::Os, 1 << 20, IDEMPOTENCY);
        // Each commit is followed by another segment.
        options.segment_bytes = 1;
        let directory = Arc::new(Folder::open(path).unwrap());
        let log = DiskLog::open(directory, options, tail).unwrap();
        Self {
            shelf: Arc::clone(log.shelf()),
            log: Mutex::new(log),
        }
    }
}

impl Engine for OnDisk {
    fn append(
        &self,
        drafts: Vec<Draft>,
        key: Option<IdempotencyKey>,
    ) -> EngineFuture<'_, Appended> {
        let mut log = self.log.lock().unwrap();
        let mut answers = log.append(vec![Request { drafts, key }]);
        log.roll();
        Box::pin(std::future::ready(answers.remove(0)))
    }

    fn reached<'a>(&'a self, _: &'a Cursor) -> EngineFuture<'a, bool> {
        Box::pin(std::future::ready(Ok(true)))
    }

    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        let read = self.shelf.read(&sequences);
        let read = read.map_err(|error| EngineError::Unavailable(format!("{error:?}").into()));
        Box::pin(std::future::ready(read))
    }

    fn remembered_keys(&self) -> usize {
        0
    }

    fn condition(&self) -> EngineState {
        EngineState::default()
    }

    fn durability(&self) -> Option<&'static str> {
        None
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
