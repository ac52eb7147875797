//! The outside: headers, algorithms, sizes, time, the cache.

use serde_json::{Value, json};

use super::super::{test_keys::*, *};

fn refused(token: &str) -> AuthError {
    let error = with_secret().verify_at(token, at(0)).unwrap_err();
    assert!(
        token.is_empty() || !error.to_string().contains(token),
        "an error never quotes the token"
    );
    error
}

/// A rightly signed token with this header.
fn with_header(header: Value) -> String {
    Signer::hs256(SECRET).token(header, claims())
}

#[test]
fn a_good_token_gives_its_identity() {
    let identity = with_secret().verify_at(&good_token(), at(0));
    let identity = identity.expect("a good token");
    assert_eq!(&*identity.subject, "alice");
    assert_eq!(identity.expires_at, at(3600));
}

#[test]
fn alg_none_is_refused_in_any_spelling() {
    for alg in ["none", "None", "NONE", "nOnE", "", "HS256 "] {
        let header = json!({"alg": alg, "typ": "JWT"});
        let unsigned = Signer::Nobody.token(header.clone(), claims());
        let refusal = AuthError::Malformed("`alg` is not accepted");
        assert_eq!(refused(&unsigned), refusal, "{alg}");
        assert_eq!(refused(&with_header(header)), refusal, "{alg}");
    }
}

#[test]
fn a_missing_or_foreign_signature_is_refused() {
    let invalid = AuthError::Invalid("not signed by a key that is accepted");
    let header = json!({"alg": "HS256"});
    let unsigned = Signer::Nobody.token(header.clone(), claims());
    assert_eq!(refused(&unsigned), invalid);
    let foreign = Signer::hs256(&"x".repeat(32)).token(header, claims());
    assert_eq!(refused(&foreign), invalid);
    let good = good_token();
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    assert_eq!(refused(&format!("{message}.{}", &signature[4..])), invalid);
    assert_eq!(refused(&format!("{message}.{signature}=")), invalid);
    let other = hs256(json!({"sub": "mallory", "exp": T0 + 3600}));
    let (other, _) = other.rsplit_once('.').expect("three parts");
    assert_eq!(refused(&format!("{other}.{signature}")), invalid);
}

