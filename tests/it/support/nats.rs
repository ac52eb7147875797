//! Real NATS servers with JetStream, on free ports and in directories of their own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use async_nats::jetstream::{self, context::GetStreamErrorKind, stream::Stream};
use tempfile::TempDir;

use super::{node::free_address, within};

/// Which release of the server: `newest` or, by default, the oldest that is supported.
const RELEASE: &str = "TRIBUS_TEST_NATS";

/// One server, which ends with the test at the latest.
pub struct NatsServer {
    pub address: SocketAddr,
    directory: TempDir,
    program: PathBuf,
    /// Lines of its configuration.
    settings: String,
    process: Option<Process>,
}

struct Process {
    id: u32,
    /// Waits for its end.
    keeper: JoinHandle<()>,
}

impl NatsServer {
    pub async fn start() -> Self {
        Self::start_with(&Self::program(&Self::release()), free_address(), "").await
    }

    /// The release that the tests are run with.
    pub fn release() -> String {
        std::env::var(RELEASE).unwrap_or_default()
    }

    /// The server of a release, where the tests have installed it.
    pub fn program(release: &str) -> PathBuf {
        match release {
            "newest" => "target/test-tools/nats-server/bin/nats-server".into(),
            _ => "nats-server".into(),
        }
    }

    /// With lines of configuration.
    pub async fn start_with(program: &Path, address: SocketAddr, settings: &str) -> Self {
        let server = Self::spawn_with(program, address, settings);
        server.answers().await;
        server
    }

    /// As [`NatsServer::start_with`], without waiting for it.
    pub fn spawn_with(program: &Path, address: SocketAddr, settings: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut server = Self {
            address,
            directory,
            program: program.to_owned(),
            settings: settings.to_owned(),
            process: None,
        };
        server.spawn();
        server
    }

    /// One for all tests of this process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceLock<NatsServer> = OnceLock::new();
        static STARTING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = STARTING.lock().await;
        if let Some(server) = SHARED.get() {
            return server;
        }
        let server = Self::start().await;
        SHARED.get_or_init(|| server)
    }

    /// A namespace that no other test has.
    pub fn namespace() -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Where it was, with what it has on disk.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.answers().await;
    }

    /// Until it lets someone in, or turns someone away.
    pub async fn answers(&self) {
        within("NATS to answer", async {
            while !self.is_there().await {
                let process = self.process.as_ref().expect("it was started");
                if process.keeper.is_finished() {
                    let log = std::fs::read_to_string(self.directory.path().join("log"));
                    panic!("it has ended: {log:?}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    fn spawn(&mut self) {
        let directory = self.directory.path();
        let file = directory.join("nats.conf");
        // A stream reserves what it may take at most, and tests have many of them.
        let text = format!(
            "listen: \"{}\"\nlog_file: {:?}\njetstream {{ store_dir: {directory:?}, \
             max_file_store: 100TB }}\n{}\n",
            self.address,
            directory.join("log"),
            self.settings
        );
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new("setpriv");
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/sbin"))
            .args(["--pdeathsig", "KILL"])
            .arg(&self.program)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (tell, told) = mpsc::channel();
        // It ends with the thread that starts it, which ends with it or with the tests.
        let keeper = std::thread::spawn(move || {
            let mut child = command.spawn().expect("nats-server runs");
            tell.send(child.id()).expect("the test listens");
            child.wait().expect("a child");
        });
        self.process = Some(Process {
            id: told.recv().expect("it was started"),
            keeper,
        });
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.directory.path().join("log"));
        log.expect("a log")
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

    /// A copy of what it has on disk; it must not run.
    pub fn snapshot(&self) -> TempDir {
        assert!(self.process.is_none(), "it runs");
        let copy = tempfile::tempdir().expect("a directory");
        copy_all(&self.directory.path().join("jetstream"), copy.path());
        copy
    }

    /// Puts back what it had on disk, as if nothing later had come to the disk.
    pub fn restore(&self, snapshot: &TempDir) {
        assert!(self.process.is_none(), "it runs");
        let store = self.directory.path().join("jetstream");
        std::fs::remove_dir_all(&store).expect("a directory");
        copy_all(snapshot.path(), &store);
    }

    async fn is_there(&self) -> bool {
        use tokio::io::AsyncReadExt;
        let Ok(mut stream) = tokio::net::TcpStream::connect(self.address).await else {
            return false;
        };
        let mut greeting = [0; 4];
        let greeted = stream.read_exact(&mut greeting).await;
        greeted.is_ok() && &greeting == b"INFO"
    }

    async fn try_client(&self) -> Option<async_nats::Client> {
        let options = async_nats::ConnectOptions::new();
        let client = options
            .connection_timeout(Duration::from_secs(5))
            .connect(self.url())
            .await
            .ok()?;
        let none = jetstream::new(client.clone()).get_stream("none").await;
        let told = none.err()?.kind();
        matches!(told, GetStreamErrorKind::JetStream(_)).then_some(client)
    }

    /// Another client of it.
    pub async fn jetstream(&self) -> jetstream::Context {
        within("NATS to answer", async {
            loop {
                if let Some(client) = self.try_client().await {
                    break jetstream::new(client);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// The stream of a namespace's log, or another one of its streams.
    pub async fn stream(&self, namespace: &str, of: &str) -> Stream {
        let name = format!("TRIBUS_{namespace}{of}");
        let jetstream = self.jetstream().await;
        jetstream.get_stream(name).await.expect("a stream")
    }
}

fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-aT").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success(), "{from:?}");
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
