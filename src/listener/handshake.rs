//! From an accepted TCP connection to HTTP over TLS.

use std::{rc::Rc, sync::Arc, time::Duration};

use actix_http::Request;
use actix_service::{IntoService, Service, ServiceFactory, fn_factory};
use actix_web::{Error, body::MessageBody, dev::ServiceResponse, rt::net::TcpStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    Door, LINGER, Tls,
    connection::{Link, Wire},
    http1, http2,
};
use crate::protocol::{ErrorCode, Refusal, ServerFrame};

/// Handshakes under way on one listener and worker; who comes then waits for a turn. Each costs a
/// signature, so that in a storm a bounded number gets done rather than all come too late.
const HANDSHAKES_AT_ONCE: usize = 1024;
/// How long a handshake may take where others wait for a turn: a few of the longest round trips.
const CROWDED: Duration = Duration::from_secs(2);
/// The first byte of what a TLS client sends (RFC 8446, section 5.1: a `handshake` record).
const HANDSHAKE_RECORD: u8 = 22;
const PLAIN_REQUEST: usize = 4096;

/// What serves the connections of a TLS listener on one worker.
///
/// # Errors
/// When HTTP/1 can not be set up.
pub(super) async fn service<S, B>(
    door: Rc<Door>,
    tls: Arc<Tls>,
    app: Rc<S>,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::Future: 'static,
    B: MessageBody + 'static,
{
    let for_http1 = Rc::clone(&app);
    let factory = fn_factory(move || std::future::ready(Ok::<_, ()>(Rc::clone(&for_http1))));
    let http1 = Rc::new(http1::service(&door, factory).new_service(()).await?);
    let handshakes = Rc::new(Handshakes {
        tls,
        turns: Semaphore::new(HANDSHAKES_AT_ONCE),
        deadline: door.listening.deadlines.handshake,
    });
    let serve = move |stream: TcpStream| {
        let (door, app) = (Rc::clone(&door), Rc::clone(&app));
        let (http1, handshakes) = (Rc::clone(&http1), Rc::clone(&handshakes));
        // Boxed, for the handshake needs more than what follows it.
        async move {
            let place = door.admit(&stream).ok_or(())?;
            let peer = stream.peer_addr().ok();
            let may_handshake = &door.listening.may_handshake;
            if !peer.is_none_or(|peer| may_handshake(peer.ip())) {
                return Err(());
            }
            let stream = Box::pin(handshakes.shake(stream)).await.ok_or(())?;
            let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let wire = Wire::new(stream, Link::new(&door.rounds, place));
            if speaks_http2 {
                Box::pin(http2::serve(door, app, wire, peer)).await;
                return Ok(());
            }
            let peer: http1::Peer<TlsStream<TcpStream>> = (wire, peer);
            Box::pin(http1.call(peer)).await.map_err(drop)
        }
    };
    Ok(serve.into_service())
}

/// The handshakes of one listener on one worker.
struct Handshakes {
    tls: Arc<Tls>,
    turns: Semaphore,
    deadline: Duration,
}

impl Handshakes {
    /// `None` where no handshake comes about.
    async fn shake(&self, mut stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        // Who sends nothing takes nobody's turn.
        let first = timeout(self.deadline, first_byte(&stream)).await.ok()??;
        if first != HANDSHAKE_RECORD {
            let _ = timeout(self.deadline, explain(&mut stream)).await;
            return None;
        }
        let _turn = self.turn().await?;
        let acceptor = TlsAcceptor::from(self.tls.current());
        let mut accepting = std::pin::pin!(acceptor.accept(stream));
        let deadline = Instant::now() + self.deadline;
        loop {
            let look = deadline.min(Instant::now() + CROWDED);
            match timeout_at(look, &mut accepting).await {
                Ok(Ok(stream)) => return Some(stream),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return None;
                }
                Err(_) if look == deadline || self.is_crowded() => {
                    tracing::debug!("a TLS handshake took too long");
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        timeout(self.deadline, self.turns.acquire())
            .await
            .ok()?
            .ok()
    }

    fn is_crowded(&self) -> bool {
        self.turns.available_permits() == 0
    }
}

async fn first_byte(stream: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    let read = stream.peek(&mut byte).await.ok()?;
    (read == 1).then_some(byte[0])
}

/// Tells a client that speaks plain HTTP what is spoken here.
async fn explain(stream: &mut TcpStream) -> std::io::Result<()> {
    let refusal = Refusal::new(
        ErrorCode::BadRequest,
        "this port speaks TLS: use https:// or wss://",
    );
    let body = ServerFrame::error(&refusal, None).to_json();
    let head = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    // What is left unread makes the kernel reset the connection, and the answer is lost.
    let mut request = [0; PLAIN_REQUEST];
    let _ = stream.read(&mut request).await?;
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&body).await?;
    stream.shutdown().await?;
    let _ = timeout(LINGER, stream.read(&mut request)).await;
    Ok(())
}
