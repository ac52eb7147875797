//! HTTP/2 (RFC 9113), over the `h2` crate: one connection, its streams, and what bounds them.
//!
//! A stream is a task of its own. A client that gives it no window stalls that stream alone, which is
//! reset after [`Deadlines::write_stall`](super::Deadlines); meanwhile nothing is buffered for it but
//! one chunk. `h2` itself ends connections that flood with resets (CVE-2023-44487), settings, pings
//! or tiny frames.

mod convert;
mod stream;

use std::{future::poll_fn, net::SocketAddr, pin::pin, rc::Rc, task::Poll, time::Duration};

use actix_http::Request;
use actix_service::Service;
use actix_web::{
    Error,
    body::MessageBody,
    dev::{Extensions, ServiceResponse},
};
use bytes::Bytes;
use h2::{Ping, PingPong, Reason, RecvStream, server};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    time::{sleep, timeout},
};

use super::{
    Door, LINGER,
    connection::{Link, Wire},
};
use crate::transport::ConnectionData;
use stream::{Leash, Stream};

/// Requests at a time on one connection: what RFC 9113 recommends at least (section 6.5.2).
const CONCURRENT_STREAMS: u32 = 100;
/// Of a request's body, what may come before the gateway has read of it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// A request's head: two of the largest tokens, a URL, and what browsers add.
const HEADER_LIST: u32 = 64 << 10;
/// What waits in front of the socket for one stream. More than that is made when the client takes it.
const SEND_BUFFER: usize = 32 << 10;

/// Serves one connection to its end.
pub(super) async fn serve<IO, S, B>(
    door: Rc<Door>,
    app: Rc<S>,
    mut wire: Wire<IO>,
    peer: Option<SocketAddr>,
) where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let link = Rc::clone(wire.link());
    link.set_multiplexed();
    let deadlines = door.listening.deadlines;
    let handshake = builder().handshake::<_, Bytes>(&mut wire);
    let Ok(Ok(mut connection)) = timeout(deadlines.first_head, handshake).await else {
        return;
    };
    let streams = Streams {
        app,
        peer,
        data: Rc::new(door.data(&link)),
        write_stall: deadlines.write_stall,
    };
    let mut vanished = pin!(wait_until_gone(
        &link,
        connection.ping_pong(),
        deadlines.ping
    ));
    let mut is_leaving = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => streams.begin(request, respond),
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection failed");
                    return;
                }
                None => break,
            },
            () = wait_to_leave(&link), if !is_leaving => {
                is_leaving = true;
                connection.graceful_shutdown();
            }
            () = &mut vanished => return,
        }
    }
    drop(connection);
    let _ = timeout(LINGER, read_to_end(&mut wire)).await;
}

/// What the client has sent meanwhile would make the kernel reset the connection if it were not read,
/// and take from some clients what they have not read yet.
async fn read_to_end(wire: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    while wire.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

fn builder() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADER_LIST)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// The connection's own task is woken when the link changes.
async fn wait_to_leave(link: &Link) {
    poll_fn(|_| match link.is_to_leave() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await
}

/// Completes when the client does not answer any more, or does not go though asked to; a connection
/// that nothing is asked on is asked to leave.
async fn wait_until_gone(link: &Link, pings: Option<PingPong>, period: Duration) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let begun = link.begun();
        sleep(period).await;
        let is_idle = link.requests() == 0 && link.begun() == begun;
        if is_idle && link.is_to_leave() {
            return;
        }
        if is_idle {
            link.leave();
        }
        let answered = timeout(period, pings.ping(Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            tracing::debug!("an HTTP/2 client does not answer");
            return;
        }
    }
}

/// What the streams of a connection have in common.
struct Streams<S> {
    app: Rc<S>,
    peer: Option<SocketAddr>,
    data: Rc<Extensions>,
    write_stall: Duration,
}

impl<S, B> Streams<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    fn begin(&self, request: http::Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
        let is_head = request.method() == http::Method::HEAD;
        let Some(mut request) = convert::request(request, self.peer) else {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            return;
        };
        let leash = Rc::new(Leash::default());
        let stream = Stream {
            leash: Rc::clone(&leash),
            respond,
            is_head,
            write_stall: self.write_stall,
        };
        convert::attach(&mut request, ConnectionData(Rc::clone(&self.data)), leash);
        tokio::task::spawn_local(stream.run(self.app.call(request)));
    }
}
