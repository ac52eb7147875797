//! The sessions of one worker thread, and the fan-out to them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use slab::Slab;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::MissedTickBehavior,
};

use super::{
    Bus, Latest, StartPoint,
    census::{self, ConnectionPage, ConnectionQuery, Ended, TopicPage, TopicRange},
    topic_index::TopicIndex,
};
use crate::{
    auth::{Identity, Whose},
    event::Event,
    metrics::{LagByTransport, WorkerMetrics},
    presence::{Place, Presence},
    protocol::{CloseReason, Ref, Refusal, ServerFrame, SubscribeRequest},
    session::{Announcement, Delivery, Outgoing, Peer, Session, SessionLimits, Tally},
    telemetry::Telemetry,
    throttle::Throttle,
    topic::{Topic, TopicFilter},
};

/// Events dispatched before the worker's other tasks get their turn.
const DISPATCH_BATCH: usize = 64;

/// How often sessions are looked after whose transports are not polled.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// What a shard may be told from outside its thread.
#[derive(Clone, Debug)]
pub enum ShardCommand {
    /// End every session, the clients' return spread over this time.
    Drain { spread: Duration },
    /// End the sessions of a subject, or of one of its tokens, and tell what was ended.
    EndSessions(Whose, mpsc::Sender<Ended>),
    /// Tell how far sessions are behind.
    TellLag(mpsc::Sender<LagByTransport>),
    /// List sessions.
    ListConnections(Arc<ConnectionQuery>, mpsc::Sender<ConnectionPage>),
    /// List topic filters, at most so many.
    ListTopics(Arc<TopicRange>, usize, mpsc::Sender<TopicPage>),
}

/// One per worker, and never left by what is in it: sessions, index and counters are touched by
/// this thread only, so that the fan-out takes no lock.
///
/// The shard is a reader of the log like any other. It knows up to where it has dispatched, and
/// each session knows up to where it was served; comparing the two makes the seam between replay
/// and live exact.
pub struct Shard {
    bus: Arc<Bus>,
    limits: SessionLimits,
    metrics: WorkerMetrics,
    /// The position up to which every live session was offered everything.
    dispatched: Rc<Cell<u64>>,
    sessions: RefCell<Slab<Rc<RefCell<Session>>>>,
    index: RefCell<TopicIndex<usize>>,
    scratch: RefCell<Scratch>,
    draining: Cell<bool>,
    presence: Option<Arc<Presence>>,
    telemetry: Option<Arc<Telemetry>>,
    fell_behind: Throttle,
}

/// Reused from one dispatch to the next.
#[derive(Default)]
struct Scratch {
    events: Vec<Arc<Event>>,
    found: Vec<usize>,
}

impl Shard {
    /// Starts a shard on the current worker, with which it ends.
    pub fn start(
        bus: Arc<Bus>,
        limits: SessionLimits,
        metrics: WorkerMetrics,
        (presence, telemetry): (Option<Arc<Presence>>, Option<Arc<Telemetry>>),
    ) -> Rc<Self> {
        let (head, commands) = bus.join();
        let shard = Self::new(bus, limits, metrics, (presence, telemetry));
        tokio::task::spawn_local(Rc::clone(&shard).run(head, commands));
        shard
    }

