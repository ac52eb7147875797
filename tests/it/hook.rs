//! The auth hook (protocol, section 3): clients whom the site's own backend knows by sessions of its own.

mod circuit;
mod reload;

use std::io::{Read, Write};

use serde_json::{Value, json};
use tribus::config::Config;

use crate::support::{
    Answer, Backend, Claims, Credentials, Door, Mood, Received, Sse, TestGateway, Ws, answer_of,
    within,
};

/// A gateway that asks this backend, besides taking the tests' tokens.
async fn gateway(backend: &Backend, keys: &str) -> TestGateway {
    TestGateway::with(&hook(backend, keys)).await
}

fn hook(backend: &Backend, keys: &str) -> String {
    format!(
        "[auth.hook]\nurl = \"{}\"\nheaders = [\"X-Session\"]\ncookies = [\"sessionid\"]\n{keys}",
        backend.url()
    )
}

/// The claims of someone who may do everything.
fn all(subject: &str) -> Value {
    json!({"sub": subject, "subscribe": ["**"], "publish": ["**"], "stats": true})
}

fn header(session: &str) -> Credentials {
    Credentials::header("X-Session", session)
}

/// The session's cookie among others, without anything else.
fn cookie(session: &str) -> Credentials {
    let cookies = format!("theme=dark; sessionid={session}; lang=en");
    Credentials::header("Cookie", cookies)
}

/// The session's cookie as a page of the gateway's own origin sends it.
fn cookie_of_page(session: &str, gateway: &TestGateway) -> Credentials {
    cookie(session).and(Credentials::header("Origin", gateway.url("")))
}

fn unavailable(door: Door) -> Answer {
    let status = if door == Door::Ws { 1013 } else { 503 };
    Answer::refused(status, "unavailable")
}

/// A WebSocket by the session's header, once it is `connected`.
async fn ws_as(gateway: &TestGateway, session: &str, query: &str) -> Ws {
    let headers = [("X-Session", session.to_owned())];
    let mut ws = Ws::connect_with(gateway, query, &headers)
        .await
        .expect("the handshake succeeds");
    ws.connected = ws.frame("connected").await;
    ws
}

async fn sse_as(gateway: &TestGateway, session: &str, query: &str) -> Sse {
    let url = gateway.url(&format!("/events?{query}"));
    let request = gateway.http.get(url).header("X-Session", session);
    let mut sse = Sse::new(request.send().await.expect("an answer"));
    sse.connected = sse.frame("connected").await;
    sse
}

#[tokio::test]
async fn a_session_opens_every_door_by_header_and_by_cookie() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "").await;
    for door in Door::ALL {
        for credentials in [header("s1"), cookie_of_page("s1", &gateway)] {
            let answer = gateway.knock(door, &credentials).await;
            assert_eq!(answer, Answer::LetIn, "{credentials:?} at {door:?}");
        }
    }
    assert_eq!(backend.calls(), 2, "once for each kind of credential");
}

#[tokio::test]
async fn the_claims_are_those_of_a_token() {
    let backend = Backend::start().await;
    backend.sign_in(
        "s1",
        json!({
            "sub": "alice", "tenant": "acme", "subscribe": ["order:*"], "publish": ["chat:1"],
            "trusted": true, "jti": "j1", "iss": 7, "aud": {}, "name": "ignored"
        }),
    );
    let gateway = gateway(&backend, "").await;
    let mut ws = ws_as(&gateway, "s1", "topics=order:1").await;
    assert_eq!(ws.connected["userId"], "alice");
    ws.frame("live").await;
    let subscribe = |topic| json!({"type": "subscribe", "topics": [topic]});
    assert_eq!(ws.ask(subscribe("invoice:1")).await["code"], "forbidden");
    let publish = |topic| json!({"type": "publish", "topic": topic, "user_id": "bob"});
    assert_eq!(ws.ask(publish("chat:1")).await["type"], "published");
    assert_eq!(ws.ask(publish("chat:2")).await["code"], "forbidden");
    gateway.publish("order:1", json!("no tenant")).await;
    let answer = gateway.knock(Door::Stats, &header("s1")).await;
    assert_eq!(
        answer,
        Answer::refused(403, "forbidden"),
        "no claim `stats`"
    );
    let of_acme = Claims::all("backend").with("tenant", json!("acme"));
    let body = json!({"topic": "order:1", "data": "of acme"}).to_string();
    assert_eq!(gateway.post_as(&of_acme, &body).await.0, 200);
    assert_eq!(ws.event().await["data"], "of acme");
    let (_, page) = gateway
        .poll_as(&of_acme, "topics=chat:1&cursor=earliest")
        .await;
    assert_eq!(page["events"][0]["user_id"], "bob", "trusted");
}

