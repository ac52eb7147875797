use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{Claims, Sse, TestGateway, Ws};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Ws,
    Sse,
    Poll,
}

pub const TRANSPORTS: [Transport; 3] = [Transport::Ws, Transport::Sse, Transport::Poll];

/// All that a client gets on this transport for a query with a `cursor` or `rewind`, up to `live`.
pub async fn replay(gateway: &TestGateway, transport: Transport, query: &str) -> Vec<Value> {
    let mut events = Vec::new();
    match transport {
        Transport::Ws => {
            let mut ws = gateway.ws(query).await;
            loop {
                match ws.next().await {
                    json if json["type"] == "live" => return events,
                    json => events.push(only_event(json)),
                }
            }
        }
        Transport::Sse => {
            let mut sse = gateway.sse(query).await;
            loop {
                match sse.next().await.json() {
                    json if json["type"] == "live" => return events,
                    json => events.push(only_event(json)),
                }
            }
        }
        Transport::Poll => {
            let (status, mut page) = gateway.poll(&format!("{query}&wait=0&max=1000")).await;
            assert_eq!(status, 200, "{query}: {page}");
            serde_json::from_value(page["events"].take()).expect("events")
        }
    }
}

fn only_event(json: Value) -> Value {
    assert_eq!(json["type"], "event", "{json}");
    json
}

pub fn topics_of(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["topic"].as_str().expect("a topic"))
        .collect()
}

/// The same subscription on all three transports at once.
pub struct Everywhere<'a> {
    gateway: &'a TestGateway,
    ws: Ws,
    sse: Sse,
    query: String,
    cursor: String,
}

#[derive(Deserialize)]
struct Page {
    cursor: String,
    events: Vec<Box<RawValue>>,
}

impl<'a> Everywhere<'a> {
    pub async fn open(gateway: &'a TestGateway, query: &str) -> Self {
        let (status, start) = gateway.poll(query).await;
        assert_eq!(status, 200, "{query}: {start}");
        Self {
            gateway,
            ws: gateway.ws(query).await,
            sse: gateway.sse(query).await,
            query: query.to_owned(),
            cursor: start["cursor"].as_str().expect("a cursor").to_owned(),
        }
    }

    /// The text of the next event's envelope, which is the same on all three.
    pub async fn envelope(&mut self) -> String {
        let by_ws = self.envelope_by_ws().await;
        assert_eq!(self.envelope_by_sse().await, by_ws);
        assert_eq!(self.envelope_by_poll().await, by_ws);
        by_ws
    }

    pub async fn event(&mut self) -> Value {
        serde_json::from_str(&self.envelope().await).expect("JSON")
    }

    async fn envelope_by_ws(&mut self) -> String {
        loop {
            let text = self.ws.next_text().await;
            if text.starts_with(r#"{"type":"event""#) {
                return text;
            }
        }
    }

    async fn envelope_by_sse(&mut self) -> String {
        loop {
            let event = self.sse.next().await;
            if event.data.starts_with(r#"{"type":"event""#) {
                return event.data;
            }
        }
    }

    async fn envelope_by_poll(&mut self) -> String {
        let query = format!("{}&cursor={}&max=1", self.query, self.cursor);
        let response = self
            .gateway
            .get("/poll", &query, &Claims::all("alice"))
            .await;
        assert_eq!(response.status(), 200);
        let text = response.text().await.expect("a body");
        let page: Page = serde_json::from_str(&text).expect("a page");
        self.cursor = page.cursor;
        page.events.first().expect("an event").get().to_owned()
    }
}
