//! Frames in the subprotocol's encoding (RFC 6455, section 5).

use actix_web::{HttpResponse, error::PayloadError};
use actix_ws::ProtocolError;
use bytes::{Bytes, BytesMut};

use crate::{
    event::{BINARY_FRAME, TEXT_FRAME, put_frame_header},
    protocol::{CloseReason, ServerFrame, json_to_msgpack},
    session::Delivery,
};

pub const JSON_SUBPROTOCOL: &str = "tribus.json.v1";
pub const MSGPACK_SUBPROTOCOL: &str = "tribus.msgpack.v1";

const PING_FRAME: u8 = 0x89;
const PONG_FRAME: u8 = 0x8a;
const CLOSE_FRAME: u8 = 0x88;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Msgpack,
}

impl Encoding {
    pub fn negotiated(response: &HttpResponse) -> Self {
        let chosen = response.headers().get("sec-websocket-protocol");
        if chosen.is_some_and(|chosen| chosen == MSGPACK_SUBPROTOCOL) {
            Self::Msgpack
        } else {
            Self::Json
        }
    }
}

pub fn event_frame(delivery: &Delivery, encoding: Encoding) -> &Bytes {
    match encoding {
        Encoding::Json => delivery.event.ws_frame(),
        Encoding::Msgpack => delivery.msgpack_frame.get_or_init(|| {
            let mut frame = BytesMut::new();
            put_binary(&mut frame, &json_to_msgpack(delivery.event.json()));
            frame.freeze()
        }),
    }
}

pub fn put_frame(out: &mut BytesMut, encoding: Encoding, frame: &ServerFrame) {
    let json = frame.to_json();
    match encoding {
        Encoding::Json => {
            put_frame_header(out, TEXT_FRAME, json.len());
            out.extend_from_slice(&json);
        }
        Encoding::Msgpack => put_binary(out, &json_to_msgpack(&json)),
    }
}

fn put_binary(out: &mut BytesMut, packed: &[u8]) {
    put_frame_header(out, BINARY_FRAME, packed.len());
    out.extend_from_slice(packed);
}

/// A Ping without data.
pub fn put_ping(out: &mut BytesMut) {
    put_frame_header(out, PING_FRAME, 0);
}

/// The Pong that answers a Ping, with its data.
pub fn put_pong(out: &mut BytesMut, data: &[u8]) {
    put_frame_header(out, PONG_FRAME, data.len());
    out.extend_from_slice(data);
}

/// A Close frame (RFC 6455, section 5.5.1). Our reasons all fit into a control frame.
pub fn put_close(out: &mut BytesMut, code: Option<u16>, reason: &str) {
    let Some(code) = code else {
        return put_frame_header(out, CLOSE_FRAME, 0);
    };
    put_frame_header(out, CLOSE_FRAME, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Whether the connection ended under way, of which `actix_ws` makes an error of the protocol.
pub fn client_has_left(error: &ProtocolError) -> bool {
    match error {
        ProtocolError::Io(io) => io.get_ref().is_some_and(|error| error.is::<PayloadError>()),
        _ => false,
    }
}

/// `actix_ws` reports UTF-8, reserved bits and sizes all as I/O errors, told apart by their text.
pub fn close_reason_of(error: &ProtocolError) -> CloseReason {
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
