//! What is published: the two modules, their size, and their types; the hooks, and theirs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{Claims, Js, Program, TestGateway};

/// The most that a page has to load for the client, with all three transports.
const BUDGET_BYTES: usize = 6 * 1024;

#[test]
fn the_client_is_what_its_source_builds_to() {
    let built = tempfile::tempdir().expect("a folder");
    let folder = built.path().to_str().expect("a path");
    succeed(Command::new("sh").args(["scripts/client.sh", folder]));
    for name in ["tribus.js", "tribus-extras.js"] {
        let fresh = fs::read(built.path().join(name)).expect("a module");
        let kept = fs::read(project().join("static").join(name)).expect("a module");
        assert!(
            fresh == kept,
            "static/{name} is older than client/: run `make client`"
        );
    }
}

#[test]
fn the_client_is_within_its_budget() {
    let gzip = Command::new("gzip")
        .args(["-9", "--stdout", "static/tribus.js"])
        .current_dir(project())
        .stderr(Stdio::inherit())
        .output()
        .expect("gzip runs");
    let bytes = gzip.stdout.len();
    assert!(bytes > 1024, "it was compressed");
    assert!(bytes <= BUDGET_BYTES, "{bytes} bytes of {BUDGET_BYTES}");
}

#[test]
fn an_application_gets_strict_types() {
    succeed(tsc().arg("tests/js/types.ts"));
}

/// What the examples leave to the application.
const APPLICATION: &str = r#"
    import { Tribus } from "tribus-client";
    interface Order { id: number; status: string }
    declare const signal: AbortSignal;
    declare const fetchMyToken: () => Promise<string>;
    declare const show: (what: unknown, value: unknown) => void;
    declare const draw: (what: unknown, value: unknown) => Promise<void>;
    declare const reload: (reason?: string) => void;
"#;

#[test]
fn the_examples_of_the_documentation_have_the_types_of_the_client() {
    let docs = fs::read_to_string(project().join("docs/client.md")).expect("docs/client.md");
    let blocks: Vec<&str> = docs
        .split("```ts\n")
        .skip(1)
        .filter_map(|rest| rest.split("\n```").next())
        .collect();
    assert!(blocks.len() > 1, "{} examples", blocks.len());
    let place = tempfile::tempdir().expect("a folder");
    let modules = place.path().join("node_modules");
    fs::create_dir(&modules).expect("a folder");
    std::os::unix::fs::symlink(project().join("static"), modules.join("tribus-client"))
        .expect("a link");
    let imports = |line: &&str| !line.starts_with("import ");
    let text: Vec<&str> = blocks
        .iter()
        .flat_map(|block| block.lines())
        .filter(imports)
        .collect();
    let example = place.path().join("example.mts");
    fs::write(&example, format!("{APPLICATION}{}", text.join("\n"))).expect("a file");
    succeed(tsc().arg(&example));
}

#[test]
fn an_application_gets_strict_types_for_react_by_the_name_of_the_package() {
    // The package is a link to static/, and the types of React are to be found beside the link.
    let options = ["--preserveSymlinks", "--jsx", "react-jsx"];
    succeed(tsc().args(options).arg("tests/js/types-react.tsx"));
}

fn tsc() -> Command {
    let mut tsc = Command::new("tests/js/node_modules/.bin/tsc");
    tsc.args([
        "--strict", "--noEmit", "--target", "es2022", "--module", "nodenext",
    ])
    .args(["--lib", "es2023,dom,dom.iterable,esnext.disposable"])
    .args(["--types", "", "--ignoreConfig"]);
    tsc
}

#[tokio::test]
async fn the_modules_export_what_their_types_say() {
    let js = Js::node();
    let exports = js
        .run(
            "const { WebSocket, ...all } = await load(); return Object.keys(all).sort();",
            Value::Null,
        )
        .await;
    assert_eq!(exports, json!(["Tribus", "TribusError", "default"]));
}

