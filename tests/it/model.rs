//! Random operations against a model of the protocol: what a client got equals what the model
//! says, or there was a reset where the model allows one.

use std::{collections::BTreeMap, ops::Range};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

use crate::{
    hopping::{
        filter::{Wanted, matches, tags_json},
        sequence_of,
    },
    support::{Claims, Sse, TestGateway, Ws, within},
};

const RETAINED: usize = 8;
const CLIENTS: usize = 2;
const CASES: u32 = 200;
const OPERATIONS: Range<usize> = 8..30;

/// Behind the prefix of the case, so that cases share a gateway.
const TOPICS: [&str; 3] = ["a", "b", "c:d"];
const FILTERS: [&str; 6] = ["a", "b", "c:d", "*", "**", "c:*"];
const NAMES: [&str; 2] = ["x", "y"];

/// Indices are taken modulo what there is to choose from.
#[derive(Clone, Debug)]
enum Operation {
    Publish(Vec<Draft>),
    /// Adds subscriptions: on a live WebSocket at once, else with the next resume.
    Subscribe {
        client: usize,
        filters: Vec<usize>,
        conditions: usize,
        start: Start,
    },
    Unsubscribe {
        client: usize,
        which: usize,
    },
    Drop {
        client: usize,
    },
    Resume {
        client: usize,
        way: Way,
        /// How many stream cursors ago.
        back: usize,
    },
}

#[derive(Clone, Debug)]
struct Draft {
    topic: usize,
    name: usize,
    tag: Option<u8>,
    ephemeral: bool,
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Now,
    Earliest,
    Rewind(usize),
    Cursor { back: usize },
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Ws,
    Sse,
    Poll { max: u8 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let draft = (
        0..3_usize,
        0..2_usize,
        prop::option::of(0..2_u8),
        prop::bool::weighted(0.1),
    );
    let draft = draft.prop_map(|(topic, name, tag, ephemeral)| Draft {
        topic,
        name,
        tag,
        ephemeral,
    });
    let start = prop_oneof![
        Just(Start::Now),
        Just(Start::Earliest),
        (1..4_usize).prop_map(Start::Rewind),
        (0..12_usize).prop_map(|back| Start::Cursor { back }),
    ];
    let way = prop_oneof![
        Just(Way::Ws),
        Just(Way::Sse),
        (1..5_u8).prop_map(|max| Way::Poll { max }),
    ];
    let client = 0..CLIENTS;
    prop_oneof![
        4 => vec(draft, 1..=4).prop_map(Operation::Publish),
        3 => (client.clone(), vec(0..FILTERS.len(), 1..=2), 0..4_usize, start)
            .prop_map(|(client, filters, conditions, start)| {
                Operation::Subscribe { client, filters, conditions, start }
            }),
        1 => (client.clone(), 0..6_usize)
            .prop_map(|(client, which)| Operation::Unsubscribe { client, which }),
        1 => client.clone().prop_map(|client| Operation::Drop { client }),
        4 => (client, way, 0..12_usize)
            .prop_map(|(client, way, back)| Operation::Resume { client, way, back }),
    ]
}

#[test]
fn what_clients_get_is_what_the_model_says_or_a_reset() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let gateway = runtime.block_on(TestGateway::with(&format!("retention.events = {RETAINED}")));
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        max_shrink_iters: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let number = std::cell::Cell::new(0);
    let outcome = runner.run(&vec(operation(), OPERATIONS), |operations| {
        number.set(number.get() + 1);
        runtime.block_on(run_case(&gateway, number.get(), operations));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

async fn run_case(gateway: &TestGateway, number: usize, operations: Vec<Operation>) {
    let mut case = Case::new(gateway, number).await;
    for operation in operations {
        case.run(operation).await;
    }
    // In the end everyone comes back from its last cursor.
    for client in 0..CLIENTS {
        for way in [Way::Poll { max: 3 }, Way::Sse, Way::Ws] {
            case.resume(client, way, 0).await;
        }
    }
}

/// One event of the model's log.
#[derive(Clone, Debug)]
struct Entry {
    sequence: u64,
    topic: String,
    name: &'static str,
    tags: Vec<(String, String)>,
    ephemeral: bool,
}

#[derive(Default)]
struct Client {
    /// By topic filter, each with one filter of its own.
    wanted: BTreeMap<String, Wanted>,
    /// Every stream cursor that it was given.
    cursors: Vec<u64>,
    live: Option<Ws>,
    pings: u64,
}

impl Client {
    fn all(&self) -> Vec<Wanted> {
        self.wanted.values().cloned().collect()
    }

    fn cursor(&self, back: usize) -> u64 {
        let newest = self.cursors.len() - 1;
        self.cursors[newest - back.min(newest)]
    }
}

struct Case<'a> {
    gateway: &'a TestGateway,
    prefix: String,
    log_id: String,
    log: Vec<Entry>,
    clients: Vec<Client>,
}

/// What the model says that a resume gives.
struct Expected {
    events: Vec<u64>,
    reset_needed: bool,
    reset_allowed: bool,
}

impl<'a> Case<'a> {
    async fn new(gateway: &'a TestGateway, number: usize) -> Self {
        let (_, start) = gateway.poll("topics=**").await;
        let cursor = start["cursor"].as_str().expect("a cursor");
        let (log_id, sequence) = cursor.split_once('-').expect("LOG-SEQUENCE");
        let client = || Client {
            cursors: vec![sequence.parse().expect("a sequence")],
            ..Client::default()
        };
        Self {
            gateway,
            prefix: format!("m{number}"),
            log_id: log_id.to_owned(),
            log: Vec::new(),
            clients: (0..CLIENTS).map(|_| client()).collect(),
        }
    }

    async fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Publish(drafts) => self.publish(drafts).await,
            Operation::Subscribe {
                client,
                filters,
                conditions,
                start,
            } => self.subscribe(client, &filters, conditions, start).await,
            Operation::Unsubscribe { client, which } => self.unsubscribe(client, which).await,
            Operation::Drop { client } => self.clients[client].live = None,
            Operation::Resume { client, way, back } => self.resume(client, way, back).await,
        }
    }

