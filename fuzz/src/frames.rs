//! What a WebSocket client says, as JSON.

use serde_json::value::RawValue;
use tribus::protocol::{ClientFrame, ClientMessage, ErrorCode, PublishRequest, Ref, Refusal};

use crate::{drafts, refusals, subscriptions};

pub fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check_text(text);
    }
}

pub(crate) fn check_text(text: &str) {
    let frame = ClientFrame::parse(text, subscriptions::LIMITS);
    if let Some(reference) = &frame.reference {
        check_reference(reference, text);
    }
    match frame.message {
        Ok(message) => {
            assert!(is_object(text), "{text}");
            assert_eq!(frame.is_auth, matches!(message, ClientMessage::Auth { .. }));
            check_message(message);
        }
        Err(refusal) => check_refusal(&refusal, frame.reference),
    }
}

pub(crate) fn is_object(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok_and(|raw| raw.get().starts_with('{'))
}

/// The `ref` is a string or a number of the message, as it stands there.
fn check_reference(reference: &Ref, text: &str) {
    let raw = serde_json::to_string(reference).expect("a `ref` is JSON");
    assert!(raw.len() <= 128 && text.contains(&raw), "{raw}");
    assert!(raw.starts_with(['"', '-']) || raw.starts_with(|c: char| c.is_ascii_digit()));
    assert!(serde_json::from_str::<&RawValue>(&raw).is_ok(), "{raw}");
}

fn check_message(message: ClientMessage<'_>) {
    match message {
        ClientMessage::Auth { .. } | ClientMessage::Presence(_) | ClientMessage::Ping => {}
        ClientMessage::Subscribe(request) => {
            assert!(!request.subscriptions.is_empty());
            subscriptions::check(&request);
        }
        ClientMessage::Unsubscribe(filters) => {
            assert!((1..=subscriptions::LIMITS.subscriptions).contains(&filters.len()));
        }
        ClientMessage::Publish(publish) => {
            let request = PublishRequest::from_message(*publish);
            assert!(!request.is_batch && request.topics().count() == 1);
            match request.into_drafts(drafts::publisher(false), drafts::LIMITS) {
                Ok(drafts) => drafts
                    .into_iter()
                    .for_each(|draft| drop(drafts::sealed(draft))),
                Err(refusal) => refusals::check(&refusal, None),
            }
        }
    }
}

fn check_refusal(refusal: &Refusal, reference: Option<Ref>) {
    assert!(matches!(
        refusal.code,
        ErrorCode::BadRequest
            | ErrorCode::BadTopic
            | ErrorCode::BadCursor
            | ErrorCode::TooManySubscriptions
    ));
    refusals::check(refusal, reference);
}
