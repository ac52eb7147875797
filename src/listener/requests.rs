//! What a connection's state means for the requests on it.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_http::BoxedPayloadStream;
use actix_web::{
    HttpMessage, HttpResponse,
    body::{BodySize, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{ConnectionType, header},
    middleware::Next,
};
use bytes::Bytes;
use pin_project_lite::pin_project;
use tokio_stream::Stream;

use super::connection::{self, Link};
use crate::{
    protocol::{LimitKind, Refusal},
    session::Sever,
    transport::{self, Lifeline, NoPlace, connection_data, refuse},
};

/// When a client that there is no place for may try again, or twice as long.
const PLACE_AGAIN: Duration = Duration::from_secs(5);

/// Middleware, to be the outermost: counts a request as under way until its response is sent.
///
/// # Errors
/// Those of the application.
pub async fn account_for<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Counted<B>>, actix_web::Error> {
    let Some(link) = connection_data::<Rc<Link>>(request.request()) else {
        return Ok(next
            .call(request)
            .await?
            .map_body(|_, body| Counted::not(body)));
    };
    let underway = Underway {
        _unread: Unread::of(&mut request, &link),
        _request: link.begin(),
    };
    attach(&request, &link);
    let mut response = next.call(request).await?.map_body(|_, body| Counted {
        body,
        _underway: Some(underway),
    });
    if link.is_to_leave() && !response.response().head().upgrade() {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// Middleware, to be the innermost, so that a refusal is told and noted as any other: refuses a
/// request whose connection has no place, or that comes while the node drains. A WebSocket is
/// refused with a Close, which tells a browser more than a failed handshake.
///
/// # Errors
/// The refusal, and those of the application.
pub async fn refuse_without_place(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let link = connection_data::<Rc<Link>>(request.request());
    let refusal = link
        .as_ref()
        .and_then(|link| Some((link, refusal(link, request.path())?)));
    match refusal {
        None => Ok(next.call(request).await?.map_into_left_body()),
        Some((link, refusal)) if request.path() == "/ws" => {
            link.leave();
            request.extensions_mut().insert(NoPlace(refusal));
            Ok(next.call(request).await?.map_into_left_body())
        }
        Some((link, refusal)) => {
            link.leave();
            let response = refuse(request.request(), refusal);
            let response = response.unwrap_or_else(HttpResponse::from_error);
            Ok(request.into_response(response).map_into_right_body())
        }
    }
}

fn refusal(link: &Link, path: &str) -> Option<Refusal> {
    if link.is_refused() {
        let refusal = Refusal::unavailable(
            "this node has as many connections as it takes: try again later, or another node",
        );
        return Some(
            refusal
                .over(LimitKind::NodeConnections)
                .retry_after(PLACE_AGAIN.mul_f64(1.0 + fastrand::f64())),
        );
    }
    // A WebSocket is refused by whoever opens sessions.
    (link.is_draining() && path != "/ws").then(transport::restarting)
}

/// Gives a stream the means to end its connection, where HTTP/2 has not given it one to end the
/// stream alone.
fn attach(request: &ServiceRequest, link: &Rc<Link>) {
    let mut extensions = request.extensions_mut();
    if !extensions.contains::<Lifeline>() {
        let link: Rc<dyn Sever> = Rc::<Link>::clone(link);
        extensions.insert(Lifeline(link));
    }
}

/// A request that is under way. What ends first stands first.
struct Underway {
    _unread: Option<Unread>,
    _request: connection::Underway,
}

/// A body in chunks, of which nobody knows whether all of it has come.
struct Unread {
    link: Rc<Link>,
    has_ended: Rc<Cell<bool>>,
}

impl Unread {
    /// `None` for a request without one. A body with a length is bounded by it, and by actix.
    fn of(request: &mut ServiceRequest, link: &Rc<Link>) -> Option<Self> {
        if !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return None;
        }
        let has_ended = Rc::new(Cell::new(false));
        let watched: BoxedPayloadStream = Box::pin(Watched {
            payload: request.take_payload(),
            has_ended: Rc::clone(&has_ended),
        });
        request.set_payload(watched.into());
        Some(Self {
            link: Rc::clone(link),
            has_ended,
        })
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        if !self.has_ended.get() {
            self.link.has_unread_body();
        }
    }
}

/// A body that tells when it was read to its end.
struct Watched {
    payload: Payload,
    has_ended: Rc<Cell<bool>>,
}

impl Stream for Watched {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.payload).poll_next(cx);
        if let Poll::Ready(None) = next {
            self.has_ended.set(true);
        }
        next
    }
}

pin_project! {
    /// A response's body, whose request is under way until it is sent or given up.
    pub struct Counted<B> {
        #[pin]
        body: B,
        _underway: Option<Underway>,
    }
}

impl<B> Counted<B> {
    fn not(body: B) -> Self {
        Self {
            body,
            _underway: None,
        }
    }
}

impl<B: MessageBody> MessageBody for Counted<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.project().body.poll_next(cx)
    }
}
