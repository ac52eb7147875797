//! The MessagePack form of the protocol's objects (subprotocol `tribus.msgpack.v1`).
//!
//! Everything inside speaks JSON; this is the translation at the edge, in both directions.

use rmp::{Marker, decode, encode};

/// Deeper than the deepest `data` plus the message around it.
const MAX_NESTING: usize = 140;

/// A client's binary message that has no JSON form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsgpackError {
    #[error("the message ends in the middle of a value")]
    Truncated,
    #[error("there are bytes after the message's value")]
    TrailingBytes,
    #[error("binary and extension values have no JSON form: send strings")]
    NoJsonForm,
    #[error("NaN and infinity have no JSON form")]
    NotFinite,
    #[error("map keys must be strings")]
    KeyNotString,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("values nest too deep")]
    TooDeep,
}

/// Translates one MessagePack value to JSON. The result is bounded by the input: at most a few
/// bytes of JSON for each byte read.
///
/// # Errors
/// See [`MsgpackError`]; the input is hostile.
pub fn msgpack_to_json(mut input: &[u8]) -> Result<String, MsgpackError> {
    let mut json = Vec::with_capacity(input.len() * 2);
    value_to_json(&mut input, &mut json, MAX_NESTING)?;
    if !input.is_empty() {
        return Err(MsgpackError::TrailingBytes);
    }
    String::from_utf8(json).map_err(|_| MsgpackError::NotUtf8)
}

fn value_to_json(
    input: &mut &[u8],
    json: &mut Vec<u8>,
    depth_left: usize,
) -> Result<(), MsgpackError> {
    let Some(marker) = input.first().copied().map(Marker::from_u8) else {
        return Err(MsgpackError::Truncated);
    };
    match marker {
        Marker::Null => literal(input, json, b"null"),
        Marker::True => literal(input, json, b"true"),
        Marker::False => literal(input, json, b"false"),
        Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => {
            let number: u64 = decode::read_int(input).map_err(|_| MsgpackError::Truncated)?;
            json.extend_from_slice(number.to_string().as_bytes());
            Ok(())
        }
        Marker::FixNeg(_) | Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => {
            let number: i64 = decode::read_int(input).map_err(|_| MsgpackError::Truncated)?;
            json.extend_from_slice(number.to_string().as_bytes());
            Ok(())
        }
        Marker::F32 => {
            let number = decode::read_f32(input).map_err(|_| MsgpackError::Truncated)?;
            float(json, number.is_finite(), &number)
        }
        Marker::F64 => {
            let number = decode::read_f64(input).map_err(|_| MsgpackError::Truncated)?;
            float(json, number.is_finite(), &number)
        }
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => string(input, json),
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => {
            array_to_json(input, json, deeper(depth_left)?)
        }
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => {
            map_to_json(input, json, deeper(depth_left)?)
        }
        _ => Err(MsgpackError::NoJsonForm),
    }
}

fn deeper(depth_left: usize) -> Result<usize, MsgpackError> {
    depth_left.checked_sub(1).ok_or(MsgpackError::TooDeep)
}

fn literal(input: &mut &[u8], json: &mut Vec<u8>, text: &[u8]) -> Result<(), MsgpackError> {
    *input = &input[1..];
    json.extend_from_slice(text);
    Ok(())
}

fn float(
    json: &mut Vec<u8>,
    finite: bool,
    number: &impl serde::Serialize,
) -> Result<(), MsgpackError> {
    if !finite {
        return Err(MsgpackError::NotFinite);
    }
    serde_json::to_writer(json, number).map_err(|_| MsgpackError::NotFinite)
}

fn string<'a>(input: &mut &'a [u8], json: &mut Vec<u8>) -> Result<(), MsgpackError> {
    let whole: &'a [u8] = input;
    let (text, rest) = decode::read_str_from_slice(whole).map_err(|error| match error {
        decode::DecodeStringError::InvalidUtf8(..) => MsgpackError::NotUtf8,
        _ => MsgpackError::Truncated,
    })?;
    serde_json::to_writer(json, text).map_err(|_| MsgpackError::NotUtf8)?;
    *input = rest;
    Ok(())
}

fn array_to_json(
    input: &mut &[u8],
    json: &mut Vec<u8>,
    depth_left: usize,
) -> Result<(), MsgpackError> {
    let len = decode::read_array_len(input).map_err(|_| MsgpackError::Truncated)?;
    json.push(b'[');
    for index in 0..len {
        if index > 0 {
            json.push(b',');
        }
        value_to_json(input, json, depth_left)?;
    }
    json.push(b']');
    Ok(())
}

fn map_to_json(
    input: &mut &[u8],
    json: &mut Vec<u8>,
    depth_left: usize,
) -> Result<(), MsgpackError> {
    let len = decode::read_map_len(input).map_err(|_| MsgpackError::Truncated)?;
    json.push(b'{');
    for index in 0..len {
        if index > 0 {
            json.push(b',');
        }
        map_key(input, json)?;
        json.push(b':');
        value_to_json(input, json, depth_left)?;
    }
    json.push(b'}');
    Ok(())
}

