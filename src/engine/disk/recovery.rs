//! What a start makes of what is on disk.
//!
//! A log is either whole or given up: where something that was acknowledged is missing or changed,
//! all of it is set aside, and a new log begins, so that no client goes on as if nothing had
//! happened.

use std::{collections::HashSet, io, sync::Arc, time::Instant};

use super::{
    backend::{Mishaps, is_full},
    directory::Directory,
    index::{ChunkBuilder, age, read_rest},
    label::{Durability, LABEL, Label, LabelError, OF_ONE_LOG, Reached, read_trims},
    log::DiskOptions,
    record::RecordError,
    segment::{Segment, SegmentError, Writing},
};
use crate::{
    engine::{
        Tail,
        idempotency::{IdempotencyWindow, KEY_LIFETIME},
    },
    event::{Cursor, LogId},
};

/// What the directories of logs that were given up begin with.
const LOST: &str = "lost-";

/// A log that can be gone on with.
pub(super) struct Recovered {
    pub log: LogId,
    pub segments: Vec<Arc<Segment>>,
    /// The last of them, open for writing.
    pub active: Arc<Segment>,
    pub chunk: ChunkBuilder,
    pub last: u64,
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

/// Opens the log that is there, or begins one, and tells the tail of it.
///
/// # Errors
/// Where the directory can not be used, or is a newer version's.
pub(super) fn recover(
    directory: &dyn Directory,
    options: &DiskOptions,
    tail: &dyn Tail,
) -> anyhow::Result<Recovered> {
    let label = match Label::read(directory) {
        Ok(label) => label,
        Err(LabelError::Damaged(error)) => {
            return start_afresh(directory, options, tail, None, &error.to_string(), 0);
        }
        Err(error) => return Err(error.into()),
    };
    let Some(label) = label else {
        // A crash may have come while a log was begun, or one was set aside before that.
        let known = Reached::read(directory)?;
        return match segments_in(directory)?.as_slice() {
            [] => begin(directory, options, tail, known, 0),
            [only] if is_new(directory, *only)? => {
                begin(directory, options, tail, known.max(*only), 0)
            }
            [.., last] => start_afresh(directory, options, tail, None, "its label is gone", *last),
        };
    };
    let recovery = Recovery {
        directory,
        options,
        tail,
        label: &label,
        mishaps: Arc::default(),
    };
    match recovery.run() {
        Ok(recovered) => Ok(recovered),
        Err(Failure::Now(error)) => Err(error),
        Err(Failure::Lost { what, known }) => {
            start_afresh(directory, options, tail, Some(&label), &what, known)
        }
    }
}

/// Whether nothing was ever appended to a segment.
fn is_new(directory: &dyn Directory, after: u64) -> anyhow::Result<bool> {
    match Segment::find(directory, after)?.end() {
        Ok(end) => Ok(end.last == after),
        Err(SegmentError::Damaged { .. }) => Ok(false),
        Err(SegmentError::Io(error)) => Err(error.into()),
    }
}

/// Moves all files of a log out of the way. Of earlier ones nothing is kept, so that they do not
/// fill the disk.
///
/// # Errors
/// The disk's.
pub(super) fn set_aside(directory: &dyn Directory, log: &LogId) -> io::Result<()> {
    let aside = format!("{LOST}{}", log.as_str());
    let names = directory.names()?;
    // A crash may have cut short an earlier call.
    let earlier = |name: &&String| is_given_up(name) && **name != aside;
    for name in names.iter().filter(earlier) {
        tracing::warn!(name, "removing a log that was given up earlier");
        directory.remove_aside(name)?;
    }
    // Nothing that begins in its place may ever be taken for this log.
    let (label, others): (Vec<_>, Vec<_>) = names
        .into_iter()
        .filter(|name| Segment::after_of(name).is_some() || OF_ONE_LOG.contains(&name.as_str()))
        .partition(|name| name == LABEL);
    directory.set_aside(&label, &aside)?;
    directory.set_aside(&others, &aside)
}

/// Whether a name is that of the directory of a log that was given up.
pub(super) fn is_given_up(name: &str) -> bool {
    let log = name.strip_prefix(LOST);
    log.is_some_and(|log| format!("{log}-0").parse::<Cursor>().is_ok())
}

/// Sets aside what is there, and begins a new log after all positions that are known of it.
fn start_afresh(
    directory: &dyn Directory,
    options: &DiskOptions,
    tail: &dyn Tail,
    label: Option<&Label>,
    what: &str,
    known: u64,
) -> anyhow::Result<Recovered> {
    let old = match label {
        Some(label) => label.log.clone(),
        None => (options.new_log)()?,
    };
    let known = known
        .max(label.map_or(0, |label| label.last))
        .max(Reached::read(directory)?);
    tracing::error!(
        what,
        log = old.as_str(),
        until = known,
        "the log has lost events: it is set aside, and clients are told to start afresh"
    );
    set_aside(directory, &old)?;
    begin(directory, options, tail, known, 1)
}

/// Begins a log after a position that no earlier one has reached.
fn begin(
    directory: &dyn Directory,
    options: &DiskOptions,
    tail: &dyn Tail,
    after: u64,
    lost_logs: u64,
) -> anyhow::Result<Recovered> {
    let (log, mishaps) = ((options.new_log)()?, Arc::default());
    forget_earlier(directory)?;
    let writing = writing(options, &mishaps);
    let active = Arc::new(Segment::create(directory, after, writing)?);
    tail.begin(log.clone(), after, &[]);
    Ok(Recovered {
        log,
        segments: vec![Arc::clone(&active)],
        active,
        chunk: ChunkBuilder::after(after),
        last: after,
        keys: IdempotencyWindow::new(options.idempotency),
        mishaps,
        lost_logs,
        is_old: false,
        is_full: false,
    })
}

/// Removes what a crash has left of an earlier log.
fn forget_earlier(directory: &dyn Directory) -> io::Result<()> {
    let names = directory.names()?;
    let earlier = names
        .iter()
        .filter(|name| Segment::after_of(name).is_some() || OF_ONE_LOG.contains(&name.as_str()));
    earlier
        .into_iter()
        .try_for_each(|name| directory.remove(name))
}

fn writing(options: &DiskOptions, mishaps: &Arc<Mishaps>) -> Writing {
    Writing {
        syncs: options.durability == Durability::Sync,
        mishaps: Arc::clone(mishaps),
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
    directory: &'a dyn Directory,
    options: &'a DiskOptions,
    tail: &'a dyn Tail,
    label: &'a Label,
    mishaps: Arc<Mishaps>,
}

impl Recovery<'_> {
    fn run(self) -> Result<Recovered, Failure> {
        self.check_end_of_last_run()?;
        let afters = segments_in(self.directory)?;
        let segments: Result<Vec<_>, SegmentError> = afters
            .iter()
            .map(|after| Segment::find(self.directory, *after).map(Arc::new))
            .collect();
        let segments = segments?;
        let Some((active, sealed)) = segments.split_last() else {
            return Err(self.lost("its segments are gone"));
        };
        self.tail.begin(
            self.label.log.clone(),
            afters[0],
            &read_trims(self.directory)?,
        );
        if self.label.durability != self.options.durability {
            // What was left to the operating system so far.
            sync_all(self.directory, &segments)?;
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
            clean,
            durability,
            boot,
            ..
        } = self.label;
        let is_same_boot = !boot.is_empty() && *boot == self.options.boot;
        if !clean && *durability == Durability::Os && !is_same_boot {
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
        let is_on_disk = if *clean || *boot != self.options.boot {
            Ok(())
        } else {
            active.rewrite()
        };
        let writing = writing(self.options, &self.mishaps);
        let written = is_on_disk
            .map_err(SegmentError::from)
            .and_then(|()| active.write(writing));
        match written {
            Ok(()) => Ok(false),
            Err(SegmentError::Io(error)) if is_full(&error) => {
                active.close();
                Ok(true)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells the tail what the index of a segment holds: up to where.
    fn restore_index(&self, segment: &Segment) -> Result<u64, Failure> {
        let now = (self.options.clock)();
        let mut bad = None;
        let until = segment.read_index(|chunk| match chunk.events(now) {
            Ok(events) if bad.is_none() => self.tail.restore(events, chunk.until),
            Ok(_) => {}
            Err(error) => bad = Some(error),
        })?;
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
        let chunk = read_rest(active, until, &self.label.log)?;
        let last = chunk.end().last;
        let events = chunk.chunk().events((self.options.clock)());
        let events = events.map_err(|error| self.bad_index(active, error))?;
        self.tail.restore(events, last);
        Ok((chunk, last))
    }

    /// Whether the log ends where it was when somebody was last told.
    fn check_last(&self, last: u64) -> Result<(), Failure> {
        let reached = Reached::read(self.directory)?;
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
        let (now, instant) = ((self.options.clock)(), Instant::now());
        let since = now - KEY_LIFETIME.as_millis() as i64;
        let mut newest_first = Vec::new();
        for segment in segments.iter().rev() {
            newest_first.extend(segment.read_keys(since)?);
        }
        // A key that was used again after its time stands for what it was used for last.
        let mut seen = HashSet::new();
        newest_first.retain(|row| seen.insert(row.scoped));
        let mut keys = IdempotencyWindow::new(self.options.idempotency);
        for row in newest_first.iter().rev() {
            let used = instant.checked_sub(age(row.at, now)).unwrap_or(instant);
            keys.remember(&row.key(), row.first, row.count, used);
        }
        Ok(keys)
    }
}

impl From<SegmentError> for Failure {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Io(error) => Self::Now(error.into()),
            damaged @ SegmentError::Damaged { .. } => Self::Lost {
                what: damaged.to_string(),
                known: 0,
            },
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Now(error.into())
    }
}
