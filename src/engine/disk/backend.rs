//! What redb reads and writes through.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::StorageBackend;

use super::directory::File;

/// What went wrong with writes, for all files of a log.
///
/// redb takes no part in this: it only ever sees errors, and refuses to go on after one.
#[derive(Debug, Default)]
pub struct Mishaps {
    /// Nobody knows what is on disk: a sync failed, or a write did for another reason than space.
    unknown: AtomicBool,
}

impl Mishaps {
    /// Whether it takes a restart to know what is on disk.
    pub fn need_restart(&self) -> bool {
        self.unknown.load(Ordering::Relaxed)
    }

    pub fn note_write(&self, error: &io::Error) {
        if !is_full(error) {
            self.unknown.store(true, Ordering::Relaxed);
        }
    }

    /// After a failed sync the kernel may have dropped what it could not write, and says so only
    /// once.
    pub fn note_sync(&self) {
        self.unknown.store(true, Ordering::Relaxed);
    }
}

/// Whether the disk, or the share of it that may be used, is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// A file that is written in place.
#[derive(Debug)]
pub struct InPlace {
    pub file: Arc<dyn File>,
    /// Whether to wait until the disk has what is to be durable, or leave that to the operating
    /// system.
    pub syncs: bool,
    pub mishaps: Arc<Mishaps>,
}

impl StorageBackend for InPlace {
    fn len(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let done = self.file.set_len(len);
        done.inspect_err(|error| self.mishaps.note_write(error))
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.syncs {
            return Ok(());
        }
        self.file.sync().inspect_err(|_| self.mishaps.note_sync())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let done = self.file.write_at(offset, data);
        done.inspect_err(|error| self.mishaps.note_write(error))
    }
}

/// A file that is only read.
#[derive(Debug)]
pub struct ReadOnly(pub Arc<dyn File>);

impl StorageBackend for ReadOnly {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// A file that is only read: what redb writes to repair it stays in memory.
#[derive(Debug)]
pub struct Overlay {
    file: Arc<dyn File>,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Pages of [`Overlay::PAGE`] bytes that differ from the file's.
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    const PAGE: usize = 4096;

    /// # Errors
    /// Where the file's length can not be read.
    pub fn new(file: Arc<dyn File>) -> io::Result<Self> {
        let len = file.size()?;
        Ok(Self {
            file,
            written: Mutex::new(Written {
                len,
                pages: BTreeMap::new(),
            }),
        })
    }

    /// A page as the file has it; zeros beyond its end.
    fn page_of_file(&self, page: u64) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; Self::PAGE];
        let start = page * Self::PAGE as u64;
        let there = self.file.size()?.saturating_sub(start);
        let there = usize::try_from(there).map_or(Self::PAGE, |there| there.min(Self::PAGE));
        self.file.read_at(start, &mut bytes[..there])?;
        Ok(bytes.into())
    }

    /// Calls `each` with each page of a range: its number, where the range's part of it begins,
    /// and where that part lies in the range.
    fn for_pages(
        offset: u64,
        len: usize,
        mut each: impl FnMut(u64, usize, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = 0;
        while at < len {
            let place = offset + at as u64;
            let within = (place % Self::PAGE as u64) as usize;
            let count = (Self::PAGE - within).min(len - at);
            each(place / Self::PAGE as u64, within, at..at + count)?;
            at += count;
        }
        Ok(())
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(written.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::for_pages(offset, out.len(), |page, within, part| {
            let count = part.len();
            match written.pages.get(&page) {
                Some(bytes) => out[part].copy_from_slice(&bytes[within..within + count]),
                None => {
                    let bytes = self.page_of_file(page)?;
                    out[part].copy_from_slice(&bytes[within..within + count]);
                }
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        Self::for_pages(offset, data.len(), |page, within, part| {
            let bytes = match written.pages.entry(page) {
                std::collections::btree_map::Entry::Occupied(there) => there.into_mut(),
                std::collections::btree_map::Entry::Vacant(slot) => {
                    slot.insert(self.page_of_file(page)?)
                }
            };
            let count = part.len();
            bytes[within..within + count].copy_from_slice(&data[part]);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_reads_what_was_written_and_leaves_the_file_alone() {
        let file = tempfile::tempfile().unwrap();
        let file: Arc<dyn File> = Arc::new(file);
        file.write_at(0, &[7; 5000]).unwrap();
        let overlay = Overlay::new(Arc::clone(&file)).unwrap();
        overlay.set_len(9000).unwrap();
        overlay.write(4090, &[9; 10]).unwrap();
        let mut read = vec![1; 9000];
        overlay.read(0, &mut read).unwrap();
        let expected = [vec![7; 4090], vec![9; 10], vec![7; 900], vec![0; 4000]].concat();
        assert_eq!(read, expected);
        assert!(overlay.read(8999, &mut [0; 2]).is_err());
        let mut there = [0; 5000];
        file.read_at(0, &mut there).unwrap();
        assert_eq!((there, file.size().unwrap()), ([7; 5000], 5000));
    }
}
