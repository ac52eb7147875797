//! The envelope: its fields, their rules and limits (protocol, section 1).

use serde_json::{Value, json};

use crate::support::{Claims, Everywhere, TRANSPORTS, TestGateway, replay, within};

#[tokio::test]
async fn data_passes_byte_for_byte_on_all_three_transports() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=raw:1").await;
    for data in [
        "null",
        "true",
        "0",
        "-0",
        "1.0",
        "1.10",
        "1E+2",
        "1e400",
        "123456789012345678901234567890",
        "0.1000000000000000055511151231257827",
        r#""""#,
        r#""\u00e9\u0041\/\"\\""#,
        r#""é 😀 \ud83d\ude00""#,
        r#""\ud800""#,
        "\"\u{2028}\u{7f}\"",
        r#""a\r\n\t\u0000b""#,
        r#"{ "b" : [ 1 ,2.50 ] ,"a":{}}"#,
        "{\t\"tab\"\t:1}",
        r#"{"b":1,"a":2,"b":3}"#,
    ] {
        let (status, answer) = gateway
            .post(&format!(r#"{{"topic":"raw:1","data":{data}}}"#))
            .await;
        assert_eq!(status, 200, "{data}: {answer}");
        let envelope = everywhere.envelope().await;
        assert!(
            envelope.contains(&format!(r#","data":{data},"timestamp""#)),
            "{envelope}"
        );
    }
}

#[tokio::test]
async fn pretty_printed_data_is_one_line_and_the_same_value_everywhere() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=raw:1").await;
    let data = json!({"a": [1, {"b": "x\ny"}], "c": null});
    let pretty = serde_json::to_string_pretty(&data).unwrap();
    for data_text in [
        pretty.clone(),
        pretty.replace('\n', "\r\n"),
        pretty.replace('\n', "\r"),
    ] {
        let body = format!("{{\n\"topic\":\"raw:1\",\r\n\"data\":{data_text}\n}}\n");
        assert_eq!(gateway.post(&body).await.0, 200);
        let envelope = everywhere.envelope().await;
        assert!(!envelope.contains(['\n', '\r']), "{envelope}");
        assert_eq!(
            serde_json::from_str::<Value>(&envelope).unwrap()["data"],
            data
        );
    }
}

#[tokio::test]
async fn the_envelope_has_all_fields_in_this_order() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=order:*").await;
    let body = r#"{"tags":{"z":"1","a":"2"},"user_id":"carol","trace_id":"t-1","data":[1],
        "timestamp":"2026-01-25T10:30:00Z","event":"order:updated","topic":"order:123"}"#;
    let trusted = Claims::all("backend").with("trusted", json!(true));
    let (_, answer) = gateway.post_as(&trusted, body).await;
    let id = answer["id"].as_str().unwrap();
    let expected = format!(
        r#"{{"type":"event","id":"{id}","topic":"order:123","event":"order:updated","data":[1],"timestamp":"2026-01-25T10:30:00.000Z","trace_id":"t-1","user_id":"carol","tags":{{"z":"1","a":"2"}}}}"#
    );
    assert_eq!(everywhere.envelope().await, expected);
}

#[tokio::test]
async fn fields_that_were_not_given_have_their_defaults_or_are_left_out() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=order:1").await;
    let before = jiff::Timestamp::now();
    for body in [
        r#"{"topic":"order:1"}"#,
        r#"{"topic":"order:1","event":null,"data":null,"timestamp":null,"trace_id":null,
            "user_id":null,"tags":null,"ephemeral":null}"#,
        r#"{"topic":"order:1","tags":{},"ephemeral":false}"#,
    ] {
        let (status, answer) = gateway.post(body).await;
        assert_eq!(status, 200, "{body}: {answer}");
        let mut event = everywhere.event().await;
        let timestamp = event["timestamp"].take();
        assert_is_now(timestamp.as_str().unwrap(), before);
        assert_eq!(
            event,
            json!({"type": "event", "id": answer["id"], "topic": "order:1", "event": "message",
                   "data": null, "timestamp": null, "user_id": "backend"})
        );
    }
}

fn assert_is_now(text: &str, before: jiff::Timestamp) {
    assert_eq!(text.len(), "2026-01-25T10:30:00.000Z".len(), "{text}");
    assert!(text.ends_with('Z'), "{text}");
    let time: jiff::Timestamp = text.parse().expect("RFC 3339");
    let millisecond = jiff::SignedDuration::from_millis(1);
    assert!(
        before - millisecond <= time && time <= jiff::Timestamp::now(),
        "{text}"
    );
}

