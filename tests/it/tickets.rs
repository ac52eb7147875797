//! Tickets (protocol, section 3): credentials that may stand in a URL.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{
    Answer, Claims, Credentials, Door, Received, Sse, TestGateway, Ws, answer_of, now,
};

fn with_ticket(ticket: &str) -> Credentials {
    Credentials::parameter("ticket", ticket)
}

fn reconnect(ticket: &str, last_event_id: &str) -> Credentials {
    with_ticket(ticket).and(Credentials::header("Last-Event-ID", last_event_id))
}

async fn ask_for_ticket(gateway: &TestGateway, claims: &Claims, body: &str) -> (u16, Value) {
    let request = gateway
        .http
        .post(gateway.url("/ticket"))
        .bearer_auth(claims.token());
    let answer = request
        .body(body.to_owned())
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

/// A stream opened by a ticket, once it is `connected`.
async fn stream(gateway: &TestGateway, credentials: &Credentials) -> Sse {
    let response = Door::Events
        .request(gateway, credentials)
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), 200);
    let mut sse = Sse::new(response);
    sse.connected = sse.next().await.json();
    sse
}

#[tokio::test]
async fn a_ticket_is_unguessable_and_tells_when_it_has_to_be_used() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice");
    let mut seen = Vec::new();
    for body in ["", "{}", r#"{"use":"once"}"#, r#"{"use":"stream"}"#] {
        let (status, answer) = ask_for_ticket(&gateway, &claims, body).await;
        assert_eq!(status, 200, "{body}");
        let text = answer["ticket"].as_str().expect("a ticket").to_owned();
        assert!(
            text.len() >= 22 && !seen.contains(&text),
            "128 bits at least: {text}"
        );
        let expires: Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
        let left = expires.as_second() - now();
        assert!((25..=30).contains(&left), "{left} s");
        seen.push(text);
    }
    let (_, answer) = ask_for_ticket(&gateway, &claims.expiring_in(9), "").await;
    let expires: Timestamp = answer["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(expires.as_second() - now() <= 9, "no longer than its token");
}

#[tokio::test]
async fn a_wrong_use_is_refused() {
    let gateway = TestGateway::start().await;
    for body in [
        r#"{"use":"twice"}"#,
        r#"{"use":7}"#,
        r#"{"for":"stream"}"#,
        "[]",
        "stream",
        &format!("{{\"use\":\"{}\"}}", "s".repeat(900)),
    ] {
        let (status, answer) = ask_for_ticket(&gateway, &Claims::all("alice"), body).await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("bad_request")),
            "{body}"
        );
    }
    let too_large = " ".repeat(10_000);
    let (status, answer) = ask_for_ticket(&gateway, &Claims::all("alice"), &too_large).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too_large")));
}

#[tokio::test]
async fn a_ticket_is_good_once_wherever_it_is_used_first() {
    let gateway = TestGateway::start().await;
    for first in Door::ALL {
        let ticket = gateway.ticket(&Claims::all("alice"), "once").await;
        assert_eq!(
            gateway.knock(first, &with_ticket(&ticket)).await,
            Answer::LetIn,
            "{first:?}"
        );
        for second in Door::ALL {
            let answer = gateway.knock(second, &with_ticket(&ticket)).await;
            assert_eq!(
                answer,
                second.refusal("unauthorized"),
                "{first:?}, then {second:?}"
            );
        }
        let answer = gateway
            .knock(Door::Events, &reconnect(&ticket, "a-1"))
            .await;
        assert_eq!(
            answer,
            Answer::refused(401, "unauthorized"),
            "not for reconnects either"
        );
    }
}

#[tokio::test]
async fn of_many_who_use_a_ticket_at_once_one_is_let_in() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "once").await;
    let request = || Door::Poll.request(&gateway, &with_ticket(&ticket)).send();
    let answers = futures_util::future::join_all((0..20).map(|_| request())).await;
    let let_in = answers
        .into_iter()
        .filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200))
        .count();
    assert_eq!(let_in, 1);
}

#[tokio::test]
async fn a_ticket_grants_what_its_token_grants() {
    let gateway = TestGateway::start().await;
    let claims = Claims::new("alice")
        .with("subscribe", json!(["order:*"]))
        .with("tenant", json!("acme"));
    let ticket = gateway.ticket(&claims, "once").await;
    let mut ws = Ws::connect_with(&gateway, &format!("topics=order:1&ticket={ticket}"), &[])
        .await
        .expect("a handshake");
    assert_eq!(ws.next().await["userId"], "alice");
    ws.frame("live").await;
    let beyond = json!({"type": "subscribe", "topic": "invoice:1"});
    assert_eq!(ws.ask(beyond).await["code"], "forbidden");
    assert_eq!(
        ws.ask(json!({"type": "publish", "topic": "order:1"})).await["code"],
        "forbidden"
    );
    gateway.publish("order:1", json!("of no tenant")).await;
    let backend = Claims::all("backend").with("tenant", json!("acme"));
    gateway
        .post_as(&backend, r#"{"topic":"order:1","data":"of acme"}"#)
        .await;
    assert_eq!(ws.event().await["data"], "of acme");
}

#[tokio::test]
async fn a_connection_by_ticket_ends_with_the_token_of_the_ticket() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("alice").expiring_in(3);
    let once = gateway.ticket(&claims, "once").await;
    let reusable = gateway.ticket(&claims, "stream").await;
    let mut ws = Ws::connect_with(&gateway, &format!("ticket={once}"), &[])
        .await
        .unwrap();
    ws.frame("connected").await;
    let mut sse = stream(&gateway, &with_ticket(&reusable)).await;
    assert_eq!(ws.frame("closing").await["code"], 4004);
    assert!(matches!(ws.receive().await, Received::Close(4004, _)));
    assert_eq!(sse.frame("closing").await["code"], 4004);
    assert!(sse.try_next().await.is_none());
}

