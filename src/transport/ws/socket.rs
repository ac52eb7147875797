//! The WebSocket protocol itself (RFC 6455), below what clients and gateway have to say.
//!
//! ```text
//!   request's payload ─▶ FrameGuard ─▶ actix_ws ─▶ WsSocket ─▶ Message, or the End
//!                                                     │
//!                      response's body ◀── out ◀──────┘ Pongs, Close
//! ```
//!
//! What sits on a socket is a response body: it takes messages with [`WsSocket::poll_message`]
//! each time it is polled, and gives out [`WsSocket::take_out`] with its own frames behind it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    body::BoxBody,
    dev,
    error::PayloadError,
    http::{Version, header},
    web,
};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, ProtocolError};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio_stream::Stream;

use super::{
    frame_guard::{FrameGuard, Gate},
    silence::Silence,
};
use crate::{
    event::put_frame_header,
    protocol::{CloseReason, ErrorCode, Refusal},
};

const CLOSE_FRAME: u8 = 0x88;
const PING_FRAME: u8 = 0x89;
const PONG_FRAME: u8 = 0x8a;

/// What has come; a clone shares its bytes.
#[derive(Clone, Debug)]
pub enum Message {
    Text(ByteString),
    Binary(Bytes),
    /// A Ping, which is answered already, or a Pong.
    Control,
}

impl Message {
    /// Bytes of its payload. A control frame has 125 at most, and counts as a message.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Control => 0,
        }
    }
}

/// Why nothing more comes.
#[derive(Debug)]
pub enum End {
    /// By a Close, which is answered already, or without.
    Left,
    /// For this the connection is to be closed.
    Violation(CloseReason),
}

/// One WebSocket connection after its handshake.
pub struct WsSocket {
    /// `actix_ws` ends the incoming stream when its own body is dropped. It is never polled,
    /// since nothing is ever queued on it.
    _handshake_body: BoxBody,
    incoming: AggregatedMessageStream,
    gate: Rc<Gate>,
    /// Frames that do not wait behind those of the layer above.
    out: BytesMut,
    silence: Silence,
    was_full: bool,
}

impl WsSocket {
    /// Answers the handshake (RFC 6455, section 4.2). Messages, fragmented or not, may have
    /// `max_bytes`; the first of the client's subprotocols that is among `subprotocols` is chosen.
    ///
    /// # Errors
    /// `bad_request` where the request is no handshake.
    pub async fn accept(
        request: &HttpRequest,
        payload: web::Payload,
        subprotocols: &[&str],
        max_bytes: usize,
    ) -> Result<(HttpResponse<()>, Self), Refusal> {
        refuse_ambiguous_handshake(request)?;
        let gate = Rc::new(Gate::default());
        let guarded = FrameGuard::new(payload, max_bytes, Rc::clone(&gate));
        let guarded = as_payload(request, guarded).await?;
        let (response, _, messages) =
            actix_ws::handle_with_protocols(request, guarded, subprotocols).map_err(|_| {
                Refusal::bad_request(
                    "this is a WebSocket endpoint: connect with a WebSocket client",
                )
            })?;
        let (response, handshake_body) = response.into_parts();
        let socket = Self {
            _handshake_body: handshake_body,
            incoming: messages
                .max_frame_size(max_bytes)
                .aggregate_continuations()
                .max_continuation_size(max_bytes),
            gate,
            out: BytesMut::new(),
            silence: Silence::new(Instant::now()),
            was_full: false,
        };
        Ok((response, socket))
    }

