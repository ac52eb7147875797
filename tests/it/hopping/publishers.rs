//! Publishers that pour events into many topics, and remember under which ids.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value, json};

use super::{
    filter::tags_json,
    tide::{Published, Tide, sequence_of},
};
use crate::support::{Claims, Received, TestGateway, Ws};

const NAMES: [&str; 3] = ["created", "updated", "message"];
const BATCH: usize = 20;
/// Publishes of one WebSocket that wait for their replies at once.
const IN_FLIGHT: usize = 16;

#[derive(Clone, Copy, Debug)]
pub enum Way {
    Single,
    Batch,
    WebSocket,
}

/// One publisher; its events tell who sent them, and count.
pub struct Publisher {
    pub gateway: Arc<TestGateway>,
    pub tide: Arc<Tide>,
    pub way: Way,
    pub tenant: Option<&'static str>,
    /// The most bytes of filler in one event.
    pub filler: usize,
    pub rng: fastrand::Rng,
    number: usize,
    count: u64,
}

impl Publisher {
    pub fn new(
        gateway: &Arc<TestGateway>,
        tide: &Arc<Tide>,
        (number, way): (usize, Way),
        tenant: Option<&'static str>,
        seed: u64,
    ) -> Self {
        Self {
            gateway: Arc::clone(gateway),
            tide: Arc::clone(tide),
            way,
            tenant,
            filler: 64,
            rng: fastrand::Rng::with_seed(seed),
            number,
            count: 0,
        }
    }

    /// Publishes until the tide is stopped.
    pub async fn run(mut self) {
        let claims = claims_of("publisher", self.tenant);
        match self.way {
            Way::Single => {
                while self.tide.may_publish().await {
                    let draft = self.draft();
                    self.post(&claims, &body_of(&draft), "id", vec![draft])
                        .await;
                }
            }
            Way::Batch => {
                while self.tide.may_publish().await {
                    let size = self.rng.usize(1..=BATCH);
                    let drafts: Vec<_> = (0..size).map(|_| self.draft()).collect();
                    let bodies: Vec<_> = drafts.iter().map(body_of).collect();
                    self.post(&claims, &json!(bodies), "ids", drafts).await;
                }
            }
            Way::WebSocket => self.run_over_websocket(&claims).await,
        }
    }

    async fn post(&self, claims: &Claims, body: &Value, field: &str, drafts: Vec<Published>) {
        let (status, answer) = self.gateway.post_as(claims, &body.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        let ids = match &answer[field] {
            Value::Array(ids) => ids.clone(),
            id => vec![id.clone()],
        };
        assert_eq!(ids.len(), drafts.len());
        let numbered = drafts.into_iter().zip(&ids).map(|(draft, id)| Published {
            sequence: sequence_of(id.as_str().expect("an id")),
            ..draft
        });
        self.tide.published(numbered.collect());
    }

    /// Publishes with keys, so that what a lost connection leaves unanswered can be sent again.
    async fn run_over_websocket(&mut self, claims: &Claims) {
        let mut waiting = HashMap::new();
        loop {
            let mut ws = self.gateway.ws_as(claims, "").await;
            if self.serve_connection(&mut ws, &mut waiting).await {
                return;
            }
        }
    }

    /// True where the publisher is to end, false where the connection did.
    async fn serve_connection(
        &mut self,
        ws: &mut Ws,
        waiting: &mut HashMap<u64, Published>,
    ) -> bool {
        loop {
            for (reference, draft) in waiting.iter() {
                let mut message = body_of(draft);
                message["type"] = json!("publish");
                message["ref"] = json!(reference);
                message["key"] = json!(format!("{}-{reference}", self.number));
                if ws.try_send(&message).await.is_err() {
                    return false;
                }
            }
            while !waiting.is_empty() {
                match ws.receive().await {
                    Received::Json(reply) => self.take_reply(&reply, waiting),
                    Received::Close(..) | Received::End => return false,
                }
            }
            let goes_on = tokio::select! {
                goes_on = self.tide.may_publish() => goes_on,
                // A client that reads nothing answers no Ping either.
                () = until_end(ws) => return false,
            };
            if !goes_on {
                return true;
            }
            for _ in 0..self.rng.usize(1..=IN_FLIGHT) {
                let draft = self.draft();
                waiting.insert(self.count, draft);
            }
        }
    }

    fn take_reply(&self, reply: &Value, waiting: &mut HashMap<u64, Published>) {
        if reply["type"] == "published" {
            let reference = reply["ref"].as_u64().expect("the ref that was sent");
            let draft = waiting.remove(&reference).expect("one reply a publish");
            let sequence = sequence_of(reply["id"].as_str().expect("an id"));
            self.tide.published(vec![Published { sequence, ..draft }]);
        } else {
            let kind = reply["type"].as_str().expect("a type");
            assert!(matches!(kind, "heartbeat" | "closing"), "{reply}");
        }
    }

    fn draft(&mut self) -> Published {
        self.count += 1;
        let topic = self.topic();
        let filler = "x".repeat(self.rng.usize(0..=self.filler));
        let regions = ["eu", "us"];
        let tags = match self.rng.u8(0..3) {
            0 => vec![],
            1 => vec![(
                "region".to_owned(),
                regions[self.rng.usize(0..2)].to_owned(),
            )],
            _ => vec![
                ("kind".to_owned(), "test".to_owned()),
                (
                    "region".to_owned(),
                    regions[self.rng.usize(0..2)].to_owned(),
                ),
            ],
        };
        Published {
            sequence: 0,
            tenant: self.tenant,
            topic,
            event: NAMES[self.rng.usize(0..NAMES.len())].to_owned(),
            tags,
            // They make holes in what is retained, which the seams have to bridge.
            ephemeral: self.rng.u8(0..10) == 0,
            data: json!({"publisher": self.number, "tenant": self.tenant, "count": self.count, "filler": filler}),
        }
    }

    fn topic(&mut self) -> String {
        let number = self.rng.u8(0..20);
        match self.rng.u8(0..10) {
            0..=4 => format!("order:{number}"),
            5 => format!("order:{number}:items"),
            6 => format!("user:{}", number % 3),
            7 => format!("repo:a/b:{}:{}", number % 2, number % 5),
            8 => "straße:übergang".to_owned(),
            _ => format!("once:{}-{}", self.number, self.count),
        }
    }
}

fn body_of(draft: &Published) -> Value {
    let mut body = Map::new();
    body.insert("topic".into(), json!(draft.topic));
    body.insert("event".into(), json!(draft.event));
    body.insert("data".into(), draft.data.clone());
    if !draft.tags.is_empty() {
        body.insert("tags".into(), tags_json(&draft.tags));
    }
    if draft.ephemeral {
        body.insert("ephemeral".into(), json!(true));
    }
    body.into()
}

/// Reads what comes to a publisher that asked for nothing, until the connection ends.
async fn until_end(ws: &mut Ws) {
    while matches!(ws.receive().await, Received::Json(_)) {}
}

/// A token that may do everything in its tenant.
pub fn claims_of(subject: &str, tenant: Option<&'static str>) -> Claims {
    let claims = Claims::all(subject);
    match tenant {
        Some(tenant) => claims.with("tenant", json!(tenant)),
        None => claims,
    }
}
