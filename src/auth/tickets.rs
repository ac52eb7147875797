//! Tickets: short-lived stand-ins for a token, for URLs, which end up in logs and histories.
//!
//! ```text
//! Once    issued ──30 s──▶ gone          the first use takes it
//! Stream  issued ──30 s──▶ gone
//!            └─ first use ─▶ good until the token ends, for reconnects with Last-Event-ID;
//!                            each takes over from the stream before it
//! ```

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry::Occupied},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Identity, identity::later, remote::sha256};
use crate::topic::Tenant;

/// Time from issue to first use: a page load, with room for a slow network.
const FIRST_USE: SignedDuration = SignedDuration::from_secs(30);

/// A stream ticket whose token has ended is kept this long, so that its client hears `token_expired`, not
/// `unauthorized`, and asks for a new one.
const REMEMBER_EXPIRED: SignedDuration = SignedDuration::from_secs(60);

/// About 300 bytes each, besides identities, which they share with connections.
const MAX_TICKETS: usize = 100_000;

/// 192 bits: out of reach of guessing, and a multiple of three, so base64 is tight.
const RANDOM_BYTES: usize = 24;
const TEXT_BYTES: usize = RANDOM_BYTES / 3 * 4;

/// A subject may have one in so many of the places.
const SUBJECTS_SHARE: usize = 4;

/// What a ticket may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TicketUse {
    /// One connection or request, on any endpoint.
    Once,
    /// `/events` only: one stream at a time, with its reconnects.
    Stream,
}

/// A ticket for the client.
#[derive(Clone, PartialEq)]
pub struct Ticket {
    /// 32 characters of base64url. A credential: not for logs.
    pub text: String,
    /// Until when it has to be used first.
    pub expires_at: Timestamp,
}

impl Ticket {
    /// A random one for an identity that was verified just now, and what it is known by.
    ///
    /// # Errors
    /// [`IssueError::Randomness`].
    pub fn random(identity: &Identity, now: Timestamp) -> Result<(Self, TicketHash), IssueError> {
        let text = random_text()?;
        let hash = TicketHash(sha256(text.as_bytes()));
        let expires_at = later(now, FIRST_USE).min(identity.expires_at);
        Ok((Self { text, expires_at }, hash))
    }
}

/// What a ticket is known by: SHA-256 of its text, which is stored nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TicketHash([u8; 32]);

impl TicketHash {
    /// # Errors
    /// [`TicketError::Unknown`] for what no ticket looks like.
    pub fn of(text: &str) -> Result<Self, TicketError> {
        if text.len() != TEXT_BYTES {
            return Err(TicketError::Unknown);
        }
        Ok(Self(sha256(text.as_bytes())))
    }
}

impl From<TicketHash> for String {
    fn from(hash: TicketHash) -> Self {
        URL_SAFE_NO_PAD.encode(hash.0)
    }
}

impl TryFrom<String> for TicketHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let hash = bytes.and_then(|bytes| bytes.try_into().ok());
        hash.map(Self).ok_or("not the hash of a ticket")
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("text", &"***")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Why there is no ticket. [`IssueError::TooMany`] is `rate_limited`, the others `unavailable`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    #[error("too many tickets are outstanding")]
    Full,
    #[error("too many tickets of this subject are outstanding: use them, or wait until they end")]
    TooMany,
    #[error("the operating system has no randomness to give")]
    Randomness,
}

/// Why a ticket was not accepted. All are `unauthorized` but [`TicketError::Expired`], which is `token_expired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Never issued, used up, or not used in time: deliberately the same.
    #[error("ticket is unknown, used up or too old")]
    Unknown,
    /// The token it was issued for has ended.
    #[error("the ticket's token has expired")]
    Expired,
    /// A stream ticket elsewhere than on `/events`. It stays good.
    #[error("ticket is good for /events only")]
    WrongEndpoint,
    /// A stream ticket used again without `Last-Event-ID`: not a reconnect. It stays good.
    #[error("ticket was used before; only a reconnect with Last-Event-ID may use it again")]
    NotAReconnect,
}

