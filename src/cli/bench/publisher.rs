//! Publishes on a schedule that waits for nobody: an event is due when it is due, however long the one before takes.
//!
//! Each topic has its lane, a thread with one connection, so that the events of a topic are published in their order. A
//! lane sleeps until its next event is due, and then publishes all that are due in one request; what becomes due
//! meanwhile goes with the next one, and its latency counts from when it was due.

mod connection;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use self::connection::{ANSWER_LIMIT, Connection};
use super::complaints::Complaints;
use super::course::{Course, nanoseconds};
use super::record;
use super::stamp::Stamp;
use super::tally::Unaccepted;
use crate::cli::failure::Failure;

const MOST_LANES: u32 = 8;

/// What the gateway takes in one batch by default, with room to spare.
const MOST_BATCH_EVENTS: usize = 2048;
const MOST_BATCH_BYTES: usize = 512 * 1024;

/// After a failure, so that a gateway that is gone is not asked in a circle.
const PAUSE: Duration = Duration::from_millis(50);

/// What of the schedule is not published so long after it was due is given up.
const LATEST: Duration = Duration::from_secs(30);

/// Events that go round the topics.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// When the first is due, in nanoseconds since the run began.
    pub start: u64,
    pub events: u64,
    /// Of each topic, the number of its first event here.
    pub first: Arc<[u32]>,
    /// All are due at the start.
    pub at_once: bool,
}

/// The lanes at work.
#[derive(Debug)]
pub struct Publisher {
    lanes: Vec<JoinHandle<Published>>,
    done: Arc<AtomicU64>,
}

/// What became of the events.
#[derive(Debug)]
pub struct Published {
    /// Of each topic: how many were tried, whatever became of them, and which were not accepted for certain.
    topics: Vec<(u32, Unaccepted)>,
    pub accepted: u64,
    pub failed: u64,
    pub failures: Complaints,
    /// From when an event was due until it was sent.
    pub behind: Histogram<u64>,
    /// From sending a request until its answer.
    pub answered: Histogram<u64>,
}

struct Lane {
    course: Arc<Course>,
    schedule: Schedule,
    number: u32,
    lanes: u32,
    connection: Option<Connection>,
    done: Arc<AtomicU64>,
    published: Published,
}

impl Publisher {
    pub fn start(course: &Arc<Course>, schedule: &Schedule) -> Result<Self> {
        let count = course.plan.topics.min(MOST_LANES);
        let done = Arc::new(AtomicU64::new(0));
        let lane = |number| Lane {
            course: Arc::clone(course),
            schedule: schedule.clone(),
            number,
            lanes: count,
            connection: None,
            done: Arc::clone(&done),
            published: Published::new(course.plan.topics),
        };
        let lanes = (0..count).map(|number| {
            let lane = lane(number);
            std::thread::Builder::new()
                .name("bench publisher".to_owned())
                .spawn(move || lane.run())
                .context("cannot start a thread")
        });
        Ok(Self {
            lanes: lanes.collect::<Result<_>>()?,
            done,
        })
    }

    /// Events that were published or failed so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub fn is_finished(&self) -> bool {
        self.lanes.iter().all(JoinHandle::is_finished)
    }

    /// Waits for the last answer, and adds what became of the events to `published`.
    pub fn finish(self, published: &mut Published) -> Result<()> {
        for lane in self.lanes {
            let share = lane
                .join()
                .map_err(|_| anyhow::anyhow!("a thread that publishes has failed"))?;
            published.merge(share);
        }
        Ok(())
    }
}

impl Published {
    pub fn new(topics: u32) -> Self {
        Self {
            topics: vec![(0, Unaccepted::NONE); topics as usize],
            accepted: 0,
            failed: 0,
            failures: Complaints::default(),
            behind: record::histogram(),
            answered: record::histogram(),
        }
    }

    /// How many events of `topic` there were, and which of them the gateway did not accept.
    pub fn of_topic(&self, topic: u32) -> (u32, &Unaccepted) {
        const NONE: &Unaccepted = &Unaccepted::NONE;
        let topic = self.topics.get(topic as usize);
        topic.map_or((0, NONE), |(count, unaccepted)| (*count, unaccepted))
    }

    /// The number after the last accepted event of each topic.
    pub fn goals(&self) -> Arc<[u32]> {
        let goals = self.topics.iter();
        goals
            .map(|(count, unaccepted)| unaccepted.end_of_accepted(*count))
            .collect()
    }

    /// The number of each topic's next event.
    pub fn counts(&self) -> Arc<[u32]> {
        self.topics.iter().map(|(count, _)| *count).collect()
    }

    /// Each topic is of one lane of one schedule at a time, and later schedules have higher numbers.
    fn merge(&mut self, other: Self) {
        for ((count, unaccepted), (others, more)) in self.topics.iter_mut().zip(other.topics) {
            *count = (*count).max(others);
            unaccepted.append(more);
        }
        self.accepted += other.accepted;
        self.failed += other.failed;
        self.failures.merge(other.failures);
        record::merge(&mut self.behind, &other.behind);
        record::merge(&mut self.answered, &other.answered);
    }
}

