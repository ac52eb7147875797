//! Request lines and headers that are odd, broken or huge.

use super::{Attack, Bare, Error, Good, Scene, fatal, harmless, request, smuggled};
use crate::support::{Claims, Raw};

/// A GET of this target in these words, with a token and a request behind it.
fn line(line: &str) -> String {
    let token = Claims::all("mallory").token();
    let head = format!("{line}\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    format!("{head}{}", smuggled())
}

fn malformed(text: &str) -> Attack {
    fatal(format!("{text:.60?}"), line(text), &[Bare(400)])
}

#[tokio::test]
async fn a_request_line_that_is_none_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let lines = [
        "GET /poll?topics=a:1",
        "GET",
        "GET  /poll?topics=a:1 HTTP/1.1",
        "GET /poll?topics=a:1  HTTP/1.1",
        "GET\t/poll?topics=a:1\tHTTP/1.1",
        "GET /poll?topics=a:1 &wait=0 HTTP/1.1",
        " /poll?topics=a:1 HTTP/1.1",
        "G@T /poll?topics=a:1 HTTP/1.1",
        "G\0T /poll?topics=a:1 HTTP/1.1",
        "GET /poll?topics=a\0 HTTP/1.1",
        "GET /poll?topics=a\x7f HTTP/1.1",
        "GET /poll?topics=a\u{e9} HTTP/1.1",
        "GET http://[::1/poll HTTP/1.1",
        "GET /poll?topics=a:1 HTTP/0.9",
        "GET /poll?topics=a:1 HTTP/1.2",
        "GET /poll?topics=a:1 HTTP/2.0",
        "GET /poll?topics=a:1 HTTP/1.1x",
        "GET /poll?topics=a:1 http/1.1",
        "GET /poll?topics=a:1 HTTPS/1.1",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
        "SSH-2.0-OpenSSH_9.6",
    ];
    let mut attacks: Vec<_> = lines.iter().map(|line| malformed(line)).collect();
    attacks.push(malformed("GET /poll HTTP/2.0").at_operators());
    attacks.push(fatal("HTTP/0.9", "GET /poll\r\n", &[Bare(400)]));
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_request_without_one_host_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let target = "GET /poll?topics=a:1 HTTP/1.1\r\n";
    let attacks = vec![
        fatal(
            "no host",
            format!("{target}\r\n{}", smuggled()),
            &[Bare(400)],
        ),
        fatal(
            "two hosts",
            format!("{target}Host: a\r\nHost: b\r\n\r\n{}", smuggled()),
            &[Bare(400)],
        ),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn methods_and_targets_that_exist_elsewhere_get_their_error_as_json() {
    let mut scene = Scene::start().await;
    let behind = Error(404, "not_found");
    let wrong_method = |what: &str, text: &str| {
        harmless(
            what,
            line(text),
            &[Error(405, "method_not_allowed"), behind],
        )
    };
    let attacks = vec![
        wrong_method("TRACE", "TRACE /poll?topics=a:1 HTTP/1.1"),
        wrong_method("a method in lower case", "get /poll?topics=a:1 HTTP/1.1"),
        wrong_method("a method of a coffee pot", "BREW /publish HTTP/1.1"),
        wrong_method(
            "a method of 50,000 letters",
            &format!("{} /ws HTTP/1.1", "A".repeat(50_000)),
        ),
        harmless(
            "GET without a slash",
            line("GET poll HTTP/1.1"),
            &[behind, behind],
        ),
        harmless("GET *", line("GET * HTTP/1.1"), &[behind, behind]),
        harmless(
            "OPTIONS *",
            line("OPTIONS * HTTP/1.1"),
            &[Good(204), behind],
        ),
        harmless(
            "an absolute URL",
            line("GET http://elsewhere.example/poll?topics=a:1 HTTP/1.1"),
            &[Good(200), behind],
        ),
        harmless(
            "a fragment",
            line("GET /poll?topics=a:1#/../publish HTTP/1.1"),
            &[Good(200), behind],
        ),
        harmless(
            "dots",
            line("GET /poll/../publish HTTP/1.1"),
            &[behind, behind],
        ),
        // What follows a CONNECT is no request of ours.
        fatal(
            "CONNECT to elsewhere",
            line("CONNECT elsewhere.example:443 HTTP/1.1"),
            &[behind],
        ),
        fatal(
            "CONNECT to an endpoint",
            line("CONNECT /poll HTTP/1.1"),
            &[Error(405, "method_not_allowed")],
        ),
        fatal(
            "operators: CONNECT",
            line("CONNECT elsewhere.example:443 HTTP/1.1"),
            &[behind],
        )
        .at_operators(),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_the_connection() {
    let mut scene = Scene::start().await;
    let headers =
        |count: usize| -> String { (0..count).map(|n| format!("X-{n}: x\r\n")).collect() };
    let with_headers = |count| request("GET /poll?topics=a:1", &format!("{}\r\n", headers(count)));
    let long_header = |length| {
        let header = format!("X-Long: {}\r\n\r\n", "x".repeat(length));
        request("GET /poll?topics=a:1", &header)
    };
    let long_url = |length| {
        let target = format!("GET /poll?topics=a:1&_={}", "x".repeat(length));
        request(&target, "\r\n")
    };
    let endless = format!(
        "GET /poll HTTP/1.1\r\nHost: x\r\nX: {}",
        "x".repeat(1 << 20)
    );
    let attacks = vec![
        harmless("90 headers", with_headers(90), &[Good(200)]),
        fatal("97 headers", with_headers(95), &[Bare(431)]),
        fatal("10,000 headers", with_headers(10_000), &[Bare(431)]),
        fatal("a header of 200 KB", long_header(200_000), &[Bare(431)]),
        fatal("a header without an end", endless.clone(), &[Bare(431)]),
        harmless("a URL of 16 KB", long_url(16_000), &[Good(200)]),
        harmless(
            "a URL of 60 KB",
            long_url(60_000),
            &[Error(413, "too_large")],
        ),
        fatal("a URL of 70 KB", long_url(70_000), &[Bare(400)]),
        fatal("a URL of 200 KB", long_url(200_000), &[Bare(431)]),
        fatal("operators: a URL of 70 KB", long_url(70_000), &[Bare(400)]).at_operators(),
        fatal("operators: an endless header", endless, &[Bare(431)]).at_operators(),
    ];
    scene.survives(attacks).await;
}

#[tokio::test]
async fn an_oversize_credential_is_unauthorized_wherever_it_stands() {
    let mut scene = Scene::start().await;
    // Over what a token may have, and within what a URL may.
    let token = "x".repeat(12_000);
    let dots = "a.".repeat(6_000);
    let mut attacks = Vec::new();
    for (method, path) in [
        ("GET", "/events"),
        ("GET", "/poll"),
        ("POST", "/events"),
        ("POST", "/poll"),
        ("POST", "/publish"),
        ("POST", "/ticket"),
        ("GET", "/stats"),
    ] {
        for (place, query, header) in [
            (
                "header",
                String::new(),
                format!("Authorization: Bearer {dots}"),
            ),
            ("token", format!("token={token}"), String::new()),
            (
                "access_token",
                format!("access_token={dots}"),
                String::new(),
            ),
            ("ticket", format!("ticket={token}"), String::new()),
            (
                "cookie",
                String::new(),
                format!("Cookie: tribus_token={dots}"),
            ),
            (
                "cookies",
                String::new(),
                format!("Cookie: {}", "tribus_token=x; ".repeat(3000)),
            ),
        ] {
            let headers = if header.is_empty() {
                header
            } else {
                header + "\r\n"
            };
            let head = format!("{method} {path}?{query} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
            let what = format!("{method} {path} with its {place}");
            attacks.push(harmless(what, head, &[Error(401, "unauthorized")]));
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn an_answer_to_a_client_that_waits_to_be_asked_for_its_body_comes_without_it() {
    let mut scene = Scene::start().await;
    let expecting = |path: &str, length: u64| {
        let headers = format!("Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n");
        request(&format!("POST {path}"), &headers)
    };
    let large = [Error(413, "too_large")];
    let mut attacks: Vec<_> = ["/publish", "/events", "/poll", "/ticket"]
        .iter()
        .map(|path| fatal(*path, expecting(path, 1 << 40), &large))
        .collect();
    attacks.push(harmless(
        "what it expects is unheard of",
        request("GET /poll?topics=a:1", "Expect: the-unexpected\r\n\r\n"),
        &[Good(200)],
    ));
    scene.survives(attacks).await;

    let mut raw = Raw::connect(&scene.gateway).await;
    raw.send(expecting("/publish", 15).as_bytes()).await;
    assert_eq!(raw.response_head().await.0, 100);
    raw.send(br#"{"topic":"a:1"}"#).await;
    assert_eq!(raw.response().await.status, 200);
}
