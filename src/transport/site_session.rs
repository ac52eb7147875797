//! What of a request is a credential of the site's own, for the auth hook (protocol, section 3).

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap},
};

use crate::{
    auth::{Hook, HookError, SessionCredentials},
    protocol::{ErrorCode, Refusal},
};

/// Schemes of `Authorization` for which browsers remember the user's answer, and add it to whatever any page asks for.
const AMBIENT_SCHEMES: [&str; 4] = ["basic", "digest", "negotiate", "ntlm"];

/// The named headers and cookies that a request has.
pub struct SiteSession<'r> {
    pub credentials: SessionCredentials<'r>,
    /// Whether a browser may have added all of them by itself, for a page that knows none.
    pub is_ambient: bool,
}

impl<'r> SiteSession<'r> {
    /// `None` where the request has nothing of what the hook is asked with.
    ///
    /// # Errors
    /// `unauthorized` for a header that is given twice or is not text, since nobody knows what its sender meant.
    pub fn of(request: &'r HttpRequest, hook: &'r Hook) -> Result<Option<Self>, Refusal> {
        let mut session = Self {
            credentials: SessionCredentials::default(),
            is_ambient: true,
        };
        for name in hook.headers() {
            if let Some(value) = header_value(request.headers(), name)? {
                session.is_ambient &= is_ambient(name, value);
                session.credentials.headers.insert(name, value);
            }
        }
        for name in hook.cookies() {
            if let Some(value) = cookie_value(request.headers(), name) {
                session.credentials.cookies.insert(name, value);
            }
        }
        Ok((!session.credentials.is_empty()).then_some(session))
    }
}

fn is_ambient(name: &str, value: &str) -> bool {
    let scheme = value.split(' ').next().unwrap_or_default();
    name == header::AUTHORIZATION.as_str()
        && AMBIENT_SCHEMES
            .iter()
            .any(|ambient| scheme.eq_ignore_ascii_case(ambient))
}

fn header_value<'r>(headers: &'r HeaderMap, name: &str) -> Result<Option<&'r str>, Refusal> {
    let bad = |problem| {
        let message = format!("the {name} header is {problem}");
        Refusal::new(ErrorCode::Unauthorized, message)
    };
    let mut values = headers.get_all(name);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(bad("given more than once"));
    }
    let value = value.to_str().map_err(|_| bad("not text"))?;
    Ok((!value.is_empty()).then_some(value))
}

/// The first cookie of the name, as it came: only the backend knows whether and how its value is encoded. HTTP/2 may
/// spread cookies over several headers (RFC 9113, section 8.2.3).
fn cookie_value<'r>(headers: &'r HeaderMap, name: &str) -> Option<&'r str> {
    headers
        .get_all(header::COOKIE)
        .filter_map(|cookies| std::str::from_utf8(cookies.as_bytes()).ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(other, value)| (other == name && !value.is_empty()).then_some(value))
}

impl From<HookError> for Refusal {
    fn from(error: HookError) -> Self {
        match error {
            HookError::Unknown | HookError::TooLong => {
                Self::new(ErrorCode::Unauthorized, error.to_string())
            }
            HookError::Claims(error) => error.into(),
            HookError::Unavailable { retry_after } => {
                Self::unavailable(error.to_string()).retry_after(retry_after)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let value = HeaderValue::from_bytes(value).expect("a header value");
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    #[test]
    fn a_cookie_is_taken_as_it_came_and_the_first_of_its_name() {
        let headers = headers(&[
            ("cookie", b"theme=dark; sid=s%3Aa+b/=\"; xsid=other"),
            ("cookie", b"sid=second;empty=; late=1"),
        ]);
        assert_eq!(cookie_value(&headers, "sid"), Some("s%3Aa+b/=\""));
        assert_eq!(cookie_value(&headers, "late"), Some("1"));
        assert_eq!(cookie_value(&headers, "empty"), None);
        assert_eq!(cookie_value(&headers, "id"), None);
        assert_eq!(cookie_value(&headers, "SID"), None);
    }

    #[test]
    fn a_header_that_is_not_one_text_is_refused() {
        let headers = headers(&[
            ("x-session", b"one"),
            ("x-twice", b"one"),
            ("x-twice", b"two"),
            ("x-bytes", b"\xff"),
            ("x-empty", b""),
        ]);
        assert_eq!(header_value(&headers, "x-session"), Ok(Some("one")));
        assert_eq!(header_value(&headers, "x-empty"), Ok(None));
        assert_eq!(header_value(&headers, "x-none"), Ok(None));
        for name in ["x-twice", "x-bytes"] {
            let refusal = header_value(&headers, name).expect_err(name);
            assert_eq!(refusal.code, ErrorCode::Unauthorized);
        }
    }

    #[test]
    fn what_a_browser_adds_by_itself_is_told_apart() {
        for (value, ambient) in [
            ("Basic YTpi", true),
            ("basic YTpi", true),
            ("Negotiate abc", true),
            ("Bearer abc", false),
            ("Token abc", false),
            ("Basically", false),
        ] {
            assert_eq!(is_ambient("authorization", value), ambient, "{value}");
        }
        assert!(!is_ambient("x-session", "Basic YTpi"));
    }
}
