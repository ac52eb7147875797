//! JWK Sets (RFC 7517 section 5).

use std::str::FromStr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;
use tracing::warn;

use super::keys::{KeyFault, VerifyingKey};

/// A token without `kid` may be tried against every key that fits, so their number is bounded.
const MAX_KEYS: usize = 100;

/// The uncompressed form of a point (SEC 1 section 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    d: Option<IgnoredAny>,
}

/// Reads a set from a file of the operator's: secrets are allowed, and a key that is wrong makes the file wrong.
/// Keys for other purposes or of unknown kinds are skipped (RFC 7517 section 5).
///
/// # Errors
/// [`KeyFault`], also when no usable key is left.
pub(super) fn parse_trusted(document: &[u8]) -> Result<Vec<VerifyingKey>, KeyFault> {
    let mut keys = Vec::new();
    for value in values(document)? {
        keys.extend(Jwk::read(value)?.key()?);
    }
    not_empty(keys)
}

/// Reads a set that was fetched: secrets and keys that are wrong are left out with a warning, since the others may be
/// what tokens are signed with today.
///
/// # Errors
/// [`KeyFault`] when it is not a set of keys, or none of them is usable.
pub(super) fn parse_fetched(document: &[u8]) -> Result<Vec<VerifyingKey>, KeyFault> {
    let mut keys = Vec::new();
    for (index, value) in values(document)?.into_iter().enumerate() {
        match Jwk::read(value).and_then(|jwk| jwk.public_key()) {
            Ok(key) => keys.extend(key),
            Err(fault) => {
                warn!(option = "auth.jwks_url", index, %fault, "leaving out a key of the set")
            }
        }
    }
    not_empty(keys)
}

fn values(document: &[u8]) -> Result<Vec<Value>, KeyFault> {
    let set: JwkSet = serde_json::from_slice(document).map_err(|_| KeyFault::NotJwks)?;
    match set.keys.len() > MAX_KEYS {
        true => Err(KeyFault::TooMany),
        false => Ok(set.keys),
    }
}

fn not_empty(keys: Vec<VerifyingKey>) -> Result<Vec<VerifyingKey>, KeyFault> {
    match keys.is_empty() {
        true => Err(KeyFault::Empty),
        false => Ok(keys),
    }
}

impl Jwk {
    fn read(value: Value) -> Result<Self, KeyFault> {
        serde_json::from_value(value).map_err(|_| KeyFault::Malformed)
    }

    fn public_key(self) -> Result<Option<VerifyingKey>, KeyFault> {
        match self.kty == "oct" {
            true => Err(KeyFault::FetchedSecret),
            false => self.key(),
        }
    }

    /// The key, or nothing where it is not meant for verifying tokens or of a kind that is not known.
    fn key(self) -> Result<Option<VerifyingKey>, KeyFault> {
        if !self.is_for_signatures() {
            return Ok(None);
        }
        let algorithm = match self.alg.as_deref().map(Algorithm::from_str) {
            None => None,
            Some(Ok(algorithm)) => Some(algorithm),
            Some(Err(_)) => return Ok(None),
        };
        if self.d.is_some() {
            return Err(KeyFault::PrivateKey);
        }
        let Some(key) = self.material()? else {
            return Ok(None);
        };
        let key = match algorithm {
            Some(algorithm) => key.only(algorithm)?,
            None => key,
        };
        Ok(Some(key.with_kid(self.kid)))
    }

    fn is_for_signatures(&self) -> bool {
        let usage = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        usage && self.key_ops.as_ref().is_none_or(verifies)
    }

    fn material(&self) -> Result<Option<VerifyingKey>, KeyFault> {
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => VerifyingKey::hmac(&bytes(&self.k)?)?,
            ("RSA", _) => VerifyingKey::rsa(&self.rsa_der()?)?,
            ("EC", Some("P-256")) => VerifyingKey::p256(&self.point(32)?)?,
            ("EC", Some("P-384")) => VerifyingKey::p384(&self.point(48)?)?,
            ("OKP", Some("Ed25519")) => VerifyingKey::ed25519(&coordinate(&self.x, 32)?)?,
            _ => return Ok(None),
        };
        Ok(Some(key))
    }

    fn rsa_der(&self) -> Result<Vec<u8>, KeyFault> {
        use aws_lc_rs::{encoding::AsDer, signature::RsaPublicKeyComponents};
        let strip = |number: Vec<u8>| -> Vec<u8> {
            number.into_iter().skip_while(|byte| *byte == 0).collect()
        };
        let components = RsaPublicKeyComponents {
            n: strip(bytes(&self.n)?),
            e: strip(bytes(&self.e)?),
        };
        let der = components.as_der().map_err(|_| KeyFault::Malformed)?;
        Ok(der.as_ref().to_vec())
    }

    fn point(&self, size: usize) -> Result<Vec<u8>, KeyFault> {
        let x = coordinate(&self.x, size)?;
        let y = coordinate(&self.y, size)?;
        Ok([&[UNCOMPRESSED], x.as_slice(), y.as_slice()].concat())
    }
}

