//! One consumer that hops between the transports, with nothing but the last cursor it was given.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    filter::Wanted,
    publishers::claims_of,
    tide::{Published, Tide, sequence_of},
};
use crate::support::{Claims, Received, Sse, TestGateway, Ws, within};

/// One way to read the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Ws,
    /// A WebSocket without topics in its URL, which subscribes then.
    WsSubscribe,
    WsMsgpack,
    Sse,
    SseLastEventId,
    SsePost,
    Poll,
    PollPost,
}

pub const ALL_WAYS: &[Way] = &[
    Way::Ws,
    Way::WsSubscribe,
    Way::WsMsgpack,
    Way::Sse,
    Way::SseLastEventId,
    Way::SsePost,
    Way::Poll,
    Way::PollPost,
];

/// The ways that can name several subscriptions, which have conditions of their own.
pub const MANY_SUBSCRIPTIONS: &[Way] = &[Way::WsSubscribe, Way::SsePost, Way::PollPost];

/// What one consumer is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub tenant: Option<&'static str>,
    pub wanted: Vec<Wanted>,
    pub ways: &'static [Way],
    /// The most events of a poll.
    pub page: u64,
    /// How long a poll waits, in seconds.
    pub wait: u64,
    /// Reads with a small receive buffer, and pauses while others publish.
    pub slow: bool,
}

impl Plan {
    pub fn of(wanted: Wanted) -> Self {
        Self {
            tenant: None,
            wanted: vec![wanted],
            ways: ALL_WAYS,
            page: 100,
            wait: 1,
            slow: false,
        }
    }

    fn wants(&self, event: &Published) -> bool {
        event.tenant == self.tenant
            && self
                .wanted
                .iter()
                .any(|wanted| wanted.wants(&event.topic, &event.event, &event.tags))
    }
}

pub struct Consumer {
    gateway: Arc<TestGateway>,
    tide: Arc<Tide>,
    plan: Plan,
    number: usize,
    claims: Claims,
    rng: fastrand::Rng,
    /// Of the last frame of any kind that carried one.
    cursor: String,
    start: u64,
    log: Vec<Seen>,
    hops: Vec<(Way, String)>,
    kinds: BTreeMap<String, usize>,
}

struct Seen {
    sequence: u64,
    event: Value,
    hop: usize,
}

/// Whether the hop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Read,
    Hop,
}

impl Consumer {
    pub async fn new(gateway: &Arc<TestGateway>, tide: &Arc<Tide>, plan: Plan, seed: u64) -> Self {
        let claims = claims_of("consumer", plan.tenant);
        let (status, start) = gateway.poll_as(&claims, "topics=**").await;
        assert_eq!(status, 200, "{start}");
        let cursor = start["cursor"].as_str().expect("a cursor").to_owned();
        let start = sequence_of(&cursor);
        Self {
            gateway: Arc::clone(gateway),
            tide: Arc::clone(tide),
            number: tide.add_consumer(start),
            plan,
            claims,
            rng: fastrand::Rng::with_seed(seed),
            cursor,
            start,
            log: Vec::new(),
            hops: Vec::new(),
            kinds: BTreeMap::new(),
        }
    }

    pub async fn hop(&mut self, hops: usize) {
        for _ in 0..hops {
            self.hop_once().await;
        }
    }

    /// Publishers wait for it no longer.
    pub fn rest(&self) {
        self.tide.consumed(self.number, u64::MAX);
    }

    /// Hops on until everything that was published was read, and compares.
    pub async fn finish(mut self) -> BTreeMap<String, usize> {
        let head = self.tide.state().head;
        while sequence_of(&self.cursor) < head {
            self.hop_once().await;
        }
        self.compare();
        self.kinds
    }

    async fn hop_once(&mut self) {
        let way = self.rng.choice(self.plan.ways).copied().expect("a way");
        self.hops.push((way, self.cursor.clone()));
        *self.kinds.entry(format!("{way:?}")).or_default() += 1;
        let frames = match self.rng.u8(0..20) {
            0 => 0,
            1..=9 => self.rng.usize(1..=3),
            10..=18 => self.rng.usize(1..=40),
            _ => 300,
        };
        match way {
            Way::Ws | Way::WsSubscribe | Way::WsMsgpack => self.hop_by_ws(way, frames).await,
            Way::Sse | Way::SseLastEventId | Way::SsePost => self.hop_by_sse(way, frames).await,
            Way::Poll | Way::PollPost => self.hop_by_poll(way).await,
        }
    }

