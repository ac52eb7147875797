//! The sections of the configuration and their keys.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    bus::BusConfig,
    limits::LimitsConfig,
    values::{Filter, List, Network, Size, Span},
};
use crate::auth::{AuthOptions, Secret};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where clients connect. Loopback by default: opening a port to the world is a decision.
    pub listen: String,
    /// Where operators connect; never to be reachable for clients.
    pub admin_listen: String,
    /// The name of this node among those of its log, such as the machine's: clients and the console are
    /// told it. Not told where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Worker threads; one a core where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
    /// Quiet streams get a heartbeat this often: below the 30 to 60 s after which proxies cut.
    pub heartbeat: Span,
    /// Networks whose `X-Forwarded-For` is believed, such as 10.0.0.0/8: the proxies in front of the
    /// gateway, and nobody else.
    pub trusted_proxies: List<Network>,
    pub auth: AuthConfig,
    pub bus: BusConfig,
    pub retention: RetentionConfig,
    pub presence: PresenceConfig,
    pub limits: LimitsConfig,
    pub tls: TlsConfig,
    pub shutdown: ShutdownConfig,
    pub log: LogConfig,
    pub telemetry: TelemetryConfig,
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
    pub public_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks_file: Option<PathBuf>,
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
    pub hook: HookConfig,
}

/// Asks the site's own backend who a client is, where its sessions are opaque cookies or headers.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HookConfig {
    /// Where credentials are posted; the answer is a JSON object of claims. Off where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Request headers that are credentials, such as X-Session or Authorization.
    pub headers: List<String>,
    /// Cookies that are credentials, such as sessionid.
    pub cookies: List<String>,
    /// Sent to the backend as `Authorization: Bearer`, so that it knows who asks.
    #[serde(skip_serializing)]
    pub secret: Option<Secret>,
    /// An answer that takes longer is none: clients wait for it.
    pub timeout: Span,
    /// Calls at once, so that a storm of reconnects does not become one of calls: about what the
    /// backend works on at once. Others wait for their turn, as long as `timeout` at most.
    pub concurrency: usize,
    /// How long an answer is good for other requests: how long a logout takes to count.
    pub cache: Span,
    /// How much longer it is while the backend is down, so that its clients need not notice. `0s`
    /// where a logout has to count even then.
    pub stale: Span,
    /// How long a stream lasts on claims without `exp`, until the backend is asked again.
    pub lifetime: Span,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// The most events retained.
    pub events: usize,
    /// The most that retained events take: in memory, or about as much on the disk.
    pub bytes: Size,
    /// How long an event is retained; without a bound where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
}

/// Certificates for `listen`; with both files given it speaks TLS, HTTP/1 and HTTP/2, and nothing
/// else.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file: the certificate, followed by the intermediate ones. Read again on SIGHUP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file: the certificate's private key. Read again on SIGHUP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

/// Who is on a topic.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PresenceConfig {
    /// Filters of the topics for which that is kept and announced, such as room:*. Off where there is
    /// none.
    pub topics: List<Filter>,
    /// How long a subject counts whose last connection has gone: longer than a change of transport,
    /// or the way from one poll to the next, takes.
    pub grace: Span,
    /// Of these topics, as many as one subject may be on at once at a node, those that it left less than
    /// `grace` ago among them: each is kept on every node, and costs a join and a leave.
    pub topics_per_subject: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// How long the process takes to end at most; clients are told to come back within it.
    pub grace: Span,
    /// Of this, how long the node is unready before it ends connections, so that a load balancer
    /// that asks `/readyz` sends nobody new.
    pub unready: Span,
}

/// OpenTelemetry: spans of publishes and deliveries.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// A collector's OTLP/HTTP address, such as http://127.0.0.1:4318. Off where not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
    /// The share of publishes that are traced, 0 to 1, where the publisher's `traceparent` does not
    /// decide it.
    pub sample_ratio: f64,
    /// `service.name` of the spans.
    pub service_name: String,
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
            node: None,
            workers: None,
            heartbeat: Span(Duration::from_secs(25)),
            trusted_proxies: List::default(),
            auth: AuthConfig::default(),
            bus: BusConfig::default(),
            retention: RetentionConfig::default(),
            presence: PresenceConfig::default(),
            limits: LimitsConfig::default(),
            tls: TlsConfig::default(),
            shutdown: ShutdownConfig::default(),
            log: LogConfig::default(),
            telemetry: TelemetryConfig::default(),
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
            hook: HookConfig::default(),
        }
    }
}

impl Default for HookConfig {
    fn default() -> Self {
        Self {
            url: None,
            headers: List::default(),
            cookies: List::default(),
            secret: None,
            timeout: Span(Duration::from_secs(3)),
            concurrency: 64,
            cache: Span(Duration::from_secs(10)),
            stale: Span(Duration::from_secs(300)),
            lifetime: Span(Duration::from_secs(3600)),
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

impl Default for PresenceConfig {
    fn default() -> Self {
        Self {
            topics: List::default(),
            grace: Span(Duration::from_secs(15)),
            topics_per_subject: 100,
        }
    }
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            grace: Span(Duration::from_secs(10)),
            unready: Span(Duration::ZERO),
        }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            sample_ratio: 0.01,
            service_name: "tribus".to_owned(),
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

impl Config {
    /// What verifies credentials.
    pub fn auth_options(&self) -> AuthOptions {
        let auth = &self.auth;
        AuthOptions {
            hs256_secret: auth.hs256_secret.clone(),
            previous_secrets: auth.previous_secrets.0.clone(),
            public_key_file: auth.public_key_file.clone(),
            jwks_file: auth.jwks_file.clone(),
            jwks_url: auth.jwks_url.clone(),
            jwks_refresh: auth.jwks_refresh.0,
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            default_subscribe: auth.default_subscribe.0.clone(),
            default_publish: auth.default_publish.0.clone(),
            max_token_bytes: self.limits.token_bytes.0,
            hook: auth.hook.options(),
        }
    }
}