#[tokio::test]
async fn a_given_timestamp_is_told_in_utc_with_milliseconds() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=order:1").await;
    for (given, told) in [
        ("2026-01-25T10:30:00.000Z", "2026-01-25T10:30:00.000Z"),
        ("2026-01-25T12:30:00+02:00", "2026-01-25T10:30:00.000Z"),
        ("2026-01-25T10:30:00.123456789Z", "2026-01-25T10:30:00.123Z"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
    ] {
        let body = json!({"topic": "order:1", "timestamp": given});
        let (status, answer) = gateway.post(&body.to_string()).await;
        assert_eq!(status, 200, "{given}: {answer}");
        assert_eq!(everywhere.event().await["timestamp"], told);
    }
}

#[tokio::test]
async fn fields_at_their_bounds_are_taken() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=**").await;
    let tags: serde_json::Map<String, Value> =
        (0..32).map(|n| (format!("tag{n}"), json!("é"))).collect();
    for (field, value) in [
        ("topic", json!("t".repeat(255))),
        ("topic", json!("é".repeat(127))),
        ("topic", json!("x")),
        ("topic", json!("a:b:c.d/e?f=g&h#i%20+\"'\\{}😀")),
        ("event", json!("e".repeat(128))),
        ("event", json!("order updated, again *")),
        ("trace_id", json!("x")),
        ("tags", tags.into()),
    ] {
        let mut body = json!({"topic": "a:b"});
        body[field] = value.clone();
        let (status, answer) = gateway.post(&body.to_string()).await;
        assert_eq!(status, 200, "{field} {value}: {answer}");
        assert_eq!(everywhere.event().await[field], value);
    }
}

#[tokio::test]
async fn bad_fields_are_refused_by_name_and_nothing_is_published() {
    let gateway = TestGateway::start().await;
    let start = cursor(&gateway).await;
    let mut ws = gateway.ws("").await;
    for (body, code, named) in bad_publishes() {
        let (status, answer) = gateway.post(&body.to_string()).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!(code)),
            "{body}: {answer}"
        );
        assert_names(&answer, named, &body);
        let mut message = body.clone();
        message["type"] = json!("publish");
        message["ref"] = json!(7);
        let reply = ws.ask(message).await;
        assert_eq!(
            (&reply["code"], &reply["ref"]),
            (&json!(code), &json!(7)),
            "{body}: {reply}"
        );
        assert_names(&reply, named, &body);
    }
    assert_eq!(cursor(&gateway).await, start);
}

fn bad_publishes() -> Vec<(Value, &'static str, &'static str)> {
    let many: serde_json::Map<String, Value> =
        (0..33).map(|n| (format!("tag{n}"), json!("v"))).collect();
    let mut cases = vec![
        (json!({"data": 1}), "bad_request", "topic"),
        (json!({"topic": 7}), "bad_request", "topic"),
        (json!({"topic": null}), "bad_request", "topic"),
        (json!({"topic": "a:b", "nope": 1}), "bad_request", "nope"),
        (json!({"topic": "a:b", "id": "x-1"}), "bad_request", "id"),
    ];
    for topic in [
        "",
        "a b",
        "a,b",
        "a*",
        "**",
        "a\nb",
        "a\u{0}",
        "a\u{7f}",
        "a\u{a0}b",
        "a\u{2003}b",
        "a\u{85}b",
        &"t".repeat(256),
        &"é".repeat(128),
    ] {
        cases.push((json!({"topic": topic}), "bad_topic", ""));
    }
    for (field, value) in [
        ("event", json!("")),
        ("event", json!("e".repeat(129))),
        ("event", json!("a\nb")),
        ("event", json!("a\u{9b}b")),
        ("event", json!(1)),
        ("event", json!(["a"])),
        ("timestamp", json!("yesterday")),
        ("timestamp", json!("2026-01-25")),
        ("timestamp", json!("2026-01-25T10:30:00")),
        ("timestamp", json!(1769337000)),
        ("trace_id", json!("")),
        ("trace_id", json!("a\rb")),
        ("trace_id", json!(1)),
        ("user_id", json!("")),
        ("user_id", json!("a\nb")),
        ("user_id", json!(false)),
        ("tags", json!(["a"])),
        ("tags", json!("a")),
        ("tags", json!({"a": 1})),
        ("tags", json!({"a": null})),
        ("tags", json!({"a": {"b": "c"}})),
        ("tags", many.into()),
        ("ephemeral", json!("true")),
        ("ephemeral", json!(1)),
    ] {
        let mut body = json!({"topic": "a:b"});
        body[field] = value;
        cases.push((body, "bad_request", field));
    }
    cases
}

