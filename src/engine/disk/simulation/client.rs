//! A client, and the session that serves it while it is there: what a session of the gateway does
//! between the bus and a client, one step at a time.

use std::{rc::Rc, sync::Arc};

use fastrand::Rng;

use super::{checker::Checker, gateway::Gateway};
use crate::{
    bus::{Fetched, Latest, NoPage, PageLimits, Range},
    event::{Cursor, Event, LogId},
    subscription::{Conditions, FilterSet, Subscription},
    topic::{Tenant, TopicFilter},
};

/// Of how many of its cursors a client may come back with any.
const CURSORS: usize = 4;

pub struct Client {
    tenant: Tenant,
    filters: FilterSet,
    /// Those that it was told last, the newest at the end.
    cursors: Vec<String>,
    session: Option<Session>,
}

struct Session {
    /// The log when it was last looked at.
    log: LogId,
    position: u64,
    is_live: bool,
    stored: Stored,
}

enum Stored {
    Unneeded,
    Wanted(Vec<u64>),
    Here(Fetched),
}

impl Client {
    pub fn random(rng: &mut Rng, tenants: &[Tenant], topics: &[&str]) -> Self {
        let tenant = rng.choice(tenants).cloned().unwrap_or_default();
        let mut filters = FilterSet::default();
        for _ in 0..rng.usize(1..=2) {
            let topic = rng.choice(topics).copied().unwrap_or("a");
            let filter = match rng.u8(..4) {
                0 => "**",
                1 => "a:*",
                _ => topic,
            };
            let conditions = (rng.u8(..4) == 0).then(|| {
                Rc::new(Conditions {
                    events: Some(["even".into()].into()),
                    tags: Box::default(),
                })
            });
            filters.insert(Subscription {
                filter: TopicFilter::parse(filter).unwrap(),
                conditions,
                after: 0,
            });
        }
        Self {
            tenant,
            filters,
            cursors: Vec::new(),
            session: None,
        }
    }

    pub fn is_here(&self) -> bool {
        self.session.is_some()
    }

    /// Leaves, and remembers the cursor that it was told last, or an earlier one where the network
    /// lost what came after it.
    pub fn leave(&mut self, rng: &mut Rng) {
        self.session = None;
        if rng.u8(..4) == 0 {
            let keep = rng.usize(..=self.cursors.len());
            self.cursors.truncate(keep.max(1));
        }
    }

    /// Comes back with its cursor, or for the first time.
    pub fn come(&mut self, gateway: &Gateway, checker: &Checker, rng: &mut Rng) {
        let window = gateway.feed().window();
        let log = gateway.log_id();
        let cursor = self.cursors.last().map(|text| text.parse::<Cursor>());
        let position = match cursor {
            // As `Bus::resume` has it.
            Some(Ok(cursor)) if gateway.feed().is_of_log(&cursor) => {
                if cursor.sequence <= window.head() {
                    cursor.sequence
                } else {
                    checker.unknown(&cursor);
                    window.head()
                }
            }
            Some(cursor) => {
                checker.unknown(&cursor.unwrap());
                window.head()
            }
            None if rng.bool() => window.earliest(),
            None => window.head(),
        };
        self.session = Some(Session {
            log,
            position,
            is_live: false,
            stored: Stored::Unneeded,
        });
        self.note_position(gateway, position);
    }

    fn note_position(&mut self, gateway: &Gateway, position: u64) {
        self.note(gateway.feed().cursor(position));
    }

    fn note(&mut self, cursor: String) {
        if self.cursors.len() == CURSORS {
            self.cursors.remove(0);
        }
        self.cursors.push(cursor);
    }

    /// Takes what there is, one step further.
    pub fn step(&mut self, gateway: &mut Gateway, checker: &mut Checker, rng: &mut Rng) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.is_live {
            return self.take_live(gateway, checker, rng);
        }
        match std::mem::replace(&mut session.stored, Stored::Unneeded) {
            Stored::Wanted(sequences) => match gateway.read_back(&sequences, checker) {
                Some(events) => session.stored = Stored::Here(Fetched::new(events)),
                // It is closed as `unavailable`.
                None => self.leave(rng),
            },
            Stored::Here(fetched) => self.take_page(&fetched, gateway, checker, rng),
            Stored::Unneeded => self.take_page(&Fetched::default(), gateway, checker, rng),
        }
    }

    fn take_page(
        &mut self,
        fetched: &Fetched,
        gateway: &Gateway,
        checker: &mut Checker,
        rng: &mut Rng,
    ) {
        let Some(session) = &mut self.session else {
            return;
        };
        let limits = PageLimits {
            events: rng.usize(1..20),
            bytes: rng.usize(1..8000),
        };
        let range = Range {
            after: session.position,
            until: None,
        };
        let window = gateway.feed().window();
        match window.page(&self.tenant, &self.filters, range, limits, fetched) {
            Ok(page) => {
                session.is_live = page.complete;
                self.passed(page.position, &page.events, gateway, checker);
            }
            Err(NoPage::Stored(sequences)) => session.stored = Stored::Wanted(sequences),
            Err(NoPage::Gap) => {
                checker.reset(&self.tenant, &self.filters, &session.log, session.position);
                session.position = window.head();
                session.log = gateway.log_id();
                self.note_position(gateway, window.head());
            }
        }
    }

    /// What the shard offers.
    fn take_live(&mut self, gateway: &Gateway, checker: &mut Checker, rng: &mut Rng) {
        let Some(session) = &mut self.session else {
            return;
        };
        let mut events = Vec::new();
        let window = gateway.feed().window();
        match window.latest(session.position, rng.usize(1..10), &mut events) {
            Latest::Behind(_) => session.is_live = false,
            Latest::Events(position) => {
                events.retain(|event: &Arc<Event>| {
                    event.tenant == self.tenant && self.filters.matches(event)
                });
                self.passed(position, &events, gateway, checker);
            }
        }
    }

    fn passed(
        &mut self,
        position: u64,
        events: &[Arc<Event>],
        gateway: &Gateway,
        checker: &mut Checker,
    ) {
        let Some(session) = &mut self.session else {
            return;
        };
        let after = session.position;
        let wanted = (&self.tenant, &self.filters);
        checker.passed(wanted, (&session.log, after), position, events);
        session.position = position;
        session.log = gateway.log_id();
        for event in events {
            self.note(String::from_utf8(event.id().to_vec()).unwrap());
        }
        if events.is_empty() {
            self.note_position(gateway, position);
        }
    }

    /// Whether there is nothing more to take.
    pub fn is_served(&self, gateway: &Gateway) -> bool {
        let head = gateway.feed().window().head();
        let session = self.session.as_ref();
        session.is_some_and(|session| session.is_live && session.position == head)
    }
}