fn bytes(text: &Option<String>) -> Result<Vec<u8>, KeyFault> {
    let text = text.as_deref().ok_or(KeyFault::Malformed)?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyFault::Malformed)
}

fn coordinate(text: &Option<String>, size: usize) -> Result<Vec<u8>, KeyFault> {
    let bytes = bytes(text)?;
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err(KeyFault::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_keys::{self, jwk_ed25519, jwk_oct, jwk_rsa};
    use super::*;
    use serde_json::json;

    fn set(keys: &[Value]) -> Vec<u8> {
        json!({ "keys": keys }).to_string().into_bytes()
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    fn good() -> Value {
        jwk_ed25519(&test_keys::ed25519(), "a")
    }

    #[test]
    fn keys_for_other_purposes_are_skipped() {
        let others = [
            with(good(), "use", json!("enc")),
            with(good(), "key_ops", json!(["sign"])),
            with(good(), "crv", json!("Ed448")),
            with(good(), "alg", json!("RSA-OAEP")),
            json!({"kty": "AKP", "kid": "x"}),
        ];
        for other in others {
            let alone = parse_trusted(&set(std::slice::from_ref(&other)));
            assert_eq!(alone.unwrap_err(), KeyFault::Empty, "{other}");
            let both = parse_trusted(&set(&[other, good()])).expect("the good one");
            assert_eq!(both.len(), 1);
        }
        let verify = with(good(), "key_ops", json!(["verify"]));
        assert!(parse_trusted(&set(&[with(verify, "use", json!("sig"))])).is_ok());
    }

    #[test]
    fn a_wrong_key_spoils_a_file_but_not_a_fetched_set() {
        let wrong = [
            (with(good(), "x", json!("AAAA")), KeyFault::Malformed),
            (with(good(), "x", json!(7)), KeyFault::Malformed),
            (with(good(), "d", json!("AAAA")), KeyFault::PrivateKey),
            (
                with(good(), "alg", json!("HS256")),
                KeyFault::WrongAlgorithm,
            ),
            (jwk_oct(b"short", "s"), KeyFault::ShortSecret),
            (with(jwk_rsa("r"), "e", json!("AQ")), KeyFault::Malformed),
            (
                with(jwk_rsa("r"), "n", json!("A".repeat(300))),
                KeyFault::Malformed,
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": "A".repeat(43), "y": "A".repeat(43)}),
                KeyFault::Malformed,
            ),
        ];
        for (key, expected) in wrong {
            let document = set(&[key.clone(), good()]);
            let fault = parse_trusted(&document).unwrap_err();
            assert_eq!(fault, expected, "{key}");
            assert_eq!(parse_fetched(&document).expect("the good one").len(), 1);
        }
    }

    #[test]
    fn secrets_belong_into_files_only() {
        let document = set(&[jwk_oct(&[7; 32], "s")]);
        assert_eq!(parse_trusted(&document).expect("allowed").len(), 1);
        assert_eq!(parse_fetched(&document).unwrap_err(), KeyFault::Empty);
    }

    #[test]
    fn garbage_and_too_many_keys_are_refused() {
        for garbage in ["", "<html>", "[]", "{}", r#"{"keys":{}}"#] {
            let fault = parse_fetched(garbage.as_bytes()).unwrap_err();
            assert_eq!(fault, KeyFault::NotJwks, "{garbage}");
        }
        assert_eq!(parse_fetched(&set(&[])).unwrap_err(), KeyFault::Empty);
        let many = vec![good(); MAX_KEYS + 1];
        assert_eq!(parse_fetched(&set(&many)).unwrap_err(), KeyFault::TooMany);
        assert!(parse_fetched(&set(&many[1..])).is_ok());
    }
}
