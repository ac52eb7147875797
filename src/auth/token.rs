//! The outside of a token: JWS compact serialization (RFC 7515 section 7.1) and its header.

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::AuthError;

/// A token taken apart, its signature not yet verified.
pub(super) struct Jws<'t> {
    pub header: Header,
    /// What is signed: header, dot, payload, as they came.
    pub message: &'t str,
    /// Base64url, without padding.
    pub signature: &'t str,
    payload: &'t str,
}

/// The two header fields that matter. `jwk`, `jku`, `x5u` and `x5c` are deliberately not even read.
pub(super) struct Header {
    pub alg: Algorithm,
    pub kid: Option<String>,
}

impl<'t> Jws<'t> {
    /// The caller bounds its length.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] for anything but three parts with a header that is
    /// understood: a known `alg` (never `none`), a `kid` that is a string, no `crit` (RFC 7515 section 4.1.11).
    pub fn parse(token: &'t str) -> Result<Self, AuthError> {
        if token.is_empty() {
            return Err(AuthError::Malformed(
                "it is empty; is the variable set, in this terminal, that it should come from?",
            ));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(NOT_COMPACT)?;
        let (header, payload) = message.split_once('.').ok_or(NOT_COMPACT)?;
        if payload.contains('.') {
            return Err(NOT_COMPACT);
        }
        Ok(Self {
            header: Header::parse(header)?,
            message,
            signature,
            payload,
        })
    }

    /// The claims' JSON. Only for a caller that has verified the signature.
    pub fn payload(&self) -> Result<Vec<u8>, AuthError> {
        let malformed = AuthError::Malformed("payload is not base64url");
        URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| malformed)
    }
}

const NOT_COMPACT: AuthError = AuthError::Malformed("not three parts separated by dots");

#[derive(Deserialize)]
struct RawHeader {
    alg: String,
    #[serde(default, deserialize_with = "present")]
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: Option<IgnoredAny>,
}

impl Header {
    fn parse(encoded: &str) -> Result<Self, AuthError> {
        let malformed = AuthError::Malformed("header is not what it should be");
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| malformed)?;
        let json = String::from_utf8(json).map_err(|_| malformed)?;
        let raw: RawHeader = serde_json::from_str(&json).map_err(|_| malformed)?;
        if raw.crit.is_some() {
            return Err(AuthError::Malformed("`crit` extensions are not understood"));
        }
        let alg = Algorithm::from_str(&raw.alg)
            .map_err(|_| AuthError::Malformed("`alg` is not accepted"))?;
        Ok(Self { alg, kid: raw.kid })
    }
}

/// For a field that may be missing, but not `null`: serde's own `Option` takes the one for the other.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}
