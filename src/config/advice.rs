//! What an operator should know about a configuration that is good, as far as its values tell.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};

use url::Url;

use super::{Config, EngineKind, List, NatsUrls, Origins, RedisUrl, sections::AuthConfig};

/// Proxies end what was silent for this long, unless told otherwise.
const PROXY_PATIENCE: Duration = Duration::from_secs(60);

/// Keys that do nothing unless another one is given.
const NEEDS: [(&str, &str); 3] = [
    ("auth.hook", "auth.hook.url"),
    ("telemetry", "telemetry.otlp_endpoint"),
    ("auth.jwks_refresh", "auth.jwks_url"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Good where it is meant.
    Note,
    /// Dangerous, or without effect.
    Warning,
}

/// One thing to know, in a sentence for a person to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advice {
    pub severity: Severity,
    pub text: String,
}

impl Advice {
    pub fn note(text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            text: text.into(),
        }
    }

    pub fn warning(text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            text: text.into(),
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.text)
    }
}

impl Config {
    /// Looks names of hosts up where `listen` and `admin_listen` have some, and nothing else.
    pub fn advice(&self, origins: &Origins) -> Vec<Advice> {
        let mut advice = Vec::new();
        advice.extend(on_admin_listen(&self.admin_listen));
        advice.extend(on_listen(self));
        advice.extend(on_trusted_proxies(self));
        advice.extend(on_heartbeat(self.heartbeat.0));
        advice.extend(on_grants(&self.auth));
        advice.extend(on_origins(&self.auth.allowed_origins));
        let urls = [
            ("auth.jwks_url", &self.auth.jwks_url),
            ("auth.hook.url", &self.auth.hook.url),
        ];
        advice.extend(
            urls.iter()
                .filter_map(|(key, url)| on_url(key, url.as_deref()?)),
        );
        advice.extend(on_engine(self.bus.engine, origins));
        if self.bus.engine == EngineKind::Redis {
            let redis = &self.bus.redis;
            let urls = redis.url.iter().chain(&redis.sentinels.0);
            advice.extend(urls.filter_map(on_redis).next());
        }
        if self.bus.engine == EngineKind::Nats {
            advice.extend(self.bus.nats.url.as_ref().and_then(on_nats));
        }
        advice.extend(
            NEEDS
                .iter()
                .filter_map(|(keys, need)| on_missing(keys, need, origins)),
        );
        advice
    }
}

fn on_admin_listen(address: &str) -> Option<Advice> {
    let outside = addresses(address)?.find(|address| !address.ip().is_loopback())?;
    Some(Advice::warning(format!(
        "admin_listen = {outside} can be reached from other machines, and whoever reaches it can \
         end any client's access: keep it on 127.0.0.1, or where only operators get to"
    )))
}

fn on_listen(config: &Config) -> Option<Advice> {
    let outside = addresses(&config.listen)?.find(|address| !address.ip().is_loopback())?;
    config.tls.cert.is_none().then(|| {
        Advice::note(format!(
            "listen = {outside} speaks clear text to other machines: good behind a proxy that \
             speaks TLS, else set tls.cert and tls.key"
        ))
    })
}

fn addresses(address: &str) -> Option<impl Iterator<Item = SocketAddr>> {
    address.to_socket_addrs().ok()
}

fn on_trusted_proxies(config: &Config) -> Option<Advice> {
    let networks = &config.trusted_proxies.0;
    let everyone = networks
        .iter()
        .find(|network| network.0.prefix_len() == 0)?;
    Some(Advice::warning(format!(
        "trusted_proxies has {}, which is everyone: any client can say that it is at any address, \
         and limits by address hold nobody. Name only your proxies",
        everyone.0
    )))
}

fn on_heartbeat(heartbeat: Duration) -> Option<Advice> {
    (heartbeat >= PROXY_PATIENCE).then(|| {
        Advice::warning(
            "heartbeat is 60s or more: most proxies cut a stream that is quiet for so long",
        )
    })
}

