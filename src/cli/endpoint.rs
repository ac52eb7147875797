//! Where the gateway is and who asks: `--url`, `--token`, `--token-file`.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::header::HeaderValue;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_tungstenite::Connector;
use url::Url;

/// Time for a TCP and TLS connection to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The options by which every client command finds the gateway.
#[derive(Debug, Clone, clap::Args)]
pub struct EndpointArgs {
    /// Address of the gateway: http, https, ws or wss; a path prefix is kept
    #[arg(
        long,
        env = "TRIBUS_URL",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    url: String,

    /// Token (a JWT) to authenticate with; the variable keeps it out of the process list
    #[arg(long, env = "TRIBUS_TOKEN", hide_env_values = true, value_name = "JWT")]
    token: Option<Secret>,

    /// File to read the token from, and to read again when it expires; wins over --token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// PEM file of the certificate authorities to trust, instead of the system's
    #[arg(long, env = "TRIBUS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A token that no debug output shows.
#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

/// The gateway as a client sees it: its address and the credential to show there.
#[derive(Debug)]
pub struct Endpoint {
    base: Url,
    credential: Option<HeaderValue>,
    token_file: Option<PathBuf>,
    trust: Option<Trust>,
}

/// Whom to trust, where that is not the system's business.
#[derive(Debug)]
struct Trust {
    http: Vec<reqwest::Certificate>,
    websocket: Arc<rustls::ClientConfig>,
}

impl Endpoint {
    /// Checks the address and reads the token.
    pub fn new(args: EndpointArgs) -> Result<Self> {
        let base = parse_base(&args.url)?;
        let token = match &args.token_file {
            Some(file) => Some(read_token(file)?),
            None => args
                .token
                .map(|Secret(token)| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
        };
        let credential = token.as_deref().map(bearer).transpose()?;
        Ok(Self {
            base,
            credential,
            token_file: args.token_file,
            trust: args.ca.as_deref().map(Trust::read).transpose()?,
        })
    }

    /// The address of the gateway, for messages.
    pub fn base(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// The value of the `Authorization` header, if there is a token.
    pub fn credential(&self) -> Option<&HeaderValue> {
        self.credential.as_ref()
    }

    /// The address of `path` (without a leading slash) with a query.
    pub fn http<'q>(&self, path: &str, query: impl IntoIterator<Item = (&'q str, String)>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!(
            "{}/{path}",
            self.base.path().trim_end_matches('/')
        ));
        let mut pairs = query.into_iter().peekable();
        if pairs.peek().is_some() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        url
    }

    /// As [`Endpoint::http`], with the scheme of a WebSocket.
    pub fn websocket<'q>(
        &self,
        path: &str,
        query: impl IntoIterator<Item = (&'q str, String)>,
    ) -> String {
        // `http` becomes `ws` and `https` becomes `wss`.
        self.http(path, query).as_str().replacen("http", "ws", 1)
    }

    /// An HTTP client that keeps its connections and follows no redirect: one would lose the body or the token.
    pub fn client(&self) -> Result<reqwest::Client> {
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("tribus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(trust) = &self.trust {
            client = client.tls_certs_only(trust.http.iter().cloned());
        }
        client.build().context("cannot set up the HTTP client")
    }

    /// How a WebSocket gets its TLS; `None` for the usual way.
    pub fn connector(&self) -> Option<Connector> {
        let trust = self.trust.as_ref()?;
        Some(Connector::Rustls(Arc::clone(&trust.websocket)))
    }

    /// The parts of the address, for whoever speaks HTTP itself.
    pub fn address(&self) -> &Url {
        &self.base
    }

    /// Whom a TLS connection trusts: what `--ca` names, or the system's authorities.
    pub fn tls(&self) -> Result<Arc<rustls::ClientConfig>> {
        if let Some(trust) = &self.trust {
            return Ok(Arc::clone(&trust.websocket));
        }
        let mut roots = RootCertStore::empty();
        // One that cannot be read is no reason to do without the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Ok(Arc::new(trusting(roots)?))
    }

    /// Reads the token file again. False where there is none, or where it still holds the same token.
    pub fn renew_token(&mut self) -> Result<bool> {
        let Some(file) = &self.token_file else {
            return Ok(false);
        };
        let fresh = Some(bearer(&read_token(file)?)?);
        let changed = fresh != self.credential;
        self.credential = fresh;
        Ok(changed)
    }
}

impl Trust {
    fn read(file: &Path) -> Result<Self> {
        let of_file = || format!("--ca {}", file.display());
        let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
        let authorities: Vec<CertificateDer<'static>> = read.with_context(of_file)?;
        if authorities.is_empty() {
            bail!("{} holds no certificate", of_file());
        }
        let mut roots = RootCertStore::empty();
        let mut http = Vec::new();
        for authority in authorities {
            http.push(reqwest::Certificate::from_der(&authority).with_context(of_file)?);
            roots.add(authority).with_context(of_file)?;
        }
        let websocket = trusting(roots)?;
        Ok(Self {
            http,
            websocket: Arc::new(websocket),
        })
    }
}

