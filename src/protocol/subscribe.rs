//! What a client asks to see: the same request from a query, a body or a `subscribe` message.

use std::{borrow::Cow, collections::HashMap, rc::Rc};

use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::IgnoredAny};

use super::{
    ErrorCode, LimitKind, Refusal,
    client::{Object, Ref, decode_object},
    publish::TagMap,
    publish::check_event_name,
};
use crate::{
    event::Cursor,
    subscription::{Conditions, Subscription},
    topic::TopicFilter,
};

const MAX_REWIND: u64 = 100;
const MAX_POLL_WAIT_SECONDS: u64 = 55;
const MAX_POLL_EVENTS: u64 = 1000;
/// Event names in one subscription's list, each compared with every event of its topics.
const MAX_EVENT_NAMES: usize = 64;

/// Bounds on what one session may subscribe, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct SubscriptionLimits {
    /// Topic filters a session.
    pub subscriptions: usize,
    /// Of those, filters with wildcards.
    pub patterns: usize,
}

impl Default for SubscriptionLimits {
    fn default() -> Self {
        Self {
            subscriptions: 1000,
            patterns: 100,
        }
    }
}

/// Where delivery is to start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Only what is published from now on.
    #[default]
    Now,
    /// All that is retained.
    Earliest,
    /// Everything after the cursor.
    After(Cursor),
    /// The last so many retained events of each matching topic.
    Rewind(usize),
}

/// Subscriptions that start as one.
#[derive(Clone, Debug, Default)]
pub struct SubscribeRequest {
    /// Positions in them are not set yet.
    pub subscriptions: Vec<Subscription>,
    pub start: Start,
}

impl SubscribeRequest {
    /// The filters as the client wrote them.
    pub fn topics(&self) -> Vec<String> {
        self.subscriptions
            .iter()
            .map(|subscription| subscription.filter.as_str().to_owned())
            .collect()
    }
}

/// The query of `/ws`, `/events` and `/poll`, or the JSON body that stands for it.
///
/// One set of parameters for all three, so that a client can hop with the same query; those that
/// mean nothing to a transport are ignored by it.
#[derive(Clone, Debug, Default)]
pub struct Query {
    raw: RawSubscribe,
}

impl Query {
    /// # Errors
    /// `bad_request` that names an unknown or unreadable parameter.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        let mut refused = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let read = decode_component(key)
                .and_then(|key| parsed.set(&key, decode_component(value)?.into_owned()));
            if let Err(refusal) = read {
                refused.get_or_insert(refusal);
            }
        }
        match refused {
            None => Ok(parsed),
            Some(refusal) => Err(refusal),
        }
    }

    /// The ticket and the token of a query, whatever else is wrong with it: who asks is settled
    /// before what was asked.
    pub fn credentials(query: &str) -> (Option<String>, Option<String>) {
        let (mut ticket, mut token) = (None, None);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let slot = match decode_component(key).as_deref() {
                Ok("ticket") => &mut ticket,
                Ok("token" | "access_token") => &mut token,
                Ok(_) | Err(_) => continue,
            };
            // One that can not be read is present and bad, and so is one that is given twice,
            // which a proxy might have read otherwise.
            let value = match (decode_component(value), &slot) {
                (Ok(value), None) => value.into_owned(),
                (Ok(_), Some(_)) | (Err(_), _) => String::new(),
            };
            *slot = Some(value);
        }
        (ticket, token)
    }

    /// Replaces what was asked for by the fields of a JSON body; flags of the query stay.
    ///
    /// # Errors
    /// `bad_request` that names a wrong or unknown field.
    pub fn with_body(mut self, body: &[u8]) -> Result<Self, Refusal> {
        let mut body: RawSubscribe = decode_object(body)?;
        body.refuse_message_fields()?;
        body.named = body.named.or(self.raw.named);
        body.native = body.native.or(self.raw.native);
        body.wait = body.wait.or(self.raw.wait);
        body.max = body.max.or(self.raw.max);
        body.cursor = body.cursor.or(self.raw.cursor.take());
        self.raw = body;
        Ok(self)
    }

    /// `Last-Event-ID` wins over `cursor`; an empty one is none.
    pub fn set_last_event_id(&mut self, id: &str) {
        if !id.is_empty() {
            self.raw.cursor = Some(id.to_owned());
        }
    }

    /// # Errors
    /// `bad_request`, `bad_topic`, `bad_cursor` or `too_many_subscriptions`.
    pub fn subscriptions(&self, limits: SubscriptionLimits) -> Result<SubscribeRequest, Refusal> {
        self.raw.clone().into_request(limits)
    }

    pub fn named(&self) -> bool {
        self.raw.named.unwrap_or(false)
    }

    pub fn native(&self) -> bool {
        self.raw.native.unwrap_or(false)
    }

    /// How long a poll waits for its first event, in seconds: 0 to 55, 25 by default.
    ///
    /// # Errors
    /// `bad_request` out of those bounds.
    pub fn wait_seconds(&self) -> Result<u64, Refusal> {
        in_bounds(
            "wait",
            self.raw.wait.unwrap_or(25),
            0,
            MAX_POLL_WAIT_SECONDS,
        )
    }

    /// The most events that a poll returns: 1 to 1000, 100 by default.
    ///
    /// # Errors
    /// `bad_request` out of those bounds.
    pub fn max_events(&self) -> Result<usize, Refusal> {
        in_bounds("max", self.raw.max.unwrap_or(100), 1, MAX_POLL_EVENTS).map(|max| max as usize)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), Refusal> {
        let raw = &mut self.raw;
        match key {
            "topics" | "topic" | "channel" => raw
                .topics
                .get_or_insert_default()
                .extend(value.split(',').map(str::to_owned)),
            "event" | "events" => raw.events.get_or_insert_default().push(value),
            "tag" => add_tag(&mut raw.tag_list, &value)?,
            "cursor" => raw.cursor = Some(value),
            "rewind" => raw.rewind = Some(number("rewind", &value)?),
            "wait" => raw.wait = Some(number("wait", &value)?),
            "max" => raw.max = Some(number("max", &value)?),
            "named" => raw.named = Some(flag("named", &value)?),
            "native" => raw.native = Some(flag("native", &value)?),
            // Read by [`Query::credentials`].
            "ticket" | "token" | "access_token" => {}
            // Appended by polyfills so that no cache answers.
            "_" => {}
            unknown => {
                return Err(Refusal::bad_request(format!(
                    "unknown query parameter {:?}: known are topics (also topic, channel), event (also \
                     events), tag, cursor, rewind, named, native, wait, max, ticket, token (also \
                     access_token)",
                    unknown.chars().take(40).collect::<String>()
                )));
            }
        }
        Ok(())
    }
}

