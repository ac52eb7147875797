//! The auth hook: asks the site's own backend who a client is, by headers and cookies that only the backend understands.
//!
//! ```text
//! credentials ─▶ remembered? ─▶ a call for them under way? ─▶ breaker ─▶ a place ─▶ POST to the backend
//!                 (SHA-256)       (then its answer)            (else `unavailable`, or what was known before)
//! ```
//!
//! What is posted depends on the credentials alone, and its hash is what the answer is remembered by. A call is a task
//! of its own: it goes on when its client has left, so that calls at once are bounded, whatever clients do.

mod backend;
mod breaker;
mod complaints;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use jiff::{SignedDuration, Timestamp};
use quick_cache::{Weighter, sync::Cache};
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use self::{
    backend::{Backend, Failure},
    breaker::{Breaker, Change},
    complaints::Complaints,
};
use super::{
    AuthError, HookOptions, Identity,
    claims::{ClaimPolicy, Verified},
    identity::later,
    keys::KeyError,
    remote::sha256,
};

/// Answers remembered, good and bad; one with many grants counts for more.
const REMEMBERED: usize = 10_000;

/// Different credentials that are asked for at once, those that wait for a place included: at most 32 MiB of them.
const MAX_FLIGHTS: usize = 2048;

/// Of one request, encoded: a few cookies of the 4 KiB that browsers keep.
const MAX_CREDENTIAL_BYTES: usize = 16 * 1024;

/// A refusal is remembered so long at most: whoever signs in wants to be let in at once.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// What clients are told to wait where nothing better is known.
const RETRY: Duration = Duration::from_secs(1);

/// What of a request is a credential: names and values as they came, but header names in lower case.
#[derive(Default, Serialize)]
pub struct SessionCredentials<'r> {
    pub headers: BTreeMap<&'r str, &'r str>,
    pub cookies: BTreeMap<&'r str, &'r str>,
}

/// Why the hook gave no identity. Every text is fit for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The backend does not know the session.
    #[error("the session is unknown or has ended: sign in again")]
    Unknown,
    /// More than 16 KiB.
    #[error("the session's headers and cookies are too long")]
    TooLong,
    /// The claims are good in all but time: [`AuthError::Expired`] or [`AuthError::NotYetValid`].
    #[error(transparent)]
    Claims(AuthError),
    /// The backend can not be asked now, or its answer was of no use.
    #[error("the site that knows this session can not be asked now")]
    Unavailable { retry_after: Duration },
}

/// Asks one backend, for the whole gateway. Made anew where its configuration changes, with nothing remembered.
pub struct Hook {
    options: HookOptions,
    policy: Arc<ClaimPolicy>,
    backend: Backend,
    breaker: Breaker,
    complaints: Complaints,
    /// For calls at once.
    places: Semaphore,
    memory: Cache<Digest, Memory, ByGrants>,
    flights: Mutex<HashMap<Digest, Flight>>,
}

type Digest = [u8; 32];
type Answer = Result<Arc<Verified>, HookError>;

/// A call for certain credentials, for all who wait for it; `None` where its thread has ended first.
type Flight = Shared<BoxFuture<'static, Option<Answer>>>;

/// What is remembered of one set of credentials.
#[derive(Clone, Default)]
struct Memory {
    /// What the backend said last, unless it has forgotten the session since.
    known: Option<Known>,
    /// The last call led to nothing, and until then there is no other.
    refused: Option<(HookError, Instant)>,
}

#[derive(Clone)]
struct Known {
    verified: Arc<Verified>,
    since: Instant,
}

#[derive(Clone)]
struct ByGrants;

impl Weighter<Digest, Memory> for ByGrants {
    fn weight(&self, _: &Digest, memory: &Memory) -> u64 {
        let known = memory.known.as_ref();
        known.map_or(1, |known| known.verified.weight())
    }
}

impl SessionCredentials<'_> {
    /// Whether there is nothing to ask for.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.cookies.is_empty()
    }

    /// What is posted. Different credentials give different texts, since the maps are ordered and JSON is unambiguous.
    fn to_json(&self) -> Result<Bytes, HookError> {
        let json = serde_json::to_vec(self).map_err(|_| HookError::Unknown)?;
        match json.len() > MAX_CREDENTIAL_BYTES {
            true => Err(HookError::TooLong),
            false => Ok(json.into()),
        }
    }
}

