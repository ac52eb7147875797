//! The gateway as a process of its own with its log on disk, which can be killed and started again.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use tempfile::TempDir;

use super::{Ended, Program, SECRET, TestGateway};

/// Below the ports that the operating system gives to connections: else a client that tries again
/// and again might be given the very port that it connects to, and be connected to itself.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// One gateway, on addresses that stay.
pub struct Node {
    pub address: SocketAddr,
    admin: SocketAddr,
    /// Removed with all that is in it.
    directory: TempDir,
    settings: Vec<(String, String)>,
    program: Option<Program>,
}

impl Node {
    /// Not started yet; with settings by their variables' names without `TRIBUS__`.
    pub fn new(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let all = [
            ("AUTH__HS256_SECRET", SECRET),
            ("BUS__ENGINE", "disk"),
            ("BUS__DISK__PATH", log.to_str().expect("UTF-8")),
            ("WORKERS", "2"),
            ("HEARTBEAT", "400ms"),
            ("SHUTDOWN__GRACE", "2s"),
            ("LIMITS__CONNECTIONS", "2000"),
            ("RETENTION__EVENTS", "1000000"),
            ("RETENTION__BYTES", "512MiB"),
        ];
        let mut node = Self {
            address: free_address(),
            admin: free_address(),
            directory,
            settings: Vec::new(),
            program: None,
        };
        for (name, value) in all.iter().chain(settings) {
            node.set(name, value);
        }
        node
    }

    /// From the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        let name = format!("TRIBUS__{name}");
        self.settings.retain(|(other, _)| *other != name);
        self.settings.push((name, value.to_owned()));
    }

    /// A directory of this node's, beside its log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its log is, unless it was set to another place.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The segments of the log, the oldest first.
    pub fn segments(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.log()).expect("a log");
        let files = files.map(|file| file.expect("a file").path());
        let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "segment");
        let mut segments: Vec<_> = files.filter(is_segment).collect();
        segments.sort();
        segments
    }

    pub async fn start(&mut self) {
        self.start_under(&[], &[]).await;
    }

    /// Under another program, which becomes it or traces it, with variables of its own.
    pub async fn start_under(&mut self, wrapper: &[&str], variables: &[(&str, &str)]) {
        if !self.try_to_start(wrapper, variables).await {
            let ended = self.ended().await;
            panic!("it did not start: {ended:?}");
        }
    }

    /// Whether it has come to listen, and not ended before.
    pub async fn try_to_start(&mut self, wrapper: &[&str], variables: &[(&str, &str)]) -> bool {
        let mut program = self.spawn(wrapper, variables);
        let listens = program.try_says("listening").await.is_some();
        self.program = Some(program);
        listens
    }

    /// Another process with the same settings, on other ports.
    pub fn twin(&self) -> Program {
        let any = "127.0.0.1:0".parse().expect("an address");
        self.spawn_on(any, any, &[], &[])
    }

    fn spawn(&self, wrapper: &[&str], variables: &[(&str, &str)]) -> Program {
        self.spawn_on(self.address, self.admin, wrapper, variables)
    }

    fn spawn_on(
        &self,
        address: SocketAddr,
        admin: SocketAddr,
        wrapper: &[&str],
        variables: &[(&str, &str)],
    ) -> Program {
        let (address, admin) = (address.to_string(), admin.to_string());
        let arguments = ["serve", "--listen", &address, "--admin-listen", &admin];
        let settings = self.settings.iter();
        let mut all: Vec<_> = settings
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.extend_from_slice(variables);
        Program::tribus_under(wrapper, &arguments, &all)
    }

    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("it was started")
    }

    /// `kill -9`, until nothing is left of it.
    pub async fn kill(&mut self) -> Ended {
        self.program().signal("KILL");
        self.ended().await
    }

    /// As an operator ends it; it must end well.
    pub async fn terminate(&mut self) -> Ended {
        self.program().signal("TERM");
        let ended = self.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// Waits for its end, whoever brings it about.
    pub async fn ended(&mut self) -> Ended {
        self.program.take().expect("it was started").ended().await
    }

    /// For whoever asks it something.
    pub fn gateway(&self) -> TestGateway {
        TestGateway::at(self.address, self.admin)
    }
}

/// One of loopback that nobody listens on, and nobody else in this process was given lately.
pub fn free_address() -> SocketAddr {
    static FIRST: LazyLock<u16> = LazyLock::new(|| fastrand::u16(..));
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = FIRST.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + number % (PORTS.end - PORTS.start);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
