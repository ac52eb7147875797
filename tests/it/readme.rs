//! README.md run as it stands: its blocks in their order, by bash, as a reader would paste them.
//!
//! Each block finds the variables that the blocks before it exported, as if the reader had given
//! them to each terminal. What the test does not know makes it fail, so that nothing stands in the
//! README that nobody runs.

mod terminal;

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use self::terminal::{Running, Shell};
use crate::support::{Answer, Backend, Credentials, Door, Js, Mood, TestGateway, Ws};

#[test]
fn the_readme_does_what_it_says_when_it_is_run_as_written() {
    let readme = read("README.md");
    let mut reader = Reader::new();
    for block in blocks(&readme) {
        match block.language {
            "sh" => reader.paste(block.text),
            "console" => reader.compare_session(block.text),
            "js" => reader.run_script(block.text),
            "html" => reader.run_page(block.text),
            "toml" => reader.configure_a_hook(block.text),
            "json" => reader.read_of_the_hook(block.text),
            "nginx" => assert_nginx_is_set_as_in_operations(block.text),
            "" if block.text.contains('▶') => {}
            "" => reader.compare_notice(block.text),
            other => panic!("a block of {other:?}: tell this test what to do with it"),
        }
    }
    reader.assert_tokens_open_the_gateway_with_the_real_key();
    reader.assert_the_hook_works_as_shown();
    let missing: Vec<_> = COMMANDS
        .iter()
        .filter(|(_, command)| !reader.done.contains(command))
        .collect();
    assert!(missing.is_empty(), "no longer in the README: {missing:?}");
}

/// That one is tested with a real nginx.
fn assert_nginx_is_set_as_in_operations(text: &str) {
    let operations = read("docs/operations.md");
    let tested: Vec<_> = operations.lines().map(str::trim).collect();
    for line in text.lines().map(str::trim) {
        let is_for_a_reader = line.is_empty() || line.starts_with('#');
        // Each has nodes of its own.
        let is_a_node = line.starts_with("server 10.");
        assert!(
            is_for_a_reader || is_a_node || tested.contains(&line),
            "{line:?} is not in docs/operations.md"
        );
    }
}

/// Whoever reads the README on a slow line waits for its pictures.
#[test]
fn the_pictures_of_the_readme_are_there_and_small() {
    let readme = read("README.md");
    let pictures: Vec<&str> = readme
        .split(['(', '"'])
        .filter(|text| text.starts_with("docs/images/"))
        .filter_map(|text| text.split([')', '"']).next())
        .collect();
    assert_eq!(pictures.len(), 3, "{pictures:?}");
    for picture in pictures {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(picture);
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        assert!(
            bytes > 1024 && bytes < 200 * 1024,
            "{picture}: {bytes} bytes"
        );
    }
}

/// What the README has its reader run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Run,
    /// And lets a page of another origin in.
    RunForPage,
    Subscribe,
    PublishFile,
    Stream,
    PublishEvent,
    Poll,
    MakeSecret,
    SetSecret,
    Serve,
    SetToken,
    PublishOne,
    PrintToken,
    Bench,
    /// Tried by the tests of several nodes.
    Cluster,
}

/// How each command begins.
const COMMANDS: [(&str, Step); 15] = [
    ("make run", Step::Run),
    ("make cluster", Step::Cluster),
    ("TRIBUS__AUTH__ALLOWED_ORIGINS=", Step::RunForPage),
    ("./target/release/tribus subscribe ", Step::Subscribe),
    (
        "./target/release/tribus publish --file examples/orders.ndjson",
        Step::PublishFile,
    ),
    ("curl -N \"$TRIBUS_URL/events?", Step::Stream),
    ("curl \"$TRIBUS_URL/publish\" ", Step::PublishEvent),
    ("curl \"$TRIBUS_URL/poll?", Step::Poll),
    (
        "(umask 077 && openssl rand -hex 32 > tribus.secret)",
        Step::MakeSecret,
    ),
    (
        "export TRIBUS__AUTH__HS256_SECRET=$(cat tribus.secret)",
        Step::SetSecret,
    ),
    ("./target/release/tribus serve", Step::Serve),
    (
        "export TRIBUS_TOKEN=$(./target/release/tribus token ",
        Step::SetToken,
    ),
    ("./target/release/tribus publish order:", Step::PublishOne),
    ("./target/release/tribus token ", Step::PrintToken),
    ("./target/release/tribus bench ", Step::Bench),
];

