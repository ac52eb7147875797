//! Goes round a worker's connections: one timer for all of them, instead of one for each.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{Deadlines, connection::Link};

/// How often; deadlines are kept to about this.
const ROUND: Duration = Duration::from_secs(1);

/// The connections of one listener on one worker.
pub(super) struct Rounds {
    /// The number of the current round, from 1.
    now: Cell<u32>,
    /// Rounds that a head may take, and that a connection may be idle.
    head: u32,
    idle: u32,
    links: RefCell<Slab<Weak<Link>>>,
    draining: Cell<bool>,
    /// Connections that there was no place for, since the last round.
    dropped: Cell<u32>,
}

impl Rounds {
    /// Starts going round, until the worker ends.
    pub(super) fn start(deadlines: Deadlines, draining: watch::Receiver<bool>) -> Rc<Self> {
        let rounds_of = |deadline: Duration| u32::try_from(deadline.as_secs()).unwrap_or(u32::MAX);
        let rounds = Rc::new(Self {
            now: Cell::new(1),
            head: rounds_of(deadlines.head),
            idle: rounds_of(deadlines.keep_alive),
            links: RefCell::default(),
            draining: Cell::new(*draining.borrow()),
            dropped: Cell::new(0),
        });
        tokio::task::spawn_local(Rc::clone(&rounds).run(draining));
        rounds
    }

    pub(super) fn now(&self) -> u32 {
        self.now.get()
    }

    /// The round in which a head would have begun that has half of its time left.
    pub(super) fn half_way_to_the_end_of_a_head(&self) -> u32 {
        self.now.get().saturating_sub(self.head / 2).max(1)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    pub(super) fn enter(&self, link: &Rc<Link>) -> usize {
        self.links.borrow_mut().insert(Rc::downgrade(link))
    }

    pub(super) fn exit(&self, key: usize) {
        self.links.borrow_mut().try_remove(key);
    }

    pub(super) fn note_dropped(&self) {
        self.dropped.set(self.dropped.get().saturating_add(1));
    }

    async fn run(self: Rc<Self>, mut draining: watch::Receiver<bool>) {
        let mut ticks = interval(ROUND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first comes at once.
        ticks.tick().await;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.go_round(),
                changed = draining.changed(), if !self.is_draining() => match changed {
                    Ok(()) => self.drain(),
                    Err(_) => return,
                },
            }
        }
    }

    fn go_round(&self) {
        let dropped = self.dropped.take();
        if dropped > 0 {
            tracing::warn!(dropped, "connections over limits.connections were dropped");
        }
        let now = self.now.get().saturating_add(1);
        self.now.set(now);
        // Whoever has not asked by now is not waited for.
        let head = if self.is_draining() { 0 } else { self.head };
        self.for_each(|link| {
            link.look_at_head(now.saturating_sub(head));
            link.look_at_idleness(now.saturating_sub(self.idle));
        });
    }

    /// Ends the connections that nothing is under way on, and the others as soon as that is over.
    fn drain(&self) {
        self.draining.set(true);
        self.for_each(Link::leave);
    }

    /// `act` must not end a connection at once: it would leave while the others are gone through.
    fn for_each(&self, act: impl Fn(&Link)) {
        for (_, link) in self.links.borrow().iter() {
            if let Some(link) = link.upgrade() {
                act(&link);
            }
        }
    }
}
