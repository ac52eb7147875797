//! What must hold for any input, one module a fuzz target: each has a `check` that takes bytes and
//! panics where it does not hold.
//!
//! `make fuzz` looks for such inputs; `make test` replays those in `corpus/`, which are chosen to
//! reach each part of a parser, and grow by every input that was found to break something.

pub mod claims;
pub mod cursors;
pub mod frames;
pub mod json;
pub mod keys;
pub mod msgpack;
pub mod publish;
pub mod query;
pub mod records;
pub mod tokens;
pub mod topics;

mod drafts;
mod pairs;
mod refusals;
mod signing;
mod subscriptions;

/// Panics where the input shows that something does not hold.
pub type Check = fn(&[u8]);

/// Every target by its name, which is also that of its binary and its corpus.
pub const TARGETS: [(&str, Check); 11] = [
    ("claims", claims::check),
    ("cursors", cursors::check),
    ("frames", frames::check),
    ("json", json::check),
    ("keys", keys::check),
    ("msgpack", msgpack::check),
    ("publish", publish::check),
    ("query", query::check),
    ("records", records::check),
    ("tokens", tokens::check),
    ("topics", topics::check),
];

#[cfg(test)]
mod tests {
    use std::{
        ffi::OsString,
        fs,
        path::{Path, PathBuf},
    };

    use super::TARGETS;

    fn entries(directory: &str) -> Vec<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let mut paths: Vec<_> = fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.expect("a directory can be listed").path())
            .collect();
        paths.sort();
        paths
    }

    fn names(directory: &str) -> Vec<OsString> {
        let stem = |path: PathBuf| path.file_stem().map(OsString::from);
        entries(directory).into_iter().filter_map(stem).collect()
    }

    #[test]
    fn every_target_has_a_binary_and_a_corpus() {
        let targets = TARGETS.map(|(name, _)| OsString::from(name));
        assert_eq!(names("fuzz_targets"), targets);
        assert_eq!(names("corpus"), targets);
    }

    #[test]
    fn what_must_hold_holds_for_every_seed() {
        for (name, check) in TARGETS {
            let seeds = entries(&format!("corpus/{name}"));
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in seeds {
                println!("{}", seed.display());
                check(&fs::read(&seed).expect("a seed can be read"));
            }
        }
    }
}