#[tokio::test]
async fn default_grants_stand_for_missing_ones() {
    let backend = Backend::start().await;
    backend.sign_in("s1", json!({"sub": "alice"}));
    let toml = format!(
        "auth.default_subscribe = [\"user:{{sub}}:**\"]\n{}",
        hook(&backend, "")
    );
    let gateway = TestGateway::with(&toml).await;
    let mut ws = ws_as(&gateway, "s1", "topics=user:alice:inbox").await;
    ws.frame("live").await;
    let subscribe = json!({"type": "subscribe", "topics": ["user:bob:inbox"]});
    assert_eq!(ws.ask(subscribe).await["code"], "forbidden");
}

#[tokio::test]
async fn only_what_is_named_is_posted_and_it_is_posted_as_it_came() {
    let backend = Backend::start().await;
    let keys = "secret = \"what the backend knows the gateway by\"";
    let gateway = gateway(&backend, keys).await;
    let credentials = Credentials::header("Cookie", "a=1; sessionid=s%3Ab+c/=; theme=dark")
        .and(header("x \"1\""))
        .and(Credentials::header("X-Other", "private"));
    let answer = gateway.knock(Door::Poll, &credentials).await;
    assert_eq!(answer, Answer::refused(401, "unauthorized"));
    let question = backend.last_question();
    let expected = r#"{"headers":{"x-session":"x \"1\""},"cookies":{"sessionid":"s%3Ab+c/="}}"#;
    assert_eq!(question.body, expected);
    assert_eq!(question.content_type, "application/json");
    assert_eq!(
        question.authorization.as_deref(),
        Some("Bearer what the backend knows the gateway by")
    );
}

#[tokio::test]
async fn credentials_that_differ_in_place_only_are_not_the_same() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "cache = \"60s\"").await;
    let shown = [
        header("s1"),
        cookie("s1"),
        cookie("s1").and(header("s1")),
        cookie("s1").and(header("s2")),
        cookie("s2").and(header("s1")),
    ];
    for credentials in &shown {
        let answer = gateway.knock(Door::Poll, credentials).await;
        assert_eq!(answer, Answer::LetIn, "{credentials:?}");
    }
    assert_eq!(backend.calls(), shown.len());
}

#[tokio::test]
async fn a_session_that_the_backend_does_not_know_is_refused_and_as_a_cookie_counts_as_none() {
    let backend = Backend::start().await;
    for status in [401, 403] {
        backend.is(Mood::Status(status));
        let gateway = gateway(&backend, "").await;
        for door in Door::ALL {
            let answer = gateway.knock(door, &header("never")).await;
            assert_eq!(answer, door.refusal("unauthorized"), "{door:?}");
            let answer = gateway
                .knock(door, &cookie_of_page("never", &gateway))
                .await;
            assert_eq!(answer, door.no_credential(), "{door:?}");
        }
    }
}

#[tokio::test]
async fn a_websocket_whose_cookie_is_unknown_may_still_send_a_token() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    let headers = [("Cookie", "sessionid=never".to_owned())];
    let ws = Ws::connect_with(&gateway, "", &headers).await;
    let mut ws = ws.expect("a handshake");
    let auth = json!({"type": "auth", "token": Claims::all("alice").token()});
    assert_eq!(ws.ask(auth).await["type"], "auth_success");
}

