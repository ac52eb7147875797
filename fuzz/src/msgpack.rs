//! MessagePack from clients: its JSON form has the same value, and goes on as a message.

use rmpv::Value;
use serde_json::value::RawValue;
use tribus::protocol::{json_to_msgpack, msgpack_to_json};

use crate::frames;

pub fn check(data: &[u8]) {
    let Ok(json) = msgpack_to_json(data) else {
        return;
    };
    assert!(serde_json::from_str::<&RawValue>(&json).is_ok(), "{json}");
    assert!(!json.contains(['\n', '\r']));
    assert!(
        json.len() <= 6 * data.len(),
        "{} bytes of {}",
        json.len(),
        data.len()
    );
    let packed = json_to_msgpack(json.as_bytes());
    assert!(are_equal(&read(data), &read(&packed)), "{json}");
    let again = msgpack_to_json(&packed).expect("what was made of JSON has a JSON form");
    let settled = msgpack_to_json(&json_to_msgpack(again.as_bytes()));
    assert_eq!(settled.as_ref(), Ok(&again));
    frames::check_text(&json);
}

/// The value as an independent reader sees it.
fn read(mut packed: &[u8]) -> Value {
    let value = rmpv::decode::read_value(&mut packed).expect("MessagePack");
    assert!(packed.is_empty());
    value
}

/// Floats may have become wider.
fn are_equal(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len()
                && before
                    .iter()
                    .zip(after)
                    .all(|(before, after)| are_equal(before, after))
        }
        (Value::Map(before), Value::Map(after)) => {
            before.len() == after.len()
                && before
                    .iter()
                    .zip(after)
                    .all(|(before, after)| before.0 == after.0 && are_equal(&before.1, &after.1))
        }
        (Value::F32(before), Value::F64(after)) => *before == *after as f32,
        (Value::F64(before), Value::F64(after)) => before.to_bits() == after.to_bits(),
        _ => before == after,
    }
}
