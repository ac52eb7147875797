//! Calls of the auth hook and those who wait for them, with a backend that answers when it is told to.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::*;

/// Takes one connection after the other, and answers each when it is released.
struct Backend {
    address: SocketAddr,
    asked: UnboundedReceiver<()>,
    release: Sender<()>,
    calls: Arc<Mutex<usize>>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let ((tell, asked), (release, released)) = (unbounded_channel(), channel());
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 4096]);
                *counted.lock().expect("not poisoned") += 1;
                let (Ok(()), Ok(())) = (tell.send(()), released.recv()) else {
                    return;
                };
                let claims = r#"{"sub":"alice"}"#;
                let response = format!(
                    "HTTP/1.1 200 X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{claims}",
                    claims.len()
                );
                let _ = stream.write_all(response.as_bytes());
            }
        });
        Self {
            address,
            asked,
            release,
            calls,
        }
    }

    fn hook(&self) -> Arc<Hook> {
        let options = AuthOptions {
            hook: Some(HookOptions {
                url: format!("http://{}/", self.address),
                headers: vec!["X-Session".to_owned()],
                cookies: Vec::new(),
                secret: None,
                timeout: Duration::from_secs(20),
                concurrency: 1,
                cache: Duration::from_secs(60),
                stale: Duration::ZERO,
                lifetime: Duration::from_secs(60),
            }),
            ..AuthOptions::default()
        };
        let authenticator = Authenticator::new(options).expect("good options");
        authenticator.hook().expect("a hook")
    }

    fn release(&self) {
        self.release.send(()).expect("the backend runs");
    }

    fn calls(&self) -> usize {
        *self.calls.lock().expect("not poisoned")
    }
}

async fn identify(hook: &Arc<Hook>, session: &str) -> Result<Arc<Identity>, HookError> {
    let mut credentials = SessionCredentials::default();
    credentials.headers.insert("x-session", session);
    let limit = Duration::from_secs(20);
    let identified = tokio::time::timeout(limit, hook.identify(&credentials));
    identified.await.expect("in time")
}

#[tokio::test]
async fn a_call_goes_on_when_its_client_has_left_and_its_answer_is_remembered() {
    let mut backend = Backend::start();
    let hook = backend.hook();
    tokio::select! {
        _ = identify(&hook, "s1") => panic!("nothing was answered yet"),
        asked = backend.asked.recv() => asked.expect("a call"),
    }
    backend.release();
    for _ in 0..2 {
        let identity = identify(&hook, "s1").await.expect("an identity");
        assert_eq!(&*identity.subject, "alice");
    }
    assert_eq!(backend.calls(), 1);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_gives_its_place_to_the_next() {
    let mut backend = Backend::start();
    let hook = backend.hook();
    tokio::select! {
        _ = identify(&hook, "s1") => panic!("nothing was answered yet"),
        asked = backend.asked.recv() => asked.expect("a call"),
    }
    backend.release();
    backend.release();
    identify(&hook, "s2").await.expect("an identity");
}

#[tokio::test]
async fn all_who_ask_for_the_same_get_the_answer_of_one_call() {
    let mut backend = Backend::start();
    let hook = backend.hook();
    let many = futures_util::future::join_all((0..100).map(|_| identify(&hook, "s1")));
    let release = async {
        backend.asked.recv().await.expect("a call");
        backend.release();
    };
    let (identities, ()) = tokio::join!(many, release);
    assert!(identities.iter().all(Result::is_ok));
    assert_eq!(backend.calls(), 1);
}
