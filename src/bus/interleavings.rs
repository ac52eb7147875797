//! The seams between the log's writer and its readers, in many interleavings of their threads:
//! `cargo test --lib --features shuttle interleavings`.

use std::{rc::Rc, sync::Arc, time::Duration};

use jiff::Timestamp;
use shuttle::{future::block_on, rand::Rng, thread};

use super::{Bus, Retention, SessionHandle, Shard};
use crate::{
    auth::Identity,
    engine::{
        Appended, Engine, EngineError, EngineFuture, IdempotencyKey, IdempotencyLimits,
        MemoryEngine,
        disk::{
            Desk, Directory, DiskLog, DiskOptions, Durability, LogError, Request, Shelf, Writer,
            simulation::disk::{Disk, Fault, SimulatedDirectory},
        },
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
const PUBLISHERS: u64 = 3;

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
            let engine = Arc::new(OnDisk::new(Disk::new(1)));
            let bus = engine.bus();
            let writing = engine.write();
            resume_while_publishing(Arc::clone(&bus), &[3, 1]);
            engine.end(writing);
        },
        30,
    );
}

#[test]
fn publishers_share_commits_while_the_disk_fills_up_and_nobody_misses_anything() {
    interleave(
        || {
            let disk = Disk::new(shuttle::rand::thread_rng().gen_range(1..1000));
            let engine = Arc::new(OnDisk::new(Arc::clone(&disk)));
            let bus = engine.bus();
            let writing = engine.write();
            for _ in 0..BEFORE {
                publish(&bus, 1);
            }
            disk.arm(Fault::Full, shuttle::rand::thread_rng().gen_range(0..60));
            disk.arm(
                Fault::ReadError,
                shuttle::rand::thread_rng().gen_range(0..200),
            );
            let publishers = publishers(&bus);
            let clients = clients(&bus);
            let give_space = thread::spawn(move || {
                for _ in 0..shuttle::rand::thread_rng().gen_range(1..200) {
                    thread::yield_now();
                }
                disk.give_space();
            });
            join(give_space, publishers);
            for client in clients {
                let seen = client.join().unwrap();
                assert_eq!((seen.resets, seen.sequences.last()), (0, Some(&ALL)));
            }
            engine.end(writing);
            // The next run has all of it.
            let engine = Arc::new(OnDisk {
                directory: engine.directory.clone(),
                ..OnDisk::new(Disk::new(1))
            });
            let bus = engine.bus();
            let writing = engine.write();
            let cursor = Cursor::new(engine.parts().1.log(), 1);
            let seen = Client::resume(&bus, &cursor).read_to(ALL);
            assert_eq!(seen.sequences, (2..=ALL).collect::<Vec<_>>());
            engine.end(writing);
        },
        12,
    );
}

#[test]
fn whoever_reads_or_comes_back_while_the_log_is_lost_is_told_and_goes_on_with_the_new_one() {
    interleave(
        || {
            let engine = Arc::new(OnDisk::new(Disk::new(1)));
            let bus = engine.bus();
            let writing = engine.write();
            for _ in 0..BEFORE {
                publish(&bus, 1);
            }
            let publishers = publishers(&bus);
            let clients = clients(&bus);
            let lose = {
                let engine = Arc::clone(&engine);
                thread::spawn(move || {
                    let (writer, shelf) = engine.parts();
                    let damage = LogError::Damaged {
                        name: "a segment".to_owned(),
                        what: "changed".to_owned(),
                    };
                    block_on(writer.lose(shelf.log(), damage)).unwrap();
                })
            };
            join(lose, publishers);
            for client in clients {
                // Who has had all of the lost log needs none.
                let seen = client.join().unwrap();
                assert!(seen.resets <= 1, "{seen:?}");
            }
            engine.end(writing);
        },
        30,
    );
}

/// Several, whose publishes wait in one queue: up to [`ALL`].
fn publishers(bus: &Arc<Bus>) -> Vec<thread::JoinHandle<()>> {
    let of_each = (ALL - BEFORE) / PUBLISHERS;
    let publishers = (0..PUBLISHERS).map(|_| {
        let bus = Arc::clone(bus);
        thread::spawn(move || (0..of_each).for_each(|_| publish(&bus, 1)))
    });
    publishers.collect()
}

/// Several, which come back with old cursors.
fn clients(bus: &Arc<Bus>) -> Vec<thread::JoinHandle<Seen>> {
    let clients = [1, BEFORE].map(|after| {
        let (bus, cursor) = (Arc::clone(bus), bus.cursor(after).parse().unwrap());
        thread::spawn(move || Client::resume(&bus, &cursor).read_to(ALL))
    });
    clients.into()
}

fn join(first: thread::JoinHandle<()>, others: Vec<thread::JoinHandle<()>>) {
    for thread in others.into_iter().chain([first]) {
        thread.join().unwrap();
    }
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
            let cursor = bus.cursor(after).parse().unwrap();
            let seen = Client::resume(&bus, &cursor).read_to(ALL);
            let expected: Vec<u64> = (after + 1..=ALL).collect();
            assert_eq!((seen.resets, seen.sequences), (0, expected));
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
        others: None,
    }
}

