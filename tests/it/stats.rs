//! `GET /stats` (protocol, section 10): what the node counts, and who may see it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    self, Answer, Claims, Credentials, Door, TestGateway, answer_of, replay, within,
};

const TRANSPORTS: [&str; 3] = ["ws", "sse", "poll"];

/// Sees the numbers, and nothing else.
fn watcher() -> Claims {
    Claims::new("watcher").with("stats", json!(true))
}

async fn stats(gateway: &TestGateway) -> Value {
    let answer = gateway.get("/stats", "", &watcher()).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

/// Asks until the numbers are so.
async fn stats_once(gateway: &TestGateway, what: &str, are_so: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let stats = stats(gateway).await;
            if are_so(&stats) {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(what, wait).await
}

/// Whether a poll waits that has read what the log has for it.
async fn poll_is_live(gateway: &TestGateway) -> bool {
    let polls = gateway.admin_url("/admin/connections?transport=poll");
    let answer = gateway.http.get(polls).send().await.expect("an answer");
    let list: Value = answer.json().await.expect("JSON");
    list["connections"][0]["live"] == true
}

fn by_transport(ws: u64, sse: u64, poll: u64) -> Value {
    json!({"ws": ws, "sse": sse, "poll": poll})
}

fn sum(counts: &Value) -> u64 {
    let counts = counts.as_array().expect("a list").iter();
    counts.map(|count| count.as_u64().expect("a count")).sum()
}

fn timed(stats: &Value) -> [u64; 3] {
    TRANSPORTS.map(|transport| sum(&stats["latency"]["counts"][transport]))
}

fn milliseconds(stats: &Value, field: &str) -> i64 {
    let text = stats[field].as_str().expect("a time");
    let time: jiff::Timestamp = text.parse().expect("RFC 3339");
    assert_eq!(text, format!("{time:.3}"), "{field}");
    time.as_millisecond()
}

/// The example of the protocol's page.
fn example() -> Value {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md");
    let page = fs::read_to_string(page).expect("the page");
    let section = page.split("\n## 10. ").nth(1).expect("the section");
    let example = section.split("```json").nth(1).expect("an example");
    let example = example.split("```").next().expect("its end");
    serde_json::from_str(example).expect("JSON")
}

/// A value's form: numbers and strings stand for their like.
fn form(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), form(value)))
            .collect(),
        Value::Array(list) => list.iter().map(form).collect(),
        Value::Number(_) => json!(0),
        Value::String(_) => json!(""),
        other => other.clone(),
    }
}

#[tokio::test]
async fn the_answer_has_the_form_that_the_protocol_shows() {
    let gateway = TestGateway::with("node = \"a\"").await;
    let (stats, example) = (stats(&gateway).await, example());
    assert_eq!(form(&stats), form(&example));
    assert_eq!(stats["latency"]["bounds"], example["latency"]["bounds"]);
    let bounds = stats["latency"]["bounds"].as_array().expect("a list");
    let bounds: Vec<f64> = bounds.iter().filter_map(Value::as_f64).collect();
    assert!(bounds.is_sorted() && bounds[0] > 0.0, "{bounds:?}");
    for transport in TRANSPORTS {
        let counts = stats["latency"]["counts"][transport].as_array();
        assert_eq!(counts.expect("a list").len(), bounds.len() + 1);
    }
}

#[tokio::test]
async fn a_node_that_has_done_nothing_has_counted_nothing() {
    let before = jiff::Timestamp::now().as_millisecond();
    let gateway = TestGateway::start().await;
    let first = stats(&gateway).await;
    for counted in ["connections", "delivered", "resets"] {
        assert_eq!(first[counted], by_transport(0, 0, 0), "{counted}");
    }
    assert_eq!(first["published"], 0);
    assert_eq!(first["retained"], json!({"events": 0, "bytes": 0}));
    assert_eq!(timed(&first), [0; 3]);
    let (started, asked) = (
        milliseconds(&first, "startedAt"),
        milliseconds(&first, "timestamp"),
    );
    let now = jiff::Timestamp::now().as_millisecond();
    assert!(before <= started && started <= asked && asked <= now);
    let second = stats_once(&gateway, "another time", |stats| {
        stats["timestamp"] != first["timestamp"]
    });
    assert_eq!(second.await["startedAt"], first["startedAt"]);
}

