//! One client, without I/O: who it is, what it wants to see, up to where it was served, and a
//! bounded mailbox of what to send next. Transports pump it; the shard feeds it.
//!
//! A session reads the log in one of two ways. *Live*, the shard offers it each new event. *From
//! the log*, the session takes pages at the pace at which its transport drains the mailbox, until
//! a page reaches the end of the log; from that position on it is live. Resuming, catching up
//! after having been slow, and a late subscribe are all this one operation:
//!
//! ```text
//!            mailbox full, or a replay begins
//!   Live ───────────────────────────────────▶ From the log
//!        ◀───────────────────────────────────
//!            a page reached the end of the log
//! ```
//!
//! The seam is exact because a session and its shard live on one thread: an offer is skipped
//! unless its sequence is after the session's position, and the position is where the page ended.

mod mailbox;
mod peer;
mod replay;
mod tally;

use std::{
    cell::Cell,
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    task::Waker,
    time::{Duration, Instant},
};

use mailbox::Mailbox;
use peer::Record;
use replay::{Progress, Replay};

pub use mailbox::{Delivery, Outgoing};
pub use peer::Peer;
pub use replay::Announcement;
pub use tally::Tally;

use jiff::Timestamp;

use crate::{
    auth::Identity,
    bus::{Bus, Fetched, NoPage, Range, RewindScan, RewindStep, StartPoint},
    metrics::Ending,
    protocol::{
        CloseReason, ConnectionId, ErrorCode, LimitKind, Ref, Refusal, ResetReason, ServerFrame,
        SubscribeRequest, SubscriptionLimits,
    },
    subscription::FilterSet,
    topic::TopicFilter,
};

/// Pages read before the worker's other connections get their turn.
const STEPS_A_TURN: usize = 4;

/// Over how long clients come back for whom nothing can be read now.
const UNREADABLE_SPREAD: Duration = Duration::from_secs(5);

/// How long a client may take for what waits for it when its session ends. Longer than anyone who
/// reads needs.
const COLLECT_WITHIN: Duration = Duration::from_secs(10);

/// Ends a transport from outside of it, whether its client takes anything or not.
pub trait Sever {
    fn sever(&self);
}

/// Bounds on a session, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    pub subscriptions: SubscriptionLimits,
}

pub struct Session {
    identity: Arc<Identity>,
    record: Record,
    limits: SessionLimits,
    filters: FilterSet,
    /// A matching topic is all that an offered event needs.
    plain: bool,
    reading: Reading,
    /// Everything that the filters match up to here was put into the mailbox. A live session is
    /// also past all that its shard dispatched.
    position: u64,
    /// The shard's, up to which a live session was offered everything.
    dispatched: Rc<Cell<u64>>,
    /// The first one runs, the others wait for it.
    replays: VecDeque<Replay>,
    mailbox: Mailbox,
    stored: Stored,
    waker: Option<Waker>,
    /// `connected` is in the mailbox or was sent; before it there is no stream cursor.
    announced: bool,
    closed: Option<CloseReason>,
    closed_at: Option<Instant>,
    /// The transport's.
    lifeline: Option<Rc<dyn Sever>>,
    position_told: Instant,
}

/// Events that only the engine holds, on their way into the mailbox: a page of them at most.
#[derive(Default)]
enum Stored {
    #[default]
    Unneeded,
    /// To be asked for by whoever drives the session.
    Wanted(Vec<u64>),
    Asked,
    Here(Fetched),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Live,
    FromLog,
}

impl Session {
    pub(crate) fn new(
        identity: Arc<Identity>,
        peer: Peer,
        limits: SessionLimits,
        dispatched: Rc<Cell<u64>>,
    ) -> Self {
        Self {
            identity,
            record: Record::new(peer),
            limits,
            filters: FilterSet::default(),
            plain: true,
            reading: Reading::Live,
            position: 0,
            dispatched,
            replays: VecDeque::new(),
            mailbox: Mailbox::default(),
            stored: Stored::default(),
            waker: None,
            announced: false,
            closed: None,
            closed_at: None,
            lifeline: None,
            position_told: Instant::now(),
        }
    }

    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub fn id(&self) -> ConnectionId {
        self.record.id
    }

