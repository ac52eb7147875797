//! What becomes of a log that can not be written, or has lost something.

use std::{io, sync::Arc, time::Instant};

use super::{
    backend,
    beginning::{forget_earlier, set_aside},
    index::{ChunkBuilder, read_rest},
    label::Reached,
    log::DiskLog,
    patience::{Tried, is_not_given},
    segment::{Commit, Segment, SegmentError},
};
use crate::{
    engine::{EngineError, idempotency::KEY_LIFETIME},
    event::LogId,
};

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

/// How far a log that has lost something is given up, while a new one can not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    Found,
    /// Its files are set aside, and what is in their place is of no log.
    Aside,
}

/// A log that was given up while it was open.
pub(super) struct GivenUp {
    pub log: LogId,
    /// Where it ended.
    pub last: u64,
    pub since: Instant,
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
            Health::Full if self.loss.is_some() => {
                "a new log begins once there is space, for which the log that was set aside, \
                 lost-... in its directory, may be removed"
            }
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

    /// What could not be committed is refused: with this log, or with a new one where this one turned out
    /// to be damaged, which a restart would come upon again.
    pub(super) fn fail_to_commit(&mut self, error: &SegmentError) -> EngineError {
        let is_damaged = matches!(error, SegmentError::Damaged { .. });
        if !is_damaged || self.mishaps.need_restart() {
            self.fail(error);
            return self.refusal();
        }
        self.lose(&self.shelf.log(), error);
        match self.health {
            Health::Well => EngineError::Unavailable(
                "the log was damaged, and a new one has begun: try again".into(),
            ),
            _ => self.refusal(),
        }
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
        let (recovered, lost) = if self.loss.is_some() {
            (self.begin_log(), None)
        } else {
            self.go_on()
        };
        if let Some(damage) = lost {
            return self.lose(&self.shelf.log(), &damage);
        }
        match recovered {
            Ok(()) => self.be_well(),
            Err(error) if self.may_try_again(&error) => {
                tracing::debug!(%error, "the log still can not be written");
                self.active.close();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn be_well(&mut self) {
        self.health = Health::Well;
        self.not_opened = None;
        tracing::info!("the log can be written again");
        self.update_condition(|condition| condition.refuses = None);
    }

    /// Also what the log is to be given up for, where the disk did not give its newest segment for
    /// long.
    fn go_on(&mut self) -> (Result<(), SegmentError>, Option<SegmentError>) {
        if let Err(error) = self.begin_run() {
            return (Err(error.into()), None);
        }
        let opened = self.open_anew();
        let lost = match &opened {
            Err(SegmentError::Io(error)) if is_not_given(error) && !self.mishaps.need_restart() => {
                let tried = self.not_opened.get_or_insert_with(Tried::once);
                let is_enough = tried.is_enough(self.options.patience);
                tried.again();
                is_enough.then(|| tried.damage(self.active.name(), error))
            }
            _ => None,
        };
        (opened, lost)
    }

    /// Opens the newest segment as after a crash, and tries whether it takes a commit.
    fn open_anew(&mut self) -> Result<(), SegmentError> {
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
        if std::mem::take(&mut self.is_to_rewrite) {
            self.active.rewrite(&self.mishaps)?;
        }
        let until = self.active.read_index(|_| {})?;
        self.chunk = read_rest(&self.active, until, &self.shelf.log())?;
        Ok(())
    }

    /// Something that should be in this log can never be read again: begins a new one, or waits with
    /// that for space.
    pub fn lose(&mut self, log: &LogId, error: &SegmentError) {
        let may_begin = matches!(self.health, Health::Well | Health::Reopening);
        // Several readers may come upon the same damage.
        if self.shelf.log() != *log || !may_begin || self.loss.is_some() {
            return;
        }
        tracing::error!(
            %error,
            log = log.as_str(),
            until = self.last,
            "the log has lost events: clients are told to start afresh"
        );
        self.loss = Some(Loss::Found);
        match self.begin_log() {
            Ok(()) if self.health == Health::Well => {}
            Ok(()) => self.be_well(),
            Err(error) => {
                tracing::error!(%error, "can not begin a new log");
                self.fail(&error);
            }
        }
    }

    /// Whether it may go well the next time, and what is on disk is known.
    fn may_try_again(&self, error: &SegmentError) -> bool {
        matches!(error, SegmentError::Io(_)) && !self.mishaps.need_restart()
    }

    /// Begins a new log in the place of one that was lost. Where that fails for want of space, readers
    /// go on with what there is of the old one, and this goes on from where it came to.
    fn begin_log(&mut self) -> Result<(), SegmentError> {
        let begun = self.try_to_begin_log();
        begun.inspect_err(|error| {
            let is_full = matches!(error, SegmentError::Io(error) if backend::is_full(error));
            if !is_full {
                // What there is belongs to neither of them.
                self.mishaps.note_sync();
            }
        })
    }

    /// Keys are answered with the log that they were used in as long as they are remembered.
    fn remember(&mut self, log: LogId) {
        self.given_up
            .retain(|given_up| given_up.since.elapsed() < KEY_LIFETIME);
        self.given_up.push(GivenUp {
            log,
            last: self.last,
            since: Instant::now(),
        });
    }

    fn try_to_begin_log(&mut self) -> Result<(), SegmentError> {
        let directory = Arc::clone(&self.directory);
        let old = self.shelf.log();
        self.active.close();
        if self.loss != Some(Loss::Aside) {
            set_aside(directory.as_ref(), &old)?;
            self.loss = Some(Loss::Aside);
        }
        forget_earlier(directory.as_ref())?;
        let log = (self.options.new_log)().map_err(io::Error::other)?;
        let active = Segment::create(directory.as_ref(), self.last, self.writing())?;
        self.reached = Reached::open(directory.as_ref())?;
        self.boot_after = self.last;
        self.write_label(&log, false)?;
        // Nothing fails from here on, so that readers never see half of this.
        self.loss = None;
        self.active = Arc::new(active);
        self.chunk = ChunkBuilder::after(self.last);
        self.shelf
            .replace(log.clone(), vec![Arc::clone(&self.active)]);
        self.remember(old);
        self.tail.restart(log, self.last);
        self.update_condition(|condition| condition.lost_logs += 1);
        Ok(())
    }
}
