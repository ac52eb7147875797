//! Configuration, `tribus check-config` and `tribus token`.

use std::io::Write;

use serde_json::Value;
use tempfile::NamedTempFile;

use super::{SECRET_VARIABLE, tribus};
use crate::support::{Answer, Claims, Credentials, Door, Program, SECRET, TestGateway};

fn config_file(toml: &str) -> NamedTempFile {
    let file = tempfile::Builder::new().suffix("tribus.toml").tempfile();
    let mut file = file.expect("a file");
    file.write_all(toml.as_bytes()).expect("a written file");
    file
}

/// `serve` would start, so what is wrong has to stop it; `check-config` says the same.
const COMMANDS: [&str; 2] = ["serve", "check-config"];

#[tokio::test]
async fn a_bad_file_is_an_error_that_names_the_key() {
    for (toml, parts) in [
        ("heartbeet = \"1s\"", &["heartbeet"][..]),
        ("[retention]\nevnts = 1", &["evnts"]),
        ("heartbeat = \"soon\"", &["heartbeat", "25s"]),
        (
            "[retention]\nbytes = \"many\"",
            &["retention.bytes", "64KiB"],
        ),
        ("[bus]\nengine = \"mysql\"", &["bus.engine", "memory"]),
        (
            "[auth]\nallowed_origins = [\"*\"]",
            &["auth.allowed_origins", "https://"],
        ),
        (
            "[auth]\ndefault_subscribe = [\"a:{name}\"]",
            &["auth.default_subscribe", "{sub}"],
        ),
        (
            "[auth]\njwks_file = \"/nowhere/keys.json\"",
            &["auth.jwks_file", "/nowhere/keys.json"],
        ),
        (
            "[auth]\npublic_key_file = \"/nowhere/key.pem\"",
            &["auth.public_key_file"],
        ),
        (
            "[auth]\njwks_url = \"ftp://keys\"",
            &["auth.jwks_url", "http"],
        ),
        ("workers = 0", &["workers"]),
        (
            "workers = 1\nlisen = \"127.0.0.1:1\"",
            &["tribus.toml, line 2", "`lisen`", "did you mean `listen`?"],
        ),
        (
            "[limits]\nconnection = 5",
            &["tribus.toml, line 2", "did you mean `limits.connections`?"],
        ),
        (
            "log.level = \"verbose\"",
            &["log.level", "\"verbose\"", "error, warn, info, debug"],
        ),
        ("log.level = \"warning\"", &["log.level", "\"warning\""]),
        (
            "log.level = \"info,tribus=loud\"",
            &["log.level", "\"loud\"", "info,tribus=debug"],
        ),
        (
            "telemetry.otlp_endpoint = \"127.0.0.1:4318\"",
            &["telemetry.otlp_endpoint", "http"],
        ),
        (
            "tls.cert = \"/nowhere/c.pem\"\ntls.key = \"/nowhere/k.pem\"",
            &["tls.cert", "/nowhere/c.pem", "os error"],
        ),
        ("workers = [", &["tribus.toml: line 1"]),
        (
            "listen = 127.0.0.1:8080",
            &["tribus.toml: line 1", "quotes"],
        ),
    ] {
        let file = config_file(toml);
        let path = file.path().to_str().unwrap();
        for command in COMMANDS {
            let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
            let mut arguments = vec![command, "--config", path];
            arguments.extend(listen);
            let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
            assert_eq!(ended.code, Some(1), "{command} with {toml}: {ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
            }
            assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
            let causes = ended.stderr.matches("os error").count();
            assert!(causes <= 1, "said twice: {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_bad_variable_is_an_error_that_names_the_key_and_never_shows_a_secret() {
    let short = "a-short-secret-for-tests";
    for (name, value, parts) in [
        ("TRIBUS__HEARTBEAT", "soon", &["heartbeat"][..]),
        ("TRIBUS__NOPE", "1", &["nope"]),
        ("TRIBUS__AUTH__NOPE", "1", &["TRIBUS__AUTH__NOPE"]),
        (
            "TRIBUS__HS256_SECRET",
            short,
            &["TRIBUS__HS256_SECRET: ", "TRIBUS__AUTH__HS256_SECRET"],
        ),
        ("TRIBUS__RETENTION__EVENTS", "many", &["retention.events"]),
        (
            "TRIBUS__AUTH__HS256_SECRET",
            short,
            &["auth.hs256_secret", "32", "openssl rand -hex 32"],
        ),
        (
            "TRIBUS__AUTH__PREVIOUS_SECRETS",
            short,
            &["auth.previous_secrets"],
        ),
        (
            "TRIBUS__AUTH__PREVIOUS_SECRETS",
            "[\"a-short-secret-for-tests\"]",
            &["auth.previous_secrets", "32"],
        ),
        (
            "TRIBUS__AUTH__ALLOWED_ORIGINS",
            "https://a.example",
            &["auth.allowed_origins", "[\""],
        ),
    ] {
        for command in COMMANDS {
            let variables = [("TRIBUS__LISTEN", "127.0.0.1:0"), (name, value)];
            let ended = tribus(&[command], &variables).await;
            assert_eq!(ended.code, Some(1), "{command} with {name}: {ended:?}");
            for part in parts {
                assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
            }
            assert!(!ended.stderr.contains(short), "{}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn a_missing_file_a_directory_and_a_bad_log_level_are_told() {
    for (arguments, variables, part) in [
        (
            ["serve", "--config", "/nowhere/tribus.toml"],
            ("X", "1"),
            "there is no configuration file /nowhere/tribus.toml",
        ),
        (
            ["check-config", "--config", "/nowhere/tribus.toml"],
            ("X", "1"),
            "there is no configuration file /nowhere/tribus.toml",
        ),
        (
            ["check-config", "--config", "/"],
            ("X", "1"),
            "/ is a directory: name the configuration file in it, such as /tribus.toml",
        ),
        (
            ["serve", "--listen", "127.0.0.1:0"],
            ("TRIBUS__LOG__LEVEL", "x=y=z"),
            "log.level",
        ),
    ] {
        let ended = tribus(&arguments, &[SECRET_VARIABLE, variables]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        let causes = ended.stderr.matches("os error").count();
        assert!(causes <= 1, "said twice: {}", ended.stderr);
    }
}

#[tokio::test]
async fn a_variable_with_one_underscore_too_few_stops_what_would_pass_it_over() {
    let variable = ("TRIBUS_AUTH_HS256_SECRET", SECRET);
    let token = ["token", "--sub", "alice", "--subscribe", "**"];
    for arguments in [&["serve"][..], &["check-config"], &token] {
        let listen = ("TRIBUS__LISTEN", "127.0.0.1:0");
        let ended = tribus(arguments, &[listen, variable]).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
        for part in [variable.0, SECRET_VARIABLE.0] {
            assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        }
        assert!(!ended.stderr.contains(SECRET), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn check_config_prints_what_is_effective_and_no_secret() {
    let file = config_file("heartbeat = \"7s\"\nlisten = \"127.0.0.1:1\"\n[retention]\nevents = 5");
    let path = file.path().to_str().unwrap();
    let arguments = ["check-config", "--config", path, "--listen", "127.0.0.1:3"];
    let variables = [
        ("TRIBUS__HEARTBEAT", "9s"),
        ("TRIBUS__LISTEN", "127.0.0.1:2"),
        SECRET_VARIABLE,
    ];
    let ended = tribus(&arguments, &variables).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let effective: toml::Table = ended.stdout.parse().expect("TOML");
    assert_eq!(
        effective["listen"].as_str(),
        Some("127.0.0.1:3"),
        "flags win"
    );
    assert_eq!(
        effective["heartbeat"].as_str(),
        Some("9s"),
        "over the environment"
    );
    assert_eq!(
        effective["retention"]["events"].as_integer(),
        Some(5),
        "over the file"
    );
    for (start, origin) in [
        ("listen = ", "flag --listen".to_owned()),
        ("heartbeat = ", "TRIBUS__HEARTBEAT".to_owned()),
        ("events = ", format!("{path}:4")),
        ("bytes = ", "default".to_owned()),
        ("# hs256_secret is set ", SECRET_VARIABLE.0.to_owned()),
    ] {
        let line = ended.stdout.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("{start} in {}", ended.stdout));
        assert!(line.ends_with(&format!(" # {origin}")), "{line}");
    }
    assert!(!format!("{ended:?}").contains(SECRET));
    assert!(
        !ended.stdout.contains('\u{1b}'),
        "no styles but on a terminal"
    );
    let again = config_file(&ended.stdout);
    let path = again.path().to_str().unwrap();
    let reread = tribus(&["check-config", "--config", path], &[SECRET_VARIABLE]).await;
    let values = |printed: &str| printed.parse::<toml::Table>().expect("TOML");
    assert_eq!(
        values(&reread.stdout),
        values(&ended.stdout),
        "what it prints is a configuration"
    );
    assert!(reread.stdout.contains(&format!(" # {path}:1\n")));
}

#[tokio::test]
async fn check_config_warns_of_what_is_dangerous_and_still_calls_the_rest_good() {
    let toml = "admin_listen = \"0.0.0.0:8081\"\nlisten = \"0.0.0.0:80\"\n\
                trusted_proxies = [\"0.0.0.0/0\"]\nlimits.connections = 1\n[auth.hook]\ntimeout = \"1s\"";
    let file = config_file(toml);
    let path = file.path().to_str().unwrap();
    let ended = tribus(&["check-config", "--config", path], &[SECRET_VARIABLE]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    for start in [
        "warning: admin_listen = 0.0.0.0:8081 can be reached",
        "note: listen = 0.0.0.0:80 speaks clear text",
        "warning: trusted_proxies has 0.0.0.0/0",
        "warning: auth.hook.timeout has no effect without auth.hook.url",
    ] {
        let told = lines.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(told, 1, "{start} in {}", ended.stderr);
    }
    let last = lines.last().expect("a verdict");
    assert_eq!(*last, "the configuration is good, but for 3 warnings");
}

/// The hard limit: `serve` raises the soft one to it by itself.
#[tokio::test]
async fn too_few_open_files_are_warned_of_by_check_config_and_by_serve() {
    let connections = ("TRIBUS__LIMITS__CONNECTIONS", "500");
    for (limits, is_short) in [("-Hn 2625", true), ("-Hn 2626", false)] {
        let command = format!("ulimit -Sn 256 && ulimit {limits} && exec \"$TRIBUS_BIN\" \"$@\"");
        let checked =
            Program::tribus_by_shell(&command, &["check-config"], &[SECRET_VARIABLE, connections]);
        let told = checked.ended().await.stderr;
        let shortage = "limits.connections = 500 takes up to 2626 open files";
        assert_eq!(told.contains(shortage), is_short, "{limits}: {told}");
        let free = "127.0.0.1:0";
        let arguments = ["serve", "--listen", free, "--admin-listen", free];
        let variables = [SECRET_VARIABLE, connections];
        let mut serving = Program::tribus_by_shell(&command, &arguments, &variables);
        serving.says("listening").await;
        let expected = limits.strip_prefix("-Hn ").unwrap();
        assert_eq!(serving.soft_limit_of_files(), expected);
        serving.signal("TERM");
        let said = serving.ended().await.stderr;
        assert_eq!(said.contains(shortage), is_short, "{limits}: {said}");
    }
}

#[tokio::test]
async fn files_that_can_not_be_read_and_addresses_that_are_none_are_no_good_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let is_directory = format!(
        "tls.key = \"{0}\"\ntls.cert = \"{0}\"",
        directory.path().display()
    );
    for (toml, parts) in [
        (
            "tls.cert = \"/nowhere/c.pem\"\ntls.key = \"/nowhere/k.pem\"",
            &["tls.cert", "/nowhere/c.pem"][..],
        ),
        (&is_directory, &["tls.cert", "directory"]),
        ("listen = \"8080\"", &["`listen`", "no address"]),
        (
            "admin_listen = \"127.0.0.1:80800\"",
            &["`admin_listen`", "no address"],
        ),
    ] {
        let file = config_file(toml);
        let path = file.path().to_str().unwrap();
        let ended = tribus(&["check-config", "--config", path], &[SECRET_VARIABLE]).await;
        assert_eq!(ended.code, Some(1), "{toml}: {ended:?}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        }
    }
}

#[tokio::test]
async fn check_config_notes_that_no_key_is_there() {
    let ended = tribus(&["check-config"], &[]).await;
    assert_eq!(ended.code, Some(0));
    assert!(
        ended.stderr.contains("development mode"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn a_printed_token_says_what_was_asked_for_and_opens_the_gateway() {
    let gateway = TestGateway::start().await;
    let arguments = [
        "token",
        "--sub",
        "alice",
        "--subscribe",
        "order:*",
        "--subscribe",
        "chat:**",
        "--publish",
        "order:*",
        "--tenant",
        "acme",
        "--trusted",
        "--stats",
        "--ttl",
        "10m",
        "--jti",
        "t-1",
    ];
    let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let token = ended.stdout.trim();
    let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
    let claims = jsonwebtoken::decode::<Value>(token, &key, &jsonwebtoken::Validation::default());
    let claims = claims.expect("a JWT for any library").claims;
    assert_eq!(claims["sub"], "alice");
    assert_eq!(
        claims["subscribe"],
        serde_json::json!(["order:*", "chat:**"])
    );
    assert_eq!(claims["publish"], serde_json::json!(["order:*"]));
    assert_eq!(
        (&claims["tenant"], &claims["jti"]),
        (&"acme".into(), &"t-1".into())
    );
    assert_eq!(
        (&claims["trusted"], &claims["stats"]),
        (&true.into(), &true.into())
    );
    let ttl = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert!((600..=601).contains(&ttl), "{ttl}");
    for door in Door::ALL {
        let answer = gateway.knock(door, &Credentials::bearer(token)).await;
        assert_eq!(answer, Answer::LetIn, "{door:?}");
    }
}

#[tokio::test]
async fn a_token_meets_the_issuer_and_audience_of_the_configuration() {
    let toml = "auth.issuer = \"https://id.example\"\nauth.audience = \"tribus\"";
    let gateway = TestGateway::with(toml).await;
    let file = config_file(toml);
    let everything = ["--subscribe", "**", "--publish", "**"];
    let mut arguments = vec![
        "token",
        "--sub",
        "alice",
        "--config",
        file.path().to_str().unwrap(),
    ];
    arguments.extend(everything);
    let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
    let bearer = Credentials::bearer(ended.stdout.trim());
    assert_eq!(gateway.knock(Door::Poll, &bearer).await, Answer::LetIn);
}

#[tokio::test]
async fn a_token_that_no_gateway_would_take_is_not_printed() {
    let token = ["token", "--sub", "alice"];
    for (more, secret, part) in [
        (
            &["--subscribe", "order:*"][..],
            "",
            "TRIBUS__AUTH__HS256_SECRET",
        ),
        (&["--subscribe", "order:*"], "too-short", "32 bytes"),
        (&["--subscribe", "not a filter"], SECRET, "topic"),
        (&["--publish", "a,b"], SECRET, "topic"),
    ] {
        let mut arguments = token.to_vec();
        arguments.extend(more);
        let variables = [("TRIBUS__AUTH__HS256_SECRET", secret)];
        let variables = if secret.is_empty() {
            &[][..]
        } else {
            &variables[..]
        };
        let ended = tribus(&arguments, variables).await;
        assert_eq!(ended.code, Some(1), "{more:?}: {ended:?}");
        assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        assert!(ended.stdout.is_empty() && !ended.stderr.contains("too-short"));
    }
    let nobody = tribus(
        &["token", "--sub", "", "--subscribe", "**"],
        &[SECRET_VARIABLE],
    )
    .await;
    assert_eq!(nobody.code, Some(1), "an empty sub: {nobody:?}");
    let no_time = ["token", "--sub", "a", "--subscribe", "**", "--ttl", "soon"];
    assert_eq!(
        tribus(&no_time, &[SECRET_VARIABLE]).await.code,
        Some(2),
        "wrong usage"
    );
}

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    for command in [
        "serve",
        "token",
        "check-config",
        "health",
        "publish",
        "subscribe",
    ] {
        let ended = tribus(&[command, "--help"], &[]).await;
        assert_eq!(ended.code, Some(0), "{command}");
        assert!(
            ended.stdout.contains(&format!("tribus {command}")),
            "{command}"
        );
        assert!(ended.stdout.contains("Examples:"), "{command}");
    }
    let ended = tribus(&[], &[]).await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("subscribe"), "{ended:?}");
}

#[tokio::test]
async fn a_client_command_says_what_to_do_about_a_refusal() {
    let gateway = TestGateway::start().await;
    let url = gateway.url("");
    let narrow = Claims::new("alice")
        .with("publish", serde_json::json!(["order:*"]))
        .token();
    let expired = Claims::all("alice").expiring_in(-60).token();
    let wrong = Claims::all("alice").signed_with("another-secret-of-more-than-32-bytes");
    for (token, parts) in [
        ("", &["unauthorized", "TRIBUS_TOKEN"][..]),
        (&wrong, &["unauthorized", "TRIBUS_TOKEN"]),
        (&expired, &["token_expired", "tribus token"]),
        (
            &narrow,
            &["forbidden", "tribus token --sub NAME", "'invoice:1'"],
        ),
    ] {
        let variables = [("TRIBUS_URL", url.as_str()), ("TRIBUS_TOKEN", token)];
        for arguments in [
            &["publish", "invoice:1", "{}"][..],
            &["subscribe", "invoice:1", "--transport", "ws"],
            &["subscribe", "invoice:1", "--transport", "sse"],
            &["subscribe", "invoice:1", "--transport", "poll"],
        ] {
            let ended = tribus(arguments, &variables).await;
            assert_eq!(ended.code, Some(1), "{arguments:?}: {ended:?}");
            for part in parts {
                assert!(
                    ended.stderr.contains(part),
                    "{arguments:?}: {part} in {}",
                    ended.stderr
                );
            }
            assert!(
                token.is_empty() || !ended.stderr.contains(token),
                "{}",
                ended.stderr
            );
            assert!(
                !ended.stderr.contains("came in time"),
                "it waited for a token that it does not have: {}",
                ended.stderr
            );
        }
    }
    let nobody = [
        ("TRIBUS_URL", "http://127.0.0.1:1"),
        ("TRIBUS_TOKEN", narrow.as_str()),
    ];
    let ended = tribus(&["publish", "order:1", "--retry-for", "0s"], &nobody).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("tribus serve"), "{}", ended.stderr);
}

#[tokio::test]
async fn one_port_for_clients_and_operators_is_refused_before_it_is_bound() {
    for (listen, admin) in [
        ("127.0.0.1:4711", "127.0.0.1:4711"),
        ("0.0.0.0:4711", "127.0.0.1:4711"),
    ] {
        for command in COMMANDS {
            let arguments = [command, "--listen", listen, "--admin-listen", admin];
            let ended = tribus(&arguments, &[SECRET_VARIABLE]).await;
            assert_eq!(ended.code, Some(1), "{ended:?}");
            for part in ["`listen`", "`admin_listen`", "one port"] {
                assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
            }
        }
    }
}

#[tokio::test]
async fn check_config_says_as_serve_does_that_without_a_key_others_may_not_reach_it() {
    for command in COMMANDS {
        let ended = tribus(&[command, "--listen", "0.0.0.0:0"], &[]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains("loopback only"), "{}", ended.stderr);
    }
}

/// Who tries it out has done nothing wrong, and the first line is the one that is read.
#[tokio::test]
async fn of_open_files_development_mode_says_nothing() {
    let command = "ulimit -n 2000 && exec \"$TRIBUS_BIN\" \"$@\"";
    let checked = Program::tribus_by_shell(command, &["check-config"], &[]);
    let told = checked.ended().await.stderr;
    assert!(told.contains("note: limits.connections = 50000"), "{told}");
    let free = "127.0.0.1:0";
    let arguments = ["serve", "--listen", free, "--admin-listen", free];
    let mut serving = Program::tribus_by_shell(command, &arguments, &[]);
    serving.says("DEVELOPMENT MODE").await;
    serving.signal("TERM");
    let said = serving.ended().await.stderr;
    assert!(!said.contains("WARN"), "{said}");
}
