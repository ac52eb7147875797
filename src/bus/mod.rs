//! The node's bus: the retained window of the log, and the shards that fan it out.

mod census;
mod history;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod shard;
mod topic_index;
mod trims;
mod window;

use std::{
    future::Future,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};

pub use census::{
    ConnectionPage, ConnectionQuery, ConnectionRow, Ended, MOST_TOPICS_SHOWN, TopicPage,
    TopicRange, TopicRow,
};
pub use shard::{SessionHandle, Shard, ShardCommand};
pub use topic_index::TopicIndex;
pub use window::{
    Extent, Fetched, Latest, NoPage, Page, PageLimits, Range, Retention, RewindScan, RewindStep,
    Whereabouts, Window,
};

use crate::{
    auth::Whose,
    engine::{
        Appended, Engine, EngineError, EngineFuture, IdempotencyKey, LogServer, StoredEvent, Tail,
    },
    event::{Cursor, Draft, Event, LogId},
    metrics::EngineState,
    protocol::{ErrorCode, LimitKind, Refusal, Start},
    sync::RwLock,
    topic::{Tenant, Topic},
};

/// How long a cursor that the log has reached, and this node has not, is waited for.
const TAIL_WAIT: Duration = Duration::from_secs(5);

/// Whoever used up its idempotency keys may try again after this time: keys end one by one.
const KEYS_RETRY: Duration = Duration::from_secs(1);

/// Topics that are looked at under the window's lock at a time.
const TOPICS_A_PAGE: usize = 256;

/// Commands that a shard has not taken yet; they are rare, and a full queue makes the sender wait.
const SHARD_COMMANDS: usize = 16;

/// One per node, shared by all workers.
pub struct Bus {
    engine: Arc<dyn Engine>,
    feed: Arc<Feed>,
    shards: RwLock<Vec<mpsc::Sender<ShardCommand>>>,
}

/// What shards answered.
#[derive(Debug)]
pub struct Answers<T> {
    pub answers: Vec<T>,
    /// How many shards did not answer in time.
    pub silent: usize,
}

impl Answers<Ended> {
    /// What all of them ended.
    pub fn total(&self) -> Ended {
        let mut total = Ended::default();
        for of_shard in &self.answers {
            total.merge(of_shard);
        }
        total
    }
}

impl<T> Answers<T> {
    async fn collect(mut coming: mpsc::Receiver<T>, asked: usize, deadline: Duration) -> Self {
        let mut answers = Vec::with_capacity(asked);
        let all = async {
            while let Some(answer) = coming.recv().await {
                answers.push(answer);
            }
        };
        // Who has not answered by then is counted below.
        let _ = tokio::time::timeout(deadline, all).await;
        Self {
            silent: asked.saturating_sub(answers.len()),
            answers,
        }
    }
}

/// Hears what the nodes of the log tell each other, on the engine's own thread: nothing in here may wait.
pub trait Hears: Send + Sync {
    fn hear(&self, note: &[u8]);

    /// An event of the log, before anyone else sees it.
    fn read(&self, event: &Event);

    /// A part of the log passed by unseen, and what was told in it.
    fn missed(&self);
}

/// What the engine's tail writes to.
pub(crate) struct Feed {
    /// What is told before there is one is lost: it has to ask.
    listener: OnceLock<Arc<dyn Hears>>,
    /// `None` until the engine has begun.
    log: RwLock<Option<LogId>>,
    window: Window,
    /// The newest sequence; its watchers are the shards and whoever waits for a position.
    head: watch::Sender<u64>,
}

