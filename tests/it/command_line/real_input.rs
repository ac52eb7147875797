//! The main job on real input: `tribus publish --file`, and clients that nobody here wrote.

use std::{fmt::Write as _, io::Write as _, path::Path};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tempfile::NamedTempFile;
use tokio_tungstenite::tungstenite::Message;

use super::Serving;
use crate::support::{Claims, Program, within};

/// An event as it stands in a file or comes over a wire, its data byte for byte.
#[derive(Debug, Deserialize)]
struct Event {
    topic: String,
    event: String,
    data: Box<RawValue>,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |event: &Self| event.data.get().to_owned();
        (&self.topic, &self.event, bytes(self)) == (&other.topic, &other.event, bytes(other))
    }
}

impl Event {
    fn read(text: &str) -> Self {
        serde_json::from_str(text).expect("an event")
    }

    fn is_last(&self) -> bool {
        self.event == "test:last"
    }
}

/// Events that stand in no file; each client reads up to it.
const LAST: &str = r#"{"topic":"repo:last","event":"test:last","data":null}"#;

/// A file of the shape of real webhooks: objects of 1 to 28 KB, with all that JSON writers write.
fn webhooks() -> String {
    let mut file = String::new();
    for number in 0..60 {
        let topic = format!("repo:owner-{}/näme.{number}", number % 7);
        let filler = "lorem \\\"ipsum\\\" \\u00e9\\ud83d\\ude00 ünï 🦀 \\\\ \\/ \\n "
            .repeat(number * 7 + 12);
        let data = format!(
            r#"{{"action":"created","id":{number},"big":123456789012345678901234567890,"float":1.10,"exp":1E+2,"zero":-0.0, "spaced" : [ 1 , 2 ],"empty":{{}},"none":null,"body":"{filler}"}}"#
        );
        writeln!(
            file,
            r#"{{"topic":"{topic}","event":"issues:opened","data":{data}}}"#
        )
        .unwrap();
    }
    file
}

fn written(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("a written file");
    file
}

fn events_of(file: &str) -> Vec<Event> {
    file.lines().map(Event::read).collect()
}

/// Everything up to [`LAST`] that curl prints of a stream.
async fn by_curl_on_events(mut curl: Program) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let line = curl.prints("\"type\":\"event\"").await;
        let event = Event::read(line.strip_prefix("data: ").expect("a data line"));
        if event.is_last() {
            return events;
        }
        events.push(event);
    }
}

async fn by_websocket(gateway: &Serving, token: &str) -> impl Future<Output = Vec<Event>> + use<> {
    use futures_util::StreamExt;
    let url = format!("ws://{}/ws?topics=**&token={token}", gateway.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(url)
        .await
        .expect("a handshake");
    let hello = within("connected", socket.next())
        .await
        .expect("a message")
        .expect("a message");
    assert!(
        hello
            .to_text()
            .expect("text")
            .contains("\"type\":\"connected\"")
    );
    async move {
        let mut events = Vec::new();
        loop {
            let message = within("a message", socket.next()).await;
            let Message::Text(text) = message.expect("the connection stays").expect("a message")
            else {
                continue;
            };
            if !text.contains("\"type\":\"event\"") {
                continue;
            }
            let event = Event::read(&text);
            if event.is_last() {
                return events;
            }
            events.push(event);
        }
    }
}

#[derive(Deserialize)]
struct Page {
    cursor: String,
    events: Vec<Event>,
}

async fn curl_poll(gateway: &Serving, token: &str, query: &str) -> Page {
    let header = format!("Authorization: Bearer {token}");
    let url = gateway.url(&format!("/poll?topics=**&wait=10{query}"));
    let ended = Program::curl(&["--fail", "--header", &header, &url])
        .ended()
        .await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    serde_json::from_str(&ended.stdout).expect("a page")
}

async fn by_curl_on_poll(gateway: &Serving, token: &str, mut cursor: String) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let page = curl_poll(gateway, token, &format!("&max=40&cursor={cursor}")).await;
        cursor = page.cursor;
        for event in page.events {
            if event.is_last() {
                return events;
            }
            events.push(event);
        }
    }
}

