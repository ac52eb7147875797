//! What the whole node takes: connections, and streams opened a second.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Client, Held, Refused, Visit};
use crate::support::{Claims, Credentials, Door, Sse, TRANSPORTS, TestGateway, Transport, within};

#[tokio::test]
async fn a_full_node_is_unavailable_on_every_transport_and_those_within_are_served() {
    for flooding in [Transport::Ws, Transport::Sse] {
        let gateway = TestGateway::with("limits.connections = 6").await;
        let bob = Client::new(&gateway, &Claims::all("bob"));
        let mut neighbour = bob.must_enter(flooding, "topics=a:1").await;
        let mallory = Client::new(&gateway, &Claims::all("mallory"));
        let visits = (0..40).map(|_| mallory.visit(flooding, "topics=a:1"));
        let mut held = Vec::new();
        for visit in futures_util::future::join_all(visits).await {
            match visit {
                Visit::In(stream) => held.push(stream),
                Visit::Out(refused) => assert_full(&refused, flooding),
            }
        }
        assert_eq!(held.len(), 5);
        for transport in TRANSPORTS {
            let refused = bob.must_be_refused(transport, "").await;
            assert_full(&refused, transport);
        }
        // Publishing takes no place, and whoever has one gets the event.
        gateway.publish("a:1", Value::Null).await;
        neighbour.event().await;
        for stream in &mut held {
            stream.event().await;
        }
        drop(held);
        for transport in TRANSPORTS {
            let place = async { while let Visit::Out(_) = bob.visit(transport, "").await {} };
            within("a place", place).await;
        }
    }
}

