//! `tribus health`: whether a gateway is ready, for where there is no curl.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use reqwest::StatusCode;
use url::Url;

use super::failure::root_cause;
use crate::config::{Config, Span};

/// An answer is one word; nothing beyond this is read.
const MOST_ANSWER_BYTES: usize = 200;

/// Ask a gateway's operators' listener whether it is ready: exit code 0 where it is, 1 where not.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tribus health                                      where admin_listen of the configuration is
  tribus health --url http://127.0.0.1:8081          asks /readyz: able to take clients?
  tribus health --url http://127.0.0.1:8081/healthz  alive?")]
pub struct Args {
    /// The operators' listener; by default that of the configuration.
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    url: Option<Url>,
    /// Configuration file (TOML) with admin_listen, where it is not in the environment.
    #[arg(long, value_name = "FILE", env = "TRIBUS_CONFIG")]
    config: Option<PathBuf>,
    /// How long an answer may take: 250ms, 3s.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_timeout)]
    timeout: Duration,
}

fn parse_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.scheme() != "http" || !url.has_host() {
        return Err("write http://127.0.0.1:8081; this listener speaks no TLS".to_owned());
    }
    if url.path() == "/" {
        url.set_path("/readyz");
    }
    Ok(url)
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    text.parse::<Span>().map(|span| span.0)
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let url = match args.url {
        Some(url) => url,
        None => configured(&Config::load(args.config.as_deref(), &[])?.admin_listen)?,
    };
    let client = reqwest::Client::builder()
        .timeout(args.timeout)
        .redirect(reqwest::redirect::Policy::none())
        // The way to one's own node leads through no proxy, and needs no certificates: an image
        // may have none, and a client that wants them could not be set up there.
        .no_proxy()
        .tls_certs_only([])
        .build()
        .context("cannot set up the HTTP client")?;
    let asked = client.get(url.clone()).send().await;
    let answer = asked.map_err(|error| anyhow::anyhow!("{url}: {}", complaint(&error)))?;
    let status = answer.status();
    let said = first_words(answer).await;
    anyhow::ensure!(
        !is_for_clients(status, &said),
        "{url} is where the gateway serves clients (`listen`): ask its operators' listener \
         (`admin_listen`), such as http://127.0.0.1:8081"
    );
    anyhow::ensure!(status.is_success(), "{url} answered {status}: {said}");
    println!("{said}");
    Ok(ExitCode::SUCCESS)
}

/// Whether a gateway answers that there is nothing at that path, which the other listener has.
fn is_for_clients(status: StatusCode, said: &str) -> bool {
    status == StatusCode::NOT_FOUND
        && said.contains("\"code\":\"not_found\"")
        && said.contains("/publish")
}

/// The same node's listener: one that is on all addresses is on loopback too.
fn configured(admin_listen: &str) -> anyhow::Result<Url> {
    let address = admin_listen
        .to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .with_context(|| {
            format!("configuration key `admin_listen`: {admin_listen:?} is no address")
        })?;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let address = SocketAddr::new(ip, address.port());
    Ok(Url::parse(&format!("http://{address}/readyz"))?)
}

/// The deepest cause: what lies above it repeats the URL.
fn complaint(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let cause = root_cause(error);
    if error.is_connect() {
        return format!(
            "{cause}\n  is the gateway running? name its operators' listener (`admin_listen`) by --url, or give the \
             configuration that it was started with"
        );
    }
    cause
}

async fn first_words(mut answer: reqwest::Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        body.extend(chunk);
        if body.len() > MOST_ANSWER_BYTES {
            body.truncate(MOST_ANSWER_BYTES);
            break;
        }
    }
    let text = String::from_utf8_lossy(&body);
    text.trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_asks_for_readiness() {
        for (given, asked) in [
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081/readyz"),
            ("http://node:1/", "http://node:1/readyz"),
            ("http://node:1/healthz", "http://node:1/healthz"),
        ] {
            assert_eq!(parse_url(given).unwrap().as_str(), asked);
        }
        for bad in ["127.0.0.1:8081", "https://node:1", "unix:/run/x", ""] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        for (listen, asked) in [
            ("127.0.0.1:8081", "http://127.0.0.1:8081/readyz"),
            ("0.0.0.0:9", "http://127.0.0.1:9/readyz"),
            ("[::]:9", "http://[::1]:9/readyz"),
            ("10.1.2.3:9", "http://10.1.2.3:9/readyz"),
        ] {
            assert_eq!(configured(listen).unwrap().as_str(), asked);
        }
        assert!(configured("8081").is_err());
    }
}
