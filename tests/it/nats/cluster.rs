//! Gateways on one NATS under load.

use std::net::SocketAddr;

use async_nats::jetstream::stream::Stream;

use crate::{
    cluster::{self, LogServer},
    support::NatsServer,
};

pub type Cluster = cluster::Cluster<NatsServer>;

impl LogServer for NatsServer {
    const NAME: &str = "NATS";

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn signal(&self, name: &str) {
        Self::signal(self, name);
    }
}

impl Cluster {
    pub async fn begin() -> Self {
        Self::begin_with(&[]).await
    }

    /// With settings of the gateways, see [`cluster::Cluster::around`].
    pub async fn begin_with(settings: &[(&str, &str)]) -> Self {
        Self::around("nats", NatsServer::start().await, settings).await
    }

    /// Its log, or another one of its streams.
    pub async fn stream(&self, of: &str) -> Stream {
        self.server.stream(Self::NAMESPACE, of).await
    }
}
