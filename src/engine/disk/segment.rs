//! A segment: a part of the log in a file of its own, which is a redb database.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
};

use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadTransaction,
    ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition, TableError,
    WriteTransaction,
};

use super::{
    backend::{InPlace, Mishaps, Overlay, ReadOnly},
    directory::{Directory, File},
    record::{self, End, IndexChunk, KeyRow, RecordError, StoredRecord},
};

use crate::sync::RwLock;

/// Sequence → record.
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
/// The last sequence of a commit, and which part of them → the keys that came with it.
const KEYS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("keys");
/// The chunk's `until` → chunk.
const INDEX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("index");
/// [`END`] → the segment's [`End`].
const STATE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("state");
const END: u64 = 0;

/// The file that becomes a segment: under a segment's name there is never half of one.
const PART: &str = "segment.part";

/// What is read at a time to be written again, and what a file system gives space for at least.
const REWRITE_BYTES: usize = 256 << 10;
const PAGE_BYTES: usize = 4096;

/// So many keys are stored as one value at most, which is read and written as a whole: about half a
/// MiB. Few of them in tests, so that those come to more than one.
const KEYS_OF_PART: usize = if cfg!(test) { 3 } else { 8192 };

/// What redb keeps in memory of the segment that is written, and of one that is read.
const WRITE_CACHE_BYTES: usize = 16 << 20;
const READ_CACHE_BYTES: usize = 2 << 20;

/// A segment's file is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the segment {name} is damaged: {what}")]
    Damaged { name: String, what: String },
}

/// What one commit puts into a segment.
#[derive(Debug, Default)]
pub struct Commit {
    /// Sequences and records, rising.
    pub events: Vec<(u64, Vec<u8>)>,
    pub keys: Vec<KeyRow>,
    /// By their `until`.
    pub chunks: Vec<IndexChunk>,
    pub end: End,
}

/// Events after a sequence, in one file.
pub struct Segment {
    name: String,
    after: u64,
    file: Arc<dyn File>,
    opened: RwLock<Opened>,
}

#[derive(Default)]
enum Opened {
    #[default]
    Closed,
    Reading(ReadOnlyDatabase),
    /// Read through an overlay, in which it was repaired.
    Repaired(Database),
    Writing(Database),
}

/// How a segment is opened for writing.
#[derive(Clone, Debug)]
pub struct Writing {
    pub syncs: bool,
    pub mishaps: Arc<Mishaps>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Segment {
    /// As [`Segment::close`], for redb may panic where its file is damaged.
    fn drop(&mut self) {
        self.close();
    }
}

impl Segment {
    /// The name of the file whose events come after a sequence.
    pub fn name_of(after: u64) -> String {
        format!("{after:020}.segment")
    }

    /// The sequence after which the events of a file come, by its name.
    pub fn after_of(name: &str) -> Option<u64> {
        name.strip_suffix(".segment")?.parse().ok()
    }

    /// Knows of a segment; it is opened when it is needed.
    ///
    /// # Errors
    /// Where there is no such file.
    pub fn find(directory: &dyn Directory, after: u64) -> Result<Self, SegmentError> {
        let name = Self::name_of(after);
        Ok(Self {
            file: directory.open(&name, false)?,
            name,
            after,
            opened: RwLock::default(),
        })
    }

    /// Makes a new segment, durable in its directory, and opens it for writing.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(
        directory: &dyn Directory,
        after: u64,
        writing: Writing,
    ) -> Result<Self, SegmentError> {
        let segment = Self {
            name: Self::name_of(after),
            after,
            file: directory.open(PART, true)?,
            opened: RwLock::default(),
        };
        let made = segment.make(directory, writing);
        // What is left of it takes space, which may be what was missing.
        made.inspect_err(|_| drop(directory.remove(PART)))?;
        Ok(segment)
    }

