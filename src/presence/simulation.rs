//! Some nodes, their connections that come and go, notes that are late, lost, or told twice, nodes that die,
//! or miss a part of the log: whatever happens, the log ends up saying who is there, never says anything
//! twice, and never that someone has left who is there.

use std::collections::BTreeMap;

use super::*;
use crate::{
    event::{Cursor, Draft},
    node::NodeId,
};

const NODES: usize = 3;
const SUBJECTS: [&str; 5] = ["alice", "bob", "carol", "dave", "eve"];
/// So that not all are told of at once.
const COUNTS_A_NOTE: usize = 2;
const GRACE: Duration = Duration::from_millis(400);
const STEP: Duration = Duration::from_millis(20);
/// After so many steps the others have noticed that a node is dead, and a node asks again.
const DEAD_AFTER: u32 = 150;
const ASKS_AGAIN_AFTER: u32 = 100;
/// Whoever is there for so many steps is known to be.
const KNOWN_AFTER: u32 = 350;
/// Longer than anyone waits for anything.
const SETTLED_AFTER: usize = 1000;

/// What one node tells all.
#[derive(Clone)]
enum Said {
    Counts(NodeId, Counts),
    /// With what names the question.
    Ask(NodeId, usize),
    /// For the one that asked.
    Known(NodeId, Vec<(Place, u64)>),
    Answer(NodeId, usize, Vec<NodeId>),
    Announced(Change, Place),
}

/// What comes about later on.
enum Later {
    Say(Said),
    /// A node is told whether its note was told.
    Told(Counts, bool),
    /// An announcement reaches the log, after a join.
    Append(Announcement, u64),
    /// And the node is told of it: nothing where it is not known to have come there.
    Appended(Announcement, Option<(u64, bool)>),
    Answer(NodeId, usize),
    /// The teller says what it knows, and whom.
    EndAnswer(NodeId, usize),
}

struct Node {
    id: NodeId,
    presence: Presence,
    connections: Vec<(Place, ConnectionId, Instant)>,
    /// How much of the log it has read, and how much of what was told in it.
    read: usize,
    heard: usize,
    /// Neither comes.
    is_late: bool,
    is_deaf: bool,
    /// It knows what was announced, or did before it missed something.
    is_informed: bool,
    is_new: bool,
    asked_at: usize,
    asks_again_at: Instant,
    /// When the other nodes were heard last.
    others: BTreeMap<NodeId, Instant>,
    is_telling: bool,
    tells_at: Instant,
}

struct World {
    now: Instant,
    log: Vec<Said>,
    /// Changes by their keys: the position of each.
    keys: BTreeMap<(Place, Change, u64), u64>,
    nodes: Vec<Node>,
    later: Vec<(Instant, NodeId, Later)>,
    seed: u64,
}

impl Node {
    fn new(now: Instant) -> Self {
        let rooms = TopicFilter::parse("room:*").unwrap();
        let presence = Presence::new(vec![rooms], GRACE, true);
        presence.tell_all();
        Self {
            id: NodeId::random().unwrap(),
            presence,
            connections: Vec::new(),
            read: 0,
            heard: 0,
            is_late: false,
            is_deaf: false,
            is_informed: false,
            is_new: true,
            asked_at: 0,
            asks_again_at: now,
            others: BTreeMap::new(),
            is_telling: false,
            tells_at: now,
        }
    }
}

fn place(subject: &str) -> Place {
    Place {
        tenant: Tenant::none(),
        topic: Topic::parse("room:1").unwrap(),
        subject: subject.into(),
    }
}