fn trusting(roots: RootCertStore) -> Result<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("cannot set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Parses the address without ever repeating it in an error: a link that was pasted here may hold a token.
fn parse_base(text: &str) -> Result<Url> {
    const FORM: &str = "give it as http://HOST:PORT or https://HOST, with a path prefix at most";
    let http = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => format!("http://{rest}"),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => format!("https://{rest}"),
        _ => text.to_owned(),
    };
    let url = Url::parse(&http).map_err(|reason| {
        anyhow::anyhow!("--url (TRIBUS_URL) is not an address ({reason}): {FORM}")
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        bail!(
            "--url (TRIBUS_URL) has the scheme `{}`, which is none of http, https, ws, wss: {FORM}",
            url.scheme()
        );
    }
    let has_credential = !url.username().is_empty() || url.password().is_some();
    if url.query().is_some() || url.fragment().is_some() || has_credential {
        bail!(
            "--url (TRIBUS_URL) holds more than the address: {FORM}; a token belongs into TRIBUS_TOKEN or --token-file"
        );
    }
    Ok(url)
}

fn read_token(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read --token-file {}", file.display()))?;
    let token = text.trim();
    if token.is_empty() {
        bail!("--token-file {} is empty", file.display());
    }
    Ok(token.to_owned())
}

fn bearer(token: &str) -> Result<HeaderValue> {
    let scheme = token.get(..7).unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer ") {
        bail!(
            "the token begins with `Bearer `: give what follows it, the word is put in front by itself"
        );
    }
    if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        bail!("the token holds characters that no JWT has: was it cut, joined or quoted?");
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .context("the token does not fit into a header")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Result<Endpoint> {
        Endpoint::new(EndpointArgs {
            url: url.to_owned(),
            token: None,
            token_file: None,
            ca: None,
        })
    }

    #[test]
    fn a_path_prefix_is_kept_with_or_without_its_slash() {
        for base in [
            "https://example.org/live",
            "https://example.org/live/",
            "wss://example.org/live",
        ] {
            let endpoint = endpoint(base).unwrap();
            assert_eq!(
                endpoint.http("publish", []).as_str(),
                "https://example.org/live/publish"
            );
            assert_eq!(endpoint.websocket("ws", []), "wss://example.org/live/ws");
            assert_eq!(endpoint.base(), "https://example.org/live");
        }
    }

    #[test]
    fn websocket_schemes_are_translated_both_ways() {
        let endpoint = endpoint("WS://[::1]:8080").unwrap();
        assert_eq!(endpoint.http("poll", []).as_str(), "http://[::1]:8080/poll");
        assert_eq!(endpoint.websocket("ws", []), "ws://[::1]:8080/ws");
    }

    #[test]
    fn a_query_is_escaped() {
        let query = [
            ("topics", "order:*,größe:1".to_owned()),
            ("tag", "a:b&c=d e".to_owned()),
        ];
        let url = endpoint("http://h:1")
            .unwrap()
            .http("events", query.clone());
        let read: Vec<_> = url
            .query_pairs()
            .map(|(key, value)| (key.into_owned(), value.into_owned()))
            .collect();
        assert_eq!(read, query.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn an_address_with_more_than_a_path_is_refused_without_being_repeated() {
        for url in [
            "http://h/#token=secret",
            "http://h/?token=secret",
            "http://u:secret@h/",
            "secret",
            "ftp://secret",
        ] {
            let error = endpoint(url).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
            assert!(error.contains("http://HOST:PORT"), "{error}");
            assert!(error.starts_with("--url (TRIBUS_URL) "), "{error}");
        }
    }

    #[test]
    fn a_token_is_never_shown() {
        let args = EndpointArgs {
            url: "http://h".into(),
            token: Some(Secret("s3cret".into())),
            token_file: None,
            ca: None,
        };
        assert!(!format!("{args:?}").contains("s3cret"));
        let endpoint = Endpoint::new(args).unwrap();
        assert_eq!(endpoint.credential().unwrap(), "Bearer s3cret");
        assert!(!format!("{endpoint:?}").contains("s3cret"));
    }

    #[test]
    fn the_scheme_of_the_header_is_no_part_of_the_token() {
        for token in ["Bearer eyJ", "bearer  eyJ"] {
            let error = bearer(token).unwrap_err().to_string();
            assert!(
                error.contains("`Bearer `") && !error.contains("eyJ"),
                "{error}"
            );
        }
        assert_eq!(bearer("Bearereyj").unwrap(), "Bearer Bearereyj");
    }

    #[test]
    fn a_renewed_token_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let args = EndpointArgs {
            url: "http://h".into(),
            token: None,
            token_file: Some(file.clone()),
            ca: None,
        };
        let mut endpoint = Endpoint::new(args).unwrap();
        assert!(!endpoint.renew_token().unwrap());
        std::fs::write(&file, "two\n").unwrap();
        assert!(endpoint.renew_token().unwrap());
        assert_eq!(endpoint.credential().unwrap(), "Bearer two");
    }
}
