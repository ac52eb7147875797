//! What the nodes of one log tell each other: through the log itself, so that every node hears
//! everything once and in the same order, and no node needs the address of another.
//!
//! A node that is new, or that has missed a part of the log, asks; one of the others answers with
//! all that is in force, and each tells who is connected to it. Who is not heard any more is gone.

mod announcer;
mod asking;
mod gap;
mod note;
mod spending;
mod tickets;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{MissedTickBehavior, sleep},
};

pub use note::About;

use asking::{Awaited, Question};
use gap::Gap;
use note::{Note, RevocationEntry, Said};
use tickets::Outcome;

use crate::{
    auth::{Revocation, RevocationList, TicketStore},
    bus::{Bus, Hears},
    engine::EngineError,
    event::Event,
    limits::Limits,
    node::NodeId,
    presence::{Counts, Presence},
    protocol::Refusal,
    throttle::Throttle,
};

/// Notes that have come and were not looked at yet. When more come, the node asks for all that is in
/// force.
const WAITING_NOTES: usize = 1024;
/// How long a new node waits for others to be heard before it takes clients: without any it is alone.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// And for its own question to come back, from which on that is counted.
const QUESTION_WITHIN: Duration = Duration::from_secs(1);
/// Revocations, and counts of connections, that are told at once, so that a note stays small.
const REVOCATIONS_A_NOTE: usize = 500;
const COUNTS_A_NOTE: usize = 500;
/// How often a node says that it is there, and after what silence it is taken for dead.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How long a node is remembered that has left. What it said then comes at once after it.
const FORGET_LEFT_AFTER: Duration = Duration::from_secs(60);
/// How long workers may take to tell how many sessions they ended. They end them all the same.
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
/// After how long what could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What the nodes of a log are to agree on, each with its own.
pub struct Agreed {
    pub revocations: Arc<RevocationList>,
    pub tickets: Arc<TicketStore>,
    pub limits: Arc<Limits>,
    /// Where it is kept.
    pub presence: Option<Arc<Presence>>,
    /// The node's name, for operators.
    pub name: Option<String>,
    /// Streams and waiting polls of this node.
    pub connections: Arc<AtomicUsize>,
}

/// What this node knows of one of the nodes of its log, itself among them.
pub struct KnownNode {
    pub node: NodeId,
    pub is_this: bool,
    /// What it told last.
    pub about: About,
    pub last_heard: Duration,
}

/// A node that was heard, and not known to be gone.
struct Heard {
    at: Instant,
    about: About,
    /// It knew nothing when it told of it last.
    is_new: bool,
    /// The question of this node that it could not answer.
    knows_not_all: Option<u64>,
}

/// This node among those of its log. One per gateway.
pub struct Cluster {
    node: NodeId,
    bus: Arc<Bus>,
    revocations: Arc<RevocationList>,
    limits: Arc<Limits>,
    presence: Option<Arc<Presence>>,
    /// The position at which it asked last: what came later it has read itself.
    asked_at: AtomicU64,
    /// The questions that this node would answer.
    asking: Mutex<HashMap<(NodeId, u64), Question>>,
    /// Its own.
    awaited: Mutex<Awaited>,
    answered: Notify,
    /// The nodes that are there, this one too.
    heard: Mutex<HashMap<NodeId, Heard>>,
    /// Those that have said that they are going, and when: what they said meanwhile is still heard.
    left: Mutex<HashMap<NodeId, Instant>>,
    /// This node has said so.
    has_left: Mutex<bool>,
    name: Option<String>,
    connections: Arc<AtomicUsize>,
    has_missed: Arc<Notify>,
    gap: Arc<Gap>,
    /// Which of those who asked for all that was spent have been told.
    told_all_spending: watch::Sender<u64>,
    /// A node was taken for dead since this one asked last.
    has_buried: AtomicBool,
    tickets: Arc<TicketStore>,
    /// What was told to be done with tickets, and who waits for it.
    acts: Mutex<HashMap<u64, oneshot::Sender<Outcome>>>,
    untold: Throttle,
    /// For the one that runs it.
    incoming: Mutex<Option<mpsc::Receiver<Vec<u8>>>>,
    began: Instant,
    /// Whether this node knows what is in force.
    informed: watch::Sender<bool>,
}

/// What has been told and was not looked at yet.
struct Inbox {
    presence: Option<Arc<Presence>>,
    notes: mpsc::Sender<Vec<u8>>,
    has_missed: Arc<Notify>,
    gap: Arc<Gap>,
}

impl Hears for Inbox {
    fn hear(&self, note: &[u8]) {
        if self.notes.try_send(note.to_vec()).is_err() {
            self.missed();
        }
    }

