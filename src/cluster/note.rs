//! What nodes tell each other, as JSON: one node may be of another version than the next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::{
    auth::{Revocation, Whose},
    topic::Tenant,
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
    Revoke(Entry),
    /// I am new: who tells me what is in force?
    Ask,
    /// What is in force, for the one that asked; more follows where this is not the last part.
    Answer {
        to: NodeId,
        revocations: Vec<Entry>,
        is_last: bool,
    },
    /// What only a later version says.
    #[serde(other)]
    Unknown,
}

/// A revocation.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Entry {
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

impl From<&Revocation> for Entry {
    fn from(revocation: &Revocation) -> Self {
        Self {
            tenant: revocation.whose.tenant.as_deref().map(str::to_owned),
            sub: revocation.whose.subject.as_deref().map(str::to_owned),
            jti: revocation.whose.token_id.as_deref().map(str::to_owned),
            until: revocation.until,
            to_its_end: revocation.to_its_end,
        }
    }
}

impl From<Entry> for Revocation {
    fn from(entry: Entry) -> Self {
        Self {
            whose: Whose {
                tenant: entry
                    .tenant
                    .as_deref()
                    .map_or_else(Tenant::none, Tenant::named),
                subject: entry.sub.map(Into::into),
                token_id: entry.jti.map(Into::into),
            },
            until: entry.until,
            to_its_end: entry.to_its_end,
        }
    }
}
