//! The budgets of one TCP connection.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicBool, Ordering},
};

use governor::{
    Quota as GovernorQuota, RateLimiter,
    clock::{Clock, MonotonicClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

use crate::{
    config::LimitsConfig,
    protocol::{LimitKind, Quota, Refusal},
};

/// Bytes are counted in steps of so many, rounded up: governor's rates are whole nanoseconds a
/// step, too coarse for tens of megabytes a second.
const BYTES_PER_STEP: usize = 16;

type Limiter =
    RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<std::time::Instant>>;

/// What every connection gets.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionRates {
    messages: GovernorQuota,
    bytes: GovernorQuota,
}

impl ConnectionRates {
    pub fn new(config: &LimitsConfig) -> Self {
        let steps = |bytes: usize| bytes.div_ceil(BYTES_PER_STEP);
        Self {
            messages: quota(
                config.messages_per_second as usize,
                config.message_burst as usize,
            ),
            bytes: quota(steps(config.bytes_per_second.0), steps(config.byte_burst.0)),
        }
    }
}

fn quota(per_second: usize, burst: usize) -> GovernorQuota {
    GovernorQuota::per_second(at_least_one(per_second)).allow_burst(at_least_one(burst))
}

fn at_least_one(number: usize) -> NonZeroU32 {
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN)
}

/// The budget of messages (or requests) and bytes of one TCP connection; ends with it.
pub struct ConnectionLimiter {
    messages: Limiter,
    bytes: Limiter,
    greeted: AtomicBool,
}

impl ConnectionLimiter {
    pub fn new(rates: ConnectionRates) -> Self {
        Self {
            messages: RateLimiter::direct_with_clock(rates.messages, MonotonicClock),
            bytes: RateLimiter::direct_with_clock(rates.bytes, MonotonicClock),
            greeted: AtomicBool::new(false),
        }
    }

    /// Whether a handshake was charged for this connection.
    pub fn is_greeted(&self) -> bool {
        self.greeted.load(Ordering::Relaxed)
    }

    /// Notes that a handshake was charged, so that later requests need none.
    pub fn greet(&self) {
        self.greeted.store(true, Ordering::Relaxed);
    }

    /// Takes one message or request.
    ///
    /// # Errors
    /// `rate_limited` with the time until there is budget again.
    pub fn take_message(&self) -> Result<(), Refusal> {
        self.messages.check().map_err(|not_until| {
            Refusal::rate_limited(
                "too many messages on this connection: slow down",
                LimitKind::Messages,
                told(not_until.quota()),
                not_until.wait_time_from(MonotonicClock.now()),
            )
        })
    }

    /// Takes so many bytes of messages or bodies.
    ///
    /// # Errors
    /// `rate_limited` with the time until there is budget again; `too_large` where there never is
    /// as much.
    pub fn take_bytes(&self, bytes: usize) -> Result<(), Refusal> {
        let Some(steps) =
            NonZeroU32::new(u32::try_from(bytes.div_ceil(BYTES_PER_STEP)).unwrap_or(u32::MAX))
        else {
            return Ok(());
        };
        match self.bytes.check_n(steps) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let steps = told(not_until.quota());
                let quota = Quota {
                    count: steps.count.saturating_mul(BYTES_PER_STEP as u32),
                    ..steps
                };
                Err(Refusal::rate_limited(
                    "too many bytes on this connection: slow down",
                    LimitKind::Bytes,
                    quota,
                    not_until.wait_time_from(MonotonicClock.now()),
                ))
            }
            Err(_) => Err(Refusal::too_large(
                "more bytes than a connection may send at once: send them in parts",
            )),
        }
    }
}

/// As the `RateLimit-Policy` header tells it.
pub(super) fn told(quota: GovernorQuota) -> Quota {
    Quota {
        count: quota.burst_size().get(),
        window_seconds:
            u32::try_from(quota.burst_size_replenished_in().as_secs_f64().ceil() as u64)
                .unwrap_or(u32::MAX)
                .max(1),
    }
}
