//! A restart under load: the drain, and the storm of clients that come back after it.

use std::{net::TcpListener, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    hopping::sequence_of,
    support::{Claims, Program, SECRET, TestGateway, Ws, within},
};

const CLIENTS: usize = 60;
/// Of what comes back at once, so many are let in, and the others one after the other.
const TIGHT: [(&str, &str); 2] = [
    ("TRIBUS__LIMITS__ADMISSIONS_PER_SECOND", "30"),
    ("TRIBUS__LIMITS__ADMISSION_BURST", "10"),
];

async fn start(port: u16, limits: &[(&str, &str)]) -> (Program, TestGateway) {
    let listen = format!("127.0.0.1:{port}");
    let arguments = [
        "serve",
        "--listen",
        &listen,
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let keys = [
        ("TRIBUS__AUTH__HS256_SECRET", SECRET),
        ("TRIBUS__SHUTDOWN__GRACE", "2s"),
    ];
    let mut program = Program::tribus(&arguments, &[&keys[..], limits].concat());
    let line = program.says("listening").await;
    let admin = line.split_once(" admin=").expect("an address").1;
    let admin = admin.split(' ').next().unwrap_or_default().parse();
    let gateway = TestGateway::at(
        listen.parse().expect("an address"),
        admin.expect("an address"),
    );
    (program, gateway)
}

/// A client, with what it saw and where it is to go on.
struct Client {
    ws: Ws,
    seen: Vec<u64>,
    cursor: String,
}

impl Client {
    async fn open(gateway: &TestGateway) -> Self {
        let mut ws = gateway.ws("topics=a:*").await;
        let cursor = ws.frame("live").await["cursor"].clone();
        Self {
            ws,
            seen: Vec::new(),
            cursor: cursor.as_str().expect("a cursor").to_owned(),
        }
    }

    fn note(&mut self, event: &Value) {
        let id = event["id"].as_str().expect("an id");
        self.seen.push(sequence_of(id));
        self.cursor = id.to_owned();
    }

    /// Reads to `closing`; how long to stay away.
    async fn read_to_the_end(&mut self) -> Duration {
        loop {
            let frame = self.ws.next().await;
            match frame["type"].as_str() {
                Some("event") => self.note(&frame),
                Some("closing") => {
                    assert_eq!(frame["code"], 1012);
                    assert_eq!(self.ws.close_code().await, 1012);
                    let wait = frame["reconnectAfterMs"].as_u64();
                    return Duration::from_millis(wait.expect("when to come back"));
                }
                _ => {}
            }
        }
    }

    /// Comes back when told, as often as it takes; how often it was sent away.
    async fn come_back(&mut self, gateway: &TestGateway) -> u32 {
        let query = format!("topics=a:*&cursor={}", self.cursor);
        let token = Claims::all("alice").token();
        let mut sent_away = 0;
        loop {
            let connecting = Ws::connect(gateway, &query, Some(&token), None).await;
            self.ws = connecting.expect("the handshake succeeds");
            let frame = self.ws.next().await;
            if frame["type"] == "connected" {
                return sent_away;
            }
            assert_eq!(frame["code"], "unavailable", "{frame}");
            let wait = frame["retryAfterMs"].as_u64().expect("when to come back");
            sent_away += 1;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_in_a_drain_and_the_storm_after_it_gets_in() {
    let port = {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        free.local_addr().expect("an address").port()
    };
    let (program, gateway) = start(port, &[]).await;
    let mut clients = join_all((0..CLIENTS).map(|_| Client::open(&gateway))).await;

    // Publishes until nobody is let in any more.
    let publishing = async {
        let mut acknowledged = Vec::new();
        loop {
            let request = gateway.http.post(gateway.url("/publish"));
            let request = request.bearer_auth(Claims::all("backend").token());
            let answer = request.body(r#"{"topic":"a:1"}"#).send().await;
            let Ok(answer) = answer else { break };
            if answer.status() != 200 {
                break;
            }
            let answer: Value = answer.json().await.expect("JSON");
            acknowledged.push(sequence_of(answer["id"].as_str().expect("an id")));
            if acknowledged.len() == 50 {
                program.signal("TERM");
            }
        }
        acknowledged
    };
    let ends = join_all(clients.iter_mut().map(Client::read_to_the_end));
    let (acknowledged, waits) = within("the drain", async { tokio::join!(publishing, ends) }).await;
    assert!(acknowledged.len() >= 50);
    for client in &clients {
        let seen = &client.seen;
        assert!(
            seen.windows(2).all(|pair| pair[0] + 1 == pair[1]),
            "{seen:?}"
        );
        // What was acknowledged after a client was told to go, it resumes for.
        let of_both = seen.len().min(acknowledged.len());
        assert_eq!(seen[..of_both], acknowledged[..of_both]);
        assert!(of_both >= 50, "all before the drain: {of_both}");
    }
    let spread = waits.iter().max().zip(waits.iter().min());
    let (latest, soonest) = spread.expect("waits");
    assert!(*latest - *soonest > Duration::from_millis(500), "{waits:?}");
    assert_eq!(program.ended().await.code, Some(0));

    // All at once, though told otherwise: as if the network had come back.
    let (_program, gateway) = start(port, &TIGHT).await;
    let returns = clients.iter_mut().map(|client| client.come_back(&gateway));
    let sent_away = within("everyone to get in", join_all(returns)).await;
    assert!(sent_away.iter().sum::<u32>() > 0, "a storm: {sent_away:?}");
    for client in &mut clients {
        // The log of a gateway in memory ends with it, which is told and not passed over.
        let reset = client.ws.frame("reset").await;
        assert_eq!(reset["reason"], "unknown_log", "{reset}");
    }
    let mut published = Vec::new();
    for number in 0..5 {
        published.push(gateway.publish("a:2", json!(number)).await);
    }
    for client in &mut clients {
        for id in &published {
            assert_eq!(client.ws.event().await["id"], *id);
        }
    }
}
