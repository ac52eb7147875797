//! What engines share whose log is in a server.

mod backoff;
mod encoded;

pub use backoff::Backoff;
pub use encoded::{Encoded, event_at};
