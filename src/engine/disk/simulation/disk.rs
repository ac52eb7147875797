//! A disk that forgets, tears, fails and fills up as real ones do, but by a seed.
//!
//! What the operating system shows (`cached`) and what the disk has (`durable`) differ by what was
//! not synced. A power failure takes any of that away: in whole, in part, in any order, cut at the
//! borders of sectors. Names and lengths are no better off than bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use fastrand::Rng;

use super::content::{Content, page_of, sectors};
use crate::engine::disk::directory::{Directory, File};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// One directory on a disk of its own.
pub struct Disk(Mutex<State>);

struct State {
    rng: Rng,
    files: Vec<Stored>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<Naming>,
    /// Whoever uses the disk was killed: nothing has any effect any more.
    dead: bool,
    full: bool,
    has_forgotten_trims: bool,
    armed: Armed,
    hits: Hits,
}

/// A file's content.
#[derive(Default)]
struct Stored {
    cached: Content,
    durable: Content,
    unsynced: Vec<Change>,
    /// Pages that the disk does not give any more, until they are written.
    bad: BTreeSet<u64>,
}

enum Change {
    Write(u64, Box<[u8]>),
    SetLen(u64),
}

enum Naming {
    Add(String, usize),
    Remove(String),
    Rename(String, String, usize),
}

/// In how many operations something happens.
#[derive(Default)]
struct Armed {
    kill: Option<u32>,
    write_error: Option<u32>,
    sync_error: Option<u32>,
    read_error: Option<u32>,
    name_error: Option<u32>,
    full: Option<u32>,
}

/// The faults that somebody met with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// What failed for another reason than space.
    pub errors: u32,
    /// Of these, the syncs of files.
    pub syncs: u32,
    /// Writes for which there was no space.
    pub full: u32,
}

/// What is to happen in so many operations.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Kill,
    WriteError,
    SyncError,
    ReadError,
    /// Of something done to the directory.
    NameError,
    Full,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated disk")
    }
}

