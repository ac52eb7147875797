//! What a web page in an operator's browser can not do.

use serde_json::json;

use crate::support::TestGateway;

const GUARDED: [(&str, &str); 5] = [
    ("GET", "/metrics"),
    ("GET", "/admin/connections"),
    ("GET", "/admin/nodes"),
    ("GET", "/admin/topics"),
    ("POST", "/admin/disconnect"),
];

async fn status(gateway: &TestGateway, (method, path): (&str, &str), header: (&str, &str)) -> u16 {
    let method = method.parse().expect("a method");
    let request = gateway.http.request(method, gateway.admin_url(path));
    let request = request
        .header(header.0, header.1)
        .body(json!({"sub": "alice"}).to_string());
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_page_of_another_site_reads_and_changes_nothing() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for request in GUARDED {
        for header in [
            ("Origin", "https://evil.example"),
            ("Origin", "null"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
            // Another name for this address: DNS rebinding.
            ("Host", "evil.example"),
            ("Host", "evil.example:8081"),
            ("Host", "127.0.0.1.evil.example"),
        ] {
            let status = status(&gateway, request, header).await;
            assert_eq!(status, 403, "{request:?} {header:?}");
        }
    }
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn an_operator_asks_by_any_of_the_machines_own_names() {
    let gateway = TestGateway::start().await;
    for request in GUARDED {
        for header in [
            ("Host", "localhost:8081"),
            ("Host", "127.0.0.1"),
            ("Host", "[::1]:8081"),
            ("Sec-Fetch-Site", "none"),
        ] {
            let status = status(&gateway, request, header).await;
            assert_eq!(status, 200, "{request:?} {header:?}");
        }
    }
}

#[tokio::test]
async fn health_is_for_everyone_who_reaches_the_listener() {
    let gateway = TestGateway::start().await;
    for path in ["/healthz", "/readyz"] {
        let status = status(&gateway, ("GET", path), ("Host", "tribus.internal")).await;
        assert_eq!(status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let gateway = TestGateway::start().await;
    for (method, path) in GUARDED {
        let other = if method == "GET" { "POST" } else { "GET" };
        let request = gateway
            .http
            .request(other.parse().unwrap(), gateway.admin_url(path));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 405, "{path}");
        assert_eq!(answer.headers()["allow"], method, "{path}");
    }
}

/// Where the gateway can not know its own names, whoever reaches it is an operator.
#[tokio::test]
async fn a_listener_for_the_network_is_asked_by_whatever_name_leads_there() {
    let config = tribus::config::Config::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"0.0.0.0:0\"\nauth.hs256_secret = \"{}\"",
        crate::support::SECRET
    ));
    let gateway = TestGateway::run(config.expect("a good configuration")).await;
    let port = gateway.admin.port();
    for host in ["tribus.internal", "10.1.2.3:8081"] {
        let request = gateway.http.get(format!("http://127.0.0.1:{port}/metrics"));
        let answer = request
            .header("Host", host)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 200, "{host}");
    }
}
