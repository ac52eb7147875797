//! What a connection's state means for the requests on it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpMessage,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::ConnectionType,
    middleware::Next,
};
use bytes::Bytes;

use super::connection::{Link, Underway};
use crate::{
    protocol::Refusal,
    session::Sever,
    transport::{Lifeline, connection_data, refuse},
};

/// When a client that there is no place for may try again.
const PLACE_AGAIN: Duration = Duration::from_secs(5);

/// Middleware, to be the innermost: counts a request as under way until its response is sent, and
/// refuses it where the connection has no place or the node drains.
///
/// # Errors
/// Those of the application.
pub async fn account_for(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<Counted>, actix_web::Error> {
    let Some(link) = connection_data::<Rc<Link>>(request.request()) else {
        return Ok(next
            .call(request)
            .await?
            .map_body(|_, body| Counted::not(body)));
    };
    let underway = link.begin();
    let response = match refusal(&link, request.path()) {
        Some(refusal) => {
            link.leave();
            let response = refuse(request.head(), &refusal);
            request.into_response(response)
        }
        None => {
            attach(&request, &link);
            next.call(request).await?
        }
    };
    let mut response = response.map_body(|_, body| Counted {
        body,
        _underway: Some(underway),
    });
    if link.is_to_leave() && !response.response().head().upgrade() {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

fn refusal(link: &Link, path: &str) -> Option<Refusal> {
    if link.is_refused() {
        let refusal = Refusal::unavailable(
            "this node has as many connections as it takes: try again later, or another node",
        );
        return Some(refusal.retry_after(PLACE_AGAIN));
    }
    // A WebSocket is refused with a Close, which tells a browser more than a failed handshake.
    (link.is_draining() && path != "/ws")
        .then(|| Refusal::unavailable("the gateway is restarting: try again in a moment"))
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

/// A response's body, whose request is under way until it is sent or given up.
pub struct Counted {
    body: BoxBody,
    _underway: Option<Underway>,
}

impl Counted {
    fn not(body: BoxBody) -> Self {
        Self {
            body,
            _underway: None,
        }
    }
}

impl MessageBody for Counted {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
