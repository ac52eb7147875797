//! Tenants (protocol, section 1): every topic that a token names is one of its tenant.

use serde_json::{Value, json};

use crate::support::{Claims, TestGateway};

fn of(tenant: Option<&str>, subject: &str) -> Claims {
    let claims = Claims::all(subject);
    match tenant {
        Some(tenant) => claims.with("tenant", json!(tenant)),
        None => claims,
    }
}

/// Names and topics that a joined string would mix up: `acme` + `a:b` and `acme:a` + `b`.
const TENANTS: [Option<&str>; 6] = [
    None,
    Some("acme"),
    Some("acme:order"),
    Some("Acme"),
    Some("*"),
    Some("none"),
];

async fn publish(gateway: &TestGateway, tenant: Option<&str>, topic: &str, data: Value) -> String {
    let body = json!({"topic": topic, "data": data}).to_string();
    let (status, answer) = gateway.post_as(&of(tenant, "backend"), &body).await;
    assert_eq!(status, 200, "{answer}");
    answer["id"].as_str().expect("an id").to_owned()
}

/// The data of all events of a poll.
async fn polled(gateway: &TestGateway, tenant: Option<&str>, query: &str) -> Vec<Value> {
    let (status, page) = gateway.poll_as(&of(tenant, "alice"), query).await;
    assert_eq!(status, 200, "{page}");
    let events = page["events"].as_array().expect("events");
    events.iter().map(|event| event["data"].clone()).collect()
}

#[tokio::test]
async fn live_events_stay_within_their_tenant_on_every_transport() {
    let gateway = TestGateway::start().await;
    let mut clients = Vec::new();
    for tenant in TENANTS {
        let claims = of(tenant, "alice");
        let mut ws = gateway.ws_as(&claims, "topics=order:1,1,**").await;
        ws.frame("live").await;
        clients.push((
            tenant,
            ws,
            gateway.sse_as(&claims, "topics=order:1,1").await,
        ));
    }
    for tenant in TENANTS {
        for topic in ["order:1", "1"] {
            publish(&gateway, tenant, topic, json!([tenant, topic])).await;
        }
    }
    for (tenant, ws, sse) in &mut clients {
        for topic in ["order:1", "1"] {
            for event in [ws.event().await, sse.event().await] {
                assert_eq!(
                    event["data"],
                    json!([tenant, topic]),
                    "what {tenant:?} sees"
                );
                assert_eq!(event["topic"], topic);
            }
        }
        assert_eq!(
            ws.ask(json!({"type": "ping"})).await["type"],
            "pong",
            "and no more"
        );
    }
}

#[tokio::test]
async fn history_stays_within_its_tenant() {
    let gateway = TestGateway::start().await;
    let (_, start) = gateway.poll("topics=x").await;
    let cursor = start["cursor"].as_str().unwrap();
    for tenant in TENANTS {
        publish(&gateway, tenant, "order:1", json!(tenant)).await;
    }
    for tenant in TENANTS {
        for query in [
            "topics=order:1&cursor=earliest".to_owned(),
            "topics=**&cursor=earliest".to_owned(),
            "topics=order:1&rewind=100".to_owned(),
            "topics=order:*&rewind=100".to_owned(),
            format!("topics=**&cursor={cursor}"),
        ] {
            let seen = polled(&gateway, tenant, &query).await;
            assert_eq!(seen, [json!(tenant)], "{tenant:?} with {query}");
            let mut ws = gateway.ws_as(&of(tenant, "alice"), &query).await;
            assert_eq!(
                ws.event().await["data"],
                json!(tenant),
                "{tenant:?} with {query}"
            );
            ws.frame("live").await;
        }
    }
}

#[tokio::test]
async fn a_cursor_of_another_tenants_event_shows_nothing_of_it() {
    let gateway = TestGateway::start().await;
    let theirs = publish(&gateway, Some("acme"), "order:1", json!("theirs")).await;
    publish(&gateway, Some("acme"), "order:1", json!("theirs too")).await;
    publish(&gateway, Some("other"), "order:1", json!("ours")).await;
    let query = format!("topics=**&cursor={theirs}");
    assert_eq!(
        polled(&gateway, Some("other"), &query).await,
        [json!("ours")]
    );
}

#[tokio::test]
async fn idempotency_keys_are_of_a_tenant_and_a_subject() {
    let gateway = TestGateway::start().await;
    let mut ids = Vec::new();
    for tenant in TENANTS {
        for subject in ["backend", "other"] {
            let post = async || {
                let request = gateway.http.post(gateway.url("/publish"));
                let request = request.bearer_auth(of(tenant, subject).token());
                let body = json!({"topic": "order:1", "data": [tenant, subject]}).to_string();
                let answer = request
                    .header("Idempotency-Key", "k")
                    .body(body)
                    .send()
                    .await;
                answer.unwrap().json::<Value>().await.unwrap()
            };
            let (first, second) = (post().await, post().await);
            assert_eq!(
                first["duplicate"],
                Value::Null,
                "{tenant:?} {subject}: {first}"
            );
            assert_eq!(second["duplicate"], true, "{tenant:?} {subject}: {second}");
            assert_eq!(first["id"], second["id"]);
            assert!(
                !ids.contains(&first["id"]),
                "{tenant:?} {subject}: an id of somebody else"
            );
            ids.push(first["id"].clone());
        }
    }
}

#[tokio::test]
async fn publishing_over_a_websocket_stays_within_the_tenant_too() {
    let gateway = TestGateway::start().await;
    let mut acme = gateway
        .ws_as(&of(Some("acme"), "alice"), "topics=order:1")
        .await;
    let mut other = gateway
        .ws_as(&of(Some("other"), "bob"), "topics=order:1")
        .await;
    acme.frame("live").await;
    other.frame("live").await;
    acme.send(json!({"type": "publish", "topic": "order:1", "data": "by alice"}))
        .await;
    assert_eq!(acme.event().await["data"], "by alice");
    publish(&gateway, Some("other"), "order:1", json!("for bob")).await;
    assert_eq!(other.event().await["data"], "for bob");
}

#[tokio::test]
async fn an_event_does_not_tell_its_tenant() {
    let gateway = TestGateway::start().await;
    publish(&gateway, Some("acme-secret-name"), "order:1", json!(1)).await;
    let claims = of(Some("acme-secret-name"), "alice");
    let (_, page) = gateway.poll_as(&claims, "topics=**&cursor=earliest").await;
    assert_eq!(page["events"].as_array().map(Vec::len), Some(1));
    assert!(!page.to_string().contains("acme-secret-name"), "{page}");
}
