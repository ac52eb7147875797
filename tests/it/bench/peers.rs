//! Servers that are measured beside the gateway: real ones, as `benches/peers` starts them.

use std::{net::SocketAddr, os::unix::fs::symlink, path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{EVENTS, assert_sound, small};
use crate::support::{Program, free_address, within};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers");

/// A server that ends with the test.
struct Peer {
    _program: Program,
    _directory: TempDir,
    address: SocketAddr,
}

impl Peer {
    async fn node(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/js/node_modules");
        symlink(packages, directory.path().join("node_modules")).expect("a link");
        let copy = directory.path().join(script);
        std::fs::copy(Path::new(PEERS).join(script), &copy).expect("a copy");
        let address = free_address();
        let mut command = Command::new("node");
        command.arg(copy).env("PORT", address.port().to_string());
        let mut program = Program::start(command);
        program.prints("listening").await;
        Self {
            _program: program,
            _directory: directory,
            address,
        }
    }

    async fn nchan() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let address = free_address();
        let conf = std::fs::read_to_string(Path::new(PEERS).join("nchan.conf")).expect("a file");
        let conf = conf.replace("127.0.0.1:18180", &address.to_string());
        let file = directory.path().join("nchan.conf");
        std::fs::write(&file, conf).expect("a written file");
        let mut command = Command::new("nginx");
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command.arg("-p").arg(directory.path()).arg("-c").arg(&file);
        let program = Program::start(command);
        within("nginx to listen", async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        Self {
            _program: program,
            _directory: directory,
            address,
        }
    }

    /// What a small run finds, and its exit code.
    async fn bench(&self, more: &[&str]) -> (Value, i32) {
        let url = format!("http://{}", self.address);
        let more = [&["--json", "--url", &url], more].concat();
        let ended = Program::tribus(&small(&more), &[("TRIBUS_TOKEN", "for-the-gateway")])
            .ended()
            .await;
        let outcome = serde_json::from_str(&ended.stdout);
        let outcome = outcome.unwrap_or_else(|_| panic!("JSON: {ended:?}"));
        (outcome, ended.code.expect("an exit code"))
    }
}

#[tokio::test]
async fn bench_measures_nchan_on_all_its_transports_and_resumes_there() {
    let nchan = Peer::nchan().await;
    let (outcome, code) = nchan.bench(&["--peer", "nchan", "--resume"]).await;
    assert_sound(&outcome);
    assert_eq!((&outcome["catchUp"]["complete"], code), (&json!(30), 0));
    for row in outcome["groups"].as_array().expect("groups") {
        assert_eq!(row["delivered"], 2 * EVENTS + 10 * 100, "{row}");
    }
}

#[tokio::test]
async fn bench_measures_servers_on_node_and_finds_that_they_lose_what_is_sent_to_who_is_away() {
    for (name, script) in [("ws", "ws.mjs"), ("socketio", "socketio.mjs")] {
        let peer = Peer::node(script).await;
        let (outcome, code) = peer.bench(&["--peer", name, "--topics", "5"]).await;
        assert_sound(&outcome);
        assert_eq!(code, 0);
        assert_eq!(outcome["groups"][0]["name"], "WebSocket");
        assert_eq!(outcome["total"]["delivered"], 6 * EVENTS, "{name}");
        let (outcome, code) = peer
            .bench(&["--peer", name, "--resume", "--grace", "1s"])
            .await;
        assert_eq!(code, 1);
        assert_eq!(outcome["total"]["lost"], 30 * 100, "{name}: {outcome}");
        assert_eq!(outcome["catchUp"]["complete"], 0);
    }
}
