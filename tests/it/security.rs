//! The threat model names tests, which have to be there.

use std::{fs, path::Path};

/// All sources of tests, with the path of each as a module.
fn sources(directory: &Path, module: &str, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let stem = path.file_stem().expect("a name").to_string_lossy();
        let name = match (module, stem.as_ref()) {
            ("", "main" | "lib") => String::new(),
            (parent, "mod") => parent.to_owned(),
            ("", stem) => stem.to_owned(),
            (parent, stem) => format!("{parent}::{stem}"),
        };
        if path.is_dir() {
            sources(&path, &name, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            into.push((name, text));
        }
    }
}

fn exists(sources: &[(String, String)], test: &str) -> bool {
    let Some((module, function)) = test.rsplit_once("::") else {
        return false;
    };
    let module = module.strip_suffix("::tests").unwrap_or(module);
    let definition = format!("fn {function}(");
    sources
        .iter()
        .any(|(name, text)| name == module && text.contains(&definition))
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    sources(&root.join("tests/it"), "", &mut all);
    sources(&root.join("src"), "", &mut all);
    let text = fs::read_to_string(root.join("SECURITY.md")).expect("a threat model");
    let lines = text.lines().filter(|line| line.starts_with("| "));
    let threats: Vec<&str> = lines.filter(|line| !line.starts_with("| tries")).collect();
    assert!(threats.len() > 30, "{} threats", threats.len());
    for threat in threats {
        let cell = threat.trim_end_matches('|').rsplit('|').next();
        let names = cell.expect("a cell").split('`').skip(1).step_by(2);
        let mut count = 0;
        for test in names {
            assert!(exists(&all, test), "there is no test {test}");
            count += 1;
        }
        assert!(count > 0, "no test for {threat}");
    }
}

#[test]
fn a_test_that_is_not_there_is_missed() {
    let all = [("slow".to_owned(), "async fn here() {".to_owned())];
    assert!(exists(&all, "slow::here"));
    assert!(!exists(&all, "slow::there"));
    assert!(!exists(&all, "fast::here"));
}