/// Until it is taken.
fn publish(bus: &Bus, count: u64) {
    loop {
        let drafts = (0..count).map(|_| draft()).collect();
        match block_on(bus.engine.append(drafts, None)) {
            Ok(_) => return,
            Err(EngineError::Unavailable(_)) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
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

/// What a client was given.
#[derive(Debug, Default)]
struct Seen {
    sequences: Vec<u64>,
    resets: usize,
}

/// A session on a shard of its own thread.
struct Client {
    bus: Arc<Bus>,
    shard: Rc<Shard>,
    session: SessionHandle,
    /// Where it was before.
    after: u64,
}

impl Client {
    fn resume(bus: &Arc<Bus>, cursor: &Cursor) -> Self {
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
        let start = block_on(bus.start(&Start::After(cursor.clone())));
        let connected = Announcement::Connected {
            message: "",
            node: None,
            heartbeat_ms: 0,
        };
        session
            .subscribe(everything(), start.unwrap(), connected, |_| Ok(()))
            .unwrap();
        Self {
            bus: Arc::clone(bus),
            shard,
            session,
            after: cursor.sequence,
        }
    }

    /// What it is given, up to a sequence or the end of the log. All in order, and nothing left out but for a reset.
    fn read_to(&self, last: u64) -> Seen {
        let mut seen = Seen::default();
        let mut at = self.after;
        loop {
            self.shard.catch_up();
            while let Some(outgoing) = self.next() {
                match outgoing {
                    Outgoing::Event(delivery) => {
                        let sequence = delivery.event.sequence;
                        assert_eq!(sequence, at + 1, "after {seen:?}");
                        at = sequence;
                        seen.sequences.push(sequence);
                    }
                    Outgoing::Frame(frame) => {
                        if let ServerFrame::Reset { cursor, .. } = &*frame {
                            let cursor: Cursor = cursor.parse().unwrap();
                            at = cursor.sequence;
                            seen.resets += 1;
                        }
                    }
                }
            }
            if at == last {
                return seen;
            }
            thread::yield_now();
        }
    }

    fn next(&self) -> Option<Outgoing> {
        let outgoing = self.session.with(|session| session.next(&self.bus));
        if let Some(wanted) = self.session.with(Session::take_wanted) {
            let fetched = block_on(self.bus.read_back(wanted)).unwrap();
            self.session
                .with(|session| session.take_fetched(Some(fetched)));
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

/// The disk engine with its queue and its groups, whose writer is a thread of the test's.
struct OnDisk {
    directory: Arc<SimulatedDirectory>,
    open: Mutex<Option<(Arc<Writer>, Arc<Shelf>)>>,
    desk: Mutex<Option<Desk>>,
}

impl OnDisk {
    fn new(disk: Arc<Disk>) -> Self {
        Self {
            directory: Arc::new(SimulatedDirectory(disk)),
            open: Mutex::new(None),
            desk: Mutex::new(None),
        }
    }

    /// A bus on what is on the disk.
    fn bus(self: &Arc<Self>) -> Arc<Bus> {
        let mut options = DiskOptions::new(Durability::Sync, 1 << 20, IDEMPOTENCY);
        // Each commit is followed by another segment.
        options.segment_bytes = 1;
        let bus = Bus::open(retention(Some(1500)), |tail| {
            let directory = Arc::clone(&self.directory) as Arc<dyn Directory>;
            let log = DiskLog::open(directory, options, tail).map_err(|error| error.to_string())?;
            let shelf = Arc::clone(log.shelf());
            let (writer, desk) = Writer::at_desk(log);
            *self.open.lock().unwrap() = Some((Arc::new(writer), shelf));
            *self.desk.lock().unwrap() = Some(desk);
            Ok::<_, String>(Arc::clone(self) as Arc<dyn Engine>)
        });
        bus.unwrap()
    }

    /// Takes the writer's turns until it is closed.
    fn write(&self) -> thread::JoinHandle<()> {
        let mut desk = self.desk.lock().unwrap().take().unwrap();
        thread::spawn(move || {
            loop {
                let command = block_on(desk.next());
                match desk.serve(command) {
                    Some(open) => desk = open,
                    None => return,
                }
                desk.look_after();
            }
        })
    }

    fn end(&self, writing: thread::JoinHandle<()>) {
        block_on(self.close()).unwrap();
        writing.join().unwrap();
    }

    fn parts(&self) -> (Arc<Writer>, Arc<Shelf>) {
        self.open.lock().unwrap().clone().unwrap()
    }
}

impl Engine for OnDisk {
    fn tell(&self, _: Vec<u8>) -> EngineFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn append(
        &self,
        drafts: Vec<Draft>,
        key: Option<IdempotencyKey>,
    ) -> EngineFuture<'static, Appended> {
        let (writer, _) = self.parts();
        Box::pin(async move { writer.append(Request { drafts, key }).await })
    }

    fn reached<'a>(&'a self, cursor: &'a Cursor) -> EngineFuture<'a, bool> {
        let (_, shelf) = self.parts();
        let reached = cursor.log == shelf.log() && cursor.sequence <= shelf.last();
        Box::pin(std::future::ready(Ok(reached)))
    }

    /// Again, where the writer has to open a segment first, or another log has come.
    fn read(&self, sequences: Vec<u64>) -> EngineFuture<'_, Vec<Arc<Event>>> {
        let (_, shelf) = self.parts();
        loop {
            if let Ok(events) = shelf.read(&sequences) {
                return Box::pin(std::future::ready(Ok(events)));
            }
            thread::yield_now();
        }
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
        let (writer, _) = self.parts();
        Box::pin(async move {
            // Its thread is the test's.
            writer.close().await
        })
    }
}
