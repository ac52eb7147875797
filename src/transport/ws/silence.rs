//! When a client is taken for gone: only silence in which it could have answered counts.

use std::time::{Duration, Instant};

/// Heartbeats without anything received, Pongs included, that a client may let pass.
const HEARTBEATS: f64 = 2.5;
/// Heartbeats that it has for its answer to a Ping. With Pings on time that is less than the above;
/// but where the gateway itself was held up, so was its Ping.
const HEARTBEATS_TO_ANSWER: f64 = 1.5;

#[derive(Debug)]
pub struct Silence {
    since: Instant,
    /// The first Ping since then.
    asked: Option<Instant>,
}

impl Silence {
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            asked: None,
        }
    }

    /// Something was received, or nothing could have been: silence counts from now.
    pub fn restart(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// A Ping is sent.
    pub fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// When the client is taken for gone, if nothing is received until then.
    pub fn end(&self, heartbeat: Duration) -> Instant {
        let end = self.since + heartbeat.mul_f64(HEARTBEATS);
        match self.asked {
            Some(asked) => end.max(asked + heartbeat.mul_f64(HEARTBEATS_TO_ANSWER)),
            None => end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_secs(10);

    #[test]
    fn a_client_that_is_asked_in_time_has_two_and_a_half_heartbeats() {
        let start = Instant::now();
        for first_ping in [0, 3, 10] {
            let mut silence = Silence::new(start);
            for ping in [first_ping, first_ping + 10] {
                silence.asked(start + Duration::from_secs(ping));
                assert_eq!(silence.end(HEARTBEAT), start + Duration::from_secs(25));
            }
        }
    }

    #[test]
    fn a_client_that_is_asked_late_has_time_to_answer() {
        let start = Instant::now();
        let mut silence = Silence::new(start);
        silence.asked(start + Duration::from_secs(60));
        silence.asked(start + Duration::from_secs(61));
        assert_eq!(silence.end(HEARTBEAT), start + Duration::from_secs(75));
        silence.restart(start + Duration::from_secs(70));
        assert_eq!(silence.end(HEARTBEAT), start + Duration::from_secs(95));
        silence.asked(start + Duration::from_secs(90));
        assert_eq!(silence.end(HEARTBEAT), start + Duration::from_secs(105));
    }
}
