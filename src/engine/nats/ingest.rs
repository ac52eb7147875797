//! What backends publish straight into NATS: messages of a work queue, which are moved to the log.
//!
//! A work queue has one consumer, and whoever made it first moves them; it goes when
//! its node's connection ends, or when another node finds it standing still, and the next one is given
//! all that is still there, in order. A message that was not acknowledged comes again, behind those that
//! were moved meanwhile, and is known by its sequence, as a publish is by its idempotency key: so none is
//! appended twice within the ten minutes for which NATS knows keys, whoever moves it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::{
    Message, Subscriber,
    jetstream::{
        self, AckKind,
        consumer::{AckPolicy, push},
        stream::Stream,
    },
};
use futures_util::{FutureExt, StreamExt, future::join_all};
use serde_json::value::RawValue;

use super::{
    Backoff,
    claim::created_at,
    names::Names,
    request::{Request, Requests},
    server::Trouble,
    streams::{Bounds, open_ingest},
    view::{Open, View, usable},
};
use crate::{
    engine::{EngineError, IdempotencyKey},
    protocol::{PublishLimits, PublishRequest, Publisher, Refusal},
    throttle::Throttle,
    topic::Tenant,
};

/// Messages that are moved at a time.
const PAGE: usize = 128;
/// Those that were given to the node and are not moved yet.
const PENDING: i64 = 256;
/// When a message comes again to the same node, which takes it for lost. Longer than a publish takes.
const AGAIN_AFTER: Duration = Duration::from_secs(90);
/// After how long a node that is gone leaves the queue to the others.
const GONE_AFTER: Duration = Duration::from_secs(2);
/// And after how long one that is there and moves nothing, of what waits.
const IDLE_FOR: Duration = Duration::from_secs(10);
/// How often it is tried whether nobody moves messages.
const TRY_AFTER: Duration = Duration::from_secs(1);
/// The subject of whoever publishes here, in the scope of its idempotency keys. No token has it.
const SUBJECT: &str = "";
/// The same where the sequence is the key.
const BY_SEQUENCE: &str = "\0";

/// The longest name of a tenant, and the longest key, in bytes.
const MOST_NAME: usize = 255;
/// Of what is wrong with a message, how many characters are told.
const MOST_TOLD: usize = 300;

/// The task that moves messages.
pub struct Ingest {
    pub names: Arc<Names>,
    pub view: Arc<View>,
    pub requests: Arc<Requests>,
    pub bounds: Bounds,
    pub limits: PublishLimits,
    pub malformed: Throttle,
}

/// A message and what it asks for, or what is wrong with it.
struct Parsed {
    message: jetstream::Message,
    request: Result<Request, String>,
}

impl Ingest {
    /// Moves messages until it is dropped.
    pub async fn run(self) {
        let mut openings = self.view.openings();
        let mut backoff = Backoff::default();
        while let Some(open) = usable(&mut openings).await {
            let trouble = match self.serve(&open, &mut backoff).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            tracing::debug!(%trouble, "what was published into NATS waits");
            backoff.wait().await;
        }
    }

    async fn serve(&self, open: &Open, backoff: &mut Backoff) -> Result<Infallible, Trouble> {
        let stream = open_ingest(&open.session, &self.names, self.bounds).await?;
        let mut idle = Idle::default();
        let (name, mut queue) = loop {
            if open.session.is_lost() {
                return Err(Trouble::Cut);
            }
            match consume(open, &stream).await? {
                Some(consumer) => break consumer,
                // Another node moves them.
                None => {
                    idle.look_at(&stream).await?;
                    tokio::time::sleep(TRY_AFTER).await;
                }
            }
        };
        let created = created_at(stream.cached_info());
        let moved = tokio::select! {
            moved = self.move_forever(open, &created, &mut queue, backoff) => moved,
            () = open.session.lost() => Err(Trouble::Cut),
        };
        // The next one is given all that is there from the beginning.
        let _ = stream.delete_consumer(&name).await;
        moved
    }

