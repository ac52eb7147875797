//! The reader's terminals.

use std::{
    io::{BufRead, BufReader, PipeReader, Write},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Instant,
};

use tempfile::TempDir;

use super::project;
use crate::support::DEADLINE;

/// The project's directory as it is after `make run` has built the gateway, and what the reader's
/// terminals know.
pub struct Shell {
    place: TempDir,
}

/// `cargo run` once there is nothing left to build.
const CARGO: &str = r#"#!/bin/sh
[ "$1 $2 $3" = "run --release --" ] || { echo "not expected: cargo $*" >&2; exit 1; }
shift 3
exec ./target/release/tribus "$@"
"#;

/// Takes over what was exported before, and passes on what is exported now. Before each command too,
/// because the last one may be killed.
const PASS_ON: &str = r#". "$README_EXPORTED"
trap 'export -p > "$README_EXPORTED"' DEBUG EXIT
"#;

impl Shell {
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir_all(at("target/release")).expect("a directory");
        let binary = Path::new(env!("CARGO_BIN_EXE_tribus"));
        symlink(binary, at("target/release/tribus")).expect("a link");
        for name in ["examples", "Makefile", "scripts"] {
            symlink(project().join(name), at(name)).expect("a link");
        }
        for (name, text) in [
            ("cargo", CARGO),
            ("pass-on", PASS_ON),
            ("exported", ""),
            // At a terminal curl shows no progress of so little.
            (".curlrc", "silent\nshow-error\n"),
        ] {
            std::fs::write(at(name), text).expect("a file");
        }
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("cargo"), executable).expect("an executable");
        Self { place }
    }

    /// Exports in every terminal from now on.
    pub fn remember(&self, line: &str) {
        let exported = self.place.path().join("exported");
        let mut file = std::fs::File::options()
            .append(true)
            .open(exported)
            .expect("a file");
        writeln!(file, "{line}").expect("space on the disk");
    }

    pub fn start(&self, text: &str) -> Running {
        let at = |name: &str| self.place.path().join(name);
        let mut command = Command::new("bash");
        // What `cargo test` and `make test` leave in the environment is not the reader's.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["TRIBUS", "CARGO", "MAKE", "MFLAGS"]
                .iter()
                .any(|start| text.starts_with(start))
            {
                command.env_remove(&name);
            }
        }
        command
            .args(["-e", "-c", text])
            .current_dir(self.place.path())
            .env("BASH_ENV", at("pass-on"))
            .env("README_EXPORTED", at("exported"))
            .env("CARGO", at("cargo"))
            .env("CURL_HOME", self.place.path())
            .env("TRIBUS__LISTEN", "127.0.0.1:0")
            .env("TRIBUS__ADMIN_LISTEN", "127.0.0.1:0");
        Running::start(command, text)
    }

    /// All lines that it shows; it has to succeed.
    pub fn output(&self, text: &str) -> Vec<String> {
        self.start(text).finish()
    }
}

/// A block in its terminal, with a process group of its own, which ends with the test at the latest.
pub struct Running {
    what: String,
    child: Child,
    lines: Receiver<String>,
    /// The lines that it showed so far.
    pub seen: Vec<String>,
    finished: bool,
}

impl Running {
    fn start(mut command: Command, what: &str) -> Self {
        // One pipe for both, as at a terminal.
        let (output, input) = std::io::pipe().expect("a pipe");
        let child = command
            .stdin(Stdio::null())
            .stdout(input.try_clone().expect("a pipe"))
            .stderr(input)
            .process_group(0)
            .spawn()
            .expect("bash starts");
        Self {
            what: what.to_owned(),
            child,
            lines: lines_of(output),
            seen: Vec::new(),
            finished: false,
        }
    }

    /// The next line with this in it.
    pub fn line_with(&mut self, part: &str) -> String {
        let until = Instant::now() + DEADLINE;
        while let Some(line) = self.next(part, until) {
            if line.contains(part) {
                return line;
            }
        }
        panic!("{}: ended without {part:?}: {:#?}", self.what, self.seen);
    }

    /// The lines of the frame that the last line belongs to, as far as they came.
    pub fn frame(&self) -> Vec<String> {
        let lines = self.seen.iter().rev();
        lines.take_while(|line| !line.is_empty()).cloned().collect()
    }

    /// Waits for its end, which has to be a success, and gives all that it showed.
    pub fn finish(mut self) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        while self.next("its end", until).is_some() {}
        let status = self.child.wait().expect("a child to wait for");
        self.finished = true;
        assert!(
            status.success(),
            "{}: {status}: {:#?}",
            self.what,
            self.seen
        );
        std::mem::take(&mut self.seen)
    }

    fn next(&mut self, awaited: &str, until: Instant) -> Option<String> {
        let left = until.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.seen.push(line.clone());
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!(
                "{}: waited {DEADLINE:?} in vain for {awaited}: {:#?}",
                self.what, self.seen
            ),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let kill = format!("kill -KILL -- -{}", self.child.id());
        let _ = Command::new("bash").args(["-c", &kill]).status();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: PipeReader) -> Receiver<String> {
    let (sender, lines) = channel();
    // A pipe that nobody reads would stop the program.
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}
