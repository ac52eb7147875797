//! Connections and waiting polls of one subject.

use serde_json::Value;
use tokio::{sync::mpsc, task::JoinSet};

use super::{Client, Held, Refused, Visit};
use crate::support::{Claims, Raw, RawResponse, Sse, TRANSPORTS, TestGateway, Transport, within};

const FOUR: &str = "limits.connections_per_subject = 4\nlimits.polls_per_subject = 4";

/// Waiting polls, all sent at once.
struct Polls {
    answers: mpsc::UnboundedReceiver<RawResponse>,
    waiting: JoinSet<()>,
}

impl Polls {
    async fn flood(gateway: &TestGateway, count: usize) -> Self {
        let (_, start) = gateway.poll_as(&Claims::all("reader"), "topics=a:1").await;
        let cursor = start["cursor"].as_str().expect("a cursor");
        let line = format!("GET /poll?topics=a:1&cursor={cursor}&wait=55");
        let (tell, answers) = mpsc::unbounded_channel();
        let mut waiting = JoinSet::new();
        for _ in 0..count {
            let mut raw = Raw::connect(gateway).await;
            raw.vanish_when_dropped();
            raw.request(&line, "\r\n").await;
            let tell = tell.clone();
            waiting.spawn(async move {
                let _ = tell.send(raw.response().await);
            });
        }
        Self { answers, waiting }
    }

    async fn answer(&mut self) -> RawResponse {
        within("an answer", self.answers.recv())
            .await
            .expect("one more")
    }

    async fn answers(&mut self, count: usize) -> Vec<RawResponse> {
        let mut answers = Vec::new();
        for _ in 0..count {
            answers.push(self.answer().await);
        }
        answers
    }

    /// All clients are gone with a reset.
    async fn vanish(mut self) {
        self.waiting.shutdown().await;
    }
}

fn assert_too_many(response: &RawResponse) {
    assert_eq!(response.status, 429, "{response:?}");
    let error: Value = serde_json::from_str(&response.body).expect("JSON");
    assert_eq!(error["code"], "too_many_connections");
    assert!(
        response.headers.contains("retry-after: 5\r\n"),
        "{response:?}"
    );
    // It is no rate, so there is none to tell.
    assert!(!response.headers.contains("ratelimit"), "{response:?}");
}

/// Visits so many times at once.
async fn flood(
    client: &Client<'_>,
    transport: Transport,
    count: usize,
) -> (Vec<Held>, Vec<Refused>) {
    let visits = (0..count).map(|_| client.visit(transport, "topics=a:1"));
    let (mut held, mut refused) = (Vec::new(), Vec::new());
    for visit in futures_util::future::join_all(visits).await {
        match visit {
            Visit::In(stream) => held.push(stream),
            Visit::Out(refusal) => refused.push(refusal),
        }
    }
    (held, refused)
}

/// Tries until all four places are free again.
async fn four_places(client: &Client<'_>) -> Vec<Held> {
    let four = async {
        loop {
            let (held, _) = flood(client, Transport::Ws, 4).await;
            if held.len() == 4 {
                return held;
            }
            for stream in held {
                stream.leave().await;
            }
        }
    };
    within("four places", four).await
}

#[tokio::test]
async fn a_flood_of_streams_gets_the_subjects_places_and_no_more() {
    for transport in [Transport::Ws, Transport::Sse] {
        let gateway = TestGateway::with(FOUR).await;
        let alice = Client::new(&gateway, &Claims::all("alice"));
        let bob = Client::new(&gateway, &Claims::all("bob"));
        let mut neighbour = bob.must_enter(transport, "topics=a:1").await;
        let (mut held, refused) = flood(&alice, transport, 40).await;
        assert_eq!(held.len(), 4, "{transport:?}");
        for refusal in refused {
            refusal.assert(transport, "too_many_connections");
            assert_eq!(refusal.retry_after_ms(), 5000);
        }
        // Those that are in are served, and the neighbour is.
        gateway.publish("a:1", Value::Null).await;
        for stream in &mut held {
            stream.event().await;
        }
        neighbour.event().await;
        for transport in TRANSPORTS {
            bob.must_enter(transport, "").await;
            alice.must_be_refused(transport, "").await;
        }
        drop(held);
        four_places(&alice).await;
    }
}

