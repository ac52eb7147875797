//! Tokens, keys, grants and tickets: everything that turns a credential into an [`Identity`].
//!
//! ```text
//! "eyJ…" ─▶ token.rs   three parts, header          ─┐
//!           keys.rs    which configured keys fit      ├─▶ authenticator.rs ─▶ Arc<Identity>
//!           claims.rs  types, issuer, audience, grants ┘    (cache by SHA-256)
//!
//! cookies, headers ─▶ hook/   the site's own backend, which answers with claims ─▶ claims.rs ─▶ Arc<Identity>
//! ```
//!
//! Invariants: nothing in a token is believed before its signature is verified, except `alg` and `kid`, which only
//! choose among keys that the operator configured. No token causes I/O; only what the operator named goes to the hook.
//! Errors never quote a credential.

mod authenticator;
mod claims;
mod grants;
mod hook;
mod identity;
mod jwks;
mod keys;
mod options;
mod pem;
mod remote;
mod revocations;
mod sign;
mod tickets;
mod token;

#[cfg(test)]
mod test_keys;
#[cfg(test)]
mod tests;

pub use authenticator::Authenticator;
pub use hook::{Hook, HookError, SessionCredentials};
pub use identity::{ClaimedLimits, Identity, LEEWAY, name_problem};
pub use keys::{KeyError, KeyFault};
pub use options::{AuthOptions, HookOptions, Secret};
pub use remote::RefreshError;
pub use revocations::{Revocation, RevocationList, RevocationsFull, Whose};
pub use sign::{NewToken, sign_hs256};
pub use tickets::{
    IssueError, Outstanding, Redeem, Redeemed, StreamClaim, StreamLease, Ticket, TicketError,
    TicketHash, TicketStore, TicketUse,
};

/// Why a token was not accepted. Every text is fit for the client: none contains a part of the token.
///
/// For the protocol's codes: [`AuthError::Expired`] is `token_expired`, [`AuthError::KeysUnavailable`] is
/// `unavailable`, all others are `unauthorized`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Longer than `limits.token_bytes`; nothing of it was parsed.
    #[error("token is too long")]
    TooLong,
    /// Not a JWT in compact form (RFC 7515 section 7.1), or its header is not acceptable.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// Well formed, but not signed by a configured key, or not meant for this gateway.
    #[error("invalid token: {0}")]
    Invalid(&'static str),
    /// Rightly signed, but a claim is missing, of the wrong type or out of bounds.
    #[error("bad claim `{name}`: {problem}")]
    BadClaim {
        name: &'static str,
        problem: &'static str,
    },
    /// As [`AuthError::BadClaim`], of one entry of a list of topic filters, counted from 1.
    #[error(
        "bad claim `{name}`: entry {entry} is no topic filter, which is 1 to 255 bytes without white space, control \
         characters or `,`, and has at most 8 wildcards"
    )]
    BadFilter { name: &'static str, entry: usize },
    /// Valid in all else, but `exp` has passed by more than [`LEEWAY`].
    #[error("token has expired")]
    Expired,
    /// Valid in all else, but `nbf` is more than [`LEEWAY`] ahead.
    #[error("token is not valid yet")]
    NotYetValid,
    /// The key set behind `auth.jwks_url` has never been fetched, and no other key fits. Worth a retry.
    #[error("verification keys are not available yet")]
    KeysUnavailable,
}

impl AuthError {
    /// Whether this is no token of this gateway's at all, and may be a credential of another kind. A token that was
    /// rightly signed is ours, also where it has expired or its claims are bad.
    pub fn is_foreign(self) -> bool {
        match self {
            Self::TooLong | Self::Malformed(_) | Self::Invalid(_) => true,
            Self::BadClaim { .. }
            | Self::BadFilter { .. }
            | Self::Expired
            | Self::NotYetValid
            | Self::KeysUnavailable => false,
        }
    }
}
