//! `POST /ticket` (protocol, section 3): a short-lived credential that may stand in a URL.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Deserialize;

use super::{
    credentials,
    http::{charge, read_body},
    worker::Here,
};
use crate::{
    auth::{IssueError, TicketUse},
    protocol::{ErrorCode, LimitKind, Refusal, decode_object},
};

/// The body holds one short field.
const MAX_BODY_BYTES: usize = 1024;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TicketRequest {
    #[serde(default, rename = "use")]
    purpose: Option<String>,
}

pub async fn issue(
    request: HttpRequest,
    payload: web::Payload,
    Here(worker): Here,
) -> Result<HttpResponse, Refusal> {
    charge(&request, &worker)?;
    let client = credentials::require(&request, &worker).await?;
    let body = read_body(&request, payload, MAX_BODY_BYTES).await?;
    let purpose = purpose(&body)?;
    worker.refuse_ended(&client.identity)?;
    let issued = worker.shared.cluster.issue_ticket(client.identity, purpose);
    let ticket = issued.await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(serde_json::json!({
            "ticket": ticket.text,
            "expiresAt": format!("{:.3}", ticket.expires_at),
        })))
}

impl From<IssueError> for Refusal {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::TooMany => {
                // Tickets end within half a minute, one by one.
                Self::new(ErrorCode::RateLimited, error.to_string())
                    .over(LimitKind::Tickets)
                    .retry_after(Duration::from_secs(1))
            }
            IssueError::Full => Self::unavailable(error.to_string()).over(LimitKind::Tickets),
            IssueError::Randomness => Self::unavailable(error.to_string()),
        }
    }
}

fn purpose(body: &[u8]) -> Result<TicketUse, Refusal> {
    let request: TicketRequest = if body.iter().all(u8::is_ascii_whitespace) {
        TicketRequest::default()
    } else {
        decode_object(body)?
    };
    match request.purpose.as_deref() {
        None | Some("once") => Ok(TicketUse::Once),
        Some("stream") => Ok(TicketUse::Stream),
        Some(_) => Err(Refusal::bad_request(
            "`use` must be \"stream\", or left out for a ticket that is used once",
        )),
    }
}
