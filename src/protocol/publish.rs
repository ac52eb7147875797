//! From a publisher's JSON to drafts ready for the log.

use std::{borrow::Cow, fmt};

use aws_lc_rs::digest;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    ErrorCode, Refusal,
    client::{Ref, decode, decode_any},
};
use crate::{
    event::{Draft, Tags},
    topic::{Tenant, Topic},
};

/// A batch is appended in one piece, while other publishers wait, and every live client's shard
/// has to keep up with it.
const MAX_BATCH_EVENTS: usize = 4096;
const MAX_NAME_BYTES: usize = 128;
const MAX_TRACE_ID_BYTES: usize = 128;
const MAX_USER_ID_BYTES: usize = 255;
const DEFAULT_NAME: &str = "message";

/// Bounds on one event, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct PublishLimits {
    /// The whole envelope, in bytes.
    pub event_bytes: usize,
    /// How deep arrays and objects may nest in `data`.
    pub nesting: usize,
    /// Topics that begin so are for the gateway alone.
    pub own_topics: Option<&'static str>,
}

/// What the gateway knows of the one who publishes, and puts into the envelope.
#[derive(Clone, Copy, Debug)]
pub struct Publisher<'a> {
    pub subject: &'a str,
    pub tenant: &'a Tenant,
    /// May say who caused an event; anyone else is taken to have caused it.
    pub trusted: bool,
    /// The trace id of the publish request, for events that bring none.
    pub trace_id: Option<&'a str>,
}

/// One event as a publisher sends it, on `/publish` or as a `publish` message on `/ws`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    trace_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    user_id: Option<Cow<'a, str>>,
    #[serde(default)]
    tags: Option<TagMap>,
    #[serde(default)]
    ephemeral: Option<bool>,
    /// Idempotency key; only in a message on `/ws`.
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(default, rename = "type")]
    message_type: Option<IgnoredAny>,
    #[serde(default, rename = "ref")]
    reference: Option<Ref>,
}

/// What a `/publish` request or a `publish` message asks for: one event, or a batch that is
/// accepted all or none, in order.
pub struct PublishRequest<'a> {
    items: Vec<Publish<'a>>,
    /// The body was an array, so the answer is one too.
    pub is_batch: bool,
}

impl<'a> PublishRequest<'a> {
    /// # Errors
    /// `bad_request`, naming the event's index in a batch; `too_large` for a batch of too many.
    pub fn from_body(body: &'a [u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(body)
            .map_err(|_| Refusal::bad_request("the body is not UTF-8: send JSON in UTF-8"))?;
        if !text.trim_start().starts_with('[') {
            return Ok(Self {
                items: vec![decode_item(text)?],
                is_batch: false,
            });
        }
        let items: Vec<&RawValue> = decode_any(text)?;
        if items.len() > MAX_BATCH_EVENTS {
            return Err(Refusal::too_large(format!(
                "the batch has {} events, and the limit is {MAX_BATCH_EVENTS}: send it in parts",
                items.len()
            )));
        }
        if items.is_empty() {
            return Err(Refusal::bad_request(
                "the batch is empty: send at least one event",
            ));
        }
        let items = items.iter().enumerate().map(|(index, item)| {
            decode_item(item.get()).map_err(|refusal| in_batch(refusal, index))
        });
        Ok(Self {
            items: items.collect::<Result<_, _>>()?,
            is_batch: true,
        })
    }

