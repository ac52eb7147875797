//! How far the run has come, on stderr: a bar for what has a length, nothing where stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const STYLE: &str = "{prefix:>12} {bar:30} {pos}/{len} {msg}";

/// The bar of the stage that is under way. It vanishes when dropped.
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub fn new(is_quiet: bool) -> Self {
        let bar = ProgressBar::no_length();
        if is_quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(STYLE) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        Self { bar }
    }

    /// Another stage, of so many steps.
    pub fn stage(&self, name: &'static str, length: u64) {
        self.bar.set_message("");
        self.bar.set_position(0);
        self.bar.set_length(length);
        self.bar.set_prefix(name);
    }

    pub fn advance(&self, position: u64, message: impl FnOnce() -> String) {
        self.bar.set_position(position);
        if !self.bar.is_hidden() {
            self.bar.set_message(message());
        }
    }

    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
