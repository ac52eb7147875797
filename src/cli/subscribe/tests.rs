//! Following through losses, over each transport, against scripted answers.

use std::process::ExitCode;

use futures_util::SinkExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::*;
use crate::cli::scripted::{Scripted, json, parse};

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

fn args(url: &str, rest: &[&str]) -> Args {
    let mut line = vec!["order:*", "--quiet", "--url", url, "--token", "t0ken"];
    line.extend(rest);
    parse(&line).unwrap()
}

/// Runs the command and gives what it printed.
async fn follow(args: Args) -> (Result<ExitCode>, String) {
    let endpoint = Endpoint::new(args.endpoint).unwrap();
    let cursor_file = args
        .cursor_file
        .as_deref()
        .map(|path| CursorFile::open(path).unwrap());
    let mut out = Vec::new();
    let follower = Follower {
        client: endpoint.client().unwrap(),
        endpoint,
        transport: args.transport,
        selection: Selection {
            topics: args.topics,
            events: args.events,
            tags: args.tags,
        },
        position: position(cursor_file.as_ref(), args.cursor, args.rewind),
        cursor_file,
        remaining: args.count,
        fail_on_reset: args.fail_on_reset,
        out: &mut out,
        status: Status { quiet: args.quiet },
        link: Link::default(),
    };
    let end = follower.follow().await;
    (end, String::from_utf8(out).unwrap())
}

