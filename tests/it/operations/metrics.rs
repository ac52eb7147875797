//! `GET /metrics`: each number moves when what it counts happens.

use serde_json::{Value, json};

use crate::support::{Claims, Credentials, Door, Raw, TestGateway, Ws, client_frame_head};

const TRANSPORTS: [&str; 3] = ["ws", "sse", "poll"];

/// Publishes far more than one mailbox and a kernel's buffers hold.
async fn flood(gateway: &TestGateway) {
    let event = json!({"topic": "a:1", "data": "x".repeat(8192)});
    let batch = json!(vec![event; 100]).to_string();
    for _ in 0..12 {
        assert_eq!(gateway.post(&batch).await.0, 200);
    }
}

#[tokio::test]
async fn numbers_come_as_openmetrics_and_name_no_subject_and_no_topic() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .ws_as(&Claims::all("mary-the-subject"), "topics=secret-topic:1")
        .await;
    gateway.publish("secret-topic:1", json!(1)).await;
    ws.event().await;
    let answer = gateway.http.get(gateway.admin_url("/metrics"));
    let answer = answer.send().await.unwrap();
    assert_eq!(
        answer.headers()["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let scrape = gateway.scrape().await;
    assert_eq!(
        scrape.value(r#"tribus_events_delivered_total{transport="ws"}"#),
        1.0
    );
    for name in ["mary-the-subject", "secret-topic"] {
        assert!(!scrape.text.contains(name), "{name}");
    }
}

#[tokio::test]
async fn connections_are_counted_by_transport_and_by_how_they_end() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let cursor = start["cursor"].as_str().unwrap().to_owned();
    let open = |kind: &str| format!(r#"tribus_connections{{transport="{kind}"}}"#);
    let mut ws = gateway.ws("topics=a:1").await;
    let mut sse = gateway.sse("topics=a:1").await;
    let query = format!("topics=a:1&wait=30&cursor={cursor}");
    let claims = Claims::all("alice");
    let (_, scrape) = tokio::join!(
        async {
            gateway
                .scrape_until("three connections", |scrape| {
                    TRANSPORTS
                        .iter()
                        .all(|kind| scrape.value(&open(kind)) == 1.0)
                        && scrape.value("tribus_places_taken") == 3.0
                })
                .await;
            gateway.publish("a:1", json!(1)).await;
        },
        gateway.poll_as(&claims, &query)
    );
    assert_eq!(scrape.0, 200);
    let _ = (ws.event().await, sse.next().await);
    drop(sse);
    gateway.revoke(json!({"sub": "alice"})).await;
    assert_eq!(ws.close_code().await, 4005);
    let scrape = gateway
        .scrape_until("no connections", |scrape| {
            TRANSPORTS
                .iter()
                .all(|kind| scrape.value(&open(kind)) == 0.0)
        })
        .await;
    let closed = |labels: &str| {
        let series = format!("tribus_connections_closed_total{{{labels}}}");
        scrape.value(&series)
    };
    assert_eq!(
        closed(r#"transport="ws",reason="revoked",code="4005""#),
        1.0
    );
    assert_eq!(closed(r#"transport="poll",reason="answered",code="""#), 2.0);
    let sse_left = closed(r#"transport="sse",reason="client_left",code="""#);
    let sse_revoked = closed(r#"transport="sse",reason="revoked",code="4005""#);
    assert_eq!(sse_left + sse_revoked, 1.0);
    let opened = |kind| {
        scrape.value(&format!(
            r#"tribus_connections_opened_total{{transport="{kind}"}}"#
        ))
    };
    assert_eq!(TRANSPORTS.map(opened), [1.0, 1.0, 2.0]);
}

#[tokio::test]
async fn a_client_that_leaves_or_breaks_the_rules_is_counted_as_such() {
    let gateway = TestGateway::start().await;
    drop(gateway.sse("topics=a:1").await);
    let mut raw = Raw::websocket(&gateway, "").await;
    raw.send(&client_frame_head(0x83, 0)).await;
    raw.send(&[0; 4]).await;
    raw.frames_to_close().await;
    let narrow = Claims::new("narrow").with("subscribe", json!(["b:1"]));
    for path in ["/events", "/poll"] {
        let answer = gateway.get(path, "topics=a:1", &narrow).await;
        assert_eq!(answer.status(), 403, "{path}");
    }
    for (transport, reason, code) in [
        ("sse", "refused", "1008"),
        ("poll", "refused", "1008"),
        ("sse", "client_left", ""),
        ("ws", "protocol_violation", "1002"),
    ] {
        let series = format!(
            "tribus_connections_closed_total{{transport=\"{transport}\",reason=\"{reason}\",\
             code=\"{code}\"}}"
        );
        gateway
            .scrape_until(reason, |scrape| scrape.value(&series) == 1.0)
            .await;
    }
}

#[tokio::test]
async fn events_bytes_and_latency_are_counted_by_transport() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let mut ws = gateway.ws("topics=a:1").await;
    ws.frame("live").await;
    let mut sse = gateway.sse("topics=a:1").await;
    sse.frame("live").await;
    gateway.publish("a:1", json!("over http")).await;
    let message = json!({"type": "publish", "topic": "a:1", "key": "k", "data": 1});
    for duplicate in [Value::Null, json!(true)] {
        ws.send(message.clone()).await;
        let published = loop {
            let frame = ws.next().await;
            if frame["type"] == "published" {
                break frame;
            }
        };
        assert_eq!(published["duplicate"], duplicate);
    }
    sse.next().await;
    sse.next().await;
    let cursor = start["cursor"].as_str().unwrap();
    let (_, page) = gateway.poll(&format!("topics=a:1&cursor={cursor}")).await;
    assert_eq!(page["events"].as_array().unwrap().len(), 2);
    let scrape = gateway
        .scrape_until("both events on the WebSocket", |scrape| {
            scrape.value(r#"tribus_events_delivered_total{transport="ws"}"#) == 2.0
        })
        .await;
    for (series, expected) in [
        (r#"tribus_events_published_total{way="http"}"#, 1.0),
        (r#"tribus_events_published_total{way="ws"}"#, 1.0),
        (r#"tribus_events_duplicate_total{way="ws"}"#, 1.0),
        (r#"tribus_events_duplicate_total{way="http"}"#, 0.0),
        (r#"tribus_events_delivered_total{transport="ws"}"#, 2.0),
        (r#"tribus_events_delivered_total{transport="sse"}"#, 2.0),
        (r#"tribus_events_delivered_total{transport="poll"}"#, 2.0),
        ("tribus_idempotency_keys", 1.0),
        ("tribus_head_sequence", 2.0),
        ("tribus_retained_events", 2.0),
    ] {
        assert_eq!(scrape.value(series), expected, "{series}");
    }
    let bytes = |name, kind| {
        scrape.value(&format!(
            r#"tribus_{name}_bytes_total{{transport="{kind}"}}"#
        ))
    };
    let message_bytes = message.to_string().len() as f64;
    assert_eq!(bytes("received", "ws"), 2.0 * message_bytes);
    let published = json!({"topic": "a:1", "data": "over http"}).to_string();
    assert_eq!(bytes("received", "http"), published.len() as f64);
    for kind in TRANSPORTS {
        assert!(bytes("sent", kind) > 100.0, "{kind}");
    }
    assert!(scrape.value("tribus_retained_bytes") > 100.0);
    let latency = |part, kind| {
        scrape.value(&format!(
            r#"tribus_publish_to_write_latency_seconds_{part}{{transport="{kind}"}}"#
        ))
    };
    for kind in ["ws", "sse"] {
        let (count, sum) = (latency("count", kind), latency("sum", kind));
        assert!((1.0..=2.0).contains(&count), "{kind}: {count}");
        assert!(sum > 0.0 && sum < 60.0, "{kind}: {sum}");
    }
    assert_eq!(
        latency("count", "poll"),
        0.0,
        "what is replayed is not timed"
    );
    let buckets: Vec<f64> = scrape
        .series("tribus_publish_to_write_latency_seconds_bucket{")
        .filter(|(series, _)| series.contains(r#"transport="ws""#))
        .map(|(_, value)| value)
        .collect();
    assert_eq!(buckets.len(), 18);
    assert!(buckets.contains(&latency("count", "ws")));
}

#[tokio::test]
async fn bodies_that_ask_for_streams_and_polls_are_counted_where_they_go() {
    let gateway = TestGateway::start().await;
    let body = json!({"topics": ["a:1"]}).to_string();
    for path in ["/events", "/poll"] {
        let request = gateway.http.post(gateway.url(path)).body(body.clone());
        let token = Claims::all("alice").token();
        let answer = request.bearer_auth(token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let scrape = gateway.scrape().await;
    for kind in ["sse", "poll"] {
        let series = format!(r#"tribus_received_bytes_total{{transport="{kind}"}}"#);
        assert_eq!(scrape.value(&series), body.len() as f64, "{kind}");
    }
}

#[tokio::test]
async fn a_live_delivery_to_a_waiting_poll_is_timed() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let query = format!(
        "topics=a:1&wait=30&cursor={}",
        start["cursor"].as_str().unwrap()
    );
    let publish = async {
        gateway
            .scrape_until("a waiting poll", |scrape| {
                scrape.value(r#"tribus_connections{transport="poll"}"#) == 1.0
            })
            .await;
        gateway.publish("a:1", json!(1)).await;
    };
    let (_, answer) = tokio::join!(publish, gateway.poll(&query));
    assert_eq!(answer.1["events"].as_array().unwrap().len(), 1);
    let scrape = gateway.scrape().await;
    let series = r#"tribus_publish_to_write_latency_seconds_count{transport="poll"}"#;
    assert_eq!(scrape.value(series), 1.0);
}

#[tokio::test]
async fn replays_and_resets_are_counted_with_their_reasons() {
    let gateway = TestGateway::with("retention.events = 2").await;
    let mut ids = Vec::new();
    for number in 0..4 {
        ids.push(gateway.publish("a:1", json!(number)).await);
    }
    drop(gateway.ws("topics=a:1").await);
    drop(gateway.ws(&format!("topics=a:1&cursor={}", ids[2])).await);
    drop(gateway.sse("topics=a:1&rewind=1").await);
    let mut expired = gateway.sse(&format!("topics=a:1&cursor={}", ids[0])).await;
    expired.frame("reset").await;
    let mut unknown = gateway.ws("topics=a:1&cursor=other-7").await;
    unknown.frame("reset").await;
    let (status, _) = gateway.poll(&format!("topics=a:1&cursor={}", ids[0])).await;
    assert_eq!(status, 410);
    let scrape = gateway.scrape().await;
    let replays = |kind| scrape.value(&format!(r#"tribus_replays_total{{transport="{kind}"}}"#));
    assert_eq!(TRANSPORTS.map(replays), [1.0, 2.0, 1.0]);
    let resets = |kind, reason| {
        scrape.value(&format!(
            r#"tribus_resets_total{{transport="{kind}",reason="{reason}"}}"#
        ))
    };
    assert_eq!(resets("sse", "expired"), 1.0);
    assert_eq!(resets("poll", "expired"), 1.0);
    assert_eq!(resets("ws", "unknown_log"), 1.0);
    assert_eq!(resets("ws", "lagged"), 0.0);
}

#[tokio::test]
async fn a_client_that_does_not_read_shows_as_behind_and_then_as_lagged() {
    let gateway = TestGateway::with("retention.events = 200").await;
    let claims = Claims::all("slow");
    let mut slow = gateway
        .narrow_ws(&claims, "topics=a:*", "tribus.json.v1")
        .await;
    slow.frame("live").await;
    flood(&gateway).await;
    let scrape = gateway
        .scrape_until("a connection behind", |scrape| {
            scrape.value(r#"tribus_connections_behind{transport="ws"}"#) == 1.0
        })
        .await;
    assert!(scrape.value(r#"tribus_connection_lag_events{transport="ws"}"#) > 200.0);
    assert_eq!(scrape.value("tribus_silent_workers"), 0.0);
    loop {
        if slow.next().await["type"] == "reset" {
            break;
        }
    }
    let scrape = gateway.scrape().await;
    let lagged = r#"tribus_resets_total{transport="ws",reason="lagged"}"#;
    assert_eq!(scrape.value(lagged), 1.0);
    let last = gateway.publish("a:2", json!("last")).await;
    while slow.event().await["id"] != json!(last) {}
    gateway
        .scrape_until("nobody behind", |scrape| {
            scrape.value(r#"tribus_connections_behind{transport="ws"}"#) == 0.0
                && scrape.value(r#"tribus_connection_lag_events{transport="ws"}"#) == 0.0
        })
        .await;
}

#[tokio::test]
async fn every_worker_tells_its_queue_and_catches_up() {
    let gateway = TestGateway::start().await;
    gateway.publish("a:1", json!(1)).await;
    gateway
        .scrape_until("two workers without a queue", |scrape| {
            let queues: Vec<f64> = scrape
                .series("tribus_worker_queue_events{")
                .map(|(_, events)| events)
                .collect();
            queues == [0.0, 0.0]
        })
        .await;
}

#[tokio::test]
async fn subscriptions_and_patterns_are_those_of_open_connections() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1,a:*,b:*").await;
    let sse = gateway.sse("topics=a:1").await;
    let counts = |subscriptions: f64, patterns: f64| {
        let gateway = &gateway;
        async move {
            gateway
                .scrape_until("subscriptions", |scrape| {
                    scrape.value("tribus_subscriptions") == subscriptions
                        && scrape.value("tribus_patterns") == patterns
                })
                .await
        }
    };
    counts(4.0, 2.0).await;
    ws.ask(json!({"type": "unsubscribe", "topics": ["b:*"]}))
        .await;
    counts(3.0, 1.0).await;
    drop(sse);
    counts(2.0, 1.0).await;
    drop(ws);
    counts(0.0, 0.0).await;
}

#[tokio::test]
async fn bad_credentials_are_counted_by_kind_and_error() {
    let gateway = TestGateway::start().await;
    let bad = Claims::all("mallory").signed_with("another-secret-of-more-than-32-bytes");
    let expired = Claims::all("alice").expiring_in(-60).token();
    for (credentials, code, kind) in [
        (Credentials::bearer(&bad), "unauthorized", "header"),
        (Credentials::bearer(&expired), "token_expired", "header"),
        (
            Credentials::parameter("token", &bad),
            "unauthorized",
            "query",
        ),
        (
            Credentials::parameter("ticket", &"x".repeat(32)),
            "unauthorized",
            "ticket",
        ),
        (Credentials::cookie(&bad), "unauthorized", "cookie"),
        (Credentials::none(), "unauthorized", "none"),
    ] {
        let series = format!("tribus_auth_failures_total{{code=\"{code}\",credential=\"{kind}\"}}");
        for door in [Door::Poll, Door::Ws] {
            let before = gateway.scrape().await.value(&series);
            gateway.knock(door, &credentials).await;
            let after = gateway.scrape().await.value(&series);
            assert_eq!(after - before, 1.0, "{series} at {door:?}");
        }
    }
    let series = r#"tribus_auth_failures_total{code="token_expired",credential="message"}"#;
    let mut first = Ws::connect(&gateway, "", None, None).await.unwrap();
    let auth = json!({"type": "auth", "token": expired});
    first.send(auth.clone()).await;
    assert_eq!(first.close_code().await, 4002);
    assert_eq!(gateway.scrape().await.value(series), 1.0);
    let mut refreshing = gateway.ws("").await;
    assert_eq!(refreshing.ask(auth).await["code"], "token_expired");
    assert_eq!(gateway.scrape().await.value(series), 2.0);
}

#[tokio::test]
async fn refusals_are_counted_by_endpoint_and_code_once_each() {
    let gateway = TestGateway::with("limits.connections = 3").await;
    let token = Claims::all("alice").token();
    let series =
        |endpoint, code| format!(r#"tribus_refusals_total{{endpoint="{endpoint}",code="{code}"}}"#);
    assert_eq!(gateway.poll("topics=a b").await.0, 400);
    assert_eq!(gateway.post("{}").await.0, 400);
    let get = async |path: &str| {
        let request = gateway.http.get(gateway.url(path)).bearer_auth(&token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((get("/nowhere").await, get("/ticket").await), (404, 405));
    let foreign = gateway.http.get(gateway.url("/poll"));
    let foreign = foreign.header("Origin", "https://evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), 403);
    let mut ws = gateway.ws("").await;
    assert_eq!(
        ws.ask(json!({"type": "nonsense"})).await["code"],
        "bad_request"
    );
    let url = Ws::connect(&gateway, "topics=a%20b", Some(&token), None);
    let mut url = url.await.unwrap();
    url.frame("error").await;
    url.frame("connected").await;
    let full = gateway.sse("topics=a:1").await;
    let bob = Claims::all("bob");
    let native = gateway.get("/events", "topics=a:1&native=1", &bob).await;
    assert_eq!(native.status(), 200);
    let scrape = gateway.scrape().await;
    for (endpoint, code, expected) in [
        ("poll", "bad_topic", 1.0),
        ("publish", "bad_request", 1.0),
        ("other", "not_found", 1.0),
        ("ticket", "method_not_allowed", 1.0),
        ("poll", "forbidden", 1.0),
        ("ws", "bad_request", 1.0),
        ("ws", "bad_topic", 1.0),
        ("events", "unavailable", 1.0),
    ] {
        assert_eq!(
            scrape.value(&series(endpoint, code)),
            expected,
            "{endpoint} {code}"
        );
    }
    let limit = |kind| scrape.value(&format!(r#"tribus_limit_hits_total{{limit="{kind}"}}"#));
    assert_eq!(limit("node_connections"), 1.0);
    assert_eq!(limit("size"), 0.0);
    drop(full);
}

#[tokio::test]
async fn limits_that_were_hit_are_counted_on_every_transport() {
    let gateway = TestGateway::with("limits.message_bytes = \"1KiB\"").await;
    let size = r#"tribus_limit_hits_total{limit="size"}"#;
    assert_eq!(gateway.scrape().await.value(size), 0.0);
    let request = gateway.http.post(gateway.url("/poll"));
    let request = request
        .bearer_auth(Claims::all("alice").token())
        .body("x".repeat(2048));
    assert_eq!(request.send().await.unwrap().status(), 413);
    assert_eq!(gateway.scrape().await.value(size), 1.0);
    assert!(
        gateway
            .scrape()
            .await
            .has(r#"tribus_limit_hits_total{limit="publish"}"#)
    );
}

#[tokio::test]
async fn tickets_and_revocations_are_those_in_force() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "once").await;
    gateway.revoke(json!({"sub": "bob"})).await;
    gateway.revoke(json!({"jti": "b1"})).await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("tribus_tickets_outstanding"), 1.0);
    assert_eq!(scrape.value("tribus_revocations_in_force"), 2.0);
    gateway
        .knock(Door::Poll, &Credentials::parameter("ticket", &ticket))
        .await;
    let scrape = gateway.scrape().await;
    assert_eq!(scrape.value("tribus_tickets_outstanding"), 0.0);
}

#[tokio::test]
async fn the_node_tells_what_it_is() {
    let gateway = TestGateway::start().await;
    let scrape = gateway.scrape().await;
    let version = env!("CARGO_PKG_VERSION");
    let build = format!(r#"tribus_build_info{{version="{version}"}}"#);
    assert_eq!(scrape.value(&build), 1.0);
    assert_eq!(scrape.value("tribus_ready"), 1.0);
    let now = crate::support::now() as f64;
    let started = scrape.value("tribus_process_start_time_seconds");
    assert!((now - 600.0..=now + 1.0).contains(&started), "{started}");
    let open = scrape.value("tribus_process_open_fds");
    assert!(open > 5.0 && open < scrape.value("tribus_process_max_fds"));
    assert!(scrape.value("tribus_process_resident_memory_bytes") > 1e6);
    let files = std::iter::repeat_with(|| std::fs::File::open("/dev/null").unwrap());
    let files: Vec<_> = files.take(500).collect();
    let scrape = gateway.scrape().await;
    assert!(scrape.value("tribus_process_open_fds") > 500.0);
    drop(files);
}

#[tokio::test]
async fn two_gateways_of_one_process_count_apart() {
    let (one, other) = (TestGateway::start().await, TestGateway::start().await);
    one.publish("a:1", json!(1)).await;
    let published = r#"tribus_events_published_total{way="http"}"#;
    assert_eq!(one.scrape().await.value(published), 1.0);
    assert_eq!(other.scrape().await.value(published), 0.0);
}

#[tokio::test]
async fn a_draining_node_can_still_be_scraped_and_is_not_ready() {
    let gateway = TestGateway::start().await;
    // Half a request keeps the server from stopping for a while.
    let mut open = Raw::connect(&gateway).await;
    open.request("POST /publish", "Content-Length: 10\r\n\r\n{")
        .await;
    gateway.ws("").await;
    let address = gateway.admin;
    let stopping = tokio::task::spawn_blocking(move || drop(gateway));
    let client = reqwest::Client::new();
    let unready = async {
        loop {
            let url = format!("http://{address}/metrics");
            let text = client.get(url).send().await.unwrap().text().await.unwrap();
            if text.contains("\ntribus_ready 0\n") {
                break;
            }
        }
    };
    crate::support::within("an unready node", unready).await;
    drop(open);
    stopping.await.unwrap();
}
