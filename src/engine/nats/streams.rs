//! The streams of a log: made where they are missing, and checked where they are there.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    message::StreamMessage,
    stream::{
        Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
    },
};

use super::{
    names::Names,
    server::{Session, Trouble, is_missing},
};
use crate::engine::idempotency::KEY_LIFETIME;

/// By how much the server's own bounds are wider than what nodes retain, who trim more exactly.
const SLACK: u32 = 2;
const SLACK_BYTES: i64 = 64 << 20;

/// What a log's streams are made with.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub replicas: usize,
    /// What a node retains.
    pub bytes: u64,
    pub age: Option<Duration>,
}

/// What a server told of the log's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub version: String,
    pub replicas: usize,
    pub is_in_memory: bool,
    /// The name of the cluster, if it is one.
    pub cluster: Option<String>,
}

impl Facts {
    fn of(session: &Session, info: &Info) -> Self {
        let cluster = info.cluster.as_ref();
        Self {
            version: session.version.clone(),
            replicas: info.config.num_replicas,
            is_in_memory: info.config.storage == StorageType::Memory,
            cluster: cluster.and_then(|cluster| cluster.name.clone()),
        }
    }

    /// Whether a majority has what is acknowledged, so that one server may lose its part.
    pub fn is_replicated(&self) -> bool {
        self.replicas >= 3
    }

    /// See `Engine::durability`.
    pub fn durability(&self) -> Option<&'static str> {
        match self {
            Self {
                is_in_memory: true, ..
            } => None,
            _ if self.is_replicated() => Some("replicated"),
            _ => Some("os"),
        }
    }
}

/// The log's stream as it is.
pub struct Log {
    pub stream: Stream,
    pub info: Info,
    pub facts: Facts,
}

/// # Errors
/// Where the stream can not be had, or is of no use.
pub async fn open_log(session: &Session, names: &Names, bounds: Bounds) -> Result<Log, Trouble> {
    let stream = open(session, log_config(names, bounds)).await?;
    let info = stream.cached_info().clone();
    let facts = Facts::of(session, &info);
    check(&info.config, names).map_err(|why| unfit(&names.log, why))?;
    if let (Some(cluster), false) = (&facts.cluster, facts.is_replicated()) {
        let why = format!(
            "it is on one server of the cluster {cluster:?}, of which nobody can tell whether it \
             was restarted: set bus.nats.replicas = 3, and give a stream that is there as many"
        );
        return Err(unfit(&names.log, why));
    }
    widen(session, &info.config, bounds).await?;
    Ok(Log {
        stream,
        info,
        facts,
    })
}

/// # Errors
/// Where the stream can not be had.
pub async fn open_meta(
    session: &Session,
    names: &Names,
    replicas: usize,
) -> Result<Stream, Trouble> {
    let config = Config {
        name: names.meta.clone(),
        subjects: vec![names.meta_subject.clone(), names.trims_subjects.clone()],
        max_messages_per_subject: 1,
        ..config(replicas)
    };
    open(session, config).await
}

/// # Errors
/// Where the stream can not be had.
pub async fn open_ingest(
    session: &Session,
    names: &Names,
    bounds: Bounds,
) -> Result<Stream, Trouble> {
    let config = Config {
        name: names.ingest.clone(),
        subjects: vec![names.ingest_subject.clone()],
        retention: RetentionPolicy::WorkQueue,
        // Backends are told where more waits than nodes retain, and nothing is dropped.
        discard: DiscardPolicy::New,
        max_bytes: max_bytes(bounds),
        duplicate_window: KEY_LIFETIME,
        ..config(bounds.replicas)
    };
    open(session, config).await
}

async fn open(session: &Session, config: Config) -> Result<Stream, Trouble> {
    match session.jetstream.get_stream(&config.name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(told)
                if told.error_code() == ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(Trouble::asked("to tell of a stream", &error)),
        },
    }
    match session.jetstream.create_stream(config).await {
        Ok(stream) => Ok(stream),
        // Another node has made it at the same time.
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(told)
                if told.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                Err(Trouble::Stale)
            }
            _ => Err(Trouble::asked("to make a stream", &error)),
        },
    }
}