    pub fn peer(&self) -> Peer {
        self.record.peer
    }

    /// When the session was opened.
    pub fn since(&self) -> Instant {
        self.record.since
    }

    /// How many events the transport has taken.
    pub fn events_taken(&self) -> u64 {
        self.record.events
    }

    /// How many events wait in the mailbox, and their bytes.
    pub fn mailbox_size(&self) -> (usize, usize) {
        self.mailbox.size()
    }

    /// The poll that the session was opened for gets its answer.
    pub fn answer(&mut self) {
        self.record.answered = true;
    }

    /// The transport ends the connection for this reason, and needs no `closing` any more.
    pub fn end_as(&mut self, reason: CloseReason) {
        self.closed.get_or_insert(reason);
    }

    /// How the session came to its end, if this is the end.
    pub fn ending(&self) -> Ending {
        match self.closed {
            Some(reason) => Ending::Closed(reason),
            None if self.record.answered => Ending::Answered,
            None => Ending::Left,
        }
    }

    /// Why the session ends, once it does; what is in the mailbox is still to be sent.
    pub fn closed(&self) -> Option<CloseReason> {
        self.closed
    }

    /// When the client was last told a position, by an event or by a frame with a stream cursor.
    pub fn position_told(&self) -> Instant {
        self.position_told
    }

