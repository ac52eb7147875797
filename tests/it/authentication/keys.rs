//! Where keys come from, and what each may verify.

use std::{io::Write, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
};
use tribus::config::Config;

use crate::support::{
    Answer, Claims, Credentials, Door, SECRET, SigningKey, TestGateway, Ws, within,
};

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(content.as_bytes()).expect("a written file");
    file
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// A gateway without the tests' secret.
async fn gateway_with(toml: &str) -> TestGateway {
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n\
         shutdown.grace = \"2s\"\n{toml}"
    );
    TestGateway::run(Config::from_toml(&toml).expect("a good configuration")).await
}

async fn assert_good_everywhere(gateway: &TestGateway, token: &str, case: &str) {
    for door in Door::ALL {
        let answer = gateway.knock(door, &Credentials::bearer(token)).await;
        assert_eq!(answer, Answer::LetIn, "{case} at {door:?}");
    }
    let mut ws = Ws::connect(gateway, "", None, None)
        .await
        .expect("a handshake");
    let success = ws.ask(json!({"type": "auth", "token": token})).await;
    assert_eq!(success["type"], "auth_success", "{case} as a first message");
}

async fn assert_bad_everywhere(gateway: &TestGateway, token: &str, case: &str) {
    for door in Door::ALL {
        let answer = gateway.knock(door, &Credentials::bearer(token)).await;
        assert_eq!(answer, door.refusal("unauthorized"), "{case} at {door:?}");
    }
}

fn public_keys() -> [SigningKey; 3] {
    [SigningKey::rsa(), SigningKey::p256(), SigningKey::ed25519()]
}

/// The PEM text as an HMAC secret: what a verifier that lets the token choose the algorithm takes.
fn confused(key: &SigningKey) -> String {
    let claims = Claims::all("mallory");
    SigningKey::secret(key.public_pem.as_bytes()).token(&claims)
}

#[tokio::test]
async fn public_keys_of_every_kind_verify_from_a_pem_file() {
    for key in public_keys() {
        let pem = file(&key.public_pem);
        let path = pem.path().display();
        let gateway = gateway_with(&format!("auth.public_key_file = \"{path}\"")).await;
        let claims = Claims::all("alice");
        assert_good_everywhere(&gateway, &key.token(&claims), key.algorithm).await;
        assert_bad_everywhere(&gateway, &confused(&key), "the public key as a secret").await;
        for other in public_keys() {
            assert_bad_everywhere(&gateway, &other.token(&claims), other.algorithm).await;
        }
    }
}

#[tokio::test]
async fn a_secret_and_a_public_key_do_not_stand_in_for_one_another() {
    let key = SigningKey::rsa();
    let pem = file(&key.public_pem);
    let toml = format!("auth.public_key_file = \"{}\"", pem.path().display());
    let gateway = TestGateway::with(&toml).await;
    let claims = Claims::all("alice");
    assert_good_everywhere(&gateway, &key.token(&claims), "RS256").await;
    assert_good_everywhere(&gateway, &claims.token(), "HS256").await;
    assert_bad_everywhere(&gateway, &confused(&key), "RS256 as HS256").await;
    let relabelled = key.token_with(&json!({"alg": "HS256"}), &claims);
    assert_bad_everywhere(&gateway, &relabelled, "an RSA signature called HS256").await;
    let secret = SigningKey::secret(SECRET.as_bytes());
    let relabelled = secret.token_with(&json!({"alg": "RS256"}), &claims);
    assert_bad_everywhere(&gateway, &relabelled, "an HMAC called RS256").await;
}

#[tokio::test]
async fn a_kid_only_chooses_among_the_configured_keys() {
    let (first, second) = (SigningKey::p256(), SigningKey::ed25519());
    let jwks = file(&set(&[
        first.jwk_with(json!({"kid": "first", "alg": "ES256"})),
        second.jwk_with(json!({"kid": "second"})),
        SigningKey::secret(&[7; 32]).jwk_with(json!({"kid": "shared"})),
    ]));
    let gateway = gateway_with(&format!("auth.jwks_file = \"{}\"", jwks.path().display())).await;
    let claims = Claims::all("alice");
    let with_kid = |key: &SigningKey, kid: &str| {
        key.token_with(&json!({"alg": key.algorithm, "kid": kid}), &claims)
    };
    let shared = SigningKey::secret(&[7; 32]);
    for (key, kid) in [(&first, "first"), (&second, "second"), (&shared, "shared")] {
        assert_good_everywhere(&gateway, &with_kid(key, kid), kid).await;
        assert_good_everywhere(&gateway, &key.token(&claims), "no kid").await;
    }
    for kid in [
        "second",
        "",
        "third",
        "First",
        "../../../../dev/null",
        "first' OR '1'='1",
        "http://127.0.0.1:1/keys",
        &"k".repeat(5000),
    ] {
        assert_bad_everywhere(&gateway, &with_kid(&first, kid), kid).await;
    }
    let empty_secret = SigningKey::secret(b"");
    for kid in ["shared", "/dev/null"] {
        let token = with_kid(&empty_secret, kid);
        assert_bad_everywhere(&gateway, &token, "an empty secret").await;
    }
}

/// An identity provider's key set: what it answers can be changed, and what it answered is known.
struct KeyServer {
    url: String,
    answer: watch::Sender<(u16, String)>,
    given: watch::Receiver<Vec<(u16, String)>>,
}

impl KeyServer {
    async fn start(status: u16, body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let (answer, current) = watch::channel((status, body));
        let (give, given) = watch::channel(Vec::new());
        tokio::spawn(serve_keys(listener, current, Arc::new(give)));
        Self { url, answer, given }
    }

