//! The log in Redis: several gateways on one, real servers that are restarted, emptied, promoted
//! and cut off, and one [`Checker`](crate::support::Checker) of all that was published and seen.

mod cluster;
mod faults;
mod ingest;
mod losses;
mod strangers;
mod ways;

use crate::support::{RedisServer, TestGateway};

/// A gateway whose log is in this namespace.
async fn gateway(server: &RedisServer, namespace: &str) -> TestGateway {
    gateway_at(&server.url(), namespace, "").await
}

async fn gateway_at(url: &str, namespace: &str, toml: &str) -> TestGateway {
    TestGateway::with(&format!(
        "bus.engine = \"redis\"\nbus.namespace = \"{namespace}\"\nbus.redis.url = \"{url}\"\n\
         bus.redis.memory = \"4KiB\"\n{toml}"
    ))
    .await
}
