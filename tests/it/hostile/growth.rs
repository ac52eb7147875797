//! What attacks leave in the gateway's memory, counted in a process of its own.

use std::net::SocketAddr;

use super::{request, with_body};
use crate::support::{Program, Raw, SECRET, client_frame, client_frame_head, released, within};

/// Attackers at the same time.
const CROWD: usize = 40;

struct Target {
    program: Program,
    address: SocketAddr,
}

impl Target {
    async fn start() -> Self {
        let arguments = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ];
        let secret = ("TRIBUS__AUTH__HS256_SECRET", SECRET);
        let mut program = Program::tribus(&arguments, &[secret, ("TRIBUS__WORKERS", "2")]);
        let line = program.says("listening").await;
        let address = line
            .split_whitespace()
            .find_map(|word| word.strip_prefix("address="));
        let address = address.expect("an address").parse().expect("an address");
        Self { program, address }
    }

    /// A crowd makes each of these attacks, and stays until all have made it.
    async fn suffer(&self, attacks: &[Vec<u8>]) {
        for attack in attacks {
            let mut crowd = Vec::new();
            for _ in 0..CROWD {
                let mut raw = Raw::connect_to(self.address).await;
                raw.try_send(attack).await;
                crowd.push(raw);
            }
            let ends: Vec<_> = crowd.iter().map(Raw::ends).collect();
            drop(crowd);
            within("the end of the attackers' connections", released(ends)).await;
        }
    }
}

fn on_websocket(bytes: &[u8]) -> Vec<u8> {
    let handshake = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    [request("GET /ws", handshake).as_bytes(), bytes].concat()
}

fn attacks() -> Vec<Vec<u8>> {
    let length = |length: u64| format!("Content-Length: {length}\r\n\r\n");
    let chunk = [&b"8000\r\n"[..], &[b' '; 0x8000], b"\r\n"].concat();
    let chunks = request("POST /publish", "Transfer-Encoding: chunked\r\n\r\n");
    let endless_head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(120_000));
    let deep = format!("{{\"topic\":\"a:1\",\"data\":{}", "[".repeat(300_000));
    let fragment = [
        client_frame(0x01, b"{"),
        client_frame(0x00, &[b' '; 60_000]),
    ]
    .concat();
    vec![
        endless_head.into_bytes(),
        request("POST /publish", &length(1 << 20)).into_bytes(),
        request("POST /publish", &length(1 << 50)).into_bytes(),
        [chunks.as_bytes(), &chunk.repeat(20)].concat(),
        with_body("POST /publish", deep.as_bytes()),
        on_websocket(&client_frame_head(0x81, usize::MAX)),
        on_websocket(&client_frame_head(0x81, 65_536)),
        on_websocket(&fragment),
        on_websocket(&client_frame(0x00, b"").repeat(10_000)),
    ]
}

#[tokio::test]
async fn what_attackers_made_it_hold_is_used_again_and_does_not_add_up() {
    let target = Target::start().await;
    let attacks = attacks();
    // The first round is what a crowd costs while it is there; the allocator keeps some of it.
    target.suffer(&attacks).await;
    let before = target.program.resident_bytes();
    target.suffer(&attacks).await;
    target.suffer(&attacks).await;
    let grown = target.program.resident_bytes().saturating_sub(before);
    // Of 720 attackers, each of whom sent up to 700 KB.
    assert!(grown < 16 << 20, "grew by {grown} bytes on top of {before}");
    let mut raw = Raw::connect_to(target.address).await;
    raw.request("GET /poll?topics=a:1", "\r\n").await;
    assert_eq!(raw.response().await.status, 200);
}
