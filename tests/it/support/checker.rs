//! Everything that was published, acknowledged and seen by clients.

mod check;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use check::Check;

pub use check::Verdict;

use crate::hopping::filter::Wanted;

/// How many topics the load has.
const TOPICS: u64 = 8;
/// What the last event of a test is published to; every client wants it.
pub const END: &str = "end:all";
/// Of what is wrong, how much is told.
const TOLD: usize = 20;

/// A place in a log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Offset {
    pub log: String,
    pub sequence: u64,
}

/// One event of a publish, by the publish's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub publish: u64,
    pub index: u64,
}

/// What a client was given, in the order in which it came.
#[derive(Clone, Debug)]
enum Sight {
    Event(Offset, Mark),
    /// Everything up to here was given.
    Cursor(Offset),
    Reset(Offset),
}

struct Publish {
    /// Whose it is, where that one waits for the answer before it publishes again.
    publisher: Option<usize>,
    count: u64,
    /// Sent again under its key until it is answered.
    keyed: bool,
    /// Bytes that each of its events is larger by.
    bulk: usize,
    is_end: bool,
    /// Where its first event is.
    acknowledged: Option<Offset>,
    /// It was answered with `unavailable`, once at least.
    is_refused: bool,
}

struct Client {
    name: String,
    wanted: Wanted,
    began: Offset,
    sights: Vec<Sight>,
}

#[derive(Default)]
struct History {
    publishes: Vec<Publish>,
    /// What was sent over each connection of those who wait for no answer, in this order.
    connections: Vec<Vec<u64>>,
    clients: Vec<Client>,
    resets: BTreeMap<String, usize>,
    refused: usize,
    turned_away: usize,
    complaints: Vec<String>,
}

/// What is checked, at the end of a test, of all that happened in it:
///
/// - each acknowledged event reaches each client that wants it and is there or resumes, exactly
///   once and in order, or that client gets a reset;
/// - an event that was not acknowledged, or was seen before it was, is there with all of its batch
///   for everyone, or for nobody;
/// - no offset stands for two events, and no event of a log for two offsets;
/// - what is sent over one connection without waiting is there in the order of sending, and none of
///   it without all that was sent before and not refused.
#[derive(Default)]
pub struct Checker {
    history: Mutex<History>,
    acknowledged: watch::Sender<u64>,
}

impl Publish {
    fn of(count: u64) -> Self {
        Self {
            publisher: None,
            count,
            keyed: false,
            bulk: 0,
            is_end: false,
            acknowledged: None,
            is_refused: false,
        }
    }

    fn topic(&self, number: u64, index: u64) -> String {
        match self.is_end {
            true => END.to_owned(),
            false => format!("load:{}", (number + index) % TOPICS),
        }
    }

    /// What is sent for an event. Its data tells all of it, so that nothing of it can change
    /// unseen.
    fn body(&self, number: u64, index: u64) -> Value {
        let more = (number * 31 + index * 7) % 200;
        let filler = "x".repeat(self.bulk + more as usize);
        let data = json!({"publish": number, "index": index, "of": self.count, "filler": filler});
        json!({"topic": self.topic(number, index), "data": data})
    }
}

impl Offset {
    pub fn parse(cursor: &str) -> Option<Self> {
        let (log, rest) = cursor.rsplit_once('-')?;
        let sequence = rest.split('.').next()?.parse().ok()?;
        Some(Self {
            log: log.to_owned(),
            sequence,
        })
    }

    fn later(&self, by: u64) -> Self {
        Self {
            log: self.log.clone(),
            sequence: self.sequence + by,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log, self.sequence)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} of publish {}", self.index, self.publish)
    }
}

impl Checker {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A publish of so many events is about to be sent: the bodies of its events.
    pub fn publish(&self, publisher: usize, count: u64, keyed: bool) -> (u64, Vec<Value>) {
        self.history().publish(Publish {
            publisher: Some(publisher),
            keyed,
            ..Publish::of(count)
        })
    }

    /// As [`Checker::publish`], of large events that are sent once.
    pub fn publish_bulky(&self, count: u64, bulk: usize) -> (u64, Vec<Value>) {
        self.history().publish(Publish {
            publisher: Some(usize::MAX),
            bulk,
            ..Publish::of(count)
        })
    }

    /// The last publish of a test, which every client waits for.
    pub fn publish_end(&self) -> (u64, Value) {
        let (number, mut events) = self.history().publish(Publish {
            is_end: true,
            ..Publish::of(1)
        });
        (number, events.remove(0))
    }

    /// Somebody has connected who will publish without waiting for answers: the connection's number.
    pub fn connect(&self) -> usize {
        let mut history = self.history();
        history.connections.push(Vec::new());
        history.connections.len() - 1
    }

    /// One event is about to be sent over a connection, behind others that may not be answered yet.
    pub fn publish_over(&self, connection: usize, keyed: bool) -> (u64, Value) {
        let mut history = self.history();
        let publish = Publish {
            keyed,
            ..Publish::of(1)
        };
        let (number, mut events) = history.publish(publish);
        history.connections[connection].push(number);
        (number, events.remove(0))
    }

