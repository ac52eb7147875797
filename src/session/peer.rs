//! What tells one connection from another, for operators.

use std::{net::IpAddr, time::Instant};

use crate::protocol::{ConnectionId, Transport};

/// How and from where a client is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    pub transport: Transport,
    /// The client's own where a trusted proxy tells it; `None` where there is none.
    pub address: Option<IpAddr>,
}

/// What a session keeps for operators.
pub(super) struct Record {
    pub(super) id: ConnectionId,
    pub(super) peer: Peer,
    pub(super) since: Instant,
    /// Events taken out of the mailbox.
    pub(super) events: u64,
    /// A poll got its answer.
    pub(super) answered: bool,
}

impl Record {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            id: ConnectionId::random(),
            peer,
            since: Instant::now(),
            events: 0,
            answered: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_operators_is_small() {
        assert!(size_of::<Record>() <= 64);
    }
}
