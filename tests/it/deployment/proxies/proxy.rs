//! A proxy in front of a gateway, with the configuration of the document.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{Connector, tungstenite::client::IntoClientRequest};

use crate::{
    deployment::read,
    support::{Claims, Program, Received, Sse, TestGateway, Ws, within},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Nginx,
    Haproxy,
    Caddy,
}

impl Kind {
    /// The language of its block in the document.
    fn language(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    pub fn keeps_websockets_over_a_reload(self) -> bool {
        match self {
            Self::Nginx | Self::Haproxy => true,
            Self::Caddy => false,
        }
    }

    /// The document's configuration.
    fn configuration(self) -> String {
        let document = read("docs/operations.md");
        let fence = format!("\n```{}\n", self.language());
        let mut parts = document.split(&fence);
        let block = parts.nth(1).expect("a block");
        assert_eq!(parts.count(), 0, "more than one block");
        let (text, _) = block.split_once("```").expect("its end");
        text.to_owned()
    }
}

const WORKERS_OF_NGINX: usize = 2;

/// A gateway behind a proxy that speaks TLS.
pub struct Front {
    kind: Kind,
    /// Ends before the gateway does, which would wait for its streams.
    proxy: Program,
    _gateway: TestGateway,
    port: u16,
    certificate: String,
    directory: TempDir,
}

impl Front {
    /// With these keys of the gateway's configuration.
    pub async fn start(kind: Kind, toml: &str) -> Self {
        Self::with(kind, toml, |text| text).await
    }

    /// As [`Front::start`], with this in the place of all the 90 s of the proxy's configuration.
    pub async fn impatient(kind: Kind, patience: &str, toml: &str) -> Self {
        Self::with(kind, toml, |text| {
            // Caddy knows no such limit.
            assert!(kind == Kind::Caddy || text.contains(" 90s"), "{text}");
            text.replace(" 90s", &format!(" {patience}"))
        })
        .await
    }

    async fn with(kind: Kind, toml: &str, change: impl Fn(String) -> String) -> Self {
        let gateway =
            TestGateway::with(&format!("trusted_proxies = [\"127.0.0.1\"]\n{toml}")).await;
        let directory = tempfile::tempdir().expect("a directory");
        let certificate = write_certificate(directory.path());
        let place = Place {
            port: free_port(),
            gateway: gateway.address,
            admin: gateway.admin,
            directory: directory.path(),
        };
        let text = place.adapt(kind, &change(kind.configuration()));
        std::fs::write(directory.path().join("configuration"), text).expect("a written file");
        let proxy = Program::start(command(kind, directory.path()));
        let port = place.port;
        let mut front = Self {
            kind,
            proxy,
            _gateway: gateway,
            port,
            certificate,
            directory,
        };
        front.await_ready().await;
        front
    }

