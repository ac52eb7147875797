//! The name of a connection.

use std::{fmt, str::FromStr};

/// Names a connection in `connected`, in logs and in lists. A name for the client's questions to
/// its operator; not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn random() -> Self {
        Self(fastrand::u64(..))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text does not name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a connection id, which has 16 digits of 0 to 9 and a to f")]
pub struct ConnectionIdError;

impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let digits = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if text.len() != 16 || !digits {
            return Err(ConnectionIdError);
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| ConnectionIdError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_as_it_was_written() {
        for id in [0, 7, u64::MAX, 0xdead_beef].map(ConnectionId) {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in [
            "",
            "7",
            "DEADBEEFDEADBEEF",
            "+00000000000007f",
            "deadbeefdeadbeef0",
        ] {
            assert_eq!(
                text.parse::<ConnectionId>(),
                Err(ConnectionIdError),
                "{text}"
            );
        }
    }
}
