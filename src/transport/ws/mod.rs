//! `/ws`: WebSocket (protocol, section 4; RFC 6455).
//!
//! ```text
//!   handshake ──▶ credential in the URL or a header? ── no ──▶ AwaitingAuth ── auth ──▶ Open
//!                        │ yes                                 │ 5 s, or anything else
//!                        ├─ good ──▶ Open                      ▼
//!                        └─ bad ───▶ error, Close 1008       error, Close 4001 to 4003
//! ```
//!
//! No task per connection: the response body is polled by the connection's own dispatcher, and
//! polls the incoming messages in turn. Outgoing events are the shared frames of the bus.

mod framing;
mod incoming;

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev,
    error::PayloadError,
    web,
};
use actix_ws::AggregatedMessageStream;
use bytes::{Bytes, BytesMut};
use framing::{
    Encoding, JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, event_frame, put_close, put_frame, put_ping,
};
use incoming::{Strikes, Work};
use tokio::time::Sleep;
use tokio_stream::Stream;

use super::{
    credentials::{Authentication, authenticate},
    frame_guard::{FrameGuard, TooLarge},
    http::charge_stream,
    pulse::{Pulse, poll_next},
    worker::{Connection, ConnectionSlot, Here, Worker},
};
use crate::{
    auth::Identity,
    limits::ConnectionLimiter,
    protocol::{CloseReason, ErrorCode, Query, Ref, Refusal, ServerFrame, SubscribeRequest},
    session::Outgoing,
};

/// How long a connection without a credential may take to send one.
const AUTH_DEADLINE: Duration = Duration::from_secs(5);
/// Nothing received for so many heartbeats, Pongs included, and the client is taken for gone.
const SILENT_HEARTBEATS: f64 = 2.5;
/// Pending events are joined into chunks of about this size.
const CHUNK_BYTES: usize = 16 * 1024;

pub async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    Here(worker): Here,
) -> Result<HttpResponse, Refusal> {
    let max_bytes = worker.shared.settings.message_bytes;
    let too_large = TooLarge::default();
    let guarded = FrameGuard::new(payload, max_bytes, Rc::clone(&too_large));
    let (response, _, messages) = actix_ws::handle_with_protocols(
        &request,
        as_payload(&request, guarded).await?,
        &[JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL],
    )
    .map_err(|_| {
        Refusal::bad_request("this is a WebSocket endpoint: connect with a WebSocket client")
    })?;
    let encoding = Encoding::negotiated(&response);
    let (response, handshake_body) = response.into_parts();
    let mut body = WsBody {
        _handshake_body: handshake_body,
        incoming: messages
            .max_frame_size(max_bytes)
            .aggregate_continuations()
            .max_continuation_size(max_bytes),
        too_large,
        limiter: request.conn_data::<Arc<ConnectionLimiter>>().cloned(),
        address: worker.client_address(&request),
        encoding,
        stage: Stage::Ended,
        work: None,
        out: BytesMut::new(),
        last_received: Instant::now(),
        strikes: Strikes::default(),
        worker,
    };
    body.start(&request).await;
    Ok(response.set_body(body).map_into_boxed_body())
}

/// The form in which `actix_ws` takes a body.
async fn as_payload(request: &HttpRequest, stream: FrameGuard) -> Result<web::Payload, Refusal> {
    let stream: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(stream);
    let mut payload = dev::Payload::Stream { payload: stream };
    web::Payload::from_request(request, &mut payload)
        .await
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
}

enum Stage {
    AwaitingAuth {
        /// What the URL asks for, once it is known who asks.
        query: Box<Result<Query, Refusal>>,
        slot: ConnectionSlot,
        deadline: Pin<Box<Sleep>>,
    },
    Open(Box<Open>),
    /// Nothing more is read or queued; what is in `out` is the last.
    Ended,
}

struct Open {
    connection: Connection,
    pulse: Pulse,
    next_ping: Instant,
}

/// The body of an upgraded response: one client's connection.
struct WsBody {
    /// `actix_ws` ends the incoming stream when its own body is dropped. It is never polled,
    /// since nothing is ever queued on it.
    _handshake_body: BoxBody,
    incoming: AggregatedMessageStream,
    too_large: TooLarge,
    worker: Rc<Worker>,
    limiter: Option<Arc<ConnectionLimiter>>,
    address: Option<IpAddr>,
    encoding: Encoding,
    stage: Stage,
    work: Option<Work>,
    /// Frames that do not wait behind events: control frames, and all before the session opens.
    out: BytesMut,
    last_received: Instant,
    strikes: Strikes,
}

impl MessageBody for WsBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        this.receive(cx);
        this.keep_time(cx);
        if let Some(chunk) = this.next_chunk(cx) {
            return Poll::Ready(Some(Ok(chunk)));
        }
        match this.stage {
            Stage::Ended => Poll::Ready(None),
            Stage::AwaitingAuth { .. } | Stage::Open(_) => Poll::Pending,
        }
    }
}

