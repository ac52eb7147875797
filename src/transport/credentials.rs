//! Who asks: the first credential present, in the protocol's order (section 3).

use std::{net::IpAddr, sync::Arc};

use actix_web::{
    HttpRequest,
    http::{Method, header},
};

use super::{origin::Origin, site_session::SiteSession, worker::Worker};
use crate::{
    auth::{AuthError, Hook, Identity, Redeem, StreamClaim, TicketError},
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

impl Client {
    fn of(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            claim: None,
        }
    }
}

/// What came of looking for a credential.
#[derive(Debug)]
pub enum Authentication {
    Client(Client),
    /// None at all, or only one that the browser added and that is no good.
    None,
    Refused(Refusal),
}

/// A credential that was not accepted.
struct Rejected {
    refusal: Refusal,
    credential: Credential,
    /// The browser added it: it sends old ones for ever, whatever else its page has to show.
    is_ambient: bool,
}

impl Rejected {
    /// The client chose to send it.
    fn shown(credential: Credential) -> impl Fn(Refusal) -> Self {
        move |refusal| Self {
            refusal,
            credential,
            is_ambient: false,
        }
    }

    fn ambient(refusal: Refusal) -> Self {
        Self {
            refusal,
            credential: Credential::Cookie,
            is_ambient: true,
        }
    }

    /// Whether it counts as no credential at all.
    fn is_void(&self) -> bool {
        let is_final = matches!(
            self.refusal.code,
            ErrorCode::Unavailable | ErrorCode::Forbidden
        );
        self.is_ambient && !is_final
    }
}

/// Authenticates a request by its header, its query, its cookie, or the session that the site's own backend knows, which
/// may take as long as the hook waits. Every credential that was not accepted counts against the client's address.
pub async fn authenticate(request: &HttpRequest, worker: &Worker) -> Authentication {
    let rejected = match identify(request, worker).await {
        Ok(Some(client)) => return Authentication::Client(client),
        Ok(None) => return Authentication::None,
        Err(rejected) => rejected,
    };
    let is_void = rejected.is_void();
    let address = worker.client_address(request);
    let refusal = note_failure(worker, address, rejected.credential, rejected.refusal);
    // On /ws the first message may still bring a good token, however often a cookie was bad.
    match is_void && (refusal.code != ErrorCode::RateLimited || request.path() == "/ws") {
        true => Authentication::None,
        false => Authentication::Refused(refusal),
    }
}

/// Counts a refused credential, also against the client's address; what to tell the client.
pub fn note_failure(
    worker: &Worker,
    address: Option<IpAddr>,
    credential: Credential,
    refusal: Refusal,
) -> Refusal {
    worker.note_auth_failure(credential, &refusal, address);
    let is_failure = matches!(
        refusal.code,
        ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::Revoked
    );
    match address {
        Some(address) if is_failure => {
            let noted = worker.shared.limits.addresses.note_failed_auth(address);
            noted.err().unwrap_or(refusal)
        }
        _ => refusal,
    }
}

/// The client behind the first credential present; `None` where there is none.
async fn identify(request: &HttpRequest, worker: &Worker) -> Result<Option<Client>, Rejected> {
    let hook = worker.shared.authenticator.hook();
    let hook = hook.as_ref();
    if let Some(token) = bearer(request) {
        let rejected = Rejected::shown(Credential::Header);
        let token = token.map_err(&rejected)?;
        return match worker.shared.authenticator.verify(token) {
            Err(error)
                if error.is_foreign() && hook.is_some_and(|hook| hook.reads_authorization()) =>
            {
                by_session(request, worker, hook).await
            }
            verified => {
                let identity = verified.map_err(Refusal::from).map_err(&rejected)?;
                Ok(Some(let_in(worker, identity).map_err(rejected)?))
            }
        };
    }
    let (ticket, token) = Query::credentials(request.query_string());
    if let Some(ticket) = ticket {
        let redeemed = redeem(request, worker, &ticket).await;
        return redeemed
            .map(Some)
            .map_err(Rejected::shown(Credential::Ticket));
    }
    if let Some(token) = token {
        let identity = verify_token(worker, &token);
        let client = identity.map(|identity| Some(Client::of(identity)));
        return client.map_err(Rejected::shown(Credential::Query));
    }
    let by_cookie = by_cookie(request, worker);
    if let Ok(Some(client)) = by_cookie {
        return Ok(Some(client));
    }
    match by_session(request, worker, hook).await? {
        Some(client) => Ok(Some(client)),
        None => by_cookie,
    }
}

