//! The link to the client, which knows bytes and no protocol: it is slow, loses, breaks off, or is
//! not there at all.

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};

use super::{Fault, Manner, Path, reset};

const CHUNK: usize = 16 * 1024;
/// So many chunks are on their way at a time.
const IN_FLIGHT: usize = 256;

pub async fn carry(mut client: TcpStream, near: DuplexStream, path: &Path) {
    let (mut from_box, mut to_box) = tokio::io::split(near);
    let (from_client, to_client) = client.split();
    let up = Line::new(path, false);
    let down = Line::new(path, true);
    let broken = tokio::select! {
        // Where the client has ended its side, the middlebox ends the other.
        Err(_) = up.pump(from_client, &mut to_box) => Some(Manner::Reset),
        ended = down.pump(&mut from_box, to_client) => ended.is_err().then_some(Manner::Reset),
        manner = path.until(|weather| weather.offline()) => {
            path.strike(&Fault::Offline(manner));
            Some(manner)
        }
    };
    match broken {
        Some(Manner::Reset) => reset(&client),
        // The gateway is not told either: its end stays open, and nothing is read of it.
        Some(Manner::Silent) => until_closed(client).await,
        None => {}
    }
}

async fn until_closed(mut client: TcpStream) {
    let mut ignored = [0; 1024];
    while matches!(client.read(&mut ignored).await, Ok(1..)) {}
}

/// One direction of the link.
struct Line<'a> {
    path: &'a Path,
    rng: fastrand::Rng,
    to_client: bool,
    /// When what was read last arrives; nothing overtakes it.
    due: Instant,
    /// Bytes until the cut.
    left: Option<u64>,
}

impl<'a> Line<'a> {
    fn new(path: &'a Path, to_client: bool) -> Self {
        Self {
            path,
            rng: path.rng.clone(),
            to_client,
            due: Instant::now(),
            left: None,
        }
    }

    /// Ends well where the sender does, once everything has arrived; fails where the link breaks.
    async fn pump(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (sender, mut arriving) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT);
        let send = async {
            // Moved, so that the end of sending ends what arrives.
            let sender = sender;
            loop {
                let mut bytes = BytesMut::with_capacity(CHUNK);
                if from.read_buf(&mut bytes).await? == 0 {
                    return io::Result::Ok(());
                }
                let whole = bytes.len();
                bytes.truncate(self.before_the_cut(whole));
                let is_cut = bytes.len() < whole;
                let packet = (self.arrival()?, bytes.freeze());
                if sender.send(packet).await.is_err() || is_cut {
                    return Ok(());
                }
            }
        };
        let arrive = async {
            while let Some((due, bytes)) = arriving.recv().await {
                tokio::time::sleep_until(due).await;
                to.write_all(&bytes).await?;
            }
            to.shutdown().await
        };
        tokio::try_join!(send, arrive).map(|_| ())
    }

    /// How much of what was read still passes.
    fn before_the_cut(&mut self, length: usize) -> usize {
        let fault = self.path.weather().find(|fault| match fault {
            Fault::CutAtRandomByte { below } if self.to_client => Some(*below),
            _ => None,
        });
        let Some(below) = fault else {
            self.left = None;
            return length;
        };
        let left = *self.left.get_or_insert_with(|| self.rng.u64(..below));
        if left >= length as u64 {
            self.left = Some(left - length as u64);
            return length;
        }
        self.path.strike(&Fault::CutAtRandomByte { below });
        left as usize
    }

    fn arrival(&mut self) -> io::Result<Instant> {
        let mut delay = Duration::ZERO;
        for fault in self.path.weather().iter() {
            match fault {
                Fault::Latency {
                    delay: least,
                    jitter,
                } => {
                    self.path.strike(fault);
                    delay += *least + jitter.mul_f64(self.rng.f64());
                }
                Fault::Loss { reset, .. } if self.rng.f64() < *reset => {
                    self.path.strike(fault);
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Fault::Loss { stall, .. } if self.rng.f64() < *stall => {
                    self.path.strike(fault);
                    delay += Duration::from_millis(self.rng.u64(200..600));
                }
                _ => {}
            }
        }
        self.due = self.due.max(Instant::now() + delay);
        Ok(self.due)
    }
}
