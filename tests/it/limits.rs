//! Every limit reached, on each transport that it covers, and the neighbour unaffected.

mod addresses;
mod claims;
mod connects;
mod messages;
mod node;
mod places;
mod publishes;
mod sizes;

use std::{collections::HashMap, time::Instant};

use serde_json::{Value, json};

use crate::support::{Claims, Received, Sse, TestGateway, Transport, Ws};

/// A budget that is full at first and fills up by one a second.
struct Budget {
    burst: u64,
    since: Instant,
    taken: u64,
}

impl Budget {
    fn of(burst: u64) -> Self {
        Self {
            burst,
            since: Instant::now(),
            taken: 0,
        }
    }

    /// Notes that one was taken; panics where that is more than there can have been.
    fn take(&mut self) {
        self.taken += 1;
        let most = self.burst + self.since.elapsed().as_secs();
        assert!(self.taken <= most, "{} of {most} were taken", self.taken);
    }

    fn take_if(&mut self, was_taken: bool) {
        if was_taken {
            self.take();
        }
    }

    /// Panics where less was taken than could be. To be called once something was refused.
    fn assert_used_up(&self) {
        assert!(self.taken >= self.burst, "only {} were taken", self.taken);
    }
}

/// Someone who knocks.
#[derive(Clone)]
struct Client<'a> {
    gateway: &'a TestGateway,
    http: reqwest::Client,
    token: String,
    /// What a proxy tells of the client's address.
    forwarded: Option<String>,
}

enum Visit {
    In(Held),
    Out(Refused),
}

/// A stream that was let in, for as long as it is held.
enum Held {
    Ws(Box<Ws>),
    Sse(Sse),
    /// A poll without a cursor, which is answered at once.
    Answered,
}

#[derive(Debug)]
struct Refused {
    /// The HTTP status, or on `/ws` the code of Close.
    status: u16,
    error: Value,
    /// None on `/ws`.
    headers: HashMap<String, String>,
}

impl<'a> Client<'a> {
    fn new(gateway: &'a TestGateway, claims: &Claims) -> Self {
        Self::with_token(gateway, claims.token())
    }

    fn with_token(gateway: &'a TestGateway, token: String) -> Self {
        Self {
            gateway,
            http: gateway.http.clone(),
            token,
            forwarded: None,
        }
    }

    fn with_claims(&self, claims: &Claims) -> Self {
        Self {
            token: claims.token(),
            ..self.clone()
        }
    }

    /// The same with a connection of its own for each request.
    fn unpooled(&self) -> Self {
        let http = reqwest::Client::builder().pool_max_idle_per_host(0);
        Self {
            http: http.build().expect("a client"),
            ..self.clone()
        }
    }

    /// The same behind a proxy that says so.
    fn forwarded_for(&self, addresses: &str) -> Self {
        Self {
            forwarded: Some(addresses.to_owned()),
            ..self.clone()
        }
    }

    async fn visit(&self, transport: Transport, query: &str) -> Visit {
        match transport {
            Transport::Ws => self.visit_ws(query).await,
            Transport::Sse => self.visit_http("/events", query).await,
            Transport::Poll => self.visit_http("/poll", query).await,
        }
    }

    async fn visit_ws(&self, query: &str) -> Visit {
        let mut headers = vec![("Authorization", format!("Bearer {}", self.token))];
        headers.extend(self.forwarded.clone().map(|hop| ("X-Forwarded-For", hop)));
        let connected = Ws::connect_with(self.gateway, query, &headers).await;
        let mut ws = connected.expect("the handshake completes whatever follows");
        let first = ws.next().await;
        if first["type"] == "connected" {
            return Visit::In(Held::Ws(Box::new(ws)));
        }
        match ws.receive().await {
            Received::Close(status, _) => Visit::Out(Refused {
                status,
                error: first,
                headers: HashMap::new(),
            }),
            other => panic!("expected Close after {first}, got {other:?}"),
        }
    }