/// Publishes the file twice, and shows that three independent clients get it once.
async fn assert_reaches_everybody(path: &Path, expected: &[Event]) {
    let gateway = Serving::start(&[]).await;
    let token = Claims::all("reader").token();
    let header = format!("Authorization: Bearer {token}");
    let mut curl = Program::curl(&["--header", &header, &gateway.url("/events?topics=**")]);
    curl.prints("event: connected").await;
    let websocket = by_websocket(&gateway, &token).await;
    let start = curl_poll(&gateway, &token, "").await;
    let publishing = async {
        let path = path.to_str().expect("a path of text");
        let count = expected.len();
        for summary in [
            format!("published {count} events (0 were already there)"),
            format!("published 0 events ({count} were already there)"),
        ] {
            let ended = gateway.client(&["publish", "--file", path]).ended().await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert!(
                ended.stderr.contains(&summary),
                "{summary} in {}",
                ended.stderr
            );
        }
        publish_last(&gateway).await;
    };
    let (curled, received, polled, ()) = tokio::join!(
        by_curl_on_events(curl),
        websocket,
        by_curl_on_poll(&gateway, &token, start.cursor),
        publishing
    );
    for (client, events) in [
        ("curl on /events", curled),
        ("/ws", received),
        ("/poll", polled),
    ] {
        assert_eq!(events.len(), expected.len(), "{client}");
        for (event, expected) in events.iter().zip(expected) {
            assert!(event == expected, "{client}: {event:?}, not {expected:?}");
        }
    }
    assert_eq!(gateway.terminate().await.code, Some(0));
}

async fn publish_last(gateway: &Serving) {
    let mut publish = gateway.client(&["publish", "--file", "-"]);
    publish.give(LAST);
    let ended = publish.ended().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn a_file_of_webhooks_reaches_curl_and_a_websocket_and_a_poll_loop_byte_for_byte_and_once() {
    let text = webhooks();
    assert_reaches_everybody(written(&text).path(), &events_of(&text)).await;
}

/// Payloads that GitHub really sent, where they lie beside the project.
#[tokio::test]
async fn real_webhooks_reach_everybody_too() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/github-webhooks.ndjson");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return;
    };
    assert_reaches_everybody(&path, &events_of(&text)).await;
}

#[tokio::test]
async fn standard_input_is_published_like_a_file_and_a_rerun_goes_on_where_it_stopped() {
    let gateway = Serving::start(&[]).await;
    let lines: Vec<String> = (0..5)
        .map(|n| json!({"topic": format!("order:{n}"), "data": n}).to_string())
        .collect();
    for (input, summary) in [
        (
            lines[..3].join("\n"),
            "published 3 events (0 were already there)",
        ),
        (
            lines.join("\n"),
            "published 2 events (3 were already there)",
        ),
        (
            lines.join("\r\n\r\n"),
            "published 0 events (5 were already there)",
        ),
    ] {
        let mut publish = gateway.client(&["publish", "--file", "-"]);
        publish.give(&input);
        let ended = publish.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended.stderr.contains(summary),
            "{summary} in {}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn a_bad_line_stops_the_file_and_is_named_and_may_be_skipped() {
    let gateway = Serving::start(&[]).await;
    let good = |n: u8| format!("{{\"topic\":\"order:{n}\"}}");
    for (number, bad) in ["not json", "[]", "{}", r#"{"topic":"a b"}"#]
        .into_iter()
        .enumerate()
    {
        let first = format!("{{\"topic\":\"case:{number}\"}}");
        let file = written(&format!("{first}\n{}\n{bad}\n{}\n", good(1), good(2)));
        let path = file.path().to_str().unwrap();
        let ended = gateway.client(&["publish", "--file", path]).ended().await;
        assert_eq!(ended.code, Some(1), "{bad}: {ended:?}");
        assert!(ended.stderr.contains("line 3"), "{bad}: {}", ended.stderr);
        assert!(
            ended.stderr.contains("published 2 events"),
            "{bad}: {}",
            ended.stderr
        );
        let ended = gateway
            .client(&["publish", "--file", path, "--skip-bad"])
            .ended()
            .await;
        assert_eq!(ended.code, Some(0), "{bad}: {ended:?}");
        assert!(ended.stderr.contains("line 3"), "{bad}: {}", ended.stderr);
        let summary = "published 1 event (2 were already there)";
        assert!(ended.stderr.contains(summary), "{bad}: {}", ended.stderr);
    }
}
