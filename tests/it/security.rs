//! `SECURITY.md` names a test for each thing that stops an attack; here is that it tells the truth
//! about which tests there are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md");
    fs::read_to_string(path).expect("the page")
}

/// All tests by the names that `cargo test` knows them by.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for directory in ["tests/it", "src"] {
        let directory = root.join(directory);
        for file in sources(&directory) {
            let module = module_of(file.strip_prefix(&directory).expect("below it"));
            let source = fs::read_to_string(&file).expect("a source");
            names.extend(tests_in(&source, &module));
        }
    }
    names
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// A file `x_tests.rs` holds what its neighbour `x.rs` calls `tests`.
fn module_of(file: &Path) -> Vec<String> {
    let without_extension = file.with_extension("");
    let text = without_extension.to_str().expect("text");
    let text = text.replace("_tests", "/tests");
    let names = text.split('/');
    names
        .filter(|name| !["mod", "main", "lib"].contains(name))
        .map(Into::into)
        .collect()
}

/// Finds the functions with an attribute that ends in `test` and none that has them ignored, in
/// the module of the file and those that begin in the first column of it.
fn tests_in(source: &str, module: &[String]) -> Vec<String> {
    let mut path = module.to_vec();
    let (mut is_test, mut is_ignored) = (false, false);
    let mut names = Vec::new();
    for line in source.lines() {
        if let Some(attribute) = line.trim_start().strip_prefix("#[") {
            let name = attribute.split(['(', ']', ' ']).next().unwrap_or_default();
            is_test |= name.rsplit("::").next() == Some("test");
            is_ignored |= name == "ignore";
        } else if let Some(name) = inline_module(line) {
            path.push(name.to_owned());
        } else if line == "}" {
            path.truncate(module.len());
        } else if let Some(name) = function(line) {
            if is_test && !is_ignored {
                names.push(format!("{}::{name}", path.join("::")));
            }
            (is_test, is_ignored) = (false, false);
        }
    }
    names
}

fn inline_module(line: &str) -> Option<&str> {
    line.strip_prefix("mod ")?.strip_suffix(" {")
}

fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("async ").unwrap_or(line);
    let (name, _) = line.strip_prefix("fn ")?.split_once(['(', '<'])?;
    Some(name)
}

/// The names of tests in a text: what stands in backticks and is a path.
fn named_in(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |name: &&str| {
        let of_a_path = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c);
        name.contains("::") && name.chars().all(of_a_path)
    };
    quoted.filter(is_path).collect()
}

fn missing<'a>(text: &'a str, tests: &BTreeSet<String>) -> Vec<&'a str> {
    let mut names = named_in(text);
    names.retain(|name| !tests.contains(*name));
    names
}

#[test]
fn every_test_that_the_page_names_is_one() {
    let page = page();
    assert!(named_in(&page).len() > 50, "there is a threat model");
    assert_eq!(missing(&page, &tests()), Vec::<&str>::new());
}

#[test]
fn every_line_of_the_threat_model_names_a_test() {
    let page = page();
    let (_, model) = page.split_once("\n## Threat model\n").expect("a model");
    let (model, _) = model.split_once("\n## Not defended").expect("its bounds");
    let lines = model.lines().filter(|line| line.starts_with("| "));
    let defences = lines.filter(|line| !line.starts_with("| tries to |"));
    let without: Vec<&str> = defences.filter(|line| named_in(line).is_empty()).collect();
    assert_eq!(without, Vec::<&str>::new());
}

#[test]
fn a_name_that_no_test_has_is_found() {
    let source = "\
#[test]
fn one() {
}

#[tokio::test(flavor = \"multi_thread\")]
async fn two() {
}

fn no_test() {
}

#[test]
#[ignore]
fn not_run() {
}

#[cfg(test)]
mod tests {
    #[test]
    fn three() {
    }
}

#[test]
fn four() {
}
";
    let tests = tests_in(source, &["a".to_owned(), "b".to_owned()]);
    let tests = BTreeSet::from_iter(tests);
    let text = "`a::b::one`, `a::b::two` and `a::b::tests::three`, `a::b::four`: `a::b::no_test`, \
                `a::b::not_run`, `a::b::three`, `one`, `a::one`, `a::b::five` and `Some::Type`";
    assert_eq!(
        missing(text, &tests),
        [
            "a::b::no_test",
            "a::b::not_run",
            "a::b::three",
            "a::one",
            "a::b::five"
        ]
    );
}
