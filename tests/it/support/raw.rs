use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{Claims, TestGateway, within};

/// A TCP connection on which the test decides about every byte.
pub struct Raw {
    stream: TcpStream,
    ends: Ends,
    received: Vec<u8>,
}

/// One HTTP response.
#[derive(Clone, Debug)]
pub struct RawResponse {
    pub status: u16,
    /// As they came, in lower case.
    pub headers: String,
    pub body: String,
}

/// One WebSocket frame of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl RawFrame {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).expect("JSON")
    }

    /// The code of a Close frame.
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.first, 0x88, "a Close frame: {self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

impl Raw {
    pub async fn connect(gateway: &TestGateway) -> Self {
        Self::connect_to(gateway.address).await
    }

    pub async fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let own = stream.local_addr().expect("an address");
        Self {
            stream,
            ends: (own, address),
            received: Vec::new(),
        }
    }

    /// Connects from another address of this machine.
    pub async fn connect_from(gateway: &TestGateway, address: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address");
        let connected = within("a connection", socket.connect(gateway.address)).await;
        let stream = connected.expect("a connection");
        Self {
            ends: (stream.local_addr().expect("an address"), gateway.address),
            stream,
            received: Vec::new(),
        }
    }

    /// Vanishes with a reset instead of an orderly end once it is dropped.
    pub fn vanish_when_dropped(&self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .expect("the option is set");
    }

    /// A WebSocket of a client that may do everything, right after the handshake.
    pub async fn websocket(gateway: &TestGateway, query: &str) -> Self {
        let mut raw = Self::connect(gateway).await;
        let token = Claims::all("alice").token();
        let head = format!(
            "GET /ws?{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.send(head.as_bytes()).await;
        assert_eq!(raw.response_head().await.0, 101);
        raw
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes))
            .await
            .expect("the bytes are sent");
    }

    /// Sends to a gateway that may have had enough: false once the connection has ended.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        within("sending", self.stream.write_all(bytes))
            .await
            .is_ok()
    }

    /// Says that nothing more will be sent, where the connection has not ended already.
    pub async fn half_close_if_open(&mut self) {
        let _ = within("the half-close", self.stream.shutdown()).await;
    }

    /// Waits until there is something to read, or the end.
    pub async fn await_answer(&mut self) {
        while self.received.is_empty() && self.receive().await {}
    }

    /// Takes in what has come, without waiting; true once the gateway has ended the connection.
    pub fn has_ended(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return true,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Vanishes with a reset (RFC 9293, section 3.5.2) instead of a farewell.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket
            .set_linger(Some(Duration::ZERO))
            .expect("a socket option");
    }

    /// Where it goes from and to, for [`released`].
    pub fn ends(&self) -> Ends {
        self.ends
    }

    /// Sends a masked frame, as clients do.
    pub async fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send(&client_frame(first, payload)).await;
    }

    /// Sends the head of a request with a token that may do everything; `rest` is more headers,
    /// the empty line, and the body.
    pub async fn request(&mut self, line: &str, rest: &str) {
        let token = Claims::all("alice").token();
        let head = format!("{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{rest}");
        self.send(head.as_bytes()).await;
    }

    /// The next response, whose length is announced.
    pub async fn response(&mut self) -> RawResponse {
        let (status, headers) = self.response_head().await;
        let length = headers
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.trim().parse().expect("a length"));
        let body = self.take(length).await.expect("the whole body");
        RawResponse {
            status,
            headers,
            body: String::from_utf8(body).expect("UTF-8"),
        }
    }

    /// Status and headers of a response.
    pub async fn response_head(&mut self) -> (u16, String) {
        let length = loop {
            let end = self
                .received
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                break end + 4;
            }
            assert!(
                self.receive().await,
                "the connection ended before a response"
            );
        };
        let head: Vec<u8> = self.received.drain(..length).collect();
        let head = String::from_utf8(head).expect("ASCII").to_ascii_lowercase();
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), head)
    }

    /// The next frame; `None` where the connection ended.
    pub async fn frame(&mut self) -> Option<RawFrame> {
        let head = self.take(2).await?;
        assert_eq!(head[1] & 0x80, 0, "the gateway's frames are not masked");
        let extended = match head[1] {
            126 => self.take(2).await?,
            127 => self.take(8).await?,
            short => vec![short],
        };
        let length = extended
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        Some(RawFrame {
            first: head[0],
            payload: self.take(length).await?,
        })
    }

    /// Reads frames up to and including the Close frame, whose code comes with those before it.
    pub async fn frames_to_close(&mut self) -> (Vec<RawFrame>, u16) {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await.expect("a Close frame before the end");
            if frame.first == 0x88 {
                return (frames, frame.close_code());
            }
            frames.push(frame);
        }
    }

    /// What comes up to and including the first `end`.
    pub async fn text_until(&mut self, end: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.received).into_owned();
            if let Some(at) = text.find(end) {
                self.received.drain(..at + end.len());
                return text[..at + end.len()].to_owned();
            }
            assert!(self.receive().await, "the connection ended before {end:?}");
        }
    }

    /// All that comes until the gateway ends the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.receive().await {}
        std::mem::take(&mut self.received)
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.received.len() < length {
            if !self.receive().await {
                return None;
            }
        }
        Some(self.received.drain(..length).collect())
    }

    /// False at the end of the connection.
    async fn receive(&mut self) -> bool {
        let read = self.stream.read_buf(&mut self.received);
        within("bytes of the gateway", read)
            .await
            .is_ok_and(|read| read > 0)
    }
}

/// A client's address and the gateway's.
pub type Ends = (SocketAddr, SocketAddr);

/// Waits until the gateway has let go of all these connections, as the kernel lists them.
pub async fn released(mut held: Vec<Ends>) {
    loop {
        let open = open_ports();
        held.retain(|(client, gateway)| open.contains(&(gateway.port(), client.port())));
        if held.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Local and remote port of every socket of IPv4 that some process has open.
fn open_ports() -> HashSet<(u16, u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's list");
    let rows = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
        let ports = (port(columns.get(1)?)?, port(columns.get(2)?)?);
        // The kernel's own, such as those in TIME_WAIT, have no inode.
        (*columns.get(9)? != "0").then_some(ports)
    });
    rows.collect()
}

/// A masked frame (RFC 6455, section 5.2).
pub fn client_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];
    let mut frame = client_frame_head(first, payload.len());
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The head of a masked frame, up to its length.
pub fn client_frame_head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..126 => head.push(0x80 | length as u8),
        126..65_536 => {
            head.push(0x80 | 126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}
