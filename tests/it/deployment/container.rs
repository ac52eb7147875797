//! The `Dockerfile`, as far as it can be tried without a container engine.

use std::{path::Path, process::Command};

use super::{path, project, read};
use crate::support::Program;

/// The instructions, each in one line.
fn instructions() -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", " ");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The arguments of the last instruction of this name.
fn last(instruction: &str) -> String {
    let start = format!("{instruction} ");
    let all = instructions();
    let found = all.iter().rev().find_map(|line| line.strip_prefix(&start));
    found
        .unwrap_or_else(|| panic!("no {instruction}"))
        .trim()
        .to_owned()
}

/// What is copied out of the project, and where to.
fn copied() -> Vec<(String, String)> {
    let mut copied = Vec::new();
    for line in instructions() {
        let Some(arguments) = line.strip_prefix("COPY ") else {
            continue;
        };
        if arguments.contains("--from=") {
            continue;
        }
        let mut names: Vec<_> = arguments.split_whitespace().map(str::to_owned).collect();
        let to = names.pop().expect("a place");
        copied.extend(names.into_iter().map(|from| (from, to.clone())));
    }
    copied
}

#[test]
fn all_that_is_copied_is_there_and_not_ignored() {
    let ignore = read(".dockerignore");
    let allowed: Vec<_> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    assert!(
        ignore.lines().any(|line| line == "*"),
        "all else is ignored"
    );
    let copied = copied();
    assert!(!copied.is_empty());
    for (from, _) in &copied {
        assert!(path(from).exists(), "{from}");
        assert!(allowed.contains(&from.as_str()), "{from} is ignored");
    }
    for allowed in allowed {
        assert!(copied.iter().any(|(from, _)| from == allowed), "{allowed}");
    }
}

/// The manifest names files, and the sources take some in.
#[test]
fn what_is_copied_is_all_that_cargo_and_the_sources_ask_for() {
    let image = tempfile::tempdir().unwrap();
    for (from, to) in copied() {
        let to = match to.as_str() {
            "./" => image.path().join(&from),
            to => image.path().join(to),
        };
        let copy = Command::new("cp")
            .arg("-rT")
            .arg(path(&from))
            .arg(to)
            .status();
        assert!(copy.unwrap().success(), "{from}");
    }
    let read = Command::new(env!("CARGO"))
        // Unlike `cargo metadata`, it does without what only other platforms need.
        .args(["tree", "--offline", "--locked", "--quiet"])
        .current_dir(image.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{told}");
    assert_sources_include_only(image.path(), &project().join("src"));
}

/// Of files beside the code, what `include_str!` and the like take in.
fn assert_sources_include_only(image: &Path, directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let file = entry.unwrap().path();
        if file.is_dir() {
            assert_sources_include_only(image, &file);
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for start in ["include_str!(\"", "include_bytes!(\"", "#[folder = \""] {
            for part in text.split(start).skip(1) {
                let (name, _) = part.split_once('"').unwrap();
                let beside = file.parent().unwrap().join(name);
                let of_project = match beside.exists() {
                    true => beside.canonicalize().unwrap(),
                    false => project().join(name),
                };
                let inside = of_project.strip_prefix(project()).unwrap();
                assert!(image.join(inside).exists(), "{name} of {}", file.display());
            }
        }
    }
}

#[test]
fn the_image_holds_the_binary_and_certificates_and_runs_as_nobody() {
    let all = instructions();
    let stages: Vec<_> = all
        .iter()
        .filter(|line| line.starts_with("FROM "))
        .collect();
    assert_eq!(stages.last().unwrap().as_str(), "FROM scratch");
    let (_, image) = all.split_at(all.iter().position(|line| line == "FROM scratch").unwrap());
    let copied: Vec<_> = image
        .iter()
        .filter(|line| line.starts_with("COPY"))
        .collect();
    assert_eq!(copied.len(), 2, "{copied:?}");
    let user = last("USER");
    let (user, group) = user.split_once(':').expect("a group too");
    for id in [user, group] {
        assert!(id.parse::<u32>().unwrap() > 0, "a number, not root's: {id}");
    }
}

/// A compiler older than the manifest asks for would build nothing.
#[test]
fn the_image_is_built_with_a_compiler_that_is_new_enough() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let needed = manifest["package"]["rust-version"].as_str().unwrap();
    let all = instructions();
    let image = all
        .iter()
        .find_map(|line| line.strip_prefix("FROM rust:"))
        .unwrap();
    let number = |version: &str| -> (u32, u32) {
        let mut parts = version.split(['.', '-']).map(|part| part.parse().unwrap());
        (parts.next().unwrap(), parts.next().unwrap())
    };
    let (given, _) = image.split_once('-').unwrap();
    assert!(number(given) >= number(needed), "{given} of {needed}");
}

#[tokio::test]
async fn what_the_image_runs_are_commands_of_the_binary() {
    let health = last("HEALTHCHECK");
    let (_, health) = health.split_once(" CMD ").unwrap();
    for (run, binary) in [(health, true), (last("CMD").as_str(), false)] {
        let words: Vec<String> = serde_json::from_str(run).unwrap();
        let arguments = if binary {
            assert_eq!(words[0], "/tribus");
            &words[1..]
        } else {
            &words[..]
        };
        let mut arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        arguments.push("--help");
        let ended = Program::tribus(&arguments, &[]).ended().await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    }
    assert_eq!(last("ENTRYPOINT"), r#"["/tribus"]"#);
}

/// `scripts/test-tools.sh` installs it.
#[test]
fn the_dockerfile_is_free_of_what_a_linter_finds() {
    let linted = Command::new(path("target/test-tools/hadolint/bin/hadolint"))
        .arg(path("Dockerfile"))
        .output()
        .expect("hadolint, which scripts/test-tools.sh installs");
    let found = String::from_utf8_lossy(&linted.stdout);
    assert!(linted.status.success(), "{found}");
}
