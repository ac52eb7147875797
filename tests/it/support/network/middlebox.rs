//! A box on the way that reads HTTP, and does what such boxes do with what they do not know.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::Instant,
};

use super::{
    Fault, Kind, Path,
    http::{Body, Head},
};

/// So much is taken of a client that sends before it was answered.
const PIPELINE: usize = 64 * 1024;

const REFUSAL: &[u8] = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\n\
    Content-Length: 43\r\nConnection: close\r\n\r\n\
    <html><body>Blocked by policy</body></html>";

pub async fn pass(client: DuplexStream, path: &Path) -> io::Result<()> {
    let gateway = TcpStream::connect(path.gateway).await?;
    gateway.set_nodelay(true)?;
    let (from_gateway, to_gateway) = gateway.into_split();
    let (from_client, to_client) = tokio::io::split(client);
    let mut middlebox = Middlebox {
        from_client: Incoming::new(from_client),
        to_client,
        from_gateway: Incoming::new(from_gateway),
        to_gateway,
        path,
    };
    loop {
        match middlebox.exchange().await? {
            Next::Request => {}
            Next::Frames => return middlebox.pass_frames().await,
            Next::End => return Ok(()),
        }
    }
}

/// What follows a response.
enum Next {
    Request,
    /// The connection is a WebSocket now.
    Frames,
    End,
}

struct Middlebox<'a> {
    from_client: Incoming<ReadHalf<DuplexStream>>,
    to_client: WriteHalf<DuplexStream>,
    from_gateway: Incoming<OwnedReadHalf>,
    to_gateway: OwnedWriteHalf,
    path: &'a Path,
}

impl Middlebox<'_> {
    async fn exchange(&mut self) -> io::Result<Next> {
        let request = self.from_client.head().await?;
        self.path.came(request.kind());
        if request.kind() == Kind::WebSocket && self.refuses_upgrade().await? {
            return Ok(Next::End);
        }
        self.pass_request(&request).await?;
        let response = Response {
            from: &mut self.from_gateway,
            to: &mut self.to_client,
            path: self.path,
        };
        let cut = self
            .path
            .until_too_old(Instant::now(), |fault| match fault {
                Fault::CutResponses { after } => Some(*after),
                _ => None,
            });
        tokio::select! {
            next = response.pass(&request) => next,
            fault = cut => {
                self.path.strike(&fault);
                Ok(Next::End)
            }
            error = self.from_client.run_dry() => Err(error),
        }
    }

    async fn refuses_upgrade(&mut self) -> io::Result<bool> {
        let fault = self.path.weather().find(|fault| {
            matches!(fault, Fault::RefuseUpgrades | Fault::HangUpOnUpgrades).then(|| fault.clone())
        });
        let Some(fault) = fault else {
            return Ok(false);
        };
        self.path.strike(&fault);
        if fault == Fault::RefuseUpgrades {
            self.to_client.write_all(REFUSAL).await?;
        }
        Ok(true)
    }

    async fn pass_request(&mut self, request: &Head) -> io::Result<()> {
        let mut body = Body::of_request(request);
        let is_swallowed = request.method() == "POST"
            && !body.is_over()
            && self.path.weather().has(&Fault::SwallowBodies);
        if is_swallowed {
            self.path.strike(&Fault::SwallowBodies);
            let emptied = request.emptied();
            self.to_gateway.write_all(emptied.as_bytes()).await?;
        } else {
            self.to_gateway.write_all(request.as_bytes()).await?;
        }
        while !body.is_over() {
            let bytes = body.take(&mut self.from_client.buffer);
            if !is_swallowed {
                self.to_gateway.write_all(&bytes).await?;
            }
            if !body.is_over() {
                self.from_client.fill().await?;
            }
        }
        Ok(())
    }

    async fn pass_frames(mut self) -> io::Result<()> {
        let opened = Instant::now();
        let path = self.path;
        let killed = path.until_too_old(opened, |fault| match fault {
            Fault::KillWebSockets { after } => Some(*after),
            _ => None,
        });
        let deafened =
            path.until(|weather| weather.has(&Fault::DropFrames).then_some(Fault::DropFrames));
        tokio::select! {
            // First, so that not a single frame passes once they are dropped.
            biased;
            fault = deafened => {
                path.strike(&fault);
                return self.until_the_client_ends().await;
            }
            fault = killed => path.strike(&fault),
            ended = self.from_client.pour(&mut self.to_gateway) => return ended,
            ended = self.from_gateway.pour(&mut self.to_client) => return ended,
        }
        Ok(())
    }

    /// Keeps both connections open meanwhile, and passes nothing of either.
    async fn until_the_client_ends(mut self) -> io::Result<()> {
        self.from_client.pour(tokio::io::sink()).await
    }
}

/// A response on its way.
struct Response<'a> {
    from: &'a mut Incoming<OwnedReadHalf>,
    to: &'a mut WriteHalf<DuplexStream>,
    path: &'a Path,
}

impl Response<'_> {
    async fn pass(mut self, request: &Head) -> io::Result<Next> {
        loop {
            let head = self.from.head().await?;
            if head.status() == 101 {
                self.to.write_all(head.as_bytes()).await?;
                return Ok(Next::Frames);
            }
            let body = Body::of_response(&head, request);
            let next = if body == Body::ToTheEnd {
                Next::End
            } else {
                Next::Request
            };
            self.pass_one(&head, body).await?;
            if head.status() >= 200 {
                return Ok(next);
            }
        }
    }

    async fn pass_one(&mut self, head: &Head, mut body: Body) -> io::Result<()> {
        let mut held = BytesMut::from(head.as_bytes());
        let mut is_counted = false;
        while !body.is_over() {
            held.extend_from_slice(&body.take(&mut self.from.buffer));
            if body.is_over() {
                break;
            }
            if self.path.weather().has(&Fault::BufferResponses) {
                if head.is_stream() && !is_counted {
                    self.path.strike(&Fault::BufferResponses);
                    is_counted = true;
                }
            } else {
                self.to.write_all(&held).await?;
                held.clear();
            }
            let let_go = self.path.until(|weather| {
                let is_held = weather.has(&Fault::BufferResponses);
                (!is_held).then_some(())
            });
            tokio::select! {
                read = self.from.fill() => match (read, &body) {
                    (Err(_), Body::ToTheEnd) => break,
                    (read, _) => read?,
                },
                () = let_go, if !held.is_empty() => {}
            }
        }
        self.to.write_all(&held).await
    }
}

/// What one end sends, with what was read of it and not yet passed on.
struct Incoming<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + Unpin> Incoming<S> {
    fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(head) = Head::take(&mut self.buffer) {
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    /// Passes everything on until the sender is gone.
    async fn pour(&mut self, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
        to.write_all(&self.buffer).await?;
        tokio::io::copy(&mut self.stream, &mut to).await.map(|_| ())
    }

    /// Reads until the sender is gone.
    async fn run_dry(&mut self) -> io::Error {
        while self.buffer.len() < PIPELINE {
            if let Err(error) = self.fill().await {
                return error;
            }
        }
        std::future::pending().await
    }
}
