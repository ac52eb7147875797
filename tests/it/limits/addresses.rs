//! Failed authentications and handshakes of one client address.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{Budget, Client, Visit};
use crate::support::{
    Answer, Claims, Credentials, Door, Raw, Received, Sse, TRANSPORTS, TestGateway, Transport, Ws,
};

/// One comes back after 12 seconds.
const FIVE: &str = "limits.failed_auths_per_minute = 5";
const BEHIND_PROXY: &str = "trusted_proxies = [\"127.0.0.1\"]\nlimits.failed_auths_per_minute = 5";

fn bad_token() -> String {
    Claims::all("mallory").signed_with("another-secret-of-more-than-32-bytes")
}

fn from(address: &str) -> Credentials {
    Credentials::header("X-Forwarded-For", address)
}

/// The answer to a bad credential once there were too many.
fn limited(door: Door) -> Answer {
    let status = if door == Door::Ws { 1008 } else { 429 };
    Answer::refused(status, "rate_limited")
}

/// Uses the budget of an address up; how many were refused for themselves before.
async fn use_up(gateway: &TestGateway, credentials: &Credentials) -> usize {
    let mut refused = 0;
    while gateway.knock(Door::Poll, credentials).await != limited(Door::Poll) {
        refused += 1;
        assert!(refused < 100, "there is no limit");
    }
    refused
}

#[tokio::test]
async fn too_many_bad_credentials_are_429_at_every_door_and_good_ones_still_pass() {
    let gateway = TestGateway::with(FIVE).await;
    let bad = bad_token();
    let refused = use_up(&gateway, &Credentials::bearer(&bad)).await;
    assert_eq!(refused, 5);
    let never_issued = "A".repeat(32);
    for door in Door::ALL {
        for credentials in [
            Credentials::bearer(&bad),
            Credentials::bearer("nonsense"),
            Credentials::bearer(&Claims::all("alice").expiring_in(-60).token()),
            Credentials::parameter("token", &bad),
            Credentials::parameter("access_token", &bad),
            Credentials::parameter("ticket", &never_issued),
        ] {
            let answer = gateway.knock(door, &credentials).await;
            assert_eq!(answer, limited(door), "{credentials:?} at {door:?}");
        }
        // A bad cookie counts as none, and on /ws the first message may bring a good token.
        let answer = gateway.knock(door, &Credentials::cookie(&bad)).await;
        let expected = match door {
            Door::Ws => door.no_credential(),
            _ => limited(door),
        };
        assert_eq!(answer, expected, "a cookie at {door:?}");
        // No credential is none that failed.
        let answer = gateway.knock(door, &Credentials::none()).await;
        assert_eq!(answer, door.no_credential());
        let good = Credentials::bearer(&Claims::all("alice").token());
        assert_eq!(gateway.knock(door, &good).await, Answer::LetIn, "{door:?}");
    }
}

#[tokio::test]
async fn every_way_to_show_a_bad_credential_counts() {
    let bad = bad_token();
    let gateway = TestGateway::with(BEHIND_PROXY).await;
    let ways = [
        Credentials::bearer(&bad),
        Credentials::parameter("token", &bad),
        Credentials::parameter("ticket", &"A".repeat(32)),
        Credentials::cookie(&bad),
        Credentials::bearer(&Claims::all("alice").expiring_in(-60).token()),
    ];
    let mut address = 0;
    for credentials in ways {
        for door in Door::ALL {
            address += 1;
            let credentials = credentials.clone().and(from(&format!("192.0.2.{address}")));
            for _ in 0..5 {
                let answer = gateway.knock(door, &credentials).await;
                assert!(
                    !matches!(&answer, Answer::Refused(_, code) if code == "rate_limited"),
                    "{credentials:?} at {door:?}"
                );
            }
            let bearer = Credentials::bearer(&bad).and(from(&format!("192.0.2.{address}")));
            let answer = gateway.knock(Door::Poll, &bearer).await;
            assert_eq!(answer, limited(Door::Poll), "{credentials:?} at {door:?}");
        }
    }
}

#[tokio::test]
async fn the_refusal_tells_when_to_come_back() {
    let gateway = TestGateway::with(FIVE).await;
    let mallory = Client::with_token(&gateway, bad_token());
    use_up(&gateway, &Credentials::bearer(&mallory.token)).await;
    for transport in [Transport::Sse, Transport::Poll] {
        let refused = mallory.must_be_refused(transport, "").await;
        refused.assert(transport, "rate_limited");
        refused.assert_rate("\"failed_auths\";q=5;w=60");
        assert!(
            (1..=12_000).contains(&refused.retry_after_ms()),
            "{refused:?}"
        );
    }
    let refused = mallory.must_be_refused(Transport::Ws, "").await;
    assert_eq!((refused.status, refused.code()), (1008, "rate_limited"));
    assert!(
        (1..=12_000).contains(&refused.retry_after_ms()),
        "{refused:?}"
    );
    let refused = mallory.publish(&json!({"topic": "a:1"})).await;
    refused
        .expect_err("429")
        .assert_rate("\"failed_auths\";q=5;w=60");
}

