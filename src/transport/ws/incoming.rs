//! What the client says: read, work on, answer.

use std::{
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    Stage, WsBody,
    framing::{Encoding, put_frame},
    socket::{End, Message},
    work::{Done, Work},
};
use crate::{
    auth::Identity,
    bus::StartPoint,
    metrics::{Channel, Credential, Way},
    protocol::{
        ClientFrame, ClientMessage, CloseReason, ErrorCode, Publish, PublishRequest, Ref, Refusal,
        ServerFrame, SubscribeRequest, msgpack_to_json,
    },
    session::{Announcement, Peer},
    transport::{
        credentials::{note_failure, verify_token},
        presence, publish,
        worker::Worker,
    },
};

/// Messages handled before the worker's other connections get their turn.
const MESSAGES_PER_TURN: usize = 32;
/// Refusals for sending too fast within the time below, after which the connection is closed.
const MOST_STRIKES: u32 = 200;
const STRIKES_WINDOW: Duration = Duration::from_secs(10);

/// Refusals for sending too fast.
#[derive(Default)]
pub(super) struct Strikes {
    count: u32,
    since: Option<Instant>,
}

impl WsBody {
    pub(super) fn receive(&mut self, cx: &mut Context<'_>) {
        for _ in 0..MESSAGES_PER_TURN {
            self.finish_work(cx);
            if let Some(message) = self.work.deferred() {
                self.take(message);
                continue;
            }
            if !self.takes_messages() {
                // Whoever is not listened to is not silent.
                return self.socket.excuse_silence();
            }
            match self.socket.poll_message(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(message)) => self.handle(message),
                // What was read before is appended all the same; nobody is left to be answered.
                Poll::Ready(Err(End::Violation(reason))) => return self.end_with(reason),
                Poll::Ready(Err(End::Left)) => return self.end(),
            }
        }
        self.finish_work(cx);
        cx.waker().wake_by_ref();
    }

    /// A client that sends faster than its messages are worked on, or than it reads the replies,
    /// is held back by its own TCP connection.
    fn takes_messages(&self) -> bool {
        let has_room = match &self.stage {
            Stage::AwaitingAuth { .. } => true,
            Stage::Open(open) => open
                .connection
                .session
                .with(|session| !session.is_congested() && session.closed().is_none()),
            Stage::Ended => false,
        };
        has_room && self.work.has_room()
    }

    fn finish_work(&mut self, cx: &mut Context<'_>) {
        while let Some(done) = self.work.poll_done(cx) {
            self.apply(done);
        }
    }

    fn handle(&mut self, message: Message) {
        let bytes = message.len();
        let metrics = self.worker.metrics();
        metrics.received_bytes(Channel::WebSocket, bytes);
        if let Err(refusal) = self.charge(&message) {
            return self.refuse_message(refusal, &message);
        }
        self.take(message);
    }

    fn take(&mut self, message: Message) {
        match (&message, self.encoding) {
            (Message::Control, _) => {}
            (Message::Text(text), Encoding::Json) => self.handle_text(text, &message),
            (Message::Binary(packed), Encoding::Msgpack) => match msgpack_to_json(packed) {
                Ok(text) => self.handle_text(&text, &message),
                Err(error) => {
                    let refusal = Refusal::bad_request(format!("not MessagePack: {error}"));
                    self.handle_frame(ClientFrame::refused(refusal), &message);
                }
            },
            (Message::Text(_), Encoding::Msgpack) | (Message::Binary(_), Encoding::Json) => {
                self.end_with(CloseReason::UnsupportedFrame);
            }
        }
    }

    fn handle_text(&mut self, text: &str, whole: &Message) {
        let limits = self.worker.shared.settings.subscriptions;
        self.handle_frame(ClientFrame::parse(text, limits), whole);
    }

    fn handle_frame(&mut self, frame: ClientFrame<'_>, whole: &Message) {
        match self.stage {
            Stage::AwaitingAuth { .. } => self.handle_first(frame),
            Stage::Open(_) => {
                let ClientFrame {
                    reference, message, ..
                } = frame;
                let outcome =
                    message.and_then(|message| self.obey(message, reference.clone(), whole));
                self.answer(outcome, reference);
            }
            Stage::Ended => {}
        }
    }

    fn handle_first(&mut self, frame: ClientFrame<'_>) {
        if !frame.is_auth {
            let reason = CloseReason::AuthExpected;
            let refusal = Refusal::new(ErrorCode::Unauthorized, reason.message());
            self.note_auth_failure(Credential::None, &refusal);
            return self.refuse(&refusal, frame.reference, reason);
        }
        let verified = match frame.message {
            Ok(ClientMessage::Auth { token }) => Self::verify(&self.worker, self.peer, &token),
            Ok(_) => Err(Refusal::new(ErrorCode::Unauthorized, "no token")),
            Err(refusal) => Err(Refusal::new(ErrorCode::Unauthorized, refusal.message)),
        };
        match verified {
            Ok(identity) => {
                let reply = auth_success(&identity, frame.reference);
                put_frame(self.socket.out(), self.encoding, &reply);
                let waiting = std::mem::replace(&mut self.stage, Stage::Ended);
                if let Stage::AwaitingAuth { query, slot, .. } = waiting {
                    self.open(identity, slot, *query);
                }
            }
            Err(refusal) => {
                let close = match refusal.code {
                    ErrorCode::Unavailable => CloseReason::Unavailable,
                    ErrorCode::Revoked => CloseReason::Revoked,
                    ErrorCode::RateLimited => CloseReason::Refused,
                    _ => CloseReason::AuthFailed,
                };
                self.refuse(&refusal, frame.reference, close);
            }
        }
    }

    fn verify(worker: &Worker, peer: Peer, token: &str) -> Result<Arc<Identity>, Refusal> {
        verify_token(worker, token)
            .map_err(|refusal| note_failure(worker, peer.address, Credential::Message, refusal))
    }

    /// Does what an authenticated client says, or starts to, or leaves it for when the publishes in
    /// front of it have had their effect.
    fn obey(
        &mut self,
        message: ClientMessage<'_>,
        reference: Option<Ref>,
        whole: &Message,
    ) -> Result<(), Refusal> {
        if !self.work.is_none() && !matches!(message, ClientMessage::Publish(_)) {
            self.work.defer(whole.clone());
            return Ok(());
        }
        let Stage::Open(open) = &mut self.stage else {
            return Ok(());
        };
        let session = &open.connection.session;
        match message {
            ClientMessage::Ping => {
                let cursor = session.shard().bus().cursor(session.position());
                self.reply(ServerFrame::Pong { cursor, reference });
                Ok(())
            }
            ClientMessage::Auth { token } => {
                let identity = Self::verify(&self.worker, self.peer, &token)?;
                let reply = auth_success(&identity, reference);
                session.refresh(Arc::clone(&identity), reply)?;
                open.pulse.refreshed(&identity);
                Ok(())
            }
            ClientMessage::Subscribe(request) => {
                self.start_subscribing(request, Announcement::Subscribed { reference });
                Ok(())
            }
            ClientMessage::Unsubscribe(filters) => {
                session.unsubscribe(&filters, None, reference);
                Ok(())
            }
            ClientMessage::Presence(asked) => {
                let identity = session.with(|session| Arc::clone(session.identity()));
                let answer = presence::answer(&self.worker, &identity, &asked)?;
                self.reply(ServerFrame::Presence { answer, reference });
                Ok(())
            }
            ClientMessage::Publish(message) => {
                self.start_publishing(*message, reference, whole.len())
            }
        }
    }

    pub(super) fn start_subscribing(
        &mut self,
        request: SubscribeRequest,
        announcement: Announcement,
    ) {
        let shard = Rc::clone(&self.worker.shard);
        self.work = Work::Alone(Box::pin(async move {
            Done::Subscribe {
                start: shard.bus().start(&request.start).await,
                request,
                announcement,
            }
        }));
    }

    fn start_publishing(
        &mut self,
        message: Publish<'_>,
        reference: Option<Ref>,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let Stage::Open(open) = &self.stage else {
            return Ok(());
        };
        let connection = &open.connection;
        let identity = connection
            .session
            .with(|session| Arc::clone(session.identity()));
        let subject = Arc::clone(connection.subject());
        let publisher = (&*identity, &*subject);
        let key = message.key().map(str::to_owned);
        let request = PublishRequest::from_message(message);
        let prepared = publish::prepare(&self.worker, publisher, request, key.as_deref(), None)?;
        let publisher = (identity, subject);
        let appending = publish::append(&self.worker, publisher, prepared, Way::WebSocket);
        let published = async move {
            Done::Published {
                appended: appending.await,
                reference,
            }
        };
        self.work.push(Box::pin(published), bytes);
        Ok(())
    }

    fn apply(&mut self, done: Done) {
        match done {
            Done::Published {
                appended: Ok(appended),
                reference,
            } => self.reply(ServerFrame::Published {
                id: appended.first.to_string(),
                duplicate: appended.duplicate,
                durability: self.worker.shard.bus().durability(),
                reference,
            }),
            Done::Published {
                appended: Err(refusal),
                reference,
            }
            | Done::Refused { refusal, reference } => self.tell_refusal(&refusal, reference),
            Done::Subscribe {
                request,
                start,
                announcement,
            } => self.subscribe(request, start, announcement),
        }
    }

    fn subscribe(
        &mut self,
        request: SubscribeRequest,
        start: Result<StartPoint, Refusal>,
        announcement: Announcement,
    ) {
        let Stage::Open(open) = &self.stage else {
            return;
        };
        let connection = &open.connection;
        let subscribed =
            start.and_then(|start| connection.subscribe(request, start, announcement.clone()));
        if let Err(refusal) = subscribed {
            match announcement {
                Announcement::Connected { .. } => self.refuse_url(&refusal),
                Announcement::Subscribed { reference } => self.tell_refusal(&refusal, reference),
            }
        }
    }

    /// Tells of a refused message, in its turn; one that was obeyed has its reply already.
    fn answer(&mut self, outcome: Result<(), Refusal>, reference: Option<Ref>) {
        if let Err(refusal) = outcome
            && let Some(refusal) = self.work.refuse(refusal, reference.clone())
        {
            self.tell_refusal(&refusal, reference);
        }
    }

    /// Too many that came over a rate end the connection.
    fn tell_refusal(&mut self, refusal: &Refusal, reference: Option<Ref>) {
        let is_strike = refusal.code == ErrorCode::RateLimited;
        if is_strike && self.strikes.add(Instant::now()) > MOST_STRIKES {
            return self.refuse(refusal, reference, CloseReason::RateLimited);
        }
        self.note_refusal(refusal);
        self.reply(ServerFrame::error(refusal, reference));
    }

    /// Puts a reply behind the events that wait to be sent.
    pub(super) fn reply(&mut self, frame: ServerFrame) {
        match &self.stage {
            Stage::Open(open) => open
                .connection
                .session
                .with(|session| session.push_frame(frame)),
            Stage::AwaitingAuth { .. } | Stage::Ended => {
                put_frame(self.socket.out(), self.encoding, &frame);
            }
        }
    }

    fn charge(&self, message: &Message) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        limiter.take_message()?;
        limiter.take_bytes(message.len())
    }

    /// A message over the rate has no effect; its reply echoes its `ref`.
    fn refuse_message(&mut self, refusal: Refusal, message: &Message) {
        let limits = self.worker.shared.settings.subscriptions;
        let reference = match (message, self.encoding) {
            (Message::Text(text), Encoding::Json) => ClientFrame::parse(text, limits).reference,
            (Message::Binary(packed), Encoding::Msgpack) => msgpack_to_json(packed)
                .ok()
                .and_then(|text| ClientFrame::parse(&text, limits).reference),
            _ => None,
        };
        self.answer(Err(refusal), reference);
    }

    /// Ends the connection for what the client did: an `error` that names it, then Close.
    fn end_with(&mut self, reason: CloseReason) {
        let code = match reason {
            CloseReason::TooLarge => ErrorCode::TooLarge,
            CloseReason::RateLimited => ErrorCode::RateLimited,
            _ => ErrorCode::BadRequest,
        };
        let refusal = Refusal::new(code, reason.message());
        self.refuse(&refusal, None, reason);
    }
}

impl Strikes {
    /// Counts one more; the count within the window.
    fn add(&mut self, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) > STRIKES_WINDOW {
            *self = Self {
                count: 0,
                since: Some(now),
            };
        }
        self.count += 1;
        self.count
    }
}

fn auth_success(identity: &Identity, reference: Option<Ref>) -> ServerFrame {
    ServerFrame::AuthSuccess {
        user_id: (*identity.subject).into(),
        expires_at: format!("{:.3}", identity.expires_at),
        reference,
    }
}