#[tokio::test]
async fn a_flood_of_waiting_polls_gets_the_subjects_places_and_no_more() {
    let gateway = TestGateway::with("limits.polls_per_subject = 3").await;
    let mut polls = Polls::flood(&gateway, 20).await;
    for refused in polls.answers(17).await {
        assert_too_many(&refused);
    }
    // Streams have their own places, and the neighbour has its own.
    let alice = Client::new(&gateway, &Claims::all("alice"));
    alice.must_be_refused(Transport::Poll, "").await;
    alice.must_enter(Transport::Ws, "").await;
    alice.must_enter(Transport::Sse, "").await;
    let bob = Client::new(&gateway, &Claims::all("bob"));
    bob.must_enter(Transport::Poll, "").await;
    gateway.publish("a:1", Value::Null).await;
    for answered in polls.answers(3).await {
        assert_eq!(answered.status, 200, "{answered:?}");
    }
    alice.must_enter(Transport::Poll, "").await;
}

#[tokio::test]
async fn places_are_counted_over_all_transports() {
    let gateway = TestGateway::with(FOUR).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let _ws = alice.must_enter(Transport::Ws, "").await;
    let _sse = alice.must_enter(Transport::Sse, "").await;
    let mut polls = Polls::flood(&gateway, 5).await;
    for refused in polls.answers(3).await {
        assert_too_many(&refused);
    }
    for transport in TRANSPORTS {
        let refused = alice.must_be_refused(transport, "").await;
        refused.assert(transport, "too_many_connections");
    }
    gateway.publish("a:1", Value::Null).await;
    for answered in polls.answers(2).await {
        assert_eq!(answered.status, 200, "{answered:?}");
    }
    alice.must_enter(Transport::Ws, "").await;
}

#[tokio::test]
async fn places_of_clients_that_vanish_are_free_again() {
    let gateway = TestGateway::with(FOUR).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    for _ in 0..3 {
        let mut streams = Vec::new();
        for _ in 0..2 {
            let mut ws = Raw::websocket(&gateway, "topics=a:1").await;
            ws.text_until("live").await;
            streams.push(ws);
            let mut sse = Raw::connect(&gateway).await;
            sse.request("GET /events?topics=a:1", "\r\n").await;
            sse.text_until("live").await;
            streams.push(sse);
        }
        alice.must_be_refused(Transport::Ws, "").await;
        for stream in streams {
            stream.vanish_when_dropped();
        }
        for stream in four_places(&alice).await {
            stream.leave().await;
        }
        let mut polls = Polls::flood(&gateway, 10).await;
        polls.answers(6).await;
        polls.vanish().await;
        for stream in four_places(&alice).await {
            stream.leave().await;
        }
    }
}

#[tokio::test]
async fn places_are_free_once_streams_were_ended_by_the_gateway() {
    let gateway = TestGateway::with(FOUR).await;
    let claims = Claims::all("alice").expiring_in(2);
    let (mut held, _) = flood(&Client::new(&gateway, &claims), Transport::Sse, 4).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    assert_eq!(held.len(), 4);
    for stream in &mut held {
        let Held::Sse(sse) = stream else { continue };
        drain(sse).await;
    }
    four_places(&alice).await;
}

async fn drain(sse: &mut Sse) {
    while sse.try_next().await.is_some() {}
}

#[tokio::test]
async fn refused_subscriptions_and_refused_tokens_take_no_place() {
    let gateway = TestGateway::with(FOUR).await;
    let alice = Client::new(&gateway, &Claims::all("alice"));
    let may_nothing = Client::new(&gateway, &Claims::new("alice"));
    let expired = Client::new(&gateway, &Claims::all("alice").expiring_in(-60));
    for _ in 0..10 {
        for transport in [Transport::Sse, Transport::Poll] {
            may_nothing.must_be_refused(transport, "topics=a:1").await;
            alice
                .must_be_refused(transport, "topics=a:1&cursor=!")
                .await;
        }
        for transport in TRANSPORTS {
            expired.must_be_refused(transport, "").await;
        }
    }
    four_places(&alice).await;
}
