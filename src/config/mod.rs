//! The configuration: every key with its default and its reason, and where values come from.
//!
//! Flags win over the environment (`TRIBUS__SECTION__KEY`), which wins over the file (TOML). An
//! unknown key or a bad value is an error that names the key.

mod advice;
mod bus;
mod hook;
mod keys;
mod limits;
mod log_level;
mod origin;
mod sections;
mod unknown;
mod values;

use std::{fmt, io::ErrorKind, path::Path, time::Duration};

pub use advice::{Advice, Severity};
pub use bus::{BusConfig, DiskConfig, EngineKind, NatsConfig, RedisConfig};
pub use keys::keys;
pub use limits::LimitsConfig;
pub use origin::{Origin, Origins};
pub use sections::{
    AuthConfig, Config, HookConfig, LogConfig, LogFormat, RetentionConfig, ShutdownConfig,
    TelemetryConfig, TlsConfig,
};
pub use values::{Filter, List, NatsUrls, Network, RedisUrl, Size, Span};

const ENVIRONMENT_PREFIX: &str = "TRIBUS";

/// A configuration that can not be used; the message names the key and where it was set.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("there is no configuration file {path}")]
    NoFile { path: String },
    #[error(
        "{path} is a directory: name the configuration file in it, such as {}/tribus.toml",
        path.trim_end_matches('/')
    )]
    Directory { path: String },
    #[error("can not read the configuration file {path}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Syntax { path: String, problem: String },
    #[error("configuration: {0}")]
    Sources(String),
    #[error("{0}")]
    Unknown(String),
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
        Ok(Self::load_explained(file, flags)?.0)
    }

    /// As [`Config::load`]; tells besides where each value came from.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_explained(
        file: Option<&Path>,
        flags: &[(&str, String)],
    ) -> Result<(Self, Origins), ConfigError> {
        let text = match file {
            Some(path) => read_toml(path)?,
            None => String::new(),
        };
        let environment = config::Environment::with_prefix(ENVIRONMENT_PREFIX)
            .prefix_separator("__")
            .separator("__");
        let variables = std::env::vars_os().map(|(name, _)| name);
        let set_by_flags = flags.iter().map(|(key, _)| (*key).to_owned());
        let origins = Origins::of(&text, variables, set_by_flags);
        refuse_unknown(&origins, file)?;
        Ok((Self::from_sources(&text, environment, flags)?, origins))
    }

    /// Reads TOML only, without the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let origins = Origins::of(text, std::iter::empty(), std::iter::empty());
        refuse_unknown(&origins, None)?;
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
            (
                "presence.topics_per_subject",
                self.presence.topics_per_subject,
            ),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(ConfigError::value(key, "must be more than 0"));
            }
        }
        if let Some(node) = &self.node {
            check_name("node", node)?;
        }
        self.limits.check()?;
        self.bus.check()?;
        if self.limits.shared && !self.bus.engine.is_shared() {
            return Err(ConfigError::value(
                "limits.shared",
                "needs an engine that nodes share: set bus.engine to \"redis\" or \"nats\"",
            ));
        }
        if self.heartbeat.0 < Duration::from_millis(100) {
            return Err(ConfigError::value("heartbeat", "must be at least 100ms"));
        }
        if self.shutdown.unready.0 >= self.shutdown.grace.0 && !self.shutdown.unready.0.is_zero() {
            return Err(ConfigError::value(
                "shutdown.unready",
                "must be less than shutdown.grace, of which it is a part",
            ));
        }
        if !(0.0..=1.0).contains(&self.telemetry.sample_ratio) {
            return Err(ConfigError::value(
                "telemetry.sample_ratio",
                "must be between 0 and 1",
            ));
        }
        match (&self.tls.cert, &self.tls.key) {
            (Some(_), None) => return Err(ConfigError::value("tls.key", "tls.cert needs it")),
            (None, Some(_)) => return Err(ConfigError::value("tls.cert", "tls.key needs it")),
            _ => {}
        }
        log_level::check(&self.log.level)
            .map_err(|problem| ConfigError::value("log.level", problem))?;
        self.auth.hook.check()?;
        for origin in &self.auth.allowed_origins.0 {
            check_origin(origin)?;
        }
        Ok(())
    }
}

/// A name that may stand in a header.
fn check_name(key: &str, name: &str) -> Result<(), ConfigError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(is_plain) {
        return Ok(());
    }
    Err(ConfigError::value(
        key,
        "must be 1 to 64 of a to z, A to Z, 0 to 9, `.`, `_` and `-`",
    ))
}

fn refuse_unknown(origins: &Origins, file: Option<&Path>) -> Result<(), ConfigError> {
    let file = file.map(|path| path.display().to_string());
    match unknown::problem(origins, file.as_deref()) {
        Some(problem) => Err(ConfigError::Unknown(problem)),
        None => Ok(()),
    }
}

fn read_toml(path: &Path) -> Result<String, ConfigError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => ConfigError::NoFile { path: name() },
        ErrorKind::IsADirectory => ConfigError::Directory { path: name() },
        _ => ConfigError::Read {
            path: name(),
            source,
        },
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
            (
                "[presence]\ntopics_per_subject = 0",
                "presence.topics_per_subject",
            ),
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
