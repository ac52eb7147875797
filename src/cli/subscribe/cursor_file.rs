//! `--cursor-file`: where the next run goes on from.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Holds the last cursor. A crash leaves the old cursor or the new one, never half of one.
pub struct CursorFile {
    path: PathBuf,
    /// Beside the file, for a rename is atomic only within a file system.
    draft: PathBuf,
    saved: Option<String>,
}

impl CursorFile {
    /// Reads what an earlier run left; a missing or empty file is a first run.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read --cursor-file {}", path.display()));
            }
        };
        let cursor = text.trim();
        if !cursor.is_empty() && !is_cursor(cursor) {
            bail!(
                "--cursor-file {} does not hold a cursor; remove it to start anew",
                path.display()
            );
        }
        let mut draft = OsString::from(path);
        draft.push(format!(".{}.tmp", std::process::id()));
        let saved = (!cursor.is_empty()).then(|| cursor.to_owned());
        Ok(Self {
            path: path.to_owned(),
            draft: draft.into(),
            saved,
        })
    }

    /// The cursor as it stands in the file.
    pub fn cursor(&self) -> Option<&str> {
        self.saved.as_deref()
    }

    /// Puts `cursor` in the place of the last one.
    pub fn save(&mut self, cursor: &str) -> Result<()> {
        if self.saved.as_deref() == Some(cursor) {
            return Ok(());
        }
        let written = fs::write(&self.draft, format!("{cursor}\n"))
            .and_then(|()| fs::rename(&self.draft, &self.path));
        written.with_context(|| format!("cannot write --cursor-file {}", self.path.display()))?;
        self.saved = Some(cursor.to_owned());
        Ok(())
    }
}

/// The form of a cursor, as the protocol gives it.
pub fn is_cursor(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_cursor_is_there_for_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        let mut file = CursorFile::open(&path).unwrap();
        assert_eq!(file.cursor(), None);
        file.save("k-1").unwrap();
        file.save("k-2").unwrap();
        assert_eq!(CursorFile::open(&path).unwrap().cursor(), Some("k-2"));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no draft is left behind"
        );
    }

    #[test]
    fn a_file_with_something_else_in_it_is_refused_and_an_empty_one_is_a_first_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        fs::write(&path, "my shopping list\n").unwrap();
        assert!(CursorFile::open(&path).is_err());
        fs::write(&path, "\n").unwrap();
        assert_eq!(CursorFile::open(&path).unwrap().cursor(), None);
    }
}
