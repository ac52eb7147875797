//! `POST /publish` (protocol, section 7), and what it shares with `publish` on `/ws`.

use std::{
    future::{Future, ready},
    rc::Rc,
    sync::Arc,
};

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{FutureExt, future::Either};
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
    limits::SubjectState,
    metrics::Way,
    protocol::{ErrorCode, PublishRequest, Publisher, Refusal, TraceParent},
    telemetry::PublishSpan,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<&'static str>,
}

pub async fn publish(
    request: HttpRequest,
    payload: web::Payload,
    Here(worker): Here,
) -> Result<HttpResponse, Refusal> {
    charge(&request, &worker)?;
    let client = credentials::require(&request, &worker).await?;
    let body = read_body(&request, payload, worker.shared.settings.publish_bytes).await?;
    let publish = PublishRequest::from_body(&body)?;
    let is_batch = publish.is_batch;
    let subject = worker.shared.limits.subjects.state(&client.identity)?;
    let prepared = prepare(
        &worker,
        (&client.identity, &subject),
        publish,
        header_text(&request, "idempotency-key")?,
        traceparent(&request),
    )?;
    let publisher = (client.identity, subject);
    let appended = append(&worker, publisher, prepared, Way::Http).await?;
    let mut ids = appended.ids();
    let answer = Published {
        id: (!is_batch).then(|| ids.next()).flatten(),
        ids: is_batch.then(|| ids.collect()),
        duplicate: appended.duplicate,
        durability: worker.shard.bus().durability(),
    };
    Ok(HttpResponse::Ok().json(answer))
}

/// A publish that only has to be appended.
pub struct Prepared {
    drafts: Vec<Draft>,
    key: Option<IdempotencyKey>,
    span: Option<PublishSpan>,
}

/// Checks fields and grants, and takes the events from the subject's budget.
///
/// # Errors
/// `forbidden`, `bad_request`, `bad_topic`, `too_large` or `rate_limited`, and what
/// [`Worker::refuse_ended`] says.
pub fn prepare(
    worker: &Worker,
    (identity, subject): (&Identity, &SubjectState),
    request: PublishRequest<'_>,
    key: Option<&str>,
    parent: Option<TraceParent<'_>>,
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
        trace_id: parent.map(|parent| parent.trace_id),
    };
    let mut drafts = request.into_drafts(publisher, worker.shared.settings.publish)?;
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
    let limits = &worker.shared.limits.subjects;
    limits.take_publish(subject, identity, drafts.len())?;
    let span = trace(worker, parent.as_ref(), &mut drafts);
    Ok(Prepared { drafts, key, span })
}

/// Begins the publish's span, and lets its events carry it to their deliveries.
fn trace(
    worker: &Worker,
    parent: Option<&TraceParent<'_>>,
    drafts: &mut [Draft],
) -> Option<PublishSpan> {
    let telemetry = worker.shared.telemetry.as_ref()?;
    let topic = drafts.first()?.topic.as_str();
    let span = telemetry.publish(parent, topic, drafts.len());
    let context = span.context();
    for draft in drafts {
        draft.trace.clone_from(&context);
    }
    Some(span)
}

/// Appends what was prepared, in the order of these calls, and tells numbers and log of it, whether
/// the answer is waited for or not. What the log did not take, or had taken before under the same
/// key, costs the subject nothing: a publish that is repeated on another transport is paid for once.
///
/// # Errors
/// As [`Bus::publish`](crate::bus::Bus::publish).
pub fn append(
    worker: &Rc<Worker>,
    (identity, subject): (Arc<Identity>, Arc<SubjectState>),
    prepared: Prepared,
    way: Way,
) -> impl Future<Output = Result<Appended, Refusal>> + 'static {
    let told = tracing::enabled!(tracing::Level::DEBUG).then(|| {
        let drafts = prepared.drafts.iter();
        drafts
            .map(|draft| (draft.topic.clone(), draft.trace_id.clone()))
            .collect::<Vec<_>>()
    });
    let events = u32::try_from(prepared.drafts.len()).unwrap_or(u32::MAX);
    let appending = worker.shard.bus().publish(prepared.drafts, prepared.key);
    let worker = Rc::clone(worker);
    let mut told_of = Box::pin(async move {
        let appended = appending.await;
        if !appended.as_ref().is_ok_and(|appended| !appended.duplicate) {
            subject.give_back_publish(events);
        }
        if let Some(span) = prepared.span {
            span.finish(appended.as_ref());
        }
        let appended = appended?;
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
    });
    if let Some(appended) = (&mut told_of).now_or_never() {
        return Either::Left(ready(appended));
    }
    // A task, for the client may leave before the log has answered.
    let told_of = actix_web::rt::spawn(told_of);
    Either::Right(async {
        told_of
            .await
            .unwrap_or_else(|_| Err(Refusal::unavailable("the gateway is stopping")))
    })
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

/// Whose trace the request belongs to.
fn traceparent(request: &HttpRequest) -> Option<TraceParent<'_>> {
    TraceParent::parse(request.headers().get("traceparent")?.to_str().ok()?)
}