fn assert_names(answer: &Value, named: &str, body: &Value) {
    let message = answer["message"].as_str().expect("a message");
    assert!(
        !message.is_empty() && message.contains(named),
        "{body}: {message}"
    );
}

/// The end of the log.
async fn cursor(gateway: &TestGateway) -> String {
    let (_, page) = gateway.poll("topics=**").await;
    page["cursor"].as_str().expect("a cursor").to_owned()
}

#[tokio::test]
async fn only_a_trusted_token_says_who_caused_an_event() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=a:b").await;
    let plain = Claims::all("bob");
    let trusted = Claims::all("backend").with("trusted", json!(true));
    let distrusted = Claims::all("bob").with("trusted", json!(false));
    for (claims, given, told) in [
        (&plain, None, Some("bob")),
        (&plain, Some("carol"), Some("bob")),
        (&distrusted, Some("carol"), Some("bob")),
        (&trusted, None, None),
        (&trusted, Some("carol"), Some("carol")),
    ] {
        let mut body = json!({"topic": "a:b"});
        if let Some(given) = given {
            body["user_id"] = json!(given);
        }
        assert_eq!(gateway.post_as(claims, &body.to_string()).await.0, 200);
        let by_http = everywhere.event().await;
        body["type"] = json!("publish");
        let mut ws = gateway.ws_as(claims, "").await;
        assert_eq!(ws.ask(body).await["type"], "published");
        let by_ws = everywhere.event().await;
        for event in [by_http, by_ws] {
            assert_eq!(
                event.get("user_id").and_then(Value::as_str),
                told,
                "{given:?}: {event}"
            );
        }
    }
}

#[tokio::test]
async fn the_trace_id_comes_from_the_event_or_else_from_traceparent() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=a:b").await;
    let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let own = r#"{"topic":"a:b","trace_id":"mine"}"#;
    let none = r#"{"topic":"a:b"}"#;
    for (traceparent, body, told) in [
        (good.clone(), none, Some(TRACE)),
        (good.clone(), own, Some("mine")),
        (
            format!("01-{TRACE}-00f067aa0ba902b7-01-future"),
            none,
            Some(TRACE),
        ),
        (format!("{good}-more"), none, None),
        (format!("ff-{TRACE}-00f067aa0ba902b7-01"), none, None),
        (
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            none,
            None,
        ),
        (
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            none,
            None,
        ),
        (format!("00-{TRACE}-{}-01", "0".repeat(16)), none, None),
        (format!("00-{TRACE}"), none, None),
        ("garbage".to_owned(), none, None),
    ] {
        let request = gateway.http.post(gateway.url("/publish"));
        let request = request.bearer_auth(Claims::all("backend").token());
        let sent = request
            .header("traceparent", &traceparent)
            .body(body)
            .send();
        assert_eq!(
            within("an answer", sent).await.unwrap().status(),
            200,
            "{traceparent}"
        );
        let event = everywhere.event().await;
        let trace_id = event.get("trace_id").and_then(Value::as_str);
        assert_eq!(trace_id, told, "{traceparent}");
    }
}