    fn make(&self, directory: &dyn Directory, writing: Writing) -> Result<(), SegmentError> {
        let Writing { syncs, mishaps } = writing.clone();
        let noting = |error: &io::Error| mishaps.note_write(error);
        // There may be what a crash left of an earlier try.
        self.file.set_len(0).inspect_err(noting)?;
        self.write(writing)?;
        self.commit(&Commit {
            end: End {
                last: self.after,
                unindexed: 0,
            },
            ..Commit::default()
        })?;
        directory.rename(PART, &self.name).inspect_err(noting)?;
        if syncs {
            directory.sync().inspect_err(|_| mishaps.note_sync())?;
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn after(&self) -> u64 {
        self.after
    }

    /// How long its file is, with holes.
    ///
    /// # Errors
    /// The disk's.
    pub fn bytes(&self) -> io::Result<u64> {
        self.file.size()
    }

    /// How many bytes of the disk it takes.
    ///
    /// # Errors
    /// The disk's.
    pub fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    /// Writes again what is there, and syncs it. After a sync that failed the kernel may show what
    /// the disk does not have, and never write it on its own.
    ///
    /// # Errors
    /// The disk's.
    pub fn rewrite(&self, mishaps: &Mishaps) -> io::Result<()> {
        let len = self.file.size()?;
        let mut bytes = vec![0; REWRITE_BYTES];
        for offset in (0..len).step_by(REWRITE_BYTES) {
            let left = usize::try_from(len - offset).unwrap_or(REWRITE_BYTES);
            let block = &mut bytes[..left.min(REWRITE_BYTES)];
            self.file.read_at(offset, block)?;
            for (page, at) in block.chunks(PAGE_BYTES).zip((offset..).step_by(PAGE_BYTES)) {
                // A hole stays one, so that this takes no space.
                if page.iter().any(|byte| *byte != 0) {
                    let written = self.file.write_at(at, page);
                    written.inspect_err(|error| mishaps.note_write(error))?;
                }
            }
        }
        self.sync().inspect_err(|_| mishaps.note_sync())
    }

    /// Opens it for writing, and repairs what a crash left half done.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] where it can not be repaired.
    pub fn write(&self, writing: Writing) -> Result<(), SegmentError> {
        let backend = InPlace {
            file: Arc::clone(&self.file),
            syncs: writing.syncs,
            mishaps: writing.mishaps,
        };
        // No reader may look at the file while it is repaired. What is open is closed first, for it
        // may write to the file then.
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        *slot = self.guarded(|| {
            *slot = Opened::Closed;
            Ok(Opened::Writing(create(backend, WRITE_CACHE_BYTES)?))
        })?;
        Ok(())
    }

    /// Has redb check each page that is in use, and changes nothing.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] where one of them has changed.
    pub fn check_pages(&self) -> Result<(), SegmentError> {
        let backend = Overlay::new(Arc::clone(&self.file))?;
        let is_sound = self.guarded(|| {
            let mut database = create(backend, READ_CACHE_BYTES)?;
            Ok(database.check_integrity()?)
        })?;
        if is_sound {
            return Ok(());
        }
        Err(SegmentError::Damaged {
            name: self.name.clone(),
            what: "pages have changed since they were written".to_owned(),
        })
    }

    /// Closes the file; it is opened again for the next read.
    pub fn close(&self) {
        // redb writes what makes the next start quick. Where that fails, the next start repairs.
        let _ = catch_unwind(AssertUnwindSafe(|| self.set(Opened::Closed)));
    }

    /// Makes all that was written durable, where commits did not wait for that.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn set(&self, opened: Opened) {
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        *slot = opened;
    }

    /// Appends, all or nothing, and as durably as the segment was opened for.
    ///
    /// # Errors
    /// After any of them nothing more can be committed to it.
    pub fn commit(&self, commit: &Commit) -> Result<(), SegmentError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let Opened::Writing(database) = &*opened else {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        };
        self.guarded(|| {
            let mut transaction = database.begin_write()?;
            // The default, but the one thing that all else stands on.
            transaction.set_durability(Durability::Immediate)?;
            {
                let mut events = transaction.open_table(EVENTS)?;
                for (sequence, record) in &commit.events {
                    events.insert(sequence, record.as_slice())?;
                }
            }
            if !commit.keys.is_empty() {
                insert_keys(&transaction, commit.end.last, &commit.keys)?;
            }
            for chunk in &commit.chunks {
                let bytes = record::encode(chunk, chunk.until);
                let mut index = transaction.open_table(INDEX)?;
                index.insert(chunk.until, bytes.as_slice())?;
            }
            let end = record::encode(&commit.end, END);
            transaction.open_table(STATE)?.insert(END, end.as_slice())?;
            Ok(transaction.commit()?)
        })
    }

