//! One event to the gateway, retried as often as its key makes safe.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::cli::backoff::Backoff;
use crate::cli::endpoint::Endpoint;
use crate::cli::failure::{Failure, Refusal, Remedy};

/// A request that takes longer was lost.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// How long a gateway may be missing altogether: a restart, but not a wrong address.
const ABSENCE_PATIENCE: Duration = Duration::from_secs(5);

/// Publishes over connections that stay open.
pub struct Publisher {
    endpoint: Endpoint,
    client: reqwest::Client,
    address: Url,
    retry_for: Duration,
}

/// The gateway's word that an event is on the bus.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Accepted {
    pub id: String,
    /// The key was known: this is the answer to an earlier request.
    #[serde(default)]
    pub duplicate: bool,
}

impl Publisher {
    pub fn new(endpoint: Endpoint, retry_for: Duration) -> Result<Self> {
        let client = endpoint.client()?;
        let address = endpoint.http("publish", []);
        Ok(Self {
            endpoint,
            client,
            address,
            retry_for,
        })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Publishes `body`. Whatever goes wrong on the way, `key` makes it appear once; `say` hears of retries.
    pub async fn publish(
        &mut self,
        body: Bytes,
        key: &str,
        say: &dyn Fn(&str),
    ) -> Result<Accepted, Failure> {
        let started = Instant::now();
        let mut backoff = Backoff::default();
        loop {
            let failure = match self.attempt(body.clone(), key).await {
                Ok(accepted) => return Ok(accepted),
                Err(failure) => failure,
            };
            if !self.may_recover(&failure) {
                return Err(failure);
            }
            let pause = backoff
                .pause()
                .max(failure.retry_after().unwrap_or_default());
            if started.elapsed() + pause > self.patience(&failure) {
                return Err(failure);
            }
            say(&format!(
                "{failure}; trying again in {:.1} s",
                pause.as_secs_f64()
            ));
            sleep(pause).await;
        }
    }

    async fn attempt(&self, body: Bytes, key: &str) -> Result<Accepted, Failure> {
        let mut request = self
            .client
            .post(self.address.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .timeout(ANSWER_LIMIT)
            .body(body);
        if let Some(credential) = self.endpoint.credential() {
            request = request.header(AUTHORIZATION, credential.clone());
        }
        let response = request
            .send()
            .await
            .map_err(|error| Failure::of_request(&error))?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Refused(Refusal::of_response(response).await));
        }
        let headers = response.headers().clone();
        let answer = response
            .bytes()
            .await
            .map_err(|error| Failure::of_request(&error))?;
        serde_json::from_slice(&answer).map_err(|_| {
            Failure::Refused(Refusal::of_http(StatusCode::OK.as_u16(), &headers, &answer))
        })
    }

    /// Whether another attempt makes sense; takes up a renewed token on the way.
    fn may_recover(&mut self, failure: &Failure) -> bool {
        match failure.remedy() {
            Remedy::Retry => true,
            Remedy::GiveUp => false,
            // A token file that has gone is told as the expiry that it leaves us with.
            Remedy::RenewToken => self.endpoint.renew_token().unwrap_or(false),
        }
    }

    fn patience(&self, failure: &Failure) -> Duration {
        match failure {
            Failure::Unreachable(_) => self.retry_for.min(ABSENCE_PATIENCE),
            Failure::Untrusted(_) => Duration::ZERO,
            Failure::Broken(_) | Failure::Refused(_) => self.retry_for,
        }
    }
}
