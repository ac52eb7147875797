//! A backend that is down: nobody waits for it for long, and those who need it not do not notice.

use futures_util::future::join_all;
use serde_json::json;

use super::{all, gateway, header, unavailable, ws_as};
use crate::support::{Answer, Backend, Claims, Credentials, Door, Mood, TestGateway, within};

async fn let_in_again(gateway: &TestGateway, session: &str) {
    let let_in = async {
        while gateway.knock(Door::Poll, &header(session)).await != Answer::LetIn {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the backend to be asked again", let_in).await;
}

#[tokio::test]
async fn a_backend_that_fails_is_left_alone_and_asked_again_later() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    for status in [500, 503, 429, 408] {
        backend.is(Mood::Status(status));
        let before = backend.calls();
        for number in 0..100 {
            let session = header(&format!("s{status}-{number}"));
            let answer = gateway.knock(Door::Poll, &session).await;
            assert_eq!(answer, unavailable(Door::Poll));
        }
        let calls = backend.calls() - before;
        assert!((5..20).contains(&calls), "{calls} calls for {status}");
        let refused = Door::Poll.request(&gateway, &header("another"));
        let refused: serde_json::Value = refused.send().await.unwrap().json().await.unwrap();
        let wait = refused["retryAfterMs"].as_u64().expect("when to come back");
        assert!((1..=30_000).contains(&wait), "{wait}");
        backend.is(Mood::Good);
        // All who were not known: whoever is remembered would be let in without a call.
        for number in 0..10 {
            backend.sign_in(&format!("good{status}-{number}"), all("alice"));
        }
        let_in_again(&gateway, &format!("good{status}-0")).await;
        for number in 1..10 {
            let session = header(&format!("good{status}-{number}"));
            let answer = gateway.knock(Door::Poll, &session).await;
            assert_eq!(answer, Answer::LetIn, "everyone is let in again");
        }
    }
}

#[tokio::test]
async fn a_backend_that_nobody_listens_at_is_unavailable_at_every_door() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    backend.stop().await;
    for door in Door::ALL {
        let answer = gateway.knock(door, &header("s1")).await;
        assert_eq!(answer, unavailable(door), "{door:?}");
    }
}

#[tokio::test]
async fn who_was_known_stays_known_while_the_backend_is_down() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let patient = gateway(&backend, "cache = \"1ms\"\nstale = \"60s\"").await;
    let strict = gateway(&backend, "cache = \"1ms\"\nstale = \"0s\"").await;
    for gateway in [&patient, &strict] {
        assert_eq!(
            gateway.knock(Door::Poll, &header("s1")).await,
            Answer::LetIn
        );
    }
    backend.is(Mood::Status(500));
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    // More than open the circuit, so both before and after.
    for number in 0..10 {
        for door in Door::ALL {
            assert_eq!(patient.knock(door, &header("s1")).await, Answer::LetIn);
            let answer = strict.knock(door, &header("s1")).await;
            assert_eq!(answer, unavailable(door), "{door:?}");
        }
        let answer = patient
            .knock(Door::Poll, &header(&format!("new{number}")))
            .await;
        assert_eq!(answer, unavailable(Door::Poll), "who was not known");
    }
    backend.sign_out("s1");
    backend.is(Mood::Good);
    for gateway in [&patient, &strict] {
        let signed_out = async {
            let refused = Answer::refused(401, "unauthorized");
            while gateway.knock(Door::Poll, &header("s1")).await != refused {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within("the sign-out to count", signed_out).await;
    }
    backend.is(Mood::Status(500));
    let answer = patient.knock(Door::Poll, &header("s1")).await;
    assert_ne!(answer, Answer::LetIn, "who has signed out is forgotten");
}

#[tokio::test]
async fn a_backend_that_hangs_under_load_hurts_nobody_else() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "timeout = \"1s\"\nconcurrency = 4").await;
    let mut known = ws_as(&gateway, "s1", "topics=order:*").await;
    known.frame("live").await;
    let mut by_token = gateway.ws_as(&Claims::all("bob"), "topics=order:*").await;
    by_token.frame("live").await;
    backend.is(Mood::Hangs);
    let sessions: Vec<Credentials> = (0..200).map(|n| header(&format!("x{n}"))).collect();
    let load = join_all(sessions.iter().enumerate().map(|(number, session)| {
        let door = Door::ALL[number % Door::ALL.len()];
        let gateway = &gateway;
        async move { (door, gateway.knock(door, session).await) }
    }));
    let others = async {
        backend.asked(1).await;
        for number in 0..20 {
            gateway.publish("order:1", json!(number)).await;
            assert_eq!(known.event().await["data"], number);
            assert_eq!(by_token.event().await["data"], number);
            let token = Credentials::bearer(&Claims::all("carol").token());
            assert_eq!(gateway.knock(Door::Events, &token).await, Answer::LetIn);
        }
    };
    let (answers, ()) = tokio::join!(load, others);
    for (door, answer) in answers {
        assert_eq!(answer, unavailable(door), "{door:?}");
    }
    assert!(backend.calls() < 50, "{} calls", backend.calls());
    backend.sign_in("fresh", all("dave"));
    backend.is(Mood::Good);
    let_in_again(&gateway, "fresh").await;
    gateway.publish("order:1", json!("after")).await;
    assert_eq!(known.event().await["data"], "after");
}

#[tokio::test]
async fn wrong_answers_for_one_account_do_not_open_the_circuit() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    for mood in [
        Mood::Says("{}".to_owned()),
        Mood::Says("<html>".to_owned()),
        Mood::Redirect,
        Mood::Status(400),
        Mood::Status(404),
    ] {
        backend.is(mood.clone());
        let before = backend.calls();
        for number in 0..10 {
            let session = header(&format!("{mood:?}-{number}"));
            let answer = gateway.knock(Door::Poll, &session).await;
            assert_eq!(answer, unavailable(Door::Poll));
        }
        assert_eq!(backend.calls() - before, 10, "it is asked each time");
    }
    backend.sign_in("good", all("alice"));
    backend.is(Mood::Good);
    assert_eq!(
        gateway.knock(Door::Poll, &header("good")).await,
        Answer::LetIn
    );
}
