//! Unchanged nodes in memory, bounded in bytes, shared by both trees.
//!
//! A node that somebody else holds too is never evicted: whoever loads nodes for an operation keeps the
//! handles in a [`Held`] until the operation is through. Every run of the operation then finds all that
//! earlier runs loaded, so it ends after as many runs as it needs nodes. Held nodes may exceed the
//! bound; nothing else does for longer than until the next insertions.
//!
//! A pointer does not say what the node must be at the place where it was met. So a lookup that finds
//! nothing, or a node that does not belong there, notes what it wants, and [`NodeCache::insert`] checks.
//! Damage thus shows where the block was read, and the trees only ever meet nodes that fit.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::codec;
use super::key::{Damaged, Expected};
use super::node::Node;
use crate::NodePointer;
use crate::seal::SharedVault;

/// A cache that both trees and the loader use.
pub(crate) type SharedCache = Rc<RefCell<NodeCache>>;

/// What the cache of the nodes of a file system may always take in memory, in bytes: enough for those that lead to 80,000 values or files.
pub const NODE_CACHE_BYTES_MIN: usize = 4 << 20;

/// Wishes noted at most. One that is forgotten is noted again by the next lookup.
const WISHES_MAX: usize = 1024;
/// Nodes evicted at most for one insertion, so that no insertion takes long.
const EVICTIONS_MAX: usize = 8;
/// Nodes looked at for each that is to go.
const LOOKS_PER_EVICTION: usize = 64;

/// A node that stays in memory as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct NodeHandle(
    #[cfg_attr(not(test), expect(dead_code, reason = "it is held, not used"))] Rc<Node>,
);

/// Nodes that are to be loaded together, each once.
#[derive(Debug, Default)]
pub(crate) struct Missing(Vec<NodePointer>);

impl Missing {
    /// Nodes that one look for missing ones finds at most.
    pub(crate) const MAX: usize = 32;

    /// Notes a node, if there is room.
    pub(crate) fn note(&mut self, pointer: NodePointer) {
        if !self.is_full() && !self.0.contains(&pointer) {
            self.0.push(pointer);
        }
    }

    /// Whether no more are noted.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= Self::MAX
    }

    /// In the order in which they were noted.
    pub(crate) fn into_pointers(self) -> Vec<NodePointer> {
        self.0
    }
}

/// The nodes that an operation has loaded. Empty it, or drop it, when the operation is through.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<NodeHandle>);

impl Held {
    /// Keeps a node in memory.
    pub(crate) fn hold(&mut self, node: NodeHandle) {
        self.0.push(node);
    }

    /// Nodes held.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Memory they take.
    #[cfg(test)]
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.iter().map(|held| held.0.memory_bytes()).sum()
    }

    /// Lets go of all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct NodeCache {
    vault: SharedVault,
    bytes_max: usize,
    bytes: usize,
    /// Index into `slots`.
    places: HashMap<NodePointer, usize, FixedState>,
    slots: Vec<Option<Slot>>,
    free_slots: Vec<usize>,
    /// The next slot that the clock looks at.
    hand: usize,
    wishes: HashMap<NodePointer, Expected, FixedState>,
}

#[derive(Debug)]
struct Slot {
    pointer: NodePointer,
    node: Rc<Node>,
    bytes: usize,
    /// Whether it was used since the clock last came by.
    used: bool,
}

impl NodeCache {
    /// An empty cache for nodes under these seals.
    pub(crate) fn new(vault: SharedVault, bytes_max: usize) -> Self {
        Self {
            vault,
            bytes_max,
            bytes: 0,
            places: HashMap::default(),
            slots: Vec::new(),
            free_slots: Vec::new(),
            hand: 0,
            wishes: HashMap::default(),
        }
    }

    /// An empty cache to share.
    pub(crate) fn shared(vault: SharedVault, bytes_max: usize) -> SharedCache {
        Rc::new(RefCell::new(Self::new(vault, bytes_max)))
    }

    /// The seals of the nodes.
    pub(crate) fn vault(&self) -> &SharedVault {
        &self.vault
    }