#[tokio::test]
async fn the_backend_is_not_asked_where_another_credential_comes_first() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "").await;
    let token = Claims::all("bob").token();
    for credentials in [
        Credentials::bearer(&token),
        Credentials::parameter("token", &token),
        Credentials::cookie(&token).and(Credentials::header("Origin", gateway.url(""))),
        Credentials::parameter("ticket", &gateway.ticket(&Claims::all("bob"), "once").await),
    ] {
        let answer = gateway
            .knock(Door::Poll, &credentials.clone().and(header("s1")))
            .await;
        assert_eq!(answer, Answer::LetIn, "{credentials:?}");
    }
    for credentials in [
        Credentials::bearer("bad"),
        Credentials::parameter("token", "bad"),
        Credentials::parameter("ticket", "bad"),
    ] {
        for door in Door::ALL {
            let answer = gateway
                .knock(door, &credentials.clone().and(header("s1")))
                .await;
            assert_eq!(answer, door.refusal("unauthorized"), "{credentials:?}");
        }
    }
    assert_eq!(backend.calls(), 0);
    let credentials = Credentials::cookie("bad").and(header("s1"));
    let answer = gateway.knock(Door::Poll, &credentials).await;
    assert_eq!(answer, Answer::LetIn, "a cookie that is no good is none");
    let credentials = Credentials::header("Authorization", "Basic YTpi").and(header("s1"));
    let answer = gateway.knock(Door::Poll, &credentials).await;
    assert_eq!(answer, Answer::LetIn, "another scheme is for someone else");
}

#[tokio::test]
async fn a_request_without_anything_that_is_named_is_refused_without_asking() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    for door in Door::ALL {
        for credentials in [
            Credentials::none(),
            Credentials::header("Cookie", "theme=dark; sessionid="),
            header(""),
        ] {
            let answer = gateway.knock(door, &credentials).await;
            assert_eq!(answer, door.no_credential(), "{credentials:?} at {door:?}");
        }
    }
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn a_session_too_long_or_given_twice_is_refused_without_asking() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    let long = "x".repeat(16 * 1024);
    let answer = gateway.knock(Door::Poll, &header(&long)).await;
    assert_eq!(answer, Answer::refused(401, "unauthorized"));
    let twice = header("s1").and(header("s1"));
    let answer = gateway.knock(Door::Poll, &twice).await;
    assert_eq!(answer, Answer::refused(401, "unauthorized"));
    assert_eq!(backend.calls(), 0);
}

#[tokio::test]
async fn authorization_may_be_a_credential_of_the_site_unless_it_is_a_token_of_ours() {
    let backend = Backend::start().await;
    let url = backend.url();
    let toml = format!("[auth.hook]\nurl = \"{url}\"\nheaders = [\"authorization\"]\n");
    let gateway = TestGateway::with(&toml).await;
    let other_key = Claims::all("bob").signed_with("another-secret-of-more-than-32-bytes");
    let of_the_site = [
        "Bearer opaque".to_owned(),
        "Token opaque".to_owned(),
        format!("Bearer {other_key}"),
        format!("Bearer {}", "x".repeat(9000)),
    ];
    for value in &of_the_site {
        backend.sign_in(value, all("alice"));
        for door in Door::ALL {
            let shown = Credentials::header("Authorization", value);
            assert_eq!(gateway.knock(door, &shown).await, Answer::LetIn, "{value}");
        }
        let shown = Credentials::header("Authorization", format!("{value}x"));
        let answer = gateway.knock(Door::Poll, &shown).await;
        assert_eq!(answer, Answer::refused(401, "unauthorized"), "{value}x");
    }
    let calls = backend.calls();
    gateway.revoke(json!({"sub": "carol"})).await;
    for (claims, code) in [
        (Claims::all("bob"), None),
        (Claims::all("bob").expiring_in(-60), Some("token_expired")),
        (Claims::all("carol"), Some("revoked")),
        (
            Claims::all("bob").with("tenant", json!(7)),
            Some("unauthorized"),
        ),
    ] {
        let answer = gateway
            .knock(Door::Poll, &Credentials::bearer(&claims.token()))
            .await;
        let expected = code.map_or(Answer::LetIn, |code| Answer::refused(401, code));
        assert_eq!(answer, expected, "{claims:?}");
    }
    assert_eq!(backend.calls(), calls, "ours are judged here");
}