#[tokio::test]
async fn the_numbers_move_as_events_are_published_and_delivered_on_each_transport() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let query = format!(
        "topics=a:1&wait=30&cursor={}",
        start["cursor"].as_str().unwrap()
    );
    let mut ws = gateway.ws("topics=a:1").await;
    let mut sse = gateway.sse("topics=a:1").await;
    ws.frame("live").await;
    sse.frame("live").await;
    let publish = async {
        let three = |stats: &Value| stats["connections"] == by_transport(1, 1, 1);
        stats_once(&gateway, "three connections", three).await;
        gateway.publish("a:1", json!(1)).await
    };
    let (id, (status, page)) = tokio::join!(publish, gateway.poll(&query));
    assert_eq!((status, &page["events"][0]["id"]), (200, &json!(id)));
    assert_eq!(ws.event().await["id"], id);
    assert_eq!(sse.event().await["id"], id);

    let one_each = stats_once(&gateway, "the poll to be over", |stats| {
        stats["connections"] == by_transport(1, 1, 0)
    })
    .await;
    assert_eq!(one_each["published"], 1);
    assert_eq!(one_each["delivered"], by_transport(1, 1, 1));
    assert_eq!(one_each["cursor"], id);
    assert_eq!(one_each["retained"]["events"], 1);
    assert!(one_each["retained"]["bytes"].as_u64() > Some(0));

    let batch = json!([{"topic": "a:1"}, {"topic": "b:1"}]).to_string();
    assert_eq!(gateway.post(&batch).await.0, 200);
    let keyed = json!({"type": "publish", "topic": "a:1", "key": "k"});
    for _ in 0..2 {
        ws.send(keyed.clone()).await;
    }
    for _ in 0..2 {
        ws.event().await;
        sse.event().await;
    }
    let (_, page) = gateway.poll("topics=**&cursor=earliest").await;
    assert_eq!(page["events"].as_array().unwrap().len(), 4);
    drop((ws, sse));
    let after = stats_once(&gateway, "no connections", |stats| {
        stats["connections"] == by_transport(0, 0, 0)
    })
    .await;
    assert_eq!(
        after["published"], 4,
        "what was there already is not counted"
    );
    assert_eq!(after["delivered"], by_transport(3, 3, 5));
    assert_eq!(after["retained"]["events"], 4);
    assert_eq!(after["cursor"], page["cursor"]);
    assert_eq!(after["resets"], by_transport(0, 0, 0));
}

#[tokio::test]
async fn clients_that_missed_events_are_counted_by_transport() {
    let gateway = TestGateway::start().await;
    let unknown = "topics=a:1&cursor=k3f9x2-1042";
    gateway.ws(unknown).await.frame("reset").await;
    for _ in 0..2 {
        gateway.sse(unknown).await.frame("reset").await;
    }
    for _ in 0..3 {
        assert_eq!(gateway.poll(unknown).await.0, 410);
    }
    assert_eq!(stats(&gateway).await["resets"], by_transport(1, 2, 3));
}

#[tokio::test]
async fn each_live_delivery_falls_into_one_bucket_of_its_transport_and_a_replay_into_none() {
    const DELIVERIES: u64 = 12;
    let gateway = TestGateway::start().await;
    let mut two_ws = [
        gateway.ws("topics=a:1").await,
        gateway.ws("topics=a:1").await,
    ];
    let mut sse = gateway.sse("topics=a:1").await;
    for ws in &mut two_ws {
        ws.frame("live").await;
    }
    sse.frame("live").await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let mut cursor = start["cursor"].clone();
    let since = Instant::now();
    for number in 0..DELIVERIES {
        let query = format!("topics=a:1&wait=30&cursor={}", cursor.as_str().unwrap());
        let publish = async {
            within("a waiting poll", async {
                while !poll_is_live(&gateway).await {}
            })
            .await;
            gateway.publish("a:1", json!(number)).await;
        };
        let ((), (_, page)) = tokio::join!(publish, gateway.poll(&query));
        assert_eq!(page["events"][0]["data"], number);
        cursor = page["cursor"].clone();
        // One by one, since those that are written at once are timed as one.
        for ws in &mut two_ws {
            assert_eq!(ws.event().await["data"], number);
        }
        assert_eq!(sse.event().await["data"], number);
        let so_far = stats_once(&gateway, "the poll to be over", |stats| {
            stats["connections"]["poll"] == 0
        });
        let count = number + 1;
        assert_eq!(timed(&so_far.await), [2 * count, count, count]);
    }
    let took = since.elapsed().as_secs_f64();
    let live = stats(&gateway).await;
    assert_eq!(
        live["delivered"],
        by_transport(2 * DELIVERIES, DELIVERIES, DELIVERIES)
    );
    // None was on its way for longer than all of them took.
    let bounds = live["latency"]["bounds"].as_array().unwrap();
    let possible = bounds.iter().filter_map(Value::as_f64);
    let possible = possible.take_while(|bound| *bound < took).count() + 1;
    for transport in TRANSPORTS {
        let counts = live["latency"]["counts"][transport].as_array().unwrap();
        let beyond = counts.iter().skip(possible);
        assert!(beyond.into_iter().all(|count| *count == 0), "{counts:?}");
    }

    for transport in support::TRANSPORTS {
        let events = replay(&gateway, transport, "topics=a:1&cursor=earliest").await;
        assert_eq!(events.len() as u64, DELIVERIES, "{transport:?}");
    }
    let replayed = stats(&gateway).await;
    assert_eq!(
        replayed["delivered"],
        by_transport(3 * DELIVERIES, 2 * DELIVERIES, 2 * DELIVERIES)
    );
    assert_eq!(replayed["latency"], live["latency"]);
}

