//! Everything that was published, acknowledged and seen by clients, and whether it fits together.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::sync::watch;

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
    publisher: usize,
    count: u64,
    /// Sent again under its key until it is answered.
    keyed: bool,
    /// Bytes that each of its events is larger by.
    bulk: usize,
    is_end: bool,
    /// Where its first event is.
    acknowledged: Option<Offset>,
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
/// - no offset stands for two events, and no event of a log for two offsets.
#[derive(Default)]
pub struct Checker {
    history: Mutex<History>,
    acknowledged: watch::Sender<u64>,
}

/// What a sound history amounts to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Publishes that nobody was ever told of, but by the clients that saw them.
    pub unanswered_but_there: usize,
    pub refused: usize,
    /// Clients that were told to come back later, each time.
    pub turned_away: usize,
    pub deliveries: usize,
    /// By their reasons.
    pub resets: BTreeMap<String, usize>,
    pub logs: usize,
}

impl Publish {
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

impl Verdict {
    pub fn resets(&self) -> usize {
        self.resets.values().sum()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events acknowledged, {} publishes refused, {} unanswered and there, {} deliveries \
             checked, resets {:?}, logs {}",
            self.acknowledged,
            self.refused,
            self.unanswered_but_there,
            self.deliveries,
            self.resets,
            self.logs
        )
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
        self.note_publish(Publish {
            publisher,
            count,
            keyed,
            bulk: 0,
            is_end: false,
            acknowledged: None,
        })
    }

    /// As [`Checker::publish`], of large events that are sent once.
    pub fn publish_bulky(&self, count: u64, bulk: usize) -> (u64, Vec<Value>) {
        self.note_publish(Publish {
            publisher: usize::MAX,
            count,
            keyed: false,
            bulk,
            is_end: false,
            acknowledged: None,
        })
    }

    /// The last publish of a test, which every client waits for.
    pub fn publish_end(&self) -> (u64, Value) {
        let (number, mut events) = self.note_publish(Publish {
            publisher: usize::MAX,
            count: 1,
            keyed: false,
            bulk: 0,
            is_end: true,
            acknowledged: None,
        });
        (number, events.remove(0))
    }

    fn note_publish(&self, publish: Publish) -> (u64, Vec<Value>) {
        let mut history = self.history();
        let number = history.publishes.len() as u64;
        let events = (0..publish.count).map(|index| publish.body(number, index));
        let events = events.collect();
        history.publishes.push(publish);
        (number, events)
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
    pub fn refuse(&self) {
        self.history().refused += 1;
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
        let history = self.history();
        let mut check = Check {
            history: &history,
            logs: HashMap::new(),
            places: HashMap::new(),
            homes: HashMap::new(),
            wrong: history.complaints.clone(),
            verdict: Verdict {
                resets: history.resets.clone(),
                refused: history.refused,
                turned_away: history.turned_away,
                ..Verdict::default()
            },
        };
        check.learn_what_is_there();
        check.check_publishers();
        for client in &history.clients {
            check.check_client(client);
        }
        check.verdict.logs = check.logs.len();
        match check.wrong.is_empty() {
            true => Ok(check.verdict),
            false => Err(check.wrong),
        }
    }
}

impl History {
    fn complain(&mut self, what: String) {
        // One defect may show a thousand times.
        if self.complaints.len() < 1000 {
            self.complaints.push(what);
        }
    }
}

struct Check<'a> {
    history: &'a History,
    /// By their names: what stands at which sequence.
    logs: HashMap<String, BTreeMap<u64, Mark>>,
    /// Of log and publish: where its first event stands.
    places: HashMap<(String, u64), u64>,
    /// The first log in which a publish was found.
    homes: HashMap<u64, String>,
    wrong: Vec<String>,
    verdict: Verdict,
}

