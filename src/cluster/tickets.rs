//! Tickets on every node: each node has them all, and all do the same with them in the order of the
//! log, so that a ticket is used once wherever it is used.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{sync::oneshot, time::timeout};

use super::{
    Cluster,
    gap::Closed,
    note::{Said, TicketAct, TicketEntry},
};
use crate::{
    auth::{
        Identity, IssueError, Outstanding, Redeem, Redeemed, StreamClaim, StreamLease, Ticket,
        TicketError, TicketHash, TicketUse,
    },
    engine::EngineError,
    node::NodeId,
    protocol::Refusal,
};

/// How long the log may take to bring back what this node told.
const DONE_WITHIN: Duration = Duration::from_secs(5);
/// Tickets that a new node is told of at once.
const TICKETS_A_NOTE: usize = 100;

/// What came of an act, on the node that wanted it.
pub(super) enum Outcome {
    Issued(Result<(), IssueError>),
    Redeemed(Result<Redeemed, TicketError>),
    TakenOver(Option<StreamLease>),
    /// This node may have missed what others did with the ticket.
    Unknown,
}

/// Whoever waits for an act: a client that has gone waits no longer.
struct Waiting<'a> {
    cluster: &'a Cluster,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.cluster.acts().remove(&self.number);
    }
}

impl Cluster {
    /// Makes a ticket for an identity that was verified just now.
    ///
    /// # Errors
    /// What [`IssueError`] becomes, and `unavailable` where the other nodes can not be told.
    pub async fn issue_ticket(
        &self,
        identity: Arc<Identity>,
        usage: TicketUse,
    ) -> Result<Ticket, Refusal> {
        let now = Timestamp::now();
        if !self.bus.is_shared() {
            return Ok(self.tickets.issue(identity, usage, now)?);
        }
        let (ticket, hash) = Ticket::random(&identity, now)?;
        let issued = Outstanding::new(hash, identity, usage, now);
        let act = TicketAct::Issue {
            ticket: Box::new(TicketEntry::from(&issued)),
        };
        match self.act(act, now).await? {
            Outcome::Issued(issued) => issued?,
            _ => return Err(out_of_order()),
        }
        Ok(ticket)
    }

    /// Whether this node knows the ticket as one that can be used.
    pub fn holds_ticket(&self, text: &str) -> bool {
        self.tickets.holds(text)
    }

    /// Takes a ticket.
    ///
    /// # Errors
    /// What [`TicketError`] becomes, and `unavailable` where the other nodes can not be told.
    pub async fn redeem_ticket(&self, text: &str, how: Redeem) -> Result<Redeemed, Refusal> {
        let now = Timestamp::now();
        if !self.bus.is_shared() {
            return Ok(self.tickets.redeem(text, how, now)?);
        }
        let hash = TicketHash::of(text)?;
        let act = TicketAct::Redeem {
            hash,
            stream_endpoint: how.stream_endpoint,
            has_last_event_id: how.has_last_event_id,
        };
        match self.act(act, now).await? {
            Outcome::Redeemed(redeemed) => Ok(redeemed?),
            Outcome::Unknown => Err(Refusal::unavailable(
                "this node has missed what other nodes did with tickets: get another one",
            )),
            _ => Err(out_of_order()),
        }
    }

    /// The stream begins, and an older one of the same ticket has to end, on whichever node it is.
    ///
    /// # Errors
    /// `unavailable` where the other nodes can not be told; `unauthorized` where the ticket has ended.
    pub async fn take_over(&self, claim: StreamClaim) -> Result<StreamLease, Refusal> {
        if !self.bus.is_shared() {
            return Ok(claim.take_over());
        }
        let hash = claim.hash();
        match self
            .act(TicketAct::TakeOver { hash }, Timestamp::now())
            .await?
        {
            Outcome::TakenOver(lease) => Ok(lease.ok_or(TicketError::Unknown)?),
            _ => Err(out_of_order()),
        }
    }

