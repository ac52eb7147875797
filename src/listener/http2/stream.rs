//! One request and its response.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use actix_http::Response;
use actix_web::{
    Error,
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
};
use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use tokio::time::{Sleep, sleep};

use super::convert;
use crate::session::Sever;

/// What is asked of a client's window at a time: a frame of the size that every client takes.
const CHUNK_BYTES: usize = 16 << 10;

/// Ends one stream from outside of it.
#[derive(Default)]
pub(super) struct Leash {
    is_cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Sever for Leash {
    fn sever(&self) {
        self.is_cut.set(true);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Leash {
    fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_cut.get() {
            return Poll::Ready(());
        }
        match &mut *self.waker.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

pub(super) struct Stream {
    pub(super) leash: Rc<Leash>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) is_head: bool,
    pub(super) write_stall: Duration,
}

impl Stream {
    /// Answers with what the application makes of the request.
    pub(super) async fn run<B>(
        self,
        answer: impl Future<Output = Result<ServiceResponse<B>, Error>>,
    ) where
        B: MessageBody + 'static,
    {
        let mut this = self;
        let Some(answer) = this.wait_for(answer).await else {
            return;
        };
        match answer {
            Ok(response) => this.send(Response::<B>::from(response)).await,
            Err(failure) => this.send(Response::<BoxBody>::from(failure)).await,
        }
    }

    /// `None` where the client has given up.
    async fn wait_for<T>(&mut self, answer: impl Future<Output = T>) -> Option<T> {
        let mut answer = pin!(answer);
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => self.respond.poll_reset(cx).map(|_| None),
        })
        .await
    }

    async fn send<B: MessageBody>(mut self, response: Response<B>) {
        let (response, body) = response.into_parts();
        let size = body.size();
        let Some(head) = convert::response(response.head(), size) else {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
            return;
        };
        let is_all = self.is_head || matches!(size, BodySize::None | BodySize::Sized(0));
        let Ok(stream) = self.respond.send_response(head, is_all) else {
            return;
        };
        if is_all {
            return;
        }
        let mut pump = Pump {
            leash: self.leash,
            stream,
            chunk: Bytes::new(),
            write_stall: self.write_stall,
            stalled: None,
        };
        let mut body = pin!(body);
        let ended = poll_fn(|cx| pump.poll(body.as_mut(), cx)).await;
        if let Err(reason) = ended {
            pump.stream.send_reset(reason);
        }
    }
}

/// Moves a body into a stream, as the client's window allows.
struct Pump {
    leash: Rc<Leash>,
    stream: SendStream<Bytes>,
    /// The only thing that is held for a client that does not take it.
    chunk: Bytes,
    write_stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Pump {
    /// Completes at the end of the body, or of the client's interest; with the reason to reset the
    /// stream for, where it is the gateway that ends it early.
    fn poll<B: MessageBody>(
        &mut self,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Reason>> {
        loop {
            if self.leash.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(Reason::CANCEL));
            }
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if !self.chunk.is_empty() {
                match self.poll_send(cx) {
                    Poll::Ready(Ok(())) => continue,
                    ended_or_pending => return ended_or_pending,
                }
            }
            match body.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => self.chunk = chunk,
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Reason::INTERNAL_ERROR)),
                Poll::Ready(None) => {
                    // Fails only where the stream is over anyway.
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends some of the chunk.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let capacity = match self.stream.capacity() {
            0 => {
                self.stream
                    .reserve_capacity(self.chunk.len().min(CHUNK_BYTES));
                match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(capacity))) => capacity,
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Reason::CANCEL)),
                    Poll::Pending => return self.poll_stall(cx),
                }
            }
            capacity => capacity,
        };
        let part = self.chunk.split_to(capacity.min(self.chunk.len()));
        if !part.is_empty() {
            self.stalled = None;
            if self.stream.send_data(part, false).is_err() {
                return Poll::Ready(Err(Reason::CANCEL));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Reason>> {
        let write_stall = self.write_stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep(write_stall)));
        stalled.as_mut().poll(cx).map(|()| {
            tracing::debug!("resetting a stream: its client takes nothing");
            Err(Reason::CANCEL)
        })
    }
}
