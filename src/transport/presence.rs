//! `GET /presence` (protocol, section 11), and what it shares with `presence` on `/ws`: who is on a topic.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    credentials,
    http::charge,
    worker::{Here, Worker},
};
use crate::{
    auth::Identity,
    presence::PREFIX,
    protocol::{ErrorCode, PresenceAnswer, PresenceMember, PresenceRequest, Refusal},
    topic::{Topic, TopicFilter},
};

/// Members in one answer.
const DEFAULT_MEMBERS: usize = 100;
const MOST_MEMBERS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    topic: String,
    #[serde(default)]
    limit: Option<String>,
    #[serde(default)]
    after: Option<String>,
    #[serde(default, rename = "token", alias = "access_token")]
    _token: IgnoredAny,
    #[serde(default, rename = "ticket")]
    _ticket: IgnoredAny,
}

pub async fn tell(request: HttpRequest, Here(worker): Here) -> Result<HttpResponse, Refusal> {
    charge(&request, &worker)?;
    let client = credentials::require(&request, &worker).await?;
    let asked = web::Query::<Parameters>::from_query(request.query_string())
        .map_err(|error| Refusal::bad_request(error.to_string()))?
        .into_inner();
    let limit = asked
        .limit
        .map(|limit| limit.parse().map_err(|_| bad_limit()));
    let asked = PresenceRequest {
        topic: asked.topic,
        limit: limit.transpose()?,
        after: asked.after,
    };
    let answer = answer(&worker, &client.identity, &asked)?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(answer))
}

fn bad_limit() -> Refusal {
    Refusal::bad_request(format!("`limit` must be a number from 1 to {MOST_MEMBERS}"))
}

/// Lists a part of those on a topic.
///
/// # Errors
/// `bad_topic`, `bad_request` where it is not known who is on it, and `forbidden` without a grant for the
/// topic of its announcements.
pub fn answer(
    worker: &Worker,
    identity: &Identity,
    asked: &PresenceRequest,
) -> Result<PresenceAnswer, Refusal> {
    let limit = asked.limit.unwrap_or(DEFAULT_MEMBERS);
    if !(1..=MOST_MEMBERS).contains(&limit) {
        return Err(bad_limit());
    }
    let topic = Topic::parse(&asked.topic)?;
    let announcements = format!("{PREFIX}{topic}");
    let is_granted = TopicFilter::parse(&announcements)
        .is_ok_and(|announcements| identity.may_subscribe(&announcements));
    if !is_granted {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            format!("the token's `subscribe` grants do not cover {announcements:?}"),
        ));
    }
    let presence = worker.shared.presence.as_ref();
    let Some(presence) = presence.filter(|presence| presence.covers(&topic)) else {
        return Err(Refusal::bad_request(format!(
            "who is on {:?} is not kept: the operator has to name it in presence.topics",
            topic.as_str()
        )));
    };
    // Before the list is made, so that all that was announced up to it is in the list.
    let bus = worker.shard.bus();
    let cursor = bus.cursor(bus.window().head());
    let after = asked.after.as_deref();
    let (members, count) = presence.list(&identity.tenant, &topic, after, limit);
    let next = members
        .last()
        .filter(|_| members.len() == limit)
        .map(|last| last.subject.as_ref().into());
    Ok(PresenceAnswer {
        topic: topic.as_str().into(),
        count,
        members: members
            .into_iter()
            .map(|member| PresenceMember {
                user_id: member.subject,
                connections: member.connections,
            })
            .collect(),
        next,
        cursor,
    })
}
