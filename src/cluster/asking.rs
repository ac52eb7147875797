//! What a node asks that is new, or has missed a part of the log, and how the others answer.
//!
//! ```text
//! asks ─▶ hears its question ─▶ is answered by one that knows all
//!   ▲                       ├─▶ nobody is there, or all are new: they are the first
//!   └── no part for 5 s ────┼─▶ all others have missed something too: it goes on with what it knows
//!                           └─▶ 30 s are over: the same
//! ```

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::{sleep, timeout};

use super::{
    ANSWER_WITHIN, ASK_AGAIN, Cluster, QUESTION_WITHIN, REVOCATIONS_A_NOTE,
    note::{RevocationEntry, Said},
};
use crate::{engine::EngineError, node::NodeId};

/// Nodes that could answer wait for a random part of this, so that one does.
const ANSWER_SPREAD_MS: u64 = 300;
/// A node that has begun to answer is left alone with it until nothing came for so long.
const PART_WITHIN: Duration = Duration::from_secs(2);
/// After so long without a part of an answer the node asks again: whoever answered may be gone.
const NO_PART_WITHIN: Duration = Duration::from_secs(5);
/// A node that others are there for, and do not answer, goes on without them.
const GIVES_UP_AFTER: Duration = Duration::from_secs(30);
/// How often it looks whether that has come.
const LOOKS_EVERY: Duration = Duration::from_millis(200);
/// Between two questions, doubled while they follow each other: all others tell all for each.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(16);

/// A question of another node.
#[derive(Debug, Default)]
pub(super) struct Question {
    is_answered: bool,
    /// When another node that knows all told a part of its answer.
    last_part: Option<Instant>,
}

/// What this node knows of the answer to its own question.
#[derive(Debug)]
pub(super) struct Awaited {
    /// The last question that was heard.
    number: Option<u64>,
    sent_at: Instant,
    /// When the first of these questions was heard.
    heard_at: Instant,
    last_part: Instant,
}

impl Default for Awaited {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            number: None,
            sent_at: now,
            heard_at: now,
            last_part: now,
        }
    }
}

/// How long to wait before the next question.
struct Pause {
    length: Duration,
    asked_at: Option<Instant>,
}

impl Pause {
    fn new() -> Self {
        Self {
            length: LEAST_PAUSE,
            asked_at: None,
        }
    }

    /// How long to wait still.
    fn left(&self, now: Instant) -> Duration {
        let since = self.asked_at.map(|at| now.duration_since(at));
        since.map_or(Duration::ZERO, |since| self.length.saturating_sub(since))
    }

    fn has_asked(&mut self, now: Instant) {
        let since = self.asked_at.replace(now).map(|at| now.duration_since(at));
        self.length = match since {
            Some(since) if since < 2 * MOST_PAUSE => (2 * self.length).min(MOST_PAUSE),
            _ => LEAST_PAUSE,
        };
    }
}

/// Why a node waits for an answer no longer.
enum Outcome {
    Answered,
    /// Whoever is there is new.
    AllAreNew,
    /// Others are there, and none of them knows all.
    NobodyKnows,
    AskAgain,
    GivenUp,
}

impl Cluster {
    /// Waits until the node knows what is in force, or nobody is there who could tell; not for a log that
    /// can not be reached.
    pub async fn informed(&self) {
        let mut informed = self.informed.subscribe();
        let informed = informed.wait_for(|informed| *informed);
        let unreachable = async {
            sleep(ANSWER_WITHIN + QUESTION_WITHIN).await;
            if self.awaited().number.is_some() || !self.bus.is_shared() {
                std::future::pending().await
            }
        };
        tokio::select! {
            _ = informed => {}
            () = unreachable => {
                tracing::warn!("the log does not bring back what this node asked the others");
            }
        }
    }

    /// Asks for all that is in force, at the beginning and whenever something was missed.
    pub(super) async fn ask_forever(&self) {
        // Nobody has told anything before.
        if self.bus.began_log() {
            self.begin_as_first().await;
        }
        if !self.bus.is_shared() {
            return;
        }
        let mut pause = Pause::new();
        // It has missed all that was before it.
        self.has_missed.notify_one();
        loop {
            self.has_missed.notified().await;
            sleep(pause.left(Instant::now())).await;
            pause.has_asked(Instant::now());
            if let Err(error) = self.ask().await {
                tracing::warn!(%error, "the other nodes could not be asked what is in force");
                sleep(ASK_AGAIN).await;
                self.has_missed.notify_one();
                continue;
            }
            let outcome = self.await_answer().await;
            self.come_to(outcome).await;
        }
    }

