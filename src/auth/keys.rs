//! Verification keys, each bound to the algorithms it may be used with.

use std::{fs::File, io::Read, path::Path, path::PathBuf};

use aws_lc_rs::{
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
        RsaPublicKeyComponents,
    },
};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use super::{
    AuthOptions, Secret, jwks, pem,
    token::{Header, Jws},
};

/// RFC 7518 section 3.2 asks for as many bytes as the hash has; a shorter secret can be found by trying.
const MIN_SECRET_BYTES: usize = 32;

/// What the cryptography library verifies with (RFC 7518 section 3.3 sets the lower bound).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// A file of keys is small; anything longer is the wrong file.
pub(super) const MAX_KEY_BYTES: u64 = 256 * 1024;

const HMAC: [Algorithm; 3] = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The keys cannot be used as configured. The text names the configuration key and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "no key is configured: set auth.hs256_secret, auth.public_key_file, auth.jwks_file or auth.jwks_url, or auth.hook.url for sessions of your own"
    )]
    NoKeys,
    #[error("{option}: {fault}; make a new one with `openssl rand -hex 32`")]
    Secret {
        option: &'static str,
        fault: KeyFault,
    },
    #[error("{option}: cannot read {}", path.display())]
    Read {
        option: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{option}: {}: {fault}", path.display())]
    File {
        option: &'static str,
        path: PathBuf,
        fault: KeyFault,
    },
    #[error("auth.jwks_url: {0}")]
    Url(&'static str),
    #[error("auth.jwks_url: cannot set up the HTTP client")]
    HttpClient(#[source] reqwest::Error),
    #[error("auth.hook.{key}: {problem}")]
    Hook {
        key: &'static str,
        problem: &'static str,
    },
    #[error("auth.hook.url: cannot set up the HTTP client")]
    HookClient(#[source] reqwest::Error),
    #[error("{option}: bad pattern {pattern:?}: {problem}")]
    DefaultGrant {
        option: &'static str,
        pattern: String,
        problem: String,
    },
}

/// What is wrong with one key or set of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("a secret has at least 32 bytes")]
    ShortSecret,
    #[error("this is a PEM key, which belongs into the file named by auth.public_key_file")]
    PemAsSecret,
    #[error("an RSA key has 2048 to 8192 bits")]
    RsaSize,
    #[error(
        "this is a private key; the gateway needs only the public one (`openssl pkey -in KEY -pubout`)"
    )]
    PrivateKey,
    #[error("a set of keys that is fetched must not contain secrets (`\"kty\":\"oct\"`)")]
    FetchedSecret,
    #[error("`alg` does not belong to this kind of key")]
    WrongAlgorithm,
    #[error("not a key that can be understood")]
    Malformed,
    #[error("only RSA, P-256, P-384 and Ed25519 public keys are supported")]
    Unsupported,
    #[error("not PEM: expected a block that begins with -----BEGIN PUBLIC KEY-----")]
    NotPem,
    #[error("not a JWK Set: expected {{\"keys\":[…]}}")]
    NotJwks,
    #[error("contains no key that could verify a token")]
    Empty,
    #[error("contains more than 100 keys")]
    TooMany,
    #[error("larger than 256 KiB")]
    TooLarge,
}

