//! `GET /admin/topics`.

use serde_json::{Value, json};

use crate::support::{Claims, TestGateway};

/// Subscribers by topic, as (tenant, topic, subscribers, retained).
fn rows(list: &Value) -> Vec<(Value, String, u64, Option<u64>)> {
    let topics = list["topics"].as_array().expect("a list");
    let row = |entry: &Value| {
        (
            entry["tenant"].clone(),
            entry["topic"].as_str().expect("a topic").to_owned(),
            entry["subscribers"].as_u64().expect("a count"),
            entry["retained"].as_u64(),
        )
    };
    topics.iter().map(row).collect()
}

fn row(
    tenant: Option<&str>,
    topic: &str,
    subscribers: u64,
    retained: Option<u64>,
) -> (Value, String, u64, Option<u64>) {
    (json!(tenant), topic.to_owned(), subscribers, retained)
}

#[tokio::test]
async fn topics_and_filters_are_listed_with_subscribers_and_retained_events() {
    let gateway = TestGateway::start().await;
    let acme = Claims::all("alice").with("tenant", json!("acme"));
    // Enough for both workers to have some.
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(gateway.ws("topics=a:1,a:*").await);
    }
    open.push(gateway.ws_as(&acme, "topics=a:1").await);
    let sse = gateway.sse("topics=a:1,c:1").await;
    for topic in ["a:1", "a:1", "b:1"] {
        gateway.publish(topic, json!(1)).await;
    }
    let none = None;
    assert_eq!(
        rows(&gateway.list("/admin/topics").await),
        [
            row(none, "a:*", 3, None),
            row(none, "a:1", 4, Some(2)),
            row(none, "b:1", 0, Some(1)),
            row(none, "c:1", 1, Some(0)),
            row(Some("acme"), "a:1", 1, Some(0)),
        ]
    );
    for (query, expected) in [
        ("prefix=a:1&tenant=", vec![row(none, "a:1", 4, Some(2))]),
        ("tenant=acme", vec![row(Some("acme"), "a:1", 1, Some(0))]),
        ("prefix=b", vec![row(none, "b:1", 0, Some(1))]),
        ("prefix=zzz", vec![]),
    ] {
        let list = gateway.list(&format!("/admin/topics?{query}")).await;
        assert_eq!(rows(&list), expected, "{query}");
    }
    drop(sse);
    drop(open);
    gateway
        .scrape_until("no subscriptions", |scrape| {
            scrape.value("tribus_subscriptions") == 0.0
        })
        .await;
    let list = gateway.list("/admin/topics").await;
    assert_eq!(
        rows(&list),
        [row(none, "a:1", 0, Some(2)), row(none, "b:1", 0, Some(1))]
    );
}

#[tokio::test]
async fn a_filter_that_is_subscribed_again_counts_once() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=a:1").await;
    let again = json!({"type": "subscribe", "topics": ["a:1"], "rewind": 1, "ref": 7});
    ws.send(again).await;
    while ws.frame("live").await["ref"] != 7 {}
    let list = gateway.list("/admin/topics").await;
    assert_eq!(rows(&list), [row(None, "a:1", 1, Some(0))]);
}

#[tokio::test]
async fn pages_hold_every_topic_of_every_tenant_once_with_whole_counts() {
    let gateway = TestGateway::start().await;
    let tenants = [None, Some("acme & sons"), Some("zeta")];
    let mut open = Vec::new();
    for tenant in tenants {
        let claims = match tenant {
            Some(tenant) => Claims::all("alice").with("tenant", json!(tenant)),
            None => Claims::all("alice"),
        };
        for topics in ["t:1,t:3,t:*", "t:2,t:3", "t:3,t:4,t:5"] {
            open.push(gateway.ws_as(&claims, &format!("topics={topics}")).await);
        }
        for topic in ["r:1", "r:2", "t:5"] {
            let body = json!({"topic": topic}).to_string();
            assert_eq!(gateway.post_as(&claims, &body).await.0, 200);
        }
    }
    let mut expected = Vec::new();
    for tenant in tenants {
        expected.extend([
            row(tenant, "r:1", 0, Some(1)),
            row(tenant, "r:2", 0, Some(1)),
            row(tenant, "t:*", 1, None),
            row(tenant, "t:1", 1, Some(0)),
            row(tenant, "t:2", 1, Some(0)),
            row(tenant, "t:3", 3, Some(0)),
            row(tenant, "t:4", 1, Some(0)),
            row(tenant, "t:5", 1, Some(1)),
        ]);
    }
    for limit in [1, 2, 3, 5, 24, 100] {
        let mut listed = Vec::new();
        let mut after = String::new();
        loop {
            let place = form_urlencoded(&after);
            let list = gateway
                .list(&format!("/admin/topics?limit={limit}{place}"))
                .await;
            let page = rows(&list);
            assert!(page.len() <= limit, "{limit}");
            listed.extend(page);
            match list["next"].as_str() {
                Some(next) => after = next.to_owned(),
                None => break,
            }
        }
        assert_eq!(listed, expected, "limit {limit}");
    }
}

fn form_urlencoded(after: &str) -> String {
    if after.is_empty() {
        return String::new();
    }
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("after", after);
    format!("&{}", query.finish())
}

#[tokio::test]
async fn a_parameter_that_is_unknown_or_wrong_is_named() {
    let gateway = TestGateway::start().await;
    for (query, named) in [("topic=a", "topic"), ("limit=0", "limit")] {
        let (status, error) = gateway.admin(&format!("/admin/topics?{query}")).await;
        assert_eq!(status, 400, "{query}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(named), "{query}: {message}");
    }
}
