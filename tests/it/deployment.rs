//! What operators get besides the binary: the sample configuration, the container image, the
//! systemd unit, and what `docs/operations.md` says of proxies.

mod container;
mod page;
mod proxies;
mod sample;
mod service;

use std::path::{Path, PathBuf};

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn path(file: &str) -> PathBuf {
    project().join(file)
}

fn read(file: &str) -> String {
    let read = std::fs::read_to_string(path(file));
    read.unwrap_or_else(|error| panic!("{file}: {error}"))
}
