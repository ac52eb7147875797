//! A thread with its share of the clients: one loop over the sockets that are ready, and one buffer for all of them.

mod share;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::{Events, Poll, Token, Waker};

pub use self::share::{Members, Share, Sight};
use super::client::{Client, Reading, State};
use super::course::{Course, nanoseconds};
use super::plan::Group;
use super::publisher::Published;
use super::record;
use crate::cli::failure::{Failure, Remedy};

/// Connections of a thread that come about at the same time while the run begins: below what a listener lets wait.
const COMING_AT_ONCE: usize = 256;

/// A client that is not subscribed after this tries again.
const COMING_LIMIT: Duration = Duration::from_secs(20);

/// How long a hopping client stays on a transport.
const HOP_EVERY: Duration = Duration::from_secs(3);

const READY_AT_ONCE: usize = 1024;
const WAKER: Token = Token(usize::MAX);

/// The thread, as the run steers it.
#[derive(Debug)]
pub struct Reader {
    commands: Sender<Command>,
    waker: Waker,
    thread: JoinHandle<Share>,
}

/// What a thread is told.
enum Command {
    /// Answer with how far the clients have come.
    Look(Sender<Sight>),
    /// Open the clients' connections.
    Open,
    /// The steady phase begins, with its first event due then: who is not there does not take part, slow clients stop reading, hops begin.
    Begin(u64),
    /// Its events have all been published: slow clients read, hops end.
    End(Arc<[u32]>),
    /// Cut all connections.
    Leave,
    /// Open them all again at once; the clients that have what is up to these numbers are back.
    Return(Arc<[u32]>),
    /// Account for all.
    Finish(Arc<Published>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The client connects.
    Come,
    /// It is not subscribed yet, and gives this attempt up.
    GiveUp,
    Hop,
}

/// What the thread itself holds.
struct Work {
    course: Arc<Course>,
    poll: Poll,
    commands: Receiver<Command>,
    clients: Vec<Client>,
    buffer: Vec<u8>,
    /// When, which client, its generation, what.
    timers: BinaryHeap<Reverse<(u64, usize, u32, Timer)>>,
    /// Clients that wait for their first turn to connect.
    queue: VecDeque<usize>,
    coming: usize,
    /// Clients with more to read, of which the socket does not tell again.
    unfinished: Vec<usize>,
    goals: Option<Arc<[u32]>>,
    stage: Stage,
    returned_at: u64,
    back: Vec<bool>,
    last_live: u64,
    began: Option<(u64, Duration, Duration)>,
    share: Share,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Opening,
    Steady,
    Ending,
    Gone,
    Returning,
}

impl Reader {
    /// Starts a thread for these clients.
    ///
    /// # Errors
    /// Where the system gives neither a selector nor a thread.
    pub fn start(course: Arc<Course>, clients: Vec<usize>) -> Result<Self> {
        let poll = Poll::new().context("cannot wait for sockets")?;
        let waker = Waker::new(poll.registry(), WAKER).context("cannot wait for sockets")?;
        let (commands, receiver) = channel();
        let clients = clients.into_iter().map(|index| Client::new(&course, index));
        let work = Work::new(Arc::clone(&course), poll, receiver, clients.collect());
        let thread = std::thread::Builder::new()
            .name("bench clients".to_owned())
            .spawn(move || work.run())
            .context("cannot start a thread")?;
        Ok(Self {
            commands,
            waker,
            thread,
        })
    }

    pub fn open(&self) -> Result<()> {
        self.tell(Command::Open)
    }

    /// With when the first event is due.
    pub fn begin(&self, start: u64) -> Result<()> {
        self.tell(Command::Begin(start))
    }

    /// With the number after the last event of each topic.
    pub fn end(&self, goals: &Arc<[u32]>) -> Result<()> {
        self.tell(Command::End(Arc::clone(goals)))
    }

    pub fn leave(&self) -> Result<()> {
        self.tell(Command::Leave)
    }

    pub fn come_back(&self, goals: &Arc<[u32]>) -> Result<()> {
        self.tell(Command::Return(Arc::clone(goals)))
    }

    pub fn look(&self) -> Result<Sight> {
        let (answer, answered) = channel();
        self.tell(Command::Look(answer))?;
        answered.recv().context("a thread of clients has ended")
    }

    /// Ends the thread, with its account of what was published.
    pub fn finish(self, published: &Arc<Published>) -> Result<Share> {
        self.tell(Command::Finish(Arc::clone(published)))?;
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of clients has failed"))
    }

