//! The bytes of a simulated file, of which holes take nothing.

use std::{collections::BTreeMap, io, ops::Range};

use fastrand::Rng;

const PAGE: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

#[derive(Clone, Debug, Default)]
pub struct Content {
    len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// # Errors
    /// Where the file ends earlier.
    pub fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset + into.len() as u64 > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, part) in pieces(offset, into.len()) {
            let count = part.len();
            match self.pages.get(&page) {
                Some(bytes) => into[part].copy_from_slice(&bytes[within..within + count]),
                None => into[part].fill(0),
            }
        }
        Ok(())
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (page, within, part) in pieces(offset, bytes.len()) {
            let there = self.pages.entry(page);
            let there = there.or_insert_with(|| Box::new([0; PAGE]));
            there[within..within + part.len()].copy_from_slice(&bytes[part]);
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        self.pages.retain(|page, _| page * (PAGE as u64) < len);
        let within = (len % PAGE as u64) as usize;
        if let Some(last) = self.pages.get_mut(&(len / PAGE as u64)) {
            last[within..].fill(0);
        }
        self.len = len;
    }

    /// How much of a write needs no more space than the file has.
    pub fn room(&self, offset: u64, len: usize) -> usize {
        let missing = pieces(offset, len).find(|(page, ..)| !self.pages.contains_key(page));
        missing.map_or(len, |(_, _, part)| part.start)
    }

    pub fn flip(&mut self, offset: u64, bit: u8) {
        if let Some(page) = self.pages.get_mut(&(offset / PAGE as u64)) {
            page[(offset % PAGE as u64) as usize] ^= 1 << bit;
        }
    }

    /// A place where something was written.
    pub fn used_offset(&self, rng: &mut Rng) -> u64 {
        let page = rng.choice(self.pages.keys()).copied().unwrap_or(0);
        let start = page * PAGE as u64;
        let len = self.len.saturating_sub(start).clamp(1, PAGE as u64);
        start + rng.u64(..len)
    }
}

/// The page that a place is in.
pub fn page_of(offset: u64) -> u64 {
    offset / PAGE as u64
}

/// The pages of a range: the page, where the range's part of it begins, and that part in the range.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    cut(offset, len, PAGE as u64).map(move |part| {
        let place = offset + part.start as u64;
        let page = place / PAGE as u64;
        (page, (place % PAGE as u64) as usize, part)
    })
}

/// The parts of a range that lie in one sector each.
pub fn sectors(offset: u64, len: usize) -> impl Iterator<Item = Range<usize>> {
    cut(offset, len, SECTOR)
}

fn cut(offset: u64, len: usize, size: u64) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let left = size - (offset + at as u64) % size;
        let end = len.min(at + usize::try_from(left).unwrap_or(usize::MAX));
        let part = at..end;
        at = end;
        (!part.is_empty()).then_some(part)
    })
}
