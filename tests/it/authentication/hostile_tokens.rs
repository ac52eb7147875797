//! The bad tokens that one would try, at every endpoint and as a first message.

use serde_json::{Value, json};

use crate::support::{
    Answer, Claims, Credentials, Door, SECRET, SigningKey, TestGateway, Ws, base64url,
};

fn secret_key() -> SigningKey {
    SigningKey::secret(SECRET.as_bytes())
}

async fn assert_refused_everywhere(gateway: &TestGateway, token: &str, case: &str) {
    for door in Door::ALL {
        let answer = gateway.knock(door, &Credentials::bearer(token)).await;
        assert_eq!(answer, door.refusal("unauthorized"), "{case} at {door:?}");
    }
    let mut ws = Ws::connect(gateway, "", None, None)
        .await
        .expect("a handshake");
    ws.send(json!({"type": "auth", "token": token})).await;
    let refused = Answer::refused(4002, "unauthorized");
    assert_eq!(ws.answer().await, refused, "{case} as a first message");
}

#[tokio::test]
async fn tokens_without_a_signature_are_refused_however_none_is_written() {
    let gateway = TestGateway::start().await;
    let claims = serde_json::to_string(&Claims::all("alice").0).unwrap();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = base64url(json!({"alg": alg}).to_string());
        let unsigned = format!("{header}.{}.", base64url(&claims));
        assert_refused_everywhere(&gateway, &unsigned, alg).await;
        let signed = secret_key().token_with(&json!({"alg": alg}), &Claims::all("alice"));
        assert_refused_everywhere(&gateway, &signed, alg).await;
    }
    let good = Claims::all("alice").token();
    let (message, _) = good.rsplit_once('.').unwrap();
    assert_refused_everywhere(&gateway, &format!("{message}."), "signature cut off").await;
    assert_refused_everywhere(&gateway, message, "two parts").await;
}

#[tokio::test]
async fn a_header_that_says_more_than_it_may_is_refused() {
    let gateway = TestGateway::start().await;
    for header in [
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "crit": ["x"], "x": 1}),
        json!({"alg": "HS256", "crit": []}),
        json!({"alg": "HS256", "crit": null}),
        json!({"alg": "HS256", "kid": 7}),
        json!({"alg": "HS256", "kid": ["a"]}),
        json!({"alg": ["HS256"]}),
        json!({"alg": "HS256 "}),
        json!({"alg": "RS256"}),
        json!({"alg": "ES256"}),
        json!({"alg": "HS512"}),
        json!({"typ": "JWT"}),
    ] {
        let token = secret_key().token_with(&header, &Claims::all("alice"));
        assert_refused_everywhere(&gateway, &token, &header.to_string()).await;
    }
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_used() {
    let gateway = TestGateway::start().await;
    let mallory = SigningKey::p256();
    for member in ["jwk", "jku", "x5u", "x5c"] {
        let value = match member {
            "jwk" => mallory.public_jwk.clone(),
            "x5c" => json!(["MIIB"]),
            _ => json!(gateway.url("/keys")),
        };
        let mut header = json!({"alg": "ES256"});
        header[member] = value;
        let token = mallory.token_with(&header, &Claims::all("alice"));
        assert_refused_everywhere(&gateway, &token, member).await;
    }
    let ignored = json!({"alg": "HS256", "jwk": mallory.public_jwk});
    let token = secret_key().token_with(&ignored, &Claims::all("alice"));
    let answer = gateway
        .knock(Door::Poll, &Credentials::bearer(&token))
        .await;
    assert_eq!(answer, Answer::LetIn, "it is not even looked at");
}

#[tokio::test]
async fn claims_of_the_wrong_type_make_a_token_bad() {
    let gateway = TestGateway::start().await;
    for (claim, value) in [
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!(null)),
        ("sub", json!("a\nb")),
        ("sub", json!("a".repeat(256))),
        ("exp", json!("4000000000")),
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("nbf", json!("0")),
        ("iss", json!(["a"])),
        ("aud", json!({"a": 1})),
        ("aud", json!(["a", null])),
        ("jti", json!(7)),
        ("tenant", json!(["acme"])),
        ("tenant", json!(null)),
        ("tenant", json!("")),
        ("trusted", json!("true")),
        ("trusted", json!(1)),
        ("stats", json!("true")),
        ("stats", json!(null)),
        ("subscribe", json!("**")),
        ("subscribe", json!({"order:*": true})),
        ("subscribe", json!(["order:*", 7])),
        ("subscribe", json!(["not a filter"])),
        ("publish", json!("**")),
        ("publish", json!([["order:*"]])),
        ("publish", json!(null)),
    ] {
        let token = Claims::all("alice").with(claim, value.clone()).token();
        assert_refused_everywhere(&gateway, &token, &format!("{claim}: {value}")).await;
    }
}

#[tokio::test]
async fn missing_or_doubled_claims_and_payloads_that_are_no_claims_make_a_token_bad() {
    let gateway = TestGateway::start().await;
    let header = r#"{"alg":"HS256"}"#;
    for payload in [
        r#"{"sub":"alice"}"#,
        r#"{"exp":4000000000}"#,
        r#"{"sub":"alice","sub":"bob","exp":4000000000}"#,
        r#"{"sub":"alice","exp":1,"exp":4000000000}"#,
        r#"["alice",4000000000]"#,
        r#""alice""#,
        "",
        r#"{"sub":"alice","exp":4000000000"#,
    ] {
        let token = secret_key().raw(header, payload);
        assert_refused_everywhere(&gateway, &token, payload).await;
    }
}

#[tokio::test]
async fn what_is_no_token_at_all_is_refused() {
    let gateway = TestGateway::start().await;
    let good = Claims::all("alice").token();
    for (case, token) in [
        ("a word", "alice".to_owned()),
        ("dots", "..".to_owned()),
        ("a fourth part", format!("{good}.x")),
        ("padding", format!("{good}=")),
        (
            "another signature",
            format!("{}AAAA", &good[..good.len() - 4]),
        ),
        ("null in base64", "AAAA.AAAA.AAAA".to_owned()),
    ] {
        assert_refused_everywhere(&gateway, &token, case).await;
    }
}

#[tokio::test]
async fn a_huge_token_is_refused_wherever_it_fits() {
    let gateway = TestGateway::start().await;
    let topics: Vec<_> = (0..1500).map(|n| format!("order:{n}")).collect();
    let huge = Claims::all("alice")
        .with("subscribe", json!(topics))
        .token();
    assert!(huge.len() > 16_000);
    assert_refused_everywhere(&gateway, &huge, "rightly signed, and huge").await;
    let mut ws = Ws::connect(&gateway, "", None, None).await.unwrap();
    ws.send(json!({"type": "auth", "token": "a.".repeat(20_000)}))
        .await;
    assert_eq!(ws.answer().await, Answer::refused(4002, "unauthorized"));
    let good = Value::from(Claims::all("alice").token());
    let mut ws = Ws::connect(&gateway, "", None, None).await.unwrap();
    assert_eq!(
        ws.ask(json!({"type": "auth", "token": good})).await["type"],
        "auth_success"
    );
}
