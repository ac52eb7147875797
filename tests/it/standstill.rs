//! A thousand clients that stop reading, in front of a gateway in a process of its own, whose
//! memory can be looked at.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::{
    hopping::sequence_of,
    support::{Claims, Program, SECRET, Sse, TestGateway, Ws, within},
};

const CLIENTS: usize = 1000;
/// So many of them read again and check what they get.
const CHECKED: usize = 6;
const EVENT_BYTES: usize = 8 * 1024;
const BATCH: usize = 64;
/// What is published while nobody reads: far more than mailbox and kernel hold for one client, and
/// for a thousand clients more than the machine has.
const FLOOD: usize = 768;
const RETAINED: usize = 1000;
/// What the gateway may grow by for a client that does not read: the chunk under way, the
/// connection's write buffer, the mailbox's references, and the events that they keep alive.
const BYTES_PER_CLIENT: u64 = 128 * 1024;
/// The log itself, and what the allocator keeps of the requests.
const BYTES_OF_THE_LOG: u64 = 2 * (RETAINED * (EVENT_BYTES + 512)) as u64;

enum Client {
    Ws(Box<Ws>),
    Sse(Sse),
}

impl Client {
    async fn open(gateway: &TestGateway, number: usize) -> Self {
        let claims = Claims::all("slow");
        let ws = |subprotocol| async move {
            let mut ws = gateway
                .narrow_ws(&claims, "topics=flood:*", subprotocol)
                .await;
            ws.frame("live").await;
            Self::Ws(Box::new(ws))
        };
        match number % 3 {
            0 => ws("tribus.json.v1").await,
            1 => ws("tribus.msgpack.v1").await,
            _ => {
                let claims = Claims::all("slow");
                let mut sse = gateway.narrow_sse(&claims, "topics=flood:*", None).await;
                sse.frame("live").await;
                Self::Sse(sse)
            }
        }
    }

    /// The next event or reset.
    async fn next(&mut self) -> Value {
        loop {
            let frame = match self {
                Self::Ws(ws) => ws.next().await,
                Self::Sse(sse) => sse.next().await.json(),
            };
            if frame["type"] != "heartbeat" {
                return frame;
            }
        }
    }

    async fn expect_events(&mut self, published: &[u64]) {
        for sequence in published {
            let event = self.next().await;
            assert_eq!(event["type"], "event", "{}", event["reason"]);
            let id = event["id"].as_str().expect("an id");
            assert_eq!(sequence_of(id), *sequence);
        }
    }

    /// Some of what was published, from the first on, and then that the rest was missed.
    async fn expect_reset(&mut self, published: &[u64]) {
        let mut expected = published.iter();
        loop {
            let frame = self.next().await;
            if frame["type"] == "reset" {
                return assert_eq!(frame["reason"], "lagged");
            }
            let id = frame["id"].as_str().expect("an id");
            assert_eq!(Some(&sequence_of(id)), expected.next());
        }
    }
}

async fn start() -> (Program, TestGateway) {
    let retained = RETAINED.to_string();
    let mut program = Program::tribus(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--workers",
            "2",
        ],
        &[
            ("TRIBUS__AUTH__HS256_SECRET", SECRET),
            ("TRIBUS__RETENTION__EVENTS", &retained),
        ],
    );
    let line = program.says("listening").await;
    let gateway = TestGateway::at(address(&line, " address="), address(&line, " admin="));
    (program, gateway)
}

fn address(line: &str, name: &str) -> std::net::SocketAddr {
    let after = line.split_once(name).expect("an address").1;
    let text = after.split(' ').next().unwrap_or_default();
    text.parse().expect("an address")
}

/// Publishes so many events; a client that reads gets each batch meanwhile.
async fn flood(gateway: &TestGateway, reader: &mut Ws, events: usize) -> Vec<u64> {
    let event = json!({"topic": "flood:1", "data": "x".repeat(EVENT_BYTES)});
    let batch = json!(vec![event; BATCH]).to_string();
    let mut published = Vec::new();
    while published.len() < events {
        let (status, answer) = gateway.post(&batch).await;
        assert_eq!(status, 200, "{answer}");
        for id in answer["ids"].as_array().expect("ids") {
            assert_eq!(
                reader.event().await["id"],
                *id,
                "others are served meanwhile"
            );
            published.push(sequence_of(id.as_str().expect("an id")));
        }
    }
    published
}

/// Waits until the gateway has nothing more to do: clients that do not read cost no time.
async fn wait_until_idle(program: &Program) {
    let idle = async {
        loop {
            let before = program.cpu_ticks();
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            if program.cpu_ticks() - before <= 5 {
                return;
            }
        }
    };
    within("an idle gateway", idle).await;
}

#[tokio::test]
async fn a_thousand_clients_that_do_not_read_are_bounded_and_get_everything_or_are_told() {
    let (program, gateway) = start().await;
    let mut reader = gateway.ws("topics=flood:*").await;
    reader.frame("live").await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Client::open(&gateway, number).await);
    }
    let before = program.resident_bytes();
    let published = flood(&gateway, &mut reader, FLOOD).await;
    let grown = program.resident_bytes().saturating_sub(before);
    let allowed = BYTES_OF_THE_LOG + BYTES_PER_CLIENT * CLIENTS as u64;
    assert!(
        grown < allowed,
        "grew by {} MiB, {} allowed",
        grown >> 20,
        allowed >> 20
    );
    wait_until_idle(&program).await;

    // Those that read in time get everything.
    let mut late = clients.split_off(CLIENTS - CHECKED);
    let in_time = clients.iter_mut().take(CHECKED);
    join_all(in_time.map(|client| client.expect_events(&published))).await;
    drop(clients);

    // Those that come after the events have left the log are told, and go on from there.
    flood(&gateway, &mut reader, RETAINED + FLOOD).await;
    join_all(
        late.iter_mut()
            .map(|client| client.expect_reset(&published)),
    )
    .await;
    let last = gateway.publish("flood:2", json!("last")).await;
    for client in &mut late {
        assert_eq!(client.next().await["id"], json!(last));
    }
}