#[tokio::test]
async fn an_event_may_have_64_kib_encoded_and_not_more() {
    let gateway = TestGateway::with("limits.message_bytes = \"128KiB\"").await;
    let mut everywhere = Everywhere::open(&gateway, "topics=big:1").await;
    let mut ws = gateway.ws("").await;
    let body = |data_len: usize| json!({"topic": "big:1", "data": "x".repeat(data_len)});
    // What cursor and other fields take is for the gateway to know; this much is left at least.
    let fits = 65_536 - 300;
    let (status, answer) = gateway.post(&body(fits).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    assert!(everywhere.envelope().await.len() <= 65_536);
    let (status, answer) = gateway.post(&body(65_536).to_string()).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")));
    let mut message = body(65_536);
    message["type"] = json!("publish");
    assert_eq!(ws.ask(message).await["code"], "too_large");
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn the_size_of_an_event_is_configurable_and_counts_every_field() {
    let gateway = TestGateway::with("limits.event_bytes = \"1KiB\"").await;
    let long = "x".repeat(600);
    for (body, status) in [
        (json!({"topic": "a:b", "data": long}), 200),
        (json!({"topic": "a:b", "data": long.repeat(2)}), 413),
        (
            json!({"topic": "a:b", "data": long, "tags": {"a": long}}),
            413,
        ),
        (
            json!({"topic": "t".repeat(255), "event": "e".repeat(128), "data": long}),
            413,
        ),
        // Six bytes each once escaped.
        (
            json!({"topic": "a:b", "data": 1, "tags": {"a": "\u{1}".repeat(180)}}),
            413,
        ),
    ] {
        let answer = gateway.post(&body.to_string()).await;
        assert_eq!(answer.0, status, "{answer:?}");
    }
}

#[tokio::test]
async fn data_may_nest_128_levels_and_not_more() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=deep:1").await;
    let mut ws = gateway.ws("").await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mixed = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
    for data in [
        nested(128),
        mixed(128),
        format!(r#"["{}"]"#, "[".repeat(500)),
    ] {
        let (status, answer) = gateway.post(&event_with(&data)).await;
        assert_eq!(status, 200, "{answer}");
        assert!(everywhere.envelope().await.contains(&data));
    }
    for data in [nested(129), mixed(129), nested(20_000)] {
        let (status, answer) = gateway.post(&event_with(&data)).await;
        assert_eq!((status, &answer["code"]), (400, &json!("bad_request")));
        let batch = format!("[{}]", event_with(&data));
        assert_eq!(gateway.post(&batch).await.0, 400);
        ws.send_text(&format!(
            r#"{{"type":"publish","topic":"deep:1","data":{data}}}"#
        ))
        .await;
        assert_eq!(ws.frame("error").await["code"], "bad_request");
    }
}

fn event_with(data: &str) -> String {
    format!(r#"{{"topic":"deep:1","data":{data}}}"#)
}

#[tokio::test]
async fn nesting_is_configurable() {
    let gateway = TestGateway::with("limits.nesting = 2").await;
    assert_eq!(gateway.post(&event_with("[[1]]")).await.0, 200);
    let (status, answer) = gateway.post(&event_with("[[[1]]]")).await;
    assert_eq!((status, &answer["code"]), (400, &json!("bad_request")));
}

#[tokio::test]
async fn an_ephemeral_event_reaches_the_streams_that_are_there_and_is_never_replayed() {
    let gateway = TestGateway::start().await;
    let start = cursor(&gateway).await;
    let mut ws = gateway.ws("topics=typing:1").await;
    let mut sse = gateway.sse("topics=typing:1").await;
    let body = r#"{"topic":"typing:1","data":1,"ephemeral":true}"#;
    assert_eq!(gateway.post(body).await.0, 200);
    let by_ws = ws.event().await;
    assert_eq!(sse.event().await, by_ws);
    assert!(by_ws.get("ephemeral").is_none(), "{by_ws}");
    let lasting = gateway.publish("typing:1", json!(2)).await;
    assert_eq!(ws.event().await["id"], json!(lasting));
    for transport in TRANSPORTS {
        for query in [
            format!("cursor={start}"),
            "cursor=earliest".to_owned(),
            "rewind=5".to_owned(),
        ] {
            let events = replay(&gateway, transport, &format!("topics=typing:1&{query}")).await;
            let ids: Vec<&Value> = events.iter().map(|event| &event["id"]).collect();
            assert_eq!(ids, [&json!(lasting)], "{transport:?} {query}");
        }
        let after = by_ws["id"].as_str().unwrap();
        let events = replay(
            &gateway,
            transport,
            &format!("topics=typing:1&cursor={after}"),
        )
        .await;
        assert_eq!(
            events.len(),
            1,
            "{transport:?} resumes from an ephemeral event's id"
        );
    }
}

#[tokio::test]
async fn an_ephemeral_event_reaches_a_waiting_poll() {
    let gateway = TestGateway::start().await;
    let query = format!("topics=typing:1&cursor={}", cursor(&gateway).await);
    let mut poll = std::pin::pin!(gateway.poll(&query));
    // The poll may not be there yet when the first is published, so one follows the other.
    let (status, page) = loop {
        tokio::select! {
            answer = &mut poll => break answer,
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
        }
        let body = r#"{"topic":"typing:1","data":"now","ephemeral":true}"#;
        assert_eq!(gateway.post(body).await.0, 200);
    };
    assert_eq!(status, 200);
    assert_eq!(page["events"][0]["data"], "now");
    assert_eq!(page["events"][0]["id"], page["cursor"]);
}
