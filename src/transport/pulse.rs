//! What time does to a session on a streaming transport: heartbeats, and the end of its token.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::time::Sleep;

use crate::{auth::Identity, bus::SessionHandle, protocol::CloseReason};

/// A fresh token lets the client come back at once, spread a little.
const RECONNECT_SPREAD: Duration = Duration::from_secs(1);

/// One timer a connection, which fires when the next of its deadlines may have come. It is not
/// moved when events are sent: a deadline that has moved on meanwhile is looked at when it fires.
pub struct Pulse {
    sleep: Pin<Box<Sleep>>,
    heartbeat: Duration,
    token_end: Instant,
}

impl Pulse {
    pub fn new(identity: &Identity, heartbeat: Duration) -> Self {
        let mut pulse = Self {
            sleep: Box::pin(tokio::time::sleep(heartbeat)),
            heartbeat,
            token_end: token_end(identity),
        };
        pulse.arm(pulse.token_end.min(Instant::now() + heartbeat));
        pulse
    }

    /// A fresh token moves its end.
    pub fn refreshed(&mut self, identity: &Identity) {
        self.token_end = token_end(identity);
        self.arm(self.token_end.min(Instant::now() + self.heartbeat));
    }

    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// Whether the timer has fired. The transport then calls [`Pulse::tick`], looks at deadlines
    /// of its own, and arms the timer again.
    pub fn fired(&mut self, cx: &mut Context<'_>) -> bool {
        self.sleep.as_mut().poll(cx).is_ready()
    }

    /// Does what is due for the session, and returns when to look again.
    pub fn tick(&mut self, session: &SessionHandle, now: Instant) -> Instant {
        if now >= self.token_end {
            let wait = RECONNECT_SPREAD.mul_f64(fastrand::f64());
            session.with(|session| session.close(CloseReason::TokenExpired, wait));
            return now + self.heartbeat;
        }
        let due = session.with(|session| session.position_told()) + self.heartbeat;
        if now < due {
            return due.min(self.token_end);
        }
        let bus = session.shard().bus();
        session.with(|session| session.push_heartbeat(bus));
        (now + self.heartbeat).min(self.token_end)
    }

    pub fn arm(&mut self, at: Instant) {
        self.sleep.as_mut().reset(at.into());
    }
}

/// When a connection that is let in now ends with its token: at the token's end, or with the
/// leeway where the client's clock is so far off that it came after it.
pub fn token_end(identity: &Identity) -> Instant {
    let now = Timestamp::now();
    let end = if identity.expires_at > now {
        identity.expires_at
    } else {
        identity.valid_until()
    };
    let left = Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO);
    // Further than a century off, an instant may not be representable.
    Instant::now() + left.min(Duration::from_secs(100 * 365 * 24 * 3600))
}

/// Counts polls in a row that found nothing to send.
///
/// actix's HTTP/1 dispatcher reads ahead while a response is under way. With 128 KiB that it can
/// not parse on (requests that wait behind an open stream), it wakes itself without end, and polls
/// our body or future each time. Nothing else polls an idle connection thousands of times, so the
/// response is ended, and the dispatcher can go on with what it has read.
#[derive(Debug, Default)]
pub struct EmptyPolls(u32);

impl EmptyPolls {
    const MOST: u32 = 4096;

    /// Something was found, or is still being read.
    pub fn interrupted(&mut self) {
        self.0 = 0;
    }

    /// Notes a poll that found nothing; true where there have been so many that the dispatcher
    /// must be spinning.
    pub fn are_too_many(&mut self, session: &SessionHandle) -> bool {
        if session.with(|session| session.is_behind() && !session.awaits_engine()) {
            self.interrupted();
        } else {
            self.0 += 1;
        }
        self.0 > Self::MOST
    }
}

/// Waits for what a session has to send next; `None` once it has ended and was emptied.
pub fn poll_next(
    session: &SessionHandle,
    cx: &mut Context<'_>,
) -> Poll<Option<crate::session::Outgoing>> {
    if let Some(outgoing) = session.next() {
        return Poll::Ready(Some(outgoing));
    }
    session.with(|session| {
        if session.closed().is_some() {
            return Poll::Ready(None);
        }
        session.wake_with(cx.waker());
        if session.is_behind() && !session.awaits_engine() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
}
