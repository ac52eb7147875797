//! Publishes on their way to a server, and those who wait for its answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Health;
use crate::engine::EngineError;

/// Bytes of publishes that wait, or are on their way: many times what a server takes at a time. More
/// are refused.
const WAITING_BYTES: usize = 64 << 20;

/// What a server is asked to append.
pub trait Appending {
    /// What the server answers.
    type Answer;

    /// What it takes in memory while it waits.
    fn bytes(&self) -> usize;
}

pub type Answer<R> = Result<<R as Appending>::Answer, EngineError>;

/// A request that waits for the writer.
pub struct Waiting<R: Appending> {
    pub request: R,
    answer: oneshot::Sender<Answer<R>>,
    fate: Arc<Fate>,
    _place: OwnedSemaphorePermit,
    _room: OwnedSemaphorePermit,
}

impl<R: Appending> Waiting<R> {
    /// Whether somebody still waits for it. From here on nobody knows whether the server has it,
    /// until it has answered.
    pub fn send(&self) -> bool {
        self.fate.settle(Fate::SENT)
    }

    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        !self.answer.is_closed()
    }

    pub fn answer(self, answer: Answer<R>) {
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
pub struct Requests<R: Appending> {
    /// Bounded by the places and the room.
    queue: mpsc::UnboundedSender<Waiting<R>>,
    places: Arc<Semaphore>,
    room: Arc<Semaphore>,
    timeout: Duration,
    /// What the server is called.
    server: &'static str,
}

impl<R: Appending> Requests<R> {
    /// Of at most so many publishes at a time, each of which is answered within a time. Comes with
    /// the end that the writer has.
    pub fn new(
        server: &'static str,
        most: usize,
        timeout: Duration,
    ) -> (Self, mpsc::UnboundedReceiver<Waiting<R>>) {
        let (queue, incoming) = mpsc::unbounded_channel();
        let requests = Self {
            queue,
            places: Arc::new(Semaphore::new(most)),
            room: Arc::new(Semaphore::new(WAITING_BYTES)),
            timeout,
            server,
        };
        (requests, incoming)
    }

    /// Puts it into the queue, in the order of these calls. The future is what became of it.
    ///
    /// # Errors
    /// See [`crate::engine::Engine::append`]; the message tells whether the server may have it.
    pub fn append(
        &self,
        request: R,
        health: &Health,
    ) -> impl Future<Output = Answer<R>> + Send + use<R>
    where
        R::Answer: Send,
    {
        let asked = self.ask(request, health);
        let (timeout, server) = (self.timeout, self.server);
        async move {
            let (answered, fate) = asked?;
            match tokio::time::timeout(timeout, answered).await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(unknown(server))),
                Err(_) if fate.settle(Fate::GIVEN_UP) => {
                    Err(not_sent(&format!("{server} can not be reached")))
                }
                Err(_) => Err(unknown(server)),
            }
        }
    }

    fn ask(
        &self,
        request: R,
        health: &Health,
    ) -> Result<(oneshot::Receiver<Answer<R>>, Arc<Fate>), EngineError> {
        // Who waits then would wait in vain, and many of them take memory.
        if let Some(why) = health.unwritable_for(self.timeout) {
            return Err(not_sent(&why));
        }
        let full = |_| not_sent(&format!("more waits than {} takes", self.server));
        let bytes = u32::try_from(request.bytes()).unwrap_or(u32::MAX);
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

/// The server was asked, and has not answered.
pub fn unknown(server: &str) -> EngineError {
    EngineError::Unavailable(
        format!(
            "{server} has not answered, so it is not known whether this was published: sending it \
             again with the same idempotency key is safe"
        )
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
