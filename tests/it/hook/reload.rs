//! SIGHUP, and what `tribus` says of a hook.

use serde_json::json;

use super::{all, hook};
use crate::support::{Backend, Mood, Program, within};

/// `tribus serve` with a configuration file that the test may change.
struct Serving {
    file: tempfile::NamedTempFile,
    program: Program,
    address: String,
    http: reqwest::Client,
}

impl Serving {
    async fn start(toml: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), toml).expect("a written file");
        let path = file.path().to_str().expect("a path");
        let arguments = ["serve", "--config", path];
        let addresses = [
            ("TRIBUS__LISTEN", "127.0.0.1:0"),
            ("TRIBUS__ADMIN_LISTEN", "127.0.0.1:0"),
        ];
        let mut program = Program::tribus(&arguments, &addresses);
        let line = program.says("listening").await;
        let (_, address) = line.split_once("address=").expect("an address");
        let address = address.split(' ').next().expect("an address").to_owned();
        Self {
            file,
            program,
            address,
            http: reqwest::Client::new(),
        }
    }

    async fn reload(&mut self, toml: &str) {
        std::fs::write(self.file.path(), toml).expect("a written file");
        self.program.signal("HUP");
        self.program.says("read the keys again").await;
    }

    async fn status(&self, session: &str) -> u16 {
        let url = format!("http://{}/poll?topics=order:1", self.address);
        let request = self.http.get(url).header("X-Session", session);
        request.send().await.expect("an answer").status().as_u16()
    }
}

#[tokio::test]
async fn a_changed_hook_takes_effect_at_once_and_an_unchanged_one_keeps_what_it_knows() {
    let (first, second) = (Backend::start().await, Backend::start().await);
    first.sign_in("s1", all("alice"));
    let keys = "cache = \"60s\"";
    let mut serving = Serving::start(&hook(&first, keys)).await;
    assert_eq!(serving.status("s1").await, 200);
    serving.reload(&hook(&first, keys)).await;
    assert_eq!(serving.status("s1").await, 200);
    assert_eq!(first.calls(), 1, "nothing has changed");

    serving.reload(&hook(&second, keys)).await;
    assert_eq!(serving.status("s1").await, 401);
    assert_eq!((first.calls(), second.calls()), (1, 1));

    second.sign_in("s2", json!({"sub": "bob"}));
    assert_eq!(serving.status("s2").await, 403, "no grants");
    let grants = format!("auth.default_subscribe = [\"**\"]\n{}", hook(&second, keys));
    serving.reload(&grants).await;
    assert_eq!(serving.status("s2").await, 200, "answered anew");
}

#[tokio::test]
async fn a_hook_that_is_no_good_leaves_the_old_one_in_place() {
    let backend = Backend::start().await;
    backend.sign_in("s1", all("alice"));
    let mut serving = Serving::start(&hook(&backend, "cache = \"0s\"")).await;
    assert_eq!(serving.status("s1").await, 200);
    std::fs::write(serving.file.path(), "[auth.hook]\nurl = \"gopher://x\"").unwrap();
    serving.program.signal("HUP");
    let line = serving.program.says("stay as they were").await;
    assert!(line.contains("auth.hook.url"), "{line}");
    assert_eq!(serving.status("s1").await, 200);
}

#[tokio::test]
async fn what_the_backend_does_wrong_is_logged_and_credentials_are_not() {
    let backend = Backend::start().await;
    let toml = hook(&backend, "secret = \"of-the-gateway\"");
    let mut serving = Serving::start(&toml).await;
    backend.sign_in("s3ssion", json!({"sub": "alice", "tenant": 7}));
    assert_eq!(serving.status("s3ssion").await, 503);
    let line = serving.program.says("auth hook").await;
    assert!(line.contains("`tenant` is not a string"), "{line}");
    serving.program.signal("TERM");
    let said = serving.program.ended().await;
    for secret in ["s3ssion", "of-the-gateway", "alice"] {
        assert!(!said.stderr.contains(secret), "{}", said.stderr);
    }
}

#[tokio::test]
async fn check_config_tells_that_the_secret_is_set_and_not_what_it_is() {
    let backend = Backend::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), hook(&backend, "secret = \"s3cret\"")).unwrap();
    let arguments = ["check-config", "--config", file.path().to_str().unwrap()];
    let ended = Program::tribus(&arguments, &[]).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let (_, hook) = ended.stdout.split_once("[auth.hook]\n").expect("a hook");
    let (hook, _) = hook.split_once("\n\n").expect("its end");
    assert!(hook.contains("\n# secret is set "), "{}", ended.stdout);
    assert!(!ended.stdout.contains("s3cret"));
    assert!(!ended.stderr.contains("development"), "{}", ended.stderr);
}

/// Whoever mends one thing and looks at the log is to see the next.
#[tokio::test]
async fn each_kind_of_answer_that_is_of_no_use_is_logged_in_its_own_words() {
    let backend = Backend::start().await;
    let mut serving = Serving::start(&hook(&backend, "cache = \"0s\"")).await;
    for (mood, words) in [
        (Mood::Says("ok".into()), "not one JSON object"),
        (Mood::Redirect, "status 302, a redirect"),
        (Mood::Says("{}".into()), "`sub` is missing"),
        (Mood::Says(r#"{"sub":7}"#.into()), "`sub` is not a string"),
    ] {
        backend.is(mood);
        let told = async {
            while !serving.program.said().contains(words) {
                assert_eq!(serving.status("s1").await, 503, "{words}");
            }
        };
        within(words, told).await;
    }
    let said = serving.program.said();
    assert!(!said.contains("token"), "no token is involved: {said}");
    assert!(said.contains("held_back="), "{said}");
}
