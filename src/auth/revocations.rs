//! Tokens and subjects that are no longer welcome, though their tokens are still valid.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;

use crate::topic::Tenant;

use super::Identity;

/// Of tokens, and again of subjects.
const MAX_ENTRIES: usize = 100_000;

/// 100,000 revocations are in force, so this one is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many revocations are in force")]
pub struct RevocationsFull;

/// Whose access has ended: a subject of a tenant, or a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whose {
    pub tenant: Tenant,
    pub subject: Option<Arc<str>>,
    pub token_id: Option<Arc<str>>,
}

impl Whose {
    pub fn hits(&self, identity: &Identity) -> bool {
        let of_subject = match &self.subject {
            Some(subject) => identity.tenant == self.tenant && identity.subject == *subject,
            None => true,
        };
        let of_token = match &self.token_id {
            Some(token_id) => identity.token_id.as_ref() == Some(token_id),
            None => true,
        };
        of_subject && of_token && (self.subject.is_some() || self.token_id.is_some())
    }
}

/// The end of someone's access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub whose: Whose,
    pub until: Timestamp,
    /// The tokens are refused until they expire, and `until` is what is known of that.
    pub to_its_end: bool,
}

/// The revocations of this node. They live in memory, each until the time given with it.
pub struct RevocationList {
    entries: RwLock<Entries>,
    capacity: usize,
}

#[derive(Default)]
struct Entries {
    tokens: HashMap<Arc<str>, Timestamp>,
    /// Of the tokens, those that are refused for as long as they may turn out to live.
    learning: HashSet<Arc<str>>,
    subjects: HashMap<(Tenant, Arc<str>), Timestamp>,
}

impl Default for RevocationList {
    fn default() -> Self {
        Self::new()
    }
}

impl RevocationList {
    /// An empty list.
    pub fn new() -> Self {
        Self::with_capacity(MAX_ENTRIES)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            entries: RwLock::default(),
            capacity,
        }
    }

    /// Puts a revocation in force. Returns until when it is, which is later where it was already.
    ///
    /// # Errors
    /// [`RevocationsFull`], then nothing has changed.
    pub fn revoke(
        &self,
        revocation: &Revocation,
        now: Timestamp,
    ) -> Result<Timestamp, RevocationsFull> {
        let Revocation {
            whose,
            until,
            to_its_end,
        } = revocation;
        match (&whose.subject, &whose.token_id) {
            (Some(subject), _) => {
                self.revoke_subject(whose.tenant.clone(), Arc::clone(subject), *until, now)
            }
            (None, Some(token_id)) if *to_its_end => {
                self.revoke_token_to_its_end(Arc::clone(token_id), *until, now)
            }
            (None, Some(token_id)) => self.revoke_token(Arc::clone(token_id), *until, now),
            (None, None) => Ok(now),
        }
    }

    /// Whether all that the revocation refuses is refused already.
    pub fn covers(&self, revocation: &Revocation) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let Whose {
            tenant,
            subject,
            token_id,
        } = &revocation.whose;
        let until = match (subject, token_id) {
            (Some(subject), _) => entries.subjects.get(&(tenant.clone(), Arc::clone(subject))),
            (None, Some(token_id)) => entries.tokens.get(token_id),
            (None, None) => None,
        };
        let learns = |token_id| entries.learning.contains(token_id);
        until.is_some_and(|until| *until >= revocation.until)
            && (!revocation.to_its_end || token_id.as_ref().is_none_or(learns))
    }

    /// All that are in force at `now`.
    pub fn all(&self, now: Timestamp) -> Vec<Revocation> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let tokens = entries.tokens.iter().map(|(token_id, until)| Revocation {
            whose: Whose {
                tenant: Tenant::none(),
                subject: None,
                token_id: Some(Arc::clone(token_id)),
            },
            until: *until,
            to_its_end: entries.learning.contains(token_id),
        });
        let subjects = entries
            .subjects
            .iter()
            .map(|((tenant, subject), until)| Revocation {
                whose: Whose {
                    tenant: tenant.clone(),
                    subject: Some(Arc::clone(subject)),
                    token_id: None,
                },
                until: *until,
                to_its_end: false,
            });
        tokens
            .chain(subjects)
            .filter(|revocation| now < revocation.until)
            .collect()
    }

    /// Revokes the token with this `jti` until then. Returns until when it is revoked now, which is later where it was
    /// already.
    ///
    /// # Errors
    /// [`RevocationsFull`], then nothing has changed.
    pub fn revoke_token(
        &self,
        token_id: Arc<str>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, RevocationsFull> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        put(&mut entries.tokens, token_id, until, now, self.capacity)
    }

    /// Revokes the token with this `jti` until it expires. As long as its `exp` is not known, that is `until`; when the
    /// token is presented before then, its `exp` is learned.
    ///
    /// # Errors
    /// [`RevocationsFull`], then nothing has changed.
    pub fn revoke_token_to_its_end(
        &self,
        token_id: Arc<str>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, RevocationsFull> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Entries {
            tokens, learning, ..
        } = &mut *entries;
        let end = put(tokens, Arc::clone(&token_id), until, now, self.capacity)?;
        learning.retain(|token_id| tokens.contains_key(token_id));
        learning.insert(token_id);
        Ok(end)
    }

    /// Revokes every token of a subject of a tenant, also those yet to be issued, until the time given. Returns until
    /// when they are revoked now, which is later where they were already.
    ///
    /// # Errors
    /// [`RevocationsFull`], then nothing has changed.
    pub fn revoke_subject(
        &self,
        tenant: Tenant,
        subject: Arc<str>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Timestamp, RevocationsFull> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let key = (tenant, subject);
        put(&mut entries.subjects, key, until, now, self.capacity)
    }

    /// Whether the identity's token or its subject is revoked at `now`.
    pub fn is_revoked(&self, identity: &Identity, now: Timestamp) -> bool {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if !entries.has_token(identity, now) {
            return entries.has_subject(identity, now);
        }
        let learns = entries.learns_from(identity);
        drop(entries);
        if learns {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            entries.learn_from(identity);
        }
        true
    }

    /// How many tokens and subjects are revoked at `now`.
    pub fn in_force(&self, now: Timestamp) -> usize {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let ends = entries.tokens.values().chain(entries.subjects.values());
        ends.filter(|until| now < **until).count()
    }
}

