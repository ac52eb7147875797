//! What of TLS went wrong, in words that tell what to do.

use std::{error::Error, io};

use rustls::{CertificateError, InvalidMessage};

/// In what an error was caused by; `None` where it is no failure of TLS that is known.
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let problem = match cause(error)? {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this port speaks no TLS: use http:// or ws://".to_owned()
        }
        rustls::Error::InvalidCertificate(problem) => of_certificate(problem),
        _ => return None,
    };
    Some(problem)
}

fn of_certificate(problem: &CertificateError) -> String {
    match problem {
        // One of the same name is trusted, but did not sign it.
        CertificateError::UnknownIssuer
        | CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the gateway's certificate is from no authority that is trusted here: name the authority's file by --ca or \
             TRIBUS_CA (of a certificate that signed itself, its own file)"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the gateway's certificate is for another name than that of the URL: {problem}"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the gateway's certificate has expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the gateway's certificate is not valid yet: is this machine's clock right?".to_owned()
        }
        // The library has no name of its own for it.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the gateway's certificate is one of an authority, which a server may not show: make it with \
             basicConstraints=CA:FALSE"
                .to_owned()
        }
        other => format!("the gateway's certificate is not accepted: {other}"),
    }
}

/// Errors of input and output hold theirs where `source` does not tell.
fn cause<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let held = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match held {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    None
}
