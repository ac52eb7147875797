//! The one thread that writes: takes all publishes that wait, and commits them together.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    log::{DiskLog, Request},
    segment::SegmentError,
};
use crate::{
    engine::{Appended, EngineError},
    event::LogId,
};

/// Publishes that wait for the writer; whoever comes then waits for a place.
const QUEUE: usize = 4096;
/// Events and bytes that one commit takes: enough that a sync is cheap for each of them, few enough
/// that the first does not wait long for the last.
const GROUP_EVENTS: usize = 8192;
const GROUP_BYTES: usize = 4 << 20;
/// How often the writer looks after the log while nothing is published.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Bytes of publishes that wait, or are being written: many times what a disk takes at a time. More are
/// refused.
const WAITING_BYTES: usize = 128 << 20;

type Answer<T> = oneshot::Sender<T>;

pub enum Command {
    Append(Request, Answer<Result<Appended, EngineError>>),
    /// Something of this log can never be read again.
    Lose(LogId, SegmentError, Answer<()>),
    Close(Answer<()>),
}

/// The way to the writer's thread, which ends with this.
pub struct Writer {
    commands: mpsc::Sender<Command>,
    room: Semaphore,
    shown: Arc<Shown>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer shows of the log.
#[derive(Default)]
struct Shown {
    keys: AtomicUsize,
}

impl Writer {
    /// # Errors
    /// Where the operating system gives no thread.
    pub fn start(mut log: DiskLog) -> anyhow::Result<Self> {
        let (commands, incoming) = mpsc::channel(QUEUE);
        let shown = Arc::new(Shown::default());
        shown.update(&mut log);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let shows = Arc::clone(&shown);
        let run = move || runtime.block_on(run(log, incoming, &shows));
        let thread = std::thread::Builder::new()
            .name("tribus-log".to_owned())
            .spawn(run)?;
        Ok(Self {
            commands,
            room: Semaphore::new(WAITING_BYTES),
            shown,
            thread: Mutex::new(Some(thread)),
        })
    }

    pub fn remembered_keys(&self) -> usize {
        self.shown.keys.load(Ordering::Relaxed)
    }

    pub async fn append(&self, request: Request) -> Result<Appended, EngineError> {
        let bytes: usize = request.drafts.iter().map(|draft| draft.body.len()).sum();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let _room = self.room.try_acquire_many(bytes).map_err(|_| {
            EngineError::Unavailable("more waits to be written than the disk takes".into())
        })?;
        self.ask(|answer| Command::Append(request, answer)).await?
    }

    pub async fn lose(&self, log: LogId, error: SegmentError) -> Result<(), EngineError> {
        self.ask(|answer| Command::Lose(log, error, answer)).await
    }

    /// Whether nothing can be appended any more.
    pub fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }

    /// Ends the log's run; whatever comes later is refused.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.ask(Command::Close).await?;
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // It has answered, so that it ends now.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        Ok(())
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, EngineError> {
        let ended = || EngineError::Unavailable("the log is closed".into());
        let (answer, answered) = oneshot::channel();
        let sent = self.commands.send(command(answer)).await;
        sent.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())
    }
}

impl Shown {
    fn update(&self, log: &mut DiskLog) {
        self.keys.store(log.remembered_keys(), Ordering::Relaxed);
    }
}

/// How long to wait for more before a commit.
///
/// Whoever was answered by the last commit is about to publish again: without a wait they would
/// miss the next one, and each commit would take only half of those that publish all the time.
#[derive(Default)]
struct Linger {
    publishes: usize,
    took: Duration,
}

impl Linger {
    /// Of the time that a commit takes, so that it is little beside what it saves.
    const SHARE: u32 = 8;
    const MOST: Duration = Duration::from_micros(500);

    /// One who publishes alone waits for nobody.
    fn time(&self) -> Duration {
        match self.publishes {
            0 | 1 => Duration::ZERO,
            _ => (self.took / Self::SHARE).min(Self::MOST),
        }
    }
}

async fn run(mut log: DiskLog, mut incoming: mpsc::Receiver<Command>, shown: &Shown) {
    let mut look_after = tokio::time::interval(LOOK_AFTER);
    look_after.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deferred = None;
    let mut linger = Linger::default();
    loop {
        let command = match deferred.take() {
            Some(command) => Some(command),
            None => tokio::select! {
                command = incoming.recv() => command,
                _ = look_after.tick() => {
                    log.look_after();
                    shown.update(&mut log);
                    continue;
                }
            },
        };
        match command {
            Some(Command::Append(request, answer)) => {
                std::thread::sleep(linger.time());
                let group = Group::gather((request, answer), &mut incoming, &mut deferred);
                let start = Instant::now();
                linger.publishes = group.requests.len();
                group.append(&mut log, shown);
                linger.took = start.elapsed();
                log.roll();
            }
            Some(Command::Lose(lost, error, answer)) => {
                log.lose(&lost, &error);
                // Whoever asked may be gone.
                let _ = answer.send(());
            }
            Some(Command::Close(answer)) => {
                close(log);
                let _ = answer.send(());
                return;
            }
            None => return close(log),
        }
    }
}

fn close(log: DiskLog) {
    if let Err(error) = log.close() {
        tracing::error!(%error, "the log was not closed: the next start repairs it");
    }
}

/// The publishes of one commit.
struct Group {
    requests: Vec<Request>,
    answers: Vec<Answer<Result<Appended, EngineError>>>,
}

impl Group {
    /// Takes all publishes that wait, within bounds. What comes after them and is none is left in
    /// `deferred`.
    fn gather(
        first: (Request, Answer<Result<Appended, EngineError>>),
        incoming: &mut mpsc::Receiver<Command>,
        deferred: &mut Option<Command>,
    ) -> Self {
        let mut room = (GROUP_EVENTS, GROUP_BYTES);
        let mut group = Self {
            requests: Vec::new(),
            answers: Vec::new(),
        };
        let mut next = Some(first);
        while let Some((request, answer)) = next.take() {
            let bytes: usize = request.drafts.iter().map(|draft| draft.body.len()).sum();
            room.0 = room.0.saturating_sub(request.drafts.len());
            room.1 = room.1.saturating_sub(bytes);
            group.requests.push(request);
            group.answers.push(answer);
            if room.0 == 0 || room.1 == 0 {
                break;
            }
            match incoming.try_recv() {
                Ok(Command::Append(request, answer)) => next = Some((request, answer)),
                Ok(other) => *deferred = Some(other),
                Err(_) => {}
            }
        }
        group
    }

    fn append(self, log: &mut DiskLog, shown: &Shown) {
        let answers = log.append(self.requests);
        shown.update(log);
        for (answer, waiting) in answers.into_iter().zip(self.answers) {
            // Whoever published may be gone; the event is there all the same.
            let _ = waiting.send(answer);
        }
    }
}