#[tokio::test]
async fn a_request_that_another_site_caused_is_refused_without_asking() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    backend.sign_in("Basic YTpi", all("alice"));
    let url = backend.url();
    let toml = format!(
        "[auth.hook]\nurl = \"{url}\"\nheaders = [\"X-Session\", \"Authorization\"]\n\
         cookies = [\"sessionid\"]\n"
    );
    let gateway = TestGateway::with(&toml).await;
    let cross_site = Credentials::header("Sec-Fetch-Site", "cross-site");
    let basic = Credentials::header("Authorization", "Basic YTpi");
    for door in Door::ALL {
        for ambient in [cookie("s1"), basic.clone()] {
            let answer = gateway.knock(door, &ambient.and(cross_site.clone())).await;
            let status = if door == Door::Ws { 1008 } else { 403 };
            assert_eq!(answer, Answer::refused(status, "forbidden"), "{door:?}");
        }
    }
    for door in [Door::Publish, Door::Ticket] {
        for ambient in [cookie("s1"), basic.clone()] {
            let answer = gateway.knock(door, &ambient).await;
            assert_eq!(answer, Answer::refused(403, "forbidden"), "{door:?}");
        }
    }
    assert_eq!(backend.calls(), 0);
    for door in Door::ALL {
        let shown = cookie("s1").and(header("s1")).and(cross_site.clone());
        let answer = gateway.knock(door, &shown).await;
        assert_eq!(
            answer,
            Answer::LetIn,
            "no page can add the header: {door:?}"
        );
    }
    for door in [Door::Ws, Door::Events, Door::Poll, Door::Stats] {
        for ambient in [cookie("s1"), basic.clone()] {
            assert_eq!(gateway.knock(door, &ambient).await, Answer::LetIn);
        }
    }
}

#[tokio::test]
async fn pages_of_allowed_origins_may_send_the_named_headers() {
    let backend = Backend::start().await;
    let toml = format!(
        "auth.allowed_origins = [\"https://app.example\"]\n{}",
        hook(&backend, "")
    );
    let gateway = TestGateway::with(&toml).await;
    let request = gateway
        .http
        .request(reqwest::Method::OPTIONS, gateway.url("/events"))
        .header("Origin", "https://app.example")
        .header("Access-Control-Request-Headers", "x-session");
    let response = request.send().await.expect("an answer");
    let allowed = response.headers().get_all("access-control-allow-headers");
    let allowed: Vec<&str> = allowed.iter().map(|list| list.to_str().unwrap()).collect();
    let allowed = allowed.join(", ").to_lowercase();
    let names: Vec<&str> = allowed.split(", ").collect();
    assert!(names.contains(&"x-session"), "{names:?}");
    assert!(names.contains(&"last-event-id"), "{names:?}");
}

#[tokio::test]
async fn a_hook_alone_is_enough_to_serve_and_every_token_is_refused() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n\
         shutdown.grace = \"2s\"\n{}",
        hook(&backend, "")
    );
    let config = Config::from_toml(&toml).expect("a good configuration");
    let gateway = TestGateway::run(config).await;
    assert_eq!(
        gateway.knock(Door::Poll, &header("s1")).await,
        Answer::LetIn
    );
    for token in [Claims::all("alice").token(), "bad".to_owned()] {
        let request = gateway.http.get(gateway.url("/poll")).bearer_auth(token);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 401);
        let error: Value = response.json().await.expect("JSON");
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains("no keys for tokens"), "{message}");
    }
}

#[tokio::test]
async fn an_answer_is_good_for_a_while_and_a_refusal_for_no_more_than_a_moment() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "cache = \"60s\"").await;
    for _ in 0..20 {
        for door in Door::ALL {
            let answer = gateway.knock(door, &header("s1")).await;
            assert_eq!(answer, Answer::LetIn, "{door:?}");
        }
    }
    assert_eq!(backend.calls(), 1);
    for _ in 0..20 {
        let answer = gateway.knock(Door::Poll, &header("s2")).await;
        assert_eq!(answer, Answer::refused(401, "unauthorized"));
    }
    let refusals = backend.calls() - 1;
    assert!(refusals < 20, "asked each time");
    backend.sign_in("s2", all("bob"));
    let let_in = async { while gateway.knock(Door::Poll, &header("s2")).await != Answer::LetIn {} };
    within("the sign-in to count", let_in).await;
}

