//! Subscriptions on their way to live: where they start, and how far they have come.

use std::{collections::VecDeque, rc::Rc, sync::Arc};

use super::mailbox::{Delivery, Mailbox};
use crate::{
    auth::Identity,
    bus::{Bus, Fetched, NoPage, Range, RewindScan, StartPoint, Whereabouts, Window},
    protocol::{ConnectionId, Ref, ResetReason, ServerFrame},
    subscription::FilterSet,
    topic::{Tenant, TopicFilter},
};

/// How the start of subscriptions is told.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// The connection's own, from its URL or body.
    Connected {
        message: &'static str,
        node: Option<Arc<str>>,
        heartbeat_ms: u64,
    },
    /// A `subscribe` message's.
    Subscribed { reference: Option<Ref> },
}

/// Subscriptions that replay before they join the session's others.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) filters: FilterSet,
    /// As they were asked for, for replies.
    pub(super) asked: Vec<TopicFilter>,
    pub(super) start: StartPoint,
    pub(super) announcement: Announcement,
    /// While the events to rewind to are looked for.
    pub(super) rewind_scan: Option<RewindScan>,
    /// `None` as long as another replay of the session runs.
    pub(super) progress: Option<Progress>,
}

/// How far a replay has come.
#[derive(Debug)]
pub(super) struct Progress {
    /// Everything that the filters match up to here was put into the mailbox, or is not wanted.
    pub(super) position: u64,
    /// Where the session's other subscriptions are, and wait for it.
    pub(super) until: u64,
    /// Single events that come before anything else, none of them after `until`.
    pub(super) rewind: VecDeque<u64>,
    /// A page was read, so that a gap from here on is the connection's own slowness.
    pub(super) under_way: bool,
}

impl Replay {
    pub(super) fn topics(&self) -> Vec<String> {
        let remaining = self
            .asked
            .iter()
            .filter(|filter| self.filters.contains(filter));
        remaining.map(|filter| filter.as_str().to_owned()).collect()
    }

    pub(super) fn announcement_frame(
        &self,
        identity: &Identity,
        id: ConnectionId,
        from: u64,
        until: u64,
        bus: &Bus,
    ) -> ServerFrame {
        match &self.announcement {
            Announcement::Connected {
                message,
                node,
                heartbeat_ms,
            } => ServerFrame::Connected {
                message,
                user_id: (*identity.subject).into(),
                connection_id: id.to_string().into(),
                cursor: match &self.start {
                    StartPoint::After { asked, .. } | StartPoint::Unknown { asked } => {
                        asked.clone()
                    }
                    StartPoint::Now | StartPoint::Earliest | StartPoint::Rewind(_) => {
                        bus.cursor(from)
                    }
                },
                heartbeat_ms: *heartbeat_ms,
                node: node.clone(),
            },
            Announcement::Subscribed { reference } => ServerFrame::Subscribed {
                topics: self.topics(),
                cursor: bus.cursor(from.min(until)),
                reference: reference.clone(),
            },
        }
    }

    /// Puts the next events into the mailbox; true where there are no more.
    pub(super) fn read(
        &mut self,
        tenant: &Tenant,
        window: &Window,
        fetched: &Fetched,
        mailbox: &mut Mailbox,
    ) -> Result<bool, NoPage> {
        let Some(progress) = &mut self.progress else {
            return Ok(false);
        };
        while let Some(sequence) = progress.rewind.front() {
            let here = match (window.event(*sequence), fetched.get(*sequence)) {
                (Whereabouts::Here(event), _) => Some(event),
                (Whereabouts::Stored, Some(event)) => Some(Arc::clone(event)),
                (Whereabouts::Stored, None) => {
                    let wanted = window.stored_of(progress.rewind.iter(), Mailbox::PAGE);
                    return Err(NoPage::Stored(wanted));
                }
                // What was trimmed meanwhile is not retained any more, which is all that was asked
                // for.
                (Whereabouts::Gone, _) => None,
            };
            progress.rewind.pop_front();
            if let Some(event) = here.filter(|event| self.filters.matches(event)) {
                mailbox.push_event(Rc::new(Delivery::from_log(event)));
            }
            if mailbox.is_full() {
                return Ok(false);
            }
        }
        if progress.position >= progress.until {
            return Ok(true);
        }
        let range = Range {
            after: progress.position,
            until: Some(progress.until),
        };
        let page = window.page(tenant, &self.filters, range, Mailbox::PAGE, fetched)?;
        progress.position = page.position;
        progress.under_way = true;
        let complete = page.complete;
        mailbox.push_page(page);
        Ok(complete)
    }

    /// Whoever asks for all that is retained misses nothing when that has become less meanwhile.
    pub(super) fn forgive_gap(&mut self, window: &Window) -> Result<(), ResetReason> {
        match (&self.start, &mut self.progress) {
            (StartPoint::Earliest, Some(progress)) if !progress.under_way => {
                progress.position = window.earliest();
                Ok(())
            }
            (_, Some(progress)) if !progress.under_way => Err(ResetReason::Expired),
            _ => Err(ResetReason::Lagged),
        }
    }
}

impl Progress {
    /// The position from which nothing of the replay has been put into the mailbox yet.
    pub(super) fn next_from(&self) -> u64 {
        match self.rewind.front() {
            Some(next) => self.position.min(next - 1),
            None => self.position,
        }
    }
}

impl Announcement {
    pub(super) fn reference(&self) -> Option<Ref> {
        match self {
            Self::Connected { .. } => None,
            Self::Subscribed { reference } => reference.clone(),
        }
    }
}
