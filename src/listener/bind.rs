//! The sockets of a node, bound together, so that all that is in the way is told at once.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
};

use anyhow::Context;

use super::LISTEN_BACKLOG;

/// What another pair of ports is set by, whoever starts the gateway, and however.
const OTHER_PORTS: &str = "another program has the port, perhaps another gateway: stop it, or put other ports in front of \
     the command, such as TRIBUS__LISTEN=127.0.0.1:9000 TRIBUS__ADMIN_LISTEN=127.0.0.1:9001 make run";

/// Binds the addresses of these keys of the configuration.
///
/// # Errors
/// Names each key whose address is none, or can not be listened on, and what to do.
pub fn bind<const N: usize>(addresses: [(&str, &str); N]) -> anyhow::Result<[Vec<TcpListener>; N]> {
    let mut failures = Vec::new();
    let bound = addresses.map(|(key, address)| {
        let listeners = bind_one(key, address);
        listeners.unwrap_or_else(|failure| {
            failures.push(failure);
            Vec::new()
        })
    });
    let advice: Vec<_> = failures
        .iter()
        .filter_map(|failure| failure.advice)
        .collect();
    let mut lines: Vec<_> = failures
        .iter()
        .map(|failure| failure.text.as_str())
        .collect();
    for (at, line) in advice.iter().enumerate() {
        if !advice[..at].contains(line) {
            lines.push(line);
        }
    }
    anyhow::ensure!(lines.is_empty(), "{}", lines.join("\n  "));
    Ok(bound)
}

/// The addresses that a key of the configuration stands for, at least one.
///
/// # Errors
/// Names the key where there are none.
pub fn resolve(key: &str, address: &str) -> anyhow::Result<Vec<SocketAddr>> {
    let addresses = address.to_socket_addrs().with_context(|| {
        format!("configuration key `{key}`: {address:?} is no address: write 127.0.0.1:8080")
    })?;
    let addresses: Vec<_> = addresses.collect();
    anyhow::ensure!(
        !addresses.is_empty(),
        "configuration key `{key}`: {address:?} stands for no address"
    );
    Ok(addresses)
}

struct Failure {
    text: String,
    advice: Option<&'static str>,
}

/// A name may stand for several addresses, not all of which this machine has.
fn bind_one(key: &str, address: &str) -> Result<Vec<TcpListener>, Failure> {
    let addresses = resolve(key, address).map_err(|error| Failure {
        text: format!("{error:#}"),
        advice: None,
    })?;
    let mut failure = None;
    let mut listeners = Vec::new();
    for address in addresses {
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if listeners.is_empty() => Err(Failure {
            text: format!("can not listen on {address} (configuration key `{key}`): {error}"),
            advice: advice(error.kind()),
        }),
        _ => Ok(listeners),
    }
}

fn advice(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::AddrInUse => Some(OTHER_PORTS),
        ErrorKind::AddrNotAvailable => Some(
            "no network interface of this machine has that address: 127.0.0.1 is for this machine only, 0.0.0.0 for all \
             of its addresses",
        ),
        ErrorKind::PermissionDenied => Some(
            "ports below 1024 are not for everyone: choose a higher one, or give the process CAP_NET_BIND_SERVICE",
        ),
        _ => None,
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG as i32)?;
    Ok(socket.into())
}

/// Refuses two keys that stand for one socket, which the second of them could not get.
///
/// # Errors
/// As [`resolve`], or names both keys.
pub fn refuse_same(one: (&str, &str), other: (&str, &str)) -> anyhow::Result<()> {
    let (these, those) = (resolve(one.0, one.1)?, resolve(other.0, other.1)?);
    let clash = |a: &SocketAddr, b: &SocketAddr| {
        let is_same = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.port() != 0 && is_same
    };
    // A name's other addresses might be free, but nobody means that.
    let clashes = these.iter().any(|a| those.iter().any(|b| clash(a, b)));
    anyhow::ensure!(
        !clashes,
        "configuration keys `{}` and `{}`: {} and {} are one port: clients and operators need one each",
        one.0,
        other.0,
        one.1,
        other.1
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_keys_may_not_share_a_socket() {
        let check = |one, other| refuse_same(("listen", one), ("admin_listen", other));
        for (one, other) in [
            ("127.0.0.1:8080", "127.0.0.1:8080"),
            ("0.0.0.0:8080", "127.0.0.1:8080"),
            ("127.0.0.1:8080", "[::]:8080"),
        ] {
            let error = check(one, other).unwrap_err().to_string();
            assert!(
                error.contains("`listen`") && error.contains("`admin_listen`"),
                "{error}"
            );
        }
        for (one, other) in [
            ("127.0.0.1:8080", "127.0.0.1:8081"),
            ("127.0.0.1:8080", "127.0.0.2:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
        ] {
            assert!(check(one, other).is_ok(), "{one} {other}");
        }
    }

    #[test]
    fn what_is_in_the_way_of_each_is_told_and_the_advice_once() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = holder.local_addr().unwrap().to_string();
        let error = bind([("listen", &taken), ("admin_listen", &taken)]).unwrap_err();
        let error = error.to_string();
        for part in ["`listen`", "`admin_listen`"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        assert_eq!(error.matches("another program").count(), 1, "{error}");
    }
}
