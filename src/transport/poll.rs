//! `/poll`: long-poll (protocol, section 6).
//!
//! A poll is a session that lives for one answer: it subscribes with the client's cursor, takes
//! what its mailbox gives, and goes as soon as there is something.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BodySize, MessageBody},
    http::{StatusCode, header},
    web,
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    credentials,
    http::{charge, read_body},
    pulse::{self, EmptyPolls},
    worker::{HeldPlaces, Here, Worker},
};
use crate::{
    auth::Identity,
    bus::SessionHandle,
    protocol::{
        CloseReason, ErrorCode, Query, Refusal, ServerFrame, Start, SubscribeRequest, Transport,
    },
    session::{Announcement, Outgoing, Peer, Session, Tally},
};

/// How long an answer waits for the log to be read, whatever the client's wait is.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Envelopes in one answer; the first always fits.
const MAX_ANSWER_BYTES: usize = 1 << 20;

pub async fn poll(request: HttpRequest, here: Here) -> Result<HttpResponse, Refusal> {
    answer(request, here, None).await
}

pub async fn poll_by_body(
    request: HttpRequest,
    payload: web::Payload,
    here: Here,
) -> Result<HttpResponse, Refusal> {
    answer(request, here, Some(payload)).await
}

async fn answer(
    request: HttpRequest,
    Here(worker): Here,
    payload: Option<web::Payload>,
) -> Result<HttpResponse, Refusal> {
    charge(&request, &worker)?;
    let client = credentials::require(&request, &worker).await?;
    let query = Query::parse(request.query_string())?;
    let query = read_body_into(query, &request, &worker, payload).await?;
    let asked = PollRequest {
        subscribe: query.subscriptions(worker.shared.settings.subscriptions)?,
        wait: Duration::from_secs(query.wait_seconds()?),
        max_events: query.max_events()?,
    };
    let peer = Peer {
        transport: Transport::Poll,
        address: worker.client_address(&request),
    };
    asked.answer(&worker, client.identity, peer).await
}

/// The query with the body that stands for it, where there is one.
///
/// # Errors
/// `bad_request` or `too_large`.
pub async fn read_body_into(
    query: Query,
    request: &HttpRequest,
    worker: &Worker,
    payload: Option<web::Payload>,
) -> Result<Query, Refusal> {
    match payload {
        None => Ok(query),
        Some(payload) => {
            let body = read_body(request, payload, worker.shared.settings.message_bytes).await?;
            query.with_body(&body)
        }
    }
}

struct PollRequest {
    subscribe: SubscribeRequest,
    wait: Duration,
    max_events: usize,
}

impl PollRequest {
    async fn answer(
        self,
        worker: &Rc<Worker>,
        identity: std::sync::Arc<Identity>,
        peer: Peer,
    ) -> Result<HttpResponse, Refusal> {
        let at_once = matches!(self.subscribe.start, Start::Now | Start::Rewind(_));
        let now = Instant::now();
        let deadline = now + if at_once { Duration::ZERO } else { self.wait };
        let token_end = Instant::from_std(pulse::token_end(&identity));
        let start = worker.shard.bus().start(&self.subscribe.start).await?;
        let connection = worker.open_poll(identity, peer)?;
        let session = &connection.session;
        let subscribed = connection.subscribe(
            self.subscribe,
            start,
            // Only a streaming client reads it; a poll's answer has a cursor of its own.
            Announcement::Connected {
                node: None,
                message: "",
                heartbeat_ms: 0,
            },
        );
        if let Err(refusal) = subscribed {
            session.with(|session| session.end_as(CloseReason::Refused));
            return Err(refusal);
        }
        let mut answer = Answer::new(self.max_events);
        let cursor = |session: &SessionHandle| session.shard().bus().cursor(session.position());
        let collected = answer.collect(session, deadline.min(token_end)).await;
        session.with(Session::answer);
        let (status, json) = match collected {
            Collected::Page => {
                let cursor = answer.last_id.take().unwrap_or_default();
                (StatusCode::OK, answer.json(cursor)?)
            }
            Collected::Nothing if token_end <= deadline => {
                return Err(Refusal::new(
                    ErrorCode::TokenExpired,
                    CloseReason::TokenExpired.message(),
                ));
            }
            Collected::Something | Collected::Nothing => {
                (StatusCode::OK, answer.json(cursor(session))?)
            }
            Collected::Reset(frame) => {
                answer.tally.note_frame(&frame);
                (StatusCode::GONE, frame.to_json().into())
            }
            Collected::Closed(CloseReason::Revoked, _) => {
                return Err(Refusal::new(
                    ErrorCode::Revoked,
                    CloseReason::Revoked.message(),
                ));
            }
            Collected::Unread => return Err(unread()),
            Collected::Closed(CloseReason::Unavailable, _) if answer.events.is_empty() => {
                return Err(unread());
            }
            Collected::Closed(_, reconnect_after_ms) => {
                answer.reconnect_after_ms = reconnect_after_ms;
                (StatusCode::OK, answer.json(cursor(session))?)
            }
        };
        session.count_sent(&answer.tally, json.len());
        Ok(no_store(status)
            .content_type("application/json")
            .body(HeldBody {
                json,
                _places: connection.into_places(),
            }))
    }
}

