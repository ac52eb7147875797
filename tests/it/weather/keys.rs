//! Keys that are changed by SIGHUP under load.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::support::{
    Answer, Claims, Credentials, Door, Program, SigningKey, TestGateway, Ws, within,
};

const ROTATIONS: usize = 6;

/// The keys of one time: a secret, one of a PEM file, and one of a JWKS file.
struct Keys {
    secret: String,
    pem: SigningKey,
    jwks: SigningKey,
}

impl Keys {
    fn of(time: usize) -> Self {
        Self {
            secret: format!("the-secret-number-{time}-of-more-than-32-bytes"),
            pem: SigningKey::ed25519(),
            jwks: SigningKey::p256(),
        }
    }

    fn tokens(&self, claims: &Claims) -> [String; 3] {
        [
            claims.signed_with(&self.secret),
            self.pem.token(claims),
            self.jwks.token(claims),
        ]
    }
}

/// What the gateway reads again.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::write(self.path(name), content).expect("written");
    }

    /// Keys of now, and those of before, which stay good for a time.
    fn install(&self, now: &Keys, before: &Keys) {
        self.write(
            "keys.pem",
            &(now.pem.public_pem.clone() + &before.pem.public_pem),
        );
        let set: Value = [&now.jwks, &before.jwks]
            .map(|key| key.public_jwk.clone())
            .to_vec()
            .into();
        self.write("keys.json", &json!({"keys": set}).to_string());
        let toml = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n[auth]\n\
             hs256_secret = \"{}\"\nprevious_secrets = [\"{}\"]\n\
             public_key_file = \"{}\"\njwks_file = \"{}\"\n",
            now.secret,
            before.secret,
            self.path("keys.pem").display(),
            self.path("keys.json").display(),
        );
        self.write("tribus.toml", &toml);
    }

    async fn serve(&self) -> (Program, TestGateway) {
        let path = self.path("tribus.toml");
        let path = path.to_str().expect("a path");
        let mut program = Program::tribus(&["serve", "--config", path], &[]);
        let line = program.says("listening").await;
        let address = |name: &str| {
            let after = line.split_once(name).expect("an address").1;
            let address = after.split_whitespace().next().expect("an address");
            address.parse().expect("an address")
        };
        let gateway = TestGateway::at(address(" address="), address("admin="));
        (program, gateway)
    }
}

/// Clients that come anew without end, with tokens of the newest keys.
struct Load {
    done: Arc<AtomicBool>,
    knocks: Vec<Arc<AtomicUsize>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// One at each door; a token that is refused is a panic.
    fn start(gateway: &TestGateway, tokens: &watch::Receiver<[String; 3]>) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let knocks: Vec<_> = Door::ALL.iter().map(|_| Arc::default()).collect();
        let tasks = Door::ALL.into_iter().zip(&knocks).map(|(door, knocks)| {
            let gateway = TestGateway::at(gateway.address, gateway.admin);
            let knocks: Arc<AtomicUsize> = Arc::clone(knocks);
            let (done, tokens) = (Arc::clone(&done), tokens.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let tokens = tokens.borrow().clone();
                    for token in &tokens {
                        let answer = gateway.knock(door, &Credentials::bearer(token)).await;
                        assert_eq!(answer, Answer::LetIn, "at {door:?}");
                    }
                    knocks.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        let tasks = tasks.collect();
        Self {
            done,
            knocks,
            tasks,
        }
    }

    /// Until each has come with all tokens that are the newest now.
    async fn round(&self) {
        for (knocks, task) in self.knocks.iter().zip(&self.tasks) {
            // The round under way may have begun with older ones.
            let enough = knocks.load(Ordering::Relaxed) + 2;
            let turn = async {
                while knocks.load(Ordering::Relaxed) < enough && !task.is_finished() {
                    tokio::task::yield_now().await;
                }
            };
            within("clients to come", turn).await;
        }
    }

    async fn stop(self) {
        self.done.store(true, Ordering::Relaxed);
        for task in self.tasks {
            within("the load to end", task).await.expect("no refusal");
        }
    }
}

/// A publish with one of the first tokens; its id.
async fn publish(gateway: &TestGateway, token: &str, number: usize) -> Value {
    let request = gateway
        .http
        .post(gateway.url("/publish"))
        .bearer_auth(token);
    let body = json!({"topic": "a:1", "data": number}).to_string();
    let answer = request.body(body).send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.expect("JSON");
    answer["id"].clone()
}

#[tokio::test]
async fn keys_of_every_kind_change_under_load_and_no_good_token_is_refused() {
    let files = Files::new();
    let claims = Claims::all("alice");
    let (mut before, mut now) = (Keys::of(0), Keys::of(1));
    files.install(&now, &before);
    let (mut program, gateway) = files.serve().await;
    let (newest, tokens) = watch::channel(now.tokens(&claims));
    // They stay, with tokens whose keys are soon gone.
    let mut stay = Vec::new();
    for token in now.tokens(&claims) {
        let ws = Ws::connect(&gateway, "topics=a:*", Some(&token), None).await;
        let mut ws = ws.expect("a handshake");
        ws.frame("live").await;
        let url = gateway.url("/events?topics=a:*");
        let stream = gateway.http.get(url).bearer_auth(&token).send().await;
        let mut sse = crate::support::Sse::new(stream.expect("an answer"));
        sse.frame("live").await;
        stay.push((ws, sse));
    }
    let load = Load::start(&gateway, &tokens);
    for rotation in 0..ROTATIONS {
        load.round().await;
        let oldest = std::mem::replace(&mut before, now);
        now = Keys::of(rotation + 2);
        files.install(&now, &before);
        program.signal("HUP");
        program.says("read the keys again").await;
        for token in oldest.tokens(&claims) {
            let answer = gateway
                .knock(Door::Poll, &Credentials::bearer(&token))
                .await;
            assert_eq!(
                answer,
                Door::Poll.refusal("unauthorized"),
                "its key is gone"
            );
        }
        let tokens = now.tokens(&claims);
        let id = publish(&gateway, &tokens[0], rotation).await;
        newest.send_replace(tokens);
        for (ws, sse) in &mut stay {
            assert_eq!(ws.event().await["id"], id);
            assert_eq!(sse.event().await["id"], id);
        }
    }
    load.round().await;
    load.stop().await;
}
