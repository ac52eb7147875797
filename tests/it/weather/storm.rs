//! A restart under load: the drain, and the storm of clients that come back after it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::sync::watch;
use tribus::config::Config;

use super::client::{Client, Heard};
use crate::{
    hopping::sequence_of,
    support::{Claims, SECRET, TRANSPORTS, TestGateway, Transport, within},
};

const CLIENTS: usize = 45;
/// What the restarted node admits: far less than come back at once.
const RATE: usize = 10;
const BURST: usize = 5;

/// Of a publisher that awaits each answer, those that a worker may have accepted while another had
/// told its clients already to leave.
const ON_THE_WAY: u64 = 4;

async fn gateway_on(address: SocketAddr, toml: &str) -> TestGateway {
    let toml = format!(
        "listen = \"{address}\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n\
         auth.hs256_secret = \"{SECRET}\"\nshutdown.grace = \"2s\"\n{toml}"
    );
    TestGateway::run(Config::from_toml(&toml).expect("a good configuration")).await
}

/// Publishes numbers one after the other, each once the one before was acknowledged.
struct Publisher {
    next: u64,
    acknowledged: Arc<AtomicU64>,
}

impl Publisher {
    /// Until one is not acknowledged; how many were.
    async fn until_refused(mut self, address: SocketAddr) -> u64 {
        let gateway = TestGateway::at(address, address);
        while self.publish(&gateway).await {
            self.next += 1;
            self.acknowledged.store(self.next, Ordering::Release);
        }
        self.next
    }

    async fn publish(&self, gateway: &TestGateway) -> bool {
        let request = gateway.http.post(gateway.url("/publish"));
        let request = request.bearer_auth(Claims::all("backend").token());
        let body = json!({"topic": "a:1", "data": self.next}).to_string();
        let answer = within("an answer", request.body(body).send()).await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }
}

/// Hears events until it is sent away; their numbers, and when it is to come back.
async fn until_closing(client: &mut Client, heard: watch::Sender<u64>) -> (u64, Option<u64>) {
    let mut expected = 0;
    loop {
        match client.hear().await {
            Heard::Event(number) => {
                assert_eq!(number, expected, "in order, on {:?}", client.transport);
                expected += 1;
                heard.send_replace(expected);
            }
            Heard::Closing(wait) => return (expected, wait),
            Heard::Reset(reason) => panic!("{reason} on {:?}", client.transport),
        }
    }
}

/// Comes back as it was told, and is told in turn that this is another log.
async fn come_back(client: &mut Client, wait: Option<u64>) {
    tokio::time::sleep(Duration::from_millis(wait.unwrap_or(0))).await;
    client.enter().await;
    match client.hear().await {
        Heard::Reset(reason) => assert_eq!(reason, "unknown_log", "{:?}", client.transport),
        other => panic!("{other:?} on {:?}", client.transport),
    }
}

/// Hears all numbers that follow its cursor, given the positions of all.
async fn until_the_last(client: &mut Client, positions: &[u64]) {
    let cursor = sequence_of(&client.cursor);
    let first = positions.partition_point(|position| *position <= cursor);
    for number in first as u64..positions.len() as u64 {
        match client.hear().await {
            Heard::Event(heard) => assert_eq!(heard, number, "on {:?}", client.transport),
            other => panic!("{other:?} for {number} on {:?}", client.transport),
        }
    }
}

async fn crowd(address: SocketAddr, cursor: &str) -> Vec<Client> {
    let transports = TRANSPORTS.into_iter().cycle().take(CLIENTS).enumerate();
    let mut clients: Vec<Client> = transports
        .map(|(number, transport)| {
            Client::new(address, transport, &format!("client-{number}"), cursor)
        })
        .collect();
    join_all(clients.iter_mut().map(Client::enter)).await;
    clients
}

/// The start of a log: of whoever is there from here on, every event is expected.
async fn start_of(gateway: &TestGateway) -> String {
    let (status, page) = gateway.poll("topics=a:*").await;
    assert_eq!(status, 200, "{page}");
    page["cursor"].as_str().expect("a cursor").to_owned()
}

#[tokio::test]
async fn a_restart_under_load_loses_nothing_that_a_client_is_not_told_of() {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut gateway = gateway_on(any, "shutdown.unready = \"300ms\"").await;
    let address = gateway.address;
    let clients = crowd(address, &start_of(&gateway).await).await;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let publisher = Publisher {
        next: 0,
        acknowledged: Arc::clone(&acknowledged),
    };
    let publishing = tokio::spawn(publisher.until_refused(address));
    let (told, listening): (Vec<_>, Vec<_>) = clients.iter().map(|_| watch::channel(0_u64)).unzip();
    let storm = clients.into_iter().zip(told).map(|(mut client, told)| {
        tokio::spawn(async move {
            let (heard, wait) = until_closing(&mut client, told).await;
            come_back(&mut client, wait).await;
            (client, heard, wait)
        })
    });
    let storm: Vec<_> = storm.collect();
    for mut heard in listening {
        let under_way = heard.wait_for(|heard| *heard >= 20);
        within("events to flow", under_way).await.expect("a client");
    }
    let before = acknowledged.load(Ordering::Acquire);
    gateway.begin_stop();
    gateway.stopped().await;
    let published = within("the publisher to be refused", publishing).await;
    let published = published.expect("no panic");
    assert!(
        published > before,
        "it was served while it was only unready"
    );

    let limits = format!("limits.admissions_per_second = {RATE}\nlimits.admission_burst = {BURST}");
    let begun = Instant::now();
    let gateway = gateway_on(address, &limits).await;
    // The storm and the publisher come at the same time.
    let mut positions = Vec::new();
    for number in 0..50 {
        positions.push(sequence_of(&gateway.publish("a:1", json!(number)).await));
    }
    let back = within("everyone to be back", join_all(storm)).await;
    let least = (CLIENTS - BURST) as u64 * 1000 / RATE as u64;
    assert!(begun.elapsed() >= Duration::from_millis(least), "admitted");
    for number in 50..100 {
        positions.push(sequence_of(&gateway.publish("a:1", json!(number)).await));
    }
    let mut refused = 0;
    for back in back {
        let (mut client, heard, wait) = back.expect("no panic");
        assert_heard(&client, heard, published, wait);
        until_the_last(&mut client, &positions).await;
        refused += client.refusals;
    }
    assert!(refused > 0, "it was no storm");
    gateway.stop().await;
}

/// A stream hears all that was acknowledged before it is sent away. A poll that was not waiting
/// just then is refused, and learns from the reset that it may have missed some.
fn assert_heard(client: &Client, heard: u64, published: u64, wait: Option<u64>) {
    let of = format!("{heard} of {published} on {:?}", client.transport);
    if client.transport != Transport::Poll {
        assert!(heard + ON_THE_WAY >= published, "{of}");
        let wait = wait.expect("when to come back");
        assert!(wait <= 2000, "within the grace, not {wait} ms later");
    }
    // One more may have been accepted without its answer having come.
    assert!((20..=published + 1).contains(&heard), "{of}");
}
