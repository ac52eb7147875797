//! What nodes tell each other, as JSON: one node may be of another version than the next.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    auth::{ClaimedLimits, Identity, Outstanding, Revocation, TicketHash, TicketUse, Whose},
    limits::{Rate, Spending},
    node::NodeId,
    presence::{Count, Place},
    topic::{Tenant, Topic, TopicError, TopicFilter},
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
    /// I am new, or have missed something: who tells me what is in force, and who is where? `number`
    /// names the question on my side.
    Ask {
        number: u64,
        /// I know nothing yet.
        #[serde(default)]
        is_new: bool,
    },
    /// What is in force, for the one that asked; more follows where this is not the last part.
    Answer {
        to: NodeId,
        number: u64,
        revocations: Vec<RevocationEntry>,
        is_last: bool,
        /// I know all that is in force, and am not new myself.
        knows_all: bool,
        #[serde(default)]
        is_new: bool,
        /// With the last part: whom I take to be there.
        #[serde(default)]
        nodes: Vec<NodeId>,
    },
    /// What may not have been heard everywhere, since I have missed a part of the log.
    Revoked { revocations: Vec<RevocationEntry> },
    /// How many connections subjects have to me: see [`crate::presence::Counts`].
    Counts {
        number: u64,
        after: u64,
        begins_anew: bool,
        is_last: bool,
        counts: Vec<CountEntry>,
    },
    /// Who was announced, as far as I have read the log: for the one that asked.
    Announced {
        to: NodeId,
        announced: Vec<AnnouncedEntry>,
    },
    /// What subjects have spent of their budgets at my place since I told last. From one that begins
    /// anew to the last I tell all, and those that are not mentioned have no connections to me.
    Spent {
        begins_anew: bool,
        #[serde(default)]
        is_last: bool,
        spending: Vec<SpendingEntry>,
    },
    /// Something is to be done with a ticket, by all nodes alike. `number` names it on my side.
    Ticket {
        number: u64,
        /// The time that counts.
        at: Timestamp,
        act: TicketAct,
    },
    /// A part of the tickets that may still be used, for the one that asked, before my answer.
    Tickets {
        to: NodeId,
        number: u64,
        tickets: Vec<TicketEntry>,
    },
    /// I am still here, and who I am.
    Alive {
        #[serde(flatten)]
        about: About,
        /// I do not know yet what is in force.
        #[serde(default)]
        is_new: bool,
    },
    /// I am going, and my clients to other nodes.
    Leave,
    /// What only a later version says.
    #[serde(other)]
    Unknown,
}

/// What operators are told of a node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct About {
    /// As it is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub version: String,
    /// Streams and waiting polls of clients.
    #[serde(default)]
    pub connections: usize,
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
}

/// Someone whose join is in the log, and no leave after it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct AnnouncedEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    topic: String,
    sub: String,
    position: u64,
}

/// Numbers that are 0 are left out.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct SpendingEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    sub: String,
    #[serde(skip_serializing_if = "is_zero")]
    published: u32,
    #[serde(skip_serializing_if = "is_zero")]
    connects: u32,
    #[serde(skip_serializing_if = "is_zero")]
    connections: u32,
    #[serde(skip_serializing_if = "is_zero")]
    polls: u32,
    /// Not there where it is as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    publish_rate: Option<RateEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_rate: Option<RateEntry>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct RateEntry {
    per_second: u32,
    burst: u32,
}

impl From<Rate> for RateEntry {
    fn from(rate: Rate) -> Self {
        Self {
            per_second: rate.per_second,
            burst: rate.burst,
        }
    }
}