/// Between five and ten seconds, so that not all come back at the same time.
fn assert_full(refused: &Refused, transport: Transport) {
    refused.assert(transport, "unavailable");
    assert!(
        (5000..=10_000).contains(&refused.retry_after_ms()),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_full_node_tells_a_native_event_source_in_a_stream() {
    let gateway = TestGateway::with("limits.connections = 1").await;
    let _held = gateway.ws("").await;
    let alice = Claims::all("alice");
    let response = gateway.get("/events", "native=1", &alice).await;
    assert_eq!(response.status(), 200);
    let mut sse = Sse::new(response);
    let closing = sse.next().await;
    assert_eq!(closing.name, "closing");
    let retry = closing.retry.expect("a retry");
    assert!((5000..=10_000).contains(&retry), "{retry}");
    assert!(sse.try_next().await.is_none());
}

#[tokio::test]
async fn websockets_that_wait_for_their_auth_have_places_too() {
    let gateway = TestGateway::with("limits.connections = 3").await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let connected = crate::support::Ws::connect(&gateway, "", None, None).await;
        waiting.push(connected.expect("the handshake succeeds"));
    }
    let alice = Client::new(&gateway, &Claims::all("alice"));
    for transport in TRANSPORTS {
        assert_full(&alice.must_be_refused(transport, "").await, transport);
    }
    let token = Claims::all("alice").token();
    let reply = waiting[0]
        .ask(json!({"type": "auth", "token": token}))
        .await;
    assert_eq!(reply["type"], "auth_success");
    waiting[0].frame("connected").await;
}

/// How a client of the storm fared.
struct Survivor {
    attempts: usize,
    /// What it was told the first time.
    first_wait: Option<u64>,
    cursor: String,
    held: Held,
}

/// Comes back when it is told to, until it is let in; resumes where it was.
async fn persist(client: &Client<'_>, transport: Transport, query: &str) -> Survivor {
    let mut first_wait = None;
    for attempts in 1.. {
        match client.visit(transport, query).await {
            Visit::In(held) => {
                return Survivor {
                    attempts,
                    first_wait,
                    cursor: query.to_owned(),
                    held,
                };
            }
            Visit::Out(refused) => {
                refused.assert(transport, "unavailable");
                let wait = refused.retry_after_ms();
                first_wait.get_or_insert(wait);
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
        }
    }
    unreachable!("there is always another attempt")
}

const RATE: u64 = 50;
const BURST: usize = 20;
const STORM: usize = 300;

#[tokio::test]
async fn a_storm_that_comes_back_when_told_gets_in_spread_out_and_loses_nothing() {
    let gateway = TestGateway::with(&format!(
        "limits.admissions_per_second = {RATE}\nlimits.admission_burst = {BURST}"
    ))
    .await;
    let cursor = gateway.publish("a:0", Value::Null).await;
    for number in 0..3 {
        gateway.publish("a:1", json!(number)).await;
    }
    let query = format!("topics=a:1&cursor={cursor}&wait=0");
    // A connection that is kept for later may be ended just when it is used again.
    let newcomer = Client::new(&gateway, &Claims::all("newcomer")).unpooled();
    let clients: Vec<Client<'_>> = (0..STORM)
        .map(|number| newcomer.with_claims(&Claims::all(&format!("client-{number}"))))
        .collect();
    let storm = clients.iter().zip(TRANSPORTS.into_iter().cycle());
    let begun = Instant::now();
    let storm = storm.map(|(client, transport)| persist(client, transport, &query));
    let storm = futures_util::future::join_all(storm);
    let survivors = within("all to be let in", storm).await;
    // Nobody got in faster than the node takes them.
    let least = (STORM - BURST) as u64 * 1000 / RATE;
    assert!(begun.elapsed() >= Duration::from_millis(least));
    assert_spread(&survivors);
    for survivor in survivors {
        // Appointments are kept as well as a busy machine can.
        assert!(survivor.attempts <= 10, "{} attempts", survivor.attempts);
        assert!(survivor.cursor.contains("cursor="));
        assert_complete(survivor.held).await;
    }
}

fn assert_spread(survivors: &[Survivor]) {
    let waits: Vec<u64> = survivors
        .iter()
        .filter_map(|survivor| survivor.first_wait)
        .collect();
    // A busy machine makes a slower storm.
    assert!(waits.len() > 10, "{} had to wait", waits.len());
    let distinct: BTreeSet<u64> = waits.iter().map(|wait| wait / 20).collect();
    assert!(distinct.len() > waits.len() / 4, "{waits:?}");
}

async fn assert_complete(mut held: Held) {
    if matches!(held, Held::Answered) {
        return;
    }
    for number in 0..3 {
        assert_eq!(held.event().await["data"], number);
    }
}

#[tokio::test]
async fn a_poll_that_was_refused_in_a_storm_does_not_get_in_by_asking_again_at_once() {
    let gateway =
        TestGateway::with("limits.admissions_per_second = 1\nlimits.admission_burst = 1").await;
    let mut budget = super::Budget::of(1);
    for number in 0..10 {
        let client = Client::new(&gateway, &Claims::all(&format!("client-{number}")));
        for _ in 0..5 {
            match client.visit(Transport::Poll, "").await {
                Visit::In(_) => {
                    budget.take();
                    break;
                }
                Visit::Out(refused) => refused.assert(Transport::Poll, "unavailable"),
            }
        }
    }
    budget.assert_used_up();
}

#[tokio::test]
async fn those_who_may_not_come_in_use_up_nothing_of_what_the_node_takes() {
    let gateway =
        TestGateway::with("limits.admissions_per_second = 1\nlimits.admission_burst = 3").await;
    for door in Door::ALL {
        for _ in 0..10 {
            gateway.knock(door, &Credentials::bearer("nonsense")).await;
            gateway.knock(door, &Credentials::none()).await;
        }
    }
    let alice = Client::new(&gateway, &Claims::all("alice"));
    for transport in TRANSPORTS {
        alice.must_enter(transport, "").await;
    }
}

#[tokio::test]
async fn polls_that_go_on_and_streams_that_stay_are_no_part_of_a_storm() {
    let gateway =
        TestGateway::with("limits.admissions_per_second = 1\nlimits.admission_burst = 4").await;
    let bob = Client::new(&gateway, &Claims::all("bob"));
    let mut stream = bob.must_enter(Transport::Ws, "topics=a:1").await;
    bob.must_enter(Transport::Poll, "").await;
    for number in 0..20 {
        let claims = Claims::all(&format!("client-{number}"));
        let _ = Client::new(&gateway, &claims)
            .visit(Transport::Sse, "")
            .await;
        bob.must_enter(Transport::Poll, "").await;
    }
    gateway.publish("a:1", Value::Null).await;
    stream.event().await;
}
