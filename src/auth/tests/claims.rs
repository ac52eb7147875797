//! The inside: types, bounds, issuer and audience, grants.

use serde_json::{Value, json};

use super::super::{test_keys::*, *};
use crate::topic::TopicFilter;

fn verify(options: AuthOptions, claims: Value) -> Result<std::sync::Arc<Identity>, AuthError> {
    let authenticator = Authenticator::new(options).expect("good options");
    authenticator.verify_at(&hs256(claims), at(0))
}

/// Alice's claims with one of them replaced.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn bad_claim(claims: Value) -> Option<&'static str> {
    match verify(secret_options(), claims) {
        Err(AuthError::BadClaim { name, .. } | AuthError::BadFilter { name, .. }) => Some(name),
        _ => None,
    }
}

#[test]
fn subject_and_expiry_are_required() {
    assert_eq!(bad_claim(json!({"exp": T0 + 1})), Some("sub"));
    assert_eq!(bad_claim(json!({"sub": "alice"})), Some("exp"));
}

#[test]
fn claims_of_the_wrong_type_are_refused_by_name() {
    let text = json!("x");
    let wrong = [
        (
            "sub",
            vec![json!(7), json!(true), json!(["alice"]), json!({})],
        ),
        (
            "exp",
            vec![json!("1900000000"), json!(true), json!([T0 + 1])],
        ),
        ("nbf", vec![json!("0"), json!(false)]),
        ("iss", vec![json!(1), json!(["a"])]),
        (
            "aud",
            vec![
                json!(1),
                json!([1]),
                json!(["a", 1]),
                json!({}),
                json!([null]),
            ],
        ),
        ("jti", vec![json!(1), json!([])]),
        ("tenant", vec![json!(1), json!(["acme"])]),
        ("trusted", vec![json!("true"), json!(1), json!([])]),
        ("stats", vec![json!("true"), json!(1), json!([])]),
        (
            "subscribe",
            vec![text.clone(), json!([1]), json!([null]), json!({})],
        ),
        ("publish", vec![text, json!([["a"]]), json!(1)]),
    ];
    for (name, values) in wrong {
        for value in values.into_iter().chain([json!(null)]) {
            let found = bad_claim(with(name, value.clone()));
            assert_eq!(found, Some(name), "{name}: {value}");
        }
    }
}

#[test]
fn values_out_of_bounds_are_refused_by_name() {
    let long = "x".repeat(256);
    let wrong = [
        (
            "sub",
            vec![json!(""), json!(&long), json!("a\nb"), json!("a\u{0}")],
        ),
        ("tenant", vec![json!(""), json!(&long), json!("a\u{7f}")]),
        ("jti", vec![json!(""), json!(&long)]),
        (
            "exp",
            vec![
                json!(-1),
                json!(-0.5),
                json!(1e300),
                json!((T0 + 100) * 1000),
            ],
        ),
        ("nbf", vec![json!(-1), json!(1e18)]),
        (
            "subscribe",
            vec![json!([""]), json!(["a b"]), json!(["ok", "a,b"])],
        ),
        ("publish", vec![json!(["x".repeat(256)])]),
    ];
    for (name, values) in wrong {
        for value in values {
            let found = bad_claim(with(name, value.clone()));
            assert_eq!(found, Some(name), "{name}: {value}");
        }
    }
    assert!(verify(secret_options(), with("sub", json!(&long[1..]))).is_ok());
}

#[test]
fn the_number_of_filters_is_bounded() {
    let filters = |count| json!(vec!["a"; count]);
    assert!(verify(secret_options(), with("subscribe", filters(1000))).is_ok());
    assert_eq!(
        bad_claim(with("subscribe", filters(1001))),
        Some("subscribe")
    );
}

#[test]
fn claims_that_are_not_one_plain_object_are_refused() {
    let header = r#"{"alg":"HS256"}"#;
    for claims in [
        "",
        "null",
        "[]",
        r#"{"sub":"alice","exp":NaN}"#,
        r#"{"sub":"alice","exp":1e999}"#,
        r#"{"sub":"alice","sub":"root","exp":1900000000}"#,
        r#"{"sub":"alice","exp":1900000000,"exp":1900000000}"#,
        r#"{"sub":"alice","exp":1900000000,"\u0073ub":"root"}"#,
        r#"{"sub":"alice","exp":1900000000}x"#,
        "\u{feff}{\"sub\":\"alice\",\"exp\":1900000000}",
    ] {
        let token = Signer::hs256(SECRET).raw(header, claims);
        let error = with_secret().verify_at(&token, at(0)).unwrap_err();
        assert!(
            matches!(error, AuthError::Malformed(_)),
            "{claims}: {error}"
        );
    }
}

