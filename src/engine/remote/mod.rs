//! What engines share whose log is in a server.

mod backoff;
mod encoded;
mod health;
mod requests;
mod thread;

pub use backoff::Backoff;
pub use encoded::{Encoded, event_at};
pub use health::Health;
pub use requests::{Answer, Appending, Requests, Waiting, not_sent, unknown};
pub use thread::EngineThread;
