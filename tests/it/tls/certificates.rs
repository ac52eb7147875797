//! Where certificates come from, and how they change.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::json;
use tribus::{config::Config, gateway::Gateway};

use crate::support::{Authority, Claims, Program, SECRET, TlsFiles, within};

const ROTATIONS: usize = 20;

#[tokio::test]
async fn certificates_change_under_load_without_a_connection_dropped() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let tls = Arc::clone(gateway.tls.as_ref().expect("TLS"));
    let mut sse = gateway.sse("topics=a:*").await;
    let mut ws = files.ws(&gateway, "topics=a:*").await;
    sse.frame("live").await;
    ws.frame("live").await;
    assert_eq!(files.shown(&gateway).await, files.first.certificate);

    // Others connect anew for every request meanwhile, and none of them may fail.
    let (done, requests) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let load: Vec<_> = (0..3)
        .map(|_| {
            let builder = files.authority.http_builder().pool_max_idle_per_host(0);
            let http = builder.build().expect("a client");
            let url = gateway.url("/poll?topics=a:1");
            let token = Claims::all("bob").token();
            let (done, requests) = (Arc::clone(&done), Arc::clone(&requests));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = http.get(&url).bearer_auth(&token).send().await;
                    assert_eq!(answer.expect("an answer").status(), 200);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for rotation in 0..ROTATIONS {
        let fresh = files.authority.issue();
        files.install(&fresh);
        tls.reload(&files.config()).expect("a good certificate");
        let before = requests.load(Ordering::Relaxed);
        assert_eq!(files.shown(&gateway).await, fresh.certificate);
        let id = gateway.publish("a:1", json!(rotation)).await;
        assert_eq!(sse.event().await["id"], json!(id));
        assert_eq!(ws.event().await["id"], json!(id));
        within("requests of others", async {
            while requests.load(Ordering::Relaxed) == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("no request failed");
    }
}

#[tokio::test]
async fn a_certificate_that_is_no_good_leaves_the_old_one_in_place() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let tls = gateway.tls.as_ref().expect("TLS");
    let other = files.authority.issue();
    std::fs::write(files.cert(), &other.certificate_pem).expect("written");
    let error = tls
        .reload(&files.config())
        .expect_err("the key is another's");
    assert!(error.to_string().contains("tls.key"), "{error}");
    std::fs::write(files.cert(), "nothing").expect("written");
    tls.reload(&files.config()).expect_err("no certificate");
    std::fs::remove_file(files.cert()).expect("removed");
    tls.reload(&files.config()).expect_err("no file");
    assert_eq!(files.shown(&gateway).await, files.first.certificate);
    files.install(&other);
    tls.reload(&files.config()).expect("a good certificate");
    assert_eq!(files.shown(&gateway).await, other.certificate);
}

#[test]
fn what_is_wrong_at_the_start_is_told_with_key_and_file() {
    let files = TlsFiles::new();
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let broken = files.first.certificate_pem.replace("MII", "!!!");
    let missing = directory.path().join("missing.pem");
    let empty = write("empty.pem", "");
    let broken = write("broken.pem", &broken);
    let other_key = write("other-key.pem", &Authority::new().issue().key_pem);
    for (cert, key, named, said) in [
        (&missing, &files.key(), "tls.cert", "can not read"),
        (&files.cert(), &missing, "tls.key", "can not read"),
        (&empty, &files.key(), "tls.cert", "holds no certificate"),
        (
            &files.key(),
            &files.key(),
            "tls.cert",
            "holds no certificate",
        ),
        (
            &files.cert(),
            &files.cert(),
            "tls.key",
            "holds no private key",
        ),
        (&broken, &files.key(), "tls.cert", "PEM"),
        (&files.cert(), &other_key, "tls.key", "is not the key of"),
    ] {
        let error = start_error(cert, key);
        let file = if named == "tls.cert" { cert } else { key };
        for part in [named, said, &file.display().to_string()] {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        assert!(!error.contains("MII"), "{error}");
    }
}

fn start_error(cert: &Path, key: &Path) -> String {
    let config = Config::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         auth.hs256_secret = \"{SECRET}\"\ntls.cert = {cert:?}\ntls.key = {key:?}"
    ));
    match Gateway::bind(config.expect("a good configuration")) {
        Ok(_) => panic!("{cert:?} and {key:?} are taken"),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn the_program_says_https_and_reads_its_certificate_again_on_sighup() {
    let files = TlsFiles::new();
    let (cert, key) = (files.cert(), files.key());
    let variables = [
        ("TRIBUS__TLS__CERT", cert.to_str().expect("UTF-8")),
        ("TRIBUS__TLS__KEY", key.to_str().expect("UTF-8")),
    ];
    let free = "127.0.0.1:0";
    let arguments = ["serve", "--listen", free, "--admin-listen", free];
    let mut program = Program::tribus(&arguments, &variables);
    let link = program.says("#token=").await;
    let url = link.trim().split("/#").next().expect("a link").to_owned();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    assert_eq!(shown_at(&files, &url).await, files.first.certificate);

    let fresh = files.authority.issue();
    files.install(&fresh);
    program.signal("HUP");
    program.says("certificate again").await;
    assert_eq!(shown_at(&files, &url).await, fresh.certificate);
    std::fs::write(&cert, "nothing").expect("written");
    program.signal("HUP");
    let line = program.says("certificate stays").await;
    assert!(line.contains("tls.cert"), "{line}");
    assert_eq!(shown_at(&files, &url).await, fresh.certificate);
    program.signal("TERM");
    assert_eq!(program.ended().await.code, Some(0));
}

async fn shown_at(files: &TlsFiles, url: &str) -> rustls::pki_types::CertificateDer<'static> {
    let address = url.strip_prefix("https://").expect("https");
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = files.handshake(stream.expect("a connection"), &[]).await;
    let stream = stream.expect("a handshake");
    let chain = stream.get_ref().1.peer_certificates().expect("a chain");
    chain[0].clone().into_owned()
}

#[tokio::test]
async fn the_commands_trust_the_authority_of_a_file_or_of_the_system_and_nobody_else() {
    let files = TlsFiles::new();
    let gateway = files.gateway("").await;
    let (url, token) = (gateway.url(""), Claims::all("alice").token());
    let root = files.root();
    let root = root.to_str().expect("UTF-8");
    let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", &token)];
    let publish = ["publish", "a:1", "1", "--retry-for", "0s"];

    let refused = Program::tribus(&publish, &variables).ended().await;
    assert_ne!(refused.code, Some(0), "{refused:?}");
    let published = Program::tribus(&[&publish[..], &["--ca", root]].concat(), &variables);
    let published = published.ended().await;
    assert_eq!(published.code, Some(0), "{published:?}");
    let by_system = [&variables[..], &[("SSL_CERT_FILE", root)]].concat();
    let published = Program::tribus(&publish, &by_system).ended().await;
    assert_eq!(published.code, Some(0), "{published:?}");

    for transport in ["ws", "sse", "poll"] {
        let subscribe = ["subscribe", "a:*", "--transport", transport, "--count", "2"];
        let subscribe = [&subscribe[..], &["--cursor", "earliest"]].concat();
        let trusting = [&subscribe[..], &["--ca", root]].concat();
        for (arguments, variables) in [(&trusting, &variables[..]), (&subscribe, &by_system)] {
            let ended = Program::tribus(arguments, variables).ended().await;
            assert_eq!(ended.code, Some(0), "{transport}: {ended:?}");
            assert_eq!(ended.stdout.lines().count(), 2, "{transport}: {ended:?}");
        }
    }
    let not_pem = Program::tribus(&[&publish[..], &["--ca", "/dev/null"]].concat(), &variables);
    let not_pem = not_pem.ended().await;
    assert_ne!(not_pem.code, Some(0));
    assert!(not_pem.stderr.contains("--ca /dev/null"), "{not_pem:?}");
}

#[tokio::test]
async fn no_token_reaches_the_log_over_http2_either() {
    let files = TlsFiles::new();
    let (cert, key) = (files.cert(), files.key());
    let variables = [
        ("TRIBUS__TLS__CERT", cert.to_str().expect("UTF-8")),
        ("TRIBUS__TLS__KEY", key.to_str().expect("UTF-8")),
        ("TRIBUS__AUTH__HS256_SECRET", SECRET),
        ("TRIBUS__LOG__LEVEL", "trace"),
    ];
    let free = "127.0.0.1:0";
    let arguments = ["serve", "--listen", free, "--admin-listen", free];
    let mut program = Program::tribus(&arguments, &variables);
    let line = program.says("https://").await;
    let at = line.find("https://").expect("a URL");
    let url: String = line[at..].split_whitespace().next().expect("it").to_owned();
    let http = files.authority.http();
    let in_header = Claims::all("alice").token();
    let in_query = Claims::all("bob").token();
    let requests = [
        http.get(format!("{url}/poll?topics=a:1"))
            .bearer_auth(&in_header),
        http.get(format!("{url}/poll?topics=a:1&token={in_query}")),
    ];
    for request in requests {
        let answer = request.send().await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, reqwest::Version::HTTP_2)
        );
    }
    program.signal("TERM");
    let ended = program.ended().await;
    assert!(ended.stderr.contains("TRACE"), "logs were on");
    for token in [in_header, in_query] {
        let signature = token.rsplit('.').next().expect("a signature");
        let line = ended.stderr.lines().find(|line| line.contains(signature));
        assert!(line.is_none(), "{line:?}");
    }
}
