//! `POST /publish` (protocol, section 7), and what it shares with `publish` on `/ws`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;

use super::{
    credentials,
    http::{charge, read_body},
    worker::{Here, Worker},
};
use crate::{
    auth::Identity,
    engine::{Appended, IdempotencyKey},
    event::Draft,
    metrics::Way,
    protocol::{ErrorCode, PublishRequest, Publisher, Refusal},
};

const MAX_KEY_BYTES: usize = 255;

#[derive(Serialize)]
struct Published {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

pub async fn publish(
    request: HttpRequest,
    payload: web::Payload,
    Here(worker): Here,
) -> Result<HttpResponse, Refusal> {
    charge(&request)?;
    let client = credentials::require(&request, &worker)?;
    let body = read_body(&request, payload, worker.shared.settings.publish_bytes).await?;
    let publish = PublishRequest::from_body(&body)?;
    let is_batch = publish.is_batch;
    let prepared = prepare(
        &worker,
        &client.identity,
        publish,
        header_text(&request, "idempotency-key")?,
        trace_id(&request),
    )?;
    let appended = append(&worker, &client.identity, prepared, Way::Http).await?;
    let mut ids = appended.ids();
    let answer = Published {
        id: (!is_batch).then(|| ids.next()).flatten(),
        ids: is_batch.then(|| ids.collect()),
        duplicate: appended.duplicate,
    };
    Ok(HttpResponse::Ok().json(answer))
}

/// A publish that only has to be appended.
pub struct Prepared {
    pub drafts: Vec<Draft>,
    pub key: Option<IdempotencyKey>,
}

/// Checks fields and grants.
///
/// # Errors
/// `forbidden`, `bad_request`, `bad_topic` or `too_large`, and what [`Worker::refuse_ended`] says.
pub fn prepare(
    worker: &Worker,
    identity: &Identity,
    request: PublishRequest<'_>,
    key: Option<&str>,
    trace_id: Option<&str>,
) -> Result<Prepared, Refusal> {
    worker.refuse_ended(identity)?;
    let key = match key {
        None => None,
        Some(key) => {
            check_key(key)?;
            let fingerprint = request.fingerprint();
            let (tenant, subject) = (&identity.tenant, &identity.subject);
            Some(IdempotencyKey::new(tenant, subject, key, fingerprint))
        }
    };
    let publisher = Publisher {
        subject: &identity.subject,
        tenant: &identity.tenant,
        trusted: identity.trusted,
        trace_id,
    };
    let drafts = request.into_drafts(publisher, worker.shared.settings.publish)?;
    for draft in &drafts {
        if !identity.may_publish(draft.topic.as_str()) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                format!(
                    "the token's `publish` grants do not cover {:?}",
                    draft.topic.as_str()
                ),
            ));
        }
    }
    Ok(Prepared { drafts, key })
}

/// Appends what was prepared, and takes note of it.
///
/// # Errors
/// `conflict` or `unavailable`.
pub async fn append(
    worker: &Worker,
    identity: &Identity,
    prepared: Prepared,
    way: Way,
) -> Result<Appended, Refusal> {
    let told = tracing::enabled!(tracing::Level::DEBUG).then(|| {
        let drafts = prepared.drafts.iter();
        drafts
            .map(|draft| (draft.topic.clone(), draft.trace_id.clone()))
            .collect::<Vec<_>>()
    });
    let appended = worker
        .shard
        .bus()
        .publish(prepared.drafts, prepared.key)
        .await?;
    let metrics = worker.metrics();
    metrics.published(way, appended.count, appended.duplicate);
    for ((topic, trace_id), offset) in told.into_iter().flatten().zip(0..) {
        tracing::debug!(
            subject = &*identity.subject,
            tenant = identity.tenant.as_deref(),
            topic = topic.as_str(),
            sequence = appended.first.sequence + offset,
            trace_id = trace_id.as_deref(),
            duplicate = appended.duplicate,
            "publish accepted"
        );
    }
    Ok(appended)
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(Refusal::bad_request(format!(
            "an idempotency key takes 1 to {MAX_KEY_BYTES} bytes"
        )));
    }
    Ok(())
}

fn header_text<'a>(request: &'a HttpRequest, name: &str) -> Result<Option<&'a str>, Refusal> {
    match request.headers().get(name) {
        None => Ok(None),
        Some(value) => value
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::bad_request(format!("the {name} header is not text"))),
    }
}

/// The trace id of a `traceparent` header (W3C Trace Context, section 3.2); a malformed header
/// is ignored, as that text says.
fn trace_id(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("traceparent")?.to_str().ok()?;
    let mut parts = header.trim().split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let (span_id, flags) = (parts.next()?, parts.next()?);
    let is_hex = |text: &str, len| {
        text.len() == len
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let well_formed = is_hex(version, 2)
        && version != "ff"
        && is_hex(trace_id, 32)
        && is_hex(span_id, 16)
        && is_hex(flags, 2)
        && (version != "00" || parts.next().is_none())
        && [trace_id, span_id]
            .iter()
            .all(|id| id.bytes().any(|byte| byte != b'0'));
    well_formed.then_some(trace_id)
}
