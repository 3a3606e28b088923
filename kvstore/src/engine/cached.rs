//! What the cache holds: rows, chunks of tables, large values.

use smallvec::SmallVec;

use super::cache::Cost;
use super::table::Cached;
use super::types::{Content, LargeRef, NEVER, VersionRef};
use crate::transaction::{Growth, content_growth};
use crate::{Timestamp, Value};

/// An entry of the cache.
pub(crate) enum CacheEntry {
    /// What a key is at the newest state, as it was found in runs.
    Row(Row),
    /// A chunk of a table.
    Chunk(Cached),
    /// A large value: one that is not with its row.
    Value(Value),
}

/// Large values up to this may be with their rows: whoever asks for a row alone does not hold much more.
const WITH_ROW_BYTES_MAX: usize = 4 << 10;

impl Cost for CacheEntry {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Row(row) => row.memory_bytes(),
            Self::Chunk(chunk) => chunk.memory_bytes(),
            Self::Value(value) => value.memory_bytes(),
        }
    }
}

/// Whether a large value of so many bytes may be with its row.
pub(crate) fn may_be_with_row(bytes: usize) -> bool {
    bytes <= WITH_ROW_BYTES_MAX
}

impl CacheEntry {
    /// Whether it is the row of that version, and has its large value.
    pub(crate) fn has_large_value_of(&self, version: Timestamp) -> bool {
        match self {
            Self::Row(row) => row.timestamp == version && row.large_value().is_some(),
            Self::Chunk(_) | Self::Value(_) => false,
        }
    }

    /// A byte of the value that it has: to have looked at it.
    pub(crate) fn value_byte(&self) -> u8 {
        let value = match self {
            Self::Row(row) => match &row.content {
                RowContent::Inline(value) => Some(value),
                RowContent::Large { value, .. } => value.as_ref(),
                RowContent::Absent => None,
            },
            Self::Value(value) => Some(value),
            Self::Chunk(_) => None,
        };
        value.and_then(|value| value.first()).copied().unwrap_or(0)
    }
}

/// What a key has, found in runs; it owns what it says.
#[derive(Clone)]
pub(crate) struct Row {
    /// The commit that wrote it; of nothing, 0.
    pub(crate) timestamp: Timestamp,
    /// Unix milliseconds, or [`NEVER`].
    pub(crate) expires_at_ms: i64,
    /// What is there.
    pub(crate) content: RowContent,
}

/// What a row has.
#[derive(Clone)]
pub(crate) enum RowContent {
    /// Nothing.
    Absent,
    /// A value.
    Inline(Value),
    /// A large one.
    Large {
        /// Its coded form: of one piece nearly always.
        coded: SmallVec<[u8; 16]>,
        /// What it is, if it was read.
        value: Option<Value>,
    },
}

impl Row {
    /// There is nothing.
    pub(crate) const ABSENT: Self = Self {
        timestamp: Timestamp(0),
        expires_at_ms: NEVER,
        content: RowContent::Absent,
    };

    /// The row of a version.
    pub(crate) fn of(version: &VersionRef<'_>) -> Self {
        Self {
            timestamp: version.timestamp,
            expires_at_ms: version.expires_at_ms,
            content: match version.content {
                Content::Tombstone => RowContent::Absent,
                Content::Inline(bytes) => RowContent::Inline(Value::from(bytes)),
                Content::Large(large) => RowContent::Large {
                    coded: large.bytes().into(),
                    value: None,
                },
            },
        }
    }

    /// The version that it is the row of.
    pub(crate) fn version(&self) -> VersionRef<'_> {
        VersionRef {
            timestamp: self.timestamp,
            expires_at_ms: self.expires_at_ms,
            below: false,
            content: match &self.content {
                RowContent::Absent => Content::Tombstone,
                RowContent::Inline(value) => Content::Inline(value),
                RowContent::Large { .. } => self.large().map_or(Content::Tombstone, Content::Large),
            },
        }
    }

    /// Whether it has a value, expired or not.
    pub(crate) fn is_value(&self) -> bool {
        !matches!(self.content, RowContent::Absent)
    }

    /// The large value that it has.
    pub(crate) fn large(&self) -> Option<LargeRef<'_>> {
        match &self.content {
            RowContent::Large { coded, .. } => Some(LargeRef::of_checked(coded)),
            _ => None,
        }
    }

    /// The large value, if it is with the row.
    pub(crate) fn large_value(&self) -> Option<&Value> {
        match &self.content {
            RowContent::Large { value, .. } => value.as_ref(),
            _ => None,
        }
    }

    /// Has the row keep its large value, unless it does or that is too large: whether this is new.
    pub(crate) fn keep_large_value(&mut self, large: &Value) -> bool {
        match &mut self.content {
            RowContent::Large {
                value: value @ None,
                ..
            } if may_be_with_row(large.len()) => {
                *value = Some(large.clone());
                true
            }
            _ => false,
        }
    }

    /// Whether it has a value whose time has not come.
    pub(crate) fn is_live_at(&self, now_ms: i64) -> bool {
        self.is_value() && self.expires_at_ms > now_ms
    }

    /// When its time comes, in Unix milliseconds.
    pub(crate) fn expiry(&self) -> Option<i64> {
        (self.expires_at_ms != NEVER).then_some(self.expires_at_ms)
    }

    /// Bytes of its value.
    pub(crate) fn value_len(&self) -> usize {
        match &self.content {
            RowContent::Absent => 0,
            RowContent::Inline(value) => value.len(),
            RowContent::Large { .. } => self.large().map_or(0, |large| large.total() as usize),
        }
    }

    /// What it adds to the data, with a key of so many bytes.
    pub(crate) fn bytes(&self, key_bytes: usize) -> Growth {
        content_growth(&self.version().content, key_bytes)
    }

    fn memory_bytes(&self) -> usize {
        match &self.content {
            RowContent::Absent => 0,
            RowContent::Inline(value) => value.memory_bytes(),
            RowContent::Large { coded, value } => {
                coded.len() + value.as_ref().map_or(0, Value::memory_bytes)
            }
        }
    }
}
