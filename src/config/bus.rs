//! What `bus` may be.

use std::time::Duration;

use super::{BusConfig, ConfigError, EngineKind, NatsConfig, RedisConfig, Span};

const MOST_NAMESPACE: usize = 64;

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
