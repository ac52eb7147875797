//! Where the load goes: the addresses behind the URL, what each request begins and ends with, and TLS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::ServerName;

use crate::cli::endpoint::Endpoint;

/// Time for an address of the gateway to take the first connection.
const FIRST_CONNECT: Duration = Duration::from_secs(3);

/// Clients that share one source address on loopback: well below the ports that an address has.
const CLIENTS_A_SOURCE: usize = 10_000;

/// The gateway, as every connection of the run finds it.
#[derive(Debug)]
pub struct Target {
    /// Those that took a connection when the run began; connections go to them in turn.
    addresses: Vec<SocketAddr>,
    prefix: String,
    host: String,
    credential: Option<String>,
    tls: Option<Tls>,
}

/// How a connection gets its TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    pub config: Arc<rustls::ClientConfig>,
    pub name: ServerName<'static>,
}

impl Target {
    /// Looks the name up, and keeps the addresses where somebody listens. Another server than a gateway is not shown the
    /// token, which may stand in the environment for the gateway's sake.
    pub fn find(endpoint: &Endpoint, is_gateway: bool) -> Result<Self> {
        let url = endpoint.address();
        let addresses = listening(endpoint)?;
        let host = url.host_str().context("--url has no host")?;
        let tls = match url.scheme() {
            "https" => Some(Tls {
                config: endpoint.tls()?,
                name: ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
                    .context("the host of --url is no name that a certificate has")?,
            }),
            _ => None,
        };
        let credential = endpoint.credential().filter(|_| is_gateway);
        let credential = credential.map(|value| value.to_str());
        Ok(Self {
            addresses,
            prefix: url.path().trim_end_matches('/').to_owned(),
            host: match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            },
            credential: credential
                .transpose()
                .context("the token does not fit into a header")?
                .map(str::to_owned),
            tls,
        })
    }

    pub fn address(&self, turn: usize) -> SocketAddr {
        self.addresses[turn % self.addresses.len()]
    }

    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Where client `index` comes from. On loopback many come from further addresses of it, since each has ports for
    /// some 28,000 connections only.
    pub fn source(&self, index: usize) -> Option<IpAddr> {
        let is_loopback =
            |address: &SocketAddr| matches!(address.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let turn = u8::try_from(index / CLIENTS_A_SOURCE % 256).ok()?;
        // Only Linux has all of 127.0.0.0/8 without being told.
        let has_more = cfg!(target_os = "linux") && self.addresses.iter().all(is_loopback);
        (has_more && turn > 0).then_some(IpAddr::V4(Ipv4Addr::new(127, 0, turn, 1)))
    }

    /// A GET of `path` (with its query) with further `headers`, each ended by CR LF.
    pub fn get(&self, path: &str, headers: &str) -> Vec<u8> {
        self.request("GET", path, headers)
    }

    /// The head of a POST with a body of JSON of so many bytes.
    pub fn post(&self, path: &str, length: usize, out: &mut Vec<u8>) {
        let headers = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
        out.extend_from_slice(&self.request("POST", path, &headers));
    }

    fn request(&self, method: &str, path: &str, headers: &str) -> Vec<u8> {
        let credential = match &self.credential {
            Some(credential) => format!("Authorization: {credential}\r\n"),
            None => String::new(),
        };
        let Self { prefix, host, .. } = self;
        format!(
            "{method} {prefix}{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tribus-bench/{}\r\n{credential}{headers}\r\n",
            env!("CARGO_PKG_VERSION")
        )
        .into_bytes()
    }
}

fn listening(endpoint: &Endpoint) -> Result<Vec<SocketAddr>> {
    let found = endpoint
        .address()
        .socket_addrs(|| None)
        .with_context(|| format!("cannot find {}", endpoint.base()))?;
    let takes = |address: &SocketAddr| TcpStream::connect_timeout(address, FIRST_CONNECT).is_ok();
    let listening: Vec<_> = found.into_iter().filter(takes).collect();
    if listening.is_empty() {
        bail!("cannot connect to {}", endpoint.base());
    }
    Ok(listening)
}
