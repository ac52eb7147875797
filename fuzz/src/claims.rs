//! Claims of tokens that are rightly signed: what is believed of them is what they say.
//!
//! The input is the header's JSON, and after a line break the claims'.

use std::{collections::HashMap, sync::OnceLock};

use aws_lc_rs::hmac;
use serde_json::Value;
use tribus::{
    auth::{AuthError, AuthOptions, Authenticator, Identity, Secret},
    topic::TopicFilter,
};

use crate::{
    pairs::Pairs,
    signing::{self, OTHER_SECRET, SECRET},
};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "tribus";

/// How far clocks may differ, in seconds.
const LEEWAY: f64 = 5.0;

pub fn check(data: &[u8]) {
    let at = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let (header, claims) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    let algorithm = algorithm(header);
    let token = signing::signed(
        algorithm.unwrap_or(hmac::HMAC_SHA256),
        SECRET.as_bytes(),
        header,
        claims,
    );
    if token.len() > AuthOptions::default().max_token_bytes {
        return;
    }
    let claims = Claims::read(claims);
    for (authenticator, is_strict) in [(lenient(), false), (strict(), true)] {
        let verified = authenticator.verify_at(&token, signing::now());
        assert_eq!(verified, authenticator.verify_at(&token, signing::now()));
        match &verified {
            Ok(identity) => {
                let claims = claims.as_ref().expect("claims are an object");
                assert!(algorithm.is_some() && claims.are_good(is_strict));
                claims.check_identity(identity, is_strict);
            }
            Err(AuthError::Malformed(_) | AuthError::TooLong | AuthError::KeysUnavailable) => {}
            Err(error) => assert!(
                algorithm.is_none()
                    || !claims
                        .as_ref()
                        .is_some_and(|claims| claims.are_good(is_strict)),
                "{error}"
            ),
        }
    }
    check_unsigned(header, data, &token);
}

/// The same token from someone who has not the secret.
fn check_unsigned(header: &[u8], data: &[u8], token: &str) {
    let claims = data.get(header.len() + 1..).unwrap_or_default();
    let foreign = signing::signed(hmac::HMAC_SHA256, OTHER_SECRET.as_bytes(), header, claims);
    let unsigned = format!("{}.", signing::message(header, claims));
    for other in [foreign, unsigned] {
        assert_ne!(other, token);
        assert!(
            lenient().verify_at(&other, signing::now()).is_err(),
            "{other}"
        );
    }
}

fn algorithm(header: &[u8]) -> Option<hmac::Algorithm> {
    let header: Value = serde_json::from_slice(header).ok()?;
    signing::algorithm(header.get("alg")?.as_str()?)
}

fn lenient() -> &'static Authenticator {
    static AUTHENTICATOR: OnceLock<Authenticator> = OnceLock::new();
    AUTHENTICATOR.get_or_init(|| {
        Authenticator::new(AuthOptions {
            hs256_secret: Some(Secret::new(SECRET)),
            ..AuthOptions::default()
        })
        .expect("good options")
    })
}

fn strict() -> &'static Authenticator {
    static AUTHENTICATOR: OnceLock<Authenticator> = OnceLock::new();
    AUTHENTICATOR.get_or_init(|| {
        Authenticator::new(AuthOptions {
            hs256_secret: Some(Secret::new(SECRET)),
            issuer: Some(ISSUER.to_owned()),
            audience: Some(AUDIENCE.to_owned()),
            default_subscribe: vec!["user:{sub}:**".to_owned(), "org-{tenant}:*".to_owned()],
            ..AuthOptions::default()
        })
        .expect("good options")
    })
}

/// The claims in which the gateway is interested, each there at most once.
struct Claims(HashMap<String, Value>);

/// What the `limits` claim may set.
const LIMITS: &[&str] = &[
    "publish_events_per_second",
    "publish_burst",
    "connects_per_second",
    "connect_burst",
    "connections_per_subject",
    "polls_per_subject",
];

fn are_limits(claim: &Value) -> bool {
    let fits = |value: &Value| {
        let number = value.as_u64().unwrap_or_default();
        (1..=u64::from(u32::MAX)).contains(&number)
    };
    claim.as_object().is_some_and(|limits| {
        limits
            .iter()
            .all(|(name, value)| LIMITS.contains(&name.as_str()) && fits(value))
    })
}

const KNOWN: &[&str] = &[
    "sub",
    "exp",
    "nbf",
    "iss",
    "aud",
    "jti",
    "tenant",
    "trusted",
    "stats",
    "subscribe",
    "publish",
    "limits",
];

