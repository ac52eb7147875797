//! Single faults of a simulated disk, one after the other, where the [`simulation`](super::simulation)
//! has them in any order.

use std::{sync::Arc, time::Duration};

use super::{
    DiskEngine, DiskLog, DiskOptions, Durability, Request,
    directory::Directory,
    failure::Health,
    segment::SegmentError,
    simulation::disk::{Disk, SimulatedDirectory},
};
use crate::{
    bus::{Feed, Retention},
    engine::{Appended, Engine, EngineError, IdempotencyKey, IdempotencyLimits, Tail},
    event::Draft,
    topic::{Tenant, Topic},
};

/// A disk with a log, and a bus that tails it.
struct Scene {
    disk: Arc<Disk>,
    feed: Arc<Feed>,
    options: DiskOptions,
}

impl Scene {
    fn new() -> Self {
        Self::retaining(1000)
    }

    fn retaining(events: usize) -> Self {
        let limits = IdempotencyLimits {
            keys: 100,
            keys_per_subject: 100,
        };
        let mut options = DiskOptions::new(Durability::Sync, 1 << 20, limits);
        // Each commit is followed by another segment.
        options.segment_bytes = 0;
        options.patience = Duration::from_millis(100);
        let retention = Retention {
            events,
            bytes: 1 << 20,
            age: None,
            bytes_in_memory: Some(0),
            others: None,
        };
        Self {
            disk: Disk::new(1),
            feed: Arc::new(Feed::new(retention)),
            options,
        }
    }

    fn directory(&self) -> Arc<dyn Directory> {
        Arc::new(SimulatedDirectory(Arc::clone(&self.disk)))
    }

    fn open(&self) -> anyhow::Result<DiskLog> {
        let tail = Arc::clone(&self.feed) as Arc<dyn Tail>;
        DiskLog::open(self.directory(), self.options.clone(), tail)
    }

    /// A log with three events in segments of their own, and an empty one.
    fn written(&self) -> DiskLog {
        let mut log = self.open().unwrap();
        for sequence in 1..=3 {
            assert_eq!(publish(&mut log).unwrap().first.sequence, sequence);
            log.roll();
        }
        log
    }

    fn is_sealed(name: &str) -> bool {
        name.ends_with("2.segment")
    }
}

fn publish(log: &mut DiskLog) -> Result<Appended, EngineError> {
    let drafts = vec![draft()];
    log.append(vec![Request { drafts, key: None }]).remove(0)
}

fn publish_under(log: &mut DiskLog, key: &IdempotencyKey) -> Appended {
    let (drafts, key) = (vec![draft()], Some(*key));
    log.append(vec![Request { drafts, key }]).remove(0).unwrap()
}

fn draft() -> Draft {
    Draft {
        tenant: Tenant::none(),
        topic: Topic::parse("a").unwrap(),
        name: "n".into(),
        tags: Box::default(),
        ephemeral: false,
        trace: None,
        trace_id: None,
        body: br#""topic":"a","data":1}"#.to_vec(),
    }
}

