//! One run of a gateway: the log that is open, and the bus that tails it.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    checker::{Checker, Moment},
    disk::{Disk, Hits, SimulatedDirectory},
};
use crate::{
    bus::{Feed, Retention},
    engine::{
        StoredEvent, Tail,
        disk::{
            DiskLog, DiskOptions,
            label::{LABEL, LabelError},
            patience::Unread,
            segment::SegmentError,
            shelf::Unreadable,
        },
    },
    event::{Event, LogId},
};

/// How often a client comes back for what can not be read.
const TRIES: usize = 5;

pub struct Gateway {
    pub log: DiskLog,
    disk: Arc<Disk>,
    tail: Arc<Witness>,
    unread: Unread,
}

/// The bus, and what it was told since somebody asked.
struct Witness {
    feed: Feed,
    disk: Arc<Disk>,
    heard: Mutex<Vec<Heard>>,
}

enum Heard {
    Begin(u64),
    Restore(Vec<StoredEvent>),
    Restart(LogId, u64),
    Extend(Vec<Arc<Event>>),
}

impl Witness {
    /// False where the process was killed before.
    fn hear(&self, heard: Heard) -> bool {
        if self.disk.is_dead() {
            return false;
        }
        let mut all = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(heard);
        true
    }

    fn take(&self) -> Vec<Heard> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut heard)
    }
}

impl Tail for Witness {
    fn told(&self, _: &[u8]) {}

    fn begin(&self, log: LogId, position: u64, trims: &[u8]) {
        if self.hear(Heard::Begin(position)) {
            self.feed.begin(log, position, trims);
        }
    }

    fn restore(&self, events: Vec<StoredEvent>, until: u64) {
        if self.hear(Heard::Restore(events.clone())) {
            self.feed.restore(events, until);
        }
    }

    fn restart(&self, log: LogId, position: u64) {
        if self.hear(Heard::Restart(log.clone(), position)) {
            self.feed.restart(log, position);
        }
    }

    fn extend(&self, events: Vec<Arc<Event>>) {
        if self.hear(Heard::Extend(events.clone())) {
            self.feed.extend(events);
        }
    }

    fn advance(&self, position: u64) {
        self.feed.advance(position);
    }

    fn trim(&self, position: u64) {
        self.feed.trim(position);
    }

    fn earliest(&self) -> u64 {
        self.feed.earliest()
    }

    fn trims(&self) -> Vec<u8> {
        self.feed.trims()
    }
}

impl Gateway {
    /// Starts, and reads all that is in the log.
    ///
    /// # Errors
    /// Where it was killed meanwhile, or stopped by an error of the disk's.
    pub fn start(
        disk: &Arc<Disk>,
        options: &DiskOptions,
        retention: Retention,
        checker: &mut Checker,
        now: Moment,
    ) -> Result<Self, String> {
        let hits = disk.hits();
        let tail = Arc::new(Witness {
            feed: Feed::new(retention),
            disk: Arc::clone(disk),
            heard: Mutex::default(),
        });
        let directory = Arc::new(SimulatedDirectory(Arc::clone(disk)));
        let witness = Arc::clone(&tail) as Arc<dyn Tail>;
        let opened = DiskLog::open(directory, options.clone(), witness);
        if disk.is_dead() {
            return Err("killed".to_owned());
        }
        let log = match opened {
            Ok(log) => log,
            Err(error) => {
                let is_label = error.downcast_ref::<LabelError>().is_some();
                if is_label && checker.is_excused() {
                    // It is of a newer version, as it seems. Somebody looks into it.
                    disk.forget(LABEL);
                } else {
                    assert_ne!(disk.hits(), hits, "can not start: {error:#}");
                }
                return Err(format!("{error:#}"));
            }
        };
        disk.calm_reads();
        let mut gateway = Self {
            log,
            disk: Arc::clone(disk),
            tail,
            unread: Unread::default(),
        };
        let is_whole = gateway.audit(now, checker);
        let damaged = || "damaged, and no new log can begin".to_owned();
        is_whole.then_some(gateway).ok_or_else(damaged)
    }

    /// Reads all that the tail was told of, whoever wants it or not. False where that is damaged,
    /// and no new log could begin.
    fn audit(&mut self, now: Moment, checker: &mut Checker) -> bool {
        let (mut after, mut restored) = (0, Vec::new());
        for heard in self.tail.take() {
            match heard {
                // What was there before has turned out to be a log that has to be given up.
                Heard::Begin(position) => (after, restored) = (position, Vec::new()),
                Heard::Restore(events) => restored.extend(events),
                Heard::Restart(..) | Heard::Extend(_) => panic!("the log is not open yet"),
            }
        }
        let (log, last) = (self.log_id(), self.log.last());
        checker.begin(&log, after);
        let sequences: Vec<u64> = restored.iter().map(|event| event.sequence).collect();
        // What the disk does not give is given up after some of them.
        let mut tries = (0..TRIES).map(|_| self.read_back(&sequences, checker));
        let Some(events) = tries.find_map(|read| read) else {
            return false;
        };
        // Else something can not be read any more, and a new log has begun.
        if self.log_id() == log {
            for event in events {
                checker.saw(&event);
            }
            checker.opened(&log, after, &restored, last, now);
        }
        true
    }

    pub fn feed(&self) -> &Feed {
        &self.tail.feed
    }

    pub fn log_id(&self) -> LogId {
        self.log.shelf().log()
    }

    /// Tells the checker what the tail was told of, and what the window holds.
    pub fn tell(&self, checker: &mut Checker) {
        self.tell_heard(checker);
        let extent = self.feed().window().extent();
        checker.holds(extent.events, extent.bytes);
    }

    fn tell_heard(&self, checker: &mut Checker) {
        for heard in self.tail.take() {
            match heard {
                Heard::Extend(events) => checker.extended(&events),
                Heard::Restart(log, last) => checker.restarted(&log, last),
                Heard::Begin(_) | Heard::Restore(_) => panic!("the log is open already"),
            }
        }
    }

    /// As the engine reads; `None` where it can not be read now.
    pub fn read_back(
        &mut self,
        sequences: &[u64],
        checker: &mut Checker,
    ) -> Option<Vec<Arc<Event>>> {
        let hits = self.disk.hits();
        let unreadable = match self.log.shelf().read(sequences) {
            Ok(events) => return Some(events),
            Err(unreadable) => unreadable,
        };
        if self.disk.is_dead() {
            return None;
        }
        let log = unreadable.log.clone();
        let damage = self.damage(unreadable, hits, checker)?;
        assert!(checker.is_excused(), "nothing was damaged: {damage}");
        self.log.lose(&log, &damage);
        self.tell_heard(checker);
        (self.log_id() != log).then(Vec::new)
    }

    /// As the engine tells what the log is to be given up for.
    fn damage(
        &self,
        unreadable: Unreadable,
        hits: Hits,
        checker: &mut Checker,
    ) -> Option<SegmentError> {
        let SegmentError::Io(error) = &unreadable.error else {
            return Some(unreadable.error);
        };
        assert_ne!(self.disk.hits(), hits, "can not read: {error}");
        if !unreadable.is_not_given() {
            return None;
        }
        let hits = self.disk.hits();
        let patience = std::time::Duration::ZERO;
        let noted = self.unread.note(&unreadable, self.log.shelf(), patience);
        if noted.is_some() && self.disk.hits() != hits {
            checker.excuse("the disk did not give it");
        }
        noted
    }
}
