//! What backends publish straight into Redis: entries of a stream, which are moved to the log.
//!
//! Each node could move them all. The script that appends an entry removes it in the same step, so
//! that none is appended twice, and everyone begins at the head of the stream, so that their order
//! is kept whoever moves them. One node at a time does it, as long as it renews its lease, only to
//! spare the others the work; nothing is wrong where two do.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::Value;
use serde_json::value::RawValue;

use super::{
    Backoff,
    entry::Entry,
    follower::PATIENCE,
    namespace::Namespace,
    reply::strange,
    request::{Answer, Request, Requests},
    server::{Connection, Server, Trouble},
    view::View,
};
use crate::{
    engine::{EngineError, IdempotencyKey},
    protocol::{PublishLimits, PublishRequest, Publisher, Refusal},
    throttle::Throttle,
    topic::Tenant,
};

/// Entries that are moved at a time.
const PAGE: usize = 128;
/// How long Redis holds a question back while there is nothing.
const BLOCK: Duration = Duration::from_secs(1);
/// How long a node that has said nothing keeps the others from moving entries.
const LEASE: Duration = Duration::from_secs(4);
/// The subject of whoever publishes here, in the scope of its idempotency keys. No token has it.
const SUBJECT: &str = "";

/// The longest name of a tenant, and the longest key, in bytes.
const MOST_NAME: usize = 255;
/// Of what is wrong with an entry, how many characters are told.
const MOST_TOLD: usize = 300;

/// The fields of an entry that are JSON; all others are texts.
const JSON: [&str; 3] = ["data", "tags", "ephemeral"];

/// The task that moves entries.
pub struct Ingest {
    pub server: Arc<Server>,
    pub namespace: Arc<Namespace>,
    pub view: Arc<View>,
    pub requests: Arc<Requests>,
    pub limits: PublishLimits,
    /// Of this node.
    pub name: String,
    pub malformed: Throttle,
}

impl Ingest {
    /// Moves entries until it is dropped.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let trouble = match self.serve(&mut backoff).await {
                Ok(never) => match never {},
                Err(trouble) => trouble,
            };
            // Where Redis is not there the others say so.
            if trouble.is_refusal()
                && let Some(held_back) = self.malformed.pass()
            {
                tracing::warn!(%trouble, held_back, "what was published into Redis waits");
            }
            backoff.wait().await;
        }
    }

    async fn serve(&self, backoff: &mut Backoff) -> Result<std::convert::Infallible, Trouble> {
        let mut connection = self.server.connect_for(PATIENCE).await?;
        let mut leased: Option<Instant> = None;
        loop {
            if leased.is_none_or(|since| since.elapsed() >= LEASE / 4) {
                let has_lease = self.renew_lease(&mut connection).await?;
                leased = has_lease.then(Instant::now);
            }
            if leased.is_none() {
                tokio::time::sleep(BLOCK).await;
                continue;
            }
            let entries = self.read(&mut connection).await?;
            backoff.reset();
            if !self.move_all(entries, &mut connection).await? {
                backoff.wait().await;
            }
        }
    }

    /// Whether this node is to move entries.
    async fn renew_lease(&self, connection: &mut Connection) -> Result<bool, Trouble> {
        let lease = &self.namespace.ingest_lease;
        let holder: Option<String> = redis::cmd("GET")
            .arg(lease)
            .query_async(&mut connection.link)
            .await?;
        if holder.is_some_and(|holder| holder != self.name) {
            return Ok(false);
        }
        redis::cmd("SET")
            .arg(lease)
            .arg(&self.name)
            .arg("PX")
            .arg(LEASE.as_millis() as u64)
            .query_async::<()>(&mut connection.link)
            .await?;
        Ok(true)
    }

    /// The oldest entries.
    async fn read(&self, connection: &mut Connection) -> Result<Vec<Entry>, Trouble> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT")
            .arg(PAGE)
            .arg("BLOCK")
            .arg(BLOCK.as_millis() as u64)
            .arg("STREAMS")
            .arg(&self.namespace.ingest)
            .arg("0-0");
        let answer = read.query_async::<Value>(&mut connection.link).await?;
        Entry::of_read(answer).ok_or_else(strange("what XREAD gives"))
    }

    /// Whether all of them are gone from the stream.
    async fn move_all(
        &self,
        entries: Vec<Entry>,
        connection: &mut Connection,
    ) -> Result<bool, Trouble> {
        let mut requests = Vec::with_capacity(entries.len());
        for entry in &entries {
            let id = entry.place.to_string();
            match self.request(entry, &id) {
                Ok(request) => requests.push(request),
                Err(problem) => self.drop_entry(&id, &problem, connection).await?,
            }
        }
        let moving = requests
            .into_iter()
            .map(|request| self.requests.append(request, &self.view.health));
        // They get into the writer's queue in this order.
        let answers: Vec<Answer> = join_all(moving).await;
        let mut is_over = true;
        for answer in answers {
            match answer {
                Ok(_) => {}
                // It is removed, as one that was published before.
                Err(error @ EngineError::Conflict) => self.tell_of_dropped(1, &error.to_string()),
                Err(_) => is_over = false,
            }
        }
        Ok(is_over)
    }

    /// # Errors
    /// What is wrong with the entry.
    fn request(&self, entry: &Entry, id: &str) -> Result<Request, String> {
        let Parsed { body, tenant, key } = parse(entry)?;
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
        let key = key.map(|key| IdempotencyKey::new(&tenant, SUBJECT, &key, fingerprint));
        let mut request = Request::new(&drafts, key);
        request.entry = Some(id.to_owned());
        Ok(request)
    }

    /// Nobody can be told but the operator, and it would come again for ever.
    async fn drop_entry(
        &self,
        id: &str,
        problem: &str,
        connection: &mut Connection,
    ) -> Result<(), Trouble> {
        let mut delete = redis::cmd("XDEL");
        delete.arg(&self.namespace.ingest).arg(id);
        let removed: u64 = delete.query_async(&mut connection.link).await?;
        self.tell_of_dropped(removed, problem);
        Ok(())
    }

    fn tell_of_dropped(&self, count: u64, problem: &str) {
        self.view.health.foreign.fetch_add(count, Ordering::Relaxed);
        if let Some(held_back) = self.malformed.pass() {
            let problem: String = problem.chars().take(MOST_TOLD).collect();
            tracing::warn!(problem, held_back, "dropped what was published into Redis");
        }
    }
}

