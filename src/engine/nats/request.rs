//! A publish on its way to NATS, and those who wait for its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    message::{encode, encode_note},
    view::View,
};
use crate::{
    engine::{Appended, EngineError, IdempotencyKey, remote::Encoded},
    event::Draft,
};

/// Publishes that wait, or are on their way; more are refused.
const WAITING: usize = 8192;
/// Bytes of these: many times what NATS takes at a time. More are refused.
const WAITING_BYTES: usize = 64 << 20;
/// What a publish takes besides its events.
const OVERHEAD_BYTES: usize = 512;

pub type Answer = Result<Appended, EngineError>;

/// What is to be appended.
pub struct Request {
    pub payload: Bytes,
    pub count: u64,
    pub key: Option<IdempotencyKey>,
    /// It comes from a message that is there to be published, whose place is in no limit.
    pub is_moved: bool,
}

impl Request {
    pub fn new(drafts: &[Draft], key: Option<IdempotencyKey>) -> Self {
        let at = jiff::Timestamp::now().as_millisecond();
        let events: Vec<Encoded> = drafts.iter().map(|draft| Encoded::new(draft, at)).collect();
        Self {
            payload: encode(&events, key.map(|key| key.request)).into(),
            count: events.len() as u64,
            key,
            is_moved: false,
        }
    }

    pub fn note(note: &[u8]) -> Self {
        Self {
            payload: encode_note(note).into(),
            count: 1,
            key: None,
            is_moved: false,
        }
    }
}

/// A request that waits for the writer.
pub struct Waiting {
    pub request: Request,
    answer: oneshot::Sender<Answer>,
    fate: Arc<Fate>,
    _place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    /// Whether somebody still waits for it, or never said otherwise. From here on nobody knows
    /// whether NATS has it, until it has answered.
    pub fn send(&self) -> bool {
        self.fate.settle(Fate::SENT)
    }

    pub fn answer(self, answer: Answer) {
        // Whoever published may be gone; the event is there all the same.
        let _ = self.answer.send(answer);
    }
}

/// Whether a request was sent or given up, whichever came first.
#[derive(Default)]
struct Fate(AtomicU8);

impl Fate {
    const OPEN: u8 = 0;
    const SENT: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// Whether it is as asked, and not the other way.
    fn settle(&self, fate: u8) -> bool {
        let settled =
            self.0
                .compare_exchange(Self::OPEN, fate, Ordering::AcqRel, Ordering::Acquire);
        settled.map_or_else(|there| there == fate, |_| true)
    }
}

/// The way to the writer.
pub struct Requests {
    queue: mpsc::UnboundedSender<Waiting>,
    places: Arc<Semaphore>,
    room: Arc<Semaphore>,
    timeout: Duration,
}

impl Requests {
    pub fn new(timeout: Duration) -> (Self, mpsc::UnboundedReceiver<Waiting>) {
        // Bounded by its places.
        let (queue, incoming) = mpsc::unbounded_channel();
        let requests = Self {
            queue,
            places: Arc::new(Semaphore::new(WAITING)),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            timeout,
        };
        (requests, incoming)
    }

    /// Puts it in line now. The future is what became of it.
    ///
    /// # Errors
    /// See [`crate::engine::Engine::append`]; the message tells whether NATS may have it.
    pub fn append(
        &self,
        request: Request,
        view: &View,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let waiting = self.enqueue(request, view);
        let timeout = self.timeout;
        async move {
            let (answered, fate) = waiting?;
            match tokio::time::timeout(timeout, answered).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(unknown())),
                Err(_) if fate.settle(Fate::GIVEN_UP) => Err(not_sent("NATS can not be reached")),
                Err(_) => Err(unknown()),
            }
        }
    }

    fn enqueue(
        &self,
        request: Request,
        view: &View,
    ) -> Result<(oneshot::Receiver<Answer>, Arc<Fate>), EngineError> {
        // Who waits then would wait in vain, and many of them take memory.
        if let Some(why) = view.unwritable_for(self.timeout) {
            return Err(not_sent(&why));
        }
        let bytes = u32::try_from(OVERHEAD_BYTES + request.payload.len()).unwrap_or(u32::MAX);
        let full = |_| not_sent("more waits than NATS takes");
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(full)?;
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let room = room.map_err(full)?;
        let (answer, answered) = oneshot::channel();
        let fate = Arc::new(Fate::default());
        let waiting = Waiting {
            request,
            answer,
            fate: Arc::clone(&fate),
            _place: place,
            _room: room,
        };
        let sent = self.queue.send(waiting);
        sent.map_err(|_| not_sent("the log is closed"))?;
        Ok((answered, fate))
    }
}

/// Nothing was published, for this reason.
pub fn not_sent(why: &str) -> EngineError {
    EngineError::Unavailable(format!("{why}: nothing was published, try again later").into())
}

/// NATS was asked, and has not answered.
pub fn unknown() -> EngineError {
    EngineError::Unavailable(
        "NATS has not answered, so it is not known whether this was published: sending it again \
         with the same idempotency key is safe"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_sent_or_given_up_and_never_both() {
        let fate = Fate::default();
        assert!(fate.settle(Fate::SENT) && fate.settle(Fate::SENT));
        assert!(!fate.settle(Fate::GIVEN_UP));
    }
}
