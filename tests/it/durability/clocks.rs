//! Time stands still for the gateway, or jumps.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::json;

use super::{Scene, report, rounds};
use crate::support::{Claims, Node, TestGateway};

#[tokio::test]
async fn a_gateway_that_is_stopped_for_a_while_goes_on() {
    let mut scene = Scene::begin(&[]).await;
    let count = rounds(1, 6);
    for _ in 0..count {
        scene.flows(200).await;
        scene.node.program().signal("STOP");
        tokio::time::sleep(rounds(Duration::from_secs(4), Duration::from_secs(30))).await;
        scene.node.program().signal("CONT");
    }
    scene.flows(200).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("SIGSTOP and SIGCONT", count, &verdict);
}

/// The wall clock of a gateway, by libfaketime; its monotonic clock goes on as it is.
struct Clock {
    library: String,
    file: String,
}

impl Clock {
    fn new(directory: &Path) -> Self {
        let mut command = Command::new("faketime");
        let told = command
            .args(["-f", "+0s", "printenv", "LD_PRELOAD"])
            .output();
        let told = told.expect("faketime runs: scripts/test-tools.sh installs it");
        let file = directory.join("clock");
        let clock = Self {
            library: String::from_utf8(told.stdout)
                .expect("UTF-8")
                .trim()
                .to_owned(),
            file: file.to_str().expect("UTF-8").to_owned(),
        };
        clock.jump_to(0);
        clock
    }

    fn variables(&self) -> Vec<(&str, &str)> {
        vec![
            ("LD_PRELOAD", &self.library),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }

    /// So many seconds before or after the real time.
    fn jump_to(&self, seconds: i64) {
        let part = format!("{}.part", self.file);
        fs::write(&part, format!("{seconds:+}\n")).expect("a file");
        fs::rename(part, &self.file).expect("a file");
    }
}

/// How far the gateway's clock is from the real one, in seconds.
async fn shift(gateway: &TestGateway) -> i64 {
    let claims = Claims::all("reader").expiring_in(24 * 3600);
    let (_, page) = gateway.poll_as(&claims, "topics=time:*").await;
    let cursor = page["cursor"].as_str().expect("a cursor").to_owned();
    let (status, answer) = gateway.post_as(&claims, r#"{"topic":"time:1"}"#).await;
    assert_eq!(status, 200, "{answer}");
    let query = format!("topics=time:*&cursor={cursor}");
    let (_, page) = gateway.poll_as(&claims, &query).await;
    let timestamp = page["events"][0]["timestamp"].as_str().expect("a time");
    let timestamp: jiff::Timestamp = timestamp.parse().expect("a time");
    timestamp.as_second() - jiff::Timestamp::now().as_second()
}

async fn publish_under_key(gateway: &TestGateway) -> serde_json::Value {
    let request = gateway.http.post(gateway.url("/publish"));
    let claims = Claims::all("other").expiring_in(24 * 3600);
    let request = request
        .bearer_auth(claims.token())
        .header("Idempotency-Key", "once");
    let answer = request.body(r#"{"topic":"time:1"}"#).send().await;
    answer.expect("an answer").json().await.expect("JSON")
}

#[tokio::test]
async fn a_clock_that_jumps_by_an_hour_loses_no_event_and_no_key() {
    let mut node = Node::new(&[("RETENTION__AGE", "20m")]);
    let clock = Clock::new(node.directory());
    node.start_under(&[], &clock.variables()).await;
    let address = node.address;
    let mut scene = Scene::around(node, address).await;
    let gateway = scene.node.gateway();
    let first = publish_under_key(&gateway).await;
    assert!(
        first["id"].is_string() && first["duplicate"].is_null(),
        "{first}"
    );
    let count = rounds(1, 10);
    for _ in 0..count {
        for hours in [1, -1, 0] {
            scene.flows(150).await;
            clock.jump_to(hours * 3600);
            let shift = shift(&gateway).await;
            assert!((shift - hours * 3600).abs() < 60, "{shift}");
            scene.flows(150).await;
            let again = publish_under_key(&gateway).await;
            assert_eq!(again["id"], first["id"], "{again}");
            assert_eq!(again["duplicate"], json!(true), "{again}");
        }
    }
    // The machine is not started again, so that its own clock tells how old events and keys are.
    for hours in [1, -1, 0] {
        clock.jump_to(hours * 3600);
        scene.flows(150).await;
        scene.node.kill().await;
        scene.node.start_under(&[], &clock.variables()).await;
        let again = publish_under_key(&gateway).await;
        assert_eq!(again["id"], first["id"], "after a start: {again}");
        scene.flows(150).await;
    }
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("clock jumps of an hour", count, &verdict);
}
