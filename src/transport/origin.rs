//! Which web pages may talk to the gateway (protocol, section 3; the Fetch standard's CORS).

use actix_web::http::{
    Uri,
    header::{self, HeaderMap, HeaderValue},
};

use super::worker::{Settings, Worker};

const ALLOWED_METHODS: &str = "GET, POST, OPTIONS";
/// Besides those in which the site's own sessions come.
const ALLOWED_HEADERS: &str =
    "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent";
const EXPOSED_HEADERS: &str = "Retry-After, RateLimit, RateLimit-Policy, Tribus-Node";
/// Browsers keep a preflight's answer for so many seconds, and not much longer if told to.
const PREFLIGHT_MAX_AGE: &str = "600";

/// Where a request says that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No `Origin`: not a page's cross-origin request, or no browser at all.
    Absent,
    /// The gateway's own, or one of the configured list.
    Allowed(HeaderValue),
    Foreign,
}

impl Origin {
    pub fn of(head: &actix_web::dev::RequestHead, settings: &Settings) -> Self {
        let mut origins = head.headers().get_all(header::ORIGIN);
        let Some(origin) = origins.next() else {
            return Self::Absent;
        };
        if origins.next().is_some() {
            return Self::Foreign;
        }
        let Ok(text) = origin.to_str() else {
            return Self::Foreign;
        };
        let is_listed = settings.allowed_origins.iter().any(|other| other == text);
        // A page that came in clear text may be anyone's, whatever its name.
        let may_be_own = !settings.speaks_tls || text.starts_with("https:");
        if is_listed || may_be_own && is_own(text, head.headers(), &head.uri) {
            return Self::Allowed(origin.clone());
        }
        Self::Foreign
    }
}

/// Whether the origin's host is the one that the request was sent to. The scheme is not compared
/// here: behind a proxy that ends TLS the gateway does not know its own.
fn is_own(origin: &str, headers: &HeaderMap, uri: &Uri) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(|authority| authority.as_str()));
    host.is_some_and(|host| {
        let host = host.strip_suffix(default_port).unwrap_or(host);
        host.eq_ignore_ascii_case(authority.strip_suffix(default_port).unwrap_or(authority))
    })
}

pub fn add_cors_headers(headers: &mut HeaderMap, origin: &Origin, worker: &Worker) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    let Origin::Allowed(origin) = origin else {
        return;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let hook = worker.shared.authenticator.hook();
    for name in hook.iter().flat_map(|hook| hook.headers()) {
        if let Ok(name) = HeaderValue::from_str(name) {
            headers.append(header::ACCESS_CONTROL_ALLOW_HEADERS, name);
        }
    }
}
