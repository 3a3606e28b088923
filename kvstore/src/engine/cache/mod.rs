//! The cache: rows, chunks, values and heads under one policy, by what they cost in bytes (`ENGINE.md`, section 7).
//!
//! It does not know what it holds, only what it costs. What goes is decided by a policy, which can be changed: entries stay, and
//! the new policy takes them over a few at a time. Nothing here takes longer for a larger cache: each operation is O(1) but for the victims that make room for
//! what is inserted, 256 at most.
//!
//! Memory goes with the entries: slots are without gaps, the last one takes the place of one that goes, and what is behind them all is given back by pieces.
//!
//! Rows say what a key is at the newest state. A commit removes the rows that it writes; what a range delete hides is found out when a row is looked for, by a
//! list of the newest range deletes.

mod chunked;
mod lfu;
mod list;
mod lru;
mod s3fifo;
mod sketch;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::Cell;
use core::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use lfs::ObjectId;
use smallvec::SmallVec;

use self::chunked::Chunked;
use self::lfu::Lfu;
use self::lru::Lru;
use self::s3fifo::S3Fifo;

/// Small tables that make up the large one, so that no step rehashes more than a small part.
const SHARDS: usize = 256;

/// Memory of an entry beyond its own and its key's: slot, table (11 bytes at most), and what policies keep of it (25, and a ghost).
pub(crate) const ENTRY_BYTES: usize = 192;

/// What policies and the table keep of an entry.
const LISTED_BYTES: usize = 64;

/// Keys up to this take no memory of their own.
const KEY_BYTES_INLINE: usize = 24;

/// Entries that may go for one that comes. If that does not make room, it is not taken.
const VICTIMS_MAX: usize = 256;

/// Keys that are looked for ahead at once without memory being allocated for that.
const LOOKED_AHEAD: usize = 64;

/// Entries that a new policy takes over with each operation.
const MOVED_PER_STEP: usize = 8;

/// Range deletes that are remembered, and the bytes of their bounds.
const HIDDEN_MAX: usize = 1024;
const HIDDEN_BYTES_MAX: usize = 256 << 10;

/// Tables that are gone and of which there may be chunks, at most.
const GONE_MAX: usize = 1024;

/// What an entry is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKey<'k> {
    /// What an engine key is at the newest state.
    Row(&'k [u8]),
    /// A chunk of an object, by its offset.
    Chunk(ObjectId, u64),
    /// A large value, by its first slot.
    Value(u64),
}

/// Where an entry was when it was asked for the last time. Most often it still is: who asks for the same one again and again keeps this.
#[derive(Debug, Clone)]
pub struct Hint(Cell<u32>);

impl Default for Hint {
    fn default() -> Self {
        Self(Cell::new(u32::MAX))
    }
}

/// What entries take.
pub trait Cost {
    /// Memory that goes when it is dropped.
    fn memory_bytes(&self) -> usize;
}

/// Who decides what goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyKind {
    /// Scan-resistant, and the cheapest: the default.
    #[default]
    S3Fifo,
    /// Least recently used.
    Lru,
    /// Least frequently used, as W-TinyLFU.
    Lfu,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Entries there are.
    pub entries: usize,
    /// What they take.
    pub bytes: usize,
    /// Rows that were asked for and found, and not found.
    pub rows: Asked,
    /// Chunks.
    pub chunks: Asked,
    /// Values.
    pub values: Asked,
    /// Entries that went to make room.
    pub evicted: u64,
}

/// How often something was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// It was there.
    pub hits: u64,
    /// It was not.
    pub misses: u64,
}

impl CacheStats {
    fn asked_mut(&mut self, key: &CacheKey<'_>) -> &mut Asked {
        match key {
            CacheKey::Row(_) => &mut self.rows,
            CacheKey::Chunk(..) => &mut self.chunks,
            CacheKey::Value(_) => &mut self.values,
        }
    }
}

/// Decides which entry goes. Told of all that happens to the slots it has.
pub(crate) trait Policy {
    /// An entry was put into `slot`. `false`: there is no memory to keep it in mind.
    fn inserted(&mut self, slot: u32, hash: u64, cost: u32) -> bool;
    /// The entry was used.
    fn touched(&mut self, slot: u32);
    /// The entry is gone, for another reason than being the victim.
    fn removed(&mut self, slot: u32);
    /// Which entry is to go; the policy has forgotten it.
    fn victim(&mut self) -> Option<u32>;
    /// The entry of `from` is in `to` now, a lower one that has none.
    fn moved(&mut self, from: u32, to: u32);
    /// No entry is in `slots` or behind: what is kept in mind of them can be given back.
    fn shrink(&mut self, slots: u32);
}