    /// Publishes, and sees that every live client gets exactly what it wants.
    async fn publish(&mut self, drafts: Vec<Draft>) {
        let mut entries: Vec<_> = drafts.into_iter().map(|draft| self.entry(draft)).collect();
        let bodies: Vec<_> = entries.iter().map(body_of).collect();
        let (status, answer) = self.gateway.post(&json!(bodies).to_string()).await;
        assert_eq!(status, 200, "{answer}");
        for (entry, id) in entries
            .iter_mut()
            .zip(answer["ids"].as_array().expect("ids"))
        {
            entry.sequence = sequence_of(id.as_str().expect("an id"));
        }
        self.log.extend(entries.iter().cloned());
        for client in 0..CLIENTS {
            if self.clients[client].live.is_none() {
                continue;
            }
            let wanted = self.clients[client].all();
            let expected = entries.iter().filter(|entry| wants(&wanted, entry));
            let expected: Vec<_> = expected.map(|entry| entry.sequence).collect();
            let frames = self.settle(client).await;
            check_stream(&frames, &expected);
        }
    }

    fn entry(&self, draft: Draft) -> Entry {
        Entry {
            sequence: 0,
            topic: format!("{}:{}", self.prefix, TOPICS[draft.topic]),
            name: NAMES[draft.name],
            tags: draft
                .tag
                .map(|tag| ("t".to_owned(), tag.to_string()))
                .into_iter()
                .collect(),
            ephemeral: draft.ephemeral,
        }
    }

    async fn subscribe(
        &mut self,
        client: usize,
        filters: &[usize],
        conditions: usize,
        start: Start,
    ) {
        let wanted: BTreeMap<_, _> = filters
            .iter()
            .map(|filter| {
                let topic = format!("{}:{}", self.prefix, FILTERS[*filter]);
                (
                    topic.clone(),
                    with_conditions(Wanted::topics(&[&topic]), conditions),
                )
            })
            .collect();
        let added: Vec<_> = wanted.values().cloned().collect();
        self.clients[client].wanted.extend(wanted);
        if self.clients[client].live.is_none() {
            return;
        }
        let (message, expected) = self.late_subscribe(client, &added, start);
        let ws = self.clients[client].live.as_mut().expect("a live client");
        ws.send(message).await;
        let frames = self.settle(client).await;
        assert_eq!(frames[0]["type"], "subscribed", "{frames:?}");
        // Only a start without a cursor of the client's runs forward all the time.
        let replay: Vec<_> = frames
            .iter()
            .filter(|frame| matches!(frame["type"].as_str(), Some("event" | "reset")))
            .cloned()
            .collect();
        let subscribed = cursor_of(&frames[0]).expect("a cursor");
        for event in replay.iter().filter(|frame| frame["type"] == "event") {
            assert!(cursor_of(event) > Some(subscribed), "{frames:?}");
        }
        check(&replay, &expected);
    }

