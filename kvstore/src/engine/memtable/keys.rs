//! What a memtable knows of a key, its record: `handle of the key's bytes ‖ their length ‖ newest version`, four bytes each.

use super::arena::{Arena, Handle};

const LEN_AT: usize = 4;
const NEWEST_AT: usize = 8;

/// Bytes of a record, beside the key itself.
pub(super) const RECORD_BYTES: usize = 12;

/// Stores `key`, without a version yet, and says where its record is; the arena has room for both.
pub(super) fn store(arena: &mut Arena, key: &[u8]) -> Handle {
    let stored = arena.allocate(key.len());
    arena.write(stored, 0, key);
    // Next to its key, which whoever looks for another one compares.
    let record = arena.allocate(RECORD_BYTES);
    let len = u32::try_from(key.len()).unwrap_or(u32::MAX);
    arena.write(record, 0, &stored.to_bytes());
    arena.write(record, LEN_AT, &len.to_le_bytes());
    set_newest(arena, record, Handle::NONE);
    record
}

/// The key of a record.
pub(super) fn key_of(arena: &Arena, record: Handle) -> &[u8] {
    let Some([k0, k1, k2, k3, l0, l1, l2, l3]) = arena.from(record).first_chunk::<8>() else {
        return &[];
    };
    let len = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
    let key = arena.from(Handle::from_bytes([*k0, *k1, *k2, *k3]));
    key.get(..len).unwrap_or_default()
}

/// Its newest version.
pub(super) fn newest_of(arena: &Arena, record: Handle) -> Handle {
    arena.handle_at(record, NEWEST_AT)
}

/// Sets that.
pub(super) fn set_newest(arena: &mut Arena, record: Handle, newest: Handle) {
    arena.write(record, NEWEST_AT, &newest.to_bytes());
}
