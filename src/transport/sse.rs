//! `/events`: Server-Sent Events (protocol, section 5; the HTML standard, section 9.2).

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::{Version, header},
    web,
};
use bytes::{Bytes, BytesMut};

use super::{
    connection::lifeline,
    credentials::{self, Client},
    http::charge_stream,
    poll::read_body_into,
    pulse::{EmptyPolls, Pulse, poll_next},
    worker::{Connection, Here, Worker},
};
use crate::{
    metrics::Endpoint,
    protocol::{CloseReason, ErrorCode, Query, Refusal, ServerFrame, Transport},
    session::{Delivery, Outgoing, Peer, Tally},
};

/// What a browser waits before it reconnects after a drop, unless told otherwise.
const RETRY: Duration = Duration::from_secs(2);
/// Where a client should not come back by itself: the longest that browsers are known to obey.
const RETRY_NEVER: Duration = Duration::from_secs(24 * 3600);
/// Pending events are joined into chunks of about this size.
const CHUNK_BYTES: usize = 16 * 1024;

pub async fn open(request: HttpRequest, here: Here) -> Result<HttpResponse, Refusal> {
    stream(request, here, None).await
}

pub async fn open_by_body(
    request: HttpRequest,
    payload: web::Payload,
    here: Here,
) -> Result<HttpResponse, Refusal> {
    stream(request, here, Some(payload)).await
}

async fn stream(
    request: HttpRequest,
    Here(worker): Here,
    payload: Option<web::Payload>,
) -> Result<HttpResponse, Refusal> {
    let query = Query::parse(request.query_string());
    let native = query.as_ref().is_ok_and(Query::native);
    if let Err(refusal) = charge_stream(&request, &worker) {
        return refuse(refusal, native, &request, &worker);
    }
    let client = match credentials::require(&request, &worker).await {
        Ok(client) => client,
        Err(refusal) => return refuse(refusal, native, &request, &worker),
    };
    let mut query = read_body_into(query?, &request, &worker, payload).await?;
    if let Some(id) = request.headers().get("last-event-id") {
        let id = id.to_str().unwrap_or("\u{fffd}");
        query.set_last_event_id(id);
    }
    refuse_http_1_0(&request)?;
    let peer = Peer {
        transport: Transport::Sse,
        address: worker.client_address(&request),
    };
    match subscribe(&worker, client, peer, &query).await {
        Ok(body) => {
            let session = &body.connection.session;
            session.with(|session| session.set_lifeline(lifeline(&request)));
            Ok(event_stream().body(body))
        }
        Err(refusal) => refuse(refusal, query.native(), &request, &worker),
    }
}

/// A stream has no length, and HTTP/1.0 no chunks to send it in (RFC 9112, section 6.1).
fn refuse_http_1_0(request: &HttpRequest) -> Result<(), Refusal> {
    if request.version() < Version::HTTP_11 {
        return Err(Refusal::bad_request(
            "a stream needs HTTP/1.1: a proxy in between may have to be told so, such as nginx with \
             `proxy_http_version 1.1`",
        ));
    }
    Ok(())
}

/// For the browser's EventSource a refusal that passes is a stream that says when to come back.
///
/// # Errors
/// The refusal, where it is to be told by its status; it is noted on its way out.
pub fn refuse(
    refusal: Refusal,
    native: bool,
    request: &HttpRequest,
    worker: &Worker,
) -> Result<HttpResponse, Refusal> {
    if native && is_transient(refusal.code) {
        worker.note_refusal(Endpoint::Events, &refusal, worker.client_address(request));
        return Ok(event_stream().body(closing_stream(&refusal)));
    }
    Err(refusal)
}

async fn subscribe(
    worker: &Worker,
    client: Client,
    peer: Peer,
    query: &Query,
) -> Result<SseBody, Refusal> {
    let subscribe = query.subscriptions(worker.shared.settings.subscriptions)?;
    let start = worker.shard.bus().start(&subscribe.start).await?;
    let heartbeat = worker.shared.settings.heartbeat;
    let pulse = Pulse::new(&client.identity, heartbeat);
    let message = if subscribe.subscriptions.is_empty() {
        "connected without topics: name some with ?topics=… to receive events"
    } else {
        "connected"
    };
    let announcement = worker.connected(message);
    let connection = worker.open(client.identity, peer, worker.admit()?)?;
    let session = &connection.session;
    if let Err(refusal) = connection.subscribe(subscribe, start, announcement) {
        session.with(|session| session.end_as(CloseReason::Refused));
        return Err(refusal);
    }
    let lease = match client.claim {
        Some(claim) => Some(worker.shared.cluster.take_over(claim).await?),
        None => None,
    };
    Ok(SseBody {
        connection,
        pulse,
        superseded: lease.map(|mut lease| {
            let ends: Pin<Box<dyn Future<Output = ()>>> =
                Box::pin(async move { lease.superseded().await });
            ends
        }),
        named: query.named(),
        empty_polls: EmptyPolls::default(),
        preamble: Some(Bytes::from(format!("retry: {}\n", RETRY.as_millis()))),
    })
}

