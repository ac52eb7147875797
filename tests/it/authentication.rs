//! Who may come in (protocol, section 3), on every transport.

mod expiry;
mod first_message;
mod grants;
mod hostile_tokens;
mod keys;
mod revocation;

use serde_json::json;

use crate::support::{Answer, Claims, Credentials, Door, TestGateway, now};

const NEVER_ISSUED: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The ways to give a credential, the one that wins first.
const WAYS: [&str; 5] = ["header", "ticket", "token", "access_token", "cookie"];

async fn good(way: &str, gateway: &TestGateway) -> Credentials {
    let claims = Claims::all("alice");
    match way {
        "ticket" => Credentials::parameter("ticket", &gateway.ticket(&claims, "once").await),
        _ => shown(way, &claims.token(), gateway),
    }
}

fn bad(way: &str, gateway: &TestGateway) -> Credentials {
    let other_key = Claims::all("mallory").signed_with("another-secret-of-more-than-32-bytes");
    match way {
        "ticket" => Credentials::parameter("ticket", NEVER_ISSUED),
        _ => shown(way, &other_key, gateway),
    }
}

fn shown(way: &str, token: &str, gateway: &TestGateway) -> Credentials {
    match way {
        "header" => Credentials::bearer(token),
        "cookie" => Credentials::cookie(token).and(own_origin(gateway)),
        parameter => Credentials::parameter(parameter, token),
    }
}

/// A POST by cookie needs it.
fn own_origin(gateway: &TestGateway) -> Credentials {
    Credentials::header("Origin", gateway.url(""))
}

