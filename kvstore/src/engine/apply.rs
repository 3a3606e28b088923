//! One commit, from what the log says of it to what readers see: used when it is committed and when the log is replayed.
//!
//! Room is taken before the commit is written ([`Engine::reserve`]), so that putting it in ([`Engine::apply`]) cannot fail. Both take the same bytes: what the
//! log says (`payload`).

use super::cache::CacheKey;
use super::manifest::Count;
use super::payload::{Entry, SYSTEM_DATABASE};
use super::pool::CHUNK_BYTES;
use super::state::Engine;
use super::tree::InMemtables;
use super::types::{Content, Malformed, NEVER, OutOfMemory, VersionRef};
use crate::{DATABASE_COUNT, DatabaseIndex, Timestamp};

/// The entries of a commit's payload, which was checked.
fn entries(mut payload: &[u8]) -> impl Iterator<Item = Entry<'_>> {
    core::iter::from_fn(move || Entry::take(&mut payload).ok().flatten())
}

/// Checks what a log says of a commit: each entry for itself. A key that comes twice has what comes last, as for everybody else.
///
/// # Errors
/// It says what no commit can say.
pub(crate) fn check(mut payload: &[u8]) -> Result<(), Malformed> {
    while Entry::take(&mut payload)?.is_some() {}
    Ok(())
}

impl Engine {
    /// Takes room for a commit, where memtables may take `bytes_max`, all together.
    ///
    /// # Errors
    /// There is none now.
    pub(crate) fn reserve(&self, payload: &[u8], bytes_max: usize) -> Result<(), OutOfMemory> {
        let versions = entries(payload).filter_map(|entry| match entry {
            Entry::Version { key, content, .. } => Some((key, content.bytes().len())),
            Entry::RangeDelete { .. } => None,
        });
        let ranges = entries(payload).filter_map(|entry| match entry {
            Entry::RangeDelete { start, end } => Some((start, end)),
            Entry::Version { .. } => None,
        });
        let pool = &self.pool;
        let of_chunks = bytes_max.saturating_sub(pool.beside_bytes());
        pool.set_limit(of_chunks / CHUNK_BYTES);
        let mut tree = self.tree.borrow_mut();
        let active = tree.active_mut();
        let before = pool.used_bytes();
        let reserved = active.reserve(versions, ranges);
        let now = pool.used_bytes();
        if reserved.is_ok() && (now <= bytes_max || now == before) {
            return Ok(());
        }
        active.give_back_reserved();
        Err(OutOfMemory)
    }

    /// Puts a commit in, for which there is room. Whether it takes the place of something.
    pub(crate) fn apply(&self, timestamp: Timestamp, payload: &[u8]) -> bool {
        let (mut replaces, mut written) = (false, self.written_bytes.get());
        for entry in entries(payload) {
            match entry {
                Entry::RangeDelete { start, end } => {
                    self.delete_range(timestamp, start, end);
                    replaces = true;
                }
                Entry::Version {
                    key,
                    expires_at_ms,
                    below,
                    content,
                } => {
                    let version = VersionRef {
                        timestamp,
                        expires_at_ms,
                        below,
                        content,
                    };
                    self.put(key, &version);
                    replaces |= below;
                    written += key.len() as u64
                        + match content {
                            Content::Tombstone => 0,
                            Content::Inline(value) => value.len() as u64,
                            Content::Large(large) => large.own_bytes(),
                        };
                }
            }
        }
        self.written_bytes.set(written);
        if replaces {
            self.has_garbage.set(true);
        }
        replaces
    }