#[test]
fn unknown_claims_are_ignored() {
    let claims = with("admin", json!({"sub": [1, null], "exp": "x"}));
    assert!(verify(secret_options(), claims).is_ok());
}

#[test]
fn dates_may_have_fractions() {
    let identity = verify(secret_options(), with("exp", json!(1_800_000_100.5)));
    let identity = identity.expect("a good token");
    assert_eq!(
        identity.expires_at.as_millisecond(),
        (T0 + 100) * 1000 + 500
    );
}

#[test]
fn issuer_and_audience_are_required_where_configured() {
    let options = AuthOptions {
        issuer: Some("https://issuer.example".to_owned()),
        audience: Some("tribus".to_owned()),
        ..secret_options()
    };
    let token = |iss: Value, aud: Value| {
        let mut claims = claims();
        for (name, value) in [("iss", iss), ("aud", aud)] {
            if !value.is_null() {
                claims[name] = value;
            }
        }
        verify(options.clone(), claims).map(|_| ())
    };
    let issuer = || json!("https://issuer.example");
    assert_eq!(token(issuer(), json!("tribus")), Ok(()));
    assert_eq!(token(issuer(), json!(["other", "tribus"])), Ok(()));
    let refused = [
        (json!(null), json!("tribus")),
        (json!("https://issuer.example/"), json!("tribus")),
        (issuer(), json!(null)),
        (issuer(), json!("tribu")),
        (issuer(), json!([])),
        (issuer(), json!(["Tribus"])),
    ];
    for (iss, aud) in refused {
        let error = token(iss.clone(), aud.clone()).unwrap_err();
        assert!(
            matches!(error, AuthError::Invalid(_)),
            "{iss} {aud}: {error}"
        );
    }
}

#[test]
fn issuer_and_audience_do_not_matter_otherwise() {
    let claims = json!({"sub": "alice", "exp": T0 + 1, "iss": "anyone", "aud": ["anything"]});
    assert!(verify(secret_options(), claims).is_ok());
}

fn with_defaults() -> AuthOptions {
    AuthOptions {
        default_subscribe: vec!["user:{sub}".to_owned(), "public:*".to_owned()],
        default_publish: vec!["t-{tenant}:{sub}:*".to_owned()],
        ..secret_options()
    }
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).expect("a filter")
}

#[test]
fn without_grants_nothing_is_allowed() {
    let identity = verify(secret_options(), claims()).expect("a good token");
    assert!(!identity.may_subscribe(&filter("a")));
    assert!(!identity.may_publish("a"));
}

#[test]
fn defaults_fill_in_for_each_missing_claim_on_its_own() {
    let claims = json!({"sub": "alice", "exp": T0 + 1, "tenant": "acme", "subscribe": ["a"]});
    let identity = verify(with_defaults(), claims).expect("a good token");
    assert!(identity.may_subscribe(&filter("a")));
    assert!(!identity.may_subscribe(&filter("user:alice")));
    assert!(identity.may_publish("t-acme:alice:1"));

    let claims = json!({"sub": "alice", "exp": T0 + 1, "publish": []});
    let identity = verify(with_defaults(), claims).expect("a good token");
    assert!(identity.may_subscribe(&filter("user:alice")));
    assert!(!identity.may_subscribe(&filter("user:*")));
    assert!(identity.publish.is_empty(), "an empty list is a list");
}

#[test]
fn a_hostile_subject_does_not_widen_the_defaults() {
    for subject in ["*", "**", "a:b", "a,b", "a b", "*:x"] {
        let identity = verify(with_defaults(), with("sub", json!(subject)));
        let identity = identity.expect("a good token");
        assert_eq!(identity.subscribe, [filter("public:*")], "{subject}");
        assert_eq!(identity.publish, [], "{subject}");
    }
}
