//! Which engine holds the log.

use std::sync::Arc;

use anyhow::Context;

use super::publish_limits;
use crate::{
    bus::{Bus, Retention},
    config::{Config, EngineKind},
    engine::{
        Engine, IdempotencyLimits, MemoryEngine,
        disk::{DiskEngine, DiskOptions},
        nats::{self, NatsEngine, NatsOptions},
        redis::{self, RedisEngine, RedisOptions},
    },
    event::LogId,
};

/// For each event that is retained, how many notes and ephemeral events may be in the log besides.
const OTHERS_AN_EVENT: usize = 2;

/// Opens the log where the configuration says, with the bus around it.
///
/// # Errors
/// The engine's.
pub(super) fn open(config: &Config) -> anyhow::Result<Arc<Bus>> {
    let retention = Retention {
        events: config.retention.events,
        bytes: config.retention.bytes.0,
        age: config.retention.age.map(|age| age.0),
        bytes_in_memory: match config.bus.engine {
            EngineKind::Memory => None,
            EngineKind::Disk => Some(config.bus.disk.memory.0),
            EngineKind::Redis => Some(config.bus.redis.memory.0),
            EngineKind::Nats => Some(config.bus.nats.memory.0),
        },
        others: (config.bus.engine.is_shared())
            .then(|| config.retention.events.saturating_mul(OTHERS_AN_EVENT)),
    };
    let idempotency = IdempotencyLimits {
        keys: config.limits.idempotency_keys,
        keys_per_subject: config.limits.idempotency_keys_per_subject,
    };
    match config.bus.engine {
        EngineKind::Memory => {
            let log = LogId::random().context("the operating system has no randomness to give")?;
            Bus::open(retention, |tail| {
                Ok(Arc::new(MemoryEngine::new(log, tail, idempotency)) as Arc<dyn Engine>)
            })
        }
        EngineKind::Disk => {
            let disk = &config.bus.disk;
            let path = disk
                .path
                .as_deref()
                .context("the engine \"disk\" needs `bus.disk.path`")?;
            let options = DiskOptions::new(disk.durability, retention.bytes, idempotency);
            Bus::open(retention, |tail| {
                let engine = DiskEngine::open(path, options, tail)
                    .with_context(|| format!("can not open the log in {}", path.display()))?;
                Ok(Arc::new(engine) as Arc<dyn Engine>)
            })
        }
        EngineKind::Redis => open_redis(config, retention, idempotency),
        EngineKind::Nats => open_nats(config, retention, idempotency),
    }
}

fn open_redis(
    config: &Config,
    retention: Retention,
    idempotency: IdempotencyLimits,
) -> anyhow::Result<Arc<Bus>> {
    let redis = &config.bus.redis;
    let url = redis.url.as_ref();
    let (address, shown) = match (&redis.master, url) {
        (Some(master), _) => {
            let sentinels = redis.sentinels.0.iter();
            let address = redis::Address::Sentinels {
                sentinels: sentinels.map(|url| url.expose().to_owned()).collect(),
                master: master.clone(),
                login: url.map(|url| url.expose().to_owned()),
            };
            (address, format!("the master {master:?}"))
        }
        (None, Some(url)) => (
            redis::Address::Direct(url.expose().to_owned()),
            url.address(),
        ),
        (None, None) => anyhow::bail!("the engine \"redis\" needs `bus.redis.url`"),
    };
    let options = RedisOptions {
        address,
        shown,
        namespace: config.bus.namespace.clone(),
        timeout: redis.timeout.0,
        retained: retention.events,
        idempotency,
        publish: publish_limits(config),
    };
    Bus::open(retention, |tail| {
        Ok(Arc::new(RedisEngine::open(options, tail)?) as Arc<dyn Engine>)
    })
}

fn open_nats(
    config: &Config,
    retention: Retention,
    idempotency: IdempotencyLimits,
) -> anyhow::Result<Arc<Bus>> {
    let nats = &config.bus.nats;
    let urls = nats.url.as_ref();
    let urls = urls.context("the engine \"nats\" needs `bus.nats.url`")?;
    let options = NatsOptions {
        address: nats::Address {
            urls: urls.expose().map(str::to_owned).collect(),
            credentials: nats.credentials.clone(),
        },
        shown: urls.addresses(),
        namespace: config.bus.namespace.clone(),
        timeout: nats.timeout.0,
        bounds: nats::Bounds {
            replicas: nats.replicas,
            bytes: retention.bytes as u64,
            age: retention.age,
        },
        retained: retention.events,
        idempotency,
        publish: publish_limits(config),
    };
    Bus::open(retention, |tail| {
        Ok(Arc::new(NatsEngine::open(options, tail)?) as Arc<dyn Engine>)
    })
}
