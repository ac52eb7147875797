//! Bodies of `/publish`: what is accepted arrives as it was sent.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tribus::{
    event::Draft,
    protocol::{ErrorCode, PublishRequest, Refusal},
};

use crate::{drafts, refusals};

/// What was sent, read by fewer rules than the gateway's.
#[derive(Deserialize)]
struct Sent<'a> {
    topic: String,
    event: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    timestamp: Option<String>,
    trace_id: Option<String>,
    user_id: Option<String>,
    ephemeral: Option<bool>,
}

/// What subscribers get.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    message_type: String,
    #[serde(rename = "id")]
    _id: String,
    topic: String,
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
    timestamp: String,
    trace_id: Option<String>,
    user_id: Option<String>,
    tags: Option<Value>,
}

pub fn check(body: &[u8]) {
    for trusted in [false, true] {
        match drafts(body, trusted) {
            Ok(drafts) => check_drafts(body, drafts, trusted),
            Err(refusal) => {
                assert!(matches!(
                    refusal.code,
                    ErrorCode::BadRequest | ErrorCode::BadTopic | ErrorCode::TooLarge
                ));
                refusals::check(&refusal, None);
            }
        }
    }
}

fn drafts(body: &[u8], trusted: bool) -> Result<Vec<Draft>, Refusal> {
    let request = PublishRequest::from_body(body)?;
    let topics: Vec<_> = request.topics().map(str::to_owned).collect();
    assert!((1..=4096).contains(&topics.len()));
    assert!(request.is_batch || topics.len() == 1);
    let again = PublishRequest::from_body(body)?;
    assert_eq!(request.fingerprint(), again.fingerprint());
    let drafts = request.into_drafts(drafts::publisher(trusted), drafts::LIMITS)?;
    assert!(drafts.iter().map(|draft| draft.topic.as_str()).eq(topics));
    Ok(drafts)
}

fn check_drafts(body: &[u8], drafts: Vec<Draft>, trusted: bool) {
    let sent: Vec<Sent<'_>> = match serde_json::from_slice(body) {
        Ok(batch) => batch,
        Err(_) => vec![serde_json::from_slice(body).expect("what was accepted is JSON")],
    };
    assert_eq!(sent.len(), drafts.len());
    for (sent, draft) in sent.iter().zip(drafts) {
        check_draft(sent, draft, trusted);
    }
}

fn check_draft(sent: &Sent<'_>, draft: Draft, trusted: bool) {
    let tags = draft.tags.clone();
    assert_eq!(draft.ephemeral, sent.ephemeral.unwrap_or(false));
    let event = drafts::sealed(draft);
    let envelope: Envelope<'_> = serde_json::from_slice(event.json()).expect("an envelope");
    assert_eq!(envelope.message_type, "event");
    assert_eq!(envelope.topic, sent.topic);
    assert_eq!(envelope.event, sent.event.as_deref().unwrap_or("message"));
    assert_eq!(envelope.event, *event.name);
    assert_eq!(envelope.trace_id, sent.trace_id);
    let user_id = sent.user_id.as_deref().filter(|_| trusted);
    assert_eq!(
        envelope.user_id.as_deref(),
        if trusted {
            user_id
        } else {
            Some(drafts::SUBJECT)
        }
    );
    check_data(sent.data.map_or("null", RawValue::get), envelope.data.get());
    check_timestamp(sent.timestamp.as_deref(), &envelope.timestamp);
    let tags = tags
        .iter()
        .map(|(key, value)| (key.to_string(), Value::from(&**value)));
    let expected = (tags.len() > 0).then(|| tags.collect());
    assert_eq!(envelope.tags, expected);
}

fn check_data(sent: &str, got: &str) {
    assert_eq!(got, sent.replace(['\n', '\r'], " "));
    if let Ok(value) = serde_json::from_str::<Value>(got) {
        assert!(depth(&value) <= drafts::LIMITS.nesting, "{got}");
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// RFC 3339, UTC, milliseconds, and the time that was sent.
fn check_timestamp(sent: Option<&str>, got: &str) {
    let shape: String = got
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{got}");
    let got: Timestamp = got.parse().expect("a time");
    if let Some(sent) = sent {
        let sent: Timestamp = sent.parse().expect("a time");
        assert!(
            sent.duration_since(got).abs().as_nanos() < 1_000_000,
            "{sent} {got}"
        );
    }
}
