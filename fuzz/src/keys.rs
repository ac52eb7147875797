//! Files of keys, as PEM and as JWK Sets: whatever is in one, a public document is never a secret,
//! and nobody's signature is never one.

use aws_lc_rs::hmac;
use tribus::auth::{AuthOptions, Authenticator};

use crate::signing;

const HEADER: &[u8] = br#"{"alg":"HS256"}"#;
const CLAIMS: &[u8] = br#"{"sub":"alice","exp":1800003600}"#;

pub fn check(document: &[u8]) {
    let file = signing::file(document);
    let path = Some(file.path().to_owned());
    let pem = AuthOptions {
        public_key_file: path.clone(),
        ..AuthOptions::default()
    };
    let jwks = AuthOptions {
        jwks_file: path,
        ..AuthOptions::default()
    };
    for (option, options) in [("auth.public_key_file", pem), ("auth.jwks_file", jwks)] {
        match Authenticator::new(options.clone()) {
            Ok(authenticator) => {
                check_verification(&authenticator, document);
                assert!(authenticator.reload(options).is_ok());
            }
            Err(error) => {
                let message = error.to_string();
                assert!(
                    message.starts_with(option) && message.len() < 500,
                    "{message}"
                );
            }
        }
    }
}

fn check_verification(authenticator: &Authenticator, document: &[u8]) {
    let unsigned = signing::message(br#"{"alg":"none"}"#, CLAIMS);
    let mut tokens = vec![
        format!("{unsigned}."),
        format!("{}.", signing::message(HEADER, CLAIMS)),
    ];
    for secret in [document, document.trim_ascii()] {
        tokens.push(signing::signed(hmac::HMAC_SHA256, secret, HEADER, CLAIMS));
    }
    for token in tokens {
        assert!(
            authenticator.verify_at(&token, signing::now()).is_err(),
            "{token}"
        );
    }
}