fn decode_component(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|text| Cow::Owned(text.into_owned()))
        .map_err(|_| Refusal::bad_request("the query is not UTF-8"))
}

fn number(name: &str, value: &str) -> Result<u64, Refusal> {
    value
        .parse()
        .map_err(|_| Refusal::bad_request(format!("`{name}` must be a whole number")))
}

fn flag(name: &str, value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" | "" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Refusal::bad_request(format!("`{name}` must be 1 or 0"))),
    }
}

fn in_bounds(name: &str, value: u64, least: u64, most: u64) -> Result<u64, Refusal> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(Refusal::bad_request(format!(
        "`{name}` is {value}: it takes {least} to {most}"
    )))
}

fn add_tag(tags: &mut Vec<(Box<str>, Box<str>)>, text: &str) -> Result<(), Refusal> {
    let Some((key, value)) = text.split_once(':') else {
        return Err(Refusal::bad_request(
            "`tag` must be a key and a value, such as tag=region:eu",
        ));
    };
    if tags.len() == TagMap::MAX_TAGS {
        return Err(Refusal::bad_request("more than 32 tags"));
    }
    if tags.iter().any(|(other, _)| **other == *key) {
        return Err(Refusal::bad_request(
            "`tag` names one key twice: an event has one value for each",
        ));
    }
    tags.push((key.into(), value.into()));
    Ok(())
}

/// The fields of a subscribe message, of a body and of the query together.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubscribe {
    #[serde(default)]
    subscriptions: Option<Vec<Object<RawSubscription>>>,
    #[serde(default)]
    topics: Option<Vec<String>>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default)]
    tags: Option<TagMap>,
    #[serde(skip)]
    tag_list: Vec<(Box<str>, Box<str>)>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    rewind: Option<u64>,
    #[serde(default)]
    wait: Option<u64>,
    #[serde(default)]
    max: Option<u64>,
    #[serde(default)]
    named: Option<bool>,
    #[serde(default)]
    native: Option<bool>,
    #[serde(default, rename = "type")]
    message_type: Option<IgnoredAny>,
    #[serde(default, rename = "ref")]
    reference: Option<Ref>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSubscription {
    #[serde(default)]
    topics: Option<Vec<String>>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default)]
    tags: Option<TagMap>,
}

