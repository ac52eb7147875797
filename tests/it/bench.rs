//! `tribus bench`: what it finds in a good gateway, and that it notices what a bad one does.

mod peers;
mod tamper;

use serde_json::{Value, json};

use self::tamper::{Mischief, Tamper};
use crate::command_line::Serving;
use crate::support::{Claims, Ended, Program, Relay, TestGateway, TlsFiles, within};

/// Small and short, and a grace that a busy machine does not use up.
const SMALL: [(&str, &str); 5] = [
    ("--connections", "30"),
    ("--topics", "5"),
    ("--rate", "100"),
    ("--duration", "1s"),
    ("--grace", "5s"),
];
const EVENTS: u64 = 100;

/// A small run, but for what `more` says.
fn small<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let defaults = SMALL.iter().filter(|(name, _)| !more.contains(name));
    let defaults = defaults.flat_map(|(name, value)| [*name, *value]);
    std::iter::once("bench")
        .chain(defaults)
        .chain(more.iter().copied())
        .collect()
}

async fn bench(gateway: &TestGateway, claims: &Claims, more: &[&str]) -> Ended {
    let arguments = small(more);
    let (url, token) = (gateway.url(""), claims.token());
    let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", &token)];
    Program::tribus(&arguments, &variables).ended().await
}

/// The object of `--json`, and the exit code.
async fn outcome(gateway: &TestGateway, more: &[&str]) -> (Value, i32) {
    let more = [&["--json"], more].concat();
    let ended = bench(gateway, &Claims::all("bench"), &more).await;
    let code = ended.code.expect("an exit code");
    let parsed = serde_json::from_str(&ended.stdout);
    (parsed.unwrap_or_else(|_| panic!("JSON: {ended:?}")), code)
}

/// No client of any group was wronged.
fn assert_sound(outcome: &Value) {
    for row in outcome["groups"].as_array().expect("groups") {
        for fault in ["lost", "repeated", "outOfOrder", "strays", "resets"] {
            assert_eq!(row[fault], 0, "{fault} in {outcome}");
        }
        assert_eq!(row["connections"], row["live"], "{outcome}");
    }
    assert_eq!(outcome["ok"], true, "{outcome}");
}

#[tokio::test]
async fn bench_counts_what_clients_of_each_transport_got() {
    let gateway = TestGateway::start().await;
    let (outcome, code) = outcome(&gateway, &[]).await;
    assert_sound(&outcome);
    assert_eq!(code, 0);
    let rows = outcome["groups"].as_array().expect("groups");
    let names: Vec<_> = rows.iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["WebSocket", "SSE", "long-poll"]);
    for row in rows {
        // Two clients on each of five topics.
        assert_eq!(
            (&row["live"], &row["delivered"]),
            (&json!(10), &json!(2 * EVENTS))
        );
        let latency = |name: &str| row["latency"][name].as_f64().expect("a time");
        assert!(latency("p50") > 0.0, "{row}");
        assert!(
            latency("p50") <= latency("p99") && latency("p99") <= latency("max"),
            "{row}"
        );
    }
    assert_eq!(outcome["total"]["delivered"], 6 * EVENTS);
    let published = &outcome["published"];
    assert_eq!(
        (&published["accepted"], &published["failed"]),
        (&json!(EVENTS), &json!(0))
    );
    let timeline = outcome["timeline"].as_array().expect("seconds");
    let deliveries = timeline.iter().map(|second| second["deliveries"].as_u64());
    assert_eq!(deliveries.flatten().sum::<u64>(), 6 * EVENTS);
    assert!(outcome["deliveriesPerSecond"].as_f64().expect("a rate") > 0.0);
    assert!(outcome.get("gateway").is_none() && outcome.get("catchUp").is_none());
}

#[tokio::test]
async fn bench_prints_a_table_with_a_verdict() {
    let gateway = TestGateway::start().await;
    let ended = bench(&gateway, &Claims::all("bench"), &[]).await;
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), ""),
        "{ended:?}"
    );
    let table = &ended.stdout;
    for line in ["WebSocket", "SSE", "long-poll", "all", "bench: "] {
        assert!(
            table.lines().any(|of| of.starts_with(line)),
            "{line} in {table}"
        );
    }
    for part in [
        "30 connections, 5 topics, 100 events/s of 256 bytes for 1 s",
        "p99.9",
        "published 100 events, 0 failed",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    assert!(
        table.ends_with("every client got every event, once and in order\n"),
        "{table}"
    );
    assert!(!table.contains('\u{1b}'), "{table}");
}

