//! The one task that appends: sends what waits in the order in which it came, many at a time, and
//! has each answered when NATS has.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    ErrorCode,
    context::{PublishAckFuture, PublishError, PublishErrorKind},
    message::PublishMessage,
    publish::PublishAck,
};
use tokio::sync::mpsc;

use super::{
    SERVER,
    message::{Mark, Message, decode},
    meta::Numbered,
    names::Names,
    request::{Answer, Request, Waiting},
    server::{Trouble, error_code_in, told},
    streams::message,
    view::{Open, View, usable},
};
use crate::{
    engine::{
        Appended, EngineError, IdempotencyKey, IdempotencyLimits,
        idempotency::IdempotencyWindow,
        remote::{not_sent, unknown},
    },
    event::Cursor,
};

/// How soon a key that is under way is sent again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The writer's task.
pub struct Writer {
    pub names: Arc<Names>,
    pub view: Arc<View>,
    incoming: mpsc::UnboundedReceiver<Waiting>,
    /// Of this node only, for its limits: what is a duplicate is for NATS to say.
    keys: IdempotencyWindow,
}

impl Writer {
    pub fn new(
        names: &Arc<Names>,
        view: &Arc<View>,
        incoming: mpsc::UnboundedReceiver<Waiting>,
        limits: IdempotencyLimits,
    ) -> Self {
        Self {
            names: Arc::clone(names),
            view: Arc::clone(view),
            incoming,
            keys: IdempotencyWindow::new(limits),
        }
    }

    /// Appends until the engine is gone.
    pub async fn run(mut self) {
        let mut openings = self.view.openings();
        while let Some(waiting) = self.incoming.recv().await {
            let Some(open) = usable(&mut openings).await else {
                return;
            };
            if waiting.send()
                && let Some(waiting) = self.admit(waiting)
            {
                self.send(open, waiting).await;
            }
        }
    }

    /// Refuses a key that there is no place for.
    fn admit(&mut self, waiting: Waiting) -> Option<Waiting> {
        // What a backend put into NATS is there already.
        let key = waiting.request.key.as_ref();
        let Some(key) = key.filter(|_| !waiting.request.is_moved) else {
            return Some(waiting);
        };
        let now = Instant::now();
        let taken_on = self.keys.take_on(key, now);
        let keys = self.keys.len(now);
        self.view.health.keys.store(keys, Ordering::Relaxed);
        match taken_on {
            Ok(()) => Some(waiting),
            Err(error) => {
                waiting.answer(Err(error));
                None
            }
        }
    }

    /// Sends it, and leaves the wait for its answer to a task, of which there are as many as
    /// publishes on their way.
    async fn send(&self, open: Arc<Open>, waiting: Waiting) {
        let (names, view) = (Arc::clone(&self.names), Arc::clone(&self.view));
        match send(&open, &names, &waiting.request).await {
            Ok(sent) => {
                tokio::spawn(async move {
                    let answer = match acknowledged(&open, &names, &waiting, sent).await {
                        Ok(ack) => {
                            // Its sequence is numbered as the log that was claimed last says.
                            let open = view.open().unwrap_or(open);
                            accept(&open, &view, &waiting.request, &ack).await
                        }
                        Err(error) => Err(refuse(&view, &error)),
                    };
                    waiting.answer(answer);
                });
            }
            Err(error) => waiting.answer(Err(refuse(&self.view, &error))),
        }
    }
}

async fn send(
    open: &Open,
    names: &Names,
    request: &Request,
) -> Result<PublishAckFuture, PublishError> {
    let publish = publish_of(request, &names.log);
    let subject = names.log_subject.clone();
    open.session.jetstream.send_publish(subject, publish).await
}

/// What NATS answers. Where the same key is under way already that is waited for, by sending it again.
async fn acknowledged(
    open: &Open,
    names: &Names,
    waiting: &Waiting,
    sent: PublishAckFuture,
) -> Result<PublishAck, PublishError> {
    let mut answer = sent.await;
    while answer.as_ref().is_err_and(is_under_way) && waiting.is_awaited() {
        tokio::time::sleep(ASK_AGAIN).await;
        answer = send(open, names, &waiting.request).await?.await;
    }
    answer
}

/// Servers of a cluster answer so while they agree on an earlier message with the same key.
fn is_under_way(error: &PublishError) -> bool {
    error_code_in(error) == Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT)
}

fn publish_of(request: &Request, stream: &str) -> PublishMessage {
    let publish = PublishMessage::build()
        .payload(request.payload.clone())
        .expected_stream(stream);
    match &request.key {
        Some(key) => publish.message_id(message_id(key)),
        None => publish,
    }
}

fn message_id(key: &IdempotencyKey) -> String {
    format!("{:032x}", u128::from_be_bytes(key.scoped))
}

async fn accept(open: &Open, view: &View, request: &Request, ack: &PublishAck) -> Answer {
    view.health.commits.fetch_add(1, Ordering::Relaxed);
    if !ack.duplicate {
        view.saw(&open.log, Mark::of(ack.sequence, &request.payload));
        return appended(&open.log, ack.sequence, request.count, false)
            .ok_or_else(|| unknown(SERVER));
    }
    match before(open, request, ack.sequence).await {
        Ok(answer) => answer,
        Err(trouble) => {
            tracing::debug!(%trouble, "can not read what an idempotency key stands for");
            Err(unknown(SERVER))
        }
    }
}

fn appended(log: &Numbered, sequence: u64, count: u64, duplicate: bool) -> Option<Appended> {
    Some(Appended {
        first: Cursor::new(log.log.clone(), log.numbering.position(sequence, 0)?),
        count,
        duplicate,
    })
}

/// What was answered to whoever used the key first.
async fn before(open: &Open, request: &Request, sequence: u64) -> Result<Answer, Trouble> {
    let there = message(&open.stream, sequence).await?;
    let there = there.and_then(|there| decode(&there.payload).ok());
    let count = match &there {
        Some(Message::Publish(there)) if there.request != request.key.map(|key| key.request) => {
            return Ok(Err(EngineError::Conflict));
        }
        Some(there) => there.count(),
        // It is trimmed already; whoever sends a key again sends the same.
        None => request.count,
    };
    let now = appended(&open.log, sequence, count, true);
    let appended = now.or_else(|| appended(open.before.as_ref()?, sequence, count, true));
    Ok(appended.ok_or_else(|| unknown(SERVER)))
}

/// What is not known is said: only what NATS refuses, or never had, was not published.
fn refuse(view: &View, error: &PublishError) -> EngineError {
    view.health.write_failures.fetch_add(1, Ordering::Relaxed);
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => EngineError::TooLarge(
            format!(
                "NATS does not take so much at once ({}): send it in parts, or have max_payload of \
                 NATS raised",
                told(error)
            )
            .into(),
        ),
        PublishErrorKind::StreamNotFound | PublishErrorKind::MaxAckPending => not_taken(error),
        _ if error_code_in(error).is_some() && !is_under_way(error) => not_taken(error),
        _ => unknown(SERVER),
    }
}

fn not_taken(error: &PublishError) -> EngineError {
    not_sent(&format!("NATS does not take it ({})", told(error)))
}