impl RawSubscribe {
    /// As a `subscribe` message, which has to name topics and has no use for a poll's fields.
    pub(super) fn into_message(
        self,
        limits: SubscriptionLimits,
    ) -> Result<SubscribeRequest, Refusal> {
        let stray = [
            ("wait", self.wait.is_some()),
            ("max", self.max.is_some()),
            ("named", self.named.is_some()),
            ("native", self.native.is_some()),
        ];
        if let Some((field, _)) = stray.iter().find(|(_, present)| *present) {
            return Err(Refusal::bad_request(format!("unknown field `{field}`")));
        }
        let request = self.into_request(limits)?;
        if request.subscriptions.is_empty() {
            return Err(no_topics());
        }
        Ok(request)
    }

    fn into_request(self, limits: SubscriptionLimits) -> Result<SubscribeRequest, Refusal> {
        let start = self.start()?;
        let whole = RawSubscription {
            topics: self.topics,
            topic: self.topic,
            channel: self.channel,
            events: self.events,
            tags: merged_tags(self.tags, self.tag_list),
        };
        let mut subscriptions = Vec::new();
        match self.subscriptions {
            Some(_) if !whole.is_empty() => {
                return Err(Refusal::bad_request(
                    "give either `subscriptions` or `topics` with `events` and `tags`, not both",
                ));
            }
            Some(items) if items.is_empty() => return Err(no_topics()),
            Some(items) => {
                for Object(item) in items {
                    item.into_subscriptions(&mut subscriptions)?;
                }
            }
            None if whole.names_topics() => whole.into_subscriptions(&mut subscriptions)?,
            None => {}
        }
        check_count(&subscriptions, limits)?;
        refuse_contradictions(&subscriptions)?;
        Ok(SubscribeRequest {
            subscriptions,
            start,
        })
    }

    fn start(&self) -> Result<Start, Refusal> {
        let rewind = match self.rewind {
            Some(count) => in_bounds("rewind", count, 0, MAX_REWIND)? as usize,
            None => 0,
        };
        match self.cursor.as_deref() {
            Some("earliest") => Ok(Start::Earliest),
            Some(text) => Ok(Start::After(text.parse()?)),
            None if rewind > 0 => Ok(Start::Rewind(rewind)),
            None => Ok(Start::Now),
        }
    }

    fn refuse_message_fields(&self) -> Result<(), Refusal> {
        let field = match (&self.message_type, &self.reference) {
            (Some(_), _) => "type",
            (None, Some(_)) => "ref",
            (None, None) => return Ok(()),
        };
        Err(Refusal::bad_request(format!("unknown field `{field}`")))
    }
}

fn merged_tags(map: Option<TagMap>, list: Vec<(Box<str>, Box<str>)>) -> Option<TagMap> {
    match map {
        None if !list.is_empty() => Some(TagMap(list.into())),
        map => map,
    }
}

fn check_count(subscriptions: &[Subscription], limits: SubscriptionLimits) -> Result<(), Refusal> {
    if subscriptions.len() <= limits.subscriptions {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::TooManySubscriptions,
        format!(
            "{} topic filters at once: a connection may have {}",
            subscriptions.len(),
            limits.subscriptions
        ),
    )
    .over(LimitKind::Subscriptions))
}

/// A filter has one list of events and tags at a time, so one request can not ask for two.
fn refuse_contradictions(subscriptions: &[Subscription]) -> Result<(), Refusal> {
    let mut seen = HashMap::with_capacity(subscriptions.len());
    for subscription in subscriptions {
        let conditions = &subscription.conditions;
        let before = seen.insert(&subscription.filter, conditions);
        if before.is_some_and(|before| before != conditions) {
            return Err(Refusal::bad_request(format!(
                "{:?} is asked for twice with different `events` or `tags`",
                subscription.filter.as_str()
            )));
        }
    }
    Ok(())
}

fn no_topics() -> Refusal {
    Refusal::bad_request("`topics` is missing or empty: name at least one topic filter")
}

impl RawSubscription {
    fn names_topics(&self) -> bool {
        self.topics.is_some() || self.topic.is_some() || self.channel.is_some()
    }

    fn is_empty(&self) -> bool {
        !self.names_topics() && self.events.is_none() && self.tags.is_none()
    }

    fn into_subscriptions(self, into: &mut Vec<Subscription>) -> Result<(), Refusal> {
        let conditions = Conditions {
            events: event_names(self.events)?,
            tags: self.tags.unwrap_or_default().0,
        };
        let conditions = (!conditions.is_empty()).then(|| Rc::new(conditions));
        let filters = parse_filters(one_list(self.topics, self.topic, self.channel)?)?;
        into.extend(filters.into_iter().map(|filter| Subscription {
            filter,
            conditions: conditions.clone(),
            after: 0,
        }));
        Ok(())
    }
}

