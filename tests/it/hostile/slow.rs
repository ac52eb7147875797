//! Clients that send a byte a second, or nothing more: whatever they hold of the gateway is to be
//! theirs for no more than half a minute.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;

use super::{Scene, answers_in, error_code, request};
use crate::support::Raw;

/// Where a request has to have come by; the gateway's own deadlines are shorter.
const CUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(1);

/// What a client sends at once, and what it sends again and again after that.
struct Slow {
    what: &'static str,
    at_operators: bool,
    first: String,
    /// One of these after the other, each a pause after the one before; none means that nothing
    /// more comes.
    drops: Vec<&'static str>,
    /// The status of each answer, and the code of the last one where it is an error object.
    answers: &'static [u16],
    code: &'static str,
}

impl Slow {
    async fn is_cut(&self, address: SocketAddr) -> Result<(), String> {
        let mut raw = Raw::connect_to(address).await;
        raw.send(self.first.as_bytes()).await;
        let sending = async {
            for drop in self.drops.iter().cycle() {
                tokio::time::sleep(PAUSE).await;
                raw.try_send(drop.as_bytes()).await;
                if raw.has_ended() {
                    return;
                }
            }
            while !raw.has_ended() {
                tokio::time::sleep(PAUSE).await;
            }
        };
        if tokio::time::timeout(CUT, sending).await.is_err() {
            return Err(format!("{} goes on after {CUT:?}", self.what));
        }
        let answers = answers_in(&raw.rest().await);
        let (answered, rest) = answers.split_at(self.answers.len().min(answers.len()));
        let statuses: Vec<_> = answered.iter().map(|answer| answer.status).collect();
        let code = answered.last().map(|last| error_code(&last.body));
        // That the next one did not come in time may be told too.
        let only_late = rest.iter().all(|answer| answer.status == 408);
        if statuses == self.answers && code.is_some_and(|code| code == self.code) && only_late {
            return Ok(());
        }
        Err(format!("{}: {answers:?}", self.what))
    }
}

/// A head, byte by byte.
fn head() -> Vec<&'static str> {
    let head = "GET /poll?topics=a:1 HTTP/1.1\r\nHost: x\r\nX-Long: xxxxxxxxxxxxxxxxxxxxxxxxx";
    head.split("").filter(|byte| !byte.is_empty()).collect()
}

/// All at the same time, so that they share it.
async fn are_cut(slow: Vec<Slow>) {
    let mut scene = Scene::start().await;
    let (clients, operators) = (scene.gateway.address, scene.gateway.admin);
    let ends = slow.iter().map(|slow| {
        let address = if slow.at_operators {
            operators
        } else {
            clients
        };
        slow.is_cut(address)
    });
    let ended = join_all(ends).await;
    let wrong: Vec<_> = ended.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    scene.neighbours_are_served("all that is slow").await;
}

fn slow(what: &'static str, first: String, drops: Vec<&'static str>) -> Slow {
    Slow {
        what,
        at_operators: false,
        first,
        drops,
        answers: &[400],
        code: "bad_request",
    }
}

fn answered(slow: Slow, answers: &'static [u16], code: &'static str) -> Slow {
    Slow {
        answers,
        code,
        ..slow
    }
}

fn at_operators(slow: Slow) -> Slow {
    Slow {
        at_operators: true,
        ..slow
    }
}

#[tokio::test]
async fn whatever_comes_a_byte_a_second_or_not_at_all_is_cut_within_half_a_minute() {
    let late = |slow| answered(slow, &[408], "none");
    let idle = |slow| answered(slow, &[404], "not_found");
    let length = "Content-Length: 500\r\n\r\n";
    let too_large = "Content-Length: 9999999\r\n\r\n";
    let upgrade = "Upgrade: websocket\r\n\r\n";
    let post = |path: &str| request(&format!("POST {path}"), length);
    let good = request("GET /nope", "\r\n");
    are_cut(vec![
        late(slow("nothing", String::new(), vec![])),
        late(slow("a head", String::new(), head())),
        late(slow("half a head", "GET /poll".to_owned(), vec![])),
        late(slow("empty lines", String::new(), vec!["\r\n"])),
        late(at_operators(slow(
            "operators: nothing",
            String::new(),
            vec![],
        ))),
        late(at_operators(slow(
            "operators: a head",
            String::new(),
            head(),
        ))),
        idle(slow(
            "half a head behind a request",
            format!("{good}GET /p"),
            vec![],
        )),
        idle(slow(
            "an empty line behind a request",
            format!("{good}\r\n"),
            vec![],
        )),
        idle(at_operators(slow(
            "operators: nothing behind a request",
            good,
            vec![],
        ))),
        slow("no body for /publish", post("/publish"), vec![]),
        slow("a body for /publish", post("/publish"), vec![" "]),
        slow("a body for /events", post("/events"), vec![" "]),
        slow("a body for /poll", post("/poll"), vec![" "]),
        slow("a body for /ticket", post("/ticket"), vec![" "]),
        slow(
            "a body that is an upgrade",
            request("POST /publish", upgrade),
            vec![" "],
        ),
        answered(
            slow(
                "a refused body",
                request("POST /publish", too_large),
                vec![" "],
            ),
            &[413],
            "too_large",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_later_head_is_cut_as_the_first_one_is() {
    let idle = |slow| answered(slow, &[404], "not_found");
    let good = request("GET /nope", "\r\n");
    are_cut(vec![
        idle(slow("a head behind a request", good.clone(), head())),
        idle(slow(
            "empty lines behind a request",
            good.clone(),
            vec!["\r\n"],
        )),
        idle(at_operators(slow(
            "operators: a head behind a request",
            good,
            head(),
        ))),
    ])
    .await;
}

#[tokio::test]
async fn a_chunked_body_is_cut_though_it_was_refused_or_never_asked_for() {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    let anonymous = format!("POST /publish HTTP/1.1\r\nHost: x\r\n{chunked}");
    let byte = "1\r\n \r\n";
    let publish = |part: &str| request("POST /publish", &format!("{chunked}{part}"));
    let refused = |slow| answered(slow, &[401], "unauthorized");
    are_cut(vec![
        slow("no body", publish(""), vec![]),
        slow("a body", publish(""), vec![byte]),
        slow("a size", publish(""), vec!["0"]),
        slow("an extension", publish("1;"), vec!["x"]),
        slow("trailers", publish("0\r\nX: "), vec!["x"]),
        refused(slow("no body after a refusal", anonymous.clone(), vec![])),
        refused(slow("a body after a refusal", anonymous, vec![byte])),
        answered(
            slow(
                "a body for nobody",
                request("POST /nope", chunked),
                vec![byte],
            ),
            &[404],
            "not_found",
        ),
        answered(
            slow(
                "a body of a GET",
                request("GET /poll?topics=a:1", chunked),
                vec![byte],
            ),
            &[200],
            "none",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_body_for_the_operators_listener_is_cut_as_any_other() {
    let post = |rest: &str| request("POST /admin/disconnect", rest);
    let length = "Content-Length: 500\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n\r\n";
    are_cut(vec![
        at_operators(slow("no body", post(length), vec![])),
        at_operators(slow("a body", post(length), vec![" "])),
        at_operators(slow("no chunks", post(chunked), vec![])),
        at_operators(slow("chunks", post(chunked), vec!["1\r\n \r\n"])),
    ])
    .await;
}
