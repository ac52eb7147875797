//! TLS: the transports over it, whichever version of HTTP they speak.

mod certificates;
mod handshakes;
mod stalls;
mod streams;

use reqwest::{StatusCode, Version, header};
use serde_json::json;

use crate::support::{Authority, Claims, Program, Sse, TestGateway, TlsFiles, Ws};

#[tokio::test]
async fn streams_polls_and_publishes_run_over_http2() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let events = gateway
        .get("/events", "topics=a:*", &Claims::all("alice"))
        .await;
    assert_eq!(events.version(), Version::HTTP_2);
    assert_eq!(events.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert!(events.headers().contains_key(header::DATE));
    assert!(!events.headers().contains_key(header::TRANSFER_ENCODING));
    let mut sse = Sse::new(events);
    sse.frame("live").await;
    let first = gateway.publish("a:1", json!(1)).await;
    assert_eq!(sse.event().await["id"], json!(first));
    let waiting = {
        let (http, url) = (gateway.http.clone(), gateway.url("/poll"));
        let query = format!("?topics=a:*&cursor={first}&wait=20");
        let token = Claims::all("alice").token();
        tokio::spawn(async move {
            let request = http.get(url + &query).bearer_auth(token);
            request.send().await.expect("an answer")
        })
    };
    // More than a frame, and more than a client's first window.
    let large = "x".repeat(40_000);
    let second = gateway.publish("a:2", json!(large)).await;
    let event = sse.event().await;
    assert_eq!(
        (&event["id"], &event["data"]),
        (&json!(second), &json!(large))
    );
    let answer = waiting.await.expect("the poll ends");
    assert_eq!(
        (answer.status(), answer.version()),
        (StatusCode::OK, Version::HTTP_2)
    );
    let page: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(page["events"][0]["id"], json!(second));
    assert_eq!(page["events"][0]["data"], json!(large));
}

#[tokio::test]
async fn a_large_batch_goes_up_and_comes_down_over_http2() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let event = json!({"topic": "a:1", "data": "x".repeat(20_000)});
    let body = json!(vec![event; 50]).to_string();
    assert!(body.len() > 900_000);
    let (status, answer) = gateway.post(&body).await;
    assert_eq!(status, 200, "{answer}");
    let (status, page) = gateway.poll("topics=a:*&cursor=earliest").await;
    assert_eq!(status, 200);
    assert_eq!(page["events"].as_array().map(Vec::len), Some(50));
}

#[tokio::test]
async fn websockets_run_over_tls() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let mut ws: Ws = files.ws(&gateway, "topics=a:*").await;
    ws.frame("live").await;
    let id = gateway.publish("a:1", json!({"n": 1})).await;
    assert_eq!(ws.event().await["id"], json!(id));
    ws.send(json!({"type": "publish", "topic": "a:2", "data": 2}))
        .await;
    assert_eq!(ws.event().await["topic"], "a:2");
}

#[tokio::test]
async fn a_client_without_http2_gets_http1() {
    let files = TlsFiles::new();
    let mut gateway = files.gateway("").await;
    let old = files.authority.http_builder().http1_only();
    gateway.http = old.build().expect("a client");
    let answer = gateway.get("/poll", "topics=a:1", &Claims::all("a")).await;
    assert_eq!(answer.version(), Version::HTTP_11);
    assert_eq!(answer.status(), 200);
    let mut sse = gateway.sse("topics=a:*").await;
    sse.frame("live").await;
    let id = gateway.publish("a:1", json!(1)).await;
    assert_eq!(sse.event().await["id"], json!(id));
}

#[tokio::test]
async fn the_gateways_own_origin_is_allowed_over_http2_and_another_is_not() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let foreign = format!("https://127.0.0.1:{}", gateway.address.port() ^ 1);
    for (origin, status) in [(gateway.url(""), 200), (foreign, 403)] {
        let request = gateway
            .http
            .get(gateway.url("/poll?topics=a:1"))
            .bearer_auth(Claims::all("alice").token())
            .header(header::ORIGIN, &origin);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(answer.status(), status, "{origin}");
    }
}

#[tokio::test]
async fn a_cookie_is_found_among_others_that_come_in_fields_of_their_own() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let token = Claims::all("alice").token();
    let mut h2 = crate::support::H2::connect(&files, &gateway, 65_535).await;
    let driven = h2.drive();
    let mut request = h2.request("GET", "/poll?topics=a:1", &Claims::all("alice"));
    let headers = request.headers_mut();
    headers.remove("authorization");
    for cookie in ["theme=dark", &format!("tribus_token={token}"), "lang=en"] {
        headers.append("cookie", cookie.parse().expect("a value"));
    }
    let origin = gateway.url("").parse().expect("a value");
    headers.insert("origin", origin);
    let (response, _) = h2.send.send_request(request, true).expect("it is sent");
    assert_eq!(response.await.expect("a response").status(), 200);
    driven.abort();
}

/// None of it is tried again, since none of it mends itself.
#[tokio::test]
async fn the_command_line_tells_what_is_wrong_with_tls_and_gives_up_at_once() {
    let files = TlsFiles::new();
    let (tls, plain) = (files.gateway("").await, TestGateway::start().await);
    let port = tls.address.port();
    let speaks_tls = format!("https://127.0.0.1:{port}");
    let by_another_name = format!("https://[::ffff:127.0.0.1]:{port}");
    let speaks_none = format!("https://{}", plain.address);
    let (root, stranger) = (files.root(), files.root().with_file_name("stranger.pem"));
    std::fs::write(&stranger, Authority::new().pem()).unwrap();
    let (root, stranger) = (root.to_str().unwrap(), stranger.to_str().unwrap());
    let an_authority = Authority::new().gateway().await;
    let by_authority = format!("https://127.0.0.1:{}", an_authority.1.address.port());
    let its_own = an_authority.0.path().join("cert.pem");
    let token = Claims::all("alice").token();
    for (url, ca, words) in [
        (&speaks_none, root, "speaks no TLS: use http://"),
        (&speaks_tls, stranger, "no authority that is trusted here"),
        (&by_another_name, root, "for another name"),
        (
            &by_authority,
            its_own.to_str().unwrap(),
            "basicConstraints=CA:FALSE",
        ),
    ] {
        for arguments in [
            &["publish", "a:1"][..],
            &["subscribe", "a:1"],
            &["subscribe", "a:1", "--transport", "sse"],
        ] {
            let variables = [
                ("TRIBUS_URL", url.as_str()),
                ("TRIBUS_TOKEN", &token),
                ("TRIBUS_CA", ca),
            ];
            let ended = Program::tribus(arguments, &variables).ended().await;
            assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
            assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
            for wrong in ["again", "reconnecting", "is the gateway running"] {
                assert!(!ended.stderr.contains(wrong), "{wrong} in {}", ended.stderr);
            }
        }
    }
}
