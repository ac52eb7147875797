//! What every accepted event keeps to, whichever way it came.

use tribus::{
    event::{Draft, Event},
    protocol::{PublishLimits, Publisher, json_to_msgpack},
    topic::Tenant,
};

/// Small, so that the bounds are met.
pub const LIMITS: PublishLimits = PublishLimits {
    event_bytes: 4096,
    nesting: 16,
    own_topics: None,
};

pub const SUBJECT: &str = "alice";

const ID: &str = "log-18446744073709551615";

pub fn publisher(trusted: bool) -> Publisher<'static> {
    static NOWHERE: Tenant = Tenant::none();
    Publisher {
        subject: SUBJECT,
        tenant: &NOWHERE,
        trusted,
        trace_id: None,
    }
}

/// The draft's event: one line of JSON within the limits, a WebSocket frame around it, and a
/// MessagePack form.
pub fn sealed(draft: Draft) -> Event {
    let bound = draft.max_encoded_len();
    assert!(bound <= LIMITS.event_bytes);
    let event = draft.seal(&ID.parse().expect("a cursor"), std::time::Instant::now());
    let json = event.json();
    assert!(json.len() <= bound && !json.contains(&b'\n') && !json.contains(&b'\r'));
    assert!(std::str::from_utf8(json).is_ok());
    assert_eq!(payload(event.ws_frame()), json);
    let packed = json_to_msgpack(json);
    let mut rest = &packed[..];
    let value = rmpv::decode::read_value(&mut rest).expect("an event has a MessagePack form");
    assert!(rest.is_empty());
    assert_eq!(value["topic"].as_str(), Some(event.topic.as_str()));
    assert_eq!(value["id"].as_str(), Some(ID));
    event
}

/// The payload of a whole unmasked text frame (RFC 6455, section 5.2).
fn payload(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[0], 0x81);
    let (len, payload) = match frame[1] {
        126 => (
            usize::from(u16::from_be_bytes([frame[2], frame[3]])),
            &frame[4..],
        ),
        short => (usize::from(short), &frame[2..]),
    };
    assert_eq!(payload.len(), len);
    payload
}