    async fn hop_by_ws(&mut self, way: Way, frames: usize) {
        let query = match way {
            Way::WsSubscribe => String::new(),
            _ => self.query(&self.cursor),
        };
        let subprotocol = match way {
            Way::WsMsgpack => "tribus.msgpack.v1",
            _ => "tribus.json.v1",
        };
        let mut ws = if self.plan.slow {
            self.gateway
                .narrow_ws(&self.claims, &query, subprotocol)
                .await
        } else {
            let token = self.claims.token();
            Ws::connect(&self.gateway, &query, Some(&token), Some(subprotocol))
                .await
                .expect("the handshake succeeds")
        };
        if way == Way::WsSubscribe {
            let mut subscribe = self.body();
            subscribe["type"] = json!("subscribe");
            ws.send(subscribe).await;
        }
        let packed = way == Way::WsMsgpack;
        // Until `subscribed` the client keeps the cursor that it sent.
        let mut subscribed = way != Way::WsSubscribe;
        for _ in 0..frames {
            if self.rng.u8(0..8) == 0 {
                send_ping(&mut ws, packed).await;
            }
            let received = match self.unless_dropped(ws.receive()).await {
                Some(Received::Json(frame)) => frame,
                // A client that is too slow to answer a Ping is taken for gone.
                Some(Received::Close(1001, _) | Received::End) | None => return,
                Some(Received::Close(code, reason)) => panic!("{}: {code} {reason}", self.place()),
            };
            subscribed |= received["type"] == "subscribed";
            if subscribed {
                self.take(&received);
            }
        }
    }

    async fn hop_by_sse(&mut self, way: Way, frames: usize) {
        let mut sse = self.open_sse(way).await;
        for _ in 0..frames {
            let event = match self.unless_dropped(sse.try_next()).await {
                Some(Some(event)) => event,
                Some(None) | None => return,
            };
            let frame = event.json();
            let cursor = frame.get("id").or(frame.get("cursor"));
            assert_eq!(cursor, Some(&json!(event.id)), "{}: {frame}", self.place());
            self.take(&frame);
        }
    }

    async fn open_sse(&self, way: Way) -> Sse {
        let query = self.query(&self.cursor);
        let body = self.body().to_string();
        if self.plan.slow {
            let body = (way == Way::SsePost).then_some(&*body);
            let query = if body.is_some() { "" } else { &query };
            return self.gateway.narrow_sse(&self.claims, query, body).await;
        }
        let http = &self.gateway.http;
        let url = |query: &str| self.gateway.url(&format!("/events?{query}"));
        let request = match way {
            Way::SsePost => http.post(url("")).body(body),
            Way::SseLastEventId => http
                .get(url(&self.query("earliest")))
                .header("Last-Event-ID", &self.cursor),
            _ => http.get(url(&query)),
        };
        let response = within(
            "the stream",
            request.bearer_auth(self.claims.token()).send(),
        )
        .await
        .expect("an answer");
        assert_eq!(response.status(), 200, "{}", self.place());
        Sse::new(response)
    }

    async fn hop_by_poll(&mut self, way: Way) {
        let http = &self.gateway.http;
        let page = self.rng.u64(1..=self.plan.page);
        let request = match way {
            Way::PollPost => {
                let mut body = self.body();
                body["max"] = json!(page);
                body["wait"] = json!(self.plan.wait);
                http.post(self.gateway.url("/poll")).body(body.to_string())
            }
            _ => {
                let wait = self.plan.wait;
                let query = format!("{}&wait={wait}&max={page}", self.query(&self.cursor));
                http.get(self.gateway.url(&format!("/poll?{query}")))
            }
        };
        let request = request.bearer_auth(self.claims.token());
        let answer = async {
            let response = request.send().await.expect("an answer");
            let status = response.status().as_u16();
            (status, response.json::<Value>().await.expect("JSON"))
        };
        let answered = self.unless_dropped(within("a poll's answer", answer)).await;
        // A lost response loses nothing: the next hop asks again with the old cursor.
        let Some((status, answer)) = answered else {
            return;
        };
        assert_eq!(status, 200, "{}: {answer}", self.place());
        let events = answer["events"].as_array().expect("events");
        assert!(events.len() as u64 <= page, "{}", self.place());
        for event in events {
            self.take(event);
        }
        self.take_cursor(answer["cursor"].as_str().expect("a cursor"));
    }