#[tokio::test]
async fn what_the_disk_does_not_give_for_long_is_lost_and_everybody_is_told() {
    let scene = Scene::new();
    scene.written().close().unwrap();
    let tail = Arc::clone(&scene.feed) as Arc<dyn Tail>;
    let engine = DiskEngine::open_in(scene.directory(), scene.options.clone(), tail).unwrap();
    let before = engine.shelf.log();
    scene.disk.spoil_all(Scene::is_sealed);
    for tries in 1..10 {
        match engine.read(vec![3]).await {
            Err(EngineError::Unavailable(_)) => assert_eq!(engine.shelf.log(), before),
            Ok(events) if events.is_empty() => {
                assert!(tries > 2, "given up at once");
                assert_ne!(engine.shelf.log(), before);
                let condition = engine.condition();
                assert_eq!((condition.lost_logs, condition.read_failures), (1, tries));
                assert_eq!(scene.feed.window().extent().events, 0);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("it is tried for ever");
}

#[tokio::test]
async fn what_can_be_read_again_is_not_lost() {
    let scene = Scene::new();
    scene.written().close().unwrap();
    let tail = Arc::clone(&scene.feed) as Arc<dyn Tail>;
    let engine = DiskEngine::open_in(scene.directory(), scene.options.clone(), tail).unwrap();
    let before = engine.shelf.log();
    for (name, sequence) in [("2.segment", 3), ("2.segment", 3), ("1.segment", 2)] {
        // What is open is in memory.
        let segments = engine.shelf.segments();
        segments.iter().for_each(|segment| segment.close());
        scene.disk.spoil_all(|other| other.ends_with(name));
        assert!(engine.read(vec![sequence]).await.is_err());
        scene.disk.heal();
        assert_eq!(engine.read(vec![1, 2, 3]).await.unwrap().len(), 3);
    }
    assert_eq!(engine.shelf.log(), before);
}

#[test]
fn a_start_gives_up_what_the_disk_does_not_give_for_long() {
    let all: [fn(&str) -> bool; 3] = [
        Scene::is_sealed,
        |name: &str| name.ends_with("3.segment"),
        |name: &str| name == "log.json",
    ];
    for wanted in all {
        let scene = Scene::new();
        let log = scene.written();
        let before = log.shelf().log();
        log.close().unwrap();
        scene.disk.spoil_all(wanted);
        let mut log = scene.open().unwrap();
        assert_ne!(log.shelf().log(), before);
        assert_eq!(log.condition().lock().unwrap().lost_logs, 1);
        assert_eq!(publish(&mut log).unwrap().first.sequence, 4);
        assert!(
            scene
                .disk
                .all_names()
                .iter()
                .any(|name| name.starts_with("lost-"))
        );
    }
}

#[test]
fn a_new_log_that_finds_no_space_begins_once_there_is_some() {
    let scene = Scene::new();
    let mut log = scene.written();
    let before = log.shelf().log();
    let damage = SegmentError::Damaged {
        name: "a segment".to_owned(),
        what: "changed".to_owned(),
    };
    scene.disk.fill();
    log.lose(&before, &damage);
    for _ in 0..3 {
        log.look_after();
        assert_eq!((&log.health, &log.shelf().log()), (&Health::Full, &before));
        let refused = publish(&mut log).unwrap_err().to_string();
        assert!(refused.contains("disk is full"), "{refused}");
        // What there is can be read.
        assert_eq!(log.shelf().read(&[1, 2, 3]).unwrap().len(), 3);
    }
    let refuses = log.condition().lock().unwrap().refuses.clone().unwrap();
    assert!(refuses.contains("once there is space"), "{refuses}");
    scene.disk.give_space();
    log.look_after();
    assert_eq!(log.health, Health::Well);
    let after = log.shelf().log();
    assert_ne!(after, before);
    let appended = publish(&mut log).unwrap();
    assert_eq!(
        (appended.first.log, appended.first.sequence),
        (after.clone(), 4)
    );
    assert_eq!(log.condition().lock().unwrap().refuses, None);
    log.close().unwrap();
    let log = scene.open().unwrap();
    assert_eq!((log.shelf().log(), log.last()), (after, 4));
}

#[test]
fn a_start_without_space_for_a_log_says_what_to_do() {
    let scene = Scene::new();
    scene.disk.fill();
    let refused = scene.open().err().unwrap();
    assert!(format!("{refused:#}").contains("make room"), "{refused:#}");
    scene.disk.give_space();
    scene.written().close().unwrap();
    scene.disk.spoil_all(Scene::is_sealed);
    scene.disk.fill();
    let refused = scene.open().err().unwrap();
    assert!(format!("{refused:#}").contains("make room"), "{refused:#}");
    scene.disk.give_space();
    assert_eq!(publish(&mut scene.open().unwrap()).unwrap().count, 1);
}

#[test]
fn a_segment_that_is_gone_already_is_let_go_of() {
    let scene = Scene::retaining(1);
    let mut log = scene.open().unwrap();
    publish(&mut log).unwrap();
    log.roll();
    let oldest = log.shelf().segments()[0].name().to_owned();
    scene.disk.forget(&oldest);
    publish(&mut log).unwrap();
    log.look_after();
    let segments = log.shelf().segments();
    assert!(segments.iter().all(|segment| segment.name() != oldest));
}

#[test]
fn a_log_of_an_older_format_is_left_alone_and_the_error_says_what_to_do() {
    let scene = Scene::new();
    scene.written().close().unwrap();
    let directory = scene.directory();
    let label = br#"{"format":1,"log":"abc","durability":"sync","boot":"","clean":true,"last":3}"#;
    directory.replace("log.json", label).unwrap();
    let names = scene.disk.all_names();
    let refused = scene.open().err().unwrap().to_string();
    assert!(
        refused.contains("an older Tribus, in format 1"),
        "{refused}"
    );
    assert!(refused.contains("remove the log"), "{refused}");
    assert_eq!(scene.disk.all_names(), names);
}

#[test]
fn keys_of_a_segment_that_can_not_be_read_are_carried_over_from_memory() {
    let scene = Scene::retaining(1);
    let mut log = scene.open().unwrap();
    let used: Vec<_> = (0..10)
        .map(|number| {
            let name = number.to_string();
            let key = IdempotencyKey::new(&Tenant::none(), "s", &name, [1; 16]);
            let answer = publish_under(&mut log, &key);
            (key, answer)
        })
        .collect();
    log.roll();
    scene.disk.spoil_all(|name| name.ends_with("00.segment"));
    log.shelf().segments()[0].close();
    publish(&mut log).unwrap();
    log.look_after();
    assert!(
        !scene
            .disk
            .all_names()
            .iter()
            .any(|name| name.ends_with("00.segment"))
    );
    log.close().unwrap();
    let mut log = scene.open().unwrap();
    for (key, first) in used {
        let again = publish_under(&mut log, &key);
        assert_eq!((again.first, again.duplicate), (first.first, true));
    }
}

#[test]
fn a_key_is_answered_with_the_ids_of_its_log_however_many_were_lost_since() {
    let scene = Scene::new();
    let mut log = scene.open().unwrap();
    let mut used = Vec::new();
    for number in 0..4 {
        let key = IdempotencyKey::new(&Tenant::none(), "s", &number.to_string(), [1; 16]);
        used.push((key, publish_under(&mut log, &key)));
        for (key, first) in &used {
            assert_eq!(publish_under(&mut log, key).first, first.first);
        }
        let damage = SegmentError::Damaged {
            name: "a segment".to_owned(),
            what: "changed".to_owned(),
        };
        log.lose(&log.shelf().log(), &damage);
    }
}

#[test]
fn a_newest_segment_that_can_not_be_opened_for_long_is_lost() {
    let scene = Scene::new();
    let mut log = scene.written();
    let before = log.shelf().log();
    let newest = log.active.name().to_owned();
    scene.disk.spoil_all(|name| name == newest);
    log.active.close();
    log.look_after();
    assert_eq!(log.health, Health::Reopening);
    for _ in 0..1000 {
        log.look_after();
        if log.shelf().log() != before {
            assert_eq!(log.health, Health::Well);
            assert_eq!(publish(&mut log).unwrap().first.sequence, 4);
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it is tried for ever");
}
