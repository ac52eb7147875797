//! A client that goes from transport to transport with its last stream cursor, and comes back
//! whatever becomes of its connection.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Checker, Claims, END, Received, Sse, TRANSPORTS, TestGateway, Transport, Ws};
use crate::hopping::filter::Wanted;

/// A gateway that takes longer for an answer is left alone; it may be stopped.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where nobody listens, and where no time was told.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// The longest that it stays on one transport.
const STAY_MS: u64 = 700;

/// A day, since clocks may jump by an hour.
const TOKEN_SECONDS: i64 = 24 * 3600;

pub struct Hopper {
    checker: Arc<Checker>,
    /// Nodes of one log.
    addresses: Vec<SocketAddr>,
    gateway: TestGateway,
    number: usize,
    token: String,
    query: String,
    cursor: String,
    rng: fastrand::Rng,
    /// It was given the last event of the test.
    is_done: bool,
}

/// Why a hop is over: when to come back, where that was told.
type Left = Option<Duration>;

impl Hopper {
    /// Resumes from a cursor, and hops until it is given the last event of the test.
    pub fn start(
        checker: &Arc<Checker>,
        address: SocketAddr,
        name: &str,
        topics: &[&str],
        cursor: &str,
    ) -> JoinHandle<()> {
        Self::start_among(checker, &[address], name, topics, cursor)
    }

    /// As [`Hopper::start`], from node to node too.
    pub fn start_among(
        checker: &Arc<Checker>,
        addresses: &[SocketAddr],
        name: &str,
        topics: &[&str],
        cursor: &str,
    ) -> JoinHandle<()> {
        let wanted = Wanted::topics(&[topics, &[END]].concat());
        let hopper = Self {
            query: wanted.query(),
            number: checker.enter(name, wanted, cursor),
            checker: Arc::clone(checker),
            addresses: addresses.to_vec(),
            gateway: TestGateway::at(addresses[0], addresses[0]),
            token: Claims::all(name).expiring_in(TOKEN_SECONDS).token(),
            cursor: cursor.to_owned(),
            rng: fastrand::Rng::new(),
            is_done: false,
        };
        tokio::spawn(hopper.run())
    }

    async fn run(mut self) {
        while !self.is_done {
            let until = Instant::now() + Duration::from_millis(self.rng.u64(10..STAY_MS));
            self.gateway.address = self.addresses[self.rng.usize(0..self.addresses.len())];
            let transport = TRANSPORTS[self.rng.usize(0..TRANSPORTS.len())];
            let left = match transport {
                Transport::Ws => self.hop_by_ws(until).await,
                Transport::Sse => self.hop_by_sse(until).await,
                Transport::Poll => self.hop_by_poll().await,
            };
            if let Some(pause) = left {
                sleep(pause).await;
            }
        }
    }

    fn query(&self) -> String {
        format!("{}&cursor={}", self.query, self.cursor)
    }

    async fn hop_by_ws(&mut self, until: Instant) -> Left {
        let query = self.query();
        let connecting = Ws::connect(&self.gateway, &query, Some(&self.token), None);
        let Ok(Ok(mut ws)) = timeout(PATIENCE, connecting).await else {
            return Some(TRY_AGAIN);
        };
        loop {
            match timeout_at(until, ws.receive()).await {
                Ok(Received::Json(frame)) => {
                    if let Some(left) = self.take(&frame) {
                        return left;
                    }
                }
                Ok(Received::Close(..) | Received::End) => return Some(TRY_AGAIN),
                Err(_) => return None,
            }
        }
    }

    async fn hop_by_sse(&mut self, until: Instant) -> Left {
        let answer = match self.get("/events", "").await {
            Ok(answer) => answer,
            Err(left) => return left,
        };
        let mut sse = Sse::new(answer);
        loop {
            match timeout_at(until, sse.try_next()).await {
                Ok(Some(event)) => {
                    if let Some(left) = self.take(&event.json()) {
                        return left;
                    }
                }
                Ok(None) => return Some(TRY_AGAIN),
                Err(_) => return None,
            }
        }
    }

    async fn hop_by_poll(&mut self) -> Left {
        let more = format!("&wait=1&max={}", self.rng.u32(1..=300));
        let answer = match self.get("/poll", &more).await {
            Ok(answer) => answer,
            Err(left) => return left,
        };
        let Ok(Ok(page)) = timeout(PATIENCE, answer.json::<Value>()).await else {
            return Some(TRY_AGAIN);
        };
        for event in page["events"].as_array().into_iter().flatten() {
            self.take(event);
        }
        self.take(&page);
        page["reconnectAfterMs"].as_u64().map(Duration::from_millis)
    }

    /// An answer of 200, or 410, which is a reset.
    async fn get(&self, path: &str, more: &str) -> Result<reqwest::Response, Left> {
        let url = self.gateway.url(&format!("{path}?{}{more}", self.query()));
        let request = self.gateway.http.get(url).bearer_auth(&self.token);
        let Ok(Ok(answer)) = timeout(PATIENCE, request.send()).await else {
            return Err(Some(TRY_AGAIN));
        };
        if matches!(answer.status().as_u16(), 200 | 410) {
            return Ok(answer);
        }
        let Ok(Ok(error)) = timeout(PATIENCE, answer.json::<Value>()).await else {
            return Err(Some(TRY_AGAIN));
        };
        Err(Some(self.refused(&error)))
    }

    /// Keeps what a frame says: why to leave, where it says so.
    fn take(&mut self, frame: &Value) -> Option<Left> {
        let kind = frame["type"].as_str().unwrap_or("page");
        let cursor = frame.get("id").or_else(|| frame.get("cursor"));
        let cursor = cursor.and_then(Value::as_str);
        match kind {
            "error" => return Some(Some(self.refused(frame))),
            "closing" => {
                let pause = frame["reconnectAfterMs"].as_u64();
                return Some(Some(pause.map_or(TRY_AGAIN, Duration::from_millis)));
            }
            _ => {}
        }
        let Some(cursor) = cursor else {
            self.checker.complain(format!("no cursor in {frame}"));
            return Some(Some(TRY_AGAIN));
        };
        match kind {
            "event" => self.checker.see_event(self.number, frame),
            "reset" => {
                let reason = frame["reason"].as_str().unwrap_or_default();
                self.checker.see_reset(self.number, reason, cursor);
            }
            _ => self.checker.see_cursor(self.number, cursor),
        }
        cursor.clone_into(&mut self.cursor);
        self.is_done |= frame["topic"] == END;
        self.is_done.then_some(None)
    }

    /// How long to stay away. Nothing but a gateway that can not serve now may refuse it.
    fn refused(&self, error: &Value) -> Duration {
        if error["code"] != "unavailable" {
            self.checker
                .complain(format!("a client was refused: {error}"));
        }
        self.checker.turn_away();
        let pause = error["retryAfterMs"].as_u64();
        pause.map_or(TRY_AGAIN, Duration::from_millis)
    }
}
