//! Publishers that go on whatever becomes of the gateway.

mod pipeline;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use pipeline::Pipeline;

use super::{Checker, Claims, Received, TestGateway, Ws, within};

/// A gateway that takes longer is taken for gone.
const PATIENCE: Duration = Duration::from_secs(3);
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Between two publishes of one publisher, so that clients can follow.
const PAUSE: Duration = Duration::from_millis(2);
const BATCH: u64 = 20;
const TOKEN_SECONDS: i64 = 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Each event once, answered or not.
    Single,
    Batch,
    /// Until it is answered, under one key.
    KeyedBatch,
    /// As that, one event at a time on `/ws`.
    KeyedOverWebSocket,
    /// Events on `/ws` without waiting for answers, each once.
    Pipelined,
    /// As that, until they are answered, under keys.
    KeyedPipelined,
}

const WAYS: [Way; 7] = [
    Way::Single,
    Way::Single,
    Way::Batch,
    Way::KeyedBatch,
    Way::KeyedOverWebSocket,
    Way::Pipelined,
    Way::KeyedPipelined,
];

/// Publishers of every kind, until they are stopped.
pub struct Load {
    stop: watch::Sender<bool>,
    publishers: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(checker: &Arc<Checker>, address: SocketAddr) -> Self {
        Self::start_among(checker, &[address])
    }

    /// At nodes of one log: what is sent again goes to any of them.
    pub fn start_among(checker: &Arc<Checker>, addresses: &[SocketAddr]) -> Self {
        let (stop, _) = watch::channel(false);
        let publishers = WAYS.into_iter().enumerate().map(|(number, way)| {
            let checker = Arc::clone(checker);
            let address = addresses[number % addresses.len()];
            let gateway = TestGateway::at(address, address);
            let token = Claims::all("backend").expiring_in(TOKEN_SECONDS).token();
            let stop = stop.subscribe();
            if let Way::Pipelined | Way::KeyedPipelined = way {
                let pipeline = Pipeline {
                    checker,
                    gateway,
                    token,
                    keyed: way == Way::KeyedPipelined,
                    stop,
                    in_flight: VecDeque::new(),
                };
                return tokio::spawn(pipeline.run());
            }
            let publisher = Publisher {
                checker,
                addresses: addresses.to_vec(),
                gateway,
                token,
                number,
                way,
                stop,
                ws: None,
                rng: fastrand::Rng::new(),
            };
            tokio::spawn(publisher.run())
        });
        Self {
            publishers: publishers.collect(),
            stop,
        }
    }

    /// Once the publishes that are under way are over.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        for publisher in self.publishers {
            within("a publisher to end", publisher)
                .await
                .expect("no panic");
        }
    }
}

struct Publisher {
    checker: Arc<Checker>,
    addresses: Vec<SocketAddr>,
    gateway: TestGateway,
    token: String,
    number: usize,
    way: Way,
    stop: watch::Receiver<bool>,
    ws: Option<Ws>,
    rng: fastrand::Rng,
}

/// What a publish came to.
enum Answer {
    Ids(Vec<String>),
    /// Refused, for the time being.
    Unavailable(Duration),
    /// Nobody knows.
    None,
}

impl Publisher {
    async fn run(mut self) {
        while !self.is_stopped() {
            let count = match self.way {
                Way::Batch | Way::KeyedBatch => self.rng.u64(2..=BATCH),
                _ => 1,
            };
            let keyed = matches!(self.way, Way::KeyedBatch | Way::KeyedOverWebSocket);
            let (number, events) = self.checker.publish(self.number, count, keyed);
            loop {
                self.go_somewhere();
                let answer = match self.way {
                    Way::KeyedOverWebSocket => self.send(number, &events[0]).await,
                    _ => self.post(number, &events).await,
                };
                let again = match answer {
                    Answer::Ids(ids) => {
                        self.checker.acknowledge(number, &ids);
                        break;
                    }
                    Answer::Unavailable(again) => {
                        self.checker.refuse(number);
                        again
                    }
                    Answer::None => TRY_AGAIN,
                };
                sleep(again.min(10 * TRY_AGAIN)).await;
                if !keyed || self.is_stopped() {
                    break;
                }
            }
            sleep(PAUSE).await;
        }
    }

    fn go_somewhere(&mut self) {
        let address = self.addresses[self.rng.usize(0..self.addresses.len())];
        if address != self.gateway.address {
            self.gateway.address = address;
            self.ws = None;
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn post(&self, number: u64, events: &[Value]) -> Answer {
        let body = match (self.way, events) {
            (Way::Single, [event]) => event.to_string(),
            _ => json!(events).to_string(),
        };
        let mut request = self.gateway.http.post(self.gateway.url("/publish"));
        if self.way == Way::KeyedBatch {
            request = request.header("Idempotency-Key", format!("key-{number}"));
        }
        let answer = async {
            let answer = request.bearer_auth(&self.token).body(body).send().await?;
            answer.json::<Value>().await
        };
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => judge(&self.checker, &answer),
            Ok(Err(_)) | Err(_) => Answer::None,
        }
    }

    async fn send(&mut self, number: u64, event: &Value) -> Answer {
        let mut message = event.clone();
        message["type"] = json!("publish");
        message["key"] = json!(format!("key-{number}"));
        message["ref"] = json!(number);
        let answer = timeout(PATIENCE, self.ask(&message)).await;
        match answer.ok().flatten() {
            Some(answer) => judge(&self.checker, &answer),
            None => {
                self.ws = None;
                Answer::None
            }
        }
    }

    /// The answer to a message; `None` where the connection is lost.
    async fn ask(&mut self, message: &Value) -> Option<Value> {
        if self.ws.is_none() {
            let connected = Ws::connect(&self.gateway, "", Some(&self.token), None).await;
            self.ws = Some(connected.ok()?);
        }
        let ws = self.ws.as_mut()?;
        ws.try_send(message).await.ok()?;
        loop {
            match ws.receive().await {
                Received::Json(answer) if answer["ref"] == message["ref"] => return Some(answer),
                // Of the whole connection.
                Received::Json(error) if error["type"] == "error" => return Some(error),
                Received::Json(_) => {}
                Received::Close(..) | Received::End => return None,
            }
        }
    }
}

fn judge(checker: &Checker, answer: &Value) -> Answer {
    let ids = match (&answer["ids"], &answer["id"]) {
        (Value::Array(ids), _) => ids.iter().collect(),
        (_, Value::Null) => Vec::new(),
        (_, id) => vec![id],
    };
    if !ids.is_empty() {
        let ids = ids.into_iter().filter_map(Value::as_str);
        return Answer::Ids(ids.map(str::to_owned).collect());
    }
    if answer["code"] != "unavailable" {
        checker.complain(format!("a publish was answered {answer}"));
    }
    let again = answer["retryAfterMs"].as_u64();
    Answer::Unavailable(again.map_or(TRY_AGAIN, Duration::from_millis))
}
