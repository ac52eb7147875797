//! Frames in the subprotocol's encoding (RFC 6455, section 5).

use actix_web::HttpResponse;
use bytes::{Bytes, BytesMut};

use crate::{
    event::{BINARY_FRAME, TEXT_FRAME, put_frame_header},
    protocol::{ServerFrame, json_to_msgpack},
    session::Delivery,
};

pub const JSON_SUBPROTOCOL: &str = "tribus.json.v1";
pub const MSGPACK_SUBPROTOCOL: &str = "tribus.msgpack.v1";

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Msgpack,
}

impl Encoding {
    pub fn negotiated(response: &HttpResponse<()>) -> Self {
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
