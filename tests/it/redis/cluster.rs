//! Gateways on one Redis under load.

use std::net::SocketAddr;

use crate::{
    cluster::{self, LogServer},
    support::RedisServer,
};

pub type Cluster = cluster::Cluster<RedisServer>;

impl LogServer for RedisServer {
    const NAME: &str = "Redis";

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn signal(&self, name: &str) {
        Self::signal(self, name);
    }
}

impl Cluster {
    /// The key of its log, or another of its keys.
    pub fn key(of: &str) -> String {
        RedisServer::key(Self::NAMESPACE, of)
    }

    /// On a server that runs with these arguments.
    pub async fn begin(arguments: &[&str]) -> Self {
        Self::begin_with(arguments, &[]).await
    }

    /// With settings of the gateways, see [`cluster::Cluster::around`].
    pub async fn begin_with(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::around("redis", RedisServer::start(arguments).await, settings).await
    }
}
