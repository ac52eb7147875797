//! The directory that a log lives in, and its files: what the engine needs of a file system, so
//! that a simulated one can stand in for it.

use std::{
    fmt::Debug,
    fs::{File as OsFile, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// One flat directory, which nobody else writes to.
pub trait Directory: Debug + Send + Sync {
    /// The names in it, in any order.
    ///
    /// # Errors
    /// The file system's, here and below.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file for reading and writing, and makes it where `create` is set and it is not
    /// there.
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>>;

    /// All of a small file; `None` where there is none.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// Puts a small file in the place of the one of this name, so that after a crash there is the
    /// one or the other, whole. Durable when it returns.
    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name. What lay there under that name is gone.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    fn remove(&self, name: &str) -> io::Result<()>;

    /// Moves files into a directory within this one. What lay there under their names is gone.
    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()>;

    /// Removes a directory within this one, with all that is in it.
    fn remove_aside(&self, name: &str) -> io::Result<()>;

    /// How many bytes of the disk the directories within this one take whose names are such.
    fn allocated_aside(&self, is_aside: fn(&str) -> bool) -> io::Result<u64>;

    /// Makes names that were created, changed and removed durable.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is read and written at given places.
pub trait File: Debug + Send + Sync {
    /// # Errors
    /// The file system's, here and below.
    fn size(&self) -> io::Result<u64>;

    /// How many bytes of the disk it takes: holes take none.
    fn allocated(&self) -> io::Result<u64>;

    /// Fills all of `into`; fewer bytes are an error.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes all that was written durable. After an error nobody knows what is.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the operating system's, locked for this process as long as this lives.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    handle: OsFile,
    is_read_only: bool,
    _lock: OsFile,
}

/// Why a directory can not be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error(
        "another process has the log in {0} open, a gateway or `tribus log`: each gateway needs a \
         directory of its own"
    )]
    InUse(PathBuf),
    #[error("can not use {0} for the log: it is a file, not a directory")]
    IsFile(PathBuf),
    #[error("can not use the directory {path} for the log")]
    Io { path: PathBuf, source: io::Error },
}

impl FolderError {
    fn of(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match path.is_file() {
            true => Self::IsFile(path),
            false => Self::Io { path, source },
        }
    }
}

const LOCK: &str = "lock";
const PART: &str = ".part";
/// Events and keys are nobody else's business.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

impl Folder {
    /// Opens a directory for a log, and makes it where it is not there.
    ///
    /// # Errors
    /// [`FolderError::InUse`] where another process has it open.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::of(path, source);
        make_directory(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let opened = options.mode(FILE_MODE).open(path.join(LOCK));
        let lock = opened.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Self::locked(path, lock).map_err(failed)
    }

    /// Opens the directory of a log to look at it, and changes nothing in it; true where another
    /// process has it open, and writes to its newest segment.
    ///
    /// # Errors
    /// Where it is no directory.
    pub fn look_at(path: &Path) -> Result<(Self, bool), FolderError> {
        let failed = |source| FolderError::of(path, source);
        let handle = OsFile::open(path).map_err(failed)?;
        let lock = match OsFile::open(path.join(LOCK)) {
            Ok(lock) => lock,
            // Nobody has ever had it open.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                handle.try_clone().map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let in_use = match lock.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        let folder = Self {
            path: path.to_owned(),
            handle,
            is_read_only: true,
            _lock: lock,
        };
        Ok((folder, in_use))
    }

    fn locked(path: &Path, lock: OsFile) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            handle: OsFile::open(path)?,
            is_read_only: false,
            _lock: lock,
        })
    }
}

impl Directory for Folder {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.path)?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(!self.is_read_only).create(create);
        let opened = options.mode(FILE_MODE).open(self.path.join(name));
        Ok(Arc::new(opened?))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(self.path.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let part = self.path.join(format!("{name}{PART}"));
        let replaced =
            write_whole(&part, content).and_then(|()| std::fs::rename(&part, self.path.join(name)));
        if let Err(error) = replaced {
            // It takes space, which may be what is missing.
            let _ = std::fs::remove_file(part);
            return Err(error);
        }
        self.sync()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()> {
        let aside = self.path.join(into);
        make_directory(&aside)?;
        for name in names {
            std::fs::rename(self.path.join(name), aside.join(name))?;
        }
        OsFile::open(aside)?.sync_all()?;
        self.sync()
    }

    fn remove_aside(&self, name: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.path.join(name))
    }

    fn allocated_aside(&self, is_aside: fn(&str) -> bool) -> io::Result<u64> {
        let mut allocated = 0;
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if is_aside(&entry.file_name().to_string_lossy()) {
                for file in std::fs::read_dir(entry.path())? {
                    allocated += allocated_to(&file?.metadata()?);
                }
            }
        }
        Ok(allocated)
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

/// `st_blocks` of stat(3type), which are of this size whatever the file system's are.
fn allocated_to(file: &Metadata) -> u64 {
    const BLOCK: u64 = 512;
    file.blocks() * BLOCK
}

/// Makes a directory that is not there, durable in the one above it.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(DIRECTORY_MODE).create(path)?;
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    OsFile::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true);
    let file = options.mode(FILE_MODE).open(path)?;
    file.write_all_at(content, 0)?;
    file.sync_data()
}

impl File for OsFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(allocated_to(&self.metadata()?))
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
