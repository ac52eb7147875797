//! The configuration: every key with its default and its reason, and where values come from.
//!
//! Flags win over the environment (`TRIBUS__SECTION__KEY`), which wins over the file (TOML). An
//! unknown key or a bad value is an error that names the key.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use crate::auth::{AuthOptions, Secret};

const ENVIRONMENT_PREFIX: &str = "TRIBUS";

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect. Loopback by default: opening a port to the world is a decision.
    pub listen: String,
    /// Where operators connect; never to be reachable for clients.
    pub admin_listen: String,
    /// Worker threads; one a core where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Quiet streams get a heartbeat this often: below the 30 to 60 s after which proxies cut.
    pub heartbeat: Span,
    pub auth: AuthConfig,
    pub bus: BusConfig,
    pub retention: RetentionConfig,
    pub limits: LimitsConfig,
    pub shutdown: ShutdownConfig,
    pub log: LogConfig,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The cookie that a token may come in.
    pub cookie: String,
    /// Verifies HS256, HS384 and HS512; at least 32 bytes.
    #[serde(skip_serializing)]
    pub hs256_secret: Option<Secret>,
    /// Still accepted while tokens signed with them run out.
    #[serde(skip_serializing)]
    pub previous_secrets: List<Secret>,
    /// PEM file of one or more public keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key_file: Option<std::path::PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<std::path::PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_url: Option<String>,
    /// How often the JWKS URL is fetched again: how long a key's removal takes to count.
    pub jwks_refresh: Span,
    /// Required as `iss` where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Required in `aud` where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Origins besides the gateway's own whose pages may connect, such as https://app.example.com.
    pub allowed_origins: List<String>,
    /// Grants of tokens without a `subscribe` claim; `{sub}` and `{tenant}` stand for the token's.
    pub default_subscribe: List<String>,
    /// Grants of tokens without a `publish` claim.
    pub default_publish: List<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Where the log lives.
    pub engine: EngineKind,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum EngineKind {
    /// In this process, gone with it.
    Memory,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// The most events retained.
    pub events: usize,
    /// The most memory that retained events take.
    pub bytes: Size,
    /// How long an event is retained; without a bound where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// One event encoded: what a phone can be expected to take in one piece.
    pub event_bytes: Size,
    /// How deep `data` may nest: what JSON readers cope with.
    pub nesting: usize,
    /// One inbound WebSocket message.
    pub message_bytes: Size,
    /// The body of a publish.
    pub publish_bytes: Size,
    /// Topic filters a connection: each costs memory on the node.
    pub subscriptions: usize,
    /// Of those, filters with wildcards, which are dearer to match.
    pub patterns: usize,
    /// Inbound messages or requests a second and connection, kept up over time.
    pub messages_per_second: u32,
    /// Messages or requests that may come at once after a quiet time.
    pub message_burst: u32,
    /// Connections and waiting polls a node: below what memory and file descriptors allow.
    pub connections: usize,
    /// Idempotency keys remembered for ten minutes, about 100 bytes each.
    pub idempotency_keys: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How long connections get to end by themselves; clients are told to come back within it.
    pub grace: Span,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// A level, or directives such as `info,tribus=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum LogFormat {
    Text,
    Json,
}

impl TryFrom<String> for EngineKind {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "memory" => Ok(Self::Memory),
            _ => Err(format!("there is no engine {name:?}: use \"memory\"")),
        }
    }
}

impl TryFrom<String> for LogFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!(
                "there is no format {name:?}: use \"text\" or \"json\""
            )),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            admin_listen: "127.0.0.1:8081".to_owned(),
            workers: None,
            heartbeat: Span(Duration::from_secs(25)),
            auth: AuthConfig::default(),
            bus: BusConfig::default(),
            retention: RetentionConfig::default(),
            limits: LimitsConfig::default(),
            shutdown: ShutdownConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            cookie: "tribus_token".to_owned(),
            hs256_secret: None,
            previous_secrets: List::default(),
            public_key_file: None,
            jwks_file: None,
            jwks_url: None,
            jwks_refresh: Span(Duration::from_secs(300)),
            issuer: None,
            audience: None,
            allowed_origins: List::default(),
            default_subscribe: List::default(),
            default_publish: List::default(),
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::Memory,
        }
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            events: 100_000,
            bytes: Size(256 << 20),
            age: None,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            event_bytes: Size(64 << 10),
            nesting: 128,
            message_bytes: Size(64 << 10),
            publish_bytes: Size(1 << 20),
            subscriptions: 1000,
            patterns: 100,
            messages_per_second: 5000,
            message_burst: 10_000,
            connections: 50_000,
            idempotency_keys: 1_000_000,
        }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            grace: Span(Duration::from_secs(10)),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// A configuration that can not be used; the message names the key and where it was set.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can not read the configuration file {path}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Syntax { path: String, problem: String },
    #[error("configuration: {0}")]
    Sources(String),
    #[error("configuration key `{key}`: {problem}")]
    Value { key: String, problem: String },
}

