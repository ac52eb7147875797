//! Announces joins and leaves in the log, and tells the other nodes how many connections there are.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use futures_util::{StreamExt, future::Either, stream::FuturesUnordered};

use super::{ASK_AGAIN, COUNTS_A_NOTE, Cluster, note::Said};
use crate::{
    engine::{EngineError, IdempotencyKey},
    event::Draft,
    node::NodeId,
    presence::{Announcement, Change, Count, FORGET, PREFIX, Place, Presence},
    protocol::{Fingerprint, PublishLimits, PublishRequest, Publisher, Refusal},
    topic::{Tenant, Topic},
};

/// Announcements that are appended at a time.
const AT_A_TIME: usize = 64;
/// No token has a subject with a control character, so that no client's keys are those of presence.
const KEYS_OF_PRESENCE: &str = "\u{1}presence ";

impl Cluster {
    pub(super) async fn announce_forever(self: Arc<Self>, presence: Arc<Presence>) {
        // Who does not know who was announced would announce them again.
        let mut informed = self.informed.subscribe();
        let _ = informed.wait_for(|informed| *informed).await;
        // Of each member one at most.
        let mut waiting = VecDeque::new();
        let mut announcing = FuturesUnordered::new();
        loop {
            let turn = self.counting.lock().await;
            let due = presence.take_due(Instant::now());
            let is_told = self.tell_counts(&due.counts, false).await.is_ok();
            drop(turn);
            let owed = self.owes_counts.swap(false, Ordering::Relaxed);
            let told_all = match is_told && !owed {
                true => true,
                false => self.tell_all_counts(&presence).await.is_ok(),
            };
            if !told_all {
                self.owes_counts.store(true, Ordering::Relaxed);
            }
            waiting.extend(due.announcements);
            while announcing.len() < AT_A_TIME
                && let Some(announcement) = waiting.pop_front()
            {
                announcing.push(self.announce(&presence, announcement));
            }
            let retry = (!told_all).then(|| Instant::now() + ASK_AGAIN);
            let wake = match due.next.into_iter().chain(retry).min() {
                Some(at) => Either::Left(tokio::time::sleep_until(at.into())),
                None => Either::Right(std::future::pending()),
            };
            tokio::select! {
                () = presence.changed() => {}
                () = self.owing.notified() => {}
                () = wake => {}
                Some(()) = announcing.next() => {}
            }
        }
    }

    /// Tells them to nodes that may have missed some.
    pub(super) async fn tell_all_counts(&self, presence: &Presence) -> Result<(), EngineError> {
        let _turn = self.counting.lock().await;
        self.tell_counts(&presence.counts(), true).await
    }

    pub(super) async fn tell_announced(&self, to: NodeId, announced: &[(Place, u64)]) {
        for part in announced.chunks(COUNTS_A_NOTE) {
            let announced = part.iter().map(Into::into).collect();
            // It goes without: it may announce some of them a second time.
            let _ = self.tell(Said::Announced { to, announced }).await;
        }
    }

    async fn tell_counts(
        &self,
        counts: &[Count],
        mut begins_anew: bool,
    ) -> Result<(), EngineError> {
        let nothing_else = (begins_anew && counts.is_empty()).then_some(&[][..]);
        for part in counts.chunks(COUNTS_A_NOTE).chain(nothing_else) {
            let counts = part.iter().map(Into::into).collect();
            let told = self.tell(Said::Counts {
                begins_anew: std::mem::take(&mut begins_anew),
                counts,
            });
            let told = told.await;
            told.inspect_err(|error| {
                if let Some(held_back) = self.untold.pass() {
                    tracing::warn!(%error, held_back, "the other nodes do not know who is on which topic");
                }
            })?;
        }
        Ok(())
    }

    /// Appends the event, unless another node has.
    async fn announce(&self, presence: &Presence, what: Announcement) {
        let place = &what.place;
        let mut after = what.after;
        let check_at = loop {
            let key = self.bus.is_shared().then(|| key(&what, after));
            let draft = match draft(
                &place.tenant,
                &place.topic,
                what.change.event(),
                &place.subject,
            ) {
                Ok(draft) => draft,
                Err(error) => {
                    tracing::error!(%error, "a join or leave can not be announced");
                    break Instant::now() + ASK_AGAIN;
                }
            };
            match self.bus.publish(vec![draft], key).await {
                // An earlier change of the same kind, that this node does not know of.
                Ok(before) if before.duplicate && presence.needs(place) == Some(what.change) => {
                    after = before.first.sequence;
                }
                Ok(_) => break Instant::now(),
                Err(_) => break Instant::now() + ASK_AGAIN,
            }
        };
        presence.end_announcement(place, check_at);
    }

    /// Of the topics that the log tells of, this node does not know who is on them: nobody, until they
    /// come back.
    pub(super) async fn forget_everyone(&self) -> Result<(), Refusal> {
        for (tenant, topic) in self.bus.topics_under(PREFIX) {
            let Some(of) = topic.strip_prefix(PREFIX) else {
                continue;
            };
            let Ok(of) = Topic::parse(of) else {
                continue;
            };
            let draft = draft(&tenant, &of, FORGET, "")?;
            self.bus.publish(vec![draft], None).await?;
        }
        Ok(())
    }
}

fn key(what: &Announcement, after: u64) -> IdempotencyKey {
    let place = &what.place;
    let mut request = Fingerprint::new();
    request.field(place.topic.as_bytes());
    request.field(what.change.event().as_bytes());
    let request = request.finish();
    let subject = format!("{KEYS_OF_PRESENCE}{}", place.subject);
    let change = match what.change {
        Change::Join => "join",
        Change::Leave => "leave",
    };
    let key = format!("{} {change} {after}", place.topic);
    IdempotencyKey::new(&place.tenant, &subject, &key, request).of_the_gateway()
}

/// # Errors
/// Where the topic is too long, which those that are covered are not.
fn draft(tenant: &Tenant, topic: &Topic, event: &str, subject: &str) -> Result<Draft, Refusal> {
    let body = serde_json::json!({
        "topic": format!("{PREFIX}{topic}"),
        "event": event,
        "data": {"user_id": subject},
    })
    .to_string();
    let publisher = Publisher {
        subject,
        tenant,
        // Nobody publishes it but the gateway.
        trusted: true,
        trace_id: None,
    };
    let limits = PublishLimits {
        event_bytes: body.len() * 2 + 4096,
        nesting: 8,
        own_topics: None,
    };
    let mut drafts = PublishRequest::from_body(body.as_bytes())?.into_drafts(publisher, limits)?;
    drafts
        .pop()
        .ok_or_else(|| Refusal::bad_request("there is no event"))
}