    fn tell(&self, command: Command) -> Result<()> {
        let told = self.commands.send(command);
        told.map_err(|_| anyhow::anyhow!("a thread of clients has ended"))?;
        self.waker.wake().context("cannot wake a thread of clients")
    }
}

impl Work {
    fn new(
        course: Arc<Course>,
        poll: Poll,
        commands: Receiver<Command>,
        clients: Vec<Client>,
    ) -> Self {
        Self {
            back: vec![false; clients.len()],
            course,
            poll,
            commands,
            clients,
            buffer: Vec::new(),
            timers: BinaryHeap::new(),
            queue: VecDeque::new(),
            coming: 0,
            unfinished: Vec::new(),
            goals: None,
            stage: Stage::Opening,
            returned_at: 0,
            last_live: 0,
            began: None,
            share: Share::new(),
        }
    }

    fn run(mut self) -> Share {
        let mut events = Events::with_capacity(READY_AT_ONCE);
        loop {
            if let Some(published) = self.obey() {
                return self.account(&published);
            }
            self.run_timers();
            self.connect_queued();
            let timeout = self.timeout();
            if self.poll.poll(&mut events, timeout).is_err() {
                // Interrupted by a signal.
                continue;
            }
            for event in &events {
                if event.token() != WAKER {
                    self.ready(event.token().0, event.is_writable());
                }
            }
            for client in std::mem::take(&mut self.unfinished) {
                self.ready(client, false);
            }
        }
    }