    pub fn from_message(message: Publish<'a>) -> Self {
        Self {
            items: vec![message],
            is_batch: false,
        }
    }

    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(|item| &*item.topic)
    }

    /// What tells one request from another under the same idempotency key: the same on every
    /// transport, whatever the white space between fields.
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut digest = Fingerprint::new();
        digest.field(&[u8::from(self.is_batch)]);
        for item in &self.items {
            item.fingerprint(&mut digest);
        }
        digest.finish()
    }

    /// # Errors
    /// `bad_request`, `bad_topic` or `too_large`; in a batch the message names the event's index.
    pub fn into_drafts(
        self,
        publisher: Publisher<'_>,
        limits: PublishLimits,
    ) -> Result<Vec<Draft>, Refusal> {
        let is_batch = self.is_batch;
        let drafts = self.items.into_iter().enumerate().map(|(index, item)| {
            item.into_draft(publisher, limits).map_err(|refusal| {
                if is_batch {
                    in_batch(refusal, index)
                } else {
                    refusal
                }
            })
        });
        drafts.collect()
    }
}

fn decode_item(text: &str) -> Result<Publish<'_>, Refusal> {
    let item: Publish<'_> = decode(text)?;
    item.refuse_message_fields()?;
    Ok(item)
}

fn in_batch(refusal: Refusal, index: usize) -> Refusal {
    Refusal {
        message: format!("event {index} of the batch: {}", refusal.message).into(),
        ..refusal
    }
}

/// SHA-256 over fields that can not run into each other, cut to 128 bits.
pub(crate) struct Fingerprint(digest::Context);

impl Fingerprint {
    pub(crate) fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn optional_field(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.field(text.as_bytes()),
            None => self.0.update(&u64::MAX.to_le_bytes()),
        }
    }

    pub(crate) fn finish(self) -> [u8; 16] {
        let digest = self.0.finish();
        std::array::from_fn(|at| digest.as_ref()[at])
    }
}

impl<'a> Publish<'a> {
    /// The idempotency key that came with a message on `/ws`.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// `type`, `ref` and `key` are of the WebSocket message, not of the event.
    fn refuse_message_fields(&self) -> Result<(), Refusal> {
        let unknown = if self.message_type.is_some() {
            "type"
        } else if self.reference.is_some() {
            "ref"
        } else if self.key.is_some() {
            "key"
        } else {
            return Ok(());
        };
        Err(Refusal::bad_request(format!(
            "unknown field `{unknown}`: an event to publish has `topic`, `event`, `data`, \
             `timestamp`, `trace_id`, `user_id`, `tags` and `ephemeral`; an idempotency key goes \
             into the `Idempotency-Key` header"
        )))
    }

    fn fingerprint(&self, into: &mut Fingerprint) {
        into.field(self.topic.as_bytes());
        into.optional_field(self.event.as_deref());
        into.optional_field(self.data.map(RawValue::get));
        into.optional_field(self.timestamp.as_deref());
        into.optional_field(self.trace_id.as_deref());
        into.optional_field(self.user_id.as_deref());
        into.field(&[u8::from(self.ephemeral.unwrap_or(false))]);
        for (key, value) in self.tags.iter().flat_map(|tags| &tags.0) {
            into.field(key.as_bytes());
            into.field(value.as_bytes());
        }
    }

    /// Validates the event and encodes all of it but the cursor.
    ///
    /// # Errors
    /// `bad_request`, `bad_topic` or `too_large`, naming the field.
    fn into_draft(self, publisher: Publisher<'_>, limits: PublishLimits) -> Result<Draft, Refusal> {
        let topic = Topic::parse(&self.topic)?;
        if let Some(own) = limits.own_topics.filter(|own| topic.starts_with(own)) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                format!("topics that begin with {own:?} are the gateway's own to publish to"),
            ));
        }
        let name = self.event.as_deref().unwrap_or(DEFAULT_NAME);
        check_event_name("event", name)?;
        let trace_id = self.trace_id.as_deref().or(publisher.trace_id);
        if let Some(trace_id) = trace_id {
            check_text("trace_id", trace_id, MAX_TRACE_ID_BYTES)?;
        }
        if let Some(user_id) = self.user_id.as_deref() {
            check_text("user_id", user_id, MAX_USER_ID_BYTES)?;
        }
        let user_id = if publisher.trusted {
            self.user_id.as_deref()
        } else {
            Some(publisher.subject)
        };
        let data = match self.data {
            Some(raw) => one_line(raw.get(), limits.nesting)?,
            None => Cow::Borrowed("null"),
        };
        let tags = self.tags.unwrap_or_default().0;
        let mut body = Body::new(data.len());
        body.string("topic", topic.as_str());
        body.string("event", name);
        body.raw("data", &data);
        body.string("timestamp", &timestamp(self.timestamp.as_deref())?);
        body.optional_string("trace_id", trace_id);
        body.optional_string("user_id", user_id);
        body.tags(&tags);
        let draft = Draft {
            tenant: publisher.tenant.clone(),
            topic,
            name: name.into(),
            tags,
            ephemeral: self.ephemeral.unwrap_or(false),
            trace: None,
            trace_id: trace_id.map(Into::into),
            body: body.finish(),
        };
        check_size(&draft, limits)?;
        Ok(draft)
    }
}

