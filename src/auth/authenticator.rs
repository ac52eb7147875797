//! Verification: keys, claims and the cache, and how they are replaced while in use.

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use jiff::Timestamp;
use jsonwebtoken::AlgorithmFamily;
use quick_cache::{Weighter, sync::Cache};
use tokio::{sync::Notify, time::sleep};
use tracing::{info, warn};

use super::{
    AuthError, AuthOptions, Hook, Identity,
    claims::{ClaimPolicy, Verified},
    keys::{KeyError, VerifyingKey, load_local},
    remote::{FetchedKeys, KeySource, RefreshError, sha256},
    token::Jws,
};

/// Verified tokens remembered: enough for the long-polls of a node. One with many grants counts for more, so that the
/// cache stays within some 20 MiB whatever the tokens are.
const CACHED_TOKENS: usize = 10_000;

/// A faster refresh would be an attack on the identity provider.
const MIN_REFRESH: Duration = Duration::from_secs(1);

/// The pause after the first failed fetch; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Verifies tokens. One for the gateway, shared by all workers.
pub struct Authenticator {
    /// Replaced as a whole, never changed; a verification keeps the one it began with.
    ring: RwLock<Arc<KeyRing>>,
    /// Wakes the refresh after a reload, which may have brought another URL.
    reloaded: Notify,
}

/// What a token is judged by. The cache belongs to it, so that new keys always come with an empty cache, even for a
/// verification that ends after they have been put in place.
struct KeyRing {
    local: Arc<[VerifyingKey]>,
    remote: Option<Remote>,
    policy: Arc<ClaimPolicy>,
    hook: Option<Arc<Hook>>,
    refresh: Duration,
    max_token_bytes: usize,
    /// SHA-256 of the token → what it says.
    cache: Cache<[u8; 32], Arc<Verified>, ByGrants>,
}

#[derive(Clone)]
struct ByGrants;

impl Weighter<[u8; 32], Arc<Verified>> for ByGrants {
    fn weight(&self, _: &[u8; 32], verified: &Arc<Verified>) -> u64 {
        verified.weight()
    }
}

#[derive(Clone)]
struct Remote {
    source: Arc<KeySource>,
    /// `None` until the first success.
    fetched: Option<FetchedKeys>,
}

impl Authenticator {
    /// Loads secrets and files; a URL is not asked yet, see [`Authenticator::refresh_jwks_forever`].
    ///
    /// # Errors
    /// [`KeyError`], which names the configuration key.
    pub fn new(options: AuthOptions) -> Result<Self, KeyError> {
        Ok(Self {
            ring: RwLock::new(Arc::new(KeyRing::load(&options, None)?)),
            reloaded: Notify::new(),
        })
    }

    /// The identity behind a token, now. Synchronous, without I/O; a token seen before costs a hash.
    ///
    /// # Errors
    /// [`AuthError`]. An expired token yields [`AuthError::Expired`] only if all else about it is right.
    pub fn verify(&self, token: &str) -> Result<Arc<Identity>, AuthError> {
        self.verify_at(token, Timestamp::now())
    }

    /// [`Authenticator::verify`] for a given time.
    ///
    /// # Errors
    /// The same.
    pub fn verify_at(&self, token: &str, now: Timestamp) -> Result<Arc<Identity>, AuthError> {
        let ring = Arc::clone(&self.ring());
        if token.len() > ring.max_token_bytes {
            return Err(AuthError::TooLong);
        }
        let digest = sha256(token.as_bytes());
        if let Some(verified) = ring.cache.get(&digest) {
            return verified.at(now);
        }
        let verified = Arc::new(ring.verify(token)?);
        let identity = verified.at(now)?;
        ring.cache.insert(digest, verified);
        Ok(identity)
    }

    /// Who asks the backend for identities, where one is configured. A caller keeps the one it began with.
    pub fn hook(&self) -> Option<Arc<Hook>> {
        self.ring().hook.clone()
    }

    /// Puts new options in place and reads the files again. The fetched keys stay if the URL is the same, and what the
    /// hook remembers if nothing of it changed; all tokens are verified anew. Blocks on small files.
    ///
    /// # Errors
    /// [`KeyError`]; everything is as before then.
    pub fn reload(&self, options: AuthOptions) -> Result<(), KeyError> {
        let current = Arc::clone(&self.ring());
        let ring = KeyRing::load(&options, Some(&current))?;
        self.replace(|current| Some(ring.with_newer(current)));
        self.reloaded.notify_one();
        Ok(())
    }

    /// Fetches the key set once; nothing to do without a URL.
    ///
    /// # Errors
    /// [`RefreshError`]; the keys of before stay in use.
    pub async fn refresh_jwks(&self) -> Result<(), RefreshError> {
        let Some(remote) = self.ring().remote.clone() else {
            return Ok(());
        };
        if let Some(fetched) = remote.source.fetch(remote.fetched.as_ref()).await? {
            info!(keys = fetched.keys.len(), "new key set from auth.jwks_url");
            self.replace(|current| current.with_fetched(&remote.source, fetched));
        }
        Ok(())
    }