/// The cache.
pub struct Cache<E> {
    shards: Vec<HashTable<u32>>,
    hasher: FixedState,
    /// Without gaps.
    slots: Chunked<Used<E>>,
    bytes_max: usize,
    /// Who is to decide, which is who does as soon as no change is under way.
    wanted: PolicyKind,
    kind: PolicyKind,
    policy: Box<dyn Policy>,
    /// Changes with each change of the policy.
    turn: bool,
    /// The former policy, while it has entries.
    former: Option<Box<dyn Policy>>,
    hidden: Hidden,
    /// Tables of which chunks are to be removed, and slots that were not looked at for that.
    gone: Vec<ObjectId>,
    unlooked: u32,
    stats: CacheStats,
}

/// What is looked at to find an entry is in one line of a processor's cache, key included if it is not long.
#[repr(C, align(64))]
struct Used<E> {
    key: OwnedKey,
    hash: u64,
    /// Of a row: how many range deletes there were when it was last known not to be hidden.
    seen: u64,
    cost: u32,
    /// Which policy has it: the one in force, or the former one.
    policy: bool,
    entry: E,
}

enum OwnedKey {
    Row(SmallVec<[u8; KEY_BYTES_INLINE]>),
    Chunk(ObjectId, u64),
    Value(u64),
}

/// From where to where, not included.
type Bounds = (Box<[u8]>, Box<[u8]>);

/// The newest range deletes.
#[derive(Default)]
struct Hidden {
    ranges: VecDeque<Bounds>,
    bytes: usize,
    /// How many there were before those.
    before: u64,
}

impl<E: Cost> Cache<E> {
    /// Fails to compile if an entry takes more than is counted.
    const IS_COUNTED: () = assert!(size_of::<Used<E>>() + LISTED_BYTES <= ENTRY_BYTES);

    /// An empty cache. `hash_seed` should be nobody's to guess.
    pub fn new(kind: PolicyKind, bytes_max: usize, hash_seed: u64) -> Self {
        let () = Self::IS_COUNTED;
        Self {
            shards: Vec::new(),
            hasher: FixedState::with_seed(hash_seed),
            slots: Chunked::default(),
            bytes_max,
            wanted: kind,
            kind,
            policy: new_policy(kind),
            turn: false,
            former: None,
            hidden: Hidden::default(),
            gone: Vec::new(),
            unlooked: 0,
            stats: CacheStats::default(),
        }
    }

    /// The entry of `key`, which is used by that.
    pub fn get(&mut self, key: &CacheKey<'_>) -> Option<&E> {
        self.get_at(key, &Hint::default())
    }

    /// The same, looked for where `hint` says first.
    pub fn get_at(&mut self, key: &CacheKey<'_>, hint: &Hint) -> Option<&E> {
        self.take_over(MOVED_PER_STEP);
        let slot = self.find_shown(key, hint);
        let asked = self.stats.asked_mut(key);
        if slot.is_some() {
            asked.hits += 1;
        } else {
            asked.misses += 1;
        }
        self.used(slot?)
    }

    /// The same, of who could as well ask for something else: what is not there, or not as `wanted`, is no miss.
    pub fn get_if(&mut self, key: &CacheKey<'_>, wanted: impl FnOnce(&E) -> bool) -> Option<&E> {
        self.take_over(MOVED_PER_STEP);
        let slot = self.find_shown(key, &Hint::default())?;
        if !self.slots.get(slot).is_some_and(|used| wanted(&used.entry)) {
            return None;
        }
        self.stats.asked_mut(key).hits += 1;
        self.used(slot)
    }

