//! What a token grants is what it covers.

use serde_json::{Value, json};

use crate::support::{Claims, TestGateway, Ws};

fn may_subscribe(grants: &[&str]) -> Claims {
    Claims::new("alice").with("subscribe", json!(grants))
}

fn names(error: &Value, topic: &str) -> bool {
    error["message"]
        .as_str()
        .is_some_and(|message| message.contains(topic))
}

/// Asks for a filter in the URL of all transports, and in a `subscribe`.
async fn assert_subscribable(gateway: &TestGateway, claims: &Claims, filter: &str, granted: bool) {
    let case = format!("{filter} with {:?}", claims.0.get("subscribe"));
    let query = format!("topics={filter}");
    let poll = gateway.get("/poll", &query, claims).await;
    let events = gateway.get("/events", &query, claims).await;
    let mut ws = gateway.ws_as(claims, "").await;
    let reply = ws
        .ask(json!({"type": "subscribe", "topics": [filter], "ref": 1}))
        .await;
    if granted {
        assert_eq!(poll.status(), 200, "{case}");
        assert_eq!(events.status(), 200, "{case}");
        assert_eq!(reply["type"], "subscribed", "{case}: {reply}");
        return;
    }
    for response in [poll, events] {
        assert_eq!(response.status(), 403, "{case}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["code"], "forbidden", "{case}");
        assert!(names(&error, filter), "{case}: {error}");
    }
    assert_eq!(reply["code"], "forbidden", "{case}: {reply}");
    assert_eq!(reply["ref"], 1, "{case}");
    assert!(names(&reply, filter), "{case}: {reply}");
}

#[tokio::test]
async fn a_filter_is_granted_where_the_grants_cover_all_that_it_matches() {
    let gateway = TestGateway::start().await;
    for (grants, filter, granted) in [
        (&["order:1"][..], "order:1", true),
        (&["order:1"], "order:*", false),
        (&["order:1"], "order:2", false),
        (&["order:*"], "order:1", true),
        (&["order:*"], "order:*", true),
        (&["order:*"], "order:1*", true),
        (&["order:*"], "order:**", false),
        (&["order:*"], "order:1:items", false),
        (&["order:*"], "orders:1", false),
        (&["order:**"], "order:*", true),
        (&["order:**"], "order:*:items", true),
        (&["order:**"], "**", false),
        (&["**"], "**", true),
        (&["*"], "order", true),
        (&["*"], "order:1", false),
        (&["a:*", "b:*"], "b:*", true),
        (&["a:*", "b:*"], "*:*", false),
        (&["a:*", "**"], "b:**", true),
        (&[], "order:1", false),
    ] {
        assert_subscribable(&gateway, &may_subscribe(grants), filter, granted).await;
    }
}

#[tokio::test]
async fn grants_that_cover_a_filter_only_together_grant_it() {
    let gateway = TestGateway::start().await;
    for (grants, filter, granted) in [
        // Empty runs count: the second grant is what a single character and more leaves out.
        (&["a:**", "b:**", "*"][..], "a:**", true),
        (&["x*", "*x", "*"], "x*x", true),
        (&["order:**", "order"], "order:**", true),
        (&["order:1", "order:2"], "order:*", false),
    ] {
        assert_subscribable(&gateway, &may_subscribe(grants), filter, granted).await;
    }
}

#[tokio::test]
async fn one_filter_too_many_refuses_them_all() {
    let gateway = TestGateway::start().await;
    let claims = may_subscribe(&["order:*"]);
    let mut ws = gateway.ws_as(&claims, "").await;
    let both = json!({"type": "subscribe", "topics": ["order:1", "invoice:1"]});
    let error = ws.ask(both).await;
    assert_eq!(error["code"], "forbidden");
    assert!(
        names(&error, "invoice:1") && !names(&error, "order:1"),
        "{error}"
    );
    gateway.publish("order:1", json!(1)).await;
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
    let subscribed = ws
        .ask(json!({"type": "subscribe", "topic": "order:1"}))
        .await;
    assert_eq!(
        subscribed["type"], "subscribed",
        "no event before it: {subscribed}"
    );
}

#[tokio::test]
async fn a_topic_outside_the_grants_in_the_url_of_a_websocket_is_told_in_a_frame() {
    let gateway = TestGateway::start().await;
    let claims = may_subscribe(&["order:*"]);
    let token = claims.token();
    let mut ws = Ws::connect(&gateway, "topics=order:1,secret:9", Some(&token), None)
        .await
        .expect("a handshake");
    let error = ws.next().await;
    assert_eq!(error["code"], "forbidden");
    assert!(names(&error, "secret:9"), "{error}");
    assert_eq!(ws.next().await["type"], "connected", "the connection stays");
    let reply = ws
        .ask(json!({"type": "subscribe", "topic": "order:1"}))
        .await;
    assert_eq!(reply["type"], "subscribed");
}

#[tokio::test]
async fn publishing_takes_a_grant_that_matches_the_topic() {
    let gateway = TestGateway::start().await;
    let claims = Claims::new("shop")
        .with("publish", json!(["order:*", "stock:**"]))
        .with("subscribe", json!(["**"]));
    let mut ws = gateway.ws_as(&claims, "").await;
    for (topic, granted) in [
        ("order:1", true),
        ("stock:1:2", true),
        ("order:1:2", false),
        ("invoice:1", false),
        ("order", false),
    ] {
        let body = json!({"topic": topic}).to_string();
        let (status, answer) = gateway.post_as(&claims, &body).await;
        let reply = ws.ask(json!({"type": "publish", "topic": topic})).await;
        if granted {
            assert_eq!(
                (status, &reply["type"]),
                (200, &json!("published")),
                "{topic}"
            );
            continue;
        }
        assert_eq!(
            (status, &answer["code"]),
            (403, &json!("forbidden")),
            "{topic}"
        );
        assert_eq!(reply["code"], "forbidden", "{topic}");
        assert!(
            names(&answer, topic) && names(&reply, topic),
            "{answer} {reply}"
        );
    }
}

#[tokio::test]
async fn a_batch_with_one_topic_outside_the_grants_publishes_nothing() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=**").await;
    ws.frame("live").await;
    let claims = Claims::new("shop").with("publish", json!(["order:*"]));
    let batch = json!([{"topic": "order:1"}, {"topic": "invoice:1"}]).to_string();
    let (status, answer) = gateway.post_as(&claims, &batch).await;
    assert_eq!(status, 403);
    assert!(names(&answer, "invoice:1"), "{answer}");
    let id = gateway.publish("last:1", json!(1)).await;
    assert_eq!(ws.event().await["id"], json!(id));
}