#[tokio::test]
async fn an_answer_is_never_good_beyond_its_own_end() {
    let backend = Backend::start().await;
    let mut claims = all("alice");
    claims["exp"] = json!(crate::support::now() + 2);
    backend.sign_in("s1", claims);
    let gateway = gateway(&backend, "cache = \"60s\"").await;
    assert_eq!(
        gateway.knock(Door::Poll, &header("s1")).await,
        Answer::LetIn
    );
    backend.sign_in("s1", all("alice"));
    let asked_again = async {
        while backend.calls() == 1 {
            let answer = gateway.knock(Door::Poll, &header("s1")).await;
            assert_eq!(answer, Answer::LetIn);
        }
    };
    within("the backend to be asked again", asked_again).await;
}

#[tokio::test]
async fn a_sign_out_counts_when_the_answer_has_become_old() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "cache = \"300ms\"").await;
    let mut stream = ws_as(&gateway, "s1", "topics=order:1").await;
    stream.frame("live").await;
    backend.sign_out("s1");
    let refused =
        async { while gateway.knock(Door::Poll, &header("s1")).await == Answer::LetIn {} };
    within("the sign-out to count", refused).await;
    gateway.publish("order:1", json!(1)).await;
    stream.event().await;
}

#[tokio::test]
async fn without_a_cache_the_backend_is_asked_each_time() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "cache = \"0s\"").await;
    for _ in 0..3 {
        let answer = gateway.knock(Door::Poll, &header("s1")).await;
        assert_eq!(answer, Answer::LetIn);
        let answer = gateway.knock(Door::Poll, &header("s2")).await;
        assert_eq!(answer, Answer::refused(401, "unauthorized"));
    }
    assert_eq!(backend.calls(), 6);
}

#[tokio::test]
async fn many_requests_of_one_client_at_once_are_one_call() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    backend.is(Mood::Hangs);
    let gateway = gateway(&backend, "timeout = \"20s\"").await;
    let (poll, others) = (header("s1"), header("s2"));
    let many = (0..50).map(|_| gateway.knock(Door::Poll, &poll));
    let many = futures_util::future::join_all(many);
    let release = async {
        backend.asked(1).await;
        // By the time at which another client's call arrives, those that were sent before have too.
        let other = gateway.knock(Door::Poll, &others);
        let release = async {
            backend.asked(2).await;
            backend.is(Mood::Good);
        };
        let _ = tokio::join!(other, release);
    };
    let (answers, ()) = tokio::join!(many, release);
    assert!(answers.iter().all(|answer| *answer == Answer::LetIn));
    assert_eq!(backend.calls(), 2, "one for each client");
}

#[tokio::test]
async fn no_more_calls_are_made_at_once_than_configured() {
    let backend = Backend::start().await;
    backend.is(Mood::Hangs);
    let gateway = gateway(&backend, "concurrency = 3\ntimeout = \"20s\"").await;
    let sessions: Vec<Credentials> = (0..20)
        .map(|number| {
            let session = format!("s{number}");
            backend.sign_in(&session, all("alice"));
            header(&session)
        })
        .collect();
    let many = sessions
        .iter()
        .map(|session| gateway.knock(Door::Poll, session));
    let release = async {
        backend.asked(3).await;
        backend.is(Mood::Good);
    };
    let (answers, ()) = tokio::join!(futures_util::future::join_all(many), release);
    assert!(answers.iter().all(|answer| *answer == Answer::LetIn));
    assert_eq!(backend.most_at_once(), 3);
}

#[tokio::test]
async fn whoever_gets_no_place_for_a_call_in_time_is_told_to_come_back() {
    let backend = Backend::start().await;
    backend.is(Mood::Hangs);
    let gateway = gateway(&backend, "concurrency = 1\ntimeout = \"300ms\"").await;
    let sessions: Vec<_> = (0..8).map(|number| header(&format!("s{number}"))).collect();
    let many = sessions
        .iter()
        .map(|session| gateway.knock(Door::Poll, session));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(answer, unavailable(Door::Poll));
    }
    assert!(backend.calls() < 8, "{} calls", backend.calls());
}

#[tokio::test]
async fn a_backend_that_takes_too_long_makes_every_door_unavailable() {
    let backend = Backend::start().await;
    backend.is(Mood::Hangs);
    let gateway = gateway(&backend, "timeout = \"100ms\"").await;
    for door in Door::ALL {
        for (way, session) in [("header", "h"), ("cookie", "c")] {
            let session = format!("{session}-{door:?}");
            let credentials = match way {
                "header" => header(&session),
                _ => cookie_of_page(&session, &gateway),
            };
            let answer = gateway.knock(door, &credentials).await;
            assert_eq!(answer, unavailable(door), "{way} at {door:?}");
        }
    }
    let request = Door::Poll.request(&gateway, &header("s1"));
    let response = request.send().await.expect("an answer");
    let wait = response.headers()["retry-after"].to_str().unwrap();
    assert!(wait.parse::<u32>().unwrap() >= 1, "{wait}");
}

