//! The client on hostile networks: what it falls back to and why, that nothing is lost or repeated
//! meanwhile, and that it climbs back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Claims, DEADLINE, Fault, Js, Manner, Network, TestGateway, record};

const FIRST_EVENT: Duration = Duration::from_secs(5);
const BACK_ON_WEBSOCKET: Duration = Duration::from_secs(30);
const EVENTS: usize = 500;
const ROUNDS: usize = 10;
/// How long each round has the network's faults, and then another weather.
const SPELL: Duration = Duration::from_millis(400);

/// Three overlapping subscriptions from the position where the test began.
const BEGIN: &str = "
    const { Tribus, WebSocket } = await load();
    const begun = Date.now();
    state.client = new Tribus(args.url, { getToken: () => args.token, WebSocket });
    state.statuses = [];
    state.client.addEventListener('status', ({ detail }) => state.statuses.push({ ...detail, after: Date.now() - begun }));
    state.got = {};
    for (const [name, topics, options] of [
        ['pattern', 'order:*', {}],
        ['everything', ['**'], {}],
        ['paid', ['order:1', 'order:2'], { events: ['paid'] }],
    ]) {
        const got = (state.got[name] = []);
        state.client.subscribe(topics, {
            ...options, cursor: args.cursor,
            onEvent: ({ id }) => { state.first ??= Date.now() - begun; got.push(id); },
            onReset: (reason) => got.push(reason),
            onError: ({ message }) => got.push(message),
        });
    }";

/// What a network is expected to do to the client.
#[derive(Clone)]
struct Weather {
    name: &'static str,
    faults: Vec<Fault>,
    /// The transport it settles on, and how its reason begins; where the network leaves one standing.
    settles: Option<(&'static str, &'static str)>,
    /// The network is as it is for so long, instead of coming and going.
    steady: Option<Duration>,
}

fn weather(
    name: &'static str,
    faults: Vec<Fault>,
    settles: Option<(&'static str, &'static str)>,
) -> Weather {
    Weather {
        name,
        faults,
        settles,
        steady: None,
    }
}

const REFUSED: &str = "WebSockets are refused";

#[tokio::test]
async fn refused_or_dead_websockets_leave_sse() {
    let second = Duration::from_secs(1);
    run([
        weather("a good network", vec![], Some(("ws", ""))),
        weather(
            "upgrades refused",
            vec![Fault::RefuseUpgrades],
            Some(("sse", REFUSED)),
        ),
        weather(
            "upgrades hung up on",
            vec![Fault::HangUpOnUpgrades],
            Some(("sse", REFUSED)),
        ),
        weather(
            "frames dropped",
            vec![Fault::DropFrames],
            Some(("sse", "it opened, but nothing came through")),
        ),
        weather(
            "WebSockets killed",
            vec![Fault::KillWebSockets { after: second }],
            Some(("sse", "the WebSocket was cut")),
        ),
    ])
    .await;
}

#[tokio::test]
async fn buffered_streams_leave_long_poll() {
    let held_back = vec![Fault::RefuseUpgrades, Fault::BufferResponses];
    run([
        weather(
            "responses buffered",
            vec![Fault::BufferResponses],
            Some(("ws", "")),
        ),
        weather(
            "responses buffered, upgrades refused",
            held_back,
            Some(("poll", REFUSED)),
        ),
        weather(
            "bodies swallowed",
            vec![Fault::SwallowBodies],
            Some(("ws", "")),
        ),
        weather(
            "bodies swallowed, upgrades refused",
            vec![Fault::SwallowBodies, Fault::RefuseUpgrades],
            Some(("sse", REFUSED)),
        ),
    ])
    .await;
}

