//! Requests to `/ws` that are no handshake, or only look like one (RFC 6455, section 4.2.1).

use serde_json::json;

use super::{Attack, Bare, Error, Reply, Scene, error_code, fatal, harmless, request, smuggled};
use crate::support::{Claims, Raw};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
const VERSION: &str = "Sec-WebSocket-Version: 13\r\n";
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn handshake(headers: &[&str]) -> String {
    let rest = format!("{}\r\n{}", headers.concat(), smuggled());
    request("GET /ws?topics=a:1", &rest)
}

/// Whatever follows what looked like an upgrade is not taken for a request.
fn refused(what: &str, headers: &[&str], reply: Reply) -> Attack {
    fatal(what, handshake(headers), &[reply])
}

#[tokio::test]
async fn a_handshake_that_is_wrong_is_refused_as_json_and_its_connection_ends() {
    let mut scene = Scene::start().await;
    let bad = Error(400, "bad_request");
    let with_key = |key: &str| format!("Sec-WebSocket-Key: {key}\r\n");
    let attacks = vec![
        refused("no version", &[UPGRADE, KEY], bad),
        refused(
            "version 8",
            &[UPGRADE, "Sec-WebSocket-Version: 8\r\n", KEY],
            bad,
        ),
        refused(
            "version 99",
            &[UPGRADE, "Sec-WebSocket-Version: 99\r\n", KEY],
            bad,
        ),
        refused(
            "version 013",
            &[UPGRADE, "Sec-WebSocket-Version: 013\r\n", KEY],
            bad,
        ),
        refused(
            "two versions",
            &[UPGRADE, "Sec-WebSocket-Version: 13, 8\r\n", KEY],
            bad,
        ),
        refused("no key", &[UPGRADE, VERSION], bad),
        refused("an empty key", &[UPGRADE, VERSION, &with_key("")], bad),
        refused(
            "a short key",
            &[UPGRADE, VERSION, &with_key("dGhlIHNhbXBsZQ==")],
            bad,
        ),
        refused(
            "a long key",
            &[UPGRADE, VERSION, &with_key(&"A".repeat(60_000))],
            bad,
        ),
        refused(
            "a key that is no base64",
            &[UPGRADE, VERSION, &with_key("************************")],
            bad,
        ),
        refused(
            "no Connection",
            &["Upgrade: websocket\r\n", VERSION, KEY],
            bad,
        ),
        refused(
            "a Connection that is kept",
            &[
                "Connection: keep-alive\r\nUpgrade: websocket\r\n",
                VERSION,
                KEY,
            ],
            bad,
        ),
        refused(
            "a Connection that is closed",
            &[
                "Connection: close, Upgrade\r\nUpgrade: websocket\r\n",
                VERSION,
                KEY,
            ],
            bad,
        ),
        refused(
            "a subprotocol with a control character",
            &[UPGRADE, VERSION, KEY, "Sec-WebSocket-Protocol: a\x7f\r\n"],
            Bare(400),
        ),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn without_an_upgrade_to_websocket_it_is_a_request_as_any_other() {
    let mut scene = Scene::start().await;
    let answers = [Error(400, "bad_request"), Error(404, "not_found")];
    let attacks = vec![
        harmless("no upgrade", handshake(&[VERSION, KEY]), &answers),
        harmless(
            "an upgrade to HTTP/2",
            handshake(&[
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n",
                VERSION,
                KEY,
            ]),
            &answers,
        ),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_handshake_by_another_method_is_a_wrong_method_and_its_connection_ends() {
    let mut scene = Scene::start().await;
    let attacks = ["POST", "PUT", "DELETE", "TRACE", "PATCH"].map(|method| {
        let rest = format!("{UPGRADE}{VERSION}{KEY}\r\n{}", smuggled());
        let bytes = request(&format!("{method} /ws?topics=a:1"), &rest);
        fatal(method, bytes, &[Error(405, "method_not_allowed")])
    });
    scene.survives(attacks.into()).await;
}

#[tokio::test]
async fn lists_of_subprotocols_and_extensions_that_make_no_sense_agree_on_nothing() {
    let mut scene = Scene::start().await;
    let long = format!("Sec-WebSocket-Protocol: {}\r\n", "a,".repeat(20_000));
    let lists: [&[u8]; 7] = [
        b"Sec-WebSocket-Protocol:\r\n",
        b"Sec-WebSocket-Protocol: ,,, ,\r\n",
        b"Sec-WebSocket-Protocol: tribus.json.v1.x, tribus, ;@\r\n",
        b"Sec-WebSocket-Protocol: \xff\xfe\r\n",
        long.as_bytes(),
        b"Sec-WebSocket-Extensions: ;;;\"\r\n",
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n",
    ];
    for list in lists {
        let mut raw = Raw::connect(&scene.gateway).await;
        raw.request("GET /ws", "").await;
        let head = [
            UPGRADE.as_bytes(),
            VERSION.as_bytes(),
            KEY.as_bytes(),
            list,
            b"\r\n",
        ];
        raw.send(&head.concat()).await;
        let (status, headers) = raw.response_head().await;
        assert_eq!(status, 101);
        assert!(!headers.contains("sec-websocket-protocol"), "{headers}");
        assert!(!headers.contains("sec-websocket-extensions"), "{headers}");
        let connected = raw.frame().await.expect("a frame").json();
        assert_eq!(connected["type"], "connected");
    }
    scene.neighbours_are_served("odd lists").await;
}

#[tokio::test]
async fn an_oversize_credential_of_a_handshake_is_told_in_frames() {
    let mut scene = Scene::start().await;
    // Over what a token may have, and within what a URL may.
    let long = "x".repeat(12_000);
    for (query, headers) in [
        (format!("token={long}"), String::new()),
        (format!("ticket={long}"), String::new()),
        (String::new(), format!("Authorization: Bearer {long}\r\n")),
    ] {
        let mut raw = Raw::connect(&scene.gateway).await;
        let head =
            format!("GET /ws?{query} HTTP/1.1\r\nHost: x\r\n{headers}{UPGRADE}{VERSION}{KEY}\r\n");
        raw.send(head.as_bytes()).await;
        assert_eq!(raw.response_head().await.0, 101);
        let (frames, code) = raw.frames_to_close().await;
        assert_eq!(code, 1008);
        assert_eq!(frames[0].json()["code"], "unauthorized");
        assert!(raw.rest().await.is_empty());
    }
    scene.neighbours_are_served("long tokens").await;
}

#[tokio::test]
async fn half_a_handshake_leaves_nothing_behind() {
    let mut scene = Scene::with("limits.connections = 6").await;
    let token = Claims::all("mallory").token();
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{UPGRADE}{VERSION}{KEY}\r\n"
    );
    for cut in (10..head.len()).step_by(17) {
        let mut raw = Raw::connect(&scene.gateway).await;
        raw.send(&head.as_bytes()[..cut]).await;
    }
    scene.neighbours_are_served("half handshakes").await;
    // There is room for one more, beside the four neighbours.
    let mut ws = scene.gateway.ws("").await;
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn what_only_looks_like_a_handshake_is_refused_and_nothing_behind_it_is_a_request() {
    let mut scene = Scene::start().await;
    let bad = Error(400, "bad_request");
    let upgrade_to = |to: &str| format!("Connection: Upgrade\r\nUpgrade: {to}\r\n");
    let not_quite = |what: &str, to: &str| {
        // No upgrade to HTTP's parser: the gateway refuses it, and the next request is one.
        let headers = [&upgrade_to(to), VERSION, KEY];
        harmless(what, handshake(&headers), &[bad, Error(404, "not_found")])
    };
    let attacks = vec![
        refused(
            "a length",
            &[UPGRADE, VERSION, KEY, "Content-Length: 6\r\n"],
            bad,
        ),
        refused("two keys", &[UPGRADE, VERSION, KEY, KEY], bad),
        refused(
            "two versions",
            &[UPGRADE, VERSION, "Sec-WebSocket-Version: 8\r\n", KEY],
            bad,
        ),
        not_quite("an upgrade to something like it", "notwebsocket"),
        not_quite("an upgrade to it among others", "h2c, websocket"),
    ];
    scene.survives(attacks).await;
    // Chunks have an end, behind which there may be a request, but not after an upgrade.
    let mut raw = Raw::connect(&scene.gateway).await;
    let rest = format!("{UPGRADE}{VERSION}{KEY}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    raw.request("GET /ws", &rest).await;
    let answer = raw.response().await;
    assert_eq!(
        (answer.status, &error_code(&answer.body)[..]),
        (400, "bad_request")
    );
}

#[tokio::test]
async fn what_http_1_0_can_not_carry_is_refused() {
    let mut scene = Scene::start().await;
    let old = |line: &str, rest: &str| {
        request(line, &format!("{rest}\r\n")).replacen("HTTP/1.1", "HTTP/1.0", 1)
    };
    let bad = Error(400, "bad_request");
    let attacks = vec![
        fatal(
            "a handshake",
            old("GET /ws", &[UPGRADE, VERSION, KEY].concat()),
            &[bad],
        ),
        fatal("a stream", old("GET /events?topics=a:1", ""), &[bad]),
    ];
    scene.survives(attacks).await;
}