#[tokio::test]
async fn a_native_event_source_is_told_when_to_come_back_by_a_stream() {
    let backend = Backend::start().await;
    backend.is(Mood::Status(503));
    let gateway = gateway(&backend, "").await;
    let request = gateway
        .http
        .get(gateway.url("/events?topics=order:1&native=1"))
        .header("Cookie", "sessionid=s1");
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut sse = Sse::new(response);
    let closing = sse.next().await;
    assert_eq!(closing.name, "closing");
    assert_eq!(closing.json()["code"], 1013);
    assert!(closing.retry.is_some());
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let backend = Backend::start().await;
    backend.is(Mood::Redirect);
    let gateway = gateway(&backend, "").await;
    for door in Door::ALL {
        let answer = gateway.knock(door, &header("s1")).await;
        assert_eq!(answer, unavailable(door), "{door:?}");
    }
    assert_eq!(backend.redirected(), 0);
}

#[tokio::test]
async fn answers_that_are_no_good_let_nobody_in_and_do_not_harm_others() {
    let backend = Backend::start().await;
    backend.sign_in("good", all("alice"));
    let gateway = gateway(&backend, "cache = \"0s\"").await;
    let claims = |name: &str, value: Value| {
        let mut claims = all("alice");
        claims[name] = value;
        claims.to_string()
    };
    let bad = [
        String::new(),
        "ok".to_owned(),
        "<html>sign in</html>".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"sub":"alice","sub":"bob"}"#.to_owned(),
        r#"{"sub":"alice"} x"#.to_owned(),
        claims("sub", json!(7)),
        claims("sub", json!("")),
        claims("sub", json!("a\nb")),
        claims("sub", json!("x".repeat(256))),
        claims("subscribe", json!("order:*")),
        claims("subscribe", json!(["a b"])),
        claims("publish", json!([1])),
        claims("publish", Value::Null),
        claims("tenant", json!(1)),
        claims("trusted", json!("true")),
        claims("stats", json!("true")),
        claims("exp", json!("tomorrow")),
        claims("exp", Value::Null),
        claims("jti", json!(1)),
        claims("padding", json!("x".repeat(64 * 1024))),
    ];
    for answer in bad {
        backend.is(Mood::Says(answer.clone()));
        for door in [Door::Poll, Door::Ws] {
            let shown: String = answer.chars().take(60).collect();
            let refused = gateway.knock(door, &header("s1")).await;
            assert_eq!(refused, unavailable(door), "{shown}");
        }
        backend.is(Mood::Good);
        let answer = gateway.knock(Door::Poll, &header("good")).await;
        assert_eq!(answer, Answer::LetIn, "others are let in at once");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_session_as_with_a_token() {
    let backend = Backend::start().await;
    let now = crate::support::now();
    let mut claims = all("alice");
    claims["exp"] = json!(now + 2);
    backend.sign_in("s1", claims);
    let with_exp = gateway(&backend, "").await;
    backend.sign_in("s2", all("alice"));
    let with_lifetime = gateway(&backend, "lifetime = \"2s\"").await;
    for (gateway, session) in [(&with_exp, "s1"), (&with_lifetime, "s2")] {
        let mut ws = ws_as(gateway, session, "topics=order:1").await;
        let mut sse = sse_as(gateway, session, "topics=order:1").await;
        assert_eq!(ws.frame("closing").await["code"], 4004);
        assert!(matches!(ws.receive().await, Received::Close(4004, _)));
        assert_eq!(sse.frame("closing").await["code"], 4004);
        assert!(sse.try_next().await.is_none(), "nothing follows closing");
    }
    assert!(crate::support::now() >= now + 2, "ended before its time");
}

#[tokio::test]
async fn a_session_that_has_ended_by_its_own_claims_is_refused() {
    let backend = Backend::start().await;
    let mut claims = all("alice");
    claims["exp"] = json!(crate::support::now() - 60);
    backend.sign_in("s1", claims);
    let gateway = gateway(&backend, "").await;
    for door in Door::ALL {
        let answer = gateway.knock(door, &header("s1")).await;
        assert_eq!(answer, door.refusal("token_expired"), "{door:?}");
    }
    let answer = gateway.knock(Door::Poll, &cookie("s1")).await;
    assert_eq!(answer, Door::Poll.no_credential());
}

#[tokio::test]
async fn a_revoked_session_is_put_out_and_stays_out_though_its_answer_is_remembered() {
    let backend = Backend::start().await;
    for session in ["s1", "s2"] {
        let mut claims = all(&format!("of-{session}"));
        claims["jti"] = json!(session);
        backend.sign_in(session, claims);
    }
    let gateway = gateway(&backend, "cache = \"60s\"").await;
    for (session, whose) in [
        ("s1", json!({"sub": "of-s1"})),
        ("s2", json!({"jti": "s2"})),
    ] {
        let mut ws = ws_as(&gateway, session, "topics=order:1").await;
        gateway.revoke(whose).await;
        assert_eq!(ws.frame("closing").await["code"], 4005);
        for door in Door::ALL {
            let status = if door == Door::Ws { 4005 } else { 401 };
            let answer = gateway.knock(door, &header(session)).await;
            assert_eq!(answer, Answer::refused(status, "revoked"), "{door:?}");
            let shown = cookie_of_page(session, &gateway);
            assert_eq!(gateway.knock(door, &shown).await, door.no_credential());
        }
    }
}

#[tokio::test]
async fn a_client_revoked_while_the_backend_is_asked_is_not_let_in() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let gateway = gateway(&backend, "timeout = \"20s\"").await;
    for door in Door::ALL {
        backend.is(Mood::Hangs);
        let session = format!("{door:?}");
        backend.sign_in(&session, all(&session));
        let calls = backend.calls();
        let revoked = async {
            backend.asked(calls + 1).await;
            gateway.revoke(json!({"sub": session})).await;
            backend.is(Mood::Good);
        };
        let shown = header(&session);
        let (answer, ()) = tokio::join!(gateway.knock(door, &shown), revoked);
        let status = if door == Door::Ws { 4005 } else { 401 };
        assert_eq!(answer, Answer::refused(status, "revoked"), "{door:?}");
    }
}

