//! Making tokens, for `tribus token`, development mode and tests. A deployment has an identity provider for it.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{Secret, identity::later};

/// What a new token says. Nothing is checked: a bad claim makes a token that is refused.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// `sub`.
    pub subject: String,
    /// `subscribe`: topic filters; `None` leaves it to the gateway's defaults.
    pub subscribe: Option<Vec<String>>,
    /// `publish`: the same.
    pub publish: Option<Vec<String>>,
    /// `tenant`.
    pub tenant: Option<String>,
    /// `trusted`.
    pub trusted: bool,
    /// `stats`.
    pub stats: bool,
    /// From now to `exp`, which is rounded up to a whole second.
    pub ttl: Duration,
    /// `iss`.
    pub issuer: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// `jti`.
    pub token_id: Option<String>,
}

/// A JWT signed with HS256, valid from now.
pub fn sign_hs256(secret: &Secret, token: &NewToken) -> String {
    let claims = token.claims(Timestamp::now());
    sign(secret.expose().as_bytes(), &claims)
}

impl NewToken {
    fn claims(&self, now: Timestamp) -> Value {
        let ttl = SignedDuration::try_from(self.ttl).unwrap_or(SignedDuration::MAX);
        let optional = [
            ("subscribe", json!(self.subscribe)),
            ("publish", json!(self.publish)),
            ("tenant", json!(self.tenant)),
            ("trusted", json!(self.trusted.then_some(true))),
            ("stats", json!(self.stats.then_some(true))),
            ("iss", json!(self.issuer)),
            ("aud", json!(self.audience)),
            ("jti", json!(self.token_id)),
        ];
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(self.subject));
        claims.insert("iat".to_owned(), json!(now.as_second()));
        claims.insert("exp".to_owned(), json!(rounded_up(later(now, ttl))));
        for (name, value) in optional {
            if !value.is_null() {
                claims.insert(name.to_owned(), value);
            }
        }
        Value::Object(claims)
    }
}

/// Other libraries expect whole seconds.
fn rounded_up(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

fn sign(secret: &[u8], claims: &Value) -> String {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    let message = format!("{header}.{payload}");
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}
