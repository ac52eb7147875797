//! Messages on `/ws` that make no sense, and bytes that are no messages.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Scene;
use crate::support::{Claims, Raw, TestGateway, Ws, client_frame, released, within};

const FIRST: u8 = 0x01;
const CONTINUATION: u8 = 0x00;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Whatever a message says wrong, it is answered, and the connection is as good as before.
async fn assert_refused(ws: &mut Ws, message: &str, code: &str) {
    ws.send_text(message).await;
    let error = ws.next().await;
    let message: String = message.chars().take(80).collect();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!(code)),
        "{message}: {error}"
    );
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.len() < 1000),
        "{error}"
    );
    ws.send(json!({"type": "ping"})).await;
    assert_eq!(ws.next().await["type"], "pong", "{message}");
}

#[tokio::test]
async fn a_message_that_is_no_json_is_a_bad_request() {
    let mut scene = Scene::start().await;
    let mut ws = scene.gateway.ws("").await;
    for message in [
        "",
        " ",
        "{",
        "}",
        "null",
        "7",
        "[]",
        "[{\"type\":\"ping\"}]",
        "\"ping\"",
        "ping",
        "{}",
        "{\"type\":\"ping\"}{\"type\":\"ping\"}",
        "{\"type\":\"ping\",}",
        "{'type':'ping'}",
        "{\"type\":\"ping\"",
        "\u{feff}{\"type\":\"ping\"}",
        "{\"type\":\"\u{0}\"}",
        "{\"type\":\"\\ud800\"}",
        "{\"type\":\"ping\",\"type\":\"ping\"}",
        "{\"TYPE\":\"ping\"}",
        "\u{0}",
        "\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        assert_refused(&mut ws, message, "bad_request").await;
    }
    scene.neighbours_are_served("no JSON").await;
}

#[tokio::test]
async fn a_message_with_fields_of_the_wrong_type_is_a_bad_request() {
    let mut scene = Scene::start().await;
    let mut ws = scene.gateway.ws("").await;
    for message in [
        json!({"type": 7}),
        json!({"type": null}),
        json!({"type": ["ping"]}),
        json!({"type": "ping\u{0}"}),
        json!({"type": "x".repeat(60_000)}),
        json!({"type": "ping", "ref": {}}),
        json!({"type": "ping", "ref": null, "x": 1}),
        json!({"type": "ping", "ref": "x".repeat(129)}),
        json!({"type": "auth"}),
        json!({"type": "auth", "token": 7}),
        json!({"type": "auth", "token": ["a"]}),
        json!({"type": "subscribe"}),
        json!({"type": "subscribe", "topics": "a:1"}),
        json!({"type": "subscribe", "topics": [7]}),
        json!({"type": "subscribe", "topics": [["a:1"]]}),
        json!({"type": "subscribe", "topics": ["a:1"], "events": "x"}),
        json!({"type": "subscribe", "topics": ["a:1"], "tags": {"a": 1}}),
        json!({"type": "subscribe", "topics": ["a:1"], "cursor": 7}),
        json!({"type": "subscribe", "topics": ["a:1"], "rewind": -1}),
        json!({"type": "subscribe", "topics": ["a:1"], "wait": 1}),
        json!({"type": "subscribe", "subscriptions": {"topics": ["a:1"]}}),
        json!({"type": "unsubscribe"}),
        json!({"type": "unsubscribe", "topics": 7}),
        json!({"type": "unsubscribe", "topics": [{}]}),
        json!({"type": "publish"}),
        json!({"type": "publish", "topic": 7}),
        json!({"type": "publish", "topic": "a:1", "event": "x\ny"}),
        json!({"type": "publish", "topic": "a:1", "key": 7}),
        json!({"type": "publish", "topic": "a:1", "key": ""}),
        json!({"type": "publish", "topic": "a:1", "key": "k".repeat(256)}),
        json!({"type": "publish", "topic": "a:1", "tags": [1]}),
    ] {
        assert_refused(&mut ws, &message.to_string(), "bad_request").await;
    }
    scene.neighbours_are_served("wrong types").await;
}

#[tokio::test]
async fn control_characters_in_a_message_are_refused() {
    let mut scene = Scene::start().await;
    let mut ws = scene.gateway.ws("").await;
    for bad in ["\r", "\n", "\0", "\u{1b}", "\u{7f}", "\u{85}"] {
        let topic = format!("a{bad}:1");
        for (message, code) in [
            (json!({"type": "subscribe", "topics": [topic]}), "bad_topic"),
            (json!({"type": "subscribe", "topic": topic}), "bad_topic"),
            (
                json!({"type": "subscribe", "topics": ["a:*"], "cursor": bad}),
                "bad_cursor",
            ),
            (
                json!({"type": "unsubscribe", "topics": [topic]}),
                "bad_topic",
            ),
            (json!({"type": "publish", "topic": topic}), "bad_topic"),
            (
                json!({"type": "publish", "topic": "a:1", "event": bad}),
                "bad_request",
            ),
            (json!({"type": "auth", "token": bad}), "unauthorized"),
        ] {
            assert_refused(&mut ws, &message.to_string(), code).await;
        }
    }
    scene.neighbours_are_served("control characters").await;
}

