//! Which web pages may talk to the gateway (protocol, section 3), and what their browsers are told.

use std::time::Duration;

use reqwest::{Method, Response, header::HeaderMap};
use serde_json::json;

use crate::{
    command_line::Serving,
    support::{Answer, Claims, Credentials, Door, Js, TestGateway, within},
};

const APP: &str = "https://app.example";

/// A gateway that one other origin may use.
async fn gateway() -> TestGateway {
    TestGateway::with(&format!("auth.allowed_origins = [\"{APP}\"]")).await
}

fn bearer() -> Credentials {
    Credentials::bearer(&Claims::all("alice").token())
}

fn cookie() -> Credentials {
    Credentials::cookie(&Claims::all("alice").token())
}

fn from(origin: &str) -> Credentials {
    Credentials::header("Origin", origin)
}

fn fetched_from(site: &str) -> Credentials {
    Credentials::header("Sec-Fetch-Site", site)
}

#[tokio::test]
async fn the_gateways_own_origin_and_the_listed_ones_are_let_in_and_all_others_are_403() {
    let gateway = gateway().await;
    let own = gateway.url("");
    let port = gateway.address.port();
    let allowed = [own.as_str(), APP, &format!("https://127.0.0.1:{port}")];
    let foreign = [
        "https://evil.example",
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.evil.example",
        "https://evil-app.example",
        "https://app.example/",
        "HTTPS://APP.EXAMPLE",
        "https://*.example",
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:1",
        &format!("http://localhost:{port}"),
        &format!("http://127.0.0.1:{port}.evil.example"),
        &format!("http://x@127.0.0.1:{port}"),
        &format!("file://127.0.0.1:{port}"),
    ];
    for door in Door::ALL {
        for origin in allowed {
            let answer = gateway.knock(door, &bearer().and(from(origin))).await;
            assert_eq!(answer, Answer::LetIn, "{origin:?} at {door:?}");
        }
        for origin in foreign {
            let answer = gateway.knock(door, &bearer().and(from(origin))).await;
            assert_eq!(
                answer,
                Answer::refused(403, "forbidden"),
                "{origin:?} at {door:?}"
            );
        }
    }
}

#[tokio::test]
async fn null_is_an_origin_like_others_once_it_is_listed() {
    let gateway = TestGateway::with("auth.allowed_origins = [\"null\"]").await;
    let answer = gateway.knock(Door::Ws, &bearer().and(from("null"))).await;
    assert_eq!(answer, Answer::LetIn);
}

#[tokio::test]
async fn without_an_origin_only_a_lone_cookie_is_looked_at_twice() {
    let gateway = gateway().await;
    let forbidden = Answer::refused(403, "forbidden");
    for door in Door::ALL {
        let is_post = matches!(door, Door::Publish | Door::Ticket);
        for site in ["cross-site", "same-site", "same-origin", "none"] {
            let case = format!("{site} at {door:?}");
            let answer = gateway.knock(door, &bearer().and(fetched_from(site))).await;
            assert_eq!(answer, Answer::LetIn, "a token, {case}");
            let answer = gateway.knock(door, &cookie().and(fetched_from(site))).await;
            let expected = match is_post || site == "cross-site" {
                true => forbidden.clone(),
                false => Answer::LetIn,
            };
            assert_eq!(expected_status(door, expected), answer, "a cookie, {case}");
        }
        let both = cookie().and(bearer()).and(fetched_from("cross-site"));
        assert_eq!(
            gateway.knock(door, &both).await,
            Answer::LetIn,
            "both at {door:?}"
        );
    }
}

/// On `/ws` the credential is refused after the handshake, as every other.
fn expected_status(door: Door, answer: Answer) -> Answer {
    match (door, answer) {
        (Door::Ws, Answer::Refused(_, code)) => Answer::Refused(1008, code),
        (_, answer) => answer,
    }
}