impl Feed {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            listener: OnceLock::new(),
            log: RwLock::default(),
            window: Window::new(retention),
            head: watch::Sender::new(0),
        }
    }

    #[cfg(test)]
    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    fn set_log(&self, log: LogId) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = Some(log);
    }

    #[cfg(test)]
    pub(crate) fn is_of_log(&self, cursor: &Cursor) -> bool {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        log.as_ref() == Some(&cursor.log)
    }

    pub(crate) fn cursor(&self, position: u64) -> String {
        let log = self.log.read().unwrap_or_else(PoisonError::into_inner);
        let log = log.as_ref().map_or("", LogId::as_str);
        format!("{log}-{position}")
    }
}

impl Tail for Feed {
    fn begin(&self, log: LogId, position: u64, trims: &[u8]) {
        self.set_log(log);
        self.window.begin_after(position, trims);
        self.head.send_replace(position);
    }

    fn restore(&self, events: Vec<StoredEvent>, until: u64) {
        self.window.restore(events, until);
        self.head.send_replace(until);
    }

    fn restart(&self, log: LogId, position: u64) {
        // The window first: a cursor of the new log never stands for what is in the old window.
        self.window.restart(position);
        self.set_log(log);
        self.head.send_replace(position);
        if let Some(listener) = self.listener.get() {
            listener.missed();
        }
    }

    fn told(&self, note: &[u8]) {
        if let Some(listener) = self.listener.get() {
            listener.hear(note);
        }
    }

    fn advance(&self, position: u64) {
        self.window.advance(position);
        self.head.send_replace(self.window.head());
    }

    fn trim(&self, position: u64) {
        self.window.trim_until(position);
    }

    fn earliest(&self) -> u64 {
        self.window.earliest()
    }

    fn trims(&self) -> Vec<u8> {
        self.window.trims()
    }

    fn extend(&self, events: Vec<Arc<Event>>) {
        let Some(newest) = events.last().map(|event| event.sequence) else {
            return;
        };
        if let Some(listener) = self.listener.get() {
            for event in &events {
                listener.read(event);
            }
        }
        self.window.extend(events);
        self.head.send_replace(newest);
    }
}

/// Where a subscription starts, once the engine has been asked what it must be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartPoint {
    Now,
    Earliest,
    /// So many events of each topic come first.
    Rewind(usize),
    /// After a position of this log; with the cursor as the client wrote it.
    After {
        position: u64,
        asked: String,
    },
    /// The log has no such position.
    Unknown {
        asked: String,
    },
}

impl StartPoint {
    /// Whether events of the log come before live ones, if there are any.
    pub fn is_in_the_past(&self) -> bool {
        match self {
            Self::Earliest | Self::Rewind(_) | Self::After { .. } => true,
            Self::Now | Self::Unknown { .. } => false,
        }
    }
}

impl Bus {
    /// Builds the bus around the engine that `engine` makes for its tail.
    ///
    /// # Errors
    /// The engine's.
    pub fn open<E>(
        retention: Retention,
        engine: impl FnOnce(Arc<dyn Tail>) -> Result<Arc<dyn Engine>, E>,
    ) -> Result<Arc<Self>, E> {
        let feed = Arc::new(Feed::new(retention));
        let engine = engine(Arc::clone(&feed) as Arc<dyn Tail>)?;
        Ok(Arc::new(Self {
            engine,
            feed,
            shards: RwLock::default(),
        }))
    }

    pub fn window(&self) -> &Window {
        &self.feed.window
    }

    /// The text of a position's cursor.
    pub fn cursor(&self, position: u64) -> String {
        self.feed.cursor(position)
    }

    /// How the engine is.
    pub fn engine_condition(&self) -> EngineState {
        self.engine.condition()
    }

    /// The server that has the log, see [`Engine::server`].
    pub fn log_server(&self) -> Option<LogServer> {
        self.engine.server()
    }

