//! A view in memory, for tests of what stands on views.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::Random;
use crate::{
    BLOCK_SIZE, BlockIndex, Fault, FileError, ITEM_BYTES_MAX, ItemKey, Namespace, NodePointer,
    ROOT, SomeItems, Sought, View,
};

const BLOCK_BYTES: u64 = BLOCK_SIZE as u64;

type Block = Rc<[u8; BLOCK_SIZE]>;

/// Items in a map and data in blocks. Cheap to clone; that is how a transaction works on it.
///
/// It holds callers to the contract of [`View`], and panics when they break it: values are not too large,
/// reads end within the size, and what lies behind the size that a caller names has been freed.
#[derive(Clone)]
pub struct MemoryView {
    items: BTreeMap<ItemKey, Vec<u8>>,
    data: BTreeMap<u64, BTreeMap<u64, Block>>,
    next_object: u64,
    now_ns: i64,
    hash: fn(&[u8]) -> u64,
    faults: Option<(Random, u64)>,
    accesses: u64,
    blocks_freed: u64,
    damage: bool,
}

impl MemoryView {
    /// An empty one, whose names are hashed with `hash`.
    pub fn new(hash: fn(&[u8]) -> u64) -> Self {
        Self {
            items: BTreeMap::new(),
            data: BTreeMap::new(),
            next_object: ROOT.0 + 1,
            now_ns: 0,
            hash,
            faults: None,
            accesses: 0,
            blocks_freed: 0,
            damage: false,
        }
    }

    /// A hash under which names hardly ever collide (FNV-1a).
    pub fn spread(name: &[u8]) -> u64 {
        name.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        })
    }

    /// A hash under which all names of the same length collide.
    pub fn colliding(name: &[u8]) -> u64 {
        (name.len() as u64) << 40
    }

    /// Sets the time.
    pub fn set_now_ns(&mut self, now_ns: i64) {
        self.now_ns = now_ns;
    }

    /// From now on about one access in `one_in` faults.
    pub fn set_faults(&mut self, seed: u64, one_in: u64) {
        self.faults = Some((Random::new(seed), one_in));
    }

    /// From now on the items may be wrong, and so may what callers say because of it.
    pub fn allow_damage(&mut self) {
        self.damage = true;
    }

    /// No more faults.
    pub fn clear_faults(&mut self) {
        self.faults = None;
    }

    /// How often it was asked for something.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// How many blocks of data were freed, or changed to free a part.
    pub fn blocks_freed(&self) -> u64 {
        self.blocks_freed
    }

    /// Every item.
    pub fn items(&self) -> &BTreeMap<ItemKey, Vec<u8>> {
        &self.items
    }

    /// The objects that have data, each with how many bytes of blocks.
    pub fn objects(&self) -> impl Iterator<Item = (u64, u64)> {
        let bytes = |blocks: &BTreeMap<u64, Block>| blocks.len() as u64 * BLOCK_BYTES;
        self.data
            .iter()
            .map(move |(&object, blocks)| (object, bytes(blocks)))
    }

    /// Runs one operation as a transaction: again and again while it faults, kept when it succeeds.
    ///
    /// # Errors
    /// What `body` says.
    ///
    /// # Panics
    /// When the operation fails and has changed something all the same.
    pub fn transact<T>(
        &mut self,
        mut body: impl FnMut(&mut Namespace<'_, Self>) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        self.transact_on(|view| body(&mut Namespace::new(view)))
    }

    /// As [`transact`](Self::transact), for bodies that make a namespace themselves.
    ///
    /// # Errors
    /// What `body` says.
    ///
    /// # Panics
    /// As [`transact`](Self::transact).
    pub fn transact_on<T>(
        &mut self,
        mut body: impl FnMut(&mut Self) -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        loop {
            let mut copy = self.clone();
            let result = body(&mut copy);
            self.faults.clone_from(&copy.faults);
            match result {
                Ok(value) => {
                    *self = copy;
                    return Ok(value);
                }
                Err(FileError::Fault(_)) => {}
                Err(error) => {
                    let same = self.items == copy.items && self.data == copy.data;
                    assert!(same, "failed with {error}, but changed something");
                    return Err(error);
                }
            }
        }
    }

    fn access(&mut self) -> Result<(), FileError> {
        self.accesses += 1;
        let faults = self.faults.as_mut();
        if faults.is_some_and(|(random, one_in)| random.one_in(*one_in)) {
            let pointer = NodePointer {
                block: BlockIndex(0),
                checksum: 0,
            };
            return Err(FileError::Fault(Fault::Node(pointer)));
        }
        Ok(())
    }

    /// Panics unless all that lies behind `size` is free.
    fn check_end(&self, object: u64, size: u64) {
        let Some(blocks) = self.data.get(&object).filter(|_| !self.damage) else {
            return;
        };
        if let Some((&last, block)) = blocks.last_key_value() {
            let start = last * BLOCK_BYTES;
            assert!(start < size, "object {object}: data behind its size");
            let behind = block.iter().zip(start..).skip_while(|&(_, at)| at < size);
            assert!(
                behind.into_iter().all(|(&byte, _)| byte == 0),
                "object {object}: bytes behind its size"
            );
        }
    }

    /// Bytes of blocks that an object has.
    fn room(&self, object: u64) -> i64 {
        let blocks = self.data.get(&object).map_or(0, BTreeMap::len);
        i64::try_from(blocks * BLOCK_SIZE).unwrap_or(i64::MAX)
    }

    /// Calls `each` with the pieces of `from..to` that lie within one block.
    fn pieces(from: u64, to: u64, mut each: impl FnMut(u64, usize, usize)) {
        let mut at = from;
        while at < to {
            let block = at / BLOCK_BYTES;
            let end = to.min((block + 1) * BLOCK_BYTES);
            let start = usize::try_from(at % BLOCK_BYTES).unwrap_or(0);
            let len = usize::try_from(end - at).unwrap_or(0);
            each(block, start, start + len);
            at = end;
        }
    }
}

