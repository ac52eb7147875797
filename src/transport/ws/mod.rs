//! `/ws`: WebSocket (protocol, section 4; RFC 6455).
//!
//! ```text
//!   handshake ──▶ credential in the URL or a header? ── no ──▶ AwaitingAuth ── auth ──▶ Open
//!                        │ yes                                 │ 5 s, or anything else
//!                        ├─ good ──▶ Open                      ▼
//!                        └─ bad ───▶ error, Close 1008       error, Close 4001 to 4003
//! ```
//!
//! Two layers, each of which is polled by the one above it; at the top the connection's own
//! dispatcher polls the response body, so there is no task per connection:
//!
//! - the protocol: `socket` turns bytes into messages or an end, answers Ping and Close, and holds
//!   the frames that overtake others; `frame_guard` judges frames in front of the decoder;
//!   `silence` says when a client is gone; `autobahn` runs the Autobahn test suite against this
//!   layer;
//! - the client: here is its life from the handshake on, and what goes out; `incoming` does what
//!   it says, and `work` keeps its effects in order; `framing` puts that into the subprotocol's form. Events are the bus's shared frames.

#[cfg(test)]
mod autobahn;
mod frame_guard;
mod framing;
mod incoming;
mod silence;
mod socket;
mod work;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    web,
};
use bytes::Bytes;
use framing::{Encoding, JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, event_frame, put_frame};
use incoming::Strikes;
use socket::{WsSocket, put_close};
use tokio::time::Sleep;
use work::Work;

use super::{
    connection::NoPlace,
    connection::{connection_data, lifeline},
    credentials::{Authentication, authenticate},
    http::charge_stream,
    pulse::{Pulse, poll_next},
    worker::{Connection, ConnectionSlot, Here, Worker},
};
use crate::{
    auth::Identity,
    limits::ConnectionLimiter,
    metrics::{Credential, Endpoint},
    protocol::{
        CloseReason, ErrorCode, Query, Ref, Refusal, ServerFrame, SubscribeRequest, Transport,
    },
    session::{Outgoing, Peer, Sever, Tally},
};

/// How long a connection without a credential may take to send one.
const AUTH_DEADLINE: Duration = Duration::from_secs(5);
/// Pending events are joined into chunks of about this size.
const CHUNK_BYTES: usize = 16 * 1024;

pub async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    Here(worker): Here,
) -> Result<HttpResponse, Refusal> {
    let (response, socket) = WsSocket::accept(
        &request,
        payload,
        &[JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL],
        worker.shared.settings.message_bytes,
    )
    .await?;
    let mut body = WsBody {
        encoding: Encoding::negotiated(&response),
        socket,
        limiter: connection_data::<Arc<ConnectionLimiter>>(&request),
        lifeline: lifeline(&request),
        stage: Stage::Ended,
        work: Work::None,
        strikes: Strikes::default(),
        peer: Peer {
            transport: Transport::WebSocket,
            address: worker.client_address(&request),
        },
        worker,
    };
    body.start(&request).await;
    Ok(response.set_body(body).map_into_boxed_body())
}

enum Stage {
    AwaitingAuth {
        /// What the URL asks for, once it is known who asks.
        query: Box<Result<Query, Refusal>>,
        slot: ConnectionSlot,
        deadline: Pin<Box<Sleep>>,
    },
    Open(Box<Open>),
    /// Nothing more is read or queued; what the socket has to send is the last.
    Ended,
}

struct Open {
    connection: Connection,
    pulse: Pulse,
    next_ping: Instant,
}

