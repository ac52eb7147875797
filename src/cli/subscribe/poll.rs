//! Reading by long-poll: one request after the other, each from where the last one ended.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::feed::{Position, Selection};
use super::item::{Ending, Item};
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::{Failure, Refusal};

/// How long the gateway may hold a request, in seconds.
const WAIT: u64 = 25;

/// How long a whole exchange may take: the wait and a slow network.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(WAIT + 15);

pub struct PollFeed {
    client: reqwest::Client,
    /// Everything but the position.
    address: Url,
    credential: Option<HeaderValue>,
    position: Position,
    connected: bool,
}

/// The body of a 200. Events stay the bytes that they are.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    cursor: String,
    events: Vec<Box<RawValue>>,
    reconnect_after_ms: Option<u64>,
}

impl PollFeed {
    pub fn new(
        endpoint: &Endpoint,
        client: &reqwest::Client,
        selection: &Selection,
        position: &Position,
    ) -> Self {
        let query = selection
            .query()
            .into_iter()
            .chain([("wait", WAIT.to_string())]);
        Self {
            client: client.clone(),
            address: endpoint.http("poll", query),
            credential: endpoint.credential().cloned(),
            position: position.clone(),
            connected: false,
        }
    }

    pub async fn next_batch(&mut self) -> Vec<Item> {
        let mut batch = Vec::new();
        match self.ask().await {
            Ok(items) => {
                if !std::mem::replace(&mut self.connected, true) {
                    batch.push(Item::Connected {
                        cursor: None,
                        user: None,
                        heartbeat: None,
                    });
                }
                batch.extend(items);
            }
            Err(failure) => batch.push(Item::Ended(Ending(failure))),
        }
        batch
    }

    async fn ask(&mut self) -> Result<Vec<Item>, Failure> {
        let response = self
            .send()
            .await
            .map_err(|error| Failure::of_request(&error))?;
        match response.status() {
            StatusCode::OK => {
                let body = response
                    .bytes()
                    .await
                    .map_err(|error| Failure::of_request(&error))?;
                self.read_page(&body)
            }
            StatusCode::GONE => {
                let body = response
                    .text()
                    .await
                    .map_err(|error| Failure::of_request(&error))?;
                self.read_reset(body)
            }
            _ => Err(Failure::Refused(Refusal::of_response(response).await)),
        }
    }

    async fn send(&self) -> reqwest::Result<reqwest::Response> {
        let mut address = self.address.clone();
        address
            .query_pairs_mut()
            .extend_pairs(self.position.query());
        let mut request = self.client.get(address).timeout(EXCHANGE_LIMIT);
        if let Some(credential) = &self.credential {
            request = request.header(AUTHORIZATION, credential.clone());
        }
        request.send().await
    }

    fn read_page(&mut self, body: &[u8]) -> Result<Vec<Item>, Failure> {
        let page: Page = serde_json::from_slice(body).map_err(|reason| {
            Failure::Broken(format!("the answer is not a page of events: {reason}"))
        })?;
        let mut items: Vec<_> = page
            .events
            .into_iter()
            .map(|event| Item::decode(Box::<str>::from(event).into_string()))
            .collect();
        items.push(Item::Cursor(page.cursor.clone()));
        self.position = Position::After(page.cursor);
        if let Some(after) = page.reconnect_after_ms {
            let mut refusal = Refusal::of_close(1012, "the gateway is shutting down");
            refusal.retry_after = Some(Duration::from_millis(after));
            items.push(Item::refused(refusal));
        }
        Ok(items)
    }

    /// 410: a gap. Its cursor is where to go on from.
    fn read_reset(&mut self, body: String) -> Result<Vec<Item>, Failure> {
        match Item::decode(body) {
            Item::Reset {
                reason,
                cursor: Some(cursor),
                topics,
            } => {
                self.position = Position::After(cursor.clone());
                Ok(vec![Item::Reset {
                    reason,
                    cursor: Some(cursor),
                    topics,
                }])
            }
            _ => Err(Failure::Broken(
                "the answer is a 410 without a reset".to_owned(),
            )),
        }
    }
}