    /// Does what it was told; with the last command there is what to account for.
    fn obey(&mut self) -> Option<Arc<Published>> {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Look(answer)) => drop(answer.send(self.sight())),
                Ok(Command::Open) => self.queue = (0..self.clients.len()).collect(),
                Ok(Command::Begin(start)) => self.begin(start),
                Ok(Command::End(goals)) => self.end(goals),
                Ok(Command::Leave) => self.leave(),
                Ok(Command::Return(goals)) => self.come_back(goals),
                Ok(Command::Finish(published)) => return Some(published),
                Err(TryRecvError::Empty) => return None,
                // Nobody will ask any more.
                Err(TryRecvError::Disconnected) => return Some(Arc::default()),
            }
        }
    }

    fn begin(&mut self, start: u64) {
        self.share.record.start_at(start);
        self.stage = Stage::Steady;
        self.queue.clear();
        for place in 0..self.clients.len() {
            let client = &mut self.clients[place];
            if client.state == State::Live {
                client.takes_part = true;
                client.holds = client.group == Group::Slow;
                continue;
            }
            if client.state != State::Left {
                self.share
                    .refused
                    .add("not subscribed by the time the events began");
                client.state = State::Left;
            }
            client.cut();
        }
        self.coming = 0;
        if self.course.plan.hop {
            for place in 0..self.clients.len() {
                // Spread, so that not all hop at once.
                self.set_timer(place, HOP_EVERY.mul_f64(0.5 + fastrand::f64()), Timer::Hop);
            }
        }
        self.began = Some((self.course.now(), thread_time(), thread_wait()));
    }

    fn end(&mut self, goals: Arc<[u32]>) {
        self.stage = Stage::Ending;
        self.goals = Some(goals);
        if let Some((began, busy, waited)) = self.began {
            self.share.waited = thread_wait().saturating_sub(waited);
            self.share.steady = Duration::from_nanos(self.course.now().saturating_sub(began));
            self.share.busy = thread_time().saturating_sub(busy);
        }
        for place in 0..self.clients.len() {
            if std::mem::take(&mut self.clients[place].holds) {
                self.unfinished.push(place);
            }
        }
    }

    fn leave(&mut self) {
        self.stage = Stage::Gone;
        self.share.record.stop_measuring();
        for place in 0..self.clients.len() {
            self.clients[place].generation += 1;
            self.clients[place].cut();
        }
        self.coming = 0;
        self.unfinished.clear();
    }

    fn come_back(&mut self, goals: Arc<[u32]>) {
        self.stage = Stage::Returning;
        self.goals = Some(goals);
        self.returned_at = self.course.now();
        for place in 0..self.clients.len() {
            if self.clients[place].state == State::Away {
                self.connect(place);
            }
        }
    }

    fn sight(&self) -> Sight {
        let mut sight = Sight {
            delivered: self.share.record.delivered(),
            last_delivery: self.share.record.last(),
            last_live: self.last_live,
            ..Sight::default()
        };
        for client in &self.clients {
            match client.state {
                State::Live => sight.live += 1,
                State::Left => sight.left += 1,
                State::Away | State::Coming => sight.coming += 1,
            }
            // Who is refused in the middle of the run has taken part, and loses what follows.
            if client.takes_part {
                sight.taking_part += 1;
                sight.complete += usize::from(self.has_all(client));
            }
        }
        sight
    }

    fn has_all(&self, client: &Client) -> bool {
        let goal = self
            .goals
            .as_ref()
            .and_then(|goals| goals.get(client.topic as usize));
        goal.is_some_and(|goal| client.tally.has_come_to(*goal))
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let Reverse((at, ..)) = self.timers.peek()?;
        Some(Duration::from_nanos(at.saturating_sub(self.course.now())))
    }

    fn set_timer(&mut self, place: usize, after: Duration, timer: Timer) {
        let at = self.course.now() + nanoseconds(after);
        let generation = self.clients[place].generation;
        self.timers.push(Reverse((at, place, generation, timer)));
    }

    fn run_timers(&mut self) {
        let now = self.course.now();
        while let Some(Reverse((at, place, generation, timer))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            match timer {
                Timer::Hop => self.hop(place),
                _ if self.clients[place].generation != generation => {}
                Timer::Come if self.clients[place].state == State::Away => self.connect(place),
                Timer::GiveUp if self.clients[place].state == State::Coming => {
                    self.ended(
                        place,
                        &Failure::Broken("no answer to the subscription".to_owned()),
                    );
                }
                Timer::Come | Timer::GiveUp => {}
            }
        }
    }

    fn connect_queued(&mut self) {
        while self.coming < COMING_AT_ONCE {
            let Some(place) = self.queue.pop_front() else {
                return;
            };
            self.connect(place);
        }
    }

    fn connect(&mut self, place: usize) {
        let client = &mut self.clients[place];
        client.generation += 1;
        self.coming += 1;
        match client.connect(&self.course, self.poll.registry(), Token(place)) {
            Ok(()) => self.set_timer(place, COMING_LIMIT, Timer::GiveUp),
            Err(failure) => self.ended(place, &failure),
        }
    }

    /// The client goes to its next transport, with its cursor.
    fn hop(&mut self, place: usize) {
        if self.stage != Stage::Steady {
            return;
        }
        let client = &mut self.clients[place];
        if client.state == State::Live && !client.holds {
            client.cut();
            client.transport = self.course.plan.next_transport(client.transport);
            self.share.hops += 1;
            self.connect(place);
        }
        self.set_timer(place, HOP_EVERY, Timer::Hop);
    }

    fn ready(&mut self, place: usize, is_writable: bool) {
        let Some(client) = self.clients.get_mut(place) else {
            return;
        };
        let was_coming = client.state == State::Coming;
        let written = if is_writable { client.write() } else { Ok(()) };
        let reading = match written {
            Err(failure) => Reading::Ended(failure),
            Ok(()) if client.holds => Reading::Drained,
            Ok(()) => client.read(&self.course, &mut self.buffer, &mut self.share.record),
        };
        if was_coming && client.state == State::Live {
            self.coming = self.coming.saturating_sub(1);
            self.last_live = self.course.now();
        }
        if self.stage == Stage::Returning {
            self.note_return(place);
        }
        match reading {
            Reading::Drained => {}
            Reading::Unfinished => self.unfinished.push(place),
            Reading::Ended(failure) => self.ended(place, &failure),
        }
    }

    /// Notes how long the client took to have what it missed.
    fn note_return(&mut self, place: usize) {
        if !self.back[place] && self.has_all(&self.clients[place]) {
            self.back[place] = true;
            let took = self.course.now().saturating_sub(self.returned_at);
            record::note(&mut self.share.catch_up, Duration::from_nanos(took));
        }
    }

    /// The client's connection is over; unless it was refused it comes back, as any client would.
    fn ended(&mut self, place: usize, failure: &Failure) {
        let client = &mut self.clients[place];
        let was_live = client.state == State::Live;
        if client.state == State::Coming {
            self.coming = self.coming.saturating_sub(1);
        }
        client.generation += 1;
        client.cut();
        if failure.remedy() != Remedy::Retry {
            client.state = State::Left;
            return self.share.refused.add(&failure.to_string());
        }
        let pause = client.backoff.pause();
        let pause = pause.max(failure.retry_after().unwrap_or_default());
        let kind = if was_live {
            &mut self.share.cut
        } else {
            &mut self.share.delayed
        };
        kind.add(&failure.to_string());
        self.set_timer(place, pause, Timer::Come);
    }

    fn account(mut self, published: &Published) -> Share {
        for client in self.clients {
            let members = &mut self.share.groups[client.group.place()];
            members.connections += 1;
            if client.takes_part {
                members.live += 1;
                let (count, unaccepted) = published.of_topic(client.topic);
                members.account += client.tally.account(count, unaccepted);
            }
        }
        self.share
    }
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// How long this thread was ready to run and had no core so far. Linux; elsewhere nothing is known of it.
fn thread_wait() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let wait = told.split_whitespace().nth(1);
    Duration::from_nanos(wait.and_then(|wait| wait.parse().ok()).unwrap_or_default())
}
