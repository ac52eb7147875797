//! Request bodies that are broken, wrong, deep, huge or not text at all.

use super::{Attack, Error, Good, Scene, error_code, fatal, harmless, request, with_body};
use crate::support::Raw;

/// Every endpoint that reads a body, with the most that it reads.
const ENDPOINTS: [(&str, usize); 5] = [
    ("/publish", 1 << 20),
    ("/events", 64 << 10),
    ("/poll", 64 << 10),
    ("/ticket", 1 << 10),
    (OPERATORS, 256 << 10),
];
const OPERATORS: &str = "/admin/disconnect";

/// A body that makes no sense: a bad request, unless it is too large for anyone to look.
fn senseless(path: &str, what: &str, body: &[u8]) -> Attack {
    let (_, limit) = ENDPOINTS.iter().find(|(other, _)| *other == path).unwrap();
    let bytes = with_body(&format!("POST {path}"), body);
    let what = format!("{path}: {what}");
    let attack = if body.len() > *limit {
        fatal(what, bytes, &[Error(413, "too_large")])
    } else {
        harmless(what, bytes, &[Error(400, "bad_request")])
    };
    at(path, attack)
}

fn at(path: &str, attack: Attack) -> Attack {
    if path == OPERATORS {
        attack.at_operators()
    } else {
        attack
    }
}

