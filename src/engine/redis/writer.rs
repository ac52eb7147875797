//! The one task that appends: takes all publishes that wait, and appends them with one script.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use redis::Value;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{
    Backoff, SERVER,
    namespace::{Namespace, hex},
    reply::{list, number, strange, text},
    request::{Answer, Waiting},
    script::{APPEND, claim},
    server::{Connection, Server, Trouble},
    view::View,
};
use crate::{
    engine::{
        Appended, EngineError, IdempotencyLimits,
        idempotency::{IdempotencyWindow, KEY_LIFETIME},
        remote::{Appending, not_sent, unknown},
    },
    event::{Cursor, LogId},
};

/// Events and bytes that one call takes: enough that the way there is cheap for each of them, few
/// enough that Redis does nothing else for a millisecond or two only.
const GROUP_EVENTS: usize = 1024;
const GROUP_BYTES: usize = 1 << 20;
/// How often a connection that is idle is tried, so that one that is dead is noticed before
/// somebody publishes.
const PROBE: Duration = Duration::from_secs(2);
/// How often one group may find that the log has to be claimed again.
const CLAIMS: usize = 4;

/// The writer's task.
pub struct Writer {
    pub server: Arc<Server>,
    pub namespace: Arc<Namespace>,
    pub view: Arc<View>,
    incoming: mpsc::UnboundedReceiver<Waiting>,
    /// Of this node only, for its limits: what is a duplicate is for Redis to say.
    keys: IdempotencyWindow,
}

/// The log as it was claimed on a connection.
struct Session {
    connection: Connection,
    log: LogId,
}

/// What Redis did with a group.
enum Done {
    /// One answer for each publish.
    All(Vec<Answer>),
    /// Nothing: the log has to be claimed again.
    Stale,
}

impl Writer {
    pub fn new(
        server: &Arc<Server>,
        namespace: &Arc<Namespace>,
        view: &Arc<View>,
        incoming: mpsc::UnboundedReceiver<Waiting>,
        limits: IdempotencyLimits,
    ) -> Self {
        Self {
            server: Arc::clone(server),
            namespace: Arc::clone(namespace),
            view: Arc::clone(view),
            incoming,
            keys: IdempotencyWindow::new(limits),
        }
    }

