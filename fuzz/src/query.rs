//! The query of `/ws`, `/events` and `/poll`, and the bodies that stand for it.
//!
//! The input is the query, and after a line break the body, if there is one.

use serde_json::{Map, Value, json};
use tribus::protocol::{ErrorCode, Query, Refusal, Start, SubscribeRequest};
use url::form_urlencoded;

use crate::{frames, refusals, subscriptions};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (query, body) = match text.split_once('\n') {
        Some((query, body)) => (query, Some(body)),
        None => (text, None),
    };
    check_credentials(query);
    let parsed = match Query::parse(query) {
        Ok(parsed) => parsed,
        Err(refusal) => return check_refusal(&refusal),
    };
    if let Some(request) = check_query(&parsed) {
        check_body_of(&request);
    }
    if let Some(body) = body {
        match parsed.with_body(body.as_bytes()) {
            Ok(parsed) => {
                assert!(frames::is_object(body), "{body}");
                check_query(&parsed);
            }
            Err(refusal) => check_refusal(&refusal),
        }
    }
}

fn check_query(query: &Query) -> Option<SubscribeRequest> {
    match query.wait_seconds() {
        Ok(seconds) => assert!(seconds <= 55),
        Err(refusal) => check_refusal(&refusal),
    }
    match query.max_events() {
        Ok(max) => assert!((1..=1000).contains(&max)),
        Err(refusal) => check_refusal(&refusal),
    }
    match query.subscriptions(subscriptions::LIMITS) {
        Ok(request) => {
            subscriptions::check(&request);
            check_last_event_id(query, &request);
            Some(request)
        }
        Err(refusal) => {
            check_refusal(&refusal);
            None
        }
    }
}

fn check_last_event_id(query: &Query, request: &SubscribeRequest) {
    let start = |id: &str| {
        let mut query = query.clone();
        query.set_last_event_id(id);
        query
            .subscriptions(subscriptions::LIMITS)
            .map(|request| request.start)
    };
    assert_eq!(start(""), Ok(request.start.clone()));
    assert_eq!(
        start("log-7"),
        Ok(Start::After("log-7".parse().expect("a cursor")))
    );
}

fn check_refusal(refusal: &Refusal) {
    assert!(matches!(
        refusal.code,
        ErrorCode::BadRequest
            | ErrorCode::BadTopic
            | ErrorCode::BadCursor
            | ErrorCode::TooManySubscriptions
    ));
    refusals::check(refusal, None);
}

/// What a query asks for can be asked for by a body.
fn check_body_of(request: &SubscribeRequest) {
    let mut body = Map::new();
    if let Some(first) = request.subscriptions.first() {
        body.insert("topics".to_owned(), json!(request.topics()));
        if let Some(conditions) = &first.conditions {
            let tags = conditions.tags.iter();
            let tags: Map<_, _> = tags
                .map(|(key, value)| (key.to_string(), json!(value)))
                .collect();
            body.insert("tags".to_owned(), Value::Object(tags));
            if let Some(names) = &conditions.events {
                body.insert("events".to_owned(), json!(names));
            }
        }
    }
    let (name, value) = match &request.start {
        Start::Now => ("rewind", json!(0)),
        Start::Earliest => ("cursor", json!("earliest")),
        Start::After(cursor) => ("cursor", json!(cursor.to_string())),
        Start::Rewind(count) => ("rewind", json!(count)),
    };
    body.insert(name.to_owned(), value);
    let body = Value::Object(body).to_string();
    let again = Query::default()
        .with_body(body.as_bytes())
        .and_then(|query| query.subscriptions(subscriptions::LIMITS))
        .unwrap_or_else(|refusal| panic!("{body}: {refusal}"));
    assert_eq!(
        (again.topics(), &again.start),
        (request.topics(), &request.start)
    );
    for (again, before) in again.subscriptions.iter().zip(&request.subscriptions) {
        let sorted = |conditions: &tribus::subscription::Conditions| {
            let mut conditions = conditions.clone();
            conditions.tags.sort();
            conditions
        };
        assert_eq!(
            again.conditions.as_deref().map(sorted),
            before.conditions.as_deref().map(sorted)
        );
    }
}

/// A credential that is given once is read as any form reader reads it; one that is given more
/// often, or can not be read, is there and bad.
fn check_credentials(query: &str) {
    let (ticket, token) = Query::credentials(query);
    assert_eq!(expected_credential(query, &["ticket"], &ticket), ticket);
    assert_eq!(
        expected_credential(query, &["token", "access_token"], &token),
        token
    );
}

fn expected_credential(query: &str, names: &[&str], got: &Option<String>) -> Option<String> {
    let mut values = form_urlencoded::parse(query.as_bytes())
        .filter(|(name, _)| names.contains(&&**name))
        .map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => None,
        // It may also have been in the query as this character.
        (Some(value), None) if value.contains(char::REPLACEMENT_CHARACTER) => {
            got.clone().filter(|got| got.is_empty() || **got == value)
        }
        (Some(value), None) => Some(value.into_owned()),
        (Some(_), Some(_)) => Some(String::new()),
    }
}