    fn read(&self, event: &Event) {
        if let Some(presence) = &self.presence {
            presence.read(event, Instant::now());
        }
    }

    fn missed(&self) {
        self.gap.missed();
        if let Some(presence) = &self.presence {
            presence.has_missed();
        }
        self.has_missed.notify_one();
    }
}

impl Cluster {
    /// Joins the nodes of the bus's log; they are heard and answered by [`Cluster::run`].
    ///
    /// # Errors
    /// Where the operating system has no randomness to give.
    pub fn join(bus: Arc<Bus>, agreed: Agreed) -> Result<Arc<Self>, getrandom::Error> {
        let (notes, incoming) = mpsc::channel(WAITING_NOTES);
        let gap = Arc::new(Gap::new(bus.is_shared()));
        let cluster = Arc::new(Self {
            node: NodeId::random()?,
            revocations: agreed.revocations,
            limits: agreed.limits,
            presence: agreed.presence,
            asking: Mutex::default(),
            awaited: Mutex::default(),
            answered: Notify::new(),
            heard: Mutex::default(),
            left: Mutex::default(),
            has_left: Mutex::default(),
            name: agreed.name,
            connections: agreed.connections,
            has_missed: Arc::default(),
            gap: Arc::clone(&gap),
            told_all_spending: watch::Sender::new(0),
            has_buried: AtomicBool::default(),
            tickets: agreed.tickets,
            acts: Mutex::default(),
            incoming: Mutex::new(Some(incoming)),
            untold: Throttle::default(),
            began: Instant::now(),
            informed: watch::Sender::new(false),
            asked_at: AtomicU64::default(),
            bus,
        });
        cluster.bus.set_listener(Arc::new(Inbox {
            presence: cluster.presence.clone(),
            notes,
            has_missed: Arc::clone(&cluster.has_missed),
            gap,
        }));
        Ok(cluster)
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Tells the other nodes of a revocation that is in force here.
    ///
    /// # Errors
    /// `unavailable` where they may not have been told.
    pub async fn tell_revocation(&self, revocation: &Revocation) -> Result<(), Refusal> {
        self.tell(Said::Revoke(RevocationEntry::from(revocation)))
            .await
            .map_err(|error| {
                Refusal::unavailable(format!(
                    "access ended on this node, but the others may not know ({error}): try again"
                ))
            })
    }

    async fn tell(&self, said: Said) -> Result<(), EngineError> {
        if !self.bus.is_shared() {
            return Ok(());
        }
        let is_last = matches!(said, Said::Leave);
        // Who is gone can still do something to clients.
        let is_welcome = matches!(said, Said::Ticket { .. } | Said::Revoke(_));
        let node = self.node;
        // Only strings, numbers and lists of them, which always have a JSON form.
        let note = serde_json::to_vec(&Note { node, said }).unwrap_or_default();
        let told = {
            let mut has_left = self.has_left.lock().unwrap_or_else(PoisonError::into_inner);
            if *has_left && !is_welcome {
                return Ok(());
            }
            *has_left |= is_last;
            // It takes its place in the log now.
            self.bus.tell_nodes(note)
        };
        told.await
    }

    /// The nodes of the log that this one knows of, itself first; the others by their ids.
    pub fn nodes(&self) -> Vec<KnownNode> {
        let heard = self.heard();
        let others = heard.iter().filter(|(node, _)| **node != self.node);
        let others = others.map(|(node, heard)| KnownNode {
            node: *node,
            is_this: false,
            about: heard.about.clone(),
            last_heard: heard.at.elapsed(),
        });
        let mut nodes: Vec<_> = others.collect();
        nodes.sort_unstable_by_key(|known| known.node.to_string());
        let itself = KnownNode {
            node: self.node,
            is_this: true,
            about: self.about(),
            last_heard: match self.bus.is_shared() {
                true => heard
                    .get(&self.node)
                    .map_or(self.began.elapsed(), |heard| heard.at.elapsed()),
                false => Duration::ZERO,
            },
        };
        nodes.insert(0, itself);
        nodes
    }

    fn about(&self) -> About {
        About {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }

    /// That it is there, which others that do not hear it find out.
    async fn tell_alive(&self) {
        let is_new = !*self.informed.borrow();
        let about = self.about();
        // Whoever does not hear of it takes this node for dead, and asks when it is back.
        let _ = self.tell(Said::Alive { about, is_new }).await;
    }

    fn knows_others(&self) -> bool {
        self.heard().keys().any(|node| *node != self.node)
    }

    /// Hears and answers the other nodes, and announces who is where, for ever. A second run does
    /// nothing.
    pub async fn run(self: Arc<Self>) {
        let incoming = self
            .incoming
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(incoming) = incoming else {
            return;
        };
        let presence = self.presence.clone();
        let announcing = async {
            if let Some(presence) = &presence {
                tokio::join!(
                    self.announce_forever(presence),
                    self.tell_counts_forever(presence)
                );
            }
        };
        tokio::join!(
            self.listen(incoming),
            self.ask_forever(),
            self.be_there_forever(),
            announcing,
            self.tell_spending_forever()
        );
    }

    /// Takes what comes as it comes: nothing in here waits for the log.
    async fn listen(self: &Arc<Self>, mut incoming: mpsc::Receiver<Vec<u8>>) {
        while let Some(note) = incoming.recv().await {
            self.obey(&note);
        }
    }

    async fn be_there_forever(&self) {
        let mut alive = tokio::time::interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            alive.tick().await;
            self.tell_alive().await;
            self.bury_the_dead(Instant::now());
        }
    }

    /// Forgets nodes that were not heard for long, unless this one hears nothing at all, not even
    /// itself.
    fn bury_the_dead(&self, now: Instant) {
        let mut heard = self.heard();
        let hears = heard
            .get(&self.node)
            .is_some_and(|heard| now.duration_since(heard.at) < DEAD_AFTER / 2);
        if !hears {
            for heard in heard.values_mut() {
                heard.at = now;
            }
            return;
        }
        self.left()
            .retain(|_, at| now.duration_since(*at) < FORGET_LEFT_AFTER);
        let dead: Vec<_> = heard
            .iter()
            .filter(|(_, heard)| now.duration_since(heard.at) >= DEAD_AFTER)
            .map(|(node, _)| *node)
            .collect();
        for node in dead {
            heard.remove(&node);
            self.has_buried.store(true, Ordering::Relaxed);
            tracing::warn!(%node, "a node was not heard for 15 s: its clients count as gone");
            self.limits.subjects.forget_node(node);
            if let Some(presence) = &self.presence {
                presence.forget_node(node, Instant::now());
            }
        }
    }

    /// Tells the other nodes that this one is going.
    pub async fn leave(&self) {
        // Else they find out.
        let _ = self.tell(Said::Leave).await;
    }

    fn obey(self: &Arc<Self>, note: &[u8]) {
        let Note { node, said } = match serde_json::from_slice(note) {
            Ok(note) => note,
            Err(error) => return tracing::warn!(%error, "a note of another node makes no sense"),
        };
        let has_left = self.left().contains_key(&node);
        let is_new = !has_left && self.note_heard(node, &said);
        match said {
            Said::Ticket { number, at, act } => self.do_act(node, number, at, act),
            Said::Ask { number, .. } if node == self.node => self.hear_own_question(number),
            Said::Revoke(entry) if node != self.node => self.revoke(entry.into()),
            _ if node == self.node || has_left => {}
            said => self.heed(node, said, is_new),
        }
    }

    /// Whether it was not known to be there.
    fn note_heard(&self, node: NodeId, said: &Said) -> bool {
        let mut heard = self.heard();
        let mut is_first = false;
        let known = heard.entry(node).or_insert_with(|| {
            is_first = true;
            Heard {
                at: Instant::now(),
                about: About::default(),
                is_new: false,
                knows_not_all: None,
            }
        });
        known.at = Instant::now();
        match said {
            Said::Alive { about, is_new } => {
                known.is_new = *is_new;
                known.about = about.clone();
            }
            Said::Ask { is_new, .. } | Said::Answer { is_new, .. } => known.is_new = *is_new,
            _ => {}
        }
        if let Said::Answer {
            number,
            knows_all: false,
            is_last: true,
            to,
            ..
        } = said
            && *to == self.node
        {
            known.knows_not_all = Some(*number);
        }
        is_first
    }

    /// What another node says of itself, or to this one.
    fn heed(self: &Arc<Self>, node: NodeId, said: Said, is_new: bool) {
        if is_new {
            tracing::info!(%node, "another node is there");
            if let Some(presence) = &self.presence {
                presence.expect(node, Instant::now());
            }
            // Whoever was there when this node asked answers, and whoever came later tells all from its
            // beginning. One that was taken for dead has to be asked, as soon as it says that it is there.
            let was_dead = self.has_buried.load(Ordering::Relaxed);
            if was_dead && matches!(said, Said::Alive { .. }) {
                self.has_missed.notify_one();
            }
        }
        match said {
            Said::Ask { number, .. } => self.hear_question(node, number),
            Said::Answer {
                to,
                number,
                revocations,
                is_last,
                knows_all,
                nodes,
                ..
            } => {
                // Good for whoever it is for.
                self.revoke_all(revocations);
                if to != self.node {
                    if knows_all {
                        self.hear_answered(to, number, is_last);
                    }
                    return;
                }
                self.note_part();
                if !is_last || !knows_all {
                    return;
                }
                self.expect_all(nodes);
                if let Some(closed) = self.gap.close(node, number) {
                    self.close_gap(closed);
                }
                self.answered.notify_one();
            }
            Said::Revoked { revocations } => self.revoke_all(revocations),
            Said::Counts {
                number,
                after,
                begins_anew,
                is_last,
                counts,
            } => {
                let counts = counts.into_iter();
                let counts = Counts {
                    number,
                    after,
                    begins_anew,
                    is_last,
                    counts: counts.filter_map(|entry| entry.try_into().ok()).collect(),
                };
                if let Some(presence) = &self.presence {
                    presence.hear(node, counts, Instant::now());
                }
            }
            Said::Announced { to, announced } if to == self.node => {
                self.note_part();
                if let Some(presence) = &self.presence {
                    let announced = announced.into_iter();
                    let announced = announced.filter_map(|entry| entry.try_into().ok());
                    let asked_at = self.asked_at.load(Ordering::Relaxed);
                    presence.learn(announced.collect(), asked_at, Instant::now());
                }
            }
            Said::Spent {
                begins_anew,
                is_last,
                spending,
            } => self.hear_spending(node, begins_anew, is_last, spending),
            Said::Leave => {
                self.heard().remove(&node);
                self.left().insert(node, Instant::now());
                self.limits.subjects.forget_node(node);
                tokio::spawn(Arc::clone(self).forget_later(node));
            }
            Said::Tickets {
                to,
                number,
                tickets,
            } if to == self.node => {
                self.note_part();
                self.gap.hear(node, number, tickets);
            }
            Said::Announced { to, .. } | Said::Tickets { to, .. } => self.note_part_to(to),
            Said::Ticket { .. } | Said::Revoke(_) | Said::Alive { .. } | Said::Unknown => {}
        }
    }

    /// Nodes are there that this one has perhaps not heard yet.
    fn expect_all(&self, nodes: Vec<NodeId>) {
        let now = Instant::now();
        for node in nodes {
            if node == self.node || self.left().contains_key(&node) {
                continue;
            }
            self.heard().entry(node).or_insert_with(|| Heard {
                at: now,
                about: About::default(),
                is_new: false,
                knows_not_all: None,
            });
            if let Some(presence) = &self.presence {
                presence.expect(node, now);
            }
        }
    }

    /// Its clients come to other nodes within the grace, as after any other end of a connection.
    async fn forget_later(self: Arc<Self>, node: NodeId) {
        if let Some(presence) = &self.presence {
            sleep(presence.grace()).await;
            presence.forget_node(node, Instant::now());
        }
    }

    fn acts(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Outcome>>> {
        self.acts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<NodeId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn left(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It has to ask what it does not know.
    fn missed(&self) {
        self.gap.missed();
        if let Some(presence) = &self.presence {
            presence.has_missed();
        }
        self.has_missed.notify_one();
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<(NodeId, u64), Question>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revoke_all(self: &Arc<Self>, revocations: Vec<RevocationEntry>) {
        for entry in revocations {
            self.revoke(entry.into());
        }
    }

    /// Puts a revocation in force that another node told of, and ends the sessions that it hits.
    fn revoke(self: &Arc<Self>, revocation: Revocation) {
        if self.enforce(&revocation) {
            tokio::spawn(Arc::clone(self).end_sessions(revocation));
        }
    }

    /// Whether it is in force now and was not before.
    fn enforce(&self, revocation: &Revocation) -> bool {
        let now = Timestamp::now();
        if revocation.until <= now || self.revocations.covers(revocation) {
            return false;
        }
        if let Err(error) = self.revocations.revoke(revocation, now) {
            tracing::error!(%error, "a revocation of another node is not in force on this one");
        }
        true
    }

    async fn end_sessions(self: Arc<Self>, mut revocation: Revocation) {
        let told = self
            .bus
            .end_sessions(&revocation.whose, COUNT_DEADLINE)
            .await;
        let ended = told.total();
        tracing::info!(
            subject = revocation.whose.subject.as_deref(),
            tenant = revocation.whose.tenant.as_deref(),
            jti = revocation.whose.token_id.as_deref(),
            disconnected = ended.sessions,
            until = %revocation.until,
            "access was revoked on another node"
        );
        let Some(until) = ended.tokens_until.filter(|until| *until > revocation.until) else {
            return;
        };
        if revocation.to_its_end {
            // Only here it came to light how long the client's tokens are good.
            revocation.until = until;
            self.enforce(&revocation);
            if let Err(error) = self
                .tell(Said::Revoke(RevocationEntry::from(&revocation)))
                .await
            {
                tracing::warn!(%error, "the other nodes do not know how long a revocation lasts");
            }
        }
    }
}