    /// Has all nodes do it, and tells what came of it here.
    async fn act(&self, act: TicketAct, at: Timestamp) -> Result<Outcome, Refusal> {
        let number = fastrand::u64(..);
        let (tell, told) = oneshot::channel();
        self.acts().insert(number, tell);
        let _waiting = Waiting {
            cluster: self,
            number,
        };
        let said = Said::Ticket { number, at, act };
        self.tell(said).await.map_err(Refusal::from)?;
        match timeout(DONE_WITHIN, told).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_)) | Err(_) => Err(Refusal::unavailable(
                "this node has not caught up with the log: try again",
            )),
        }
    }

    /// Does what a node wants done.
    pub(super) fn do_act(&self, node: NodeId, number: u64, at: Timestamp, act: TicketAct) {
        if !self.gap.record(at, &act) {
            // Too many to be done again: it asks anew, and hears fewer until it is answered.
            self.missed();
        }
        let outcome = match act {
            TicketAct::TakeOver { hash } => Outcome::TakenOver(self.tickets.take_over(&hash)),
            act => self.issue_or_redeem(act, at),
        };
        let outcome = match outcome {
            // Others may have used it, or know a ticket that this node does not.
            Outcome::Redeemed(Ok(Redeemed { claim: None, .. }) | Err(_))
                if self.gap.is_doubtful() && self.knows_others() =>
            {
                Outcome::Unknown
            }
            outcome => outcome,
        };
        let waiting = (node == self.node).then(|| self.acts().remove(&number));
        if let Some(tell) = waiting.flatten() {
            // Whoever waited may have given up.
            let _ = tell.send(outcome);
        }
    }

    fn issue_or_redeem(&self, act: TicketAct, at: Timestamp) -> Outcome {
        match act {
            TicketAct::Issue { ticket } => Outcome::Issued(self.adopt(*ticket, at)),
            TicketAct::Redeem {
                hash,
                stream_endpoint,
                has_last_event_id,
            } => {
                let how = Redeem {
                    stream_endpoint,
                    has_last_event_id,
                };
                Outcome::Redeemed(self.tickets.redeem_hash(hash, how, at))
            }
            TicketAct::TakeOver { hash } => {
                self.tickets.set_used(&hash);
                Outcome::TakenOver(None)
            }
        }
    }

    /// Has the tickets that another node had after this one's question was heard, and does what
    /// it heard since then once more, so that it comes to what all others have.
    pub(super) fn close_gap(&self, with: Closed) {
        self.tickets.replace(with.tickets);
        for (at, act) in with.acts {
            // Whoever waited for it was told when it was done first.
            let _ = self.issue_or_redeem(act, at);
        }
    }

    /// Nobody has answered who knows all. What others that are new told counts as far as it goes; what may have been
    /// used elsewhere meanwhile is forgotten: whoever comes with it gets another one.
    pub(super) fn close_gap_unanswered(&self) {
        let Some(mut closed) = self.gap.close_unanswered() else {
            return;
        };
        let mut tickets = self.tickets.all(Timestamp::now());
        if closed.is_doubtful && self.knows_others() {
            tracing::warn!(
                "no other node told which tickets are good: those not used yet are forgotten"
            );
            tickets.retain(|ticket| ticket.is_used);
        }
        closed.tickets.append(&mut tickets);
        self.close_gap(closed);
    }

    /// Takes a ticket on that another node made.
    fn adopt(&self, ticket: TicketEntry, at: Timestamp) -> Result<(), IssueError> {
        match Outstanding::try_from(ticket) {
            Ok(ticket) => self.tickets.adopt(ticket, at),
            // Of a later version, which grants what this one does not know.
            Err(_) => Ok(()),
        }
    }

    /// All tickets, for a node that does not know them.
    pub(super) async fn tell_tickets(&self, to: NodeId, number: u64) -> Result<(), EngineError> {
        let tickets = self.tickets.all(Timestamp::now());
        for part in tickets.chunks(TICKETS_A_NOTE) {
            let tickets = part.iter().map(TicketEntry::from).collect();
            let said = Said::Tickets {
                to,
                number,
                tickets,
            };
            self.tell(said).await?;
        }
        Ok(())
    }
}

fn out_of_order() -> Refusal {
    Refusal::unavailable("the other nodes did something else: try again")
}
