//! Several nodes, and which one it is.

use std::{
    collections::BTreeSet,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tribus::config::EngineKind;

use crate::{
    durability::until_ready_is,
    support::{
        Claims, Node, Program, RedisServer, Relay, SharedLog, Sse, TestGateway, VOLATILE, Ws,
        engine, free_address, within,
    },
};

#[tokio::test]
async fn a_node_with_a_name_tells_it_on_every_transport() {
    for (toml, name) in [("node = \"eu-1\"", Some("eu-1")), ("", None)] {
        let gateway = TestGateway::with(toml).await;
        let claims = Claims::all("alice");
        let connected = gateway.ws("topics=a").await.connected.clone();
        assert_eq!(connected["node"].as_str(), name, "{connected}");
        let connected = gateway.sse("topics=a").await.connected.clone();
        assert_eq!(connected["node"].as_str(), name, "{connected}");
        let stats = claims.clone().with("stats", json!(true));
        let stats = gateway.get("/stats", "", &stats).await;
        let stats: Value = stats.json().await.expect("JSON");
        assert_eq!(stats["node"].as_str(), name, "{stats}");
        let answer = gateway.get("/poll", "topics=a&wait=0", &claims).await;
        let header = answer.headers().get("tribus-node");
        assert_eq!(header.map(|name| name.to_str().expect("text")), name);
    }
}

/// Two nodes of one log; presence is kept of rooms.
struct Pair {
    a: TestGateway,
    b: TestGateway,
    more: String,
}

impl Pair {
    async fn begin() -> Self {
        Self::with("").await
    }

    async fn with(toml: &str) -> Self {
        let log = match engine() {
            Some(EngineKind::Nats) => SharedLog::in_nats().await,
            _ => SharedLog::in_redis().await,
        };
        let more = format!(
            "{}presence.topics = [\"room:*\"]\npresence.grace = \"1s\"\n{toml}",
            log.toml(log.server)
        );
        Self {
            a: TestGateway::with(&more).await,
            b: TestGateway::with(&more).await,
            more,
        }
    }

    /// One more node, which knows what was told before.
    async fn late(&self) -> TestGateway {
        let late = TestGateway::with(&self.more).await;
        until_ready_is(&late, 200).await;
        late
    }
}

async fn disconnect(gateway: &TestGateway, body: Value) -> Value {
    let url = gateway.admin_url("/admin/disconnect");
    let answer = gateway.http.post(url).body(body.to_string()).send();
    let answer = within("an answer", answer).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

#[tokio::test]
async fn a_revocation_at_one_node_holds_at_all_and_at_those_that_start_later() {
    let pair = Pair::begin().await;
    let mut alice = pair.b.ws_as(&Claims::all("alice"), "topics=a").await;
    let mut bob = pair.b.ws_as(&Claims::all("bob"), "topics=a").await;
    disconnect(&pair.a, json!({"sub": "alice"})).await;
    assert_eq!(alice.close_code().await, 4005);
    let token = Claims::all("carol").with("jti", json!("one"));
    disconnect(&pair.a, json!({"jti": "one"})).await;
    let late = pair.late().await;
    for node in [&pair.a, &pair.b, &late] {
        for claims in [&Claims::all("alice"), &token] {
            let refused = async {
                loop {
                    let (status, answer) = node.poll_as(claims, "topics=a&wait=0").await;
                    if status == 401 {
                        return answer;
                    }
                }
            };
            let answer = within("a refusal", refused).await;
            assert_eq!(answer["code"], "revoked");
        }
    }
    pair.a.publish("a", json!(1)).await;
    assert_eq!(bob.event().await["data"], 1);
}

/// It serves nobody before it has been told.
#[tokio::test]
async fn a_node_that_has_just_started_lets_nobody_in_who_was_turned_away_before() {
    let pair = Pair::begin().await;
    let alice = Claims::all("alice");
    disconnect(&pair.a, json!({"sub": "alice"})).await;
    for _ in 0..3 {
        let started = TestGateway::with(&pair.more).await;
        for _ in 0..5 {
            let publish = started.http.post(started.url("/publish"));
            let publish = publish.bearer_auth(alice.token()).body(r#"{"topic":"a"}"#);
            let answer = within("an answer", publish.send()).await;
            assert_eq!(answer.expect("an answer").status(), 401);
        }
        started.stop().await;
    }
}

#[tokio::test]
async fn a_subject_is_present_once_wherever_it_is_connected() {
    let pair = Pair::begin().await;
    let late = pair.late().await;
    let mut watcher = late.ws("topics=presence:room:1").await;
    let mut there = Vec::new();
    for node in [&pair.a, &pair.b, &pair.a] {
        let mut ws = node.ws_as(&Claims::all("alice"), "topics=room:1").await;
        ws.frame("live").await;
        there.push(ws);
    }
    assert_eq!(announced(&mut watcher).await, change("join", "alice"));
    let bob = pair.b.ws_as(&Claims::all("bob"), "topics=room:1").await;
    assert_eq!(announced(&mut watcher).await, change("join", "bob"));
    for node in [&pair.a, &pair.b, &late] {
        let claims = Claims::all("watcher");
        let counted = async {
            loop {
                let answer = node.get("/presence", "topic=room:1", &claims).await;
                let answer: Value = answer.json().await.expect("JSON");
                if answer["members"][0]["connections"] == 3 {
                    return answer;
                }
            }
        };
        let answer = within("three connections", counted).await;
        assert_eq!(answer["count"], 2, "{answer}");
    }
    // A node's end is no leave of those who are elsewhere, and one of those who are not.
    drop(bob);
    let Pair { a, b, more } = pair;
    b.stop().await;
    assert_eq!(announced(&mut watcher).await, change("leave", "bob"));
    let again = TestGateway::with(&more).await;
    let mut bob = again.ws_as(&Claims::all("bob"), "topics=room:1").await;
    bob.frame("live").await;
    assert_eq!(announced(&mut watcher).await, change("join", "bob"));
    drop(there);
    drop(a);
}

/// Change and subject of the next announcement.
async fn announced(watcher: &mut Ws) -> (String, String) {
    let event = watcher.event().await;
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&event["event"]), text(&event["data"]["user_id"]))
}

fn change(change: &str, subject: &str) -> (String, String) {
    (format!("presence:{change}"), subject.to_owned())
}

async fn enter(gateway: &TestGateway, subject: &str) -> Ws {
    let mut ws = gateway.ws_as(&Claims::all(subject), "topics=room:1").await;
    ws.frame("live").await;
    ws
}

const PRESENCE: &str = "presence.topics = [\"room:*\"]\npresence.grace = \"1s\"\n";

/// Its members leave as soon as it is taken for dead, each of them once though two nodes notice.
#[tokio::test]
async fn who_was_at_a_node_that_is_killed_leaves_once() {
    const DEAD_WITHIN: Duration = Duration::from_secs(25);
    let log = SharedLog::in_redis().await;
    // So that who watches hears something meanwhile.
    let toml = format!("{PRESENCE}heartbeat = \"2s\"\n");
    let nodes = [
        log.gateway_with(log.server, &toml).await,
        log.gateway_with(log.server, PRESENCE).await,
    ];
    let url = format!("redis://{}", log.server);
    let mut killed = Node::new(&[
        ("BUS__ENGINE", "redis"),
        ("BUS__REDIS__URL", &url),
        ("BUS__NAMESPACE", &log.namespace),
        ("PRESENCE__TOPICS", "[\"room:*\"]"),
        ("PRESENCE__GRACE", "1s"),
    ]);
    killed.start().await;
    until_ready_is(&killed.gateway(), 200).await;
    until_ready_is(&nodes[1], 200).await;
    let mut watcher = nodes[0].ws("topics=presence:room:1").await;
    let mut there = Vec::new();
    for subject in ["alice", "bob"] {
        there.push(enter(&killed.gateway(), subject).await);
        assert_eq!(announced(&mut watcher).await, change("join", subject));
    }
    let _also_here = enter(&nodes[1], "bob").await;
    killed.kill().await;
    let left = tokio::time::timeout(DEAD_WITHIN, announced(&mut watcher)).await;
    assert_eq!(left.expect("a leave"), change("leave", "alice"));
    // Whoever looks at it later finds it done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _carol = enter(&nodes[0], "carol").await;
    assert_eq!(announced(&mut watcher).await, change("join", "carol"));
}

/// It takes a node seconds to tell a new one of all of its clients. Meanwhile nobody takes them for gone.
#[tokio::test]
async fn nobody_leaves_while_a_node_tells_a_new_one_of_its_clients() {
    const SLOW: Duration = Duration::from_millis(700);
    // More than one note of them.
    const TOPICS: usize = 1200;
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let slow = log.gateway_with(relay.address, PRESENCE).await;
    let other = log.gateway_with(log.server, PRESENCE).await;
    until_ready_is(&other, 200).await;
    let mut watcher = other.ws("topics=presence:room:*").await;
    watcher.frame("live").await;
    let mut streams = Vec::new();
    for part in 0..TOPICS / 100 {
        let topics: Vec<_> = (0..100)
            .map(|number| format!("room:{part}-{number}"))
            .collect();
        let subject = Claims::all(&format!("alice-{part}"));
        let mut alice = slow.ws_as(&subject, "").await;
        let answer = alice
            .ask(json!({"type": "subscribe", "topics": topics}))
            .await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        streams.push(alice);
    }
    for _ in 0..TOPICS {
        assert_eq!(announced(&mut watcher).await.0, "presence:join");
    }
    relay.delay(SLOW);
    let new = log.gateway_with(log.server, PRESENCE).await;
    until_ready_is(&new, 200).await;
    tokio::time::sleep(4 * SLOW).await;
    let _bob = enter(&other, "bob").await;
    assert_eq!(announced(&mut watcher).await, change("join", "bob"));
}

/// It takes longer than a new node waits for a sign of others.
#[tokio::test]
async fn a_node_that_is_slow_to_answer_is_not_taken_for_none() {
    // It is heard after twice as long at most, and has answered after three times as long at least.
    const SLOW: Duration = Duration::from_millis(800);
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let slow = log.gateway_with(relay.address, PRESENCE).await;
    until_ready_is(&slow, 200).await;
    let mut watcher = slow.ws("topics=presence:room:1").await;
    let _alice = enter(&slow, "alice").await;
    assert_eq!(announced(&mut watcher).await, change("join", "alice"));
    relay.delay(SLOW);
    let new = log.gateway_with(log.server, PRESENCE).await;
    until_ready_is(&new, 200).await;
    let claims = Claims::all("watcher");
    let answer = new.get("/presence", "topic=room:1", &claims).await;
    let answer: Value = answer.json().await.expect("JSON");
    assert_eq!(answer["members"][0]["user_id"], "alice", "{answer}");
    let _bob = enter(&new, "bob").await;
    assert_eq!(announced(&mut watcher).await, change("join", "bob"));
}

/// What a node had told goes with the log, and another one had not heard it yet.
#[tokio::test]
async fn a_revocation_that_went_with_the_log_is_told_again() {
    let mut server = RedisServer::start(VOLATILE).await;
    let relays = [
        Relay::to(server.address).await,
        Relay::to(server.address).await,
    ];
    let toml = |relay: &Relay| {
        format!(
            "bus.engine = \"redis\"\nbus.redis.url = {:?}\n",
            relay.url()
        )
    };
    let a = TestGateway::with(&toml(&relays[0])).await;
    until_ready_is(&a, 200).await;
    let b = TestGateway::with(&toml(&relays[1])).await;
    until_ready_is(&b, 200).await;
    relays[1].stall_from(true);
    disconnect(&a, json!({"sub": "alice"})).await;
    server.kill();
    relays[0].stall(true);
    relays[1].cut();
    relays[1].stall_from(false);
    server.start_again().await;
    // It asks, and is not answered, before the other one is back.
    // Its answer tells of Redis, whichever engine the other tests are run with.
    let accepted = async {
        loop {
            let publish = b.http.post(b.url("/publish")).body(r#"{"topic":"a"}"#);
            let answer = publish.bearer_auth(Claims::all("backend").token()).send();
            if answer.await.expect("an answer").status() == 200 {
                break;
            }
        }
    };
    within("a publish", accepted).await;
    assert_eq!(
        b.poll_as(&Claims::all("alice"), "topics=a&wait=0").await.0,
        200
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    relays[0].stall(false);
    let revoked =
        async { while b.poll_as(&Claims::all("alice"), "topics=a&wait=0").await.0 != 401 {} };
    within("the revocation", revoked).await;
}

#[tokio::test]
async fn a_ticket_is_good_once_at_whichever_node() {
    let pair = Pair::begin().await;
    for (issued_by, used_at) in [(&pair.a, &pair.b), (&pair.b, &pair.b)] {
        let ticket = ticket(issued_by, json!({})).await;
        let query = format!("topics=a&wait=0&ticket={ticket}");
        let answers = tokio::join!(bare_poll(used_at, &query), bare_poll(&pair.a, &query));
        let mut statuses = [answers.0, answers.1];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401]);
        assert_eq!(bare_poll(&pair.a, &query).await, 401);
    }
}

/// A node that is behind answers those that are new with what it knows. What was done meanwhile is not
/// undone, neither by the answer to their own question nor by that to another's.
#[tokio::test]
async fn a_ticket_that_is_used_while_new_nodes_are_answered_stays_used() {
    const LATE: Duration = Duration::from_millis(500);
    // By now it has looked at what it has, and what it does not hear before it tells that is used.
    const HAS_LOOKED: Duration = Duration::from_millis(900);
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let behind = log.gateway_with(relay.address, "").await;
    until_ready_is(&behind, 200).await;
    let informed = log.gateway().await;
    until_ready_is(&informed, 200).await;
    let ticket = ticket(&behind, json!({})).await;
    let query = format!("topics=a&wait=0&ticket={ticket}");
    relay.delay(LATE);
    let (first, second) = tokio::join!(log.gateway(), log.gateway());
    tokio::time::sleep(HAS_LOOKED).await;
    assert_eq!(bare_poll(&informed, &query).await, 200);
    until_ready_is(&first, 200).await;
    until_ready_is(&second, 200).await;
    let until = Instant::now() + 2 * LATE;
    while Instant::now() < until {
        for node in [&first, &second, &behind] {
            assert_eq!(bare_poll(node, &query).await, 401);
        }
    }
}

/// What it knows of the others, as its operators are told.
async fn nodes(gateway: &TestGateway) -> Vec<Value> {
    let asked = gateway.http.get(gateway.admin_url("/admin/nodes")).send();
    let answer = within("the nodes", asked).await.expect("an answer");
    let mut answer: Value = answer.json().await.expect("JSON");
    serde_json::from_value(answer["nodes"].take()).expect("a list")
}

async fn until_knows(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let known = async {
        loop {
            let nodes = nodes(gateway).await;
            if nodes.len() == count {
                return nodes;
            }
        }
    };
    within(&format!("{count} nodes to be known"), known).await
}

#[tokio::test]
async fn operators_are_told_of_all_nodes_at_each_of_them() {
    let log = SharedLog::in_redis().await;
    let mut three = Vec::new();
    for number in 0..3 {
        let toml = format!("node = \"n-{number}\"");
        let node = log.gateway_with(log.server, &toml).await;
        until_ready_is(&node, 200).await;
        three.push(node);
    }
    let _ws = three[0].ws("topics=a").await;
    for (number, node) in three.iter().enumerate() {
        let known = async {
            loop {
                let known = until_knows(node, 3).await;
                let of = |name: &str| known.iter().find(|node| node["name"] == name).cloned();
                if let (Some(first), Some(_), Some(_)) = (of("n-0"), of("n-1"), of("n-2"))
                    && first["connections"] == 1
                {
                    return known;
                }
            }
        };
        let known = within("the connection to be told of", known).await;
        assert_eq!(known[0]["name"], format!("n-{number}"));
        for (place, node) in known.iter().enumerate() {
            assert_eq!(node["isThis"], place == 0, "{known:?}");
            assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
            assert!(node["lastHeardMs"].as_u64().expect("a number") < 15_000);
        }
    }
    three.remove(1).stop().await;
    let known = until_knows(&three[0], 2).await;
    assert!(known.iter().all(|node| node["name"] != "n-1"), "{known:?}");
}

/// What it tells after its leave does not make it one that is there, and counts all the same.
#[tokio::test]
async fn a_node_that_has_left_is_not_taken_for_one_that_is_there() {
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let stays = log.gateway().await;
    let mut goes = log.gateway_with(relay.address, "").await;
    until_ready_is(&goes, 200).await;
    until_knows(&stays, 2).await;
    // It is there until it is told that its leave is in the log.
    relay.delay(Duration::from_millis(800));
    goes.begin_stop();
    until_knows(&stays, 1).await;
    let url = goes.admin_url("/admin/disconnect");
    let told = goes.http.post(url).body(json!({"sub": "bob"}).to_string());
    // It may be gone before it answers.
    let _ = within("an answer", told.send()).await;
    let revoked = async {
        let bob = Claims::all("bob");
        while stays.poll_as(&bob, "topics=a&wait=0").await.0 != 401 {}
    };
    within("the revocation to be heard", revoked).await;
    assert_eq!(nodes(&stays).await.len(), 1);
    goes.stopped().await;
}

/// The others find out by themselves.
#[tokio::test]
async fn a_node_ends_within_its_grace_though_its_log_can_not_be_reached() {
    const GRACE: Duration = Duration::from_secs(1);
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let slow = format!("{}bus.redis.timeout = \"20s\"\n", log.toml(relay.address));
    let node = TestGateway::with_grace("1s", &slow).await;
    until_ready_is(&node, 200).await;
    let _ws = node.ws("topics=a").await;
    relay.stall(true);
    let began = Instant::now();
    node.stop().await;
    assert!(
        began.elapsed() < GRACE + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_stream_goes_on_with_its_ticket_at_another_node_and_ends_at_the_first() {
    let pair = Pair::begin().await;
    let ticket = ticket(&pair.a, json!({"use": "stream"})).await;
    let mut first = stream(&pair.a, &ticket, None).await;
    let id = pair.b.publish("a", json!(1)).await;
    assert_eq!(first.event().await["id"], json!(id));
    let late = pair.late().await;
    for node in [&pair.b, &late] {
        let mut next = stream(node, &ticket, Some(&id)).await;
        let closing = first.frame("closing").await;
        assert_eq!(closing["code"], 4006);
        next.frame("live").await;
        first = next;
    }
}

async fn stream(gateway: &TestGateway, ticket: &str, last: Option<&str>) -> Sse {
    let url = gateway.url(&format!("/events?topics=a&ticket={ticket}"));
    let mut asked = gateway.http.get(url);
    if let Some(last) = last {
        asked = asked.header("Last-Event-ID", last);
    }
    let answer = within("a stream", asked.send()).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    Sse::new(answer)
}

async fn ticket(gateway: &TestGateway, body: Value) -> String {
    let asked = gateway.http.post(gateway.url("/ticket"));
    let asked = asked
        .bearer_auth(Claims::all("alice").token())
        .body(body.to_string());
    let answer = within("a ticket", asked.send()).await.expect("an answer");
    let answer: Value = answer.json().await.expect("JSON");
    answer["ticket"].as_str().expect("a ticket").to_owned()
}

/// The status of a poll without a token.
async fn bare_poll(gateway: &TestGateway, query: &str) -> u16 {
    let asked = gateway.http.get(gateway.url(&format!("/poll?{query}")));
    let answer = within("an answer", asked.send()).await.expect("an answer");
    answer.status().as_u16()
}

/// Until a stream is refused at a node, for what its subject has at others.
async fn until_refused(gateway: &TestGateway) -> Value {
    let claims = Claims::all("alice");
    let refused = async {
        loop {
            let answer = gateway.get("/events", "topics=a", &claims).await;
            if answer.status() == 429 {
                return answer.json().await.expect("JSON");
            }
        }
    };
    within("a stream to be refused", refused).await
}

/// A stream, as soon as one is let in.
async fn until_let_in(gateway: &TestGateway) -> reqwest::Response {
    let claims = Claims::all("alice");
    let let_in = async {
        loop {
            let answer = gateway.get("/events", "topics=a", &claims).await;
            if answer.status() == 200 {
                return answer;
            }
        }
    };
    within("a stream to be let in", let_in).await
}

#[tokio::test]
async fn connections_of_a_subject_count_at_all_nodes_where_limits_are_shared() {
    let pair = Pair::with("limits.shared = true\nlimits.connections_per_subject = 2\n").await;
    let first = until_let_in(&pair.a).await;
    let second = until_let_in(&pair.b).await;
    let late = pair.late().await;
    for node in [&pair.a, &pair.b, &late] {
        let refused = until_refused(node).await;
        assert_eq!(refused["code"], "too_many_connections", "{refused}");
    }
    drop(second);
    let second = until_let_in(&late).await;
    until_refused(&pair.b).await;
    // What was there goes with its node.
    let Pair { a, b, .. } = pair;
    a.stop().await;
    let third = until_let_in(&b).await;
    until_refused(&late).await;
    drop((first, second, third));
}

/// Untold because the log took nothing then, it is told when it does again.
#[tokio::test]
async fn a_connection_that_ended_while_the_log_could_not_be_reached_is_free_at_the_others() {
    let log = SharedLog::in_redis().await;
    let relay = Relay::to(log.server).await;
    let one = "limits.shared = true\nlimits.connections_per_subject = 1\n";
    let via = format!(
        "{}bus.redis.timeout = \"1s\"\n{one}",
        log.toml(relay.address)
    );
    let a = TestGateway::with(&via).await;
    let b = TestGateway::with(&format!("{}{one}", log.toml(log.server))).await;
    for node in [&a, &b] {
        until_ready_is(node, 200).await;
    }
    let stream = until_let_in(&a).await;
    until_refused(&b).await;
    relay.stall(true);
    drop(stream);
    // What was to be told before that has been given up.
    let (status, answer) = a.post(r#"{"topic":"a"}"#).await;
    assert_eq!(status, 503, "{answer}");
    // And what is on its way does not come.
    relay.cut();
    relay.stall(false);
    until_let_in(&b).await;
}

/// Joins are announced under keys, so that each is announced by one node.
#[tokio::test]
async fn joins_take_no_place_of_clients_idempotency_keys() {
    let pair = Pair::with("limits.idempotency_keys = 1\n").await;
    let watcher = Claims::all("watcher");
    let mut watcher = pair.a.ws_as(&watcher, "topics=presence:room:*").await;
    watcher.frame("live").await;
    let _alice = pair.a.ws("topics=room:1,room:2,room:3").await;
    for _ in 0..3 {
        assert_eq!(watcher.event().await["event"], "presence:join");
    }
    let publish = |key: &'static str| {
        let claims = Claims::all("bob");
        let request = pair.a.http.post(pair.a.url("/publish"));
        let request = request.bearer_auth(claims.token());
        request
            .header("Idempotency-Key", key)
            .body(r#"{"topic":"a"}"#)
    };
    for (key, status) in [("k", 200), ("k", 200), ("l", 503)] {
        let answer = publish(key).send().await.expect("an answer");
        assert_eq!(answer.status(), status, "{key}");
    }
}

#[tokio::test]
async fn publishes_of_a_subject_are_charged_at_all_nodes_where_limits_are_shared() {
    const BURST: usize = 10;
    let configured = "limits.publish_events_per_second = 1\nlimits.publish_burst = 10\n";
    let claimed = json!({"publish_burst": 50});
    let alice = Claims::all("alice");
    let claiming = alice.clone().with("limits", claimed);
    for (is_shared, claims, burst) in [
        (true, &alice, BURST),
        (false, &alice, BURST),
        // The other node has to know of more than it would allow.
        (true, &claiming, 50),
    ] {
        let pair = Pair::with(&format!("limits.shared = {is_shared}\n{configured}")).await;
        for _ in 0..burst {
            let (status, answer) = pair.a.post_as(claims, r#"{"topic":"a"}"#).await;
            assert_eq!(status, 200, "{answer}");
        }
        // Slowly enough to hear of the other node, and too fast to be paid back.
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        let mut accepted = 0;
        loop {
            pace.tick().await;
            let (status, answer) = pair.b.post_as(claims, r#"{"topic":"a"}"#).await;
            match status {
                200 => accepted += 1,
                _ => break assert_eq!(answer["code"], "rate_limited", "{answer}"),
            }
        }
        assert_eq!(accepted < BURST, is_shared, "{accepted}");
    }
}

/// Each would be told to all nodes, and stay in the log.
#[tokio::test]
async fn tickets_that_are_made_up_are_not_all_asked_about_in_the_log() {
    const FAILURES: u64 = 5;
    let pair = Pair::with(&format!("limits.failed_auths_per_minute = {FAILURES}")).await;
    let head = async || pair.a.scrape().await.value("tribus_head_sequence") as u64;
    let before = head().await;
    let mut refused = Vec::new();
    for number in 0..60 {
        let made_up = format!("{number:032}");
        let url = pair
            .a
            .url(&format!("/poll?topics=a&wait=0&ticket={made_up}"));
        let answer = within("an answer", pair.a.http.get(url).send()).await;
        refused.push(answer.expect("an answer").status().as_u16());
    }
    assert_eq!((refused[0], refused[59]), (401, 429), "{refused:?}");
    // Other notes come every few seconds.
    let grown = head().await - before;
    let notes = if matches!(engine(), Some(EngineKind::Nats)) {
        grown >> 12
    } else {
        grown
    };
    assert!(notes < 30, "{notes}");
    // Who has a good one is let in all the same.
    let ticket = ticket(&pair.a, json!({})).await;
    let url = pair
        .a
        .url(&format!("/poll?topics=a&wait=0&ticket={ticket}"));
    let answer = within("an answer", pair.a.http.get(url).send()).await;
    assert_eq!(answer.expect("an answer").status(), 200);
}

#[tokio::test]
async fn make_cluster_shows_three_nodes_on_one_log_behind_a_proxy() {
    // In turn: they have one folder.
    for engine in ["redis", "nats"] {
        shows_three_nodes_on_one_log(engine).await;
    }
}

async fn shows_three_nodes_on_one_log(engine: &str) {
    const KILLED_AFTER: u32 = 8;
    let address = free_address();
    let mut script = Command::new("sh");
    script
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cluster.sh"))
        .env("TRIBUS_BIN", env!("CARGO_BIN_EXE_tribus"))
        .env("ENGINE", engine)
        .env("PORT", address.port().to_string());
    let mut script = Program::start(script);
    let token = script.prints("export TRIBUS_TOKEN=").await;
    let token = token
        .trim()
        .trim_start_matches("export TRIBUS_TOKEN=")
        .to_owned();
    let first = script.prints("for example: kill ").await;
    let first = first.rsplit(' ').next().expect("a process").to_owned();

    let http = reqwest::Client::new();
    let ask = |path: String| {
        http.get(format!("http://{address}{path}"))
            .bearer_auth(&token)
            .send()
    };
    // A node that drains says so, and of one that has ended just then nginx does not know what it did.
    let is_passing = |status: u16| matches!(status, 502 | 503);
    let mut cursor = "earliest".to_owned();
    let mut nodes = BTreeSet::new();
    for number in 0..12 {
        let event = json!({"topic": "a", "data": number}).to_string();
        let published = async {
            loop {
                let publish = http.post(format!("http://{address}/publish"));
                let publish = publish.bearer_auth(&token).body(event.clone());
                let publish = publish.header("Idempotency-Key", format!("{number}"));
                match publish.send().await.expect("an answer").status().as_u16() {
                    200 => break,
                    status => assert!(number > KILLED_AFTER && is_passing(status), "{status}"),
                }
            }
        };
        within("a publish", published).await;
        // Wherever it is, the client finds the event there, and only this one.
        let polled = async {
            loop {
                let polled = ask(format!("/poll?topics=a&cursor={cursor}")).await;
                let polled = polled.expect("an answer");
                let status = polled.status().as_u16();
                if number <= KILLED_AFTER || !is_passing(status) {
                    break polled;
                }
            }
        };
        let polled = within("an answer", polled).await;
        let node = polled.headers()["tribus-node"].to_str().expect("text");
        nodes.insert(node.to_owned());
        let page: Value = polled.json().await.expect("JSON");
        assert_eq!(page["events"][0]["data"], number, "{page}");
        assert_eq!(page["events"].as_array().map(Vec::len), Some(1), "{page}");
        page["cursor"]
            .as_str()
            .expect("a cursor")
            .clone_into(&mut cursor);
        if number == KILLED_AFTER {
            assert_eq!(nodes.len(), 3, "{nodes:?}");
            let killed = Command::new("kill").arg(&first).status();
            assert!(killed.expect("kill runs").success());
        }
    }
    script.signal("TERM");
    let ended = script.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let gone = async { while ask("/".to_owned()).await.is_ok() {} };
    within("nginx to be gone", gone).await;
}
