use std::{net::SocketAddr, sync::Arc, thread::JoinHandle};

use serde_json::Value;
use tokio::sync::oneshot;
use tribus::{
    config::{Config, EngineKind, Size},
    gateway::Gateway,
    listener::{Deadlines, Tls},
};

use super::{Claims, NatsServer, RedisServer, SECRET, Sse, Ws, within};

/// An answer to a publish, without the `durability` that it has where all gateways are run with
/// another engine.
pub fn answered(mut answer: Value) -> Value {
    let is_error = answer["type"] == "error";
    if let Some(engine) = engine()
        && let Some(answer) = answer.as_object_mut().filter(|_| !is_error)
    {
        let expected = match engine {
            EngineKind::Disk => Some("sync".into()),
            EngineKind::Nats => Some("os".into()),
            // The server of the tests writes nothing to disk.
            EngineKind::Redis | EngineKind::Memory => None,
        };
        assert_eq!(answer.remove("durability"), expected, "{answer:?}");
    }
    answer
}

/// A gateway in this process, on free ports of loopback, stopped when it is dropped.
pub struct TestGateway {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub http: reqwest::Client,
    /// Where it speaks TLS.
    pub tls: Option<Arc<Tls>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Where its log is, if that is on disk.
    _log: Option<tempfile::TempDir>,
}

/// Runs all gateways that name no engine with the engine `disk`, `redis` or `nats`, and so little of the log
/// in memory that nearly all is read back.
const ENGINE: &str = "TRIBUS_TEST_ENGINE";

/// The engine that gateways are run with that name none.
pub fn engine() -> Option<EngineKind> {
    let name = std::env::var(ENGINE).ok()?;
    Some(EngineKind::try_from(name).expect(ENGINE))
}

impl TestGateway {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// Starts with keys of the configuration in TOML, on top of ports, secret and two workers.
    /// Top-level keys come first in `toml`; write `[auth]` keys as `auth.x = …`.
    pub async fn with(toml: &str) -> Self {
        Self::run(Self::config(toml)).await
    }

    /// Starts where another one was.
    pub async fn on(address: SocketAddr) -> Self {
        Self::on_with(address, "").await
    }

    /// As [`TestGateway::on`], with keys of the configuration.
    pub async fn on_with(address: SocketAddr, toml: &str) -> Self {
        let mut config = Self::config(toml);
        config.listen = address.to_string();
        Self::run(config).await
    }

    /// Starts with a `shutdown.grace` of its own.
    pub async fn with_grace(grace: &str, toml: &str) -> Self {
        Self::run(Self::config_with(grace, toml)).await
    }

    fn config(toml: &str) -> Config {
        Self::config_with("2s", toml)
    }

