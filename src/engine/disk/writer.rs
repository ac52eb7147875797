//! The one thread that writes: takes all publishes that wait, and commits them together.

use std::{
    future::ready,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};

use super::{
    log::{DiskLog, Request},
    segment::SegmentError,
};
use crate::{
    engine::{Appended, EngineError, EngineFuture},
    event::LogId,
};

/// Events and bytes that one commit takes: enough that a sync is cheap for each of them, few enough
/// that the first does not wait long for the last.
const GROUP_EVENTS: usize = 8192;
const GROUP_BYTES: usize = 4 << 20;
/// How often the writer looks after the log while nothing is published.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Publishes that wait, or are being written, and their bytes: many times what a disk takes at a time.
/// More are refused.
const WAITING: usize = 1 << 16;
const WAITING_BYTES: usize = 128 << 20;

type Answer<T> = oneshot::Sender<T>;

pub enum Command {
    Append(Waiting),
    /// Something of this log can never be read again.
    Lose(LogId, SegmentError, Answer<()>),
    Close(Answer<()>),
}

/// A publish that waits to be written, whoever still waits for the answer.
pub struct Waiting {
    request: Request,
    answer: Answer<Result<Appended, EngineError>>,
    /// Its place, and that of its bytes, until it is answered.
    room: [OwnedSemaphorePermit; 2],
}

impl Waiting {
    fn bytes(&self) -> usize {
        bytes_of(&self.request)
    }
}

fn bytes_of(request: &Request) -> usize {
    request.drafts.iter().map(|draft| draft.body.len()).sum()
}

/// The way to the writer's thread, which ends with this.
pub struct Writer {
    /// Bounded by the rooms.
    commands: mpsc::UnboundedSender<Command>,
    places: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
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
    pub fn start(log: DiskLog) -> anyhow::Result<Self> {
        let (mut writer, desk) = Self::at_desk(log);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("tribus-log".to_owned())
            .spawn(move || runtime.block_on(run(desk)))?;
        writer.thread = Mutex::new(Some(thread));
        Ok(writer)
    }

    /// With its desk, at which somebody has to work.
    pub(crate) fn at_desk(mut log: DiskLog) -> (Self, Desk) {
        let (commands, incoming) = mpsc::unbounded_channel();
        let shown = Arc::new(Shown::default());
        shown.update(&mut log);
        let writer = Self {
            commands,
            places: Arc::new(Semaphore::new(WAITING)),
            bytes: Arc::new(Semaphore::new(WAITING_BYTES)),
            shown: Arc::clone(&shown),
            thread: Mutex::default(),
        };
        let desk = Desk {
            log,
            incoming,
            deferred: None,
            linger: Linger::default(),
            shown,
        };
        (writer, desk)
    }

    pub fn remembered_keys(&self) -> usize {
        self.shown.keys.load(Ordering::Relaxed)
    }

    /// Puts it into the queue; it is appended, whether the future is waited for or not.
    pub fn append(&self, request: Request) -> EngineFuture<'static, Appended> {
        let room = match self.room(&request) {
            Ok(room) => room,
            Err(error) => return Box::pin(ready(Err(error))),
        };
        let answered = self.ask(|answer| {
            Command::Append(Waiting {
                request,
                answer,
                room,
            })
        });
        Box::pin(async { answered.await? })
    }

    fn room(&self, request: &Request) -> Result<[OwnedSemaphorePermit; 2], EngineError> {
        let bytes = u32::try_from(bytes_of(request)).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(bytes);
        match (place, bytes) {
            (Ok(place), Ok(bytes)) => Ok([place, bytes]),
            _ => Err(EngineError::Unavailable(
                "more waits to be written than the disk takes".into(),
            )),
        }
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

    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(Answer<T>) -> Command,
    ) -> EngineFuture<'static, T> {
        let (answer, answered) = oneshot::channel();
        // Where nobody takes it, its answer is dropped with it.
        let _ = self.commands.send(command(answer));
        Box::pin(async {
            answered
                .await
                .map_err(|_| EngineError::Unavailable("the log is closed".into()))
        })
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