#[tokio::test]
async fn bench_has_everyone_away_and_back_without_a_loss() {
    let gateway = TestGateway::start().await;
    let (outcome, code) = outcome(&gateway, &["--resume"]).await;
    assert_sound(&outcome);
    assert_eq!(code, 0);
    let back = &outcome["catchUp"];
    assert_eq!(
        (&back["clients"], &back["complete"]),
        (&json!(30), &json!(30))
    );
    // A hundred events of its topic for each.
    assert_eq!(back["deliveries"], 30 * 100);
    assert_eq!(outcome["total"]["delivered"], 6 * EVENTS + 30 * 100);
    assert_eq!(outcome["published"]["accepted"], EVENTS + 5 * 100);
    assert!(back["client"]["p50"].as_f64().expect("a time") > 0.0);
}

#[tokio::test]
async fn bench_hops_over_the_transports_without_a_loss() {
    let gateway = TestGateway::start().await;
    let (outcome, code) = outcome(&gateway, &["--hop", "--duration", "5s"]).await;
    assert_sound(&outcome);
    assert_eq!(code, 0);
    assert!(outcome["hops"].as_u64() >= Some(30), "{outcome}");
    assert_eq!(outcome["groups"][0]["name"], "hopping");
    assert_eq!(outcome["total"]["delivered"], 6 * 5 * EVENTS);
    assert_eq!(outcome["cut"], json!([]));
}

#[tokio::test]
async fn bench_tells_slow_clients_apart_and_they_catch_up() {
    let gateway = TestGateway::start().await;
    // More than the kernel holds for a client.
    let more = [
        "--slow",
        "20%",
        "--size",
        "30000",
        "--topics",
        "1",
        "--transport",
        "ws,sse",
    ];
    let (outcome, code) = outcome(&gateway, &more).await;
    assert_sound(&outcome);
    assert_eq!(code, 0);
    let slow = outcome["groups"]
        .as_array()
        .expect("groups")
        .last()
        .expect("a group");
    assert_eq!((&slow["name"], &slow["live"]), (&json!("slow"), &json!(6)));
    assert_eq!(slow["delivered"], 6 * EVENTS);
    // They began to read when all had been published, a second after the first event was due.
    let median = |row: &Value| row["latency"]["p50"].as_f64().expect("a time");
    assert!(median(slow) > 300.0, "{slow}");
    assert!(median(&outcome["total"]) < median(slow), "{outcome}");
}

#[tokio::test]
async fn bench_tells_what_the_process_of_a_gateway_takes() {
    let gateway = Serving::start(&[]).await;
    let (url, token) = (gateway.url(""), Claims::all("bench").token());
    let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", &token)];
    let pid = gateway.program.id().to_string();
    let arguments = small(&["--json", "--pid", &pid]);
    let ended = Program::tribus(&arguments, &variables).ended().await;
    let outcome: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let cost = &outcome["gateway"];
    assert!(
        cost["cpuMicrosecondsPerDelivery"].as_f64() > Some(0.0),
        "{outcome}"
    );
    assert!(
        cost["memoryIdleBytes"].as_u64() > Some(1 << 20),
        "{outcome}"
    );
    let gone = bench_at(&url, &["--pid", "4294967294"]).await;
    assert_eq!(gone.code, Some(1));
    assert!(
        gone.stderr.contains("no such process on this machine"),
        "{gone:?}"
    );
}

#[tokio::test]
async fn bench_speaks_tls() {
    let files = TlsFiles::new();
    let ca = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca.path(), files.authority.pem()).expect("a written file");
    let toml = format!(
        "tls.cert = \"{}\"\ntls.key = \"{}\"",
        files.cert().display(),
        files.key().display()
    );
    let gateway = TestGateway::with(&toml).await;
    let url = format!("https://{}", gateway.address);
    let ca = ca.path().to_str().expect("a path");
    let ended = bench_at(&url, &["--json", "--resume", "--slow", "10%", "--ca", ca]).await;
    let outcome: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_sound(&outcome);
    let stranger = bench_at(&url, &[]).await;
    assert_eq!(stranger.code, Some(1));
    assert!(
        stranger
            .stderr
            .contains("from no authority that is trusted here"),
        "{stranger:?}"
    );
}

async fn bench_at(url: &str, more: &[&str]) -> Ended {
    let token = Claims::all("bench").token();
    let variables = [("TRIBUS_URL", url), ("TRIBUS_TOKEN", &token)];
    Program::tribus(&small(more), &variables).ended().await
}

