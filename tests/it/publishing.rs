//! `POST /publish`, and `publish` on `/ws` (protocol, section 7).

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};

use crate::{
    hopping::sequence_of,
    support::{Claims, Everywhere, Raw, TestGateway, Transport, Ws, answered, replay, within},
};

/// What a retry of a publisher looks like, on either way in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Http,
    Ws,
}

const WAYS: [Way; 2] = [Way::Http, Way::Ws];

async fn publish(
    gateway: &TestGateway,
    way: Way,
    claims: &Claims,
    key: Option<&str>,
    event: &Value,
) -> Value {
    match way {
        Way::Http => {
            publish_text(gateway, claims, key, &event.to_string())
                .await
                .1
        }
        Way::Ws => {
            let mut message = event.clone();
            message["type"] = json!("publish");
            if let Some(key) = key {
                message["key"] = json!(key);
            }
            let mut ws = gateway.ws_as(claims, "").await;
            let mut reply = answered(ws.ask(message).await);
            let fields = reply.as_object_mut().unwrap();
            if fields["type"] == "published" {
                fields.remove("type");
            }
            reply
        }
    }
}

async fn publish_text(
    gateway: &TestGateway,
    claims: &Claims,
    key: Option<&str>,
    body: &str,
) -> (u16, Value) {
    let mut request = gateway.http.post(gateway.url("/publish"));
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    let sent = request
        .bearer_auth(claims.token())
        .body(body.to_owned())
        .send();
    let response = within("an answer", sent).await.expect("an answer");
    (
        response.status().as_u16(),
        answered(response.json().await.expect("JSON")),
    )
}

#[tokio::test]
async fn one_event_is_answered_with_its_id() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=a:1").await;
    let (status, answer) = gateway.post(r#"{"topic":"a:1"}"#).await;
    assert_eq!(status, 200);
    let id = everywhere.event().await["id"].clone();
    assert_eq!(answer, json!({"id": id}));
    let mut ws = gateway.ws("").await;
    let reply = ws
        .ask(json!({"type": "publish", "topic": "a:1", "ref": 5}))
        .await;
    let id = everywhere.event().await["id"].clone();
    assert_eq!(
        answered(reply),
        json!({"type": "published", "id": id, "ref": 5})
    );
}

#[tokio::test]
async fn a_batch_is_published_in_order_and_answered_with_its_ids() {
    let gateway = TestGateway::start().await;
    let mut everywhere = Everywhere::open(&gateway, "topics=**").await;
    for count in [1, 3, 500] {
        let batch: Vec<Value> = (0..count)
            .map(|n| json!({"topic": format!("a:{n}"), "data": n}))
            .collect();
        let (status, answer) = gateway.post(&Value::from(batch).to_string()).await;
        assert_eq!(status, 200);
        let ids = answer["ids"].as_array().expect("ids");
        assert_eq!((ids.len(), answer.as_object().unwrap().len()), (count, 1));
        for (n, id) in ids.iter().enumerate().take(20) {
            let event = everywhere.event().await;
            assert_eq!((&event["id"], &event["data"]), (id, &json!(n)));
        }
        everywhere = Everywhere::open(&gateway, "topics=**").await;
    }
}