fn on_grants(auth: &AuthConfig) -> Vec<Advice> {
    [
        ("auth.default_subscribe", "read", &auth.default_subscribe),
        ("auth.default_publish", "publish", &auth.default_publish),
    ]
    .into_iter()
    .filter(|(_, _, grants)| grants.0.iter().any(|grant| grant == "**"))
    .map(|(key, verb, _)| {
        Advice::warning(format!(
            "{key} has \"**\": whoever has a token without grants of its own may {verb} everything"
        ))
    })
    .collect()
}

fn on_origins(origins: &List<String>) -> Option<Advice> {
    origins.0.iter().any(|origin| origin == "null").then(|| {
        Advice::warning(
            "auth.allowed_origins has \"null\", which any website can send, from a sandboxed frame",
        )
    })
}

/// What comes over this URL decides who may do what.
fn on_url(key: &str, url: &str) -> Option<Advice> {
    let url = url::Url::parse(url).ok()?;
    (url.scheme() == "http" && !is_loopback(url.host()?)).then(|| {
        Advice::note(format!(
            "{key} is asked in clear text, and whoever sits in between decides who gets in: good \
             on a network of your own, else use https"
        ))
    })
}

fn is_loopback(host: url::Host<&str>) -> bool {
    match host {
        url::Host::Domain(name) => match name.parse::<std::net::IpAddr>() {
            // Of a scheme that it does not know the parser takes no address out.
            Ok(address) => address.is_loopback(),
            Err(_) => name == "localhost" || name.ends_with(".localhost"),
        },
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    }
}

/// Whoever sits in between reads and writes the log.
fn on_redis(url: &RedisUrl) -> Option<Advice> {
    let is_plain = url.url().scheme() == "redis" && !is_loopback(url.url().host()?);
    is_plain.then(|| {
        Advice::note(
            "bus.redis is spoken to in clear text, and whoever sits in between reads and writes \
             the log: good on a network of your own, else use rediss",
        )
    })
}

fn on_nats(urls: &NatsUrls) -> Option<Advice> {
    let is_plain = |url: &Url| url.scheme() == "nats" && !url.host().is_some_and(is_loopback);
    urls.urls().iter().any(is_plain).then(|| {
        Advice::note(
            "bus.nats.url does not ask for TLS, and where NATS does not either whoever sits in \
             between reads and writes the log: good on a network of your own, else use tls",
        )
    })
}

fn on_engine(engine: EngineKind, origins: &Origins) -> Vec<Advice> {
    let sections = [
        ("bus.disk", "\"disk\"", &[EngineKind::Disk][..]),
        ("bus.redis", "\"redis\"", &[EngineKind::Redis]),
        ("bus.nats", "\"nats\"", &[EngineKind::Nats]),
        (
            "bus.namespace",
            "\"redis\" or \"nats\"",
            &[EngineKind::Redis, EngineKind::Nats],
        ),
    ];
    let idle = sections
        .into_iter()
        .filter(|(_, _, needed)| !needed.contains(&engine));
    idle.filter_map(|(keys, names, _)| {
        let idle = idle_keys(keys, origins)?;
        Some(Advice::warning(format!(
            "{idle} without bus.engine = {names}"
        )))
    })
    .collect()
}

fn on_missing(keys: &str, need: &str, origins: &Origins) -> Option<Advice> {
    if origins.is_set(need) {
        return None;
    }
    let idle = idle_keys(keys, origins)?;
    Some(Advice::warning(format!("{idle} without {need}")))
}

