//! Who is on a topic, and the events that tell of it (protocol, section 11).

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{Claims, TRANSPORTS, TestGateway, Transport, Ws, within};

const KEPT: &str = "presence.topics = [\"room:*\"]\npresence.grace = \"300ms\"\n";

/// May follow who is on which topic, and be on any itself.
fn watcher() -> Claims {
    Claims::all("watcher")
}

async fn watch(gateway: &TestGateway) -> Ws {
    let mut ws = gateway.ws_as(&watcher(), "topics=presence:room:*").await;
    ws.frame("live").await;
    ws
}

async fn enter(gateway: &TestGateway, subject: &str, topic: &str) -> Ws {
    let mut ws = gateway
        .ws_as(&Claims::all(subject), &format!("topics={topic}"))
        .await;
    ws.frame("live").await;
    ws
}

/// Topic, change and subject of the next announcement.
async fn announced(watcher: &mut Ws) -> (String, String, String) {
    let event = watcher.event().await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (
        text(&event["topic"]),
        text(&event["event"]),
        text(&event["data"]["user_id"]),
    )
}

fn joined(topic: &str, subject: &str) -> (String, String, String) {
    change("join", topic, subject)
}

fn left(topic: &str, subject: &str) -> (String, String, String) {
    change("leave", topic, subject)
}

fn change(change: &str, topic: &str, subject: &str) -> (String, String, String) {
    (
        format!("presence:{topic}"),
        format!("presence:{change}"),
        subject.to_owned(),
    )
}