    /// Remembers whom to wake when there is something to send.
    pub fn wake_with(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Puts a reply or a notice into the mailbox, behind all that waits there.
    pub fn push_frame(&mut self, frame: ServerFrame) {
        self.mailbox.push_frame(frame);
        self.wake();
    }

    /// The client's messages should be left unread for now: so many replies wait, or a subscribe
    /// waits for another's replay and later replies must not overtake its own.
    pub fn is_congested(&self) -> bool {
        self.replays.iter().any(|replay| replay.progress.is_none()) || self.mailbox.is_congested()
    }

    /// Tells the position to a client that has heard nothing else for a while.
    pub fn push_heartbeat(&mut self, bus: &Bus) {
        // A waiting event tells a newer position anyway.
        if self.announced && self.closed.is_none() && !self.mailbox.has_events() {
            let cursor = bus.cursor(self.stream_position());
            self.push_frame(ServerFrame::Heartbeat { cursor });
        }
    }

    pub fn has_mail(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Ends the session: it takes no more events, and `closing` is the last frame it sends.
    /// `wait` is how long the client should stay away, where it may come back at all.
    pub fn close(&mut self, reason: CloseReason, wait: Duration) {
        if self.closed.is_none() {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            self.mailbox.push_frame(ServerFrame::closing(reason, wait));
            self.end(reason);
        }
    }

    fn end(&mut self, reason: CloseReason) {
        // No further event is taken, so the shard's progress is not the session's any more.
        self.position = self.settled_position();
        self.reading = Reading::FromLog;
        self.closed.get_or_insert(reason);
        self.closed_at.get_or_insert_with(Instant::now);
        self.wake();
    }

    /// Gives the means to end the transport, for when its client takes nothing any more.
    pub fn set_lifeline(&mut self, lifeline: Option<Rc<dyn Sever>>) {
        self.lifeline = lifeline;
    }

    /// Does what the transport can not while its client takes nothing, for then nobody polls it: ends
    /// the session with its token, and the transport with the session.
    pub(crate) fn look_after(&mut self, now: Timestamp, at: Instant) {
        match self.closed_at {
            None if self.identity.is_expired(now) => {
                self.close(CloseReason::TokenExpired, Duration::ZERO);
            }
            Some(since) if at.saturating_duration_since(since) >= COLLECT_WITHIN => self.abandon(),
            None | Some(_) => {}
        }
    }

    fn abandon(&mut self) {
        self.mailbox = Mailbox::default();
        if let Some(lifeline) = self.lifeline.take() {
            lifeline.sever();
        }
    }

    /// A live event from the shard. Not taken where the session does not want it, has it, or
    /// reads from the log; a full mailbox makes the session read from the log.
    pub(crate) fn offer(&mut self, delivery: &Rc<Delivery>) {
        let event = &delivery.event;
        if self.reading != Reading::Live
            || event.sequence <= self.position
            || self.closed.is_some()
            || !(self.plain || self.filters.matches(event))
        {
            return;
        }
        if self.mailbox.is_full() {
            if !event.ephemeral {
                self.position = event.sequence - 1;
                self.reading = Reading::FromLog;
            }
            return;
        }
        self.position = event.sequence;
        self.mailbox.push_event(Rc::clone(delivery));
        self.wake();
    }

    /// The shard skipped events after the position: a live session reads them from the log.
    pub(crate) fn fall_back(&mut self, position: u64) {
        if self.reading == Reading::Live {
            self.position = self.position.max(position);
            self.reading = Reading::FromLog;
            self.wake();
        }
    }

    /// Whether these subscriptions may start.
    ///
    /// # Errors
    /// `forbidden` outside the identity's grants, `too_many_subscriptions`.
    pub(crate) fn check_subscribe(&self, request: &SubscribeRequest) -> Result<(), Refusal> {
        self.check_grants(request)?;
        self.check_counts(request)
    }

    /// Starts subscriptions, which were found to be allowed.
    pub(crate) fn subscribe(
        &mut self,
        request: SubscribeRequest,
        start: StartPoint,
        announcement: Announcement,
        bus: &Bus,
    ) {
        let mut filters = FilterSet::default();
        let mut asked = Vec::with_capacity(request.subscriptions.len());
        for subscription in request.subscriptions {
            let filter = subscription.filter.clone();
            if filters.insert(subscription) {
                asked.push(filter);
            }
        }
        self.replays.push_back(Replay {
            filters,
            asked,
            start,
            announcement,
            rewind_scan: None,
            progress: None,
        });
        self.plain = false;
        if self.replays.len() == 1 && self.may_begin() {
            self.begin_replay(bus);
        }
        self.wake();
    }

    fn check_grants(&self, request: &SubscribeRequest) -> Result<(), Refusal> {
        let denied = request
            .subscriptions
            .iter()
            .find(|subscription| !self.identity.may_subscribe(&subscription.filter));
        match denied {
            None => Ok(()),
            Some(subscription) => Err(Refusal::new(
                ErrorCode::Forbidden,
                format!(
                    "the token's `subscribe` grants do not cover all of {:?}",
                    subscription.filter.as_str()
                ),
            )),
        }
    }

    fn check_counts(&self, request: &SubscribeRequest) -> Result<(), Refusal> {
        let limits = self.limits.subscriptions;
        let new = request
            .subscriptions
            .iter()
            .filter(|subscription| !self.is_subscribed(&subscription.filter));
        let (mut filters, mut patterns) = (0, 0);
        for subscription in new {
            filters += 1;
            patterns += usize::from(!subscription.filter.is_literal());
        }
        for set in self.filter_sets() {
            filters += set.len();
            patterns += set.pattern_count();
        }
        if filters > limits.subscriptions || patterns > limits.patterns {
            return Err(Refusal::new(
                ErrorCode::TooManySubscriptions,
                format!(
                    "a connection may have {} topic filters, {} of them with wildcards",
                    limits.subscriptions, limits.patterns
                ),
            )
            .over(LimitKind::Subscriptions));
        }
        Ok(())
    }

    fn is_subscribed(&self, filter: &TopicFilter) -> bool {
        self.filter_sets().any(|set| set.contains(filter))
    }

    pub(crate) fn filter_sets(&self) -> impl Iterator<Item = &FilterSet> {
        std::iter::once(&self.filters).chain(self.replays.iter().map(|replay| &replay.filters))
    }

    /// Every filter of the session, whether its replay is over or not.
    pub(crate) fn all_filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.filter_sets()
            .flat_map(FilterSet::iter)
            .map(|subscription| &subscription.filter)
    }

    pub(crate) fn unsubscribe(
        &mut self,
        filters: &[TopicFilter],
        reason: Option<&'static str>,
        reference: Option<Ref>,
    ) {
        for filter in filters {
            self.filters.remove(filter);
            for replay in &mut self.replays {
                replay.filters.remove(filter);
            }
        }
        self.drop_unwanted_mail();
        self.push_frame(ServerFrame::Unsubscribed {
            topics: filters
                .iter()
                .map(|filter| filter.as_str().to_owned())
                .collect(),
            reason,
            reference,
        });
    }

    /// No event of an ended subscription is sent after `unsubscribed`.
    fn drop_unwanted_mail(&mut self) {
        let mut mailbox = std::mem::take(&mut self.mailbox);
        mailbox.retain_events(|event| self.filter_sets().any(|set| set.wants(event)));
        self.mailbox = mailbox;
    }

    /// The filters that the fresh token does not grant any more.
    pub(crate) fn refresh(
        &mut self,
        identity: Arc<Identity>,
        reply: ServerFrame,
    ) -> Result<Vec<TopicFilter>, Refusal> {
        if identity.subject != self.identity.subject || identity.tenant != self.identity.tenant {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "a fresh token must be of the same `sub` and `tenant`: open a new connection",
            ));
        }
        self.identity = identity;
        self.push_frame(reply);
        let mut lost: Vec<TopicFilter> = self
            .all_filters()
            .filter(|filter| !self.identity.may_subscribe(filter))
            .cloned()
            .collect();
        // A filter that is subscribed anew stands in a replay as well.
        lost.sort();
        lost.dedup();
        Ok(lost)
    }

    /// The position that is safe to resume the whole session from, once the mailbox is sent.
    pub(crate) fn stream_position(&self) -> u64 {
        let settled = self.settled_position();
        match self
            .replays
            .front()
            .and_then(|replay| replay.progress.as_ref())
        {
            Some(progress) => progress.next_from().min(settled),
            None => settled,
        }
    }

    /// Up to where the session's subscriptions were served, replays aside.
    fn settled_position(&self) -> u64 {
        match self.reading {
            Reading::Live => self.position.max(self.dispatched.get()),
            Reading::FromLog => self.position,
        }
    }

    /// The next thing to send; `None` until woken.
    pub(crate) fn next(&mut self, bus: &Bus) -> Option<Outgoing> {
        // Each step reads one page, which may hold nothing that matches.
        for _ in 0..STEPS_A_TURN {
            let done = !self.mailbox.is_empty() || self.closed.is_some();
            if done || !self.advance(bus) {
                break;
            }
        }
        let outgoing = self.mailbox.pop()?;
        if matches!(outgoing, Outgoing::Event(_)) {
            self.record.events += 1;
        }
        if outgoing.tells_position() {
            self.position_told = Instant::now();
        }
        Some(outgoing)
    }

    /// There is more to read from the log now, so that the transport should ask again in its next
    /// turn instead of waiting to be woken.
    pub fn is_behind(&self) -> bool {
        self.closed.is_none() && (self.reading == Reading::FromLog || !self.replays.is_empty())
    }

    /// Nothing more can be read before the engine has answered.
    pub fn awaits_engine(&self) -> bool {
        self.closed.is_none() && matches!(self.stored, Stored::Wanted(_) | Stored::Asked)
    }

    /// What is to be read back from the engine, if anything is, and was not asked for before:
    /// [`Session::take_fetched`] is to be told the answer.
    pub(crate) fn take_wanted(&mut self) -> Option<Vec<u64>> {
        let Stored::Wanted(sequences) = &mut self.stored else {
            return None;
        };
        let sequences = std::mem::take(sequences);
        self.stored = Stored::Asked;
        Some(sequences)
    }

    /// What was read back; without it the session ends, and the client comes back with its cursor.
    pub(crate) fn take_fetched(&mut self, fetched: Option<Fetched>) {
        match fetched {
            Some(fetched) => {
                self.stored = Stored::Here(fetched);
                self.wake();
            }
            None => {
                self.stored = Stored::Unneeded;
                self.close(
                    CloseReason::Unavailable,
                    UNREADABLE_SPREAD.mul_f64(fastrand::f64()),
                );
            }
        }
    }

    /// Takes the session one step further towards live; false where it is, or has to wait.
    fn advance(&mut self, bus: &Bus) -> bool {
        if self.awaits_engine() {
            return false;
        }
        let Some(replay) = self.replays.front() else {
            let reads = self.reading == Reading::FromLog;
            if reads {
                self.advance_to_live(bus);
            }
            return reads;
        };
        if replay.progress.is_some() {
            self.advance_replay(bus);
        } else if replay.rewind_scan.is_some() {
            self.scan_for_rewind(bus);
        } else if self.may_begin() {
            self.begin_replay(bus);
        } else {
            self.advance_to_live(bus);
        }
        true
    }

    /// Rewound events lie anywhere up to the head of the log, so the session's other
    /// subscriptions must be there first: the client resumes all from the last id that it saw.
    fn may_begin(&self) -> bool {
        let rewinds = self
            .replays
            .front()
            .is_some_and(|replay| matches!(replay.start, StartPoint::Rewind(_)));
        !rewinds || self.filters.is_empty() || self.reading == Reading::Live
    }

    /// Begins the first replay: announces it, and stops the session's other subscriptions where
    /// they are until it is over.
    fn begin_replay(&mut self, bus: &Bus) {
        let window = bus.window();
        self.position = self.settled_position();
        self.reading = Reading::FromLog;
        let Some(replay) = self.replays.front_mut() else {
            return;
        };
        let head = window.head();
        if self.filters.is_empty() {
            // Nothing else is served, so the session is as far as its only subscriptions are.
            self.position = match replay.start {
                StartPoint::After { position, .. } => self.position.max(position),
                StartPoint::Earliest => self.position,
                StartPoint::Now | StartPoint::Rewind(_) | StartPoint::Unknown { .. } => head,
            };
        }
        let until = self.position;
        let position = match replay.start {
            StartPoint::Now | StartPoint::Unknown { .. } => head,
            StartPoint::Earliest => window.earliest(),
            StartPoint::After { position, .. } => position,
            StartPoint::Rewind(count) => {
                replay.rewind_scan = Some(RewindScan::new(count, until));
                return self.scan_for_rewind(bus);
            }
        };
        self.announce_replay(position, VecDeque::new(), bus);
        if matches!(self.replays[0].start, StartPoint::Unknown { .. }) {
            self.reset_replay(ResetReason::UnknownLog, bus);
        }
    }

    /// Looks for the first replay's rewound events, for as long as a turn may take.
    fn scan_for_rewind(&mut self, bus: &Bus) {
        let tenant = &self.identity.tenant;
        let fetched = self.stored.take();
        let Some(replay) = self.replays.front_mut() else {
            return;
        };
        let Some(mut scan) = replay.rewind_scan.take() else {
            return;
        };
        let (window, filters) = (bus.window(), &replay.filters);
        match window.scan_for_rewind(tenant, filters, &mut scan, Mailbox::PAGE, &fetched) {
            RewindStep::Complete => {
                let position = self.position;
                return self.announce_replay(position, scan.into_sequences().into(), bus);
            }
            RewindStep::More => self.stored = Stored::Here(fetched),
            RewindStep::Stored(sequences) => self.stored = Stored::Wanted(sequences),
        }
        replay.rewind_scan = Some(scan);
    }

    /// Tells where the first replay starts, once that is known.
    fn announce_replay(&mut self, position: u64, rewind: VecDeque<u64>, bus: &Bus) {
        let until = self.position;
        let Some(replay) = self.replays.front_mut() else {
            return;
        };
        let progress = Progress {
            position,
            until,
            rewind,
            under_way: false,
        };
        let from = progress.next_from();
        replay.progress = Some(progress);
        let frame = replay.announcement_frame(&self.identity, self.record.id, from, until, bus);
        self.announced = true;
        self.push_frame(frame);
    }

    /// Takes the first replay one step further: a page, or its end.
    fn advance_replay(&mut self, bus: &Bus) {
        let fetched = self.stored.take();
        let Some(replay) = self.replays.front_mut() else {
            return;
        };
        let tenant = &self.identity.tenant;
        match replay.read(tenant, bus.window(), &fetched, &mut self.mailbox) {
            Ok(false) => self.stored = Stored::Here(fetched),
            Ok(true) => self.finish_replay(bus),
            Err(NoPage::Stored(sequences)) => self.stored = Stored::Wanted(sequences),
            Err(NoPage::Gap) => match replay.forgive_gap(bus.window()) {
                Ok(()) => {}
                Err(reason) => self.reset_replay(reason, bus),
            },
        }
    }

    /// The first replay's subscriptions join the session's others.
    fn finish_replay(&mut self, bus: &Bus) {
        let Some(replay) = self.replays.pop_front() else {
            return;
        };
        if self.replays.is_empty() {
            // An idle session holds no memory for replays.
            self.replays = VecDeque::new();
        }
        let topics = replay.topics();
        let reference = replay.announcement.reference();
        let is_told = !topics.is_empty() || reference.is_some();
        let joined_at = replay.progress.map_or(0, |progress| progress.position);
        for mut subscription in replay.filters.into_subscriptions() {
            let served_until = self.filters.get(&subscription.filter).map(|replaced| {
                // It was subscribed all the time, so nothing after the session's position is lost.
                replaced.after.max(self.position)
            });
            subscription.after = served_until.map_or(joined_at, |until| until.min(joined_at));
            self.filters.insert(subscription);
        }
        self.update_plain();
        if is_told {
            self.push_frame(ServerFrame::Live {
                topics,
                cursor: bus.cursor(self.position),
                reference,
            });
        }
    }

    /// Events of the first replay were missed: tells so, and lets its subscriptions go on from
    /// now.
    fn reset_replay(&mut self, reason: ResetReason, bus: &Bus) {
        let Some(replay) = self.replays.front_mut() else {
            return;
        };
        let head = bus.window().head();
        if self.filters.is_empty() {
            self.position = head;
        }
        if let Some(progress) = &mut replay.progress {
            progress.position = head;
            progress.rewind.clear();
        }
        let whole = matches!(replay.announcement, Announcement::Connected { .. });
        let frame = ServerFrame::Reset {
            reason,
            cursor: bus.cursor(self.position),
            topics: (!whole).then(|| replay.topics()),
            reference: replay.announcement.reference(),
        };
        self.push_frame(frame);
        self.finish_replay(bus);
    }

    /// Puts the next page of the session's own position into the mailbox; at the end of the log
    /// the session is live.
    fn advance_to_live(&mut self, bus: &Bus) {
        let range = Range {
            after: self.position,
            until: None,
        };
        let tenant = &self.identity.tenant;
        let (fetched, window) = (self.stored.take(), bus.window());
        match window.page(tenant, &self.filters, range, Mailbox::PAGE, &fetched) {
            Ok(page) => {
                self.position = page.position;
                if page.complete {
                    self.reading = Reading::Live;
                    self.update_plain();
                } else {
                    self.stored = Stored::Here(fetched);
                }
                self.mailbox.push_page(page);
            }
            Err(NoPage::Stored(sequences)) => self.stored = Stored::Wanted(sequences),
            Err(NoPage::Gap) => {
                self.position = bus.window().head();
                self.mailbox.push_frame(ServerFrame::Reset {
                    reason: ResetReason::Lagged,
                    cursor: bus.cursor(self.position),
                    topics: None,
                    reference: None,
                });
            }
        }
    }

    fn update_plain(&mut self) {
        self.plain = self.replays.is_empty() && self.filters.is_plain_after(self.position);
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl Stored {
    /// What is here, taken out.
    fn take(&mut self) -> Fetched {
        match std::mem::take(self) {
            Self::Here(fetched) => fetched,
            Self::Unneeded | Self::Wanted(_) | Self::Asked => Fetched::default(),
        }
    }
}
