//! What runs the gateway: health checks and service managers.

use std::os::unix::net::UnixDatagram;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{SECRET_VARIABLE, Serving, tribus};
use crate::support::{DEADLINE, Ended, Program, SigningKey, within};

#[tokio::test]
async fn health_asks_the_operators_listener_wherever_the_configuration_has_it() {
    let gateway = Serving::start(&[]).await;
    let url = format!("http://{}", gateway.admin);
    let alive = format!("{url}/healthz");
    let admin = ("TRIBUS__ADMIN_LISTEN", gateway.admin.as_str());
    let everywhere = gateway.admin.replace("127.0.0.1", "0.0.0.0");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("admin_listen = \"{everywhere}\"")).unwrap();
    let path = file.path().to_str().unwrap();
    for (arguments, variables, answer) in [
        (&["health", "--url", &url][..], &[][..], "ready\n"),
        (&["health", "--url", &alive], &[], "ok\n"),
        (&["health"], &[admin], "ready\n"),
        (&["health", "--config", path], &[], "ready\n"),
        // A proxy for the way to others is none for the way to oneself.
        (
            &["health", "--url", &url],
            &[("http_proxy", "http://127.0.0.1:1")],
            "ready\n",
        ),
    ] {
        let ended = tribus(arguments, variables).await;
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        assert_eq!(ended.stdout, answer, "{arguments:?}");
    }
    let clients = format!("http://{}", gateway.address);
    let ended = tribus(&["health", "--url", &clients], &[]).await;
    assert_unhealthy(&ended, &[&clients, "`listen`", "`admin_listen`"]);
    assert!(!ended.stderr.contains('{'), "{}", ended.stderr);
    assert_eq!(gateway.terminate().await.code, Some(0));
    let ended = tribus(&["health", "--url", &url], &[]).await;
    assert_unhealthy(&ended, &[&url, "is the gateway running?", "--url"]);
}

#[tokio::test]
async fn health_is_none_where_the_answer_is_no_late_or_nonsense() {
    let draining = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 9\r\n\r\ndraining\n";
    let elsewhere =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    for (answer, parts) in [
        (draining, &["503", "draining"][..]),
        (elsewhere, &["302"]),
        ("SSH-2.0-OpenSSH_9.2\r\n", &[]),
        ("", &["no answer in time"]),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            // Held open, so that only the time decides where nothing is answered.
            let _ = stream.read(&mut head).await;
        });
        let arguments = ["health", "--url", &url, "--timeout", "500ms"];
        assert_unhealthy(&tribus(&arguments, &[]).await, parts);
    }
    let wrong = tribus(&["health", "--url", "https://127.0.0.1:1"], &[]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

fn assert_unhealthy(ended: &Ended, parts: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.is_empty(), "{ended:?}");
    assert!(ended.stderr.starts_with("error: http://"), "{ended:?}");
    for part in parts {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
}

/// What systemd would hear of a unit with `Type=notify`.
#[tokio::test]
async fn a_service_manager_is_told_of_the_start_of_reloads_and_of_the_stop() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..length].to_vec()).expect("text")
    };
    let pem = directory.path().join("key.pem");
    std::fs::write(&pem, &SigningKey::p256().public_pem).unwrap();
    let mut gateway = Serving::start(&[
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("TRIBUS__AUTH__PUBLIC_KEY_FILE", pem.to_str().unwrap()),
    ])
    .await;
    assert_eq!(hear(), "READY=1\n");
    for content in ["no key at all", &SigningKey::ed25519().public_pem] {
        std::fs::write(&pem, content).unwrap();
        gateway.program.signal("HUP");
        let reloading = hear();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(hear(), "READY=1\n");
    }
    gateway.program.says("read the keys again").await;
    gateway.program.signal("TERM");
    assert_eq!(hear(), "STOPPING=1\n");
    assert_eq!(gateway.program.ended().await.code, Some(0));
}

#[tokio::test]
async fn a_service_manager_that_is_gone_stops_nothing() {
    let mut program = Program::tribus(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ],
        &[SECRET_VARIABLE, ("NOTIFY_SOCKET", "/nowhere/notify")],
    );
    program.says("service manager can not be told").await;
    program.signal("TERM");
    let ended = within("the end", program.ended()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}