#[tokio::test]
async fn a_batch_is_published_all_or_none_and_the_bad_event_is_named_by_its_index() {
    let gateway = TestGateway::with("limits.event_bytes = \"1KiB\"").await;
    let claims = Claims::new("backend").with("publish", json!(["a:*"]));
    let good = json!({"topic": "a:1"});
    for (bad, status, code) in [
        (json!({"topic": "a b"}), 400, "bad_topic"),
        (json!({}), 400, "bad_request"),
        (json!(7), 400, "bad_request"),
        (json!(null), 400, "bad_request"),
        (json!([]), 400, "bad_request"),
        (json!([{"topic": "a:1"}]), 400, "bad_request"),
        (json!({"topic": "a:1", "nope": 1}), 400, "bad_request"),
        (json!({"topic": "a:1", "key": "k"}), 400, "bad_request"),
        (
            json!({"topic": "a:1", "data": "x".repeat(1100)}),
            413,
            "too_large",
        ),
    ] {
        let body = json!([good, good, bad, good]).to_string();
        let (got, answer) = publish_text(&gateway, &claims, None, &body).await;
        assert_eq!(
            (got, &answer["code"]),
            (status, &json!(code)),
            "{bad}: {answer}"
        );
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains("event 2"), "{bad}: {message}");
    }
    let body = json!([good, {"topic": "b:1"}]).to_string();
    let (status, answer) = publish_text(&gateway, &claims, None, &body).await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")));
    assert!(
        replay(&gateway, Transport::Poll, "topics=**&cursor=earliest")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn bodies_that_are_no_publish_are_refused() {
    let gateway = TestGateway::start().await;
    for body in [
        "",
        " ",
        "[]",
        " [ ] ",
        "null",
        "7",
        "\"a:1\"",
        "{",
        "[{\"topic\":\"a:1\"}",
        "[{\"topic\":\"a:1\"},]",
        "{\"topic\":\"a:1\"} {\"topic\":\"a:1\"}",
        "{\"topic\":\"a:1\",}",
        "{'topic':'a:1'}",
        "{\"topic\":\"a:1\",\"topic\":\"a:2\"}",
        "{\"topic\":\"a:1\",\"data\":01}",
        "{\"topic\":\"a:1\",\"data\":NaN}",
        "{\"topic\":\"a:1\",\"data\":\"\t\"}",
        "{\"topic\":\"\\ud800\"}",
        "\u{feff}{\"topic\":\"a:1\"}",
        "[\"a:1\", {}]",
        "[\"message\", \"a:1\"]",
        "topic=a:1",
    ] {
        let (status, answer) = gateway.post(body).await;
        assert_eq!(
            (status, &answer["type"], &answer["code"]),
            (400, &json!("error"), &json!("bad_request")),
            "{body}"
        );
    }
    let mut raw = Raw::connect(&gateway).await;
    let body = b"{\"topic\":\"a:1\",\"data\":\"\xff\"}";
    raw.request(
        "POST /publish",
        &format!("Content-Length: {}\r\n\r\n", body.len()),
    )
    .await;
    raw.send(body).await;
    assert_eq!(raw.response().await.status, 400, "not UTF-8");
    assert!(
        replay(&gateway, Transport::Poll, "topics=**&cursor=earliest")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let gateway = TestGateway::start().await;
    for content_type in [
        "application/json",
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
    ] {
        let request = gateway
            .http
            .post(gateway.url("/publish"))
            .header("Content-Type", content_type);
        let request = request.bearer_auth(Claims::all("backend").token());
        let sent = request.body(r#"{"topic":"a:1"}"#).send();
        assert_eq!(
            within("an answer", sent).await.unwrap().status(),
            200,
            "{content_type}"
        );
    }
}

#[tokio::test]
async fn an_accepted_event_is_there_for_whoever_asks_next() {
    let gateway = TestGateway::start().await;
    for n in 0..50 {
        let id = gateway.publish("a:1", json!(n)).await;
        // New connections may be any worker's.
        let mut raw = Raw::connect(&gateway).await;
        raw.request("GET /poll?topics=a:1&rewind=1", "\r\n").await;
        let page: Value = serde_json::from_str(&raw.response().await.body).unwrap();
        assert_eq!(page["events"][0]["id"], json!(id));
        let cursor = page["cursor"].as_str().expect("a cursor");
        assert!(sequence_of(cursor) >= sequence_of(&id), "{cursor}");
    }
}

#[tokio::test]
async fn a_body_of_more_than_1_mib_is_refused_from_its_announced_length() {
    let gateway = TestGateway::start().await;
    for length in ["1048577", "99999999999"] {
        let mut raw = Raw::connect(&gateway).await;
        // Nothing of the body is sent.
        raw.request(
            "POST /publish",
            &format!("Content-Length: {length}\r\n\r\n"),
        )
        .await;
        let response = raw.response().await;
        assert_eq!(response.status, 413, "{length}: {response:?}");
        let error: Value = serde_json::from_str(&response.body).unwrap();
        assert_eq!(error["code"], "too_large");
    }
}

#[tokio::test]
async fn a_body_that_grows_beyond_1_mib_as_it_comes_is_refused() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.request("POST /publish", "Transfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunk = [&b"10000\r\n"[..], &vec![b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        raw.send(&chunk).await;
    }
    let response = raw.response().await;
    assert_eq!(response.status, 413);
    let error: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(error["code"], "too_large");
}

#[tokio::test]
async fn a_body_of_just_1_mib_is_taken_in_either_form() {
    let gateway = TestGateway::start().await;
    let body = padded_event(1 << 20);
    assert_eq!(gateway.post(&body).await.0, 200);
    let mut raw = Raw::connect(&gateway).await;
    raw.request("POST /publish", "Transfer-Encoding: chunked\r\n\r\n")
        .await;
    for part in body.as_bytes().chunks(100_000) {
        raw.send(format!("{:x}\r\n", part.len()).as_bytes()).await;
        raw.send(part).await;
        raw.send(b"\r\n").await;
    }
    raw.send(b"0\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
}

#[tokio::test]
async fn the_size_of_a_body_is_configurable() {
    let gateway = TestGateway::with("limits.publish_bytes = \"1KiB\"").await;
    assert_eq!(gateway.post(&padded_event(1024)).await.0, 200);
    assert_eq!(gateway.post(&padded_event(1025)).await.0, 413);
}

/// A body of so many bytes.
fn padded_event(length: usize) -> String {
    let event = r#"{"topic":"a:1"}"#;
    format!("{event}{}", " ".repeat(length - event.len()))
}

#[tokio::test]
async fn the_same_key_again_gives_the_first_answer_and_publishes_nothing() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend");
    let event = json!({"topic": "a:1", "event": "made", "data": {"n": 1}, "tags": {"a": "b"}});
    for first_way in WAYS {
        let key = format!("key of {first_way:?}");
        let first = publish(&gateway, first_way, &claims, Some(&key), &event).await;
        assert!(first.get("duplicate").is_none(), "{first}");
        for way in WAYS {
            let again = publish(&gateway, way, &claims, Some(&key), &event).await;
            assert_eq!(
                again,
                json!({"id": first["id"], "duplicate": true}),
                "{first_way:?}, then {way:?}"
            );
        }
    }
    let events = replay(&gateway, Transport::Poll, "topics=**&cursor=earliest").await;
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_batch_under_the_same_key_gives_the_first_ids() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend");
    let batch = r#"[{"topic":"a:1"},{"topic":"a:2"}]"#;
    let (_, first) = publish_text(&gateway, &claims, Some("k"), batch).await;
    gateway.publish("b:1", Value::Null).await;
    let (status, again) = publish_text(&gateway, &claims, Some("k"), batch).await;
    assert_eq!(
        (status, again),
        (200, json!({"ids": first["ids"], "duplicate": true}))
    );
    // White space between the fields makes no other request.
    let spaced = "[ {\"topic\" : \"a:1\"},\n {\"topic\":\"a:2\"} ]";
    let (status, again) = publish_text(&gateway, &claims, Some("k"), spaced).await;
    assert_eq!(
        (status, again),
        (200, json!({"ids": first["ids"], "duplicate": true}))
    );
}

#[tokio::test]
async fn another_body_under_the_same_key_is_a_conflict_on_either_way() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend").with("trusted", json!(true));
    let event = json!({"topic": "a:1", "event": "x", "data": 1, "timestamp": "2026-01-25T10:30:00Z",
                       "trace_id": "t", "user_id": "u", "tags": {"a": "b"}});
    publish(&gateway, Way::Http, &claims, Some("k"), &event).await;
    let mut others = vec![json!({"topic": "a:1"})];
    for (field, value) in [
        ("topic", json!("a:2")),
        ("event", json!("y")),
        ("data", json!("1")),
        ("timestamp", json!("2026-01-25T10:30:01Z")),
        ("trace_id", json!("tt")),
        ("user_id", json!("uu")),
        ("tags", json!({"a": "c"})),
        ("tags", json!({"a": "b", "c": "d"})),
        ("ephemeral", json!(true)),
    ] {
        let mut other = event.clone();
        other[field] = value;
        others.push(other);
    }
    for other in others {
        let (status, answer) = publish_text(&gateway, &claims, Some("k"), &other.to_string()).await;
        assert_eq!(
            (status, &answer["type"], &answer["code"]),
            (409, &json!("error"), &json!("conflict")),
            "{other}"
        );
        let answer = publish(&gateway, Way::Ws, &claims, Some("k"), &other).await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("conflict")),
            "{other}"
        );
    }
    for body in [
        json!([event]).to_string(),
        json!([event, event]).to_string(),
    ] {
        assert_eq!(
            publish_text(&gateway, &claims, Some("k"), &body).await.0,
            409,
            "{body}"
        );
    }
    assert_eq!(
        replay(&gateway, Transport::Poll, "topics=**&cursor=earliest")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn keys_are_scoped_to_subject_and_tenant() {
    let gateway = TestGateway::start().await;
    let event = json!({"topic": "a:1"});
    let publishers = [
        Claims::all("backend"),
        Claims::all("other"),
        Claims::all("backend").with("tenant", json!("acme")),
        Claims::all("backend").with("tenant", json!("other")),
    ];
    let mut ids = Vec::new();
    for claims in &publishers {
        let first = publish(&gateway, Way::Http, claims, Some("k"), &event).await;
        assert!(first.get("duplicate").is_none(), "{claims:?}: {first}");
        ids.push(first["id"].clone());
    }
    for (claims, id) in publishers.iter().zip(ids) {
        for way in WAYS {
            let again = publish(&gateway, way, claims, Some("k"), &event).await;
            assert_eq!(again, json!({"id": id, "duplicate": true}), "{claims:?}");
        }
    }
}

#[tokio::test]
async fn a_refused_publish_does_not_use_up_its_key() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend");
    let (status, _) = publish_text(&gateway, &claims, Some("k"), r#"{"topic":"a b"}"#).await;
    assert_eq!(status, 400);
    let (status, answer) = publish_text(&gateway, &claims, Some("k"), r#"{"topic":"a:1"}"#).await;
    assert_eq!(status, 200);
    assert!(answer.get("duplicate").is_none());
}

#[tokio::test]
async fn a_retry_with_another_traceparent_is_the_same_request() {
    let gateway = TestGateway::start().await;
    let mut ids = Vec::new();
    for span in ["00f067aa0ba902b7", "00f067aa0ba902b8"] {
        let request = gateway
            .http
            .post(gateway.url("/publish"))
            .header("Idempotency-Key", "k");
        let trace = format!(
            "00-4bf92f3577b34da6a3ce929d0e0e473{}-{span}-01",
            &span[15..]
        );
        let request = request
            .header("traceparent", trace)
            .body(r#"{"topic":"a:1"}"#);
        let sent = request.bearer_auth(Claims::all("backend").token()).send();
        let answer: Value = within("an answer", sent)
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        ids.push(answer["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_ephemeral_event_is_not_sent_twice_under_one_key() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=**").await;
    ws.frame("live").await;
    let claims = Claims::all("backend");
    let body = r#"{"topic":"a:1","ephemeral":true}"#;
    let (_, first) = publish_text(&gateway, &claims, Some("k"), body).await;
    let (_, again) = publish_text(&gateway, &claims, Some("k"), body).await;
    assert_eq!(again, json!({"id": first["id"], "duplicate": true}));
    gateway.publish("the:end", Value::Null).await;
    assert_eq!(ws.next().await["topic"], "a:1");
    assert_eq!(ws.next().await["topic"], "the:end");
}

#[tokio::test]
async fn many_at_once_under_one_key_publish_one_event() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend");
    let retries = (0..20).map(|_| publish_text(&gateway, &claims, Some("k"), r#"{"topic":"a:1"}"#));
    let answers = futures_util::future::join_all(retries).await;
    let firsts = answers
        .iter()
        .filter(|(_, answer)| answer.get("duplicate").is_none())
        .count();
    assert_eq!(firsts, 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|(status, answer)| *status == 200 && answer["id"] == answers[0].1["id"])
    );
    assert_eq!(
        replay(&gateway, Transport::Poll, "topics=**&cursor=earliest")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn bad_keys_are_refused() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("backend");
    let event = json!({"topic": "a:1"});
    for key in [String::new(), "k".repeat(256)] {
        let (status, answer) =
            publish_text(&gateway, &claims, Some(&key), &event.to_string()).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{key}"
        );
        let answer = publish(&gateway, Way::Ws, &claims, Some(&key), &event).await;
        assert_eq!(answer["code"], "bad_request", "{key}");
    }
    let mut ws = gateway.ws("").await;
    let reply = ws
        .ask(json!({"type": "publish", "topic": "a:1", "key": 7}))
        .await;
    assert_eq!(reply["code"], "bad_request");
    let longest = "k".repeat(255);
    assert_eq!(
        publish_text(&gateway, &claims, Some(&longest), &event.to_string())
            .await
            .0,
        200
    );
}

#[tokio::test]
async fn fields_of_a_message_are_no_fields_of_a_body_and_the_other_way_round() {
    let gateway = TestGateway::start().await;
    for field in ["type", "ref", "key"] {
        let mut body = json!({"topic": "a:1"});
        body[field] = json!("publish");
        let (status, answer) = gateway.post(&body.to_string()).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{field}"
        );
        assert!(
            answer["message"].as_str().unwrap().contains(field),
            "{answer}"
        );
    }
    let mut ws = gateway.ws("").await;
    let reply = ws.ask(json!({"type": "publish", "topics": ["a:1"]})).await;
    assert_eq!(reply["code"], "bad_request");
}

#[tokio::test]
async fn a_publisher_on_ws_that_subscribes_gets_its_own_event() {
    let gateway = TestGateway::start().await;
    let mut ws: Ws = gateway.ws("topics=a:1").await;
    ws.frame("live").await;
    ws.send(json!({"type": "publish", "topic": "a:1", "data": 1}))
        .await;
    let mut frames = [ws.next().await, ws.next().await];
    frames.sort_by_key(|frame| frame["type"].to_string());
    assert_eq!(
        (&frames[0]["type"], &frames[1]["type"]),
        (&json!("event"), &json!("published"))
    );
    assert_eq!(frames[0]["id"], frames[1]["id"]);
    assert_eq!(frames[0]["user_id"], "alice");
}

#[tokio::test]
async fn messages_that_come_at_once_have_effect_and_answers_in_order() {
    let gateway = TestGateway::start().await;
    let mut events = gateway.ws("topics=a:*").await;
    events.frame("live").await;
    let mut ws = gateway.ws("").await;
    let mut asked = Vec::new();
    // More than are worked on at a time.
    for number in 0..100 {
        let publish = json!({"type": "publish", "topic": "a:1", "data": number, "ref": number});
        asked.push((publish, "published"));
        if number % 10 == 9 {
            let refused = json!({"type": "publish", "topic": "", "ref": "bad"});
            asked.push((refused, "error"));
            asked.push((json!({"type": "nonsense", "ref": "none"}), "error"));
        }
        if number % 25 == 24 {
            asked.push((json!({"type": "ping", "ref": "ping"}), "pong"));
        }
    }
    let own = json!({"type": "subscribe", "topics": ["a:*"], "ref": "own"});
    asked.push((own, "subscribed"));
    let last = json!({"type": "publish", "topic": "a:1", "data": "last", "ref": "last"});
    asked.push((last, "published"));
    for (message, _) in &asked {
        ws.send(message.clone()).await;
    }
    let mut received = Vec::new();
    while received.len() < asked.len() {
        let frame = ws.next().await;
        match frame["type"].as_str() {
            // The subscription began behind all the others.
            Some("event") => assert_eq!(frame["data"], "last"),
            Some("live") => {}
            _ => received.push((frame["ref"].clone(), frame["type"].clone())),
        }
    }
    let expected: Vec<_> = asked
        .iter()
        .map(|(message, reply)| (message["ref"].clone(), json!(reply)))
        .collect();
    assert_eq!(received, expected);
    for number in 0..100 {
        assert_eq!(events.event().await["data"], number);
    }
}

/// A gateway whose log is on disk.
async fn on_disk(log: &tempfile::TempDir, durability: &str) -> TestGateway {
    let path = log.path().display().to_string();
    TestGateway::with(&format!(
        "limits.messages_per_second = 10000000\nlimits.message_burst = 10000000\n\
         bus.engine = \"disk\"\nbus.disk.path = {path:?}\n\
         bus.disk.durability = {durability:?}\n"
    ))
    .await
}

#[tokio::test]
async fn publishes_that_one_client_sends_at_once_share_syncs() {
    let log = tempfile::tempdir().expect("a directory");
    let gateway = on_disk(&log, "sync").await;
    let mut ws = gateway.ws("").await;
    let commits = "tribus_log_commits_total";
    let before = gateway.scrape().await.value(commits);
    for _ in 0..10 {
        for number in 0..32 {
            ws.send(json!({"type": "publish", "topic": "a:1", "data": number}))
                .await;
        }
        for _ in 0..32 {
            ws.frame("published").await;
        }
    }
    let commits = gateway.scrape().await.value(commits) - before;
    assert!(commits <= 160.0, "{commits} commits for 320 publishes");
}

#[tokio::test]
async fn a_flood_of_publishes_is_appended_in_the_order_in_which_it_was_sent() {
    const COUNT: u64 = 20_000;
    for durability in ["os", "sync"] {
        let log = tempfile::tempdir().expect("a directory");
        let gateway = on_disk(&log, durability).await;
        let (mut sink, mut answers) = gateway.ws("").await.socket.split();
        let sending = tokio::spawn(async move {
            for number in 0..COUNT {
                let publish = json!({"type": "publish", "topic": "a:1", "ref": number});
                sink.feed(publish.to_string().into()).await.expect("sent");
            }
            sink.flush().await.expect("sent");
            sink
        });
        let mut last = 0;
        for number in 0..COUNT {
            let answer = within("an answer", answers.next()).await;
            let answer = answer.expect("a message").expect("a message");
            let answer: Value = serde_json::from_slice(&answer.into_data()).expect("JSON");
            assert_eq!(answer["ref"], number, "{answer}");
            let sequence = sequence_of(answer["id"].as_str().expect("an id"));
            assert!(sequence > last, "{durability}: {sequence} after {last}");
            last = sequence;
        }
        drop(sending.await);
    }
}

#[tokio::test]
async fn what_was_published_before_a_close_is_appended_and_counted() {
    for engine in ["memory", "disk"] {
        let log = tempfile::tempdir().expect("a directory");
        let gateway = match engine {
            "disk" => on_disk(&log, "sync").await,
            _ => TestGateway::start().await,
        };
        for _ in 0..10 {
            let mut socket = gateway.ws("").await.socket;
            for number in 0..20 {
                let publish = json!({"type": "publish", "topic": "a:1", "ref": number});
                socket.feed(publish.to_string().into()).await.expect("sent");
            }
            socket.close(None).await.expect("sent");
            while let Some(Ok(_)) = within("the end", socket.next()).await {}
            // And from one that does not wait for anything.
            let mut socket = gateway.ws("").await.socket;
            let publish = json!({"type": "publish", "topic": "a:1"});
            socket.send(publish.to_string().into()).await.expect("sent");
            drop(socket);
        }
        let counted = r#"tribus_events_published_total{way="ws"}"#;
        gateway
            .scrape_until("all 210 publishes", |scrape| scrape.value(counted) == 210.0)
            .await;
        let mut reader = gateway.ws("topics=a:1&cursor=earliest").await;
        for _ in 0..210 {
            reader.event().await;
        }
    }
}