fn config(replicas: usize) -> Config {
    Config {
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: replicas,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..Config::default()
    }
}

fn log_config(names: &Names, bounds: Bounds) -> Config {
    let age = bounds.age.map(|age| (age * SLACK).max(KEY_LIFETIME));
    Config {
        name: names.log.clone(),
        subjects: vec![names.log_subject.clone()],
        max_bytes: max_bytes(bounds),
        max_age: age.unwrap_or_default(),
        duplicate_window: KEY_LIFETIME,
        allow_direct: true,
        ..config(bounds.replicas)
    }
}

fn max_bytes(bounds: Bounds) -> i64 {
    let retained = i64::try_from(bounds.bytes).unwrap_or(i64::MAX);
    retained
        .saturating_mul(SLACK.into())
        .saturating_add(SLACK_BYTES)
}

/// Has the server keep as much as this node retains, where another one retained less.
async fn widen(session: &Session, there: &Config, bounds: Bounds) -> Result<(), Trouble> {
    let mut wider = there.clone();
    if there.max_bytes >= 0 {
        wider.max_bytes = there.max_bytes.max(max_bytes(bounds));
    }
    if !there.max_age.is_zero() {
        let age = bounds.age.map(|age| (age * SLACK).max(KEY_LIFETIME));
        wider.max_age = age.map_or(Duration::ZERO, |age| age.max(there.max_age));
    }
    if wider == *there {
        return Ok(());
    }
    let updated = session.jetstream.update_stream(wider).await;
    updated.map_err(|error| Trouble::asked("to let the stream have more", &error))?;
    Ok(())
}

/// Whether nothing is in the way of a log.
fn check(config: &Config, names: &Names) -> Result<(), &'static str> {
    if config.subjects != [names.log_subject.as_str()] {
        return Err("it has to have the subject of the log, and no other");
    }
    if config.retention != RetentionPolicy::Limits {
        return Err("its retention has to be `limits`");
    }
    if config.discard != DiscardPolicy::Old {
        return Err("it has to discard old messages, not new ones");
    }
    if config.max_messages_per_subject > 0 {
        return Err("it must have no limit of messages for each subject");
    }
    if config.duplicate_window < KEY_LIFETIME {
        return Err("its duplicate window has to be 10 minutes, as long as keys are remembered");
    }
    if config.deny_purge {
        return Err("it must not deny a purge, by which old messages are let go of");
    }
    let is_fed = config.mirror.is_some() || config.sources.is_some();
    if config.sealed || config.no_ack || is_fed || config.subject_transform.is_some() {
        return Err("it must not be sealed, a mirror, fed by others or without acknowledgements");
    }
    Ok(())
}

fn unfit(stream: &str, why: impl Into<String>) -> Trouble {
    Trouble::Unfit {
        stream: stream.to_owned(),
        why: why.into(),
    }
}

/// A message, as whoever leads the stream has it; `None` where it is not there.
///
/// # Errors
/// Where the server does not tell.
pub async fn message(stream: &Stream, sequence: u64) -> Result<Option<StreamMessage>, Trouble> {
    // None has it, and the server would take it for the question for another one.
    if sequence == 0 {
        return Ok(None);
    }
    found(stream.get_raw_message(sequence).await)
}

/// The last message of a subject; `None` where there is none.
///
/// # Errors
/// Where the server does not tell.
pub async fn last_message(
    stream: &Stream,
    subject: &str,
) -> Result<Option<StreamMessage>, Trouble> {
    found(stream.get_last_raw_message_by_subject(subject).await)
}

fn found(
    answer: Result<StreamMessage, async_nats::jetstream::stream::LastRawMessageError>,
) -> Result<Option<StreamMessage>, Trouble> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if is_missing(&error.kind()) => Ok(None),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::JetStream(told)
                if told.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                Err(Trouble::Stale)
            }
            _ => Err(Trouble::asked("to give a message", &error)),
        },
    }
}
