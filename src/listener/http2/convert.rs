//! Requests and responses between `h2`, which has version 1 of the `http` crate, and actix, which
//! has version 0.2.

use std::{
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use actix_http::{
    BoxedPayloadStream, HttpMessage, Payload, Request, ResponseHead, error::PayloadError,
};
use actix_web::{
    body::BodySize,
    http::{
        Method, Uri, Version,
        header::{self, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use h2::RecvStream;
use jiff::Timestamp;
use tokio_stream::Stream;

use super::stream::Leash;
use crate::{
    session::Sever,
    transport::{ConnectionData, Lifeline},
};

/// `None` where actix would not have taken it either.
pub(super) fn request(
    request: http::Request<RecvStream>,
    peer: Option<SocketAddr>,
) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let payload = if body.is_end_stream() {
        Payload::None
    } else {
        let body: BoxedPayloadStream = Box::pin(Body(body));
        Payload::from(body)
    };
    let mut request = Request::with_payload(payload);
    let head = request.head_mut();
    head.method = Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = parts.uri.to_string().parse::<Uri>().ok()?;
    head.version = Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        head.headers.append(name, value);
    }
    Some(request)
}

/// Gives a request what it can not find as connection data, since only actix's own dispatcher can
/// put something there.
pub(super) fn attach(request: &mut Request, data: ConnectionData, leash: Rc<Leash>) {
    let mut extensions = request.extensions_mut();
    let leash: Rc<dyn Sever> = leash;
    extensions.insert(data);
    extensions.insert(Lifeline(leash));
}

/// The head of a response, without what belongs to HTTP/1 connections (RFC 9113, section 8.2.2).
pub(super) fn response(head: &ResponseHead, size: BodySize) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status.as_u16()).ok()?;
    let fields = response.headers_mut();
    for (name, value) in head.headers().iter() {
        if is_of_the_connection(name) || *name == header::CONTENT_LENGTH {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        fields.append(name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    if let BodySize::Sized(length) = size {
        fields.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    if let Ok(date) = http::HeaderValue::from_str(&date.to_string()) {
        fields.entry(http::header::DATE).or_insert(date);
    }
    Some(response)
}

fn is_of_the_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection"
    )
}

/// A request's body; what was read of it opens the window for more.
struct Body(RecvStream);

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut self.0;
        let failed = |error: h2::Error| PayloadError::Io(std::io::Error::other(error));
        let chunk = ready!(body.poll_data(cx)).map(|chunk| {
            let chunk = chunk.map_err(failed)?;
            body.flow_control()
                .release_capacity(chunk.len())
                .map_err(failed)?;
            Ok(chunk)
        });
        Poll::Ready(chunk)
    }
}
