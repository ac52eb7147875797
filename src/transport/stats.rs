//! `GET /stats` (protocol, section 10): what the node counts, for whoever watches it in a browser.
//!
//! Sums since the start, so that nothing is kept for those who ask. They are of the whole node,
//! whatever the tenant, which is why a token has to say that its owner may see them.

use actix_web::{HttpRequest, HttpResponse, http::header};
use jiff::Timestamp;
use serde::Serialize;

use super::{credentials, http::charge, worker::Here};
use crate::{
    auth::Identity,
    metrics::{BUCKETS, ByTransport, bounds},
    protocol::{ErrorCode, Query, Refusal},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    timestamp: String,
    started_at: String,
    connections: ByTransport<u64>,
    published: u64,
    delivered: ByTransport<u64>,
    resets: ByTransport<u64>,
    latency: Latency,
    retained: Retained,
    cursor: String,
}

#[derive(Serialize)]
struct Latency {
    /// In seconds.
    bounds: [f64; BUCKETS - 1],
    counts: ByTransport<[u64; BUCKETS]>,
}

#[derive(Serialize)]
struct Retained {
    events: usize,
    bytes: usize,
}

pub async fn tell(request: HttpRequest, Here(worker): Here) -> Result<HttpResponse, Refusal> {
    charge(&request, &worker)?;
    let client = credentials::require(&request, &worker).await?;
    refuse_unless_granted(&client.identity)?;
    // Whoever asks for the numbers of one tenant must not take those of the node for them.
    Query::parse(request.query_string())?;
    let totals = worker.shared.metrics.totals();
    let bus = worker.shard.bus();
    let log = bus.window().extent();
    let stats = Stats {
        node: worker.shared.settings.node.as_deref(),
        timestamp: format!("{:.3}", Timestamp::now()),
        started_at: format!("{:.3}", totals.started),
        connections: totals.open,
        published: totals.published,
        delivered: totals.delivered,
        resets: totals.resets,
        latency: Latency {
            bounds: bounds(),
            counts: totals.latency,
        },
        retained: Retained {
            events: log.events,
            bytes: log.bytes,
        },
        cursor: bus.cursor(log.head),
    };
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(stats))
}

fn refuse_unless_granted(identity: &Identity) -> Result<(), Refusal> {
    if identity.stats {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::Forbidden,
        "these numbers are of the whole node: only a token with the claim `\"stats\": true` may \
         see them",
    ))
}
