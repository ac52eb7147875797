//! A gateway as a process of the release binary, and what its clients need.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    process::{Command, Stdio},
};

use super::token::{SECRET, token};

/// Adds the gateway to a command, which may be one that runs another: with one worker, on free ports of
/// loopback, its log on `stderr`.
pub fn serve(command: &mut Command) {
    command
        .arg("serve")
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--workers", "1"])
        .env("TRIBUS__AUTH__HS256_SECRET", SECRET)
        .env("TRIBUS__LOG__FORMAT", "json")
        .env("TRIBUS__LIMITS__MESSAGES_PER_SECOND", "1000000")
        .stderr(Stdio::piped());
}

/// The request that makes a connection a WebSocket.
pub fn websocket(query: &str) -> String {
    format!(
        "GET /ws{query} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer {}\r\n\r\n",
        token()
    )
}

/// What `find` makes of the first line that it knows. What comes after it is read too, and thrown away.
///
/// # Errors
/// Where there is no such line before the end.
pub fn first<T>(
    output: impl Read + Send + 'static,
    find: impl Fn(&str) -> Option<T>,
) -> anyhow::Result<T> {
    let mut output = BufReader::new(output);
    let mut line = String::new();
    loop {
        line.clear();
        anyhow::ensure!(output.read_line(&mut line)? > 0, "the server has ended");
        if let Some(found) = find(&line) {
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
            return Ok(found);
        }
    }
}

pub fn address_in_log(line: &str) -> Option<SocketAddr> {
    let log: serde_json::Value = serde_json::from_str(line).ok()?;
    log["fields"]["address"].as_str()?.parse().ok()
}
