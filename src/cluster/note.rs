//! What nodes tell each other, as JSON: one node may be of another version than the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    auth::{Revocation, Whose},
    node::NodeId,
    presence::{Count, Place},
    topic::{Tenant, Topic, TopicError},
};

/// What a node tells all nodes.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Note {
    pub node: NodeId,
    #[serde(flatten)]
    pub said: Said,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub(super) enum Said {
    /// Someone's access has ended.
    Revoke(RevocationEntry),
    /// I am new, or have missed something: who tells me what is in force, and who is where?
    Ask,
    /// What is in force, for the one that asked; more follows where this is not the last part.
    Answer {
        to: NodeId,
        revocations: Vec<RevocationEntry>,
        is_last: bool,
    },
    /// How many connections subjects have to me, and where it begins anew, no others until more follows.
    Counts {
        begins_anew: bool,
        counts: Vec<CountEntry>,
    },
    /// I am still here.
    Alive,
    /// I am going, and my clients to other nodes.
    Leave,
    /// What only a later version says.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct RevocationEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    until: Timestamp,
    /// See [`Revocation::to_its_end`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    to_its_end: bool,
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct CountEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    topic: String,
    sub: String,
    /// Not there where the subject does not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    announced_at: Option<u64>,
}

fn tenant_of(name: Option<&str>) -> Tenant {
    name.map_or_else(Tenant::none, Tenant::named)
}

impl From<&Revocation> for RevocationEntry {
    fn from(revocation: &Revocation) -> Self {
        let whose = &revocation.whose;
        Self {
            tenant: whose.tenant.as_deref().map(str::to_owned),
            sub: whose.subject.as_deref().map(str::to_owned),
            jti: whose.token_id.as_deref().map(str::to_owned),
            until: revocation.until,
            to_its_end: revocation.to_its_end,
        }
    }
}

impl From<RevocationEntry> for Revocation {
    fn from(entry: RevocationEntry) -> Self {
        Self {
            whose: Whose {
                tenant: tenant_of(entry.tenant.as_deref()),
                subject: entry.sub.map(Into::into),
                token_id: entry.jti.map(Into::into),
            },
            until: entry.until,
            to_its_end: entry.to_its_end,
        }
    }
}

impl From<&Count> for CountEntry {
    fn from(count: &Count) -> Self {
        Self {
            tenant: count.place.tenant.as_deref().map(str::to_owned),
            topic: count.place.topic.as_str().to_owned(),
            sub: (*count.place.subject).to_owned(),
            connections: count.connections,
            announced_at: count.announced_at,
        }
    }
}

impl TryFrom<CountEntry> for Count {
    type Error = TopicError;

    fn try_from(entry: CountEntry) -> Result<Self, TopicError> {
        Ok(Self {
            place: Place {
                tenant: tenant_of(entry.tenant.as_deref()),
                topic: Topic::parse(&entry.topic)?,
                subject: entry.sub.into(),
            },
            connections: entry.connections,
            announced_at: entry.announced_at,
        })
    }
}