fn event_stream() -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::CONTENT_TYPE, "text/event-stream"))
        .insert_header((header::CACHE_CONTROL, "no-cache, no-transform"))
        .insert_header(("X-Accel-Buffering", "no"));
    response
}

fn is_transient(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::RateLimited
            | ErrorCode::TooManyConnections
            | ErrorCode::TooManySubscriptions
            | ErrorCode::Unavailable
    )
}

/// A whole stream that only says when to come back: a browser's EventSource would take an error
/// status for final.
fn closing_stream(refusal: &Refusal) -> String {
    let wait = refusal.retry_after_ms().unwrap_or(0);
    let wait = wait.max(RETRY.as_millis() as u64);
    let closing = ServerFrame::closing(CloseReason::Unavailable, wait);
    let json = closing.to_json();
    format!(
        "retry: {wait}\nevent: closing\ndata: {}\n\n",
        String::from_utf8_lossy(&json)
    )
}

/// The body of a stream: pulls from its session whenever the connection takes more.
struct SseBody {
    connection: Connection,
    pulse: Pulse,
    /// Completes when a newer stream has taken over the ticket.
    superseded: Option<Pin<Box<dyn Future<Output = ()>>>>,
    named: bool,
    preamble: Option<Bytes>,
    empty_polls: EmptyPolls,
}

impl MessageBody for SseBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        let session = &this.connection.session;
        if let Some(superseded) = &mut this.superseded
            && superseded.as_mut().poll(cx).is_ready()
        {
            this.superseded = None;
            session.with(|session| session.close(CloseReason::Superseded, Duration::ZERO));
        }
        while this.pulse.fired(cx) {
            let next = this.pulse.tick(session, Instant::now());
            this.pulse.arm(next);
        }
        let mut tally = Tally::default();
        let mut chunk = BytesMut::new();
        if let Some(preamble) = this.preamble.take() {
            chunk.extend_from_slice(&preamble);
        }
        while chunk.len() < CHUNK_BYTES {
            match poll_next(session, cx) {
                Poll::Ready(Some(outgoing)) => {
                    tally.note(&outgoing);
                    this.put(&outgoing, &mut chunk);
                }
                Poll::Ready(None) if chunk.is_empty() => return Poll::Ready(None),
                Poll::Pending if chunk.is_empty() => {
                    if this.empty_polls.are_too_many(session) {
                        let reason = CloseReason::ProtocolViolation;
                        session.with(|session| session.close(reason, Duration::ZERO));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        this.empty_polls.interrupted();
        session.count_sent(&tally, chunk.len());
        Poll::Ready(Some(Ok(chunk.freeze())))
    }
}

impl SseBody {
    fn put(&self, outgoing: &Outgoing, chunk: &mut BytesMut) {
        match outgoing {
            Outgoing::Event(delivery) => self.put_event(delivery, chunk),
            Outgoing::Frame(frame) => self.put_frame(frame, chunk),
        }
    }

    fn put_event(&self, delivery: &Delivery, chunk: &mut BytesMut) {
        let event = &delivery.event;
        if self.named && !is_reserved(&event.name) {
            put_line(chunk, b"event: ", event.name.as_bytes());
        }
        put_line(chunk, b"id: ", event.id());
        put_line(chunk, b"data: ", event.json());
        chunk.extend_from_slice(b"\n");
    }

    fn put_frame(&self, frame: &ServerFrame, chunk: &mut BytesMut) {
        if let ServerFrame::Closing {
            reconnect_after_ms, ..
        } = frame
        {
            let never = RETRY_NEVER.as_millis() as u64;
            let retry = reconnect_after_ms.unwrap_or(never).to_string();
            put_line(chunk, b"retry: ", retry.as_bytes());
        }
        put_line(chunk, b"event: ", frame.name().as_bytes());
        let id = match frame.stream_cursor() {
            Some(cursor) => cursor.to_owned(),
            None => {
                let session = &self.connection.session;
                session.shard().bus().cursor(session.position())
            }
        };
        put_line(chunk, b"id: ", id.as_bytes());
        put_line(chunk, b"data: ", &frame.to_json());
        chunk.extend_from_slice(b"\n");
    }
}

fn put_line(chunk: &mut BytesMut, field: &[u8], value: &[u8]) {
    chunk.reserve(field.len() + value.len() + 2);
    chunk.extend_from_slice(field);
    chunk.extend_from_slice(value);
    chunk.extend_from_slice(b"\n");
}

/// Names that the gateway's own frames have, and `error`, which EventSource fires itself.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "connected" | "live" | "heartbeat" | "reset" | "closing" | "error"
    )
}
