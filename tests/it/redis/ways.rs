//! The way to Redis: TLS, Sentinels, a user with few rights, and what is told where there is none.

use std::time::Duration;

use serde_json::{Value, json};
use tribus::{config::Config, gateway::Gateway};

use super::gateway_at;
use crate::{
    durability::until_ready_is,
    support::{
        Authority, Node, RedisServer, Relay, SECRET, SYNCED, TRANSPORTS, TestGateway, VOLATILE,
        free_address, replay, within,
    },
};

/// All that a gateway does in Redis, as docs/operations.md has it.
const RIGHTS: &[&str] = &[
    "~tribus:{n}:*",
    "+@read",
    "+@write",
    "+@scripting",
    "+@transaction",
    "+@connection",
    "+info",
    "+role",
    "+config|get",
];

#[tokio::test]
async fn a_user_who_may_use_the_keys_of_the_namespace_is_enough() {
    let server = RedisServer::start(VOLATILE).await;
    let rule = [&["ACL", "SETUSER", "tribus", "on", ">s3cret"], RIGHTS].concat();
    server.command(&rule);
    let docs = std::fs::read_to_string("docs/operations.md").expect("the documentation");
    assert!(docs.contains(&RIGHTS[1..].join(" ")), "they are told");
    let url = server.url().replace("redis://", "redis://tribus:s3cret@");
    let gateway = gateway_at(&url, "n", "retention.events = 8").await;
    let first = gateway.publish("x", json!(0)).await;
    for number in 0..40 {
        gateway.publish("x", json!(number)).await;
    }
    server.command(&[
        "XADD",
        "tribus:{n}:ingest",
        "*",
        "topic",
        "x",
        "data",
        "\"in\"",
    ]);
    let mut ws = gateway.ws("topics=x&rewind=1").await;
    while ws.event().await["data"] != "in" {}
    let (status, page) = gateway.poll(&format!("topics=x&cursor={first}")).await;
    assert_eq!(status, 410, "{page}");
    gateway
        .scrape_until("the log to be measured", |scrape| {
            scrape.value("tribus_log_stored_bytes") > 0.0
        })
        .await;
    let told = server.command(&["ACL", "LOG"]);
    assert_eq!(
        told,
        ::redis::Value::Array(Vec::new()),
        "nothing was denied"
    );
}

