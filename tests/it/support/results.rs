use std::{fs, io::Write, path::PathBuf};

/// A folder for what the tests measured, one file a table: `make results` puts them into README.md.
const FOLDER: &str = "TRIBUS_RESULTS";

/// A row of a table in README.md: cells that are the same each time, which must stand there, and
/// cells that were measured.
///
/// # Panics
/// Where README.md has no such row, unless its tables are just being made.
pub fn record(table: &str, same: &[&str], measured: &[&str]) {
    let same = format!("| {} |", same.join(" | "));
    let Some(folder) = std::env::var_os(FOLDER) else {
        let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let readme = fs::read_to_string(readme).expect("README.md");
        let is_there = readme.lines().any(|line| line.starts_with(&same));
        assert!(is_there, "not in README.md: {same} (make results)");
        return;
    };
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(PathBuf::from(folder).join(table))
        .expect("the folder is there");
    // One write, since tests run beside each other.
    let row = format!("{same} {} |\n", measured.join(" | "));
    file.write_all(row.as_bytes()).expect("a row is written");
}
