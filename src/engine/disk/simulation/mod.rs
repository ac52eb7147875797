//! A simulation of bus and disk engine: worlds by their seeds, in which clocks jump, disks fail and
//! fill up, processes are killed, machines lose their power, and files change. What must hold in
//! all of them is the [`checker`]'s.
//!
//! `TRIBUS_SIMULATION_SEEDS` tells how many worlds to go through, and `TRIBUS_SIMULATION_SEED` from
//! which one on; with `TRIBUS_SIMULATION_SEEDS=1` that one tells its story.

mod checker;
mod client;
mod content;
pub(crate) mod disk;
mod gateway;
mod world;

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use world::World;

/// A few seconds' worth.
const SEEDS: u64 = 200;

/// After so many that fail, it is enough.
const MOST_FAILURES: usize = 3;

/// Worlds in which something was wrong once, and what that was. What happens in a world changes with the
/// simulation: each of these is what it found when it was found.
const FOUND: [(u64, &str); 16] = [
    (
        4,
        "a crash left half of a new segment, and the log was given up",
    ),
    (
        11,
        "a proper close left what the operating system had to it",
    ),
    (13, "keys were not found behind a segment without any"),
    (26, "a new log could not begin, and readers saw half of it"),
    (
        46,
        "the end of an index could not be stored, and nobody was told",
    ),
    (75, "a changed label named a log that never was"),
    (
        620,
        "what a failed sync had left in memory was taken for written",
    ),
    (
        326,
        "a damaged file was taken for one that can not be read now",
    ),
    (
        2110,
        "a log that was given up was gone on with after a crash",
    ),
    (
        499,
        "a key that was used again after its time stood for its first use",
    ),
    (509, "one failed read made all later ones fail"),
    (
        633,
        "a log that went over to syncing relied on what was never synced",
    ),
    (35, "a new log began without a label on a full disk"),
    (106, "an empty segment was followed by one of the same name"),
    (37, "what the disk did not give was tried for ever"),
    (
        7962,
        "damage where a power failure had taken the witness along",
    ),
];

fn number(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no number"))
    })
}

/// What was wrong in the world of a seed, with its story.
struct Failure {
    seed: u64,
    what: String,
    story: Vec<String>,
}

fn live_through(seed: u64) -> Result<(), Failure> {
    let mut world = World::new(seed);
    let lived = catch_unwind(AssertUnwindSafe(|| world.run()));
    lived.map_err(|panic| Failure {
        seed,
        what: match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => format!("{:?}", panic.downcast_ref::<&str>()),
        },
        story: world.story,
    })
}

fn live_through_all(seeds: Range<u64>) -> Vec<Failure> {
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.lock().unwrap().len() >= MOST_FAILURES {
                return;
            }
            if let Err(failure) = live_through(seed) {
                failures.lock().unwrap().push(failure);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    failures.into_inner().unwrap()
}

fn report(failures: &[Failure]) {
    let Some(first) = failures.first() else {
        return;
    };
    println!("the story of seed {}:", first.seed);
    for line in &first.story {
        println!("  {line}");
    }
    for Failure { seed, what, .. } in failures {
        println!("seed {seed}: {what}");
    }
    panic!("{} worlds broke a promise", failures.len());
}

#[test]
fn nothing_acknowledged_is_lost_whatever_breaks() {
    let first = number("TRIBUS_SIMULATION_SEED", 1);
    let count = number("TRIBUS_SIMULATION_SEEDS", SEEDS);
    if count == 1 {
        // Another test may have set one.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    }
    report(&live_through_all(first..first + count));
}

#[test]
fn a_seed_lives_the_same_life_again() {
    for seed in 1..4 {
        let [first, second] = [(); 2].map(|()| {
            let mut world = World::new(seed);
            world.run();
            world.story
        });
        assert_eq!(first, second, "seed {seed}");
    }
}

#[test]
fn what_was_wrong_once_stays_right() {
    let lives = FOUND.iter().map(|(seed, _)| live_through(*seed));
    report(&lives.filter_map(Result::err).collect::<Vec<_>>());
}
