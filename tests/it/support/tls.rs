//! Certificates, and clients that trust them.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    Connector, connect_async_tls_with_config, tungstenite::client::IntoClientRequest,
};
use tribus::{config::TlsConfig, listener::Deadlines};

use super::{Claims, TestGateway, Ws, within};

/// A certificate authority of the test's own.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self {
            certificate,
            issuer: rcgen::Issuer::new(parameters, key),
        }
    }

    /// A gateway that shows the authority's own certificate, which is in `cert.pem` of the directory.
    pub async fn gateway(&self) -> (tempfile::TempDir, super::TestGateway) {
        let directory = tempfile::tempdir().expect("a directory");
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name));
        std::fs::write(&cert, self.pem()).expect("a written file");
        std::fs::write(&key, self.issuer.key().serialize_pem()).expect("a written file");
        let (cert, key) = (cert.display(), key.display());
        let toml = format!("tls.cert = \"{cert}\"\ntls.key = \"{key}\"");
        let gateway = super::TestGateway::with(&toml).await;
        (directory, gateway)
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for loopback; no two are the same.
    pub fn issue(&self) -> Issued {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let parameters = rcgen::CertificateParams::new(names).expect("names");
        let certificate = parameters
            .signed_by(&key, &self.issuer)
            .expect("a certificate");
        Issued {
            certificate_pem: certificate.pem(),
            certificate: certificate.into(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Trusts nobody else.
    pub fn client_config(&self, protocols: &[&str]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.certificate.der().clone())
            .expect("a good root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        // Every handshake shows the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }

    /// A client whose connections no other one shares; `reqwest` prefers HTTP/2.
    pub fn http(&self) -> reqwest::Client {
        self.http_builder().build().expect("a client")
    }

    pub fn http_builder(&self) -> reqwest::ClientBuilder {
        let root = reqwest::Certificate::from_pem(self.pem().as_bytes()).expect("a root");
        reqwest::Client::builder().tls_certs_only([root])
    }
}

/// The files that a gateway reads its certificate from.
pub struct TlsFiles {
    pub authority: Authority,
    pub first: Issued,
    directory: TempDir,
}

impl TlsFiles {
    pub fn new() -> Self {
        let authority = Authority::new();
        let files = Self {
            first: authority.issue(),
            authority,
            directory: tempfile::tempdir().expect("a directory"),
        };
        files.install(&files.first);
        files
    }

    pub fn install(&self, issued: &Issued) {
        std::fs::write(self.cert(), &issued.certificate_pem).expect("the certificate is written");
        std::fs::write(self.key(), &issued.key_pem).expect("the key is written");
    }

    pub fn cert(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// The authority's certificate, for programs.
    pub fn root(&self) -> PathBuf {
        let path = self.directory.path().join("root.pem");
        std::fs::write(&path, self.authority.pem()).expect("the root is written");
        path
    }

    pub fn config(&self) -> TlsConfig {
        TlsConfig {
            cert: Some(self.cert()),
            key: Some(self.key()),
        }
    }

    fn toml(&self, more: &str) -> String {
        let (cert, key) = (self.cert(), self.key());
        format!("tls.cert = {cert:?}\ntls.key = {key:?}\n{more}")
    }

    /// A gateway that speaks TLS, and whose own client trusts it.
    pub async fn gateway(&self, toml: &str) -> TestGateway {
        self.gateway_with(toml, Deadlines::default()).await
    }

    pub async fn gateway_with(&self, toml: &str, deadlines: Deadlines) -> TestGateway {
        let mut gateway = TestGateway::with_deadlines(&self.toml(toml), deadlines).await;
        gateway.http = self.authority.http();
        gateway
    }

    pub async fn gateway_with_grace(&self, grace: &str) -> TestGateway {
        let mut gateway = TestGateway::with_grace(grace, &self.toml("")).await;
        gateway.http = self.authority.http();
        gateway
    }

    pub async fn connect(&self, gateway: &TestGateway, protocols: &[&str]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(gateway.address).await;
        let stream = stream.expect("a connection");
        self.handshake(stream, protocols)
            .await
            .expect("the handshake succeeds")
    }

    pub async fn handshake(
        &self,
        stream: TcpStream,
        protocols: &[&str],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(self.authority.client_config(protocols));
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        within("the handshake", connector.connect(name, stream)).await
    }

    /// The certificate that a new handshake shows.
    pub async fn shown(&self, gateway: &TestGateway) -> CertificateDer<'static> {
        let stream = self.connect(gateway, &[]).await;
        let chain = stream.get_ref().1.peer_certificates().expect("a chain");
        chain[0].clone().into_owned()
    }

    /// A WebSocket over TLS, once it is `connected`.
    pub async fn ws(&self, gateway: &TestGateway, query: &str) -> Ws {
        let token = Claims::all("alice").token();
        let url = format!("wss://{}/ws?{query}&token={token}", gateway.address);
        let request = url.into_client_request().expect("a request");
        let connector = Connector::Rustls(self.authority.client_config(&["http/1.1"]));
        let connecting = connect_async_tls_with_config(request, None, false, Some(connector));
        let (socket, _) = within("the handshake", connecting).await.expect("wss");
        let mut ws = Ws {
            connected: Value::Null,
            socket,
        };
        ws.connected = ws.frame("connected").await;
        ws
    }
}

/// An HTTP/2 connection on which the test decides about windows and resets.
pub struct H2 {
    pub send: SendRequest<Bytes>,
    /// `None` while it is driven in the background.
    pub connection: Option<Connection<TlsStream<TcpStream>, Bytes>>,
    authority: String,
}

impl H2 {
    /// A connection whose streams get this window at first.
    pub async fn connect(files: &TlsFiles, gateway: &TestGateway, window: u32) -> Self {
        let stream = files.connect(gateway, &["h2"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window);
        let handshake = builder.handshake(stream);
        let (send, connection) = within("the preface", handshake).await.expect("HTTP/2");
        Self {
            send,
            connection: Some(connection),
            authority: gateway.address.to_string(),
        }
    }

    /// Drives the connection in the background; its end, with the error that ended it.
    pub fn drive(&mut self) -> tokio::task::JoinHandle<Result<(), h2::Error>> {
        tokio::spawn(self.connection.take().expect("it is not driven yet"))
    }

    pub fn request(&self, method: &str, path: &str, claims: &Claims) -> http::Request<()> {
        let token = claims.token();
        http::Request::builder()
            .method(method)
            .version(http::Version::HTTP_2)
            .uri(format!("https://{}{path}", self.authority))
            .header("authorization", format!("Bearer {token}"))
            .body(())
            .expect("a request")
    }

    /// A GET whose response has begun.
    pub async fn get(&mut self, path: &str, claims: &Claims) -> http::Response<h2::RecvStream> {
        let request = self.request("GET", path, claims);
        let mut send = self.send.clone().ready().await.expect("a place");
        let (response, _) = send.send_request(request, true).expect("it is sent");
        within("a response", response).await.expect("a response")
    }
}

/// Reads a body to its end; `None` where it was reset.
pub async fn read_all(body: &mut h2::RecvStream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = within("a chunk", body.data()).await {
        let chunk = chunk.ok()?;
        let _ = body.flow_control().release_capacity(chunk.len());
        all.extend_from_slice(&chunk);
    }
    Some(all)
}
