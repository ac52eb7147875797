//! `/poll`: long-poll (protocol, section 6).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Claims, Raw, TestGateway, within};

#[tokio::test]
async fn without_a_cursor_a_poll_answers_at_once_with_the_position_and_no_events() {
    let gateway = TestGateway::start().await;
    let head = gateway.publish("a:1", Value::Null).await;
    let since = Instant::now();
    for query in ["topics=a:1", "topics=a:1&wait=55", "topics=quiet:*"] {
        assert_eq!(
            gateway.poll(query).await,
            (200, json!({"cursor": head, "events": []}))
        );
    }
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_poll_with_rewind_answers_at_once() {
    let gateway = TestGateway::start().await;
    for n in 0..3 {
        gateway.publish("a:1", json!(n)).await;
    }
    let head = gateway.publish("other:1", Value::Null).await;
    let (status, page) = gateway.poll("topics=a:1&rewind=2&wait=55").await;
    assert_eq!((status, data(&page)), (200, vec![1, 2]));
    assert_eq!(page["cursor"], json!(head));
    let (status, page) = gateway.poll("topics=quiet:1&rewind=2&wait=55").await;
    assert_eq!((status, page), (200, json!({"cursor": head, "events": []})));
}

fn data(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().expect("events");
    events
        .iter()
        .map(|event| event["data"].as_u64().expect("a number"))
        .collect()
}

#[tokio::test]
async fn answers_are_never_cached() {
    let gateway = TestGateway::with("retention.events = 1").await;
    let old = gateway.publish("a:1", Value::Null).await;
    gateway.publish("a:1", Value::Null).await;
    gateway.publish("a:1", Value::Null).await;
    for (query, status) in [
        ("topics=a:1".to_owned(), 200),
        ("topics=a:1&cursor=earliest".to_owned(), 200),
        (format!("topics=a:1&cursor={old}"), 410),
        ("topics=a:1&cursor=x".to_owned(), 400),
    ] {
        let response = gateway.get("/poll", &query, &Claims::all("alice")).await;
        assert_eq!(response.status(), status, "{query}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{query}");
        assert_eq!(
            response.headers()["content-type"],
            "application/json",
            "{query}"
        );
    }
}

#[tokio::test]
async fn a_waiting_poll_is_answered_as_soon_as_an_event_comes() {
    let gateway = TestGateway::start().await;
    let cursor = gateway.publish("other:1", Value::Null).await;
    let query = format!("topics=a:1&cursor={cursor}&wait=55");
    let since = Instant::now();
    let waiting = gateway.poll(&query);
    let publishing = async {
        settle(&gateway).await;
        gateway.publish("other:1", Value::Null).await;
        gateway.publish("a:1", json!(7)).await
    };
    let ((status, page), id) = tokio::join!(waiting, publishing);
    assert_eq!((status, data(&page)), (200, vec![7]));
    assert_eq!(page["cursor"], json!(id));
    assert!(since.elapsed() < Duration::from_secs(10));
}

/// Gives both workers time to take what was sent to them before: each answers requests that came
/// after it.
async fn settle(gateway: &TestGateway) {
    for _ in 0..6 {
        let mut raw = Raw::connect(gateway).await;
        raw.request("GET /poll", "\r\n").await;
        assert_eq!(raw.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_poll_that_waited_in_vain_is_answered_empty_with_the_current_position() {
    let gateway = TestGateway::start().await;
    let cursor = gateway.publish("other:1", json!(0)).await;
    let head = gateway.publish("other:1", json!(1)).await;
    for (wait, least) in [(0, 0), (1, 950)] {
        let since = Instant::now();
        let answer = gateway
            .poll(&format!("topics=a:1&cursor={cursor}&wait={wait}"))
            .await;
        assert_eq!(answer, (200, json!({"cursor": head, "events": []})));
        assert!(
            since.elapsed() >= Duration::from_millis(least),
            "{:?}",
            since.elapsed()
        );
    }
}

#[tokio::test]
async fn wait_and_max_have_bounds() {
    let gateway = TestGateway::start().await;
    gateway.publish("a:1", Value::Null).await;
    for (parameters, status) in [
        ("wait=0", 200),
        ("wait=55", 200),
        ("max=1", 200),
        ("max=1000", 200),
        ("wait=56", 400),
        ("wait=-1", 400),
        ("wait=1.5", 400),
        ("wait=", 400),
        ("max=0", 400),
        ("max=1001", 400),
        ("max=all", 400),
    ] {
        let (got, answer) = gateway
            .poll(&format!("topics=a:1&cursor=earliest&{parameters}"))
            .await;
        assert_eq!(got, status, "{parameters}: {answer}");
        if status == 400 {
            assert_eq!(answer["code"], "bad_request", "{parameters}");
            let (name, _) = parameters.split_once('=').unwrap();
            assert!(
                answer["message"].as_str().unwrap().contains(name),
                "{answer}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_has_at_most_100_events_unless_max_says_otherwise() {
    let gateway = TestGateway::start().await;
    let batch: Vec<Value> = (0..1200)
        .map(|n| json!({"topic": "a:1", "data": n}))
        .collect();
    assert_eq!(gateway.post(&Value::from(batch).to_string()).await.0, 200);
    for (parameters, count) in [("", 100), ("&max=7", 7), ("&max=1000", 1000)] {
        let (_, page) = gateway
            .poll(&format!("topics=a:1&cursor=earliest{parameters}"))
            .await;
        assert_eq!(
            data(&page),
            (0..count).collect::<Vec<u64>>(),
            "{parameters}"
        );
        assert_eq!(page["cursor"], page["events"][count as usize - 1]["id"]);
    }
}

#[tokio::test]
async fn pages_that_max_or_the_size_limit_cut_join_without_a_seam() {
    let gateway = TestGateway::start().await;
    for chunk in 0..4 {
        let batch: Vec<Value> = (0..15)
            .map(|n| json!({"topic": format!("a:{}", n % 3), "event": chunk.to_string(), "data": "x".repeat(50_000)}))
            .collect();
        assert_eq!(gateway.post(&Value::from(batch).to_string()).await.0, 200);
    }
    for (max, least_pages) in [(1000, 3), (7, 9)] {
        let mut cursor = "earliest".to_owned();
        let mut ids = Vec::new();
        let mut pages = 0;
        loop {
            let query = format!("topics=a:*&cursor={cursor}&max={max}&wait=0");
            let (status, page) = gateway.poll(&query).await;
            assert_eq!(status, 200);
            cursor = page["cursor"].as_str().unwrap().to_owned();
            let events = page["events"].as_array().unwrap();
            let Some(last) = events.last() else { break };
            assert_eq!(last["id"], page["cursor"]);
            assert!(events.len() <= max);
            assert!(
                page.to_string().len() <= 1_200_000,
                "a page has a size limit"
            );
            ids.extend(events.iter().map(|event| event["id"].to_string()));
            pages += 1;
        }
        assert!(pages >= least_pages, "{pages} pages of at most {max}");
        assert_eq!(ids.len(), 60);
        ids.dedup();
        assert_eq!(ids.len(), 60);
    }
}

#[tokio::test]
async fn asking_again_with_an_old_cursor_gives_the_same_events_again() {
    let gateway = TestGateway::start().await;
    let first = gateway.publish("a:1", json!(0)).await;
    for n in 1..4 {
        gateway.publish("a:1", json!(n)).await;
    }
    let query = format!("topics=a:1&cursor={first}");
    let page = gateway.poll(&query).await;
    assert_eq!(data(&page.1), [1, 2, 3]);
    assert_eq!(gateway.poll(&query).await, page);
    gateway.publish("a:1", json!(4)).await;
    assert_eq!(data(&gateway.poll(&query).await.1), [1, 2, 3, 4]);
}

#[tokio::test]
async fn following_the_answers_cursors_gives_every_event_once() {
    let gateway = TestGateway::start().await;
    let (_, mut page) = gateway.poll("topics=a:*").await;
    let publishing = async {
        for n in 0..100 {
            gateway.publish(&format!("a:{}", n % 3), json!(n)).await;
        }
    };
    let following = async {
        let mut received = Vec::new();
        while received.len() < 100 {
            let query = format!(
                "topics=a:*&cursor={}&max=5",
                page["cursor"].as_str().unwrap()
            );
            page = gateway.poll(&query).await.1;
            received.extend(data(&page));
        }
        received
    };
    let ((), received) = tokio::join!(publishing, following);
    assert_eq!(received, (0..100).collect::<Vec<u64>>());
}

#[tokio::test]
async fn the_post_form_takes_all_parameters_in_its_body() {
    let gateway = TestGateway::start().await;
    for n in 0..5 {
        gateway.publish("a:1", json!(n)).await;
    }
    for (path, body, expected) in [
        (
            "/poll",
            json!({"topics": ["a:1"], "cursor": "earliest", "max": 2}),
            vec![0, 1],
        ),
        (
            "/poll?max=2",
            json!({"topics": ["a:1"], "cursor": "earliest"}),
            vec![0, 1],
        ),
        (
            "/poll",
            json!({"subscriptions": [{"topic": "a:*"}], "rewind": 3, "wait": 55}),
            vec![2, 3, 4],
        ),
        (
            "/poll",
            json!({"topics": ["b:1"], "cursor": "earliest", "wait": 0}),
            vec![],
        ),
        ("/poll", json!({"topic": "a:1", "wait": 55}), vec![]),
    ] {
        let (status, page) = post(&gateway, path, &body).await;
        assert_eq!((status, data(&page)), (200, expected), "{body}");
    }
    for body in [
        json!({"topics": ["a:1"], "wait": 56}),
        json!({"topics": ["a:1"], "wait": "1"}),
        json!({"topics": ["a:1"], "max": 0}),
    ] {
        let (status, answer) = post(&gateway, "/poll", &body).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{body}"
        );
    }
}

async fn post(gateway: &TestGateway, path: &str, body: &Value) -> (u16, Value) {
    let request = gateway.http.post(gateway.url(path)).json(body);
    let sent = request.bearer_auth(Claims::all("alice").token()).send();
    let response = within("an answer", sent).await.expect("an answer");
    (
        response.status().as_u16(),
        response.json().await.expect("JSON"),
    )
}

#[tokio::test]
async fn draining_answers_waiting_polls_with_reconnect_after_ms() {
    let gateway = TestGateway::start().await;
    let cursor = gateway.publish("a:1", Value::Null).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(&gateway).await;
        raw.request(
            &format!("GET /poll?topics=a:1&cursor={cursor}&wait=55"),
            "\r\n",
        )
        .await;
        waiting.push(raw);
    }
    settle(&gateway).await;
    gateway.stop().await;
    for raw in &mut waiting {
        let response = raw.response().await;
        assert_eq!(response.status, 200, "{response:?}");
        assert!(
            response.headers.contains("cache-control: no-store"),
            "{response:?}"
        );
        let mut page: Value = serde_json::from_str(&response.body).unwrap();
        let wait = page["reconnectAfterMs"]
            .take()
            .as_u64()
            .expect("when to come back");
        assert!(wait <= 2000, "within the grace: {wait}");
        assert_eq!(
            page,
            json!({"cursor": cursor, "events": [], "reconnectAfterMs": null})
        );
    }
}
