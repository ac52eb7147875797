//! What was trimmed last of topics that are no longer indexed.

use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip::SipHasher13;

use crate::topic::Tenant;

/// Of fixed size, so that topics named once cost nothing for ever: buckets of eight topics each,
/// and where a ninth comes, the bucket forgets the one trimmed longest ago and remembers only that
/// anything up to there may have been trimmed. So the last hundred thousand topics are exact, and
/// older ones err towards a reset.
///
/// Topics are known by a keyed hash (SipHash-1-3), so that nobody can choose topics that share a
/// bucket; the key goes with the table, which may outlive the process.
#[derive(Clone, Debug)]
pub(super) struct TrimTable {
    key: [u8; TrimTable::KEY_BYTES],
    buckets: Box<[Bucket]>,
}

#[derive(Clone, Debug, Default)]
struct Bucket {
    /// Hash of tenant and topic, and the last trimmed position; 0 marks a free slot.
    slots: [(u64, u64); TrimTable::SLOTS],
    /// Any topic that has no slot here may have been trimmed up to this position.
    forgotten: u64,
}

impl TrimTable {
    const KEY_BYTES: usize = 16;
    /// Few of them in tests, which make and store many tables.
    const BUCKETS: usize = if cfg!(test) { 256 } else { 16_384 };
    const SLOTS: usize = 8;
    const BUCKET_BYTES: usize = 8 * (2 * Self::SLOTS + 1);

    pub(super) fn new() -> Self {
        Self::all_until(0)
    }

    /// Anything may have been trimmed up to a position.
    pub(super) fn all_until(forgotten: u64) -> Self {
        let bucket = Bucket {
            forgotten,
            ..Bucket::default()
        };
        let random = RandomState::new();
        let words = [0u8, 1].map(|word| random.hash_one(word));
        Self {
            key: std::array::from_fn(|at| words[at / 8].to_le_bytes()[at % 8]),
            buckets: vec![bucket; Self::BUCKETS].into(),
        }
    }

    pub(super) fn last_trimmed(&self, tenant: &Tenant, topic: Option<&str>) -> u64 {
        let hash = self.hash(tenant, topic);
        let bucket = &self.buckets[Self::bucket_of(hash)];
        bucket
            .slots
            .iter()
            .find(|(slot_hash, sequence)| *slot_hash == hash && *sequence > 0)
            .map_or(bucket.forgotten, |(_, sequence)| *sequence)
    }

    pub(super) fn note(&mut self, tenant: &Tenant, topic: Option<&str>, sequence: u64) {
        let hash = self.hash(tenant, topic);
        let bucket = &mut self.buckets[Self::bucket_of(hash)];
        let known = |slot: &&mut (u64, u64)| slot.0 == hash && slot.1 > 0;
        if let Some(slot) = bucket.slots.iter_mut().find(known) {
            *slot = (hash, sequence);
        } else if let Some(oldest) = bucket.slots.iter_mut().min_by_key(|slot| slot.1) {
            bucket.forgotten = bucket.forgotten.max(oldest.1);
            *oldest = (hash, sequence);
        }
    }

    /// The key, then each bucket's slots and what it forgot: 64-bit words, little-endian.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::KEY_BYTES + Self::BUCKETS * Self::BUCKET_BYTES);
        bytes.extend_from_slice(&self.key);
        for bucket in &self.buckets {
            let slots = bucket.slots.iter().flat_map(|slot| [slot.0, slot.1]);
            for word in slots.chain([bucket.forgotten]) {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads what [`TrimTable::to_bytes`] wrote; `None` where it is not that.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let whole = Self::KEY_BYTES + Self::BUCKETS * Self::BUCKET_BYTES;
        let (key, buckets) = bytes.split_first_chunk().filter(|_| bytes.len() == whole)?;
        let buckets = buckets.chunks_exact(Self::BUCKET_BYTES).map(|bucket| {
            let word = |at: usize| {
                let bytes: [u8; 8] = std::array::from_fn(|byte| bucket[8 * at + byte]);
                u64::from_le_bytes(bytes)
            };
            Bucket {
                slots: std::array::from_fn(|slot| (word(2 * slot), word(2 * slot + 1))),
                forgotten: word(2 * Self::SLOTS),
            }
        });
        Some(Self {
            key: *key,
            buckets: buckets.collect(),
        })
    }

    /// The same in every release and on every machine: no `Hash` of the standard library's.
    fn hash(&self, tenant: &Tenant, topic: Option<&str>) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        for name in [tenant.as_deref(), topic] {
            hasher.write(name.unwrap_or_default().as_bytes());
            // No byte of UTF-8; and no name is not an empty one.
            hasher.write(&[0xff, u8::from(name.is_some())]);
        }
        hasher.finish()
    }

    fn bucket_of(hash: u64) -> usize {
        (hash % Self::BUCKETS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_as_it_was_written() {
        let none = Tenant::none();
        let mut table = TrimTable::all_until(3);
        table.note(&none, Some("a"), 7);
        table.note(&Tenant::named(""), Some("a"), 8);
        let read = TrimTable::from_bytes(&table.to_bytes()).unwrap();
        assert_eq!(read.last_trimmed(&none, Some("a")), 7);
        assert_eq!(read.last_trimmed(&Tenant::named(""), Some("a")), 8);
        assert_eq!(read.last_trimmed(&none, Some("b")), 3);
        assert!(TrimTable::from_bytes(&table.to_bytes()[1..]).is_none());
    }

    #[test]
    fn a_full_table_errs_towards_a_reset_and_never_the_other_way() {
        let none = Tenant::none();
        let mut table = TrimTable::new();
        let topics = 24 * TrimTable::BUCKETS as u64;
        for sequence in 1..=topics {
            table.note(&none, Some(&format!("t:{sequence}")), sequence);
        }
        for sequence in (1..=topics).step_by(7) {
            assert!(table.last_trimmed(&none, Some(&format!("t:{sequence}"))) >= sequence);
        }
        let latest = topics * 15 / 100;
        let exact = (topics - latest..topics)
            .filter(|seq| table.last_trimmed(&none, Some(&format!("t:{seq}"))) == *seq)
            .count() as u64;
        assert!(
            exact * 60 > latest * 59,
            "only {exact} of the last {latest} are exact"
        );
    }
}
