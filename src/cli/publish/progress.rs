//! A bar for a file, a spinner for stdin, nothing where stderr is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

const FILE_STYLE: &str = "{bar:30} {bytes}/{total_bytes} ({bytes_per_sec}, {eta} left) {msg}";
const STREAM_STYLE: &str = "{spinner} {bytes} ({bytes_per_sec}) {msg}";

/// How far the publishing has come. It vanishes when dropped.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// For `length` bytes, where that is known.
    pub fn new(length: Option<u64>) -> Self {
        let template = if length.is_some() {
            FILE_STYLE
        } else {
            STREAM_STYLE
        };
        let bar = length.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar }
    }

    pub fn advance(&self, position: u64, events: u64) {
        self.bar.set_position(position);
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{events} events"));
        }
    }

    /// Lets a line of text through, above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| super::say(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
