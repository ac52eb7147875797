//! A gateway for tests that says what it was told to say, one answer a connection.

use std::time::Duration;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// Answers in order, and remembers what was asked.
pub struct Scripted {
    pub url: String,
    served: JoinHandle<Vec<String>>,
}

impl Scripted {
    /// Serves one raw HTTP answer a connection, then listens no more.
    pub async fn http(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                requests.push(read_request(&mut stream).await);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        Self { url, served }
    }

    /// What was asked, once every answer has been given.
    pub async fn requests(self) -> Vec<String> {
        timeout(PATIENCE, self.served)
            .await
            .expect("not every answer was asked for")
            .unwrap()
    }
}

/// An answer with a JSON body.
pub fn json(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\
         {headers}\r\n{body}"
    )
}

/// Parses a command line as the binary would.
pub fn parse<A: clap::Args>(line: &[&str]) -> Result<A, clap::Error> {
    #[derive(Parser)]
    struct Cli<A: clap::Args> {
        #[command(flatten)]
        args: A,
    }
    Cli::try_parse_from(std::iter::once(&"tribus").chain(line)).map(|cli| cli.args)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !is_whole(&request) {
        assert_ne!(
            stream.read_buf(&mut request).await.unwrap(),
            0,
            "the request was cut off"
        );
    }
    String::from_utf8(request).unwrap()
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse().ok())?
    });
    body.len() >= length.unwrap_or(0usize)
}