#[tokio::test]
async fn whoever_may_not_see_the_numbers_is_told_which_claim_is_missing() {
    let gateway = TestGateway::start().await;
    let everything_else = Claims::all("alice").with("stats", json!(false));
    let mut nothing_said = Claims::all("alice");
    nothing_said.0.remove("stats");
    for claims in [everything_else, nothing_said] {
        let ticket = gateway.ticket(&claims, "once").await;
        for credentials in [
            Credentials::bearer(&claims.token()),
            Credentials::parameter("token", &claims.token()),
            Credentials::parameter("ticket", &ticket),
            Credentials::cookie(&claims.token()),
        ] {
            let answer = Door::Stats.request(&gateway, &credentials).send().await;
            let answer = answer.expect("an answer");
            assert_eq!(answer.status(), 403, "{credentials:?}");
            assert_eq!(answer.headers()["cache-control"], "no-store");
            let error: Value = answer.json().await.expect("JSON");
            assert_eq!(error["code"], "forbidden");
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains(r#""stats": true"#), "{message}");
        }
    }
    let answer = Door::Stats.request(&gateway, &Credentials::none()).send();
    let answer = answer.await.expect("an answer");
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    assert_eq!(answer_of(answer).await, Door::Stats.no_credential());
    let scrape = gateway.scrape().await;
    let forbidden = r#"tribus_refusals_total{endpoint="stats",code="forbidden"}"#;
    assert_eq!(scrape.value(forbidden), 8.0);
}

#[tokio::test]
async fn a_token_for_the_numbers_sees_the_whole_node_whatever_its_tenant_and_opens_nothing_else() {
    let gateway = TestGateway::start().await;
    let of_acme = Claims::all("backend").with("tenant", json!("acme"));
    let body = json!({"topic": "a:1"}).to_string();
    assert_eq!(gateway.post_as(&of_acme, &body).await.0, 200);
    gateway.publish("a:1", json!(1)).await;
    for claims in [watcher(), watcher().with("tenant", json!("globex"))] {
        let answer = gateway.get("/stats", "_=1", &claims).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["content-type"], "application/json");
        let stats: Value = answer.json().await.expect("JSON");
        assert_eq!(stats["published"], 2);
        let bearer = Credentials::bearer(&claims.token());
        for door in [Door::Events, Door::Poll, Door::Publish] {
            let answer = gateway.knock(door, &bearer).await;
            assert_eq!(answer, Answer::refused(403, "forbidden"), "{door:?}");
        }
    }
}

#[tokio::test]
async fn other_methods_are_told_what_the_endpoint_takes() {
    let gateway = TestGateway::start().await;
    let token = watcher().token();
    for method in ["HEAD", "POST", "PUT"] {
        let method: reqwest::Method = method.parse().expect("a method");
        let request = gateway.http.request(method.clone(), gateway.url("/stats"));
        let answer = request.bearer_auth(&token).send().await.expect("an answer");
        assert_eq!(answer.status(), 405, "{method}");
        assert_eq!(answer.headers()["allow"], "GET", "{method}");
    }
}
