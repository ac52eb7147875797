//! Routes, refusals as HTTP responses, and request bodies.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use bytes::{Bytes, BytesMut};
use tokio_stream::StreamExt;

use super::{
    connection::connection_data,
    origin::{self, Origin},
    poll, presence, publish, sse, stats, ticket,
    worker::{Here, Worker},
    ws,
};
use crate::{
    limits::ConnectionLimiter,
    metrics::Endpoint,
    protocol::{ErrorCode, LimitHit, LimitKind, Query, Refusal, ServerFrame},
};

/// A request body that is not there by then never comes: slow senders would hold memory. Whatever
/// dribbles is to be cut within 30 s, its connection's end included.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Which node answers, where it has a name.
const NODE_HEADER: HeaderName = HeaderName::from_static("tribus-node");

/// Adds the endpoints for clients and publishers.
pub fn configure(app: &mut web::ServiceConfig) {
    app.service(endpoint("/ws", "GET").route(web::get().to(ws::connect)))
        .service(
            endpoint("/events", "GET, POST")
                .route(web::get().to(sse::open))
                .route(web::post().to(sse::open_by_body)),
        )
        .service(
            endpoint("/poll", "GET, POST")
                .route(web::get().to(poll::poll))
                .route(web::post().to(poll::poll_by_body)),
        )
        .service(endpoint("/publish", "POST").route(web::post().to(publish::publish)))
        .service(endpoint("/ticket", "POST").route(web::post().to(ticket::issue)))
        .service(endpoint("/presence", "GET").route(web::get().to(presence::tell)))
        .service(endpoint("/stats", "GET").route(web::get().to(stats::tell)));
}

/// Whether a request gets to one of the endpoints that [`configure`] adds.
fn is_for_an_endpoint(path: &str, method: &Method) -> bool {
    match path {
        "/ws" | "/presence" | "/stats" => method == Method::GET,
        "/events" | "/poll" => method == Method::GET || method == Method::POST,
        "/publish" | "/ticket" => method == Method::POST,
        _ => false,
    }
}

/// A resource that answers other methods than its own with what it takes.
pub fn endpoint(path: &str, methods: &'static str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(move || async move {
        let refusal = Refusal::new(
            ErrorCode::MethodNotAllowed,
            format!("this endpoint takes {methods}"),
        );
        let mut response = HttpResponse::from_error(refusal);
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(header::ALLOW, methods);
        response
    }))
}

/// Answers preflights, refuses foreign origins, and puts CORS headers on every response, errors
/// too. A foreign page's script can not read why it is refused: the log says it.
pub async fn guard_origin(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Here(worker) = request.extract::<Here>().await?;
    let origin = Origin::of(request.head(), &worker.shared.settings);
    let endpoint = Endpoint::of_path(request.path());
    let address = worker.client_address(request.request());
    let mut response = if let Err(refusal) = charge_others(&request, &origin) {
        worker.note_refusal(endpoint, &refusal, address);
        request.error_response(refusal).map_into_right_body()
    } else if origin == Origin::Foreign && !is_open_to_all(&request, &worker) {
        let refusal = Refusal::new(
            ErrorCode::Forbidden,
            "this origin may not connect: add it to auth.allowed_origins",
        );
        worker.note_refusal(endpoint, &refusal, address);
        worker.warn_of_origin(request.head());
        request.error_response(refusal).map_into_right_body()
    } else if request.method() == Method::OPTIONS {
        request
            .into_response(HttpResponse::NoContent().finish())
            .map_into_right_body()
    } else {
        match next.call(request).await {
            Ok(response) => {
                if let Some(refusal) = response.response().error().and_then(as_refusal) {
                    worker.note_refusal(endpoint, refusal, address);
                }
                response.map_into_left_body()
            }
            Err(error) => {
                if let Some(refusal) = as_refusal(&error) {
                    worker.note_refusal(endpoint, refusal, address);
                }
                return Err(with_cors_on_error(error, &origin, &worker));
            }
        }
    };
    origin::add_cors_headers(response.headers_mut(), &origin, &worker);
    if let Some(node) = worker.shared.settings.node.as_deref()
        && let Ok(node) = HeaderValue::from_str(node)
    {
        response.headers_mut().insert(NODE_HEADER, node);
    }
    Ok(response)
}

/// Takes what no endpoint will from the budget of the connection: preflights, requests of foreign
/// pages, those with a wrong method, and those for anything else. The endpoints charge for
/// themselves, each in its own form.
fn charge_others(request: &ServiceRequest, origin: &Origin) -> Result<(), Refusal> {
    let charges_itself =
        is_for_an_endpoint(request.path(), request.method()) && *origin != Origin::Foreign;
    match connection_data::<Arc<ConnectionLimiter>>(request.request()) {
        Some(limiter) if !charges_itself => limiter.take_message(),
        _ => Ok(()),
    }
}

/// Whether pages of any origin may load it.
fn is_open_to_all(request: &ServiceRequest, worker: &Worker) -> bool {
    let is_open_file = worker.shared.settings.is_open_file;
    is_open_file(request.path()) && matches!(*request.method(), Method::GET | Method::HEAD)
}

fn as_refusal(error: &actix_web::Error) -> Option<&Refusal> {
    error.as_error()
}

/// An error on its way out becomes its response here, so that it carries the headers too.
fn with_cors_on_error(
    error: actix_web::Error,
    origin: &Origin,
    worker: &Worker,
) -> actix_web::Error {
    let mut response = error.error_response();
    origin::add_cors_headers(response.headers_mut(), origin, worker);
    actix_web::error::InternalError::from_response(error, response).into()
}