impl Hook {
    /// The current hook where it would do the same, else a new one.
    ///
    /// # Errors
    /// [`KeyError`], which names the configuration key.
    pub(super) fn renewed(
        current: Option<Arc<Self>>,
        options: &HookOptions,
        policy: &Arc<ClaimPolicy>,
    ) -> Result<Arc<Self>, KeyError> {
        let mut options = options.clone();
        for name in &mut options.headers {
            name.make_ascii_lowercase();
        }
        match current {
            Some(hook) if hook.options == options && hook.policy == *policy => Ok(hook),
            _ => Ok(Arc::new(Self::new(options, Arc::clone(policy))?)),
        }
    }

    fn new(options: HookOptions, policy: Arc<ClaimPolicy>) -> Result<Self, KeyError> {
        Ok(Self {
            backend: Backend::new(&options)?,
            policy,
            breaker: Breaker::default(),
            complaints: Complaints::default(),
            places: Semaphore::new(options.concurrency.min(Semaphore::MAX_PERMITS)),
            memory: Cache::with_weighter(REMEMBERED, REMEMBERED as u64, ByGrants),
            flights: Mutex::default(),
            options,
        })
    }

    /// The request headers that are credentials, in lower case.
    pub fn headers(&self) -> &[String] {
        &self.options.headers
    }

    /// Whether it is asked with the `Authorization` header.
    pub fn reads_authorization(&self) -> bool {
        self.headers().iter().any(|name| name == "authorization")
    }

    /// The cookies that are credentials.
    pub fn cookies(&self) -> &[String] {
        &self.options.cookies
    }

    /// Who shows these credentials, now. Whether the identity has been revoked is for the caller to ask.
    ///
    /// Waits for the backend at most twice `auth.hook.timeout`: for a place, and for the answer. Cancel-safe.
    ///
    /// # Errors
    /// [`HookError`].
    pub async fn identify(
        self: &Arc<Self>,
        credentials: &SessionCredentials<'_>,
    ) -> Result<Arc<Identity>, HookError> {
        let body = credentials.to_json()?;
        let digest = sha256(&body);
        let answer = match self.recall(&digest) {
            Some(answer) => answer,
            None => self.fly(digest, body).await,
        };
        answer?.at(Timestamp::now()).map_err(HookError::Claims)
    }

    /// Who shows these credentials, as far as that is remembered: the backend is not asked.
    pub fn remember(&self, credentials: &SessionCredentials<'_>) -> Option<Arc<Identity>> {
        let digest = sha256(&credentials.to_json().ok()?);
        let verified = self.recall(&digest)?.ok()?;
        verified.at(Timestamp::now()).ok()
    }

    fn recall(&self, digest: &Digest) -> Option<Answer> {
        let memory = self.memory.get(digest)?;
        memory.answer(&self.options, Instant::now())
    }

    /// One call for everyone who asks for the same.
    async fn fly(self: &Arc<Self>, digest: Digest, body: Bytes) -> Answer {
        let flight = match self.board(digest, body) {
            Ok(flight) => flight,
            Err(refused) => return self.fall_back(&digest, refused),
        };
        match flight.await {
            Some(answer) => answer,
            None => {
                self.flights().remove(&digest);
                Err(UNAVAILABLE)
            }
        }
    }

    /// What was known, where the backend can not be asked now.
    fn fall_back(&self, digest: &Digest, refused: HookError) -> Answer {
        let known = self.memory.get(digest).and_then(|memory| memory.known);
        known_still(known.as_ref(), &self.options).ok_or(refused)
    }

    fn board(self: &Arc<Self>, digest: Digest, body: Bytes) -> Result<Flight, HookError> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(&digest) {
            return Ok(flight.clone());
        }
        // One may have landed since it was looked for.
        if let Some(answer) = self.recall(&digest) {
            return Ok(std::future::ready(Some(answer)).boxed().shared());
        }
        if let Some(retry_after) = self.breaker.wait(Instant::now()) {
            return Err(HookError::Unavailable { retry_after });
        }
        if flights.len() >= MAX_FLIGHTS {
            self.complaints.of_load();
            return Err(UNAVAILABLE);
        }
        let hook = Arc::clone(self);
        let call = tokio::spawn(async move {
            let answer = hook.call(digest, body).await;
            hook.flights().remove(&digest);
            answer
        });
        let flight = call.map(Result::ok).boxed().shared();
        flights.insert(digest, flight.clone());
        Ok(flight)
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Digest, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the backend, and remembers what it says.
    async fn call(&self, digest: Digest, body: Bytes) -> Answer {
        let found = match self.ask(body).await {
            Ok(found) => found,
            // Nothing is remembered of it: the next may ask as soon as there is a place.
            Err(refused) => return self.fall_back(&digest, refused),
        };
        let before = self.memory.get(&digest).and_then(|memory| memory.known);
        let memory = Memory::of(found, before, &self.options);
        let answer = memory.latest(&self.options);
        self.memory.insert(digest, memory);
        answer
    }