#[test]
fn what_is_not_a_token_is_malformed() {
    let good = good_token();
    for text in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "\0.\0.\0",
        &format!("{good}.{good}"),
        &format!(" {good}"),
        &format!("Bearer {good}"),
        &Signer::hs256(SECRET).raw("null", "{}"),
        &Signer::hs256(SECRET).raw("[]", "{}"),
        &Signer::hs256(SECRET).raw(r#"{"typ":"JWT"}"#, "{}"),
        &Signer::hs256(SECRET).raw(r#"{"alg":"HS256","alg":"HS256"}"#, "{}"),
        &Signer::hs256(SECRET).raw(r#"{"alg":["HS256"]}"#, "{}"),
    ] {
        let error = refused(text);
        assert!(
            matches!(error, AuthError::Malformed(_)),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn what_is_not_utf8_is_refused_also_where_nobody_reads_it() {
    let signer = Signer::hs256(SECRET);
    let (header, claims) = (br#"{"alg":"HS256"}"#, claims().to_string().into_bytes());
    let with_junk = |json: &[u8]| [b"{\"x\":\"\xff\",".as_slice(), &json[1..]].concat();
    let verify = |token: String| with_secret().verify_at(&token, at(0));
    assert!(verify(signer.raw(header, &claims)).is_ok());
    for token in [
        signer.raw(with_junk(header), &claims),
        signer.raw(header, with_junk(&claims)),
    ] {
        assert!(matches!(verify(token), Err(AuthError::Malformed(_))));
    }
}

#[test]
fn a_huge_token_is_refused_unread() {
    const MAX_TOKEN_BYTES: usize = 8 * 1024;
    let padding = "x".repeat(MAX_TOKEN_BYTES);
    let huge = hs256(json!({"sub": "alice", "exp": T0 + 3600, "padding": padding}));
    assert_eq!(refused(&huge), AuthError::TooLong);
    assert_eq!(
        refused(&"x".repeat(MAX_TOKEN_BYTES + 1)),
        AuthError::TooLong
    );
    let fits = &"x".repeat(MAX_TOKEN_BYTES);
    assert!(matches!(refused(fits), AuthError::Malformed(_)));
}

#[test]
fn any_crit_is_refused() {
    for crit in [
        json!(["exp"]),
        json!(["b64"]),
        json!([]),
        json!(null),
        json!("x"),
    ] {
        let token = with_header(json!({"alg": "HS256", "crit": crit, "b64": true}));
        let refusal = AuthError::Malformed("`crit` extensions are not understood");
        assert_eq!(refused(&token), refusal, "{crit}");
    }
}

#[test]
fn embedded_keys_are_ignored() {
    let attacker = "attacker-attacker-attacker-attac";
    let header = json!({
        "alg": "HS256",
        "jwk": jwk_oct(attacker.as_bytes(), "evil"),
        "jku": "http://127.0.0.1:1/jwks.json",
        "x5u": "http://127.0.0.1:1/cert.pem",
        "x5c": ["AAAA"],
    });
    let token = Signer::hs256(attacker).token(header.clone(), claims());
    assert!(matches!(refused(&token), AuthError::Invalid(_)));
    let verified = with_secret().verify_at(&with_header(header), at(0));
    assert!(verified.is_ok(), "they do not harm a good token either");

    let key = ed25519();
    let header = json!({"alg": "EdDSA", "jwk": jwk_ed25519(&key, "evil")});
    let token = Signer::Ed(key).token(header, claims());
    assert!(matches!(refused(&token), AuthError::Invalid(_)));
}

#[test]
fn a_kid_cannot_harm_or_help_without_a_key_set() {
    let attacker = Signer::hs256(&"y".repeat(32));
    for kid in [
        "../../../dev/null",
        "'; drop table keys",
        "",
        "http://127.0.0.1:1",
    ] {
        let header = json!({"alg": "HS256", "kid": kid});
        let verified = with_secret().verify_at(&with_header(header.clone()), at(0));
        assert!(verified.is_ok(), "secrets have no kid: {kid}");
        let foreign = attacker.token(header, claims());
        assert!(matches!(refused(&foreign), AuthError::Invalid(_)), "{kid}");
    }
    for kid in [json!(1), json!(null), json!(["a"]), json!({})] {
        let token = with_header(json!({"alg": "HS256", "kid": kid}));
        let error = refused(&token);
        assert!(matches!(error, AuthError::Malformed(_)), "{kid}: {error}");
    }
}

#[test]
fn time_has_five_seconds_of_leeway() {
    let token = &hs256(json!({"sub": "alice", "exp": T0 + 100, "nbf": T0}));
    let cases = [
        (-6, Err(AuthError::NotYetValid)),
        (-5, Ok(())),
        (0, Ok(())),
        (100, Ok(())),
        (104, Ok(())),
        (105, Err(AuthError::Expired)),
        (1000, Err(AuthError::Expired)),
    ];
    for (seconds, expected) in cases {
        let verified = with_secret().verify_at(token, at(seconds)).map(|_| ());
        assert_eq!(verified, expected, "at {seconds} s");
    }
}

#[test]
fn the_cache_honours_time() {
    let authenticator = with_secret();
    let token = &hs256(json!({"sub": "alice", "exp": T0 + 100, "nbf": T0}));
    let first = authenticator.verify_at(token, at(0)).expect("good");
    let second = authenticator.verify_at(token, at(1)).expect("good");
    assert!(std::sync::Arc::ptr_eq(&first, &second), "it was cached");
    let late = authenticator.verify_at(token, at(105));
    assert_eq!(late.unwrap_err(), AuthError::Expired);
    let early = authenticator.verify_at(token, at(-6));
    assert_eq!(early.unwrap_err(), AuthError::NotYetValid);
}

#[test]
fn expired_is_said_only_of_tokens_that_are_good_otherwise() {
    let late = at(7200);
    let expired = |token: &str| with_secret().verify_at(token, late).unwrap_err();
    assert_eq!(expired(&good_token()), AuthError::Expired);
    let forged = Signer::hs256(&"x".repeat(32)).token(json!({"alg": "HS256"}), claims());
    assert!(matches!(expired(&forged), AuthError::Invalid(_)));
    let bad = hs256(json!({"sub": "", "exp": T0}));
    assert!(matches!(
        expired(&bad),
        AuthError::BadClaim { name: "sub", .. }
    ));

    let options = AuthOptions {
        audience: Some("tribus".to_owned()),
        ..secret_options()
    };
    let strict = Authenticator::new(options).expect("good options");
    let error = strict.verify_at(&good_token(), late).unwrap_err();
    assert!(matches!(error, AuthError::Invalid(_)));
}

#[test]
fn signed_tokens_come_back_whole() {
    let token = NewToken {
        subject: "alice".to_owned(),
        subscribe: Some(vec!["order:*".to_owned()]),
        publish: Some(Vec::new()),
        tenant: Some("acme".to_owned()),
        trusted: true,
        stats: true,
        ttl: std::time::Duration::from_secs(60),
        issuer: Some("https://issuer.example".to_owned()),
        audience: Some("tribus".to_owned()),
        token_id: Some("t1".to_owned()),
    };
    let options = AuthOptions {
        issuer: token.issuer.clone(),
        audience: token.audience.clone(),
        ..secret_options()
    };
    let before = jiff::Timestamp::now();
    let signed = sign_hs256(&Secret::new(SECRET), &token);
    let authenticator = Authenticator::new(options).expect("good options");
    let identity = authenticator.verify(&signed).expect("a good token");
    let order = crate::topic::TopicFilter::parse("order:1").expect("a filter");
    assert!(identity.may_subscribe(&order) && !identity.may_publish("order:1"));
    assert_eq!(identity.tenant.as_deref(), Some("acme"));
    assert!(identity.trusted && identity.stats);
    assert_eq!(identity.token_id.as_deref(), Some("t1"));
    let ttl = identity.expires_at.duration_since(before).as_secs_f64();
    assert!((60.0..62.0).contains(&ttl), "{ttl}");
}
