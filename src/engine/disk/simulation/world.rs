//! A world by its seed: publishers, clients, a gateway, and all that happens to them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, Ordering},
};

use fastrand::Rng;

use super::{
    checker::{Checker, Key, Moment},
    client::Client,
    disk::{Disk, Fault, Hits},
    gateway::Gateway,
};
use crate::{
    bus::Retention,
    engine::{
        IdempotencyKey, IdempotencyLimits,
        disk::{DiskOptions, Durability, Request, Stamp, failure::Health},
    },
    event::Draft,
    topic::{Tenant, Topic},
};

const TOPICS: [&str; 5] = ["a", "a:b", "a:c", "b", "b:c"];
const CLIENTS: usize = 5;
/// After so many starts of a disk that is well, one must have come about.
const STARTS_MOST: usize = 20;
const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;

pub struct World {
    rng: Rng,
    disk: Arc<Disk>,
    clock: Arc<Mutex<Stamp>>,
    boot: u32,
    durability: Durability,
    retention: Retention,
    log_ids: Arc<AtomicI64>,
    checker: Checker,
    clients: Vec<Client>,
    gateway: Option<Gateway>,
    /// The faults that were met when the log was last looked after.
    hits: Hits,
    /// A run with the durability `os` has begun, and did not end properly.
    is_at_risk: bool,
    /// Something was damaged that no start has looked at.
    is_damaged: bool,
    /// Since the last start that came about.
    has_lost_power: bool,
    /// What has happened, for whoever reads of a seed that failed.
    pub story: Vec<String>,
}