#[tokio::test]
async fn a_session_may_have_tickets_which_end_with_it() {
    let backend = Backend::start().await;
    let mut claims = all("alice");
    claims["exp"] = json!(crate::support::now() + 3);
    backend.sign_in("s1", claims);
    let gateway = gateway(&backend, "").await;
    for usage in ["once", "stream"] {
        let request = gateway
            .http
            .post(gateway.url("/ticket"))
            .header("Cookie", "sessionid=s1")
            .header("Origin", gateway.url(""))
            .body(json!({ "use": usage }).to_string());
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{usage}");
        let ticket: Value = response.json().await.expect("JSON");
        let ticket = ticket["ticket"].as_str().expect("a ticket");
        let url = gateway.url(&format!("/events?topics=order:1&ticket={ticket}"));
        let response = gateway.http.get(url).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{usage}");
        let mut sse = Sse::new(response);
        assert_eq!(sse.frame("connected").await["userId"], "alice");
        assert_eq!(sse.frame("closing").await["code"], 4004);
        backend.sign_in("s1", {
            let mut claims = all("alice");
            claims["exp"] = json!(crate::support::now() + 3);
            claims
        });
    }
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_meanwhile_is_no_failure() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let claims = all("alice").to_string();
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{claims}",
        claims.len()
    );
    // Answers the first question of each connection, and hangs up at the second.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(response.as_bytes());
            let _ = stream.read(&mut [0; 4096]);
        }
    });
    let toml = format!("[auth.hook]\nurl = \"http://{address}/\"\nheaders = [\"X-Session\"]\n");
    let gateway = TestGateway::with(&toml).await;
    for session in ["s1", "s2", "s3", "s4"] {
        let request = Door::Poll.request(&gateway, &header(session));
        let answer = answer_of(request.send().await.expect("an answer")).await;
        assert_eq!(answer, Answer::LetIn, "{session}");
    }
}