/// The body of an upgraded response: one client's connection.
struct WsBody {
    socket: WsSocket,
    worker: Rc<Worker>,
    limiter: Option<Arc<ConnectionLimiter>>,
    lifeline: Option<Rc<dyn Sever>>,
    encoding: Encoding,
    stage: Stage,
    work: Work,
    strikes: Strikes,
    peer: Peer,
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
        let chunk = this.next_chunk(cx);
        this.socket.sent(chunk.is_some());
        if let Some(chunk) = chunk {
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
        if let Some(NoPlace(refusal)) = request.extensions_mut().remove::<NoPlace>() {
            return self.refuse_connection(&refusal);
        }
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
        let connection = match self.worker.open(identity, self.peer, slot) {
            Ok(connection) => connection,
            Err(refusal) => return self.refuse_connection(&refusal),
        };
        let lifeline = self.lifeline.take();
        connection
            .session
            .with(|session| session.set_lifeline(lifeline));
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
                self.note_refusal(refusal);
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
        self.note_refusal(refusal);
        let frame = ServerFrame::error(refusal, reference);
        put_frame(self.socket.out(), self.encoding, &frame);
        self.close(close);
    }

    /// Sends Close as the last frame, and lets go of the session.
    fn close(&mut self, reason: CloseReason) {
        self.socket.close(reason);
        if let Stage::Open(open) = &self.stage {
            open.connection
                .session
                .with(|session| session.end_as(reason));
        }
        self.end();
    }

    fn end(&mut self) {
        self.work = Work::None;
        self.stage = Stage::Ended;
    }

    fn note_refusal(&self, refusal: &Refusal) {
        let (worker, address) = (&self.worker, self.peer.address);
        worker.note_refusal(Endpoint::Ws, refusal, address);
    }

    fn note_auth_failure(&self, credential: Credential, refusal: &Refusal) {
        let (worker, address) = (&self.worker, self.peer.address);
        worker.note_auth_failure(credential, refusal, address);
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
                    self.note_auth_failure(Credential::None, &refusal);
                    self.refuse(&refusal, None, reason);
                }
            }
            Stage::Open(open) => open.keep_time(&mut self.socket, cx),
            Stage::Ended => {}
        }
    }

    /// Everything that is ready to be sent, up to a chunk's size.
    fn next_chunk(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        let mut chunk = self.socket.take_out();
        let mut tally = Tally::default();
        while let Stage::Open(open) = &self.stage
            && chunk.len() < CHUNK_BYTES
        {
            let session = &open.connection.session;
            let next = poll_next(session, cx);
            if let Poll::Ready(Some(outgoing)) = &next {
                tally.note(outgoing);
            }
            match next {
                Poll::Ready(Some(Outgoing::Event(delivery))) => {
                    let frame = event_frame(&delivery, self.encoding);
                    if chunk.is_empty() && !session.with(|session| session.has_mail()) {
                        session.count_sent(&tally, frame.len());
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
                    session.count_sent(&tally, chunk.len());
                    self.end();
                    return Some(chunk.freeze());
                }
                Poll::Pending => break,
            }
        }
        if chunk.is_empty() {
            return None;
        }
        match &self.stage {
            Stage::Open(open) => open.connection.session.count_sent(&tally, chunk.len()),
            Stage::AwaitingAuth { .. } | Stage::Ended => {
                let metrics = self.worker.metrics();
                metrics.sent_bytes(Transport::WebSocket, chunk.len());
            }
        }
        Some(chunk.freeze())
    }
}

impl Open {
    fn keep_time(&mut self, socket: &mut WsSocket, cx: &mut Context<'_>) {
        let session = &self.connection.session;
        while self.pulse.fired(cx) {
            let now = Instant::now();
            let heartbeat = self.pulse.heartbeat();
            let mut next = self.pulse.tick(session, now);
            if socket.was_full() {
                // The client is still reading what came before the last Ping. One that reads
                // nothing at all is left to the time for which a write may stall.
                socket.excuse_silence();
            }
            if now >= self.next_ping {
                socket.ping();
                self.next_ping = now + heartbeat;
            }
            let silent_at = socket.silence_ends(heartbeat);
            if now >= silent_at {
                session.with(|session| session.close(CloseReason::Silent, Duration::ZERO));
            } else {
                next = next.min(silent_at);
            }
            self.pulse.arm(next.min(self.next_ping));
        }
    }
}