    /// One that dispatches when it is told to.
    pub(super) fn new(
        bus: Arc<Bus>,
        limits: SessionLimits,
        metrics: WorkerMetrics,
        (presence, telemetry): (Option<Arc<Presence>>, Option<Arc<Telemetry>>),
    ) -> Rc<Self> {
        let shard = Rc::new(Self {
            dispatched: Rc::new(Cell::new(bus.window().head())),
            bus,
            limits,
            metrics,
            sessions: RefCell::default(),
            index: RefCell::default(),
            scratch: RefCell::default(),
            draining: Cell::new(false),
            presence,
            telemetry,
            fell_behind: Throttle::default(),
        });
        shard.metrics.set_dispatched(shard.dispatched.get());
        shard
    }

    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// The counters of this worker.
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    pub(super) fn sessions(&self) -> std::cell::Ref<'_, Slab<Rc<RefCell<Session>>>> {
        self.sessions.borrow()
    }

    /// Adds a session for an authenticated client. It is removed when its handle is dropped.
    pub fn open(self: &Rc<Self>, identity: Arc<Identity>, peer: Peer) -> SessionHandle {
        let session = Session::new(identity, peer, self.limits, Rc::clone(&self.dispatched));
        self.metrics.opened(peer.transport);
        log_opened(&session);
        let session = Rc::new(RefCell::new(session));
        let key = self.sessions.borrow_mut().insert(Rc::clone(&session));
        SessionHandle {
            shard: Rc::clone(self),
            key,
            session,
            reading: RefCell::default(),
        }
    }

    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    async fn run(
        self: Rc<Self>,
        mut head: watch::Receiver<u64>,
        mut commands: mpsc::Receiver<ShardCommand>,
    ) {
        let mut look_after = tokio::time::interval(LOOK_AFTER);
        look_after.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = head.changed() => match changed {
                    Ok(()) => self.dispatch_to_head().await,
                    Err(_) => return,
                },
                Some(command) = commands.recv() => self.obey(command),
                _ = look_after.tick() => self.look_after_sessions(),
            }
        }
    }

    fn look_after_sessions(&self) {
        let (now, at) = (Timestamp::now(), Instant::now());
        for (_, session) in self.sessions.borrow().iter() {
            session.borrow_mut().look_after(now, at);
        }
    }

    async fn dispatch_to_head(&self) {
        while self.dispatch_batch() {
            tokio::task::yield_now().await;
        }
    }

    /// Brings this shard up to the head of the log, so that what a client subscribes next starts
    /// from there.
    pub fn catch_up(&self) {
        while self.dispatch_batch() {}
    }

    /// Dispatches the next events; true where there are more.
    fn dispatch_batch(&self) -> bool {
        let Ok(mut scratch) = self.scratch.try_borrow_mut() else {
            return false;
        };
        let Scratch { events, found } = &mut *scratch;
        let window = self.bus.window();
        match window.latest(self.dispatched.get(), DISPATCH_BATCH, events) {
            Latest::Behind(head) => {
                self.fall_back(head);
                return false;
            }
            Latest::Events(position) => {
                for event in events.drain(..) {
                    self.dispatch(event, found);
                }
                self.set_dispatched(position);
            }
        }
        self.dispatched.get() < window.head()
    }

    fn dispatch(&self, event: Arc<Event>, found: &mut Vec<usize>) {
        found.clear();
        self.index
            .borrow_mut()
            .matching(&event.tenant, event.topic.as_str(), found);
        if !found.is_empty() {
            let delivery = Rc::new(Delivery::live(event));
            let sessions = self.sessions.borrow();
            for key in found.iter() {
                sessions[*key].borrow_mut().offer(&delivery);
            }
            if let Some(telemetry) = &self.telemetry {
                telemetry.delivered(&delivery.event, found.len());
            }
        }
    }

    /// This thread was starved for so long that every session reads the log from where it is, and
    /// finds out for itself whether it missed anything.
    fn fall_back(&self, head: u64) {
        if let Some(held_back) = self.fell_behind.pass() {
            tracing::warn!(
                held_back,
                "a worker fell far behind; its sessions read the log"
            );
        }
        let position = self.dispatched.get();
        for (_, session) in self.sessions.borrow().iter() {
            session.borrow_mut().fall_back(position);
        }
        self.set_dispatched(head);
    }

    fn set_dispatched(&self, position: u64) {
        self.dispatched.set(position);
        self.metrics.set_dispatched(position);
    }

    fn obey(self: &Rc<Self>, command: ShardCommand) {
        match command {
            ShardCommand::Drain { spread } => {
                // What is acknowledged by now still goes to those who are live.
                self.catch_up();
                self.draining.set(true);
                for (_, session) in self.sessions.borrow().iter() {
                    let wait = spread.mul_f64(fastrand::f64());
                    session.borrow_mut().close(CloseReason::Draining, wait);
                }
            }
            ShardCommand::EndSessions(whose, reply) => {
                // Whoever asked may be gone; the sessions have ended all the same.
                let _ = reply.try_send(self.end_sessions(&whose));
            }
            ShardCommand::TellLag(reply) => {
                tokio::task::spawn_local(census::tell_lag(Rc::clone(self), reply));
            }
            ShardCommand::ListConnections(query, reply) => {
                let shard = Rc::clone(self);
                tokio::task::spawn_local(census::list_connections(shard, query, reply));
            }
            ShardCommand::ListTopics(range, most, reply) => {
                let shard = Rc::clone(self);
                tokio::task::spawn_local(census::list_topics(shard, range, most, reply));
            }
        }
    }

    fn end_sessions(&self, whose: &Whose) -> Ended {
        let mut ended = Ended::default();
        for (_, session) in self.sessions.borrow().iter() {
            let mut session = session.borrow_mut();
            if whose.hits(session.identity()) {
                ended.note(&session);
                session.close(CloseReason::Revoked, Duration::ZERO);
            }
        }
        ended
    }

    fn close_session(&self, key: usize) {
        let session = self.sessions.borrow_mut().remove(key);
        let session = session.borrow();
        let mut index = self.index.borrow_mut();
        for filter in session.all_filters() {
            index.remove(&session.identity().tenant, filter, key);
            self.leave(&session, filter);
        }
        self.count_subscriptions(&index);
        self.metrics
            .closed(session.peer().transport, session.ending());
        log_closed(&session);
    }

    /// Whoever subscribes a topic by its name is on it.
    fn enter(
        &self,
        session: &Session,
        filters: &[TopicFilter],
        charge: impl FnOnce(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Some(presence) = &self.presence else {
            return Ok(());
        };
        let places = filters.iter();
        let places = places.filter_map(|filter| place(presence, session, filter));
        presence.enter(places.collect(), session.id(), Instant::now(), charge)
    }

    fn leave(&self, session: &Session, filter: &TopicFilter) {
        if let Some(presence) = &self.presence
            && let Some(place) = place(presence, session, filter)
        {
            presence.leave(place, session.id(), Instant::now());
        }
    }

    fn count_subscriptions(&self, index: &TopicIndex<usize>) {
        self.metrics
            .set_subscriptions(index.len(), index.pattern_count());
    }
}