fn event(change: Change, place: &Place, position: u64) -> Event {
    let topic = format!("{PREFIX}{}", place.topic);
    let (name, subject) = (change.event(), &place.subject);
    let body = format!(r#""topic":"{topic}","event":"{name}","data":{{"user_id":"{subject}"}}}}"#);
    let draft = Draft {
        tenant: place.tenant.clone(),
        topic: Topic::parse(&topic).unwrap(),
        name: change.event().into(),
        tags: [].into(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: body.into_bytes(),
    };
    let cursor: Cursor = format!("log-{position}").parse().unwrap();
    draft.seal(&cursor, Instant::now())
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let nodes: Vec<_> = (0..NODES).map(|_| Node::new(now)).collect();
        let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
        let mut world = Self {
            now,
            log: Vec::new(),
            keys: BTreeMap::new(),
            nodes,
            later: Vec::new(),
            seed,
        };
        for node in &mut world.nodes {
            (node.is_informed, node.is_new) = (true, false);
            node.presence.is_informed();
            for id in ids.iter().filter(|id| **id != node.id) {
                node.others.insert(*id, now);
                node.presence.expect(*id, now);
            }
        }
        world
    }

    fn soon(&self, steps: u32) -> Instant {
        self.now + STEP * fastrand::u32(..steps)
    }

    fn later(&mut self, within: u32, node: NodeId, what: Later) {
        self.later.push((self.soon(within), node, what));
    }

    fn at(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    fn step(&mut self) {
        self.now += STEP;
        let (due, later) = std::mem::take(&mut self.later)
            .into_iter()
            .partition(|(at, ..)| *at <= self.now);
        self.later = later;
        let mut due: Vec<_> = due;
        due.sort_by_key(|(at, ..)| *at);
        for (_, node, what) in due {
            self.come_about(node, what);
        }
        for at in 0..self.nodes.len() {
            self.catch_up(at);
            self.tell(at);
            self.bury(at);
            let now = self.now;
            let node = &mut self.nodes[at];
            if !node.is_informed && node.asks_again_at <= now {
                self.ask(at);
            }
            let node = &self.nodes[at];
            // Who does not know who was announced would announce them again.
            if !node.is_new {
                let id = node.id;
                for what in node.presence.take_due(now).announcements {
                    let after = what.after;
                    self.later(10, id, Later::Append(what, after));
                }
            }
        }
    }

    fn catch_up(&mut self, at: usize) {
        if !self.nodes[at].is_late {
            self.read(at);
        }
        if !self.nodes[at].is_deaf {
            self.hear(at);
        }
    }

    /// The next note of its counts, which may be told, or not, or later, and it may be told so, or not.
    fn tell(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.is_telling || node.tells_at > now {
            return;
        }
        let Ok(counts) = node.presence.take_counts(now, COUNTS_A_NOTE) else {
            return;
        };
        node.is_telling = true;
        let id = node.id;
        let said = Said::Counts(id, counts.clone());
        let is_told = match fastrand::u8(..20) {
            0 => false,
            1 => {
                self.log.push(said);
                false
            }
            2 => {
                self.later(60, id, Later::Say(said));
                false
            }
            _ => {
                self.log.push(said);
                true
            }
        };
        self.later(40, id, Later::Told(counts, is_told));
    }

    fn come_about(&mut self, id: NodeId, what: Later) {
        let now = self.now;
        if let Later::Say(said) = what {
            return self.log.push(said);
        }
        if let Later::Append(what, after) = what {
            return self.append(id, what, after);
        }
        let Some(at) = self.at(id) else {
            return;
        };
        let pause = self.soon(20);
        match what {
            Later::Say(_) | Later::Append(..) => {}
            Later::Told(counts, is_told) => {
                let node = &mut self.nodes[at];
                node.presence.counts_told(counts, is_told, now);
                node.is_telling = false;
                if !is_told {
                    node.tells_at = pause;
                }
            }
            Later::Appended(what, None) => {
                let presence = &self.nodes[at].presence;
                presence.end_announcement(&what.place, pause);
            }
            Later::Appended(what, Some((position, is_duplicate))) => {
                self.catch_up(at);
                let node = &self.nodes[at];
                let came_to = Appended {
                    position,
                    is_duplicate,
                    read_until: node.read as u64,
                };
                match node.presence.appended(&what, came_to, now) {
                    Some(after) => self.later(10, id, Later::Append(what, after)),
                    None => node.presence.end_announcement(&what.place, now),
                }
            }
            Later::Answer(to, number) if self.nodes[at].is_informed => {
                let announced = self.nodes[at].presence.announced();
                self.later(60, id, Later::Say(Said::Known(to, announced)));
                self.later
                    .push((now + STEP * 61, id, Later::EndAnswer(to, number)));
            }
            Later::EndAnswer(to, number) => {
                let node = &self.nodes[at];
                let nodes = node.others.keys().copied().chain([id]);
                self.log.push(Said::Answer(to, number, nodes.collect()));
            }
            Later::Answer(..) => {}
        }
    }

    fn append(&mut self, id: NodeId, what: Announcement, after: u64) {
        let key = (what.place.clone(), what.change, after);
        let mut came_to = None;
        // Else it does not come there.
        if fastrand::u8(..20) > 0 {
            let before = self.keys.get(&key).copied();
            let position = before.unwrap_or_else(|| {
                self.check_leave(&what);
                let said = Said::Announced(what.change, what.place.clone());
                self.log.push(said);
                self.log.len() as u64
            });
            self.keys.insert(key, position);
            came_to = Some((position, before.is_some()));
        }
        // It may have come there though nothing is known of it.
        let is_known = fastrand::u8(..20) > 0;
        let appended = Later::Appended(what, came_to.filter(|_| is_known));
        self.later(20, id, appended);
    }

    fn read(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        while let Some(said) = self.log.get(node.read) {
            node.read += 1;
            if let Said::Announced(change, place) = said {
                let event = event(*change, place, node.read as u64);
                node.presence.read(&event, self.now);
            }
        }
    }

    fn hear(&mut self, at: usize) {
        let now = self.now;
        while self.nodes[at].heard < self.nodes[at].read {
            let node = &mut self.nodes[at];
            let said = self.log[node.heard].clone();
            node.heard += 1;
            let id = node.id;
            match said {
                Said::Counts(from, counts) if from != id => {
                    node.others.insert(from, now);
                    node.presence.expect(from, now);
                    node.presence.hear(from, counts, now);
                }
                Said::Ask(from, _) if from == id => node.presence.has_asked(now),
                Said::Ask(from, number) => {
                    node.others.insert(from, now);
                    node.presence.expect(from, now);
                    node.presence.tell_all();
                    self.later(20, id, Later::Answer(from, number));
                }
                Said::Known(to, announced) if to == id => {
                    let asked_at = node.asked_at as u64;
                    node.presence.learn(announced, asked_at, now);
                }
                Said::Answer(to, number, nodes) if to == id && number == node.asked_at => {
                    for other in nodes.into_iter().filter(|other| *other != id) {
                        node.others.entry(other).or_insert(now);
                        node.presence.expect(other, now);
                    }
                    (node.is_informed, node.is_new) = (true, false);
                    node.presence.is_informed();
                }
                Said::Counts(..) | Said::Known(..) | Said::Answer(..) | Said::Announced(..) => {}
            }
        }
    }

    fn bury(&mut self, at: usize) {
        let alive: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        let now = self.now;
        let node = &mut self.nodes[at];
        let presence = &node.presence;
        node.others.retain(|other, heard_at| {
            let is_there = alive.contains(other) || now < *heard_at + STEP * DEAD_AFTER;
            if !is_there {
                presence.forget_node(*other, now);
            }
            is_there
        });
    }

    fn ask(&mut self, at: usize) {
        let asked_at = self.log.len();
        let node = &mut self.nodes[at];
        node.asked_at = asked_at;
        node.asks_again_at = self.now + STEP * ASKS_AGAIN_AFTER;
        self.log.push(Said::Ask(node.id, asked_at));
    }

    fn do_something(&mut self) {
        let at = fastrand::usize(..self.nodes.len());
        let now = self.now;
        let node = &mut self.nodes[at];
        match fastrand::u16(..400) {
            0..40 => {
                let place = place(SUBJECTS[fastrand::usize(..SUBJECTS.len())]);
                let connection = ConnectionId::random();
                let entered = node
                    .presence
                    .enter(vec![place.clone()], connection, now, |_| Ok(()));
                entered.expect("no limit");
                node.connections.push((place, connection, now));
            }
            40..75 if !node.connections.is_empty() => {
                let which = fastrand::usize(..node.connections.len());
                let (place, connection, _) = node.connections.swap_remove(which);
                node.presence.leave(place, connection, now);
            }
            80..90 => node.is_late = true,
            90..120 => node.is_late = false,
            120..130 => node.is_deaf = true,
            130..160 => node.is_deaf = false,
            160 if self.is_known_without(at) => self.replace(at),
            161 if self.is_known_without(at) => self.miss(at),
            // Then it is much that it misses.
            162..170 if self.nodes[at].is_late && self.is_known_without(at) => self.miss(at),
            _ => {}
        }
    }

    /// Whether another node knows all.
    fn is_known_without(&self, at: usize) -> bool {
        let mut nodes = self.nodes.iter().enumerate();
        nodes.any(|(other, node)| other != at && node.is_informed)
    }

    /// A node dies, and a new one asks what there is.
    fn replace(&mut self, at: usize) {
        let began = self.log.len();
        let mut node = Node::new(self.now);
        (node.read, node.heard) = (began, began);
        self.nodes[at] = node;
        self.ask(at);
    }

    /// A part of the log passes by unseen, or of what was told in it.
    fn miss(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if fastrand::bool() {
            node.read = self.log.len();
        }
        node.heard = node.read;
        node.presence.has_missed();
        node.is_informed = false;
        self.ask(at);
    }

    /// Who is there and is known to be does not leave.
    fn check_leave(&self, what: &Announcement) {
        let is_there = self.nodes.iter().any(|node| {
            let mut connections = node.connections.iter();
            connections.any(|(place, _, since)| {
                *place == what.place && *since + STEP * KNOWN_AFTER < self.now
            })
        });
        let is_false = what.change == Change::Leave && is_there;
        assert!(
            !is_false,
            "seed {}: {} is there",
            self.seed, what.place.subject
        );
    }

    fn check(&self) {
        let seed = self.seed;
        let mut announced: BTreeMap<Arc<str>, Change> = BTreeMap::new();
        for said in &self.log {
            if let Said::Announced(change, place) = said {
                let before = announced.insert(Arc::clone(&place.subject), *change);
                let is_first_leave = before.is_none() && *change == Change::Leave;
                assert!(
                    before != Some(*change) && !is_first_leave,
                    "seed {seed}: {} {change:?} twice",
                    place.subject
                );
            }
        }
        for subject in SUBJECTS {
            let is_there = self.nodes.iter().any(|node| {
                let mut places = node.connections.iter().map(|(place, ..)| place);
                places.any(|place| &*place.subject == subject)
            });
            let last = announced.get(subject) == Some(&Change::Join);
            assert_eq!(last, is_there, "seed {seed}: {subject}");
        }
        let truth: BTreeMap<_, _> = self.nodes.iter().flat_map(|node| &node.connections).fold(
            BTreeMap::new(),
            |mut counts, (place, ..)| {
                *counts.entry(Arc::clone(&place.subject)).or_insert(0) += 1;
                counts
            },
        );
        for node in &self.nodes {
            let topic = Topic::parse("room:1").unwrap();
            let (members, count) = node.presence.list(&Tenant::none(), &topic, None, 10);
            let told: BTreeMap<_, _> = members
                .into_iter()
                .map(|member| (member.subject, member.connections))
                .collect();
            assert_eq!(told, truth, "seed {seed}");
            assert_eq!(count, truth.len(), "seed {seed}");
        }
    }

    fn settle(&mut self) {
        for node in &mut self.nodes {
            (node.is_late, node.is_deaf) = (false, false);
        }
        for _ in 0..SETTLED_AFTER {
            self.step();
        }
    }
}

#[test]
fn the_log_ends_up_saying_who_is_there_and_says_nothing_twice() {
    for seed in 0..150 {
        fastrand::seed(seed);
        let mut world = World::new(seed);
        for _ in 0..1000 {
            world.do_something();
            world.step();
        }
        world.settle();
        world.check();
        for node in &mut world.nodes {
            for (place, connection, _) in node.connections.drain(..) {
                node.presence.leave(place, connection, world.now);
            }
        }
        world.settle();
        world.check();
        for node in &world.nodes {
            let state = node.presence.lock();
            assert!(state.topics.is_empty(), "seed {seed}: something is kept");
        }
    }
}
