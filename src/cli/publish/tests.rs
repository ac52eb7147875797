//! Publishing against scripted answers.

use super::*;
use crate::cli::scripted::{Scripted, json, parse};

/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

fn args(url: &str, rest: &[&str]) -> Args {
    let mut line = vec!["--url", url, "--token", "t0ken"];
    line.extend(rest);
    parse(&line).unwrap()
}

fn accepted(id: &str) -> String {
    json("200 OK", "", &format!(r#"{{"id":"{id}"}}"#))
}

fn refused(status: &str, code: &str) -> String {
    json(
        status,
        "",
        &format!(r#"{{"type":"error","code":"{code}","message":"said the gateway"}}"#),
    )
}

fn header<'a>(request: &'a str, name: &str) -> &'a str {
    let found = request
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap_or_else(|| panic!("no {name} in {request}"))
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").unwrap().1
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[tokio::test]
async fn one_event_is_sent_as_it_was_given() {
    let gateway = Scripted::http(vec![accepted("k-1")]).await;
    let rest = [
        "order:1",
        r#"{"n":1.000, "m":10000000000000000000001}"#,
        "--event",
        "order:paid",
        "--tag",
        "eu:yes",
    ];
    run(args(
        &gateway.url,
        &[&rest[..], &["--ephemeral", "--key", "mine"]].concat(),
    ))
    .await
    .unwrap();
    let requests = gateway.requests().await;
    assert!(requests[0].starts_with("POST /publish HTTP/1.1\r\n"));
    assert_eq!(header(&requests[0], "idempotency-key"), "mine");
    assert_eq!(header(&requests[0], "authorization"), "Bearer t0ken");
    assert_eq!(
        body(&requests[0]),
        r#"{"topic":"order:1","event":"order:paid","data":{"n":1.000, "m":10000000000000000000001},"tags":{"eu":"yes"},"ephemeral":true}"#
    );
}

#[tokio::test]
async fn a_retry_repeats_the_key() {
    let busy = json(
        "503 Service Unavailable",
        "Retry-After: 1\r\n",
        r#"{"type":"error","code":"unavailable","message":"m"}"#,
    );
    let gateway = Scripted::http(vec![busy, String::new(), accepted("k-1")]).await;
    let started = std::time::Instant::now();
    run(args(&gateway.url, &["order:1", "-5"])).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "Retry-After was not obeyed"
    );
    let requests = gateway.requests().await;
    assert_eq!(body(&requests[0]), r#"{"topic":"order:1","data":-5}"#);
    let keys: Vec<_> = requests
        .iter()
        .map(|request| header(request, "idempotency-key"))
        .collect();
    assert_eq!(keys[0].len(), 32);
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn refusals_are_told_with_advice() {
    let gateway = Scripted::http(vec![refused("403 Forbidden", "forbidden")]).await;
    let error = run(args(&gateway.url, &["order:1"]))
        .await
        .unwrap_err()
        .to_string();
    let advice = "use a token that is granted it, such as one made with: \
                  tribus token --sub NAME --publish 'order:1'";
    assert_eq!(
        error,
        format!("forbidden: said the gateway (HTTP 403)\n  {advice}")
    );
    let nowhere = args(NOWHERE, &["order:1", "--retry-for", "0s"]);
    let error = run(nowhere).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot connect to http://127.0.0.1:9: connection refused\n"),
        "{error}"
    );
    assert!(error.contains("`tribus serve`"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_given_as_the_topic_is_told_and_not_published() {
    let (_dir, path) = file("{\"topic\":\"a\"}\n");
    let error = run(args(NOWHERE, &[&path])).await.unwrap_err().to_string();
    assert!(error.contains(&format!("--file {path}")), "{error}");
    // With data it is meant as a topic, whatever it looks like.
    let meant = args(NOWHERE, &[&path, "null", "--retry-for", "0s"]);
    let error = run(meant).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect"), "{error}");
}

#[tokio::test]
async fn input_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let error = run(args(NOWHERE, &["--file", path])).await.unwrap_err();
    let error = format!("{error:#}");
    let start = format!("cannot read --file {path}: Is a directory");
    assert!(error.starts_with(&start), "{error}");
    assert!(error.contains("published 0 events before it"), "{error}");
}

#[tokio::test]
async fn a_line_outside_the_grants_is_told_with_its_topic() {
    let (_dir, path) = file("{\"data\":1,\"topic\":\"b:1\"}\n");
    let gateway = Scripted::http(vec![refused("403 Forbidden", "forbidden")]).await;
    let error = run(args(&gateway.url, &["--file", &path]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("--publish 'b:1'"), "{error}");
}

#[test]
fn data_that_is_not_json_is_refused_with_a_way_out() {
    let error = parse_data("hello", false).unwrap_err().to_string();
    assert!(
        error.contains("DATA is not JSON") && error.contains("--text"),
        "{error}"
    );
    assert_eq!(
        parse_data("hello \"you\"", true).unwrap().get(),
        r#""hello \"you\"""#
    );
}

#[tokio::test]
async fn a_rerun_of_a_file_repeats_its_keys_and_again_does_not() {
    let (_dir, path) = file("{\"topic\":\"a\"}\r\n\n { \"topic\" : \"b\" } \n");
    let mut keys = Vec::new();
    for rest in [
        &["--file", &path][..],
        &["--file", &path],
        &["--file", &path, "--again"],
    ] {
        let gateway = Scripted::http(vec![accepted("k-1"), accepted("k-2")]).await;
        run(args(&gateway.url, rest)).await.unwrap();
        let requests = gateway.requests().await;
        assert_eq!(
            requests
                .iter()
                .map(|request| body(request))
                .collect::<Vec<_>>(),
            [r#"{"topic":"a"}"#, r#" { "topic" : "b" } "#]
        );
        keys.push(
            requests
                .iter()
                .map(|request| header(request, "idempotency-key").to_owned())
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(keys[0], keys[1]);
    assert!(keys[2].iter().all(|key| !keys[0].contains(key)));
}

#[tokio::test]
async fn a_bad_line_stops_with_its_number_or_is_skipped() {
    let (_dir, path) =
        file("{\"topic\":\"a\"}\n\n{\"topic\":\"b c\"}\n[]\nnonsense\n{\"topic\":\"d\"}\n");
    let answers = || {
        vec![
            accepted("k-1"),
            refused("400 Bad Request", "bad_topic"),
            accepted("k-2"),
        ]
    };
    let gateway = Scripted::http(answers()[..2].to_vec()).await;
    let error = run(args(&gateway.url, &["--file", &path]))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("line 3: bad_topic: said the gateway (HTTP 400)"),
        "{error}"
    );
    assert!(
        error.ends_with("published 1 event before it (0 were already there)"),
        "{error}"
    );
    gateway.requests().await;

    let gateway = Scripted::http(answers()).await;
    run(args(&gateway.url, &["--file", &path, "--skip-bad"]))
        .await
        .unwrap();
    assert_eq!(body(&gateway.requests().await[2]), r#"{"topic":"d"}"#);
}

#[tokio::test]
async fn a_refused_token_stops_even_where_bad_lines_are_skipped() {
    let (_dir, path) = file("{\"topic\":\"a\"}\n{\"topic\":\"b\"}\n");
    let gateway = Scripted::http(vec![refused("401 Unauthorized", "unauthorized")]).await;
    let error = run(args(&gateway.url, &["--file", &path, "--skip-bad"]))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("line 1: unauthorized"), "{error}");
    assert!(error.contains("TRIBUS_TOKEN"), "{error}");
}

#[test]
fn the_command_line_is_checked() {
    let line = |line: &[&str]| parse::<Args>(line).map(|_| ());
    assert!(line(&["a"]).is_ok());
    assert!(line(&["--file", "-"]).is_ok());
    assert!(line(&[]).is_err());
    assert!(line(&["a", "--file", "f"]).is_err());
    assert!(line(&["--file", "f", "--key", "k"]).is_err());
    assert!(line(&["a", "--skip-bad"]).is_err());
    assert!(line(&["a", "--text"]).is_err());
    assert!(line(&["a", "--key", "with space"]).is_err());
    assert!(line(&["a", "--retry-for", "10m"]).is_err());
    assert!(line(&["a", "--retry-for", "9m"]).is_ok());
}
