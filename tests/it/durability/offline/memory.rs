//! A directory of the test's memory, in which a log is opened that the gateway wrote.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tribus::engine::disk::{Directory, File};

#[derive(Debug, Default)]
pub struct Memory(Mutex<BTreeMap<String, Arc<Bytes>>>);

#[derive(Debug, Default)]
struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(files: &BTreeMap<String, Vec<u8>>) -> Self {
        let files = files.iter().map(|(name, bytes)| {
            let bytes = Bytes(Mutex::new(bytes.clone()));
            (name.clone(), Arc::new(bytes))
        });
        Self(Mutex::new(files.collect()))
    }
}

impl Directory for Memory {
    fn names(&self) -> io::Result<Vec<String>> {
        let files = self.lock();
        let tops = files.keys().filter_map(|name| name.split('/').next());
        let mut names: Vec<_> = tops.map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn File>> {
        let mut files = self.lock();
        if create {
            files.entry(name.to_owned()).or_default();
        }
        let file = files.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn File>)
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.lock().get(name).map(|file| file.lock().clone()))
    }

    fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let bytes = Bytes(Mutex::new(content.to_vec()));
        self.lock().insert(name.to_owned(), Arc::new(bytes));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.lock();
        let file = files.remove(from).ok_or(ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.lock().remove(name);
        removed.map(|_| ()).ok_or(ErrorKind::NotFound.into())
    }

    fn set_aside(&self, names: &[String], into: &str) -> io::Result<()> {
        let mut files = self.lock();
        for name in names {
            let file = files.remove(name).ok_or(ErrorKind::NotFound)?;
            files.insert(format!("{into}/{name}"), file);
        }
        Ok(())
    }

    fn remove_aside(&self, name: &str) -> io::Result<()> {
        let within = format!("{name}/");
        self.lock().retain(|file, _| !file.starts_with(&within));
        Ok(())
    }

    fn allocated_aside(&self, is_aside: fn(&str) -> bool) -> io::Result<u64> {
        let files = self.lock();
        let aside = files
            .iter()
            .filter(|(name, _)| name.split_once('/').is_some_and(|(to, _)| is_aside(to)));
        Ok(aside.map(|(_, file)| file.lock().len() as u64).sum())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl File for Bytes {
    fn size(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.size()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = self.lock();
        let there = bytes.get(offset as usize..offset as usize + into.len());
        into.copy_from_slice(there.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, written: &[u8]) -> io::Result<()> {
        let mut bytes = self.lock();
        let end = offset as usize + written.len();
        let len = bytes.len().max(end);
        bytes.resize(len, 0);
        bytes[offset as usize..end].copy_from_slice(written);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