async fn list(gateway: &TestGateway, query: &str) -> (u16, Value) {
    let watcher = watcher();
    let asked = gateway.get("/presence", query, &watcher);
    let answer = within("an answer", asked).await;
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

fn members(answer: &Value) -> Vec<(&str, u64)> {
    let members = answer["members"].as_array().expect("members");
    members
        .iter()
        .map(|member| {
            let connections = member["connections"].as_u64().expect("a number");
            (member["user_id"].as_str().expect("text"), connections)
        })
        .collect()
}

#[tokio::test]
async fn a_subject_joins_with_its_first_connection_and_leaves_after_its_last() {
    let gateway = TestGateway::with(KEPT).await;
    let mut watcher = watch(&gateway).await;
    let first = enter(&gateway, "alice", "room:1").await;
    assert_eq!(announced(&mut watcher).await, joined("room:1", "alice"));
    let mut sse = gateway
        .sse_as(&Claims::all("alice"), "topics=room:1,room:2")
        .await;
    sse.frame("live").await;
    // Of the topic where she is already, nothing is told.
    assert_eq!(announced(&mut watcher).await, joined("room:2", "alice"));
    let bob = enter(&gateway, "bob", "room:1").await;
    assert_eq!(announced(&mut watcher).await, joined("room:1", "bob"));

    let (status, answer) = list(&gateway, "topic=room:1").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(members(&answer), [("alice", 2), ("bob", 1)]);
    assert_eq!(
        (&answer["count"], &answer["next"]),
        (&json!(2), &Value::Null)
    );

    drop(first);
    drop(bob);
    assert_eq!(announced(&mut watcher).await, left("room:1", "bob"));
    drop(sse);
    let mut last = [announced(&mut watcher).await, announced(&mut watcher).await];
    last.sort();
    assert_eq!(last, [left("room:1", "alice"), left("room:2", "alice")]);
    assert_eq!(list(&gateway, "topic=room:1").await.1["count"], 0);
}

#[tokio::test]
async fn a_change_of_transport_and_the_way_between_polls_are_no_leave() {
    let gateway =
        TestGateway::with("presence.topics = [\"room:*\"]\npresence.grace = \"5s\"").await;
    let mut watcher = watch(&gateway).await;
    let alice = Claims::all("alice");
    let mut cursor = "earliest".to_owned();
    for number in 0..5 {
        gateway.publish("room:1", json!(number)).await;
        let query = format!("topics=room:1&cursor={cursor}");
        let (status, answer) = gateway.poll_as(&alice, &query).await;
        assert_eq!(status, 200, "{answer}");
        cursor = answer["cursor"].as_str().expect("a cursor").to_owned();
    }
    drop(enter(&gateway, "alice", "room:1").await);
    drop(gateway.sse_as(&alice, "topics=room:1").await);
    assert_eq!(announced(&mut watcher).await, joined("room:1", "alice"));
    // The next announcement is another subject's.
    let _bob = enter(&gateway, "bob", "room:1").await;
    assert_eq!(announced(&mut watcher).await, joined("room:1", "bob"));
}

#[tokio::test]
async fn unsubscribing_is_leaving_and_subscribing_later_is_joining() {
    let gateway = TestGateway::with(KEPT).await;
    let mut watcher = watch(&gateway).await;
    let mut ws = gateway.ws_as(&Claims::all("alice"), "").await;
    ws.ask(json!({"type": "subscribe", "topics": ["room:1", "other:1", "room:*"]}))
        .await;
    assert_eq!(announced(&mut watcher).await, joined("room:1", "alice"));
    ws.send(json!({"type": "unsubscribe", "topics": ["room:1"]}))
        .await;
    assert_eq!(announced(&mut watcher).await, left("room:1", "alice"));
}

#[tokio::test]
async fn the_list_goes_on_with_the_announcements_after_its_cursor() {
    let gateway = TestGateway::with(KEPT).await;
    let _alice = enter(&gateway, "alice", "room:1").await;
    let mut ws = gateway.ws_as(&watcher(), "").await;
    let asked = async {
        loop {
            let ask = json!({"type": "presence", "topic": "room:1", "ref": 7});
            let answer = ws.ask(ask).await;
            assert_eq!(
                (&answer["type"], &answer["ref"]),
                (&json!("presence"), &json!(7))
            );
            if answer["count"] == 1 {
                return answer;
            }
        }
    };
    let answer = within("alice on the list", asked).await;
    assert_eq!(members(&answer), [("alice", 1)]);
    let _bob = enter(&gateway, "bob", "room:1").await;
    let cursor = answer["cursor"].as_str().expect("a cursor");
    let query = format!("topics=presence:room:1&cursor={cursor}");
    let mut since = gateway.ws_as(&watcher(), &query).await;
    assert_eq!(announced(&mut since).await, joined("room:1", "bob"));
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let gateway = TestGateway::with(KEPT).await;
    let mut watcher = watch(&gateway).await;
    let mut members_there = Vec::new();
    for number in 0..5 {
        members_there.push(enter(&gateway, &format!("user{number}"), "room:1").await);
        announced(&mut watcher).await;
    }
    let mut found = Vec::new();
    let mut query = "topic=room:1&limit=2".to_owned();
    loop {
        let (_, answer) = list(&gateway, &query).await;
        assert_eq!(answer["count"], 5);
        found.extend(
            members(&answer)
                .into_iter()
                .map(|(subject, _)| subject.to_owned()),
        );
        match answer["next"].as_str() {
            Some(next) => query = format!("topic=room:1&limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, ["user0", "user1", "user2", "user3", "user4"]);
}

#[tokio::test]
async fn tenants_do_not_see_each_other() {
    let gateway = TestGateway::with(KEPT).await;
    let of_acme = |subject| Claims::all(subject).with("tenant", json!("acme"));
    let mut ws = gateway.ws_as(&of_acme("alice"), "topics=room:1").await;
    ws.frame("live").await;
    let mut acme = gateway
        .ws_as(
            &of_acme("watcher"),
            "topics=presence:room:1&cursor=earliest",
        )
        .await;
    assert_eq!(announced(&mut acme).await, joined("room:1", "alice"));
    assert_eq!(list(&gateway, "topic=room:1").await.1["count"], 0);
}

#[tokio::test]
async fn who_may_not_follow_the_announcements_gets_no_list() {
    let gateway = TestGateway::with(KEPT).await;
    let member = Claims::all("member").with("subscribe", json!(["room:*"]));
    let answer = gateway.get("/presence", "topic=room:1", &member).await;
    assert_eq!(answer.status(), 403);
    let mut ws = gateway.ws_as(&member, "").await;
    let refused = ws.ask(json!({"type": "presence", "topic": "room:1"})).await;
    assert_eq!(refused["code"], "forbidden");
    let forged = json!({"topic": "presence:room:1", "event": "presence:join"});
    let (status, answer) = gateway.post_as(&member, &forged.to_string()).await;
    assert_eq!((status, &answer["code"]), (403, &json!("forbidden")));
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong() {
    let gateway = TestGateway::with(KEPT).await;
    for (query, status, named) in [
        ("", 400, "topic"),
        ("topic=room:*", 400, "room:*"),
        ("topic=shop:1", 400, "presence.topics"),
        ("topic=room:1&limit=0", 400, "limit"),
        ("topic=room:1&limit=x", 400, "limit"),
        ("topic=room:1&who=x", 400, "who"),
    ] {
        let (got, answer) = list(&gateway, query).await;
        let message = answer["message"].as_str().expect("a message");
        assert_eq!(got, status, "{query}: {answer}");
        assert!(message.contains(named), "{query}: {answer}");
    }
    let without = TestGateway::start().await;
    let (_, answer) = list(&without, "topic=room:1").await;
    assert!(
        answer["message"].to_string().contains("presence.topics"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_topic_that_announcements_would_be_too_long_for_is_not_kept() {
    let gateway = TestGateway::with(KEPT).await;
    let topic = format!("room:{}", "x".repeat(245));
    let mut ws = enter(&gateway, "alice", &topic).await;
    gateway.publish(&topic, json!(1)).await;
    assert_eq!(ws.event().await["data"], 1);
    let (status, _) = list(&gateway, &format!("topic={topic}")).await;
    assert_eq!(status, 403);
}

#[tokio::test]
async fn after_a_restart_of_the_log_on_disk_nobody_is_there_until_they_come_back() {
    let log = tempfile::tempdir().expect("a directory");
    let on_disk = format!(
        "{KEPT}bus.engine = \"disk\"\nbus.disk.path = {:?}\n",
        log.path().display().to_string()
    );
    let gateway = TestGateway::with(&on_disk).await;
    let _alice = enter(&gateway, "alice", "room:1").await;
    let mut watcher = watch(&gateway).await;
    let _bob = enter(&gateway, "bob", "room:1").await;
    while announced(&mut watcher).await != joined("room:1", "bob") {}
    gateway.stop().await;

    let gateway = TestGateway::with(&on_disk).await;
    let mut again = gateway
        .ws_as(&self::watcher(), "topics=presence:room:*&cursor=earliest")
        .await;
    let mut there = std::collections::BTreeSet::new();
    let settled = async {
        loop {
            let (_, change, subject) = announced(&mut again).await;
            match change.as_str() {
                "presence:join" => there.insert(subject),
                "presence:leave" => there.remove(&subject),
                _ => return there.clear(),
            };
        }
    };
    within("that nobody is there", settled).await;
    let _carol = enter(&gateway, "carol", "room:1").await;
    assert_eq!(announced(&mut again).await, joined("room:1", "carol"));
    assert_eq!(
        members(&list(&gateway, "topic=room:1").await.1),
        [("carol", 1)]
    );
}

/// What a transport answers to someone who wants to be on topics: the code, where it is an error.
async fn try_to_enter(
    gateway: &TestGateway,
    claims: &Claims,
    transport: Transport,
    topics: &str,
) -> Result<(), Value> {
    let path = match transport {
        Transport::Ws => {
            let mut ws = gateway.ws_as(claims, "").await;
            let topics: Vec<_> = topics.split(',').collect();
            let answer = ws.ask(json!({"type": "subscribe", "topics": topics})).await;
            return match answer["type"] == "error" {
                true => Err(answer),
                false => Ok(()),
            };
        }
        Transport::Sse => "/events",
        Transport::Poll => "/poll",
    };
    let query = format!("topics={topics}&wait=0");
    let answer = gateway.get(path, &query, claims).await;
    match answer.status().as_u16() {
        200 => Ok(()),
        429 => Err(answer.json().await.expect("JSON")),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_subject_is_on_so_many_topics_at_once_over_all_its_connections() {
    let gateway = TestGateway::with(&format!("{KEPT}presence.topics_per_subject = 2\n")).await;
    let alice = Claims::all("alice");
    let first = enter(&gateway, "alice", "room:1").await;
    let mut second = enter(&gateway, "alice", "room:2").await;
    for transport in TRANSPORTS {
        let enter = |topics| try_to_enter(&gateway, &alice, transport, topics);
        let refused = enter("other:1,room:3").await.expect_err("a third topic");
        assert_eq!(refused["code"], "too_many_subscriptions", "{refused}");
        // Where she is already, where that is not told, and by a pattern.
        enter("room:1,room:2,other:1,room:*")
            .await
            .expect("no third topic");
    }
    // A refused subscription took no effect in any part.
    let mut watcher = watch(&gateway).await;
    let refused = json!({"type": "subscribe", "topics": ["other:1", "room:3"]});
    assert_eq!(second.ask(refused).await["type"], "error");
    gateway.publish("other:1", json!(1)).await;
    drop(first);
    assert_eq!(announced(&mut watcher).await, left("room:1", "alice"));
    let there = try_to_enter(&gateway, &alice, Transport::Sse, "room:3").await;
    there.expect("the place of the one that she left");
    assert_eq!(announced(&mut watcher).await, joined("room:3", "alice"));
    gateway.publish("room:2", json!(2)).await;
    assert_eq!(second.event().await["data"], 2);
    let bob = Claims::all("bob");
    let his = try_to_enter(&gateway, &bob, Transport::Sse, "room:3,room:4");
    his.await.expect("his own two topics");
}

/// So nobody writes more into the log by joining than by publishing.
#[tokio::test]
async fn joins_are_charged_to_the_budget_of_publishes_and_coming_back_is_not() {
    let slow = "limits.publish_events_per_second = 1\nlimits.publish_burst = 3\n";
    let kept = "presence.topics = [\"room:*\"]\npresence.grace = \"60s\"\n";
    for transport in TRANSPORTS {
        let gateway = TestGateway::with(&format!("{kept}{slow}")).await;
        let mut watcher = watch(&gateway).await;
        let alice = Claims::all("alice").with("publish", json!([]));
        let enter = |topics: String| {
            let (gateway, alice) = (&gateway, &alice);
            async move { try_to_enter(gateway, alice, transport, &topics).await }
        };
        let (mut joins, began) = (0, Instant::now());
        let refused = loop {
            match enter(format!("room:{joins}")).await {
                Ok(()) => joins += 1,
                Err(refused) => break refused,
            }
            let most = 3 + began.elapsed().as_secs();
            assert!(joins <= most, "{joins} joins");
        };
        assert_eq!(refused["code"], "rate_limited", "{refused}");
        assert!(refused["retryAfterMs"].as_u64() <= Some(1000), "{refused}");
        assert!(joins >= 3, "only {joins} joins");
        for number in 0..joins {
            let topic = format!("room:{number}");
            assert_eq!(announced(&mut watcher).await, joined(&topic, "alice"));
            enter(topic).await.expect("she is there already");
        }
        // More at once than the burst need all of it, and are no reason to wait for ever.
        let bob = Claims::all("bob");
        let many = try_to_enter(
            &gateway,
            &bob,
            transport,
            "room:a,room:b,room:c,room:d,room:e",
        );
        many.await.expect("a full budget");
        let more = try_to_enter(&gateway, &bob, transport, "room:f").await;
        let refused = more.expect_err("he owes the rest");
        assert!(refused["retryAfterMs"].as_u64() > Some(1000), "{refused}");
    }
}

/// Nothing is appended for topics that were left before: else each restart would make the log longer.
#[tokio::test]
async fn a_restart_says_nothing_of_topics_on_which_nobody_was() {
    let log = tempfile::tempdir().expect("a directory");
    let on_disk = format!(
        "{KEPT}bus.engine = \"disk\"\nbus.disk.path = {:?}\n",
        log.path().display().to_string()
    );
    let mut gateway = TestGateway::with(&on_disk).await;
    let mut watcher = watch(&gateway).await;
    drop(enter(&gateway, "alice", "room:left").await);
    assert_eq!(announced(&mut watcher).await, joined("room:left", "alice"));
    assert_eq!(announced(&mut watcher).await, left("room:left", "alice"));
    let _bob = enter(&gateway, "bob", "room:1").await;
    assert_eq!(announced(&mut watcher).await, joined("room:1", "bob"));
    for _ in 0..3 {
        gateway.stop().await;
        gateway = TestGateway::with(&on_disk).await;
    }
    let _carol = enter(&gateway, "carol", "room:2").await;
    let mut all = gateway
        .ws_as(&self::watcher(), "topics=presence:room:*&cursor=earliest")
        .await;
    let mut last = Vec::new();
    while last.last() != Some(&joined("room:2", "carol")) {
        last.push(announced(&mut all).await);
    }
    let expected = [
        joined("room:left", "alice"),
        left("room:left", "alice"),
        joined("room:1", "bob"),
        change("forget", "room:1", ""),
        joined("room:2", "carol"),
    ];
    assert_eq!(last, expected);
}
