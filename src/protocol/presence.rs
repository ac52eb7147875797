//! Who is on a topic: the question, and the answer (section 11).

use std::sync::Arc;

use serde::{Deserialize, Serialize, de::IgnoredAny};

/// What is asked. On `/ws` a message, whose `type` and `ref` are read elsewhere.
#[derive(Debug)]
pub struct PresenceRequest {
    pub topic: String,
    /// The most members in the answer.
    pub limit: Option<usize>,
    /// The subject after which the answer begins, in order.
    pub after: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPresence {
    topic: String,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    after: Option<String>,
    #[serde(rename = "type")]
    _message_type: IgnoredAny,
    #[serde(default, rename = "ref")]
    _reference: IgnoredAny,
}

impl From<RawPresence> for PresenceRequest {
    fn from(raw: RawPresence) -> Self {
        Self {
            topic: raw.topic,
            limit: raw.limit,
            after: raw.after,
        }
    }
}

/// Members of a topic in the order of their subjects.
#[derive(Clone, Debug, Serialize)]
pub struct PresenceAnswer {
    pub topic: Box<str>,
    /// How many there are, on all pages.
    pub count: usize,
    pub members: Vec<PresenceMember>,
    /// What to give as `after` for the next page, where there may be one.
    pub next: Option<Box<str>>,
    /// Where a subscription to the announcements goes on from this list.
    pub cursor: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct PresenceMember {
    pub user_id: Arc<str>,
    /// On all nodes.
    pub connections: u64,
}