#[tokio::test]
async fn every_way_to_give_a_credential_opens_every_endpoint() {
    let gateway = TestGateway::start().await;
    for door in Door::ALL {
        for way in WAYS {
            let credentials = good(way, &gateway).await;
            assert_eq!(
                gateway.knock(door, &credentials).await,
                Answer::LetIn,
                "{way} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_bad_credential_is_refused_at_every_endpoint_but_a_bad_cookie_counts_as_none() {
    let gateway = TestGateway::start().await;
    for door in Door::ALL {
        for way in WAYS {
            let expected = match way {
                "cookie" => door.no_credential(),
                _ => door.refusal("unauthorized"),
            };
            let answer = gateway.knock(door, &bad(way, &gateway)).await;
            assert_eq!(answer, expected, "{way} at {door:?}");
        }
    }
}

#[tokio::test]
async fn without_a_credential_every_endpoint_asks_for_one() {
    let gateway = TestGateway::start().await;
    for door in Door::ALL {
        let answer = gateway.knock(door, &Credentials::none()).await;
        assert_eq!(answer, door.no_credential(), "{door:?}");
    }
    let request = Door::Poll.request(&gateway, &Credentials::none());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
}

#[tokio::test]
async fn only_the_first_present_credential_counts() {
    let gateway = TestGateway::start().await;
    for door in Door::ALL {
        for (rank, stronger) in WAYS.into_iter().enumerate() {
            let is_alias = |way: &str| (stronger, way) == ("token", "access_token");
            for weaker in WAYS[rank + 1..].iter().filter(|way| !is_alias(way)) {
                let case = format!("{stronger} before {weaker} at {door:?}");
                let good_first = good(stronger, &gateway).await.and(bad(weaker, &gateway));
                assert_eq!(
                    gateway.knock(door, &good_first).await,
                    Answer::LetIn,
                    "{case}"
                );
                let bad_first = bad(stronger, &gateway).and(good(weaker, &gateway).await);
                let refused = door.refusal("unauthorized");
                assert_eq!(gateway.knock(door, &bad_first).await, refused, "{case}");
            }
        }
    }
}

/// A proxy in front may have looked at the other one.
#[tokio::test]
async fn a_query_credential_given_twice_is_a_bad_one() {
    let gateway = TestGateway::start().await;
    let token = Claims::all("alice").token();
    for door in Door::ALL {
        for (one, other) in [
            ("token", "token"),
            ("token", "access_token"),
            ("access_token", "token"),
        ] {
            let both =
                Credentials::parameter(one, &token).and(Credentials::parameter(other, &token));
            let answer = gateway.knock(door, &both).await;
            assert_eq!(
                answer,
                door.refusal("unauthorized"),
                "{one} and {other} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn another_authorization_scheme_counts_as_none() {
    let gateway = TestGateway::start().await;
    let basic = || Credentials::header("Authorization", "Basic YWxpY2U6c2VjcmV0");
    for door in Door::ALL {
        let answer = gateway.knock(door, &basic()).await;
        assert_eq!(answer, door.no_credential(), "{door:?}");
        for weaker in &WAYS[1..] {
            let both = basic().and(good(weaker, &gateway).await);
            assert_eq!(
                gateway.knock(door, &both).await,
                Answer::LetIn,
                "{weaker} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_scheme_is_read_in_any_case() {
    let gateway = TestGateway::start().await;
    let token = Claims::all("alice").token();
    for scheme in ["bearer", "BEARER"] {
        let header = Credentials::header("Authorization", format!("{scheme} {token}"));
        assert_eq!(
            gateway.knock(Door::Poll, &header).await,
            Answer::LetIn,
            "{scheme}"
        );
    }
}

#[tokio::test]
async fn an_empty_credential_is_a_bad_one_and_no_reason_to_look_further() {
    let gateway = TestGateway::start().await;
    let cookie = || good("cookie", &gateway);
    for door in Door::ALL {
        for empty in [
            Credentials::header("Authorization", "Bearer"),
            Credentials::parameter("ticket", ""),
            Credentials::parameter("token", ""),
            Credentials::parameter("access_token", ""),
        ] {
            let case = format!("{empty:?} at {door:?}");
            let answer = gateway.knock(door, &empty.and(cookie().await)).await;
            assert_eq!(answer, door.refusal("unauthorized"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_query_credential_that_is_not_text_is_a_bad_one() {
    let gateway = TestGateway::start().await;
    for door in Door::ALL {
        for parameter in ["ticket", "token", "access_token"] {
            let garbled = Credentials::parameter(parameter, "%ff");
            let both = garbled.and(good("cookie", &gateway).await);
            let answer = gateway.knock(door, &both).await;
            assert_eq!(
                answer,
                door.refusal("unauthorized"),
                "{parameter} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_expired_token_is_told_apart_from_a_bad_one() {
    let gateway = TestGateway::start().await;
    let expired = Claims::all("alice").expiring_in(-60).token();
    for door in Door::ALL {
        for way in ["header", "token", "access_token"] {
            let answer = gateway.knock(door, &shown(way, &expired, &gateway)).await;
            assert_eq!(answer, door.refusal("token_expired"), "{way} at {door:?}");
        }
        let answer = gateway
            .knock(door, &shown("cookie", &expired, &gateway))
            .await;
        assert_eq!(answer, door.no_credential(), "{door:?}");
    }
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway_and_not_more() {
    let gateway = TestGateway::start().await;
    let start = |seconds: i64| Claims::all("alice").with("nbf", json!(now() + seconds));
    let end = |seconds| Claims::all("alice").expiring_in(seconds);
    for (claims, code) in [
        (end(-2), None),
        (end(-7), Some("token_expired")),
        (start(3), None),
        (start(60), Some("unauthorized")),
    ] {
        for door in Door::ALL {
            let answer = gateway
                .knock(door, &Credentials::bearer(&claims.token()))
                .await;
            let expected = code.map_or(Answer::LetIn, |code| door.refusal(code));
            assert_eq!(answer, expected, "{claims:?} at {door:?}");
        }
    }
}

#[tokio::test]
async fn the_cookie_may_have_another_name() {
    let gateway = TestGateway::with("auth.cookie = \"session\"").await;
    let token = Claims::all("alice").token();
    let cookie = |name| Credentials::header("Cookie", format!("{name}={token}"));
    assert_eq!(
        gateway.knock(Door::Poll, &cookie("session")).await,
        Answer::LetIn
    );
    let answer = gateway.knock(Door::Poll, &cookie("tribus_token")).await;
    assert_eq!(answer, Door::Poll.no_credential());
}

#[tokio::test]
async fn issuer_and_audience_are_required_once_configured() {
    let gateway =
        TestGateway::with("auth.issuer = \"https://id.example\"\nauth.audience = \"tribus\"").await;
    let claims = |iss: serde_json::Value, aud: serde_json::Value| {
        Claims::all("alice").with("iss", iss).with("aud", aud)
    };
    let issuer = || json!("https://id.example");
    let good = [
        claims(issuer(), json!("tribus")),
        claims(issuer(), json!(["other", "tribus"])),
    ];
    let bad = [
        Claims::all("alice"),
        Claims::all("alice").with("iss", issuer()),
        Claims::all("alice").with("aud", json!("tribus")),
        claims(json!("https://id.example/"), json!("tribus")),
        claims(issuer(), json!("tribus2")),
        claims(issuer(), json!([])),
        claims(issuer(), json!(["tribus", 1])),
        claims(json!([issuer()]), json!("tribus")),
    ];
    for door in Door::ALL {
        for claims in &good {
            let answer = gateway
                .knock(door, &Credentials::bearer(&claims.token()))
                .await;
            assert_eq!(answer, Answer::LetIn, "{claims:?} at {door:?}");
        }
        for claims in &bad {
            let answer = gateway
                .knock(door, &Credentials::bearer(&claims.token()))
                .await;
            assert_eq!(
                answer,
                door.refusal("unauthorized"),
                "{claims:?} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn tokens_of_previous_secrets_stay_good_and_those_of_others_are_not() {
    let before = "the-secret-of-last-month-0123456789";
    let gateway = TestGateway::with(&format!("auth.previous_secrets = [\"{before}\"]")).await;
    for door in Door::ALL {
        for (secret, expected) in [
            (before, Answer::LetIn),
            (
                "the-secret-of-last-year-01234567890",
                door.refusal("unauthorized"),
            ),
        ] {
            let token = Claims::all("alice").signed_with(secret);
            let answer = gateway.knock(door, &Credentials::bearer(&token)).await;
            assert_eq!(answer, expected, "{door:?}");
        }
    }
}
