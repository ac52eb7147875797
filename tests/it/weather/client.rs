//! One client of any transport that survives restarts with nothing but its cursor.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde_json::Value;

use crate::support::{Claims, Received, Sse, TestGateway, Transport, Ws, within};

/// Where nobody listens, and where no time was told.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What a client hears, whatever its transport.
#[derive(Debug)]
pub enum Heard {
    /// An event's number.
    Event(u64),
    Reset(String),
    /// The end of the connection, and when to come back where that was told.
    Closing(Option<u64>),
}

enum Line {
    Off,
    Ws(Box<Ws>),
    Sse(Sse),
    Poll,
}

pub struct Client {
    pub transport: Transport,
    /// The last stream cursor that it got.
    pub cursor: String,
    /// How often it was told to come back later.
    pub refusals: usize,
    gateway: TestGateway,
    claims: Claims,
    line: Line,
    inbox: VecDeque<Value>,
}

impl Client {
    pub fn new(address: SocketAddr, transport: Transport, name: &str, cursor: &str) -> Self {
        Self {
            transport,
            cursor: cursor.to_owned(),
            refusals: 0,
            gateway: TestGateway::at(address, address),
            claims: Claims::all(name),
            line: Line::Off,
            inbox: VecDeque::new(),
        }
    }

    /// Comes, or comes back, with its cursor: whenever it is told to, until it is let in.
    pub async fn enter(&mut self) {
        let entering = async {
            while let Err(wait) = self.try_to_enter().await {
                self.refusals += usize::from(wait.is_some());
                tokio::time::sleep(wait.unwrap_or(TRY_AGAIN)).await;
            }
        };
        within("a client to be let in", entering).await;
    }

    /// The next thing that matters; keeps the cursor.
    pub async fn hear(&mut self) -> Heard {
        loop {
            let Some(frame) = self.next().await else {
                return Heard::Closing(None);
            };
            if frame["type"] == "closing" {
                return Heard::Closing(frame["reconnectAfterMs"].as_u64());
            }
            let cursor = frame.get("id").or_else(|| frame.get("cursor"));
            if let Some(cursor) = cursor.and_then(Value::as_str) {
                self.cursor = cursor.to_owned();
            }
            match frame["type"].as_str() {
                Some("event") => return Heard::Event(frame["data"].as_u64().expect("a number")),
                Some("reset") => return Heard::Reset(reason(&frame)),
                _ => {}
            }
        }
    }

    fn query(&self) -> String {
        format!("topics=a:*&cursor={}", self.cursor)
    }

    /// When to try again, where that was told.
    async fn try_to_enter(&mut self) -> Result<(), Option<Duration>> {
        self.line = match self.transport {
            Transport::Ws => self.open_ws().await?,
            Transport::Sse => Line::Sse(Sse::new(self.get("/events", "").await?)),
            Transport::Poll => {
                self.poll(0).await?;
                Line::Poll
            }
        };
        Ok(())
    }

    async fn open_ws(&mut self) -> Result<Line, Option<Duration>> {
        let token = self.claims.token();
        let connected = Ws::connect(&self.gateway, &self.query(), Some(&token), None).await;
        let mut ws = connected.map_err(|_| None)?;
        match ws.receive().await {
            Received::Json(first) if first["type"] == "connected" => {
                self.inbox.push_back(first);
                Ok(Line::Ws(Box::new(ws)))
            }
            Received::Json(error) => Err(Some(retry_after(&error))),
            Received::Close(..) | Received::End => Err(None),
        }
    }

    async fn get(&mut self, path: &str, more: &str) -> Result<reqwest::Response, Option<Duration>> {
        let url = self.gateway.url(&format!("{path}?{}{more}", self.query()));
        let request = self.gateway.http.get(url).bearer_auth(self.claims.token());
        let answer = within("an answer", request.send()).await;
        let answer = answer.map_err(|_| None)?;
        match answer.status().as_u16() {
            200 | 410 => Ok(answer),
            503 => {
                let error: Value = answer.json().await.map_err(|_| None)?;
                Err(Some(retry_after(&error)))
            }
            other => panic!("{other} at {path}"),
        }
    }

    /// What the answer holds goes into the inbox.
    async fn poll(&mut self, wait: u64) -> Result<(), Option<Duration>> {
        let answer = self.get("/poll", &format!("&wait={wait}")).await?;
        let mut page: Value = answer.json().await.map_err(|_| None)?;
        let reconnect = page["reconnectAfterMs"].take();
        if let Some(events) = page["events"].as_array_mut() {
            self.inbox.extend(events.drain(..));
        }
        self.inbox.push_back(page);
        if !reconnect.is_null() {
            let closing = serde_json::json!({"type": "closing", "reconnectAfterMs": reconnect});
            self.inbox.push_back(closing);
        }
        Ok(())
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(frame) = self.inbox.pop_front() {
                return Some(frame);
            }
            match &mut self.line {
                Line::Off => return None,
                Line::Ws(ws) => match ws.receive().await {
                    Received::Json(frame) => return Some(frame),
                    Received::Close(..) | Received::End => return None,
                },
                Line::Sse(sse) => return Some(sse.try_next().await?.json()),
                Line::Poll => {
                    if let Err(wait) = self.poll(10).await {
                        let wait = wait?.as_millis() as u64;
                        return Some(
                            serde_json::json!({"type": "closing", "reconnectAfterMs": wait}),
                        );
                    }
                }
            }
        }
    }
}

fn reason(frame: &Value) -> String {
    frame["reason"].as_str().expect("a reason").to_owned()
}

fn retry_after(error: &Value) -> Duration {
    assert_eq!(error["code"], "unavailable", "{error}");
    let wait = error["retryAfterMs"].as_u64();
    Duration::from_millis(wait.expect("when to come back"))
}
