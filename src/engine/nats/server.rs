//! The way to NATS, and what is known of the server at its other end.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr,
    jetstream::{
        Context, ErrorCode,
        context::{ContextBuilder, RequestErrorKind},
        stream::LastRawMessageErrorKind,
    },
};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;

/// The oldest version, as major and minor, that does what is needed.
const OLDEST: (i64, i64) = (2, 9);
/// Publishes on their way at a time; more wait for their turn.
const IN_FLIGHT: usize = 2048;
/// Where nobody can be reached: the port that is none.
const NOWHERE: &str = "nats://127.0.0.1:0";
/// How often it is tried whether the other end is there.
const PING: Duration = Duration::from_secs(2);

/// Where NATS is, and who asks.
pub struct Address {
    /// One URL for each server.
    pub urls: Vec<String>,
    pub credentials: Option<PathBuf>,
}

/// Makes connections.
pub struct Server {
    address: Address,
    /// For messages, without a password.
    shown: String,
    timeout: Duration,
}

/// A connection, to one process of a server as long as it lasts.
pub struct Session {
    pub client: Client,
    pub jetstream: Context,
    /// Names the process: another one may not have all that this one had.
    pub server_id: String,
    pub version: String,
    lost: watch::Receiver<bool>,
}

impl Session {
    /// Whether it has ended. What was given to it then may be anywhere.
    pub fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Until it has ended.
    pub async fn lost(&self) {
        let mut lost = self.lost.clone();
        // Nobody is left who could tell where the sender is gone.
        let _ = lost.wait_for(|lost| *lost).await;
    }
}

/// Why NATS is of no use now.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{0}")]
    Connect(String),
    #[error("it does not let this user in ({0})")]
    Denied(String),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    #[error("the connection was cut")]
    Cut,
    #[error("it has no JetStream, or does not allow it to this user")]
    NoJetStream,
    #[error("it is version {0}, and 2.9 or newer is needed")]
    Old(String),
    /// An election, for example.
    #[error("it can not be asked {doing} now ({why})")]
    Busy { doing: &'static str, why: String },
    #[error("it refuses {doing} ({why})")]
    Refused { doing: &'static str, why: String },
    #[error("the stream {stream} is of no use: {why}")]
    Unfit { stream: String, why: String },
    #[error(
        "the log is of format {0}, which a newer version of Tribus wrote: upgrade this one too"
    )]
    Newer(u32),
    #[error("{0} makes no sense")]
    Strange(&'static str),
    #[error("the log changes hands again and again")]
    Contested,
    /// Something did not come that was sent, or the log has changed: it has to be claimed again.
    #[error("the log has to be claimed again")]
    Stale,
}

impl Trouble {
    /// Whether it may be otherwise in a moment: the server is not there, or not ready.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Silent(_)
            | Self::Cut
            | Self::NoJetStream
            | Self::Busy { .. }
            | Self::Stale => true,
            Self::Denied(_)
            | Self::Old(_)
            | Self::Refused { .. }
            | Self::Unfit { .. }
            | Self::Newer(_)
            | Self::Strange(_)
            | Self::Contested => false,
        }
    }

    /// Of a question whose answer is an error.
    pub fn asked(doing: &'static str, error: &(dyn Error + 'static)) -> Self {
        let request = error_in::<async_nats::jetstream::context::RequestError>(error);
        match request.map(async_nats::jetstream::context::RequestError::kind) {
            Some(RequestErrorKind::NoResponders) => return Self::NoJetStream,
            Some(RequestErrorKind::TimedOut) => {
                return Self::Busy {
                    doing,
                    why: told(error),
                };
            }
            _ => {}
        }
        match error_code_in(error) {
            Some(ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER) => Self::Busy {
                doing,
                why: told(error),
            },
            _ => Self::Refused {
                doing,
                why: told(error),
            },
        }
    }
}

/// What JetStream calls an error that it answered with.
pub fn error_code_in(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    error_in::<async_nats::jetstream::Error>(error).map(async_nats::jetstream::Error::error_code)
}

