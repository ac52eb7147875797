//! `tribus serve`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::tungstenite::Message;

use super::{SECRET_VARIABLE, Serving, tribus};
use crate::support::{Claims, Program, SECRET, SigningKey, Sse, within};

#[tokio::test]
async fn without_a_key_it_prints_a_link_and_a_token_that_work_and_says_loudly_what_mode_this_is() {
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let mut program = Program::tribus(&arguments, &[]);
    program.says("DEVELOPMENT MODE").await;
    let link = program.says("#token=").await;
    let url = program.says("TRIBUS_URL=").await;
    let token = program.says("TRIBUS_TOKEN=").await;
    let value = |line: &str| line.split_once('=').expect("a value").1.to_owned();
    let (url, token) = (value(&url), value(&token));
    assert_eq!(link.trim(), format!("{url}/#token={token}"));

    let http = reqwest::Client::new();
    let page = http.get(&url).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert!(
        page.headers()["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/html")
    );
    let publish = http.post(format!("{url}/publish")).bearer_auth(&token);
    let answer = publish
        .body(r#"{"topic":"any:thing"}"#)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let poll = http.get(format!("{url}/poll?topics=**&cursor=earliest"));
    let page: Value = poll
        .bearer_auth(&token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(page["events"][0]["topic"], "any:thing");
    let stats = http.get(format!("{url}/stats")).bearer_auth(&token);
    let stats: Value = stats.send().await.unwrap().json().await.unwrap();
    assert_eq!(stats["published"], 1);
    program.signal("INT");
    assert_eq!(program.ended().await.code, Some(0));
}

#[tokio::test]
async fn without_a_key_it_serves_on_loopback_only() {
    for arguments in [
        [
            "serve",
            "--listen",
            "0.0.0.0:0",
            "--admin-listen",
            "127.0.0.1:0",
        ],
        [
            "serve",
            "--listen",
            "[::]:0",
            "--admin-listen",
            "127.0.0.1:0",
        ],
        [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "0.0.0.0:0",
        ],
    ] {
        let ended = tribus(&arguments, &[]).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        assert!(
            ended.stderr.contains("auth.hs256_secret"),
            "{}",
            ended.stderr
        );
        assert!(ended.stderr.contains("loopback"), "{}", ended.stderr);
        assert!(
            !ended.stderr.contains("token="),
            "no token is made: {}",
            ended.stderr
        );
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_told_as_such_with_a_key_and_without() {
    let free = "127.0.0.1:0";
    for (listen, admin, bad, key) in [
        ("8080", free, "8080", "`listen`"),
        (free, "127.0.0.1:80800", "127.0.0.1:80800", "`admin_listen`"),
    ] {
        for variables in [&[][..], &[SECRET_VARIABLE]] {
            let arguments = ["serve", "--listen", listen, "--admin-listen", admin];
            let ended = tribus(&arguments, variables).await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            for part in [key, bad, "is no address: write 127.0.0.1:8080"] {
                assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
            }
        }
    }
}

/// Again and again, since the moment between listening and heeding signals would be short.
#[tokio::test]
async fn a_signal_that_comes_as_soon_as_it_listens_is_heeded() {
    let free = "127.0.0.1:0";
    let arguments = ["serve", "--listen", free, "--admin-listen", free];
    for variables in [&[][..], &[SECRET_VARIABLE]].repeat(5) {
        let mut program = Program::tribus(&arguments, variables);
        program.says("listening").await;
        program.signal("HUP");
        program.signal("TERM");
        let ended = program.ended().await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.contains("stopped"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn the_log_at_info_tells_of_the_gateway_and_not_of_its_server() {
    let gateway = Serving::start(&[]).await;
    let ended = gateway.terminate().await;
    for part in ["listening", "draining", "stopped"] {
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("actix"), "{}", ended.stderr);
}

#[tokio::test]
async fn a_port_in_use_is_told_with_its_key() {
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    for (listen, admin, key) in [
        (taken.as_str(), "127.0.0.1:0", "`listen`"),
        ("127.0.0.1:0", taken.as_str(), "`admin_listen`"),
    ] {
        let arguments = ["serve", "--listen", listen, "--admin-listen", admin];
        let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        for part in [taken.as_str(), key, "another program", "TRIBUS__LISTEN="] {
            assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        }
    }
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let also_taken = other.local_addr().unwrap().to_string();
    let arguments = ["serve", "--listen", &taken, "--admin-listen", &also_taken];
    let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
    for part in [&taken, &also_taken] {
        assert!(
            ended.stderr.contains(part),
            "both at once: {}",
            ended.stderr
        );
    }
    drop((holder, other));
}

/// TEST-NET-1, which no machine has (RFC 5737).
#[tokio::test]
async fn an_address_that_the_machine_does_not_have_is_not_called_taken() {
    let arguments = [
        "serve",
        "--listen",
        "192.0.2.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("network interface"),
        "{}",
        ended.stderr
    );
    assert!(
        !ended.stderr.contains("another program"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn sigterm_drains_and_ends_within_the_grace_with_success() {
    for signal in ["TERM", "INT"] {
        let gateway = Serving::start(&[("TRIBUS__SHUTDOWN__GRACE", "3s")]).await;
        let token = Claims::all("alice").token();
        let query = format!("topics=order:1&token={token}");
        let url = format!("ws://{}/ws?{query}", gateway.address);
        let (mut ws, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        // One that leaves when asked to, and one that never takes leave.
        let stays = tokio::net::TcpStream::connect(&gateway.address)
            .await
            .unwrap();
        let events = reqwest::get(gateway.url(&format!("/events?{query}")))
            .await
            .unwrap();
        let mut sse = Sse::new(events);
        assert_eq!(sse.next().await.name, "connected");
        let since = Instant::now();
        gateway.program.signal(signal);
        assert_eq!(sse.frame("closing").await["code"], 1012);
        let closed = async {
            use futures_util::StreamExt;
            while let Some(Ok(message)) = ws.next().await {
                if let Message::Close(Some(close)) = message {
                    return u16::from(close.code);
                }
            }
            0
        };
        assert_eq!(within("Close", closed).await, 1012);
        let ended = gateway.program.ended().await;
        assert_eq!(ended.code, Some(0), "{signal}: {}", ended.stderr);
        let took = since.elapsed();
        assert!(
            took < Duration::from_secs(6),
            "{signal} took {took:?} of 3 s"
        );
        drop(stays);
    }
}

#[tokio::test]
async fn sighup_has_the_keys_read_again_and_keeps_them_where_they_are_no_good() {
    let directory = tempfile::tempdir().unwrap();
    let pem = directory.path().join("key.pem");
    let (old, new) = (SigningKey::p256(), SigningKey::ed25519());
    std::fs::write(&pem, &old.public_pem).unwrap();
    let path = pem.to_str().unwrap();
    let mut gateway = Serving::start(&[("TRIBUS__AUTH__PUBLIC_KEY_FILE", path)]).await;
    let url = gateway.url("/poll?topics=order:1");
    let status = async |key: &SigningKey| {
        let request = reqwest::Client::new().get(&url);
        let answer = request
            .bearer_auth(key.token(&Claims::all("alice")))
            .send()
            .await;
        answer.unwrap().status().as_u16()
    };
    assert_eq!((status(&old).await, status(&new).await), (200, 401));
    std::fs::write(&pem, &new.public_pem).unwrap();
    gateway.program.signal("HUP");
    gateway.program.says("keys").await;
    assert_eq!((status(&old).await, status(&new).await), (401, 200));
    std::fs::write(&pem, "no key at all").unwrap();
    gateway.program.signal("HUP");
    gateway.program.says("auth.public_key_file").await;
    assert_eq!((status(&old).await, status(&new).await), (401, 200));
}

/// Not a dozen characters of a credential, at the most talkative level that there is.
#[tokio::test]
async fn no_token_and_no_ticket_ever_reaches_the_log() {
    let gateway = Serving::start(&[("TRIBUS__LOG__LEVEL", "trace")]).await;
    let good = Claims::all("alice").token();
    let secrets = drive_requests(&gateway, &good).await;
    let ended = gateway.terminate().await;
    assert!(
        ended.stderr.contains("DEBUG") || ended.stderr.contains("TRACE"),
        "logs were on"
    );
    for secret in secrets {
        // Of a token its signature: without that the rest opens nothing.
        for part in secret
            .split('.')
            .filter(|part| part.len() > 8)
            .skip(usize::from(secret.contains('.')))
        {
            let line = ended.stderr.lines().find(|line| line.contains(part));
            assert!(line.is_none(), "{part} in {line:?}");
        }
    }
    assert!(!ended.stderr.contains(SECRET));
}

/// Uses credentials in every way there is; gives all that must stay out of the log.
async fn drive_requests(gateway: &Serving, good: &str) -> Vec<String> {
    let http = reqwest::Client::new();
    let bad = Claims::all("mallory").signed_with("another-secret-of-more-than-32-bytes");
    let expired = Claims::all("alice").expiring_in(-60).token();
    let garbage = "garbagegarbagegarbagegarbagegarba".to_owned();
    let mut secrets = vec![good.to_owned(), bad, expired, garbage];
    for path in [
        "/poll", "/events", "/publish", "/ticket", "/stats", "/ws", "/nowhere",
    ] {
        for secret in secrets.clone() {
            for method in [reqwest::Method::GET, reqwest::Method::POST] {
                let request = || http.request(method.clone(), gateway.url(path)).body("{}");
                let with_query = |name: &str| {
                    let url = format!("{}?topics=order:1&{name}={secret}", gateway.url(path));
                    http.request(method.clone(), url).body("{}")
                };
                for request in [
                    request().bearer_auth(&secret),
                    request().header("Cookie", format!("tribus_token={secret}")),
                    with_query("token"),
                    with_query("access_token"),
                    with_query("ticket"),
                    with_query("nonsense=1&token"),
                ] {
                    drop(within("an answer", request.send()).await.unwrap());
                }
            }
        }
    }
    for secret in &secrets {
        let url = format!("ws://{}/ws", gateway.address);
        let (mut ws, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let auth = json!({"type": "auth", "token": secret}).to_string();
        futures_util::SinkExt::send(&mut ws, Message::text(auth))
            .await
            .unwrap();
        let answer = within("an answer", futures_util::StreamExt::next(&mut ws)).await;
        assert!(answer.is_some());
    }
    for usage in ["once", "stream"] {
        let request = http.post(gateway.url("/ticket")).bearer_auth(good);
        let request = request.body(json!({"use": usage}).to_string());
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        let ticket = answer["ticket"].as_str().unwrap().to_owned();
        for _ in 0..2 {
            let url = gateway.url(&format!("/events?topics=order:1&ticket={ticket}"));
            drop(http.get(url).send().await.unwrap());
        }
        secrets.push(ticket);
    }
    secrets
}

#[tokio::test]
async fn the_operators_listener_tells_health_and_readiness() {
    let gateway = Serving::start(&[]).await;
    for path in ["/healthz", "/readyz"] {
        let url = format!("http://{}{path}", gateway.admin);
        assert_eq!(reqwest::get(url).await.unwrap().status(), 200, "{path}");
    }
    assert_eq!(gateway.terminate().await.code, Some(0));
}

/// actix reads 128 KiB ahead of a response without end, and used to spin where that was not all.
#[tokio::test]
async fn requests_that_flood_in_behind_a_stream_keep_no_core_busy() {
    let serving = Serving::start(&[("TRIBUS__WORKERS", "1")]).await;
    let head = format!(
        "Host: t\r\nAuthorization: Bearer {}\r\n\r\n",
        Claims::all("alice").token()
    );
    let flood = format!("GET /poll?topics=a HTTP/1.1\r\n{head}").repeat(1300);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = TcpStream::connect(&serving.address).await.unwrap();
        let stream = format!("GET /events?topics=a HTTP/1.1\r\n{head}");
        client.write_all(stream.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = client.into_split();
        let mut seen = String::new();
        while !seen.contains("event: live") {
            let mut part = vec![0; 4096];
            let len = within("the stream", reader.read(&mut part)).await.unwrap();
            seen.push_str(&String::from_utf8_lossy(&part[..len]));
        }
        writer.write_all(flood.as_bytes()).await.unwrap();
        clients.push((
            writer,
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
            }),
        ));
    }
    let calm = async {
        loop {
            let before = serving.program.cpu_ticks();
            tokio::time::sleep(Duration::from_millis(500)).await;
            if serving.program.cpu_ticks() - before < 15 {
                break;
            }
        }
    };
    within("the gateway to become calm", calm).await;
}

#[tokio::test]
async fn a_log_where_there_is_a_file_is_refused_with_that() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let variables = [
        SECRET_VARIABLE,
        ("TRIBUS__BUS__ENGINE", "disk"),
        ("TRIBUS__BUS__DISK__PATH", path),
    ];
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ];
    for arguments in [&serve[..], &["log", "inspect", "--path", path]] {
        let ended = Program::tribus(arguments, &variables).ended().await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        let told = format!("can not use {path} for the log: it is a file, not a directory");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    }
}
