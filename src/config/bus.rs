//! Where the log lives, and what `bus` may be.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ConfigError,
    values::{List, NatsUrls, RedisUrl, Size, Span},
};
use crate::engine::disk::Durability;

const MOST_NAMESPACE: usize = 64;

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// Where the log lives.
    pub engine: EngineKind,
    /// Which log of a shared store: gateways of one namespace share one log. `[A-Za-z0-9_-]`, 1 to
    /// 64 of them.
    pub namespace: String,
    pub disk: DiskConfig,
    pub redis: RedisConfig,
    pub nats: NatsConfig,
}

/// The engine `disk`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskConfig {
    /// The directory of the log, this gateway's alone; made where it is not there. The engine needs
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// What an answered publish outlives: `sync` a power failure, `os` the gateway only.
    pub durability: Durability,
    /// Of the retained events, how much stays in memory: whoever was away for longer is served from
    /// the disk.
    pub memory: Size,
}

/// The engine `redis`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// Where Redis is, such as redis://127.0.0.1:6379; with a user, a password and the number of a
    /// database where there are some. Beside `sentinels` only these count, and whether it is
    /// `rediss`.
    #[serde(skip_serializing_if = "is_missing_or_secret")]
    pub url: Option<RedisUrl>,
    /// Sentinels that know where the master is, such as redis://10.0.0.5:26379.
    #[serde(skip_serializing_if = "is_empty_or_secret")]
    pub sentinels: List<RedisUrl>,
    /// The name of the master that the Sentinels watch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// An answer that takes longer is none: what was published is refused, and nobody knows
    /// whether Redis has it.
    pub timeout: Span,
    /// Of the retained events, how much stays in memory: whoever was away for longer is served from
    /// Redis.
    pub memory: Size,
}

/// The engine `nats`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// Where NATS is, such as nats://127.0.0.1:4222, with a user and a password where there are
    /// some; `tls` instead of `nats` where it must be TLS. The servers of a cluster with commas in
    /// between.
    #[serde(skip_serializing_if = "is_no_url_or_secret")]
    pub url: Option<NatsUrls>,
    /// The file of credentials that a user of NATS was given, with its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// How many servers of a cluster keep the log: 1, 3 or 5. Counts where the log is made.
    pub replicas: usize,
    /// An answer that takes longer is none: what was published is refused, and nobody knows
    /// whether NATS has it.
    pub timeout: Span,
    /// Of the retained events, how much stays in memory: whoever was away for longer is served from
    /// NATS.
    pub memory: Size,
}

fn is_no_url_or_secret(urls: &Option<NatsUrls>) -> bool {
    urls.as_ref().is_none_or(NatsUrls::has_secret)
}

/// A URL with a password is not written out.
fn is_missing_or_secret(url: &Option<RedisUrl>) -> bool {
    url.as_ref().is_none_or(RedisUrl::has_password)
}

fn is_empty_or_secret(urls: &List<RedisUrl>) -> bool {
    urls.0.is_empty() || urls.0.iter().any(RedisUrl::has_password)
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum EngineKind {
    /// In this process, gone with it.
    Memory,
    /// On this machine's disk: it outlives the process.
    Disk,
    /// In Redis: shared by several gateways.
    Redis,
    /// In NATS JetStream: shared by several gateways.
    Nats,
}

impl EngineKind {
    /// As `bus.engine` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Redis => "redis",
            Self::Nats => "nats",
        }
    }

    /// Whether several nodes may have one log.
    pub fn is_shared(self) -> bool {
        match self {
            Self::Memory | Self::Disk => false,
            Self::Redis | Self::Nats => true,
        }
    }
}

impl TryFrom<String> for EngineKind {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "memory" => Ok(Self::Memory),
            "disk" => Ok(Self::Disk),
            "redis" => Ok(Self::Redis),
            "nats" => Ok(Self::Nats),
            _ => Err(format!(
                "there is no engine {name:?}: use \"memory\", \"disk\", \"redis\" or \"nats\""
            )),
        }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self {
            engine: EngineKind::Memory,
            namespace: "tribus".to_owned(),
            disk: DiskConfig::default(),
            redis: RedisConfig::default(),
            nats: NatsConfig::default(),
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            sentinels: List::default(),
            master: None,
            timeout: Span(Duration::from_secs(5)),
            memory: Size(64 << 20),
        }
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: None,
            credentials: None,
            replicas: 1,
            timeout: Span(Duration::from_secs(5)),
            memory: Size(64 << 20),
        }
    }
}

impl Default for DiskConfig {
    fn default() -> Self {
        Self {
            path: None,
            durability: Durability::Sync,
            memory: Size(64 << 20),
        }
    }
}

