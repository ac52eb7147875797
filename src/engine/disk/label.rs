//! What a log's directory says of itself, in small files beside the segments.

use std::{cmp::Ordering, io};

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::Error as _};

use super::{
    directory::{Directory, File},
    record::{self, FORMAT, RecordError},
};
use crate::event::LogId;

pub const LABEL: &str = "log.json";
pub const TRIMS: &str = "trims";
pub const REACHED: &str = "reached";

/// When a publish counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Durability {
    /// When the disk has it: it outlives a power failure.
    Sync,
    /// When the operating system has it: it outlives the gateway, not the machine.
    Os,
}

impl Durability {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Os => "os",
        }
    }
}

impl TryFrom<String> for Durability {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "sync" => Ok(Self::Sync),
            "os" => Ok(Self::Os),
            _ => Err(format!(
                "there is no durability {name:?}: use \"sync\" or \"os\""
            )),
        }
    }
}

/// Which log this is, and how its last run ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Label {
    pub format: u32,
    #[serde(with = "log_id")]
    pub log: LogId,
    pub durability: Durability,
    /// Which start of the machine it was written in.
    pub boot: String,
    /// What came after this sequence was appended in that start of the machine.
    pub boot_after: u64,
    /// It was closed properly, with `last` as its last sequence.
    pub clean: bool,
    pub last: u64,
}

/// Why a label can not be read.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    #[error("can not read {LABEL}: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the log was written by a newer Tribus, in format {0}, and this one knows format {FORMAT}: \
         use the newer one, or another directory"
    )]
    Newer(u64),
    #[error(
        "the log was written by an older Tribus, in format {0}, and this one knows format {FORMAT} \
         only: use the older one, or remove the log, so that a new one begins and clients get a reset"
    )]
    Older(u64),
    #[error("{LABEL} is damaged: {0}")]
    Damaged(serde_json::Error),
}

/// A label as it is stored.
#[derive(Deserialize, Serialize)]
struct Stored {
    #[serde(flatten)]
    label: Label,
    /// CRC-32 of the label.
    check: u32,
}

impl Label {
    /// The directory's label; `None` where it has none.
    ///
    /// # Errors
    /// [`LabelError::Newer`] and [`LabelError::Older`] where the directory must be left alone.
    pub fn read(directory: &dyn Directory) -> Result<Option<Self>, LabelError> {
        #[derive(Deserialize)]
        struct Format {
            format: u64,
        }
        let Some(text) = directory.read(LABEL)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&text) {
            Ok(Stored { label, check }) if check != label.checksum() => {
                return Err(LabelError::Damaged(serde_json::Error::custom(
                    RecordError::Checksum,
                )));
            }
            _ => {}
        }
        // A label of another version may have other fields.
        let Format { format } = serde_json::from_slice(&text).map_err(LabelError::Damaged)?;
        match format.cmp(&u64::from(FORMAT)) {
            Ordering::Greater => return Err(LabelError::Newer(format)),
            Ordering::Less => return Err(LabelError::Older(format)),
            Ordering::Equal => {}
        }
        let stored: Result<Stored, _> = serde_json::from_slice(&text);
        let label = stored.map_err(LabelError::Damaged)?.label;
        Ok(Some(label))
    }

    fn checksum(&self) -> u32 {
        let Self {
            format,
            log,
            durability,
            boot,
            boot_after,
            clean,
            last,
        } = self;
        let durability = durability.as_str();
        let content = format!("{format} {log:?} {durability} {boot} {boot_after} {clean} {last}");
        crc32fast::hash(content.as_bytes())
    }

    /// # Errors
    /// The disk's.
    pub fn write(&self, directory: &dyn Directory) -> io::Result<()> {
        let stored = Stored {
            label: self.clone(),
            check: self.checksum(),
        };
        directory.replace(LABEL, &serde_json::to_vec_pretty(&stored)?)
    }
}

/// What was trimmed of each topic, as the tail told.
///
/// # Errors
/// The disk's.
pub fn read_trims(directory: &dyn Directory) -> io::Result<Bytes> {
    let stored = directory.read(TRIMS)?.unwrap_or_default();
    // What can not be read is not known, which the tail can cope with.
    Ok(record::decode(&stored, u64::from(FORMAT)).unwrap_or_default())
}

/// # Errors
/// The disk's.
pub fn write_trims(directory: &dyn Directory, trims: Vec<u8>) -> io::Result<()> {
    let trims = Bytes::from(trims);
    directory.replace(TRIMS, &record::encode(&trims, u64::from(FORMAT)))
}

/// Leaves it unknown what was trimmed.
///
/// # Errors
/// The disk's.
pub fn forget_trims(directory: &dyn Directory) -> io::Result<()> {
    if directory.names()?.iter().any(|name| name == TRIMS) {
        directory.remove(TRIMS)?;
    }
    directory.sync()
}

/// The names of the files that belong to one log, besides its segments.
pub const OF_ONE_LOG: [&str; 3] = [LABEL, TRIMS, REACHED];

/// The last sequence that was acknowledged, written after it was, and never waited for.
///
/// So it tells after the gateway was killed, when the operating system has all that was written,
/// whether the log has lost its end. It is never ahead of the log.
#[derive(Debug)]
pub struct Reached(std::sync::Arc<dyn File>);

impl Reached {
    /// # Errors
    /// The disk's, here and below.
    pub fn open(directory: &dyn Directory) -> io::Result<Self> {
        Ok(Self(directory.open(REACHED, true)?))
    }

    /// 0 where nothing is known.
    pub fn read(directory: &dyn Directory) -> io::Result<u64> {
        let stored = directory.read(REACHED)?.unwrap_or_default();
        Ok(record::decode(&stored, u64::from(FORMAT))
            .map(u64::from_le_bytes)
            .unwrap_or(0))
    }

    pub fn write(&self, sequence: u64) -> io::Result<()> {
        let bytes = record::encode(&sequence.to_le_bytes(), u64::from(FORMAT));
        self.0.write_at(0, &bytes)
    }
}

mod log_id {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::event::{Cursor, LogId};

    pub fn serialize<S: Serializer>(log: &LogId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(log.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogId, D::Error> {
        let name = String::deserialize(deserializer)?;
        let cursor: Cursor = format!("{name}-0").parse().map_err(D::Error::custom)?;
        Ok(cursor.log)
    }
}