    /// Memory that the nodes take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Nodes.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Changes the bound. Nodes beyond it go with the next insertions, or with [`shrink`](Self::shrink).
    pub(crate) fn set_memory_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Takes in the block that a [`Fault::Node`](crate::Fault::Node) asked for.
    ///
    /// # Errors
    /// When the block is not the node it should be; then nothing is taken in.
    pub(crate) fn insert(
        &mut self,
        pointer: NodePointer,
        block: &[u8],
    ) -> Result<NodeHandle, Damaged> {
        // What is not the node is still to be, and another copy may be it.
        let expected = self.wishes.get(&pointer).copied();
        let decoded = codec::decode(block, &self.vault, pointer, expected.as_ref());
        let (_, node) = decoded.map_err(|defect| Damaged {
            block: pointer.block,
            defect,
        })?;
        self.wishes.remove(&pointer);
        // Two may have asked for the same node: the first one's is held already.
        if let Some(node) = self.slot(pointer).map(|slot| Rc::clone(&slot.node)) {
            return Ok(NodeHandle(node));
        }
        let node = Rc::new(node);
        self.adopt(pointer, Rc::clone(&node));
        Ok(NodeHandle(node))
    }

    /// Takes in a node that is on the disk by now.
    pub(super) fn adopt(&mut self, pointer: NodePointer, node: Rc<Node>) {
        let bytes = node.memory_bytes() + size_of::<Slot>() + size_of::<(NodePointer, usize)>();
        let slot = Slot {
            pointer,
            node,
            bytes,
            used: false,
        };
        self.remove(pointer);
        self.bytes += bytes;
        let index = self.free_slots.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(index) {
            Some(place) => *place = Some(slot),
            None => self.slots.push(Some(slot)),
        }
        self.places.insert(pointer, index);
        self.shrink(EVICTIONS_MAX);
    }

    /// The node at `pointer`, if it is here and what it must be.
    pub(super) fn find(&mut self, pointer: NodePointer, expected: &Expected) -> Option<Rc<Node>> {
        if let Some(slot) = self.slot(pointer)
            && slot.node.tree() == expected.tree
            && slot.node.level() == expected.level
            && slot.node.is_within(&expected.range)
        {
            slot.used = true;
            return Some(Rc::clone(&slot.node));
        }
        if self.wishes.len() >= WISHES_MAX {
            self.wishes.clear();
        }
        self.wishes.insert(pointer, *expected);
        None
    }

    /// Whether the node at `pointer` is here.
    pub(crate) fn contains(&self, pointer: NodePointer) -> bool {
        self.places.contains_key(&pointer)
    }

    /// Forgets the node at `pointer`.
    pub(super) fn remove(&mut self, pointer: NodePointer) {
        if let Some(index) = self.places.remove(&pointer)
            && let Some(slot) = self.slots.get_mut(index).and_then(Option::take)
        {
            self.bytes -= slot.bytes;
            self.free_slots.push(index);
        }
    }

    /// Evicts at most `nodes_max` nodes as long as there are too many; returns whether there still are.
    pub(crate) fn shrink(&mut self, nodes_max: usize) -> bool {
        let mut evicted = 0;
        // At most once around to take the marks away, and once more to find nodes without.
        for _ in 0..(2 * self.slots.len()).min(LOOKS_PER_EVICTION.saturating_mul(nodes_max)) {
            if self.bytes <= self.bytes_max || evicted == nodes_max {
                break;
            }
            let index = self.hand;
            self.hand = (index + 1) % self.slots.len().max(1);
            let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            if Rc::strong_count(&slot.node) > 1 {
                continue;
            }
            if slot.used {
                slot.used = false;
                continue;
            }
            let pointer = slot.pointer;
            self.remove(pointer);
            evicted += 1;
        }
        self.bytes > self.bytes_max
    }

    fn slot(&mut self, pointer: NodePointer) -> Option<&mut Slot> {
        let index = *self.places.get(&pointer)?;
        self.slots.get_mut(index)?.as_mut()
    }
}
