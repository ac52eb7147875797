//! Which publishes were accepted lately, so that a repeated one is answered and not appended.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use super::EngineError;
use crate::{protocol::Fingerprint, topic::Tenant};

/// How long a key is remembered (protocol, section 7).
pub(super) const KEY_LIFETIME: Duration = Duration::from_secs(600);

/// A publisher's key with its scope, and what was asked under it. Digests only, so that an entry
/// has one size, however long the client's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Of tenant and subject.
    pub(super) subject: [u8; 16],
    /// Of tenant, subject and the client's key.
    pub(super) scoped: [u8; 16],
    /// Of the request, see `PublishRequest::fingerprint`.
    pub(super) request: [u8; 16],
    /// Not of a client, so that it takes no client's place.
    pub(super) is_the_gateways: bool,
}

impl IdempotencyKey {
    pub fn new(tenant: &Tenant, subject: &str, key: &str, request: [u8; 16]) -> Self {
        let of_subject = || {
            let mut digest = Fingerprint::new();
            // No tenant's name is empty.
            digest.field(tenant.as_deref().unwrap_or_default().as_bytes());
            digest.field(subject.as_bytes());
            digest
        };
        let mut scoped = of_subject();
        scoped.field(key.as_bytes());
        Self {
            subject: of_subject().finish(),
            scoped: scoped.finish(),
            request,
            is_the_gateways: false,
        }
    }

    /// One that the gateway makes for itself, as many as it has to: a log's server remembers it, and
    /// no client waits for its place.
    #[must_use]
    pub fn of_the_gateway(self) -> Self {
        Self {
            is_the_gateways: true,
            ..self
        }
    }
}

/// What was answered to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    request: [u8; 16],
    first: u64,
    count: u32,
}

/// The outcome of looking a key up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    New,
    /// The first sequence and the count that were answered before.
    Before(u64, u64),
    Conflict,
    /// Every slot holds a key that may still come again.
    Full,
    /// The subject has as many keys as it may have.
    SubjectFull,
}

/// How many keys are remembered.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyLimits {
    pub keys: usize,
    /// So that no subject can take the places of all.
    pub keys_per_subject: usize,
}

/// Keys of the last ten minutes, within bounds.
#[derive(Debug)]
pub(super) struct IdempotencyWindow {
    answers: HashMap<[u8; 16], Answer, ahash::RandomState>,
    by_age: VecDeque<Remembered>,
    /// How many each subject has; none has 0.
    by_subject: HashMap<[u8; 16], usize, ahash::RandomState>,
    limits: IdempotencyLimits,
}

#[derive(Debug)]
struct Remembered {
    since: Instant,
    subject: [u8; 16],
    scoped: [u8; 16],
}

impl IdempotencyWindow {
    pub(super) fn new(limits: IdempotencyLimits) -> Self {
        Self {
            answers: HashMap::default(),
            by_age: VecDeque::new(),
            by_subject: HashMap::default(),
            limits,
        }
    }

    /// The keys that are still remembered.
    pub(super) fn len(&mut self, now: Instant) -> usize {
        self.forget_expired(now);
        self.answers.len()
    }

    pub(super) fn look_up(&mut self, key: &IdempotencyKey, now: Instant) -> Known {
        self.forget_expired(now);
        match self.answers.get(&key.scoped) {
            Some(answer) if answer.request == key.request => {
                Known::Before(answer.first, u64::from(answer.count))
            }
            Some(_) => Known::Conflict,
            None if self.answers.len() >= self.limits.keys => Known::Full,
            None if self.of_subject(key) >= self.limits.keys_per_subject => Known::SubjectFull,
            None => Known::New,
        }
    }

    pub(super) fn remember(&mut self, key: &IdempotencyKey, first: u64, count: u32, now: Instant) {
        if let Entry::Vacant(slot) = self.answers.entry(key.scoped) {
            slot.insert(Answer {
                request: key.request,
                first,
                count,
            });
            self.by_age.push_back(Remembered {
                since: now,
                subject: key.subject,
                scoped: key.scoped,
            });
            *self.by_subject.entry(key.subject).or_default() += 1;
        }
    }

    /// Counts a client's key in, what it stands for being for a server to remember.
    ///
    /// # Errors
    /// [`EngineError::KeysFull`] and [`EngineError::SubjectKeysFull`] where it is new and has no place.
    pub(super) fn take_on(
        &mut self,
        key: &IdempotencyKey,
        now: Instant,
    ) -> Result<(), EngineError> {
        if key.is_the_gateways {
            return Ok(());
        }
        match self.look_up(key, now) {
            Known::New => self.remember(key, 0, 0, now),
            Known::Before(..) | Known::Conflict => {}
            Known::Full => return Err(EngineError::KeysFull),
            Known::SubjectFull => return Err(EngineError::SubjectKeysFull),
        }
        Ok(())
    }

    /// Whether a key is remembered whose events begin at a sequence or before it.
    pub(super) fn reach_back_to(&mut self, sequence: u64, now: Instant) -> bool {
        self.forget_expired(now);
        self.answers.values().any(|answer| answer.first <= sequence)
    }

