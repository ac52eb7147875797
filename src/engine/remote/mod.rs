//! What engines share whose log is in a server.

mod backoff;
mod outgoing;

pub use backoff::Backoff;
pub use outgoing::{Outgoing, event_at};
