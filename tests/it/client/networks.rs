//! The client on hostile networks: what it falls back to and why, that nothing is lost or repeated
//! meanwhile, and that it climbs back.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Claims, Fault, Js, Manner, Network, TestGateway};

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
    for host in [Host::Node, Host::Chromium] {
        let networks = weathers.clone().map(|weather| survive(weather, host));
        let reports = futures_util::future::join_all(networks).await;
        let failures: Vec<String> = reports.into_iter().flatten().collect();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

/// What went wrong on this network.
async fn survive(weather: Weather, host: Host) -> Vec<String> {
    let Weather {
        name,
        faults,
        settles,
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

    let mut failures = Vec::new();
    let mut check = |is_good: bool, what: String| {
        if !is_good {
            failures.push(format!("{name} in {host:?}: {what}"));
        }
    };
    let first = until(
        FIRST_EVENT,
        || js.run("return state.first;", Value::Null),
        |first| !first.is_null(),
    )
    .await;
    check(first.is_ok(), format!("no event within {FIRST_EVENT:?}"));
    if let Some((transport, reason)) = settles {
        let settled = until(
            BACK_ON_WEBSOCKET,
            || status(&js),
            |status| {
                status["transport"] == transport
                    && status["reason"]
                        .as_str()
                        .unwrap_or_default()
                        .starts_with(reason)
            },
        )
        .await;
        check(
            settled.is_ok(),
            format!("expected {transport} ({reason}): {settled:?}"),
        );
    }
    for round in 0..ROUNDS {
        let other = match round % 3 {
            0 => vec![Fault::Offline(Manner::Silent)],
            1 => vec![Fault::Offline(Manner::Reset)],
            _ => vec![],
        };
        for spell in [faults.clone(), other] {
            network.set(spell);
            expected.publish(&gateway, EVENTS / ROUNDS / 2).await;
            sleep(SPELL).await;
        }
    }
    // Faults of requests do not strike while the client is on its WebSocket.
    network.set(faults.clone());
    let through = network.gateway(&gateway);
    if faults.contains(&Fault::SwallowBodies) {
        let (status, _) = through.post("{\"topic\":\"order:1\"}").await;
        check(status == 400, format!("a body passed: {status}"));
    }
    if faults.contains(&Fault::BufferResponses) {
        let claims = Claims::all("bob");
        let stream = through.get("/events", "topics=order:*", &claims);
        let is_held = timeout(SPELL, stream).await.is_err();
        check(is_held, "a stream came through".to_owned());
    }
    for fault in &faults {
        check(network.struck(fault) > 0, format!("{fault:?} never struck"));
    }
    network.clear();
    // A socket that died in silence counts as live until its heartbeat is overdue.
    expected.publish(&gateway, 1).await;
    let all = until(
        BACK_ON_WEBSOCKET,
        || js.run("return state.got;", Value::Null),
        |got| *got == expected.json(),
    )
    .await;
    if let Err(got) = all {
        check(false, expected.difference(&got));
    }
    let back = until(
        BACK_ON_WEBSOCKET,
        || status(&js),
        |status| status["state"] == "live" && status["transport"] == "ws",
    )
    .await;
    check(back.is_ok(), format!("not back on WebSocket: {back:?}"));
    failures
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
        let answer = timeout(deadline, ask()).await.expect("an answer");
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
