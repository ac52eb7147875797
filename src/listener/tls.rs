//! Certificates from PEM files, and their change while connections go on.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};

use crate::config::TlsConfig;

/// What clients may choose from, best first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Certificate or key that can not be used; the message names the configuration key and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("`tls.cert` and `tls.key` are not configured any more: restart to serve clear text")]
    Gone,
    #[error("configuration key `{key}`: can not read {path}: {reason}")]
    Read {
        key: &'static str,
        path: PathBuf,
        /// No source of the error, since the text tells it.
        reason: std::io::Error,
    },
    #[error("configuration key `{key}`: {path} {problem}")]
    Content {
        key: &'static str,
        path: PathBuf,
        problem: String,
    },
    #[error("TLS can not be set up: {0}")]
    Setup(rustls::Error),
}

/// The TLS of a node: what every new handshake goes by.
#[derive(Debug)]
pub struct Tls {
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads certificate and key; `None` where none are configured.
    ///
    /// # Errors
    /// Names the file that is missing, holds nothing fit, or does not go with the other.
    pub fn load(config: &TlsConfig) -> Result<Option<Arc<Self>>, TlsError> {
        let current = server_config(config)?.map(|current| {
            Arc::new(Self {
                current: ArcSwap::from_pointee(current),
            })
        });
        Ok(current)
    }

    /// Reads certificate and key again, for handshakes from now on; connections stay as they are.
    ///
    /// # Errors
    /// As [`Tls::load`], and the old ones stay in place. Where none are configured any more, too:
    /// a listener does not change from TLS to clear text.
    pub fn reload(&self, config: &TlsConfig) -> Result<(), TlsError> {
        let fresh = server_config(config)?.ok_or(TlsError::Gone)?;
        self.current.store(Arc::new(fresh));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

fn server_config(config: &TlsConfig) -> Result<Option<ServerConfig>, TlsError> {
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(None);
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certified = certified_key(cert, key, &provider)?;
    // TLS 1.2 and 1.3.
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    // Those who come back after a drop or a restart elsewhere spare a signature, without any state
    // here. One ticket is enough: a client that wants more connections gets another with each.
    server.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Setup)?;
    server.send_tls13_tickets = 1;
    Ok(Some(server))
}

fn certified_key(
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = read_chain(cert)?;
    let private = read_key(key)?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => content(
            "tls.key",
            key,
            format!("is not the key of the certificate in {}", cert.display()),
        ),
        rustls::Error::InvalidCertificate(_) => content(
            "tls.cert",
            cert,
            format!("holds a bad certificate: {error}"),
        ),
        other => content("tls.key", key, format!("holds a key of no use: {other}")),
    })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const KEY: &str = "tls.cert";
    let chain = CertificateDer::pem_reader_iter(open(KEY, path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad_pem(KEY, path, error))?;
    if chain.is_empty() {
        let problem =
            "holds no certificate: it takes PEM blocks `CERTIFICATE`, the node's own first";
        return Err(content(KEY, path, problem));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const KEY: &str = "tls.key";
    match PrivateKeyDer::from_pem_reader(open(KEY, path)?) {
        Err(pem::Error::NoItemsFound) => Err(content(
            KEY,
            path,
            "holds no private key: it takes a PEM block `PRIVATE KEY`, not encrypted",
        )),
        read => read.map_err(|error| bad_pem(KEY, path, error)),
    }
}

fn open(key: &'static str, path: &Path) -> Result<BufReader<File>, TlsError> {
    match File::open(path) {
        Ok(file) => Ok(BufReader::new(file)),
        Err(reason) => Err(TlsError::Read {
            key,
            path: path.to_owned(),
            reason,
        }),
    }
}

/// Never shows what is in the file, which may be a key.
fn bad_pem(key: &'static str, path: &Path, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(reason) => TlsError::Read {
            key,
            path: path.to_owned(),
            reason,
        },
        _ => content(key, path, "is no proper PEM"),
    }
}

fn content(key: &'static str, path: &Path, problem: impl Into<String>) -> TlsError {
    TlsError::Content {
        key,
        path: path.to_owned(),
        problem: problem.into(),
    }
}