#[tokio::test]
async fn bench_notices_events_that_are_lost_repeated_and_out_of_order() {
    let gateway = TestGateway::start().await;
    // Of 20 events of its topic, each of the 30 clients is cheated once.
    for (mischief, fault, wronged) in [
        (Mischief::Drop, "lost", 1),
        (Mischief::Repeat, "repeated", 1),
        (Mischief::Swap, "outOfOrder", 1),
        // The seventh and all that follow.
        (Mischief::FallSilent, "lost", 14),
    ] {
        let relay = Tamper::before(gateway.address, mischief).await;
        let url = format!("http://{}", relay.address);
        let more = ["--json", "--transport", "ws", "--grace", "1s"];
        let ended = bench_at(&url, &more).await;
        assert_eq!(ended.code, Some(1), "{mischief:?}: {ended:?}");
        let outcome: Value = serde_json::from_str(&ended.stdout).expect("JSON");
        assert_eq!(outcome["ok"], false);
        for name in ["lost", "repeated", "outOfOrder"] {
            let expected = if name == fault { 30 * wronged } else { 0 };
            assert_eq!(
                outcome["total"][name], expected,
                "{mischief:?}: {name} in {outcome}"
            );
        }
        let table = bench_at(&url, &more[1..]).await;
        let verdict = table.stdout.lines().last().expect("a verdict").to_owned();
        assert!(
            verdict.starts_with(&format!("{} events ", 30 * wronged)),
            "{verdict}"
        );
    }
}

#[tokio::test]
async fn bench_tells_resets_and_does_not_count_what_they_tell_of_as_lost() {
    let gateway = TestGateway::with("retention.events = 20").await;
    let (outcome, code) = outcome(&gateway, &["--resume", "--topics", "1"]).await;
    let total = &outcome["total"];
    assert_eq!(
        (&total["resets"], &total["missedByReset"]),
        (&json!(30), &json!(30 * 100))
    );
    assert_eq!((&total["lost"], &total["repeated"]), (&json!(0), &json!(0)));
    assert_eq!((&outcome["ok"], code), (&json!(true), 0), "{outcome}");
}

#[tokio::test]
async fn bench_tells_a_refusal_once_and_what_to_do() {
    let gateway = TestGateway::start().await;
    let url = gateway.url("");
    let anonymous = Program::tribus(&small(&[]), &[("TRIBUS_URL", &url)])
        .ended()
        .await;
    assert_eq!(anonymous.code, Some(1));
    assert_eq!(
        anonymous.stderr.matches("unauthorized").count(),
        1,
        "{anonymous:?}"
    );
    assert!(
        anonymous
            .stderr
            .contains("no token was given: set TRIBUS_TOKEN"),
        "{anonymous:?}"
    );
    let mute = Claims::new("bench").with("subscribe", json!(["bench:**"]));
    let deaf = Claims::new("bench").with("publish", json!(["bench:**"]));
    for (claims, advice) in [
        (mute, "tribus token --sub NAME --publish 'bench:**'"),
        (deaf, "tribus token --sub NAME --subscribe 'bench:**'"),
    ] {
        let ended = bench(&gateway, &claims, &[]).await;
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert!(ended.stderr.contains(advice), "{ended:?}");
        assert_eq!(ended.stderr.matches("forbidden").count(), 1, "{ended:?}");
    }
}

#[tokio::test]
async fn bench_tells_how_many_clients_were_not_let_in_and_goes_on_with_the_others() {
    let gateway = TestGateway::with("limits.connections_per_subject = 20").await;
    let more = ["--transport", "ws"];
    let (outcome, code) = outcome(&gateway, &more).await;
    assert_eq!(code, 1);
    let total = &outcome["total"];
    assert_eq!(
        (&total["live"], &total["lost"]),
        (&json!(20), &json!(0)),
        "{outcome}"
    );
    assert_eq!(outcome["refused"][0]["count"], 10, "{outcome}");
    let delayed = outcome["delayed"][0]["what"].as_str().expect("a reason");
    assert!(delayed.starts_with("too_many_connections: "), "{delayed}");
}

