//! What a start makes of what is on disk.
//!
//! A log is either whole or given up: where something that was acknowledged is missing or changed,
//! all of it is set aside, and a new log begins, so that no client goes on as if nothing had
//! happened.

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backend::{Mishaps, is_full},
    beginning::{begin, set_aside, writing},
    clock::Ages,
    directory::Directory,
    index::{ChunkBuilder, read_rest},
    label::{Durability, LABEL, Label, LabelError, REACHED, Reached, TRIMS, read_trims},
    log::DiskOptions,
    patience::{Tried, is_not_given},
    record::{KeyRow, RecordError},
    segment::{Segment, SegmentError},
};
use crate::{
    engine::{
        Tail,
        idempotency::{IdempotencyWindow, KEY_LIFETIME},
    },
    event::LogId,
};

/// By how much the clock may be set back without that keys are forgotten.
const CLOCK_JUMP: Duration = Duration::from_secs(2 * 3600);

/// How often a start tries within its patience what the disk does not give.
const TRIES_OF_START: u32 = 8;

/// A log that can be gone on with.
pub(super) struct Recovered {
    pub log: LogId,
    pub segments: Vec<Arc<Segment>>,
    /// The last of them, open for writing.
    pub active: Arc<Segment>,
    pub chunk: ChunkBuilder,
    pub last: u64,
    /// See [`Label::boot_after`], for the run that begins.
    pub boot_after: u64,
    pub keys: IdempotencyWindow,
    pub mishaps: Arc<Mishaps>,
    /// 1 where the log that was there had to be given up.
    pub lost_logs: u64,
    /// The log was there before, so that it can be read where it can not be written.
    pub is_old: bool,
    /// There was no space to open the last segment for writing.
    pub is_full: bool,
}

/// Why a log can not be gone on with.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The disk's, or a newer version's: it may be there the next time.
    #[error(transparent)]
    Now(anyhow::Error),
    /// Something that was acknowledged is gone.
    #[error("{what}")]
    Lost { what: String, known: u64 },
}

/// The disk does not give something, see [`is_not_given`].
#[derive(Debug, thiserror::Error)]
#[error("can not read {what}: {source}")]
struct NotGiven {
    what: String,
    source: io::Error,
}

/// Opens the log that is there, or begins one, and tells the tail of it. What the disk does not give
/// is tried for a while, and counts as damaged then.
///
/// # Errors
/// Where the directory can not be used, or is a newer version's.
pub(super) fn recover(
    directory: &dyn Directory,
    options: &DiskOptions,
    tail: &dyn Tail,
) -> anyhow::Result<Recovered> {
    let mut tried = Tried::once();
    loop {
        let start = Start {
            directory,
            options,
            tail,
            is_last: tried.is_enough(options.patience),
        };
        match start.recover() {
            Err(error) if error.is::<NotGiven>() && !start.is_last => {
                tracing::warn!(%error, "trying again, since the log may have to be given up for it");
                std::thread::sleep(options.patience / TRIES_OF_START);
                tried.again();
            }
            done => return done,
        }
    }
}

/// One try to open a log.
#[derive(Clone, Copy)]
struct Start<'a> {
    directory: &'a dyn Directory,
    options: &'a DiskOptions,
    tail: &'a dyn Tail,
    /// What the disk does not give now is lost.
    is_last: bool,
}

