//! The proxies of `docs/operations.md`, run with the configurations that stand there, in front of a
//! real gateway.

mod proxy;

use serde_json::json;

use self::proxy::{Front, Kind};
use crate::support::{Claims, Received, within};

/// Each of these tests for each proxy.
macro_rules! through {
    ($($proxy:ident: $kind:expr),+; $($test:ident),+ $(,)?) => { through! { @ [$(($proxy, $kind))+] [$($test),+] } };
    (@ [] $tests:tt) => {};
    (@ [($proxy:ident, $kind:expr) $($rest:tt)*] [$($test:ident),+]) => {
        mod $proxy {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($kind).await;
                }
            )+
        }
        through! { @ [$($rest)*] [$($test),+] }
    };
}

through! {
    nginx: super::Kind::Nginx, haproxy: super::Kind::Haproxy, caddy: super::Kind::Caddy;
    all_transports_and_publishes_pass_and_nothing_is_buffered,
    the_gateway_sees_each_clients_address_and_none_that_is_made_up,
    quiet_streams_outlive_the_patience_of_the_proxy,
    a_client_that_leaves_is_gone_at_the_gateway_too,
    the_longest_token_and_a_long_url_pass,
    a_reload_loses_nothing,
}

async fn all_transports_and_publishes_pass_and_nothing_is_buffered(kind: Kind) {
    let front = Front::start(kind, "").await;
    for version in [reqwest::Version::HTTP_2, reqwest::Version::HTTP_11] {
        let client = front.client(version);
        // What it is told first comes before anything is published.
        let mut sse = front.sse(&client, "topics=order:1").await;
        let mut ws = front.ws("topics=order:1").await;
        let (_, start) = front.poll(&client, "topics=order:1").await;
        for number in 0..3 {
            let after = format!(
                "topics=order:1&cursor={}",
                start["cursor"].as_str().unwrap()
            );
            let poll = async {
                match number {
                    0 => Some(front.poll(&client, &after).await),
                    _ => None,
                }
            };
            // The next is published only when this one has come, so none can wait for another.
            let (page, id) = tokio::join!(poll, front.publish(&client, "order:1", number));
            assert_eq!(sse.event().await["id"], id.as_str());
            assert_eq!(ws.event().await["id"], id.as_str());
            if let Some((version_of_poll, page)) = page {
                assert_eq!(version_of_poll, version);
                assert_eq!(page["events"][0]["id"], id.as_str(), "{page}");
            }
        }
        let published = ws.ask(json!({"type": "publish", "topic": "order:1"})).await;
        assert_eq!(published["type"], "published", "{published}");
        assert_eq!(sse.event().await["id"], published["id"]);
    }
    let own = front.url("");
    for (origin, status) in [(own.as_str(), 200), ("https://evil.example", 403)] {
        let request = front.get(&front.client(reqwest::Version::HTTP_2), "/poll?topics=a");
        let answer = request.header("Origin", origin).send().await.unwrap();
        assert_eq!(answer.status(), status, "{origin}");
    }
}

/// By what makes an address known: its failed authentications.
async fn the_gateway_sees_each_clients_address_and_none_that_is_made_up(kind: Kind) {
    let front = Front::start(kind, "limits.failed_auths_per_minute = 3").await;
    let guess = async |client: &reqwest::Client, made_up: &str| {
        let request = client
            .get(front.url("/poll?topics=a"))
            .header("X-Forwarded-For", made_up)
            .bearer_auth("wrong");
        request.send().await.unwrap().status().as_u16()
    };
    let guesser = front.client_at("127.0.0.2");
    let mut answers = Vec::new();
    for number in 0..8 {
        answers.push(guess(&guesser, &format!("198.51.100.{number}")).await);
    }
    assert_eq!(answers[0], 401, "{answers:?}");
    assert_eq!(
        answers[7], 429,
        "it is known by its own address: {answers:?}"
    );
    let neighbour = front.client_at("127.0.0.3");
    assert_eq!(guess(&neighbour, "127.0.0.2").await, 401, "one of its own");
}