    fn late_subscribe(&self, client: usize, added: &[Wanted], start: Start) -> (Value, Expected) {
        let subscriptions: Vec<_> = added.iter().map(Wanted::json).collect();
        let mut message = json!({"type": "subscribe", "subscriptions": subscriptions});
        let without_reset = |events| Expected {
            events,
            reset_needed: false,
            reset_allowed: false,
        };
        let expected = match start {
            Start::Now => without_reset(Vec::new()),
            Start::Earliest => {
                message["cursor"] = json!("earliest");
                without_reset(self.retained_after(added, 0))
            }
            Start::Rewind(count) => {
                message["rewind"] = json!(count);
                without_reset(self.last_of_each_topic(added, count))
            }
            Start::Cursor { back } => {
                let cursor = self.clients[client].cursor(back);
                message["cursor"] = json!(self.cursor(cursor));
                self.expected(added, cursor)
            }
        };
        (message, expected)
    }

    async fn unsubscribe(&mut self, client: usize, which: usize) {
        let client = &mut self.clients[client];
        let Some(filter) = client
            .wanted
            .keys()
            .nth(which % client.wanted.len().max(1))
            .cloned()
        else {
            return;
        };
        client.wanted.remove(&filter);
        if let Some(ws) = &mut client.live {
            let reply = ws
                .ask(json!({"type": "unsubscribe", "topics": [filter]}))
                .await;
            assert_eq!(reply["type"], "unsubscribed");
        }
    }

    /// Comes back on a transport with the whole subscription and an earlier stream cursor.
    async fn resume(&mut self, client: usize, way: Way, back: usize) {
        let wanted = self.clients[client].all();
        if wanted.is_empty() {
            return;
        }
        let cursor = self.clients[client].cursor(back);
        let expected = self.expected(&wanted, cursor);
        let subscriptions: Vec<_> = wanted.iter().map(Wanted::json).collect();
        let body = json!({"subscriptions": subscriptions, "cursor": self.cursor(cursor)});
        self.clients[client].live = None;
        let frames = match way {
            Way::Ws => self.resume_by_ws(client, body).await,
            Way::Sse => self.resume_by_sse(&body).await,
            Way::Poll { max } => self.resume_by_poll(body, max).await,
        };
        check(&frames, &expected);
        let cursors = frames.iter().filter_map(cursor_of);
        self.clients[client].cursors.extend(cursors);
    }

    async fn resume_by_ws(&mut self, client: usize, mut body: Value) -> Vec<Value> {
        body["type"] = json!("subscribe");
        let mut ws = self.gateway.ws("").await;
        ws.send(body).await;
        self.clients[client].live = Some(ws);
        self.settle(client).await
    }

    async fn resume_by_sse(&self, body: &Value) -> Vec<Value> {
        let request = self.gateway.http.post(self.gateway.url("/events"));
        let request = request.bearer_auth(Claims::all("alice").token());
        let response = within("the stream", request.body(body.to_string()).send())
            .await
            .expect("an answer");
        assert_eq!(response.status(), 200);
        let mut sse = Sse::new(response);
        let mut frames = Vec::new();
        while frames
            .last()
            .is_none_or(|frame: &Value| frame["type"] != "live")
        {
            frames.push(sse.next().await.json());
        }
        frames
    }

    async fn resume_by_poll(&self, mut body: Value, max: u8) -> Vec<Value> {
        body["max"] = json!(max);
        body["wait"] = json!(0);
        let mut frames = Vec::new();
        loop {
            let request = self.gateway.http.post(self.gateway.url("/poll"));
            let request = request.bearer_auth(Claims::all("alice").token());
            let response = within("an answer", request.body(body.to_string()).send())
                .await
                .expect("an answer");
            let status = response.status();
            let answer: Value = response.json().await.expect("JSON");
            if status == 410 {
                frames.push(answer);
                return frames;
            }
            assert_eq!(status, 200, "{answer}");
            let events = answer["events"].as_array().expect("events");
            assert!(events.len() <= usize::from(max));
            frames.extend(events.iter().cloned());
            frames.push(json!({"type": "page", "cursor": answer["cursor"]}));
            if events.is_empty() {
                return frames;
            }
            body["cursor"] = answer["cursor"].clone();
        }
    }

    /// All frames of a live client until it has been served all that was published.
    async fn settle(&mut self, client: usize) -> Vec<Value> {
        let head = self.log.last().map_or(0, |entry| entry.sequence);
        let client = &mut self.clients[client];
        let ws = client.live.as_mut().expect("a live client");
        let mut frames = Vec::new();
        loop {
            client.pings += 1;
            ws.send(json!({"type": "ping", "ref": client.pings})).await;
            loop {
                let frame = ws.next().await;
                let is_answer = frame["type"] == "pong";
                frames.push(frame);
                if is_answer {
                    break;
                }
            }
            let settled = frames.last().and_then(cursor_of).expect("a cursor");
            if settled >= head {
                client.cursors.push(settled);
                return frames;
            }
        }
    }