impl Entries {
    fn has_token(&self, identity: &Identity, now: Timestamp) -> bool {
        let token_id = identity.token_id.as_ref();
        let until = token_id.and_then(|token_id| self.tokens.get(token_id));
        until.is_some_and(|until| now < *until)
    }

    /// Whether the token is good for longer than it was known to be.
    fn learns_from(&self, identity: &Identity) -> bool {
        identity.token_id.as_ref().is_some_and(|token_id| {
            let until = self.tokens.get(token_id);
            let longer = until.is_some_and(|until| *until < identity.valid_until());
            longer && self.learning.contains(token_id)
        })
    }

    fn learn_from(&mut self, identity: &Identity) {
        let until = identity
            .token_id
            .as_ref()
            .and_then(|id| self.tokens.get_mut(id));
        if let Some(until) = until {
            *until = identity.valid_until().max(*until);
        }
    }

    fn has_subject(&self, identity: &Identity, now: Timestamp) -> bool {
        if self.subjects.is_empty() {
            return false;
        }
        let key = (identity.tenant.clone(), Arc::clone(&identity.subject));
        self.subjects.get(&key).is_some_and(|until| now < *until)
    }
}

/// Adds an entry; a revocation is never shortened by another.
fn put<K: Hash + Eq>(
    entries: &mut HashMap<K, Timestamp>,
    key: K,
    until: Timestamp,
    now: Timestamp,
    capacity: usize,
) -> Result<Timestamp, RevocationsFull> {
    entries.retain(|_, until| now < *until);
    if entries.len() >= capacity && !entries.contains_key(&key) {
        return Err(RevocationsFull);
    }
    let end = entries.entry(key).or_insert(until);
    *end = until.max(*end);
    Ok(*end)
}

#[cfg(test)]
mod tests {
    use super::super::test_keys::{self, T0, at};
    use super::*;

    fn alice(tenant: Option<&str>, token_id: Option<&str>) -> Identity {
        Identity {
            tenant: tenant.map_or_else(Tenant::none, Tenant::named),
            token_id: token_id.map(Arc::from),
            ..test_keys::identity("alice", T0 + 3600)
        }
    }

    #[test]
    fn a_token_is_revoked_by_its_id_until_then() {
        let list = RevocationList::new();
        list.revoke_token("t1".into(), at(100), at(0))
            .expect("room");
        assert!(list.is_revoked(&alice(None, Some("t1")), at(99)));
        assert!(!list.is_revoked(&alice(None, Some("t1")), at(100)));
        assert!(!list.is_revoked(&alice(None, Some("t2")), at(1)));
        assert!(!list.is_revoked(&alice(None, None), at(1)));
    }

    #[test]
    fn a_subject_is_revoked_in_its_tenant_only() {
        let list = RevocationList::new();
        let acme = Tenant::named("acme");
        list.revoke_subject(acme, "alice".into(), at(100), at(0))
            .expect("room");
        assert!(list.is_revoked(&alice(Some("acme"), None), at(99)));
        assert!(!list.is_revoked(&alice(Some("acme"), None), at(100)));
        assert!(!list.is_revoked(&alice(Some("other"), None), at(1)));
        assert!(!list.is_revoked(&alice(None, None), at(1)));
    }

    #[test]
    fn a_later_shorter_revocation_does_not_lift_the_longer() {
        let list = RevocationList::new();
        for until in [100, 10] {
            list.revoke_token("t1".into(), at(until), at(0))
                .expect("room");
        }
        assert!(list.is_revoked(&alice(None, Some("t1")), at(99)));
    }

    #[test]
    fn a_token_that_is_presented_is_refused_until_it_expires() {
        let list = RevocationList::new();
        let token = alice(None, Some("t1"));
        list.revoke_token_to_its_end("t1".into(), at(100), at(0))
            .expect("room");
        assert!(list.is_revoked(&token, at(99)));
        assert!(list.is_revoked(&token, at(3600)));
        assert!(!list.is_revoked(&token, token.valid_until()));
        list.revoke_token("t2".into(), at(100), at(0))
            .expect("room");
        let other = alice(None, Some("t2"));
        assert!(list.is_revoked(&other, at(99)));
        assert!(!list.is_revoked(&other, at(100)), "as long as was said");
        assert_eq!((list.in_force(at(99)), list.in_force(at(100))), (2, 1));
    }

    #[test]
    fn a_full_list_says_so_until_entries_end() {
        let list = RevocationList::with_capacity(1);
        list.revoke_token("t1".into(), at(10), at(0)).expect("room");
        let full = list.revoke_token("t2".into(), at(10), at(9));
        assert_eq!(full, Err(RevocationsFull));
        assert_eq!(list.in_force(at(9)), 1);
        assert!(list.revoke_token("t1".into(), at(20), at(9)).is_ok());
        assert!(list.revoke_token("t2".into(), at(30), at(20)).is_ok());
        assert!(list.is_revoked(&alice(None, Some("t2")), at(21)));
    }
}
