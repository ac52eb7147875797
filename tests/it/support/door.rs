use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;

use super::{Claims, Received, Sse, TestGateway, Ws};

/// An endpoint that asks who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Ws,
    Events,
    Poll,
    Publish,
    Ticket,
    Stats,
}

/// What a client shows at a door.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    query: Vec<String>,
    headers: Vec<(&'static str, String)>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    LetIn,
    /// The HTTP status, or the close code of `/ws`, and the error's code.
    Refused(u16, String),
}

impl Door {
    pub const ALL: [Self; 6] = [
        Self::Ws,
        Self::Events,
        Self::Poll,
        Self::Publish,
        Self::Ticket,
        Self::Stats,
    ];

    pub fn path(self) -> &'static str {
        match self {
            Self::Ws => "/ws",
            Self::Events => "/events",
            Self::Poll => "/poll",
            Self::Publish => "/publish",
            Self::Ticket => "/ticket",
            Self::Stats => "/stats",
        }
    }

    /// The answer to a credential that is no good: a status, or on `/ws` the code of Close.
    pub fn refusal(self, code: &str) -> Answer {
        let status = if self == Self::Ws { 1008 } else { 401 };
        Answer::refused(status, code)
    }

    /// The answer to no credential; [`TestGateway::knock`] sends a message before `auth`.
    pub fn no_credential(self) -> Answer {
        let status = if self == Self::Ws { 4003 } else { 401 };
        Answer::refused(status, "unauthorized")
    }

    /// A request that a client with all grants may make here.
    pub fn request(
        self,
        gateway: &TestGateway,
        credentials: &Credentials,
    ) -> reqwest::RequestBuilder {
        let url = gateway.url(&format!(
            "{}?{}",
            self.path(),
            credentials.query("topics=order:1")
        ));
        let request = match self {
            Self::Ws | Self::Events | Self::Poll | Self::Stats => gateway.http.get(url),
            Self::Publish => gateway.http.post(url).body(r#"{"topic":"order:1"}"#),
            Self::Ticket => gateway.http.post(url),
        };
        credentials
            .headers
            .iter()
            .fold(request, |request, (name, value)| {
                request.header(*name, value)
            })
    }
}

impl Answer {
    pub fn refused(status: u16, code: &str) -> Self {
        Self::Refused(status, code.to_owned())
    }
}

impl Credentials {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn header(name: &'static str, value: impl Into<String>) -> Self {
        Self {
            headers: vec![(name, value.into())],
            ..Self::default()
        }
    }

    pub fn bearer(token: &str) -> Self {
        Self::header("Authorization", format!("Bearer {token}"))
    }

    pub fn cookie(token: &str) -> Self {
        Self::header("Cookie", format!("theme=dark; tribus_token={token}"))
    }

    pub fn parameter(name: &str, value: &str) -> Self {
        Self {
            query: vec![format!("{name}={value}")],
            ..Self::default()
        }
    }

    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.query.extend(other.query);
        self.headers.extend(other.headers);
        self
    }

    fn query(&self, first: &str) -> String {
        let mut pairs = vec![first.to_owned()];
        pairs.extend(self.query.iter().cloned());
        pairs.join("&")
    }
}

impl TestGateway {
    /// Shows credentials at a door.
    pub async fn knock(&self, door: Door, credentials: &Credentials) -> Answer {
        match door {
            Door::Ws => self.knock_at_ws(credentials).await,
            _ => {
                let request = door.request(self, credentials);
                answer_of(request.send().await.expect("an answer")).await
            }
        }
    }

    async fn knock_at_ws(&self, credentials: &Credentials) -> Answer {
        let query = credentials.query("topics=order:1");
        let mut ws = match Ws::connect_with(self, &query, &credentials.headers).await {
            Ok(ws) => ws,
            Err(error) => return refused_handshake(&error),
        };
        let _ = futures_util::SinkExt::send(&mut ws.socket, r#"{"type":"ping"}"#.into()).await;
        ws.answer().await
    }

    /// A new ticket for a token; `use` is `once` or `stream`.
    pub async fn ticket(&self, claims: &Claims, usage: &str) -> String {
        let answer = self
            .http
            .post(self.url("/ticket"))
            .bearer_auth(claims.token())
            .body(json!({"use": usage}).to_string())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.expect("JSON");
        answer["ticket"].as_str().expect("a ticket").to_owned()
    }

    /// Ends a client's access, as an operator does; the answer.
    pub async fn revoke(&self, whose: Value) -> Value {
        let answer = self
            .http
            .post(self.admin_url("/admin/disconnect"))
            .header("Content-Type", "application/json")
            .body(whose.to_string())
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{whose}");
        answer.json().await.expect("JSON")
    }
}

impl Ws {
    /// Whether the connection was let in; an `error` has to come before the Close.
    pub async fn answer(&mut self) -> Answer {
        let first = self.next().await;
        if first["type"] == "connected" {
            return Answer::LetIn;
        }
        assert_eq!(first["type"], "error", "{first}");
        let code = first["code"].as_str().expect("a code");
        match self.receive().await {
            Received::Close(status, _) => Answer::refused(status, code),
            other => panic!("expected Close after {first}, got {other:?}"),
        }
    }
}

/// The answer to a request; a stream is let in once it says `connected`.
pub async fn answer_of(response: reqwest::Response) -> Answer {
    let status = response.status().as_u16();
    if status != 200 {
        let error: Value = response.json().await.expect("JSON");
        assert_eq!(error["type"], "error", "{error}");
        return Answer::refused(status, error["code"].as_str().expect("a code"));
    }
    if response.headers()["content-type"] == "text/event-stream" {
        let connected = Sse::new(response).next().await.json();
        assert_eq!(connected["type"], "connected");
    }
    Answer::LetIn
}

fn refused_handshake(error: &Error) -> Answer {
    let Error::Http(response) = error else {
        panic!("the handshake failed: {error}");
    };
    let body = response.body().as_deref().unwrap_or_default();
    let error: Value = serde_json::from_slice(body).unwrap_or_default();
    let code = error["code"].as_str().unwrap_or_default();
    Answer::refused(response.status().as_u16(), code)
}
