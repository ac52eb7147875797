//! A segment's index as it grows.

use std::collections::HashMap;

use super::{
    clock::{Ages, Stamp},
    record::{End, IndexChunk, IndexEntry, RecordError},
    segment::{Segment, SegmentError},
};
use crate::{
    engine::StoredEvent,
    event::{Event, LogId},
    topic::{Tenant, Topic},
};

/// Events of one chunk: what a start reads one by one at most, and holds in memory at a time.
/// Few of them in tests, so that those come to the ends of chunks.
const CHUNK_EVENTS: usize = if cfg!(test) { 16 } else { 1024 };
/// Sequences that one chunk covers, of which ephemeral events leave nothing.
const CHUNK_SPAN: u64 = 1 << 20;

/// Collects what the index is to know of the events after a sequence.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    chunk: IndexChunk,
    topics: HashMap<(Tenant, Topic), u32, ahash::RandomState>,
}

impl ChunkBuilder {
    pub fn after(after: u64) -> Self {
        Self {
            chunk: IndexChunk {
                after,
                until: after,
                ..IndexChunk::default()
            },
            topics: HashMap::default(),
        }
    }

    /// Adds the next event.
    pub fn push(&mut self, event: &Event, stamp: Stamp) {
        let next = self.topics.len() as u32;
        let key = (event.tenant.clone(), event.topic.clone());
        let topic = *self.topics.entry(key).or_insert(next);
        if topic == next {
            let tenant = event.tenant.as_deref().map(str::to_owned);
            let topic = event.topic.as_str().to_owned();
            self.chunk.topics.push((tenant, topic));
        }
        self.chunk.entries.push(IndexEntry {
            offset: event.sequence - self.chunk.after,
            topic,
            bytes: u32::try_from(event.retained_bytes()).unwrap_or(u32::MAX),
            stamp,
        });
    }

    /// All events up to a sequence were pushed.
    pub fn reach(&mut self, until: u64) {
        self.chunk.until = until;
    }

    /// The chunk, if it is large enough to be stored.
    pub fn take_full(&mut self) -> Option<IndexChunk> {
        let span = self.chunk.until - self.chunk.after;
        if self.chunk.entries.len() < CHUNK_EVENTS && span < CHUNK_SPAN {
            return None;
        }
        self.take()
    }

    /// The chunk, if there is anything in it.
    pub fn take(&mut self) -> Option<IndexChunk> {
        let until = self.chunk.until;
        let taken = std::mem::replace(self, Self::after(until)).chunk;
        (taken.until > taken.after).then_some(taken)
    }

    pub fn chunk(&self) -> &IndexChunk {
        &self.chunk
    }

    /// Where a segment ends that has all of this, if nothing more is taken out.
    pub fn end(&self) -> End {
        End {
            last: self.chunk.until,
            unindexed: self.chunk.entries.len() as u64,
        }
    }
}

impl IndexChunk {
    /// What the tail is to know.
    ///
    /// # Errors
    /// Where the chunk makes no sense.
    pub fn events(&self, ages: &Ages) -> Result<Vec<StoredEvent>, RecordError> {
        let topics: Result<Vec<(Tenant, Topic)>, RecordError> = self
            .topics
            .iter()
            .map(|(tenant, topic)| {
                let tenant = tenant.as_deref().map_or_else(Tenant::none, Tenant::named);
                let topic = Topic::parse(topic).map_err(|_| RecordError::Form)?;
                Ok((tenant, topic))
            })
            .collect();
        let topics = topics?;
        let span = self
            .until
            .checked_sub(self.after)
            .ok_or(RecordError::Form)?;
        let mut before = 0;
        let events = self.entries.iter().map(|entry| {
            let rises = entry.offset > before && entry.offset <= span;
            before = entry.offset;
            let topic = topics.get(entry.topic as usize).filter(|_| rises);
            let (tenant, topic) = topic.ok_or(RecordError::Form)?;
            let sequence = self.after + entry.offset;
            Ok(StoredEvent {
                sequence,
                tenant: tenant.clone(),
                topic: topic.clone(),
                bytes: entry.bytes,
                age: ages.of(sequence, entry.stamp),
            })
        });
        events.collect()
    }
}

/// The end of a segment's index, after what is stored of it.
///
/// # Errors
/// Where the segment is damaged.
pub fn read_rest(segment: &Segment, after: u64, log: &LogId) -> Result<ChunkBuilder, SegmentError> {
    let end = segment.end()?;
    let mut rest = ChunkBuilder::after(after);
    segment.read_after(after, |sequence, record| {
        let stamp = record.stamp;
        rest.push(&record.into_event(log, sequence), stamp);
    })?;
    rest.reach(end.last);
    if end.last < after || rest.end() != end {
        return Err(SegmentError::Damaged {
            name: segment.name().to_owned(),
            what: format!(
                "after {after} there are {} events instead of {}",
                rest.end().unindexed,
                end.unindexed
            ),
        });
    }
    Ok(rest)
}
