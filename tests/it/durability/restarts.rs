//! The gateway is restarted as operators do it, and otherwise than it was.

use super::{Scene, report, rounds};

#[tokio::test]
async fn a_drain_under_load_and_the_storm_after_it_lose_nothing() {
    let mut scene = Scene::begin(&[("SHUTDOWN__UNREADY", "300ms")]).await;
    for _ in 0..24 {
        scene.add_hopper();
    }
    // Far less than come back at once.
    scene.node.set("LIMITS__ADMISSIONS_PER_SECOND", "10");
    scene.node.set("LIMITS__ADMISSION_BURST", "2");
    let count = rounds(2, 20);
    for _ in 0..count {
        scene.flows(300).await;
        scene.node.terminate().await;
        scene.node.start().await;
    }
    scene.flows(300).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    assert!(verdict.turned_away > 0, "it was no storm");
    let came_to = format!(
        "{verdict}, {} times told to come later",
        verdict.turned_away
    );
    report("drain and storm", count, &came_to);
}

#[tokio::test]
async fn another_number_of_workers_serves_the_same_log() {
    let mut scene = Scene::begin(&[]).await;
    let workers = ["1", "4", "2", "3"];
    let count = rounds(4, 40);
    for round in 0..count {
        scene.flows(200).await;
        if round % 2 == 0 {
            scene.node.terminate().await;
        } else {
            scene.node.kill().await;
        }
        scene.node.set("WORKERS", workers[round % workers.len()]);
        scene.node.start().await;
    }
    scene.flows(200).await;
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("another number of workers", count, &verdict);
}

#[tokio::test]
async fn a_second_gateway_on_the_same_directory_is_refused_and_does_no_harm() {
    let mut scene = Scene::begin(&[]).await;
    let count = rounds(3, 30);
    for _ in 0..count {
        scene.flows(100).await;
        let second = scene.node.twin().ended().await;
        assert_eq!(second.code, Some(1), "{}", second.stderr);
        let log = scene.node.log();
        let told = format!("another process has the log in {} open", log.display());
        assert!(second.stderr.contains(&told), "{}", second.stderr);
        assert!(
            second.stderr.contains("a directory of its own"),
            "{}",
            second.stderr
        );
        scene.flows(100).await;
        // What a killed one held is free at once.
        scene.node.kill().await;
        scene.node.start().await;
    }
    let verdict = scene.finish().await;
    assert_eq!((verdict.resets(), verdict.logs), (0, 1), "{verdict}");
    report("two gateways on one directory", count, &verdict);
}