/// Where the log is written: what waits, and what is done about it. No thread and no clock of its
/// own, so that a test can take its turns.
pub(crate) struct Desk {
    log: DiskLog,
    incoming: mpsc::UnboundedReceiver<Command>,
    /// What was taken out of the queue and is none of a group's.
    deferred: Option<Command>,
    linger: Linger,
    shown: Arc<Shown>,
}

impl Desk {
    /// What comes next; `None` where nobody can ask for anything any more. Nothing is lost where this
    /// is not waited for.
    pub(crate) async fn next(&mut self) -> Option<Command> {
        match self.deferred.take() {
            Some(command) => Some(command),
            None => self.incoming.recv().await,
        }
    }

    /// Does it; `None` where the log is closed.
    pub(crate) fn serve(mut self, command: Option<Command>) -> Option<Self> {
        match command {
            Some(Command::Append(first)) => self.append(first),
            Some(Command::Lose(lost, error, answer)) => {
                self.log.lose(&lost, &error);
                // Whoever asked may be gone.
                let _ = answer.send(());
            }
            Some(Command::Close(answer)) => {
                close(self.log);
                let _ = answer.send(());
                return None;
            }
            None => {
                close(self.log);
                return None;
            }
        }
        Some(self)
    }

    fn append(&mut self, first: Waiting) {
        std::thread::sleep(self.linger.time());
        let group = Group::gather(first, &mut self.incoming, &mut self.deferred);
        let start = Instant::now();
        self.linger.publishes = group.0.len();
        group.append(&mut self.log, &self.shown);
        self.linger.took = start.elapsed();
        self.log.roll();
    }

    pub(crate) fn look_after(&mut self) {
        self.log.look_after();
        self.shown.update(&mut self.log);
    }
}

async fn run(mut desk: Desk) {
    let mut look_after = tokio::time::interval(LOOK_AFTER);
    look_after.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let command = tokio::select! {
            command = desk.next() => command,
            _ = look_after.tick() => {
                desk.look_after();
                continue;
            }
        };
        match desk.serve(command) {
            Some(still_open) => desk = still_open,
            None => return,
        }
    }
}

fn close(log: DiskLog) {
    if let Err(error) = log.close() {
        tracing::error!(%error, "the log was not closed: the next start repairs it");
    }
}

/// The publishes of one commit.
struct Group(Vec<Waiting>);

impl Group {
    /// Takes all publishes that wait, within bounds. What comes after them and is none is left in
    /// `deferred`.
    fn gather(
        first: Waiting,
        incoming: &mut mpsc::UnboundedReceiver<Command>,
        deferred: &mut Option<Command>,
    ) -> Self {
        let mut room = (GROUP_EVENTS, GROUP_BYTES);
        let mut group = Self(Vec::new());
        let mut next = Some(first);
        while let Some(waiting) = next.take() {
            room.0 = room.0.saturating_sub(waiting.request.drafts.len());
            room.1 = room.1.saturating_sub(waiting.bytes());
            group.0.push(waiting);
            if room.0 == 0 || room.1 == 0 {
                break;
            }
            match incoming.try_recv() {
                Ok(Command::Append(waiting)) => next = Some(waiting),
                Ok(other) => *deferred = Some(other),
                Err(_) => {}
            }
        }
        group
    }

    fn append(self, log: &mut DiskLog, shown: &Shown) {
        let (mut requests, mut waiting) = (Vec::new(), Vec::new());
        for Waiting {
            request,
            answer,
            room,
        } in self.0
        {
            requests.push(request);
            waiting.push((answer, room));
        }
        let answers = log.append(requests);
        shown.update(log);
        for (answer, (waiting, _room)) in answers.into_iter().zip(waiting) {
            // Whoever published may be gone; the event is there all the same.
            let _ = waiting.send(answer);
        }
    }
}
