//! Every kind of key, and every way to mistake one for another.

use std::path::PathBuf;

use aws_lc_rs::{hmac, signature::KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::{test_keys::*, *};

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).expect("written");
        path
    }

    fn pem(&self, content: &str) -> AuthOptions {
        AuthOptions {
            public_key_file: Some(self.write("key.pem", content)),
            ..AuthOptions::default()
        }
    }

    fn jwks(&self, keys: &[Value]) -> AuthOptions {
        let content = json!({ "keys": keys }).to_string();
        AuthOptions {
            jwks_file: Some(self.write("jwks.json", &content)),
            ..AuthOptions::default()
        }
    }
}

fn authenticator(options: AuthOptions) -> Authenticator {
    Authenticator::new(options).expect("good options")
}

fn accepts(authenticator: &Authenticator, token: &str) -> bool {
    match authenticator.verify_at(token, at(0)) {
        Ok(_) => true,
        Err(AuthError::Invalid(_)) => false,
        Err(other) => panic!("unexpected: {other}"),
    }
}

fn token(alg: &str, signer: &Signer) -> String {
    signer.token(json!({ "alg": alg }), claims())
}

fn token_with_kid(alg: &str, signer: &Signer, kid: &str) -> String {
    signer.token(json!({ "alg": alg, "kid": kid }), claims())
}

fn error(options: AuthOptions) -> String {
    let error = Authenticator::new(options).err();
    error.expect("bad options").to_string()
}

#[test]
fn a_secret_verifies_all_of_hmac() {
    let secret = SECRET.as_bytes().to_vec();
    for (alg, algorithm) in [
        ("HS256", hmac::HMAC_SHA256),
        ("HS384", hmac::HMAC_SHA384),
        ("HS512", hmac::HMAC_SHA512),
    ] {
        let signer = Signer::Hmac(algorithm, secret.clone());
        assert!(accepts(&with_secret(), &token(alg, &signer)), "{alg}");
    }
    let mislabelled = token("HS512", &Signer::hs256(SECRET));
    assert!(!accepts(&with_secret(), &mislabelled));
}

#[test]
fn an_rsa_key_verifies_all_of_rsa() {
    let files = Files::new();
    let pkcs1 = pem("RSA PUBLIC KEY", rsa().public_key().as_ref());
    for options in [
        files.pem(&rsa_pem()),
        files.pem(&pkcs1),
        files.jwks(&[jwk_rsa("r")]),
    ] {
        let authenticator = authenticator(options);
        for (alg, signer) in rsa_signers() {
            assert!(accepts(&authenticator, &token(alg, &signer)), "{alg}");
        }
        let (_, rs256) = &rsa_signers()[0];
        assert!(!accepts(&authenticator, &token("PS256", rs256)));
    }
}

#[test]
fn elliptic_keys_verify_their_algorithm_only() {
    let files = Files::new();
    let (p256, p384, ed) = (p256(), p384(), ed25519());
    let pems = [ec_pem(&p256), ec_pem(&p384), ed25519_pem(&ed)];
    let jwks = [
        jwk_ec(&p256, "a"),
        jwk_ec(&p384, "b"),
        jwk_ed25519(&ed, "c"),
    ];
    let algorithms = ["ES256", "ES384", "EdDSA"];
    let signers = [Signer::Ec(p256), Signer::Ec(p384), Signer::Ed(ed)];
    for (own, (pem, jwk)) in pems.iter().zip(&jwks).enumerate() {
        for options in [files.pem(pem), files.jwks(std::slice::from_ref(jwk))] {
            let authenticator = authenticator(options);
            for (other, signer) in signers.iter().enumerate() {
                let token = token(algorithms[other], signer);
                assert_eq!(accepts(&authenticator, &token), own == other);
                let mislabelled = super::keys::token(algorithms[own], signer);
                assert_eq!(accepts(&authenticator, &mislabelled), own == other);
            }
        }
    }
}

