//! `POST /admin/disconnect`: access that ends before its token.

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{Answer, Claims, Credentials, Door, Received, Sse, TestGateway, Ws, within};

async fn assert_closed_as_revoked(ws: &mut Ws) {
    let closing = ws.frame("closing").await;
    assert_eq!(closing["code"], 4005);
    assert_eq!(closing["reconnectAfterMs"], Value::Null, "do not come back");
    assert!(matches!(ws.receive().await, Received::Close(4005, _)));
}

async fn assert_ended_as_revoked(sse: &mut Sse) {
    let closing = sse.frame("closing").await;
    assert_eq!(closing["code"], 4005);
    assert!(sse.try_next().await.is_none(), "nothing follows closing");
}

/// What a revoked token gets at a door.
fn revoked(door: Door) -> Answer {
    let status = if door == Door::Ws { 4005 } else { 401 };
    Answer::refused(status, "revoked")
}

#[tokio::test]
async fn a_revoked_client_is_put_out_on_every_transport_and_others_stay() {
    let alice = Claims::all("alice").with("jti", json!("a1"));
    for whose in [json!({"jti": "a1"}), json!({"sub": "alice"})] {
        let gateway = TestGateway::start().await;
        let (_, start) = gateway.poll("topics=order:1").await;
        let mut ws = gateway.ws_as(&alice, "topics=order:1").await;
        let mut sse = gateway.sse_as(&alice, "topics=order:1").await;
        let waiting = waiting_poll(&gateway, &alice, &start["cursor"]).await;
        let mut bystander = gateway.ws_as(&Claims::all("bob"), "topics=order:1").await;
        gateway.revoke(whose.clone()).await;
        assert_closed_as_revoked(&mut ws).await;
        assert_ended_as_revoked(&mut sse).await;
        let answer = waiting.answer().await;
        assert!(
            answer.contains(" 401 ") && answer.contains(r#""code":"revoked""#),
            "{answer}"
        );
        let bob = Claims::all("bob");
        let body = json!({"topic": "order:1"}).to_string();
        assert_eq!(gateway.post_as(&bob, &body).await.0, 200);
        bystander.event().await;
    }
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_any_more() {
    let gateway = TestGateway::start().await;
    let by_subject = Claims::all("alice");
    let by_id = Claims::all("bob").with("jti", json!("b1"));
    gateway.revoke(json!({"sub": "alice"})).await;
    gateway.revoke(json!({"jti": "b1"})).await;
    for claims in [by_subject, by_id] {
        for door in Door::ALL {
            for way in ["header", "token"] {
                let credentials = match way {
                    "header" => Credentials::bearer(&claims.token()),
                    parameter => Credentials::parameter(parameter, &claims.token()),
                };
                let answer = gateway.knock(door, &credentials).await;
                assert_eq!(answer, revoked(door), "{way} at {door:?}");
            }
        }
        let mut ws = Ws::connect(&gateway, "", None, None).await.unwrap();
        ws.send(json!({"type": "auth", "token": claims.token()}))
            .await;
        assert_eq!(ws.answer().await, Answer::refused(4005, "revoked"));
    }
    let others = [
        Claims::all("bob").with("jti", json!("b2")),
        Claims::all("bob"),
        Claims::all("alice").with("tenant", json!("acme")),
    ];
    for claims in others {
        let answer = gateway
            .knock(Door::Poll, &Credentials::bearer(&claims.token()))
            .await;
        assert_eq!(answer, Answer::LetIn, "{claims:?}");
    }
}

#[tokio::test]
async fn a_subject_is_one_of_its_tenant() {
    let gateway = TestGateway::start().await;
    let of = |tenant: &str| Claims::all("alice").with("tenant", json!(tenant));
    let mut acme = gateway.ws_as(&of("acme"), "").await;
    let mut other = gateway.ws_as(&of("other"), "").await;
    let mut none = gateway.ws("").await;
    gateway
        .revoke(json!({"sub": "alice", "tenant": "acme"}))
        .await;
    assert_closed_as_revoked(&mut acme).await;
    for ws in [&mut other, &mut none] {
        assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
    }
}

#[tokio::test]
async fn a_ticket_of_a_revoked_token_is_revoked_with_it() {
    let gateway = TestGateway::start().await;
    for usage in ["once", "stream"] {
        let subject = format!("alice-{usage}");
        let ticket = gateway.ticket(&Claims::all(&subject), usage).await;
        gateway.revoke(json!({"sub": subject})).await;
        let answer = gateway
            .knock(Door::Events, &Credentials::parameter("ticket", &ticket))
            .await;
        assert_eq!(answer, revoked(Door::Events), "{usage}");
    }
}

#[tokio::test]
async fn a_revoked_fresh_token_does_not_replace_a_good_one() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway
        .ws_as(&Claims::all("alice").with("jti", json!("1")), "")
        .await;
    gateway.revoke(json!({"jti": "2"})).await;
    let fresh = Claims::all("alice").with("jti", json!("2")).token();
    let error = ws.ask(json!({"type": "auth", "token": fresh})).await;
    assert_eq!(error["code"], "revoked");
    gateway.revoke(json!({"jti": "1"})).await;
    assert_closed_as_revoked(&mut ws).await;
}

/// Whoever is let in while its body is still coming must not slip past the revocation.
#[tokio::test]
async fn access_that_is_revoked_while_the_body_comes_is_refused() {
    let gateway = TestGateway::start().await;
    for (path, body) in [
        ("/events", r#"{"topics":["order:1"]}"#),
        ("/poll", r#"{"topics":["order:1"]}"#),
        ("/publish", r#"{"topic":"order:1"}"#),
        ("/ticket", "{}"),
    ] {
        let subject = format!("slow{path}");
        let claims = Claims::all(&subject);
        let mut request = OpenRequest::post(&gateway, path, &claims, body.len()).await;
        request.send(&body[..1]).await;
        // The gateway reads one connection's bytes as they come; another's answer shows that it did.
        gateway.ws_as(&claims, "").await;
        gateway.revoke(json!({"sub": subject})).await;
        request.send(&body[1..]).await;
        let answer = request.answer().await;
        assert!(
            answer.contains(" 401 ") && answer.contains("revoked"),
            "{path}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_request_that_names_nobody_or_too_much_is_refused() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    for body in [
        "{}",
        "not json",
        r#"{"tenant":"acme"}"#,
        r#"{"sub":"alice","jti":"a1"}"#,
        r#"{"subject":"alice"}"#,
        r#"{"sub":7}"#,
        r#"["alice"]"#,
    ] {
        let request = gateway.http.post(gateway.admin_url("/admin/disconnect"));
        let request = request
            .header("Content-Type", "application/json")
            .body(body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(
            answer.json::<Value>().await.unwrap()["code"],
            "bad_request",
            "{body}"
        );
    }
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

/// A browser sends a simple POST for any page that asks it to, also to loopback.
#[tokio::test]
async fn a_web_page_in_the_operators_browser_can_not_put_clients_out() {
    let gateway = TestGateway::start().await;
    let mut ws = gateway.ws("").await;
    let request = gateway.http.post(gateway.admin_url("/admin/disconnect"));
    let answer = request
        .header("Origin", "https://evil.example")
        .header("Sec-Fetch-Site", "cross-site")
        .header("Content-Type", "text/plain;charset=UTF-8")
        .body(r#"{"sub":"alice"}"#)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_client_error(), "{}", answer.status());
    assert_eq!(ws.ask(json!({"type": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn operators_endpoints_are_not_where_clients_are_and_the_reverse() {
    let gateway = TestGateway::start().await;
    let token = Claims::all("alice").token();
    let disconnect = gateway.http.post(gateway.url("/admin/disconnect"));
    let answer = disconnect
        .bearer_auth(&token)
        .body(r#"{"sub":"bob"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 404);
    let poll = gateway.http.get(gateway.admin_url("/poll?topics=order:1"));
    assert_eq!(poll.bearer_auth(&token).send().await.unwrap().status(), 404);
}

/// A request on a connection of its own, of which the test sends every byte.
struct OpenRequest(TcpStream);

async fn waiting_poll(gateway: &TestGateway, claims: &Claims, cursor: &Value) -> OpenRequest {
    let body = json!({"topics": ["order:1"], "wait": 30, "cursor": cursor}).to_string();
    let mut request = OpenRequest::post(gateway, "/poll", claims, body.len()).await;
    request.send(&body).await;
    request
}

impl OpenRequest {
    async fn post(gateway: &TestGateway, path: &str, claims: &Claims, length: usize) -> Self {
        let mut stream = TcpStream::connect(gateway.address)
            .await
            .expect("a connection");
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n\
             connection: close\r\ncontent-length: {length}\r\n\r\n",
            gateway.address,
            claims.token()
        );
        stream.write_all(head.as_bytes()).await.expect("a head");
        Self(stream)
    }

    async fn send(&mut self, part: &str) {
        self.0.write_all(part.as_bytes()).await.expect("a part");
    }

    /// The first kilobytes of the answer; a stream that was let in says `connected` in them.
    async fn answer(mut self) -> String {
        let mut answer = vec![0; 4096];
        let read = within("an answer", self.0.read(&mut answer))
            .await
            .expect("an answer");
        String::from_utf8_lossy(&answer[..read]).into_owned()
    }
}
