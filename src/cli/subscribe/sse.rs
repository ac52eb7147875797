//! Reading over Server-Sent Events.

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};

use super::feed::{Position, Selection};
use super::item::Item;
use super::sse_parser::{Seen, SseFrame, SseParser};
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::{Failure, Refusal, root_cause};

pub struct SseFeed {
    response: reqwest::Response,
    parser: SseParser,
}

impl SseFeed {
    pub async fn open(
        endpoint: &Endpoint,
        client: &reqwest::Client,
        selection: &Selection,
        position: &Position,
    ) -> Result<Self, Failure> {
        let address = endpoint.http(
            "events",
            selection.query().into_iter().chain(position.query()),
        );
        let mut request = client.get(address).header(ACCEPT, "text/event-stream");
        if let Some(credential) = endpoint.credential() {
            request = request.header(AUTHORIZATION, credential.clone());
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::of_request(&error))?;
        if response.status() != StatusCode::OK || !is_event_stream(&response) {
            return Err(Failure::Refused(Refusal::of_response(response).await));
        }
        Ok(Self {
            response,
            parser: SseParser::default(),
        })
    }

    pub async fn next_batch(&mut self) -> Vec<Item> {
        match self.response.chunk().await {
            Ok(Some(chunk)) => self.read(&chunk),
            Err(error) => vec![Item::broken(root_cause(&error))],
            Ok(None) => vec![Item::broken("the stream ended")],
        }
    }

    fn read(&mut self, chunk: &[u8]) -> Vec<Item> {
        let Ok(seen) = self.parser.push(chunk) else {
            return vec![Item::broken(
                "a frame of the stream is longer than any event",
            )];
        };
        let mut items = Vec::new();
        for seen in seen {
            match seen {
                Seen::Frame(frame) => read_frame(frame, &mut items),
                Seen::Retry(after) => items.push(Item::RetryAfter(after)),
                Seen::Comment => items.push(Item::Alive),
            }
            if matches!(items.last(), Some(Item::Ended(_))) {
                break;
            }
        }
        items
    }
}

/// The data says what a frame is; its `id` is a stream cursor even where the data has none.
fn read_frame(frame: SseFrame, items: &mut Vec<Item>) {
    let item = Item::decode(frame.data);
    let has_own_id = matches!(item, Item::Event { id: Some(_), .. });
    let ends = matches!(item, Item::Ended(_));
    items.push(item);
    if !has_own_id && !ends && !frame.id.is_empty() {
        items.push(Item::Cursor(frame.id));
    }
}

fn is_event_stream(response: &reqwest::Response) -> bool {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    kind.is_some_and(|kind| {
        kind.trim_start()
            .to_ascii_lowercase()
            .starts_with("text/event-stream")
    })
}