impl View for MemoryView {
    fn get(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError> {
        self.access()?;
        Ok(self.items.get(&key).cloned())
    }

    fn some(&mut self, from: ItemKey, to: ItemKey, limit: usize) -> Result<SomeItems, FileError> {
        self.access()?;
        assert!((from.object, from.kind) == (to.object, to.kind), "{from:?}");
        let mut items = self.items.range(from..=to);
        let some = items.by_ref().take(limit.max(1));
        let some = some.map(|(&key, value)| (key, value.clone())).collect();
        Ok((some, items.next().map(|(&key, _)| key)))
    }

    fn put(&mut self, key: ItemKey, value: Vec<u8>) {
        assert!(value.len() <= ITEM_BYTES_MAX, "{key:?} is too large");
        self.items.insert(key, value);
    }

    fn remove(&mut self, key: ItemKey) {
        self.items.remove(&key);
    }

    fn new_object(&mut self) -> u64 {
        self.next_object += 1;
        self.next_object - 1
    }

    fn now_ns(&self) -> i64 {
        self.now_ns
    }

    fn hash_name(&self, name: &[u8]) -> u64 {
        (self.hash)(name)
    }

    fn read_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError> {
        self.access()?;
        self.check_end(object, size);
        let end = offset + target.len() as u64;
        assert!(end <= size, "object {object}: read up to {end} of {size}");
        target.fill(0);
        let blocks = self.data.get(&object);
        let mut rest = target;
        Self::pieces(offset, end, |block, start, end| {
            let (part, behind) = core::mem::take(&mut rest).split_at_mut(end - start);
            let found = blocks.and_then(|blocks| blocks.get(&block));
            if let Some(bytes) = found.and_then(|block| block.get(start..end)) {
                part.copy_from_slice(bytes);
            }
            rest = behind;
        });
        Ok(())
    }

    fn write_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<i64, FileError> {
        self.access()?;
        self.check_end(object, size);
        let before = self.room(object);
        let blocks = self.data.entry(object).or_default();
        let mut rest = bytes;
        let end = offset + bytes.len() as u64;
        Self::pieces(offset, end, |block, start, end| {
            let (part, behind) = rest.split_at(end - start);
            let target = blocks
                .entry(block)
                .or_insert_with(|| Rc::new([0; BLOCK_SIZE]));
            if let Some(target) = Rc::make_mut(target).get_mut(start..end) {
                target.copy_from_slice(part);
            }
            rest = behind;
        });
        Ok(self.room(object) - before)
    }

    fn free_data(
        &mut self,
        object: u64,
        size: u64,
        from: u64,
        to: Option<u64>,
    ) -> Result<i64, FileError> {
        self.access()?;
        self.check_end(object, size);
        let before = self.room(object);
        let to = to.unwrap_or(u64::MAX);
        assert!(from <= to, "object {object}: frees {from}..{to}");
        let Some(blocks) = self.data.get_mut(&object) else {
            return Ok(0);
        };
        let range = from / BLOCK_BYTES..=(to - 1).max(from) / BLOCK_BYTES;
        let touched: Vec<u64> = blocks.range(range).map(|(&block, _)| block).collect();
        self.blocks_freed += touched.len() as u64;
        for block in touched {
            let start = block * BLOCK_BYTES;
            if from <= start && start + BLOCK_BYTES <= to {
                blocks.remove(&block);
            } else if let Some(block) = blocks.get_mut(&block) {
                for (byte, at) in Rc::make_mut(block).iter_mut().zip(start..) {
                    if (from..to).contains(&at) {
                        *byte = 0;
                    }
                }
            }
        }
        if blocks.is_empty() {
            self.data.remove(&object);
        }
        Ok(self.room(object) - before)
    }

    fn seek_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        data: bool,
    ) -> Result<Sought, FileError> {
        self.access()?;
        self.check_end(object, size);
        let empty = BTreeMap::new();
        let blocks = self.data.get(&object).unwrap_or(&empty);
        let first = offset / BLOCK_BYTES;
        let found = if data {
            blocks.range(first..).next().map(|(&block, _)| block)
        } else {
            let mut next = first;
            while blocks.contains_key(&next) {
                next += 1;
            }
            Some(next)
        };
        let place = found.map(|block| (block * BLOCK_BYTES).max(offset));
        Ok(match place.filter(|&place| place < size) {
            Some(place) => Sought::At(place),
            None => Sought::Nowhere,
        })
    }
}