#[test]
fn a_certificate_stands_for_its_key() {
    let files = Files::new();
    let (key, der) = certificate();
    let authenticator = authenticator(files.pem(&pem("CERTIFICATE", &der)));
    assert!(accepts(&authenticator, &token("ES256", &Signer::Ec(key))));
    assert!(!accepts(
        &authenticator,
        &token("ES256", &Signer::Ec(p256()))
    ));
}

#[test]
fn a_public_key_is_never_an_hmac_secret() {
    let files = Files::new();
    let (ed, ec) = (ed25519(), p256());
    let der = AsRef::<[u8]>::as_ref(rsa().public_key()).to_vec();
    for (public, raw) in [
        (rsa_pem(), der),
        (ed25519_pem(&ed), ed.public_key().as_ref().to_vec()),
        (ec_pem(&ec), ec.public_key().as_ref().to_vec()),
    ] {
        let authenticator = authenticator(files.pem(&public));
        let guesses = [
            public.as_bytes(),
            public.trim_end().as_bytes(),
            raw.as_slice(),
        ];
        for secret in guesses {
            for (alg, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
                let signer = Signer::Hmac(algorithm, secret.to_vec());
                assert!(!accepts(&authenticator, &token(alg, &signer)));
                assert!(!accepts(&authenticator, &token("RS256", &signer)));
            }
        }
    }
}

#[test]
fn a_secret_never_verifies_a_public_key_algorithm() {
    for (alg, signer) in rsa_signers() {
        assert!(!accepts(&with_secret(), &token(alg, &signer)));
    }
    let hmac = Signer::hs256(SECRET);
    for alg in ["RS256", "PS256", "ES256", "ES384", "EdDSA"] {
        assert!(!accepts(&with_secret(), &token(alg, &hmac)), "{alg}");
    }
}

#[test]
fn a_stated_algorithm_is_the_only_one() {
    let files = Files::new();
    let mut key = jwk_rsa("r");
    key["alg"] = json!("RS384");
    let authenticator = authenticator(files.jwks(&[key]));
    for (alg, signer) in rsa_signers() {
        assert_eq!(
            accepts(&authenticator, &token(alg, &signer)),
            alg == "RS384"
        );
    }
}

#[test]
fn a_kid_chooses_among_the_set() {
    let files = Files::new();
    let (one, two) = (ed25519(), ed25519());
    let keys = [
        jwk_ed25519(&one, "one"),
        jwk_ed25519(&two, "two"),
        jwk_rsa("r"),
    ];
    let authenticator = authenticator(files.jwks(&keys));
    let (one, two) = (Signer::Ed(one), Signer::Ed(two));
    let sign = |signer, kid| token_with_kid("EdDSA", signer, kid);
    assert!(accepts(&authenticator, &sign(&one, "one")));
    assert!(accepts(&authenticator, &sign(&two, "two")));
    assert!(
        accepts(&authenticator, &token("EdDSA", &two)),
        "no kid: any that fits"
    );
    for kid in ["two", "r", "", "unknown", "../one", "ONE"] {
        assert!(!accepts(&authenticator, &sign(&one, kid)), "{kid}");
    }
    let confused = token_with_kid("HS256", &Signer::hs256(SECRET), "r");
    assert!(!accepts(&authenticator, &confused));
}

#[test]
fn keys_without_a_kid_are_tried_whatever_the_token_says() {
    let files = Files::new();
    let key = ed25519();
    let mut jwk = jwk_ed25519(&key, "");
    jwk.as_object_mut().expect("an object").remove("kid");
    let by_set = authenticator(files.jwks(&[jwk, jwk_rsa("r")]));
    let by_pem = authenticator(files.pem(&ed25519_pem(&key)));
    let token = token_with_kid("EdDSA", &Signer::Ed(key), "unknown");
    assert!(accepts(&by_set, &token));
    assert!(accepts(&by_pem, &token));
}

