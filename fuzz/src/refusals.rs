//! Every refusal becomes a small error frame of one line, in both encodings.

use serde_json::Value;
use tribus::protocol::{Ref, Refusal, ServerFrame, json_to_msgpack};

/// The most that a message may take, whatever it is about: it can be asked for again and again.
const MAX_MESSAGE_BYTES: usize = 1536;

pub fn check(refusal: &Refusal, reference: Option<Ref>) {
    let message = &refusal.message;
    assert!(
        message.len() <= MAX_MESSAGE_BYTES,
        "{} bytes: {message}",
        message.len()
    );
    let json = ServerFrame::error(refusal, reference).to_json();
    assert!(!json.contains(&b'\n') && !json.contains(&b'\r'));
    let packed = json_to_msgpack(&json);
    let mut rest = &packed[..];
    rmpv::decode::read_value(&mut rest).expect("a frame has a MessagePack form");
    assert!(rest.is_empty());
    // A `ref` may hold a lone surrogate, which is JSON, and which this reader does not take.
    if let Ok(frame) = serde_json::from_slice::<Value>(&json) {
        assert_eq!(frame["code"], refusal.code.as_str());
        assert_eq!(frame["message"], **message);
    }
}