    /// Looks for entries that will be asked for one after the other, and at each that is there: it is in a processor's cache then, and the memory of all of them was waited
    /// for at once. They are not used by that.
    pub fn look_ahead<'k>(
        &self,
        keys: impl Iterator<Item = CacheKey<'k>>,
        look: impl Fn(&E) -> u8,
    ) {
        // Each pass needs nothing but what the one before has found, so that one key does not wait for another.
        let mut found = SmallVec::<[(u64, u32); LOOKED_AHEAD]>::new();
        found.extend(keys.filter_map(|key| {
            let hash = self.hasher.hash_one(key);
            let table = self.shards.get(shard(hash))?;
            // Nearly always it is the first one.
            Some((hash, *table.find(hash, |_| true)?))
        }));
        for (hash, slot) in found {
            let used = self.slots.get(slot);
            if let Some(used) = used.filter(|used| used.hash == hash) {
                core::hint::black_box(look(&used.entry));
            }
        }
    }

    /// The entry of `key`, without using it.
    pub fn peek(&self, key: &CacheKey<'_>) -> Option<&E> {
        let slot = self.find(key)?;
        let used = self.slots.get(slot)?;
        (!self.is_hidden(slot)).then_some(&used.entry)
    }

    /// Puts `entry` in, in the place of what was there. A row must say what is there at the newest state.
    ///
    /// What costs more than the cache may take, or for what there is no memory, is not taken.
    pub fn insert(&mut self, key: &CacheKey<'_>, entry: E) {
        self.take_over(MOVED_PER_STEP);
        self.remove(key);
        let key_bytes = match key {
            CacheKey::Row(key) if key.len() > KEY_BYTES_INLINE => key.len(),
            _ => 0,
        };
        let cost = ENTRY_BYTES + key_bytes + entry.memory_bytes();
        let Ok(cost_u32) = u32::try_from(cost) else {
            return;
        };
        if cost > self.bytes_max || !self.make_room(self.bytes_max - cost, VICTIMS_MAX) {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let used = Used {
            key: OwnedKey::from(key),
            hash,
            cost: cost_u32,
            policy: self.turn,
            seen: self.hidden.count(),
            entry,
        };
        let Ok(slot) = self.slots.push(used) else {
            return;
        };
        self.stats.bytes += cost;
        self.stats.entries += 1;
        if !self.list(hash, slot) || !self.policy.inserted(slot, hash, cost_u32) {
            self.discard(slot);
        }
    }

    /// The same with what is known to be used again, which is not to go as what nobody has asked for.
    pub fn insert_used(&mut self, key: &CacheKey<'_>, entry: E) {
        self.insert(key, entry);
        if let Some(slot) = self.find(key) {
            self.touch(slot);
        }
    }

    /// Removes the entry of `key`, if it is there.
    pub fn remove(&mut self, key: &CacheKey<'_>) {
        let Some(slot) = self.find(key) else {
            return;
        };
        if let Some(policy) = self.policy_of(slot) {
            policy.removed(slot);
        }
        self.discard(slot);
    }

    /// Nobody asks for chunks of this table any more: they are removed by and by, before others have to go for them. At most 1,024 tables are kept in mind; chunks of
    /// others go when they are the oldest.
    pub fn forget_table(&mut self, table: ObjectId) {
        if self.gone.len() < GONE_MAX && self.gone.try_reserve(1).is_ok() {
            let at = self.gone.partition_point(|gone| *gone < table);
            self.gone.insert(at, table);
            // From the end: what takes the place of one that is removed was looked at.
            self.unlooked = self.slots.len();
        }
    }

    /// Looks at `entries` for chunks of tables that are gone: whether there are more to be looked at.
    pub fn forget(&mut self, entries: usize) -> bool {
        for _ in 0..entries {
            let Some(slot) = self.unlooked.min(self.slots.len()).checked_sub(1) else {
                self.gone = Vec::new();
                return false;
            };
            self.unlooked = slot;
            let key = self.slots.get(slot).map(|used| &used.key);
            if let Some(&OwnedKey::Chunk(table, _)) = key
                && self.gone.binary_search(&table).is_ok()
            {
                if let Some(policy) = self.policy_of(slot) {
                    policy.removed(slot);
                }
                self.discard(slot);
            }
        }
        true
    }

    /// Rows of all keys from `start` to `end`, not included, no longer say what is there.
    pub fn hide_rows(&mut self, start: &[u8], end: &[u8]) {
        self.hidden.add(start, end);
    }

    /// No row says what is there any more.
    pub fn forget_rows(&mut self) {
        self.hidden.forget();
    }

    /// What it may take from now on. Evicts `entries` at most: whether there is more to evict.
    pub fn resize(&mut self, bytes_max: usize, entries: usize) -> bool {
        self.bytes_max = bytes_max;
        !self.make_room(bytes_max, entries)
    }

    /// Has `kind` decide, as soon as the last change is through. All entries stay: they are taken over with each operation;
    /// [`take_over`](Self::take_over) does nothing else.
    pub fn set_policy(&mut self, kind: PolicyKind) {
        self.wanted = kind;
        self.change_policy();
    }

    /// Who is to decide.
    pub fn policy(&self) -> PolicyKind {
        self.wanted
    }

    /// Whether it takes no more than it may, no entries are to be taken over, and none are of tables that are gone.
    pub fn is_settled(&self) -> bool {
        self.former.is_none() && self.gone.is_empty() && self.stats.bytes <= self.bytes_max
    }

    /// Has the policy in force take over `entries` that its predecessor has: whether that has more.
    pub fn take_over(&mut self, entries: usize) -> bool {
        for _ in 0..entries {
            let Some(former) = &mut self.former else {
                return false;
            };
            // In the order in which they would have gone.
            match former.victim() {
                None => self.end_change(),
                Some(slot) => _ = self.adopt(slot),
            }
        }
        self.former.is_some()
    }

    /// What entries take.
    pub fn bytes(&self) -> usize {
        self.stats.bytes
    }

    /// What became of it.
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    /// Evicts until at most `bytes` are taken, `entries` at most: whether that was enough.
    fn make_room(&mut self, bytes: usize, entries: usize) -> bool {
        for _ in 0..entries {
            if self.stats.bytes <= bytes {
                break;
            }
            let mut victim = None;
            if let Some(former) = &mut self.former {
                victim = former.victim();
                if victim.is_none() {
                    self.end_change();
                }
            }
            let Some(slot) = victim.or_else(|| self.policy.victim()) else {
                break;
            };
            self.discard(slot);
            self.stats.evicted += 1;
        }
        self.stats.bytes <= bytes
    }

    fn change_policy(&mut self) {
        if self.former.is_none() && self.wanted != self.kind {
            self.kind = self.wanted;
            self.former = Some(core::mem::replace(&mut self.policy, new_policy(self.kind)));
            self.turn = !self.turn;
        }
    }

    fn end_change(&mut self) {
        self.former = None;
        self.change_policy();
    }

    /// The entry, which is used by that.
    fn used(&mut self, slot: u32) -> Option<&E> {
        if !self.touch(slot) {
            return None;
        }
        self.slots.get(slot).map(|used| &used.entry)
    }

    /// Notes a use: `false` if there was no memory for it, and the entry is gone.
    fn touch(&mut self, slot: u32) -> bool {
        let (seen, turn) = (self.hidden.count(), self.turn);
        let Some(used) = self.slots.get_mut(slot) else {
            return false;
        };
        if used.seen != seen {
            used.seen = seen;
        }
        if used.policy != turn {
            if let Some(former) = &mut self.former {
                former.removed(slot);
            }
            if !self.adopt(slot) {
                return false;
            }
        }
        self.policy.touched(slot);
        true
    }

    /// Takes over an entry that its former policy has let go of: `false` if there was no memory for it, and it is gone.
    fn adopt(&mut self, slot: u32) -> bool {
        let turn = self.turn;
        let Some(used) = self.slots.get_mut(slot) else {
            return false;
        };
        used.policy = turn;
        let is_adopted = self.policy.inserted(slot, used.hash, used.cost);
        if !is_adopted {
            self.discard(slot);
        }
        is_adopted
    }

    /// Which policy has the entry.
    fn policy_of(&mut self, slot: u32) -> Option<&mut Box<dyn Policy>> {
        if self.slots.get(slot)?.policy == self.turn {
            Some(&mut self.policy)
        } else {
            self.former.as_mut()
        }
    }

    fn is_hidden(&self, slot: u32) -> bool {
        self.slots.get(slot).is_some_and(|used| match &used.key {
            OwnedKey::Row(key) => self.hidden.hides(key, used.seen),
            OwnedKey::Chunk(..) | OwnedKey::Value(_) => false,
        })
    }

    /// Where the entry of `key` is. A row that a range delete hides goes.
    fn find_shown(&mut self, key: &CacheKey<'_>, hint: &Hint) -> Option<u32> {
        let hinted = hint.0.get();
        let is_there = |used: &Used<E>| used.key.get() == *key;
        let slot = if self.slots.get(hinted).is_some_and(is_there) {
            hinted
        } else {
            self.find(key)?
        };
        hint.0.set(slot);
        if self.is_hidden(slot) {
            self.remove(key);
            return None;
        }
        Some(slot)
    }

    fn find(&self, key: &CacheKey<'_>) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let is_key = |slot: &u32| {
            let used = self.slots.get(*slot);
            used.is_some_and(|used| used.hash == hash && used.key.get() == *key)
        };
        self.shards.get(shard(hash))?.find(hash, is_key).copied()
    }

    /// Drops an entry that no policy has any more. The last one takes its place.
    fn discard(&mut self, slot: u32) {
        let hash = self.slots.get(slot).map(|used| used.hash);
        self.unlist(hash.unwrap_or_default(), slot);
        let Some(gone) = self.slots.swap_remove(slot) else {
            return;
        };
        self.stats.bytes -= gone.cost as usize;
        self.stats.entries -= 1;
        let last = self.slots.len();
        if let Some(hash) = self.slots.get(slot).map(|used| used.hash) {
            let table = self.shards.get_mut(shard(hash));
            if let Some(listed) = table.and_then(|table| table.find_mut(hash, |at| *at == last)) {
                *listed = slot;
            }
            if let Some(policy) = self.policy_of(slot) {
                policy.moved(last, slot);
            }
        }
        self.policy.shrink(last);
        if let Some(former) = &mut self.former {
            former.shrink(last);
        }
    }

    /// Puts `slot` into the table.
    fn list(&mut self, hash: u64, slot: u32) -> bool {
        if self.shards.is_empty() {
            if self.shards.try_reserve_exact(SHARDS).is_err() {
                return false;
            }
            self.shards.resize_with(SHARDS, HashTable::new);
        }
        let slots = &self.slots;
        let hash_of = |slot: &u32| slots.get(*slot).map_or(0, |used| used.hash);
        let Some(table) = self.shards.get_mut(shard(hash)) else {
            return false;
        };
        let room = table.try_reserve(1, hash_of).is_ok();
        if room {
            table.insert_unique(hash, slot, hash_of);
        }
        room
    }

    fn unlist(&mut self, hash: u64, slot: u32) {
        let Some(table) = self.shards.get_mut(shard(hash)) else {
            return;
        };
        if let Ok(listed) = table.find_entry(hash, |listed| *listed == slot) {
            listed.remove();
        }
        if table.len() * 8 < table.capacity() {
            let slots = &self.slots;
            let hash_of = |slot: &u32| slots.get(*slot).map_or(0, |used| used.hash);
            table.shrink_to(table.len() * 2, hash_of);
        }
    }
}

