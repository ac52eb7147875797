//! The disk fails, or is full.

use std::{
    collections::HashSet,
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Scene, Strace, read_after, report, rounds, until_ready_is};
use crate::support::{Node, Program, TestGateway};

/// Nearly all of the log is on disk only.
const LITTLE_MEMORY: (&str, &str) = ("BUS__DISK__MEMORY", "64KiB");

/// Nothing is accepted, the reason is told, and everything that was acknowledged can be read.
async fn assert_refuses_and_reads(scene: &Scene, gateway: &TestGateway, advice: &str) {
    let said = until_ready_is(gateway, 503).await;
    assert!(said.contains("can not be written"), "{said}");
    assert!(said.contains(advice), "{said}");
    let (status, answer) = gateway.post(r#"{"topic":"elsewhere:1"}"#).await;
    assert_eq!(status, 503, "{answer}");
    assert_eq!(answer["code"], "unavailable");
    let scrape = gateway.scrape().await;
    assert!(scrape.value("tribus_log_write_failures_total") >= 1.0);
    assert_eq!(scrape.value("tribus_log_writable"), 0.0);
    assert_eq!(scrape.value("tribus_log_lost_total"), 0.0);
    let acknowledged = scene.checker.acknowledged_ids();
    let there = read_after(gateway, &scene.start).await;
    let there: HashSet<_> = there
        .iter()
        .filter_map(|event| event["id"].as_str())
        .collect();
    let missing = acknowledged.iter().find(|id| !there.contains(id.as_str()));
    assert_eq!(missing, None, "of {}", acknowledged.len());
}

#[tokio::test]
async fn a_sync_or_write_that_fails_stops_publishes_until_a_restart_and_no_reads() {
    let mut scene = Scene::begin(&[LITTLE_MEMORY]).await;
    let count = rounds(2, 40);
    for round in 0..count {
        scene.flows(600).await;
        scene.node.terminate().await;
        let call = ["fdatasync", "pwrite64"][round % 2];
        let inject = format!("error=EIO:when={}", fastrand::u32(12..60));
        let strace = Strace::new(scene.node.directory(), call, &inject);
        scene.node.start_under(&strace.words(), &[]).await;
        let gateway = scene.node.gateway();
        assert_refuses_and_reads(&scene, &gateway, "restart the gateway").await;
        let trace = Strace::read(scene.node.directory());
        let failed = trace.lines().filter(|line| line.contains("EIO"));
        assert_eq!(failed.count(), 1, "{call}");
        if round % 2 == 0 {
            scene.node.terminate().await;
        } else {
            scene.node.kill().await;
        }
        scene.node.start().await;
        assert_eq!(until_ready_is(&gateway, 200).await, "ready\n");
    }
    scene.flows(100).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    assert!(verdict.refused > 0, "{verdict}");
    report("fdatasync and pwrite64 fail with EIO", count, &verdict);
}

/// A small file system of the test's own, in a namespace that a program holds open.
struct SmallDisk {
    holder: Program,
    path: PathBuf,
    is_root: bool,
}

impl SmallDisk {
    const SIZE: &str = "size=24m";

    /// `None` where this user may not mount anything, not even in a namespace of its own.
    async fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir_all(&path).expect("a directory");
        let mine = Command::new("id").arg("-u").output().expect("id runs");
        let is_root = mine.stdout == b"0\n";
        let mut command = Command::new("unshare");
        command.arg(if is_root { "-m" } else { "-Urm" });
        let script = "mount -t tmpfs -o \"$1\" tmpfs \"$0\" && echo mounted >&2 && exec cat";
        command
            .args(["sh", "-c", script])
            .arg(&path)
            .arg(Self::SIZE);
        let mut holder = Program::start(command);
        holder.try_says("mounted").await?;
        Some(Self {
            holder,
            path,
            is_root,
        })
    }

    /// What starts a program that sees it.
    fn wrapper(&self) -> Vec<String> {
        let id = self.holder.id().to_string();
        let mut words = vec!["nsenter", "-t", &id, "-m"];
        if !self.is_root {
            words.extend(["-U", "--preserve-credentials"]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    fn ballast(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        let path = self.path.strip_prefix("/").expect("an absolute path");
        Path::new(&root).join(path).join("ballast")
    }

    /// Takes all space, but for so many bytes.
    fn fill(&self, but: u64) {
        let mut file = fs::File::create(self.ballast()).expect("a file");
        let chunk = [0; 64 << 10];
        let mut len = 0;
        loop {
            match file.write(&chunk) {
                Ok(written) => len += written as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        file.set_len(len.saturating_sub(but)).expect("less of it");
    }

    fn give_back(&self) {
        fs::remove_file(self.ballast()).expect("the ballast");
    }
}

#[tokio::test]
async fn a_full_disk_stops_publishes_and_no_reads_and_it_goes_on_by_itself() {
    let mut node = Node::new(&[LITTLE_MEMORY]);
    let Some(disk) = SmallDisk::mount(node.directory().join("small")).await else {
        return a_disk_that_says_that_it_is_full(node).await;
    };
    let log = disk.path.join("log");
    node.set("BUS__DISK__PATH", log.to_str().expect("UTF-8"));
    let wrapper = disk.wrapper();
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    node.start_under(&wrapper, &[]).await;
    let address = node.address;
    let mut scene = Scene::around(node, address).await;
    let count = rounds(2, 20);
    for round in 0..count {
        scene.flows(300).await;
        disk.fill(fastrand::u64(0..400 << 10));
        let gateway = scene.node.gateway();
        assert_refuses_and_reads(&scene, &gateway, "once there is space").await;
        disk.give_back();
        assert_eq!(until_ready_is(&gateway, 200).await, "ready\n");
        scene.flows(100).await;
        if round % 2 == 1 {
            scene.node.kill().await;
            scene.node.start_under(&wrapper, &[]).await;
        }
    }
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("a full disk", count, &verdict);
}

/// Where nothing may be mounted, the calls say that there is no space.
async fn a_disk_that_says_that_it_is_full(mut node: Node) {
    let inject = "error=ENOSPC:when=300..304";
    let strace = Strace::new(node.directory(), "pwrite64", inject);
    node.start_under(&strace.words(), &[]).await;
    let address = node.address;
    let scene = Scene::around(node, address).await;
    let gateway = scene.node.gateway();
    assert_refuses_and_reads(&scene, &gateway, "once there is space").await;
    assert_eq!(until_ready_is(&gateway, 200).await, "ready\n");
    scene.flows(100).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("calls that say that the disk is full", 1, &verdict);
}