#[tokio::test]
async fn bodies_that_are_no_json_are_a_bad_request_everywhere() {
    let mut scene = Scene::start().await;
    let cases: [(&str, &[u8]); 20] = [
        ("an open object", b"{"),
        ("a closing brace", b"}"),
        ("half a string", b"{\"use"),
        ("half an escape", b"{\"a\":\"\\u00\"}"),
        ("a word", b"nonsense"),
        ("a list", b"[7]"),
        ("a string", b"\"stream\""),
        ("null", b"null"),
        ("two objects", b"{}{}"),
        ("a comment", b"{/**/}"),
        ("a byte order mark", b"\xef\xbb\xbf{}"),
        ("UTF-16", b"{\0}\0"),
        ("NUL", b"\0"),
        ("a stray byte", b"{\"a\":\"\xff\"}"),
        ("an overlong slash", b"{\"a\":\"\xc0\xaf\"}"),
        ("half a surrogate pair", b"{\"a\":\"\xed\xa0\x80\"}"),
        ("a character cut short", b"{\"a\":\"\xe2\x82\"}"),
        ("beyond Unicode", b"{\"a\":\"\xf4\x90\x80\x80\"}"),
        ("a form", b"topics=a:1&use=stream"),
        (
            "gzip",
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0",
        ),
    ];
    let mut attacks = Vec::new();
    for (path, _) in ENDPOINTS {
        for (what, body) in cases {
            attacks.push(senseless(path, what, body));
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn deep_nesting_is_a_bad_request_everywhere() {
    let mut scene = Scene::start().await;
    let mut attacks = Vec::new();
    for (path, fields) in [
        ("/publish", ["topic", "data", "tags"]),
        ("/events", ["topics", "subscriptions", "type"]),
        ("/poll", ["topic", "tags", "what"]),
        ("/ticket", ["use", "type", "what"]),
        (OPERATORS, ["sub", "tenant", "what"]),
    ] {
        for field in fields {
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                for depth in [400, 30_000] {
                    let opened = format!("{{\"{field}\":{}", open.repeat(depth));
                    let closed = format!("{opened}1{}}}", close.repeat(depth));
                    let what = format!("`{field}` with {depth} times {open}");
                    attacks.push(senseless(path, &what, opened.as_bytes()));
                    attacks.push(senseless(path, &what, closed.as_bytes()));
                }
            }
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn fields_of_the_wrong_type_are_a_bad_request() {
    let mut scene = Scene::start().await;
    let subscribe = [
        r#"{"topics":7}"#,
        r#"{"topics":"a:1"}"#,
        r#"{"topics":{"0":"a:1"}}"#,
        r#"{"topics":[7]}"#,
        r#"{"topics":[["a:1"]]}"#,
        r#"{"topics":["a:1",null]}"#,
        r#"{"topic":["a:1"]}"#,
        r#"{"channel":{}}"#,
        r#"{"topics":["a:1"],"events":"made"}"#,
        r#"{"topics":["a:1"],"events":[true]}"#,
        r#"{"topics":["a:1"],"tags":["a","b"]}"#,
        r#"{"topics":["a:1"],"tags":{"a":1}}"#,
        r#"{"topics":["a:1"],"tags":{"a":["b"]}}"#,
        r#"{"topics":["a:1"],"cursor":7}"#,
        r#"{"topics":["a:1"],"cursor":["earliest"]}"#,
        r#"{"topics":["a:1"],"rewind":"1"}"#,
        r#"{"topics":["a:1"],"rewind":-1}"#,
        r#"{"topics":["a:1"],"rewind":1.5}"#,
        r#"{"topics":["a:1"],"rewind":1e30}"#,
        r#"{"topics":["a:1"],"rewind":99999999999999999999}"#,
        r#"{"topics":["a:1"],"rewind":101}"#,
        r#"{"topics":["a:1"],"wait":"5"}"#,
        r#"{"topics":["a:1"],"max":{}}"#,
        r#"{"topics":["a:1"],"named":"yes"}"#,
        r#"{"topics":["a:1"],"native":2}"#,
        r#"{"subscriptions":{}}"#,
        r#"{"subscriptions":["a:1"]}"#,
        r#"{"subscriptions":[["a:1"]]}"#,
        r#"{"subscriptions":[null]}"#,
        r#"{"subscriptions":[{"topics":7}]}"#,
        r#"{"subscriptions":[{"topics":["a:1"],"cursor":"earliest"}]}"#,
        r#"{"topics":["a:1"],"__proto__":{}}"#,
        r#"{"topics":["a:1"],"topics":["a:2"]}"#,
    ];
    let publish = [
        r#"{"topic":7}"#,
        r#"{"topic":null}"#,
        r#"{"topic":["a:1"]}"#,
        r#"{"topic":"a:1","event":{}}"#,
        r#"{"topic":"a:1","tags":["a"]}"#,
        r#"{"topic":"a:1","tags":{"a":{}}}"#,
        r#"{"topic":"a:1","ephemeral":"yes"}"#,
        r#"{"topic":"a:1","timestamp":1769337000}"#,
        r#"{"topic":"a:1","trace_id":[]}"#,
        r#"{"topic":"a:1","user_id":{}}"#,
        r#"{"topic":"a:1","__proto__":{}}"#,
        r#"[[{"topic":"a:1"}]]"#,
        r#"[{"topic":"a:1"},7]"#,
        r#"[{"topic":"a:1"},null]"#,
    ];
    let ticket = [
        r#"{"use":7}"#,
        r#"{"use":["stream"]}"#,
        r#"{"use":"twice"}"#,
        r#"{"for":"x"}"#,
    ];
    let disconnect = [
        r#"{"sub":7}"#,
        r#"{"sub":["a"]}"#,
        r#"{"jti":{}}"#,
        r#"{"sub":"a","tenant":7}"#,
        r#"{"sub":"a","jti":"b"}"#,
        r#"{"tenant":"a"}"#,
        r#"{"sub":"a","until":"ever"}"#,
        "{}",
    ];
    let mut attacks = Vec::new();
    for (paths, bodies) in [
        (&["/events", "/poll"][..], &subscribe[..]),
        (&["/publish"], &publish),
        (&["/ticket"], &ticket),
        (&[OPERATORS], &disconnect),
    ] {
        for path in paths {
            attacks.extend(
                bodies
                    .iter()
                    .map(|body| senseless(path, body, body.as_bytes())),
            );
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_body_that_announces_more_than_its_endpoint_reads_is_too_large_at_once() {
    let mut scene = Scene::start().await;
    let mut attacks = Vec::new();
    for (path, limit) in &ENDPOINTS[..4] {
        for length in [*limit as u64 + 1, 1 << 31, 1 << 63, u64::MAX] {
            let head = request(
                &format!("POST {path}"),
                &format!("Content-Length: {length}\r\n\r\n"),
            );
            let what = format!("{path}: {length} bytes announced");
            attacks.push(fatal(what, head, &[Error(413, "too_large")]));
        }
    }
    scene.survives(attacks).await;
}

#[tokio::test]
async fn a_body_that_is_sent_though_it_is_too_large_ends_with_the_answer() {
    let mut scene = Scene::start().await;
    for (path, _) in &ENDPOINTS[..4] {
        let mut raw = Raw::connect(&scene.gateway).await;
        let head = format!("Content-Length: {}\r\n\r\n", 1_u64 << 40);
        raw.request(&format!("POST {path}"), &head).await;
        // More than any buffer on the way holds: it ends because the gateway ends it.
        while raw.try_send(&[b' '; 1 << 16]).await {}
        scene.neighbours_are_served(path).await;
    }
}

#[tokio::test]
async fn chunks_without_an_end_are_too_large_as_soon_as_they_are() {
    let mut scene = Scene::start().await;
    for (path, limit) in &ENDPOINTS[..4] {
        let chunk = [&b"1000\r\n"[..], &[b' '; 0x1000], b"\r\n"].concat();
        let mut raw = Raw::connect(&scene.gateway).await;
        let line = format!("POST {path}");
        raw.request(&line, "Transfer-Encoding: chunked\r\n\r\n")
            .await;
        for _ in 0..=limit / 0x1000 {
            raw.try_send(&chunk).await;
        }
        let answer = raw.response().await;
        assert_eq!(answer.status, 413, "{path}");
        assert_eq!(error_code(&answer.body), "too_large", "{path}");
        for _ in 0..300 {
            raw.try_send(&chunk).await;
        }
        scene.neighbours_are_served(path).await;
    }
}

#[tokio::test]
async fn chunks_that_say_nothing_without_an_end_harm_nobody() {
    let mut scene = Scene::start().await;
    for (what, opening, part) in [
        ("a size in zeros", "", "0".repeat(10_000)),
        ("an extension", "5;", "x".repeat(10_000)),
        ("trailers", "0\r\n", "X: y\r\n".repeat(2_000)),
    ] {
        let mut raw = Raw::connect(&scene.gateway).await;
        let chunks = format!("Transfer-Encoding: chunked\r\n\r\n{opening}");
        raw.request("POST /publish", &chunks).await;
        for _ in 0..100 {
            raw.try_send(part.as_bytes()).await;
        }
        scene.neighbours_are_served(what).await;
    }
}

#[tokio::test]
async fn many_parts_in_one_request_are_counted_before_they_cost() {
    let mut scene = Scene::start().await;
    let topics = |count: usize| -> String {
        let topics: Vec<_> = (0..count).map(|n| format!("\"t:{n}\"")).collect();
        format!("{{\"topics\":[{}]}}", topics.join(","))
    };
    let many_tags: Vec<_> = (0..40).map(|n| format!("tag=k{n}:v")).collect();
    let mut attacks = Vec::new();
    for path in ["/events", "/poll"] {
        let query = |query: &str| request(&format!("GET {path}?{query}"), "\r\n");
        let body = with_body(&format!("POST {path}"), topics(5_000).as_bytes());
        let too_many = [Error(429, "too_many_subscriptions")];
        attacks.extend([
            harmless(format!("{path}: 5,000 topics"), body, &too_many),
            harmless(
                format!("{path}: 5,000 topics in the query"),
                query(&format!("topics={}", "abc:d,".repeat(5_000))),
                &[Error(413, "too_large")],
            ),
            harmless(
                format!("{path}: 40 tags"),
                query(&format!("topics=a:1&{}", many_tags.join("&"))),
                &[Error(400, "bad_request")],
            ),
            harmless(
                format!("{path}: 9 wildcards"),
                query("topics=*:*:*:*:*:*:*:*:*"),
                &[Error(400, "bad_topic")],
            ),
            harmless(
                format!("{path}: 20,000 empty parameters"),
                query(&format!("topics=a:1{}", "&".repeat(20_000))),
                &[Good(200)],
            ),
        ]);
    }
    // A stream that is let in has no end, so these are polls only.
    attacks.retain(|attack| attack.answers != [Good(200)] || attack.what.starts_with("/poll"));
    scene.survives(attacks).await;
}

#[tokio::test]
async fn what_is_wrong_with_an_operators_body_is_told_as_json() {
    let mut scene = Scene::start().await;
    let post = |rest: &str| request("POST /admin/disconnect", rest);
    let subject = |subject: &str| {
        let body = format!("{{\"sub\":\"{subject}\"}}");
        with_body("POST /admin/disconnect", body.as_bytes())
    };
    let long = "x".repeat(300_000);
    let bad = Error(400, "bad_request");
    let attacks = vec![
        fatal(
            "announced",
            post("Content-Length: 9999999\r\n\r\n"),
            &[Error(413, "too_large")],
        ),
        fatal("sent", subject(&long), &[Error(413, "too_large")]),
        fatal(
            "broken chunks",
            post("Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
            &[bad],
        ),
        harmless(
            "a subject that no token can have",
            subject(&long[..256]),
            &[bad],
        ),
        harmless(
            "a subject of control characters",
            subject("a\\r\\n\\u0000"),
            &[bad],
        ),
    ];
    let attacks = attacks.into_iter().map(Attack::at_operators);
    scene.survives(attacks.collect()).await;
}

#[tokio::test]
async fn an_offer_to_upgrade_is_declined_but_for_one_that_takes_the_body_with_it() {
    let mut scene = Scene::start().await;
    let body = r#"{"topic":"a:9"}"#;
    let upgrade_to = |to: &str| {
        format!(
            "Connection: Upgrade\r\nUpgrade: {to}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut java = Raw::connect(&scene.gateway).await;
    java.request("POST /publish", &upgrade_to("h2c")).await;
    assert_eq!(java.response().await.status, 200);
    let mut raw = Raw::connect(&scene.gateway).await;
    raw.request("POST /publish", &upgrade_to("websocket")).await;
    let answer = raw.response().await;
    assert_eq!(
        (answer.status, &error_code(&answer.body)[..]),
        (400, "bad_request")
    );
    scene.neighbours_are_served("an upgrade").await;
}
