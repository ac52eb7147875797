//! The engines whose log several gateways share, and what a gateway is told of them.

use std::{path::Path, process::Command};

use super::store::{Store, free_address};

/// Where the log lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedLog {
    Redis,
    Nats,
}

impl SharedLog {
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Nats => "nats",
        }
    }

    /// Starts its server, which syncs no write by itself.
    ///
    /// # Errors
    /// Those of [`Store`].
    pub fn start(self, directory: &Path) -> anyhow::Result<Store> {
        match self {
            Self::Redis => Store::redis(directory, None),
            Self::Nats => {
                let address = free_address()?;
                let mut command = Command::new("nats-server");
                command
                    .args(["--jetstream", "--addr", "127.0.0.1"])
                    .args(["--port", &address.port().to_string(), "--store_dir"])
                    .arg(directory);
                Store::start(command, address)
            }
        }
    }

    /// What has a gateway's log live there.
    pub fn configure(self, gateway: &mut Command, store: &Store) {
        let (name, address) = (self.name(), store.address());
        gateway.env("TRIBUS__BUS__ENGINE", name).env(
            format!("TRIBUS__BUS__{}__URL", name.to_uppercase()),
            format!("{name}://{address}"),
        );
    }
}
