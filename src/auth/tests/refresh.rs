//! The key set behind a URL, from a tiny server of our own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;

use super::super::{authenticator::chain, test_keys::*, *};

/// Answers every request with the response set last, and counts them.
struct Server {
    address: SocketAddr,
    state: Arc<Mutex<(String, usize)>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new((status(503, ""), 0)));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 4096]);
                let response = {
                    let mut state = shared.lock().expect("not poisoned");
                    state.1 += 1;
                    state.0.clone()
                };
                let _ = stream.write_all(response.as_bytes());
            }
        });
        Self { address, state }
    }

    fn answers(&self, response: String) {
        self.state.lock().expect("not poisoned").0 = response;
    }

    fn answers_keys(&self, keys: &[serde_json::Value]) {
        self.answers(status(200, &json!({ "keys": keys }).to_string()));
    }

    fn requests(&self) -> usize {
        self.state.lock().expect("not poisoned").1
    }

    fn options(&self) -> AuthOptions {
        AuthOptions {
            jwks_url: Some(format!("http://{}/keys", self.address)),
            ..AuthOptions::default()
        }
    }
}

fn status(code: u16, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {code} X\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 X\r\nConnection: close\r\nContent-Length: 0\r\nLocation: {to}\r\n\r\n")
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let limit = Duration::from_secs(20);
    let within = async { tokio::time::timeout(limit, future).await };
    runtime.block_on(within).expect("in time")
}

fn eddsa(kid: &str, signer: &Signer) -> String {
    signer.token(json!({"alg": "EdDSA", "kid": kid}), claims())
}

fn verify(authenticator: &Authenticator, token: &str) -> Result<(), AuthError> {
    authenticator.verify_at(token, at(0)).map(|_| ())
}

const NOT_OURS: AuthError = AuthError::Invalid("not signed by a key that is accepted");

#[test]
fn before_the_first_key_set_there_is_no_judgement() {
    let server = Server::start();
    let options = AuthOptions {
        hs256_secret: Some(Secret::new(SECRET)),
        ..server.options()
    };
    let authenticator = Authenticator::new(options).expect("good options");
    let key = ed25519();
    let jwk = jwk_ed25519(&key, "a");
    let token = eddsa("a", &Signer::Ed(key));
    let forged = Signer::hs256(&"x".repeat(32)).token(json!({"alg": "HS256"}), claims());
    let refused = run(authenticator.refresh_jwks()).unwrap_err();
    assert!(matches!(refused, RefreshError::Status(503)));
    assert_eq!(
        verify(&authenticator, &token),
        Err(AuthError::KeysUnavailable)
    );
    assert_eq!(
        verify(&authenticator, &good_token()),
        Ok(()),
        "the secret is there"
    );
    assert_eq!(
        verify(&authenticator, &forged),
        Err(NOT_OURS),
        "no set has HMAC keys"
    );

    server.answers_keys(&[jwk]);
    run(authenticator.refresh_jwks()).expect("fetched");
    assert_eq!(verify(&authenticator, &token), Ok(()));
}

