//! The log in Redis: several gateways on one, real servers that are restarted, emptied, promoted
//! and cut off, and one [`Checker`](crate::support::Checker) of all that was published and seen.

mod nodes;

use crate::support::{RedisServer, TestGateway};

/// A gateway whose log is in this namespace.
async fn gateway(server: &RedisServer, namespace: &str) -> TestGateway {
    gateway_with(server, namespace, "").await
}

async fn gateway_with(server: &RedisServer, namespace: &str, toml: &str) -> TestGateway {
    TestGateway::with(&format!(
        "{}\n{toml}",
        configuration(&server.url(), namespace)
    ))
    .await
}

fn configuration(url: &str, namespace: &str) -> String {
    format!(
        "bus.engine = \"redis\"\nbus.namespace = \"{namespace}\"\nbus.redis.url = \"{url}\"\n\
         bus.redis.memory = \"4KiB\""
    )
}
