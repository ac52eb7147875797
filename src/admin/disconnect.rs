//! `POST /admin/disconnect`: ends a client's access before its token does.

use std::{sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Operator, json, refuse_pages, tenant_named};
use crate::{
    auth::{Revocation, Whose, name_problem},
    config::Span,
    protocol::{Refusal, decode_object},
    topic::Tenant,
    transport::read_body,
};

/// Tokens are refused for at least this long where the operator does not say.
const REVOKED_FOR: SignedDuration = SignedDuration::from_hours(24);
/// The body names one client.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long the answer waits for workers to tell what they ended. They end it all the same.
const COUNT_DEADLINE: Duration = Duration::from_secs(5);

/// Whose access ends: a subject (of a tenant), or one token by its `jti`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disconnect {
    #[serde(default)]
    sub: Option<Arc<str>>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    jti: Option<Arc<str>>,
    /// RFC 3339.
    #[serde(default)]
    until: Option<String>,
    #[serde(default, rename = "for")]
    span: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Disconnected {
    /// Connections that were ended.
    disconnected: u64,
    refused_until: String,
    /// Workers too busy to tell in time how many connections they end.
    #[serde(skip_serializing_if = "is_zero")]
    silent_workers: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Ends the connections of a subject or a token, and refuses its tokens from now on.
pub(super) async fn disconnect(
    request: HttpRequest,
    operator: web::Data<Operator>,
    payload: web::Payload,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request, &operator)?;
    let body = read_body(&request, payload, MAX_BODY_BYTES).await?;
    let asked: Disconnect = decode_object(&body)?;
    let now = Timestamp::now();
    let whose = asked.whose()?;
    let explicit = asked.until(now)?;
    let mut revocation = Revocation {
        whose: whose.clone(),
        until: explicit.unwrap_or_else(|| after(now, REVOKED_FOR)),
        to_its_end: explicit.is_none(),
    };
    // First of all nobody comes in any more; what comes to light by ending may prolong it.
    revocation.until = revoke(&operator, &revocation, now)?;
    let told = operator.bus.end_sessions(&whose, COUNT_DEADLINE).await;
    let ended = told.total();
    if let (None, Some(tokens_until)) = (explicit, ended.tokens_until) {
        revocation.until = revocation.until.max(tokens_until);
        revocation.until = revoke(&operator, &revocation, now)?;
    }
    let until = revocation.until;
    operator.shared.cluster.tell_revocation(&revocation).await?;
    tracing::info!(
        subject = whose.subject.as_deref(),
        tenant = whose.tenant.as_deref(),
        jti = whose.token_id.as_deref(),
        disconnected = ended.sessions,
        %until,
        "access was revoked"
    );
    Ok(json(&Disconnected {
        disconnected: ended.sessions,
        refused_until: format!("{until:.3}"),
        silent_workers: told.silent,
    }))
}

fn after(now: Timestamp, span: SignedDuration) -> Timestamp {
    now.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// Puts a revocation in force; until when it is.
fn revoke(
    operator: &Operator,
    revocation: &Revocation,
    now: Timestamp,
) -> Result<Timestamp, Refusal> {
    let revoked = operator.shared.revocations.revoke(revocation, now);
    revoked.map_err(|error| Refusal::unavailable(error.to_string()))
}

impl Disconnect {
    fn whose(&self) -> Result<Whose, Refusal> {
        for (field, name) in [
            ("sub", self.sub.as_deref()),
            ("tenant", self.tenant.as_deref()),
            ("jti", self.jti.as_deref()),
        ] {
            if let Some(problem) = name.and_then(name_problem) {
                return Err(Refusal::bad_request(format!(
                    "`{field}`: {problem}, so no token has it"
                )));
            }
        }
        if self.sub.is_some() == self.jti.is_some() {
            return Err(Refusal::bad_request(
                "give either `sub`, with `tenant` where there is one, or `jti`",
            ));
        }
        Ok(Whose {
            tenant: match &self.tenant {
                Some(name) => tenant_named(name),
                None => Tenant::none(),
            },
            subject: self.sub.clone(),
            token_id: self.jti.clone(),
        })
    }

    /// Until when tokens are refused, where the operator says.
    fn until(&self, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
        let until = match (&self.until, &self.span) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request("give either `until` or `for`"));
            }
            (Some(until), None) => until.parse().map_err(|_| {
                Refusal::bad_request(
                    "`until` is not a time of RFC 3339, such as 2026-01-25T10:30:00Z",
                )
            })?,
            (None, Some(span)) => {
                let span: Span = span
                    .parse()
                    .map_err(|problem| Refusal::bad_request(format!("`for`: {problem}")))?;
                let span = SignedDuration::try_from(span.0).unwrap_or(SignedDuration::MAX);
                after(now, span)
            }
        };
        if until <= now {
            return Err(Refusal::bad_request(
                "tokens would be refused until a time that has passed",
            ));
        }
        Ok(Some(until))
    }
}
