//! A publish on its way to Redis, and those who wait for its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{entry::Outgoing, view::View};
use crate::{
    engine::{Appended, EngineError, IdempotencyKey},
    event::Draft,
};

/// Bytes of publishes that wait, or are on their way: many times what Redis takes at a time. More
/// are refused.
const WAITING_BYTES: usize = 64 << 20;
/// What a publish takes besides its events.
const OVERHEAD_BYTES: usize = 256;

/// What is to be appended.
pub struct Request {
    pub events: Vec<Outgoing>,
    pub key: Option<IdempotencyKey>,
    /// The entry of the stream of what is to be published that it came in.
    pub entry: Option<String>,
}

impl Request {
    pub fn new(drafts: &[Draft], key: Option<IdempotencyKey>) -> Self {
        let at = jiff::Timestamp::now().as_millisecond();
        Self {
            events: drafts
                .iter()
                .map(|draft| Outgoing::new(draft, at))
                .collect(),
            key,
            entry: None,
        }
    }

    pub fn note(note: Vec<u8>) -> Self {
        Self {
            events: vec![Outgoing::note(note)],
            key: None,
            entry: None,
        }
    }

    pub fn bytes(&self) -> usize {
        let events: usize = self.events.iter().map(Outgoing::len).sum();
        OVERHEAD_BYTES + events
    }
}

/// What became of a request. `None`: it came in an entry that another node has moved.
pub type Answer = Result<Option<Appended>, EngineError>;

/// A request that waits for the writer.
pub struct Waiting {
    pub request: Request,
    pub answer: oneshot::Sender<Answer>,
    fate: Arc<Fate>,
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    /// Whether somebody still waits for it. From here on nobody knows whether Redis has it, until
    /// it has answered.
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
    /// Bounded by the room.
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Semaphore>,
    timeout: Duration,
}

impl Requests {
    pub fn new(timeout: Duration) -> (Self, mpsc::UnboundedReceiver<Waiting>) {
        let (queue, incoming) = mpsc::unbounded_channel();
        let requests = Self {
            queue,
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            timeout,
        };
        (requests, incoming)
    }

    /// Puts it into the queue, in the order of these calls.
    ///
    /// # Errors
    /// See [`crate::engine::Engine::append`]; the message tells whether Redis may have it.
    pub fn append(
        &self,
        request: Request,
        view: &View,
    ) -> impl Future<Output = Answer> + Send + use<> {
        let asked = self.ask(request, view);
        let timeout = self.timeout;
        async move {
            let (answered, fate) = asked?;
            match tokio::time::timeout(timeout, answered).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(unknown())),
                Err(_) if fate.settle(Fate::GIVEN_UP) => Err(not_sent("Redis can not be reached")),
                Err(_) => Err(unknown()),
            }
        }
    }

    fn ask(
        &self,
        request: Request,
        view: &View,
    ) -> Result<(oneshot::Receiver<Answer>, Arc<Fate>), EngineError> {
        // Who waits then would wait in vain, and many of them take memory.
        if let Some(why) = view.unwritable_for(self.timeout) {
            return Err(not_sent(&why));
        }
        let bytes = u32::try_from(request.bytes()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes);
        let room = room.map_err(|_| not_sent("more waits than Redis takes"))?;
        let (answer, answered) = oneshot::channel();
        let fate = Arc::new(Fate::default());
        let waiting = Waiting {
            request,
            answer,
            fate: Arc::clone(&fate),
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

/// Redis was asked, and has not answered.
pub fn unknown() -> EngineError {
    EngineError::Unavailable(
        "Redis has not answered, so it is not known whether this was published: sending it again \
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