/// One key. Its algorithms are fixed when it is loaded: `alg` in a token only has to be among them, so that a public
/// key can never be taken for an HMAC secret.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl VerifyingKey {
    pub fn hmac(secret: &[u8]) -> Result<Self, KeyFault> {
        if secret.len() < MIN_SECRET_BYTES {
            return Err(KeyFault::ShortSecret);
        }
        Ok(Self::new(&HMAC, DecodingKey::from_secret(secret)))
    }

    /// `der` is a SubjectPublicKeyInfo (RFC 5280) or an RSAPublicKey (RFC 8017).
    pub fn rsa(der: &[u8]) -> Result<Self, KeyFault> {
        let public = rsa::PublicKey::from_der(der).map_err(|_| KeyFault::Malformed)?;
        let modulus = RsaPublicKeyComponents::<Vec<u8>>::from(&public).n;
        let unused = modulus.first().map_or(0, |byte| byte.leading_zeros());
        if !RSA_BITS.contains(&(modulus.len() * 8 - unused as usize)) {
            return Err(KeyFault::RsaSize);
        }
        Ok(Self::new(&RSA, DecodingKey::from_rsa_der(public.as_ref())))
    }

    /// `key` is a SubjectPublicKeyInfo or an uncompressed point.
    pub fn p256(key: &[u8]) -> Result<Self, KeyFault> {
        let valid = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key);
        valid.map_err(|_| KeyFault::Malformed)?;
        let algorithms = [Algorithm::ES256];
        Ok(Self::new(&algorithms, DecodingKey::from_ec_der(key)))
    }

    /// `key` is a SubjectPublicKeyInfo or an uncompressed point.
    pub fn p384(key: &[u8]) -> Result<Self, KeyFault> {
        let valid = ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key);
        valid.map_err(|_| KeyFault::Malformed)?;
        let algorithms = [Algorithm::ES384];
        Ok(Self::new(&algorithms, DecodingKey::from_ec_der(key)))
    }

    /// `key` is a SubjectPublicKeyInfo or the 32 bytes of RFC 8032.
    pub fn ed25519(key: &[u8]) -> Result<Self, KeyFault> {
        ParsedPublicKey::new(&ED25519, key).map_err(|_| KeyFault::Malformed)?;
        let algorithms = [Algorithm::EdDSA];
        Ok(Self::new(&algorithms, DecodingKey::from_ed_der(key)))
    }

    /// Finds out the kind of a SubjectPublicKeyInfo.
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyFault> {
        match Self::rsa(der) {
            Err(KeyFault::Malformed) => {}
            found => return found,
        }
        Self::p256(der)
            .or_else(|_| Self::p384(der))
            .or_else(|_| Self::ed25519(der))
            .map_err(|_| KeyFault::Unsupported)
    }

    fn new(algorithms: &[Algorithm], key: DecodingKey) -> Self {
        Self {
            kid: None,
            algorithms: algorithms.to_vec(),
            key,
        }
    }

    pub fn with_kid(self, kid: Option<String>) -> Self {
        Self { kid, ..self }
    }

    /// Leaves only `algorithm`.
    ///
    /// # Errors
    /// [`KeyFault::WrongAlgorithm`] for one of another kind of key.
    pub fn only(self, algorithm: Algorithm) -> Result<Self, KeyFault> {
        if !self.algorithms.contains(&algorithm) {
            return Err(KeyFault::WrongAlgorithm);
        }
        Ok(Self {
            algorithms: vec![algorithm],
            ..self
        })
    }

    /// Whether the key may be tried at all. A `kid` excludes keys that bear another; keys without one are not excluded.
    fn fits(&self, header: &Header) -> bool {
        let excluded = matches!((&self.kid, &header.kid), (Some(own), Some(asked)) if own != asked);
        self.algorithms.contains(&header.alg) && !excluded
    }

    /// Whether the token was signed with this key.
    pub fn verifies(&self, token: &Jws<'_>) -> bool {
        let message = token.message.as_bytes();
        self.fits(&token.header)
            && crypto::verify(token.signature, message, &self.key, token.header.alg)
                .unwrap_or(false)
    }
}

/// Every key that is configured on this machine, in the order in which they are tried.
///
/// # Errors
/// Any [`KeyError`] about secrets and files. Reads the files: small, but blocking.
pub(super) fn load_local(options: &AuthOptions) -> Result<Vec<VerifyingKey>, KeyError> {
    let mut keys = Vec::new();
    if let Some(secret) = &options.hs256_secret {
        keys.push(load_secret("auth.hs256_secret", secret)?);
    }
    for secret in &options.previous_secrets {
        keys.push(load_secret("auth.previous_secrets", secret)?);
    }
    if let Some(path) = &options.public_key_file {
        keys.extend(load_file("auth.public_key_file", path, pem::parse)?);
    }
    if let Some(path) = &options.jwks_file {
        keys.extend(load_file("auth.jwks_file", path, jwks::parse_trusted)?);
    }
    Ok(keys)
}

fn load_secret(option: &'static str, secret: &Secret) -> Result<VerifyingKey, KeyError> {
    let text = secret.expose();
    let key = match text.trim_start().starts_with("-----BEGIN ") {
        true => Err(KeyFault::PemAsSecret),
        false => VerifyingKey::hmac(text.as_bytes()),
    };
    key.map_err(|fault| KeyError::Secret { option, fault })
}

type Parse = fn(&[u8]) -> Result<Vec<VerifyingKey>, KeyFault>;

fn load_file(
    option: &'static str,
    path: &Path,
    parse: Parse,
) -> Result<Vec<VerifyingKey>, KeyError> {
    let content = read_bounded(path).map_err(|source| KeyError::Read {
        option,
        path: path.to_owned(),
        source,
    })?;
    let keys = match content.len() as u64 > MAX_KEY_BYTES {
        true => Err(KeyFault::TooLarge),
        false => parse(&content),
    };
    keys.map_err(|fault| KeyError::File {
        option,
        path: path.to_owned(),
        fault,
    })
}

/// One byte more than is allowed tells a file that is too large from one that just fits.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file = File::open(path)?;
    file.take(MAX_KEY_BYTES + 1).read_to_end(&mut content)?;
    Ok(content)
}
