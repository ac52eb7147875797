//! Keeps web pages away from the operators' listener.
//!
//! An operator's browser may reach this listener, and any page that it shows can make it send
//! requests. There are three ways, and each is closed:
//!
//! - A page of another site posts a form or fetches: browsers then say so in `Origin` or in
//!   `Sec-Fetch-Site`, and such requests are refused.
//! - It fetches with GET from an old browser that says neither: it can not read the answer, since
//!   no CORS header allows it to, and GET changes nothing.
//! - The page's own name is made to lead to this listener (DNS rebinding), so that for the browser
//!   the request stays on the page's site. Then `Host` has that name. A listener on loopback is
//!   reached by the machine's own names only, so any other `Host` is refused there. On another
//!   address the gateway can not know its names; there a network that keeps browsers out is needed.

use std::net::IpAddr;

use actix_web::{HttpRequest, http::header};

use super::Operator;
use crate::protocol::{ErrorCode, Refusal};

/// # Errors
/// `forbidden` for a request that a web page may have sent.
pub(super) fn refuse_pages(request: &HttpRequest, operator: &Operator) -> Result<(), Refusal> {
    let headers = request.headers();
    let from_elsewhere = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site != "none" && site != "same-origin");
    if headers.contains_key(header::ORIGIN) || from_elsewhere {
        return Err(Refusal::new(
            ErrorCode::Forbidden,
            "web pages may not use this listener",
        ));
    }
    match headers.get(header::HOST).map(|host| host.to_str()) {
        None => Ok(()),
        Some(Ok(host)) if may_lead_to(host, operator.is_on_loopback) => Ok(()),
        Some(_) => Err(Refusal::new(
            ErrorCode::Forbidden,
            "this listener is on loopback: ask it as 127.0.0.1, [::1] or localhost",
        )),
    }
}

/// Whether a request that was sent to this host may have come to the listener without deceit.
fn may_lead_to(host: &str, listener_is_on_loopback: bool) -> bool {
    !listener_is_on_loopback || is_this_machine(without_port(host))
}

fn is_this_machine(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => {
            let name = name.to_ascii_lowercase();
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_is_asked_by_the_machines_own_names_only() {
        for host in [
            "127.0.0.1:8081",
            "127.0.0.1",
            "localhost:8081",
            "LOCALHOST",
            "admin.localhost:1",
            "[::1]:8081",
            "[::1]",
        ] {
            assert!(may_lead_to(host, true), "{host}");
        }
        for host in [
            "evil.example:8081",
            "localhost.evil.example",
            "10.0.0.1:8081",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "",
        ] {
            assert!(!may_lead_to(host, true), "{host}");
        }
        assert!(may_lead_to("tribus.internal:8081", false));
    }
}
