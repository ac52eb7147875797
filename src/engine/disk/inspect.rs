//! Looking at a log from outside, without changing anything: for `tribus log`.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use serde::Serialize;

use super::{
    beginning::is_given_up,
    clock::Stamp,
    directory::{Directory, Folder},
    index::read_rest,
    label::{Label, Reached},
    record::IndexChunk,
    recovery::segments_in,
    segment::{Segment, SegmentError},
};

/// How closely a log is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The indices, and what they do not cover yet.
    Index,
    /// Every page and every record.
    Everything,
}

/// What there is of a log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogReport {
    pub label: Label,
    /// A gateway has it open, so that its newest segment was not looked at.
    pub in_use: bool,
    pub segments: Vec<SegmentReport>,
    /// Distinct topics of all tenants.
    pub topics: usize,
    /// What is wrong with the whole, besides what is wrong with its segments.
    pub problems: Vec<String>,
    /// The directories of logs that were given up.
    pub given_up: Vec<String>,
}

/// What there is in one segment.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentReport {
    pub name: String,
    /// Its events come after this sequence,
    pub after: u64,
    /// and reach to this one, which may be ephemeral, and so leave nothing.
    pub until: u64,
    pub events: usize,
    /// Of the disk.
    pub bytes: u64,
    /// When its oldest and its newest event were appended, in milliseconds since 1970.
    pub oldest: Option<i64>,
    pub newest: Option<i64>,
    pub problem: Option<String>,
    /// It was not looked at, since a gateway writes it.
    pub skipped: bool,
}

impl LogReport {
    /// Whether nothing is wrong, as far as it was looked at.
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
            && self
                .segments
                .iter()
                .all(|segment| segment.problem.is_none())
    }
}

/// Looks at the log in a directory.
///
/// # Errors
/// Where there is no log, it can not be read, or it is of a newer version.
pub fn inspect(path: &Path, depth: Depth) -> anyhow::Result<LogReport> {
    let (directory, in_use) = Folder::look_at(path)?;
    let Some(label) = Label::read(&directory)? else {
        anyhow::bail!("there is no log in {}", path.display());
    };
    let mut topics = HashSet::new();
    let mut segments = Vec::new();
    let afters = segments_in(&directory)?;
    for (at, after) in afters.iter().enumerate() {
        let segment = Segment::find(&directory, *after)?;
        let is_written = in_use && at + 1 == afters.len();
        segments.push(if is_written {
            skipped(&segment)
        } else {
            look_at(&segment, depth, &label, &mut topics)
        });
    }
    let names = directory.names()?.into_iter();
    Ok(LogReport {
        problems: problems(&segments, &label, Reached::read(&directory)?, in_use),
        label,
        in_use,
        segments,
        topics: topics.len(),
        given_up: names.filter(|name| is_given_up(name)).collect(),
    })
}

fn skipped(segment: &Segment) -> SegmentReport {
    SegmentReport {
        name: segment.name().to_owned(),
        after: segment.after(),
        bytes: segment.allocated().unwrap_or(0),
        skipped: true,
        ..SegmentReport::default()
    }
}

fn look_at(
    segment: &Segment,
    depth: Depth,
    label: &Label,
    topics: &mut HashSet<(Option<String>, String)>,
) -> SegmentReport {
    let mut report = SegmentReport {
        name: segment.name().to_owned(),
        after: segment.after(),
        until: segment.after(),
        bytes: segment.allocated().unwrap_or(0),
        ..SegmentReport::default()
    };
    let looked_at = read(segment, depth, label, &mut report, topics);
    report.problem = looked_at.err().map(|error| error.to_string());
    segment.close();
    report
}

fn read(
    segment: &Segment,
    depth: Depth,
    label: &Label,
    report: &mut SegmentReport,
    topics: &mut HashSet<(Option<String>, String)>,
) -> Result<(), SegmentError> {
    if depth == Depth::Everything {
        segment.check_pages()?;
    }
    let mut indexed = BTreeMap::new();
    let mut note = |chunk: &IndexChunk, report: &mut SegmentReport| {
        topics.extend(chunk.topics.iter().cloned());
        report.until = chunk.until;
        report.events += chunk.entries.len();
        for entry in &chunk.entries {
            report.oldest = Some(
                report
                    .oldest
                    .map_or(entry.stamp.at, |at| at.min(entry.stamp.at)),
            );
            report.newest = Some(
                report
                    .newest
                    .map_or(entry.stamp.at, |at| at.max(entry.stamp.at)),
            );
            if depth == Depth::Everything {
                indexed.insert(chunk.after + entry.offset, entry.stamp);
            }
        }
    };
    let until = segment.read_index(|chunk| note(&chunk, report))?;
    let rest = read_rest(segment, until, &label.log)?;
    note(rest.chunk(), report);
    if depth == Depth::Everything {
        compare(segment, indexed)?;
    }
    Ok(())
}

/// Whether a segment's records are those that its index tells of.
fn compare(segment: &Segment, mut indexed: BTreeMap<u64, Stamp>) -> Result<(), SegmentError> {
    let mut unknown = None;
    segment.read_after(segment.after(), |sequence, record| {
        if indexed.remove(&sequence) != Some(record.stamp) {
            unknown.get_or_insert(sequence);
        }
    })?;
    let problem = match (unknown, indexed.first_key_value()) {
        (None, None) => return Ok(()),
        (Some(sequence), _) => format!("its index does not know the event {sequence}"),
        (None, Some((sequence, _))) => format!("at {sequence} there is no event"),
    };
    Err(SegmentError::Damaged {
        name: segment.name().to_owned(),
        what: problem,
    })
}

fn problems(segments: &[SegmentReport], label: &Label, reached: u64, in_use: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for pair in segments.windows(2) {
        if pair[0].problem.is_none() && pair[0].until != pair[1].after {
            problems.push(format!(
                "{} ends at {}, and the next segment begins after {}",
                pair[0].name, pair[0].until, pair[1].after
            ));
        }
    }
    match segments.last() {
        None => problems.push("its segments are gone".to_owned()),
        Some(last) if !in_use && last.problem.is_none() => {
            let known = reached.max(label.last);
            if last.until < known {
                problems.push(format!(
                    "it ends at {}, and had come to {known}",
                    last.until
                ));
            }
        }
        Some(_) => {}
    }
    problems
}