fn unread() -> Refusal {
    Refusal::unavailable("the log can not be read now: try again later")
}

/// An answer that is on its way. It keeps its poll's places until it is sent, so that a client that
/// does not read its answers can have no more of them than polls.
struct HeldBody {
    json: Bytes,
    _places: HeldPlaces,
}

impl MessageBody for HeldBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.json.len() as u64)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let json = std::mem::take(&mut self.get_mut().json);
        Poll::Ready((!json.is_empty()).then_some(Ok(json)))
    }
}

fn no_store(status: StatusCode) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

/// What the session has next; `None` where there is nothing more to wait for.
async fn wait_for_next(session: &SessionHandle) -> Option<Outgoing> {
    let mut empty_polls = EmptyPolls::default();
    poll_fn(|cx| match pulse::poll_next(session, cx) {
        Poll::Pending if empty_polls.are_too_many(session) => Poll::Ready(None),
        next => next,
    })
    .await
}

enum Collected {
    /// Events, and nothing more to be had without waiting.
    Something,
    /// As many events as fit.
    Page,
    Nothing,
    /// The log could not be read.
    Unread,
    Reset(ServerFrame),
    Closed(CloseReason, Option<u64>),
}

/// The answer as it grows.
struct Answer {
    events: Vec<Box<RawValue>>,
    bytes: usize,
    max_events: usize,
    last_id: Option<String>,
    reconnect_after_ms: Option<u64>,
    tally: Tally,
}

#[derive(Serialize)]
struct Body<'a> {
    cursor: String,
    events: &'a [Box<RawValue>],
    #[serde(rename = "reconnectAfterMs", skip_serializing_if = "Option::is_none")]
    reconnect_after_ms: Option<u64>,
}

impl Answer {
    fn new(max_events: usize) -> Self {
        Self {
            events: Vec::new(),
            bytes: 0,
            max_events,
            last_id: None,
            reconnect_after_ms: None,
            tally: Tally::default(),
        }
    }

    /// Takes what the session has, and where that is nothing, waits for it.
    async fn collect(&mut self, session: &SessionHandle, until: Instant) -> Collected {
        loop {
            let outgoing = match session.next() {
                Some(outgoing) => Some(outgoing),
                // However short the wait, what is in the log by now is part of the answer.
                None if session.with(|session| session.awaits_engine()) => {
                    let read = tokio::time::timeout(READ_WITHIN, wait_for_next(session));
                    match read.await {
                        Ok(outgoing) => outgoing,
                        Err(_) if self.events.is_empty() => return Collected::Unread,
                        Err(_) => return Collected::Page,
                    }
                }
                None if session.with(|session| session.is_behind()) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                None if !self.events.is_empty() => return Collected::Something,
                None => match tokio::time::timeout_at(until, wait_for_next(session)).await {
                    Ok(outgoing) => outgoing,
                    Err(_) => return Collected::Nothing,
                },
            };
            match outgoing {
                Some(Outgoing::Event(delivery)) => {
                    let event = &delivery.event;
                    if !self.push(event.json()) {
                        return Collected::Page;
                    }
                    self.tally.note_event(&delivery);
                    self.last_id = Some(String::from_utf8_lossy(event.id()).into_owned());
                    if self.events.len() == self.max_events {
                        return Collected::Page;
                    }
                }
                Some(Outgoing::Frame(frame)) => match *frame {
                    // Events that came before the gap are good; the next poll is told of it.
                    ServerFrame::Reset { .. } if !self.events.is_empty() => return Collected::Page,
                    ServerFrame::Reset { .. } => return Collected::Reset(*frame),
                    ServerFrame::Closing {
                        reconnect_after_ms, ..
                    } => {
                        let reason = session.with(|session| session.closed());
                        let reason = reason.unwrap_or(CloseReason::Internal);
                        return Collected::Closed(reason, reconnect_after_ms);
                    }
                    _ => {}
                },
                None => return Collected::Nothing,
            }
        }
    }

    /// False where the event does not fit any more.
    fn push(&mut self, json: &[u8]) -> bool {
        if !self.events.is_empty() && self.bytes + json.len() > MAX_ANSWER_BYTES {
            return false;
        }
        self.bytes += json.len();
        let json = String::from_utf8_lossy(json).into_owned();
        if let Ok(raw) = RawValue::from_string(json) {
            self.events.push(raw);
        }
        true
    }

    fn json(&self, cursor: String) -> Result<Bytes, Refusal> {
        let json = serde_json::to_vec(&Body {
            cursor,
            events: &self.events,
            reconnect_after_ms: self.reconnect_after_ms,
        });
        json.map(Bytes::from)
            .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
    }
}