/// The circumstances in which a ticket is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redeem {
    /// Whether the request is for `/events`.
    pub stream_endpoint: bool,
    /// Whether it brings a `Last-Event-ID`.
    pub has_last_event_id: bool,
}

/// What a ticket was good for. Whether the identity has been revoked meanwhile is for the caller to ask.
#[derive(Debug)]
pub struct Redeemed {
    /// The identity of the token it was issued for.
    pub identity: Arc<Identity>,
    /// For a stream ticket: what the stream takes it over with, once it begins.
    pub claim: Option<StreamClaim>,
}

/// A request's claim to a stream ticket. Until it is used, nothing has changed: a request that is
/// refused for another reason neither uses the ticket up nor ends the older stream.
#[derive(Debug)]
pub struct StreamClaim {
    hash: TicketHash,
    /// Counts the streams that took over.
    takeovers: watch::Sender<u64>,
}

impl StreamClaim {
    /// Of the ticket that is claimed.
    pub fn hash(&self) -> TicketHash {
        self.hash
    }

    /// The stream begins, and an older one of the same ticket has to end.
    pub fn take_over(self) -> StreamLease {
        StreamLease::next(&self.takeovers)
    }
}

/// A stream's hold on its ticket, owned by the stream. Dropping it changes nothing.
#[derive(Debug)]
pub struct StreamLease {
    takeovers: watch::Receiver<u64>,
    own: u64,
}

impl StreamLease {
    fn next(takeovers: &watch::Sender<u64>) -> Self {
        takeovers.send_modify(|count| *count += 1);
        Self {
            takeovers: takeovers.subscribe(),
            own: *takeovers.borrow(),
        }
    }

    /// Completes when another stream has taken over, and this one has to end. Never completes otherwise.
    /// Cancel-safe.
    pub async fn superseded(&mut self) {
        let own = self.own;
        if self
            .takeovers
            .wait_for(|latest| *latest != own)
            .await
            .is_err()
        {
            // The ticket is gone, so nobody can take over any more.
            std::future::pending::<()>().await;
        }
    }

    /// Whether another stream has taken over.
    pub fn is_superseded(&self) -> bool {
        *self.takeovers.borrow() != self.own
    }
}

/// The outstanding tickets of this node: at most 100,000, each by its hash only.
pub struct TicketStore {
    inner: Mutex<Inner>,
    capacity: usize,
}

/// A ticket that may still be used, see [`TicketStore::all`].
#[derive(Clone, Debug)]
pub struct Outstanding {
    pub hash: TicketHash,
    pub identity: Arc<Identity>,
    pub usage: TicketUse,
    /// Until when it may be used.
    pub ends: Timestamp,
    /// A stream has begun with it.
    pub is_used: bool,
}

impl Outstanding {
    /// One that is issued `now`, and was not used yet.
    pub fn new(
        hash: TicketHash,
        identity: Arc<Identity>,
        usage: TicketUse,
        now: Timestamp,
    ) -> Self {
        Self {
            hash,
            ends: later(now, FIRST_USE).min(identity.valid_until()),
            identity,
            usage,
            is_used: false,
        }
    }
}

impl From<Outstanding> for Entry {
    fn from(ticket: Outstanding) -> Self {
        Self {
            identity: ticket.identity,
            ends: ticket.ends,
            kind: match ticket.usage {
                TicketUse::Once => Kind::Once,
                TicketUse::Stream => Kind::Stream(watch::Sender::new(u64::from(ticket.is_used))),
            },
        }
    }
}

#[derive(Default)]
struct Inner {
    tickets: HashMap<TicketHash, Entry>,
    /// The same tickets by the time at which they may be forgotten.
    ends: BTreeSet<(Timestamp, TicketHash)>,
    /// How many of them each subject of each tenant has, so that none can take all places.
    by_subject: HashMap<(Tenant, Arc<str>), usize>,
}

struct Entry {
    identity: Arc<Identity>,
    ends: Timestamp,
    kind: Kind,
}

enum Kind {
    Once,
    /// Counts the streams that took over; 0 until the first use.
    Stream(watch::Sender<u64>),
}

