//! Clients whose kernel takes next to nothing for them, so that a client that stops reading is
//! felt by the gateway soon.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_tungstenite::{
    MaybeTlsStream,
    tungstenite::{client::IntoClientRequest, http::HeaderValue},
};

use super::{Claims, Sse, TestGateway, Ws, within};

const RECEIVE_BUFFER: usize = 4096;

impl TestGateway {
    /// A WebSocket with a small receive buffer, right after the handshake.
    pub async fn narrow_ws(&self, claims: &Claims, query: &str, subprotocol: &str) -> Ws {
        let mut request = format!("ws://{}/ws?{query}", self.address)
            .into_client_request()
            .expect("a request");
        let token = format!("Bearer {}", claims.token());
        let headers = request.headers_mut();
        headers.insert("Authorization", header(&token));
        headers.insert("Sec-WebSocket-Protocol", header(subprotocol));
        let stream = MaybeTlsStream::Plain(narrow_stream(self));
        let connecting = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = within("the handshake", connecting)
            .await
            .expect("the handshake succeeds");
        Ws {
            connected: Value::Null,
            socket,
        }
    }

    /// A stream with a small receive buffer; with a body it is a POST.
    pub async fn narrow_sse(&self, claims: &Claims, query: &str, body: Option<&str>) -> Sse {
        let method = if body.is_some() { "POST" } else { "GET" };
        let body = body.unwrap_or_default();
        let request = format!(
            "{method} /events?{query} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            claims.token(),
            body.len(),
        );
        let mut stream = narrow_stream(self);
        within("sending", stream.write_all(request.as_bytes()))
            .await
            .expect("the request is sent");
        let mut chunked = Chunked {
            stream,
            buffer: BytesMut::new(),
        };
        let head = chunked.take_to(b"\r\n\r\n").await.expect("a response");
        assert!(head.starts_with(b"HTTP/1.1 200 "), "{head:?}");
        Sse::from_bytes(chunked.into_stream())
    }
}

fn header(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("a header value")
}

fn narrow_stream(gateway: &TestGateway) -> TcpStream {
    let open = || -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(gateway.address), Type::STREAM, None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.connect(&gateway.address.into())?;
        socket.set_nonblocking(true)?;
        TcpStream::from_std(socket.into())
    };
    open().expect("a connection")
}

/// A body in chunked transfer coding (RFC 9112, section 7.1).
struct Chunked {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Chunked {
    fn into_stream(self) -> impl Stream<Item = io::Result<Bytes>> {
        futures_util::stream::unfold(self, |mut body| async move {
            let chunk = body.chunk().await.transpose()?;
            Some((chunk, body))
        })
    }

    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        let line = self.take_to(b"\r\n").await?;
        let size = std::str::from_utf8(&line).unwrap_or_default().trim_end();
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        while self.buffer.len() < size + 2 {
            self.receive().await?;
        }
        let chunk = self.buffer.split_to(size).freeze();
        self.buffer.advance(2);
        Ok((size > 0).then_some(chunk))
    }

    async fn take_to(&mut self, end: &[u8]) -> io::Result<Bytes> {
        loop {
            let found = self.buffer.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                return Ok(self.buffer.split_to(at + end.len()).freeze());
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
