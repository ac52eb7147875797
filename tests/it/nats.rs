//! The log in NATS JetStream: several gateways on one, real servers that are restarted, emptied,
//! stopped and cut off, and one [`Checker`](crate::support::Checker) of all that was published and
//! seen.

mod cluster;
mod faults;
mod ingest;
mod losses;
mod ways;

use crate::support::{NatsServer, TestGateway};

/// A gateway whose log is in this namespace.
async fn gateway(server: &NatsServer, namespace: &str) -> TestGateway {
    gateway_at(&server.url(), namespace, "").await
}

async fn gateway_at(url: &str, namespace: &str, toml: &str) -> TestGateway {
    TestGateway::with(&format!(
        "bus.engine = \"nats\"\nbus.namespace = \"{namespace}\"\nbus.nats.url = \"{url}\"\n\
         bus.nats.memory = \"4KiB\"\n{toml}"
    ))
    .await
}