fn by_cookie(request: &HttpRequest, worker: &Worker) -> Result<Option<Client>, Rejected> {
    let Some(cookie) = request.cookie(&worker.shared.settings.cookie) else {
        return Ok(None);
    };
    verify_token(worker, cookie.value())
        .and_then(|identity| {
            refuse_forgery(request, worker)?;
            Ok(Some(Client::of(identity)))
        })
        .map_err(Rejected::ambient)
}

/// Asks the backend, unless the client's address has failed too often to be let on to it.
async fn ask_hook(
    request: &HttpRequest,
    worker: &Worker,
    hook: &Arc<Hook>,
    session: &SiteSession<'_>,
) -> Result<Arc<Identity>, Refusal> {
    let addresses = &worker.shared.limits.addresses;
    let address = worker.client_address(request);
    if let Some(Err(refusal)) = address.map(|address| addresses.refuse_failing(address)) {
        return hook.remember(&session.credentials).ok_or(refusal);
    }
    Ok(hook.identify(&session.credentials).await?)
}

async fn by_session(
    request: &HttpRequest,
    worker: &Worker,
    hook: Option<&Arc<Hook>>,
) -> Result<Option<Client>, Rejected> {
    let Some(hook) = hook else {
        return Ok(None);
    };
    let session = SiteSession::of(request, hook);
    let Some(session) = session.map_err(Rejected::shown(Credential::Session))? else {
        return Ok(None);
    };
    let rejected = |refusal| Rejected {
        refusal,
        credential: Credential::Session,
        is_ambient: session.is_ambient,
    };
    if session.is_ambient {
        refuse_forgery(request, worker).map_err(rejected)?;
    }
    let identity = ask_hook(request, worker, hook, &session).await;
    let identity = identity.and_then(|identity| let_in(worker, identity));
    identity.map(Some).map_err(rejected)
}

/// Authenticates a request that can not go on without.
///
/// # Errors
/// `unauthorized`, `token_expired`, `revoked`, `forbidden` or `unavailable`.
pub async fn require(request: &HttpRequest, worker: &Worker) -> Result<Client, Refusal> {
    match authenticate(request, worker).await {
        Authentication::Client(client) => Ok(client),
        Authentication::Refused(refusal) => Err(refusal),
        Authentication::None => {
            let refusal = Refusal::new(
                ErrorCode::Unauthorized,
                match worker.shared.authenticator.hook() {
                    None => {
                        "no token: send `Authorization: Bearer …`, or a ticket or token in the query"
                    }
                    Some(_) => {
                        "no session that this site knows, and no token: sign in, or send \
                     `Authorization: Bearer …`, or a ticket or token in the query"
                    }
                },
            );
            worker.note_auth_failure(Credential::None, &refusal, worker.client_address(request));
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

fn let_in(worker: &Worker, identity: Arc<Identity>) -> Result<Client, Refusal> {
    worker.refuse_ended(&identity)?;
    Ok(Client::of(identity))
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

/// A ticket that nobody here knows may be good all the same, which only the log can tell: whoever came
/// with too many bad ones has none asked about there.
fn refuse_guessing(request: &HttpRequest, worker: &Worker, ticket: &str) -> Result<(), Refusal> {
    if worker.shared.cluster.holds_ticket(ticket) {
        return Ok(());
    }
    let address = worker.client_address(request);
    address.map_or(Ok(()), |address| {
        worker.shared.limits.addresses.refuse_failing(address)
    })
}

async fn redeem(request: &HttpRequest, worker: &Worker, ticket: &str) -> Result<Client, Refusal> {
    let how = Redeem {
        stream_endpoint: request.path() == "/events",
        has_last_event_id: request
            .headers()
            .get("last-event-id")
            .is_some_and(|id| !id.is_empty()),
    };
    refuse_guessing(request, worker, ticket)?;
    let redeemed = worker.shared.cluster.redeem_ticket(ticket, how).await?;
    worker.refuse_ended(&redeemed.identity)?;
    Ok(Client {
        identity: redeemed.identity,
        claim: redeemed.claim,
    })
}

/// A cookie is sent by the browser whoever asks for it, so a request that has nothing else must
/// come from an allowed page. So is a password that the browser was once asked for.
fn refuse_forgery(request: &HttpRequest, worker: &Worker) -> Result<(), Refusal> {
    let origin = Origin::of(request.head(), &worker.shared.settings);
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
            "a request by cookie must come from an allowed origin: send a token in the \
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
            | AuthError::BadFilter { .. }
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