const ENVELOPE: &str = r#"{"type":"event","#;

/// Someone who follows the README, with the terminals left open.
struct Reader {
    gateway: Option<Running>,
    subscriber: Option<Running>,
    stream: Option<Running>,
    /// With the real key.
    serving: Option<Running>,
    served_at: String,
    follower: Option<Running>,
    development_token: String,
    /// The lines that the subscriber printed.
    received: Vec<String>,
    tokens: Vec<String>,
    /// The configuration of the auth hook, then the question that it puts, and an answer.
    hook: Vec<String>,
    done: Vec<Step>,
    shell: Shell,
}

impl Reader {
    fn new() -> Self {
        Self {
            gateway: None,
            subscriber: None,
            stream: None,
            serving: None,
            served_at: String::new(),
            follower: None,
            development_token: String::new(),
            received: Vec::new(),
            tokens: Vec::new(),
            hook: Vec::new(),
            done: Vec::new(),
            shell: Shell::new(),
        }
    }

    fn paste(&mut self, text: &str) {
        let steps: Vec<Step> = commands(text).iter().map(|line| step(line)).collect();
        match steps.as_slice() {
            [Step::Run] => self.run(text),
            [Step::Subscribe] => self.subscribe(text),
            [Step::Stream] => self.stream(text),
            [Step::PublishEvent] => self.publish_event(text),
            [Step::Poll] => self.poll(text),
            [Step::RunForPage] => self.run_for_page(text),
            [Step::MakeSecret, Step::SetSecret, Step::Serve] => self.serve_with_real_key(text),
            [Step::SetSecret, Step::SetToken, Step::Subscribe] => self.follow_with_token(text),
            [Step::SetSecret, Step::SetToken, Step::PublishOne] => self.publish_with_token(text),
            [Step::SetSecret, Step::SetToken, Step::Bench] => self.bench(text),
            [Step::Cluster] => {}
            [Step::PrintToken] => self.tokens.extend(self.shell.output(text)),
            other => panic!("one block with {other:?}: tell this test what comes of it"),
        }
        self.done.extend(steps);
    }

    fn run(&mut self, text: &str) {
        let mut gateway = self.shell.start(text);
        gateway.line_with("DEVELOPMENT MODE");
        for variable in ["export TRIBUS_URL=", "export TRIBUS_TOKEN="] {
            let line = gateway.line_with(variable);
            self.shell.remember(line.trim());
            self.development_token = line.rsplit('=').next().unwrap_or_default().to_owned();
        }
        self.gateway = Some(gateway);
    }

    /// What the README shows of the gateway's first words; `…` stands for the rest of a token.
    fn compare_notice(&self, shown: &str) {
        let gateway = self.gateway.as_ref().expect("the gateway runs by now");
        let address = gateway
            .seen
            .iter()
            .find_map(|line| line.trim().strip_prefix("export TRIBUS_URL=http://"))
            .expect("an address");
        let mut said = gateway
            .seen
            .iter()
            .map(|line| line.replace(address, "127.0.0.1:8080"));
        for line in shown.lines().filter(|line| !line.is_empty()) {
            let is_shown = |said: String| match line.strip_suffix('…') {
                Some(beginning) => said.starts_with(beginning),
                None => said == line,
            };
            assert!(
                said.any(is_shown),
                "{line:?} is not said in this place: {:#?}",
                gateway.seen
            );
        }
    }

    fn subscribe(&mut self, text: &str) {
        let mut subscriber = self.shell.start(text);
        subscriber.line_with("live at");
        self.subscriber = Some(subscriber);
    }