impl Default for TicketStore {
    fn default() -> Self {
        Self::new()
    }
}

impl TicketStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_capacity(MAX_TICKETS)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            inner: Mutex::default(),
            capacity,
        }
    }

    /// Makes a ticket for an identity that was verified just now. `now` is the current time.
    ///
    /// # Errors
    /// [`IssueError::Full`] while 100,000 are outstanding, [`IssueError::Randomness`].
    pub fn issue(
        &self,
        identity: Arc<Identity>,
        usage: TicketUse,
        now: Timestamp,
    ) -> Result<Ticket, IssueError> {
        let (ticket, hash) = Ticket::random(&identity, now)?;
        self.adopt(Outstanding::new(hash, identity, usage, now), now)?;
        Ok(ticket)
    }

    /// Takes a ticket on that was issued elsewhere, or is there already. `now` is the current time.
    ///
    /// # Errors
    /// As [`TicketStore::issue`].
    pub fn adopt(&self, ticket: Outstanding, now: Timestamp) -> Result<(), IssueError> {
        let mut inner = self.lock();
        inner.forget_ended(now);
        if inner.tickets.len() >= self.capacity {
            return Err(IssueError::Full);
        }
        if inner.of_subject(&ticket.identity) >= self.capacity.div_ceil(SUBJECTS_SHARE) {
            return Err(IssueError::TooMany);
        }
        if !inner.tickets.contains_key(&ticket.hash) {
            inner.insert(ticket.hash, ticket.into());
        }
        Ok(())
    }

    /// Has these tickets and no others, as another store has them. Streams that were begun with one of
    /// them here go on. What there is no room for is left out.
    pub fn replace(&self, tickets: Vec<Outstanding>) {
        let mut inner = self.lock();
        let before = std::mem::take(&mut *inner).tickets;
        for ticket in tickets.into_iter().take(self.capacity) {
            let (hash, is_used) = (ticket.hash, ticket.is_used);
            let mut entry = Entry::from(ticket);
            if let Some(Kind::Stream(takeovers)) = before.get(&hash).map(|entry| &entry.kind) {
                if is_used {
                    takeovers.send_if_modified(|count| {
                        let is_first = *count == 0;
                        *count += u64::from(is_first);
                        is_first
                    });
                }
                entry.kind = Kind::Stream(takeovers.clone());
            }
            if !inner.tickets.contains_key(&hash) {
                inner.insert(hash, entry);
            }
        }
    }

    /// A stream has begun with a ticket, as far as that was not known yet.
    pub fn set_used(&self, hash: &TicketHash) {
        if let Some(Kind::Stream(takeovers)) =
            self.lock().tickets.get(hash).map(|entry| &entry.kind)
            && *takeovers.borrow() == 0
        {
            takeovers.send_replace(1);
        }
    }

    /// Takes a ticket. `now` is the current time.
    ///
    /// # Errors
    /// [`TicketError`]; a ticket that is refused because of the circumstances is not used up.
    pub fn redeem(&self, text: &str, how: Redeem, now: Timestamp) -> Result<Redeemed, TicketError> {
        self.redeem_hash(TicketHash::of(text)?, how, now)
    }

    /// Whether it was issued, as far as is known here, and not used up.
    pub fn holds(&self, text: &str) -> bool {
        TicketHash::of(text).is_ok_and(|hash| self.lock().tickets.contains_key(&hash))
    }

    /// As [`TicketStore::redeem`], of a ticket that was presented elsewhere.
    ///
    /// # Errors
    /// As [`TicketStore::redeem`].
    pub fn redeem_hash(
        &self,
        hash: TicketHash,
        how: Redeem,
        now: Timestamp,
    ) -> Result<Redeemed, TicketError> {
        let mut inner = self.lock();
        let entry = inner.remove(&hash).ok_or(TicketError::Unknown)?;
        let (kept, result) = entry.redeem(hash, how, now);
        if let Some(entry) = kept {
            inner.insert(hash, entry);
        }
        result
    }

    /// A stream begins elsewhere or here with a ticket that was redeemed. `None` where the ticket has
    /// ended.
    pub fn take_over(&self, hash: &TicketHash) -> Option<StreamLease> {
        match &self.lock().tickets.get(hash)?.kind {
            Kind::Once => None,
            Kind::Stream(takeovers) => Some(StreamLease::next(takeovers)),
        }
    }

    /// The tickets that may still be used.
    pub fn all(&self, now: Timestamp) -> Vec<Outstanding> {
        let mut inner = self.lock();
        inner.forget_ended(now);
        let tickets = inner.tickets.iter().map(|(hash, entry)| Outstanding {
            hash: *hash,
            identity: Arc::clone(&entry.identity),
            ends: entry.ends,
            usage: match entry.kind {
                Kind::Once => TicketUse::Once,
                Kind::Stream(_) => TicketUse::Stream,
            },
            is_used: match &entry.kind {
                Kind::Once => false,
                Kind::Stream(takeovers) => *takeovers.borrow() > 0,
            },
        });
        tickets.collect()
    }

    /// How many tickets may still be used. `now` is the current time.
    pub fn outstanding(&self, now: Timestamp) -> usize {
        let mut inner = self.lock();
        inner.forget_ended(now);
        inner.tickets.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn of_subject(&self, identity: &Identity) -> usize {
        let subject = (identity.tenant.clone(), Arc::clone(&identity.subject));
        self.by_subject.get(&subject).copied().unwrap_or(0)
    }

    fn insert(&mut self, hash: TicketHash, entry: Entry) {
        let subject = (
            entry.identity.tenant.clone(),
            Arc::clone(&entry.identity.subject),
        );
        *self.by_subject.entry(subject).or_default() += 1;
        self.ends.insert((entry.ends, hash));
        self.tickets.insert(hash, entry);
    }

    fn remove(&mut self, hash: &TicketHash) -> Option<Entry> {
        let entry = self.tickets.remove(hash)?;
        self.ends.remove(&(entry.ends, *hash));
        let subject = (
            entry.identity.tenant.clone(),
            Arc::clone(&entry.identity.subject),
        );
        if let Occupied(mut count) = self.by_subject.entry(subject) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(entry)
    }

    fn forget_ended(&mut self, now: Timestamp) {
        while let Some((ends, hash)) = self.ends.first().copied() {
            if ends > now {
                break;
            }
            self.remove(&hash);
        }
    }
}

