//! How clients of a bench are known to its gateways.

use std::time::Duration;

use tribus::auth::{NewToken, Secret, sign_hs256};

/// What a gateway is given as `auth.hs256_secret`.
pub const SECRET: &str = "a-secret-for-benchmarks-of-32-bytes-or-more";

/// Of a client that may do anything.
pub fn token() -> String {
    let everything = Some(vec!["**".to_owned()]);
    let claims = NewToken {
        subject: "bench".to_owned(),
        subscribe: everything.clone(),
        publish: everything,
        ttl: Duration::from_secs(3600),
        ..NewToken::default()
    };
    sign_hs256(&Secret::new(SECRET), &claims)
}