    fn put(&self, key: &[u8], version: &VersionRef<'_>) {
        let mut tree = self.tree.borrow_mut();
        let newest = Timestamp(u64::MAX);
        let old = match tree.get_newest(key, newest) {
            InMemtables::Value(old) => Some((old.timestamp, old.expires_at_ms)),
            _ => None,
        };
        let replaced = tree.active().newest(key);
        let reuse = replaced.is_some_and(|replaced| !self.is_seen(replaced, version.timestamp));
        tree.active_mut().insert(key, version, reuse);
        drop(tree);
        let old_expiry = old.map_or(NEVER, |(_, expires_at_ms)| expires_at_ms);
        if old_expiry != NEVER {
            self.expiries.borrow_mut().forget(old_expiry, key);
        }
        if version.expires_at_ms != NEVER {
            self.expiries.borrow_mut().note(version.expires_at_ms, key);
        }
        if !version.is_value() {
            self.last_removal.set(version.timestamp);
        }
        self.cache.borrow_mut().remove(&CacheKey::Row(key));
        let mut watches = self.watches.borrow_mut();
        if !watches.is_empty() {
            watches.written(key);
        }
        let db = key.first().copied().unwrap_or(SYSTEM_DATABASE);
        let one_if = |is: bool| i64::from(is);
        let by = Count {
            keys: one_if(version.is_value()) - one_if(version.below),
            expiring: one_if(version.expires_at_ms != NEVER) - one_if(old_expiry != NEVER),
        };
        self.counts.borrow_mut().change(DatabaseIndex(db), by);
        self.recounts.borrow_mut().change(key, &by);
    }

    fn delete_range(&self, timestamp: Timestamp, start: &[u8], end: &[u8]) {
        let mut tree = self.tree.borrow_mut();
        tree.active_mut().delete_range(start, end, timestamp);
        drop(tree);
        self.last_removal.set(timestamp);
        self.cache.borrow_mut().hide_rows(start, end);
        let mut watches = self.watches.borrow_mut();
        if !watches.is_empty() {
            watches.cleared(start, end);
        }
        for db in databases() {
            // As `[n] … [n + 1]`.
            let (first, behind) = ([db.0], [db.0 + 1]);
            if *start <= first[..] && behind[..] <= *end {
                self.counts.borrow_mut().clear(db);
                let mut recounts = self.recounts.borrow_mut();
                recounts.clear(db, &first, &behind, timestamp);
            } else if *start < behind[..] && first[..] < *end {
                let (start, end) = (start.max(&first), end.min(&behind));
                let mut recounts = self.recounts.borrow_mut();
                recounts.delete_range(db, start, end, timestamp);
            }
        }
    }

    /// Whether somebody sees what was from `from` on until just before `until`.
    pub(crate) fn is_seen(&self, from: Timestamp, until: Timestamp) -> bool {
        from < until
            && (until > self.floor.get() && self.keeps_history.get()
                || self.pins.any_in(from, until))
    }
}

/// All databases.
pub(crate) fn databases() -> impl Iterator<Item = DatabaseIndex> {
    (0..).map(DatabaseIndex).take(DATABASE_COUNT)
}

/// Large values' slots that a commit takes: the first one behind them all.
pub(crate) fn slots_end(payload: &[u8]) -> u64 {
    let ends = entries(payload).filter_map(|entry| match entry {
        Entry::Version {
            content: Content::Large(large),
            ..
        } => large.pieces().last().map(|last| last.slot + last.slots()),
        _ => None,
    });
    ends.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::engine::manifest::Manifest;
    use crate::engine::types::Cursor as _;

    #[test]
    fn a_key_that_a_commit_says_twice_made_a_table_that_could_not_be_read() {
        let mut payload = Vec::new();
        for value in [&b"first"[..], b"second"] {
            let entry = Entry::Version {
                key: b"\0key",
                expires_at_ms: NEVER,
                below: false,
                content: Content::Inline(value),
            };
            entry.encode(&mut payload).unwrap();
        }
        check(&payload).unwrap();
        let engine = Engine::new(Manifest::default(), Timestamp(0), 1);
        engine.keeps_history.set(true);
        engine.reserve(&payload, 1 << 20).unwrap();
        engine.apply(Timestamp(1), &payload);
        let tree = engine.tree.borrow();
        let mut cursor = tree.active().cursor();
        cursor.seek(&[], Timestamp(u64::MAX)).unwrap();
        let mut found = Vec::new();
        while let Some((_, version)) = cursor.current() {
            found.push(version.content.bytes().to_vec());
            cursor.next().unwrap();
        }
        assert_eq!(found, [b"second"]);
    }
}
