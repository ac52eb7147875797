//! What clients send on `/ws`.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{
    PresenceRequest, Publish, Refusal, SubscribeRequest, SubscriptionLimits,
    presence::RawPresence,
    subscribe::{RawSubscribe, RawTopics},
};
use crate::topic::TopicFilter;

/// A client's `ref`: a JSON string or number, echoed as it came.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Ref(Box<RawValue>);

impl Ref {
    /// Long enough for a UUID or a trace id; it is kept while a replay runs.
    const MAX_BYTES: usize = 128;
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let first = raw.get().bytes().next().unwrap_or(b' ');
        if first != b'"' && first != b'-' && !first.is_ascii_digit() {
            return Err(D::Error::custom("`ref` must be a string or a number"));
        }
        if raw.get().len() > Self::MAX_BYTES {
            return Err(D::Error::custom("`ref` is longer than 128 bytes"));
        }
        Ok(Self(raw))
    }
}

/// One message of a client, with the `ref` that its reply echoes.
pub struct ClientFrame<'a> {
    pub reference: Option<Ref>,
    /// It is an `auth` message, whatever else is wrong with it.
    pub is_auth: bool,
    /// The refusal where the message makes no sense; its reply still echoes the `ref`.
    pub message: Result<ClientMessage<'a>, Refusal>,
}

pub enum ClientMessage<'a> {
    Auth { token: Cow<'a, str> },
    Subscribe(SubscribeRequest),
    Unsubscribe(Vec<TopicFilter>),
    Publish(Box<Publish<'a>>),
    Presence(PresenceRequest),
    Ping,
}

/// Only as much as it takes to know what a message is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    message_type: Cow<'a, str>,
    #[serde(default, rename = "ref")]
    reference: Option<Ref>,
}

#[derive(Deserialize)]
struct RefOnly {
    #[serde(default, rename = "ref")]
    reference: Option<Ref>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(rename = "type")]
    _message_type: serde::de::IgnoredAny,
    #[serde(default, rename = "ref")]
    _reference: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ping {
    #[serde(rename = "type")]
    _message_type: serde::de::IgnoredAny,
    #[serde(default, rename = "ref")]
    _reference: serde::de::IgnoredAny,
}

impl<'a> ClientFrame<'a> {
    /// Of what is no message at all.
    pub fn refused(refusal: Refusal) -> Self {
        Self {
            reference: None,
            is_auth: false,
            message: Err(refusal),
        }
    }

    /// Reads one message; never fails, since a refused message is answered, not dropped.
    pub fn parse(text: &'a str, limits: SubscriptionLimits) -> Self {
        match decode::<Head<'a>>(text) {
            Ok(head) => Self {
                reference: head.reference,
                is_auth: head.message_type == "auth",
                message: parse_message(&head.message_type, text, limits),
            },
            Err(refusal) => Self {
                reference: decode::<RefOnly>(text).ok().and_then(|only| only.reference),
                is_auth: false,
                message: Err(refusal),
            },
        }
    }
}

fn parse_message<'a>(
    message_type: &str,
    text: &'a str,
    limits: SubscriptionLimits,
) -> Result<ClientMessage<'a>, Refusal> {
    match message_type {
        "auth" => decode::<Auth<'a>>(text).map(|auth| ClientMessage::Auth { token: auth.token }),
        "subscribe" => {
            let raw: RawSubscribe = decode(text)?;
            let request = raw.into_message(limits)?;
            Ok(ClientMessage::Subscribe(request))
        }
        "unsubscribe" => {
            let raw: RawTopics = decode(text)?;
            Ok(ClientMessage::Unsubscribe(raw.into_filters(limits)?))
        }
        "publish" => decode(text).map(|publish| ClientMessage::Publish(Box::new(publish))),
        "presence" => {
            let raw: RawPresence = decode(text)?;
            Ok(ClientMessage::Presence(raw.into()))
        }
        "ping" => decode::<Ping>(text).map(|_| ClientMessage::Ping),
        other => Err(Refusal::bad_request(format!(
            "unknown type {:?}: send auth, subscribe, unsubscribe, publish, presence or ping",
            other.chars().take(40).collect::<String>()
        ))),
    }
}