#[test]
fn a_failed_refresh_keeps_the_keys() {
    let server = Server::start();
    let authenticator = Authenticator::new(server.options()).expect("good options");
    let key = ed25519();
    let jwk = jwk_ed25519(&key, "a");
    let signer = Signer::Ed(key);
    let token = eddsa("a", &signer);
    server.answers_keys(std::slice::from_ref(&jwk));
    run(authenticator.refresh_jwks()).expect("fetched");
    let padded = format!("{}{}", json!({ "keys": [jwk] }), " ".repeat(256 * 1024));
    for response in [
        status(500, ""),
        status(200, "<html>maintenance</html>"),
        status(200, r#"{"keys":[]}"#),
        status(200, &json!({"keys": [jwk_oct(&[7; 32], "a")]}).to_string()),
        status(200, &padded),
        "garbage".to_owned(),
        String::new(),
        redirect("https://127.0.0.1:1/keys"),
        redirect("file:///etc/passwd"),
        redirect("/keys"),
    ] {
        server.answers(response.clone());
        let refreshed = run(authenticator.refresh_jwks());
        assert!(refreshed.is_err(), "{:.60}", response);
        assert_eq!(verify(&authenticator, &token), Ok(()), "{:.60}", response);
        let fresh = signer.token(json!({"alg": "EdDSA"}), json!({"sub": "b", "exp": T0 + 9}));
        assert_eq!(verify(&authenticator, &fresh), Ok(()), "not from the cache");
    }
}

#[test]
fn redirects_stay_within_the_scheme() {
    let (server, target) = (Server::start(), Server::start());
    let authenticator = Authenticator::new(server.options()).expect("good options");
    let key = ed25519();
    target.answers_keys(&[jwk_ed25519(&key, "a")]);
    let place = target.address;
    for other in [format!("https://{place}/keys"), format!("ftp://{place}/")] {
        server.answers(redirect(&other));
        let error = run(authenticator.refresh_jwks()).unwrap_err();
        assert!(matches!(error, RefreshError::Http(_)), "{}", chain(&error));
    }
    assert_eq!(target.requests(), 0, "it was not even connected to");
    let before = server.requests();
    server.answers(redirect("/round/and/round"));
    run(authenticator.refresh_jwks()).expect_err("endless");
    assert!(server.requests() - before <= 4, "it gave up early");
    server.answers(redirect(&format!("http://{place}/keys")));
    run(authenticator.refresh_jwks()).expect("followed");
    let token = eddsa("a", &Signer::Ed(key));
    assert_eq!(verify(&authenticator, &token), Ok(()));
}

#[test]
fn errors_do_not_show_the_url() {
    let options = AuthOptions {
        jwks_url: Some("http://user:hunter2@127.0.0.1:1/keys?key=hunter2".to_owned()),
        ..AuthOptions::default()
    };
    let authenticator = Authenticator::new(options).expect("good options");
    let error = run(authenticator.refresh_jwks()).unwrap_err();
    let text = format!("{} {error:?}", chain(&error));
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn a_new_key_set_replaces_the_old_and_empties_the_cache() {
    let server = Server::start();
    let authenticator = Authenticator::new(server.options()).expect("good options");
    let (old, new) = (ed25519(), ed25519());
    let (old_jwk, new_jwk) = (jwk_ed25519(&old, "old"), jwk_ed25519(&new, "new"));
    let (old, new) = (
        eddsa("old", &Signer::Ed(old)),
        eddsa("new", &Signer::Ed(new)),
    );
    server.answers_keys(&[old_jwk]);
    run(authenticator.refresh_jwks()).expect("fetched");
    assert_eq!(verify(&authenticator, &old), Ok(()));
    assert_eq!(verify(&authenticator, &new), Err(NOT_OURS));
    server.answers_keys(&[new_jwk]);
    run(authenticator.refresh_jwks()).expect("fetched");
    assert_eq!(verify(&authenticator, &old), Err(NOT_OURS));
    assert_eq!(verify(&authenticator, &new), Ok(()));
}

#[test]
fn no_token_causes_a_request() {
    let server = Server::start();
    let authenticator = Authenticator::new(server.options()).expect("good options");
    let key = ed25519();
    server.answers_keys(&[jwk_ed25519(&key, "a")]);
    run(authenticator.refresh_jwks()).expect("fetched");
    let signer = Signer::Ed(key);
    let url = format!("http://{}/evil", server.address);
    for header in [
        json!({"alg": "EdDSA", "kid": "unknown"}),
        json!({"alg": "EdDSA", "kid": &url, "jku": &url, "x5u": &url}),
    ] {
        let token = signer.token(header, claims());
        assert_eq!(verify(&authenticator, &token), Err(NOT_OURS));
    }
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_reload_keeps_fetched_keys_of_the_same_url_only() {
    let (server, other) = (Server::start(), Server::start());
    let authenticator = Authenticator::new(server.options()).expect("good options");
    let key = ed25519();
    server.answers_keys(&[jwk_ed25519(&key, "a")]);
    run(authenticator.refresh_jwks()).expect("fetched");
    let token = eddsa("a", &Signer::Ed(key));
    authenticator
        .reload(server.options())
        .expect("good options");
    assert_eq!(verify(&authenticator, &token), Ok(()));
    authenticator.reload(other.options()).expect("good options");
    assert_eq!(
        verify(&authenticator, &token),
        Err(AuthError::KeysUnavailable)
    );
}

#[test]
fn the_background_task_fetches_at_once_and_after_a_failure_and_a_reload() {
    let (server, other) = (Server::start(), Server::start());
    let authenticator = Arc::new(Authenticator::new(server.options()).expect("good options"));
    let key = ed25519();
    let jwk = jwk_ed25519(&key, "a");
    let token = eddsa("a", &Signer::Ed(key));
    run(async {
        let task = tokio::spawn(Arc::clone(&authenticator).refresh_jwks_forever());
        until(|| server.requests() >= 1).await;
        assert_eq!(
            verify(&authenticator, &token),
            Err(AuthError::KeysUnavailable)
        );
        server.answers_keys(std::slice::from_ref(&jwk));
        until(|| verify(&authenticator, &token).is_ok()).await;
        other.answers_keys(&[jwk]);
        authenticator.reload(other.options()).expect("good options");
        until(|| verify(&authenticator, &token).is_ok()).await;
        assert_eq!(other.requests(), 1);
        task.abort();
    });
}

/// Waits for a condition; the deadline is [`run`]'s.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
