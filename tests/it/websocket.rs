//! `/ws`: frames, subprotocols and the ends of connections (protocol, section 4; RFC 6455).

use std::time::{Duration, Instant};

use rmpv::Value as Packed;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::support::{
    Claims, Raw, Received, TRANSPORTS, TestGateway, Transport, Ws, client_frame, client_frame_head,
    replay,
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const QUICK: &str = "heartbeat = \"200ms\"";

#[tokio::test]
async fn connected_comes_first_and_says_who_where_and_how() {
    let gateway = TestGateway::start().await;
    let head = gateway.publish("a:1", Value::Null).await;
    let mut ids = Vec::new();
    for (query, cursor) in [
        ("", head.clone()),
        ("topics=a:1", head.clone()),
        (&format!("topics=a:1&cursor={head}"), head.clone()),
        ("topics=a:1&cursor=elsewhere-9", "elsewhere-9".to_owned()),
    ] {
        let mut ws = open(&gateway, query, None).await;
        let mut connected = ws.next().await;
        assert!(!connected["message"].take().as_str().unwrap().is_empty());
        ids.push(
            connected["connectionId"]
                .take()
                .as_str()
                .unwrap()
                .to_owned(),
        );
        assert_eq!(
            connected,
            json!({"type": "connected", "message": null, "userId": "alice",
                   "connectionId": null, "cursor": cursor, "heartbeatMs": 25000})
        );
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each connection has its own id");
}

/// Right after the handshake.
async fn open(gateway: &TestGateway, query: &str, subprotocol: Option<&'static str>) -> Ws {
    let token = Claims::all("alice").token();
    Ws::connect(gateway, query, Some(&token), subprotocol)
        .await
        .expect("a handshake")
}

#[tokio::test]
async fn live_follows_the_replay_of_the_urls_subscriptions() {
    let gateway = TestGateway::start().await;
    let first = gateway.publish("a:1", json!(0)).await;
    let last = gateway.publish("a:1", json!(1)).await;
    let mut ws = gateway.ws(&format!("topics=a:1,b:*&cursor={first}")).await;
    assert_eq!(ws.next().await["data"], 1);
    let live = ws.next().await;
    assert_eq!(live["type"], "live");
    assert_eq!(live["cursor"], json!(last));
    let mut topics: Vec<String> = serde_json::from_value(live["topics"].clone()).unwrap();
    topics.sort();
    assert_eq!(topics, ["a:1", "b:*"]);
    assert!(live.get("ref").is_none());
}

#[tokio::test]
async fn a_heartbeat_comes_when_no_event_did_and_carries_the_current_position() {
    let gateway = TestGateway::with(QUICK).await;
    let mut ws = gateway.ws("topics=quiet:1").await;
    assert_eq!(ws.connected["heartbeatMs"], 200);
    ws.frame("live").await;
    let since = Instant::now();
    let elsewhere = gateway.publish("busy:1", Value::Null).await;
    let heartbeat = ws.next().await;
    assert_eq!(heartbeat, json!({"type": "heartbeat", "cursor": elsewhere}));
    assert!(
        since.elapsed() >= Duration::from_millis(150),
        "{:?}",
        since.elapsed()
    );
    for transport in TRANSPORTS {
        let query = format!("topics=quiet:1,busy:1&cursor={elsewhere}");
        assert!(
            replay(&gateway, transport, &query).await.is_empty(),
            "{transport:?}"
        );
    }
}

#[tokio::test]
async fn a_client_that_hears_only_of_its_publishes_gets_heartbeats_with_the_position_too() {
    let gateway = TestGateway::with(QUICK).await;
    let mut ws = gateway.ws("topics=quiet:1").await;
    loop {
        ws.send(json!({"type": "publish", "topic": "noise:1"}))
            .await;
        let frame = ws.next().await;
        if frame["type"] == "heartbeat" {
            assert_ne!(frame["cursor"], ws.connected["cursor"]);
            return;
        }
    }
}

#[tokio::test]
async fn a_client_that_only_answers_pings_stays_and_hears_a_heartbeat_each_time() {
    let gateway = TestGateway::with(QUICK).await;
    let mut ws = gateway.ws("").await;
    for _ in 0..5 {
        assert_eq!(ws.next().await["type"], "heartbeat");
    }
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn a_client_that_answers_nothing_is_pinged_and_then_closed_with_1001() {
    let gateway = TestGateway::with(QUICK).await;
    let mut raw = Raw::websocket(&gateway, "").await;
    let since = Instant::now();
    let (frames, code) = raw.frames_to_close().await;
    assert_eq!(code, 1001);
    assert!(
        since.elapsed() >= Duration::from_millis(450),
        "{:?}",
        since.elapsed()
    );
    let pings = frames.iter().filter(|frame| frame.first == PING).count();
    assert!((1..=3).contains(&pings), "{pings} pings");
    let closing = frames.last().unwrap().json();
    assert_eq!(
        (&closing["type"], &closing["code"]),
        (&json!("closing"), &json!(1001))
    );
    assert!(raw.rest().await.is_empty());
}

#[tokio::test]
async fn a_silent_client_is_closed_even_while_events_flow_to_it() {
    let gateway = TestGateway::with(QUICK).await;
    let mut raw = Raw::websocket(&gateway, "topics=a:1").await;
    let closed = async { raw.frames_to_close().await.1 };
    let publishing = async {
        loop {
            gateway.publish("a:1", Value::Null).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        code = closed => assert_eq!(code, 1001),
        () = publishing => {}
    }
}

#[tokio::test]
async fn pong_carries_a_cursor_behind_all_that_was_sent_before_it() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1").await;
    ws.frame("live").await;
    let batch: Vec<Value> = (0..300)
        .map(|n| json!({"topic": "a:1", "data": n}))
        .collect();
    assert_eq!(gateway.post(&Value::from(batch).to_string()).await.0, 200);
    ws.send(json!({"type": "ping", "ref": "p"})).await;
    let mut received = 0;
    let pong = loop {
        match ws.next().await {
            frame if frame["type"] == "event" => received += 1,
            frame => break frame,
        }
    };
    assert_eq!((&pong["type"], &pong["ref"]), (&json!("pong"), &json!("p")));
    let query = format!("topics=a:1&cursor={}", pong["cursor"].as_str().unwrap());
    let rest = replay(&gateway, Transport::Poll, &query).await;
    assert_eq!(received + rest.len(), 300);
}

#[tokio::test]
async fn messages_are_answered_in_order() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for n in 0..200 {
        let message = match n % 4 {
            0 => json!({"type": "ping", "ref": n}),
            1 => json!({"type": "publish", "topic": "a:1", "ref": n}),
            2 => json!({"type": "unsubscribe", "topic": "a:1", "ref": n}),
            _ => json!({"type": "nonsense", "ref": n}),
        };
        ws.send(message).await;
    }
    for n in 0..200 {
        assert_eq!(ws.next().await["ref"], n);
    }
}

#[tokio::test]
async fn a_clients_ping_and_close_are_answered_in_kind() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::websocket(&gateway, "").await;
    assert_eq!(raw.frame().await.unwrap().json()["type"], "connected");
    for payload in [&b""[..], b"are you there", &[0xff; 125]] {
        raw.send_frame(PING, payload).await;
        let pong = raw.frame().await.unwrap();
        assert_eq!((pong.first, &pong.payload[..]), (PONG, payload));
    }
    raw.send_frame(PONG, b"unasked").await;
    raw.send_frame(CLOSE, &1000_u16.to_be_bytes()).await;
    assert_eq!(raw.frames_to_close().await.1, 1000);
    assert!(raw.rest().await.is_empty());
    let mut ws = gateway.ws("").await;
    let bye = CloseFrame {
        code: CloseCode::Library(4321),
        reason: "bye".into(),
    };
    ws.send_message(Message::Close(Some(bye))).await;
    assert_eq!(ws.close_code().await, 4321);
    assert!(matches!(ws.receive().await, Received::End));
}

#[tokio::test]
async fn a_close_without_a_code_is_answered_without_one() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.frame().await;
    raw.send_frame(CLOSE, b"").await;
    let close = raw.frame().await.unwrap();
    assert_eq!((close.first, close.payload.len()), (CLOSE, 0));
    assert!(raw.rest().await.is_empty());
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_a_ping_between() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.frame().await;
    let message = r#"{"type":"publish","topic":"a:1","data":"é"}"#.as_bytes();
    // The cut goes through a character.
    let cut = message.len() - 3;
    raw.send_frame(0x01, &message[..5]).await;
    raw.send_frame(PING, b"between").await;
    raw.send_frame(0x00, &message[5..cut]).await;
    raw.send_frame(0x80, &message[cut..]).await;
    assert_eq!(raw.frame().await.unwrap().first, PONG);
    assert_eq!(raw.frame().await.unwrap().json()["type"], "published");
}