fn event_names(names: Option<Vec<String>>) -> Result<Option<Box<[Box<str>]>>, Refusal> {
    let Some(names) = names else { return Ok(None) };
    if names.is_empty() || names.len() > MAX_EVENT_NAMES {
        return Err(Refusal::bad_request(format!(
            "`events` has {} names: it takes 1 to {MAX_EVENT_NAMES}; leave it out to get all",
            names.len()
        )));
    }
    for name in &names {
        check_event_name("events", name)?;
    }
    Ok(Some(names.into_iter().map(String::into).collect()))
}

fn one_list(
    topics: Option<Vec<String>>,
    topic: Option<String>,
    channel: Option<String>,
) -> Result<Vec<String>, Refusal> {
    match (topics, topic, channel) {
        (Some(topics), None, None) if !topics.is_empty() => Ok(topics),
        (None, Some(one), None) | (None, None, Some(one)) => Ok(vec![one]),
        (None, None, None) | (Some(_), None, None) => Err(no_topics()),
        _ => Err(Refusal::bad_request(
            "give one of `topics`, `topic` and `channel`",
        )),
    }
}

fn parse_filters(topics: Vec<String>) -> Result<Vec<TopicFilter>, Refusal> {
    topics
        .iter()
        .map(|topic| TopicFilter::parse(topic).map_err(Refusal::from))
        .collect()
}

/// The fields of an `unsubscribe` message.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTopics {
    #[serde(default)]
    topics: Option<Vec<String>>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    channel: Option<String>,
    #[serde(rename = "type")]
    _message_type: IgnoredAny,
    #[serde(default, rename = "ref")]
    _reference: IgnoredAny,
}

impl RawTopics {
    pub(super) fn into_filters(
        self,
        limits: SubscriptionLimits,
    ) -> Result<Vec<TopicFilter>, Refusal> {
        let filters = parse_filters(one_list(self.topics, self.topic, self.channel)?)?;
        if filters.len() > limits.subscriptions {
            return Err(Refusal::bad_request(format!(
                "more than {} topic filters in one message",
                limits.subscriptions
            )));
        }
        Ok(filters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(query: &str) -> Result<SubscribeRequest, Refusal> {
        Query::parse(query)?.subscriptions(SubscriptionLimits::default())
    }

    #[test]
    fn a_query_reads_as_the_body_that_stands_for_it() {
        let query = request("topics=a:1,b:*&event=x&event=y&tag=k:v:w&cursor=log-7").unwrap();
        let body =
            br#"{"topics":["a:1","b:*"],"events":["x","y"],"tags":{"k":"v:w"},"cursor":"log-7"}"#;
        let body = Query::default()
            .with_body(body)
            .and_then(|query| query.subscriptions(SubscriptionLimits::default()))
            .unwrap();
        assert_eq!(query.topics(), ["a:1", "b:*"]);
        assert_eq!(query.topics(), body.topics());
        assert_eq!(query.start, Start::After("log-7".parse().unwrap()));
        assert_eq!(query.start, body.start);
        assert_eq!(
            query.subscriptions[0].conditions,
            body.subscriptions[1].conditions
        );
    }

    #[test]
    fn a_cursor_wins_over_rewind_and_last_event_id_over_both() {
        let mut query = Query::parse("topics=a&cursor=log-1&rewind=5").unwrap();
        let start = |query: &Query| {
            query
                .subscriptions(SubscriptionLimits::default())
                .unwrap()
                .start
        };
        assert_eq!(start(&query), Start::After("log-1".parse().unwrap()));
        query.set_last_event_id("log-2");
        assert_eq!(start(&query), Start::After("log-2".parse().unwrap()));
        query.set_last_event_id("");
        assert_eq!(start(&query), Start::After("log-2".parse().unwrap()));
    }

    #[test]
    fn bad_queries_are_refused_by_name() {
        for (query, code, named) in [
            ("topcs=a", ErrorCode::BadRequest, "topcs"),
            ("topics=", ErrorCode::BadTopic, ""),
            ("topics=a,,b", ErrorCode::BadTopic, ""),
            ("topics=%ff", ErrorCode::BadRequest, "UTF-8"),
            ("topics=a&cursor=", ErrorCode::BadCursor, ""),
            ("topics=a&cursor=x", ErrorCode::BadCursor, ""),
            ("topics=a&rewind=101", ErrorCode::BadRequest, "rewind"),
            ("topics=a&rewind=-1", ErrorCode::BadRequest, "rewind"),
            ("topics=a&tag=k", ErrorCode::BadRequest, "tag"),
            ("topics=a&named=maybe", ErrorCode::BadRequest, "named"),
        ] {
            let refusal = request(query).unwrap_err();
            assert_eq!(refusal.code, code, "{query}");
            assert!(refusal.message.contains(named), "{query}: {refusal}");
        }
    }
}