impl Claims {
    fn read(payload: &[u8]) -> Option<Self> {
        let Pairs(pairs) = serde_json::from_slice(payload).ok()?;
        let mut claims = HashMap::new();
        for (name, value) in pairs {
            if !KNOWN.contains(&name.as_str()) {
                continue;
            }
            let value = serde_json::from_str(value.get()).ok()?;
            if claims.insert(name, value).is_some() {
                return None;
            }
        }
        Some(Self(claims))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn are_good(&self, is_strict: bool) -> bool {
        let now = signing::now().as_second() as f64;
        let is_there = |name: &str| self.0.contains_key(name);
        let has_name = |name: &str| {
            let fits =
                |text: &str| (1..=255).contains(&text.len()) && !text.contains(char::is_control);
            self.text(name).is_some_and(fits)
        };
        let date = |name: &str| {
            self.0
                .get(name)
                .and_then(Value::as_f64)
                .filter(|at| is_date(*at))
        };
        let issuer = match self.text("iss") {
            Some(issuer) => !is_strict || issuer == ISSUER,
            None => !is_strict && !is_there("iss"),
        };
        has_name("sub")
            && ["tenant", "jti"]
                .iter()
                .all(|name| !is_there(name) || has_name(name))
            && ["subscribe", "publish"]
                .iter()
                .all(|name| !is_there(name) || self.filters(name).is_some())
            && ["trusted", "stats"]
                .iter()
                .all(|name| self.0.get(*name).is_none_or(Value::is_boolean))
            && self.0.get("limits").is_none_or(are_limits)
            && issuer
            && self.has_audience(is_strict)
            && date("exp").is_some_and(|exp| now < millis(exp) + LEEWAY)
            && (!is_there("nbf") || date("nbf").is_some_and(|nbf| now + LEEWAY >= millis(nbf)))
    }

    fn has_audience(&self, is_strict: bool) -> bool {
        match self.0.get("aud") {
            None => !is_strict,
            Some(Value::String(one)) => !is_strict || one == AUDIENCE,
            Some(Value::Array(many)) => {
                many.iter().all(Value::is_string)
                    && (!is_strict || many.iter().any(|one| one == AUDIENCE))
            }
            Some(_) => false,
        }
    }

    fn filters(&self, name: &str) -> Option<Vec<TopicFilter>> {
        let list = self
            .0
            .get(name)?
            .as_array()
            .filter(|list| list.len() <= 1000)?;
        list.iter()
            .map(|text| TopicFilter::parse(text.as_str()?).ok())
            .collect()
    }

    fn check_identity(&self, identity: &Identity, is_strict: bool) {
        assert_eq!(Some(&*identity.subject), self.text("sub"));
        assert_eq!(identity.tenant.as_deref(), self.text("tenant"));
        assert_eq!(identity.token_id.as_deref(), self.text("jti"));
        let is_set = |name: &str| self.0.get(name) == Some(&Value::Bool(true));
        assert_eq!(identity.trusted, is_set("trusted"));
        assert_eq!(identity.stats, is_set("stats"));
        assert_eq!(
            identity.publish,
            self.filters("publish").unwrap_or_default()
        );
        match self.filters("subscribe") {
            Some(filters) => assert_eq!(identity.subscribe, filters),
            None if is_strict => self.check_default_grants(identity),
            None => assert!(identity.subscribe.is_empty()),
        }
    }

    /// A default grant reaches what belongs to this subject and tenant, and nothing else.
    fn check_default_grants(&self, identity: &Identity) {
        let subject = &*identity.subject;
        for grant in &identity.subscribe {
            let own = match identity.tenant.as_deref() {
                Some(tenant) if grant.as_str().starts_with("org-") => format!("org-{tenant}:*"),
                _ => format!("user:{subject}:**"),
            };
            assert_eq!(grant.as_str(), own);
            assert_eq!(
                own.matches(':').count(),
                if own.starts_with("org-") { 1 } else { 2 }
            );
            assert!(own.trim_end_matches('*').find('*').is_none(), "{own}");
        }
        let is_plain = subject.len() < 200 && subject.chars().all(char::is_alphanumeric);
        assert!(!is_plain || !identity.subscribe.is_empty());
    }
}

/// Within the years that a time can have.
fn is_date(seconds: f64) -> bool {
    seconds >= 0.0 && jiff::Timestamp::from_millisecond((seconds * 1000.0) as i64).is_ok()
}

/// Times count in whole milliseconds.
fn millis(seconds: f64) -> f64 {
    (seconds * 1000.0).trunc() / 1000.0
}
