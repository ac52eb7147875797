//! The servers that a shared log lives in: each on a free port of loopback, in a directory that its owner
//! has, and gone with its owner.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

/// A server that has been started, killed when it is dropped.
pub struct Store {
    process: Child,
    address: SocketAddr,
}

impl Store {
    /// With this `appendfsync`, or without AOF.
    ///
    /// # Errors
    /// Where there is no `redis-server`, or it does not answer within ten seconds.
    pub fn redis(directory: &Path, fsync: Option<&str>) -> anyhow::Result<Self> {
        let address = free_address()?;
        let aof = if fsync.is_some() { "yes" } else { "no" };
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", aof])
            .args(["--appendfsync", fsync.unwrap_or("no")])
            .args(["--port", &address.port().to_string(), "--dir"])
            .arg(directory);
        Self::start(command, address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn start(mut command: Command, address: SocketAddr) -> anyhow::Result<Self> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().with_context(|| {
            let program = command.get_program().to_string_lossy();
            format!("{program}, see scripts/test-tools.sh")
        })?;
        let store = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = TcpStream::connect(address) {
            anyhow::ensure!(Instant::now() < deadline, "no server at {address}: {error}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(store)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