    /// What an acknowledged publish outlives, see [`Engine::durability`].
    pub fn durability(&self) -> Option<&'static str> {
        self.engine.durability()
    }

    /// Ends the run of the log, see [`Engine::close`].
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub async fn close_log(&self) -> Result<(), EngineError> {
        self.engine.close().await
    }

    /// Reads events back that the window knows of and does not hold, see [`Engine::read`].
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub async fn read_back(&self, sequences: Vec<u64>) -> Result<Fetched, EngineError> {
        self.engine.read(sequences).await.map(Fetched::new)
    }

    /// Appends to the log, in the order of these calls, and waits until this node's readers can see what
    /// was appended, or for some seconds: what the log has is accepted, whenever this node catches up
    /// with it.
    ///
    /// # Errors
    /// `conflict` or `unavailable`, see [`EngineError`].
    pub fn publish(
        self: &Arc<Self>,
        drafts: Vec<Draft>,
        idempotency: Option<IdempotencyKey>,
    ) -> impl Future<Output = Result<Appended, Refusal>> + Send + 'static {
        let appending = self.engine.append(drafts, idempotency);
        let bus = Arc::clone(self);
        async move {
            let appended = appending.await?;
            // To refuse it now would have the publisher send it again.
            let _ = bus.wait_for(appended.last_sequence()).await;
            Ok(appended)
        }
    }

    /// Settles where a subscription starts.
    ///
    /// # Errors
    /// `unavailable` where the engine does not answer, or this node does not catch up with it.
    pub async fn start(&self, start: &Start) -> Result<StartPoint, Refusal> {
        match start {
            Start::Now => Ok(StartPoint::Now),
            Start::Earliest => Ok(StartPoint::Earliest),
            Start::Rewind(count) => Ok(StartPoint::Rewind(*count)),
            Start::After(cursor) => self.resume(cursor).await,
        }
    }

    async fn resume(&self, cursor: &Cursor) -> Result<StartPoint, Refusal> {
        let asked = cursor.to_string();
        if !self.engine.reached(cursor).await? {
            return Ok(StartPoint::Unknown { asked });
        }
        self.wait_for(cursor.sequence).await?;
        Ok(StartPoint::After {
            position: cursor.sequence,
            asked,
        })
    }

    async fn wait_for(&self, position: u64) -> Result<(), Refusal> {
        if self.window().head() >= position {
            return Ok(());
        }
        let mut head = self.feed.head.subscribe();
        let reached = head.wait_for(|head| *head >= position);
        match tokio::time::timeout(TAIL_WAIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Refusal::unavailable(
                "this node has not caught up with the log: try again",
            )),
        }
    }

    /// The topics with retained events that begin with a prefix, of all tenants.
    pub fn topics_under(&self, prefix: &str) -> Vec<(Tenant, Topic)> {
        let mut topics = Vec::new();
        loop {
            let after = topics.last().map(|(tenant, topic): &(Tenant, Topic)| {
                (tenant.clone(), topic.as_str().to_owned())
            });
            let range = TopicRange::new(None, prefix.to_owned(), after);
            let page = self.window().topics(&range, TOPICS_A_PAGE);
            if page.is_empty() {
                return topics;
            }
            topics.extend(page.into_iter().map(|(tenant, topic, _)| (tenant, topic)));
        }
    }

    /// These events, rising, as far as they are still retained; read back where they have to be.
    ///
    /// # Errors
    /// As [`Bus::read_back`].
    pub async fn events(&self, sequences: &[u64]) -> Result<Vec<Arc<Event>>, EngineError> {
        let mut events = Vec::new();
        let mut stored = Vec::new();
        for sequence in sequences {
            match self.window().event(*sequence) {
                Whereabouts::Here(event) => events.push(event),
                Whereabouts::Stored => stored.push(*sequence),
                Whereabouts::Gone => {}
            }
        }
        if !stored.is_empty() {
            events.extend(self.engine.read(stored).await?);
        }
        events.sort_unstable_by_key(|event| event.sequence);
        Ok(events)
    }

    /// Whether other nodes may have the same log.
    pub fn is_shared(&self) -> bool {
        self.engine.is_shared()
    }

    /// Whether the log began with this node, so that nobody has told anything before.
    pub fn began_log(&self) -> bool {
        self.engine.began()
    }

    /// Tells all nodes something, see [`Engine::tell`].
    ///
    /// # Errors
    /// As [`Engine::tell`].
    pub fn tell_nodes(&self, note: Vec<u8>) -> EngineFuture<'_, ()> {
        self.engine.tell(note)
    }

    /// Sets who hears what the nodes tell; only the first one counts.
    pub fn set_listener(&self, listener: Arc<dyn Hears>) {
        // Nobody else's is replaced.
        let _ = self.feed.listener.set(listener);
    }

    /// Ends the sessions of a subject or a token on this node; what workers told of it until the deadline.
    pub async fn end_sessions(&self, whose: &Whose, deadline: Duration) -> Answers<Ended> {
        let end = |reply| ShardCommand::EndSessions(whose.clone(), reply);
        self.tell(deadline, end).await
    }

    /// How many idempotency keys the engine remembers.
    pub fn remembered_keys(&self) -> usize {
        self.engine.remembered_keys()
    }

    /// Tells every shard, in turn.
    pub async fn command(&self, command: ShardCommand) {
        for shard in self.shards() {
            // A shard that is gone has no sessions left to tell.
            let _ = shard.send(command.clone()).await;
        }
    }

    /// Asks every shard, and collects their answers until all have come or `deadline` has passed.
    /// `command` puts the question around the way to answer. A shard that has too many commands
    /// waiting is not asked, and counts as one that did not answer.
    pub async fn ask<T>(
        &self,
        deadline: Duration,
        command: impl Fn(mpsc::Sender<T>) -> ShardCommand,
    ) -> Answers<T> {
        let shards = self.shards();
        let (reply, coming) = mpsc::channel(shards.len().max(1));
        let asked = shards.iter().filter(|shard| {
            let sent = shard.try_send(command(reply.clone()));
            // One that is gone has nothing to tell.
            !matches!(sent, Err(TrySendError::Closed(_)))
        });
        let asked = asked.count();
        drop(reply);
        Answers::collect(coming, asked, deadline).await
    }

    /// As [`Bus::ask`], but every shard gets the command, however long it takes to take it.
    pub async fn tell<T: Send + 'static>(
        &self,
        deadline: Duration,
        command: impl Fn(mpsc::Sender<T>) -> ShardCommand,
    ) -> Answers<T> {
        let shards = self.shards();
        let (reply, coming) = mpsc::channel(shards.len().max(1));
        let mut asked = 0;
        for shard in shards {
            let command = command(reply.clone());
            match shard.try_send(command) {
                Ok(()) => asked += 1,
                Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(command)) => {
                    asked += 1;
                    // Also where whoever asked stops waiting.
                    tokio::spawn(async move { shard.send(command).await });
                }
            }
        }
        drop(reply);
        Answers::collect(coming, asked, deadline).await
    }

    fn shards(&self) -> Vec<mpsc::Sender<ShardCommand>> {
        self.shards
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn join(&self) -> (watch::Receiver<u64>, mpsc::Receiver<ShardCommand>) {
        let (sender, receiver) = mpsc::channel(SHARD_COMMANDS);
        self.shards
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sender);
        (self.feed.head.subscribe(), receiver)
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Conflict => Self::new(ErrorCode::Conflict, error.to_string()),
            EngineError::KeysFull => {
                Self::unavailable(error.to_string()).over(LimitKind::IdempotencyKeys)
            }
            EngineError::SubjectKeysFull => Self::new(ErrorCode::RateLimited, error.to_string())
                .over(LimitKind::IdempotencyKeys)
                .retry_after(KEYS_RETRY),
            EngineError::TooLarge(reason) => Self::new(ErrorCode::TooLarge, reason),
            EngineError::Unavailable(reason) => Self::unavailable(reason),
        }
    }
}