/// The key, or those of the section, that are set, and that they have no effect.
fn idle_keys(keys: &str, origins: &Origins) -> Option<String> {
    let mut idle: Vec<_> = origins.set_in(keys).collect();
    if origins.is_set(keys) {
        idle.push(keys);
    }
    let verb = match idle.as_slice() {
        [] => return None,
        [_] => "has",
        _ => "have",
    };
    Some(format!("{} {verb} no effect", idle.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice(toml: &str) -> Vec<Advice> {
        let origins = Origins::of(toml, std::iter::empty(), std::iter::empty());
        Config::from_toml(toml).unwrap().advice(&origins)
    }

    #[test]
    fn what_is_dangerous_or_without_effect_is_told_once() {
        let warned = [
            ("admin_listen = '0.0.0.0:8081'", "admin_listen"),
            ("admin_listen = '[::]:8081'", "admin_listen"),
            ("admin_listen = '10.1.2.3:8081'", "admin_listen"),
            ("trusted_proxies = ['10.0.0.0/8', '0.0.0.0/0']", "0.0.0.0/0"),
            ("trusted_proxies = ['::/0']", "::/0"),
            ("heartbeat = '60s'", "heartbeat"),
            ("auth.default_subscribe = ['**']", "may read everything"),
            (
                "auth.default_publish = ['a', '**']",
                "may publish everything",
            ),
            ("auth.allowed_origins = ['null']", "null"),
            (
                "auth.hook.timeout = '1s'\nauth.hook.cache = '1s'",
                "auth.hook.cache, auth.hook.timeout have no effect without auth.hook.url",
            ),
            (
                "telemetry.sample_ratio = 0.5",
                "telemetry.sample_ratio has no effect without telemetry.otlp_endpoint",
            ),
            (
                "auth.jwks_refresh = '1m'",
                "auth.jwks_refresh has no effect without auth.jwks_url",
            ),
            (
                "bus.redis.url = 'redis://127.0.0.1'",
                "bus.redis.url has no effect without bus.engine = \"redis\"",
            ),
            (
                "bus.disk.path = '/x'\nbus.disk.memory = '1MiB'",
                "bus.disk.memory, bus.disk.path have no effect without bus.engine = \"disk\"",
            ),
            (
                "bus.namespace = 'shop'",
                "bus.namespace has no effect without bus.engine = \"redis\" or \"nats\"",
            ),
            (
                "bus.nats.url = 'nats://127.0.0.1'",
                "bus.nats.url has no effect without bus.engine = \"nats\"",
            ),
        ];
        for (toml, part) in warned {
            let told = advice(toml);
            assert_eq!(told.len(), 1, "{toml}: {told:?}");
            assert_eq!(told[0].severity, Severity::Warning, "{toml}");
            assert!(told[0].text.contains(part), "{part} in {told:?}");
        }
    }

    #[test]
    fn clear_text_to_other_machines_is_worth_a_note() {
        for (toml, part) in [
            ("listen = '0.0.0.0:80'", "tls.cert"),
            ("listen = '192.0.2.1:80'", "tls.cert"),
            ("auth.jwks_url = 'http://keys.example/x'", "auth.jwks_url"),
            (
                "bus.engine = 'redis'\nbus.redis.url = 'redis://10.0.0.5'",
                "rediss",
            ),
            (
                "bus.engine = 'nats'\nbus.nats.url = 'nats://127.0.0.1,nats://10.0.0.5'",
                "bus.nats.url",
            ),
        ] {
            let told = advice(toml);
            assert_eq!(told.len(), 1, "{toml}: {told:?}");
            assert_eq!(told[0].severity, Severity::Note);
            assert!(told[0].text.contains(part), "{told:?}");
        }
        let tls = "listen = '0.0.0.0:443'\ntls.cert = 'a'\ntls.key = 'b'";
        assert_eq!(advice(tls), []);
    }

    #[test]
    fn of_what_is_good_nothing_is_said() {
        for toml in [
            "",
            "listen = '127.0.0.1:1'\nadmin_listen = '[::1]:2'",
            "trusted_proxies = ['127.0.0.1', '10.0.0.0/8']",
            "auth.jwks_url = 'https://keys.example/x'\nauth.jwks_refresh = '1m'",
            "auth.jwks_url = 'http://localhost:5/x'",
            "auth.jwks_url = 'http://[::1]:5/x'",
            "auth.default_subscribe = ['user:{sub}:**']",
            "bus.engine = 'redis'\nbus.redis.url = 'redis://127.0.0.1'",
            "bus.engine = 'redis'\nbus.redis.url = 'rediss://redis.example'",
            "bus.engine = 'nats'\nbus.nats.url = 'nats://127.0.0.1'\nbus.namespace = 'n'",
            "bus.engine = 'nats'\nbus.nats.url = 'tls://nats.example'",
            "telemetry.otlp_endpoint = 'http://127.0.0.1:4318'\ntelemetry.sample_ratio = 1.0",
        ] {
            assert_eq!(advice(toml), [], "{toml}");
        }
    }
}
