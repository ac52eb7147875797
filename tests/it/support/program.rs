use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::within;

/// A program as a user runs it; it ends with the test at the latest.
pub struct Program {
    child: Child,
    stdout: Lines,
    stderr: Lines,
}

/// What a program left behind.
#[derive(Debug)]
pub struct Ended {
    /// `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

struct Lines {
    coming: UnboundedReceiver<String>,
    seen: String,
}

impl Program {
    /// Runs `tribus` with these arguments, and no variables of its own but these.
    pub fn tribus(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tribus"));
        command.args(arguments);
        Self::start(with_variables(command, variables))
    }

    /// As [`Program::tribus`], by a shell that prepares what the program inherits and then becomes
    /// it: `exec "$TRIBUS_BIN" "$@"`.
    pub fn tribus_by_shell(script: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("bash");
        command.args(["-c", script, "bash"]).args(arguments);
        let mut command = with_variables(command, variables);
        command.env("TRIBUS_BIN", env!("CARGO_BIN_EXE_tribus"));
        Self::start(command)
    }

    /// As [`Program::tribus`], started by another program that becomes it, or whose child it is not.
    pub fn tribus_under(wrapper: &[&str], arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let words = [wrapper, &[env!("CARGO_BIN_EXE_tribus")], arguments].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        Self::start(with_variables(command, variables))
    }

    pub fn curl(arguments: &[&str]) -> Self {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer"]);
        command.args(arguments);
        Self::start(command)
    }

    /// Any other program.
    pub fn start(mut command: Command) -> Self {
        command
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = Lines::of(child.stdout.take().expect("a pipe"));
        let stderr = Lines::of(child.stderr.take().expect("a pipe"));
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// The CPU time that it has used so far, by user and system, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("a running program");
        let after_name = stat.rsplit_once(") ").expect("a name in parentheses").1;
        let fields = after_name.split(' ').skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<u64>().expect("a number"))
            .sum()
    }

    /// How many files it may have open.
    pub fn soft_limit_of_files(&self) -> String {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id()));
        let limits = limits.expect("a running program");
        let files = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"));
        let mut columns = files.expect("a limit").split_whitespace();
        columns.next().expect("a soft limit").to_owned()
    }

    /// The memory that it holds now.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a running program");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a size")
            .trim()
            .parse::<u64>()
            .expect("a number")
            << 10
    }

    /// Writes all of its standard input, and closes it.
    pub fn give(&mut self, input: &str) {
        let mut stdin = self.child.stdin.take().expect("open standard input");
        stdin.write_all(input.as_bytes()).expect("it reads");
    }

    /// The next line of standard error with this in it.
    pub async fn says(&mut self, part: &str) -> String {
        self.stderr.next_with(part).await
    }

    /// As [`Program::says`]; `None` where it ends first.
    pub async fn try_says(&mut self, part: &str) -> Option<String> {
        self.stderr.find(part).await
    }

    /// The next line of standard output with this in it.
    pub async fn prints(&mut self, part: &str) -> String {
        self.stdout.next_with(part).await
    }

    /// What it said on standard error so far.
    pub fn said(&mut self) -> String {
        while let Ok(line) = self.stderr.coming.try_recv() {
            self.stderr.seen.push_str(&line);
            self.stderr.seen.push('\n');
        }
        self.stderr.seen.clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill runs").success(), "{name}");
    }

    /// Asks it to end, and waits for a while, without panicking.
    pub fn terminate(&mut self) {
        let id = self.child.id().to_string();
        let _ = Command::new("kill").args(["-s", "TERM", &id]).status();
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        drop(self.child.stdin.take());
        let stdout = self.stdout.rest().await;
        let stderr = self.stderr.rest().await;
        let exited = async {
            loop {
                match self.child.try_wait().expect("a child to wait for") {
                    Some(status) => return status.code(),
                    None => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        Ended {
            code: within("the program to end", exited).await,
            stdout,
            stderr,
        }
    }
}

/// No variables of the gateway but these.
fn with_variables(mut command: Command, variables: &[(&str, &str)]) -> Command {
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("TRIBUS")) {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, coming) = unbounded_channel();
        // A pipe that nobody reads would stop the program.
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            coming,
            seen: String::new(),
        }
    }

    async fn next_with(&mut self, part: &str) -> String {
        let found = self.find(part).await;
        found.unwrap_or_else(|| panic!("ended without {part:?}:\n{}", self.seen))
    }

    /// The next line with this in it; `None` where there is none to the end.
    async fn find(&mut self, part: &str) -> Option<String> {
        loop {
            let line = within(part, self.coming.recv()).await?;
            self.seen.push_str(&line);
            self.seen.push('\n');
            if line.contains(part) {
                return Some(line);
            }
        }
    }

    /// All of it, what was read before too.
    async fn rest(&mut self) -> String {
        while let Some(line) = within("the end of the output", self.coming.recv()).await {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        std::mem::take(&mut self.seen)
    }
}
