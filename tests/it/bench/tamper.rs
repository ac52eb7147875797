//! A way to the gateway that cheats each WebSocket once.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// What becomes of the seventh event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    Drop,
    Repeat,
    /// It comes after the eighth.
    Swap,
    /// Neither it nor what follows, though the connection stays.
    FallSilent,
}

const VICTIM: usize = 7;

/// On a port of its own, until it is dropped.
pub struct Tamper {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Tamper {
    pub async fn before(gateway: SocketAddr, mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, gateway, mischief));
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Tamper {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(client: TcpStream, gateway: SocketAddr, mischief: Mischief) {
    let server = TcpStream::connect(gateway).await.expect("the gateway");
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let down = async {
        let mut frames = Frames::new(mischief);
        let mut piece = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from_server.read(&mut piece).await {
            let passed = frames.pass(&piece[..read]);
            if to_client.write_all(&passed).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// What comes from the gateway: a head, and behind that of a WebSocket its frames.
struct Frames {
    mischief: Mischief,
    buffer: Vec<u8>,
    is_websocket: Option<bool>,
    events: usize,
    withheld: Vec<u8>,
}

impl Frames {
    fn new(mischief: Mischief) -> Self {
        Self {
            mischief,
            buffer: Vec::new(),
            is_websocket: None,
            events: 0,
            withheld: Vec::new(),
        }
    }

    fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        self.buffer.extend_from_slice(piece);
        let mut passed = Vec::new();
        if self.is_websocket.is_none() {
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
                return passed;
            };
            self.is_websocket = Some(self.buffer.starts_with(b"HTTP/1.1 101"));
            passed.extend(self.buffer.drain(..end + 4));
        }
        if self.is_websocket == Some(false) {
            passed.append(&mut self.buffer);
            return passed;
        }
        while let Some(length) = frame_length(&self.buffer) {
            let frame: Vec<_> = self.buffer.drain(..length).collect();
            self.pass_frame(frame, &mut passed);
        }
        passed
    }

    fn pass_frame(&mut self, mut frame: Vec<u8>, passed: &mut Vec<u8>) {
        let is_event = frame.windows(15).any(|part| part == br#"{"type":"event""#);
        self.events += usize::from(is_event);
        let is_victim = is_event && self.events == VICTIM;
        match self.mischief {
            Mischief::Drop if is_victim => return,
            Mischief::FallSilent if self.events >= VICTIM => return,
            Mischief::Swap if is_victim => {
                self.withheld = frame;
                return;
            }
            Mischief::Repeat if is_victim => passed.extend_from_slice(&frame),
            _ => {}
        }
        passed.append(&mut frame);
        passed.append(&mut self.withheld);
    }
}

/// Of the frame at the beginning, where it is whole. The gateway's are not masked.
fn frame_length(buffer: &[u8]) -> Option<usize> {
    let length = match *buffer.get(1)? {
        126 => 4 + usize::from(u16::from_be_bytes([*buffer.get(2)?, *buffer.get(3)?])),
        short => 2 + usize::from(short),
    };
    (buffer.len() >= length).then_some(length)
}
