//! What a key has at the newest state: in memtables, among cached rows, in runs.

use alloc::vec::Vec;
use core::cell::RefCell;

use super::cache::CacheKey;
use super::cached::{CacheEntry, Row};
use super::loads::{ChunkFault, LoadedChunks, Reader, Wanted};
use super::state::Engine;
use super::table::Found;
use super::tree::InMemtables;
use super::types::Missing;
use crate::Timestamp;

/// Part of the cache that filters may take, so that all are asked before a key is assumed to be there.
const FILTERS_PART: usize = 4;

/// Bytes of filters and heads for each key, about.
const FILTER_BYTES: u64 = 2;

/// Bytes that an entry takes in a block that is in memory, beside its key and an inline value.
const ENTRY_BYTES: u64 = 16;

/// What was found.
pub(crate) struct LookedUp {
    /// What the key has.
    pub(crate) row: Row,
    /// Whether the cache has it.
    pub(crate) in_cache: InCache,
}

impl LookedUp {
    /// Nothing is there.
    pub(crate) const NOTHING: Self = Self {
        row: Row::ABSENT,
        in_cache: InCache::Never,
    };
}

/// Whether the cache has a row, or may have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum InCache {
    /// It is there.
    Yes,
    /// It came from runs, of the newest state.
    NotYet,
    /// It is in memory anyway, or not of the newest state.
    Never,
}

/// What can be told of a key without reading much for it.
pub(crate) enum Probe {
    /// What it has.
    Known(Row),
    /// A value of it may be there, and is taken to be.
    Assumed,
}

impl Engine {
    /// What `key` has at `at`, which is pinned, or the greatest there is; expired values are there as well.
    ///
    /// # Errors
    /// Something is not in memory, which is noted in `faults`.
    pub(crate) fn look_up(
        &self,
        key: &[u8],
        at: Timestamp,
        loaded: &LoadedChunks,
        faults: &RefCell<Vec<ChunkFault>>,
        wanted: Wanted,
    ) -> Result<LookedUp, Missing> {
        let tree = self.tree.borrow();
        let known = |row| LookedUp {
            row,
            in_cache: InCache::Never,
        };
        let hidden_below = match tree.get_newest(key, at) {
            InMemtables::Value(version) => return Ok(known(Row::of(&version))),
            InMemtables::Nothing(since) => {
                return Ok(known(Row {
                    timestamp: since,
                    ..Row::ABSENT
                }));
            }
            InMemtables::Older(hidden_below) => hidden_below,
        };
        if tree.runs().is_empty() {
            return Ok(known(Row::ABSENT));
        }
        let is_newest = at == Timestamp(u64::MAX);
        if let Some(CacheEntry::Row(row)) = self.cache.borrow_mut().get(&CacheKey::Row(key))
            && (is_newest || (row.is_value() && row.timestamp <= at))
        {
            return Ok(LookedUp {
                row: row.clone(),
                in_cache: InCache::Yes,
            });
        }
        let reader = Reader::new(self, loaded, faults, wanted);
        let found = tree.get_in_runs(&reader, key, at, hidden_below)?;
        let version = found.as_ref().map(Found::version);
        Ok(LookedUp {
            row: version.map_or(Row::ABSENT, |version| Row::of(&version)),
            in_cache: if is_newest {
                InCache::NotYet
            } else {
                InCache::Never
            },
        })
    }

    /// Whether `key` has a value, as far as that is known without much reading: what is small enough to be in memory is
    /// read; filters are, if they are; else it is assumed.
    ///
    /// # Errors
    /// As [`look_up`](Self::look_up).
    pub(crate) fn probe(
        &self,
        key: &[u8],
        loaded: &LoadedChunks,
        faults: &RefCell<Vec<ChunkFault>>,
    ) -> Result<Probe, Missing> {
        let before = faults.borrow().len();
        let newest = Timestamp(u64::MAX);
        let wanted = loaded.probed(self.probed.get());
        match self.look_up(key, newest, loaded, faults, wanted) {
            Ok(found) => Ok(Probe::Known(found.row)),
            Err(Missing) if faults.borrow().len() > before => Err(Missing),
            Err(Missing) => Ok(Probe::Assumed),
        }
    }

    /// Runs or the size of the cache have changed: what is read to find out whether a key is there.
    pub(crate) fn set_probed(&self) {
        let tree = self.tree.borrow();
        let tables = tree.runs().iter().flat_map(|run| &run.tables);
        let (bytes, entries) = tables.fold((0, 0), |(bytes, entries), table| {
            let in_memory = table.stats.key_bytes
                + table.stats.inline_bytes
                + table.stats.entries * ENTRY_BYTES;
            (
                bytes + in_memory.max(table.bytes),
                entries + table.stats.entries,
            )
        });
        // What is evicted as soon as memtables are full would be read again and again.
        let cache = self.cache_bytes_sure.get();
        let probed = if bytes <= (cache / 2) as u64 {
            Wanted::Readable
        } else if entries * FILTER_BYTES <= (cache / FILTERS_PART) as u64 {
            Wanted::Filters
        } else {
            Wanted::None
        };
        self.probed.set(probed);
    }
}
