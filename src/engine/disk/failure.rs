//! What becomes of a log that can not be written, or has lost something.

use std::{io, sync::Arc};

use super::{
    backend,
    index::{ChunkBuilder, read_rest},
    label::Reached,
    log::DiskLog,
    recovery,
    segment::{Commit, Segment, SegmentError},
};
use crate::{engine::EngineError, event::LogId};

/// Whether the log can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    /// There is no space; it goes on once there is.
    Full,
    /// Something could not be read for writing; it is opened anew.
    Reopening,
    /// Nobody knows what is on disk before the next start.
    Stopped,
}

impl DiskLog {
    pub(super) fn refusal(&self) -> EngineError {
        EngineError::Unavailable(match self.health {
            Health::Full => {
                "the log's disk is full: nothing is accepted until there is space".into()
            }
            Health::Reopening => "the log is opened anew: try again in a moment".into(),
            Health::Well | Health::Stopped => {
                "the log can not be written: nothing is accepted until the gateway is restarted"
                    .into()
            }
        })
    }

    /// Stops writing. What is on disk is still read.
    pub(super) fn fail(&mut self, error: &SegmentError) {
        self.health = match error {
            _ if self.mishaps.need_restart() => Health::Stopped,
            SegmentError::Io(error) if backend::is_full(error) => Health::Full,
            SegmentError::Io(_) => Health::Reopening,
            SegmentError::Damaged { .. } => Health::Stopped,
        };
        let advice = match self.health {
            Health::Full => "it goes on once there is space",
            Health::Reopening => "it is opened anew",
            Health::Well | Health::Stopped => "restart the gateway once the disk is well",
        };
        tracing::error!(%error, advice, "the log can not be written, so publishes are refused");
        self.update_condition(|condition| {
            condition.write_failures += 1;
            condition.refuses = Some(format!("the log can not be written: {error}; {advice}"));
        });
        // Readers go on with what is there, and open it for themselves.
        self.active.close();
        // What it holds of the group was never written.
        self.chunk = ChunkBuilder::default();
    }

    /// Takes note of errors that nobody was told of: redb goes on after some, and others were a
    /// reader's.
    pub(super) fn look_for_mishaps(&mut self) {
        if self.health != Health::Well {
            return;
        }
        if self.mishaps.need_restart() {
            self.fail(&io::Error::other("a write failed").into());
            return;
        }
        match self.active.end() {
            Ok(_) => {}
            Err(error @ SegmentError::Io(_)) => self.fail(&error),
            Err(error) => self.lose(&self.shelf.log(), &error),
        }
    }

    pub(super) fn recover(&mut self) {
        match self.open_anew() {
            Ok(()) => {
                self.health = Health::Well;
                tracing::info!("the log can be written again");
                self.update_condition(|condition| condition.refuses = None);
            }
            Err(SegmentError::Io(error)) if !self.mishaps.need_restart() => {
                tracing::debug!(%error, "the log still can not be written");
                self.active.close();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Opens the newest segment as after a crash, and tries whether it takes a commit.
    fn open_anew(&mut self) -> Result<(), SegmentError> {
        self.begin_run()?;
        self.active.write(self.writing())?;
        let end = self.active.end()?;
        if end.last != self.last {
            self.mishaps.note_sync();
            return Err(SegmentError::Damaged {
                name: self.active.name().to_owned(),
                what: format!("it ends at {} instead of {}", end.last, self.last),
            });
        }
        self.active.commit(&Commit {
            end,
            ..Commit::default()
        })?;
        let until = self.active.read_index(|_| {})?;
        self.chunk = read_rest(&self.active, until, &self.shelf.log())?;
        Ok(())
    }

    /// Something that should be in this log can never be read again: begins a new one.
    pub fn lose(&mut self, log: &LogId, error: &SegmentError) {
        // Several readers may come upon the same damage.
        if self.shelf.log() != *log || self.health != Health::Well {
            return;
        }
        tracing::error!(
            %error,
            log = log.as_str(),
            until = self.last,
            "the log has lost events: clients are told to start afresh"
        );
        if let Err(error) = self.begin_log() {
            tracing::error!(%error, "can not begin a new log");
            // What there is belongs to neither of them.
            self.mishaps.note_sync();
            self.fail(&SegmentError::Io(io::Error::other(error)));
        }
    }

    fn begin_log(&mut self) -> anyhow::Result<()> {
        let old = self.shelf.log();
        self.active.close();
        recovery::set_aside(self.directory.as_ref(), &old)?;
        let log = (self.options.new_log)()?;
        let active = Segment::create(self.directory.as_ref(), self.last, self.writing())?;
        self.reached = Reached::open(self.directory.as_ref())?;
        self.write_label(&log, false)?;
        // Nothing fails from here on, so that readers never see half of this.
        self.active = Arc::new(active);
        self.chunk = ChunkBuilder::after(self.last);
        self.shelf
            .replace(log.clone(), vec![Arc::clone(&self.active)]);
        self.given_up = Some((old, self.last));
        self.tail.restart(log, self.last);
        self.update_condition(|condition| condition.lost_logs += 1);
        Ok(())
    }
}