    async fn visit_http(&self, path: &str, query: &str) -> Visit {
        let url = self.gateway.url(&format!("{path}?{query}"));
        match self.send(self.http.get(url)).await {
            Ok(response) if path == "/events" => {
                let mut sse = Sse::new(response);
                assert_eq!(sse.next().await.name, "connected");
                Visit::In(Held::Sse(sse))
            }
            Ok(_) => Visit::In(Held::Answered),
            Err(refused) => Visit::Out(refused),
        }
    }

    async fn publish(&self, body: &Value) -> Result<Value, Refused> {
        let request = self.http.post(self.gateway.url("/publish"));
        let response = self.send(request.body(body.to_string())).await?;
        Ok(response.json().await.expect("JSON"))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Refused> {
        let mut request = request.bearer_auth(&self.token);
        if let Some(hop) = &self.forwarded {
            request = request.header("X-Forwarded-For", hop);
        }
        let response = request.send().await.expect("an answer");
        match response.status().as_u16() {
            200 => Ok(response),
            status => Err(Refused::read(status, response).await),
        }
    }

    async fn must_enter(&self, transport: Transport, query: &str) -> Held {
        match self.visit(transport, query).await {
            Visit::In(held) => held,
            Visit::Out(refused) => panic!("refused on {transport:?}: {refused:?}"),
        }
    }

    async fn must_be_refused(&self, transport: Transport, query: &str) -> Refused {
        match self.visit(transport, query).await {
            Visit::In(_) => panic!("let in on {transport:?}"),
            Visit::Out(refused) => refused,
        }
    }
}

impl Held {
    /// Closes in order, and waits for the gateway's side.
    async fn leave(self) {
        if let Self::Ws(mut ws) = self {
            let _ = ws.socket.close(None).await;
            while !matches!(ws.receive().await, Received::Close(..) | Received::End) {}
        }
    }

    async fn event(&mut self) -> Value {
        match self {
            Self::Ws(ws) => ws.event().await,
            Self::Sse(sse) => sse.event().await,
            Self::Answered => panic!("nothing comes after an answer"),
        }
    }
}

impl Refused {
    async fn read(status: u16, response: reqwest::Response) -> Self {
        let headers = response.headers().iter();
        Self {
            status,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
                .collect(),
            error: response.json().await.expect("JSON"),
        }
    }

    fn code(&self) -> &str {
        self.error["code"].as_str().expect("a code")
    }

    fn retry_after_ms(&self) -> u64 {
        let wait = self.error["retryAfterMs"].as_u64();
        wait.expect("when to come back")
    }

    /// Panics unless it says on this transport that a limit of this kind was reached, and when to
    /// come back.
    fn assert(&self, transport: Transport, code: &str) {
        let status = match (transport, code) {
            (Transport::Ws, _) => 1013,
            (_, "unavailable") => 503,
            _ => 429,
        };
        assert_eq!((self.status, self.code()), (status, code), "{self:?}");
        assert!(self.retry_after_ms() > 0, "{self:?}");
        if transport != Transport::Ws {
            self.assert_retry_after();
        }
    }

    /// `Retry-After` tells the same as the body, in whole seconds.
    fn assert_retry_after(&self) {
        let seconds = self.headers["retry-after"].parse::<u64>().expect("seconds");
        assert_eq!(seconds, self.retry_after_ms().div_ceil(1000), "{self:?}");
    }

    /// The headers of draft-ietf-httpapi-ratelimit-headers, sections 3 and 4.
    fn assert_rate(&self, policy: &str) {
        self.assert_retry_after();
        assert_eq!(self.headers["ratelimit-policy"], policy);
        let name = policy.split(';').next().expect("a name");
        let wait = &self.headers["retry-after"];
        assert_eq!(self.headers["ratelimit"], format!("{name};r=0;t={wait}"));
    }
}

fn event(topic: &str) -> Value {
    json!({"topic": topic})
}

fn batch(topic: &str, events: usize) -> Value {
    vec![event(topic); events].into()
}
