//! The way to Redis, and what is known of the server at its other end.

use std::{future::Future, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind,
    TlsMode,
    aio::MultiplexedConnection,
    sentinel::{Sentinel, SentinelNodeConnectionInfo},
};

/// The oldest major version whose streams and scripts do what is needed.
const OLDEST: u32 = 7;

/// Where Redis is.
#[derive(Clone)]
pub enum Address {
    /// A URL.
    Direct(String),
    /// Whoever is the master now, as Sentinels tell.
    Sentinels {
        sentinels: Vec<String>,
        master: String,
        /// A URL of which user, password, database and TLS count.
        login: Option<String>,
    },
}

/// Makes connections.
pub struct Server {
    address: Address,
    /// For messages, without a password.
    shown: String,
    timeout: Duration,
}

/// A connection, to one process of a server as long as it lasts.
#[derive(Clone)]
pub struct Connection {
    pub link: MultiplexedConnection,
    pub facts: Facts,
}

/// What a server told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Names the process: another one may not have all that this one had.
    pub identity: String,
    pub version: String,
    /// What it writes outlives, see `Engine::durability`; `None` where nothing, or where it does
    /// not tell.
    pub durability: Option<&'static str>,
    /// It was a replica, and may never have had the last writes of the master before it.
    pub was_replica: bool,
    /// Why it may remove keys by itself.
    pub eviction: Option<String>,
}

impl Facts {
    /// Whether all that was ever acknowledged is there.
    pub fn has_all(&self) -> bool {
        self.durability == Some("sync") && !self.was_replica
    }
}

/// Why Redis is of no use now.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("it is a replica: writes have to go to its master")]
    Replica,
    #[error("it is version {0}, and 7.0 or newer is needed")]
    Old(String),
    #[error(
        "the log is of format {0}, which a newer version of Tribus wrote: upgrade this one too"
    )]
    Newer(String),
    #[error("{0} makes no sense")]
    Strange(&'static str),
    #[error("the log changes hands again and again: do several servers answer at this address?")]
    Contested,
}

impl Trouble {
    /// Whether the server has said that it did nothing, and may do it another time.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Redis(error) => match error.kind() {
                ErrorKind::Server(kind) => !matches!(
                    kind,
                    ServerErrorKind::ReadOnly
                        | ServerErrorKind::BusyLoading
                        | ServerErrorKind::MasterDown
                ),
                ErrorKind::Extension => true,
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether it may be otherwise in a moment: the server is not there, or not ready.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Redis(error) => matches!(
                error.kind(),
                ErrorKind::Io
                    | ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown)
                    | ErrorKind::MasterNameNotFoundBySentinel
            ),
            Self::Silent(_) | Self::Replica => true,
            Self::Old(_) | Self::Newer(_) | Self::Strange(_) | Self::Contested => false,
        }
    }

    /// Whether the server may have done what it was asked, and did not say so.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Redis(error) => {
                !matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
            }
            Self::Silent(_) | Self::Strange(_) => true,
            Self::Replica | Self::Old(_) | Self::Newer(_) | Self::Contested => false,
        }
    }
}

impl Server {
    pub fn new(address: Address, shown: String, timeout: Duration) -> Self {
        Self {
            address,
            shown,
            timeout,
        }
    }

    /// Host and port, or the name of the master.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// A connection for questions that are answered at once.
    ///
    /// # Errors
    /// Where there is no master of a version that will do.
    pub async fn connect(&self) -> Result<Connection, Trouble> {
        self.connect_for(self.timeout).await
    }

    /// A connection whose answers may take so long.
    ///
    /// # Errors
    /// As [`Server::connect`].
    pub async fn connect_for(&self, patience: Duration) -> Result<Connection, Trouble> {
        within(self.timeout, self.open(patience)).await
    }

    async fn open(&self, patience: Duration) -> Result<Connection, Trouble> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(patience));
        let client = self.client().await?;
        let mut link = client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let facts = ask(&mut link).await?;
        Ok(Connection { link, facts })
    }

    async fn client(&self) -> Result<Client, Trouble> {
        match &self.address {
            Address::Direct(url) => Ok(Client::open(url.as_str())?),
            Address::Sentinels {
                sentinels,
                master,
                login,
            } => {
                let mut sentinel = Sentinel::build(sentinels.clone())?;
                let login = login.as_deref().map(node_login).transpose()?;
                Ok(sentinel.async_master_for(master, login.as_ref()).await?)
            }
        }
    }
}

/// How to log in at a server whose address Sentinels tell.
fn node_login(url: &str) -> Result<SentinelNodeConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let login = SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(info.redis_settings().clone());
    Ok(if url.starts_with("rediss:") {
        login.set_tls_mode(TlsMode::Secure)
    } else {
        login
    })
}

/// Waits for an answer.
pub async fn within<T, E: Into<Trouble>>(
    time: Duration,
    asked: impl Future<Output = Result<T, E>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(time, asked).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Trouble::Silent(time)),
    }
}

async fn ask(link: &mut MultiplexedConnection) -> Result<Facts, Trouble> {
    let info: String = redis::cmd("INFO")
        .arg(&["server", "replication"])
        .query_async(link)
        .await?;
    let told = |name: &str| -> Result<&str, Trouble> {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .ok_or(Trouble::Strange("what INFO tells"))
    };
    let version = told("redis_version")?;
    let major = version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < OLDEST) {
        return Err(Trouble::Old(version.to_owned()));
    }
    if told("role")? != "master" {
        return Err(Trouble::Replica);
    }
    let settings = Settings::ask(link).await?;
    Ok(Facts {
        identity: told("run_id")?.to_owned(),
        version: version.to_owned(),
        durability: settings.durability(),
        // The id of the replication that it had as a replica, once it is promoted.
        was_replica: told("master_replid2")?.bytes().any(|byte| byte != b'0'),
        eviction: settings.eviction(),
    })
}

/// What a server is configured to, as far as it tells: names and values in turn.
#[derive(Default)]
struct Settings(Vec<String>);

impl Settings {
    const WANTED: [&str; 4] = ["appendonly", "appendfsync", "maxmemory", "maxmemory-policy"];

    async fn ask(link: &mut MultiplexedConnection) -> Result<Self, Trouble> {
        let asked = redis::cmd("CONFIG")
            .arg("GET")
            .arg(&Self::WANTED)
            .to_owned();
        match asked.query_async(link).await {
            Ok(told) => Ok(Self(told)),
            // Hosted servers do not tell.
            Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
                Ok(Self::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut pairs = self.0.chunks_exact(2);
        pairs
            .find(|pair| pair[0] == name)
            .map(|pair| pair[1].as_str())
    }

    fn durability(&self) -> Option<&'static str> {
        match (self.get("appendonly")?, self.get("appendfsync")?) {
            ("yes", "always") => Some("sync"),
            ("yes", _) => Some("os"),
            _ => None,
        }
    }

    fn eviction(&self) -> Option<String> {
        let is_bounded = self.get("maxmemory")? != "0";
        let policy = self.get("maxmemory-policy")?;
        (is_bounded && policy != "noeviction").then(|| policy.to_owned())
    }
}