async fn quiet_streams_outlive_the_patience_of_the_proxy(kind: Kind) {
    // As the document has it, in a smaller measure: 25 s of 90 s.
    let front = Front::impatient(kind, "4s", "heartbeat = \"1s\"").await;
    let client = front.client(reqwest::Version::HTTP_2);
    let mut sse = front.sse(&client, "topics=quiet:1").await;
    let mut ws = front.ws("topics=quiet:1").await;
    let by_sse = async {
        for _ in 0..6 {
            sse.frame("heartbeat").await;
        }
    };
    let by_ws = async {
        for _ in 0..6 {
            ws.frame("heartbeat").await;
        }
    };
    tokio::join!(by_sse, by_ws);
    let id = front.publish(&client, "quiet:1", 1).await;
    assert_eq!(sse.event().await["id"], id.as_str());
    assert_eq!(ws.event().await["id"], id.as_str());
}

/// By the places that a subject has: whoever comes again finds them free.
async fn a_client_that_leaves_is_gone_at_the_gateway_too(kind: Kind) {
    let front = Front::start(kind, "limits.connections_per_subject = 2").await;
    for version in [reqwest::Version::HTTP_2, reqwest::Version::HTTP_11] {
        let returns = async {
            loop {
                // Connections of its own, as when the client's process ends.
                let client = front.client(version);
                let request = || front.get(&client, "/events?topics=a").send();
                let both = [request().await.unwrap(), request().await.unwrap()];
                if both.iter().all(|answer| answer.status() == 200) {
                    let third = request().await.unwrap();
                    assert_eq!(third.status(), 429, "the places are taken");
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        within("the places to become free", returns).await;
    }
    let returns = async {
        loop {
            match front.try_ws("topics=a").await {
                Received::Json(json) if json["type"] == "connected" => return,
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    within("the places to become free", returns).await;
}

async fn the_longest_token_and_a_long_url_pass(kind: Kind) {
    let front = Front::start(kind, "").await;
    let claims = Claims::all("alice");
    let spare = 8192 - claims.clone().with("more", json!("")).token().len();
    let token = claims
        .with("more", json!("x".repeat(spare * 3 / 4)))
        .token();
    assert!((8000..=8192).contains(&token.len()), "{}", token.len());
    let topics: Vec<_> = (0..700)
        .map(|number| format!("a-rather-long:{number:04}"))
        .collect();
    let path = format!("/poll?topics={}", topics.join(","));
    assert!((13_000..16_000).contains(&path.len()), "{}", path.len());
    let in_query = format!("/poll?topics=a&token={token}");
    for version in [reqwest::Version::HTTP_2, reqwest::Version::HTTP_11] {
        let client = front.client(version);
        let by_header = client.get(front.url(&path)).bearer_auth(&token);
        let by_query = client.get(front.url(&in_query));
        for request in [by_header, by_query] {
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{version:?}: {answer:?}");
        }
    }
}

/// Whether streams go on or have to come back: nothing is lost, and nobody is refused meanwhile.
async fn a_reload_loses_nothing(kind: Kind) {
    let mut front = Front::start(kind, "").await;
    let before = front.client(reqwest::Version::HTTP_2);
    let mut sse = front.sse(&before, "topics=order:1").await;
    let mut ws = front.ws("topics=order:1").await;
    let first = front.publish(&before, "order:1", 1).await;
    assert_eq!(sse.event().await["id"], first.as_str());
    assert_eq!(ws.event().await["id"], first.as_str());
    front.reload().await;
    let after = front.client(reqwest::Version::HTTP_2);
    let second = front.publish(&after, "order:1", 2).await;
    if kind.keeps_websockets_over_a_reload() {
        assert_eq!(ws.event().await["id"], second.as_str());
    } else {
        assert!(matches!(
            ws.receive().await,
            Received::Close(..) | Received::End
        ));
        let mut ws = front.ws(&format!("topics=order:1&cursor={first}")).await;
        assert_eq!(ws.event().await["id"], second.as_str());
    }
    assert_eq!(
        sse.event().await["id"],
        second.as_str(),
        "the stream goes on"
    );
    let mut new = front
        .sse(&after, &format!("topics=order:1&cursor={first}"))
        .await;
    assert_eq!(new.event().await["id"], second.as_str());
}
