//! `GET /admin/topics`: what is subscribed, by how many, and what is retained of it.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, web};
use serde::{Deserialize, Serialize};

use super::{Operator, json, pages, parameters, refuse_pages, tenant_named};
use crate::{
    bus::{ShardCommand, TopicRange},
    protocol::Refusal,
    topic::Tenant,
};

/// Topics read from the log while its lock is held.
const LOG_SLICE: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    prefix: Option<String>,
    /// Empty for those without a tenant.
    tenant: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

#[derive(Serialize)]
struct Body {
    topics: Vec<Entry>,
    /// What to give as `after` for the next page.
    next: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    tenant: Option<String>,
    /// A topic, or a filter with wildcards.
    topic: String,
    /// Connections that have subscribed this very topic or filter.
    subscribers: u64,
    /// Events of the topic that clients can resume from; not told for a filter with wildcards.
    #[serde(skip_serializing_if = "Option::is_none")]
    retained: Option<usize>,
}

/// Tenant and text: what entries are sorted by.
type Key = (Tenant, String);

#[derive(Default)]
struct Counts {
    subscribers: u64,
    retained: usize,
}

pub(super) async fn list(
    request: HttpRequest,
    operator: web::Data<Operator>,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request, &operator)?;
    let asked: Parameters = parameters(&request)?;
    let limit = pages::limit(asked.limit)?;
    let range = Arc::new(TopicRange::new(
        asked.tenant.as_deref().map(tenant_named),
        asked.prefix.unwrap_or_default(),
        asked.after.as_deref().map(read_place),
    ));
    let mut found: BTreeMap<Key, Counts> = BTreeMap::new();
    let mut stopped_at = Vec::new();
    let pages = operator
        .list(|reply| ShardCommand::ListTopics(Arc::clone(&range), limit, reply))
        .await?;
    for page in pages {
        let mut last = None;
        for row in page.rows {
            let key = (row.tenant, row.filter.as_str().to_owned());
            last = page.has_more.then(|| key.clone());
            found.entry(key).or_default().subscribers += row.subscribers;
        }
        stopped_at.extend(last);
    }
    stopped_at.extend(add_retained(&operator, &range, limit, &mut found).await);
    let mut entries: Vec<(Key, Counts)> = found.into_iter().collect();
    let next = pages::cut(&mut entries, |(key, _)| key.clone(), stopped_at, limit);
    Ok(json(&Body {
        topics: entries.into_iter().map(Entry::of).collect(),
        next: next.map(|key| write_place(&key)),
    }))
}

/// Adds the first so many topics that have retained events; where there are more, the last of them.
async fn add_retained(
    operator: &Operator,
    range: &TopicRange,
    limit: usize,
    found: &mut BTreeMap<Key, Counts>,
) -> Option<Key> {
    let mut range = range.clone();
    let mut left = limit;
    let mut last = None;
    while left > 0 {
        let asked = left.min(LOG_SLICE);
        let topics = operator.bus.window().topics(&range, asked);
        let is_end = topics.len() < asked;
        left -= topics.len();
        for (tenant, topic, retained) in topics {
            let key = (tenant, topic.as_str().to_owned());
            last = Some(key.clone());
            found.entry(key).or_default().retained = retained;
        }
        if is_end {
            return None;
        }
        range = range.from(last.clone()?);
        tokio::task::yield_now().await;
    }
    last
}

impl Entry {
    fn of(((tenant, topic), counts): (Key, Counts)) -> Self {
        let is_literal = !topic.contains('*');
        Self {
            tenant: tenant.as_deref().map(str::to_owned),
            topic,
            subscribers: counts.subscribers,
            retained: is_literal.then_some(counts.retained),
        }
    }
}

/// A place in the order as one word: the topic, and behind a space, which no topic contains, the
/// tenant, if there is one.
fn write_place((tenant, topic): &Key) -> String {
    match tenant.as_deref() {
        Some(tenant) => format!("{topic} {tenant}"),
        None => topic.clone(),
    }
}

fn read_place(text: &str) -> Key {
    match text.split_once(' ') {
        Some((topic, tenant)) => (Tenant::named(tenant), topic.to_owned()),
        None => (Tenant::none(), text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_as_it_was_written() {
        for key in [
            (Tenant::none(), "order:1".to_owned()),
            (Tenant::named("acme & sons"), "order:*".to_owned()),
        ] {
            assert_eq!(read_place(&write_place(&key)), key);
        }
    }
}