#[test]
fn previous_secrets_stay_good() {
    let options = AuthOptions {
        hs256_secret: Some(Secret::new("n".repeat(32))),
        previous_secrets: vec![Secret::new(SECRET)],
        ..AuthOptions::default()
    };
    let authenticator = authenticator(options.clone());
    let current = token("HS256", &Signer::hs256(&"n".repeat(32)));
    assert!(accepts(&authenticator, &good_token()));
    assert!(accepts(&authenticator, &current));
    let retired = AuthOptions {
        previous_secrets: Vec::new(),
        ..options
    };
    authenticator.reload(retired).expect("good options");
    assert!(
        !accepts(&authenticator, &good_token()),
        "nor from the cache"
    );
    assert!(accepts(&authenticator, &current));
}

#[test]
fn a_reload_reads_files_again_or_keeps_the_old_keys() {
    let files = Files::new();
    let (old, new) = (ed25519(), ed25519());
    let options = files.pem(&ed25519_pem(&old));
    let authenticator = authenticator(options.clone());
    let old = token("EdDSA", &Signer::Ed(old));
    assert!(accepts(&authenticator, &old));

    files.write("key.pem", "garbage");
    assert!(authenticator.reload(options.clone()).is_err());
    assert!(accepts(&authenticator, &old));
    assert!(authenticator.reload(AuthOptions::default()).is_err());
    assert!(accepts(&authenticator, &old));

    files.write("key.pem", &ed25519_pem(&new));
    authenticator.reload(options).expect("a good file");
    assert!(!accepts(&authenticator, &old));
    assert!(accepts(&authenticator, &token("EdDSA", &Signer::Ed(new))));
}

#[test]
fn bad_options_are_refused_by_name() {
    let files = Files::new();
    let short = || Secret::new("x".repeat(31));
    let secret = AuthOptions {
        hs256_secret: Some(short()),
        ..AuthOptions::default()
    };
    let text = error(secret);
    assert!(text.contains("auth.hs256_secret") && text.contains("openssl rand -hex 32"));
    let previous = AuthOptions {
        previous_secrets: vec![short()],
        ..secret_options()
    };
    assert!(error(previous).contains("auth.previous_secrets"));
    let pem_as_secret = AuthOptions {
        hs256_secret: Some(Secret::new(rsa_pem())),
        ..AuthOptions::default()
    };
    assert!(error(pem_as_secret).contains("auth.public_key_file"));
    let missing = AuthOptions {
        jwks_file: Some(files.0.path().join("missing.json")),
        ..AuthOptions::default()
    };
    let text = error(missing);
    assert!(text.contains("auth.jwks_file") && text.contains("missing.json"));
    let private = files.pem(&pem("PRIVATE KEY", b"x"));
    let text = error(private);
    assert!(text.contains("auth.public_key_file") && text.contains("private"));
    let huge = files.pem(&"x".repeat(256 * 1024 + 1));
    assert!(error(huge).contains("256 KiB"));
    for url in [
        "ftp://issuer.example/keys",
        "issuer.example",
        "file:///etc/passwd",
    ] {
        let options = AuthOptions {
            jwks_url: Some(url.to_owned()),
            ..AuthOptions::default()
        };
        assert!(error(options).contains("auth.jwks_url"), "{url}");
    }
    let grant = AuthOptions {
        default_subscribe: vec!["user:{name}".to_owned()],
        ..secret_options()
    };
    assert!(error(grant).contains("auth.default_subscribe"));
    assert!(!AuthOptions::default().has_keys());
    assert!(error(AuthOptions::default()).contains("no key is configured"));
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let options = AuthOptions {
        previous_secrets: vec![Secret::new("another-secret")],
        ..secret_options()
    };
    let text = format!("{options:?}");
    assert!(text.contains("***") && !text.contains(SECRET) && !text.contains("another"));
    let random = Secret::random().expect("randomness");
    assert_eq!(random.expose().len(), 64);
}
