//! The three ways to a client, and what they share: who asks, from where, and for what.
//!
//! Transports are pumps. They take what a session gives out, put it into their framing, and hand
//! the session what the client says; what to send, and when, is the session's to decide.

mod address;
mod connection;
mod credentials;
mod http;
mod notice;
mod origin;
mod poll;
mod presence;
mod publish;
mod pulse;
mod site_session;
mod sse;
mod stats;
mod ticket;
mod worker;
mod ws;

pub use connection::{ConnectionData, Lifeline, NoPlace, connection_data};
pub use http::{configure, endpoint, guard_origin, not_found, read_body, refuse};
pub use notice::Warnings;
pub use worker::{Settings, Shared, Worker, restarting};