#[tokio::test]
async fn a_message_that_nests_deep_is_a_bad_request() {
    let mut scene = Scene::start().await;
    let mut ws = scene.gateway.ws("").await;
    for depth in [1000, 10_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            for message in [
                deep.clone(),
                format!("{{\"type\":{deep}}}"),
                format!("{{\"type\":\"ping\",\"ref\":{deep}}}"),
                format!("{{\"type\":\"ping\",\"x\":{deep}}}"),
                format!("{{\"type\":\"auth\",\"token\":{deep}}}"),
                format!("{{\"type\":\"subscribe\",\"topics\":{deep}}}"),
                format!("{{\"type\":\"subscribe\",\"subscriptions\":{deep}}}"),
                format!("{{\"type\":\"publish\",\"topic\":\"a:1\",\"data\":{deep}}}"),
                format!("{{\"type\":\"publish\",\"topic\":\"a:1\",\"tags\":{deep}}}"),
            ] {
                if message.len() <= 64 << 10 {
                    assert_refused(&mut ws, &message, "bad_request").await;
                }
            }
        }
    }
    scene.neighbours_are_served("deep nesting").await;
}

#[tokio::test]
async fn fragments_without_an_end_and_without_content_end_the_connection_and_cost_nobody_anything()
{
    let mut scene = Scene::start().await;
    let mut raw = Raw::websocket(&scene.gateway, "").await;
    raw.frame().await;
    raw.send_frame(FIRST, b"").await;
    // As many as a message may have, one for each 64 bytes of its limit, and 64.
    raw.send(&client_frame(CONTINUATION, b"").repeat(1000))
        .await;
    raw.send_frame(PING, b"still there").await;
    assert_eq!(raw.frame().await.expect("a frame").first, PONG);
    raw.try_send(&client_frame(CONTINUATION, b"").repeat(10_000))
        .await;
    let (frames, code) = raw.frames_to_close().await;
    assert_eq!(code, 1009);
    assert_eq!(frames.last().expect("an error").json()["code"], "too_large");
    scene.neighbours_are_served("empty fragments").await;
}

#[tokio::test]
async fn a_message_in_fragments_of_one_byte_is_too_large_where_a_whole_one_is() {
    let mut scene = Scene::start().await;
    let mut raw = Raw::websocket(&scene.gateway, "").await;
    raw.frame().await;
    raw.send_frame(FIRST, b" ").await;
    let bytes = client_frame(CONTINUATION, b" ").repeat(1 << 16);
    // The answer may come while the last of it is being sent.
    raw.try_send(&bytes).await;
    let (frames, code) = raw.frames_to_close().await;
    assert_eq!(code, 1009);
    assert_eq!(frames.last().expect("an error").json()["code"], "too_large");
    scene.neighbours_are_served("small fragments").await;
}

