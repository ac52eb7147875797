//! The way to NATS: users, TLS, clusters, both ends of the releases that will do, and what is told
//! where there is none.

use std::time::Duration;

use async_nats::jetstream::stream::{Config as StreamConfig, RetentionPolicy};
use serde_json::{Value, json};
use tribus::{config::Config, gateway::Gateway};

use super::{gateway, gateway_at};
use crate::support::{
    Authority, Claims, NatsServer, Node, SECRET, TRANSPORTS, TestGateway, free_address, replay,
    within,
};

/// What is told of a gateway that can not start.
fn refused(url: &str, toml: &str) -> String {
    let config = Config::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         bus.engine = \"nats\"\nbus.namespace = \"n\"\nbus.nats.url = \"{url}\"\n\
         bus.nats.timeout = \"500ms\"\nauth.hs256_secret = \"{SECRET}\"\n{toml}"
    ));
    let refused = Gateway::bind(config.expect("a configuration")).err();
    format!("{:#}", refused.expect("an error"))
}

async fn start_with(settings: &str) -> NatsServer {
    let release = NatsServer::release();
    NatsServer::start_with(&NatsServer::program(&release), free_address(), settings).await
}

#[tokio::test]
async fn a_user_with_a_password_gets_in_and_no_other_is_told_its_password() {
    let settings = "authorization { user: tribus, password: \"s3cret\" }";
    let server = start_with(settings).await;
    let login = |login: &str| format!("nats://{login}@{}", server.address);
    let gateway = gateway_at(&login("tribus:s3cret"), "n", "").await;
    gateway.publish("x", json!(1)).await;
    for wrong in ["tribus:s3cret2", "s3cret3"] {
        let told = refused(&login(wrong), "");
        assert!(told.contains(&server.address.to_string()), "{told}");
        assert!(told.contains("let this user in"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}

/// All that a gateway does in NATS, as docs/operations.md has it.
const RIGHTS: &str = "publish: [\"tribus.n.>\", \"$JS.API.>\", \"$JS.ACK.>\", \
                      \"$JS.FC.>\"], subscribe: [\"_INBOX.>\"]";

#[tokio::test]
async fn a_user_who_may_use_the_subjects_of_the_namespace_is_enough() {
    let docs = std::fs::read_to_string("docs/operations.md").expect("the documentation");
    let told = RIGHTS.replace("tribus.n.", "tribus.{NAMESPACE}.");
    assert!(docs.contains(&told), "they are told");
    let server = start_with(&format!(
        "authorization {{ users: [{{ user: all, password: all }}, \
         {{ user: few, password: few, permissions: {{ {RIGHTS} }} }}] }}\nno_auth_user: all"
    ))
    .await;
    let url = format!("nats://few:few@{}", server.address);
    let gateway = gateway_at(&url, "n", "retention.events = 64").await;
    let first = gateway.publish("x", json!(0)).await;
    let mut last = String::new();
    for number in 0..200 {
        let filler = "x".repeat(4000);
        last = gateway.publish("x", json!([number, filler])).await;
    }
    let mut ws = gateway.ws("topics=x&cursor=earliest").await;
    while ws.event().await["id"] != last {}
    let jetstream = server.jetstream().await;
    within("the queue to be there", async {
        while jetstream.get_stream("TRIBUS_n_INGEST").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let event = r#"{"topic":"x","data":"in"}"#;
    let sent = jetstream.publish("tribus.n.ingest", event.into()).await;
    sent.expect("it is sent").await.expect("it is stored");
    assert_eq!(ws.event().await["data"], "in");
    until_noted_as_gone(&server).await;
    let late = gateway_at(&url, "n", "").await;
    let (status, page) = late.poll(&format!("topics=x&cursor={first}")).await;
    assert_eq!(status, 410, "{page}");
    let told = server.log();
    assert!(!told.contains("ermission"), "{told}");
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
    let settings = format!("tls {{ cert_file: {cert:?}, key_file: {key:?} }}");
    let address = free_address();
    let program = NatsServer::program(&NatsServer::release());
    let _server = NatsServer::spawn_with(&program, address, &settings);
    let url = format!("tls://localhost:{}", address.port());
    let mut node = Node::new(&[("BUS__ENGINE", "nats"), ("BUS__NATS__URL", &url)]);
    node.start_under(&[], &[("SSL_CERT_FILE", &roots)]).await;
    node.gateway().publish("x", json!(1)).await;
    node.terminate().await;
    // Whoever is not known to be it is not spoken to.
    assert!(!node.try_to_start(&[], &[]).await);
    let refused = node.ended().await;
    assert!(refused.stderr.contains("certificate"), "{}", refused.stderr);
}

#[tokio::test]
async fn what_is_of_no_use_is_told_at_the_start() {
    let nobody = free_address();
    let told = refused(&format!("nats://{nobody}"), "");
    assert!(
        told.contains(&nobody.to_string()) && told.contains("refused"),
        "{told}"
    );
    let server = NatsServer::start().await;
    let told = refused(&server.url(), "bus.nats.replicas = 3");
    assert!(told.contains("replicas"), "{told}");
    let config = StreamConfig {
        name: "TRIBUS_n".to_owned(),
        subjects: vec!["tribus.n.log".to_owned()],
        retention: RetentionPolicy::WorkQueue,
        duplicate_window: Duration::from_secs(600),
        ..StreamConfig::default()
    };
    let jetstream = server.jetstream().await;
    jetstream.create_stream(config).await.expect("a stream");
    let told = refused(&server.url(), "");
    assert!(
        told.contains("TRIBUS_n") && told.contains("limits"),
        "{told}"
    );
    jetstream
        .delete_stream("TRIBUS_n")
        .await
        .expect("an answer");
    let config = StreamConfig {
        name: "TRIBUS_n".to_owned(),
        subjects: vec!["tribus.n.log".to_owned()],
        duplicate_window: Duration::from_secs(600),
        deny_purge: true,
        ..StreamConfig::default()
    };
    jetstream.create_stream(config).await.expect("a stream");
    let told = refused(&server.url(), "");
    assert!(told.contains("purge"), "{told}");
}

/// A server that starts knows the keys of what it has.
#[tokio::test]
async fn a_key_is_known_after_a_restart_though_its_event_is_retained_no_more() {
    let mut server = NatsServer::start().await;
    let narrow = "retention.events = 16";
    let node = gateway_at(&server.url(), "n", narrow).await;
    let first = publish_with("k", "x", &node).await;
    assert_eq!(first["duplicate"], Value::Null, "{first}");
    for number in 0..100 {
        node.publish("x", json!(number)).await;
    }
    until_noted_as_gone(&server).await;
    let log = server.stream("n", "").await;
    let state = log.get_info().await.expect("an answer").state;
    assert_eq!(state.first_sequence, 1, "{state:?}");
    server.kill();
    server.start_again().await;
    let again = within("an answer", async {
        loop {
            let again = publish_with("k", "x", &node).await;
            if again["id"] != Value::Null {
                return again;
            }
        }
    })
    .await;
    assert_eq!(again["duplicate"], true, "{again}");
    assert_eq!(again["id"], first["id"]);
}

/// Until a node that starts is told what is not retained any more.
async fn until_noted_as_gone(server: &NatsServer) {
    let trims = server.stream("n", "_META").await;
    let table = "tribus.n.trims.0";
    within("it to be noted as gone", async {
        while trims.get_last_raw_message_by_subject(table).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

async fn publish_with(key: &str, topic: &str, node: &TestGateway) -> Value {
    let request = node.http.post(node.url("/publish"));
    let request = request.bearer_auth(Claims::all("backend").token());
    let request = request.header("Idempotency-Key", key);
    let body = json!({"topic": topic}).to_string();
    let answer = request.body(body).send().await;
    answer.expect("an answer").json().await.expect("JSON")
}

#[tokio::test]
async fn a_log_of_a_newer_version_is_refused_and_left_alone() {
    let server = NatsServer::start().await;
    let gateway = gateway(&server, "n").await;
    gateway.stop().await;
    let jetstream = server.jetstream().await;
    let newer = r#"{"format":99,"anything":"else"}"#;
    let sent = jetstream.publish("tribus.n.meta", newer.into()).await;
    sent.expect("it is sent").await.expect("it is stored");
    let told = refused(&server.url(), "");
    assert!(told.contains("format 99"), "{told}");
    assert!(told.contains("newer version"), "{told}");
    let meta = server.stream("n", "_META").await;
    let there = meta.get_last_raw_message_by_subject("tribus.n.meta").await;
    assert_eq!(there.expect("it is there").payload, newer);
}

#[tokio::test]
async fn messages_that_no_gateway_wrote_are_left_out_and_do_no_harm() {
    let server = NatsServer::shared().await;
    let namespace = NatsServer::namespace();
    let a = gateway(server, &namespace).await;
    let b = gateway(server, &namespace).await;
    let mut ws = b.ws("topics=x").await;
    let jetstream = server.jetstream().await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let subject = format!("tribus.{namespace}.log");
        let sent = jetstream.publish(subject, "anything".into()).await;
        sent.expect("it is sent").await.expect("it is stored");
        ids.push(json!(a.publish("x", json!(number)).await));
    }
    for id in &ids {
        assert_eq!(ws.event().await["id"], *id);
    }
    let late = gateway(server, &namespace).await;
    for node in [&a, &b, &late] {
        let there = replay(node, TRANSPORTS[0], "topics=x&cursor=earliest").await;
        let got: Vec<_> = there.iter().map(|event| event["id"].clone()).collect();
        assert_eq!(got, ids);
        let scrape = node.scrape().await;
        assert_eq!(scrape.value("tribus_log_lost_total"), 0.0);
    }
    let scrape = b.scrape().await;
    assert_eq!(scrape.value("tribus_log_foreign_entries_total"), 5.0);
}

#[tokio::test]
async fn what_nats_does_not_take_at_once_is_refused_and_what_it_takes_goes_on() {
    let server = start_with("max_payload: 64KB").await;
    let gateway = gateway(&server, "n").await;
    let data = "x".repeat(30_000);
    let events = |count: usize| json!(vec![json!({"topic": "x", "data": data}); count]).to_string();
    let (status, answer) = gateway.post(&events(4)).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")));
    let told = answer["message"].as_str().expect("a message");
    assert!(told.contains("max_payload"), "{told}");
    let (status, answer) = gateway.post(&events(2)).await;
    assert_eq!((status, &answer["durability"]), (200, &json!("os")));
}

/// The oldest release and the newest: what differs between them is all in the way a log begins, is
/// followed, read back and claimed again.
#[tokio::test]
async fn each_release_keeps_a_log() {
    for release in ["oldest", "newest"] {
        let program = NatsServer::program(release);
        let mut server = NatsServer::start_with(&program, free_address(), "").await;
        let gateway = gateway(&server, "n").await;
        let first = gateway.publish("x", json!(0)).await;
        let mut ids = Vec::new();
        for round in 0..3 {
            for number in 0..20 {
                let filler = "x".repeat(1000);
                ids.push(json!(gateway.publish("x", json!([number, filler])).await));
            }
            server.kill();
            server.start_again().await;
            ids.push(json!(until_published(&gateway, round).await));
        }
        let late = gateway_at(&server.url(), "n", "").await;
        for node in [&gateway, &late] {
            for transport in TRANSPORTS {
                let query = format!("topics=x&cursor={first}");
                let there = replay(node, transport, &query).await;
                let got: Vec<Value> = there.iter().map(|event| event["id"].clone()).collect();
                assert_eq!(got, ids, "{release} {transport:?}");
            }
        }
    }
}

async fn until_published(gateway: &TestGateway, data: u32) -> String {
    let body = json!({"topic": "x", "data": data}).to_string();
    within("a publish to be taken", async {
        loop {
            match gateway.post(&body).await {
                (200, answer) => break answer["id"].as_str().expect("an id").to_owned(),
                (status, answer) => {
                    assert_eq!(status, 503, "{answer}");
                    let told = answer["message"].as_str().expect("a message");
                    assert!(told.contains("nothing was published"), "{told}");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Three servers, each of which may go.
#[tokio::test]
async fn a_log_on_three_servers_outlives_each_of_them() {
    let addresses: Vec<_> = (0..3).map(|_| free_address()).collect();
    let routes: Vec<_> = (0..3).map(|_| free_address()).collect();
    let all: Vec<String> = routes.iter().map(|at| format!("nats://{at}")).collect();
    let program = NatsServer::program(&NatsServer::release());
    let servers = addresses.iter().zip(&routes).enumerate();
    let mut servers: Vec<NatsServer> = servers
        .map(|(number, (address, route))| {
            let settings = format!(
                "server_name: s{number}\n\
                 cluster {{ name: c, listen: \"{route}\", routes: [{}] }}",
                all.join(", ")
            );
            NatsServer::spawn_with(&program, *address, &settings)
        })
        .collect();
    for server in &servers {
        server.answers().await;
    }
    let urls: Vec<String> = servers.iter().map(NatsServer::url).collect();
    let urls = urls.join(",");
    let told = within("the cluster to be one", async {
        loop {
            let told = refused(&urls, "");
            if told.contains("bus.nats.replicas = 3") {
                break told;
            }
        }
    })
    .await;
    assert!(told.contains("cluster"), "{told}");
    let gateway = gateway_at(&urls, "three", "bus.nats.replicas = 3").await;
    let first = gateway.publish("x", json!(0)).await;
    let mut ids = Vec::new();
    for server in &mut servers {
        server.kill();
        for number in 0..5 {
            ids.push(json!(until_taken(&gateway, number).await));
        }
        server.start_again().await;
        until_all_have_it(server).await;
    }
    let (_, answer) = gateway.post(r#"{"topic":"y"}"#).await;
    assert_eq!(answer["durability"], "replicated", "{answer}");
    let details = gateway.http.get(gateway.admin_url("/readyz"));
    let details = details.header("Accept", "application/json").send().await;
    let details: Value = details.expect("an answer").json().await.expect("JSON");
    let server = &details["server"];
    assert_eq!(details["durability"], "replicated", "{details}");
    assert_eq!(
        (&server["replicas"], &server["storage"], &server["cluster"]),
        (&json!(3), &json!("disk"), &json!("c"))
    );
    // A key that is under way is waited for, however the servers agree on it.
    for number in 0..20 {
        let key = format!("same-{number}");
        let at_once = (0..8).map(|_| publish_with(&key, "y", &gateway));
        let answers = futures_util::future::join_all(at_once).await;
        let first = &answers[0]["id"];
        assert!(first.is_string(), "{answers:?}");
        assert!(
            answers.iter().all(|answer| answer["id"] == *first),
            "{answers:?}"
        );
    }
    for transport in TRANSPORTS {
        let there = replay(&gateway, transport, &format!("topics=x&cursor={first}")).await;
        let got: Vec<Value> = there.iter().map(|event| event["id"].clone()).collect();
        assert_eq!(got, ids, "{transport:?}");
    }
}

/// Until one more server may go.
async fn until_all_have_it(server: &NatsServer) {
    within("all servers to have the log", async {
        loop {
            let jetstream = server.jetstream().await;
            if let Ok(log) = jetstream.get_stream("TRIBUS_three").await
                && let Some(cluster) = &log.cached_info().cluster
                && cluster.leader.is_some()
                && cluster.replicas.len() == 2
                && cluster.replicas.iter().all(|peer| peer.current)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// Elections of the cluster and of the stream may take that long, one after the other.
const ELECTIONS: Duration = Duration::from_secs(60);

/// Under a key, so that one that is not answered is not there twice.
async fn until_taken(gateway: &TestGateway, number: u32) -> String {
    let key = format!("{number}-{}", fastrand::u64(..));
    let taken = tokio::time::timeout(ELECTIONS, async {
        loop {
            let answer = publish_with(&key, "x", gateway).await;
            if let Some(id) = answer["id"].as_str() {
                break id.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    taken.await.expect("two servers of three take publishes")
}