/// Waits until so many events were published.
async fn until_published(stats: &str, events: u64) {
    let token = Claims::all("watcher").token();
    let client = reqwest::Client::new();
    within("the events to come", async {
        loop {
            let answer = client.get(stats).bearer_auth(&token).send().await;
            let stats: Value = answer.expect("an answer").json().await.expect("JSON");
            if stats["published"].as_u64() >= Some(events) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// An instrument that publishes the next event when the last one is through would find one late event here.
#[tokio::test]
async fn bench_counts_the_latency_of_what_was_due_while_nothing_went_through() {
    let gateway = TestGateway::start().await;
    let relay = Relay::to(gateway.address).await;
    let url = format!("http://{}", relay.address);
    let token = Claims::all("bench").token();
    let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", &token)];
    let arguments = small(&["--json", "--duration", "3s"]);
    let running = Program::tribus(&arguments, &variables);
    until_published(&gateway.url("/stats"), 20).await;
    relay.stall(true);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    relay.stall(false);
    let ended = running.ended().await;
    let outcome: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    assert_sound(&outcome);
    assert_eq!(outcome["published"]["accepted"], 3 * EVENTS);
    // A third of the events were due then, and waited from nothing to a second.
    let latency = |name: &str| outcome["total"]["latency"][name].as_f64().expect("a time");
    assert!(
        latency("p90") > 400.0 && latency("max") > 800.0,
        "{outcome}"
    );
    let behind = outcome["published"]["behind"]["max"].as_f64();
    assert!(behind > Some(500.0), "{outcome}");
}

#[tokio::test]
async fn bench_survives_a_gateway_that_restarts() {
    let grace = ("TRIBUS__SHUTDOWN__GRACE", "1s");
    let log = tempfile::tempdir().expect("a directory");
    let path = log.path().to_str().expect("a path");
    let disk = [
        grace,
        ("TRIBUS__BUS__ENGINE", "disk"),
        ("TRIBUS__BUS__DISK__PATH", path),
    ];
    let gateway = Serving::start(&disk).await;
    let address = gateway.address.clone();
    let (url, token) = (gateway.url(""), Claims::all("bench").token());
    let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", &token)];
    let more = ["--json", "--duration", "6s"];
    let running = Program::tribus(&small(&more), &variables);
    until_published(&gateway.url("/stats"), 20).await;
    assert_eq!(gateway.terminate().await.code, Some(0));
    let _gateway = Serving::start_on(&address, &disk).await;
    let ended = running.ended().await;
    let outcome: Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended:?}"));
    let total = &outcome["total"];
    for fault in ["lost", "repeated", "outOfOrder", "resets"] {
        assert_eq!(total[fault], 0, "{fault} in {outcome}");
    }
    // All were told, and came back; what was published meanwhile failed, and nobody is blamed for it.
    let cut = outcome["cut"].as_array().expect("reasons");
    let count: u64 = cut.iter().filter_map(|cut| cut["count"].as_u64()).sum();
    assert!(count >= 30, "{outcome}");
    let published = &outcome["published"];
    let all = published["accepted"]
        .as_u64()
        .zip(published["failed"].as_u64());
    assert_eq!(
        all.map(|(accepted, failed)| accepted + failed),
        Some(6 * EVENTS)
    );
}

#[tokio::test]
async fn bench_writes_a_page_that_asks_nobody_for_anything() {
    let gateway = TestGateway::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("run.html");
    let path = file.to_str().expect("a path");
    let ended = bench(&gateway, &Claims::all("bench"), &["--report", path]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let page = std::fs::read_to_string(&file).expect("a page");
    assert!(page.starts_with("<!doctype html>"));
    assert_eq!(page.matches("<svg ").count(), 2, "{page}");
    for part in [
        "default-src 'none'",
        "once and in order",
        "long-poll",
        "99.9 %",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let own = gateway.url("");
    for outside in ["src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside} in {page}");
    }
    assert_eq!(
        page.matches("http://").count(),
        page.matches(&own).count(),
        "{page}"
    );
    let nowhere = bench(
        &gateway,
        &Claims::all("bench"),
        &["--report", "/nowhere/run.html"],
    )
    .await;
    assert_eq!((nowhere.code, nowhere.stdout.as_str()), (Some(1), ""));
    assert!(
        nowhere
            .stderr
            .contains("cannot write --report /nowhere/run.html"),
        "{nowhere:?}"
    );
}

#[tokio::test]
async fn bench_refuses_nonsense_before_it_asks_anybody() {
    for (arguments, part) in [
        (
            &["--topics", "335"][..],
            "--topics 335 is more than 1000 connections on 3 transports",
        ),
        (
            &["--hop", "--transport", "sse"],
            "--hop goes from one transport to the next",
        ),
        (&["--size", "10"], "--size is from 38 bytes"),
        (
            &["--connections", "2"],
            "--connections 2 is less than one for each of 3 transports",
        ),
        (&["--rate", "0"], "--rate is from 1"),
    ] {
        let all = [&["bench"], arguments].concat();
        let ended = Program::tribus(&all, &[("TRIBUS_URL", "http://127.0.0.1:1")])
            .ended()
            .await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.stderr.contains(part), "{part} in {ended:?}");
    }
    let wire = Program::tribus(&["bench", "--transport", "carrier-pigeon"], &[])
        .ended()
        .await;
    assert_eq!(wire.code, Some(2));
    let share = Program::tribus(&["bench", "--slow", "lots"], &[])
        .ended()
        .await;
    assert!(
        share.stderr.contains("a share is written as 5%"),
        "{share:?}"
    );
}
