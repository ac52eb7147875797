//! Tokens good and hostile against the whole of [`Authenticator`](super::Authenticator).

mod claims;
mod hook;
mod keys;
mod refresh;
mod tokens;