impl From<RateEntry> for Rate {
    fn from(entry: RateEntry) -> Self {
        Self {
            per_second: entry.per_second.max(1),
            burst: entry.burst.max(1),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TicketAct {
    Issue {
        ticket: Box<TicketEntry>,
    },
    Redeem {
        hash: TicketHash,
        stream_endpoint: bool,
        has_last_event_id: bool,
    },
    TakeOver {
        hash: TicketHash,
    },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct TicketEntry {
    hash: TicketHash,
    is_for_streams: bool,
    ends: Timestamp,
    #[serde(default)]
    is_used: bool,
    identity: IdentityEntry,
}

/// An [`Identity`], with its filters as text.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct IdentityEntry {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    subscribe: Vec<String>,
    publish: Vec<String>,
    trusted: bool,
    stats: bool,
    exp: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<ClaimedLimits>,
}

fn filters_of(texts: &[String]) -> Result<Vec<TopicFilter>, TopicError> {
    texts.iter().map(|text| TopicFilter::parse(text)).collect()
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
        }
    }
}

impl From<&(Place, u64)> for AnnouncedEntry {
    fn from((place, position): &(Place, u64)) -> Self {
        Self {
            tenant: place.tenant.as_deref().map(str::to_owned),
            topic: place.topic.as_str().to_owned(),
            sub: (*place.subject).to_owned(),
            position: *position,
        }
    }
}

impl TryFrom<AnnouncedEntry> for (Place, u64) {
    type Error = TopicError;

    fn try_from(entry: AnnouncedEntry) -> Result<Self, TopicError> {
        let place = Place {
            tenant: tenant_of(entry.tenant.as_deref()),
            topic: Topic::parse(&entry.topic)?,
            subject: entry.sub.into(),
        };
        Ok((place, entry.position))
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
        })
    }
}

impl From<&Spending> for SpendingEntry {
    fn from(spending: &Spending) -> Self {
        let (tenant, subject) = &spending.key;
        Self {
            tenant: tenant.as_deref().map(str::to_owned),
            sub: (**subject).to_owned(),
            published: spending.published,
            connects: spending.connects,
            connections: spending.connections,
            polls: spending.polls,
            publish_rate: spending.publish_rate.map(Into::into),
            connect_rate: spending.connect_rate.map(Into::into),
        }
    }
}

impl From<SpendingEntry> for Spending {
    fn from(entry: SpendingEntry) -> Self {
        Self {
            key: (tenant_of(entry.tenant.as_deref()), entry.sub.into()),
            published: entry.published,
            connects: entry.connects,
            connections: entry.connections,
            polls: entry.polls,
            publish_rate: entry.publish_rate.map(Into::into),
            connect_rate: entry.connect_rate.map(Into::into),
        }
    }
}

impl From<&Outstanding> for TicketEntry {
    fn from(ticket: &Outstanding) -> Self {
        let identity = &*ticket.identity;
        let texts = |filters: &[TopicFilter]| filters.iter().map(ToString::to_string).collect();
        Self {
            hash: ticket.hash,
            is_for_streams: ticket.usage == TicketUse::Stream,
            ends: ticket.ends,
            is_used: ticket.is_used,
            identity: IdentityEntry {
                sub: (*identity.subject).to_owned(),
                tenant: identity.tenant.as_deref().map(str::to_owned),
                subscribe: texts(&identity.subscribe),
                publish: texts(&identity.publish),
                trusted: identity.trusted,
                stats: identity.stats,
                exp: identity.expires_at,
                jti: identity.token_id.as_deref().map(str::to_owned),
                limits: identity.limits.as_deref().copied(),
            },
        }
    }
}

impl TryFrom<TicketEntry> for Outstanding {
    type Error = TopicError;

    fn try_from(ticket: TicketEntry) -> Result<Self, TopicError> {
        let entry = ticket.identity;
        let identity = Identity {
            subscribe: filters_of(&entry.subscribe)?,
            publish: filters_of(&entry.publish)?,
            subject: entry.sub.into(),
            tenant: tenant_of(entry.tenant.as_deref()),
            trusted: entry.trusted,
            stats: entry.stats,
            expires_at: entry.exp,
            token_id: entry.jti.map(Into::into),
            limits: entry.limits.map(Box::new),
        };
        Ok(Self {
            hash: ticket.hash,
            identity: Arc::new(identity),
            usage: match ticket.is_for_streams {
                true => TicketUse::Stream,
                false => TicketUse::Once,
            },
            ends: ticket.ends,
            is_used: ticket.is_used,
        })
    }
}
