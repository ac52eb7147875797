//! The page at `/` and what it loads, as a browser asks for it.

use std::collections::BTreeSet;

use reqwest::{Method, Response, StatusCode, Url, header};

use crate::support::{Raw, TestGateway, within};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

const ASSETS: [(&str, &str); 35] = [
    ("/", HTML),
    ("/console/banner.js", SCRIPT),
    ("/console/cards.css", CSS),
    ("/console/chart.js", SCRIPT),
    ("/console/charts.js", SCRIPT),
    ("/console/comparison.js", SCRIPT),
    ("/console/connection.js", SCRIPT),
    ("/console/console.css", CSS),
    ("/console/cursor.js", SCRIPT),
    ("/console/dom.js", SCRIPT),
    ("/console/faults.js", SCRIPT),
    ("/console/gateway.js", SCRIPT),
    ("/console/lanes.js", SCRIPT),
    ("/console/ledger.js", SCRIPT),
    ("/console/main.js", SCRIPT),
    ("/console/meter.js", SCRIPT),
    ("/console/network.js", SCRIPT),
    ("/console/proof.js", SCRIPT),
    ("/console/publish.js", SCRIPT),
    ("/console/signin.js", SCRIPT),
    ("/console/socket.js", SCRIPT),
    ("/console/storm.js", SCRIPT),
    ("/console/stream.js", SCRIPT),
    ("/console/table.js", SCRIPT),
    ("/console/tail.js", SCRIPT),
    ("/console/timeline.js", SCRIPT),
    ("/console/token.js", SCRIPT),
    ("/console/wire.js", SCRIPT),
    ("/console/words.js", SCRIPT),
    ("/favicon.svg", SVG),
    ("/react.d.ts", TEXT),
    ("/react.js", SCRIPT),
    ("/tribus-extras.js", SCRIPT),
    ("/tribus.d.ts", TEXT),
    ("/tribus.js", SCRIPT),
];

#[tokio::test]
async fn every_asset_is_served_without_a_token_as_what_it_is() {
    let gateway = TestGateway::start().await;
    for (path, content_type) in ASSETS {
        let asset = get(&gateway, path).await;
        assert_eq!(asset.status(), 200, "{path}");
        for (name, value) in [
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(header_of(&asset, name), value, "{name} of {path}");
        }
    }
}

/// The JavaScript client and its hooks, for pages of any origin.
const CLIENT: [&str; 5] = [
    "/react.d.ts",
    "/react.js",
    "/tribus-extras.js",
    "/tribus.d.ts",
    "/tribus.js",
];

#[tokio::test]
async fn pages_of_other_origins_may_load_the_client_and_nothing_else() {
    let gateway = TestGateway::start().await;
    for (path, _) in ASSETS {
        let asset = get(&gateway, path).await;
        let allowed = header_of(&asset, "access-control-allow-origin") == "*"
            && header_of(&asset, "cross-origin-resource-policy") == "cross-origin";
        assert_eq!(allowed, CLIENT.contains(&path), "{path}");
    }
    let package = get(&gateway, "/package.json").await;
    assert_eq!(package.status(), 404, "it is for npm only");
}

#[tokio::test]
async fn the_policy_confines_every_asset_to_the_gateway() {
    let gateway = TestGateway::start().await;
    for (path, _) in ASSETS {
        let asset = get(&gateway, path).await;
        let policy = header_of(&asset, "content-security-policy");
        let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
        let expected = BTreeSet::from([
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]);
        assert_eq!(directives, expected, "{path}");
    }
}

#[tokio::test]
async fn an_asset_that_the_browser_has_already_is_not_sent_again() {
    let gateway = TestGateway::start().await;
    let mut tags = BTreeSet::new();
    for (path, _) in ASSETS {
        let tag = header_of(&get(&gateway, path).await, "etag").to_owned();
        for (known, status) in [
            (tag.clone(), StatusCode::NOT_MODIFIED),
            (format!("W/{tag}"), StatusCode::NOT_MODIFIED),
            (format!("\"another\", {tag}"), StatusCode::NOT_MODIFIED),
            ("*".to_owned(), StatusCode::NOT_MODIFIED),
            ("\"another\"".to_owned(), StatusCode::OK),
        ] {
            let answer = ask(&gateway, Method::GET, path, Some(&known)).await;
            assert_eq!(answer.status(), status, "{path} for {known}");
            assert_eq!(header_of(&answer, "etag"), tag, "{path} for {known}");
            let is_sent = !body_of(answer).await.is_empty();
            assert_eq!(is_sent, status == StatusCode::OK, "{path} for {known}");
        }
        tags.insert(tag);
    }
    assert_eq!(tags.len(), ASSETS.len(), "each asset has a tag of its own");
}

