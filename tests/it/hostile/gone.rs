//! Clients that leave without a word, or with half of one.

use std::time::Duration;

use super::{Scene, request};
use crate::support::{Raw, released, within};

/// A way to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// Sends no more, and would go on reading (FIN).
    HalfClose,
    Reset,
    /// With bytes of the gateway unread, so that the kernel answers for it with a reset.
    Drop,
}

const WAYS: [Leaving; 3] = [Leaving::HalfClose, Leaving::Reset, Leaving::Drop];

/// What a client was in the middle of, and what it has read of it by then.
fn stages(cursor: &str) -> Vec<(&'static str, String, &'static str)> {
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let anonymous = format!("GET /ws HTTP/1.1\r\nHost: x\r\n{handshake}");
    let poll = format!("GET /poll?topics=quiet:1&wait=55&cursor={cursor}");
    let body = r#"{"topics":["quiet:1"]}"#;
    let by_body = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    vec![
        ("half a head", "GET /poll HTTP/1.1\r\nHost:".to_owned(), ""),
        (
            "half a body",
            request("POST /publish", "Content-Length: 100\r\n\r\n{\"topic\":"),
            "",
        ),
        (
            "half a body in chunks",
            request(
                "POST /publish",
                "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"to",
            ),
            "",
        ),
        (
            "a body refused unread",
            request("POST /nope", "Content-Length: 9\r\n\r\n"),
            "not_found",
        ),
        (
            "a stream",
            request("GET /events?topics=quiet:1", "\r\n"),
            "event: live",
        ),
        (
            "a stream by POST",
            request("POST /events", &by_body),
            "event: live",
        ),
        (
            "a websocket",
            request("GET /ws?topics=quiet:1", handshake),
            "\"live\"",
        ),
        ("a websocket without a token", anonymous, "101 Switching"),
        ("a waiting poll", request(&poll, "\r\n"), ""),
    ]
}

#[tokio::test]
async fn whoever_leaves_in_whatever_way_is_noticed_and_leaves_nothing_behind() {
    // Each neighbour, and one of those who leave: a place that is not given back is missed.
    let mut scene = Scene::with("limits.connections = 5").await;
    let cursor = scene
        .gateway
        .publish("elsewhere:1", serde_json::Value::Null)
        .await;
    for (stage, bytes, read_to) in stages(&cursor) {
        for way in WAYS {
            let what = format!("{stage}, {way:?}");
            let mut raw = Raw::connect(&scene.gateway).await;
            raw.send(bytes.as_bytes()).await;
            raw.text_until(read_to).await;
            if read_to.is_empty() {
                // Nothing tells when the gateway has read it; either way it is to be noticed.
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            let ends = raw.ends();
            match way {
                Leaving::HalfClose => {
                    raw.half_close_if_open().await;
                    let _ = raw.rest().await;
                }
                Leaving::Reset => raw.reset(),
                Leaving::Drop => {
                    if stage.starts_with("a stream") || stage.starts_with("a websocket") {
                        scene
                            .gateway
                            .publish("quiet:1", serde_json::Value::Null)
                            .await;
                    }
                    drop(raw);
                }
            }
            within(&format!("the end of {what}"), released(vec![ends])).await;
            scene.neighbours_are_served(&what).await;
            within(&format!("the place of {what}"), free_place(&scene)).await;
        }
    }
}

async fn free_place(scene: &Scene) {
    while scene.gateway.poll("topics=quiet:1").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_operator_who_leaves_half_way_leaves_nothing_behind() {
    let mut scene = Scene::start().await;
    for bytes in [
        "",
        "GET /healthz HTTP/1.1\r\nHost:",
        "POST /admin/disconnect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"sub\":",
        "POST /admin/disconnect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ] {
        for way in WAYS {
            let mut raw = Raw::connect_to(scene.gateway.admin).await;
            raw.send(bytes.as_bytes()).await;
            let ends = raw.ends();
            match way {
                Leaving::HalfClose => {
                    raw.half_close_if_open().await;
                    let _ = raw.rest().await;
                }
                Leaving::Reset => raw.reset(),
                Leaving::Drop => drop(raw),
            }
            within(
                &format!("the end of {bytes:?}, {way:?}"),
                released(vec![ends]),
            )
            .await;
            scene.neighbours_are_served("an operator").await;
        }
    }
}

#[tokio::test]
async fn a_crowd_that_vanishes_at_once_in_mid_delivery_is_let_go() {
    let mut scene = Scene::start().await;
    let mut crowd = Vec::new();
    for n in 0..100 {
        let mut raw = if n % 2 == 0 {
            Raw::websocket(&scene.gateway, "topics=quiet:1").await
        } else {
            let mut raw = Raw::connect(&scene.gateway).await;
            raw.request("GET /events?topics=quiet:1", "\r\n").await;
            raw
        };
        raw.text_until("live").await;
        crowd.push(raw);
    }
    let mut ends = Vec::new();
    for (n, raw) in crowd.into_iter().enumerate() {
        ends.push(raw.ends());
        if n % 10 == 0 {
            scene
                .gateway
                .publish("quiet:1", serde_json::json!("x".repeat(10_000)))
                .await;
        }
        if n % 3 == 0 {
            raw.reset();
        } else {
            drop(raw);
        }
    }
    within("the end of a crowd", released(ends)).await;
    scene.neighbours_are_served("a crowd").await;
}