impl Start<'_> {
    fn recover(self) -> anyhow::Result<Recovered> {
        let label = match Label::read(self.directory) {
            Ok(label) => label,
            Err(LabelError::Damaged(error)) => {
                return self.start_afresh(None, &error.to_string(), 0);
            }
            Err(LabelError::Io(error)) => {
                let what = self.loss(LABEL, error)?;
                return self.start_afresh(None, &what, 0);
            }
            Err(error) => return Err(error.into()),
        };
        let Some(label) = label else {
            return self.begin_or_start_afresh();
        };
        let recovery = Recovery {
            start: self,
            label: &label,
            mishaps: Arc::default(),
        };
        match recovery.run() {
            Ok(recovered) => Ok(recovered),
            Err(Failure::Now(error)) => Err(error),
            Err(Failure::Lost { what, known }) => self.start_afresh(Some(&label), &what, known),
        }
    }

    /// Without a label: a crash may have come while a log was begun, or one was set aside before that.
    fn begin_or_start_afresh(self) -> anyhow::Result<Recovered> {
        let known = self.reached()?;
        match segments_in(self.directory)?.as_slice() {
            [] => self.begin(known, 0),
            [only] if self.is_new(*only)? => self.begin(known.max(*only), 0),
            [.., last] => self.start_afresh(None, "its label is gone", *last),
        }
    }

    /// Sets aside what is there, and begins a new log after all positions that are known of it.
    fn start_afresh(
        self,
        label: Option<&Label>,
        what: &str,
        known: u64,
    ) -> anyhow::Result<Recovered> {
        let old = match label {
            Some(label) => label.log.clone(),
            None => (self.options.new_log)()?,
        };
        let known = known
            .max(label.map_or(0, |label| label.last))
            .max(self.reached()?);
        tracing::error!(
            what,
            log = old.as_str(),
            until = known,
            "the log has lost events: it is set aside, and clients are told to start afresh"
        );
        set_aside(self.directory, &old)?;
        self.begin(known, 1)
    }

    fn begin(self, after: u64, lost_logs: u64) -> anyhow::Result<Recovered> {
        begin(self.directory, self.options, self.tail, after, lost_logs)
    }

    /// Whether nothing was ever appended to a segment.
    fn is_new(self, after: u64) -> anyhow::Result<bool> {
        let end = Segment::find(self.directory, after).and_then(|segment| segment.end());
        match end {
            Ok(end) => Ok(end.last == after),
            Err(SegmentError::Damaged { .. }) => Ok(false),
            Err(SegmentError::Io(error)) => {
                self.loss(&Segment::name_of(after), error).map(|_| false)
            }
        }
    }

    /// The last sequence that is known to have been acknowledged; 0 where nothing is known.
    fn reached(self) -> anyhow::Result<u64> {
        let reached = self.unless_lost(REACHED, Reached::read(self.directory))?;
        Ok(reached.unwrap_or(0))
    }

    /// What could be read, or how it was lost.
    ///
    /// # Errors
    /// As [`Start::loss`].
    fn unless_lost<T>(self, what: &str, read: io::Result<T>) -> anyhow::Result<Result<T, String>> {
        match read {
            Ok(read) => Ok(Ok(read)),
            Err(error) => self.loss(what, error).map(Err),
        }
    }

    /// How what could not be read was lost.
    ///
    /// # Errors
    /// Where it is to be tried again, or somebody has to do something first.
    fn loss(self, what: &str, source: io::Error) -> anyhow::Result<String> {
        let may_last = is_not_given(&source);
        let what = what.to_owned();
        let error = NotGiven { what, source };
        match (may_last, self.is_last) {
            (true, true) => Ok(error.to_string()),
            (true, false) => Err(error.into()),
            (false, _) => Err(anyhow::anyhow!(error.to_string())),
        }
    }
}

/// The positions after which the directory's segments come, rising.
pub(super) fn segments_in(directory: &dyn Directory) -> io::Result<Vec<u64>> {
    let names = directory.names()?;
    let afters = names.iter().filter_map(|name| Segment::after_of(name));
    let mut afters: Vec<u64> = afters.collect::<HashSet<_>>().into_iter().collect();
    afters.sort_unstable();
    Ok(afters)
}

/// Makes all segments durable.
///
/// # Errors
/// The disk's.
pub(super) fn sync_all(directory: &dyn Directory, segments: &[Arc<Segment>]) -> io::Result<()> {
    for segment in segments {
        segment.sync()?;
    }
    directory.sync()
}

/// Reads the log that a label tells of.
struct Recovery<'a> {
    start: Start<'a>,
    label: &'a Label,
    mishaps: Arc<Mishaps>,
}