#[tokio::test]
async fn bad_lines_are_survived() {
    let millis = Duration::from_millis;
    run([
        weather(
            "latency",
            vec![Fault::Latency {
                delay: millis(150),
                jitter: millis(50),
            }],
            Some(("ws", "")),
        ),
        weather(
            "loss",
            vec![Fault::Loss {
                stall: 0.1,
                reset: 0.02,
            }],
            None,
        ),
        weather(
            "cut at a random byte",
            vec![Fault::CutAtRandomByte { below: 4_000 }],
            None,
        ),
        weather(
            "responses cut, upgrades refused",
            vec![
                Fault::RefuseUpgrades,
                Fault::CutResponses {
                    after: millis(1500),
                },
            ],
            None,
        ),
    ])
    .await;
}

/// As many proxies do: a stream is not at fault that lives so long each time.
#[tokio::test]
async fn streams_that_are_cut_every_thirty_seconds_are_kept() {
    let after = Duration::from_secs(30);
    let faults = vec![Fault::RefuseUpgrades, Fault::CutResponses { after }];
    let cut = weather(
        "responses cut at 30 s, upgrades refused",
        faults,
        Some(("sse", REFUSED)),
    );
    run([Weather {
        steady: Some(2 * after + Duration::from_secs(5)),
        ..cut
    }])
    .await;
}

#[tokio::test]
async fn publishing_passes_where_bodies_do_not() {
    let gateway = TestGateway::start().await;
    let network = Network::before(&gateway).await;
    network.set([Fault::SwallowBodies]);
    let js = Js::node();
    let body = "
        const { Tribus, WebSocket } = await load();
        const client = new Tribus(args.url, { getToken: () => args.token, WebSocket });
        await new Promise((resolve) => client.addEventListener('status', resolve));
        return (await client.publish('order:1', 1)).id;";
    let args = json!({"url": network.url("/"), "token": Claims::all("alice").token()});
    let id = js.run(body, args).await;
    let (_, page) = gateway.poll("topics=order:*&cursor=earliest").await;
    assert_eq!(page["events"][0]["id"], id);
}

/// Where the client runs.
#[derive(Clone, Copy, Debug)]
enum Host {
    Node,
    Chromium,
}