impl ConfigError {
    fn value(key: &str, problem: impl fmt::Display) -> Self {
        Self::Value {
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }
}

impl Config {
    /// Reads file, environment and flags, the later ones winning. `flags` are pairs of a dotted
    /// key and its text.
    ///
    /// # Errors
    /// Names the first key that is unknown or has a bad value.
    pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Self, ConfigError> {
        let text = match file {
            Some(path) => read_toml(path)?,
            None => String::new(),
        };
        let environment = config::Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__");
        Self::from_sources(&text, environment, flags)
    }

    /// Reads TOML only, without the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let nothing = config::Environment::default().source(Some(config::Map::new()));
        Self::from_sources(text, nothing, &[])
    }

    fn from_sources(
        text: &str,
        environment: config::Environment,
        flags: &[(&str, String)],
    ) -> Result<Self, ConfigError> {
        let file = config::File::from_str(text, config::FileFormat::Toml);
        let mut builder = config::Config::builder()
            .add_source(file)
            .add_source(environment);
        for (key, value) in flags {
            builder = builder
                .set_override(*key, value.as_str())
                .map_err(|error| ConfigError::value(key, error))?;
        }
        let sources = builder
            .build()
            .map_err(|error| ConfigError::Sources(error.to_string()))?;
        let config: Self = serde_path_to_error::deserialize(sources).map_err(|error| {
            ConfigError::value(&error.path().to_string(), problem(error.inner()))
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("workers", self.workers.unwrap_or(1)),
            ("retention.events", self.retention.events),
            ("retention.bytes", self.retention.bytes.0),
            ("limits.event_bytes", self.limits.event_bytes.0),
            ("limits.message_bytes", self.limits.message_bytes.0),
            ("limits.publish_bytes", self.limits.publish_bytes.0),
            ("limits.connections", self.limits.connections),
            (
                "limits.messages_per_second",
                self.limits.messages_per_second as usize,
            ),
            ("limits.message_burst", self.limits.message_burst as usize),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(ConfigError::value(key, "must be more than 0"));
            }
        }
        if self.heartbeat.0 < Duration::from_millis(100) {
            return Err(ConfigError::value("heartbeat", "must be at least 100ms"));
        }
        for origin in &self.auth.allowed_origins.0 {
            check_origin(origin)?;
        }
        Ok(())
    }
}

fn read_toml(path: &Path) -> Result<String, ConfigError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: name(),
        source,
    })?;
    match text.parse::<toml::Table>() {
        Ok(_) => Ok(text),
        Err(error) => Err(ConfigError::Syntax {
            path: name(),
            problem: syntax_problem(&text, &error),
        }),
    }
}

/// Names the place and does not show the line, which may hold a secret.
fn syntax_problem(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let number = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let hint = match line.split_once('=') {
        Some((_, value)) if !value.contains(['"', '\'', '[', '{']) => "; texts stand in quotes",
        _ => "",
    };
    let message = error.message();
    format!("line {number}, column {column}: {message}{hint}")
}

/// The error without its key, which is told in front of it.
fn problem(error: &config::ConfigError) -> String {
    let (problem, origin) = match error {
        config::ConfigError::At { error, origin, .. } => (problem(error), origin),
        config::ConfigError::Type {
            unexpected,
            expected,
            origin,
            ..
        } => {
            let problem = format!("invalid type: {unexpected}, expected {expected}");
            (problem, origin)
        }
        other => return other.to_string(),
    };
    match origin {
        Some(origin) => format!("{problem} (in {origin})"),
        None => problem,
    }
}

fn check_origin(origin: &str) -> Result<(), ConfigError> {
    let problem = if origin == "*" {
        "`*` would let every website act for your users: list the origins, such as \
         https://app.example.com"
    } else if origin != "null" && !origin.contains("://") {
        "an origin has a scheme, such as https://app.example.com"
    } else if origin.ends_with('/') {
        "an origin has no path and no slash at its end"
    } else {
        return Ok(());
    };
    let shown: String = origin.chars().take(100).collect();
    Err(ConfigError::value(
        "auth.allowed_origins",
        format!("{shown:?}: {problem}"),
    ))
}

impl AuthConfig {
    pub fn options(&self) -> AuthOptions {
        AuthOptions {
            hs256_secret: self.hs256_secret.clone(),
            previous_secrets: self.previous_secrets.0.clone(),
            public_key_file: self.public_key_file.clone(),
            jwks_file: self.jwks_file.clone(),
            jwks_url: self.jwks_url.clone(),
            jwks_refresh: self.jwks_refresh.0,
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            default_subscribe: self.default_subscribe.0.clone(),
            default_publish: self.default_publish.0.clone(),
        }
    }
}

/// A duration written with its unit: `250ms`, `25s`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|_| format!("{text:?} is not a duration: write 250ms, 25s or 1h"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