/// Refuses a request whatever it asks for, in the form that its endpoint has for refusals.
///
/// # Errors
/// The refusal, where it is to be told by its status.
pub fn refuse(request: &HttpRequest, refusal: Refusal) -> Result<HttpResponse, Refusal> {
    let is_native = request.path() == "/events"
        && Query::parse(request.query_string()).is_ok_and(|query| query.native());
    match request.app_data::<Rc<Worker>>() {
        Some(worker) => sse::refuse(refusal, is_native, request, worker),
        None => Err(refusal),
    }
}

/// A path that does not exist.
pub async fn not_found() -> Result<HttpResponse, Refusal> {
    Err(Refusal::new(
        ErrorCode::NotFound,
        "there is nothing here: clients use /ws, /events and /poll, publishers /publish, operators \
         the address of `admin_listen`",
    ))
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response
            .content_type("application/json")
            .insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(seconds) = retry_after_seconds(self) {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        for header in rate_limit_headers(self).into_iter().flatten() {
            response.insert_header(header);
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        response.body(ServerFrame::error(self, None).to_json())
    }
}

/// The `RateLimit` headers (draft-ietf-httpapi-ratelimit-headers, sections 3 and 4) of a rate that
/// is used up.
fn rate_limit_headers(refusal: &Refusal) -> Option<[(&'static str, String); 2]> {
    let LimitHit { kind, quota } = refusal.limit?;
    let (quota, name) = (quota?, kind.as_str());
    let wait = retry_after_seconds(refusal)?;
    // The unit is requests unless told.
    let unit = match kind {
        LimitKind::Bytes => ";qu=\"content-bytes\"",
        _ => "",
    };
    let policy = format!(
        "\"{name}\";q={}{unit};w={}",
        quota.count, quota.window_seconds
    );
    Some([
        ("RateLimit-Policy", policy),
        ("RateLimit", format!("\"{name}\";r=0;t={wait}")),
    ])
}

/// Whole seconds, rounded up, as the header has it (RFC 9110, section 10.2.3).
fn retry_after_seconds(refusal: &Refusal) -> Option<u64> {
    let least = match refusal.code {
        ErrorCode::RateLimited
        | ErrorCode::TooManySubscriptions
        | ErrorCode::TooManyConnections
        | ErrorCode::Unavailable => Some(Duration::from_secs(1)),
        _ => None,
    };
    let wait = refusal.retry_after.or(least)?;
    Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

/// Reads a body that fits into `limit` bytes. A length announced beyond it is refused before
/// anything is read.
///
/// # Errors
/// `too_large`; `rate_limited` over what the connection may send; `bad_request` where the body
/// breaks off or does not come in time.
pub async fn read_body(
    request: &HttpRequest,
    mut payload: web::Payload,
    limit: usize,
) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::too_large(format!(
            "the body has more than {limit} bytes: send it in parts"
        ))
    };
    if upgrades_to_websocket(request) {
        // actix takes all that follows for the body then, whatever its length says.
        return Err(Refusal::bad_request(
            "only /ws takes `Upgrade: websocket`: leave it out",
        ));
    }
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let take_bytes = |count| match connection_data::<Arc<ConnectionLimiter>>(request) {
        Some(limiter) => limiter.take_bytes(count),
        None => Ok(()),
    };
    take_bytes(announced.unwrap_or(0))?;
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|_| Refusal::bad_request("the body broke off or is malformed"))?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            if announced.is_none() {
                take_bytes(chunk.len())?;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    let body = tokio::time::timeout(BODY_TIMEOUT, read)
        .await
        .map_err(|_| {
            let seconds = BODY_TIMEOUT.as_secs();
            Refusal::bad_request(format!("the body did not come within {seconds} seconds"))
        })??;
    if let Some(worker) = request.app_data::<Rc<Worker>>() {
        let channel = Endpoint::of_path(request.path()).channel();
        worker.metrics().received_bytes(channel, body.len());
    }
    Ok(body)
}

/// Other protocols may be offered: Java's client offers `h2c` with whatever it posts.
fn upgrades_to_websocket(request: &HttpRequest) -> bool {
    let mut protocols = request.headers().get_all(header::UPGRADE);
    protocols.any(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Takes one request from the budgets of its TCP connection and, where it is the connection's
/// first, a handshake from that of its address.
///
/// # Errors
/// `too_large` for a URL over the limit, `rate_limited`.
pub fn charge(request: &HttpRequest, worker: &Worker) -> Result<(), Refusal> {
    charge_request(request, worker, |limiter| !limiter.is_greeted())
}

/// Takes a request that opens a stream, which is always a handshake.
///
/// # Errors
/// As [`charge`].
pub fn charge_stream(request: &HttpRequest, worker: &Worker) -> Result<(), Refusal> {
    charge_request(request, worker, |_| true)
}

fn charge_request(
    request: &HttpRequest,
    worker: &Worker,
    is_handshake: impl Fn(&ConnectionLimiter) -> bool,
) -> Result<(), Refusal> {
    if let Some(limiter) = connection_data::<Arc<ConnectionLimiter>>(request) {
        limiter.take_message()?;
        if is_handshake(&limiter)
            && let Some(address) = worker.client_address(request)
        {
            worker.shared.limits.addresses.take_handshake(address)?;
            limiter.greet();
        }
    }
    refuse_long_url(request, worker.shared.settings.url_bytes)
}

fn refuse_long_url(request: &HttpRequest, limit: usize) -> Result<(), Refusal> {
    let length = request
        .uri()
        .path_and_query()
        .map_or(0, |url| url.as_str().len());
    if length > limit {
        return Err(Refusal::too_large(format!(
            "the URL has more than {limit} bytes: send the subscriptions in the body of a POST, \
             or in messages on /ws"
        )));
    }
    Ok(())
}