impl Check<'_> {
    /// What was acknowledged is there, and so is what somebody saw, with all of its batch.
    fn learn_what_is_there(&mut self) {
        let history = self.history;
        for (number, publish) in history.publishes.iter().enumerate() {
            if let Some(first) = &publish.acknowledged {
                self.verdict.acknowledged += publish.count as usize;
                self.place(number as u64, first);
            }
        }
        for client in &history.clients {
            for sight in &client.sights {
                let Sight::Event(offset, mark) = sight else {
                    continue;
                };
                match offset.sequence.checked_sub(mark.index) {
                    Some(sequence) => {
                        let log = offset.log.clone();
                        self.place(mark.publish, &Offset { log, sequence });
                    }
                    None => self.wrong.push(format!("{mark} is at {offset}")),
                }
            }
        }
    }

    fn place(&mut self, number: u64, first: &Offset) {
        let publish = &self.history.publishes[number as usize];
        let place = (first.log.clone(), number);
        match self.places.get(&place) {
            Some(there) if *there == first.sequence => return,
            Some(there) => {
                let log = &first.log;
                let so = format!("publish {number} is at {first} and at {log}-{there}");
                return self.wrong.push(so);
            }
            None => {}
        }
        let home = self.homes.entry(number).or_insert(first.log.clone());
        if *home != first.log && !publish.keyed {
            let so = format!("publish {number} is in two logs, and was sent once");
            self.wrong.push(so);
        }
        if publish.acknowledged.is_none() {
            self.verdict.unanswered_but_there += 1;
        }
        self.places.insert(place, first.sequence);
        let log = self.logs.entry(first.log.clone()).or_default();
        for index in 0..publish.count {
            let mark = Mark {
                publish: number,
                index,
            };
            if let Some(other) = log.insert(first.sequence + index, mark) {
                let at = first.later(index);
                let so = format!("{at} stands for two: {other}, and {mark}");
                self.wrong.push(so);
            }
        }
    }

    /// Each publisher waits for an answer before it goes on, so that its events are in order.
    fn check_publishers(&mut self) {
        let mut newest: HashMap<usize, &Offset> = HashMap::new();
        for (number, publish) in self.history.publishes.iter().enumerate() {
            let Some(first) = &publish.acknowledged else {
                continue;
            };
            if publish.is_end {
                continue;
            }
            if let Some(before) = newest.insert(publish.publisher, first)
                && before.log == first.log
                && before.sequence >= first.sequence
            {
                let so = format!("publish {number} is at {first}, and an earlier one at {before}");
                self.wrong.push(so);
            }
        }
    }

    fn check_client(&mut self, client: &Client) {
        let mut at = client.began.clone();
        for sight in &client.sights {
            match sight {
                Sight::Event(offset, mark) => {
                    self.verdict.deliveries += 1;
                    self.check_event(client, &at, offset, *mark);
                    at = offset.clone();
                }
                Sight::Cursor(offset) => {
                    if offset.log == at.log && offset.sequence < at.sequence {
                        let so = format!("{} was at {at}, and is led to {offset}", client.name);
                        self.wrong.push(so);
                    } else {
                        self.check_way(client, &at, &offset.later(1));
                    }
                    at = offset.clone();
                }
                Sight::Reset(offset) => at = offset.clone(),
            }
        }
        self.check_end(client, &at);
    }

    fn check_event(&mut self, client: &Client, at: &Offset, offset: &Offset, mark: Mark) {
        if offset.log == at.log && offset.sequence <= at.sequence {
            let so = format!("{} was at {at}, and is given {offset} again", client.name);
            self.wrong.push(so);
        } else {
            self.check_way(client, at, offset);
        }
        if !self.wants(client, mark) {
            let so = format!("{} did not want {mark}", client.name);
            self.wrong.push(so);
        }
    }

    /// A client that comes from a position to right before another has missed nothing on its way.
    /// From one log to the next it comes without a reset only where it has all of both.
    fn check_way(&mut self, client: &Client, at: &Offset, before: &Offset) {
        if before.log == at.log {
            self.check_between(client, &at.log, at.sequence + 1..before.sequence);
        } else {
            self.check_between(client, &at.log, at.sequence + 1..u64::MAX);
            self.check_between(client, &before.log, 0..before.sequence);
        }
    }

    fn check_between(&mut self, client: &Client, log: &str, range: Range<u64>) {
        let there = self.logs.get(log).into_iter();
        let there = there.flat_map(|there| there.range(range.clone()));
        let missed: Vec<_> = there
            .filter(|(_, mark)| self.wants(client, **mark))
            .map(|(sequence, mark)| format!("{} missed {mark}, {log}-{sequence}", client.name))
            .collect();
        self.wrong.extend(missed);
    }

    fn wants(&self, client: &Client, mark: Mark) -> bool {
        let topic = self.history.publishes[mark.publish as usize].topic(mark.publish, mark.index);
        client.wanted.wants(&topic, "message", &[])
    }

    /// Every client stays until it has come to the end of the log.
    fn check_end(&mut self, client: &Client, at: &Offset) {
        let ends = self
            .history
            .publishes
            .iter()
            .filter(|publish| publish.is_end);
        let mut ends = ends.filter_map(|publish| publish.acknowledged.as_ref());
        if !ends.any(|end| end.log == at.log && end.sequence <= at.sequence) {
            let so = format!("{} came to {at} only, and not to the end", client.name);
            self.wrong.push(so);
        }
    }
}