    /// Commands after `$ `, and what they answer; of an id only the sequence is the same each time.
    fn compare_session(&mut self, text: &str) {
        for exchange in format!("\n{text}").split("\n$ ").skip(1) {
            let (command, shown) = exchange.split_once('\n').unwrap_or((exchange, ""));
            let step = step(command);
            assert_eq!(step, Step::PublishFile, "{command}: tell this test");
            let answered = self.shell.output(command);
            let shown: Vec<String> = shown.lines().map(with_any_log).collect();
            let answered: Vec<String> = answered.iter().map(|line| with_any_log(line)).collect();
            assert_eq!(answered, shown, "{command}");
            self.done.push(step);
        }
        self.assert_the_file_was_received();
    }

    fn assert_the_file_was_received(&mut self) {
        let file = read("examples/orders.ndjson");
        assert_eq!(file.lines().count(), 5);
        for line in file.lines() {
            let received = self.receive();
            assert_eq!(Event::parse(&received), Event::parse(line));
        }
    }

    fn receive(&mut self) -> String {
        let subscriber = self.subscriber.as_mut().expect("a subscriber by now");
        self.received.push(subscriber.line_with(ENVELOPE));
        self.received.last().cloned().unwrap_or_default()
    }

    fn stream(&mut self, text: &str) {
        let mut stream = self.shell.start(text);
        stream.line_with("event: live");
        self.stream = Some(stream);
    }

    /// That the subscriber gets this next shows that the second run of the file published nothing.
    fn publish_event(&mut self, text: &str) {
        let answer = json(&self.shell.output(text).concat());
        let id = answer["id"].as_str().expect("an id");
        let stream = self.stream.as_mut().expect("a stream by now");
        let envelope = stream.line_with(&format!("data: {ENVELOPE}"));
        assert!(stream.frame().contains(&format!("id: {id}")));
        let received = self.receive();
        assert_eq!(envelope, format!("data: {received}"));
        let event = json(&received);
        assert_eq!(event["id"], id);
        let (_, body) = text.split_once("-d '").expect("a body");
        let body = json(body.trim_end().trim_end_matches('\''));
        for field in ["topic", "event", "data"] {
            assert_eq!(event[field], body[field], "{field}");
        }
    }