#[tokio::test]
async fn messages_sent_together_with_the_handshake_are_answered() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::connect(&gateway).await;
    let mut rest = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    for n in 0..100 {
        let message = format!(r#"{{"type":"ping","ref":{n}}}"#);
        rest.extend(client_frame(TEXT, message.as_bytes()));
    }
    raw.request("GET /ws", "").await;
    raw.send(&rest).await;
    assert_eq!(raw.response_head().await.0, 101);
    assert_eq!(raw.frame().await.unwrap().json()["type"], "connected");
    for n in 0..100 {
        assert_eq!(raw.frame().await.unwrap().json()["ref"], n);
    }
}

#[tokio::test]
async fn a_message_may_have_64_kib_and_not_more() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    ws.send_text(&padded_ping(65_536)).await;
    assert_eq!(ws.next().await["type"], "pong");
    ws.send_text(&padded_ping(65_537)).await;
    assert_eq!(ws.next().await["code"], "too_large");
    assert_eq!(ws.close_code().await, 1009);
}

fn padded_ping(length: usize) -> String {
    let ping = r#"{"type":"ping"}"#;
    format!("{ping}{}", " ".repeat(length - ping.len()))
}

#[tokio::test]
async fn the_size_of_a_message_is_configurable() {
    let gateway = TestGateway::with("limits.message_bytes = \"1KiB\"").await;
    let mut ws = gateway.ws("").await;
    ws.send_text(&padded_ping(1024)).await;
    assert_eq!(ws.next().await["type"], "pong");
    ws.send_text(&padded_ping(1025)).await;
    assert_eq!(ws.close_code().await, 1009);
}