    async fn ask(&self) -> Result<(), EngineError> {
        let is_new = !*self.informed.borrow();
        if !is_new {
            self.tell_own_revocations().await?;
        }
        let head = self.bus.window().head();
        self.asked_at.store(head, Ordering::Relaxed);
        let number = self.gap.ask();
        self.awaited().sent_at = Instant::now();
        self.has_buried.store(false, Ordering::Relaxed);
        self.tell(Said::Ask { number, is_new }).await
    }

    /// The others may never have heard of one: the log may have lost its end.
    async fn tell_own_revocations(&self) -> Result<(), EngineError> {
        let entries = self.revocations.all(Timestamp::now());
        for part in entries.chunks(REVOCATIONS_A_NOTE) {
            let revocations = part.iter().map(RevocationEntry::from).collect();
            self.tell(Said::Revoked { revocations }).await?;
        }
        Ok(())
    }

    /// The node's own question has come.
    pub(super) fn hear_own_question(&self, number: u64) {
        if !self.gap.hear_own(number) {
            return;
        }
        let now = Instant::now();
        let mut awaited = self.awaited();
        if awaited.number.is_none() {
            awaited.heard_at = now;
        }
        awaited.number = Some(number);
        awaited.last_part = now;
        drop(awaited);
        if let Some(presence) = &self.presence {
            presence.has_asked(now);
        }
    }

    /// A part of an answer to this node.
    pub(super) fn note_part(&self) {
        self.awaited().last_part = Instant::now();
    }

    async fn await_answer(&self) -> Outcome {
        loop {
            // Woken by the answer, and by nothing else that it could miss.
            let _ = timeout(LOOKS_EVERY, self.answered.notified()).await;
            if let Some(outcome) = self.outcome(Instant::now()) {
                return outcome;
            }
        }
    }

    /// `None` while it is to be waited for.
    fn outcome(&self, now: Instant) -> Option<Outcome> {
        if !self.gap.is_open() {
            return Some(Outcome::Answered);
        }
        let awaited = self.awaited();
        if !self.gap.is_heard() {
            // It has missed something since it asked, or its question does not come.
            let is_late = now.duration_since(awaited.sent_at) >= NO_PART_WITHIN;
            return (self.gap.is_unasked() || is_late).then_some(Outcome::AskAgain);
        }
        let since = now.duration_since(awaited.heard_at);
        if since < ANSWER_WITHIN {
            return None;
        }
        let heard = self.heard();
        let mut others = heard.iter().filter(|(node, _)| **node != self.node);
        if others.clone().all(|(_, heard)| heard.is_new) {
            return Some(Outcome::AllAreNew);
        }
        if others.all(|(_, heard)| heard.is_new || heard.knows_not_all == awaited.number) {
            return Some(Outcome::NobodyKnows);
        }
        match now.duration_since(awaited.last_part) {
            _ if since >= GIVES_UP_AFTER => Some(Outcome::GivenUp),
            silent if silent >= NO_PART_WITHIN => Some(Outcome::AskAgain),
            _ => None,
        }
    }

    async fn come_to(&self, outcome: Outcome) {
        let is_new = !*self.informed.borrow();
        match outcome {
            Outcome::AskAgain => {
                if self.knows_others() && is_new {
                    tracing::warn!("other nodes are there and do not answer: this one asks again");
                }
                return self.has_missed.notify_one();
            }
            Outcome::Answered => {}
            Outcome::AllAreNew => self.close_gap_unanswered(),
            Outcome::NobodyKnows => {
                tracing::warn!("no other node knows all that is in force");
                self.close_gap_unanswered();
            }
            Outcome::GivenUp => {
                tracing::error!(
                    "no other node has told within 30 s what is in force, though they are there: this one \
                     goes on with what it knows"
                );
                self.close_gap_unanswered();
            }
        }
        if is_new && matches!(outcome, Outcome::AllAreNew) {
            self.begin_as_first().await;
        } else {
            self.be_informed();
        }
        *self.awaited() = Awaited::default();
    }

    /// Nobody knows who was on which topic before.
    async fn begin_as_first(&self) {
        if self.bus.is_shared() {
            tracing::info!(node = %self.node, "no other node knows more: this one is the first");
        }
        if self.presence.is_some()
            && let Err(error) = self.forget_everyone().await
        {
            tracing::warn!(%error, "clients may take those for present who were before the restart");
        }
        self.be_informed();
    }

