//! Keys, tokens and identities for the tests of this module.

use std::sync::OnceLock;

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
        RsaPublicKeyComponents,
    },
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::topic::Tenant;

use super::{AuthOptions, Authenticator, Identity, Secret};

/// The tests' beginning of time, in seconds.
pub const T0: i64 = 1_800_000_000;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub const RSA_1024_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCh3j3tBJohEpnpJ7WjE1ei+Be3
E3tHE6p1V5ux2Xq/jBAtfZb4W1YOuXmpmHqN8tA+/4rp/dMjxb60Desn4RAXlTbL
pVd0FAkMg8GQVOB85uan41dA1K+pWkwaq0qv/4lxRP+7sZBc6o1homR2goO+PRji
gZ2dRg32MKLakWTAAwIDAQAB
-----END PUBLIC KEY-----
";

/// So many seconds after [`T0`].
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(T0 + seconds).expect("within range")
}

pub fn identity(subject: &str, expires_at: i64) -> Identity {
    Identity {
        subject: subject.into(),
        tenant: Tenant::none(),
        subscribe: Vec::new(),
        publish: Vec::new(),
        trusted: false,
        stats: false,
        expires_at: Timestamp::from_second(expires_at).expect("within range"),
        token_id: None,
        limits: None,
    }
}

/// An authenticator with [`SECRET`].
pub fn with_secret() -> Authenticator {
    Authenticator::new(secret_options()).expect("good options")
}

pub fn secret_options() -> AuthOptions {
    AuthOptions {
        hs256_secret: Some(Secret::new(SECRET)),
        ..AuthOptions::default()
    }
}

/// Alice's, for an hour from [`T0`].
pub fn claims() -> Value {
    json!({"sub": "alice", "exp": T0 + 3600})
}

pub enum Signer {
    Hmac(hmac::Algorithm, Vec<u8>),
    Rsa(&'static dyn RsaEncoding, &'static rsa::KeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    /// An empty signature.
    Nobody,
}

impl Signer {
    pub fn hs256(secret: &str) -> Self {
        Self::Hmac(hmac::HMAC_SHA256, secret.as_bytes().to_vec())
    }

    /// A token with this very header and these claims, whatever they are.
    pub fn raw(&self, header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
        let header = URL_SAFE_NO_PAD.encode(header);
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    pub fn token(&self, header: Value, claims: Value) -> String {
        self.raw(header.to_string(), claims.to_string())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(algorithm, secret) => {
                let key = hmac::Key::new(*algorithm, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::Rsa(encoding, key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature)
                    .expect("signed");
                signature
            }
            Self::Ec(key) => {
                let signature = key.sign(&random, message).expect("signed");
                signature.as_ref().to_vec()
            }
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Nobody => Vec::new(),
        }
    }
}

/// A token with [`claims`], signed with [`SECRET`].
pub fn good_token() -> String {
    hs256(claims())
}

pub fn hs256(claims: Value) -> String {
    Signer::hs256(SECRET).token(json!({"alg": "HS256", "typ": "JWT"}), claims)
}

pub fn rsa() -> &'static rsa::KeyPair {
    static KEY: OnceLock<rsa::KeyPair> = OnceLock::new();
    KEY.get_or_init(|| rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key"))
}

pub fn rsa_signers() -> Vec<(&'static str, Signer)> {
    let encodings: [(_, &'static dyn RsaEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    let signer = |(name, encoding)| (name, Signer::Rsa(encoding, rsa()));
    encodings.into_iter().map(signer).collect()
}

pub fn p256() -> EcdsaKeyPair {
    ec(&ECDSA_P256_SHA256_FIXED_SIGNING)
}

pub fn p384() -> EcdsaKeyPair {
    ec(&ECDSA_P384_SHA384_FIXED_SIGNING)
}

fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> EcdsaKeyPair {
    EcdsaKeyPair::generate(algorithm).expect("a key")
}

pub fn ed25519() -> Ed25519KeyPair {
    Ed25519KeyPair::generate().expect("a key")
}

/// A certificate and the key that it certifies.
pub fn certificate() -> (EcdsaKeyPair, Vec<u8>) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["issuer.example".to_owned()]);
    let certificate = params.and_then(|params| params.self_signed(&key));
    let der = certificate.expect("a certificate").der().to_vec();
    let pkcs8 = key.serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8);
    (key.expect("a P-256 key"), der)
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    let body = lines.join("\n");
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

pub fn rsa_pem() -> String {
    pem(
        "PUBLIC KEY",
        rsa().public_key().as_der().expect("DER").as_ref(),
    )
}

pub fn ec_pem(key: &EcdsaKeyPair) -> String {
    pem(
        "PUBLIC KEY",
        key.public_key().as_der().expect("DER").as_ref(),
    )
}

pub fn ed25519_pem(key: &Ed25519KeyPair) -> String {
    pem(
        "PUBLIC KEY",
        key.public_key().as_der().expect("DER").as_ref(),
    )
}

pub fn jwk_rsa(kid: &str) -> Value {
    let components = RsaPublicKeyComponents::<Vec<u8>>::from(rsa().public_key());
    let (n, e) = (components.n, components.e);
    json!({"kty": "RSA", "kid": kid, "n": b64(&n), "e": b64(&e)})
}

pub fn jwk_ec(key: &EcdsaKeyPair, kid: &str) -> Value {
    let point = &key.public_key().as_ref()[1..];
    let (x, y) = point.split_at(point.len() / 2);
    let crv = format!("P-{}", x.len() * 8);
    json!({"kty": "EC", "crv": crv, "kid": kid, "x": b64(x), "y": b64(y)})
}

pub fn jwk_ed25519(key: &Ed25519KeyPair, kid: &str) -> Value {
    let x = b64(key.public_key().as_ref());
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x})
}

pub fn jwk_oct(secret: &[u8], kid: &str) -> Value {
    json!({"kty": "oct", "kid": kid, "k": b64(secret)})
}

fn b64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
