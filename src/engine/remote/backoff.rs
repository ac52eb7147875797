//! How long to wait before a server is tried again.

use std::time::Duration;

/// Rising, with jitter, so that the nodes of a log do not all come back at once.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(25);
    const MOST: Duration = Duration::from_secs(1);

    pub async fn wait(&mut self) {
        tokio::time::sleep(self.0.mul_f64(0.5 + fastrand::f64())).await;
        self.0 = (2 * self.0).min(Self::MOST);
    }

    pub fn reset(&mut self) {
        *self = Self::default();
    }
}