impl BusConfig {
    /// # Errors
    /// Names the first key that makes no sense.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if !(1..=MOST_NAMESPACE).contains(&self.namespace.len())
            || !self.namespace.bytes().all(is_word)
        {
            return Err(ConfigError::value(
                "bus.namespace",
                "takes 1 to 64 of the characters A-Z, a-z, 0-9, _ and -",
            ));
        }
        self.redis.check()?;
        self.nats.check()?;
        match self.engine {
            EngineKind::Disk if self.disk.path.is_none() => Err(ConfigError::value(
                "bus.disk.path",
                "the engine \"disk\" needs it: a directory for the log, such as /var/lib/tribus",
            )),
            EngineKind::Redis if self.redis.url.is_none() && self.redis.sentinels.0.is_empty() => {
                Err(ConfigError::value(
                    "bus.redis.url",
                    "the engine \"redis\" needs it, or bus.redis.sentinels: where Redis is, such as \
                     redis://127.0.0.1:6379",
                ))
            }
            EngineKind::Nats if self.nats.url.is_none() => Err(ConfigError::value(
                "bus.nats.url",
                "the engine \"nats\" needs it: where NATS is, such as nats://127.0.0.1:4222",
            )),
            EngineKind::Memory | EngineKind::Disk | EngineKind::Redis | EngineKind::Nats => Ok(()),
        }
    }
}

impl RedisConfig {
    fn check(&self) -> Result<(), ConfigError> {
        check_timeout("bus.redis.timeout", self.timeout)?;
        match (&self.master, self.sentinels.0.is_empty()) {
            (None, false) => Err(ConfigError::value(
                "bus.redis.master",
                "bus.redis.sentinels needs it: the name of the master that they watch",
            )),
            (Some(_), true) => Err(ConfigError::value(
                "bus.redis.sentinels",
                "bus.redis.master needs them: who knows where the master is",
            )),
            (None, true) | (Some(_), false) => Ok(()),
        }
    }
}

impl NatsConfig {
    fn check(&self) -> Result<(), ConfigError> {
        check_timeout("bus.nats.timeout", self.timeout)?;
        match self.replicas {
            1 | 3 | 5 => Ok(()),
            _ => Err(ConfigError::value(
                "bus.nats.replicas",
                "takes 1, or in a cluster 3 or 5: of others no more could fail",
            )),
        }
    }
}

/// How long publishers may have to wait.
fn check_timeout(key: &'static str, timeout: Span) -> Result<(), ConfigError> {
    let (least, most) = (Duration::from_millis(100), Duration::from_secs(60));
    if (least..=most).contains(&timeout.0) {
        return Ok(());
    }
    Err(ConfigError::value(
        key,
        "must be at least 100ms and at most 60s, which publishers have to wait",
    ))
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn a_bus_that_makes_no_sense_is_refused_by_its_key() {
        for (bus, key) in [
            ("engine = 'disk'", "bus.disk.path"),
            ("engine = 'redis'", "bus.redis.url"),
            ("engine = 'postgres'", "bus.engine"),
            ("namespace = ''", "bus.namespace"),
            ("namespace = 'a{b}'", "bus.namespace"),
            ("redis.url = 'http://h'", "bus.redis.url"),
            ("redis.url = '127.0.0.1:6379'", "bus.redis.url"),
            ("redis.timeout = '0s'", "bus.redis.timeout"),
            ("redis.timeout = '1h'", "bus.redis.timeout"),
            ("redis.master = 'm'", "bus.redis.sentinels"),
            ("redis.sentinels = ['redis://h:26379']", "bus.redis.master"),
            ("redis.memory = 'much'", "bus.redis.memory"),
            ("engine = 'nats'", "bus.nats.url"),
            ("nats.url = 'redis://h'", "bus.nats.url"),
            ("nats.timeout = '0s'", "bus.nats.timeout"),
            ("nats.replicas = 2", "bus.nats.replicas"),
        ] {
            let error = Config::from_toml(&format!("[bus]\n{bus}")).unwrap_err();
            assert!(error.to_string().contains(key), "{bus}: {error}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_in_no_error_and_no_dump() {
        let toml = |url: &str| format!("[bus]\nengine = 'redis'\nredis.url = '{url}'");
        let config = Config::from_toml(&toml("redis://u:s3cret@h:1/0")).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(!toml::to_string(&config).unwrap().contains("s3cret"));
        let error = Config::from_toml(&toml("redis://u:s3cret@h:1/zero")).unwrap_err();
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let toml_of_nats = "[bus]\nengine = 'nats'\nnats.url = 'nats://s3cret@h:1'";
        let config = Config::from_toml(toml_of_nats).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(!toml::to_string(&config).unwrap().contains("s3cret"));
        let plain = Config::from_toml(&toml("redis://h:1/0")).unwrap();
        assert!(toml::to_string(&plain).unwrap().contains("redis://h:1/0"));
    }
}