/// A number of bytes, with its unit: `64KiB`, `256MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let size: bytesize::ByteSize = text.parse().map_err(|_| {
            de::Error::custom(format!("{text:?} is not a size: write 64KiB or 256MiB"))
        })?;
        usize::try_from(size.as_u64())
            .map(Self)
            .map_err(de::Error::custom)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let size = bytesize::ByteSize::b(self.0 as u64);
        serializer.collect_str(&size.display().iec().to_string().replace(' ', ""))
    }
}

/// A list; in the environment it is written as a TOML array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor(std::marker::PhantomData))
    }
}

struct ListVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: de::DeserializeOwned> Visitor<'de> for ListVisitor<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(r#"a list such as ["a", "b"]"#)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<List<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(List(list))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
        #[derive(Deserialize)]
        struct Document<T> {
            list: Vec<T>,
        }
        // The text may be a secret, so the error does not repeat it.
        toml::from_str::<Document<T>>(&format!("list = {text}"))
            .map(|document| List(document.list))
            .map_err(|_| E::custom(r#"not a list: write it as a TOML array, such as ["a", "b"]"#))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_environment(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let environment = config::Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__")
            .source(Some(pairs.collect()));
        Config::from_sources(
            "heartbeat = \"7s\"\n[retention]\nevents = 5",
            environment,
            &[],
        )
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = from_environment(&[
            ("TRIBUS__RETENTION__EVENTS", "9"),
            (
                "TRIBUS__AUTH__ALLOWED_ORIGINS",
                r#"["https://a.example", "https://b.example"]"#,
            ),
            (
                "TRIBUS__AUTH__HS256_SECRET",
                "12345678901234567890123456789012",
            ),
            ("TRIBUS_URL", "not for the gateway"),
        ])
        .unwrap();
        assert_eq!(config.retention.events, 9);
        assert_eq!(config.heartbeat.0, Duration::from_secs(7));
        assert_eq!(config.auth.allowed_origins.0.len(), 2);
        let secret = config.auth.hs256_secret.expect("a secret of digits");
        assert_eq!(secret.expose(), "12345678901234567890123456789012");
    }

    #[test]
    fn errors_name_the_key() {
        for (toml, named) in [
            ("heartbeet = \"1s\"", "heartbeet"),
            ("heartbeat = \"soon\"", "heartbeat"),
            ("heartbeat = 25", "heartbeat"),
            ("[retention]\nbytes = \"many\"", "retention.bytes"),
            ("[retention]\nevents = -1", "retention.events"),
            ("[retention]\nevents = 0", "retention.events"),
            ("[retention]\nage = \"x\"", "retention.age"),
            ("[limits]\nnope = 1", "nope"),
            ("[bus]\nengine = \"mysql\"", "bus.engine"),
            ("[auth]\nallowed_origins = [\"*\"]", "auth.allowed_origins"),
            (
                "[auth]\nallowed_origins = [\"https://a/\"]",
                "auth.allowed_origins",
            ),
        ] {
            let error = Config::from_toml(toml).unwrap_err().to_string();
            assert!(error.contains(named), "{toml}: {error}");
        }
    }

    #[test]
    fn errors_name_the_key_once() {
        for (toml, expected) in [
            (
                "heartbeat = \"soon\"",
                "configuration key `heartbeat`: \"soon\" is not a duration: write 250ms, 25s or 1h",
            ),
            (
                "[retention]\nevents = \"many\"",
                "configuration key `retention.events`: invalid type: string \"many\", expected an integer",
            ),
        ] {
            let error = Config::from_toml(toml).unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        let error = Config::from_toml("[auth]\nnope = 1").unwrap_err();
        assert!(!error.to_string().contains(" for key "), "{error}");
    }

    #[test]
    fn a_syntax_error_names_the_file_and_the_place_and_shows_no_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        for (toml, place, has_hint) in [
            ("\nlisten = 127.0.0.1:8080", "line 2, column ", true),
            ("[auth]\nhs256_secret = s3cret", "line 2, column ", true),
            ("workers = [", "line 1, column ", false),
        ] {
            std::fs::write(file.path(), toml).unwrap();
            let error = Config::load(Some(file.path()), &[]).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with(&format!("{path}: {place}")), "{error}");
            assert_eq!(error.contains("in quotes"), has_hint, "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn secrets_are_in_no_error_and_no_dump() {
        let secret = "0123456789abcdef-very-secret";
        let error = from_environment(&[("TRIBUS__AUTH__PREVIOUS_SECRETS", secret)]).unwrap_err();
        assert!(!error.to_string().contains(secret), "{error}");
        let toml =
            format!("[auth]\nhs256_secret = \"{secret}\"\nprevious_secrets = [\"{secret}\"]");
        let config = Config::from_toml(&toml).unwrap();
        assert!(!format!("{config:?}").contains(secret));
        assert!(!toml::to_string(&config).unwrap().contains(secret));
    }

    #[test]
    fn the_defaults_read_back() {
        let text = toml::to_string(&Config::default()).unwrap();
        let config = Config::from_toml(&text).unwrap();
        assert_eq!(toml::to_string(&config).unwrap(), text);
        assert_eq!(config.retention.bytes, Size(256 << 20));
    }
}
