//! How segments come and go.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    backend,
    failure::Health,
    index::ChunkBuilder,
    label::{forget_trims, write_trims},
    log::DiskLog,
    record::KeyRow,
    segment::{Commit, Segment, SegmentError},
};

/// How long a segment is written at least, unless it grows large.
const ROLL_AGAIN: Duration = Duration::from_secs(60);

impl DiskLog {
    /// Does what the publishers of the last group need not wait for: begins another segment where
    /// this one has grown enough.
    pub fn roll(&mut self) {
        if self.health != Health::Well || !self.may_roll || !self.is_to_roll() {
            return;
        }
        if let Err(error) = self.store_chunk() {
            self.fail_to_commit(&error);
            return;
        }
        match self.begin_segment() {
            Ok(()) => self.look_for_mishaps(),
            Err(error) if self.mishaps.need_restart() => self.fail(&error),
            Err(error) => {
                tracing::warn!(%error, "can not begin another segment, and go on with this one");
                // A try costs syncs.
                self.may_roll = false;
            }
        }
        self.drop_old_segments();
    }

    /// Where it is large, or after a while mostly of what is not retained any more: a segment goes as a
    /// whole.
    fn is_to_roll(&self) -> bool {
        let bytes = self.active.bytes().unwrap_or(0);
        let after = self.active.after();
        let trimmed = self.tail.earliest().saturating_sub(after);
        let given = self.last - after;
        let is_mostly_old = trimmed > 0 && 2 * trimmed >= given;
        // The next one is named by where this one ends.
        given > 0
            && (bytes >= self.options.segment_bytes
                || (is_mostly_old && self.active_since.elapsed() >= ROLL_AGAIN))
    }

    /// Completes the index of the segment.
    pub(super) fn store_chunk(&mut self) -> Result<(), SegmentError> {
        let Some(chunk) = self.chunk.take() else {
            return Ok(());
        };
        self.active.commit(&Commit {
            chunks: vec![chunk],
            end: self.chunk.end(),
            ..Commit::default()
        })
    }

    fn begin_segment(&mut self) -> Result<(), SegmentError> {
        let next = Segment::create(self.directory.as_ref(), self.last, self.writing())?;
        let next = Arc::new(next);
        self.shelf.push(Arc::clone(&next));
        std::mem::replace(&mut self.active, next).close();
        self.chunk = ChunkBuilder::after(self.last);
        self.active_since = Instant::now();
        Ok(())
    }

    /// Removes the segments of which nothing is retained.
    ///
    /// Also on a full disk, where it gives space, but for their keys that are still remembered.
    pub(super) fn drop_old_segments(&mut self) {
        if self.health == Health::Stopped || self.loss.is_some() {
            return;
        }
        let old = self.old_segments();
        if old.is_empty() {
            return;
        }
        let log = self.shelf.log();
        match self.drop_segments(&old) {
            Ok(()) => {}
            // It may be another one by now.
            Err(error @ SegmentError::Damaged { .. }) => self.lose(&log, &error),
            Err(error) if self.mishaps.need_restart() => self.fail(&error),
            Err(error) => tracing::warn!(%error, "can not remove an old segment"),
        }
    }

    /// The oldest segments of which nothing is retained, and where they end.
    fn old_segments(&mut self) -> Vec<(Arc<Segment>, u64)> {
        let earliest = self.tail.earliest();
        let segments = self.shelf.segments();
        let old = segments.windows(2).take_while(|pair| {
            let keys_wait = self.health != Health::Well
                && self.keys.reach_back_to(pair[1].after(), Instant::now());
            pair[1].after() <= earliest && !keys_wait
        });
        old.map(|pair| (Arc::clone(&pair[0]), pair[1].after()))
            .collect()
    }

    fn drop_segments(&mut self, old: &[(Arc<Segment>, u64)]) -> Result<(), SegmentError> {
        let directory = Arc::clone(&self.directory);
        for (segment, end) in old {
            self.take_keys_over(segment, *end)?;
        }
        if let Err(error) = write_trims(directory.as_ref(), self.tail.trims()) {
            if !backend::is_full(&error) {
                self.mishaps.note_sync();
                return Err(error.into());
            }
            // Nobody knows then, which errs towards a reset, and there is space.
            forget_trims(directory.as_ref())?;
        }
        for (segment, _) in old {
            match directory.remove(segment.name()) {
                // An earlier try told of an error, and had its effect.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            self.shelf.drop_oldest();
            // Else a power failure might take the next one, and leave this one.
            let synced = directory.sync();
            synced.inspect_err(|_| self.mishaps.note_sync())?;
        }
        Ok(())
    }

    /// Keys outlive their events.
    fn take_keys_over(&mut self, oldest: &Segment, end: u64) -> Result<(), SegmentError> {
        if !self.keys.reach_back_to(end, Instant::now()) {
            return Ok(());
        }
        let mut keys = Vec::new();
        let read = oldest.read_keys(|rows| {
            let held = |row: &KeyRow| self.keys.holds(&row.key(), row.first);
            keys.extend(rows.into_iter().filter(held));
            true
        });
        match read {
            Ok(()) => keys.reverse(),
            // They are in memory too, with some that newer segments have already.
            Err(_) => keys = self.keys_up_to(end),
        }
        self.carry_keys(oldest.after(), &keys)
    }

    /// The keys whose events begin at a sequence or before it, in the order in which they were used.
    fn keys_up_to(&self, end: u64) -> Vec<KeyRow> {
        let (now, stamp) = (Instant::now(), (self.options.clock)());
        let begins_after = self.given_up.last().map_or(0, |given_up| given_up.last);
        let keys = self.keys.up_to(end);
        let of_this_log = keys.filter(|(_, first, ..)| *first > begins_after);
        of_this_log
            .map(|(key, first, count, since)| {
                let used = stamp.before(now.duration_since(since));
                KeyRow::new(&key, first, count, used)
            })
            .collect()
    }

    fn carry_keys(&mut self, from: u64, keys: &[KeyRow]) -> Result<(), SegmentError> {
        if keys.is_empty() {
            return Ok(());
        }
        let carried = self.active.carry_keys(from, keys);
        carried.inspect_err(|error| {
            self.fail_to_commit(error);
        })
    }
}