    /// Awaits, unless the connection is to drop right now: when others have published some more.
    async fn unless_dropped<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        let (more, next) = match self.rng.u8(0..40) {
            0 => (self.rng.u64(1..=30), Next::Hop),
            1 if self.plan.slow => (self.rng.u64(100..=1500), Next::Read),
            _ => return Some(future.await),
        };
        if next == Next::Read {
            self.tide.rises(more).await;
            return Some(future.await);
        }
        tokio::select! {
            outcome = future => Some(outcome),
            () = self.tide.rises(more) => None,
        }
    }

    fn take(&mut self, frame: &Value) {
        let kind = frame["type"].as_str().expect("a type");
        *self.kinds.entry(kind.to_owned()).or_default() += 1;
        match kind {
            "event" => self.take_event(frame),
            "connected" => {
                let asked = &self.hops.last().expect("a hop").1;
                assert_eq!(frame["cursor"], json!(asked), "{}", self.place());
            }
            "subscribed" | "live" | "heartbeat" | "pong" => {
                self.take_cursor(frame["cursor"].as_str().expect("a cursor"));
            }
            _ => panic!("{}: {frame}", self.place()),
        }
    }

    fn take_event(&mut self, event: &Value) {
        let id = event["id"].as_str().expect("an id");
        let sequence = sequence_of(id);
        if let Some(last) = self.log.last() {
            assert!(
                sequence > last.sequence,
                "{}: {sequence} after {} of hop {}",
                self.place(),
                last.sequence,
                last.hop
            );
        }
        self.take_cursor(id);
        self.log.push(Seen {
            sequence,
            event: event.clone(),
            hop: self.hops.len() - 1,
        });
    }

    fn take_cursor(&mut self, cursor: &str) {
        let (before, now) = (sequence_of(&self.cursor), sequence_of(cursor));
        assert!(
            now >= before,
            "{}: cursor {now} after {before}",
            self.place()
        );
        self.cursor = cursor.to_owned();
        self.tide.consumed(self.number, now);
    }

    fn compare(&self) {
        let mut expected: Vec<Published> = {
            let state = self.tide.state();
            let after_start = state
                .published
                .iter()
                .filter(|event| event.sequence > self.start);
            after_start
                .filter(|event| self.plan.wants(event))
                .cloned()
                .collect()
        };
        expected.sort_by_key(|event| event.sequence);
        let mut seen = self.log.iter().peekable();
        for event in &expected {
            if event.ephemeral
                && seen
                    .peek()
                    .is_none_or(|seen| seen.sequence > event.sequence)
            {
                continue;
            }
            let Some(seen) = seen.next() else {
                panic!("{} is missing at the end: {}", event.sequence, self.place());
            };
            assert_eq!(
                seen.sequence,
                event.sequence,
                "lost or made up around hop {}: {:?}",
                seen.hop,
                self.hops_around(seen.hop)
            );
            let same = seen.event["topic"] == json!(event.topic)
                && seen.event["event"] == json!(event.event)
                && seen.event["data"] == event.data;
            assert!(same, "{} differs from {event:?}", seen.event);
        }
        let unasked = seen.next().map(|seen| &seen.event);
        assert_eq!(unasked, None, "an event that nobody published for this");
        let durable = expected.iter().filter(|event| !event.ephemeral).count();
        assert!(durable > 100, "only {durable} events: nothing was tested");
    }

    fn hops_around(&self, hop: usize) -> &[(Way, String)] {
        &self.hops[hop.saturating_sub(2)..(hop + 2).min(self.hops.len())]
    }

    fn place(&self) -> String {
        let hop = self.hops.len().saturating_sub(1);
        format!("hop {hop} of {:?}: {:?}", self.plan, self.hops_around(hop))
    }

    fn query(&self, cursor: &str) -> String {
        format!("{}&cursor={cursor}", self.plan.wanted[0].query())
    }

    fn body(&self) -> Value {
        let mut body = match &*self.plan.wanted {
            [one] => one.json(),
            many => json!({"subscriptions": many.iter().map(Wanted::json).collect::<Vec<_>>()}),
        };
        body["cursor"] = json!(self.cursor);
        body
    }
}

async fn send_ping(ws: &mut Ws, packed: bool) {
    use futures_util::SinkExt;
    use tokio_tungstenite::tungstenite::Message;

    // {"type":"ping"} as MessagePack.
    let message = match packed {
        true => Message::binary(&b"\x81\xa4type\xa4ping"[..]),
        false => Message::text(r#"{"type":"ping"}"#),
    };
    // The gateway may have ended the connection meanwhile, which the next read finds out.
    let _ = within("sending", ws.socket.send(message)).await;
}