#[tokio::test]
async fn the_log_is_reached_by_tls() {
    let authority = Authority::new();
    let issued = authority.issue();
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let roots = file("ca.pem", &authority.pem());
    let cert = file("cert.pem", &issued.certificate_pem);
    let key = file("key.pem", &issued.key_pem);
    let port = free_address().port().to_string();
    let by_tls = [
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &roots,
        "--tls-auth-clients",
        "no",
    ];
    let _server = RedisServer::start(&[VOLATILE, &by_tls].concat()).await;
    let url = format!("rediss://localhost:{port}");
    let mut node = Node::new(&[("BUS__ENGINE", "redis"), ("BUS__REDIS__URL", &url)]);
    node.start_under(&[], &[("SSL_CERT_FILE", &roots)]).await;
    node.gateway().publish("x", json!(1)).await;
    node.terminate().await;
    // Whoever is not known to be it is not spoken to.
    assert!(!node.try_to_start(&[], &[]).await);
    let refused = node.ended().await;
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master_and_nobody_is_reset() {
    let mut master = RedisServer::start(VOLATILE).await;
    let replica = RedisServer::start(VOLATILE).await;
    replica.follow(master.address).await;
    let sentinel = RedisServer::sentinel(master.address).await;
    within("the Sentinel to know the replica", async {
        loop {
            let known = sentinel.command(&["SENTINEL", "REPLICAS", "watched"]);
            if matches!(&known, ::redis::Value::Array(known) if !known.is_empty()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let gateway = gateway_by(&sentinel).await;
    let first = gateway.publish("x", json!(0)).await;
    let mut ids = Vec::new();
    for number in 1..20 {
        ids.push(json!(gateway.publish("x", json!(number)).await));
    }
    replica.has_caught_up_with(&master).await;
    master.kill();
    let publish = json!({"topic": "x", "data": "after"}).to_string();
    let after = within("the new master to take publishes", async {
        loop {
            match gateway.post(&publish).await {
                (200, answer) => break answer,
                (status, answer) => assert_eq!(status, 503, "{answer}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    ids.push(after["id"].clone());
    for transport in TRANSPORTS {
        let there = replay(&gateway, transport, &format!("topics=x&cursor={first}")).await;
        let got: Vec<_> = there.iter().map(|event| event["id"].clone()).collect();
        assert_eq!(got, ids, "{transport:?}");
    }
}

async fn gateway_by(sentinel: &RedisServer) -> TestGateway {
    TestGateway::with(&format!(
        "bus.engine = \"redis\"\nbus.redis.master = \"watched\"\n\
         bus.redis.sentinels = [\"{}\"]\nbus.redis.timeout = \"1s\"\n\
         bus.redis.memory = \"4KiB\"",
        sentinel.url()
    ))
    .await
}

#[tokio::test]
async fn a_redis_that_is_of_no_use_is_told_at_the_start_with_its_address_and_without_a_password() {
    let server = RedisServer::start(VOLATILE).await;
    let replica = RedisServer::start(VOLATILE).await;
    replica.follow(server.address).await;
    for (address, login, why) in [
        (free_address(), "", "refused"),
        (replica.address, "", "replica"),
        (server.address, "someone:s3cret@", "assword"),
    ] {
        let config = Config::from_toml(&format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
             bus.engine = \"redis\"\nbus.redis.url = \"redis://{login}{address}\"\n\
             bus.redis.timeout = \"300ms\"\nauth.hs256_secret = \"{SECRET}\""
        ));
        let config = config.expect("a configuration");
        let refused = Gateway::bind(config).err().expect("an error");
        let told = format!("{refused:#}");
        assert!(told.contains(&address.to_string()), "{told}");
        assert!(told.contains(why), "{why}: {told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

#[tokio::test]
async fn operators_are_told_of_the_server_and_how_far_the_node_is_behind() {
    let server = RedisServer::start(SYNCED).await;
    let relay = Relay::to(server.address).await;
    let node = gateway_at(&relay.url(), "n", "").await;
    let other = gateway_at(&server.url(), "n", "").await;
    until_ready_is(&node, 200).await;
    let ready = details(&node).await;
    assert_eq!(ready["ready"], true, "{ready}");
    assert_eq!(ready["said"], "ready");
    assert_eq!(ready["engine"], "redis");
    assert_eq!(ready["durability"], "sync");
    let told = &ready["server"];
    assert_eq!(told["address"], relay.address.to_string());
    assert_eq!(told["role"], "master");
    let major = told["version"]
        .as_str()
        .and_then(|version| version.split('.').next());
    assert!(
        major.is_some_and(|major| major.parse::<u32>().is_ok()),
        "{told}"
    );
    // It asks where the log ends, and has not read up to there.
    relay.delay(Duration::from_millis(300));
    let until_behind = async {
        loop {
            let (status, answer) = other.post(r#"{"topic":"x"}"#).await;
            assert_eq!(status, 200, "{answer}");
            if details(&node).await["server"]["behind"] != 0 {
                return;
            }
        }
    };
    within("the node to be behind", until_behind).await;
    relay.delay(Duration::ZERO);
    let caught_up = async { while details(&node).await["server"]["behind"] != 0 {} };
    within("the node to catch up", caught_up).await;
    relay.stall(true);
    until_ready_is(&node, 503).await;
    let cut_off = details(&node).await;
    assert_eq!(cut_off["ready"], false, "{cut_off}");
    assert!(
        cut_off["server"]["heardMs"].as_u64() >= Some(5000),
        "{cut_off}"
    );
    assert_eq!(details(&other).await["ready"], true);
}

/// `/readyz` as JSON.
async fn details(node: &TestGateway) -> Value {
    let asked = node.http.get(node.admin_url("/readyz"));
    let asked = asked.header("Accept", "application/json").send();
    let answer = within("/readyz", asked).await.expect("an answer");
    answer.json().await.expect("JSON")
}
