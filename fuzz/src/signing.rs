//! Keys that are the same in every run, and signatures made and judged without the gateway's code.

use std::{io::Write, sync::OnceLock};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    encoding::AsDer,
    hmac,
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use serde_json::Value;
use tempfile::NamedTempFile;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const OTHER_SECRET: &str = "fedcba9876543210fedcba9876543210";

/// The time at which every token is judged.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).expect("within range")
}

pub fn ed25519() -> &'static Ed25519KeyPair {
    static KEY: OnceLock<Ed25519KeyPair> = OnceLock::new();
    KEY.get_or_init(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed"))
}

/// [`ed25519`]'s public key in PEM.
pub fn ed25519_pem() -> String {
    let der = ed25519()
        .public_key()
        .as_der()
        .expect("a public key has a DER form");
    let base64 = STANDARD.encode(der.as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
}

pub fn file(content: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(content).expect("it is written");
    file
}

/// A token of any header and payload, signed as `algorithm` says.
pub fn signed(algorithm: hmac::Algorithm, secret: &[u8], header: &[u8], payload: &[u8]) -> String {
    let message = message(header, payload);
    let signature = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
    format!("{message}.{}", encode(signature.as_ref()))
}

pub fn signed_with_ed25519(header: &[u8], payload: &[u8]) -> String {
    let message = message(header, payload);
    let signature = ed25519().sign(message.as_bytes());
    format!("{message}.{}", encode(signature.as_ref()))
}

pub fn message(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", encode(header), encode(payload))
}

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn algorithm(name: &str) -> Option<hmac::Algorithm> {
    match name {
        "HS256" => Some(hmac::HMAC_SHA256),
        "HS384" => Some(hmac::HMAC_SHA384),
        "HS512" => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// Whether [`SECRET`] or [`ed25519`] has signed the token, in the way that its header says.
pub fn is_signed(token: &str) -> bool {
    let parts: Vec<_> = token.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        return false;
    };
    let decode = |part| URL_SAFE_NO_PAD.decode(part).ok();
    let (Some(header_json), Some(signature)) = (decode(header), decode(signature)) else {
        return false;
    };
    let header_json: Value = serde_json::from_slice(&header_json).unwrap_or_default();
    let message = &token[..header.len() + 1 + payload.len()];
    match header_json["alg"].as_str() {
        Some("EdDSA") => UnparsedPublicKey::new(&ED25519, ed25519().public_key().as_ref())
            .verify(message.as_bytes(), &signature)
            .is_ok(),
        Some(name) => algorithm(name).is_some_and(|algorithm| {
            let key = hmac::Key::new(algorithm, SECRET.as_bytes());
            let expected = hmac::sign(&key, message.as_bytes());
            verify_slices_are_equal(expected.as_ref(), &signature).is_ok()
        }),
        None => false,
    }
}