/// What an entry asks for.
struct Parsed {
    /// As the body of a `POST /publish`.
    body: String,
    tenant: Tenant,
    key: Option<String>,
}

fn parse(entry: &Entry) -> Result<Parsed, String> {
    let (mut tenant, mut key) = (Tenant::none(), None);
    let mut fields = Vec::new();
    for (name, value) in entry.texts().ok_or("its fields are not UTF-8")? {
        match name {
            "tenant" => tenant = Tenant::named(checked(name, value)?),
            "key" => key = Some(checked(name, value)?.to_owned()),
            _ if JSON.contains(&name) => {
                // One value and nothing behind it, or it might be taken for other fields.
                let value: &RawValue = serde_json::from_str(value)
                    .map_err(|error| format!("`{name}` is not JSON: {error}"))?;
                fields.push(format!("{}:{}", quoted(name), value.get()));
            }
            _ => fields.push(format!("{}:{}", quoted(name), quoted(value))),
        }
    }
    Ok(Parsed {
        body: format!("{{{}}}", fields.join(",")),
        tenant,
        key,
    })
}

/// As names in tokens and keys in requests are.
fn checked<'a>(name: &str, value: &'a str) -> Result<&'a str, String> {
    let fits = (1..=MOST_NAME).contains(&value.len()) && !value.chars().any(char::is_control);
    fits.then_some(value)
        .ok_or_else(|| format!("`{name}` takes 1 to {MOST_NAME} bytes without control characters"))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let fields = fields.iter().flat_map(|(name, value)| [*name, *value]);
        let fields = fields.map(|word| Value::BulkString(word.as_bytes().to_vec()));
        let id = Value::BulkString(b"7-0".to_vec());
        let entry = Value::Array(vec![id, Value::Array(fields.collect())]);
        Entry::of_range(Value::Array(vec![entry]))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn fields_become_the_body_of_a_publish() {
        let parsed = parse(&entry(&[
            ("topic", "a:\"b"),
            ("data", "[1.50, {}]"),
            ("tenant", "t"),
            ("key", "k"),
        ]));
        let parsed = parsed.unwrap();
        assert_eq!(parsed.body, r#"{"topic":"a:\"b","data":[1.50, {}]}"#);
        assert_eq!(parsed.tenant, Tenant::named("t"));
        assert_eq!(parsed.key.as_deref(), Some("k"));
    }

    #[test]
    fn no_field_slips_in_behind_data() {
        for data in ["1,\"topic\":\"b\"", "1}", "", "{"] {
            let parsed = parse(&entry(&[("topic", "a"), ("data", data)]));
            assert!(parsed.is_err_and(|told| told.contains("data")), "{data}");
        }
    }
}