    async fn move_forever(
        &self,
        open: &Open,
        created: &str,
        queue: &mut Subscriber,
        backoff: &mut Backoff,
    ) -> Result<Infallible, Trouble> {
        loop {
            let page = page(queue).await?;
            let parsed = page.into_iter().filter(|message| message.status.is_none());
            let parsed: Vec<Parsed> = parsed
                .map(|message| self.parse(open, created, message))
                .collect();
            self.move_all(parsed).await?;
            backoff.reset();
        }
    }

    fn parse(&self, open: &Open, created: &str, message: Message) -> Parsed {
        let message = jetstream::Message {
            message,
            context: open.session.jetstream.clone(),
        };
        let request = self.request(&message, created);
        Parsed { message, request }
    }

    /// # Errors
    /// What is wrong with the message.
    fn request(&self, message: &jetstream::Message, created: &str) -> Result<Request, String> {
        let info = message.info().map_err(|error| error.to_string())?;
        let Asked { body, tenant, key } = asked(&message.payload)?;
        let told = |refusal: Refusal| refusal.message.into_owned();
        let request = PublishRequest::from_body(body.as_bytes()).map_err(told)?;
        let fingerprint = request.fingerprint();
        let publisher = Publisher {
            subject: SUBJECT,
            tenant: &tenant,
            trusted: true,
            trace_id: None,
        };
        let drafts = request.into_drafts(publisher, self.limits).map_err(told)?;
        let key = match key {
            Some(key) => IdempotencyKey::new(&tenant, SUBJECT, &key, fingerprint),
            None => {
                let sequence = format!("{created} {}", info.stream_sequence);
                IdempotencyKey::new(&tenant, BY_SEQUENCE, &sequence, fingerprint)
            }
        };
        let mut request = Request::new(&drafts, Some(key));
        request.is_moved = true;
        Ok(request)
    }

    /// # Errors
    /// Where one of them could not be moved: it has to come again, and those behind it too.
    async fn move_all(&self, parsed: Vec<Parsed>) -> Result<(), Trouble> {
        let mut moving = Vec::with_capacity(parsed.len());
        for Parsed { message, request } in parsed {
            match request {
                // They get in line here, in this order.
                Ok(request) => {
                    let answer = self.requests.append(request, &self.view.health);
                    moving.push(answer.map(|answer| (message, answer)));
                }
                Err(problem) => self.drop_message(&message, &problem).await?,
            }
        }
        for (message, answer) in join_all(moving).await {
            match answer {
                Ok(_) => message.ack().await.map_err(|_| Trouble::Cut)?,
                // It would be the same the next time.
                Err(error @ (EngineError::Conflict | EngineError::TooLarge(_))) => {
                    self.drop_message(&message, &error.to_string()).await?;
                }
                Err(_) => return Err(Trouble::Stale),
            }
        }
        Ok(())
    }

    /// Nobody can be told but the operator, and it would come again for ever.
    async fn drop_message(
        &self,
        message: &jetstream::Message,
        problem: &str,
    ) -> Result<(), Trouble> {
        self.view.health.foreign.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.malformed.pass() {
            let problem: String = problem.chars().take(MOST_TOLD).collect();
            tracing::warn!(problem, held_back, "dropped what was published into NATS");
        }
        let dropped = message.ack_with(AckKind::Term).await;
        dropped.map_err(|_| Trouble::Cut)
    }
}

/// A consumer of another node that takes nothing, though something is there: the node is cut off or
/// stopped, and its server has not noticed.
#[derive(Default)]
struct Idle {
    /// How far it had come, and since when.
    stands: Option<(String, u64, Instant)>,
}