    /// Takes over keys from a segment that goes, in the order in which they were used. It is named
    /// by the sequence after which its events came.
    ///
    /// # Errors
    /// As [`Segment::commit`].
    pub fn carry_keys(&self, from: u64, rows: &[KeyRow]) -> Result<(), SegmentError> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        let Opened::Writing(database) = &*opened else {
            return Err(io::Error::from(io::ErrorKind::NotConnected).into());
        };
        self.guarded(|| {
            let transaction = database.begin_write()?;
            insert_keys(&transaction, from, rows)?;
            Ok(transaction.commit()?)
        })
    }

    /// The records of these sequences, rising; a sequence that is not here has none.
    ///
    /// # Errors
    /// [`SegmentError::Damaged`] where a record is not what was written.
    pub fn read(&self, sequences: &[u64]) -> Result<Vec<(u64, StoredRecord)>, SegmentError> {
        self.reading(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            let mut found = Vec::with_capacity(sequences.len());
            for sequence in sequences {
                if let Some(bytes) = table.get(sequence)? {
                    let record = record::decode_event(bytes.value(), *sequence);
                    found.push((*sequence, record.map_err(Failure::of(*sequence))?));
                }
            }
            Ok(found)
        })
    }

    /// Where it ends.
    ///
    /// # Errors
    /// As [`Segment::read`].
    pub fn end(&self) -> Result<End, SegmentError> {
        self.reading(|transaction| {
            let state = transaction.open_table(STATE)?.get(END)?;
            let end: Option<End> = match &state {
                Some(bytes) => {
                    let end = record::decode(bytes.value(), END);
                    Some(end.map_err(|error| Failure::Form(format!("its end: {error}")))?)
                }
                None => None,
            };
            end.filter(|end| end.last >= self.after)
                .ok_or_else(|| Failure::Form("it does not tell where it ends".to_owned()))
        })
    }

    /// Calls `each` with every chunk of the index, in order.
    ///
    /// # Errors
    /// As [`Segment::read`]; also where a chunk does not follow on the one before.
    pub fn read_index(&self, mut each: impl FnMut(IndexChunk)) -> Result<u64, SegmentError> {
        self.reading(|transaction| {
            let mut until = self.after;
            let table = match transaction.open_table(INDEX) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(until),
                table => table?,
            };
            for row in table.iter()? {
                let (number, bytes) = row?;
                let number = number.value();
                let chunk: IndexChunk =
                    record::decode(bytes.value(), number).map_err(Failure::of(number))?;
                if chunk.after != until || chunk.until != number || number <= until {
                    return Err(Failure::Form(format!("its index has a hole after {until}")));
                }
                until = number;
                each(chunk);
            }
            Ok(until)
        })
    }

    /// Calls `each` with every record after a sequence, in order.
    ///
    /// # Errors
    /// As [`Segment::read`].
    pub fn read_after(
        &self,
        after: u64,
        mut each: impl FnMut(u64, StoredRecord),
    ) -> Result<(), SegmentError> {
        self.reading(|transaction| {
            let table = transaction.open_table(EVENTS)?;
            for row in table.range(after.saturating_add(1)..)? {
                let (sequence, bytes) = row?;
                let sequence = sequence.value();
                let record = record::decode_event(bytes.value(), sequence);
                each(sequence, record.map_err(Failure::of(sequence))?);
            }
            Ok(())
        })
    }

    /// Calls `each` with the keys of each commit, the newest first in both, until it says that this is
    /// enough.
    ///
    /// # Errors
    /// As [`Segment::read`].
    pub fn read_keys(&self, mut each: impl FnMut(Vec<KeyRow>) -> bool) -> Result<(), SegmentError> {
        self.reading(|transaction| {
            let table = match transaction.open_table(KEYS) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                table => table?,
            };
            for row in table.iter()?.rev() {
                let (place, bytes) = row?;
                let number = number_of(place.value());
                let mut rows: Vec<KeyRow> =
                    record::decode(bytes.value(), number).map_err(Failure::of(number))?;
                rows.reverse();
                if !each(rows) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn reading<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, Failure>,
    ) -> Result<T, SegmentError> {
        loop {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            let (done, is_written) = match &*opened {
                // Another reader may close it again before this one comes to it.
                Opened::Closed => {
                    drop(opened);
                    self.open_for_reading()?;
                    continue;
                }
                Opened::Reading(database) => {
                    (self.guarded(|| read(&database.begin_read()?)), false)
                }
                Opened::Repaired(database) => {
                    (self.guarded(|| read(&database.begin_read()?)), false)
                }
                Opened::Writing(database) => (self.guarded(|| read(&database.begin_read()?)), true),
            };
            drop(opened);
            if done.is_err() && !is_written {
                // After an error of the file's redb reads nothing more.
                self.close();
            }
            return done;
        }
    }

    fn open_for_reading(&self) -> Result<(), SegmentError> {
        let mut slot = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*slot, Opened::Closed) {
            *slot = self.guarded(|| open_closed(&self.file))?;
        }
        Ok(())
    }

    /// redb takes what it wrote for sound, and may panic where it is not.
    fn guarded<T>(&self, act: impl FnOnce() -> Result<T, Failure>) -> Result<T, SegmentError> {
        let damaged = |what: String| SegmentError::Damaged {
            name: self.name.clone(),
            what,
        };
        match catch_unwind(AssertUnwindSafe(act)) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(Failure::Io(error))) => Err(error.into()),
            Ok(Err(Failure::Form(what))) => Err(damaged(what)),
            Err(_) => Err(damaged("its pages make no sense".to_owned())),
        }
    }
}