    fn set(&self, status: u16, body: String) {
        self.answer.send_replace((status, body));
    }

    fn requests(&self) -> usize {
        self.given.borrow().len()
    }

    /// Changes the answer, and waits until it was given; the one before was then taken in.
    async fn give(&mut self, status: u16, body: String) {
        let answer = (status, body);
        self.answer.send_replace(answer.clone());
        within(
            "the gateway to ask for keys",
            self.given.wait_for(|given| given.last() == Some(&answer)),
        )
        .await
        .expect("the server runs");
    }
}

async fn serve_keys(
    listener: TcpListener,
    current: watch::Receiver<(u16, String)>,
    given: Arc<watch::Sender<Vec<(u16, String)>>>,
) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (current, given) = (current.clone(), Arc::clone(&given));
        tokio::spawn(async move {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let (status, body) = current.borrow().clone();
            let length = body.len();
            let response = format!(
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(response.as_bytes()).await;
            let _ = stream.shutdown().await;
            given.send_modify(|given| given.push((status, body)));
        });
    }
}

/// Knocks until the answer is the expected one: a fetched set is in use a moment after it came.
async fn soon(gateway: &TestGateway, token: &str, expected: Answer) {
    let knocking = async {
        while gateway.knock(Door::Poll, &Credentials::bearer(token)).await != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(&format!("{expected:?}"), knocking).await;
}

#[tokio::test]
async fn keys_of_a_url_are_refreshed_and_kept_when_the_refresh_fails() {
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    let mut server = KeyServer::start(200, set(&[old.jwk_with(json!({"kid": "old"}))])).await;
    let toml = format!(
        "auth.jwks_url = \"{}\"\nauth.jwks_refresh = \"1s\"",
        server.url
    );
    let gateway = gateway_with(&toml).await;
    let claims = Claims::all("alice");
    let (old_token, new_token) = (old.token(&claims), new.token(&claims));
    soon(&gateway, &old_token, Answer::LetIn).await;
    assert_good_everywhere(&gateway, &old_token, "the fetched key").await;
    assert_bad_everywhere(&gateway, &new_token, "a key that is not in the set").await;

    for (status, body) in [(500, ""), (200, "<html>"), (200, r#"{"keys":[]}"#)] {
        server.give(status, body.to_owned()).await;
        let answer = gateway
            .knock(Door::Poll, &Credentials::bearer(&old_token))
            .await;
        assert_eq!(answer, Answer::LetIn, "before {status} {body:?}");
    }
    server.set(200, set(&[new.jwk_with(json!({"kid": "new"}))]));
    soon(&gateway, &new_token, Answer::LetIn).await;
    soon(&gateway, &old_token, Door::Poll.refusal("unauthorized")).await;
}

#[tokio::test]
async fn no_token_makes_the_gateway_ask_for_keys() {
    let key = SigningKey::p256();
    let server = KeyServer::start(200, set(&[key.jwk_with(json!({"kid": "known"}))])).await;
    let gateway = gateway_with(&format!("auth.jwks_url = \"{}\"", server.url)).await;
    soon(&gateway, &key.token(&Claims::all("alice")), Answer::LetIn).await;
    let elsewhere = KeyServer::start(200, set(std::slice::from_ref(&key.public_jwk))).await;
    for header in [
        json!({"alg": "ES256", "kid": "unknown"}),
        json!({"alg": "ES256", "kid": elsewhere.url}),
        json!({"alg": "ES256", "kid": "known", "jku": elsewhere.url}),
        json!({"alg": "ES256", "x5u": elsewhere.url}),
        json!({"alg": "RS256"}),
    ] {
        let token = SigningKey::p256().token_with(&header, &Claims::all("mallory"));
        assert_bad_everywhere(&gateway, &token, &header.to_string()).await;
    }
    assert_eq!((server.requests(), elsewhere.requests()), (1, 0));
}

#[tokio::test]
async fn secrets_in_a_fetched_set_verify_nothing() {
    let key = SigningKey::p256();
    let secret = SigningKey::secret(&[7; 32]);
    let keys = set(&[secret.public_jwk.clone(), key.public_jwk.clone()]);
    let server = KeyServer::start(200, keys).await;
    let gateway = gateway_with(&format!("auth.jwks_url = \"{}\"", server.url)).await;
    soon(&gateway, &key.token(&Claims::all("alice")), Answer::LetIn).await;
    let token = secret.token(&Claims::all("mallory"));
    assert_bad_everywhere(&gateway, &token, "a fetched secret").await;
}

#[tokio::test]
async fn until_the_first_keys_are_there_a_token_is_worth_another_try() {
    let key = SigningKey::p256();
    let server = KeyServer::start(503, String::new()).await;
    let toml = format!(
        "auth.jwks_url = \"{}\"\nauth.jwks_refresh = \"1s\"",
        server.url
    );
    let gateway = gateway_with(&toml).await;
    let token = key.token(&Claims::all("alice"));
    for door in Door::ALL {
        let status = if door == Door::Ws { 1013 } else { 503 };
        for credentials in [
            Credentials::bearer(&token),
            Credentials::parameter("token", &token),
        ] {
            let answer = gateway.knock(door, &credentials).await;
            assert_eq!(answer, Answer::refused(status, "unavailable"), "{door:?}");
        }
    }
    let request = Door::Poll.request(&gateway, &Credentials::bearer(&token));
    assert!(
        request
            .send()
            .await
            .unwrap()
            .headers()
            .contains_key("retry-after")
    );
    server.set(200, set(std::slice::from_ref(&key.public_jwk)));
    soon(&gateway, &token, Answer::LetIn).await;
}
