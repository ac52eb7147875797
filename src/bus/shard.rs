//! The sessions of one worker thread, and the fan-out to them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use slab::Slab;
use tokio::sync::{mpsc, watch};

use super::{Bus, Latest, StartPoint, topic_index::TopicIndex};
use crate::{
    auth::Identity,
    event::Event,
    protocol::{CloseReason, Ref, Refusal, ServerFrame, SubscribeRequest},
    session::{Announcement, Delivery, Outgoing, Session, SessionLimits},
    telemetry::Telemetry,
    topic::{Tenant, TopicFilter},
};

/// Events dispatched before the worker's other tasks get their turn.
const DISPATCH_BATCH: usize = 64;

/// What a shard may be told from outside its thread.
#[derive(Clone, Debug)]
pub enum ShardCommand {
    /// End every session, the clients' return spread over this time.
    Drain { spread: Duration },
    /// End the sessions of a subject, or of one of its tokens.
    Revoke(Revocation),
}

/// Whose access ends.
#[derive(Clone, Debug)]
pub struct Revocation {
    pub tenant: Tenant,
    pub subject: Option<Arc<str>>,
    pub token_id: Option<Arc<str>>,
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
    /// The position up to which every live session was offered everything.
    dispatched: Rc<Cell<u64>>,
    sessions: RefCell<Slab<Rc<RefCell<Session>>>>,
    index: RefCell<TopicIndex<usize>>,
    scratch: RefCell<Scratch>,
    draining: Cell<bool>,
    telemetry: Option<Arc<Telemetry>>,
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
        telemetry: Option<Arc<Telemetry>>,
    ) -> Rc<Self> {
        let (head, commands) = bus.join();
        let shard = Rc::new(Self {
            dispatched: Rc::new(Cell::new(bus.window().head())),
            bus,
            limits,
            sessions: RefCell::default(),
            index: RefCell::default(),
            scratch: RefCell::default(),
            draining: Cell::new(false),
            telemetry,
        });
        tokio::task::spawn_local(Rc::clone(&shard).run(head, commands));
        shard
    }

    pub fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Adds a session for an authenticated client. It is removed when its handle is dropped.
    pub fn open(self: &Rc<Self>, identity: Arc<Identity>) -> SessionHandle {
        let session = Session::new(identity, self.limits, Rc::clone(&self.dispatched));
        let session = Rc::new(RefCell::new(session));
        let key = self.sessions.borrow_mut().insert(Rc::clone(&session));
        SessionHandle {
            shard: Rc::clone(self),
            key,
            session,
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
        loop {
            tokio::select! {
                changed = head.changed() => match changed {
                    Ok(()) => self.dispatch_to_head().await,
                    Err(_) => return,
                },
                Some(command) = commands.recv() => self.obey(&command),
            }
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
                self.dispatched.set(position);
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
            let delivery = Rc::new(Delivery::new(event));
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
        tracing::warn!("a worker fell far behind; its sessions read the log");
        let position = self.dispatched.get();
        for (_, session) in self.sessions.borrow().iter() {
            session.borrow_mut().fall_back(position);
        }
        self.dispatched.set(head);
    }

    fn obey(&self, command: &ShardCommand) {
        match command {
            ShardCommand::Drain { spread } => {
                self.draining.set(true);
                for (_, session) in self.sessions.borrow().iter() {
                    let wait = spread.mul_f64(fastrand::f64());
                    session.borrow_mut().close(CloseReason::Draining, wait);
                }
            }
            ShardCommand::Revoke(revocation) => {
                for (_, session) in self.sessions.borrow().iter() {
                    let mut session = session.borrow_mut();
                    if revocation.hits(session.identity()) {
                        session.close(CloseReason::Revoked, Duration::ZERO);
                    }
                }
            }
        }
    }

    fn close_session(&self, key: usize) {
        let session = self.sessions.borrow_mut().remove(key);
        let session = session.borrow();
        let mut index = self.index.borrow_mut();
        for filter in session.all_filters() {
            index.remove(&session.identity().tenant, filter, key);
        }
    }
}

impl Revocation {
    fn hits(&self, identity: &Identity) -> bool {
        let of_subject = match &self.subject {
            Some(subject) => identity.tenant == self.tenant && identity.subject == *subject,
            None => true,
        };
        let of_token = match &self.token_id {
            Some(token_id) => identity.token_id.as_ref() == Some(token_id),
            None => true,
        };
        of_subject && of_token && (self.subject.is_some() || self.token_id.is_some())
    }
}

/// A transport's hold on its session; dropping it is the one way in which a session ends.
pub struct SessionHandle {
    shard: Rc<Shard>,
    key: usize,
    session: Rc<RefCell<Session>>,
}

impl SessionHandle {
    pub fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Runs `act` on the session. It must not call back into the shard.
    pub fn with<T>(&self, act: impl FnOnce(&mut Session) -> T) -> T {
        act(&mut self.session.borrow_mut())
    }

    /// Starts subscriptions, whose events follow the announcement in the session's mailbox.
    ///
    /// # Errors
    /// `forbidden` outside the identity's grants, `too_many_subscriptions`.
    pub fn subscribe(
        &self,
        request: SubscribeRequest,
        start: StartPoint,
        announcement: Announcement,
    ) -> Result<(), Refusal> {
        let added: Vec<TopicFilter> = request
            .subscriptions
            .iter()
            .map(|subscription| subscription.filter.clone())
            .collect();
        let mut session = self.session.borrow_mut();
        if session.closed().is_some() {
            // It was closed while the start was awaited; `closing` stays the last frame.
            return Ok(());
        }
        session.subscribe(request, start, announcement, &self.shard.bus)?;
        let mut index = self.shard.index.borrow_mut();
        for filter in &added {
            index.insert(&session.identity().tenant, filter, self.key);
        }
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
        }
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
        self.session.borrow_mut().next(&self.shard.bus)
    }

    /// The position that is safe to resume from, once all that is in the mailbox was sent.
    pub fn position(&self) -> u64 {
        self.session.borrow().stream_position()
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        self.shard.close_session(self.key);
    }
}
