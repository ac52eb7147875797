//! A connection that publishes, and waits.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::bench::client::http::{Framing, Head};
use crate::cli::bench::course::Course;
use crate::cli::failure::{Failure, Refusal};

/// Time for a connection to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// No answer takes longer.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// A connection that was quiet for so long may have been closed by the other side.
const QUIET: Duration = Duration::from_secs(1);

const LONGEST_ANSWER: usize = 4 << 20;

pub struct Connection {
    stream: Stream,
    used: Instant,
    buffer: Vec<u8>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Connection {
    pub fn open(course: &Course, turn: usize) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&course.target.address(turn), CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        stream.set_write_timeout(Some(ANSWER_LIMIT))?;
        let stream = match course.target.tls() {
            Some(tls) => {
                let session =
                    rustls::ClientConnection::new(Arc::clone(&tls.config), tls.name.clone());
                let session = session.map_err(io::Error::other)?;
                Stream::Tls(Box::new(rustls::StreamOwned::new(session, stream)))
            }
            None => Stream::Plain(stream),
        };
        Ok(Self {
            stream,
            used: Instant::now(),
            buffer: Vec::new(),
        })
    }

    /// Sends requests.
    pub fn send(&mut self, requests: &[u8]) -> Result<(), Failure> {
        self.used = Instant::now();
        let sent = self.stream.write_all(requests);
        sent.and_then(|()| self.stream.flush())
            .map_err(|error| broken(&error))
    }

    /// Whether the other side has closed it, as servers do with a connection that is quiet.
    pub fn is_closed(&self) -> bool {
        if self.used.elapsed() < QUIET {
            return false;
        }
        let stream = match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
        };
        let looked = stream
            .set_nonblocking(true)
            .and_then(|()| stream.peek(&mut [0]));
        let blocks = stream.set_nonblocking(false);
        let is_quiet = looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        // Whatever else is there, it is no answer to what was not asked yet.
        !is_quiet || blocks.is_err()
    }

    /// Whether the connection takes another request. What came behind the answer stays for the next one.
    pub fn read_answer(&mut self) -> Result<bool, Failure> {
        let (mut head, length) = loop {
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
            self.read_more()?;
        };
        self.buffer.drain(..length);
        let body = match &mut head.framing {
            Framing::Length(length) => {
                while self.buffer.len() < *length {
                    self.read_more()?;
                }
                self.buffer.drain(..*length).collect()
            }
            // Only answers to single requests are expected to come so.
            framing => {
                let mut body = Vec::new();
                loop {
                    let (end, is_over) = framing.decode(&mut self.buffer, 0)?;
                    body.extend_from_slice(&self.buffer[..end]);
                    self.buffer.clear();
                    if is_over {
                        break body;
                    }
                    self.read_more()?;
                }
            }
        };
        if (200..300).contains(&head.status) {
            return Ok(head.keeps_alive);
        }
        Err(Failure::Refused(Refusal::of_http(
            head.status,
            &head.headers,
            &body,
        )))
    }

    fn read_more(&mut self) -> Result<(), Failure> {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(closed()),
            Ok(_) if self.buffer.len() > LONGEST_ANSWER => Err(Failure::Broken(
                "the answer is longer than any of the gateway".to_owned(),
            )),
            Ok(read) => {
                self.buffer.extend_from_slice(&piece[..read]);
                Ok(())
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

pub fn closed() -> Failure {
    Failure::Broken("the connection was closed before the answer".to_owned())
}

fn broken(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Failure::Broken("no answer in time".to_owned())
        }
        _ => Failure::Broken(error.to_string()),
    }
}
