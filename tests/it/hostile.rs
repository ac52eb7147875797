//! Hostile input on every endpoint: each attack gets its clear answer, its connection does not
//! stay, and neighbours on every worker are served as if nothing had happened.
//!
//! What HTTP/1 itself forbids is answered by actix before the gateway sees a request: a bare 4xx,
//! and the end of the connection ([`Reply::Bare`]). All else is answered by the gateway with its
//! error object ([`Reply::Error`]).

mod bodies;
mod fields;
mod gone;
mod growth;
mod handshakes;
mod heads;
mod messages;
mod slow;
mod smuggling;

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Claims, Raw, Sse, TestGateway, Ws, released, within};

/// Bytes on a connection of their own, and what has to come of them.
struct Attack {
    what: String,
    bytes: Vec<u8>,
    at_operators: bool,
    answers: Vec<Reply>,
    then: Then,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    /// Of the HTTP parser: a status, the end of the connection, and nothing else.
    Bare(u16),
    /// The gateway's error object, with this code.
    Error(u16, &'static str),
    /// Nothing was wrong with it.
    Good(u16),
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Ends,
    /// The next request on it is answered.
    GoesOn,
}

use Reply::{Bare, Error, Good};

/// An attack after whose answer the connection ends.
fn fatal(what: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: &[Reply]) -> Attack {
    Attack {
        what: what.into(),
        bytes: bytes.into(),
        at_operators: false,
        answers: answers.to_vec(),
        then: Then::Ends,
    }
}

/// An attack after whose answer the connection is as good as before.
fn harmless(what: impl Into<String>, bytes: impl Into<Vec<u8>>, answers: &[Reply]) -> Attack {
    Attack {
        then: Then::GoesOn,
        ..fatal(what, bytes, answers)
    }
}

impl Attack {
    /// On the operators' listener.
    fn at_operators(mut self) -> Self {
        self.at_operators = true;
        self.bytes = to_operators(&self.bytes);
        self
    }
}

/// The operators' listener answers only to the names of loopback.
fn to_operators(bytes: &[u8]) -> Vec<u8> {
    let host = b"Host: x\r\n";
    match bytes.windows(host.len()).position(|part| part == host) {
        Some(at) => [
            &bytes[..at],
            b"Host: localhost\r\n",
            &bytes[at + host.len()..],
        ]
        .concat(),
        None => bytes.to_vec(),
    }
}

/// A request's head with a token that may do everything; `rest` is more headers, the empty line,
/// and the body.
fn request(line: &str, rest: &str) -> String {
    let token = Claims::all("mallory").token();
    format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{rest}")
}

/// A request that is all right, to be seen where it is answered though it is part of another.
fn smuggled() -> String {
    request("GET /smuggled", "\r\n")
}

fn with_body(line: &str, body: &[u8]) -> Vec<u8> {
    let head = request(line, &format!("Content-Length: {}\r\n\r\n", body.len()));
    [head.as_bytes(), body].concat()
}

/// A gateway under attack, with neighbours that were there before.
struct Scene {
    // Neighbours go first when it is over: a gateway that stops waits for its clients.
    ws: Vec<Ws>,
    sse: Vec<Sse>,
    gateway: TestGateway,
    published: u64,
}

impl Scene {
    async fn start() -> Self {
        Self::with("").await
    }

    /// As [`TestGateway::with`].
    async fn with(toml: &str) -> Self {
        let mut gateway = TestGateway::with(toml).await;
        // A connection that is kept for later may end just when it is used again.
        let alone = reqwest::Client::builder().pool_max_idle_per_host(0);
        gateway.http = alone.build().expect("a client");
        let (mut ws, mut sse) = (Vec::new(), Vec::new());
        // Connections go to the workers in turn.
        for _ in 0..2 {
            ws.push(gateway.ws("topics=neighbour:*").await);
            sse.push(gateway.sse("topics=neighbour:*&named=true").await);
        }
        Self {
            gateway,
            ws,
            sse,
            published: 0,
        }
    }

