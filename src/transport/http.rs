//! Routes, refusals as HTTP responses, and request bodies.

use std::{sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    body::MessageBody,
    dev::{RequestHead, ServiceRequest, ServiceResponse},
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    middleware::Next,
    web,
};
use bytes::{Bytes, BytesMut};
use tokio_stream::StreamExt;

use super::{
    connection::connection_data,
    origin::{self, Origin},
    poll, publish, sse, ticket,
    worker::{ConnectionLimiter, Here},
    ws,
};
use crate::protocol::{ErrorCode, Query, Refusal, ServerFrame};

/// A request body that is not there by then never comes: slow senders would hold memory.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

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
        .service(endpoint("/ticket", "POST").route(web::post().to(ticket::issue)));
}

/// A resource that answers other methods than its own with what it takes.
pub fn endpoint(path: &str, methods: &'static str) -> actix_web::Resource {
    web::resource(path).default_service(web::to(move || async move {
        let refusal = Refusal::new(
            ErrorCode::MethodNotAllowed,
            format!("this endpoint takes {methods}"),
        );
        let mut response = refusal.error_response();
        let methods = HeaderValue::from_static(methods);
        response.headers_mut().insert(header::ALLOW, methods);
        response
    }))
}

/// Answers preflights, refuses foreign origins, and puts CORS headers on every response, errors
/// too.
pub async fn guard_origin(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let Here(worker) = request.extract::<Here>().await?;
    let origin = Origin::of(request.head(), &worker.shared.settings.allowed_origins);
    let mut response = if origin == Origin::Foreign {
        let refusal = Refusal::new(
            ErrorCode::Forbidden,
            "this origin may not connect: add it to auth.allowed_origins",
        );
        request.error_response(refusal).map_into_right_body()
    } else if request.method() == Method::OPTIONS {
        request
            .into_response(HttpResponse::NoContent().finish())
            .map_into_right_body()
    } else {
        match next.call(request).await {
            Ok(response) => response.map_into_left_body(),
            Err(error) => return Err(with_cors_on_error(error, &origin)),
        }
    };
    origin::add_cors_headers(response.headers_mut(), &origin);
    Ok(response)
}

/// An error on its way out becomes its response here, so that it carries the headers too.
fn with_cors_on_error(error: actix_web::Error, origin: &Origin) -> actix_web::Error {
    let mut response = error.error_response();
    origin::add_cors_headers(response.headers_mut(), origin);
    actix_web::error::InternalError::from_response(error, response).into()
}

/// The response of a request that is refused whatever it asks for, in the form that its endpoint
/// has for refusals.
pub fn refuse(head: &RequestHead, refusal: &Refusal) -> HttpResponse {
    let is_native = head.uri.path() == "/events"
        && Query::parse(head.uri.query().unwrap_or_default()).is_ok_and(|query| query.native());
    sse::refuse(refusal.clone(), is_native).unwrap_or_else(|refusal| refusal.error_response())
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
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        response.body(ServerFrame::error(self, None).to_json())
    }
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
/// `too_large`; `bad_request` where the body breaks off or does not come in time.
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
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let read = async {
        let mut body = BytesMut::with_capacity(announced.unwrap_or(0));
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|_| Refusal::bad_request("the body broke off or is malformed"))?;
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(BODY_TIMEOUT, read)
        .await
        .map_err(|_| Refusal::bad_request("the body did not come within 30 seconds"))?
}

/// Takes one from the budget of the TCP connection that a request came on.
///
/// # Errors
/// `rate_limited`.
pub fn charge(request: &HttpRequest) -> Result<(), Refusal> {
    match connection_data::<Arc<ConnectionLimiter>>(request) {
        Some(limiter) => limiter.check(),
        None => Ok(()),
    }
}
