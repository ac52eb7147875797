//! The Autobahn test suite against an echo route on [`WsSocket`]: what of `/ws` is the WebSocket
//! protocol and not ours.
//!
//! `scripts/test-tools.sh` installs kosoku, which runs the suite's cases as its fuzzing client.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    body::{BodySize, MessageBody},
    dev::Server,
    web,
};
use bytes::Bytes;
use serde::Deserialize;
use tokio::process::Command;

use super::socket::{End, Message, WsSocket};
use crate::{
    event::{BINARY_FRAME, TEXT_FRAME, put_frame_header},
    protocol::Refusal,
};

/// All but 12 and 13, which are about compression. We negotiate none.
const GROUPS: [&str; 9] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*",
];
/// In those groups.
const CASES: usize = 301;
/// Cases that the suite does not call passed to the letter, with its verdicts on the messages and
/// on the close, and why that is as it should be.
const NOT_STRICT: [(&str, &str, &str, &str); 3] = [
    (
        "7.1.6",
        "INFORMATIONAL",
        "INFORMATIONAL",
        "of two messages with a Close right behind them it is left open what comes back; both do here",
    ),
    (
        "7.13.1",
        "INFORMATIONAL",
        "INFORMATIONAL",
        "code 5000 is outside all ranges of RFC 6455, section 7.4.2; it is answered with 1002",
    ),
    ("7.13.2", "INFORMATIONAL", "INFORMATIONAL", "so is 65535"),
];

const KOSOKU: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/target/test-tools/kosoku/bin/kosoku"
);
/// The suite's own report, with an `index.html`.
const REPORT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/autobahn");
/// Most cases of a second wait for it, and the large ones are work for the suite.
const PARALLEL_CASES: &str = "4";
/// It takes seconds; cases that hang end by themselves after some more.
const DEADLINE: Duration = Duration::from_secs(180);

/// The largest messages of the suite have 16 MiB.
const MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// No more messages are read while as much waits to be sent back.
const CHUNK_BYTES: usize = 64 * 1024;

/// The suite's verdicts on one case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

#[test]
fn the_autobahn_suite_passes_but_for_what_it_leaves_open() {
    let verdicts = actix_web::rt::System::new().block_on(async {
        let (address, server) = serve();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        run_suite(address).await;
        handle.stop(false).await;
        read_verdicts()
    });
    let not_strict: Vec<_> = verdicts
        .iter()
        .map(|(case, verdict)| (&**case, &*verdict.behavior, &*verdict.behavior_close))
        .filter(|(_, messages, close)| (*messages, *close) != ("OK", "OK"))
        .collect();
    let explained = NOT_STRICT.map(|(case, messages, close, _)| (case, messages, close));
    assert_eq!(not_strict, explained, "see {REPORT}/index.html");
    assert_eq!(verdicts.len(), CASES);
}

async fn run_suite(address: SocketAddr) {
    let _ = std::fs::remove_dir_all(REPORT);
    let mut kosoku = Command::new(KOSOKU);
    kosoku
        .args(GROUPS.iter().flat_map(|group| ["--include", group]))
        .args(["--parallelism", PARALLEL_CASES, "--outdir", REPORT])
        .arg(format!("ws://{address}/"))
        .kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, kosoku.output())
        .await
        .expect("the suite ends in time")
        .unwrap_or_else(|error| panic!("{KOSOKU}: {error}: run sh scripts/test-tools.sh"));
    // It fails where a case does; which ones is in the report.
    assert!(
        Path::new(REPORT).is_dir(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// By case, for the one agent that was tested.
fn read_verdicts() -> BTreeMap<String, Verdict> {
    let index = std::fs::read(format!("{REPORT}/index.json")).expect("a report");
    let agents: BTreeMap<String, BTreeMap<String, Verdict>> =
        serde_json::from_slice(&index).expect("verdicts");
    agents.into_values().next().expect("an agent")
}

fn serve() -> (SocketAddr, Server) {
    let server = HttpServer::new(|| App::new().route("/", web::get().to(echo)))
        .h1_allow_half_closed(false)
        .workers(2)
        .disable_signals()
        .bind("127.0.0.1:0")
        .expect("a free port");
    (server.addrs()[0], server.run())
}

async fn echo(request: HttpRequest, payload: web::Payload) -> Result<HttpResponse, Refusal> {
    let (response, socket) = WsSocket::accept(&request, payload, &[], MESSAGE_BYTES).await?;
    let body = Echo {
        socket,
        ended: false,
    };
    Ok(response.set_body(body).map_into_boxed_body())
}

/// Sends every message back.
struct Echo {
    socket: WsSocket,
    ended: bool,
}

impl Echo {
    fn receive(&mut self, cx: &mut Context<'_>) {
        while !self.ended && self.socket.out().len() < CHUNK_BYTES {
            match self.socket.poll_message(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(Message::Text(text))) => self.send(TEXT_FRAME, text.as_bytes()),
                Poll::Ready(Ok(Message::Binary(bytes))) => self.send(BINARY_FRAME, &bytes),
                Poll::Ready(Ok(Message::Control)) => {}
                Poll::Ready(Err(end)) => {
                    self.ended = true;
                    if let End::Violation(reason) = end {
                        self.socket.close(reason);
                    }
                }
            }
        }
    }

    fn send(&mut self, first_byte: u8, payload: &[u8]) {
        let out = self.socket.out();
        put_frame_header(out, first_byte, payload.len());
        out.extend_from_slice(payload);
    }
}

impl MessageBody for Echo {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let this = self.get_mut();
        this.receive(cx);
        let chunk = this.socket.take_out();
        match (chunk.is_empty(), this.ended) {
            (false, _) => Poll::Ready(Some(Ok(chunk.freeze()))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}
