//! Cursors: a text is one by the protocol's rule and by no other, and reads back as it came.

use tribus::{
    event::{Cursor, Draft, MAX_CURSOR_BYTES},
    topic::{Tenant, Topic},
};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let cursor = text.parse::<Cursor>();
    assert_eq!(cursor.is_ok(), is_cursor(text), "{text:?}");
    let Ok(cursor) = cursor else {
        return;
    };
    assert_eq!(cursor.to_string(), text);
    assert_eq!(
        Cursor::new(cursor.log.clone(), cursor.sequence).sequence,
        cursor.sequence
    );
    let event = draft().seal(&cursor, std::time::Instant::now());
    assert_eq!(event.id(), text.as_bytes());
    let envelope: serde_json::Value =
        serde_json::from_slice(event.json()).expect("an envelope is JSON");
    assert_eq!(envelope["id"], text);
}

/// `LOG-SEQUENCE` or `LOG-SEQUENCE.CHECK` in at most 64 bytes (protocol, section 2).
fn is_cursor(text: &str) -> bool {
    let is_word = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let is_number = |text: &str| text.parse().is_ok_and(|n: u64| n.to_string() == text);
    let parts: Vec<_> = text.split(['-', '.']).collect();
    let separators: String = text.matches(['-', '.']).collect();
    let is_start = |log: &str, sequence| is_word(log) && log.len() <= 24 && is_number(sequence);
    text.len() <= MAX_CURSOR_BYTES
        && match (parts.as_slice(), separators.as_str()) {
            ([log, sequence], "-") => is_start(log, sequence),
            ([log, sequence, check], "-.") => is_start(log, sequence) && is_word(check),
            _ => false,
        }
}

fn draft() -> Draft {
    Draft {
        trace: None,
        trace_id: None,
        tenant: Tenant::none(),
        topic: Topic::parse("a").expect("a topic"),
        name: "message".into(),
        tags: Box::default(),
        ephemeral: false,
        body: br#""topic":"a"}"#.to_vec(),
    }
}