/// The rules for an event's name, wherever it is asked for (protocol, section 1).
pub(super) fn check_event_name(field: &str, name: &str) -> Result<(), Refusal> {
    check_text(field, name, MAX_NAME_BYTES)
}

fn check_text(field: &str, text: &str, max_bytes: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > max_bytes {
        return Err(Refusal::bad_request(format!(
            "`{field}` has {} bytes: it takes 1 to {max_bytes}",
            text.len()
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::bad_request(format!(
            "`{field}` contains a control character"
        )));
    }
    Ok(())
}

fn check_size(draft: &Draft, limits: PublishLimits) -> Result<(), Refusal> {
    let len = draft.max_encoded_len();
    if len <= limits.event_bytes {
        return Ok(());
    }
    Err(Refusal::too_large(format!(
        "the event has {len} bytes encoded, and the limit is {}: send a smaller `data`, or a \
         reference to it",
        limits.event_bytes
    )))
}

/// 0000-01-01T00:00:00Z: RFC 3339, section 1, has no time before it.
const YEAR_ZERO: jiff::Timestamp = jiff::Timestamp::constant(-62_167_219_200, 0);

/// The publisher's time in UTC with milliseconds, or now (RFC 3339).
fn timestamp(given: Option<&str>) -> Result<String, Refusal> {
    let time = match given {
        None => jiff::Timestamp::now(),
        Some(text) => text
            .parse()
            .ok()
            .filter(|time| *time >= YEAR_ZERO)
            .ok_or_else(|| {
                Refusal::bad_request(
                    "`timestamp` is not a time of RFC 3339, such as 2026-01-25T10:30:00.000Z",
                )
            })?,
    };
    Ok(format!("{time:.3}"))
}

/// `data` as it came, byte for byte, but for line breaks between its tokens, which become spaces:
/// an SSE `data` field holds one line, and no JSON string contains a raw line break.
fn one_line(json: &str, max_nesting: usize) -> Result<Cow<'_, str>, Refusal> {
    if nesting(json) > max_nesting {
        return Err(Refusal::bad_request(format!(
            "`data` nests deeper than {max_nesting} levels"
        )));
    }
    if json.contains(['\n', '\r']) {
        return Ok(Cow::Owned(json.replace(['\n', '\r'], " ")));
    }
    Ok(Cow::Borrowed(json))
}

/// The deepest nesting of arrays and objects in well-formed JSON.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Writes the envelope from its first field after `id` to the closing brace.
struct Body {
    bytes: Vec<u8>,
}

impl Body {
    /// What the fields besides `data` take as a rule, so that most bodies are allocated once.
    const TYPICAL_FIELDS_BYTES: usize = 160;

    fn new(data_len: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(data_len + Self::TYPICAL_FIELDS_BYTES),
        }
    }

    fn raw(&mut self, field: &str, json: &str) {
        if !self.bytes.is_empty() {
            self.bytes.push(b',');
        }
        self.json_string(field);
        self.bytes.push(b':');
        self.bytes.extend_from_slice(json.as_bytes());
    }

    fn string(&mut self, field: &str, value: &str) {
        self.raw(field, "");
        self.json_string(value);
    }

    fn optional_string(&mut self, field: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(field, value);
        }
    }

    fn tags(&mut self, tags: &Tags) {
        if tags.is_empty() {
            return;
        }
        self.raw("tags", "{");
        for (index, (key, value)) in tags.iter().enumerate() {
            if index > 0 {
                self.bytes.push(b',');
            }
            self.json_string(key);
            self.bytes.push(b':');
            self.json_string(value);
        }
        self.bytes.push(b'}');
    }

    fn json_string(&mut self, text: &str) {
        serde_json::to_writer(&mut self.bytes, text).expect("a string is written to memory");
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(b'}');
        self.bytes
    }
}