fn insert_keys(
    transaction: &WriteTransaction,
    sequence: u64,
    rows: &[KeyRow],
) -> Result<(), Failure> {
    let mut keys = transaction.open_table(KEYS)?;
    for (part, rows) in (0..).zip(rows.chunks(KEYS_OF_PART)) {
        let place = (sequence, part);
        let bytes = record::encode(&rows, number_of(place));
        keys.insert(place, bytes.as_slice())?;
    }
    Ok(())
}

/// What a part of keys is checked against.
fn number_of((sequence, part): (u64, u32)) -> u64 {
    sequence ^ u64::from(part) << 32
}

fn create(backend: impl StorageBackend, cache: usize) -> Result<Database, DatabaseError> {
    let mut builder = Builder::new();
    builder.set_cache_size(cache);
    builder.create_with_backend(backend)
}

/// Opens a file that nobody writes to, and that was closed properly, but for a crash.
fn open_closed(file: &Arc<dyn File>) -> Result<Opened, Failure> {
    let mut builder = Builder::new();
    builder.set_cache_size(READ_CACHE_BYTES);
    match builder.open_read_only_with_backend(ReadOnly(Arc::clone(file))) {
        Ok(database) => Ok(Opened::Reading(database)),
        Err(DatabaseError::RepairAborted) => {
            let repaired = create(Overlay::new(Arc::clone(file))?, READ_CACHE_BYTES)?;
            Ok(Opened::Repaired(repaired))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the file could be read, and is not what was written: one that was cut ends too early, and
/// redb says "invalid" of one that it does not know for its own.
fn tells_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
    )
}

/// What redb's many errors come down to.
enum Failure {
    Io(io::Error),
    Form(String),
}

impl Failure {
    fn of(number: u64) -> impl Fn(RecordError) -> Self {
        move |error| Self::Form(format!("at {number} {error}"))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<redb::Error> for Failure {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) if !tells_damage(&error) => Self::Io(error),
            error @ (redb::Error::Corrupted(_)
            | redb::Error::Io(_)
            | redb::Error::TableDoesNotExist(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::RepairAborted
            // The label tells of which version all of it is.
            | redb::Error::UpgradeRequired(_)) => Self::Form(error.to_string()),
            // The store's own trouble.
            other => Self::Io(io::Error::other(other)),
        }
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for Failure {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}

from_redb!(
    DatabaseError,
    TransactionError,
    TableError,
    CommitError,
    SetDurabilityError
);
