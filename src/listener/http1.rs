//! HTTP/1, by actix's dispatcher.

use std::{net::SocketAddr, rc::Rc};

use actix_http::{
    HttpServiceBuilder, Request, Response,
    body::{BoxBody, MessageBody},
    h1::H1Service,
};
use actix_service::{Service, ServiceFactory, ServiceFactoryExt, fn_service};
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Door, LINGER,
    connection::{Link, Wire},
};

/// What the dispatcher takes.
pub(super) type Peer<IO> = (Wire<IO>, Option<SocketAddr>);

/// Serves what comes over TCP as it is. HTTP/2 is not among it: nobody asks for it in clear text but
/// by a configuration of both sides, and it would make every connection's task larger.
pub(super) fn clear_text<S, B>(
    door: Rc<Door>,
    app: S,
) -> impl ServiceFactory<TcpStream, Config = (), Response = ()>
where
    S: ServiceFactory<Request, Config = ()> + 'static,
    S::Future: 'static,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: std::fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody + 'static,
{
    let http = service(&door, app).map_err(drop);
    fn_service(move |stream: TcpStream| {
        let taken = door.admit(&stream).map(|place| {
            let peer = stream.peer_addr().ok();
            let link = Link::new(&door.rounds, place);
            (Wire::new(stream, link), peer)
        });
        std::future::ready(taken.ok_or(()))
    })
    .and_then(http)
}

/// Serves a connection whatever it comes over.
pub(super) fn service<IO, S, B>(door: &Rc<Door>, app: S) -> H1Service<Wire<IO>, S, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: ServiceFactory<Request, Config = ()>,
    S::Error: Into<Response<BoxBody>> + 'static,
    S::InitError: std::fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    B: MessageBody,
{
    let door = Rc::clone(door);
    let deadlines = door.listening.deadlines;
    HttpServiceBuilder::default()
        .keep_alive(deadlines.keep_alive)
        .client_request_timeout(deadlines.first_head)
        .client_disconnect_timeout(LINGER)
        .h1_allow_half_closed(false)
        .on_connect_ext(move |wire: &Wire<IO>, data| door.fill(wire.link(), data))
        .h1(app)
}