    /// Publishes an event; every neighbour has to get it, and nothing else.
    async fn neighbours_are_served(&mut self, after: &str) {
        self.published += 1;
        let data = json!([self.published, after]);
        self.gateway.publish("neighbour:1", data.clone()).await;
        for ws in &mut self.ws {
            assert_eq!(ws.event().await["data"], data, "after {after}");
        }
        for sse in &mut self.sse {
            assert_eq!(sse.event().await["data"], data, "after {after}");
        }
    }

    /// Makes every attack, and sees to the neighbours as soon as it is being answered; says all
    /// that went wrong at once.
    async fn survives(&mut self, attacks: Vec<Attack>) {
        assert!(!attacks.is_empty());
        let mut attackers = Vec::new();
        for attack in &attacks {
            let mut raw = Raw::connect_to(self.address(attack)).await;
            attack.begin(&mut raw).await;
            self.neighbours_are_served(&attack.what).await;
            attackers.push(raw);
        }
        let ends = attackers.iter().map(Raw::ends).collect();
        let outcomes = attacks.iter().zip(&mut attackers);
        let outcomes = join_all(outcomes.map(|(attack, raw)| attack.end(raw))).await;
        let wrong: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        within("the end of the attackers' connections", released(ends)).await;
        self.neighbours_are_served("all attacks").await;
    }

    fn address(&self, attack: &Attack) -> SocketAddr {
        if attack.at_operators {
            self.gateway.admin
        } else {
            self.gateway.address
        }
    }
}

impl Attack {
    /// Sends it, and waits until it is being answered.
    async fn begin(&self, raw: &mut Raw) {
        raw.try_send(&self.bytes).await;
        if self.then == Then::GoesOn {
            let last = request("GET /still/here", "Connection: close\r\n\r\n");
            raw.try_send(last.as_bytes()).await;
        }
        raw.await_answer().await;
    }

    async fn end(&self, raw: &mut Raw) -> Result<(), String> {
        let ended = tokio::time::timeout(Duration::from_secs(5), raw.rest()).await;
        let Ok(bytes) = ended else {
            return Err(format!("{}: the connection stays", self.what));
        };
        let mut expected = self.answers.clone();
        if self.then == Then::GoesOn {
            expected.push(Error(404, "not_found"));
        }
        let answers = answers_in(&bytes);
        let as_expected = answers.len() == expected.len()
            && expected
                .iter()
                .zip(&answers)
                .all(|(expected, answer)| expected.is_met_by(answer));
        if as_expected {
            return Ok(());
        }
        Err(format!("{}: not {expected:?} but {answers:?}", self.what))
    }
}

#[derive(Debug)]
struct HttpAnswer {
    status: u16,
    /// In lower case.
    head: String,
    body: String,
}

impl Reply {
    fn is_met_by(self, answer: &HttpAnswer) -> bool {
        match self {
            Bare(status) => {
                answer.status == status
                    && answer.head.contains("\r\nconnection: close\r\n")
                    && answer.body.is_empty()
            }
            Error(status, code) => answer.status == status && error_code(&answer.body) == code,
            Good(status) => answer.status == status,
        }
    }
}

/// The code of an error object; what is no such object has none.
fn error_code(body: &str) -> String {
    let error: Value = serde_json::from_str(body).unwrap_or_default();
    let is_error = error["type"] == "error"
        && error["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty());
    let code = error["code"].as_str().filter(|_| is_error);
    code.unwrap_or("none").to_owned()
}

/// The responses on a connection that has ended, in order.
fn answers_in(bytes: &[u8]) -> Vec<HttpAnswer> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = &text[..];
    let mut answers = Vec::new();
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let head = format!("{}\r\n", head.to_ascii_lowercase());
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().expect("a length"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        // Whatever is cut off or no response shows as one without a status.
        let body = after.get(..length).unwrap_or(after);
        rest = &after[body.len()..];
        if status == Some(100) {
            // No answer, but an invitation to go on.
            continue;
        }
        answers.push(HttpAnswer {
            status: status.unwrap_or_default(),
            head,
            body: body.to_owned(),
        });
    }
    if !rest.is_empty() {
        answers.push(HttpAnswer {
            status: 0,
            head: String::new(),
            body: rest.to_owned(),
        });
    }
    answers
}
