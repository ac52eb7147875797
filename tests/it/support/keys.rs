use aws_lc_rs::{
    encoding::AsDer,
    rsa,
    signature::{KeyPair, RsaPublicKeyComponents},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Value, json};

use super::Claims;

/// A key of an identity provider.
pub struct SigningKey {
    pub algorithm: &'static str,
    /// What the gateway may know; empty for a secret.
    pub public_pem: String,
    pub public_jwk: Value,
    private: EncodingKey,
}

impl SigningKey {
    pub fn secret(secret: &[u8]) -> Self {
        Self {
            algorithm: "HS256",
            public_pem: String::new(),
            public_jwk: json!({"kty": "oct", "k": base64url(secret)}),
            private: EncodingKey::from_secret(secret),
        }
    }

    pub fn rsa() -> Self {
        let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("a key");
        let private = pem("PRIVATE KEY", pair.as_der().expect("DER").as_ref());
        let public = pair.public_key();
        let parts = RsaPublicKeyComponents::<Vec<u8>>::from(public);
        Self {
            algorithm: "RS256",
            public_pem: pem("PUBLIC KEY", public.as_der().expect("DER").as_ref()),
            public_jwk: json!({"kty": "RSA", "n": base64url(&parts.n), "e": base64url(&parts.e)}),
            private: EncodingKey::from_rsa_pem(private.as_bytes()).expect("a private key"),
        }
    }

    pub fn p256() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let point = pair.public_key_raw();
        let (x, y) = (base64url(&point[1..33]), base64url(&point[33..]));
        Self {
            algorithm: "ES256",
            public_pem: pair.public_key_pem(),
            public_jwk: json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}),
            private: EncodingKey::from_ec_der(&pair.serialize_der()),
        }
    }

    pub fn ed25519() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let x = base64url(pair.public_key_raw());
        Self {
            algorithm: "EdDSA",
            public_pem: pair.public_key_pem(),
            public_jwk: json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
            private: EncodingKey::from_ed_der(&pair.serialize_der()),
        }
    }

    pub fn token(&self, claims: &Claims) -> String {
        self.token_with(&json!({"alg": self.algorithm}), claims)
    }

    /// A token with this very header, whatever it says; the signature is always this key's own.
    pub fn token_with(&self, header: &Value, claims: &Claims) -> String {
        let claims = serde_json::to_string(&claims.0).expect("JSON");
        self.raw(&header.to_string(), &claims)
    }

    pub fn raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let algorithm: Algorithm = self.algorithm.parse().expect("an algorithm");
        let signature = crypto::sign(message.as_bytes(), &self.private, algorithm);
        format!("{message}.{}", signature.expect("a signature"))
    }

    /// The public key as a JWK with more members.
    pub fn jwk_with(&self, members: Value) -> Value {
        let mut jwk = self.public_jwk.clone();
        for (name, value) in members.as_object().expect("an object") {
            jwk[name] = value.clone();
        }
        jwk
    }
}

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}
