//! CR, LF, NUL and bytes that are no text, in whatever a client may name: topic, event, tag,
//! cursor, `Last-Event-ID`, key.

use serde_json::json;

use super::{Attack, Bare, Error, Good, Scene, error_code, fatal, harmless, request, with_body};
use crate::support::{Claims, Raw, Sse};

/// What no topic, event name or cursor may hold, percent-encoded, and the JSON escape of it.
const CONTROLS: [(&str, &str); 7] = [
    ("%0d", "\\r"),
    ("%0a", "\\n"),
    ("%0D%0A", "\\r\\n"),
    ("%00", "\\u0000"),
    ("%1b", "\\u001b"),
    ("%7f", "\\u007f"),
    ("%c2%85", "\\u0085"),
];
/// Percent-encoded bytes that are no UTF-8.
const NO_TEXT: [&str; 5] = ["%ff", "%c0%80", "%ed%a0%80", "%e2%82", "%f4%90%80%80"];

/// Queries with this text in each of their parameters, and the code of the refusal.
fn queries(bad: &str, is_text: bool) -> Vec<(String, &'static str)> {
    let code = |code| if is_text { code } else { "bad_request" };
    vec![
        (format!("topics=a{bad}:1"), code("bad_topic")),
        (format!("topics=a:1,{bad}"), code("bad_topic")),
        (format!("topics=a:*{bad}"), code("bad_topic")),
        (format!("topic={bad}"), code("bad_topic")),
        (
            format!("topics=a:1&cursor=k3f9x2-1{bad}"),
            code("bad_cursor"),
        ),
        (format!("topics=a:1&cursor={bad}"), code("bad_cursor")),
        (format!("topics=a:1&rewind=1{bad}"), "bad_request"),
        (format!("topics=a:1&wait={bad}1"), "bad_request"),
        (format!("topics=a:1&named=1{bad}"), "bad_request"),
        (format!("topics=a:1&what{bad}=1"), "bad_request"),
    ]
}

fn all_queries() -> Vec<(String, &'static str)> {
    let controls = CONTROLS
        .iter()
        .flat_map(|(encoded, _)| queries(encoded, true));
    let no_text = NO_TEXT.iter().flat_map(|bytes| queries(bytes, false));
    controls.chain(no_text).collect()
}

