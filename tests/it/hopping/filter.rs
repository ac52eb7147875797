//! What a subscription matches, written from the protocol alone and not from the gateway's code.

use serde_json::{Map, Value, json};

/// A subscription as a client asks for it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub topics: Vec<String>,
    pub events: Vec<String>,
    pub tags: Vec<(String, String)>,
}

impl Wanted {
    pub fn topics(topics: &[&str]) -> Self {
        Self {
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn events(mut self, events: &[&str]) -> Self {
        self.events = events.iter().map(|event| (*event).to_owned()).collect();
        self
    }

    #[must_use]
    pub fn tag(mut self, key: &str, value: &str) -> Self {
        self.tags.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn wants(&self, topic: &str, event: &str, tags: &[(String, String)]) -> bool {
        self.topics.iter().any(|filter| matches(filter, topic))
            && (self.events.is_empty() || self.events.iter().any(|name| name == event))
            && self.tags.iter().all(|tag| tags.contains(tag))
    }

    pub fn json(&self) -> Value {
        let mut json = Map::new();
        json.insert("topics".into(), json!(self.topics));
        if !self.events.is_empty() {
            json.insert("events".into(), json!(self.events));
        }
        if !self.tags.is_empty() {
            json.insert("tags".into(), tags_json(&self.tags));
        }
        json.into()
    }

    /// As parameters of a query.
    pub fn query(&self) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("topics", &self.topics.join(","));
        for event in &self.events {
            query.append_pair("event", event);
        }
        for (key, value) in &self.tags {
            query.append_pair("tag", &format!("{key}:{value}"));
        }
        query.finish()
    }
}

pub fn tags_json(tags: &[(String, String)]) -> Value {
    let tags: Map<String, Value> = tags
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    tags.into()
}

/// `*` matches any run of characters but `:`, `**` also crosses `:`.
pub fn matches(filter: &str, topic: &str) -> bool {
    if let Some(rest) = filter.strip_prefix("**") {
        return suffixes(topic).any(|left| matches(rest, left));
    }
    if let Some(rest) = filter.strip_prefix('*') {
        let segment_end = topic.find(':').unwrap_or(topic.len());
        return suffixes(topic)
            .take_while(|left| topic.len() - left.len() <= segment_end)
            .any(|left| matches(rest, left));
    }
    match (filter.chars().next(), topic.chars().next()) {
        (None, None) => true,
        (Some(one), Some(other)) if one == other => {
            matches(&filter[one.len_utf8()..], &topic[other.len_utf8()..])
        }
        _ => false,
    }
}

/// The text without its first 0, 1, 2, … characters.
fn suffixes(text: &str) -> impl Iterator<Item = &str> {
    text.char_indices()
        .map(|(at, _)| &text[at..])
        .chain(std::iter::once(""))
}

#[test]
fn the_tests_own_matcher_agrees_with_the_examples_of_the_protocol() {
    for (filter, topic, expected) in [
        ("order:1", "order:1", true),
        ("order:1", "order:12", false),
        ("order:*", "order:1", true),
        ("order:*", "order:1:items", false),
        ("order.*", "order.created", true),
        ("repo:**", "repo:a:b:c", true),
        ("repo:**", "rep:a", false),
        ("**:items", "order:1:items", true),
        ("*:*:items", "order:1:items", true),
        ("a*z", "a:z", false),
        ("a**z", "a:z", true),
    ] {
        assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
    }
}