    fn config_with(grace: &str, toml: &str) -> Config {
        let toml = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\nworkers = 2\n\
             auth.hs256_secret = \"{SECRET}\"\nshutdown.grace = \"{grace}\"\n{toml}"
        );
        Config::from_toml(&toml).expect("a good configuration")
    }

    pub async fn run(config: Config) -> Self {
        Self::run_with(config, Deadlines::default()).await
    }

    /// As [`TestGateway::with`], for clients that must be quicker than usual.
    pub async fn with_deadlines(toml: &str, deadlines: Deadlines) -> Self {
        Self::run_with(Self::config(toml), deadlines).await
    }

    async fn run_with(mut config: Config, deadlines: Deadlines) -> Self {
        let log = tempfile::tempdir().expect("a directory for the log");
        if let Some(engine) = engine()
            && config.bus.engine == EngineKind::Memory
        {
            let memory = Size(4 << 10);
            config.bus.disk.path = Some(log.path().to_owned());
            config.bus.disk.memory = memory;
            if engine == EngineKind::Redis {
                let url = RedisServer::shared().await.url();
                config.bus.redis.url = Some(url.parse().expect("a URL"));
                config.bus.namespace = RedisServer::namespace();
                config.bus.redis.memory = memory;
            }
            if engine == EngineKind::Nats {
                let url = NatsServer::shared().await.url();
                config.bus.nats.url = Some(url.parse().expect("a URL"));
                config.bus.namespace = NatsServer::namespace();
                config.bus.nats.memory = memory;
            }
            config.bus.engine = engine;
        }
        let (tell, told) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let mut gateway = Gateway::bind(config).expect("the gateway binds");
                gateway.set_deadlines(deadlines);
                let addresses = (
                    gateway.address().expect("an address"),
                    gateway.admin_address().expect("an admin address"),
                    gateway.tls().cloned(),
                );
                tell.send(addresses).expect("the test listens");
                let stop = async {
                    let _ = stopped.await;
                };
                gateway.run(stop).await.expect("the gateway ends well");
            });
        });
        let (address, admin, tls) = told.await.expect("the gateway starts");
        Self {
            address,
            admin,
            http: reqwest::Client::new(),
            tls,
            stop: Some(stop),
            thread: Some(thread),
            _log: Some(log),
        }
    }

    /// One that runs in another process.
    pub fn at(address: SocketAddr, admin: SocketAddr) -> Self {
        Self {
            address,
            admin,
            http: reqwest::Client::new(),
            tls: None,
            stop: None,
            thread: None,
            _log: None,
        }
    }

    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.admin)
    }

    /// A WebSocket of a client that may do everything, once it is `connected`.
    pub async fn ws(&self, query: &str) -> Ws {
        self.ws_as(&Claims::all("alice"), query).await
    }

    pub async fn ws_as(&self, claims: &Claims, query: &str) -> Ws {
        let mut ws = Ws::connect(self, query, Some(&claims.token()), None)
            .await
            .expect("the handshake succeeds");
        ws.connected = ws.frame("connected").await;
        ws
    }

    /// A stream of a client that may do everything, once it is `connected`.
    pub async fn sse(&self, query: &str) -> Sse {
        self.sse_as(&Claims::all("alice"), query).await
    }

    pub async fn sse_as(&self, claims: &Claims, query: &str) -> Sse {
        let response = self.get("/events", query, claims).await;
        assert_eq!(response.status(), 200, "{query}");
        let mut sse = Sse::new(response);
        sse.connected = sse.next().await.json();
        assert_eq!(sse.connected["type"], "connected");
        sse
    }

    pub async fn get(&self, path: &str, query: &str, claims: &Claims) -> reqwest::Response {
        self.http
            .get(self.url(&format!("{path}?{query}")))
            .bearer_auth(claims.token())
            .send()
            .await
            .expect("an answer")
    }

    /// Status and JSON of a poll by a client that may do everything.
    pub async fn poll(&self, query: &str) -> (u16, Value) {
        self.poll_as(&Claims::all("alice"), query).await
    }

    pub async fn poll_as(&self, claims: &Claims, query: &str) -> (u16, Value) {
        let response = self.get("/poll", query, claims).await;
        let status = response.status().as_u16();
        (status, response.json().await.expect("JSON"))
    }

    /// Publishes as a backend that may publish everything; status and JSON of the answer.
    pub async fn post(&self, body: &str) -> (u16, Value) {
        self.post_as(&Claims::all("backend"), body).await
    }

    pub async fn post_as(&self, claims: &Claims, body: &str) -> (u16, Value) {
        let response = self
            .http
            .post(self.url("/publish"))
            .bearer_auth(claims.token())
            .body(body.to_owned())
            .send()
            .await
            .expect("an answer");
        let status = response.status().as_u16();
        (status, answered(response.json().await.expect("JSON")))
    }

    /// Publishes one event with this data; its id.
    pub async fn publish(&self, topic: &str, data: Value) -> String {
        let body = serde_json::json!({"topic": topic, "data": data}).to_string();
        let (status, answer) = self.post(&body).await;
        assert_eq!(status, 200, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// Tells the gateway to stop, as SIGTERM does, and waits for nothing.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the gateway that was told to stop is down, while clients go on.
    pub async fn stopped(mut self) {
        let thread = self.thread.take().expect("it was not waited for");
        let ended = tokio::task::spawn_blocking(|| thread.join());
        within("the gateway to be down", ended)
            .await
            .expect("a thread")
            .expect("the gateway did not panic");
    }

    /// Stops the gateway as SIGTERM does, and waits until it is down.
    pub async fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the gateway did not panic");
            }
        }
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        self.halt();
    }
}