/// A flat object of strings, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct TagMap(pub(super) Tags);

impl<'de> Deserialize<'de> for TagMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TagMapVisitor)
    }
}

struct TagMapVisitor;

impl<'de> Visitor<'de> for TagMapVisitor {
    type Value = TagMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a flat object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<TagMap, A::Error> {
        let mut tags: Vec<(Box<str>, Box<str>)> = Vec::new();
        while let Some((key, value)) = map.next_entry::<Box<str>, Box<str>>()? {
            if tags.len() == TagMap::MAX_TAGS {
                return Err(de::Error::custom("more than 32 tags"));
            }
            if tags.iter().any(|(other, _)| *other == key) {
                return Err(de::Error::custom(format_args!("duplicate tag {key:?}")));
            }
            tags.push((key, value));
        }
        Ok(TagMap(tags.into()))
    }
}

impl TagMap {
    /// Every filter with tags looks through all of an event's tags.
    pub(super) const MAX_TAGS: usize = 32;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PublishLimits = PublishLimits {
        event_bytes: 64 * 1024,
        nesting: 128,
        own_topics: None,
    };

    fn publish(body: &str) -> Result<serde_json::Value, Refusal> {
        publish_as(body, false)
    }

    fn publish_as(body: &str, trusted: bool) -> Result<serde_json::Value, Refusal> {
        let tenant = Tenant::none();
        let publisher = Publisher {
            subject: "alice",
            tenant: &tenant,
            trusted,
            trace_id: None,
        };
        let mut drafts =
            PublishRequest::from_body(body.as_bytes())?.into_drafts(publisher, LIMITS)?;
        let event = drafts
            .remove(0)
            .seal(&"log-1".parse().unwrap(), std::time::Instant::now());
        Ok(serde_json::from_slice(event.json()).unwrap())
    }

