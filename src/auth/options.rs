//! What the operator configures, without knowing how it is read.

use std::{fmt, path::PathBuf, time::Duration};

use serde::Deserialize;

/// A shared secret: of HMAC, or the auth hook's. `Debug` prints `***`; only [`Secret::expose`] gives it away.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes the text as it is: its bytes are the key, it is not decoded. Its length is judged by
    /// [`Authenticator::new`](super::Authenticator::new).
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// A new secret of 256 random bits, as 64 hexadecimal digits.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self::new(digits))
    }

    /// The secret itself: for signing and verifying, never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The `auth.*` part of the configuration, as far as tokens are concerned.
#[derive(Debug, Clone)]
pub struct AuthOptions {
    /// `auth.hs256_secret`: verifies HS256, HS384 and HS512; at least 32 bytes.
    pub hs256_secret: Option<Secret>,
    /// `auth.previous_secrets`: still accepted while clients move on to the current one.
    pub previous_secrets: Vec<Secret>,
    /// `auth.public_key_file`: PEM; one or more public keys or certificates.
    pub public_key_file: Option<PathBuf>,
    /// `auth.jwks_file`: a JWK Set (RFC 7517 section 5).
    pub jwks_file: Option<PathBuf>,
    /// `auth.jwks_url`: a JWK Set by http or https. Shown by `Debug`, so not the place for a password.
    pub jwks_url: Option<String>,
    /// `auth.jwks_refresh`: time between two fetches of the URL; never less than a second.
    pub jwks_refresh: Duration,
    /// `auth.issuer`: the only `iss` accepted; without it `iss` is not looked at.
    pub issuer: Option<String>,
    /// `auth.audience`: what `aud` has to contain; without it `aud` only has to be well formed.
    pub audience: Option<String>,
    /// `auth.default_subscribe`: grants of a token without `subscribe`; `{sub}` and `{tenant}` stand for its claims.
    pub default_subscribe: Vec<String>,
    /// `auth.default_publish`: the same for `publish`.
    pub default_publish: Vec<String>,
    /// `limits.token_bytes`: longer tokens are refused before anything of them is parsed.
    pub max_token_bytes: usize,
    /// `auth.hook`: the backend that knows the clients by sessions of its own.
    pub hook: Option<HookOptions>,
}

/// `auth.hook.*`.
#[derive(Clone, Debug, PartialEq)]
pub struct HookOptions {
    /// `url`: http or https, without a password.
    pub url: String,
    /// `headers`: names of request headers that are credentials.
    pub headers: Vec<String>,
    /// `cookies`: names of cookies that are credentials.
    pub cookies: Vec<String>,
    /// `secret`: what the gateway shows to the backend.
    pub secret: Option<Secret>,
    /// `timeout`: for one call, and again for the wait until it may be made.
    pub timeout: Duration,
    /// `concurrency`: calls at once.
    pub concurrency: usize,
    /// `cache`: how long an answer is good for other requests.
    pub cache: Duration,
    /// `stale`: how much longer it is while the backend can not be asked.
    pub stale: Duration,
    /// `lifetime`: how long an identity without `exp` lasts.
    pub lifetime: Duration,
}

impl AuthOptions {
    /// Whether anything is configured by which a client can be known. Without it nobody can be let in.
    pub fn has_keys(&self) -> bool {
        self.hook.is_some() || self.has_token_keys()
    }

    fn has_token_keys(&self) -> bool {
        self.hs256_secret.is_some()
            || !self.previous_secrets.is_empty()
            || self.public_key_file.is_some()
            || self.jwks_file.is_some()
            || self.jwks_url.is_some()
    }
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self {
            hs256_secret: None,
            previous_secrets: Vec::new(),
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            jwks_refresh: Duration::from_secs(300),
            issuer: None,
            audience: None,
            default_subscribe: Vec::new(),
            default_publish: Vec::new(),
            max_token_bytes: 8 * 1024,
            hook: None,
        }
    }
}