    fn poll(&mut self, text: &str) {
        let page = self.shell.output(text).concat();
        let last = json(self.received.last().expect("events by now"));
        assert!(
            page.contains(&format!("[{}]", self.received.join(","))),
            "not what the subscriber printed, byte for byte: {page}"
        );
        assert_eq!(json(&page)["cursor"], last["id"]);
        let next = text.replace("earliest", last["id"].as_str().expect("an id"));
        assert_ne!(next, text, "it begins with what is retained");
        self.shell
            .output(r#"./target/release/tribus publish order:next '"one"'"#);
        let page = json(&self.shell.output(&next).concat());
        let events = page["events"].as_array().expect("events");
        assert_eq!(events.len(), 1, "{page}");
        assert_eq!(events[0]["topic"], "order:next");
        self.receive();
    }

    /// The page that comes next is of an origin of its own, which this gateway lets in.
    fn run_for_page(&mut self, text: &str) {
        let mut gateway = self.shell.start(text);
        let line = gateway.line_with("export TRIBUS_URL=");
        let (_, url) = line.split_once('=').expect("an address");
        for (origin, is_let_in) in [("localhost:3000", true), ("127.0.0.1:3000", false)] {
            let command = format!("curl -si -X OPTIONS {url}/events -H 'Origin: http://{origin}'");
            let answer = self.shell.output(&command).concat();
            let allowed = format!("access-control-allow-origin: http://{origin}");
            assert_eq!(answer.contains(&allowed), is_let_in, "{answer}");
        }
    }

    /// In a page of the gateway that has a token, and something to do with what comes.
    fn run_script(&mut self, script: &str) {
        let names = "const shown = (state.shown = []);
             const show = (topic, data) => shown.push([topic, data]);
             const reload = () => shown.push('reload');
             const token = args;";
        let seen = self.run_in_browser(&format!("{names} {script}"), "return state.shown[0];");
        assert_eq!(seen, serde_json::json!(["order:7", "seen"]));
    }

    /// The script of a page, which has all it needs but the token.
    fn run_page(&mut self, page: &str) {
        let (_, script) = page
            .split_once("<script type=\"module\">")
            .expect("a script");
        let (script, _) = script.split_once("</script>").expect("its end");
        for placeholder in ["http://127.0.0.1:8080", "\"PASTE THE TOKEN HERE\""] {
            assert!(script.contains(placeholder), "{placeholder} in {script}");
        }
        let script = script
            .replace(
                "http://127.0.0.1:8080",
                &self.shell.output("echo $TRIBUS_URL").concat(),
            )
            .replace("\"PASTE THE TOKEN HERE\"", "args");
        let shown = "return document.body.textContent.match(/\"order:7\" \"seen\"/)?.[0];";
        let seen = self.run_in_browser(&script, shown);
        assert_eq!(seen, "\"order:7\" \"seen\"");
    }

    /// What the expression gives once it gives something, while events are published.
    fn run_in_browser(&mut self, script: &str, shown: &str) -> Value {
        let [url, token] = ["TRIBUS_URL", "TRIBUS_TOKEN"]
            .map(|name| self.shell.output(&format!("echo ${name}")).concat());
        // What runs is the body of a function, which no module can be imported into by a statement.
        let imported = |line: &str| match line.trim().strip_prefix("import { Tribus } from ") {
            Some(from) => format!(
                "const {{ Tribus }} = await import({});",
                from.trim_end_matches(';')
            ),
            None => line.to_owned(),
        };
        let script: Vec<_> = script.lines().map(imported).collect();
        let begin = format!(
            "state.script = (async () => {{ {} }})().catch((error) => document.body.append(error.message));",
            script.join("\n")
        );
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let js = runtime.block_on(async {
            let js = Js::chromium(&url);
            js.run(&begin, token.into()).await;
            js
        });
        // Until it has subscribed nobody shows anything.
        loop {
            self.shell
                .output(r#"./target/release/tribus publish order:7 '"seen"'"#);
            self.receive();
            let seen = runtime.block_on(js.run(shown, Value::Null));
            if !seen.is_null() {
                return seen;
            }
        }
    }

    fn serve_with_real_key(&mut self, text: &str) {
        let mut terminal = self.shell.start(text);
        let line = terminal.line_with("listening");
        let (_, address) = line.split_once("address=").expect("an address");
        let address = address.split(' ').next().unwrap_or_default();
        self.served_at = format!("http://{address}");
        self.serving = Some(terminal);
        // By default it is where the client commands look for it.
        self.shell
            .remember(&format!("export TRIBUS_URL={}", self.served_at));
        let mode = self.shell.output("stat -c %a tribus.secret").concat();
        assert_eq!(mode, "600", "a secret is not for everyone to read");
    }

    fn follow_with_token(&mut self, text: &str) {
        let mut follower = self.shell.start(text);
        follower.line_with("live at");
        self.follower = Some(follower);
        self.tokens.extend(self.shell.output("echo $TRIBUS_TOKEN"));
    }

    fn publish_with_token(&mut self, text: &str) {
        let id = self.shell.output(text).concat();
        self.tokens.extend(self.shell.output("echo $TRIBUS_TOKEN"));
        let follower = self.follower.as_mut().expect("a follower by now");
        assert!(follower.line_with(ENVELOPE).contains(&id), "{id}");
    }

    fn bench(&self, text: &str) {
        let told = self.shell.output(text);
        let verdict = told.last().expect("a verdict");
        assert_eq!(verdict, "every client got every event, once and in order");
    }

    fn assert_tokens_open_the_gateway_with_the_real_key(&self) {
        let [alice, backend, console] = self.tokens.as_slice() else {
            panic!(
                "tokens to subscribe, to publish, and for the console: {:?}",
                self.tokens
            );
        };
        let body = r#"-d '{"topic":"order:9","user_id":"carol"}'"#;
        for (token, path, rest, status) in [
            (alice, "/poll?topics=order:*", "", "200"),
            (alice, "/poll?topics=invoice:1", "", "403"),
            (alice, "/publish", body, "403"),
            (backend, "/publish", body, "200"),
            (backend, "/poll?topics=order:*", "", "403"),
            (console, "/poll?topics=**", "", "200"),
            (console, "/publish", r#"-d '{"topic":"any:1"}'"#, "200"),
            (console, "/stats", "", "200"),
            (&self.development_token, "/poll?topics=order:*", "", "401"),
        ] {
            let answer = self.ask_serving(token, path, &format!("{rest} -w '\\n%{{http_code}}'"));
            assert_eq!(
                answer.last().map(String::as_str),
                Some(status),
                "{path}: {answer:?}"
            );
        }
        let page = self.ask_serving(alice, "/poll?topics=order:*&cursor=earliest", "");
        let page = json(&page.concat());
        let events = page["events"].as_array().expect("events");
        let last = events.last().expect("an event");
        assert_eq!(last["topic"], "order:9");
        assert_eq!(last["user_id"], "carol", "the token is trusted");
    }

    fn configure_a_hook(&mut self, text: &str) {
        assert!(self.hook.is_empty(), "one block of configuration");
        self.hook.push(text.to_owned());
    }

    fn read_of_the_hook(&mut self, text: &str) {
        assert!(
            matches!(self.hook.len(), 1 | 2),
            "a question, and an answer"
        );
        self.hook.push(text.trim().to_owned());
    }

    /// With a backend at the URL that gets the question as shown, and answers as shown.
    fn assert_the_hook_works_as_shown(&self) {
        let [toml, question, answer] = self.hook.as_slice() else {
            panic!("a configuration, a question and an answer: {:?}", self.hook);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let backend = Backend::start().await;
            backend.is(Mood::Says(answer.clone()));
            let url = "http://127.0.0.1:9000/whoami";
            assert!(toml.contains(url), "{toml}");
            let gateway = TestGateway::with(&toml.replace(url, &backend.url())).await;
            let session = Credentials::header("Cookie", "sessionid=s1");
            assert_eq!(gateway.knock(Door::Poll, &session).await, Answer::LetIn);
            let asked = backend.last_question();
            assert_eq!(asked.body, question.replace('…', "s1"));
            let secret = asked.authorization.expect("the secret");
            assert!(
                toml.contains(secret.trim_start_matches("Bearer ")),
                "{secret}"
            );
            let claims = json(answer);
            let headers = [("Cookie", "sessionid=s1".to_owned())];
            let mut ws = Ws::connect_with(&gateway, "", &headers)
                .await
                .expect("a handshake");
            assert_eq!(ws.frame("connected").await["userId"], claims["sub"]);
        });
    }

    fn ask_serving(&self, token: &str, path: &str, rest: &str) -> Vec<String> {
        let url = format!("{}{path}", self.served_at);
        self.shell.output(&format!(
            "curl \"{url}\" -H \"Authorization: Bearer {token}\" {rest}"
        ))
    }
}

/// What a publisher says of an event; data to the byte.
#[derive(Debug, Deserialize)]
struct Event<'a> {
    topic: String,
    event: String,
    #[serde(borrow)]
    data: &'a RawValue,
    tags: BTreeMap<String, String>,
}

impl<'a> Event<'a> {
    fn parse(text: &'a str) -> Self {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl PartialEq for Event<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic
            && self.event == other.event
            && self.data.get() == other.data.get()
            && self.tags == other.tags
    }
}

/// A fenced block.
struct Block<'a> {
    language: &'a str,
    text: &'a str,
}

fn blocks(readme: &str) -> Vec<Block<'_>> {
    readme
        .split("\n```")
        .skip(1)
        .step_by(2)
        .map(|block| {
            let (language, text) = block.split_once('\n').expect("a block of lines");
            Block { language, text }
        })
        .collect()
}

fn commands(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    lines.map(str::to_owned).collect()
}

fn step(command: &str) -> Step {
    let known = COMMANDS
        .iter()
        .find(|(start, _)| command.starts_with(start));
    known.map_or_else(
        || panic!("{command:?} is new: tell this test what comes of it"),
        |(_, step)| *step,
    )
}

/// The line with the log's name taken out of each id.
fn with_any_log(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.rsplit_once('-') {
        Some((log, sequence))
            if log.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && sequence.parse::<u64>().is_ok() =>
        {
            format!("LOG-{sequence}")
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
