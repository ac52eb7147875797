//! What the nodes of one log tell each other: through the log itself, so that every node hears
//! everything once and in the same order, and no node needs the address of another.
//!
//! A node that is new, or that has missed a part of the log, asks; one of the others answers with
//! all that is in force.

mod note;

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep, timeout},
};

use note::{Entry, Note, Said};

use crate::{
    auth::{Revocation, RevocationList},
    bus::{Bus, Hears},
    engine::EngineError,
    protocol::Refusal,
};

/// Notes that have come and were not looked at yet. When more come, the node asks for all that is in
/// force.
const WAITING_NOTES: usize = 1024;
/// How long a new node waits for another's answer before it takes clients: without one it is alone.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Nodes that could answer wait for a random part of this, so that one does.
const ANSWER_SPREAD_MS: u64 = 300;
/// Revocations that are told at once, so that a note stays small.
const REVOCATIONS_A_NOTE: usize = 500;
/// How long workers may take to tell how many sessions they ended. They end them all the same.
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
/// After how long what could not be asked is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Names one run of a node: 64 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(u64);

impl NodeId {
    fn random() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for NodeId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u64::from_str_radix(&text, 16).map(Self)
    }
}

/// This node among those of its log. One per gateway.
pub struct Cluster {
    node: NodeId,
    bus: Arc<Bus>,
    revocations: Arc<RevocationList>,
    /// The nodes that have asked and this one would answer; whether another one has.
    asking: Mutex<HashMap<NodeId, bool>>,
    /// Whether this node knows what is in force.
    informed: watch::Sender<bool>,
}

/// What has been told and was not looked at yet.
struct Inbox {
    notes: mpsc::Sender<Vec<u8>>,
    has_missed: Arc<Notify>,
}

impl Hears for Inbox {
    fn hear(&self, note: &[u8]) {
        if self.notes.try_send(note.to_vec()).is_err() {
            self.missed();
        }
    }

    fn missed(&self) {
        self.has_missed.notify_one();
    }
}

impl Cluster {
    /// Joins the nodes of the bus's log. It hears and answers them until the future is dropped.
    ///
    /// # Errors
    /// Where the operating system has no randomness to give.
    pub fn join(
        bus: Arc<Bus>,
        revocations: Arc<RevocationList>,
    ) -> Result<(Arc<Self>, impl Future<Output = ()> + Send), getrandom::Error> {
        let cluster = Arc::new(Self {
            node: NodeId::random()?,
            revocations,
            asking: Mutex::default(),
            informed: watch::Sender::new(!bus.is_shared()),
            bus,
        });
        let (notes, incoming) = mpsc::channel(WAITING_NOTES);
        let has_missed = Arc::new(Notify::new());
        cluster.bus.set_listener(Arc::new(Inbox {
            notes,
            has_missed: Arc::clone(&has_missed),
        }));
        let running = Arc::clone(&cluster).run(incoming, has_missed);
        Ok((cluster, running))
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Waits until the node knows what is in force, or nobody is there who could tell.
    pub async fn informed(&self) {
        let mut informed = self.informed.subscribe();
        let told = timeout(ANSWER_WITHIN, informed.wait_for(|informed| *informed)).await;
        if told.is_err() {
            tracing::info!(node = %self.node, "no other node answered: this one is the first");
            self.informed.send_replace(true);
        }
    }

    /// Tells the other nodes of a revocation that is in force here.
    ///
    /// # Errors
    /// `unavailable` where they may not have been told.
    pub async fn tell_revocation(&self, revocation: &Revocation) -> Result<(), Refusal> {
        self.tell(Said::Revoke(Entry::from(revocation)))
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
        let node = self.node;
        // Only strings, numbers and lists of them, which always have a JSON form.
        let note = serde_json::to_vec(&Note { node, said }).unwrap_or_default();
        self.bus.tell_nodes(note).await
    }

    async fn run(self: Arc<Self>, mut incoming: mpsc::Receiver<Vec<u8>>, has_missed: Arc<Notify>) {
        // It has missed all that was before it.
        has_missed.notify_one();
        loop {
            tokio::select! {
                note = incoming.recv() => match note {
                    Some(note) => self.obey(&note).await,
                    None => return,
                },
                () = has_missed.notified() => {
                    if let Err(error) = self.tell(Said::Ask).await {
                        tracing::warn!(%error, "the other nodes could not be asked what is in force");
                        sleep(ASK_AGAIN).await;
                        has_missed.notify_one();
                    }
                }
            }
        }
    }

    async fn obey(self: &Arc<Self>, note: &[u8]) {
        let Note { node, said } = match serde_json::from_slice(note) {
            Ok(note) => note,
            Err(error) => return tracing::warn!(%error, "a note of another node makes no sense"),
        };
        if node == self.node {
            return;
        }
        match said {
            Said::Revoke(entry) => self.revoke(entry.into()),
            Said::Ask => {
                self.asking().insert(node, false);
                tokio::spawn(Arc::clone(self).answer(node));
            }
            Said::Answer {
                to,
                revocations,
                is_last,
            } => {
                // Good for whoever it is for.
                for entry in revocations {
                    self.revoke(entry.into());
                }
                if is_last && to == self.node {
                    self.informed.send_replace(true);
                } else if is_last && let Some(is_answered) = self.asking().get_mut(&to) {
                    *is_answered = true;
                }
            }
            Said::Unknown => {}
        }
    }

    fn asking(&self) -> MutexGuard<'_, HashMap<NodeId, bool>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
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
            if let Err(error) = self.tell(Said::Revoke(Entry::from(&revocation))).await {
                tracing::warn!(%error, "the other nodes do not know how long a revocation lasts");
            }
        }
    }

    async fn answer(self: Arc<Self>, to: NodeId) {
        let delay = getrandom::u64().unwrap_or_default() % ANSWER_SPREAD_MS;
        sleep(Duration::from_millis(delay)).await;
        let is_answered = self.asking().remove(&to) != Some(false);
        if is_answered || !*self.informed.borrow() {
            return;
        }
        let entries = self.revocations.all(Timestamp::now());
        let mut chunks = entries.chunks(REVOCATIONS_A_NOTE).peekable();
        loop {
            let part = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let answer = Said::Answer {
                to,
                revocations: part.iter().map(Entry::from).collect(),
                is_last,
            };
            if let Err(error) = self.tell(answer).await {
                return tracing::warn!(%error, node = %to, "a new node could not be answered");
            }
            if is_last {
                return;
            }
        }
    }
}
