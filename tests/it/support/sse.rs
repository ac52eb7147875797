use std::pin::Pin;

use bytes::Bytes;
use eventsource_stream::{Event, Eventsource};
use futures_util::{Stream, StreamExt};
use serde_json::Value;

use super::within;

/// An SSE stream as an independent parser sees it.
pub struct Sse {
    /// The JSON of `connected`, where the test has read it.
    pub connected: Value,
    events: Pin<Box<dyn Stream<Item = Option<Event>> + Send>>,
}

/// One event of the stream.
#[derive(Clone, Debug)]
pub struct SseEvent {
    /// `message` where the stream named none.
    pub name: String,
    pub id: String,
    pub data: String,
    /// The last `retry` of the stream, in milliseconds.
    pub retry: Option<u128>,
}

impl SseEvent {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON in data")
    }
}

impl Sse {
    pub fn new(response: reqwest::Response) -> Self {
        Self::from_bytes(response.bytes_stream())
    }

    pub fn from_bytes<E: 'static>(
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Self {
        let events = bytes.eventsource().map(|event| event.ok());
        Self {
            connected: Value::Null,
            events: Box::pin(events),
        }
    }

    /// The next event of any name; panics at the end of the stream.
    pub async fn next(&mut self) -> SseEvent {
        self.try_next().await.expect("the stream goes on")
    }

    /// The next event of any name; `None` at the end of the stream.
    pub async fn try_next(&mut self) -> Option<SseEvent> {
        let event = within("an SSE event", self.events.next()).await??;
        Some(SseEvent {
            name: event.event,
            id: event.id,
            data: event.data,
            retry: event.retry.map(|retry| retry.as_millis()),
        })
    }

    /// The next envelope; control frames before it are passed over.
    pub async fn event(&mut self) -> Value {
        loop {
            let json = self.next().await.json();
            if json["type"] == "event" {
                return json;
            }
        }
    }

    /// The next control frame of this type; panics where an event comes first.
    pub async fn frame(&mut self, name: &str) -> Value {
        loop {
            let json = self.next().await.json();
            if json["type"] == name {
                return json;
            }
            assert_ne!(json["type"], "event", "waiting for {name}");
        }
    }
}
