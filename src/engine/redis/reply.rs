//! Answers of Redis, taken apart. Nothing here trusts what came.

use redis::Value;

use super::server::Trouble;

pub fn list(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(list) => Some(list),
        _ => None,
    }
}

pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A number, also one that came as its digits.
pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// What came is not what was asked for.
pub fn strange(what: &'static str) -> impl FnOnce() -> Trouble {
    move || Trouble::Strange(what)
}
