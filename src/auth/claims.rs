//! The inside of a token: claims (RFC 7519 section 4), read strictly, and what becomes of them.

use std::{collections::HashMap, fmt, sync::Arc};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

use crate::topic::{Tenant, TopicFilter};

use super::{
    AuthError, AuthOptions, ClaimedLimits, Identity, LEEWAY,
    grants::GrantTemplate,
    identity::{later, name_problem},
    keys::KeyError,
};

/// Filters in one `subscribe` or `publish` claim; more would make every later check slow.
const MAX_FILTERS: usize = 1000;

/// Grants that take no more than one place of a cache.
const FREE_GRANTS: usize = 16;

/// What is demanded of every token, and granted to those that say nothing.
#[derive(PartialEq)]
pub(super) struct ClaimPolicy {
    issuer: Option<String>,
    audience: Option<String>,
    default_subscribe: Vec<GrantTemplate>,
    default_publish: Vec<GrantTemplate>,
}

/// A token, or an answer of the auth hook, that was found good in all but time, which has to be asked for at every use.
pub(super) struct Verified {
    pub identity: Arc<Identity>,
    not_before: Option<Timestamp>,
}

impl Verified {
    /// What it takes of a cache's places.
    pub fn weight(&self) -> u64 {
        let grants = self.identity.subscribe.len() + self.identity.publish.len();
        (1 + grants / FREE_GRANTS) as u64
    }

    /// # Errors
    /// [`AuthError::Expired`] or [`AuthError::NotYetValid`].
    pub fn at(&self, now: Timestamp) -> Result<Arc<Identity>, AuthError> {
        if self.identity.is_expired(now) {
            return Err(AuthError::Expired);
        }
        if self
            .not_before
            .is_some_and(|start| later(now, LEEWAY) < start)
        {
            return Err(AuthError::NotYetValid);
        }
        Ok(Arc::clone(&self.identity))
    }
}

impl ClaimPolicy {
    /// # Errors
    /// [`KeyError::DefaultGrant`] for a default grant that is not a topic filter.
    pub fn new(options: &AuthOptions) -> Result<Self, KeyError> {
        let subscribe = &options.default_subscribe;
        let publish = &options.default_publish;
        Ok(Self {
            issuer: options.issuer.clone(),
            audience: options.audience.clone(),
            default_subscribe: GrantTemplate::parse_all("auth.default_subscribe", subscribe)?,
            default_publish: GrantTemplate::parse_all("auth.default_publish", publish)?,
        })
    }

    /// Reads the payload of a token whose signature is verified. All of it is UTF-8 (RFC 7519 section 7.2), also
    /// claims that are not read.
    ///
    /// # Errors
    /// [`AuthError::BadClaim`], or [`AuthError::Invalid`] for another issuer or audience.
    pub fn read(&self, payload: &[u8]) -> Result<Verified, AuthError> {
        let claims = Claims::parse(payload)?;
        self.check_issuer(&claims)?;
        self.check_audience(&claims)?;
        self.verified(&claims, None)
    }

    /// Reads the claims that the auth hook's backend answered. Who asked them of whom is known, so `iss` and `aud` are
    /// not looked at; `end` stands for a missing `exp`.
    ///
    /// # Errors
    /// [`AuthError::Malformed`] or [`AuthError::BadClaim`].
    pub fn read_answer(&self, payload: &[u8], end: Timestamp) -> Result<Verified, AuthError> {
        self.verified(&Claims::parse(payload)?, Some(end))
    }

    fn verified(&self, claims: &Claims, end: Option<Timestamp>) -> Result<Verified, AuthError> {
        Ok(Verified {
            identity: Arc::new(self.identity(claims, end)?),
            not_before: claims.date("nbf")?,
        })
    }

    fn check_issuer(&self, claims: &Claims) -> Result<(), AuthError> {
        let issuer = claims.string("iss")?;
        match &self.issuer {
            Some(wanted) if issuer != Some(wanted) => {
                Err(AuthError::Invalid("issuer is not accepted"))
            }
            _ => Ok(()),
        }
    }

    fn check_audience(&self, claims: &Claims) -> Result<(), AuthError> {
        let audiences = claims.audiences()?;
        match &self.audience {
            Some(wanted) if !audiences.contains(&wanted.as_str()) => {
                Err(AuthError::Invalid("not meant for this audience"))
            }
            _ => Ok(()),
        }
    }

    fn identity(&self, claims: &Claims, end: Option<Timestamp>) -> Result<Identity, AuthError> {
        let subject = claims.name("sub")?.ok_or(bad("sub", MISSING))?;
        let tenant = claims.name("tenant")?;
        let defaults = |templates: &[GrantTemplate]| {
            let fill = |template: &GrantTemplate| template.fill(subject, tenant);
            templates.iter().filter_map(fill).collect()
        };
        Ok(Identity {
            subject: subject.into(),
            tenant: tenant.map_or_else(Tenant::none, Tenant::named),
            subscribe: claims
                .filters("subscribe")?
                .unwrap_or_else(|| defaults(&self.default_subscribe)),
            publish: claims
                .filters("publish")?
                .unwrap_or_else(|| defaults(&self.default_publish)),
            trusted: claims.flag("trusted")?,
            stats: claims.flag("stats")?,
            expires_at: claims.date("exp")?.or(end).ok_or(bad("exp", MISSING))?,
            token_id: claims.name("jti")?.map(Arc::from),
            limits: claims.limits()?.map(Box::new),
        })
    }
}