    fn be_informed(&self) {
        if let Some(presence) = &self.presence {
            presence.is_informed();
        }
        self.informed.send_replace(true);
    }

    /// Another node asks.
    pub(super) fn hear_question(self: &Arc<Self>, node: NodeId, number: u64) {
        let mut asking = self.asking();
        // It wants no other answer any more.
        asking.retain(|(other, _), _| *other != node);
        asking.insert((node, number), Question::default());
        drop(asking);
        if let Some(presence) = &self.presence {
            presence.tell_all();
        }
        tokio::spawn(Arc::clone(self).answer(node, number));
    }

    /// Another node that knows all answers a question.
    pub(super) fn hear_answered(&self, to: NodeId, number: u64, is_last: bool) {
        if let Some(question) = self.asking().get_mut(&(to, number)) {
            question.last_part = Some(Instant::now());
            question.is_answered |= is_last;
        }
    }

    /// Another node goes on with its answer to a third one.
    pub(super) fn note_part_to(&self, to: NodeId) {
        for ((asker, _), question) in self.asking().iter_mut() {
            if *asker == to && question.last_part.is_some() {
                question.last_part = Some(Instant::now());
            }
        }
    }

    async fn answer(self: Arc<Self>, to: NodeId, number: u64) {
        let answering = async {
            sleep(Duration::from_millis(fastrand::u64(..ANSWER_SPREAD_MS))).await;
            if self.is_left_to_this_node(to, number).await {
                return self.tell_all_in_force(to, number).await;
            }
            None
        };
        let ((), (), knows_all) =
            tokio::join!(self.tell_alive(), self.tell_all_spending(), answering);
        if let Some(knows_all) = knows_all {
            let nodes = self.heard().keys().copied().collect();
            self.tell_part(to, number, &[], knows_all, Some(nodes))
                .await;
        }
        self.asking().remove(&(to, number));
    }

    /// Waits until nobody else answers, or somebody has.
    async fn is_left_to_this_node(&self, to: NodeId, number: u64) -> bool {
        loop {
            let last_part = match self.asking().get(&(to, number)) {
                None => return false,
                Some(question) if question.is_answered => return false,
                Some(question) => question.last_part,
            };
            let left = last_part.map(|at| PART_WITHIN.saturating_sub(at.elapsed()));
            match left.filter(|left| !left.is_zero()) {
                Some(left) => sleep(left).await,
                None => return true,
            }
        }
    }

    fn is_asked(&self, to: NodeId, number: u64) -> bool {
        let asking = self.asking();
        asking
            .get(&(to, number))
            .is_some_and(|question| !question.is_answered)
    }

    /// All but the last part. Whether it is all that is in force; `None` where it could not be told, or need
    /// not be any more.
    async fn tell_all_in_force(&self, to: NodeId, number: u64) -> Option<bool> {
        let knows_all = *self.informed.borrow() && !self.gap.is_open();
        // Whoever is refused by them is to be refused at once.
        let entries = self.revocations.all(Timestamp::now());
        let mut parts = entries.chunks(REVOCATIONS_A_NOTE);
        let first = parts.next().unwrap_or_default();
        for part in std::iter::once(first).chain(parts) {
            if !self.tell_part(to, number, part, knows_all, None).await {
                return None;
            }
        }
        if let Some(presence) = &self.presence {
            self.tell_announced(to, &presence.announced(), || self.is_asked(to, number))
                .await;
        }
        // Tickets that it may not know to be used it does not pass on.
        if !self.gap.is_doubtful()
            && let Err(error) = self.tell_tickets(to, number).await
        {
            tracing::warn!(%error, node = %to, "a node could not be told of tickets");
            return None;
        }
        self.is_asked(to, number).then_some(knows_all)
    }

    /// Whether it was told. The last part is the one with the nodes that are there.
    async fn tell_part(
        &self,
        to: NodeId,
        number: u64,
        revocations: &[crate::auth::Revocation],
        knows_all: bool,
        nodes: Option<Vec<NodeId>>,
    ) -> bool {
        let is_last = nodes.is_some();
        let answer = Said::Answer {
            to,
            number,
            revocations: revocations.iter().map(RevocationEntry::from).collect(),
            is_last,
            knows_all,
            is_new: !*self.informed.borrow(),
            nodes: nodes.unwrap_or_default(),
        };
        let told = self.tell(answer).await;
        if let Err(error) = &told {
            tracing::warn!(%error, node = %to, "a node could not be answered");
        }
        told.is_ok()
    }
}
