//! A log of its own in a server of the tests, for several gateways.

use std::net::SocketAddr;

use super::{NatsServer, RedisServer, TestGateway};

pub struct SharedLog {
    /// As `bus.engine` names it.
    pub engine: &'static str,
    pub server: SocketAddr,
    pub namespace: String,
}

impl SharedLog {
    /// One of each engine that nodes can share.
    pub async fn of_each_engine() -> [Self; 2] {
        [Self::in_redis().await, Self::in_nats().await]
    }

    pub async fn in_redis() -> Self {
        Self {
            engine: "redis",
            server: RedisServer::shared().await.address,
            namespace: RedisServer::namespace(),
        }
    }

    pub async fn in_nats() -> Self {
        Self {
            engine: "nats",
            server: NatsServer::shared().await.address,
            namespace: NatsServer::namespace(),
        }
    }

    /// What a gateway on it is configured with, where its server is at an address.
    pub fn toml(&self, address: SocketAddr) -> String {
        let Self {
            engine, namespace, ..
        } = self;
        format!(
            "bus.engine = \"{engine}\"\nbus.namespace = \"{namespace}\"\n\
             bus.{engine}.url = \"{engine}://{address}\"\n"
        )
    }

    /// A gateway with next to nothing of the log in its memory.
    pub async fn gateway(&self) -> TestGateway {
        self.gateway_with(self.server, "").await
    }

    pub async fn gateway_with(&self, address: SocketAddr, toml: &str) -> TestGateway {
        let engine = self.engine;
        let shared = self.toml(address);
        TestGateway::with(&format!("{shared}bus.{engine}.memory = \"4KiB\"\n{toml}")).await
    }
}