async fn run<const COUNT: usize>(weathers: [Weather; COUNT]) {
    let survivals = weathers.map(|weather| async move {
        // One after the other where time matters, beside each other where it is only waited for.
        match weather.steady {
            Some(_) => {
                let (node, chromium) = tokio::join!(
                    survive(&weather, Host::Node),
                    survive(&weather, Host::Chromium)
                );
                [node, chromium]
            }
            None => [
                survive(&weather, Host::Node).await,
                survive(&weather, Host::Chromium).await,
            ],
        }
    });
    let reports = futures_util::future::join_all(survivals).await;
    for [node, chromium] in &reports {
        node.record(chromium);
    }
    let failures: Vec<&String> = reports
        .iter()
        .flatten()
        .flat_map(|report| &report.failures)
        .collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What the client did on one network.
struct Report {
    name: &'static str,
    host: Host,
    /// Over which it went on, and what it said of the better ones.
    settled: String,
    first: Duration,
    events: usize,
    back: Duration,
    failures: Vec<String>,
}

impl Report {
    fn check(&mut self, is_good: bool, what: impl FnOnce() -> String) {
        if !is_good {
            let failure = format!("{} in {:?}: {}", self.name, self.host, what());
            self.failures.push(failure);
        }
    }

    /// A row of the table in README.md; what is counted there was checked to be so.
    fn record(&self, chromium: &Self) {
        if !self.failures.is_empty() || !chromium.failures.is_empty() {
            return;
        }
        let both = |of: fn(&Self) -> Duration| {
            format!(
                "{:.1} s, {:.1} s",
                of(self).as_secs_f32(),
                of(chromium).as_secs_f32()
            )
        };
        let lost = format!("0 and 0 of {}", self.events);
        let (first, back) = (both(|report| report.first), both(|report| report.back));
        record(
            "networks",
            &[self.name],
            &[&self.settled, &lost, &first, &back],
        );
    }
}

async fn survive(weather: &Weather, host: Host) -> Report {
    let Weather {
        name,
        faults,
        settles,
        steady,
    } = weather;
    let gateway = TestGateway::with("heartbeat = \"1s\"").await;
    let network = Network::before(&gateway).await;
    let js = match host {
        Host::Node => Js::node(),
        Host::Chromium => Js::chromium(&network.url("/")),
    };
    js.run("await load();", Value::Null).await;
    let start = gateway.publish("before", json!(0)).await;
    let mut expected = Expected::default();
    expected.publish(&gateway, 1).await;
    network.set(faults.clone());
    let args =
        json!({"url": network.url("/"), "token": Claims::all("alice").token(), "cursor": start});
    js.run(BEGIN, args).await;

    let mut report = Report {
        name,
        host,
        settled: "whichever gets through".to_owned(),
        first: Duration::ZERO,
        events: 0,
        back: Duration::ZERO,
        failures: Vec::new(),
    };
    let first = until(
        FIRST_EVENT,
        || js.run("return state.first;", Value::Null),
        |first| !first.is_null(),
    )
    .await;
    report.check(first.is_ok(), || format!("no event within {FIRST_EVENT:?}"));
    let first = first.ok().and_then(|first| first.as_u64());
    report.first = Duration::from_millis(first.unwrap_or(0));
    if let Some((transport, reason)) = settles {
        let is_settled = |status: &Value| {
            let told = status["reason"].as_str().unwrap_or_default();
            status["transport"] == *transport && told.starts_with(reason)
        };
        let settled = until(BACK_ON_WEBSOCKET, || status(&js), is_settled).await;
        report.check(settled.is_ok(), || {
            format!("expected {transport} ({reason}): {settled:?}")
        });
        report.settled = told(&settled.unwrap_or_else(|status| status));
    }
    match steady {
        Some(long) => endure(*long, &gateway, &mut expected).await,
        None => come_and_go(&network, faults, &gateway, &mut expected).await,
    }
    if let (Some(_), Some((transport, _))) = (steady, settles) {
        let statuses = js.run("return state.statuses;", Value::Null).await;
        let mut seen = statuses
            .as_array()
            .expect("a list")
            .iter()
            .map(|status| &status["transport"]);
        let stayed = seen.all(|seen| seen.is_null() || seen == transport);
        report.check(stayed, || {
            format!("it did not stay where it was: {statuses}")
        });
    }
    // Faults of requests do not strike while the client is on its WebSocket.
    network.set(faults.clone());
    let through = network.gateway(&gateway);
    if faults.contains(&Fault::SwallowBodies) {
        let (status, _) = through.post("{\"topic\":\"order:1\"}").await;
        report.check(status == 400, || format!("a body passed: {status}"));
    }
    if faults.contains(&Fault::BufferResponses) {
        let claims = Claims::all("bob");
        let stream = through.get("/events", "topics=order:*", &claims);
        let is_held = timeout(SPELL, stream).await.is_err();
        report.check(is_held, || "a stream came through".to_owned());
    }
    for fault in faults {
        let struck = network.struck(fault);
        report.check(struck > 0, || format!("{fault:?} never struck"));
    }
    network.clear();
    let cleared = Instant::now();
    // A socket that died in silence counts as live until its heartbeat is overdue.
    expected.publish(&gateway, 1).await;
    let all = expected.arrive(&js).await;
    report.check(all.is_ok(), || all.err().unwrap_or_default());
    let left = BACK_ON_WEBSOCKET.saturating_sub(cleared.elapsed());
    let back = until(
        left,
        || status(&js),
        |status| status["state"] == "live" && status["transport"] == "ws",
    )
    .await;
    report.check(back.is_ok(), || format!("not back on WebSocket: {back:?}"));
    report.back = cleared.elapsed();
    // The last climb is one more seam.
    expected.publish(&gateway, 1).await;
    report.events = expected.everything.len();
    let all = expected.arrive(&js).await;
    report.check(all.is_ok(), || all.err().unwrap_or_default());
    report
}

/// The faults, again and again, with another weather between them.
async fn come_and_go(
    network: &Network,
    faults: &[Fault],
    gateway: &TestGateway,
    expected: &mut Expected,
) {
    for round in 0..ROUNDS {
        let other = match round % 3 {
            0 => vec![Fault::Offline(Manner::Silent)],
            1 => vec![Fault::Offline(Manner::Reset)],
            _ => vec![],
        };
        for spell in [faults.to_vec(), other] {
            network.set(spell);
            expected.publish(gateway, EVENTS / ROUNDS / 2).await;
            sleep(SPELL).await;
        }
    }
}

async fn endure(long: Duration, gateway: &TestGateway, expected: &mut Expected) {
    for _ in 0..EVENTS {
        expected.publish(gateway, 1).await;
        sleep(long / EVENTS as u32).await;
    }
}

fn told(status: &Value) -> String {
    let transport = match status["transport"].as_str() {
        Some("ws") => "WebSocket",
        Some("sse") => "SSE",
        _ => "long-poll",
    };
    match status["reason"].as_str() {
        Some(reason) => format!("{transport}: \"{reason}\""),
        None => transport.to_owned(),
    }
}

async fn status(js: &Js) -> Value {
    js.run("return state.client.status;", Value::Null).await
}

/// Asks until the answer is good; else the last one.
async fn until<F: Future<Output = Value>>(
    deadline: Duration,
    mut ask: impl FnMut() -> F,
    is_good: impl Fn(&Value) -> bool,
) -> Result<Value, Value> {
    let end = Instant::now() + deadline;
    loop {
        let answer = timeout(DEADLINE, ask()).await.expect("an answer");
        if is_good(&answer) {
            return Ok(answer);
        }
        if Instant::now() > end {
            return Err(answer);
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// What each subscription is to get, by id.
#[derive(Default)]
struct Expected {
    everything: Vec<String>,
    paid: Vec<String>,
}

impl Expected {
    async fn publish(&mut self, gateway: &TestGateway, count: usize) {
        for _ in 0..count {
            let number = self.everything.len();
            let event = if number.is_multiple_of(2) {
                "paid"
            } else {
                "made"
            };
            let topic = number % 3;
            let body = json!({"topic": format!("order:{topic}"), "event": event, "data": number});
            let (status, answer) = gateway.post(&body.to_string()).await;
            assert_eq!(status, 200, "{answer}");
            let id = answer["id"].as_str().expect("an id").to_owned();
            if event == "paid" && topic > 0 {
                self.paid.push(id.clone());
            }
            self.everything.push(id);
        }
    }

    /// Waits until all of it has come, and nothing else; else what is wrong.
    async fn arrive(&self, js: &Js) -> Result<(), String> {
        let got = until(
            BACK_ON_WEBSOCKET,
            || js.run("return state.got;", Value::Null),
            |got| *got == self.json(),
        );
        got.await.map(drop).map_err(|got| self.difference(&got))
    }

    fn json(&self) -> Value {
        json!({"pattern": self.everything, "everything": self.everything, "paid": self.paid})
    }

    fn difference(&self, got: &Value) -> String {
        let expected = self.json();
        let lists = expected.as_object().expect("an object");
        let told = lists.iter().map(|(name, expected)| {
            let expected = expected.as_array().expect("a list");
            let got = got[name].as_array().cloned().unwrap_or_default();
            let lost: Vec<_> = expected.iter().filter(|id| !got.contains(id)).collect();
            let more: Vec<_> = got.iter().filter(|id| !expected.contains(id)).collect();
            format!(
                "{name}: {} of {}, lost {} such as {:?}, not published {:?}",
                got.len(),
                expected.len(),
                lost.len(),
                lost.first(),
                more.first(),
            )
        });
        told.collect::<Vec<_>>().join("; ")
    }
}