#[tokio::test]
async fn a_post_by_cookie_needs_an_allowed_origin() {
    let gateway = gateway().await;
    let own = gateway.url("");
    let body = r#"{"topics":["order:1"]}"#;
    for path in ["/publish", "/ticket", "/events", "/poll"] {
        let body = match path {
            "/publish" => r#"{"topic":"order:1"}"#,
            "/ticket" => "{}",
            _ => body,
        };
        for (origin, expected) in [
            (None, 403),
            (Some(own.as_str()), 200),
            (Some(APP), 200),
            (Some("https://evil.example"), 403),
            (Some("null"), 403),
        ] {
            let token = Claims::all("alice").token();
            let request = gateway.http.post(gateway.url(path)).body(body);
            let request = request.header("Cookie", format!("tribus_token={token}"));
            let request = match origin {
                Some(origin) => request.header("Origin", origin),
                None => request,
            };
            let status = request.send().await.unwrap().status();
            assert_eq!(status, expected, "{path} from {origin:?}");
        }
    }
}

#[tokio::test]
async fn a_bad_cookie_of_another_site_is_no_credential_and_no_forgery() {
    let gateway = gateway().await;
    let bad = Credentials::cookie("nonsense").and(fetched_from("cross-site"));
    for door in Door::ALL {
        assert_eq!(
            gateway.knock(door, &bad).await,
            door.no_credential(),
            "{door:?}"
        );
    }
}

async fn ask(gateway: &TestGateway, method: Method, path: &str, origin: Option<&str>) -> Response {
    let request = gateway.http.request(method, gateway.url(path));
    let request = match origin {
        Some(origin) => request.header("Origin", origin),
        None => request,
    };
    request.send().await.expect("an answer")
}

fn list(headers: &HeaderMap, name: &str) -> Vec<String> {
    let value = headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(',')
        .map(|item| item.trim().to_ascii_lowercase())
        .collect()
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    headers
        .get_all("vary")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("origin"))
}

#[tokio::test]
async fn a_preflight_is_answered_without_authentication() {
    let gateway = gateway().await;
    for path in ["/ws", "/events", "/poll", "/publish", "/ticket", "/stats"] {
        let request = gateway.http.request(Method::OPTIONS, gateway.url(path));
        let answer = request
            .header("Origin", APP)
            .header("Access-Control-Request-Method", "POST")
            .header(
                "Access-Control-Request-Headers",
                "authorization,last-event-id",
            )
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        let headers = answer.headers();
        assert_eq!(headers["access-control-allow-origin"], APP, "{path}");
        let methods = list(headers, "access-control-allow-methods");
        assert!(methods.contains(&"post".to_owned()) && methods.contains(&"get".to_owned()));
        let allowed = list(headers, "access-control-allow-headers");
        for header in [
            "authorization",
            "content-type",
            "idempotency-key",
            "last-event-id",
            "traceparent",
        ] {
            assert!(allowed.contains(&header.to_owned()), "{header} at {path}");
        }
        assert!(varies_by_origin(headers), "{path}");
    }
}

#[tokio::test]
async fn every_answer_to_an_allowed_page_can_be_read_by_it_errors_too() {
    let gateway = gateway().await;
    let token = Claims::all("alice").token();
    for (method, path, status) in [
        (
            Method::GET,
            format!("/poll?topics=order:1&token={token}"),
            200,
        ),
        (
            Method::GET,
            format!("/events?topics=order:1&token={token}"),
            200,
        ),
        (Method::POST, format!("/ticket?token={token}"), 200),
        (Method::GET, format!("/stats?token={token}"), 200),
        (Method::GET, "/stats".to_owned(), 401),
        (Method::GET, "/poll?topics=order:1".to_owned(), 401),
        (Method::GET, "/events?topics=order:1".to_owned(), 401),
        (Method::POST, "/publish".to_owned(), 401),
        (Method::GET, format!("/poll?nonsense=1&token={token}"), 400),
        (Method::POST, format!("/publish?token={token}"), 400),
        (Method::GET, "/nowhere".to_owned(), 404),
        (Method::GET, "/publish".to_owned(), 405),
        (Method::DELETE, "/events".to_owned(), 405),
        (Method::GET, "/".to_owned(), 200),
    ] {
        let case = format!("{method} {}", path.split('?').next().unwrap_or_default());
        let answer = ask(&gateway, method, &path, Some(APP)).await;
        assert_eq!(answer.status(), status, "{case}");
        let headers = answer.headers();
        assert_eq!(
            headers["access-control-allow-origin"], APP,
            "{case} {status}"
        );
        let exposed = list(headers, "access-control-expose-headers");
        for header in ["retry-after", "ratelimit", "ratelimit-policy"] {
            assert!(exposed.contains(&header.to_owned()), "{header}: {case}");
        }
        assert!(varies_by_origin(headers), "{case} {status}");
    }
}