#[tokio::test]
async fn a_native_event_source_with_a_bad_token_is_told_in_a_stream() {
    let gateway = TestGateway::with(FIVE).await;
    let bad = bad_token();
    use_up(&gateway, &Credentials::bearer(&bad)).await;
    let url = gateway.url(&format!("/events?native=1&token={bad}"));
    let response = gateway.http.get(url).send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut sse = Sse::new(response);
    let closing = sse.next().await;
    assert_eq!(closing.name, "closing");
    let retry = closing.retry.expect("a retry");
    assert!((2000..=12_000).contains(&retry), "{retry}");
    assert!(sse.try_next().await.is_none());
}

#[tokio::test]
async fn a_bad_first_message_counts_and_a_good_one_passes() {
    let gateway = TestGateway::with(FIVE).await;
    let auth = |token: &str| json!({"type": "auth", "token": token});
    for (close, code) in [(4002, "unauthorized"); 5]
        .into_iter()
        .chain([(1008, "rate_limited"); 3])
    {
        let mut ws = connect_bare(&gateway).await;
        let error = ws.ask(auth(&bad_token())).await;
        assert_eq!(error["code"], code, "{error}");
        assert_eq!(error["retryAfterMs"].is_u64(), code == "rate_limited");
        assert!(matches!(ws.receive().await, Received::Close(status, _) if status == close));
    }
    let mut ws = connect_bare(&gateway).await;
    let reply = ws.ask(auth(&Claims::all("alice").token())).await;
    assert_eq!(reply["type"], "auth_success");
}

async fn connect_bare(gateway: &TestGateway) -> Ws {
    let connected = Ws::connect(gateway, "", None, None).await;
    connected.expect("the handshake succeeds")
}

#[tokio::test]
async fn a_bad_refresh_in_band_counts_and_whoever_keeps_on_is_closed() {
    let gateway = TestGateway::with(FIVE).await;
    let mut ws = gateway.ws("").await;
    let bad = json!({"type": "auth", "token": bad_token()});
    for _ in 0..5 {
        assert_eq!(ws.ask(bad.clone()).await["code"], "unauthorized");
    }
    let refused = ws.ask(bad.clone()).await;
    assert_eq!(refused["code"], "rate_limited");
    assert!(refused["retryAfterMs"].is_u64(), "{refused}");
    // The connection stays, and a good token is taken.
    let good = json!({"type": "auth", "token": Claims::all("alice").token()});
    assert_eq!(ws.ask(good).await["type"], "auth_success");
    for _ in 0..300 {
        if ws.try_send(&bad).await.is_err() {
            break;
        }
    }
    assert_eq!(ws.close_code().await, 1008);
}

#[tokio::test]
async fn another_address_has_its_own_budget() {
    let gateway = TestGateway::with(FIVE).await;
    use_up(&gateway, &Credentials::bearer(&bad_token())).await;
    let head = format!(
        "HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        bad_token()
    );
    for path in ["/poll", "/events"] {
        let mut raw = Raw::connect_from(&gateway, Ipv4Addr::new(127, 0, 0, 2)).await;
        raw.send(format!("GET {path} {head}").as_bytes()).await;
        assert_eq!(raw.response().await.status, 401, "{path}");
        let mut raw = Raw::connect_from(&gateway, Ipv4Addr::LOCALHOST).await;
        raw.send(format!("GET {path} {head}").as_bytes()).await;
        assert_eq!(raw.response().await.status, 429, "{path}");
    }
}

