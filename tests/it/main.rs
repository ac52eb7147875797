//! Tests through the real gateway on a real socket, with clients that were not written here:
//! tokio-tungstenite for WebSocket, reqwest with an SSE parser for streams, reqwest for polls.

mod authentication;
mod client;
mod command_line;
mod connections;
mod deployment;
mod draining;
mod errors;
mod events;
mod gaps;
mod hook;
mod hopping;
mod hostile;
mod limits;
mod model;
mod networks;
mod operations;
mod origins;
mod page;
mod pipelining;
mod polling;
mod publishing;
mod readme;
mod security;
mod slow;
mod smoke;
mod standstill;
mod streams;
mod subscriptions;
mod support;
mod telemetry;
mod tenants;
mod tickets;
mod tls;
mod weather;
mod websocket;
