//! `GET /metrics`: Prometheus.

use std::{sync::atomic::Ordering, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use jiff::Timestamp;

use super::{Operator, Phase, refuse_pages};
use crate::{
    bus::ShardCommand,
    metrics::{CONTENT_TYPE, LagByTransport, NodeState},
    protocol::{ErrorCode, Refusal},
};

/// How long workers may take to tell their sessions' lag. A scrape must come also from a node that
/// is overloaded, then above all.
const LAG_DEADLINE: Duration = Duration::from_secs(1);

pub(super) async fn metrics(
    request: HttpRequest,
    operator: web::Data<Operator>,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request, &operator)?;
    // The semaphore is never closed.
    let _turn = operator.scraping.acquire().await;
    let state = node_state(&operator).await;
    let text = operator
        .shared
        .metrics
        .expose(state)
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, CONTENT_TYPE))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text))
}

async fn node_state(operator: &Operator) -> NodeState {
    let told = operator.bus.ask(LAG_DEADLINE, ShardCommand::TellLag).await;
    let mut lag = LagByTransport::default();
    for of_worker in &told.answers {
        lag.merge(of_worker);
    }
    let (shared, now) = (&operator.shared, Timestamp::now());
    let log = operator.bus.window().extent();
    NodeState {
        ready: operator.readiness.phase() == Phase::Ready,
        places_taken: shared.connections.load(Ordering::Relaxed),
        head: log.head,
        retained_events: log.events,
        retained_bytes: log.bytes,
        retained_bytes_in_memory: log.bytes_in_memory,
        engine: operator.bus.engine_condition(),
        lag,
        silent_workers: told.silent,
        tickets: shared.tickets.outstanding(now),
        revocations: shared.revocations.in_force(now),
        idempotency_keys: operator.bus.remembered_keys(),
    }
}
