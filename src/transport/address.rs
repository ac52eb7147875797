//! Where a client is, behind the proxies that the operator trusts.

use std::net::IpAddr;

use actix_web::dev::RequestHead;
use ipnet::IpNet;

/// Entries of `X-Forwarded-For` looked at; more proxies in a row than any deployment has.
const MOST_HOPS: usize = 32;

/// The client's address: the peer's, or where the peer is a trusted proxy, the nearest address in
/// `X-Forwarded-For` that is not one. What stands further left was sent by the client and may be
/// made up. `None` where the connection has no address.
pub fn client_address(head: &RequestHead, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = head.peer_addr?.ip().to_canonical();
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    if !is_trusted(&peer) {
        return Some(peer);
    }
    let headers: Vec<_> = head.headers().get_all("x-forwarded-for").collect();
    let hops = headers
        .iter()
        .rev()
        .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','))
        .take(MOST_HOPS);
    let mut nearest = peer;
    for hop in hops {
        // Whatever a proxy could not name ends what can be known.
        let Some(address) = parse_hop(hop.trim()) else {
            break;
        };
        nearest = address;
        if !is_trusted(&address) {
            break;
        }
    }
    Some(nearest)
}

/// An address as proxies write it: bare, with a port, or in brackets.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text
        .parse()
        .ok()
        .or_else(|| Some(text.parse::<std::net::SocketAddr>().ok()?.ip()))
        .or_else(|| text.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn seen(peer: &str, forwarded: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
        let mut request = TestRequest::default().peer_addr(peer.parse().expect("an address"));
        for value in forwarded {
            request = request.append_header(("X-Forwarded-For", *value));
        }
        let request = request.to_http_request();
        let address = client_address(request.head(), &trusted);
        address.expect("an address").to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(seen("192.0.2.1:5", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(seen("10.0.0.1:5", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(
            seen("[::ffff:10.0.0.1]:5", &["198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(seen("[fd00::1]:5", &["2001:db8::7"]), "2001:db8::7");
    }

    #[test]
    fn what_the_client_made_up_is_not() {
        assert_eq!(
            seen("10.0.0.1:5", &["1.1.1.1, 198.51.100.7, 10.0.0.2"]),
            "198.51.100.7"
        );
        assert_eq!(
            seen("10.0.0.1:5", &["1.1.1.1", "198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            seen("10.0.0.1:5", &["198.51.100.7, nonsense, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(seen("10.0.0.1:5", &[""]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1:5", &[]), "10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        assert_eq!(seen("10.0.0.1:5", &["198.51.100.7:4711"]), "198.51.100.7");
        assert_eq!(seen("10.0.0.1:5", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(seen("10.0.0.1:5", &["[2001:db8::7]"]), "2001:db8::7");
    }
}