    /// The client's next message. After an end it must not be asked again.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, End>> {
        let next = loop {
            match Pin::new(&mut self.incoming).poll_next(cx) {
                // A fragment, which is no message by itself.
                Poll::Pending if self.gate.is_paused() => {}
                Poll::Pending => return Poll::Pending,
                Poll::Ready(next) => break next,
            }
        };
        self.excuse_silence();
        Poll::Ready(match next {
            Some(Ok(message)) => self.take_message(message),
            Some(Err(error)) if client_has_left(&error) => Err(End::Left),
            Some(Err(error)) => Err(End::Violation(close_reason_of(&error))),
            None => Err(self.gate.refused().map_or(End::Left, End::Violation)),
        })
    }

    fn take_message(&mut self, message: AggregatedMessage) -> Result<Message, End> {
        match message {
            AggregatedMessage::Text(text) => Ok(Message::Text(text)),
            AggregatedMessage::Binary(bytes) => Ok(Message::Binary(bytes)),
            AggregatedMessage::Ping(data) => {
                put_control(&mut self.out, PONG_FRAME, &data);
                Ok(Message::Control)
            }
            AggregatedMessage::Pong(_) => Ok(Message::Control),
            AggregatedMessage::Close(reason) => {
                put_close(&mut self.out, reason.map(|reason| reason.code.into()), "");
                Err(End::Left)
            }
        }
    }

    /// Where frames are put that do not wait behind those of the layer above.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Takes what is to be sent before anything else.
    pub fn take_out(&mut self) -> BytesMut {
        std::mem::take(&mut self.out)
    }

    pub fn ping(&mut self) {
        self.silence.asked(Instant::now());
        put_control(&mut self.out, PING_FRAME, b"");
    }

    pub fn close(&mut self, reason: CloseReason) {
        put_close(&mut self.out, Some(reason.code()), reason.message());
    }

    /// When the client is taken for gone, if nothing is received until then.
    pub fn silence_ends(&self, heartbeat: Duration) -> Instant {
        self.silence.end(heartbeat)
    }

    /// Lets silence count from now, for a client that was not listened to, or that could not be
    /// asked.
    pub fn excuse_silence(&mut self) {
        self.silence.restart(Instant::now());
    }

    /// Notes how a poll of the body ended: with something to send, or without.
    pub fn sent(&mut self, something: bool) {
        self.was_full = something;
    }

    /// Whether the connection had no room since the body was last polled: actix asks on until
    /// there is nothing to send, or its buffer is full because the client reads too slowly.
    pub fn was_full(&self) -> bool {
        self.was_full
    }
}

/// What one HTTP parser takes for a handshake and another does not would let a client smuggle
/// requests past a proxy that has seen 101: actix's checks are laxer than RFC 6455 (sections 4.1 and
/// 11.3), and a body of its own would end the frames.
fn refuse_ambiguous_handshake(request: &HttpRequest) -> Result<(), Refusal> {
    let headers = request.headers();
    if request.version() < Version::HTTP_11 {
        return Err(Refusal::bad_request(
            "a WebSocket needs HTTP/1.1: a proxy in between may have to be told so",
        ));
    }
    for name in [
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
    ] {
        if headers.get_all(&name).count() > 1 {
            return Err(Refusal::bad_request(format!("more than one {name} header")));
        }
    }
    let upgrade = headers.get(header::UPGRADE);
    if upgrade.is_some_and(|to| !to.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::bad_request(
            "the Upgrade header must be `websocket` and nothing else",
        ));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || length.is_some_and(|length| length != "0");
    if has_body {
        return Err(Refusal::bad_request("a WebSocket handshake has no body"));
    }
    Ok(())
}

/// The form in which `actix_ws` takes a body.
async fn as_payload(request: &HttpRequest, stream: FrameGuard) -> Result<web::Payload, Refusal> {
    let stream: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(stream);
    let mut payload = dev::Payload::Stream { payload: stream };
    web::Payload::from_request(request, &mut payload)
        .await
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
}

/// A Close frame (RFC 6455, section 5.5.1). Our reasons all fit into a control frame.
pub fn put_close(out: &mut BytesMut, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return put_control(out, CLOSE_FRAME, b"");
    };
    put_frame_header(out, CLOSE_FRAME, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

fn put_control(out: &mut BytesMut, first_byte: u8, data: &[u8]) {
    put_frame_header(out, first_byte, data.len());
    out.extend_from_slice(data);
}

/// Whether the connection ended under way, of which `actix_ws` makes an error of the protocol.
fn client_has_left(error: &ProtocolError) -> bool {
    match error {
        ProtocolError::Io(io) => io.get_ref().is_some_and(|error| error.is::<PayloadError>()),
        _ => false,
    }
}

/// `actix_ws` reports UTF-8, reserved bits and sizes all as I/O errors, told apart by their text.
fn close_reason_of(error: &ProtocolError) -> CloseReason {
    match error {
        ProtocolError::Overflow => CloseReason::TooLarge,
        ProtocolError::Io(io) => {
            let text = io.to_string().to_ascii_lowercase();
            if text.contains("utf-8") {
                CloseReason::BadUtf8
            } else if text.contains("maximum continuation size") {
                CloseReason::TooLarge
            } else {
                CloseReason::ProtocolViolation
            }
        }
        _ => CloseReason::ProtocolViolation,
    }
}
