use serde_json::{Map, Value, json};

pub const SECRET: &str = "a-secret-for-tests-of-more-than-32-bytes";

/// The claims of a token to be; signed with an implementation that is not the gateway's own.
#[derive(Clone, Debug)]
pub struct Claims(pub Map<String, Value>);

impl Claims {
    /// May subscribe and publish everything and see the node's numbers, for an hour.
    pub fn all(subject: &str) -> Self {
        Self::new(subject)
            .with("subscribe", json!(["**"]))
            .with("publish", json!(["**"]))
            .with("stats", json!(true))
    }

    /// May do nothing, for an hour.
    pub fn new(subject: &str) -> Self {
        let claims = json!({"sub": subject, "exp": now() + 3600});
        Self(claims.as_object().expect("an object").clone())
    }

    #[must_use]
    pub fn with(mut self, claim: &str, value: Value) -> Self {
        self.0.insert(claim.to_owned(), value);
        self
    }

    /// Ends so many seconds from now; may be negative.
    #[must_use]
    pub fn expiring_in(self, seconds: i64) -> Self {
        self.with("exp", json!(now() + seconds))
    }

    pub fn token(&self) -> String {
        self.signed_with(SECRET)
    }

    pub fn signed_with(&self, secret: &str) -> String {
        jsonwebtoken::encode(
            &jsonwebtoken::Header::default(),
            &self.0,
            &jsonwebtoken::EncodingKey::from_secret(secret.as_bytes()),
        )
        .expect("claims to sign")
    }
}

pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