fn event(id: &str) -> String {
    format!(r#"{{"type":"event","id":"{id}","topic":"order:1","data":1.000}}"#)
}

fn sse(frames: &[String]) -> String {
    format!("{SSE}{}", frames.concat())
}

fn frame(name: &str, id: &str, data: &str) -> String {
    format!("event: {name}\nid: {id}\ndata: {data}\n\n")
}

fn path(request: &str) -> &str {
    request.split(' ').nth(1).unwrap()
}

#[tokio::test]
async fn sse_resumes_after_the_last_cursor_that_it_received() {
    let gateway = Scripted::http(vec![
        sse(&[
            frame(
                "connected",
                "k-5",
                r#"{"type":"connected","cursor":"k-5","heartbeatMs":25000}"#,
            ),
            format!(
                "id: k-6\ndata: {}\n\nid: k-7\ndata: {}\n",
                event("k-6"),
                event("k-7")
            ),
        ]),
        sse(&[
            frame("connected", "k-6", r#"{"type":"connected","cursor":"k-6"}"#),
            format!("id: k-7\ndata: {}\n\n", event("k-7")),
            frame("heartbeat", "k-9", r#"{"type":"heartbeat","cursor":"k-9"}"#),
        ]),
        json(
            "503 Service Unavailable",
            "",
            r#"{"type":"error","code":"unavailable","message":"starting"}"#,
        ),
        sse(&[format!(
            "id: k-10\ndata: {}\n\nid: k-11\ndata: {}\n\n",
            event("k-10"),
            event("k-11")
        )]),
    ])
    .await;
    let (end, out) = follow(args(&gateway.url, &["--transport", "sse", "--count", "3"])).await;
    assert_eq!(end.unwrap(), ExitCode::SUCCESS);
    assert_eq!(
        out,
        format!("{}\n{}\n{}\n", event("k-6"), event("k-7"), event("k-10"))
    );
    let requests = gateway.requests().await;
    let paths: Vec<_> = requests.iter().map(|request| path(request)).collect();
    let first = "/events?topics=order%3A*";
    assert_eq!(
        paths,
        [
            first,
            &format!("{first}&cursor=k-6"),
            &format!("{first}&cursor=k-9"),
            &format!("{first}&cursor=k-9")
        ]
    );
    assert!(
        requests
            .iter()
            .all(|request| request.contains("authorization: Bearer t0ken\r\n"))
    );
}

#[tokio::test]
async fn poll_goes_on_through_a_reset_and_prints_the_bytes_that_came() {
    let spaced = r#"{"type":"event", "id":"k-21", "data":1e400}"#;
    let gateway = Scripted::http(vec![
        json("200 OK", "", r#"{"cursor":"k-10","events":[]}"#),
        json(
            "410 Gone",
            "",
            r#"{"type":"reset","reason":"expired","cursor":"k-20"}"#,
        ),
        json(
            "200 OK",
            "",
            r#"{"cursor":"k-20","events":[],"reconnectAfterMs":10}"#,
        ),
        json(
            "200 OK",
            "",
            &format!(
                r#"{{"cursor":"k-22","events":[{spaced},{}]}}"#,
                event("k-22")
            ),
        ),
    ])
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cursor");
    let rest = [
        "--transport",
        "poll",
        "--count",
        "1",
        "--rewind",
        "2",
        "--cursor-file",
        file.to_str().unwrap(),
    ];
    let (end, out) = follow(args(&gateway.url, &rest)).await;
    assert_eq!(end.unwrap(), ExitCode::SUCCESS);
    assert_eq!(out, format!("{spaced}\n"));
    assert_eq!(
        std::fs::read_to_string(file).unwrap(),
        "k-21\n",
        "the cursor of what was printed, not of the page"
    );
    let requests = gateway.requests().await;
    let paths: Vec<_> = requests
        .iter()
        .map(|request| path(request).rsplit_once('&').unwrap().1)
        .collect();
    assert_eq!(
        paths,
        ["rewind=2", "cursor=k-10", "cursor=k-20", "cursor=k-20"]
    );
}

#[tokio::test]
async fn a_reset_ends_with_its_own_code_where_that_is_wanted() {
    let gateway = Scripted::http(vec![json(
        "410 Gone",
        "",
        r#"{"type":"reset","reason":"expired","cursor":"k-20"}"#,
    )])
    .await;
    let rest = ["--transport", "poll", "--cursor", "k-1", "--fail-on-reset"];
    let (end, out) = follow(args(&gateway.url, &rest)).await;
    assert_eq!((end.unwrap(), out.as_str()), (ExitCode::from(3), ""));
}

/// A connection of the scripted WebSocket: what it sends, and how it closes, if politely.
type WsScript = (Vec<String>, Option<(u16, &'static str)>);

async fn ws(scripts: Vec<WsScript>) -> (String, JoinHandle<Vec<String>>) {
    let (listener, url) = listen().await;
    let served = tokio::spawn(async move {
        let mut requests = Vec::new();
        for (messages, close) in scripts {
            let (mut socket, request) = accept(&listener).await;
            requests.push(request);
            for message in messages {
                socket.send(Message::text(message)).await.unwrap();
            }
            if let Some((code, reason)) = close {
                let reason = Utf8Bytes::from_static(reason);
                socket
                    .close(Some(CloseFrame {
                        code: code.into(),
                        reason,
                    }))
                    .await
                    .unwrap();
            }
        }
        requests
    });
    (url, served)
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/prefix", listener.local_addr().unwrap());
    (listener, url)
}

/// Shakes hands as the gateway would, and gives what was asked for.
#[expect(
    clippy::result_large_err,
    reason = "the callback's type is tungstenite's"
)]
async fn accept(listener: &TcpListener) -> (WebSocketStream<TcpStream>, String) {
    let (stream, _) = listener.accept().await.unwrap();
    let mut asked = String::new();
    let greet = |request: &Request, mut response: Response| {
        assert_eq!(request.headers()["authorization"], "Bearer t0ken");
        asked = request.uri().to_string();
        let protocol = HeaderValue::from_static("tribus.json.v1");
        response
            .headers_mut()
            .insert("sec-websocket-protocol", protocol);
        Ok(response)
    };
    let socket = accept_hdr_async(stream, greet).await.unwrap();
    (socket, asked)
}

#[tokio::test]
async fn a_websocket_resumes_after_a_drop_and_after_closing() {
    let (url, served) = ws(vec![
        (
            vec![
                r#"{"type":"connected","cursor":"k-5","heartbeatMs":25000}"#.into(),
                event("k-6"),
            ],
            None,
        ),
        (
            vec![
                event("k-7"),
                r#"{"type":"closing","code":1012,"reconnectAfterMs":5}"#.into(),
            ],
            Some((1012, "")),
        ),
        (
            vec![r#"{"type":"reset","reason":"lagged","cursor":"k-30"}"#.into()],
            Some((1001, "")),
        ),
        (vec![event("k-31")], None),
    ])
    .await;
    let (end, out) = follow(args(&url, &["--count", "3"])).await;
    assert_eq!(end.unwrap(), ExitCode::SUCCESS);
    assert_eq!(
        out,
        format!("{}\n{}\n{}\n", event("k-6"), event("k-7"), event("k-31"))
    );
    let first = "/prefix/ws?topics=order%3A*";
    let resumed = |cursor| format!("{first}&cursor={cursor}");
    assert_eq!(
        served.await.unwrap(),
        [
            first.to_owned(),
            resumed("k-6"),
            resumed("k-7"),
            resumed("k-30")
        ]
    );
}

#[tokio::test]
async fn a_silent_websocket_is_left_after_two_and_a_half_heartbeats() {
    let connected = r#"{"type":"connected","cursor":"k-5","heartbeatMs":40}"#;
    let (listener, url) = listen().await;
    let served = tokio::spawn(async move {
        let (mut silent, _) = accept(&listener).await;
        silent.send(Message::text(connected)).await.unwrap();
        let (mut next, _) = accept(&listener).await;
        next.send(Message::text(event("k-6"))).await.unwrap();
    });
    let (end, out) = follow(args(&url, &["--count", "1"])).await;
    assert_eq!(
        (end.unwrap(), out),
        (ExitCode::SUCCESS, format!("{}\n", event("k-6")))
    );
    served.await.unwrap();
}

#[tokio::test]
async fn a_final_refusal_ends_with_advice_on_every_transport() {
    let error =
        r#"{"type":"error","code":"forbidden","message":"topic order:* is outside the grants"}"#;
    for transport in ["sse", "poll"] {
        let gateway = Scripted::http(vec![json("403 Forbidden", "", error)]).await;
        let (end, _) = follow(args(&gateway.url, &["--transport", transport])).await;
        let message = end.unwrap_err().to_string();
        assert!(
            message.starts_with("forbidden: topic order:* is outside the grants (HTTP 403)"),
            "{message}"
        );
        assert!(
            message.ends_with("tribus token --sub NAME --subscribe 'order:*'"),
            "{message}"
        );
    }
    let (url, _served) = ws(vec![(vec![error.into()], None)]).await;
    let (end, _) = follow(args(&url, &[])).await;
    assert!(
        end.unwrap_err()
            .to_string()
            .starts_with("forbidden: topic order:*")
    );
    let (url, _served) = ws(vec![(vec![], Some((4005, "revoked")))]).await;
    let (end, _) = follow(args(&url, &[])).await;
    assert!(end.unwrap_err().to_string().starts_with("revoked"));
}

#[tokio::test]
async fn an_expired_token_is_read_again_from_its_file() {
    let expired = r#"{"type":"error","code":"token_expired","message":"the token has expired"}"#;
    let gateway = Scripted::http(vec![
        json("401 Unauthorized", "", expired),
        json(
            "200 OK",
            "",
            &format!(r#"{{"cursor":"k-1","events":[{}]}}"#, event("k-1")),
        ),
    ])
    .await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "old\n").unwrap();
    let rest = [
        "--transport",
        "poll",
        "--count",
        "1",
        "--token-file",
        file.to_str().unwrap(),
    ];
    let args = args(&gateway.url, &rest);
    let endpoint = Endpoint::new(args.endpoint.clone()).unwrap();
    assert_eq!(endpoint.credential().unwrap(), "Bearer old");
    let following = tokio::spawn(follow(args));
    // The follower has read the old token by its first await, which is all that this yields to.
    tokio::task::yield_now().await;
    std::fs::write(&file, "new\n").unwrap();
    assert_eq!(following.await.unwrap().0.unwrap(), ExitCode::SUCCESS);
    let requests = gateway.requests().await;
    assert!(requests[0].contains("authorization: Bearer old\r\n"));
    assert!(requests[1].contains("authorization: Bearer new\r\n"));
}

#[tokio::test]
async fn an_expired_token_without_another_ends_with_advice() {
    let expired = r#"{"type":"error","code":"token_expired","message":"the token has expired"}"#;
    let gateway = Scripted::http(vec![json("401 Unauthorized", "", expired)]).await;
    let (end, _) = follow(args(&gateway.url, &["--transport", "sse"])).await;
    assert!(end.unwrap_err().to_string().contains("get a fresh token"));
}

#[test]
fn the_command_line_is_checked() {
    let line = |rest: &[&str]| parse::<Args>(&[&["a"], rest].concat()).map(|_| ());
    assert!(line(&["--cursor", "earliest"]).is_ok());
    assert!(line(&["--cursor", "not a cursor"]).is_err());
    assert!(line(&["--cursor", "k-1", "--rewind", "3"]).is_err());
    assert!(line(&["--rewind", "101"]).is_err());
    assert!(line(&["--count", "0"]).is_err());
    assert!(parse::<Args>(&[]).is_err());
    assert_eq!(
        parse_topics(vec!["a,b".into(), "c".into()]).unwrap(),
        ["a", "b", "c"]
    );
    assert!(parse_topics(vec!["a,".into()]).is_err());
}
