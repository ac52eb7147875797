//! `deploy/tribus.toml` has every key, with its default and a reason of its own.

use std::collections::BTreeSet;

use toml::{Table, Value};
use tribus::{
    auth::Authenticator,
    config::{Config, keys},
};

use super::read;

const SAMPLE: &str = "deploy/tribus.toml";

/// A key in its place in the file.
#[derive(Debug)]
struct Shown {
    /// With its sections.
    key: String,
    /// The lines of comment right above it.
    reason: Vec<String>,
}

/// The line with a key taken out of its comment; prose has a space after its `#`.
fn uncommented(line: &str) -> &str {
    match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase()) => setting,
        _ => line,
    }
}

fn whole() -> String {
    let sample = read(SAMPLE);
    let lines: Vec<_> = sample.lines().map(uncommented).collect();
    lines.join("\n")
}

fn shown() -> Vec<Shown> {
    let mut shown = Vec::new();
    let mut section = String::new();
    let mut reason = Vec::new();
    for line in whole().lines() {
        if let Some(comment) = line.strip_prefix('#') {
            reason.push(comment.trim().to_owned());
        } else if let Some(name) = line.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            reason.clear();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = format!("{section}{name}");
            let reason = std::mem::take(&mut reason);
            shown.push(Shown { key, reason });
        } else {
            reason.clear();
        }
    }
    shown
}

fn look_up<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((section, rest)) => look_up(table.get(section)?.as_table()?, rest),
    }
}

#[test]
fn the_sample_has_every_key_once_and_no_other() {
    let shown: Vec<_> = shown().into_iter().map(|shown| shown.key).collect();
    let unique: BTreeSet<_> = shown.iter().cloned().collect();
    assert_eq!(unique.len(), shown.len(), "a key twice: {shown:?}");
    let keys: BTreeSet<_> = keys().into_iter().collect();
    let missing: Vec<_> = keys.difference(&unique).collect();
    assert!(missing.is_empty(), "missing in {SAMPLE}: {missing:?}");
    let unknown: Vec<_> = unique.difference(&keys).collect();
    assert!(unknown.is_empty(), "no keys, in {SAMPLE}: {unknown:?}");
}

#[test]
fn each_key_has_a_reason_of_its_own() {
    let mut reasons = BTreeSet::new();
    for Shown { key, reason } in shown() {
        let reason = reason.join(" ");
        assert!(
            reason.len() > 20 && reason.ends_with('.'),
            "{key}: {reason:?}"
        );
        assert!(reasons.insert(reason), "{key}: not its own");
    }
}

#[test]
fn as_it_stands_the_sample_sets_nothing() {
    let written: Table = read(SAMPLE).parse().unwrap();
    let mut open: Vec<_> = written.values().collect();
    while let Some(value) = open.pop() {
        let section = value.as_table().expect("only sections");
        open.extend(section.values());
    }
}

#[test]
fn uncommented_as_a_whole_it_is_a_configuration_that_shows_each_default() {
    let text = whole();
    let config = Config::from_toml(&text).unwrap_or_else(|error| panic!("{error}"));
    let told = Table::try_from(&config).unwrap();
    let defaults = Table::try_from(Config::default()).unwrap();
    let written: Table = text.parse().unwrap();
    let empty = Value::Array(Vec::new());
    for Shown { key, reason } in shown() {
        let default = look_up(&defaults, &key);
        if reason.last().is_some_and(|line| line.ends_with("Not set.")) {
            let nothing = default.is_none_or(|default| *default == empty);
            assert!(nothing, "{key} has a default: {default:?}");
        } else if default.is_some() {
            let shown = look_up(&told, &key);
            assert_eq!(shown, default, "{key} is not shown with its default");
        } else {
            // Secrets are never written out; a list of them is empty.
            assert_eq!(look_up(&written, &key), Some(&empty), "{key}");
        }
    }
}

/// Whoever takes the `#` away and forgets to write a secret has none that the world knows.
#[test]
fn the_secret_of_the_sample_is_refused() {
    let config = Config::from_toml(&whole()).unwrap();
    let mut options = config.auth_options();
    options.public_key_file = None;
    options.jwks_file = None;
    let refused = Authenticator::new(options)
        .err()
        .expect("no key")
        .to_string();
    assert!(refused.contains("auth.hs256_secret"), "{refused}");
}