    /// Until a request passes; a proxy that ends instead tells why.
    async fn await_ready(&mut self) {
        let client = self.client(reqwest::Version::HTTP_11);
        let passes = async {
            loop {
                let answer = self.get(&client, "/poll?topics=a").send().await;
                if answer.is_ok_and(|answer| answer.status() == 200) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let passed = tokio::time::timeout(crate::support::DEADLINE, passes).await;
        if passed.is_err() {
            panic!("{:?} lets nothing pass: {}", self.kind, self.proxy.said());
        }
    }

    /// Has the proxy read its configuration again, and waits until it has.
    pub async fn reload(&mut self) {
        match self.kind {
            Kind::Nginx => {
                self.proxy.signal("HUP");
                // Until the last of the old workers takes nobody new.
                for _ in 0..WORKERS_OF_NGINX {
                    self.proxy.says("gracefully shutting down").await;
                }
            }
            Kind::Haproxy => {
                self.proxy.signal("USR2");
                self.proxy.says("Loading success").await;
            }
            Kind::Caddy => {
                let mut command = Command::new("caddy");
                command
                    .args(["reload", "--force", "--adapter", "caddyfile", "--config"])
                    .arg(self.directory.path().join("configuration"))
                    .arg("--address")
                    .arg(admin_of_caddy(self.directory.path()));
                let ended = Program::start(command).ended().await;
                assert_eq!(ended.code, Some(0), "{ended:?}");
            }
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// A client that speaks this version of HTTP with the proxy.
    pub fn client(&self, version: reqwest::Version) -> reqwest::Client {
        let builder = self.builder();
        let builder = match version {
            reqwest::Version::HTTP_2 => builder,
            _ => builder.http1_only(),
        };
        builder.build().expect("a client")
    }

    /// A client at this address of loopback.
    pub fn client_at(&self, address: &str) -> reqwest::Client {
        let address: IpAddr = address.parse().expect("an address");
        let builder = self.builder().local_address(address);
        builder.build().expect("a client")
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let certificate = reqwest::Certificate::from_pem(self.certificate.as_bytes());
        let loopback = SocketAddr::from(([127, 0, 0, 1], self.port));
        reqwest::Client::builder()
            .no_proxy()
            .resolve("localhost", loopback)
            .tls_certs_only([certificate.expect("a certificate")])
    }

    pub fn get(&self, client: &reqwest::Client, path: &str) -> reqwest::RequestBuilder {
        let token = Claims::all("alice").token();
        client.get(self.url(path)).bearer_auth(token)
    }

    /// A stream, once it is `connected`.
    pub async fn sse(&self, client: &reqwest::Client, query: &str) -> Sse {
        let request = self.get(client, &format!("/events?{query}")).send();
        let response = within("the head of a stream", request)
            .await
            .expect("a stream");
        assert_eq!(response.status(), 200, "{response:?}");
        let mut sse = Sse::new(response);
        sse.connected = sse.next().await.json();
        assert_eq!(sse.connected["type"], "connected");
        sse
    }

    /// The version of HTTP and the page.
    pub async fn poll(&self, client: &reqwest::Client, query: &str) -> (reqwest::Version, Value) {
        let request = self.get(client, &format!("/poll?{query}")).send();
        let response = within("a poll", request).await.expect("an answer");
        let version = response.version();
        (version, response.json().await.expect("JSON"))
    }

    /// The id of the event.
    pub async fn publish(&self, client: &reqwest::Client, topic: &str, data: i32) -> String {
        let request = client
            .post(self.url("/publish"))
            .bearer_auth(Claims::all("backend").token())
            .body(json!({"topic": topic, "data": data}).to_string());
        let response = within("a publish", request.send())
            .await
            .expect("an answer");
        let answer: Value = response.json().await.expect("JSON");
        answer["id"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    /// A WebSocket, once it is `connected`.
    pub async fn ws(&self, query: &str) -> Ws {
        let mut ws = self.open_ws(query).await;
        ws.connected = ws.frame("connected").await;
        ws
    }

    /// The first that a WebSocket is told.
    pub async fn try_ws(&self, query: &str) -> Received {
        self.open_ws(query).await.receive().await
    }

    async fn open_ws(&self, query: &str) -> Ws {
        let token = Claims::all("alice").token();
        let url = format!("wss://localhost:{}/ws?{query}", self.port);
        let mut request = url.into_client_request().expect("a request");
        let bearer = format!("Bearer {token}").parse().expect("a header");
        request.headers_mut().insert("Authorization", bearer);
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .expect("a connection");
        let connector = Connector::Rustls(Arc::new(self.tls()));
        let connecting =
            tokio_tungstenite::client_async_tls_with_config(request, stream, None, Some(connector));
        let (socket, _) = within("the handshake", connecting)
            .await
            .expect("a WebSocket");
        Ws {
            connected: Value::Null,
            socket,
        }
    }

    fn tls(&self) -> rustls::ClientConfig {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.expect("PEM")).expect("a certificate");
        rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }
}

impl Drop for Front {
    /// A proxy that is killed leaves its workers behind.
    fn drop(&mut self) {
        self.proxy.terminate();
    }
}

/// Where things are for a test instead of where the document has them.
struct Place<'a> {
    port: u16,
    gateway: SocketAddr,
    admin: SocketAddr,
    directory: &'a Path,
}

impl Place<'_> {
    /// Puts addresses and files into their places, and what lets a proxy run beside others, as
    /// anyone; each has to be there.
    fn adapt(&self, kind: Kind, text: &str) -> String {
        let Self {
            port,
            gateway,
            admin,
            directory,
        } = self;
        let at = |file: &str| directory.join(file).display().to_string();
        let pid = at("pid");
        let storage = at("storage");
        let admin_of_caddy = admin_of_caddy(directory);
        let replacements = match kind {
            Kind::Nginx => vec![
                (
                    "worker_processes auto;",
                    format!(
                        "worker_processes {WORKERS_OF_NGINX};\npid {pid};\ndaemon off;\nerror_log stderr notice;"
                    ),
                ),
                ("worker_rlimit_nofile 262144;", String::new()),
                (
                    "worker_connections 65536;",
                    "worker_connections 512;".to_owned(),
                ),
                (
                    "http {\n",
                    format!(
                        "http {{\naccess_log off;\nclient_body_temp_path {storage}-body;\n\
                     proxy_temp_path {storage}-proxy;\nfastcgi_temp_path {storage}-fastcgi;\n\
                     uwsgi_temp_path {storage}-uwsgi;\nscgi_temp_path {storage}-scgi;\n",
                    ),
                ),
                ("listen 443 ", format!("listen 127.0.0.1:{port} ")),
                ("/etc/nginx/tls/fullchain.pem", at("certificate.pem")),
                ("/etc/nginx/tls/privkey.pem", at("key.pem")),
                ("127.0.0.1:8080", gateway.to_string()),
            ],
            Kind::Haproxy => vec![
                ("maxconn 100000", "maxconn 500".to_owned()),
                ("bind :443 ", format!("bind 127.0.0.1:{port} ")),
                ("/etc/haproxy/tls/site.pem", at("site.pem")),
                ("127.0.0.1:8080", gateway.to_string()),
                ("check port 8081", format!("check port {}", admin.port())),
            ],
            Kind::Caddy => vec![
                (
                    "events.example.com {\n",
                    format!(
                        "{{\nadmin {admin_of_caddy}\nauto_https disable_redirects\nskip_install_trust\n\
                     storage file_system {storage}\n}}\nlocalhost:{port} {{\nbind 127.0.0.1\ntls {} {}\n",
                        at("certificate.pem"),
                        at("key.pem"),
                    ),
                ),
                ("127.0.0.1:8080", gateway.to_string()),
                ("health_port 8081", format!("health_port {}", admin.port())),
            ],
        };
        replacements
            .into_iter()
            .fold(text.to_owned(), |text, (from, to)| {
                assert_eq!(text.matches(from).count(), 1, "{from:?} once in {text}");
                text.replace(from, &to)
            })
    }
}

fn admin_of_caddy(directory: &Path) -> String {
    format!("unix/{}", directory.join("admin").display())
}

fn command(kind: Kind, directory: &Path) -> Command {
    let configuration = directory.join("configuration");
    let mut command = match kind {
        Kind::Nginx => {
            let mut command = Command::new("nginx");
            command
                .args(["-e", "stderr", "-p"])
                .arg(directory)
                .arg("-c");
            command
        }
        Kind::Haproxy => {
            let mut command = Command::new("haproxy");
            command.args(["-W", "-f"]);
            command
        }
        Kind::Caddy => {
            let mut command = Command::new("caddy");
            command.args(["run", "--adapter", "caddyfile", "--config"]);
            command
                .env("XDG_CONFIG_HOME", directory)
                .env("XDG_DATA_HOME", directory);
            command
        }
    };
    command.arg(configuration);
    command
}

/// The proxy's own, for `localhost`; gives the certificate in PEM.
fn write_certificate(directory: &Path) -> String {
    let names = vec!["localhost".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (file, content) in [
        ("certificate.pem", certificate.clone()),
        ("key.pem", key.clone()),
        ("site.pem", format!("{certificate}{key}")),
    ] {
        std::fs::write(directory.join(file), content).expect("a written file");
    }
    certificate
}

/// Free when asked; a proxy can not be told to choose one and tell.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