/// An error and what it came from.
pub fn told(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn error_in<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut error = Some(error);
    while let Some(now) = error {
        if let Some(found) = now.downcast_ref() {
            return Some(found);
        }
        error = now.source();
    }
    None
}

impl Server {
    pub fn new(address: Address, shown: String, timeout: Duration) -> Self {
        Self {
            address,
            shown,
            timeout,
        }
    }

    /// Hosts and ports.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A new connection, to the first server that takes it.
    ///
    /// # Errors
    /// Why the last of them is of no use.
    pub async fn connect(&self) -> Result<Arc<Session>, Trouble> {
        let mut trouble = Trouble::Connect("no server is known".to_owned());
        // Whoever is tried first is so by chance, so that nodes spread.
        let first = fastrand::usize(..self.address.urls.len().max(1));
        let (before, from) = self.address.urls.split_at(first);
        for url in from.iter().chain(before) {
            match self.connect_to(url).await {
                Ok(session) => return Ok(Arc::new(session)),
                Err(error) => trouble = error,
            }
        }
        Err(trouble)
    }

    async fn connect_to(&self, url: &str) -> Result<Session, Trouble> {
        let address: ServerAddr = url
            .parse()
            .map_err(|_| Trouble::Connect("its URL can not be used".to_owned()))?;
        let (tell, lost) = watch::channel(false);
        let mut options = ConnectOptions::new()
            .name("tribus")
            .connection_timeout(self.timeout)
            .request_timeout(Some(self.timeout))
            .ping_interval(PING)
            .max_reconnects(1)
            .ignore_discovered_servers()
            .event_callback(move |event| {
                if matches!(event, Event::Disconnected | Event::Closed) {
                    tell.send_replace(true);
                }
                std::future::ready(())
            });
        options = with_login(options, &address);
        if let Some(path) = &self.address.credentials {
            options = options.credentials_file(path).await.map_err(|error| {
                let path = path.display();
                Trouble::Denied(format!("can not read the credentials in {path}: {error}"))
            })?;
        }
        let connecting = tokio::time::timeout(self.timeout, options.connect(address));
        let client = match connecting.await {
            Ok(client) => client.map_err(trouble_of)?,
            Err(_) => return Err(Trouble::Silent(self.timeout)),
        };
        never_again(&client).await?;
        self.open(client, lost)
    }

    fn open(&self, client: Client, lost: watch::Receiver<bool>) -> Result<Session, Trouble> {
        let info = client.server_info();
        if !client.is_server_compatible(OLDEST.0, OLDEST.1, 0) {
            return Err(Trouble::Old(info.version));
        }
        let jetstream = ContextBuilder::new()
            .timeout(self.timeout)
            .ack_timeout(self.timeout)
            .max_ack_inflight(IN_FLIGHT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Ok(Session {
            client,
            jetstream,
            server_id: info.server_id,
            version: info.version,
            lost,
        })
    }
}

/// Has the client end with its connection, which is made anew with everything that belongs to it. By
/// itself the client would come back once, and send what waits to a server whose log was not claimed.
async fn never_again(client: &Client) -> Result<(), Trouble> {
    let pool = client.set_server_pool(NOWHERE).await;
    pool.map_err(|_| Trouble::Cut)
}

/// With what stands in the URL: a user and a password, or a token alone.
fn with_login(options: ConnectOptions, address: &ServerAddr) -> ConnectOptions {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match (address.username(), address.password()) {
        (Some(user), Some(password)) => options.user_and_password(decoded(user), decoded(password)),
        (Some(token), None) => options.token(decoded(token)),
        (None, _) => options,
    }
}

fn trouble_of(error: ConnectError) -> Trouble {
    let why = told(&error);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Trouble::Denied(why)
        }
        _ => Trouble::Connect(why),
    }
}

/// Whether a message is just not there.
pub fn is_missing(kind: &LastRawMessageErrorKind) -> bool {
    match kind {
        LastRawMessageErrorKind::NoMessageFound => true,
        LastRawMessageErrorKind::JetStream(error) => {
            error.error_code() == ErrorCode::NO_MESSAGE_FOUND
        }
        _ => false,
    }
}