    /// Appends until the engine is gone.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        while !self.incoming.is_closed() {
            let trouble = match self.connect().await {
                Ok(mut session) => {
                    backoff.reset();
                    match self.serve(&mut session).await {
                        Ok(()) => return,
                        Err(trouble) => trouble,
                    }
                }
                Err(trouble) => trouble,
            };
            self.view.health.can_not_append(&trouble);
            backoff.wait().await;
        }
    }

    async fn connect(&self) -> Result<Session, Trouble> {
        let mut connection = self.server.connect().await?;
        let log = self.claim(&mut connection).await?;
        self.view.health.can_append();
        Ok(Session { connection, log })
    }

    async fn claim(&self, connection: &mut Connection) -> Result<LogId, Trouble> {
        let claim = claim(connection, &self.namespace, &self.view.witness(), false).await?;
        self.view.claimed(&claim, &connection.facts);
        Ok(claim.log)
    }

    /// Ends well where nobody is left who could publish.
    async fn serve(&mut self, session: &mut Session) -> Result<(), Trouble> {
        let mut probe = tokio::time::interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let first = tokio::select! {
                first = self.incoming.recv() => match first {
                    Some(first) => Some(first),
                    None => return Ok(()),
                },
                _ = probe.tick() => None,
            };
            let group = self.gather(first);
            self.append(session, group).await?;
        }
    }

    /// Takes all publishes that wait, within bounds.
    fn gather(&mut self, first: Option<Waiting>) -> Vec<Waiting> {
        let mut room = (GROUP_EVENTS, GROUP_BYTES);
        let mut group = Vec::new();
        let mut next = first;
        while let Some(waiting) = next.take() {
            if waiting.send()
                && let Some(waiting) = self.admit(waiting)
            {
                room.0 = room.0.saturating_sub(waiting.request.events.len());
                room.1 = room.1.saturating_sub(waiting.request.bytes());
                group.push(waiting);
            }
            if room.0 > 0 && room.1 > 0 {
                next = self.incoming.try_recv().ok();
            }
        }
        let keys = self.keys.len(Instant::now());
        self.view.health.keys.store(keys, Ordering::Relaxed);
        group
    }

    /// Refuses a key that there is no place for.
    fn admit(&mut self, waiting: Waiting) -> Option<Waiting> {
        let key = waiting.request.key.as_ref();
        // What a backend put into Redis is there already.
        let Some(key) = key.filter(|_| waiting.request.entry.is_none()) else {
            return Some(waiting);
        };
        let now = Instant::now();
        let taken_on = self.keys.take_on(key, now);
        match taken_on {
            Ok(()) => Some(waiting),
            Err(error) => {
                waiting.answer(Err(error));
                None
            }
        }
    }

    async fn append(&self, session: &mut Session, group: Vec<Waiting>) -> Result<(), Trouble> {
        let trouble = match self.try_to_append(session, &group).await {
            Ok(answers) => {
                self.view.health.can_append();
                tell(group, answers);
                return Ok(());
            }
            Err(trouble) => trouble,
        };
        self.view
            .health
            .write_failures
            .fetch_add(1, Ordering::Relaxed);
        let error = if trouble.is_open() {
            unknown(SERVER)
        } else {
            not_sent(&format!("Redis does not take it ({trouble})"))
        };
        tell(group, std::iter::repeat_with(|| Err(error.clone())));
        if trouble.is_refusal() {
            self.view.health.can_not_append(&trouble);
            return Ok(());
        }
        Err(trouble)
    }

    async fn try_to_append(
        &self,
        session: &mut Session,
        group: &[Waiting],
    ) -> Result<Vec<Answer>, Trouble> {
        for _ in 0..CLAIMS {
            match self.call(session, group).await? {
                Done::All(answers) => return Ok(answers),
                Done::Stale => session.log = self.claim(&mut session.connection).await?,
            }
        }
        Err(Trouble::Contested)
    }

    async fn call(&self, session: &mut Session, group: &[Waiting]) -> Result<Done, Trouble> {
        let mut call = APPEND.prepare_invoke();
        let names = &self.namespace;
        call.key(&names.log).key(&names.meta).key(&names.ingest);
        call.arg(&session.connection.facts.identity)
            .arg(session.log.as_str())
            .arg(KEY_LIFETIME.as_millis() as u64);
        for Waiting { request, .. } in group {
            call.arg(request.entry.as_deref().unwrap_or_default());
            match &request.key {
                Some(key) => {
                    call.key(names.key(&key.scoped)).arg(hex(&key.request));
                }
                None => {
                    call.arg("");
                }
            }
            call.arg(request.events.len());
            for event in &request.events {
                call.arg(event.kind).arg(&event.record).arg(&event.trace);
            }
        }
        let answer: Value = call.invoke_async(&mut session.connection.link).await?;
        // One without publishes only tries the connection.
        let commits = u64::from(!group.is_empty());
        self.view
            .health
            .commits
            .fetch_add(commits, Ordering::Relaxed);
        let done = parse(answer, group.len()).ok_or_else(strange("the answer to a publish"))?;
        if let Done::All(answers) = &done {
            for appended in answers.iter().flatten().flatten() {
                // A key may be of a log before.
                if appended.first.log == session.log {
                    self.view.saw(&session.log, appended.last_sequence());
                }
            }
        }
        Ok(done)
    }
}

fn tell(group: Vec<Waiting>, answers: impl IntoIterator<Item = Answer>) {
    for (waiting, answer) in group.into_iter().zip(answers) {
        waiting.answer(answer);
    }
}

fn parse(answer: Value, count: usize) -> Option<Done> {
    let mut words = list(answer)?.into_iter();
    match text(&words.next()?)? {
        "stale" => return Some(Done::Stale),
        "done" => {}
        _ => return None,
    }
    let words: Vec<Value> = words.collect();
    let answers: Option<Vec<Answer>> = words.chunks_exact(4).map(parse_one).collect();
    answers
        .filter(|answers| answers.len() == count)
        .map(Done::All)
}

fn parse_one(words: &[Value]) -> Option<Answer> {
    let [outcome, log, first, count] = words else {
        return None;
    };
    let appended = |duplicate| {
        Some(Appended {
            first: Cursor::new(LogId::parse(text(log)?).ok()?, number(first)?),
            count: number(count)?,
            duplicate,
        })
    };
    Some(match text(outcome)? {
        "new" => Ok(Some(appended(false)?)),
        "known" => Ok(Some(appended(true)?)),
        "conflict" => Err(EngineError::Conflict),
        "moved" => Ok(None),
        _ => return None,
    })
}