#[tokio::test]
async fn control_characters_and_no_text_in_a_query_are_refused_by_streams_and_polls() {
    let mut scene = Scene::start().await;
    let mut attacks = Vec::new();
    for path in ["/events", "/poll"] {
        for (query, code) in all_queries() {
            let target = format!("{path}?{query}");
            let head = request(&format!("GET {target}"), "\r\n");
            attacks.push(harmless(target, head, &[Error(400, code)]));
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn control_characters_and_no_text_in_the_query_of_a_websocket_are_told_in_frames() {
    let mut scene = Scene::start().await;
    for (query, code) in all_queries() {
        let mut raw = Raw::websocket(&scene.gateway, &query).await;
        let error = raw.frame().await.expect("a frame").json();
        assert_eq!(
            (&error["type"], &error["code"]),
            (&json!("error"), &json!(code)),
            "{query}"
        );
        let connected = raw.frame().await.expect("a frame").json();
        assert_eq!(connected["type"], "connected", "{query}");
    }
    scene.neighbours_are_served("bad queries").await;
}

/// A header of a request with a body, and what comes of it.
fn with_header(path: &str, header: &[u8], body: &str, reply: super::Reply) -> Attack {
    let what = format!(
        "{path} with {}",
        String::from_utf8_lossy(header).escape_debug()
    );
    let head = request(path, &format!("Content-Length: {}\r\n", body.len()));
    let bytes = [head.as_bytes(), header, b"\r\n\r\n", body.as_bytes()].concat();
    if matches!(reply, Bare(_)) {
        fatal(what, bytes, &[reply])
    } else {
        harmless(what, bytes, &[reply])
    }
}

#[tokio::test]
async fn a_last_event_id_that_is_no_cursor_is_refused() {
    let mut scene = Scene::start().await;
    let long = format!("Last-Event-ID: {}", "k".repeat(60_000));
    let injected = format!("Last-Event-ID: a-1{}", "%0d%0aid: b-2");
    let cases: [(&[u8], super::Reply); 16] = [
        (b"Last-Event-ID: a-1\0", Bare(400)),
        (b"Last-Event-ID: a-1\x01", Bare(400)),
        (b"Last-Event-ID: a-1\x7f", Bare(400)),
        (b"Last-Event-ID: a-1\rid: b-2", Bare(400)),
        (b"Last-Event-ID: a-1\r\n id: b-2", Bare(400)),
        (b"Last-Event-ID: a-1\xff", Error(400, "bad_cursor")),
        (b"Last-Event-ID: \xc0\x80", Error(400, "bad_cursor")),
        (b"Last-Event-ID: \xef\xbb\xbfa-1", Error(400, "bad_cursor")),
        (b"Last-Event-ID: a-1\tb", Error(400, "bad_cursor")),
        (b"Last-Event-ID: a-1, b-2", Error(400, "bad_cursor")),
        (b"Last-Event-ID: ../../etc/passwd", Error(400, "bad_cursor")),
        (
            b"Last-Event-ID: a-99999999999999999999",
            Error(400, "bad_cursor"),
        ),
        (b"Last-Event-ID: -1", Error(400, "bad_cursor")),
        (b"Last-Event-ID: a--1", Error(400, "bad_cursor")),
        (long.as_bytes(), Error(400, "bad_cursor")),
        (injected.as_bytes(), Error(400, "bad_cursor")),
    ];
    let mut attacks = Vec::new();
    for (header, reply) in cases {
        attacks.push(with_header("GET /events?topics=a:1", header, "", reply));
        let body = r#"{"topics":["a:1"],"cursor":"earliest"}"#;
        attacks.push(with_header("POST /events", header, body, reply));
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn other_headers_that_are_no_text_are_refused_or_count_for_nothing() {
    let mut scene = Scene::start().await;
    let body = r#"{"topic":"a:1"}"#;
    let bad = Error(400, "bad_request");
    let long_key = format!("Idempotency-Key: {}", "k".repeat(256));
    let cases: [(&[u8], super::Reply); 8] = [
        (b"Idempotency-Key: \xff", bad),
        (b"Idempotency-Key: a\0b", Bare(400)),
        (b"Idempotency-Key:", bad),
        (long_key.as_bytes(), bad),
        (b"traceparent: \xff\xff", Good(200)),
        (b"traceparent: 00-0-0-0-0-0-0-0", Good(200)),
        (b"Content-Type: \xff/\xff", Good(200)),
        (b"Cookie: \xff=\xff; tribus_token", Good(200)),
    ];
    let attacks = cases
        .into_iter()
        .map(|(header, reply)| with_header("POST /publish", header, body, reply));
    let mut attacks: Vec<_> = attacks.collect();
    // Refused before its body was looked at.
    let foreign = [b"Origin: \xff\r\n\r\n", body.as_bytes()].concat();
    let head = request("POST /publish", "Content-Length: 15\r\n");
    attacks.push(fatal(
        "an origin",
        [head.as_bytes(), &foreign].concat(),
        &[Error(403, "forbidden")],
    ));
    scene.survives(attacks).await;
}

#[tokio::test]
async fn control_characters_in_a_body_are_refused() {
    let mut scene = Scene::start().await;
    let mut attacks = Vec::new();
    for (_, escape) in CONTROLS {
        let bodies = [
            (
                "/publish",
                format!(r#"{{"topic":"a{escape}:1"}}"#),
                "bad_topic",
            ),
            (
                "/publish",
                format!(r#"{{"topic":"{escape}"}}"#),
                "bad_topic",
            ),
            (
                "/publish",
                format!(r#"{{"topic":"a:1","event":"x{escape}data: y"}}"#),
                "bad_request",
            ),
            (
                "/publish",
                format!(r#"[{{"topic":"a:1"}},{{"topic":"a:2","event":"{escape}"}}]"#),
                "bad_request",
            ),
            (
                "/events",
                format!(r#"{{"topics":["a{escape}"]}}"#),
                "bad_topic",
            ),
            (
                "/events",
                format!(r#"{{"topics":["a:1"],"cursor":"a-1{escape}"}}"#),
                "bad_cursor",
            ),
            (
                "/poll",
                format!(r#"{{"topics":["a:*","{escape}"]}}"#),
                "bad_topic",
            ),
            (
                "/poll",
                format!(r#"{{"topics":["a:1"],"cursor":"{escape}"}}"#),
                "bad_cursor",
            ),
            (
                "/ticket",
                format!(r#"{{"use":"stream{escape}"}}"#),
                "bad_request",
            ),
        ];
        for (path, body, code) in bodies {
            let bytes = with_body(&format!("POST {path}"), body.as_bytes());
            attacks.push(harmless(
                format!("{path} {body}"),
                bytes,
                &[Error(400, code)],
            ));
            // The character itself is no JSON.
            let raw = json_unescaped(escape);
            let body = body.replace(escape, &raw);
            if raw.bytes().all(|byte| byte < 0x20) {
                let bytes = with_body(&format!("POST {path}"), body.as_bytes());
                let what = format!("{path} {}", body.escape_debug());
                attacks.push(harmless(what, bytes, &[Error(400, "bad_request")]));
            }
        }
    }
    scene.survives(attacks).await;
    let (_, page) = scene
        .gateway
        .poll("topics=a:*&cursor=earliest&wait=0")
        .await;
    assert!(page["events"].as_array().unwrap().is_empty(), "{page}");
}

fn json_unescaped(escape: &str) -> String {
    serde_json::from_str(&format!("\"{escape}\"")).expect("a JSON string")
}

#[tokio::test]
async fn an_event_name_that_no_event_can_have_is_refused_where_it_is_asked_for() {
    let mut scene = Scene::start().await;
    let long = "x".repeat(129);
    let names = ["", "%0d", "made%0d%0aid:x", "%00", "%7f", "%c2%85", &long];
    let mut attacks = Vec::new();
    for path in ["/events", "/poll"] {
        for name in names {
            let target = format!("{path}?topics=a:1&event={name}");
            let head = request(&format!("GET {target}"), "\r\n");
            attacks.push(harmless(target, head, &[Error(400, "bad_request")]));
        }
        let body = r#"{"topics":["a:1"],"events":["made\r\nid: x"]}"#;
        let bytes = with_body(&format!("POST {path}"), body.as_bytes());
        attacks.push(harmless(
            format!("{path} {body}"),
            bytes,
            &[Error(400, "bad_request")],
        ));
    }
    scene.survives(attacks).await;
    let mut ws = scene.gateway.ws("").await;
    let message = json!({"type": "subscribe", "topics": ["a:1"], "events": ["x\r\ny"]});
    assert_eq!(ws.ask(message).await["code"], "bad_request");
}

#[tokio::test]
async fn no_event_breaks_out_of_its_lines_in_a_stream() {
    let scene = Scene::start().await;
    let mut named = scene.gateway.sse("topics=a:1&named=true").await;
    named.frame("live").await;
    let breakout = "\r\n\r\nid: forged-1\r\nevent: closing\r\ndata: {}\r\n\r\n\u{85}\u{2028}\0";
    let event = json!({"topic": "a:1", "event": "\u{2028}id: forged", "data": {breakout: breakout},
                       "tags": {"k": breakout}});
    let (status, answer) = scene.gateway.post(&event.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let last = scene.gateway.publish("a:1", json!("last")).await;
    let forged = named.next().await;
    assert_eq!(
        (&forged.name[..], &json!(forged.id)),
        ("\u{2028}id: forged", &answer["id"])
    );
    assert_eq!(forged.json()["data"], event["data"]);
    assert_eq!(forged.json()["tags"], event["tags"]);
    assert_eq!(named.next().await.id, last);
}

#[tokio::test]
async fn a_ticket_or_token_of_control_characters_is_unauthorized() {
    let mut scene = Scene::start().await;
    let mut attacks = Vec::new();
    let encoded = CONTROLS.iter().map(|(encoded, _)| *encoded);
    for bad in encoded.chain(NO_TEXT).chain(["", "%", "%0", "%zz"]) {
        for name in ["ticket", "token", "access_token"] {
            let target = format!("/events?topics=a:1&{name}={bad}");
            let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            attacks.push(harmless(target, head, &[Error(401, "unauthorized")]));
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_percent_sign_that_encodes_nothing_is_itself() {
    let scene = Scene::start().await;
    for topic in ["a%", "a%2", "a%zz", "a%u0000"] {
        let id = scene.gateway.publish(topic, json!(topic)).await;
        let mut raw = Raw::connect(&scene.gateway).await;
        raw.request(&format!("GET /poll?topics={topic}&rewind=1"), "\r\n")
            .await;
        let answer = raw.response().await;
        assert_eq!(answer.status, 200, "{topic}: {}", error_code(&answer.body));
        let page: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(page["events"][0]["id"], json!(id), "{topic}");
    }
}

#[tokio::test]
async fn a_native_stream_is_refused_for_bad_input_as_any_other() {
    let scene = Scene::start().await;
    let claims = Claims::all("mallory");
    for query in ["topics=a%0d%0ab&native=1", "topics=a:1&native=1&cursor=%00"] {
        let answer = scene.gateway.get("/events", query, &claims).await;
        assert_eq!(answer.status(), 400, "{query}");
    }
    let answer = scene
        .gateway
        .get("/events", "topics=a:1&native=1", &claims)
        .await;
    assert_eq!(Sse::new(answer).next().await.json()["type"], "connected");
}
