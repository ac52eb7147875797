//! What a client's messages wait for: publishes together, anything else alone. Effects and answers
//! come in the order of the messages.

use std::{
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{StreamExt, stream::FuturesOrdered};

use super::socket::Message;
use crate::{
    bus::StartPoint,
    engine::Appended,
    protocol::{Ref, Refusal, SubscribeRequest},
    session::Announcement,
};

/// Publishes that wait at the same time, and about so many bytes of them: enough that the log takes many
/// at once, and what one client may hold.
const MOST_PUBLISHES: usize = 32;
const MOST_BYTES: usize = 128 * 1024;

pub(super) type Effect = Pin<Box<dyn Future<Output = Done>>>;

pub(super) enum Done {
    Subscribe {
        request: SubscribeRequest,
        start: Result<StartPoint, Refusal>,
        announcement: Announcement,
    },
    Published {
        appended: Result<Appended, Refusal>,
        reference: Option<Ref>,
    },
    /// What came behind a publish, and was refused at once.
    Refused {
        refusal: Refusal,
        reference: Option<Ref>,
    },
}

/// What one connection waits for.
#[derive(Default)]
pub(super) enum Work {
    #[default]
    None,
    Alone(Effect),
    Publishes(Box<Publishes>),
}

#[derive(Default)]
pub(super) struct Publishes {
    waiting: FuturesOrdered<Effect>,
    /// Of all that came since nothing waited.
    bytes: usize,
    /// No publish, so that it has its effect when all of these have had theirs.
    next: Option<Message>,
}

impl Work {
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// Whether one more message may be read.
    pub fn has_room(&self) -> bool {
        match self {
            Self::None => true,
            Self::Alone(_) => false,
            Self::Publishes(publishes) => {
                publishes.next.is_none()
                    && publishes.waiting.len() < MOST_PUBLISHES
                    && publishes.bytes < MOST_BYTES
            }
        }
    }

    /// Puts a publish of so many bytes behind those that wait.
    pub fn push(&mut self, publish: Effect, bytes: usize) {
        if !matches!(self, Self::Publishes(_)) {
            *self = Self::Publishes(Box::default());
        }
        if let Self::Publishes(publishes) = self {
            publishes.waiting.push_back(publish);
            publishes.bytes += bytes;
        }
    }

    /// Answers with a refusal in its turn; gives it back where nothing waits.
    pub fn refuse(&mut self, refusal: Refusal, reference: Option<Ref>) -> Option<Refusal> {
        if !matches!(self, Self::Publishes(_)) {
            return Some(refusal);
        }
        self.push(Box::pin(ready(Done::Refused { refusal, reference })), 0);
        None
    }

    /// Keeps a message until the publishes in front of it have had their effect.
    pub fn defer(&mut self, message: Message) {
        if let Self::Publishes(publishes) = self {
            publishes.next = Some(message);
        }
    }

    /// The message that was kept, when its turn has come.
    pub fn deferred(&mut self) -> Option<Message> {
        match self {
            Self::Publishes(publishes) if publishes.waiting.is_empty() => {
                let next = publishes.next.take();
                *self = Self::None;
                next
            }
            _ => None,
        }
    }

    /// The next effect that is there.
    pub fn poll_done(&mut self, cx: &mut Context<'_>) -> Option<Done> {
        match self {
            Self::None => None,
            Self::Alone(effect) => match effect.as_mut().poll(cx) {
                Poll::Ready(done) => {
                    *self = Self::None;
                    Some(done)
                }
                Poll::Pending => None,
            },
            Self::Publishes(publishes) => match publishes.waiting.poll_next_unpin(cx) {
                Poll::Ready(Some(done)) => Some(done),
                Poll::Ready(None) | Poll::Pending => None,
            },
        }
    }
}