const MISSING: &str = "missing";

const fn bad(name: &'static str, problem: &'static str) -> AuthError {
    AuthError::BadClaim { name, problem }
}

/// The claims that Tribus reads. All others are ignored.
const KNOWN: [&str; 12] = [
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

/// The known claims as they came; each accessor answers `None` only for a claim that is not there at all.
struct Claims(HashMap<&'static str, Value>);

impl Claims {
    fn parse(json: &[u8]) -> Result<Self, AuthError> {
        // Of what is not UTF-8, serde would pass over claims that nobody reads.
        let text = std::str::from_utf8(json).ok();
        let claims = text.and_then(|text| serde_json::from_str(text).ok());
        claims.ok_or(AuthError::Malformed(
            "claims are not one object of distinct names",
        ))
    }

    fn string(&self, name: &'static str) -> Result<Option<&str>, AuthError> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(name, "not a string")),
        }
    }

    /// A string that stands in keys and logs.
    fn name(&self, name: &'static str) -> Result<Option<&str>, AuthError> {
        let Some(text) = self.string(name)? else {
            return Ok(None);
        };
        match name_problem(text) {
            Some(problem) => Err(bad(name, problem)),
            None => Ok(Some(text)),
        }
    }

    fn flag(&self, name: &'static str) -> Result<bool, AuthError> {
        match self.0.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(bad(name, "neither true nor false")),
        }
    }

    /// A NumericDate: seconds since 1970, fractions allowed (RFC 7519 section 2).
    fn date(&self, name: &'static str) -> Result<Option<Timestamp>, AuthError> {
        let seconds = match self.0.get(name) {
            None => return Ok(None),
            Some(value) => value.as_f64().ok_or(bad(name, "not a number"))?,
        };
        let out_of_range = bad(name, "out of range: seconds since 1970 are expected");
        if seconds < 0.0 {
            return Err(out_of_range);
        }
        // The cast saturates, and what is beyond the year 9999 is refused: also a date in milliseconds, a common mistake.
        let millis = Timestamp::from_millisecond((seconds * 1000.0) as i64);
        millis.map(Some).map_err(|_| out_of_range)
    }

    fn audiences(&self) -> Result<Vec<&str>, AuthError> {
        match self.0.get("aud") {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(many)) => strings("aud", many),
            Some(_) => Err(bad("aud", "neither a string nor a list of strings")),
        }
    }

    /// Strict, since a limit that is misspelt would not be there.
    fn limits(&self) -> Result<Option<ClaimedLimits>, AuthError> {
        let Some(value) = self.0.get("limits") else {
            return Ok(None);
        };
        let malformed = bad(
            "limits",
            "not an object of limits of a subject, as the configuration names them, and numbers",
        );
        // Serde would also take a list of numbers, and null for one that is not there.
        let Some(object) = value.as_object() else {
            return Err(malformed);
        };
        if object.values().any(Value::is_null) {
            return Err(malformed);
        }
        let limits = ClaimedLimits::deserialize(value).map_err(|_| malformed)?;
        if limits.has_zero() {
            return Err(bad("limits", "a limit is at least 1"));
        }
        Ok(Some(limits))
    }

    fn filters(&self, name: &'static str) -> Result<Option<Vec<TopicFilter>>, AuthError> {
        let list = match self.0.get(name) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(bad(name, "not a list of topic filters")),
        };
        if list.len() > MAX_FILTERS {
            return Err(bad(name, "more than 1000 topic filters"));
        }
        let parse = |(index, text)| {
            let entry = index + 1;
            TopicFilter::parse(text).map_err(|_| AuthError::BadFilter { name, entry })
        };
        let filters = strings(name, list)?.into_iter().enumerate().map(parse);
        filters.collect::<Result<_, _>>().map(Some)
    }
}

fn strings<'v>(name: &'static str, list: &'v [Value]) -> Result<Vec<&'v str>, AuthError> {
    let string = |value: &'v Value| value.as_str().ok_or(bad(name, "not a list of strings"));
    list.iter().map(string).collect()
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

struct ClaimsVisitor;

impl<'de> Visitor<'de> for ClaimsVisitor {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    /// Which of two claims of one name counts differs between parsers, so neither does (RFC 7519 section 4).
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        let mut claims = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let Some(known) = KNOWN.into_iter().find(|known| *known == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if claims.insert(known, map.next_value()?).is_some() {
                return Err(A::Error::custom("duplicate claim"));
            }
        }
        Ok(Claims(claims))
    }
}
