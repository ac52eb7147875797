//! Handshakes that are odd, or do not come about.

use std::{process::Stdio, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};
use tribus::listener::Deadlines;

use crate::support::{TestGateway, TlsFiles, within};

fn hasty() -> Deadlines {
    Deadlines {
        handshake: Duration::from_millis(500),
        first_head: Duration::from_millis(500),
        ..Deadlines::default()
    }
}

async fn connect(gateway: &TestGateway) -> TcpStream {
    let stream = TcpStream::connect(gateway.address).await;
    stream.expect("a connection")
}

/// All that comes until the gateway ends the connection.
async fn rest(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut all)).await;
    all
}

/// What `openssl s_client` says of a handshake.
async fn s_client(gateway: &TestGateway, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &gateway.address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within("openssl", command.output()).await;
    let output = output.expect("openssl is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[tokio::test]
async fn a_handshake_that_stalls_is_cut_wherever_it_does() {
    let files = TlsFiles::new();
    let gateway = files.gateway_with("", hasty()).await;
    let hello_head = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    for sent in [&[][..], &hello_head[..1], &hello_head] {
        let mut stream = connect(&gateway).await;
        stream.write_all(sent).await.expect("it is sent");
        rest(&mut stream).await;
    }
    // One that is done with it, and then says nothing: in either version of HTTP.
    for protocol in ["http/1.1", "h2"] {
        let mut stream = files.connect(&gateway, &[protocol]).await;
        rest(&mut stream).await;
    }
    gateway.publish("a:1", json!("others are served")).await;
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_what_is_spoken_there() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let url = gateway.url("/poll").replace("https", "http");
    let answer = reqwest::get(url).await.expect("an answer");
    assert_eq!(answer.status(), 400);
    let error: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(error["code"], "bad_request");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|text| text.contains("https://"))
    );
    let mut stream = connect(&gateway).await;
    stream.write_all(b"\x00\xff nonsense").await.expect("sent");
    assert!(rest(&mut stream).await.starts_with(b"HTTP/1.1 400 "));
    gateway.publish("a:1", json!("others are served")).await;
}

#[tokio::test]
async fn tls_and_http2_on_the_clear_text_port_fail_cleanly() {
    let files = TlsFiles::new();
    let gateway = TestGateway::start().await;
    let handshake = files.handshake(connect(&gateway).await, &["h2"]).await;
    handshake.expect_err("nobody speaks TLS there");
    let mut stream = connect(&gateway).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.expect("it is sent");
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    gateway.publish("a:1", json!("others are served")).await;
}

#[tokio::test]
async fn tls_before_1_2_is_refused_and_1_2_is_good_for_http2() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    for version in ["-tls1", "-tls1_1"] {
        let ciphers = ["-cipher", "ALL:@SECLEVEL=0"];
        let (ok, said) = s_client(&gateway, &[&[version][..], &ciphers].concat()).await;
        assert!(
            !ok && !said.contains("ALPN protocol: h2"),
            "{version}: {said}"
        );
    }
    for version in ["-tls1_2", "-tls1_3"] {
        let (ok, said) = s_client(&gateway, &[version, "-alpn", "h2,http/1.1"]).await;
        assert!(
            ok && said.contains("ALPN protocol: h2"),
            "{version}: {said}"
        );
    }
}

#[tokio::test]
async fn a_client_that_names_only_other_protocols_is_refused() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let (_, said) = s_client(&gateway, &["-alpn", "spdy/3"]).await;
    assert!(said.contains("no application protocol"), "{said}");
    let (ok, said) = s_client(&gateway, &["-alpn", "spdy/3,http/1.1"]).await;
    assert!(ok && said.contains("ALPN protocol: http/1.1"), "{said}");
}

#[tokio::test]
async fn a_client_that_comes_back_spares_the_signature_until_the_certificate_changes() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let directory = tempfile::tempdir().expect("a directory");
    let session = directory.path().join("session");
    let session = session.to_str().expect("UTF-8");
    let (ok, said) = s_client(&gateway, &["-tls1_2", "-sess_out", session]).await;
    assert!(ok && said.contains("\nNew, "), "{said}");
    let (ok, said) = s_client(&gateway, &["-tls1_2", "-sess_in", session]).await;
    assert!(ok && said.contains("\nReused, "), "{said}");
    let tls = gateway.tls.as_ref().expect("TLS");
    tls.reload(&files.config()).expect("a good certificate");
    let (ok, said) = s_client(&gateway, &["-tls1_2", "-sess_in", session]).await;
    assert!(ok && said.contains("\nNew, "), "{said}");
}