impl Idle {
    /// Removes the consumer where it has stood still for long. What it has moved meanwhile is known.
    async fn look_at(&mut self, stream: &Stream) -> Result<(), Trouble> {
        let Some(there) = stream.consumers().next().await else {
            self.stands = None;
            return Ok(());
        };
        let there =
            there.map_err(|error| Trouble::asked("who moves what was published", &error))?;
        if there.num_pending == 0 && there.num_ack_pending == 0 {
            self.stands = None;
            return Ok(());
        }
        let floor = there.ack_floor.stream_sequence;
        match &self.stands {
            Some((name, before, since)) if *name == there.name && *before == floor => {
                if since.elapsed() >= IDLE_FOR {
                    tracing::warn!("another node does not move what was published into NATS");
                    self.stands = None;
                    let _ = stream.delete_consumer(&there.name).await;
                }
            }
            _ => self.stands = Some((there.name, floor, Instant::now())),
        }
        Ok(())
    }
}

/// The consumer of the queue and what comes by it; `None` where another node has it.
async fn consume(open: &Open, stream: &Stream) -> Result<Option<(String, Subscriber)>, Trouble> {
    let client = &open.session.client;
    let inbox = client.new_inbox();
    let subscriber = client.subscribe(inbox.clone()).await;
    let subscriber = subscriber.map_err(|_| Trouble::Cut)?;
    let config = push::Config {
        deliver_subject: inbox,
        ack_policy: AckPolicy::Explicit,
        ack_wait: AGAIN_AFTER,
        max_ack_pending: PENDING,
        idle_heartbeat: TRY_AFTER,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: GONE_AFTER,
        ..push::Config::default()
    };
    match stream.create_consumer(config).await {
        Ok(consumer) => Ok(Some((consumer.cached_info().name.clone(), subscriber))),
        Err(error) => {
            tracing::debug!(%error, "another node moves what was published into NATS");
            Ok(None)
        }
    }
}

/// What has come.
async fn page(queue: &mut Subscriber) -> Result<Vec<Message>, Trouble> {
    let patience = 4 * TRY_AFTER;
    let first = tokio::time::timeout(patience, queue.next()).await;
    let first = first.map_err(|_| Trouble::Silent(patience))?;
    let mut page = vec![first.ok_or(Trouble::Cut)?];
    while page.len() < PAGE
        && let Some(Some(next)) = queue.next().now_or_never()
    {
        page.push(next);
    }
    Ok(page)
}

/// What a message asks for.
struct Asked {
    /// As the body of a `POST /publish`.
    body: String,
    tenant: Tenant,
    key: Option<String>,
}

fn asked(payload: &[u8]) -> Result<Asked, String> {
    let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(payload)
        .map_err(|error| format!("it is not the JSON object of an event: {error}"))?;
    let (mut tenant, mut key) = (Tenant::none(), None);
    let mut body = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        match name.as_str() {
            "tenant" => tenant = Tenant::named(&text(&name, value)?),
            "key" => key = Some(text(&name, value)?),
            _ => body.push(format!("{}:{}", serde_json::Value::from(name), value.get())),
        }
    }
    Ok(Asked {
        body: format!("{{{}}}", body.join(",")),
        tenant,
        key,
    })
}

/// As names in tokens and keys in requests are.
fn text(name: &str, value: &RawValue) -> Result<String, String> {
    let text: Option<String> = serde_json::from_str(value.get()).ok();
    let fits = |text: &String| {
        (1..=MOST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    text.filter(fits)
        .ok_or_else(|| format!("`{name}` takes 1 to {MOST_NAME} bytes without control characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_and_key_stand_beside_the_body_of_a_publish() {
        let payload = br#"{"topic":"a:\"b","data":[1.50, {}],"tenant":"t","key":"k"}"#;
        let asked = asked(payload).unwrap();
        assert_eq!(asked.body, r#"{"data":[1.50, {}],"topic":"a:\"b"}"#);
        assert_eq!(asked.tenant, Tenant::named("t"));
        assert_eq!(asked.key.as_deref(), Some("k"));
    }

    #[test]
    fn what_is_no_event_is_told() {
        for payload in [
            &b"[]"[..],
            b"{",
            b"\xff",
            br#"{"tenant":""}"#,
            br#"{"key":1}"#,
        ] {
            assert!(asked(payload).is_err(), "{payload:?}");
        }
    }
}
