//! `GET /admin/connections`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::support::{Claims, TestGateway, Ws, within};

fn ids(list: &Value) -> Vec<String> {
    let connections = list["connections"].as_array().expect("a list");
    let ids = connections.iter().map(|entry| entry["id"].as_str());
    ids.map(|id| id.expect("an id").to_owned()).collect()
}

fn id_of(ws: &Ws) -> String {
    ws.connected["connectionId"]
        .as_str()
        .expect("an id")
        .to_owned()
}

#[tokio::test]
async fn a_connection_is_listed_as_it_is() {
    let gateway = TestGateway::start().await;
    let before = Timestamp::now();
    let claims = Claims::all("alice").with("tenant", json!("acme"));
    let mut ws = gateway.ws_as(&claims, "topics=a:1,a:2,b:*").await;
    ws.frame("live").await;
    let (status, _) = gateway.post_as(&claims, r#"{"topic":"a:1"}"#).await;
    assert_eq!(status, 200);
    ws.event().await;
    let list = gateway.list("/admin/connections").await;
    assert_eq!(list["totals"], json!({"ws": 1, "sse": 0, "poll": 0}));
    assert_eq!(list["matching"], 1);
    assert_eq!(list["next"], Value::Null);
    let mut entry = list["connections"][0].clone();
    let since: Timestamp = entry["since"].as_str().unwrap().parse().unwrap();
    let slack = jiff::SignedDuration::from_millis(2);
    assert!(since >= before - slack && since <= Timestamp::now() + slack);
    let fields = entry.as_object_mut().unwrap();
    fields.remove("since");
    assert_eq!(
        entry,
        json!({
            "id": id_of(&ws),
            "subject": "alice",
            "tenant": "acme",
            "transport": "ws",
            "address": "127.0.0.1",
            "position": 1,
            "lag": 0,
            "live": true,
            "topics": {"count": 3, "first": ["a:1", "a:2", "b:*"]},
            "mailbox": {"events": 0, "bytes": 0},
        })
    );
}

#[tokio::test]
async fn a_stream_has_the_id_that_it_was_told_and_a_waiting_poll_is_there_too() {
    let gateway = TestGateway::start().await;
    let sse = gateway.sse("topics=a:1").await;
    let (_, start) = gateway.poll("topics=a:1").await;
    let query = format!(
        "topics=a:1&wait=30&cursor={}",
        start["cursor"].as_str().unwrap()
    );
    let listed = async {
        let listed = async {
            loop {
                let list = gateway.list("/admin/connections?transport=poll").await;
                if list["matching"] == 1 {
                    return list;
                }
            }
        };
        let list = within("a waiting poll", listed).await;
        gateway.publish("a:1", json!(1)).await;
        list
    };
    let (list, _) = tokio::join!(listed, gateway.poll(&query));
    assert_eq!(list["totals"], json!({"ws": 0, "sse": 1, "poll": 1}));
    assert_eq!(list["connections"][0]["transport"], "poll");
    assert_eq!(list["connections"][0]["subject"], "alice");
    let list = gateway.list("/admin/connections?transport=sse").await;
    assert_eq!(list["connections"][0]["id"], sse.connected["connectionId"]);
}

#[tokio::test]
async fn a_slow_reader_is_listed_with_its_lag_and_its_full_mailbox() {
    let gateway = TestGateway::start().await;
    let claims = Claims::all("slow");
    let mut slow = gateway
        .narrow_ws(&claims, "topics=a:*", "tribus.json.v1")
        .await;
    slow.frame("live").await;
    let event = json!({"topic": "a:1", "data": "x".repeat(8192)});
    let batch = json!(vec![event; 100]).to_string();
    for _ in 0..12 {
        assert_eq!(gateway.post(&batch).await.0, 200);
    }
    let behind = async {
        loop {
            let list = gateway.list("/admin/connections?subject=slow").await;
            let entry = list["connections"][0].clone();
            if entry["live"] == false {
                return entry;
            }
        }
    };
    let entry = within("a slow reader", behind).await;
    assert!(entry["lag"].as_u64() > Some(100), "{entry}");
    assert!(entry["mailbox"]["events"].as_u64() > Some(0), "{entry}");
    assert!(entry["mailbox"]["bytes"].as_u64() > Some(8192), "{entry}");
    let head = entry["lag"].as_u64().unwrap() + entry["position"].as_u64().unwrap();
    assert_eq!(head, 1200);
}

#[tokio::test]
async fn a_list_is_narrowed_by_subject_tenant_transport_and_topic() {
    let gateway = TestGateway::start().await;
    let of = |subject: &str, tenant: &str| Claims::all(subject).with("tenant", json!(tenant));
    let alice = gateway.ws("topics=a:1,b:*").await;
    let acme = gateway.ws_as(&of("alice", "acme"), "topics=a:2").await;
    let bob = gateway.ws_as(&Claims::all("bob"), "topics=a:*").await;
    let sse = gateway.sse("topics=c:1").await;
    let sse_id = sse.connected["connectionId"].as_str().unwrap().to_owned();
    let (alice, acme, bob) = (id_of(&alice), id_of(&acme), id_of(&bob));
    for (query, expected) in [
        ("subject=alice", vec![&alice, &acme, &sse_id]),
        ("tenant=acme", vec![&acme]),
        ("tenant=", vec![&alice, &bob, &sse_id]),
        ("subject=alice&tenant=", vec![&alice, &sse_id]),
        ("transport=sse", vec![&sse_id]),
        ("topic=a:1", vec![&alice, &bob]),
        ("topic=a:2", vec![&acme, &bob]),
        ("topic=b:*", vec![&alice]),
        ("topic=b:7", vec![&alice]),
        ("topic=a:*&transport=ws", vec![&bob]),
        ("subject=nobody", vec![]),
    ] {
        let list = gateway.list(&format!("/admin/connections?{query}")).await;
        let expected: BTreeSet<String> = expected.into_iter().cloned().collect();
        let found: BTreeSet<String> = ids(&list).into_iter().collect();
        assert_eq!(found, expected, "{query}");
        assert_eq!(list["matching"], expected.len(), "{query}");
        assert_eq!(list["totals"], json!({"ws": 3, "sse": 1, "poll": 0}));
    }
}

#[tokio::test]
async fn pages_hold_every_connection_once() {
    let gateway = TestGateway::start().await;
    let mut open = Vec::new();
    for _ in 0..11 {
        open.push(gateway.ws("topics=a:1").await);
    }
    let mut listed = Vec::new();
    let mut path = "/admin/connections?limit=3".to_owned();
    loop {
        let list = gateway.list(&path).await;
        assert_eq!(list["matching"], 11);
        let page = ids(&list);
        assert!(page.len() <= 3 && !page.is_empty());
        listed.extend(page);
        match list["next"].as_str() {
            Some(next) => path = format!("/admin/connections?limit=3&after={next}"),
            None => break,
        }
    }
    let mut expected: Vec<String> = open.iter().map(id_of).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_parameter_that_is_unknown_or_wrong_is_named() {
    let gateway = TestGateway::start().await;
    for (query, named) in [
        ("subjekt=alice", "subjekt"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=many", "invalid digit"),
        ("transport=carrier-pigeon", "transport"),
        ("topic=a%20b", "white space"),
        ("after=7", "after"),
        ("subject=a&subject=b", "subject"),
    ] {
        let (status, error) = gateway.admin(&format!("/admin/connections?{query}")).await;
        assert_eq!(status, 400, "{query}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(named), "{query}: {message}");
    }
}

/// Every worker lists its own, in slices; thousands of filters take several.
#[tokio::test]
async fn many_filters_are_listed_while_events_flow() {
    let gateway = TestGateway::start().await;
    let mut clients = Vec::new();
    for client in 0..8 {
        let mut ws = gateway.ws("topics=live:1").await;
        for part in 0..3 {
            let topics: Vec<String> = (0..300)
                .map(|topic| format!("t:{client}:{part}:{topic}"))
                .collect();
            let asked = json!({"type": "subscribe", "topics": topics, "ref": part});
            ws.send(asked).await;
            while ws.frame("live").await["ref"] != part {}
        }
        clients.push(ws);
    }
    let (list, topics) = tokio::join!(
        gateway.list("/admin/connections?topic=t:7:2:299"),
        gateway.list("/admin/topics?prefix=t:&limit=10000"),
    );
    assert_eq!(list["matching"], 1);
    assert_eq!(list["connections"][0]["topics"]["count"], 901);
    assert_eq!(topics["topics"].as_array().unwrap().len(), 8 * 900);
    assert_eq!(topics["next"], Value::Null);
    gateway.publish("live:1", json!(1)).await;
    for ws in &mut clients {
        assert_eq!(ws.event().await["topic"], "live:1");
    }
}
