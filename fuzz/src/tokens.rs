//! Tokens that nobody signed: arbitrary text, and good tokens that were changed.
//!
//! The input is taken as a token, and as a change of each good one: where (two bytes), how much is
//! cut out (one byte), and what is put there.

use std::sync::OnceLock;

use tribus::auth::{AuthError, AuthOptions, Authenticator, Secret};

use crate::signing::{self, SECRET};

const CLAIMS: &[u8] = br#"{"sub":"alice","exp":1800003600,"subscribe":["order:*"]}"#;

pub fn check(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        check_token(text);
    }
    for good in good_tokens() {
        if let Some(changed) = change(good, data) {
            assert!(
                authenticator().verify_at(&changed, signing::now()).is_err(),
                "{changed}"
            );
            check_token(&changed);
        }
    }
}

fn check_token(token: &str) {
    match authenticator().verify_at(token, signing::now()) {
        Ok(_) => assert!(signing::is_signed(token), "{token}"),
        Err(AuthError::TooLong) => assert!(token.len() > AuthOptions::default().max_token_bytes),
        Err(error) => {
            let message = error.to_string();
            assert!(
                message.len() < 200 && token.len() <= AuthOptions::default().max_token_bytes,
                "{message}"
            );
        }
    }
}

/// The token with the change, where it makes a difference.
fn change(token: &str, data: &[u8]) -> Option<String> {
    let [high, low, cut, put @ ..] = data else {
        return None;
    };
    let start = usize::from(u16::from_be_bytes([*high, *low])) % (token.len() + 1);
    let end = (start + usize::from(*cut)).min(token.len());
    let changed = [&token.as_bytes()[..start], put, &token.as_bytes()[end..]].concat();
    String::from_utf8(changed)
        .ok()
        .filter(|changed| changed != token)
}

fn good_tokens() -> &'static [String] {
    static TOKENS: OnceLock<Vec<String>> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let hmac = |name: &str| {
            let algorithm = signing::algorithm(name).expect("a known algorithm");
            let header = format!(r#"{{"alg":"{name}","typ":"JWT"}}"#);
            signing::signed(algorithm, SECRET.as_bytes(), header.as_bytes(), CLAIMS)
        };
        let tokens = vec![
            hmac("HS256"),
            hmac("HS512"),
            signing::signed_with_ed25519(br#"{"alg":"EdDSA","kid":"k"}"#, CLAIMS),
        ];
        for token in &tokens {
            assert!(signing::is_signed(token));
            let identity = authenticator().verify_at(token, signing::now());
            assert_eq!(&*identity.expect("a good token").subject, "alice");
        }
        tokens
    })
}

fn authenticator() -> &'static Authenticator {
    static AUTHENTICATOR: OnceLock<Authenticator> = OnceLock::new();
    AUTHENTICATOR.get_or_init(|| {
        let public_key = signing::file(signing::ed25519_pem().as_bytes());
        Authenticator::new(AuthOptions {
            hs256_secret: Some(Secret::new(SECRET)),
            public_key_file: Some(public_key.path().to_owned()),
            ..AuthOptions::default()
        })
        .expect("good keys")
    })
}
