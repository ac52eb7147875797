//! One call of the backend: what is posted, and which answers mean what.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect,
};
use tokio::time::timeout;

use crate::auth::{
    AuthError, HookOptions, authenticator::chain, keys::KeyError, remote::read_bounded,
};

/// A thousand grants of ordinary length.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The site's own backend, which knows what its sessions mean.
pub(super) struct Backend {
    url: Url,
    client: Client,
    timeout: Duration,
}

/// Why the backend's answer is of no use. The texts name neither credentials nor the URL.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no answer: {0}")]
    Connection(String),
    #[error("status {0}; 200 means a client who is known, 401 one who is not")]
    Status(u16),
    #[error("status {0}, a redirect, which is not followed: answer 401 to who has no session")]
    Redirect(u16),
    #[error("more than 64 KiB of claims")]
    TooLarge,
    #[error("claims that are no good: {}", problem(.0))]
    Claims(AuthError),
}

/// In the words of an answer, which is no token.
fn problem(error: &AuthError) -> String {
    match error {
        AuthError::Malformed(_) => "not one JSON object of distinct names".to_owned(),
        AuthError::BadClaim { name, problem } => format!("`{name}` is {problem}"),
        other => other.to_string(),
    }
}

impl Failure {
    /// Whether it speaks of a backend that is down or overloaded. A wrong answer does not: if it counted for the
    /// circuit breaker, one broken account could shut out everyone else.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connection(_) => true,
            Self::Status(status) => matches!(status, 408 | 429 | 500..),
            Self::Redirect(_) | Self::TooLarge | Self::Claims(_) => false,
        }
    }
}

impl Backend {
    /// # Errors
    /// [`KeyError::Hook`] or [`KeyError::HookClient`].
    pub fn new(options: &HookOptions) -> Result<Self, KeyError> {
        let bad = |key, problem| KeyError::Hook { key, problem };
        let url = Url::parse(&options.url).map_err(|_| bad("url", "not an absolute URL"))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, JSON);
        if let Some(secret) = &options.secret {
            let value = HeaderValue::from_str(&format!("Bearer {}", secret.expose()));
            let mut value = value.map_err(|_| bad("secret", "it does not fit into a header"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .user_agent(concat!("tribus/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .build()
            .map_err(KeyError::HookClient)?;
        Ok(Self {
            url,
            client,
            timeout: options.timeout,
        })
    }

    /// The claims' JSON; `None` where the backend knows no such session.
    pub async fn ask(&self, body: Bytes) -> Result<Option<Vec<u8>>, Failure> {
        let exchange = async {
            let response = self.send(body).await.map_err(connection)?;
            read(response).await
        };
        match timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout(self.timeout)),
        }
    }

    async fn send(&self, body: Bytes) -> Result<Response, reqwest::Error> {
        match self.request(body.clone()).send().await {
            // A backend may close an idle connection in the moment in which it is used again. Asking twice does no harm.
            Err(error) if error.is_request() && !error.is_connect() => {
                self.request(body).send().await
            }
            sent => sent,
        }
    }

    fn request(&self, body: Bytes) -> RequestBuilder {
        self.client.post(self.url.clone()).body(body)
    }
}

async fn read(response: Response) -> Result<Option<Vec<u8>>, Failure> {
    match response.status() {
        StatusCode::OK => {
            let answer = read_bounded(response, MAX_ANSWER_BYTES).await;
            let answer = answer.map_err(connection)?;
            answer.map(Some).ok_or(Failure::TooLarge)
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
        status if status.is_redirection() => Err(Failure::Redirect(status.as_u16())),
        status => Err(Failure::Status(status.as_u16())),
    }
}

fn connection(error: reqwest::Error) -> Failure {
    Failure::Connection(chain(&error.without_url()))
}
