//! The key set behind `auth.jwks_url`: fetched on a schedule, never because of a token.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use reqwest::{Client, Response, Url, redirect};

use super::{
    jwks,
    keys::{KeyError, KeyFault, MAX_KEY_BYTES, VerifyingKey},
};

/// For the whole exchange, from connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Identity providers redirect once at most.
const MAX_REDIRECTS: usize = 3;

/// Why the key set could not be fetched. The keys of before stay in use.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No connection, no answer in time, or a redirect that is not allowed.
    #[error("cannot fetch the key set: {0}")]
    Http(#[source] reqwest::Error),
    #[error("the key set was answered with status {0}")]
    Status(u16),
    #[error("the key set is unusable: {0}")]
    Keys(KeyFault),
}

/// Where the keys are, and how they are asked for.
pub(super) struct KeySource {
    url: Url,
    client: Client,
}

/// One version of the set.
#[derive(Clone)]
pub(super) struct FetchedKeys {
    pub keys: Arc<[VerifyingKey]>,
    /// SHA-256 of the document, by which an unchanged one is known.
    digest: [u8; 32],
}

impl KeySource {
    /// # Errors
    /// [`KeyError::Url`] or [`KeyError::HttpClient`].
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let url = Url::parse(text).map_err(|_| KeyError::Url("not an absolute URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(KeyError::Url("only http and https are supported"));
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .redirect(redirect::Policy::custom(same_scheme))
            .build()
            .map_err(KeyError::HttpClient)?;
        Ok(Self { url, client })
    }

    pub fn is(&self, text: &str) -> bool {
        Url::parse(text).is_ok_and(|url| url == self.url)
    }

    /// Fetches the set, or nothing when it is still that of `known`.
    pub async fn fetch(
        &self,
        known: Option<&FetchedKeys>,
    ) -> Result<Option<FetchedKeys>, RefreshError> {
        let document = self.download().await?;
        let digest = sha256(&document);
        if known.is_some_and(|known| known.digest == digest) {
            return Ok(None);
        }
        let keys = jwks::parse_fetched(&document).map_err(RefreshError::Keys)?;
        let keys = keys.into();
        Ok(Some(FetchedKeys { keys, digest }))
    }

    async fn download(&self) -> Result<Vec<u8>, RefreshError> {
        let response = self.client.get(self.url.clone()).send().await;
        let response = response.map_err(http)?;
        if !response.status().is_success() {
            return Err(RefreshError::Status(response.status().as_u16()));
        }
        let document = read_bounded(response, MAX_KEY_BYTES).await;
        let document = document.map_err(http)?;
        document.ok_or(RefreshError::Keys(KeyFault::TooLarge))
    }
}

/// A downgrade to http would let anyone on the way hand out keys.
fn same_scheme(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let first = attempt
        .previous()
        .first()
        .map(|url| url.scheme().to_owned());
    if first.as_deref() != Some(attempt.url().scheme()) {
        return attempt.error("redirect to another scheme");
    }
    match attempt.previous().len() > MAX_REDIRECTS {
        true => attempt.error("too many redirects"),
        false => attempt.follow(),
    }
}

/// A response's body; `None` where it has more than `most` bytes.
pub(super) async fn read_bounded(
    mut response: Response,
    most: u64,
) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > most {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

/// The URL may hold a password, so it stays out of error texts.
fn http(error: reqwest::Error) -> RefreshError {
    RefreshError::Http(error.without_url())
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}