#[tokio::test]
async fn a_page_that_is_not_allowed_reads_nothing() {
    let gateway = gateway().await;
    let token = Claims::all("alice").token();
    for (method, path) in [
        (Method::GET, format!("/poll?topics=order:1&token={token}")),
        (Method::GET, format!("/stats?token={token}")),
        (Method::GET, "/nowhere".to_owned()),
        (Method::GET, "/".to_owned()),
        (Method::GET, "/tribus.js.map".to_owned()),
        (Method::POST, "/tribus.js".to_owned()),
        (Method::POST, "/publish".to_owned()),
        (Method::OPTIONS, "/publish".to_owned()),
    ] {
        let answer = ask(&gateway, method, &path, Some("https://evil.example")).await;
        assert_eq!(answer.status(), 403, "{path}");
        let headers = answer.headers();
        assert!(
            !headers.contains_key("access-control-allow-origin"),
            "{path}"
        );
        assert!(varies_by_origin(headers), "{path}");
        let error: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(error["code"], "forbidden", "{path}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("auth.allowed_origins"), "{message}");
    }
}

#[tokio::test]
async fn pages_of_every_origin_may_load_the_client() {
    let gateway = gateway().await;
    for path in [
        "/tribus.js",
        "/tribus-extras.js",
        "/react.js",
        "/tribus.d.ts",
    ] {
        for method in [Method::GET, Method::HEAD] {
            let answer = ask(&gateway, method, path, Some("http://localhost:3000")).await;
            assert_eq!(answer.status(), 200, "{path}");
            let headers = answer.headers();
            assert_eq!(headers["access-control-allow-origin"], "*", "{path}");
            assert!(
                !headers.contains_key("access-control-allow-credentials"),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn in_a_browser_a_page_of_another_origin_loads_the_client() {
    let [page, gateway] = [TestGateway::start().await, TestGateway::start().await];
    // An error is a page without a policy of its own.
    let js = Js::chromium(&page.url("/a-page-of-its-own"));
    let body = "return typeof (await import(`${args}/tribus.js`)).Tribus;";
    let told = js.run(body, json!(gateway.url(""))).await;
    assert_eq!(told, "function");
}

#[tokio::test]
async fn the_log_names_the_origins_that_were_refused_and_not_each_time() {
    let mut gateway = Serving::json(&[("TRIBUS__LOG__FORMAT", "json")]).await;
    let (http, url) = (reqwest::Client::new(), gateway.url("/poll?topics=order:1"));
    let refuse = async |method: Method, origin: &str| {
        let request = http.request(method, &url).header("Origin", origin);
        within("an answer", request.send()).await.unwrap();
    };
    let long = format!("http://{}", "x".repeat(5000));
    refuse(Method::GET, &long).await;
    let line = gateway.program.says("auth.allowed_origins").await;
    assert!(line.contains("WARN") && line.len() < 500, "{line}");
    let named = async {
        while !gateway.program.said().contains("http://localhost:3000") {
            refuse(Method::OPTIONS, "http://localhost:3000").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the next line", named).await;
    let ended = gateway.terminate().await;
    let lines = ended
        .stderr
        .lines()
        .filter(|line| line.contains("auth.allowed_origins"));
    let lines: Vec<_> = lines.collect();
    assert!(lines.len() < 10, "{lines:#?}");
    assert!(lines[1].contains("\"held_back\":"), "{lines:#?}");
}

#[tokio::test]
async fn what_depends_on_the_origin_says_so_to_caches_without_one_too() {
    let gateway = gateway().await;
    let token = Claims::all("alice").token();
    for path in [
        format!("/poll?topics=order:1&token={token}"),
        "/nowhere".into(),
        "/".into(),
    ] {
        let answer = ask(&gateway, Method::GET, &path, None).await;
        assert!(varies_by_origin(answer.headers()), "{path}");
        assert!(
            !answer.headers().contains_key("access-control-allow-origin"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_wildcard_is_no_list_of_origins() {
    for bad in ["*", "https://app.example/", "app.example"] {
        let toml = format!("auth.allowed_origins = [\"{bad}\"]");
        let error = tribus::config::Config::from_toml(&toml)
            .unwrap_err()
            .to_string();
        assert!(error.contains("auth.allowed_origins"), "{error}");
    }
}