#[tokio::test]
async fn head_announces_what_get_sends() {
    let gateway = TestGateway::start().await;
    for (path, _) in ASSETS {
        let got = get(&gateway, path).await;
        let asked = ask(&gateway, Method::HEAD, path, None).await;
        assert_eq!(asked.status(), 200, "{path}");
        for name in ["content-type", "etag", "content-security-policy"] {
            assert_eq!(
                header_of(&asked, name),
                header_of(&got, name),
                "{name} of {path}"
            );
        }
        let length = header_of(&asked, "content-length").to_owned();
        assert_eq!(length, body_of(got).await.len().to_string(), "{path}");
    }
}

#[tokio::test]
async fn head_sends_no_body_before_the_next_response() {
    let gateway = TestGateway::start().await;
    let mut raw = Raw::connect(&gateway).await;
    raw.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (status, head) = raw.response_head().await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html"), "{head}");
    raw.send(b"GET /favicon.svg HTTP/1.1\r\nHost: x\r\n\r\n")
        .await;
    let icon = raw.response().await;
    assert_eq!(icon.status, 200);
    assert!(icon.headers.starts_with("http/1.1 200"), "{}", icon.headers);
    assert!(icon.body.starts_with("<svg"), "{}", icon.body);
}

#[tokio::test]
async fn other_methods_on_the_page_are_refused() {
    let gateway = TestGateway::start().await;
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let answer = ask(&gateway, method.clone(), "/", None).await;
        assert_eq!(answer.status(), 405, "{method}");
    }
}

#[tokio::test]
async fn what_the_page_loads_and_the_client_are_exactly_what_is_served() {
    let gateway = TestGateway::start().await;
    let mut found: BTreeSet<String> = CLIENT.map(str::to_owned).into();
    let mut unread = vec!["/".to_owned()];
    found.extend(unread.clone());
    while let Some(path) = unread.pop() {
        let asset = get(&gateway, &path).await;
        assert_eq!(asset.status(), 200, "{path}");
        for reference in references(&path, &body_of(asset).await) {
            if found.insert(reference.clone()) {
                unread.push(reference);
            }
        }
    }
    let listed = ASSETS.map(|(path, _)| path.to_owned());
    assert_eq!(found, BTreeSet::from(listed));
}

#[tokio::test]
async fn no_asset_names_another_host_or_holds_what_the_policy_forbids() {
    let gateway = TestGateway::start().await;
    for (path, _) in ASSETS {
        let body = body_of(get(&gateway, path).await).await;
        // The name of a namespace, which nothing ever loads.
        let body = body.replace("http://www.w3.org/2000/svg", "");
        for forbidden in [
            "http://",
            "https://",
            "\"//",
            "url(",
            "@import",
            "<style",
            " style=",
            " onclick=",
            " onload=",
            " onsubmit=",
            "<script>",
            "javascript:",
            "innerHTML",
            "eval(",
        ] {
            assert!(!body.contains(forbidden), "{forbidden} in {path}");
        }
    }
}

/// The paths in `href="…"`, `src="…"` and `from "./…"` of what is served at `path`; links within the
/// page are left out.
fn references(path: &str, text: &str) -> Vec<String> {
    let base = Url::parse("http://gateway").expect("a URL");
    let base = base.join(path).expect("a path");
    ["href=\"", "src=\"", "from \"."]
        .into_iter()
        .flat_map(|opening| {
            let dot = if opening.ends_with('.') { "." } else { "" };
            let found = text.split(opening).skip(1);
            found.filter_map(move |rest| Some(format!("{dot}{}", rest.split('"').next()?)))
        })
        .filter(|reference| !reference.starts_with('#'))
        .map(|reference| base.join(&reference).expect("a path").path().to_owned())
        .collect()
}

async fn get(gateway: &TestGateway, path: &str) -> Response {
    ask(gateway, Method::GET, path, None).await
}

async fn ask(gateway: &TestGateway, method: Method, path: &str, known: Option<&str>) -> Response {
    let mut request = gateway.http.request(method, gateway.url(path));
    if let Some(known) = known {
        request = request.header(header::IF_NONE_MATCH, known);
    }
    within("an answer", request.send())
        .await
        .expect("an answer")
}

async fn body_of(response: Response) -> String {
    within("a body", response.text()).await.expect("text")
}

fn header_of<'a>(response: &'a Response, name: &str) -> &'a str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().expect("text"))
}