type Outcome = (Option<Entry>, Result<Redeemed, TicketError>);

impl Entry {
    /// What the ticket gives, and what is left of it.
    fn redeem(self, hash: TicketHash, how: Redeem, now: Timestamp) -> Outcome {
        if self.identity.is_expired(now) {
            let kept = (now < self.ends).then_some(self);
            return (kept, Err(TicketError::Expired));
        }
        if now >= self.ends {
            return (None, Err(TicketError::Unknown));
        }
        match &self.kind {
            Kind::Once => (None, Ok(self.redeemed(None))),
            _ if !how.stream_endpoint => (Some(self), Err(TicketError::WrongEndpoint)),
            Kind::Stream(takeovers) if *takeovers.borrow() > 0 && !how.has_last_event_id => {
                (Some(self), Err(TicketError::NotAReconnect))
            }
            Kind::Stream(takeovers) => {
                let claim = StreamClaim {
                    hash,
                    takeovers: takeovers.clone(),
                };
                let redeemed = self.redeemed(Some(claim));
                let kept = Entry {
                    ends: later(self.identity.valid_until(), REMEMBER_EXPIRED),
                    ..self
                };
                (Some(kept), Ok(redeemed))
            }
        }
    }

    fn redeemed(&self, claim: Option<StreamClaim>) -> Redeemed {
        let identity = Arc::clone(&self.identity);
        Redeemed { identity, claim }
    }
}

fn random_text() -> Result<String, IssueError> {
    let mut bytes = [0u8; RANDOM_BYTES];
    getrandom::fill(&mut bytes).map_err(|_| IssueError::Randomness)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
#[path = "tickets_tests.rs"]
mod tests;
