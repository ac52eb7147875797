//! A gateway to test, and clients that speak the protocol's terms.

mod checker;
mod door;
mod gateway;
mod hopper;
mod js;
mod keys;
mod load;
mod narrow;
mod nats;
mod network;
mod node;
mod program;
mod raw;
mod redis;
mod relay;
mod results;
mod scrape;
mod shared_log;
mod site;
mod sse;
mod tls;
mod token;
mod transports;
mod ws;

use std::{future::Future, time::Duration};

pub use self::redis::{EVERYSEC, RedisServer, SYNCED, VOLATILE};
pub use checker::{Checker, END, Verdict};
pub use door::{Answer, Credentials, Door, answer_of};
pub use gateway::{TestGateway, answered, engine};
pub use hopper::Hopper;
pub use js::Js;
pub use keys::{SigningKey, base64url};
pub use load::Load;
pub use nats::NatsServer;
pub use network::{Fault, Kind, Manner, Network};
pub use node::{Node, free_address};
pub use program::{Ended, Program};
pub use raw::{Raw, RawResponse, client_frame, client_frame_head, released};
pub use relay::Relay;
pub use results::record;
pub use scrape::Scrape;
pub use shared_log::SharedLog;
pub use site::{Backend, Mood};
pub use sse::{Sse, SseEvent};
pub use tls::{Authority, H2, TlsFiles, read_all};
pub use token::{Claims, SECRET, now};
pub use transports::{Everywhere, TRANSPORTS, Transport, replay, topics_of};
pub use ws::{Received, Ws};

/// Nothing that a test awaits takes longer, however busy the machine is.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Awaits with the deadline; a test that hangs says what it was waiting for.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {DEADLINE:?} in vain for {what}"),
    }
}