impl Default for Published {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Lane {
    fn run(mut self) -> Published {
        let mut event = self.next_own(0);
        let mut batch = Vec::new();
        while event < self.schedule.events {
            let first = self.due(event);
            let now = self.course.now();
            if first > now {
                std::thread::sleep(Duration::from_nanos(first - now));
            }
            let now = self.course.now();
            batch.clear();
            event = self.collect(event, now, &mut batch);
            if now - first.min(now) > nanoseconds(LATEST) {
                self.fail(&batch, "not published in time");
                continue;
            }
            record::note(
                &mut self.published.behind,
                Duration::from_nanos(now.saturating_sub(first)),
            );
            self.publish(&batch);
        }
        self.published
    }

    /// The events from `event` on that are due by `now`, as many as one request takes; gives the next one.
    fn collect(&self, mut event: u64, now: u64, batch: &mut Vec<Stamp>) -> u64 {
        let each = self.course.plan.size + 64;
        while event < self.schedule.events
            && self.due(event) <= now
            && batch.len() < MOST_BATCH_EVENTS
            && (batch.is_empty() || batch.len() * each < MOST_BATCH_BYTES)
        {
            let topics = u64::from(self.course.plan.topics);
            let topic = event % topics;
            // Topics fit, and numbers within a topic were checked to.
            let (topic, turn) = (topic as u32, (event / topics) as u32);
            batch.push(Stamp {
                topic,
                number: self.schedule.first[topic as usize] + turn,
                due: self.due(event),
            });
            event = self.next_own(event + 1);
        }
        event
    }

    /// The first event from `event` on whose topic is of this lane.
    fn next_own(&self, mut event: u64) -> u64 {
        let topics = u64::from(self.course.plan.topics);
        while event < self.schedule.events
            && event % topics % u64::from(self.lanes) != u64::from(self.number)
        {
            event += 1;
        }
        event
    }

    fn due(&self, event: u64) -> u64 {
        let after = if self.schedule.at_once {
            Duration::ZERO
        } else {
            self.course.plan.due(event)
        };
        self.schedule.start + nanoseconds(after)
    }

    fn publish(&mut self, batch: &[Stamp]) {
        let (requests, count) = self.requests(batch);
        let sent = Instant::now();
        match self.exchange(&requests, count) {
            Ok(()) => {
                record::note(&mut self.published.answered, sent.elapsed());
                self.published.accepted += batch.len() as u64;
                for stamp in batch {
                    self.published.topics[stamp.topic as usize].0 = stamp.number + 1;
                }
                self.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            Err(failure) => {
                self.connection = None;
                self.fail(batch, &failure.to_string());
                std::thread::sleep(
                    failure
                        .retry_after()
                        .unwrap_or_default()
                        .clamp(PAUSE, ANSWER_LIMIT),
                );
            }
        }
    }

    fn fail(&mut self, batch: &[Stamp], why: &str) {
        for stamp in batch {
            let (count, unaccepted) = &mut self.published.topics[stamp.topic as usize];
            *count = stamp.number + 1;
            unaccepted.push(stamp.number);
            self.published.failures.add(why);
        }
        self.published.failed += batch.len() as u64;
        self.done.fetch_add(batch.len() as u64, Ordering::Relaxed);
    }

    /// The request with all of the batch, or one for each event, and how many that are.
    fn requests(&self, batch: &[Stamp]) -> (Vec<u8>, usize) {
        if self.course.dialect.peer().is_none() {
            return (self.request(batch), 1);
        }
        let Course {
            plan,
            stamps,
            target,
            dialect,
            ..
        } = &*self.course;
        let (mut requests, mut body) = (Vec::new(), Vec::new());
        for stamp in batch {
            body.clear();
            stamps.write(*stamp, &mut body);
            let path = dialect.publish_path(&plan.topic_name(stamp.topic));
            target.post(&path.unwrap_or_default(), body.len(), &mut requests);
            requests.extend_from_slice(&body);
        }
        (requests, batch.len())
    }

    fn request(&self, batch: &[Stamp]) -> Vec<u8> {
        let Course {
            plan,
            stamps,
            target,
            ..
        } = &*self.course;
        let mut body = Vec::with_capacity(batch.len() * (plan.size + 64) + 2);
        for stamp in batch {
            body.push(if body.is_empty() { b'[' } else { b',' });
            let topic = plan.topic_name(stamp.topic);
            body.extend_from_slice(format!(r#"{{"topic":"{topic}","data":"#).as_bytes());
            stamps.write(*stamp, &mut body);
            body.push(b'}');
        }
        body.push(b']');
        let mut request = Vec::with_capacity(body.len() + 2048);
        target.post("/publish", body.len(), &mut request);
        request.extend_from_slice(&body);
        request
    }

    /// Sends the requests one behind the other, and waits for the answers to all of them.
    fn exchange(&mut self, requests: &[u8], count: usize) -> Result<(), Failure> {
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.connection = None;
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.course, self.number as usize);
                let opened = opened.map_err(|error| Failure::of_connect(&error))?;
                self.connection.insert(opened)
            }
        };
        connection.send(requests)?;
        for answer in 1..=count {
            if !connection.read_answer()? {
                self.connection = None;
                return if answer == count {
                    Ok(())
                } else {
                    Err(connection::closed())
                };
            }
        }
        Ok(())
    }
}
