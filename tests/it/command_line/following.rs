//! `tribus subscribe` through a restart of the gateway.

use super::Serving;

/// Clients are told to come back within the grace; a short one keeps the test short.
const GRACE: (&str, &str) = ("TRIBUS__SHUTDOWN__GRACE", "1s");

async fn publish(gateway: &Serving, data: &str) -> String {
    let ended = gateway.client(&["publish", "repo:a/b", data]).ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout.trim().to_owned()
}

#[tokio::test]
async fn subscribe_follows_a_restarted_gateway_on_every_transport_and_tells_of_the_reset() {
    let gateway = Serving::start(&[GRACE]).await;
    let address = gateway.address.clone();
    let mut followers = Vec::new();
    for transport in ["ws", "sse", "poll"] {
        let mut follower = gateway.client(&["subscribe", "repo:**", "--transport", transport]);
        let connected = follower.says("connected").await;
        assert!(connected.contains("repo:**"), "{connected}");
        followers.push((transport, follower));
    }
    // A poll says that it is connected before its cursor is known; an event shows that it follows.
    let first = publish(&gateway, "1").await;
    for (_, follower) in &mut followers {
        let line = follower.prints("\"data\":1").await;
        assert!(line.contains(&first), "{line}");
    }
    assert_eq!(gateway.terminate().await.code, Some(0));
    let gateway = Serving::start_on(&address, &[GRACE]).await;
    for (transport, follower) in &mut followers {
        let reset = follower.says("reset (").await;
        assert!(reset.contains("unknown_log"), "{transport}: {reset}");
    }
    let second = publish(&gateway, "2").await;
    for (transport, mut follower) in followers {
        let line = follower.prints("\"data\"").await;
        assert!(
            line.contains(&second) && line.contains("\"data\":2"),
            "{transport}: {line}"
        );
        follower.signal("TERM");
        let ended = follower.ended().await;
        assert_eq!(
            ended.stdout.lines().count(),
            2,
            "{transport}: {}",
            ended.stdout
        );
    }
}

#[tokio::test]
async fn a_reset_can_be_made_an_end_with_a_code_of_its_own() {
    let gateway = Serving::start(&[GRACE]).await;
    publish(&gateway, "1").await;
    let follower = gateway.client(&[
        "subscribe",
        "repo:**",
        "--cursor",
        "other-1",
        "--fail-on-reset",
    ]);
    let ended = follower.ended().await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stdout.is_empty());
}

#[tokio::test]
async fn a_cursor_file_lets_the_next_run_go_on_where_the_last_one_ended() {
    let gateway = Serving::start(&[GRACE]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cursor");
    let file = file.to_str().unwrap();
    for transport in ["ws", "sse", "poll"] {
        for data in ["1", "2", "3"] {
            publish(&gateway, data).await;
        }
        std::fs::write(file, "").unwrap();
        let run = async |count: &str| {
            let arguments = [
                "subscribe",
                "repo:**",
                "--transport",
                transport,
                "--rewind",
                "3",
                "--cursor-file",
                file,
                "--count",
                count,
            ];
            let ended = gateway.client(&arguments).ended().await;
            assert_eq!(ended.code, Some(0), "{transport}: {ended:?}");
            ended.stdout
        };
        let (first, second) = (run("2").await, run("1").await);
        assert_eq!(first.lines().count(), 2, "{transport}: {first}");
        assert!(second.contains("\"data\":3"), "{transport}: {second}");
    }
}