impl Recovery<'_> {
    fn run(self) -> Result<Recovered, Failure> {
        self.check_end_of_last_run()?;
        let afters = segments_in(self.start.directory)?;
        let segments: Result<Vec<_>, SegmentError> = afters
            .iter()
            .map(|after| Segment::find(self.start.directory, *after).map(Arc::new))
            .collect();
        let segments = self.told("its segments", segments)?;
        let Some((active, sealed)) = segments.split_last() else {
            return Err(self.lost("its segments are gone"));
        };
        let trims = read_trims(self.start.directory);
        // As where they are damaged, nothing is known of them then.
        let trims = self.start.unless_lost(TRIMS, trims)?.unwrap_or_default();
        self.start
            .tail
            .begin(self.label.log.clone(), afters[0], &trims);
        if self.label.durability != self.start.options.durability {
            // What was left to the operating system so far.
            sync_all(self.start.directory, &segments)?;
        }
        for (segment, next) in sealed.iter().zip(&segments[1..]) {
            let until = self.restore_index(segment)?;
            segment.close();
            if until != next.after() {
                return Err(self.lost(&format!(
                    "the segment {} ends at {until}, and the next one begins after {}",
                    segment.name(),
                    next.after()
                )));
            }
        }
        let is_full = self.write(active)?;
        let (chunk, last) = self.restore_active(active)?;
        self.check_last(last)?;
        Ok(Recovered {
            log: self.label.log.clone(),
            keys: self.restore_keys(&segments)?,
            active: Arc::clone(active),
            segments,
            chunk,
            last,
            boot_after: self.ages().boot_after.unwrap_or(last),
            mishaps: self.mishaps,
            lost_logs: 0,
            is_old: true,
            is_full,
        })
    }

    fn lost(&self, what: &str) -> Failure {
        Failure::Lost {
            what: what.to_owned(),
            known: self.label.last,
        }
    }

    /// What only the operating system had went with the machine.
    fn check_end_of_last_run(&self) -> Result<(), Failure> {
        let Label {
            clean, durability, ..
        } = self.label;
        if !clean && *durability == Durability::Os && !self.is_same_boot() {
            return Err(self.lost(
                "the machine stopped while the gateway ran with the durability \"os\", so its \
                 newest events may be gone",
            ));
        }
        Ok(())
    }

    /// Opens the last segment for writing; true where there is no space for that.
    fn write(&self, active: &Segment) -> Result<bool, Failure> {
        let Label { clean, boot, .. } = self.label;
        // Where the last run was cut short, a sync may have failed in it.
        let is_on_disk = if *clean || *boot != self.start.options.boot {
            Ok(())
        } else {
            active.rewrite(&self.mishaps)
        };
        let writing = writing(self.start.options, &self.mishaps);
        let written = is_on_disk
            .map_err(SegmentError::from)
            .and_then(|()| active.write(writing));
        match written {
            Ok(()) => Ok(false),
            // What the disk has is not known after a failed write, however often it is tried.
            Err(SegmentError::Io(error)) if self.mishaps.need_restart() => Err(error.into()),
            Err(SegmentError::Io(error)) if is_full(&error) => {
                active.close();
                Ok(true)
            }
            other => self.told(active.name(), other).map(|()| false),
        }
    }

    /// What was read of a segment.
    fn told<T>(&self, segment: &str, read: Result<T, SegmentError>) -> Result<T, Failure> {
        let what = match read {
            Ok(read) => return Ok(read),
            Err(SegmentError::Io(error)) => self.start.loss(segment, error)?,
            Err(damaged) => damaged.to_string(),
        };
        Err(self.lost(&what))
    }

    /// Tells the tail what the index of a segment holds: up to where.
    fn restore_index(&self, segment: &Segment) -> Result<u64, Failure> {
        let ages = self.ages();
        let mut bad = None;
        let until = segment.read_index(|chunk| match chunk.events(&ages) {
            Ok(events) if bad.is_none() => self.start.tail.restore(events, chunk.until),
            Ok(_) => {}
            Err(error) => bad = Some(error),
        });
        let until = self.told(segment.name(), until)?;
        match bad {
            None => Ok(until),
            Some(error) => Err(self.bad_index(segment, error)),
        }
    }

    fn bad_index(&self, segment: &Segment, error: RecordError) -> Failure {
        self.lost(&format!("the index of {}: {error}", segment.name()))
    }

    fn restore_active(&self, active: &Segment) -> Result<(ChunkBuilder, u64), Failure> {
        let until = self.restore_index(active)?;
        let chunk = self.told(active.name(), read_rest(active, until, &self.label.log))?;
        let last = chunk.end().last;
        let events = chunk.chunk().events(&self.ages());
        let events = events.map_err(|error| self.bad_index(active, error))?;
        self.start.tail.restore(events, last);
        Ok((chunk, last))
    }

    /// Whether the log ends where it was when somebody was last told.
    fn check_last(&self, last: u64) -> Result<(), Failure> {
        let reached = self.start.reached()?;
        let known = reached.max(self.label.last);
        if last < known || (self.label.clean && last != self.label.last) {
            return Err(Failure::Lost {
                what: format!("it ends at {last}, and had come to {known}"),
                known,
            });
        }
        Ok(())
    }

    fn restore_keys(&self, segments: &[Arc<Segment>]) -> Result<IdempotencyWindow, Failure> {
        let (ages, instant) = (self.ages(), Instant::now());
        let age = |row: &KeyRow| ages.of(row.first, row.stamp);
        let mut newest_first = Vec::new();
        for segment in segments.iter().rev() {
            let read = segment.read_keys(|rows| {
                // Where the clock was set back, newer keys seem older.
                let is_past = |row: &KeyRow| age(row) >= KEY_LIFETIME + CLOCK_JUMP;
                let goes_on = !rows.iter().all(is_past);
                let young = rows.into_iter().filter(|row| age(row) < KEY_LIFETIME);
                newest_first.extend(young);
                goes_on
            });
            self.told(segment.name(), read)?;
        }
        // A key that was used again after its time stands for what it was used for last.
        let mut seen = HashSet::new();
        newest_first.retain(|row| seen.insert(row.scoped));
        let mut keys = IdempotencyWindow::new(self.start.options.idempotency);
        for row in newest_first.iter().rev() {
            let used = instant.checked_sub(age(row)).unwrap_or(instant);
            keys.remember(&row.key(), row.first, row.count, used);
        }
        Ok(keys)
    }

    /// How old what is stored is now.
    fn ages(&self) -> Ages {
        Ages {
            now: (self.start.options.clock)(),
            boot_after: self.is_same_boot().then_some(self.label.boot_after),
        }
    }

    /// Whether the machine was not started since the last run, as far as is known.
    fn is_same_boot(&self) -> bool {
        let boot = &self.label.boot;
        !boot.is_empty() && *boot == self.start.options.boot
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Now(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Now(error)
    }
}