    fn expected(&self, wanted: &[Wanted], after: u64) -> Expected {
        let trimmed = self.trimmed().filter(|entry| entry.sequence > after);
        let trimmed: Vec<_> = trimmed.collect();
        let is_pattern = |wanted: &Wanted| wanted.topics[0].contains('*');
        Expected {
            events: self.retained_after(wanted, after),
            reset_needed: trimmed.iter().any(|entry| wants(wanted, entry)),
            reset_allowed: wanted.iter().any(|wanted| {
                is_pattern(wanted)
                    || trimmed
                        .iter()
                        .any(|entry| matches(&wanted.topics[0], &entry.topic))
            }),
        }
    }

    fn durable(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.log.iter().filter(|entry| !entry.ephemeral)
    }

    fn trimmed(&self) -> impl Iterator<Item = &Entry> {
        let count = self.durable().count().saturating_sub(RETAINED);
        self.durable().take(count)
    }

    fn retained(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        let retained: Vec<_> = self.durable().rev().take(RETAINED).collect();
        retained.into_iter().rev()
    }

    fn retained_after(&self, wanted: &[Wanted], after: u64) -> Vec<u64> {
        self.retained()
            .filter(|entry| entry.sequence > after && wants(wanted, entry))
            .map(|entry| entry.sequence)
            .collect()
    }

    fn last_of_each_topic(&self, wanted: &[Wanted], count: usize) -> Vec<u64> {
        let mut left = BTreeMap::new();
        let newest_first = self.retained().rev().filter(|entry| wants(wanted, entry));
        let last = newest_first.filter(|entry| {
            let left = left.entry(&entry.topic).or_insert(count);
            *left = left.wrapping_sub(1);
            *left < count
        });
        let mut last: Vec<_> = last.map(|entry| entry.sequence).collect();
        last.reverse();
        last
    }

    fn cursor(&self, sequence: u64) -> String {
        format!("{}-{sequence}", self.log_id)
    }
}

fn wants(wanted: &[Wanted], entry: &Entry) -> bool {
    wanted
        .iter()
        .any(|wanted| wanted.wants(&entry.topic, entry.name, &entry.tags))
}

fn with_conditions(wanted: Wanted, conditions: usize) -> Wanted {
    match conditions {
        1 => wanted.events(&["x"]),
        2 => wanted.tag("t", "1"),
        3 => wanted.events(&["x", "y"]).tag("t", "0"),
        _ => wanted,
    }
}

fn body_of(entry: &Entry) -> Value {
    json!({
        "topic": entry.topic,
        "event": entry.name,
        "tags": tags_json(&entry.tags),
        "ephemeral": entry.ephemeral,
    })
}

/// The stream cursor of a frame.
fn cursor_of(frame: &Value) -> Option<u64> {
    let cursor = match frame["type"].as_str() {
        Some("event") => &frame["id"],
        _ => &frame["cursor"],
    };
    cursor.as_str().map(sequence_of)
}

fn check(frames: &[Value], expected: &Expected) {
    let Some(reset) = frames.iter().find(|frame| frame["type"] == "reset") else {
        assert!(!expected.reset_needed, "a silent gap: {frames:?}");
        return check_stream(frames, &expected.events);
    };
    assert_eq!(reset["reason"], "expired");
    let allowed = expected.reset_allowed || expected.reset_needed;
    assert!(allowed, "nothing of these topics was trimmed: {frames:?}");
    let event = frames.iter().find(|frame| frame["type"] == "event");
    assert_eq!(event, None, "a replay beside a reset: {frames:?}");
}

/// Exactly these events in this order, and no cursor ahead of an event that follows it.
fn check_stream(frames: &[Value], expected: &[u64]) {
    let mut left = expected.iter();
    for frame in frames {
        let cursor = cursor_of(frame);
        if frame["type"] == "event" {
            assert_eq!(cursor.as_ref(), left.next(), "{expected:?}: {frames:?}");
        } else {
            assert_ne!(frame["type"], "reset", "{frames:?}");
            let next = left.as_slice().first();
            assert!(
                cursor.as_ref() < next || next.is_none(),
                "{frame} is ahead: {frames:?}"
            );
        }
    }
    assert_eq!(
        left.as_slice(),
        [0_u64; 0],
        "lost of {expected:?}: {frames:?}"
    );
}
