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
    /// A large value.
    Value(Value),
}

impl Cost for CacheEntry {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Row(row) => row.memory_bytes(),
            Self::Chunk(chunk) => chunk.memory_bytes(),
            Self::Value(value) => value.memory_bytes(),
        }
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
    /// The coded form of a large one: of one piece nearly always.
    Large(SmallVec<[u8; 16]>),
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
                Content::Large(large) => RowContent::Large(large.bytes().into()),
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
                RowContent::Large(_) => self.large().map_or(Content::Tombstone, Content::Large),
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
            RowContent::Large(bytes) => Some(LargeRef::of_checked(bytes)),
            _ => None,
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
            RowContent::Large(_) => self.large().map_or(0, |large| large.total() as usize),
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
            RowContent::Large(bytes) => bytes.len(),
        }
    }
}
