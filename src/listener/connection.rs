//! One connection: the bytes, and what is known of them.
//!
//! actix's dispatcher times the head of a connection's first request only, and a connection can not
//! be ended from outside of it. So it is given a [`Wire`], which watches the bytes go by and does
//! what the connection's [`Link`] says; requests find the link among the connection's data.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{admission::Place, rounds::Rounds};
use crate::session::Sever;

/// What the gateway knows of a connection and wants of it. It belongs to the connection's worker.
pub struct Link {
    rounds: Rc<Rounds>,
    key: Cell<usize>,
    place: Place,
    /// The round in which the first byte of a head came that is not whole yet; 0 for none.
    head_since: Cell<u32>,
    /// The round in which the last request ended.
    idle_since: Cell<u32>,
    /// Requests whose response is not sent yet.
    requests: Cell<u32>,
    /// Requests that ever began, wrapping.
    begun: Cell<u32>,
    wish: Cell<Wish>,
    /// Several requests at a time: the end of one says nothing of the connection.
    multiplexed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wish {
    Stay,
    /// End when no request is under way.
    Leave,
    /// End now, whatever is under way.
    Cut,
}

impl Link {
    pub(super) fn new(rounds: &Rc<Rounds>, place: Place) -> Rc<Self> {
        let link = Rc::new(Self {
            rounds: Rc::clone(rounds),
            key: Cell::new(0),
            place,
            head_since: Cell::new(0),
            idle_since: Cell::new(rounds.now()),
            requests: Cell::new(0),
            begun: Cell::new(0),
            wish: Cell::new(Wish::Stay),
            multiplexed: Cell::new(false),
            waker: RefCell::new(None),
        });
        link.key.set(rounds.enter(&link));
        link
    }

    /// There was no place for the connection: it may only be told so.
    pub(super) fn is_refused(&self) -> bool {
        self.place.is_over()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.rounds.is_draining()
    }

    /// HTTP/2 ends itself when it is to leave, with a GOAWAY.
    pub(super) fn set_multiplexed(&self) {
        self.multiplexed.set(true);
    }

    /// Notes that a request is under way, until its [`Underway`] is dropped.
    pub(super) fn begin(self: &Rc<Self>) -> Underway {
        self.head_since.set(0);
        self.requests.set(self.requests.get() + 1);
        self.begun.set(self.begun.get().wrapping_add(1));
        Underway(Rc::clone(self))
    }

    pub(super) fn requests(&self) -> u32 {
        self.requests.get()
    }

    pub(super) fn begun(&self) -> u32 {
        self.begun.get()
    }

    /// Lets the connection end once no request is under way.
    pub(super) fn leave(&self) {
        self.wish(Wish::Leave);
    }

    pub(super) fn is_to_leave(&self) -> bool {
        self.wish.get() >= Wish::Leave
    }

    pub(super) fn cut(&self) {
        self.wish(Wish::Cut);
    }

    fn wish(&self, wish: Wish) {
        if self.wish.get() < wish {
            self.wish.set(wish);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Cuts a connection that has begun a head before this round and not ended it.
    pub(super) fn look_at_head(&self, round: u32) {
        let since = self.head_since.get();
        if since != 0 && since < round {
            tracing::debug!("cutting a connection: the head of a request does not come");
            self.cut();
        }
    }

    /// Ends a connection whose last request ended before this round. actix does not, where some of
    /// the next head came along with that request.
    pub(super) fn look_at_idleness(&self, round: u32) {
        let is_idle = self.requests.get() == 0 && self.head_since.get() == 0;
        if is_idle && self.idle_since.get() < round && !self.multiplexed.get() {
            self.leave();
        }
    }

    /// The client has not sent all of a request that is answered. actix would read on for ever, so
    /// the rest has half as long as a head; it may end, and another request follow.
    pub(super) fn has_unread_body(&self) {
        if !self.multiplexed.get() {
            self.head_since
                .set(self.rounds.half_way_to_the_end_of_a_head());
        }
    }

    fn received(&self) {
        if self.requests.get() == 0 && self.head_since.get() == 0 && !self.multiplexed.get() {
            self.head_since.set(self.rounds.now());
        }
    }

    /// Whether the other side is to look as if it had closed.
    fn has_left(&self) -> bool {
        self.wish.get() == Wish::Leave
            && self.requests.get() == 0
            && self.head_since.get() == 0
            && !self.multiplexed.get()
    }

    fn check(&self) -> io::Result<()> {
        match self.wish.get() {
            Wish::Cut => Err(io::ErrorKind::ConnectionAborted.into()),
            Wish::Stay | Wish::Leave => Ok(()),
        }
    }

    fn wake_with(&self, waker: &Waker) {
        match &mut *self.waker.borrow_mut() {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }
}

impl Sever for Link {
    fn sever(&self) {
        self.cut();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.rounds.exit(self.key.get());
    }
}

/// A request that is under way on a connection.
pub(super) struct Underway(Rc<Link>);

impl Drop for Underway {
    fn drop(&mut self) {
        let link = &self.0;
        link.requests.set(link.requests.get() - 1);
        link.idle_since.set(link.rounds.now());
        if link.has_left() {
            link.wake();
        }
    }
}

/// The bytes of a connection.
pub(super) struct Wire<IO> {
    io: IO,
    link: Rc<Link>,
}

impl<IO> Wire<IO> {
    pub(super) fn new(io: IO, link: Rc<Link>) -> Self {
        Self { io, link }
    }

    pub(super) fn link(&self) -> &Rc<Link> {
        &self.link
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.link.check()?;
        if self.link.has_left() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        match &read {
            Poll::Pending => self.link.wake_with(cx.waker()),
            Poll::Ready(_) if buffer.filled().len() > before => self.link.received(),
            Poll::Ready(_) => {}
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.link.check()?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.link.check()?;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.check()?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.check()?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
