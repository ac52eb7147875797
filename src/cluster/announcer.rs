//! Announces joins and leaves in the log, and tells the other nodes how many connections there are.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{ASK_AGAIN, COUNTS_A_NOTE, Cluster, note::Said};
use crate::{
    engine::IdempotencyKey,
    event::Draft,
    node::NodeId,
    presence::{self, Announcement, Appended, Change, Counts, FORGET, PREFIX, Place, Presence},
    protocol::{Fingerprint, PublishLimits, PublishRequest, Publisher, Refusal},
    topic::{Tenant, Topic},
};

/// Announcements that are appended at a time.
const AT_A_TIME: usize = 64;
/// After how long a change is looked at again that another node had announced.
const AFTER_A_DUPLICATE: Duration = Duration::from_millis(100);
/// Topics that are forgotten with one append.
const FORGOTTEN_AT_ONCE: usize = 100;
/// The last announcements of a topic that are looked at, to find out whether anybody was left on it.
const LOOKED_AT: usize = 100;
/// No token has a subject with a control character, so that no client's keys are those of presence.
const KEYS_OF_PRESENCE: &str = "\u{1}presence ";

impl Cluster {
    /// Announces what has to be, as soon as this node knows who was announced.
    pub(super) async fn announce_forever(&self, presence: &Presence) {
        let mut informed = self.informed.subscribe();
        let _ = informed.wait_for(|informed| *informed).await;
        // Of each member one at most.
        let mut waiting = VecDeque::new();
        let mut announcing = FuturesUnordered::new();
        loop {
            let due = presence.take_due(Instant::now());
            waiting.extend(due.announcements);
            while announcing.len() < AT_A_TIME
                && let Some(announcement) = waiting.pop_front()
            {
                announcing.push(self.announce(presence, announcement));
            }
            let wake = until(due.next);
            tokio::select! {
                () = presence.changed() => {}
                () = wake => {}
                Some(()) = announcing.next() => {}
            }
        }
    }

    /// Tells the other nodes how many connections there are here: nobody else does, so that what is told
    /// later is later.
    pub(super) async fn tell_counts_forever(&self, presence: &Presence) {
        // Others wait for it.
        presence.tell_all();
        loop {
            match presence.take_counts(Instant::now(), COUNTS_A_NOTE) {
                Ok(counts) => self.tell_counts(presence, counts).await,
                Err(next) => tokio::select! {
                    () = presence.has_to_tell() => {}
                    () = until(next) => {}
                },
            }
        }
    }

    async fn tell_counts(&self, presence: &Presence, counts: Counts) {
        let told = self
            .tell(Said::Counts {
                number: counts.number,
                after: counts.after,
                begins_anew: counts.begins_anew,
                is_last: counts.is_last,
                counts: counts.counts.iter().map(Into::into).collect(),
            })
            .await;
        presence.counts_told(counts, told.is_ok(), Instant::now());
        if let Err(error) = told {
            if let Some(held_back) = self.untold.pass() {
                tracing::warn!(%error, held_back, "the other nodes do not know who is on which topic");
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// As long as the other one wants to know.
    pub(super) async fn tell_announced(
        &self,
        to: NodeId,
        announced: &[(Place, u64)],
        is_wanted: impl Fn() -> bool,
    ) {
        for part in announced.chunks(COUNTS_A_NOTE) {
            if !is_wanted() {
                return;
            }
            let announced = part.iter().map(Into::into).collect();
            // It goes without: it may announce some of them a second time.
            let _ = self.tell(Said::Announced { to, announced }).await;
        }
    }

    /// Appends the event, unless another node has.
    async fn announce(&self, presence: &Presence, what: Announcement) {
        let place = &what.place;
        let mut after = what.after;
        let wait = loop {
            let key = self.bus.is_shared().then(|| key(&what, after));
            let draft = draft(
                &place.tenant,
                &place.topic,
                what.change.event(),
                &place.subject,
            );
            let draft = match draft {
                Ok(draft) => draft,
                Err(error) => {
                    tracing::error!(%error, "a join or leave can not be announced");
                    break ASK_AGAIN;
                }
            };
            let Ok(appended) = self.bus.publish(vec![draft], key).await else {
                break ASK_AGAIN;
            };
            let came_to = Appended {
                position: appended.first.sequence,
                is_duplicate: appended.duplicate,
                read_until: self.bus.window().head(),
            };
            match presence.appended(&what, came_to, Instant::now()) {
                // An earlier change of the same kind, that this node does not know of.
                Some(position) => after = position,
                None if appended.duplicate => break AFTER_A_DUPLICATE,
                None => break Duration::ZERO,
            }
        };
        presence.end_announcement(place, Instant::now() + wait);
    }

    /// Of the topics that the log tells of, this node does not know who is on them: nobody, until they
    /// come back. Topics that the log leaves empty need no word.
    pub(super) async fn forget_everyone(&self) -> Result<(), Refusal> {
        let mut drafts = Vec::new();
        // Other nodes that are new do the same, and see the same.
        let mut seen = Fingerprint::new();
        for (tenant, topic) in self.bus.topics_under(PREFIX) {
            let of = topic.strip_prefix(PREFIX);
            let Some(of) = of.and_then(|of| Topic::parse(of).ok()) else {
                continue;
            };
            let (sequences, is_whole) = self.bus.window().newest(&tenant, &topic, LOOKED_AT);
            if !self.may_leave_someone(&sequences, is_whole).await? {
                continue;
            }
            drafts.push(draft(&tenant, &of, FORGET, "")?);
            seen.field(topic.as_bytes());
            seen.field(&sequences.last().copied().unwrap_or_default().to_be_bytes());
            if drafts.len() == FORGOTTEN_AT_ONCE {
                let seen = std::mem::replace(&mut seen, Fingerprint::new());
                self.forget_at_once(std::mem::take(&mut drafts), seen)
                    .await?;
            }
        }
        if drafts.is_empty() {
            return Ok(());
        }
        self.forget_at_once(drafts, seen).await
    }

    async fn forget_at_once(&self, drafts: Vec<Draft>, seen: Fingerprint) -> Result<(), Refusal> {
        let request = seen.finish();
        let name = format!("forget {request:?}");
        let key =
            IdempotencyKey::new(&Tenant::none(), KEYS_OF_PRESENCE, &name, request).of_the_gateway();
        let key = self.bus.is_shared().then_some(key);
        self.bus.publish(drafts, key).await.map(drop)
    }

    /// Whether somebody may be on a topic after its last announcements; where they are not whole, after others
    /// before them.
    async fn may_leave_someone(&self, sequences: &[u64], is_whole: bool) -> Result<bool, Refusal> {
        let events = self.bus.events(sequences).await?;
        let is_whole = is_whole && events.len() == sequences.len();
        Ok(!presence::leaves_nobody(&events, is_whole))
    }
}

/// Never where it is not known when.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
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