macro_rules! tell {
    ($world:expr, $($text:tt)*) => {{
        let text = format!($($text)*);
        $world.story.push(text);
    }};
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let retention = Retention {
            events: rng.usize(5..80),
            bytes: rng.usize(2_000..60_000),
            age: (rng.u8(..4) == 0).then(|| std::time::Duration::from_millis(1_800_500)),
            bytes_in_memory: Some(rng.usize(..10_000)),
            others: None,
        };
        let tenants = [Tenant::none(), Tenant::named("t")];
        let clients = (0..CLIENTS).map(|_| Client::random(&mut rng, &tenants, &TOPICS));
        let clients = clients.collect();
        Self {
            disk: Disk::new(rng.u64(..)),
            clock: Arc::new(Mutex::new(Stamp {
                at: 1_700_000_000 * SECOND,
                up: 7,
            })),
            boot: 0,
            durability: if rng.u8(..4) == 0 {
                Durability::Os
            } else {
                Durability::Sync
            },
            retention,
            log_ids: Arc::default(),
            checker: Checker::new(retention),
            clients,
            gateway: None,
            hits: Hits::default(),
            is_at_risk: false,
            is_damaged: false,
            has_lost_power: false,
            story: Vec::new(),
            rng,
        }
    }

    /// Lives through it all, and ends with everybody served.
    pub fn run(&mut self) {
        for _ in 0..self.rng.usize(20..150) {
            self.step();
        }
        self.come_to_rest();
    }

    fn step(&mut self) {
        if self.gateway.is_none() {
            return self.start();
        }
        match self.rng.u8(..100) {
            0..40 => self.publish(),
            40..70 => self.serve_someone(),
            70..76 => self.look_after(),
            76..80 => self.roll(),
            80..85 => self.pass_time(),
            85..90 => self.arm(),
            90..92 => self.give_space(),
            92..94 => self.damage(),
            94..96 => self.close(),
            96..98 => {
                self.disk.kill();
                self.crash();
            }
            _ => self.restart_where_it_stopped(),
        }
    }

    fn now(&self) -> Moment {
        Moment {
            stamp: *self.clock.lock().unwrap(),
            boot: self.boot,
        }
    }

    fn options(&self) -> DiskOptions {
        let (clock, ids) = (Arc::clone(&self.clock), Arc::clone(&self.log_ids));
        DiskOptions {
            durability: self.durability,
            // It is told when.
            segment_bytes: u64::MAX,
            idempotency: IdempotencyLimits {
                keys: 10_000,
                keys_per_subject: 10_000,
            },
            clock: Arc::new(move || *clock.lock().unwrap()),
            boot: format!("boot{}", self.boot),
            patience: std::time::Duration::ZERO,
            new_log: Arc::new(move || {
                let id = ids.fetch_add(1, Ordering::Relaxed);
                let cursor = format!("log{id:04}-0").parse::<crate::event::Cursor>();
                Ok(cursor.map_or_else(|_| unreachable!(), |cursor| cursor.log))
            }),
        }
    }

    fn start(&mut self) {
        if self.rng.u8(..3) == 0 {
            self.arm();
        }
        if self.rng.u8(..4) == 0 {
            self.give_space();
        }
        if self.rng.u8(..20) == 0 {
            self.durability = match self.durability {
                Durability::Os => Durability::Sync,
                Durability::Sync => Durability::Os,
            };
        }
        tell!(self, "start, {:?}", self.durability);
        self.is_at_risk |= self.durability == Durability::Os;
        self.checker.at(self.now());
        let options = self.options();
        let now = self.now();
        let (checker, retention) = (&mut self.checker, self.retention);
        match Gateway::start(&self.disk, &options, retention, checker, now) {
            Ok(gateway) => {
                let (log, last) = (gateway.log_id(), gateway.log.last());
                tell!(self, "{} until {last}", log.as_str());
                let gateway_is_well = gateway.log.health == Health::Well;
                self.gateway = Some(gateway);
                self.hits = self.disk.hits();
                // Without space the label still tells of the last run.
                let is_risk_over = gateway_is_well && self.durability == Durability::Sync;
                self.is_at_risk &= !is_risk_over;
                self.is_damaged = false;
                self.has_lost_power = false;
                self.after_operation();
            }
            Err(error) => {
                tell!(self, "it does not start: {error}");
                self.crash();
            }
        }
    }

    fn publish(&mut self) {
        let group = self.checker.next_batch();
        let requests: Vec<Request> = (0..self.rng.usize(1..=4))
            .map(|_| self.random_request())
            .collect();
        let (hits, now) = (self.hits, self.now());
        let Some(gateway) = &mut self.gateway else {
            return;
        };
        let was_well = gateway.log.health == Health::Well;
        let answers = gateway.log.append(requests);
        gateway.log.roll();
        gateway.tell(&mut self.checker);
        self.checker.at(now);
        let is_dead = self.disk.is_dead();
        let sound = was_well && self.disk.hits() == hits && !self.checker.is_excused();
        let ok = answers.iter().filter(|answer| answer.is_ok()).count();
        tell!(self, "publish {group}..{}: {ok} ok", group + answers.len());
        if !is_dead {
            for (batch, answer) in (group..).zip(&answers) {
                self.checker.answered(batch, answer, sound, group);
            }
        }
        self.after_operation();
    }

    fn random_request(&mut self) -> Request {
        let key = (self.rng.u8(..3) == 0).then(|| Key {
            key: self.rng.u8(..12),
            request: u8::from(self.rng.u8(..10) == 0),
        });
        let first = self.checker.next_event();
        let count = match self.rng.u8(..3) {
            0 => self.rng.usize(2..6),
            _ => 1,
        };
        let drafts: Vec<Draft> = (first..first + count)
            .map(|number| self.random_draft(number))
            .collect();
        let now = self.now();
        let batch = self.checker.publishing(drafts.clone(), key, now);
        if let Some(Key { key, request }) = key {
            tell!(
                self,
                "  batch {batch} has the key {key} of request {request}"
            );
        }
        Request {
            drafts,
            key: key.map(|Key { key, request }| {
                IdempotencyKey::new(&Tenant::none(), "s", &key.to_string(), [request; 16])
            }),
        }
    }

    fn random_draft(&mut self, number: usize) -> Draft {
        let topic = self.rng.choice(TOPICS).unwrap_or("a");
        let filler = match self.rng.u8(..20) {
            0 => self.rng.usize(..20_000),
            1..5 => self.rng.usize(..2000),
            _ => self.rng.usize(..50),
        };
        let name = if number.is_multiple_of(2) {
            "even"
        } else {
            "odd"
        };
        Draft {
            tenant: match self.rng.u8(..4) {
                0 => Tenant::named("t"),
                _ => Tenant::none(),
            },
            topic: Topic::parse(topic).unwrap(),
            name: name.into(),
            tags: [("number".into(), number.to_string().into())].into(),
            ephemeral: self.rng.u8(..8) == 0,
            trace: None,
            trace_id: None,
            body: format!(
                r#""topic":"{topic}","data":{number},"filler":"{}"}}"#,
                "x".repeat(filler)
            )
            .into_bytes(),
        }
    }

    fn serve_someone(&mut self) {
        let Some(gateway) = &mut self.gateway else {
            return;
        };
        let at = self.rng.usize(..self.clients.len());
        let client = &mut self.clients[at];
        if !client.is_here() {
            client.come(gateway, &self.checker, &mut self.rng);
        } else if self.rng.u8(..12) == 0 {
            client.leave(&mut self.rng);
        }
        for _ in 0..self.rng.usize(..6) {
            client.step(gateway, &mut self.checker, &mut self.rng);
        }
        self.after_operation();
    }

    fn look_after(&mut self) {
        let now = self.now();
        let Some(gateway) = &mut self.gateway else {
            return;
        };
        gateway.log.look_after();
        self.hits = self.disk.hits();
        gateway.tell(&mut self.checker);
        self.checker.at(now);
        let health = gateway.log.health.clone();
        tell!(self, "look after: {health:?}");
        self.after_operation();
    }

    /// The next commit is followed by another segment.
    fn roll(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.log.options.segment_bytes = 0;
            self.publish();
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.log.options.segment_bytes = u64::MAX;
        }
    }

    fn pass_time(&mut self) {
        let (set_by, passed) = match self.rng.u8(..9) {
            0 => (HOUR, 0),
            1 => (-HOUR, 0),
            2 => (0, HOUR),
            _ => (0, self.rng.i64(0..400) * SECOND),
        };
        let now = {
            let mut clock = self.clock.lock().unwrap();
            clock.at += set_by + passed;
            clock.up += passed.unsigned_abs();
            *clock
        };
        let (set_by, passed) = (set_by / SECOND, passed / SECOND);
        tell!(
            self,
            "{passed} s pass, and the clock is set by {set_by} s: {now:?}"
        );
        self.checker.at(self.now());
    }

    fn arm(&mut self) {
        let fault = match self.rng.u8(..12) {
            0..5 => Fault::Kill,
            5 => Fault::WriteError,
            6 => Fault::SyncError,
            7 => Fault::ReadError,
            8 => Fault::NameError,
            _ => Fault::Full,
        };
        let operations = self.rng.u32(..40);
        tell!(self, "{fault:?} in {operations} operations");
        self.disk.arm(fault, operations);
    }

    fn give_space(&mut self) {
        self.disk.give_space();
    }

    /// Damages a file that nobody writes to.
    fn damage(&mut self) {
        if self.rng.u8(..4) != 0 {
            return;
        }
        let Some(gateway) = &self.gateway else {
            return;
        };
        let written = gateway.log.active.name().to_owned();
        let sealed = |name: &str| name.ends_with(".segment") && name != written;
        let damage = match self.rng.bool() {
            true => self.disk.damage(sealed),
            false => self.disk.spoil(sealed),
        };
        if let Some(damage) = damage {
            tell!(self, "{damage}");
            self.checker.excuse("damaged");
        }
    }

    fn close(&mut self) {
        let Some(gateway) = self.gateway.take() else {
            return;
        };
        let hits = self.disk.hits();
        let log = &gateway.log;
        let was_well = log.health == Health::Well && !log.mishaps.need_restart();
        let closed = gateway.log.close();
        tell!(self, "close: {closed:?}");
        if closed.is_ok() {
            self.is_at_risk = false;
        } else {
            let is_sound = was_well && self.disk.hits() == hits && !self.disk.is_dead();
            assert!(!is_sound, "nothing is wrong with the disk: {closed:?}");
        }
        self.crash();
    }

    fn restart_where_it_stopped(&mut self) {
        let stopped = |gateway: &Gateway| gateway.log.health == Health::Stopped;
        if self.gateway.as_ref().is_some_and(stopped) {
            self.close();
        }
    }

    /// The gateway was killed by what was armed.
    fn after_operation(&mut self) {
        if self.disk.has_forgotten_trims() {
            self.checker.forget_trims();
        }
        if self.disk.is_dead() {
            self.crash();
        }
    }

    /// The process has come to its end, and perhaps the machine's power went with it.
    fn crash(&mut self) {
        self.gateway = None;
        if self.is_at_risk && self.disk.hits().syncs > 0 {
            self.checker
                .excuse("the disk did not take what the operating system had");
        }
        for client in &mut self.clients {
            client.leave(&mut self.rng);
        }
        // A write that was torn and one that was damaged later look the same, so that the last commit
        // may be gone unnoticed where both may have happened.
        let loses_power = !self.is_damaged && self.rng.u8(..3) == 0;
        if loses_power {
            tell!(self, "power failure");
            self.disk.kill();
            self.disk.lose_power();
            self.has_lost_power = true;
            self.boot += 1;
            self.clock.lock().unwrap().up = self.rng.u64(..1000);
            if self.is_at_risk {
                self.checker.excuse("the machine stopped");
            }
        } else if self.disk.is_dead() {
            tell!(self, "killed");
        }
        self.disk.revive();
        // Nor is there a witness of what it said where both were changed.
        if !self.has_lost_power
            && !self.is_damaged
            && self.rng.u8(..8) == 0
            && let Some(damage) = self.damage_any()
        {
            tell!(self, "{damage}");
            self.checker.excuse("damaged");
            self.is_damaged = true;
        }
    }

    fn damage_any(&mut self) -> Option<String> {
        let any = |name: &str| !name.contains('/');
        match self.rng.bool() {
            true => self.disk.damage(any),
            false => self.disk.spoil(any),
        }
    }

    /// Nothing happens any more, and everybody gets what is there.
    fn come_to_rest(&mut self) {
        self.disk.calm();
        if let Some(gateway) = &mut self.gateway {
            gateway.log.look_after();
            self.hits = self.disk.hits();
            gateway.tell(&mut self.checker);
            let health = gateway.log.health.clone();
            assert_ne!(health, Health::Full, "there is space");
            if health == Health::Stopped {
                self.close();
            }
        }
        for _ in 0..STARTS_MOST {
            if self.gateway.is_none() {
                self.disk.calm();
                self.start();
            }
        }
        assert!(self.gateway.is_some(), "it does not start");
        self.disk.calm();
        self.publish();
        for at in 0..self.clients.len() {
            self.serve_to_the_end(at);
        }
    }

    fn serve_to_the_end(&mut self, at: usize) {
        let Some(gateway) = &mut self.gateway else {
            return;
        };
        let client = &mut self.clients[at];
        for _ in 0..2000 {
            if client.is_served(gateway) {
                return;
            }
            if !client.is_here() {
                client.come(gateway, &self.checker, &mut self.rng);
            }
            client.step(gateway, &mut self.checker, &mut self.rng);
            if gateway.log.health != Health::Well {
                gateway.log.look_after();
                gateway.tell(&mut self.checker);
            }
        }
        panic!("a client is not served");
    }
}
