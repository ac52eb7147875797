//! The operators' listener: health, readiness, and ending a client's access.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::{
    bus::{Bus, Revocation, ShardCommand},
    protocol::{ErrorCode, Refusal, decode_object},
    topic::Tenant,
    transport::Shared,
};

/// Tokens are refused for this long where the operator does not say: longer than most live.
const REVOKED_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Whether the node takes clients.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the operators' endpoints work on.
#[derive(Clone)]
pub struct Operator {
    pub readiness: Readiness,
    pub bus: Arc<Bus>,
    pub shared: Arc<Shared>,
}

pub fn configure(app: &mut web::ServiceConfig) {
    app.route("/healthz", web::get().to(healthz))
        .route("/readyz", web::get().to(readyz))
        .route("/admin/disconnect", web::post().to(disconnect))
        .default_service(web::to(not_found));
}

async fn not_found() -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(
        ErrorCode::NotFound,
        "there is nothing here: operators use /healthz, /readyz and POST /admin/disconnect",
    ))
}

async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

async fn readyz(operator: web::Data<Operator>) -> HttpResponse {
    if operator.readiness.is_ready() {
        HttpResponse::Ok().body("ready\n")
    } else {
        HttpResponse::ServiceUnavailable().body("draining\n")
    }
}

/// An operator's browser may reach this listener, and any page that it shows could send a POST.
fn refuse_pages(request: &HttpRequest) -> Result<(), Refusal> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "web pages may not use this listener",
        ));
    }
    Ok(())
}

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
}

/// Ends the connections of a subject or a token, and refuses its tokens from now on.
async fn disconnect(
    request: HttpRequest,
    operator: web::Data<Operator>,
    body: web::Bytes,
) -> Result<HttpResponse, Refusal> {
    refuse_pages(&request)?;
    let asked: Disconnect = decode_object(&body)?;
    let now = Timestamp::now();
    let until = now.checked_add(REVOKED_FOR).unwrap_or(Timestamp::MAX);
    let tenant = match &asked.tenant {
        Some(name) => Tenant::named(name),
        None => Tenant::none(),
    };
    let revocations = &operator.shared.revocations;
    let revoked = match (&asked.sub, &asked.jti) {
        (Some(subject), None) => {
            revocations.revoke_subject(tenant.clone(), Arc::clone(subject), until, now)
        }
        (None, Some(token_id)) => revocations.revoke_token(Arc::clone(token_id), until, now),
        (None, None) | (Some(_), Some(_)) => {
            return Err(Refusal::bad_request(
                "give either `sub`, with `tenant` where there is one, or `jti`",
            ));
        }
    };
    revoked.map_err(|error| Refusal::unavailable(error.to_string()))?;
    let revocation = Revocation {
        tenant,
        subject: asked.sub,
        token_id: asked.jti,
    };
    operator.bus.command(ShardCommand::Revoke(revocation)).await;
    Ok(HttpResponse::NoContent().finish())
}