fn new_policy(kind: PolicyKind) -> Box<dyn Policy> {
    match kind {
        PolicyKind::S3Fifo => Box::new(S3Fifo::default()),
        PolicyKind::Lru => Box::new(Lru::default()),
        PolicyKind::Lfu => Box::new(Lfu::default()),
    }
}

/// Bits that the tables themselves hardly use.
fn shard(hash: u64) -> usize {
    usize::try_from(hash >> 40).unwrap_or(0) % SHARDS
}

impl OwnedKey {
    fn from(key: &CacheKey<'_>) -> Self {
        match *key {
            CacheKey::Row(key) => Self::Row(key.into()),
            CacheKey::Chunk(object, offset) => Self::Chunk(object, offset),
            CacheKey::Value(slot) => Self::Value(slot),
        }
    }

    fn get(&self) -> CacheKey<'_> {
        match self {
            Self::Row(key) => CacheKey::Row(key),
            Self::Chunk(object, offset) => CacheKey::Chunk(*object, *offset),
            Self::Value(slot) => CacheKey::Value(*slot),
        }
    }
}

impl Hidden {
    /// How many range deletes there were.
    fn count(&self) -> u64 {
        self.before + self.ranges.len() as u64
    }

    fn add(&mut self, start: &[u8], end: &[u8]) {
        self.bytes += start.len() + end.len();
        self.ranges.push_back((start.into(), end.into()));
        while self.ranges.len() > HIDDEN_MAX || self.bytes > HIDDEN_BYTES_MAX {
            let Some((start, end)) = self.ranges.pop_front() else {
                break;
            };
            self.bytes -= start.len() + end.len();
            self.before += 1;
        }
    }

    fn forget(&mut self) {
        self.before = self.count() + 1;
        self.bytes = 0;
        self.ranges.clear();
    }

    /// Whether one behind the first `seen` covers `key`, or may have.
    fn hides(&self, key: &[u8], seen: u64) -> bool {
        let Some(known) = seen.checked_sub(self.before) else {
            return true;
        };
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        let covers = |(start, end): &Bounds| **start <= *key && *key < **end;
        self.ranges.iter().skip(known).any(covers)
    }
}
