//! Who asks: the first credential present, in the protocol's order (section 3).

use std::sync::Arc;

use actix_web::{
    HttpRequest,
    http::{Method, header},
};
use jiff::Timestamp;

use super::{client_address::client_address, origin::Origin, worker::Worker};
use crate::{
    auth::{AuthError, Identity, Redeem, StreamClaim, TicketError},
    metrics::Credential,
    protocol::{ErrorCode, Query, Refusal},
};

/// An authenticated client.
#[derive(Debug)]
pub struct Client {
    pub identity: Arc<Identity>,
    /// For a stream ticket.
    pub claim: Option<StreamClaim>,
}

/// What came of looking for a credential.
#[derive(Debug)]
pub enum Authentication {
    Client(Client),
    /// None at all, or only a cookie that is no good.
    None,
    Refused(Refusal),
}

/// Authenticates a request by its header, its query or its cookie.
pub fn authenticate(request: &HttpRequest, worker: &Worker) -> Authentication {
    let failed = |credential, refusal: &Refusal| {
        worker.note_auth_failure(credential, refusal, client_address(request));
    };
    if let Some(token) = bearer(request) {
        let client = token.and_then(|token| verify(worker, token));
        return of(client.inspect_err(|refusal| failed(Credential::Header, refusal)));
    }
    let (ticket, token) = Query::credentials(request.query_string());
    if let Some(ticket) = ticket {
        let client = redeem(request, worker, &ticket);
        return of(client.inspect_err(|refusal| failed(Credential::Ticket, refusal)));
    }
    if let Some(token) = token {
        let client = verify(worker, &token);
        return of(client.inspect_err(|refusal| failed(Credential::Query, refusal)));
    }
    let Some(cookie) = request.cookie(&worker.shared.settings.cookie) else {
        return Authentication::None;
    };
    let client = verify(worker, cookie.value());
    match client.inspect_err(|refusal| failed(Credential::Cookie, refusal)) {
        Ok(client) => match refuse_forgery(request, worker) {
            Ok(()) => Authentication::Client(client),
            Err(refusal) => Authentication::Refused(refusal),
        },
        Err(refusal) if refusal.code == ErrorCode::Unavailable => Authentication::Refused(refusal),
        Err(_) => Authentication::None,
    }
}

/// Authenticates a request that can not go on without.
///
/// # Errors
/// `unauthorized`, `token_expired`, `revoked`, `forbidden` or `unavailable`.
pub fn require(request: &HttpRequest, worker: &Worker) -> Result<Client, Refusal> {
    match authenticate(request, worker) {
        Authentication::Client(client) => Ok(client),
        Authentication::Refused(refusal) => Err(refusal),
        Authentication::None => {
            let refusal = Refusal::new(
                ErrorCode::Unauthorized,
                "no token: send `Authorization: Bearer …`, or a ticket or token in the query",
            );
            worker.note_auth_failure(Credential::None, &refusal, client_address(request));
            Err(refusal)
        }
    }
}

/// Verifies a token, and that its access was not revoked.
///
/// # Errors
/// `unauthorized`, `token_expired`, `revoked` or `unavailable`.
pub fn verify_token(worker: &Worker, token: &str) -> Result<Arc<Identity>, Refusal> {
    let identity = worker.shared.authenticator.verify(token)?;
    worker.refuse_ended(&identity)?;
    Ok(identity)
}

fn of(client: Result<Client, Refusal>) -> Authentication {
    match client {
        Ok(client) => Authentication::Client(client),
        Err(refusal) => Authentication::Refused(refusal),
    }
}

/// Another scheme than `Bearer` is for someone else, such as a proxy.
fn bearer(request: &HttpRequest) -> Option<Result<&str, Refusal>> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let Ok(text) = value.to_str() else {
        return Some(Err(Refusal::new(
            ErrorCode::Unauthorized,
            "the Authorization header is not text",
        )));
    };
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Ok(token.trim()))
}

fn verify(worker: &Worker, token: &str) -> Result<Client, Refusal> {
    Ok(Client {
        identity: verify_token(worker, token)?,
        claim: None,
    })
}

fn redeem(request: &HttpRequest, worker: &Worker, ticket: &str) -> Result<Client, Refusal> {
    let how = Redeem {
        stream_endpoint: request.path() == "/events",
        has_last_event_id: request
            .headers()
            .get("last-event-id")
            .is_some_and(|id| !id.is_empty()),
    };
    let redeemed = worker
        .shared
        .tickets
        .redeem(ticket, how, Timestamp::now())?;
    worker.refuse_ended(&redeemed.identity)?;
    Ok(Client {
        identity: redeemed.identity,
        claim: redeemed.claim,
    })
}

/// A cookie is sent by the browser whoever asks for it, so a request that has nothing else must
/// come from an allowed page.
fn refuse_forgery(request: &HttpRequest, worker: &Worker) -> Result<(), Refusal> {
    let origin = Origin::of(request.head(), &worker.shared.settings.allowed_origins);
    if matches!(origin, Origin::Allowed(_)) {
        return Ok(());
    }
    let cross_site = request
        .headers()
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if cross_site || request.method() == Method::POST {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "a request by cookie must come from an allowed origin: send the token in the \
             Authorization header instead",
        ));
    }
    Ok(())
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Expired => Self::new(
                ErrorCode::TokenExpired,
                "the token has expired: get a fresh one",
            ),
            AuthError::KeysUnavailable => Self::unavailable(error.to_string()),
            AuthError::TooLong
            | AuthError::Malformed(_)
            | AuthError::Invalid(_)
            | AuthError::BadClaim { .. }
            | AuthError::NotYetValid => Self::new(ErrorCode::Unauthorized, error.to_string()),
        }
    }
}

impl From<TicketError> for Refusal {
    fn from(error: TicketError) -> Self {
        let code = match error {
            TicketError::Expired => ErrorCode::TokenExpired,
            TicketError::Unknown | TicketError::WrongEndpoint | TicketError::NotAReconnect => {
                ErrorCode::Unauthorized
            }
        };
        Self::new(code, error.to_string())
    }
}