    /// Keeps the key set fresh: fetches it at once, then on schedule, after a failure with growing pauses. Never
    /// returns; does nothing while no URL is configured. To be spawned once.
    pub async fn refresh_jwks_forever(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            match self.refresh_jwks().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    warn!(failures, error = %chain(&error), "keeping the keys there are");
                }
            }
            let pause = self.pause(failures);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.reloaded.notified() => {}
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let refresh = self.ring().refresh;
        let pause = match failures {
            0 => refresh,
            _ => refresh.min(backoff(failures)),
        };
        // A little less, so that the nodes of a cluster do not ask in step.
        pause.mul_f64(0.75 + fastrand::f64() / 4.0)
    }

    fn ring(&self) -> RwLockReadGuard<'_, Arc<KeyRing>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, next: impl FnOnce(&KeyRing) -> Option<KeyRing>) {
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(next) = next(&ring) {
            *ring = Arc::new(next);
        }
    }
}

impl KeyRing {
    /// `current` is what was in use before.
    fn load(options: &AuthOptions, current: Option<&KeyRing>) -> Result<Self, KeyError> {
        if !options.has_keys() {
            return Err(KeyError::NoKeys);
        }
        let remote = match &options.jwks_url {
            Some(url) => {
                let current = current.and_then(|ring| ring.remote.clone());
                Some(Remote::new(url, current)?)
            }
            None => None,
        };
        let policy = Arc::new(ClaimPolicy::new(options)?);
        let hook = match &options.hook {
            Some(options) => {
                let current = current.and_then(|ring| ring.hook.clone());
                Some(Hook::renewed(current, options, &policy)?)
            }
            None => None,
        };
        Ok(Self {
            local: load_local(options)?.into(),
            remote,
            policy,
            hook,
            refresh: options.jwks_refresh.max(MIN_REFRESH),
            max_token_bytes: options.max_token_bytes,
            cache: empty_cache(),
        })
    }

    /// This ring with keys that were fetched for `source`, unless it meanwhile uses another.
    fn with_fetched(&self, source: &Arc<KeySource>, fetched: FetchedKeys) -> Option<Self> {
        let remote = self.remote.as_ref()?;
        if !Arc::ptr_eq(&remote.source, source) {
            return None;
        }
        let remote = Remote {
            source: Arc::clone(source),
            fetched: Some(fetched),
        };
        Some(Self {
            local: Arc::clone(&self.local),
            remote: Some(remote),
            policy: Arc::clone(&self.policy),
            hook: self.hook.clone(),
            cache: empty_cache(),
            ..*self
        })
    }

    /// This ring with what `current` has fetched while this one was being loaded.
    fn with_newer(self, current: &KeyRing) -> Self {
        let fetched = current.remote.as_ref().and_then(|remote| {
            let own = &self.remote.as_ref()?.source;
            Arc::ptr_eq(own, &remote.source).then(|| remote.clone())
        });
        Self {
            remote: fetched.or(self.remote),
            ..self
        }
    }

    fn verify(&self, token: &str) -> Result<Verified, AuthError> {
        if self.local.is_empty() && self.remote.is_none() {
            return Err(AuthError::Invalid("this gateway has no keys for tokens"));
        }
        let token = Jws::parse(token)?;
        if self.keys().any(|key| key.verifies(&token)) {
            return self.policy.read(&token.payload()?);
        }
        match self.awaits_keys() && token.header.alg.family() != AlgorithmFamily::Hmac {
            true => Err(AuthError::KeysUnavailable),
            false => Err(AuthError::Invalid("not signed by a key that is accepted")),
        }
    }

    fn keys(&self) -> impl Iterator<Item = &VerifyingKey> {
        let remote = self.remote.as_ref();
        let fetched = remote.and_then(|remote| remote.fetched.as_ref());
        let fetched = fetched.into_iter().flat_map(|fetched| fetched.keys.iter());
        self.local.iter().chain(fetched)
    }

    fn awaits_keys(&self) -> bool {
        let remote = self.remote.as_ref();
        remote.is_some_and(|remote| remote.fetched.is_none())
    }
}

impl Remote {
    fn new(url: &str, current: Option<Remote>) -> Result<Self, KeyError> {
        match current {
            Some(current) if current.source.is(url) => Ok(current),
            _ => Ok(Self {
                source: Arc::new(KeySource::new(url)?),
                fetched: None,
            }),
        }
    }
}

fn empty_cache() -> Cache<[u8; 32], Arc<Verified>, ByGrants> {
    Cache::with_weighter(CACHED_TOKENS, CACHED_TOKENS as u64, ByGrants)
}

fn backoff(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    MIN_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF)
}

/// reqwest says "error sending request" and leaves the reason to its sources.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let reason = inner.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_minute() {
        let seconds: Vec<_> = (1..=8).map(|n| backoff(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX), MAX_BACKOFF);
    }
}