    #[test]
    fn data_passes_byte_for_byte() {
        let data = r#"{"n":1.10000000000000000000000000001e+0,"s":"\u00e9\/ü","deep":[[ 1 ]]}"#;
        let tenant = Tenant::none();
        let publisher = Publisher {
            subject: "alice",
            tenant: &tenant,
            trusted: false,
            trace_id: None,
        };
        let body = format!(r#"{{"topic":"a:b","data":{data}}}"#);
        let drafts = PublishRequest::from_body(body.as_bytes())
            .and_then(|request| request.into_drafts(publisher, LIMITS))
            .unwrap();
        let encoded = String::from_utf8(drafts[0].body.clone()).unwrap();
        assert!(encoded.contains(data), "{encoded}");
    }

    #[test]
    fn line_breaks_between_tokens_become_spaces() {
        let event = publish("{\"topic\":\"a\",\"data\":{\r\n\"a\":\n\"\\n\"}}").unwrap();
        assert_eq!(event["data"]["a"], "\n");
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_strings_do_not_count() {
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let with = |data: String| publish(&format!(r#"{{"topic":"a","data":{data}}}"#));
        assert_eq!(with(nested(129)).unwrap_err().code, ErrorCode::BadRequest);
        let body = format!(r#"{{"topic":"a","data":{}}}"#, nested(128));
        let tenant = Tenant::none();
        let publisher = Publisher {
            subject: "alice",
            tenant: &tenant,
            trusted: false,
            trace_id: None,
        };
        let request = PublishRequest::from_body(body.as_bytes()).unwrap();
        assert!(request.into_drafts(publisher, LIMITS).is_ok());
        assert!(with(format!(r#""\"{}""#, "[".repeat(200))).is_ok());
    }

    #[test]
    fn user_id_is_the_subject_unless_a_trusted_token_says_otherwise() {
        let body = r#"{"topic":"a","user_id":"bob"}"#;
        assert_eq!(publish(body).unwrap()["user_id"], "alice");
        assert_eq!(publish_as(body, true).unwrap()["user_id"], "bob");
        let silent = publish_as(r#"{"topic":"a"}"#, true).unwrap();
        assert!(silent.get("user_id").is_none());
    }

    #[test]
    fn each_bad_field_is_named() {
        let long_name = format!(r#"{{"topic":"a","event":"{}"}}"#, "x".repeat(129));
        let cases = [
            (r#"{"data":1}"#, "`topic`"),
            (r#"{"topic":1}"#, "topic"),
            (r#"{"topic":"a","evnt":"x"}"#, "`evnt`"),
            (r#"{"topic":"a","event":""}"#, "`event`"),
            (r#"{"topic":"a","event":"a\nb"}"#, "`event`"),
            (long_name.as_str(), "`event`"),
            (r#"{"topic":"a","timestamp":"yesterday"}"#, "`timestamp`"),
            (r#"{"topic":"a","tags":{"k":1}}"#, "tags"),
            (r#"{"topic":"a","tags":["k"]}"#, "tags"),
            (r#"{"topic":"a","ephemeral":"yes"}"#, "ephemeral"),
            (r#"{"topic":"a","type":"publish"}"#, "`type`"),
            (r#"{"topic":"a","key":"k"}"#, "`key`"),
            ("[]", "empty"),
            (r#"[{"topic":"a"},{"topic":"b","x":1}]"#, "event 1"),
            ("{", "JSON"),
        ];
        for (body, named) in cases {
            let refusal = publish(body).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadRequest, "{body}");
            assert!(refusal.message.contains(named), "{body}: {refusal}");
        }
    }

    #[test]
    fn the_publishers_time_is_kept_in_utc_with_milliseconds() {
        let body = r#"{"topic":"a","timestamp":"2026-01-25T11:30:00+01:00"}"#;
        assert_eq!(
            publish(body).unwrap()["timestamp"],
            "2026-01-25T10:30:00.000Z"
        );
    }

    #[test]
    fn a_time_before_the_year_zero_is_refused() {
        for (time, accepted) in [
            ("0000-01-01T00:00:00Z", true),
            ("0000-01-01T00:00:00+00:01", false),
            ("-000001-12-31T23:59:59Z", false),
        ] {
            let event = publish(&format!(r#"{{"topic":"a","timestamp":"{time}"}}"#));
            assert_eq!(event.is_ok(), accepted, "{time}");
        }
    }

    #[test]
    fn a_batch_of_too_many_events_is_refused() {
        let batch = |count| format!("[{}]", vec![r#"{"topic":"a"}"#; count].join(","));
        assert!(PublishRequest::from_body(batch(4096).as_bytes()).is_ok());
        let refusal = PublishRequest::from_body(batch(4097).as_bytes()).err();
        assert_eq!(
            refusal.map(|refusal| refusal.code),
            Some(ErrorCode::TooLarge)
        );
    }

    #[test]
    fn an_event_over_the_size_limit_is_refused() {
        let body = format!(r#"{{"topic":"a","data":"{}"}}"#, "x".repeat(64 * 1024));
        assert_eq!(publish(&body).unwrap_err().code, ErrorCode::TooLarge);
    }
}
