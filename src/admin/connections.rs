//! `GET /admin/connections`: who is connected, how, and how far behind.

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Operator, json, pages, parameters, refuse_pages, tenant_named};
use crate::{
    bus::{ConnectionPage, ConnectionQuery, ConnectionRow, ShardCommand},
    protocol::{ConnectionId, Refusal, Transport},
    topic::TopicFilter,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    subject: Option<Box<str>>,
    /// Empty for those without a tenant.
    tenant: Option<String>,
    transport: Option<String>,
    topic: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    /// All connections, whatever was asked for.
    totals: Totals,
    /// Those asked for, on all pages.
    matching: u64,
    connections: Vec<Entry>,
    /// What to give as `after` for the next page.
    next: Option<String>,
}

#[derive(Default, Serialize)]
struct Totals {
    ws: u64,
    sse: u64,
    poll: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    id: String,
    subject: Arc<str>,
    tenant: Option<String>,
    transport: &'static str,
    address: Option<String>,
    since: String,
    position: u64,
    /// Events of the log, of any topic, that it has not been served.
    lag: u64,
    /// Else it reads from the log.
    live: bool,
    topics: Topics,
    mailbox: Mailbox,
}

#[derive(Serialize)]
struct Topics {
    count: usize,
    first: Vec<String>,
}

/// What waits to be written.
#[derive(Serialize)]
struct Mailbox {
    events: usize,
    bytes: usize,
}

pub(super) async fn list(
    request: HttpRequest,
    operator: web::Data<Operator>,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request, &operator)?;
    let query = Arc::new(query(parameters(&request)?)?);
    let pages = operator
        .list(|reply| ShardCommand::ListConnections(Arc::clone(&query), reply))
        .await?;
    let head = operator.bus.window().head();
    Ok(json(&Body::of(pages, query.most, head)))
}

fn query(asked: Parameters) -> Result<ConnectionQuery, Refusal> {
    let transport = |name: String| {
        Transport::named(&name)
            .ok_or_else(|| Refusal::bad_request("`transport` must be ws, sse or poll"))
    };
    let after = |id: String| {
        id.parse::<ConnectionId>()
            .map_err(|error| Refusal::bad_request(format!("`after`: {error}")))
    };
    Ok(ConnectionQuery {
        subject: asked.subject,
        tenant: asked.tenant.as_deref().map(tenant_named),
        transport: asked.transport.map(transport).transpose()?,
        topic: asked
            .topic
            .map(|topic| TopicFilter::parse(&topic))
            .transpose()?,
        after: asked.after.map(after).transpose()?,
        most: pages::limit(asked.limit)?,
    })
}

impl Body {
    fn of(pages: Vec<ConnectionPage>, limit: usize, head: u64) -> Self {
        let mut totals = Totals::default();
        let mut matching = 0;
        let (mut rows, mut stopped_at) = (Vec::new(), Vec::new());
        for page in pages {
            totals.add(page.totals);
            matching += page.matching;
            rows.extend(page.rows);
            stopped_at.extend(page.stopped_at);
        }
        rows.sort_unstable_by_key(|row| row.id);
        let next = pages::cut(&mut rows, |row| row.id, stopped_at, limit);
        let (at, now) = (Instant::now(), Timestamp::now());
        let entry = |row| Entry::of(row, head, at, now);
        Self {
            totals,
            matching,
            connections: rows.into_iter().map(entry).collect(),
            next: next.map(|id| id.to_string()),
        }
    }
}

impl Totals {
    fn add(&mut self, of_worker: [u64; Transport::ALL.len()]) {
        for (transport, count) in Transport::ALL.into_iter().zip(of_worker) {
            match transport {
                Transport::WebSocket => self.ws += count,
                Transport::Sse => self.sse += count,
                Transport::Poll => self.poll += count,
            }
        }
    }
}

impl Entry {
    fn of(row: ConnectionRow, head: u64, at: Instant, now: Timestamp) -> Self {
        let open_for = at.saturating_duration_since(row.since);
        let since = now.checked_sub(open_for).unwrap_or(now);
        Self {
            id: row.id.to_string(),
            subject: row.subject,
            tenant: row.tenant.as_deref().map(str::to_owned),
            transport: row.peer.transport.as_str(),
            address: row.peer.address.map(|address| address.to_string()),
            since: format!("{since:.3}"),
            position: row.position,
            lag: head.saturating_sub(row.position),
            live: row.is_live,
            topics: Topics {
                count: row.topic_count,
                first: row
                    .topics
                    .iter()
                    .map(|filter| filter.as_str().to_owned())
                    .collect(),
            },
            mailbox: Mailbox {
                events: row.mailbox_events,
                bytes: row.mailbox_bytes,
            },
        }
    }
}