    /// # Errors
    /// Where the backend was not asked at all.
    async fn ask(&self, body: Bytes) -> Result<Result<Verified, HookError>, HookError> {
        let place = tokio::time::timeout(self.options.timeout, self.places.acquire());
        let Ok(Ok(_place)) = place.await else {
            self.complaints.of_load();
            return Err(UNAVAILABLE);
        };
        let permit = self.breaker.admit(Instant::now());
        let permit = permit.map_err(|retry_after| HookError::Unavailable { retry_after })?;
        let answered = self.backend.ask(body).await;
        let answered = answered.and_then(|claims| self.read(claims.as_deref()));
        match &answered {
            Err(failure) if failure.is_outage() => log(&permit.failed(Instant::now())),
            _ => log(&permit.succeeded()),
        }
        Ok(answered.unwrap_or_else(|failure| {
            self.complaints.of(&failure);
            Err(UNAVAILABLE)
        }))
    }

    fn read(&self, claims: Option<&[u8]>) -> Result<Result<Verified, HookError>, Failure> {
        let Some(claims) = claims else {
            return Ok(Err(HookError::Unknown));
        };
        let now = Timestamp::now();
        let lifetime = SignedDuration::try_from(self.options.lifetime);
        let end = later(now, lifetime.unwrap_or(SignedDuration::MAX));
        let verified = self.policy.read_answer(claims, end);
        let verified = verified.map_err(Failure::Claims)?;
        let timely = verified.at(now).map_err(HookError::Claims);
        Ok(timely.map(|_| verified))
    }
}

const UNAVAILABLE: HookError = HookError::Unavailable { retry_after: RETRY };

impl Memory {
    /// What a call found out, with what was known before it.
    fn of(
        found: Result<Verified, HookError>,
        before: Option<Known>,
        options: &HookOptions,
    ) -> Self {
        let since = Instant::now();
        let refused = |error| Some((error, since + options.cache.min(REFUSED_FOR)));
        match found {
            Ok(verified) => Self {
                known: Some(Known {
                    verified: Arc::new(verified),
                    since,
                }),
                refused: None,
            },
            Err(error @ HookError::Unavailable { .. }) => Self {
                known: before,
                refused: refused(error),
            },
            Err(error) => Self {
                known: None,
                refused: refused(error),
            },
        }
    }

    /// What may be answered without a call.
    fn answer(&self, options: &HookOptions, now: Instant) -> Option<Answer> {
        match self.refused {
            Some((_, until)) if now < until => Some(self.latest(options)),
            Some(_) => None,
            None => {
                let known = self.known.as_ref()?;
                known
                    .is_good(options.cache, now)
                    .then(|| Ok(known.verified()))
            }
        }
    }

    /// What the last call led to; for as long as the backend can not be asked, that is what was known before.
    fn latest(&self, options: &HookOptions) -> Answer {
        match self.refused {
            Some((error, _)) => known_still(self.known.as_ref(), options).ok_or(error),
            None => self.known.as_ref().map(Known::verified).ok_or(UNAVAILABLE),
        }
    }
}

impl Known {
    fn verified(&self) -> Arc<Verified> {
        Arc::clone(&self.verified)
    }

    /// Never beyond the identity's own end.
    fn is_good(&self, age: Duration, now: Instant) -> bool {
        now.duration_since(self.since) < age && Timestamp::now() < self.verified.identity.expires_at
    }
}

/// What was known, if it is not too old even for a time in which nothing newer is to be had.
fn known_still(known: Option<&Known>, options: &HookOptions) -> Option<Arc<Verified>> {
    let age = options.cache.saturating_add(options.stale);
    let known = known.filter(|known| known.is_good(age, Instant::now()));
    known.map(Known::verified)
}

fn log(change: &Change) {
    match change {
        Change::None => {}
        Change::Opened(pause) => {
            warn!(
                ?pause,
                "the auth hook's backend fails: it is not asked for a while"
            );
        }
        Change::Closed => info!("the auth hook's backend answers again"),
    }
}