fn map_key(input: &mut &[u8], json: &mut Vec<u8>) -> Result<(), MsgpackError> {
    match input.first().copied().map(Marker::from_u8) {
        None => Err(MsgpackError::Truncated),
        Some(Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
            string(input, json)
        }
        Some(_) => Err(MsgpackError::KeyNotString),
    }
}

/// Translates well-formed JSON to MessagePack: integers that fit become integers, other numbers
/// floats, and what no float holds a string of its digits.
///
/// MessagePack wants the length of each container before its values, so the JSON is walked twice.
pub fn json_to_msgpack(json: &[u8]) -> Vec<u8> {
    let lengths = container_lengths(json);
    let mut lengths = lengths.iter().copied();
    let mut out = Vec::with_capacity(json.len());
    for token in Tokens::new(json) {
        match token {
            Token::Open(b'[') => {
                let _ = encode::write_array_len(&mut out, lengths.next().unwrap_or(0));
            }
            Token::Open(_) => {
                let _ = encode::write_map_len(&mut out, lengths.next().unwrap_or(0));
            }
            Token::Close | Token::Comma => {}
            Token::String(raw) => {
                let _ = encode::write_str(&mut out, &unescape(raw));
            }
            Token::Bare(b"null") => {
                let _ = encode::write_nil(&mut out);
            }
            Token::Bare(b"true") => {
                let _ = encode::write_bool(&mut out, true);
            }
            Token::Bare(b"false") => {
                let _ = encode::write_bool(&mut out, false);
            }
            Token::Bare(digits) => number(&mut out, &String::from_utf8_lossy(digits)),
        }
    }
    out
}

/// The number of elements or entries of each container, in the order in which they open.
fn container_lengths(json: &[u8]) -> Vec<u32> {
    let mut lengths: Vec<u32> = Vec::new();
    let mut open: Vec<(usize, bool)> = Vec::new();
    for token in Tokens::new(json) {
        if !matches!(token, Token::Close | Token::Comma)
            && let Some((container, is_empty @ true)) = open.last_mut()
        {
            *is_empty = false;
            lengths[*container] += 1;
        }
        match token {
            Token::Open(_) => {
                open.push((lengths.len(), true));
                lengths.push(0);
            }
            Token::Close => {
                open.pop();
            }
            Token::Comma => {
                if let Some((container, _)) = open.last() {
                    lengths[*container] += 1;
                }
            }
            Token::String(_) | Token::Bare(_) => {}
        }
    }
    lengths
}

fn unescape(raw: &[u8]) -> String {
    if let Ok(text) = serde_json::from_slice::<String>(raw) {
        return text;
    }
    // A lone surrogate is well-formed JSON with no form in UTF-8.
    let inside = &raw[1..raw.len().saturating_sub(1).max(1)];
    String::from_utf8_lossy(inside).into_owned()
}

fn number(out: &mut Vec<u8>, digits: &str) {
    if let Ok(number) = digits.parse::<u64>() {
        let _ = encode::write_uint(out, number);
    } else if let (Ok(number), false) = (digits.parse::<i64>(), digits == "-0") {
        let _ = encode::write_sint(out, number);
    } else {
        match digits.parse::<f64>() {
            Ok(float) if float_holds(float, digits) => {
                let _ = encode::write_f64(out, float);
            }
            _ => {
                let _ = encode::write_str(out, digits);
            }
        }
    }
}

/// Whether the digits are the float's shortest decimal form, or, of a whole number, its exact one.
fn float_holds(float: f64, digits: &str) -> bool {
    if !float.is_finite() {
        return false;
    }
    let digits = decimal(digits);
    decimal(&format!("{float:e}")) == digits || decimal(&format!("{float:.0}")) == digits
}

/// Sign, significant digits without outer zeros, and the exponent of the last of them.
fn decimal(text: &str) -> (bool, String, i64) {
    let negative = text.starts_with('-');
    let (mantissa, exponent) = text
        .trim_start_matches('-')
        .split_once(['e', 'E'])
        .unwrap_or((text.trim_start_matches('-'), "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let significant = all.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return (negative, String::new(), 0);
    }
    let zeros_cut = (all.len() - all.trim_end_matches('0').len()) as i64;
    let exponent = exponent
        .saturating_sub(fraction.len() as i64)
        .saturating_add(zeros_cut);
    (negative, significant.to_owned(), exponent)
}

#[derive(Clone, Copy)]
enum Token<'a> {
    Open(u8),
    Close,
    Comma,
    /// With its quotes.
    String(&'a [u8]),
    /// A number or a literal.
    Bare(&'a [u8]),
}

/// Splits well-formed JSON into tokens; colons and white space are passed over.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    fn new(json: &'a [u8]) -> Self {
        Self { rest: json }
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = *self.rest.first()?;
            match first {
                b' ' | b'\t' | b'\n' | b'\r' | b':' => {
                    self.take(1);
                }
                b'[' | b'{' => {
                    self.take(1);
                    return Some(Token::Open(first));
                }
                b']' | b'}' => {
                    self.take(1);
                    return Some(Token::Close);
                }
                b',' => {
                    self.take(1);
                    return Some(Token::Comma);
                }
                b'"' => {
                    let len = string_len(self.rest);
                    return Some(Token::String(self.take(len)));
                }
                _ => {
                    let len = self
                        .rest
                        .iter()
                        .position(|byte| b" \t\n\r,:[]{}\"".contains(byte))
                        .unwrap_or(self.rest.len());
                    return Some(Token::Bare(self.take(len)));
                }
            }
        }
    }
}