    /// A publish with a key is about to be sent again, over another connection.
    pub fn publish_again(&self, connection: usize, number: u64) {
        self.history().connections[connection].push(number);
    }

    /// A publish was answered with these ids.
    pub fn acknowledge(&self, number: u64, ids: &[String]) {
        let offsets: Option<Vec<Offset>> = ids.iter().map(|id| Offset::parse(id)).collect();
        let mut history = self.history();
        let publish = &mut history.publishes[number as usize];
        let count = publish.count;
        let Some(offsets) = offsets.filter(|offsets| offsets.len() as u64 == count) else {
            return history.complain(format!("publish {number} of {count} got the ids {ids:?}"));
        };
        publish.acknowledged = Some(offsets[0].clone());
        for (index, offset) in offsets.iter().enumerate() {
            if *offset != offsets[0].later(index as u64) {
                history.complain(format!("a batch is torn apart: {ids:?}"));
            }
        }
        drop(history);
        self.acknowledged.send_modify(|total| *total += count);
    }

    /// A publish was answered with `unavailable`.
    pub fn refuse(&self, number: u64) {
        let mut history = self.history();
        history.refused += 1;
        history.publishes[number as usize].is_refused = true;
    }

    /// A client was told to come back later.
    pub fn turn_away(&self) {
        self.history().turned_away += 1;
    }

    /// The ids of all events that were acknowledged so far.
    pub fn acknowledged_ids(&self) -> Vec<String> {
        let history = self.history();
        let answered = history.publishes.iter().filter_map(|publish| {
            let first = publish.acknowledged.as_ref()?;
            Some((0..publish.count).map(|index| first.later(index).to_string()))
        });
        answered.flatten().collect()
    }

    /// A client begins at a cursor; its number.
    pub fn enter(&self, name: &str, wanted: Wanted, cursor: &str) -> usize {
        let mut history = self.history();
        history.clients.push(Client {
            name: name.to_owned(),
            wanted,
            began: Offset::parse(cursor).expect("a cursor"),
            sights: Vec::new(),
        });
        history.clients.len() - 1
    }

    /// A client was given an event's envelope.
    pub fn see_event(&self, client: usize, event: &Value) {
        let mut history = self.history();
        let data = &event["data"];
        let offset = event["id"].as_str().and_then(Offset::parse);
        let (Some(publish), Some(index), Some(offset)) =
            (data["publish"].as_u64(), data["index"].as_u64(), offset)
        else {
            return history.complain(format!("a strange event: {event}"));
        };
        let Some(known) = history.publishes.get(publish as usize) else {
            return history.complain(format!("nobody published {event}"));
        };
        let sent = known.body(publish, index);
        if event["topic"] != sent["topic"] || *data != sent["data"] {
            history.complain(format!("{sent} was published, and {event} given"));
        }
        let mark = Mark { publish, index };
        history.clients[client]
            .sights
            .push(Sight::Event(offset, mark));
    }

    /// A client was given a stream cursor.
    pub fn see_cursor(&self, client: usize, cursor: &str) {
        self.see(client, cursor, Sight::Cursor);
    }

    pub fn see_reset(&self, client: usize, reason: &str, cursor: &str) {
        self.see(client, cursor, Sight::Reset);
        *self.history().resets.entry(reason.to_owned()).or_default() += 1;
    }

    fn see(&self, client: usize, cursor: &str, sight: impl FnOnce(Offset) -> Sight) {
        let mut history = self.history();
        match Offset::parse(cursor) {
            Some(offset) => history.clients[client].sights.push(sight(offset)),
            None => history.complain(format!("{cursor:?} is no cursor")),
        }
    }

    /// Something happened that must not.
    pub fn complain(&self, what: String) {
        self.history().complain(what);
    }

    /// How many events were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until so many events were acknowledged, at most for a minute.
    pub async fn until_acknowledged(&self, total: u64) {
        let mut acknowledged = self.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|so_far| *so_far >= total);
        if tokio::time::timeout(Duration::from_secs(60), reached)
            .await
            .is_err()
        {
            let so_far = self.acknowledged();
            let complaints = self.history().complaints.join("\n");
            panic!("{so_far} events were acknowledged of {total} within a minute\n{complaints}");
        }
    }

    /// Panics where the history is not sound.
    pub fn sound(&self) -> Verdict {
        match self.check() {
            Ok(verdict) => verdict,
            Err(wrong) => {
                let told = wrong[..wrong.len().min(TOLD)].join("\n");
                panic!("{} things are wrong:\n{told}", wrong.len());
            }
        }
    }

    /// # Errors
    /// All that is wrong, in words.
    pub fn check(&self) -> Result<Verdict, Vec<String>> {
        Check::of(&self.history())
    }
}

impl History {
    fn publish(&mut self, publish: Publish) -> (u64, Vec<Value>) {
        let number = self.publishes.len() as u64;
        let events = (0..publish.count).map(|index| publish.body(number, index));
        let events = events.collect();
        self.publishes.push(publish);
        (number, events)
    }

    fn complain(&mut self, what: String) {
        // One defect may show a thousand times.
        if self.complaints.len() < 1000 {
            self.complaints.push(what);
        }
    }
}