/// From the handshake to the open session.
impl WsBody {
    /// Before the handshake is answered, so that nothing is read until it is known who asks.
    async fn start(&mut self, request: &HttpRequest) {
        let query = Query::parse(request.query_string());
        let slot = match charge_stream(request, &self.worker).and_then(|()| self.worker.admit()) {
            Ok(slot) => slot,
            Err(refusal) => return self.refuse_connection(&refusal),
        };
        match authenticate(request, &self.worker).await {
            Authentication::Client(client) => self.open(client.identity, slot, query),
            Authentication::Refused(refusal) => self.refuse_connection(&refusal),
            Authentication::None => {
                self.stage = Stage::AwaitingAuth {
                    query: Box::new(query),
                    slot,
                    deadline: Box::pin(tokio::time::sleep(AUTH_DEADLINE)),
                };
            }
        }
    }

    fn open(
        &mut self,
        identity: Arc<Identity>,
        slot: ConnectionSlot,
        query: Result<Query, Refusal>,
    ) {
        let heartbeat = self.worker.shared.settings.heartbeat;
        let pulse = Pulse::new(&identity, heartbeat);
        let connection = match self.worker.open(identity, slot) {
            Ok(connection) => connection,
            Err(refusal) => return self.refuse_connection(&refusal),
        };
        self.stage = Stage::Open(Box::new(Open {
            connection,
            pulse,
            next_ping: Instant::now() + heartbeat,
        }));
        let limits = self.worker.shared.settings.subscriptions;
        match query.and_then(|query| query.subscriptions(limits)) {
            Ok(request) => self.start_first(request),
            Err(refusal) => self.refuse_url(&refusal),
        }
    }

    /// Starts what the URL asks for; `connected` announces it.
    fn start_first(&mut self, request: SubscribeRequest) {
        let announcement = self.worker.connected("connected");
        self.start_subscribing(request, announcement);
    }

    /// An error in the URL: the connection stays, without what the URL asked for, unless the
    /// error is one that ends connections.
    fn refuse_url(&mut self, refusal: &Refusal) {
        match refusal.connection_close() {
            CloseReason::Refused => {
                self.reply(ServerFrame::error(refusal, None));
                self.start_first(SubscribeRequest::default());
            }
            close => self.refuse(refusal, None, close),
        }
    }

    fn refuse_connection(&mut self, refusal: &Refusal) {
        self.refuse(refusal, None, refusal.connection_close());
    }

    /// Ends the connection with an `error` that says why.
    fn refuse(&mut self, refusal: &Refusal, reference: Option<Ref>, close: CloseReason) {
        let frame = ServerFrame::error(refusal, reference);
        put_frame(&mut self.out, self.encoding, &frame);
        self.close(close);
    }

    /// Sends Close as the last frame, and lets go of the session.
    fn close(&mut self, reason: CloseReason) {
        put_close(&mut self.out, Some(reason.code()), reason.message());
        self.work = None;
        self.stage = Stage::Ended;
    }
}

/// What goes to the client.
impl WsBody {
    fn keep_time(&mut self, cx: &mut Context<'_>) {
        match &mut self.stage {
            Stage::AwaitingAuth { deadline, .. } => {
                if deadline.as_mut().poll(cx).is_ready() {
                    let reason = CloseReason::AuthTimeout;
                    let refusal = Refusal::new(ErrorCode::Unauthorized, reason.message());
                    self.refuse(&refusal, None, reason);
                }
            }
            Stage::Open(open) => open.keep_time(&mut self.out, self.last_received, cx),
            Stage::Ended => {}
        }
    }

    /// Everything that is ready to be sent, up to a chunk's size.
    fn next_chunk(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let mut chunk = std::mem::take(&mut self.out);
        while let Stage::Open(open) = &self.stage
            && chunk.len() < CHUNK_BYTES
        {
            let session = &open.connection.session;
            match poll_next(session, cx) {
                Poll::Ready(Some(Outgoing::Event(delivery))) => {
                    let frame = event_frame(&delivery, self.encoding);
                    if chunk.is_empty() && !session.with(|session| session.has_mail()) {
                        return Some(frame.clone());
                    }
                    chunk.extend_from_slice(frame);
                }
                Poll::Ready(Some(Outgoing::Frame(frame))) => {
                    put_frame(&mut chunk, self.encoding, &frame);
                }
                Poll::Ready(None) => {
                    let closed = session.with(|session| session.closed());
                    let reason = closed.unwrap_or(CloseReason::Internal);
                    put_close(&mut chunk, Some(reason.code()), reason.message());
                    self.work = None;
                    self.stage = Stage::Ended;
                }
                Poll::Pending => break,
            }
        }
        (!chunk.is_empty()).then(|| chunk.freeze())
    }
}

impl Open {
    fn keep_time(&mut self, out: &mut BytesMut, last_received: Instant, cx: &mut Context<'_>) {
        let session = &self.connection.session;
        while self.pulse.fired(cx) {
            let now = Instant::now();
            let heartbeat = self.pulse.heartbeat();
            let mut next = self.pulse.tick(session, now);
            if now >= self.next_ping {
                put_ping(out);
                self.next_ping = now + heartbeat;
            }
            let silent_at = last_received + heartbeat.mul_f64(SILENT_HEARTBEATS);
            if now >= silent_at {
                session.with(|session| session.close(CloseReason::Silent, Duration::ZERO));
            } else {
                next = next.min(silent_at);
            }
            self.pulse.arm(next.min(self.next_ping));
        }
    }
}