/// The length of the string that begins here, with both quotes.
fn string_len(json: &[u8]) -> usize {
    let mut at = 1;
    while at < json.len() {
        match json[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through_rmpv(json: &str) -> rmpv::Value {
        let packed = json_to_msgpack(json.as_bytes());
        let mut rest = &packed[..];
        let value = rmpv::decode::read_value(&mut rest).unwrap();
        assert!(rest.is_empty(), "bytes left over for {json}");
        value
    }

    #[test]
    fn an_independent_reader_sees_the_same_value() {
        for json in [
            r#"{"a":[],"b":{},"c":[[1],[2,3]],"d":"x\n\u00e9\"","e":null,"f":true}"#,
            r#"[1,-1,255,65536,18446744073709551615,-9223372036854775808,1.5]"#,
            r#" { "spaced" : [ 1 , 2 ] } "#,
            "\"top\"",
            "[]",
        ] {
            let expected: serde_json::Value = serde_json::from_str(json).unwrap();
            let seen: serde_json::Value =
                serde_json::from_str(&through_rmpv(json).to_string().replace("nil", "null"))
                    .unwrap_or_else(|error| panic!("{json}: {error}"));
            assert_eq!(seen, expected, "{json}");
        }
    }

    #[test]
    fn numbers_become_what_holds_them() {
        use rmpv::Value;
        for (json, value) in [
            ("1", Value::from(1)),
            ("-0", Value::F64(-0.0)),
            ("1.0", Value::F64(1.0)),
            ("1e3", Value::F64(1000.0)),
            ("0.1", Value::F64(0.1)),
            ("100.50", Value::F64(100.5)),
            ("18446744073709551616", Value::F64(18446744073709551616.0)),
            ("18446744073709551617", Value::from("18446744073709551617")),
            (
                "12345678901234567890123",
                Value::from("12345678901234567890123"),
            ),
            (
                "0.1000000000000000055511151231257827",
                Value::from("0.1000000000000000055511151231257827"),
            ),
            ("1e400", Value::from("1e400")),
            (
                "1e99999999999999999999",
                Value::from("1e99999999999999999999"),
            ),
        ] {
            assert_eq!(through_rmpv(json), value, "{json}");
        }
    }

    #[test]
    fn a_clients_message_becomes_json() {
        let value = rmpv::Value::Map(vec![
            ("type".into(), "publish".into()),
            (
                "data".into(),
                rmpv::Value::Array(vec![1.into(), (-5).into(), 1.5.into(), rmpv::Value::Nil]),
            ),
            ("ref".into(), u64::MAX.into()),
        ]);
        let mut packed = Vec::new();
        rmpv::encode::write_value(&mut packed, &value).unwrap();
        assert_eq!(
            msgpack_to_json(&packed).unwrap(),
            r#"{"type":"publish","data":[1,-5,1.5,null],"ref":18446744073709551615}"#
        );
    }

    #[test]
    fn hostile_messages_are_refused() {
        let deep = [vec![0x91; 200], vec![0xc0]].concat();
        for (packed, error) in [
            (&b""[..], MsgpackError::Truncated),
            (b"\xdd\xff\xff\xff\xff", MsgpackError::Truncated),
            (b"\xdb\xff\xff\xff\xff", MsgpackError::Truncated),
            (b"\xc0\xc0", MsgpackError::TrailingBytes),
            (b"\xc4\x01a", MsgpackError::NoJsonForm),
            (b"\xc1", MsgpackError::NoJsonForm),
            (b"\xd4\x01a", MsgpackError::NoJsonForm),
            (b"\x81\x01\x01", MsgpackError::KeyNotString),
            (b"\xa1\xff", MsgpackError::NotUtf8),
            (b"\xcb\x7f\xf8\0\0\0\0\0\0", MsgpackError::NotFinite),
            (&deep, MsgpackError::TooDeep),
        ] {
            assert_eq!(msgpack_to_json(packed), Err(error), "{packed:x?}");
        }
    }
}
