//! Tribus: a real-time gateway. One bus feeds WebSocket, SSE and long-poll, with one cursor that
//! is good on all of them.
//!
//! The modules in reading order; nothing imports from a module further down, but for `session`
//! and `bus`, whose shards and sessions are two halves of one thing.

mod sync;

pub mod topic;

pub mod event;

pub mod node;

pub mod subscription;

pub mod protocol;

pub mod throttle;

pub mod metrics;

pub mod auth;

pub mod config;

pub mod limits;

pub mod engine;

pub mod telemetry;

pub mod presence;

pub mod bus;

pub mod session;

pub mod cluster;

pub mod transport;

pub mod admin;

pub mod page;

pub mod listener;

pub mod gateway;

pub mod cli;
