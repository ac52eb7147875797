//! One connection that never blocks, with TLS or without.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Type};

use crate::cli::bench::target::{Target, Tls};

/// What the kernel may hold for a client that does not read.
const NARROW_BYTES: usize = 4096;

#[derive(Debug)]
pub enum Socket {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

#[derive(Debug)]
pub struct Encrypted {
    stream: TcpStream,
    session: rustls::ClientConnection,
}

impl Socket {
    /// Begins to connect client `index`. With `is_narrow` little is buffered on its side, so that the gateway notices soon
    /// when it does not read.
    pub fn connect(target: &Target, index: usize, is_narrow: bool) -> io::Result<Self> {
        let stream = connect(target, index, is_narrow)?;
        Ok(match target.tls() {
            Some(Tls { config, name }) => {
                let session = rustls::ClientConnection::new(config.clone(), name.clone());
                let session = session.map_err(io::Error::other)?;
                Self::Tls(Box::new(Encrypted { stream, session }))
            }
            None => Self::Plain(stream),
        })
    }

    /// What became of connecting, once the socket is writable; `None` while it goes on.
    pub fn connected(&self) -> Option<io::Result<()>> {
        let stream = self.stream();
        if let Ok(Some(error)) | Err(error) = stream.take_error() {
            return Some(Err(error));
        }
        match stream.peer_addr() {
            Ok(_) => Some(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// As [`Read::read`]; whether a short read leaves nothing to read is [`Socket::is_drained_by`].
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Whether there is nothing more to read until the socket is told to be readable again, after `read` of `space` bytes.
    pub fn is_drained_by(&self, read: usize, space: usize) -> bool {
        matches!(self, Self::Plain(_)) && read < space
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(tls) => {
                let taken = tls.session.writer().write(bytes)?;
                tls.flush()?;
                Ok(taken)
            }
        }
    }

    /// Writes what TLS has to say by itself.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(tls) => tls.flush(),
        }
    }

    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.stream_mut().register(registry, token, both)
    }

    /// Ends it as a network does that is gone, which leaves no port in TIME_WAIT: a run may close more connections than
    /// there are ports.
    pub fn cut(self) {
        let stream = self.stream();
        // Without it the connection is closed all the same.
        let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    }

    fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &tls.stream,
        }
    }

    fn stream_mut(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => &mut tls.stream,
        }
    }
}

impl Encrypted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            let ended = self.session.read_tls(&mut self.stream)? == 0;
            let state = self.session.process_new_packets();
            // An alert that tells the other side why is worth a try; the error is told anyway.
            let flushed = self.flush();
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            flushed?;
            if ended && state.plaintext_bytes_to_read() == 0 {
                return Ok(0);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn connect(target: &Target, index: usize, is_narrow: bool) -> io::Result<TcpStream> {
    let address = target.address(index);
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_nonblocking(true)?;
    if is_narrow {
        socket.set_recv_buffer_size(NARROW_BYTES)?;
    }
    if let Some(source) = target.source(index) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if is_under_way(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

fn is_under_way(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error())
}
