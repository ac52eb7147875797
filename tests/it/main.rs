//! Tests through the real gateway on a real socket, with clients that were not written here:
//! tokio-tungstenite for WebSocket, reqwest with an SSE parser for streams, reqwest for polls.

mod authentication;
mod command_line;
mod deployment;
mod errors;
mod events;
mod gaps;
mod hook;
mod hopping;
mod limits;
mod model;
mod origins;
mod page;
mod pipelining;
mod polling;
mod publishing;
mod readme;
mod slow;
mod smoke;
mod standstill;
mod streams;
mod subscriptions;
mod support;
mod telemetry;
mod tenants;
mod tickets;
mod websocket;