#[tokio::test]
async fn a_ticket_that_outlived_its_token_tells_so() {
    let gateway = TestGateway::start().await;
    // Within the leeway, which ends soon.
    let claims = Claims::all("alice").expiring_in(-2);
    let mut sse = stream(
        &gateway,
        &with_ticket(&gateway.ticket(&claims, "stream").await),
    )
    .await;
    let ticket = gateway.ticket(&claims, "stream").await;
    let mut first = stream(&gateway, &with_ticket(&ticket)).await;
    sse.frame("closing").await;
    first.frame("closing").await;
    let answer = gateway
        .knock(Door::Events, &reconnect(&ticket, "a-1"))
        .await;
    assert_eq!(answer, Answer::refused(401, "token_expired"));
}

#[tokio::test]
async fn a_stream_ticket_opens_events_and_nothing_else() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "stream").await;
    for door in [Door::Ws, Door::Poll, Door::Publish, Door::Ticket] {
        let answer = gateway.knock(door, &with_ticket(&ticket)).await;
        assert_eq!(answer, door.refusal("unauthorized"), "{door:?}");
        let answer = gateway.knock(door, &reconnect(&ticket, "a-1")).await;
        assert_eq!(
            answer,
            door.refusal("unauthorized"),
            "{door:?} with Last-Event-ID"
        );
    }
    let answer = gateway.knock(Door::Events, &with_ticket(&ticket)).await;
    assert_eq!(answer, Answer::LetIn, "it was not used up by that");
}

#[tokio::test]
async fn a_stream_ticket_is_good_again_for_reconnects_with_the_last_event_id() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "stream").await;
    let first = stream(&gateway, &with_ticket(&ticket)).await;
    let mut last = first.connected["cursor"].as_str().unwrap().to_owned();
    drop(first);
    for round in 0..3 {
        let id = gateway.publish("order:1", json!(round)).await;
        let answer = gateway.knock(Door::Events, &with_ticket(&ticket)).await;
        assert_eq!(
            answer,
            Answer::refused(401, "unauthorized"),
            "not a reconnect"
        );
        let mut again = stream(&gateway, &reconnect(&ticket, &last)).await;
        assert_eq!(again.event().await["id"], json!(id), "round {round}");
        last = id;
    }
}

#[tokio::test]
async fn a_reconnect_without_a_last_event_id_in_its_header_is_none() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "stream").await;
    let first = stream(&gateway, &with_ticket(&ticket)).await;
    let cursor = first.connected["cursor"].as_str().unwrap();
    let by_cursor = with_ticket(&ticket).and(Credentials::parameter("cursor", cursor));
    let refused = Answer::refused(401, "unauthorized");
    assert_eq!(gateway.knock(Door::Events, &by_cursor).await, refused);
    assert_eq!(
        gateway.knock(Door::Events, &reconnect(&ticket, "")).await,
        refused
    );
}

#[tokio::test]
async fn a_newer_stream_of_the_same_ticket_ends_the_older_one() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "stream").await;
    let mut older = stream(&gateway, &with_ticket(&ticket)).await;
    let cursor = older.connected["cursor"].as_str().unwrap().to_owned();
    for round in 0..3 {
        let mut newer = stream(&gateway, &reconnect(&ticket, &cursor)).await;
        let closing = loop {
            let event = older.next().await;
            if event.name == "closing" {
                break event;
            }
        };
        let json = closing.json();
        assert_eq!(
            json["reconnectAfterMs"],
            Value::Null,
            "two would take turns for ever: {json}"
        );
        assert!(
            closing.retry.is_some_and(|retry| retry > 3_600_000),
            "{closing:?}"
        );
        assert!(older.try_next().await.is_none(), "round {round}");
        let id = gateway.publish("order:1", json!(round)).await;
        while newer.event().await["id"] != json!(id) {}
        older = newer;
    }
}

#[tokio::test]
async fn an_older_stream_can_not_be_ended_by_a_request_that_is_refused() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "stream").await;
    let mut sse = stream(&gateway, &with_ticket(&ticket)).await;
    let url = gateway.url(&format!("/events?ticket={ticket}&topics=order:1"));
    for (request, status) in [
        (gateway.http.get(&url), 401),
        (
            gateway
                .http
                .get(&url)
                .header("Last-Event-ID", "not a cursor!"),
            400,
        ),
        (
            gateway
                .http
                .get(format!("{url}&nonsense=1"))
                .header("Last-Event-ID", "a-1"),
            400,
        ),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let id = gateway.publish("order:1", json!(1)).await;
    assert_eq!(sse.event().await["id"], json!(id));
}

#[tokio::test]
async fn a_ticket_is_issued_to_whoever_has_any_good_credential() {
    let gateway = TestGateway::start().await;
    let ticket = gateway.ticket(&Claims::all("alice"), "once").await;
    let request = Door::Ticket.request(&gateway, &with_ticket(&ticket));
    let next: Value = request.send().await.unwrap().json().await.unwrap();
    let next = next["ticket"].as_str().expect("a ticket for a ticket");
    assert_eq!(
        gateway.knock(Door::Ws, &with_ticket(next)).await,
        Answer::LetIn
    );
    let cookie = Credentials::cookie(&Claims::all("alice").token());
    let answer = Door::Ticket
        .request(&gateway, &cookie)
        .send()
        .await
        .unwrap();
    assert_eq!(
        answer_of(answer).await,
        Answer::refused(403, "forbidden"),
        "no Origin"
    );
}
