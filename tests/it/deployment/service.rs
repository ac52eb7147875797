//! `deploy/tribus.service`, as far as it can be tried without a running systemd.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Output},
};

use tribus::config::{Config, Span};

use super::read;
use crate::support::Program;

const UNIT: &str = "deploy/tribus.service";
const BINARY: &str = "/usr/local/bin/tribus";

/// The last value of each key.
fn settings() -> BTreeMap<String, String> {
    let unit = read(UNIT);
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Runs `systemd-analyze` on the unit, with the binary where it was built.
fn analyze(arguments: &[&str], unit: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tribus.service");
    fs::write(&file, unit.replace(BINARY, env!("CARGO_BIN_EXE_tribus"))).unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(arguments).arg(&file);
    command.output().expect("systemd-analyze")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let arguments = ["verify", "--man=no", "--recursive-errors=no"];
    let unit = read(UNIT);
    let verified = analyze(&arguments, &unit);
    let found = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && found.is_empty(), "{found}");
    // It says so of a mistake, and that only in words.
    let mistaken = unit.replace("ProtectSystem=", "ProtectSystm=");
    let found = analyze(&arguments, &mistaken).stderr;
    assert!(String::from_utf8_lossy(&found).contains("ProtectSystm"));
}

#[test]
fn the_unit_leaves_little_that_an_intruder_could_do() {
    let arguments = ["security", "--offline=true", "--no-pager", "--threshold=20"];
    let rated = analyze(&arguments, &read(UNIT));
    let rating = String::from_utf8_lossy(&rated.stdout);
    assert!(rating.contains("Overall exposure level"), "{rated:?}");
    assert!(rated.status.success(), "over 2.0: {rating}");
}

#[tokio::test]
async fn the_unit_runs_a_command_of_the_binary() {
    let settings = settings();
    let run = settings["ExecStart"]
        .strip_prefix(BINARY)
        .expect("the binary");
    let mut arguments: Vec<_> = run.split_whitespace().collect();
    arguments.push("--help");
    let ended = Program::tribus(&arguments, &[]).ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("Run the gateway"), "{ended:?}");
}

#[test]
fn the_unit_gives_time_to_drain_and_files_for_all_connections() {
    let (settings, defaults) = (settings(), Config::default());
    let stop: Span = settings["TimeoutStopSec"].parse().unwrap();
    assert!(stop.0 > defaults.shutdown.grace.0, "{stop:?}");
    let files: usize = settings["LimitNOFILE"].parse().unwrap();
    assert!(files > defaults.limits.connections + 2048, "{files}");
    assert_eq!(settings["KillSignal"], "SIGTERM");
    assert_eq!(settings["Type"], "notify");
    assert!(settings["ExecReload"].contains("-HUP $MAINPID"));
}
