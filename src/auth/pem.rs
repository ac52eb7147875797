//! Public keys in PEM files (RFC 7468): `PUBLIC KEY`, `RSA PUBLIC KEY` and `CERTIFICATE` blocks.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::keys::{KeyFault, VerifyingKey};

/// Every key of the file: one as a rule, two while they are being rotated. The dates and the chain of a certificate
/// are not looked at: the operator vouches for the file.
///
/// # Errors
/// [`KeyFault`] for a private key, a weak one, one of another kind, or none at all.
pub(super) fn parse(content: &[u8]) -> Result<Vec<VerifyingKey>, KeyFault> {
    let text = std::str::from_utf8(content).map_err(|_| KeyFault::NotPem)?;
    let keys: Vec<_> = blocks(text)?
        .iter()
        .map(Block::key)
        .collect::<Result<_, _>>()?;
    match keys.is_empty() {
        true => Err(KeyFault::NotPem),
        false => Ok(keys),
    }
}

struct Block<'t> {
    label: &'t str,
    base64: String,
}

/// Text outside of blocks is explanatory (RFC 7468 section 5.2) and skipped.
fn blocks(text: &str) -> Result<Vec<Block<'_>>, KeyFault> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = boundary(line, "-----BEGIN ") else {
            continue;
        };
        let mut base64 = String::new();
        loop {
            let line = lines.next().ok_or(KeyFault::Malformed)?;
            if boundary(line, "-----END ") == Some(label) {
                break;
            }
            base64.push_str(line);
        }
        blocks.push(Block { label, base64 });
    }
    Ok(blocks)
}

fn boundary<'t>(line: &'t str, start: &str) -> Option<&'t str> {
    line.strip_prefix(start)?.strip_suffix("-----")
}

impl Block<'_> {
    fn key(&self) -> Result<VerifyingKey, KeyFault> {
        if self.label.ends_with("PRIVATE KEY") {
            return Err(KeyFault::PrivateKey);
        }
        let der = STANDARD.decode(&self.base64);
        let der = der.map_err(|_| KeyFault::Malformed)?;
        match self.label {
            "PUBLIC KEY" => VerifyingKey::from_spki(&der),
            "RSA PUBLIC KEY" => VerifyingKey::rsa(&der),
            "CERTIFICATE" => {
                VerifyingKey::from_spki(certified_key(&der).ok_or(KeyFault::Malformed)?)
            }
            _ => Err(KeyFault::Unsupported),
        }
    }
}

const SEQUENCE: u8 = 0x30;
const EXPLICIT_VERSION: u8 = 0xa0;

/// The SubjectPublicKeyInfo of an X.509 certificate (RFC 5280 section 4.1): in its TBSCertificate, after the optional
/// version, serial number, signature algorithm, issuer, validity and subject.
fn certified_key(certificate: &[u8]) -> Option<&[u8]> {
    let outer = Element::first(certificate)?.inside(SEQUENCE)?;
    let mut rest = Element::first(outer)?.inside(SEQUENCE)?;
    if Element::first(rest)?.tag == EXPLICIT_VERSION {
        rest = Element::first(rest)?.rest;
    }
    for _ in ["serial", "signature", "issuer", "validity", "subject"] {
        rest = Element::first(rest)?.rest;
    }
    let key = Element::first(rest)?;
    (key.tag == SEQUENCE).then_some(key.whole)
}

/// One DER element (X.690 section 8.1) and what follows it.
struct Element<'d> {
    tag: u8,
    content: &'d [u8],
    whole: &'d [u8],
    rest: &'d [u8],
}

impl<'d> Element<'d> {
    fn first(input: &'d [u8]) -> Option<Self> {
        let (&tag, after_tag) = input.split_first()?;
        let (&first, after_first) = after_tag.split_first()?;
        let (length, body) = match first {
            0..=0x7f => (usize::from(first), after_first),
            0x81..=0x83 => {
                let (digits, body) = after_first.split_at_checked(usize::from(first & 0x7f))?;
                let length = digits
                    .iter()
                    .fold(0, |sum, digit| sum << 8 | usize::from(*digit));
                (length, body)
            }
            _ => return None,
        };
        let (content, rest) = body.split_at_checked(length)?;
        let whole = &input[..input.len() - rest.len()];
        Some(Self {
            tag,
            content,
            whole,
            rest,
        })
    }

    fn inside(self, tag: u8) -> Option<&'d [u8]> {
        (self.tag == tag).then_some(self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_keys::{self, pem};
    use super::*;

    #[test]
    fn a_private_key_is_refused_by_name() {
        for label in [
            "PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
        ] {
            let fault = parse(pem(label, b"whatever").as_bytes()).unwrap_err();
            assert_eq!(fault, KeyFault::PrivateKey, "{label}");
        }
    }

    #[test]
    fn a_short_rsa_key_is_refused() {
        // 1024 bits, made with `openssl genrsa 1024`; nothing is or was ever signed with it.
        let fault = parse(test_keys::RSA_1024_PEM.as_bytes()).unwrap_err();
        assert_eq!(fault, KeyFault::RsaSize);
    }

    #[test]
    fn what_is_not_a_public_key_is_refused() {
        let unfinished = "-----BEGIN PUBLIC KEY-----\nAAAA\n";
        let cases = [
            ("", KeyFault::NotPem),
            ("hello", KeyFault::NotPem),
            (unfinished, KeyFault::Malformed),
            (&pem("PUBLIC KEY", b"nonsense"), KeyFault::Unsupported),
            (
                &pem("CERTIFICATE", b"\x30\x84\xff\xff\xff\xff"),
                KeyFault::Malformed,
            ),
            (
                &pem("CERTIFICATE", b"\x30\x02\x30\x00"),
                KeyFault::Malformed,
            ),
            (&pem("DH PARAMETERS", b"x"), KeyFault::Unsupported),
        ];
        for (text, fault) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), fault, "{text:?}");
        }
        assert_eq!(parse(b"\xff\xfe").unwrap_err(), KeyFault::NotPem);
    }

    #[test]
    fn a_truncated_certificate_never_panics() {
        let certificate = test_keys::certificate().1;
        for end in 0..certificate.len() {
            let _ = parse(pem("CERTIFICATE", &certificate[..end]).as_bytes());
        }
        assert!(parse(pem("CERTIFICATE", &certificate).as_bytes()).is_ok());
    }

    #[test]
    fn a_file_may_hold_several_keys_and_remarks() {
        let one = test_keys::ed25519_pem(&test_keys::ed25519());
        let two = test_keys::ed25519_pem(&test_keys::ed25519());
        let keys = parse(format!("# old\r\n{one}\n# new\n{two}").as_bytes());
        assert_eq!(keys.expect("both").len(), 2);
    }
}