#[tokio::test]
async fn what_a_client_forwards_itself_is_ignored() {
    let gateway = TestGateway::with(FIVE).await;
    let bad = Credentials::bearer(&bad_token());
    assert_eq!(
        use_up(&gateway, &bad.clone().and(from("192.0.2.1"))).await,
        5
    );
    for door in Door::ALL {
        for address in ["192.0.2.2", "2001:db8::1", "127.0.0.2"] {
            let answer = gateway.knock(door, &bad.clone().and(from(address))).await;
            assert_eq!(answer, limited(door), "{address} at {door:?}");
        }
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_what_it_forwards_decides() {
    let gateway = TestGateway::with(BEHIND_PROXY).await;
    let bad = Credentials::bearer(&bad_token());
    assert_eq!(
        use_up(&gateway, &bad.clone().and(from("192.0.2.1"))).await,
        5
    );
    for door in Door::ALL {
        // What stands further left is the client's own, and names nobody.
        for same in ["192.0.2.1", "198.51.100.9, 192.0.2.1", "::ffff:192.0.2.1"] {
            let answer = gateway.knock(door, &bad.clone().and(from(same))).await;
            assert_eq!(answer, limited(door), "{same} at {door:?}");
        }
    }
    for door in Door::ALL {
        for other in ["192.0.2.2", "192.0.2.1, 192.0.2.3"] {
            // An address for each door, of which there are more than five.
            let other = &format!("{other}{}", door as usize);
            let answer = gateway.knock(door, &bad.clone().and(from(other))).await;
            assert_eq!(answer, door.refusal("unauthorized"), "{other} at {door:?}");
        }
    }
}

#[tokio::test]
async fn an_ipv6_customer_has_one_budget_for_its_whole_network() {
    let gateway = TestGateway::with(BEHIND_PROXY).await;
    let bad = Credentials::bearer(&bad_token());
    for number in 0..5 {
        let hop = from(&format!("2001:db8:0:{:x}::{number}", 0x100 + number));
        let answer = gateway.knock(Door::Poll, &bad.clone().and(hop)).await;
        assert_eq!(answer, Door::Poll.refusal("unauthorized"));
    }
    let same = bad.clone().and(from("2001:db8:0:1ff:ffff::1"));
    assert_eq!(gateway.knock(Door::Poll, &same).await, limited(Door::Poll));
    let other = bad.clone().and(from("2001:db8:0:200::1"));
    let answer = gateway.knock(Door::Poll, &other).await;
    assert_eq!(answer, Door::Poll.refusal("unauthorized"));
}

const FOUR_HANDSHAKES: &str = "trusted_proxies = [\"127.0.0.1\"]\n\
                               limits.handshakes_per_second = 1\nlimits.handshake_burst = 4";

/// A client that opens a connection for each request.
fn fresh<'a>(gateway: &'a TestGateway, address: &str) -> Client<'a> {
    let client = Client::new(gateway, &Claims::all("alice"));
    client.forwarded_for(address).unpooled()
}

#[tokio::test]
async fn a_flood_of_handshakes_is_refused_on_every_transport_and_other_addresses_are_not() {
    let gateway = TestGateway::with(FOUR_HANDSHAKES).await;
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let flooder = fresh(&gateway, &format!("192.0.2.{number}"));
        let mut budget = Budget::of(4);
        for _ in 0..20 {
            match flooder.visit(transport, "").await {
                Visit::In(_) => budget.take(),
                Visit::Out(refused) => {
                    refused.assert(transport, "rate_limited");
                    if transport != Transport::Ws {
                        refused.assert_rate("\"handshakes\";q=4;w=4");
                    }
                }
            }
        }
        budget.assert_used_up();
        let neighbour = fresh(&gateway, &format!("192.0.3.{number}"));
        for transport in TRANSPORTS {
            neighbour.must_enter(transport, "").await;
        }
    }
}

#[tokio::test]
async fn handshakes_of_one_address_are_counted_over_all_transports() {
    let gateway = TestGateway::with(FOUR_HANDSHAKES).await;
    let client = fresh(&gateway, "192.0.2.1");
    let mut budget = Budget::of(4);
    for _ in 0..6 {
        for transport in TRANSPORTS {
            let visit = client.visit(transport, "").await;
            let was_in = matches!(visit, Visit::In(_));
            budget.take_if(was_in);
        }
        let was_in = client.publish(&json!({"topic": "a:1"})).await.is_ok();
        budget.take_if(was_in);
    }
    budget.assert_used_up();
}

#[tokio::test]
async fn an_ipv6_customers_handshakes_are_counted_together() {
    let gateway = TestGateway::with(FOUR_HANDSHAKES).await;
    let mut budget = Budget::of(4);
    for number in 0..20 {
        let client = fresh(&gateway, &format!("2001:db8:0:1{number:02}::1"));
        let visit = client.visit(TRANSPORTS[number % 3], "").await;
        let was_in = matches!(visit, Visit::In(_));
        budget.take_if(was_in);
    }
    budget.assert_used_up();
    let neighbour = fresh(&gateway, "2001:db8:0:200::1");
    neighbour.must_enter(Transport::Ws, "").await;
}

#[tokio::test]
async fn requests_on_a_connection_that_is_there_are_no_handshakes() {
    let gateway = TestGateway::with(FOUR_HANDSHAKES).await;
    let mut raw = Raw::connect(&gateway).await;
    for _ in 0..50 {
        raw.request("GET /poll?topics=a:1", "\r\n").await;
        assert_eq!(raw.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_native_event_source_over_its_handshakes_is_told_in_a_stream() {
    let gateway = TestGateway::with(FOUR_HANDSHAKES).await;
    let client = fresh(&gateway, "192.0.2.1");
    let mut closing = Value::Null;
    let mut budget = Budget::of(4);
    while closing.is_null() {
        let url = gateway.url("/events?native=1");
        let response = client.send(client.http.get(url)).await.expect("200");
        let first = Sse::new(response).next().await;
        if first.name == "closing" {
            closing = first.json();
        } else {
            budget.take();
        }
    }
    assert_eq!(closing["reconnectAfterMs"], 2000);
}