/// As an ES module of its own, which finds the package and `ws` by their names.
#[tokio::test]
async fn the_program_for_node_of_the_documentation_prints_events() {
    let docs = fs::read_to_string(project().join("docs/client.md")).expect("docs/client.md");
    let (_, program) = docs.split_once("```js\n").expect("a program");
    let (program, _) = program.split_once("```").expect("its end");
    let gateway = TestGateway::start().await;
    let url = "http://127.0.0.1:8080";
    assert!(program.contains(url), "{program}");
    let place = tempfile::tempdir().expect("a folder");
    let modules = place.path().join("node_modules");
    fs::create_dir(&modules).expect("a folder");
    for (package, folder) in [
        ("tribus-client", "static"),
        ("ws", "tests/js/node_modules/ws"),
    ] {
        std::os::unix::fs::symlink(project().join(folder), modules.join(package)).expect("a link");
    }
    let file = place.path().join("program.mjs");
    fs::write(&file, program.replace(url, &gateway.url(""))).expect("a file");
    let mut node = Command::new("node");
    node.arg(&file)
        .env("TRIBUS_TOKEN", Claims::all("alice").token());
    let mut node = Program::start(node);
    // Until it has subscribed it prints nothing.
    let published = async {
        loop {
            gateway.publish("order:1", json!("seen")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        line = node.prints("order:1") => assert_eq!(line, "order:1 seen"),
        () = published => {}
    }
}

#[tokio::test]
async fn two_modules_that_do_not_belong_together_say_so() {
    let gateway = TestGateway::start().await;
    let place = tempfile::tempdir().expect("a folder");
    let read = |name: &str| fs::read_to_string(project().join("static").join(name)).expect(name);
    let client = read("tribus.js");
    let (_, build) = client.split_once(".use(\"").expect("what it is built of");
    let (build, _) = build.split_once('"').expect("its end");
    let extras = read("tribus-extras.js").replace(build, "another");
    for (name, text) in [("tribus.js", &client), ("tribus-extras.js", &extras)] {
        fs::write(place.path().join(name), text).expect("a file");
    }
    let package = r#"{"type": "module"}"#;
    fs::write(place.path().join("package.json"), package).expect("a file");
    let body = "
        const { Tribus } = await import(args.module);
        const client = new Tribus(args.url, { getToken: () => args.token, transports: ['sse'] });
        client.subscribe('order:*', () => {});
        const live = new Promise((resolve) => client.addEventListener('status', ({ detail }) => resolve(detail.state)));
        const got = [await live, await client.publish('order:1', 1).catch(({ message }) => message)];
        client.close();
        return got;";
    let args = json!({
        "module": place.path().join("tribus.js"),
        "url": gateway.url("/"),
        "token": Claims::all("alice").token()
    });
    let words = "tribus.js and tribus-extras.js are of two versions: load the page anew";
    assert_eq!(Js::node().run(body, args).await, json!(["live", words]));
}

#[test]
fn the_hooks_export_what_their_types_say_and_import_react_alone() {
    let read = |name: &str| fs::read_to_string(project().join("static").join(name));
    let module = read("react.js").expect("the hooks");
    let types = read("react.d.ts").expect("their types");
    let exports = names_after("export const ", &module);
    assert!(exports.contains("useTribus"), "{exports:?}");
    assert_eq!(exports, names_after("export function ", &types));
    let imports: Vec<&str> = module
        .lines()
        .filter(|line| line.contains(" from \""))
        .collect();
    assert_eq!(imports, ["} from \"react\";"]);
}

/// The names that follow where a line begins like this.
fn names_after<'a>(opening: &str, text: &'a str) -> BTreeSet<&'a str> {
    text.lines()
        .filter_map(|line| line.strip_prefix(opening))
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next())
        .collect()
}

#[test]
fn npm_would_publish_exactly_the_client() {
    let packed = succeed(
        Command::new("npm")
            .args(["pack", "--dry-run", "--json", "--loglevel=error"])
            .current_dir(project().join("static")),
    );
    let packed: Value = serde_json::from_slice(&packed.stdout).expect("JSON");
    let packages = packed.as_array().cloned().unwrap_or_else(|| {
        packed
            .as_object()
            .expect("an object")
            .values()
            .cloned()
            .collect()
    });
    let files = packages[0]["files"].as_array().expect("files");
    let mut names: Vec<&str> = files
        .iter()
        .filter_map(|file| file["path"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "LICENSE-APACHE",
            "LICENSE-MIT",
            "README.md",
            "package.json",
            "react.d.ts",
            "react.js",
            "tribus-extras.js",
            "tribus.d.ts",
            "tribus.js"
        ]
    );
}

fn succeed(command: &mut Command) -> Output {
    if command.get_current_dir().is_none() {
        command.current_dir(project());
    }
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}
