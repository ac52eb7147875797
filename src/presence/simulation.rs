//! Some nodes, their connections that come and go, notes that are late, nodes that die: whatever
//! happens, the log ends up saying who is there, and never says anything twice.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::{
    event::{Cursor, Draft},
    node::NodeId,
};

const NODES: usize = 3;
const SUBJECTS: [&str; 3] = ["alice", "bob", "carol"];
const GRACE: Duration = Duration::from_millis(400);
const STEP: Duration = Duration::from_millis(20);

/// What one node tells all.
enum Said {
    Counts(NodeId, Vec<Count>),
    /// And no others.
    AllCounts(NodeId, Vec<Count>),
    /// For the one that is new.
    Known(NodeId, Vec<(Place, u64)>),
    Announced(Change, Place),
}

struct Node {
    id: NodeId,
    presence: Presence,
    connections: Vec<(Place, ConnectionId)>,
    /// How much of the log it has read.
    read: usize,
    /// From where on it has read, and up to where it has to have, to know what there was before.
    began: usize,
    informed_at: usize,
    is_late: bool,
    announcing: VecDeque<Announcement>,
}

struct World {
    now: Instant,
    log: Vec<Said>,
    /// Changes by their keys: the position of each.
    keys: BTreeMap<(Place, Change, u64), u64>,
    nodes: Vec<Node>,
}

impl Node {
    fn new() -> Self {
        let rooms = TopicFilter::parse("room:*").unwrap();
        Self {
            id: NodeId::random().unwrap(),
            presence: Presence::new(vec![rooms], GRACE, true),
            connections: Vec::new(),
            read: 0,
            began: 0,
            informed_at: 0,
            is_late: false,
            announcing: VecDeque::new(),
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
    fn new() -> Self {
        Self {
            now: Instant::now(),
            log: Vec::new(),
            keys: BTreeMap::new(),
            nodes: (0..NODES).map(|_| Node::new()).collect(),
        }
    }

    fn step(&mut self) {
        self.now += STEP;
        for at in 0..self.nodes.len() {
            if !self.nodes[at].is_late {
                self.read(at);
            }
            let due = self.nodes[at].presence.take_due(self.now);
            if !due.counts.is_empty() {
                let id = self.nodes[at].id;
                self.log.push(Said::Counts(id, due.counts));
            }
            self.nodes[at].announcing.extend(due.announcements);
            // One step of a way to the log and back.
            let node = &mut self.nodes[at];
            if node.read >= node.informed_at
                && let Some(what) = node.announcing.pop_front()
            {
                self.announce(at, what);
            }
        }
    }

    fn read(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        while let Some(said) = self.log.get(node.read) {
            node.read += 1;
            match said {
                Said::Counts(from, counts) | Said::AllCounts(from, counts) if *from != node.id => {
                    if matches!(said, Said::AllCounts(..)) {
                        node.presence.forget_node(*from, self.now);
                    }
                    let counts = counts.iter().map(|count| Count {
                        place: count.place.clone(),
                        ..*count
                    });
                    node.presence.hear(*from, counts.collect(), self.now);
                }
                Said::Known(to, announced) if *to == node.id => {
                    let began = node.began as u64;
                    node.presence.learn(announced.clone(), began, self.now);
                }
                Said::Counts(..) | Said::AllCounts(..) | Said::Known(..) => {}
                Said::Announced(change, place) => {
                    let event = event(*change, place, node.read as u64);
                    node.presence.read(&event, self.now);
                }
            }
        }
    }

    /// As the announcer of a cluster does.
    fn announce(&mut self, at: usize, what: Announcement) {
        let mut after = what.after;
        loop {
            let key = (what.place.clone(), what.change, after);
            match self.keys.get(&key) {
                Some(position) => {
                    // A publish that was known waits for the tail too.
                    let position = *position;
                    self.read(at);
                    let presence = &self.nodes[at].presence;
                    if presence.needs(&what.place) != Some(what.change) {
                        break;
                    }
                    after = position;
                }
                None => {
                    self.log
                        .push(Said::Announced(what.change, what.place.clone()));
                    self.keys.insert(key, self.log.len() as u64);
                    self.read(at);
                    break;
                }
            }
        }
        let presence = &self.nodes[at].presence;
        presence.end_announcement(&what.place, self.now);
    }

    fn do_something(&mut self) {
        let at = fastrand::usize(..self.nodes.len());
        let now = self.now;
        match fastrand::u8(..100) {
            0..20 => {
                let node = &mut self.nodes[at];
                let place = place(SUBJECTS[fastrand::usize(..SUBJECTS.len())]);
                let connection = ConnectionId::random();
                let entered = node
                    .presence
                    .enter(vec![place.clone()], connection, now, |_| Ok(()));
                entered.expect("no limit");
                node.connections.push((place, connection));
            }
            20..38 => {
                let node = &mut self.nodes[at];
                if !node.connections.is_empty() {
                    let which = fastrand::usize(..node.connections.len());
                    let (place, connection) = node.connections.swap_remove(which);
                    node.presence.leave(place, connection, now);
                }
            }
            38..42 => self.nodes[at].is_late = true,
            42..50 => self.nodes[at].is_late = false,
            50 => self.replace(at),
            _ => {}
        }
    }

    /// A node dies, the others notice, and a new one asks what there is.
    fn replace(&mut self, at: usize) {
        let dead = std::mem::replace(&mut self.nodes[at], Node::new());
        let began = self.log.len();
        self.nodes[at].read = began;
        self.nodes[at].began = began;
        for other in 0..self.nodes.len() {
            if other != at {
                self.read(other);
                self.nodes[other].presence.forget_node(dead.id, self.now);
                let counts = self.nodes[other].presence.counts();
                self.log.push(Said::AllCounts(self.nodes[other].id, counts));
            }
        }
        let teller = (at + 1) % NODES;
        self.read(teller);
        let announced = self.nodes[teller].presence.announced();
        self.log.push(Said::Known(self.nodes[at].id, announced));
        self.nodes[at].informed_at = self.log.len();
    }

    fn check(&self, seed: u64) {
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
                let mut places = node.connections.iter().map(|(place, _)| place);
                places.any(|place| &*place.subject == subject)
            });
            let last = announced.get(subject) == Some(&Change::Join);
            assert_eq!(last, is_there, "seed {seed}: {subject}");
        }
        let truth: BTreeMap<_, _> = self.nodes.iter().flat_map(|node| &node.connections).fold(
            BTreeMap::new(),
            |mut counts, (place, _)| {
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
}

#[test]
fn the_log_ends_up_saying_who_is_there_and_says_nothing_twice() {
    for seed in 0..400 {
        fastrand::seed(seed);
        let mut world = World::new();
        for _ in 0..300 {
            world.do_something();
            world.step();
        }
        for node in &mut world.nodes {
            node.is_late = false;
        }
        // Longer than anyone waits for anything.
        for _ in 0..400 {
            world.step();
        }
        world.check(seed);
        for node in &mut world.nodes {
            for (place, connection) in node.connections.drain(..) {
                node.presence.leave(place, connection, world.now);
            }
        }
        for _ in 0..400 {
            world.step();
        }
        world.check(seed);
        for node in &world.nodes {
            let state = node.presence.lock();
            assert!(state.topics.is_empty(), "seed {seed}: something is kept");
        }
    }
}