#[tokio::test]
async fn too_large_is_told_from_the_announced_length() {
    let gateway = TestGateway::start().await;
    for first in [TEXT, BINARY, 0x01, 0x00] {
        for length in [65_537, 1 << 30, (1 << 63) - 1, usize::MAX] {
            let mut raw = Raw::websocket(&gateway, "").await;
            raw.frame().await;
            raw.send(&client_frame_head(first, length)).await;
            let (frames, code) = raw.frames_to_close().await;
            assert_eq!(code, 1009, "{first:#x} of {length}");
            assert_eq!(frames.last().unwrap().json()["code"], "too_large");
        }
    }
}

#[tokio::test]
async fn fragments_that_add_up_to_more_than_the_limit_are_too_large() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.frame().await;
    let part = vec![b' '; 40_000];
    raw.send_frame(0x01, &part).await;
    raw.send_frame(0x00, &part).await;
    let (frames, code) = raw.frames_to_close().await;
    assert_eq!(code, 1009);
    assert_eq!(frames.last().unwrap().json()["code"], "too_large");
}

#[tokio::test]
async fn violations_of_the_websocket_protocol_close_with_their_code() {
    let gateway = TestGateway::start().await;
    let masked = client_frame;
    let ping = br#"{"type":"ping"}"#;
    let mut unmasked = vec![TEXT, ping.len() as u8];
    unmasked.extend(ping);
    let cases = [
        ("an unmasked frame", unmasked, 1002),
        ("reserved bit 1", masked(0xc1, ping), 1002),
        ("reserved bit 2", masked(0xa1, ping), 1002),
        ("reserved bit 3", masked(0x91, ping), 1002),
        ("an unknown data opcode", masked(0x83, ping), 1002),
        ("an unknown control opcode", masked(0x8b, b""), 1002),
        ("a continuation of nothing", masked(0x80, ping), 1002),
        (
            "a message inside a message",
            [masked(0x01, b"{"), masked(TEXT, ping)].concat(),
            1002,
        ),
        ("a fragmented ping", masked(0x09, b""), 1002),
        ("a long ping", masked(PING, &[b'x'; 126]), 1002),
        ("a long close", masked(CLOSE, &[b'x'; 126]), 1002),
        ("a close of one byte", masked(CLOSE, &[3]), 1002),
        (
            "a close with a reserved code",
            masked(CLOSE, &1005_u16.to_be_bytes()),
            1002,
        ),
        (
            "a close with code 0",
            masked(CLOSE, &0_u16.to_be_bytes()),
            1002,
        ),
        (
            "text that is not UTF-8",
            masked(TEXT, b"{\"type\":\"\xff\"}"),
            1007,
        ),
        (
            "a lone surrogate",
            masked(TEXT, b"{\"type\":\"\xed\xa0\x80\"}"),
            1007,
        ),
        (
            "fragments that are not UTF-8",
            [masked(0x01, b"\"\xc3"), masked(0x80, b"(\"")].concat(),
            1007,
        ),
        (
            "text that can not become UTF-8, before its message ends",
            masked(0x01, b"{\"type\":\"\xed\xa0"),
            1007,
        ),
        (
            "a frame of which that much has come",
            masked(TEXT, &[&[b' '; 50], &b"\xff"[..], &[b' '; 50]].concat())[..57].to_vec(),
            1007,
        ),
        (
            "a close with a reason that is not UTF-8",
            masked(CLOSE, b"\x03\xe8bye \xff"),
            1007,
        ),
        (
            "a close whose reason ends inside a character",
            masked(CLOSE, b"\x03\xe8bye \xc3"),
            1007,
        ),
        ("a binary message", masked(BINARY, ping), 1003),
        ("an empty binary message", masked(BINARY, b""), 1003),
    ];
    let mut wrong = Vec::new();
    for (what, bytes, expected) in cases {
        let mut raw = Raw::websocket(&gateway, "").await;
        raw.frame().await;
        raw.send(&bytes).await;
        // Whatever is let pass is answered before this close is.
        raw.send_frame(CLOSE, &1000_u16.to_be_bytes()).await;
        let (_, code) = raw.frames_to_close().await;
        if code != expected {
            wrong.push(format!("{what}: {code}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_violation_is_told_by_an_error_before_the_close() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.frame().await;
    raw.send_frame(0x83, b"").await;
    let (frames, code) = raw.frames_to_close().await;
    assert_eq!(code, 1002);
    let error = frames.last().unwrap().json();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!("bad_request"))
    );
}

#[tokio::test]
async fn messages_before_a_violation_have_their_effect_though_all_came_at_once() {
    let gateway = TestGateway::start().await;
    let mut watching = gateway.ws("topics=a:1").await;
    for (violation, expected) in [
        (client_frame(0x83, b""), 1002),
        (client_frame(TEXT, b"\xff"), 1007),
        (client_frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (client_frame_head(TEXT, 65_537), 1009),
    ] {
        let mut raw = Raw::websocket(&gateway, "").await;
        assert_eq!(raw.frame().await.unwrap().json()["type"], "connected");
        let mut all = client_frame(PING, b"first");
        for n in 0..20 {
            let message = format!(r#"{{"type":"publish","topic":"a:1","data":{n}}}"#);
            let (start, end) = message.as_bytes().split_at(n);
            all.extend(client_frame(0x01, start));
            all.extend(client_frame(0x80, end));
        }
        raw.send(&[all, violation].concat()).await;
        let (frames, code) = raw.frames_to_close().await;
        assert_eq!(code, expected);
        assert_eq!(frames[0].first, PONG, "{code}");
        for n in 0..20 {
            assert_eq!(watching.event().await["data"], n, "{code}");
        }
    }
}

#[tokio::test]
async fn the_first_known_subprotocol_is_chosen() {
    let gateway = TestGateway::start().await;
    for (offered, chosen) in [
        (None, None),
        (Some("tribus.json.v1"), Some("tribus.json.v1")),
        (Some("tribus.msgpack.v1"), Some("tribus.msgpack.v1")),
        (
            Some("tribus.msgpack.v1, tribus.json.v1"),
            Some("tribus.msgpack.v1"),
        ),
        (
            Some("tribus.json.v1, tribus.msgpack.v1"),
            Some("tribus.json.v1"),
        ),
        (Some("mqtt, tribus.msgpack.v1"), Some("tribus.msgpack.v1")),
        (Some("mqtt"), None),
    ] {
        let mut raw = Raw::connect(&gateway).await;
        let mut rest = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                        Sec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Extensions: permessage-deflate\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            .to_owned();
        if let Some(offered) = offered {
            rest.push_str(&format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        }
        raw.request("GET /ws", &format!("{rest}\r\n")).await;
        let (status, headers) = raw.response_head().await;
        assert_eq!(status, 101, "{offered:?}");
        let named = headers
            .lines()
            .find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(named, chosen, "{offered:?}");
        assert!(
            headers.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{headers}"
        );
        assert!(
            !headers.contains("extensions"),
            "nothing is compressed that was not agreed"
        );
        let first = raw.frame().await.unwrap().first;
        let msgpack = chosen == Some("tribus.msgpack.v1");
        assert_eq!(first, if msgpack { BINARY } else { TEXT }, "{offered:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_handshake_gets_an_error_as_json() {
    let gateway = TestGateway::start().await;
    let response = gateway
        .get("/ws", "topics=a:1", &Claims::all("alice"))
        .await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!("bad_request"))
    );
}

#[tokio::test]
async fn every_message_has_its_messagepack_form() {
    let gateway = TestGateway::with(QUICK).await;
    let start = gateway.publish("x:1", Value::Null).await;
    let mut ws = open(&gateway, "", Some("tribus.msgpack.v1")).await;
    let connected = ws.next().await;
    assert_eq!(connected["type"], "connected");
    assert_eq!(connected["heartbeatMs"], 200);
    let token = Claims::all("alice").token();
    for (message, replies) in [
        (json!({"type": "ping", "ref": 7}), &["pong"][..]),
        (
            json!({"type": "auth", "token": token, "ref": "a"}),
            &["auth_success"],
        ),
        (
            json!({"type": "subscribe", "topics": ["a:1"], "cursor": start, "ref": -1}),
            &["subscribed", "live"],
        ),
        (
            json!({"type": "subscribe", "topics": ["b:1"], "cursor": "elsewhere-1", "ref": 1.5}),
            &["subscribed", "reset", "live"],
        ),
        (
            json!({"type": "publish", "topic": "c:1", "data": {"n": [1, null]}, "ref": "p"}),
            &["published"],
        ),
        (
            json!({"type": "unsubscribe", "topics": ["b:1"], "ref": 3}),
            &["unsubscribed"],
        ),
        (json!({"type": "nonsense", "ref": 4}), &["error"]),
        (json!([1, 2]), &["error"]),
    ] {
        send_packed(&mut ws, &pack(&message)).await;
        for reply in replies {
            let frame = next_but_heartbeat(&mut ws).await;
            assert_eq!(frame["type"], *reply, "{message}: {frame}");
            assert_eq!(frame.get("ref"), message.get("ref"), "{message}: {frame}");
        }
    }
    let id = gateway
        .publish("a:1", json!({"deep": [true, "é", {}]}))
        .await;
    let event = next_but_heartbeat(&mut ws).await;
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("event"), &json!(id))
    );
    assert_eq!(
        event,
        replay(&gateway, Transport::Poll, "topics=a:1&rewind=1").await[0]
    );
    assert_eq!(ws.next().await, json!({"type": "heartbeat", "cursor": id}));
    gateway.stop().await;
    assert_eq!(next_but_heartbeat(&mut ws).await["type"], "closing");
    assert_eq!(ws.close_code().await, 1012);
}

async fn next_but_heartbeat(ws: &mut Ws) -> Value {
    loop {
        match ws.next().await {
            frame if frame["type"] == "heartbeat" => {}
            frame => return frame,
        }
    }
}

fn pack(json: &Value) -> Packed {
    match json {
        Value::Null => Packed::Nil,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => number.into(),
            (None, Some(number)) => number.into(),
            (None, None) => number.as_f64().expect("a float").into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Packed::Array(items.iter().map(pack).collect()),
        Value::Object(fields) => {
            let entries = fields
                .iter()
                .map(|(key, value)| (key.as_str().into(), pack(value)));
            Packed::Map(entries.collect())
        }
    }
}

fn encoded(value: &Packed) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("written to memory");
    bytes
}

async fn send_packed(ws: &mut Ws, value: &Packed) {
    ws.send_message(Message::binary(encoded(value))).await;
}

/// The data of the next event, as MessagePack has it.
async fn packed_data(raw: &mut Raw) -> Packed {
    loop {
        let frame = raw.frame().await.expect("a frame");
        assert_eq!(frame.first, BINARY);
        let value = rmpv::decode::read_value(&mut &frame.payload[..]).expect("MessagePack");
        if value["type"].as_str() == Some("event") {
            return value["data"].clone();
        }
    }
}

#[tokio::test]
async fn numbers_become_integers_floats_or_strings_of_their_digits() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.request(
        "GET /ws?topics=n:1",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: tribus.msgpack.v1\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response_head().await.0, 101);
    for (json, packed) in [
        ("0", Packed::from(0)),
        ("127", Packed::from(127)),
        ("-33", Packed::from(-33)),
        ("4294967296", Packed::from(4_294_967_296_u64)),
        ("18446744073709551615", Packed::from(u64::MAX)),
        ("-9223372036854775808", Packed::from(i64::MIN)),
        ("1.0", Packed::from(1.0)),
        ("0.1", Packed::from(0.1)),
        ("-2.5e-3", Packed::from(-0.0025)),
        ("1e2", Packed::from(100.0)),
        ("1.7976931348623157e308", Packed::from(f64::MAX)),
        ("1e400", Packed::from("1e400")),
        (
            "-18446744073709551617",
            Packed::from("-18446744073709551617"),
        ),
        (
            "123456789012345678901234567890",
            Packed::from("123456789012345678901234567890"),
        ),
        (
            "0.12345678901234567890",
            Packed::from("0.12345678901234567890"),
        ),
        ("1e-400", Packed::from("1e-400")),
        (r#""\u00e9\ud83d\ude00\n""#, Packed::from("é😀\n")),
        ("[]", Packed::Array(vec![])),
        ("{}", Packed::Map(vec![])),
        (
            " { \"a\" : [ true , null ] } ",
            pack(&json!({"a": [true, null]})),
        ),
    ] {
        let body = format!(r#"{{"topic":"n:1","data":{json}}}"#);
        assert_eq!(gateway.post(&body).await.0, 200);
        assert_eq!(packed_data(&mut raw).await, packed, "{json}");
    }
}

#[tokio::test]
async fn a_lone_surrogate_has_a_messagepack_form_of_some_kind() {
    let gateway = TestGateway::start().await;
    let mut ws = open(&gateway, "topics=s:1", Some("tribus.msgpack.v1")).await;
    assert_eq!(
        gateway
            .post(r#"{"topic":"s:1","data":["\ud800","\u0041"]}"#)
            .await
            .0,
        200
    );
    assert_eq!(ws.event().await["data"][1], "A");
}

#[tokio::test]
async fn what_a_messagepack_client_publishes_is_json_to_all_others() {
    let gateway = TestGateway::start().await;
    let mut json_ws = gateway.ws("topics=n:1").await;
    let mut ws = open(&gateway, "", Some("tribus.msgpack.v1")).await;
    ws.frame("connected").await;
    for (data, text) in [
        (Packed::from(u64::MAX), "18446744073709551615"),
        (Packed::from(i64::MIN), "-9223372036854775808"),
        (Packed::from(1.5), "1.5"),
        (Packed::F32(0.1), "0.1"),
        (Packed::from("é\"\u{0}"), r#""é\"\u0000""#),
        (Packed::Nil, "null"),
        (pack(&json!({"a": [true, {}]})), r#"{"a":[true,{}]}"#),
    ] {
        let message = Packed::Map(vec![
            ("type".into(), "publish".into()),
            ("topic".into(), "n:1".into()),
            ("data".into(), data),
        ]);
        send_packed(&mut ws, &message).await;
        assert_eq!(ws.next().await["type"], "published", "{text}");
        let envelope = loop {
            let envelope = json_ws.next_text().await;
            if envelope.starts_with(r#"{"type":"event""#) {
                break envelope;
            }
        };
        assert!(
            envelope.contains(&format!(r#""data":{text},"#)),
            "{envelope}"
        );
    }
}

#[tokio::test]
async fn messagepack_without_a_json_form_is_refused_and_the_connection_stays() {
    let gateway = TestGateway::start().await;
    let mut ws = open(&gateway, "", Some("tribus.msgpack.v1")).await;
    ws.frame("connected").await;
    let ping = encoded(&pack(&json!({"type": "ping"})));
    let with_data = |data: Packed| {
        encoded(&Packed::Map(vec![
            ("type".into(), "publish".into()),
            ("topic".into(), "n:1".into()),
            ("data".into(), data),
        ]))
    };
    let cases = [
        ("nothing", vec![]),
        ("a truncated message", ping[..ping.len() - 1].to_vec()),
        ("two messages in one", [&ping[..], &ping[..]].concat()),
        ("a binary value", with_data(Packed::Binary(vec![1]))),
        ("an extension", with_data(Packed::Ext(1, vec![1]))),
        ("NaN", with_data(Packed::from(f64::NAN))),
        ("infinity", with_data(Packed::F32(f32::INFINITY))),
        (
            "a number for a key",
            with_data(Packed::Map(vec![(1.into(), 1.into())])),
        ),
        (
            "a string that is not UTF-8",
            vec![0x81, 0xa4, b't', b'y', b'p', b'e', 0xa1, 0xff],
        ),
        ("arrays without an end", vec![0x91; 60_000]),
        (
            "an array that announces four thousand million",
            vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        ),
        ("the reserved byte", vec![0xc1]),
    ];
    for (what, bytes) in cases {
        ws.send_message(Message::binary(bytes)).await;
        let reply = ws.next().await;
        assert_eq!(
            (&reply["type"], &reply["code"]),
            (&json!("error"), &json!("bad_request")),
            "{what}"
        );
    }
    ws.send_message(Message::text(r#"{"type":"ping"}"#)).await;
    assert_eq!(ws.close_code().await, 1003);
}

#[tokio::test]
async fn draining_tells_every_client_when_to_come_back() {
    let gateway = TestGateway::start().await;
    let mut clients = vec![gateway.ws("topics=a:1").await, gateway.ws("").await];
    for ws in &mut clients {
        ws.send(json!({"type": "ping"})).await;
        ws.frame("pong").await;
    }
    gateway.stop().await;
    for ws in &mut clients {
        let closing = loop {
            match ws.next().await {
                frame if frame["type"] == "closing" => break frame,
                frame => assert_ne!(frame["type"], "event"),
            }
        };
        assert_eq!(closing["code"], 1012);
        assert!(!closing["message"].as_str().unwrap().is_empty());
        let wait = closing["reconnectAfterMs"]
            .as_u64()
            .expect("when to come back");
        assert!(wait <= 2000, "within the grace: {wait}");
        assert_eq!(ws.close_code().await, 1012);
    }
}

#[tokio::test]
async fn events_published_before_the_drain_are_delivered_before_the_close() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1").await;
    ws.frame("live").await;
    let batch: Vec<Value> = (0..100)
        .map(|n| json!({"topic": "a:1", "data": n}))
        .collect();
    assert_eq!(gateway.post(&Value::from(batch).to_string()).await.0, 200);
    gateway.stop().await;
    let mut last = None;
    let closing = loop {
        match ws.next().await {
            frame if frame["type"] == "event" => {
                let data = frame["data"].as_u64();
                assert_eq!(data, last.map_or(Some(0), |last: u64| Some(last + 1)));
                last = data;
            }
            frame => break frame,
        }
    };
    // What was not sent any more is left to the resume; nothing is skipped.
    assert_eq!(closing["type"], "closing");
    assert_eq!(ws.close_code().await, 1012);
}
