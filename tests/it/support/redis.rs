//! Real Redis servers, on free ports and in directories of their own.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use tempfile::TempDir;

use super::{node::free_address, within};

/// Nothing is written to disk.
pub const VOLATILE: &[&str] = &["--save", "", "--appendonly", "no"];
/// What is acknowledged is on disk.
pub const SYNCED: &[&str] = &[
    "--save",
    "",
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
];
/// What is acknowledged is with the operating system.
pub const EVERYSEC: &[&str] = &[
    "--save",
    "",
    "--appendonly",
    "yes",
    "--appendfsync",
    "everysec",
];

/// One server, which ends with the test at the latest.
pub struct RedisServer {
    pub address: SocketAddr,
    directory: TempDir,
    arguments: Vec<String>,
    process: Option<Process>,
}

struct Process {
    id: u32,
    /// Waits for its end.
    keeper: JoinHandle<()>,
}

impl RedisServer {
    pub async fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut server = Self {
            address: free_address(),
            directory,
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
            process: None,
        };
        server.start_again().await;
        server
    }

    /// A Sentinel that watches a master under the name `watched`, and promotes a replica of it
    /// when it is gone for a second.
    pub async fn sentinel(master: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("sentinel.conf");
        let (host, port) = (master.ip(), master.port());
        let text = format!(
            "sentinel monitor watched {host} {port} 1\n\
             sentinel down-after-milliseconds watched 1000\n\
             sentinel failover-timeout watched 3000\n"
        );
        std::fs::write(&file, text).expect("a file");
        let file = file.to_str().expect("UTF-8").to_owned();
        let mut server = Self {
            address: free_address(),
            directory,
            arguments: vec![file, "--sentinel".to_owned()],
            process: None,
        };
        server.start_again().await;
        server
    }

    /// One for all tests of this process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = STARTING.lock().await;
        if let Some(server) = SHARED.get() {
            return server;
        }
        let server = Self::start(VOLATILE).await;
        SHARED.get_or_init(|| server)
    }

    /// A namespace that no other test has.
    pub fn namespace() -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Where it was, with what it has on disk.
    pub async fn start_again(&mut self) {
        let port = self.address.port().to_string();
        let directory = self.directory.path().to_str().expect("UTF-8").to_owned();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(&self.arguments)
            .args(["--bind", "127.0.0.1", "--port", &port, "--dir", &directory])
            .args(["--loglevel", "warning", "--logfile", "log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let (tell, told) = mpsc::channel();
        // It ends with the thread that starts it, which ends with it or with the tests.
        let keeper = std::thread::spawn(move || {
            let mut child = command.spawn().expect("redis-server runs");
            tell.send(child.id()).expect("the test listens");
            child.wait().expect("a child");
        });
        self.process = Some(Process {
            id: told.recv().expect("it was started"),
            keeper,
        });
        within("Redis to answer", async {
            while let Err(error) = self.try_command(&["PING"]) {
                let process = self.process.as_ref().expect("it was started");
                if process.keeper.is_finished() {
                    let log = std::fs::read_to_string(self.directory.path().join("log"));
                    panic!("it has ended: {error}, {log:?}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("it runs");
        let id = process.id.to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.expect("kill runs").success(), "{name}");
    }

    /// `kill -9`, until nothing is left of it.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let id = process.id.to_string();
            // Stopped ones too.
            let _ = Command::new("kill").args(["-s", "KILL", &id]).status();
            let _ = process.keeper.join();
        }
    }

    /// Asks it something; it must be able to answer.
    pub fn command(&self, words: &[&str]) -> ::redis::Value {
        let answer = self.try_command(words);
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn try_command(&self, words: &[&str]) -> ::redis::RedisResult<::redis::Value> {
        let client = ::redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        let (name, arguments) = words.split_first().expect("a command");
        ::redis::cmd(name).arg(arguments).query(&mut connection)
    }

    /// Becomes the replica of another one, and has what that one has.
    pub async fn follow(&self, master: SocketAddr) {
        let (host, port) = (master.ip().to_string(), master.port().to_string());
        self.command(&["REPLICAOF", &host, &port]);
        within("the replica to be in step", async {
            while !self.info("replication").contains("master_link_status:up") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Until it has all that its master has.
    pub async fn has_caught_up_with(&self, master: &Self) {
        let offset = |server: &Self, name: &str| {
            let info = server.info("replication");
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
        };
        within("the replica to have it all", async {
            while offset(self, "slave_repl_offset:") < offset(master, "master_repl_offset:") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    fn info(&self, section: &str) -> String {
        match self.command(&["INFO", section]) {
            ::redis::Value::BulkString(info) => String::from_utf8(info).expect("UTF-8"),
            other => panic!("{other:?}"),
        }
    }

    /// The key of a namespace's log, or another of its keys.
    pub fn key(namespace: &str, of: &str) -> String {
        format!("tribus:{{{namespace}}}:{of}")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
