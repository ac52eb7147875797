//! JSON to MessagePack: an independent reader sees the same value. Whatever is no JSON does no harm.

use rmpv::Value as Packed;
use serde_json::value::RawValue;
use tribus::protocol::json_to_msgpack;

use crate::pairs::Pairs;

/// What every float holds (C's `DBL_DIG`).
const DIGITS_OF_A_FLOAT: usize = 15;

pub fn check(data: &[u8]) {
    let packed = json_to_msgpack(data);
    let Ok(value) = serde_json::from_slice::<&RawValue>(data) else {
        return;
    };
    let mut rest = &packed[..];
    // The bound is the reader's, and above what any event or message may nest.
    let packed = match rmpv::decode::read_value_with_max_depth(&mut rest, 512) {
        Ok(packed) => packed,
        Err(rmpv::decode::Error::DepthLimitExceeded) => return,
        Err(error) => panic!("{error}"),
    };
    assert!(rest.is_empty());
    check_equal(value.get(), &packed);
}

fn check_equal(json: &str, packed: &Packed) {
    match (json.as_bytes()[0], packed) {
        (b'n', Packed::Nil) => {}
        (b't', Packed::Boolean(got)) => assert!(got),
        (b'f', Packed::Boolean(got)) => assert!(!got),
        (b'"', Packed::String(_)) => check_string(json, packed),
        (b'[', Packed::Array(got)) => {
            let items: Vec<&RawValue> = serde_json::from_str(json).expect("a list");
            assert_eq!(items.len(), got.len());
            let pairs = items.iter().zip(got);
            pairs.for_each(|(item, packed)| check_equal(item.get(), packed));
        }
        (b'{', Packed::Map(got)) => check_object(json, got),
        (b'-' | b'0'..=b'9', _) => check_number(json, packed),
        _ => panic!("{json} became {packed}"),
    }
}

fn check_string(json: &str, packed: &Packed) {
    // One with a lone surrogate has no form in UTF-8, so anything may stand for it.
    if let Ok(expected) = serde_json::from_str::<String>(json) {
        assert_eq!(packed.as_str(), Some(expected.as_str()));
    }
}

fn check_object(json: &str, got: &[(Packed, Packed)]) {
    let Ok(Pairs(fields)) = serde_json::from_str(json) else {
        return;
    };
    assert_eq!(fields.len(), got.len());
    for ((name, value), (key, packed)) in fields.iter().zip(got) {
        assert_eq!(key.as_str(), Some(name.as_str()));
        check_equal(value.get(), packed);
    }
}

/// An integer that fits is one, and what a float holds is one. The rest are strings.
fn check_number(digits: &str, packed: &Packed) {
    let is_integer =
        digits != "-0" && (digits.parse::<u64>().is_ok() || digits.parse::<i64>().is_ok());
    match packed {
        Packed::Integer(got) => assert_eq!(got.to_string(), digits),
        Packed::F64(got) => {
            assert!(!is_integer, "{digits}");
            let expected: f64 = digits.parse().expect("a number");
            assert_eq!(got.to_bits(), expected.to_bits(), "{digits}");
        }
        Packed::String(got) => {
            assert!(!is_integer && !surely_fits(digits), "{digits}");
            assert_eq!(got.as_str(), Some(digits));
        }
        _ => panic!("{digits} became {packed}"),
    }
}

fn surely_fits(digits: &str) -> bool {
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    let significant = mantissa.bytes().filter(u8::is_ascii_digit).count();
    significant <= DIGITS_OF_A_FLOAT && digits.parse().is_ok_and(f64::is_normal)
}