/// Where a session is by one of its filters; nowhere by a pattern, or where nobody is counted.
fn place(presence: &Presence, session: &Session, filter: &TopicFilter) -> Option<Place> {
    if !filter.is_literal() || !presence.covers(filter.as_str()) {
        return None;
    }
    let identity = session.identity();
    Some(Place {
        tenant: identity.tenant.clone(),
        topic: Topic::parse(filter.as_str()).ok()?,
        subject: Arc::clone(&identity.subject),
    })
}

fn log_opened(session: &Session) {
    let (identity, peer) = (session.identity(), session.peer());
    tracing::debug!(
        connection_id = %session.id(),
        subject = &*identity.subject,
        tenant = identity.tenant.as_deref(),
        transport = peer.transport.as_str(),
        address = peer.address.map(tracing::field::display),
        "connection opened"
    );
}

fn log_closed(session: &Session) {
    let (identity, peer) = (session.identity(), session.peer());
    tracing::debug!(
        connection_id = %session.id(),
        subject = &*identity.subject,
        tenant = identity.tenant.as_deref(),
        transport = peer.transport.as_str(),
        address = peer.address.map(tracing::field::display),
        reason = session.ending().as_str(),
        events = session.events_taken(),
        duration_ms = session.since().elapsed().as_millis() as u64,
        "connection closed"
    );
}

/// A transport's hold on its session; dropping it is the one way in which a session ends.
pub struct SessionHandle {
    shard: Rc<Shard>,
    key: usize,
    session: Rc<RefCell<Session>>,
    /// What the engine is asked for the session.
    reading: RefCell<Option<AbortHandle>>,
}

impl SessionHandle {
    pub fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Runs `act` on the session. It must not call back into the shard.
    pub fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> T {
        act(&mut self.session.borrow_mut())
    }