impl Disk {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            rng: Rng::with_seed(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            dead: false,
            full: false,
            has_forgotten_trims: false,
            armed: Armed::default(),
            hits: Hits::default(),
        })))
    }

    /// They were removed to make room.
    pub fn has_forgotten_trims(&self) -> bool {
        self.state().has_forgotten_trims
    }

    pub fn arm(&self, fault: Fault, operations: u32) {
        let mut state = self.state();
        let armed = &mut state.armed;
        let slot = match fault {
            Fault::Kill => &mut armed.kill,
            Fault::WriteError => &mut armed.write_error,
            Fault::SyncError => &mut armed.sync_error,
            Fault::ReadError => &mut armed.read_error,
            Fault::NameError => &mut armed.name_error,
            Fault::Full => &mut armed.full,
        };
        *slot = Some(operations);
    }

    /// There is space again.
    pub fn give_space(&self) {
        let mut state = self.state();
        state.full = false;
        state.armed.full = None;
    }

    /// Nothing that was armed happens any more.
    pub fn calm(&self) {
        self.state().armed = Armed::default();
        self.give_space();
    }

    /// Reads do not fail from here on.
    pub fn calm_reads(&self) {
        self.state().armed.read_error = None;
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub fn hits(&self) -> Hits {
        self.state().hits
    }

    /// The one that uses the disk is killed, if it is not yet.
    pub fn kill(&self) {
        self.state().dead = true;
    }

    /// Another process may use the disk.
    pub fn revive(&self) {
        let mut state = self.state();
        state.dead = false;
        state.armed.kill = None;
    }

    /// The machine loses its power: what was not synced is on the disk or not.
    pub fn lose_power(&self) {
        let mut state = self.state();
        let State { rng, files, .. } = &mut *state;
        for file in files {
            file.lose_power(rng);
        }
        state.lose_names();
        state.armed = Armed::default();
    }

    /// Changes one bit of a file, or cuts it: which file it was and how.
    pub fn damage(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut state = self.state();
        let State {
            rng, files, names, ..
        } = &mut *state;
        let names: Vec<_> = names.iter().filter(|(name, _)| wanted(name)).collect();
        let (name, file) = rng.choice(names)?;
        let file = &mut files[*file];
        let len = file.cached.len();
        if len == 0 {
            return None;
        }
        file.apply_all();
        if rng.u8(..) < 64 {
            let len = rng.u64(..len);
            file.cached.set_len(len);
            file.durable.set_len(len);
            return Some(format!("{name} is cut to {len} bytes"));
        }
        let offset = file.cached.used_offset(rng);
        let bit = rng.u8(..8);
        file.cached.flip(offset, bit);
        file.durable.flip(offset, bit);
        Some(format!("bit {bit} of byte {offset} of {name} is another"))
    }

    /// A place of a file can not be read from here on: which file it was, and where.
    pub fn spoil(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let mut state = self.state();
        let State {
            rng, files, names, ..
        } = &mut *state;
        let names: Vec<_> = names.iter().filter(|(name, _)| wanted(name)).collect();
        let (name, file) = rng.choice(names)?;
        let file = &mut files[*file];
        if file.cached.len() == 0 {
            return None;
        }
        file.apply_all();
        let page = page_of(file.cached.used_offset(rng));
        file.bad.insert(page);
        Some(format!("page {page} of {name} can not be read any more"))
    }

    /// Nothing of these files can be read from here on.
    pub fn spoil_all(&self, wanted: impl Fn(&str) -> bool) {
        let mut state = self.state();
        let State { files, names, .. } = &mut *state;
        for (_, file) in names.iter().filter(|(name, _)| wanted(name)) {
            let file = &mut files[*file];
            file.apply_all();
            file.bad.extend(0..=page_of(file.cached.len()));
        }
    }

    /// All can be read again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.files.iter_mut().for_each(|file| file.bad.clear());
    }

    /// There is no space from here on.
    pub fn fill(&self) {
        self.state().full = true;
    }

    /// The names of all files.
    pub fn all_names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Somebody else removes a file.
    pub fn forget(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts down to what is armed; true when it is time.
fn is_due(countdown: &mut Option<u32>) -> bool {
    match countdown {
        None => false,
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("this process was killed")
}

impl State {
    fn check_alive(&self) -> io::Result<()> {
        if self.dead { Err(gone()) } else { Ok(()) }
    }

    /// A place where the process may be killed: what follows has no effect.
    fn enter(&mut self) -> io::Result<()> {
        self.dead |= is_due(&mut self.armed.kill);
        self.check_alive()
    }

    fn failed(&mut self) -> io::Error {
        self.hits.errors += 1;
        io::Error::from_raw_os_error(EIO)
    }

    fn read(&mut self, file: usize, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.check_alive()?;
        if is_due(&mut self.armed.read_error) || self.files[file].is_bad(offset, into.len()) {
            return Err(self.failed());
        }
        self.files[file].cached.read(offset, into)
    }

    /// What is done to names may fail, with an effect or without.
    fn name(&mut self, takes_space: bool, act: impl FnOnce(&mut Self)) -> io::Result<()> {
        self.enter()?;
        if is_due(&mut self.armed.name_error) {
            if self.rng.bool() {
                act(self);
            }
            return Err(self.failed());
        }
        self.full |= takes_space && is_due(&mut self.armed.full);
        if takes_space && self.full && self.rng.bool() {
            self.hits.full += 1;
            return Err(io::Error::from_raw_os_error(ENOSPC));
        }
        act(self);
        Ok(())
    }

    fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_alive()?;
        if let Err(killed) = self.enter() {
            self.write_part(file, offset, bytes);
            return Err(killed);
        }
        if is_due(&mut self.armed.write_error) {
            self.write_part(file, offset, bytes);
            return Err(self.failed());
        }
        self.full |= is_due(&mut self.armed.full);
        if self.full {
            let room = self.files[file].cached.room(offset, bytes.len());
            if room < bytes.len() {
                self.hits.full += 1;
                self.files[file].write(offset, &bytes[..room]);
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
        }
        self.files[file].write(offset, bytes);
        Ok(())
    }

    /// Some of a write's first sectors, or none.
    fn write_part(&mut self, file: usize, offset: u64, bytes: &[u8]) {
        let parts: Vec<_> = sectors(offset, bytes.len()).collect();
        let count = self.rng.usize(..=parts.len());
        if let Some(last) = count.checked_sub(1) {
            self.files[file].write(offset, &bytes[..parts[last].end]);
        }
    }

    fn set_len(&mut self, file: usize, len: u64) -> io::Result<()> {
        self.enter()?;
        if is_due(&mut self.armed.write_error) {
            return Err(self.failed());
        }
        self.files[file].set_len(len);
        Ok(())
    }

    fn sync_file(&mut self, file: usize) -> io::Result<()> {
        self.enter()?;
        if is_due(&mut self.armed.sync_error) {
            let Self { rng, files, .. } = self;
            files[file].fail_to_sync(rng);
            self.hits.syncs += 1;
            return Err(self.failed());
        }
        self.files[file].apply_all();
        Ok(())
    }

    fn open(&mut self, name: &str, create: bool) -> io::Result<usize> {
        self.check_alive()?;
        if let Some(file) = self.names.get(name) {
            return Ok(*file);
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.name(true, |state| {
            state.files.push(Stored::default());
            let file = state.files.len() - 1;
            state.names.insert(name.to_owned(), file);
            state
                .unsynced_names
                .push(Naming::Add(name.to_owned(), file));
        })?;
        Ok(self.names[name])
    }

    fn rename(&mut self, from: &str, to: String) -> io::Result<()> {
        self.check_alive()?;
        let file = *self.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        self.name(true, |state| {
            state.names.remove(from);
            state.names.insert(to.clone(), file);
            let naming = Naming::Rename(from.to_owned(), to, file);
            state.unsynced_names.push(naming);
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.check_alive()?;
        self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        self.name(false, |state| {
            state.has_forgotten_trims |= name == "trims" || !state.names.contains_key("trims");
            state.names.remove(name);
            state.unsynced_names.push(Naming::Remove(name.to_owned()));
        })
    }

    fn sync_names(&mut self) -> io::Result<()> {
        self.enter()?;
        if is_due(&mut self.armed.sync_error) {
            return Err(self.failed());
        }
        for naming in std::mem::take(&mut self.unsynced_names) {
            naming.apply(&mut self.durable_names);
        }
        Ok(())
    }

    fn lose_names(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced_names);
        let kept = Kept::random(&mut self.rng, unsynced.len());
        for (at, naming) in unsynced.into_iter().enumerate() {
            if kept.holds(at, &mut self.rng) {
                naming.apply(&mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
    }
}

/// Which of several unsynced changes are on the disk after all.
enum Kept {
    First(usize),
    /// Each by chance.
    Any,
}

impl Kept {
    fn random(rng: &mut Rng, count: usize) -> Self {
        match rng.u8(..4) {
            0 => Self::First(0),
            1 => Self::First(count),
            2 => Self::First(rng.usize(..=count)),
            _ => Self::Any,
        }
    }

    fn holds(&self, at: usize, rng: &mut Rng) -> bool {
        match self {
            Self::First(count) => at < *count,
            Self::Any => rng.bool(),
        }
    }
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Add(name, file) => {
                names.insert(name, file);
            }
            Self::Remove(name) => {
                names.remove(&name);
            }
            Self::Rename(from, to, file) => {
                names.remove(&from);
                names.insert(to, file);
            }
        }
    }
}

impl Stored {
    fn is_bad(&self, offset: u64, len: usize) -> bool {
        let end = page_of(offset + (len as u64).saturating_sub(1));
        self.bad.range(page_of(offset)..=end).next().is_some()
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = page_of(offset + (bytes.len() as u64).saturating_sub(1));
        self.bad
            .retain(|page| *page < page_of(offset) || *page > end);
        self.cached.write(offset, bytes);
        self.unsynced.push(Change::Write(offset, bytes.into()));
    }

    fn set_len(&mut self, len: u64) {
        self.cached.set_len(len);
        self.unsynced.push(Change::SetLen(len));
    }

    fn apply_all(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write(offset, bytes) => self.durable.write(offset, &bytes),
                Change::SetLen(len) => self.durable.set_len(len),
            }
        }
    }

    /// Makes any sectors of the unsynced writes durable, and forgets the others.
    fn apply_some(&mut self, rng: &mut Rng, keeps_lengths: bool) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let kept = Kept::random(rng, unsynced.len());
        let tears = rng.bool();
        // File systems keep lengths in order, and show nothing beyond the one that they have.
        let mut end = u64::MAX;
        for (at, change) in unsynced.into_iter().enumerate() {
            let is_kept = kept.holds(at, rng);
            match change {
                Change::SetLen(len) if keeps_lengths || is_kept && end == u64::MAX => {
                    self.durable.set_len(len);
                }
                Change::SetLen(_) => end = self.durable.len(),
                Change::Write(offset, bytes) if is_kept => {
                    for part in sectors(offset, bytes.len()) {
                        let place = offset + part.start as u64;
                        let is_within = offset + part.end as u64 <= end;
                        if is_within && (!tears || rng.bool()) {
                            self.durable.write(place, &bytes[part]);
                        }
                    }
                }
                Change::Write(..) => {}
            }
        }
    }

    fn lose_power(&mut self, rng: &mut Rng) {
        if !self.unsynced.is_empty() {
            self.apply_some(rng, false);
        }
        self.cached = self.durable.clone();
    }

    /// What the kernel could not write it takes for written from then on, and shows it or not.
    /// Lengths are not among it: without its journal a file system does nothing more.
    fn fail_to_sync(&mut self, rng: &mut Rng) {
        self.apply_some(rng, true);
        if rng.u8(..4) == 0 {
            self.cached = self.durable.clone();
        }
    }
}

/// The way to a disk that the engine takes.
#[derive(Debug)]
pub struct SimulatedDirectory(pub Arc<Disk>);

#[derive(Debug)]
struct SimulatedFile {
    disk: Arc<Disk>,
    file: usize,
}

impl Directory for SimulatedDirectory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut state = self.0.state();
        state.check_alive()?;
        if is_due(&mut state.armed.name_error) {
            return Err(state.failed());
        }
        let mut names: Vec<String> = Vec::new();
        for name in state.names.keys() {
            let name = name.split('/').next().unwrap_or(name);
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let file = self.0.state().open(name, create)?;
        Ok(Arc::new(SimulatedFile {
            disk: Arc::clone(&self.0),
            file,
        }))
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut state = self.0.state();
        state.check_alive()?;
        let Some(file) = state.names.get(name).copied() else {
            return Ok(None);
        };
        let mut bytes = vec![0; state.files[file].cached.len() as usize];
        state.read(file, 0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut state = self.0.state();
        let part = format!("{name}.part");
        let file = state.open(&part, true)?;
        state.set_len(file, 0)?;
        state.write(file, 0, content)?;
        state.sync_file(file)?;
        state.rename(&part, name.to_owned())?;
        state.sync_names()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.state().rename(from, to.to_owned())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.state().remove(name)
    }

    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()> {
        let mut state = self.0.state();
        for name in names {
            state.rename(name, format!("{into}/{name}"))?;
        }
        state.sync_names()
    }

    fn remove_aside(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.state();
        let prefix = format!("{name}/");
        let within = state.names.keys().filter(|name| name.starts_with(&prefix));
        let within: Vec<String> = within.cloned().collect();
        within.iter().try_for_each(|name| state.remove(name))
    }

    fn allocated_aside(&self, is_aside: fn(&str) -> bool) -> io::Result<u64> {
        let state = self.0.state();
        let names = state.names.iter();
        let aside =
            names.filter(|(name, _)| name.split_once('/').is_some_and(|(to, _)| is_aside(to)));
        Ok(aside.map(|(_, file)| state.files[*file].cached.len()).sum())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.state().sync_names()
    }
}

impl File for SimulatedFile {
    fn size(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check_alive()?;
        Ok(state.files[self.file].cached.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.disk.state().read(self.file, offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.state().write(self.file, offset, bytes)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().set_len(self.file, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().sync_file(self.file)
    }
}