#[tokio::test]
async fn half_a_frame_or_a_trickle_of_fragments_is_no_sign_of_life() {
    let gateway = TestGateway::with("heartbeat = \"200ms\"").await;
    let mut neighbour = gateway.sse("topics=a:1").await;
    let half = client_frame(TEXT, br#"{"type":"ping"}"#);
    for part in [&half[..1], &half[..3], &half[..half.len() - 1]] {
        let mut raw = Raw::websocket(&gateway, "").await;
        raw.send(part).await;
        assert_eq!(raw.frames_to_close().await.1, 1001, "{} bytes", part.len());
        assert!(raw.rest().await.is_empty());
    }
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.send_frame(FIRST, b"").await;
    let trickle = async {
        while !raw.has_ended() {
            raw.try_send(&client_frame(CONTINUATION, b"x")).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the end of a trickle", trickle).await;
    assert_eq!(raw.frames_to_close().await.1, 1001);
    let id = gateway.publish("a:1", Value::Null).await;
    assert_eq!(neighbour.event().await["id"], json!(id));
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_connection_or_are_waited_for() {
    let mut scene = Scene::start().await;
    let mut random = fastrand::Rng::with_seed(7);
    let mut attackers = Vec::new();
    for round in 0..100 {
        let mut raw = Raw::websocket(&scene.gateway, "topics=a:1").await;
        let mut junk = vec![0; random.usize(1..5000)];
        random.fill(&mut junk);
        if round % 2 == 0 {
            // At least the first frame is one.
            let text = junk.drain(..junk.len().min(100)).collect::<Vec<_>>();
            junk = [client_frame(TEXT, &text), junk].concat();
        }
        raw.try_send(&junk).await;
        attackers.push(raw);
    }
    scene.neighbours_are_served("junk").await;
    let ends = attackers.iter().map(Raw::ends).collect();
    for raw in &mut attackers {
        raw.half_close_if_open().await;
    }
    within("the end of the attackers' connections", released(ends)).await;
    scene.neighbours_are_served("the end of the junk").await;
}

#[tokio::test]
async fn nothing_is_heard_behind_a_close() {
    let mut scene = Scene::start().await;
    let mut raw = Raw::websocket(&scene.gateway, "").await;
    raw.frame().await;
    let publish = json!({"type": "publish", "topic": "a:1"}).to_string();
    let close = client_frame(CLOSE, &1000_u16.to_be_bytes());
    let flood = client_frame(TEXT, publish.as_bytes()).repeat(1000);
    raw.try_send(&[close, flood.clone()].concat()).await;
    assert_eq!(raw.frames_to_close().await.1, 1000);
    let flooding = async { while raw.try_send(&flood).await {} };
    within("the end of a connection that goes on sending", flooding).await;
    let (_, page) = scene
        .gateway
        .poll("topics=a:1&cursor=earliest&wait=0")
        .await;
    assert!(page["events"].as_array().unwrap().is_empty(), "{page}");
    scene.neighbours_are_served("a flood behind Close").await;
}

/// What a client without a token may try in the time that it has.
#[tokio::test]
async fn without_a_token_nothing_but_auth_is_heard() {
    let mut scene = Scene::start().await;
    let long = "x".repeat(65_000);
    let deep = "[".repeat(60_000);
    let big_token = json!({"type": "auth", "token": long}).to_string();
    let text = |text: &str| client_frame(TEXT, text.as_bytes());
    let cases = [
        ("a word", text("hello"), 4003),
        ("deep nesting", text(&deep), 4003),
        (
            "a publish",
            text(r#"{"type":"publish","topic":"a:1"}"#),
            4003,
        ),
        (
            "an auth with a field too many",
            text(r#"{"type":"auth","token":"x","topics":[]}"#),
            4002,
        ),
        (
            "a token of the wrong type",
            text(r#"{"type":"auth","token":{}}"#),
            4002,
        ),
        ("a long token", text(&big_token), 4002),
        ("a long message", text(&"x".repeat(65_537)), 1009),
        ("bad UTF-8", client_frame(TEXT, b"\xff"), 1007),
        ("binary", client_frame(0x82, b"x"), 1003),
        ("a reserved bit", client_frame(0xc1, b"x"), 1002),
    ];
    let mut closed = Vec::new();
    for (what, bytes, expected) in cases {
        let mut raw = anonymous(&scene).await;
        raw.try_send(&bytes).await;
        let (frames, code) = raw.frames_to_close().await;
        assert_eq!(code, expected, "{what}");
        let error: Value = frames.last().expect("an error").json();
        assert_eq!(error["type"], "error", "{what}");
        scene.neighbours_are_served(what).await;
        closed.push(raw);
    }
    for rest in join_all(closed.iter_mut().map(Raw::rest)).await {
        assert!(rest.is_empty(), "{rest:x?}");
    }
    // Pings and fragments do not buy more time.
    let mut raw = anonymous(&scene).await;
    raw.send_frame(FIRST, b"").await;
    let mut pings = Vec::new();
    let close = loop {
        raw.try_send(&client_frame(PING, b"")).await;
        let frame = raw.frame().await.expect("a frame");
        pings.push(frame.first);
        if frame.first == CLOSE {
            break frame.close_code();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(close, 4001, "{pings:x?}");
}

async fn anonymous(scene: &Scene) -> Raw {
    let mut raw = Raw::connect(&scene.gateway).await;
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    raw.send(head.as_bytes()).await;
    assert_eq!(raw.response_head().await.0, 101);
    raw
}

#[tokio::test]
async fn a_name_for_the_client_that_is_hostile_is_told_back_as_text() {
    let scene = Scene::start().await;
    let subject = "<script>\u{2028}\"\\";
    let mut ws = scene
        .gateway
        .ws_as(&Claims::all(subject), "topics=a:1")
        .await;
    assert_eq!(ws.connected["userId"], subject);
    let mut sse = scene
        .gateway
        .sse_as(&Claims::all(subject), "topics=a:1")
        .await;
    assert_eq!(sse.connected["userId"], subject);
    scene
        .gateway
        .post_as(&Claims::all(subject), r#"{"topic":"a:1"}"#)
        .await;
    assert_eq!(ws.event().await["user_id"], subject);
    assert_eq!(sse.event().await["user_id"], subject);
}