    /// Starts subscriptions, whose events follow the announcement in the session's mailbox. `charge` is
    /// asked for the joins that are announced because of them.
    ///
    /// # Errors
    /// `forbidden` outside the identity's grants, `too_many_subscriptions`, and what `charge` says.
    pub fn subscribe(
        &self,
        request: SubscribeRequest,
        start: StartPoint,
        announcement: Announcement,
        charge: impl FnOnce(usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let added: Vec<TopicFilter> = request
            .subscriptions
            .iter()
            .map(|subscription| subscription.filter.clone())
            .collect();
        // All that was acknowledged before is replayed, and comes before `live`.
        self.shard.catch_up();
        let mut session = self.session.borrow_mut();
        if session.closed().is_some() {
            // It was closed while the start was awaited; `closing` stays the last frame.
            return Ok(());
        }
        let replays = !added.is_empty() && start.is_in_the_past();
        session.check_subscribe(&request)?;
        self.shard.enter(&session, &added, charge)?;
        session.subscribe(request, start, announcement, &self.shard.bus);
        if replays {
            let transport = session.peer().transport;
            self.shard.metrics.replay_started(transport);
        }
        let mut index = self.shard.index.borrow_mut();
        for filter in &added {
            index.insert(&session.identity().tenant, filter, self.key);
        }
        self.shard.count_subscriptions(&index);
        Ok(())
    }

    /// Ends the subscriptions of these filters, if there are any.
    pub fn unsubscribe(
        &self,
        filters: &[TopicFilter],
        reason: Option<&'static str>,
        reference: Option<Ref>,
    ) {
        let mut session = self.session.borrow_mut();
        session.unsubscribe(filters, reason, reference);
        let mut index = self.shard.index.borrow_mut();
        for filter in filters {
            index.remove(&session.identity().tenant, filter, self.key);
            self.shard.leave(&session, filter);
        }
        self.shard.count_subscriptions(&index);
    }

    /// Takes on a fresh token of the same subject and tenant, replies, and ends what it does not
    /// grant.
    ///
    /// # Errors
    /// `forbidden` where subject or tenant differ.
    pub fn refresh(&self, identity: Arc<Identity>, reply: ServerFrame) -> Result<(), Refusal> {
        let lost = self.session.borrow_mut().refresh(identity, reply)?;
        if !lost.is_empty() {
            self.unsubscribe(&lost, Some("no longer granted"), None);
        }
        Ok(())
    }

    /// The next thing to send, read from the log where the mailbox is empty and the session is
    /// not live.
    pub fn next(&self) -> Option<Outgoing> {
        let mut session = self.session.borrow_mut();
        let outgoing = session.next(&self.shard.bus);
        if let Some(sequences) = session.take_wanted() {
            self.read_back(sequences);
        }
        outgoing
    }

    /// Has the engine read what the session needs next, as long as there is this session.
    fn read_back(&self, sequences: Vec<u64>) {
        let (bus, session) = (Arc::clone(&self.shard.bus), Rc::downgrade(&self.session));
        let reading = tokio::task::spawn_local(async move {
            let fetched = bus.read_back(sequences).await;
            if let Some(session) = session.upgrade() {
                session.borrow_mut().take_fetched(fetched.ok());
            }
        });
        *self.reading.borrow_mut() = Some(reading.abort_handle());
    }

    /// Counts a chunk that goes out now, and what was taken out of the session for it. Its time is
    /// that at which the last event was taken, so that no clock is read for it.
    pub fn count_sent(&self, tally: &Tally, bytes: usize) {
        let session = self.session.borrow();
        let (transport, now) = (session.peer().transport, session.position_told());
        tally.count(&self.shard.metrics, transport, now);
        self.shard.metrics.sent_bytes(transport, bytes);
    }

    /// The position that is safe to resume from, once all that is in the mailbox was sent.
    pub fn position(&self) -> u64 {
        self.session.borrow().stream_position()
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        if let Some(reading) = self.reading.take() {
            reading.abort();
        }
        self.shard.close_session(self.key);
    }
}