#[tokio::test]
async fn default_grants_are_for_tokens_without_a_claim_and_name_their_bearer() {
    let gateway = TestGateway::with(
        "auth.default_subscribe = [\"user:{sub}:**\", \"org:{tenant}\", \"news\"]\n\
         auth.default_publish = [\"typing:{sub}\"]",
    )
    .await;
    let alice = Claims::new("alice");
    for (filter, granted) in [
        ("user:alice:**", true),
        ("user:bob:**", false),
        ("user:*:inbox", false),
        ("news", true),
        ("org:", false),
        ("org:*", false),
    ] {
        assert_subscribable(&gateway, &alice, filter, granted).await;
    }
    let of_acme = Claims::new("alice").with("tenant", json!("acme"));
    assert_subscribable(&gateway, &of_acme, "org:acme", true).await;
    assert_subscribable(&gateway, &of_acme, "org:other", false).await;
    let of_none = Claims::new("alice").with("subscribe", json!([]));
    assert_subscribable(&gateway, &of_none, "news", false).await;
    for (topic, expected) in [("typing:alice", 200), ("typing:bob", 403)] {
        let body = json!({"topic": topic}).to_string();
        assert_eq!(gateway.post_as(&alice, &body).await.0, expected, "{topic}");
    }
}

#[tokio::test]
async fn a_subject_or_tenant_that_looks_like_a_pattern_widens_no_default_grant() {
    let gateway =
        TestGateway::with("auth.default_subscribe = [\"user:{sub}\", \"org:{tenant}:x\"]").await;
    for hostile in ["*", "**", "a*", "bob:**", "a,b", "{tenant}", "bob "] {
        for claims in [
            Claims::new(hostile),
            Claims::new("alice").with("tenant", json!(hostile)),
        ] {
            for filter in ["user:bob", "user:*", "user:**", "org:acme:x", "org:*:x"] {
                assert_subscribable(&gateway, &claims, filter, false).await;
            }
        }
    }
}

#[tokio::test]
async fn only_a_trusted_token_says_who_caused_an_event() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("topics=order:1").await;
    ws.frame("live").await;
    let trusted = Claims::all("backend").with("trusted", json!(true));
    let distrusted = Claims::all("backend").with("trusted", json!(false));
    let named = r#"{"topic":"order:1","user_id":"carol"}"#;
    let unnamed = r#"{"topic":"order:1"}"#;
    for (claims, body, expected) in [
        (&trusted, named, json!("carol")),
        (&trusted, unnamed, Value::Null),
        (&distrusted, unnamed, json!("backend")),
        (&distrusted, named, json!("backend")),
        (&Claims::all("mallory"), unnamed, json!("mallory")),
    ] {
        assert_eq!(gateway.post_as(claims, body).await.0, 200);
        assert_eq!(
            ws.event().await["user_id"],
            expected,
            "{body} by {claims:?}"
        );
    }
}
