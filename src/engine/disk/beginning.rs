//! How a log begins, and how one that was given up is set aside for it.

use std::{io, sync::Arc};

use super::{
    backend::Mishaps,
    directory::Directory,
    index::ChunkBuilder,
    label::{Durability, LABEL, OF_ONE_LOG},
    log::DiskOptions,
    recovery::Recovered,
    segment::{Segment, Writing},
};
use crate::{
    engine::{Tail, idempotency::IdempotencyWindow},
    event::{Cursor, LogId},
};

/// What the directories of logs that were given up begin with.
const LOST: &str = "lost-";

/// Moves all files of a log out of the way. Of earlier ones nothing is kept, so that they do not
/// fill the disk.
///
/// # Errors
/// The disk's.
pub(super) fn set_aside(directory: &dyn Directory, log: &LogId) -> io::Result<()> {
    let aside = aside_of(log);
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

/// The name of the directory that a log is set aside into.
pub(super) fn aside_of(log: &LogId) -> String {
    format!("{LOST}{}", log.as_str())
}

/// Whether a name is that of the directory of a log that was given up.
pub(super) fn is_given_up(name: &str) -> bool {
    let log = name.strip_prefix(LOST);
    log.is_some_and(|log| format!("{log}-0").parse::<Cursor>().is_ok())
}

/// Begins a log after a position that no earlier one has reached, and tells the tail of it.
///
/// # Errors
/// The disk's.
pub(super) fn begin(
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
        boot_after: after,
        keys: IdempotencyWindow::new(options.idempotency),
        mishaps,
        lost_logs,
        is_old: false,
        is_full: false,
    })
}

/// Removes what a crash, or a try that failed, has left where a log is to begin.
///
/// # Errors
/// The disk's.
pub(super) fn forget_earlier(directory: &dyn Directory) -> io::Result<()> {
    let names = directory.names()?;
    let earlier = names
        .iter()
        .filter(|name| Segment::after_of(name).is_some() || OF_ONE_LOG.contains(&name.as_str()));
    earlier
        .into_iter()
        .try_for_each(|name| directory.remove(name))
}

pub(super) fn writing(options: &DiskOptions, mishaps: &Arc<Mishaps>) -> Writing {
    Writing {
        syncs: options.durability == Durability::Sync,
        mishaps: Arc::clone(mishaps),
    }
}