/// A value that is written as an object. Serde would take an array for one too, its items for the
/// fields in their order.
#[derive(Clone, Debug)]
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Reads a JSON object; the refusal names the field where one is missing, wrong or unknown.
pub(super) fn decode<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    decode_any::<Object<T>>(text).map(|object| object.0)
}

/// As [`decode`], for values that are no objects.
pub(super) fn decode_any<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        describe(error.inner(), &path)
    })?;
    deserializer.end().map_err(|error| describe(&error, "."))?;
    Ok(value)
}

/// Reads a body that has to be a JSON object.
///
/// # Errors
/// `bad_request` that names the field where one is missing, wrong or unknown.
pub fn decode_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Refusal::bad_request("the body is not UTF-8: send JSON in UTF-8"))?;
    decode(text)
}

/// Bounds on what a refusal repeats of a message, in characters: a name can be as long as the
/// message itself.
const MAX_PATH_CHARS: usize = 100;
const MAX_DETAIL_CHARS: usize = 200;

fn describe(error: &serde_json::Error, path: &str) -> Refusal {
    let detail: String = error.to_string().chars().take(MAX_DETAIL_CHARS).collect();
    if error.is_eof() && error.column() == 0 {
        return Refusal::bad_request("there is nothing to read: send a JSON object");
    }
    if !error.is_data() {
        return Refusal::bad_request(format!("not JSON ({detail}): send a JSON object"));
    }
    let place = match path {
        "." => String::new(),
        _ => format!(
            "`{}`: ",
            path.chars().take(MAX_PATH_CHARS).collect::<String>()
        ),
    };
    Refusal::bad_request(format!("{place}{detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ErrorCode;

    fn refusal(text: &str) -> (Option<String>, Refusal) {
        let frame = ClientFrame::parse(text, SubscriptionLimits::default());
        let reference = frame
            .reference
            .map(|reference| serde_json::to_string(&reference).unwrap());
        (reference, frame.message.err().expect("a refusal"))
    }

    #[test]
    fn a_refused_message_still_echoes_its_ref() {
        for (text, reference) in [
            (r#"{"ref":7}"#, Some("7")),
            (r#"{"type":"nope","ref":"a"}"#, Some("\"a\"")),
            (r#"{"type":"ping","ref":1,"x":2}"#, Some("1")),
            (r#"{"type":"ping","ref":{}}"#, None),
            (r#"{"type":5,"ref":-1.5}"#, Some("-1.5")),
            ("{", None),
        ] {
            let (echoed, refusal) = refusal(text);
            assert_eq!(echoed.as_deref(), reference, "{text}");
            assert_eq!(refusal.code, ErrorCode::BadRequest, "{text}");
        }
    }

    #[test]
    fn a_refusal_is_short_however_long_the_names_of_a_message_are() {
        let name = "é".repeat(10_000);
        for text in [
            format!(r#"{{"type":"{name}"}}"#),
            format!(r#"{{"type":"ping","{name}":1}}"#),
            format!(r#"{{"type":"publish","topic":"a","tags":{{"{name}":1}}}}"#),
        ] {
            let (_, refusal) = refusal(&text);
            assert!(refusal.message.len() < 1000, "{refusal}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            (r#"{"type":"ping","extra":2}"#, "`extra`"),
            (r#"{"type":"auth"}"#, "`token`"),
            (r#"{"type":"auth","token":5}"#, "token"),
            (r#"{"type":"subscribe"}"#, "topics"),
            (r#"{"type":"subscribe","topics":[]}"#, "topics"),
            (r#"{"type":"subscribe","topics":"a"}"#, "topics"),
            (
                r#"{"type":"subscribe","topics":["a"],"rewind":101}"#,
                "rewind",
            ),
            (r#"{"type":"unsubscribe"}"#, "topics"),
            (r#"{"type":"shout"}"#, "shout"),
            (r#"["ping"]"#, "object"),
            (r#"{"type":"subscribe","subscriptions":[["a"]]}"#, "object"),
            (r#"{"type":"ping"} x"#, "not JSON"),
        ] {
            let (_, refusal) = refusal(text);
            assert!(refusal.message.contains(named), "{text}: {refusal}");
        }
    }
}