    /// The keys whose events begin at a sequence or before it, with the first of these, their count
    /// and when they were used, in that order.
    pub(super) fn up_to(
        &self,
        sequence: u64,
    ) -> impl Iterator<Item = (IdempotencyKey, u64, u32, Instant)> + '_ {
        self.by_age.iter().filter_map(move |remembered| {
            let answer = self.answers.get(&remembered.scoped)?;
            let key = IdempotencyKey {
                subject: remembered.subject,
                scoped: remembered.scoped,
                request: answer.request,
                is_the_gateways: false,
            };
            let is_wanted = answer.first <= sequence;
            is_wanted.then_some((key, answer.first, answer.count, remembered.since))
        })
    }

    /// Whether the key is remembered as the one of the events from `first` on.
    pub(super) fn holds(&self, key: &IdempotencyKey, first: u64) -> bool {
        let answer = self.answers.get(&key.scoped);
        answer.is_some_and(|answer| answer.first == first)
    }

    /// Forgets the keys that were remembered last: what they stood for was not appended.
    pub(super) fn forget_newest(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(newest) = self.by_age.pop_back() {
                self.forget(&newest);
            }
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        let is_over = |oldest: &Remembered| now.duration_since(oldest.since) >= KEY_LIFETIME;
        while self.by_age.front().is_some_and(is_over)
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, key: &Remembered) {
        self.answers.remove(&key.scoped);
        if let Entry::Occupied(mut count) = self.by_subject.entry(key.subject) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn of_subject(&self, key: &IdempotencyKey) -> usize {
        self.by_subject.get(&key.subject).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(keys: usize, keys_per_subject: usize) -> IdempotencyWindow {
        IdempotencyWindow::new(IdempotencyLimits {
            keys,
            keys_per_subject,
        })
    }

    fn key(subject: &str, key: &str, request: u8) -> IdempotencyKey {
        IdempotencyKey::new(&Tenant::none(), subject, key, [request; 16])
    }

    #[test]
    fn a_key_is_known_for_ten_minutes_in_its_scope() {
        let mut window = window(10, 10);
        let start = Instant::now();
        assert_eq!(window.look_up(&key("a", "k", 1), start), Known::New);
        window.remember(&key("a", "k", 1), 7, 2, start);
        assert_eq!(
            (window.len(start), window.len(start + KEY_LIFETIME)),
            (1, 0)
        );
        window.remember(&key("a", "k", 1), 7, 2, start);
        let late = start + KEY_LIFETIME - Duration::from_millis(1);
        assert_eq!(window.look_up(&key("a", "k", 1), late), Known::Before(7, 2));
        assert_eq!(window.look_up(&key("a", "k", 2), late), Known::Conflict);
        assert_eq!(window.look_up(&key("b", "k", 1), late), Known::New);
        assert_eq!(
            window.look_up(&key("a", "k", 1), start + KEY_LIFETIME),
            Known::New
        );
        assert!(window.answers.is_empty() && window.by_age.is_empty());
        assert!(window.by_subject.is_empty());
    }

    #[test]
    fn a_subject_has_its_share_and_leaves_the_others_theirs() {
        let mut window = window(10, 2);
        let start = Instant::now();
        for name in ["k", "l"] {
            assert_eq!(window.look_up(&key("a", name, 1), start), Known::New);
            window.remember(&key("a", name, 1), 1, 1, start);
        }
        assert_eq!(window.look_up(&key("a", "m", 1), start), Known::SubjectFull);
        assert_eq!(
            window.look_up(&key("a", "k", 1), start),
            Known::Before(1, 1)
        );
        assert_eq!(window.look_up(&key("b", "m", 1), start), Known::New);
        let later = start + KEY_LIFETIME;
        assert_eq!(window.look_up(&key("a", "m", 1), later), Known::New);
    }

    #[test]
    fn what_was_not_appended_after_all_is_new_again() {
        let mut window = window(10, 10);
        let now = Instant::now();
        for name in ["k", "l"] {
            window.remember(&key("a", name, 1), 7, 1, now);
        }
        window.forget_newest(1);
        assert_eq!(window.look_up(&key("a", "l", 1), now), Known::New);
        assert_eq!(window.look_up(&key("a", "k", 1), now), Known::Before(7, 1));
        assert_eq!(window.of_subject(&key("a", "k", 1)), 1);
    }

    #[test]
    fn a_key_of_the_gateway_takes_no_place() {
        let mut window = window(1, 1);
        let now = Instant::now();
        for name in ["k", "l", "m"] {
            let own = key("presence", name, 1).of_the_gateway();
            assert_eq!(window.take_on(&own, now), Ok(()));
        }
        assert_eq!(window.take_on(&key("a", "k", 1), now), Ok(()));
        let full = window.take_on(&key("a", "l", 1), now);
        assert_eq!(full, Err(EngineError::KeysFull));
    }

    #[test]
    fn scope_and_key_do_not_run_into_each_other() {
        assert_ne!(key("ab", "c", 1).scoped, key("a", "bc", 1).scoped);
        let tenant = IdempotencyKey::new(&Tenant::named("t"), "a", "c", [1; 16]);
        assert_ne!(tenant.scoped, key("a", "c", 1).scoped);
    }

    #[test]
    fn a_full_window_says_so_and_forgets_nothing_early() {
        let mut window = window(1, 1);
        let start = Instant::now();
        window.remember(&key("a", "k", 1), 1, 1, start);
        assert_eq!(window.look_up(&key("a", "l", 1), start), Known::Full);
        assert_eq!(
            window.look_up(&key("a", "k", 1), start),
            Known::Before(1, 1)
        );
        assert_eq!(
            window.look_up(&key("a", "l", 1), start + KEY_LIFETIME),
            Known::New
        );
    }
}
