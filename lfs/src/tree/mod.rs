//! The copy-on-write B+tree that holds every item (SPEC.md, "Trees").
//!
//! Nodes on disk are never overwritten. A change makes the nodes on its path *dirty*: they live in memory
//! until a checkpoint writes them to new places, children before parents. So the state of the last
//! checkpoint stays whole on disk while the next one is written.
//!
//! - `item`: what is under a key; `key`: keys, items, ranges; `node`, `split`: a node in memory; `codec`: a node on disk;
//! - `cache`: unchanged nodes in memory, shared by trees;
//! - this file: reading; `change`: putting and removing; `frozen`: checkpoints; `walk`: every node once.
//!
//! Everything is plain synchronous code. What needs a node that is not in memory returns
//! [`Fault::Node`] and has changed nothing: load the block, give it to [`NodeCache::insert`], hold what
//! it returns, and begin again.
//!
//! A step that changes a tree first calls [`Tree::prepare`] for every key it is going to put or remove.
//! When that has gone well, all its puts and removals go well too, in any order, for nothing is
//! evicted and no key's path leaves memory in between.
//!
//! Not here: waiting, reading and writing blocks, choosing their places, counting what segments hold.

mod cache;
mod change;
mod codec;
mod frozen;
mod item;
mod key;
mod node;
mod split;
#[cfg(test)]
mod tests;
mod walk;

use alloc::rc::Rc;
use alloc::vec::Vec;
#[cfg(feature = "sim")]
use core::cell::Cell;
use core::ops::ControlFlow;
use core::ops::RangeInclusive;

pub use cache::NODE_CACHE_BYTES_MIN;
pub(crate) use cache::{Held, Missing, NodeCache, NodeHandle, SharedCache};
pub(crate) use change::{MoreNodes, Put, Touched};
pub(crate) use codec::{NodeHeader, inspect};
pub(crate) use frozen::Frozen;
#[cfg(test)]
use frozen::NoSpace;
pub(crate) use item::INLINE_BYTES_MAX;
pub use item::{ITEM_BYTES_MAX, ItemKey, ItemKind};
pub(crate) use key::{Damaged, Defect, Item, ItemRef, Key, KeyRange, TreeKind};
pub(crate) use node::Node;
pub(crate) use walk::{Place, Step, Visited, Walk, items_of};

#[cfg(test)]
use crate::BLOCK_SIZE;
use crate::{BlockIndex, Fault, NodePointer};
use frozen::Settling;
use key::Expected;
use node::Child;

/// Nodes in memory that a search for [missing](Tree::note_missing) ones looks at.
const LOOKS_MAX: usize = 256;

/// The highest level a node may be at. A tree that high holds more than any disk.
pub(crate) const LEVEL_MAX: u8 = 15;

/// Where a tree is on disk: what a checkpoint says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    /// The root node.
    pub pointer: NodePointer,
    /// Its level: 0 when it is a leaf.
    pub level: u8,
}

/// A node on the way down.
#[derive(Debug)]
pub(crate) struct Descended {
    /// Where it is on the disk, if it did not change since.
    pub place: Option<Place>,
    /// The keys it may hold.
    pub range: KeyRange,
    pub node: Rc<Node>,
}

/// How far a look at some of a tree's items came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// To the last item.
    All,
    /// To this item, and there may be more.
    UpTo(Key),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Option<Child>,
    /// The root's level; 0 when there is none.
    level: u8,
    /// Keys of leaves that have become empty and are to be taken out before the next step.
    emptied: Vec<Key>,
    /// The checkpoint whose nodes are becoming clean.
    settling: Option<Settling>,
    /// Number of the latest freeze.
    freezes: u64,
    ledger: Ledger,
}

/// What changes of a tree need besides its nodes.
#[derive(Debug)]
struct Ledger {
    kind: TreeKind,
    cache: SharedCache,
    dirty_nodes: usize,
    /// Blocks of the newest checkpoint that the tree no longer uses. The first `frozen` of them were
    /// freed before the latest freeze.
    freed: Vec<BlockIndex>,
    frozen: usize,
    /// Nodes met and items handed out so far.
    #[cfg(feature = "sim")]
    looks: Cell<u64>,
}

impl Tree {
    /// A tree without items.
    pub(crate) fn empty(kind: TreeKind, cache: SharedCache) -> Self {
        Self {
            root: None,
            level: 0,
            emptied: Vec::new(),
            settling: None,
            freezes: 0,
            ledger: Ledger {
                kind,
                cache,
                dirty_nodes: 0,
                freed: Vec::new(),
                frozen: 0,
                #[cfg(feature = "sim")]
                looks: Cell::new(0),
            },
        }
    }

    /// The tree that a checkpoint wrote. Reads nothing yet.
    ///
    /// # Errors
    /// When no tree is as high as `root` says.
    pub(crate) fn open(
        kind: TreeKind,
        root: Option<TreeRoot>,
        cache: SharedCache,
    ) -> Result<Self, Damaged> {
        let mut tree = Self::empty(kind, cache);
        if let Some(root) = root {
            if root.level > LEVEL_MAX {
                return Err(Damaged {
                    block: root.pointer.block,
                    defect: Defect::OtherLevel,
                });
            }
            tree.root = Some(Child::Stored(root.pointer));
            tree.level = root.level;
        }
        Ok(tree)
    }

    /// The item under `key`.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Item>, Fault> {
        let Some(leaf) = self.leaf_of(key)? else {
            return Ok(None);
        };
        let item = leaf.search(key).ok().and_then(|index| leaf.item(index));
        Ok(item.map(|(_, item)| item.to_item()))
    }

    /// The first item whose key is `key` or above it.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn first_from(&self, key: &Key) -> Result<Option<(Key, Item)>, Fault> {
        let mut found = None;
        self.visit_from(key, &mut |key, item| {
            found = Some((key, item.to_item()));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// The last item whose key is below `key`.
    ///
    /// # Errors
    /// What must be loaded first.
    pub(crate) fn last_before(&self, key: &Key) -> Result<Option<(Key, Item)>, Fault> {
        self.last(key, false)
    }

    /// The last item whose key is `key` or below it.
    ///
    /// # Errors
    /// What must be loaded first.
    #[cfg(test)]
    pub(crate) fn last_up_to(&self, key: &Key) -> Result<Option<(Key, Item)>, Fault> {
        self.last(key, true)
    }

    /// Calls `visit` for up to `limit` items from `key` on, in the order of keys; fewer where what follows is not in memory.
    ///
    /// # Errors
    /// What must be loaded before the first of them.
    pub(crate) fn some_from(
        &self,
        key: &Key,
        limit: usize,
        mut visit: impl FnMut(Key, ItemRef<'_>),
    ) -> Result<Part, Fault> {
        let mut last = None;
        let mut left = limit.max(1);
        let visited = self.visit_from(key, &mut |key, item| {
            visit(key, item);
            last = Some(key);
            left -= 1;
            if left == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match (visited, last) {
            (Err(fault), None) => Err(fault),
            (Ok(()), _) if left > 0 => Ok(Part::All),
            (Ok(()), None) => Ok(Part::All),
            (_, Some(last)) => Ok(Part::UpTo(last)),
        }
    }

    /// Calls `visit` for every item in `range`, in the order of keys, until it breaks.
    ///
    /// # Errors
    /// What must be loaded first. `visit` may have been called for items before that.
    pub(crate) fn for_each_in(
        &self,
        range: &RangeInclusive<Key>,
        mut visit: impl FnMut(Key, ItemRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        self.visit_from(range.start(), &mut |key, item| {
            if key > *range.end() {
                return ControlFlow::Break(());
            }
            visit(key, item)
        })
    }

    /// Nodes that the next checkpoint has to write, at most. Each takes up to some three blocks of memory.
    pub(crate) fn dirty_nodes(&self) -> usize {
        self.ledger.dirty_nodes
    }

    /// Bytes that the next checkpoint has to write, at most.
    #[cfg(test)]
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.ledger.dirty_nodes * BLOCK_SIZE
    }

    /// Blocks of the newest checkpoint that the tree no longer uses: segments count them until the next one.
    pub(crate) fn freed_blocks(&self) -> &[BlockIndex] {
        &self.ledger.freed
    }

    /// Whether all nodes of the newest checkpoint are clean, or changed again.
    pub(crate) fn is_settled(&self) -> bool {
        self.settling.is_none()
    }

    /// Those of them that were not yet free when the checkpoint began that is being made, if one is.
    pub(crate) fn freed_since_freeze(&self) -> usize {
        self.ledger.freed.len() - self.ledger.frozen
    }

    /// The nodes from the root to the leaf that `key` leads to, as far as they are in memory, and the first one
    /// that is not.
    pub(crate) fn descend(&self, key: &Key) -> (Vec<Descended>, Option<Place>) {
        let mut path = Vec::new();
        let mut next = self.root.clone();
        let mut expected = self.ledger.root_place(self.level);
        while let Some(child) = next {
            let pointer = match &child {
                Child::Stored(pointer) => Some(*pointer),
                Child::Dirty(_) => None,
            };
            let place = pointer.map(|pointer| Place {
                pointer,
                level: expected.level,
                range: expected.range,
            });
            let Ok(node) = self.ledger.load(&child, &expected) else {
                return (path, place);
            };
            let range = expected.range;
            if node.level() > 0 {
                let index = node.route(key);
                expected = Ledger::below(&node, index, &expected);
                next = node.child(index).cloned();
            } else {
                next = None;
            }
            path.push(Descended { place, range, node });
        }
        (path, None)
    }

    /// Nodes met and items handed out so far: what reading has cost.
    #[cfg(feature = "sim")]
    pub(crate) fn looks(&self) -> u64 {
        self.ledger.looks.get()
    }

    /// Calls `visit` with the block of every node; with none for those that changed since they were written.
    ///
    /// # Errors
    /// What must be loaded first.
    #[cfg(feature = "sim")]
    pub(crate) fn for_each_node(
        &self,
        visit: &mut dyn FnMut(Option<BlockIndex>),
    ) -> Result<(), Fault> {
        let place = self.ledger.root_place(self.level);
        let root = self.root.as_ref();
        root.map_or(Ok(()), |root| {
            self.ledger.for_each_node(root, &place, visit)
        })
    }

    /// Whether there is no item.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.root {
            None => true,
            Some(Child::Dirty(node)) => node.is_empty(),
            Some(Child::Stored(_)) => false,
        }
    }

    fn leaf_of(&self, key: &Key) -> Result<Option<Rc<Node>>, Fault> {
        let found = self.go_down(key, |_| ())?;
        Ok(found.map(|(_, leaf)| leaf))
    }

    /// Goes down to the leaf that `key` leads to: the first key that belongs there, and the leaf. `visit` is called with each node on
    /// the way that is on the disk as it is.
    fn go_down(
        &self,
        key: &Key,
        mut visit: impl FnMut(NodePointer),
    ) -> Result<Option<(Key, Rc<Node>)>, Fault> {
        let mut visit = |child: &Child| {
            if let Child::Stored(pointer) = child {
                visit(*pointer);
            }
        };
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let mut place = self.ledger.root_place(self.level);
        visit(root);
        let mut node = self.ledger.load(root, &place)?;
        while node.level() > 0 {
            let index = node.route(key);
            place = Ledger::below(&node, index, &place);
            let Some(child) = node.child(index) else {
                return Ok(None);
            };
            visit(child);
            node = self.ledger.load(child, &place)?;
        }
        Ok(Some((place.range.low, node)))
    }

    /// Notes nodes that those would have to load who go through the items of `range`, as far as that can be told from
    /// nodes in memory.
    pub(crate) fn note_missing(&self, range: &RangeInclusive<Key>, missing: &mut Missing) {
        if let Some(root) = &self.root {
            let place = self.ledger.root_place(self.level);
            let mut looks = LOOKS_MAX;
            self.ledger
                .note_missing(root, &place, range, missing, &mut looks);
        }
    }

    fn last(&self, key: &Key, inclusive: bool) -> Result<Option<(Key, Item)>, Fault> {
        let Some(root) = &self.root else {
            return Ok(None);
        };
        let place = self.ledger.root_place(self.level);
        self.ledger.last(root, &place, key, inclusive)
    }

    fn visit_from(&self, key: &Key, visit: &mut Visitor<'_>) -> Result<(), Fault> {
        if let Some(root) = &self.root {
            let place = self.ledger.root_place(self.level);
            let _ended = self.ledger.visit_from(root, &place, key, visit)?;
        }
        Ok(())
    }
}

type Visitor<'v> = dyn FnMut(Key, ItemRef<'_>) -> ControlFlow<()> + 'v;

impl Ledger {
    fn root_place(&self, level: u8) -> Expected {
        Expected {
            tree: self.kind,
            level,
            range: KeyRange::ALL,
        }
    }

    /// The place of child `index` of `node`, which is at `place`.
    fn below(node: &Node, index: usize, place: &Expected) -> Expected {
        Expected {
            tree: place.tree,
            level: place.level.saturating_sub(1),
            range: node.child_range(index, &place.range),
        }
    }

    /// Counts a node that was met, or an item.
    #[inline]
    #[cfg_attr(
        not(feature = "sim"),
        expect(clippy::unused_self, reason = "only simulations count")
    )]
    fn look(&self) {
        #[cfg(feature = "sim")]
        self.looks.set(self.looks.get() + 1);
    }

    fn load(&self, child: &Child, place: &Expected) -> Result<Rc<Node>, Fault> {
        self.look();
        match child {
            Child::Dirty(node) => Ok(Rc::clone(node)),
            Child::Stored(pointer) => {
                let found = self.cache.borrow_mut().find(*pointer, place);
                found.ok_or(Fault::Node(*pointer))
            }
        }
    }

    fn note_missing(
        &self,
        child: &Child,
        place: &Expected,
        range: &RangeInclusive<Key>,
        missing: &mut Missing,
        looks: &mut usize,
    ) {
        if missing.is_full() || *looks == 0 {
            return;
        }
        *looks -= 1;
        let node = match self.load(child, place) {
            Ok(node) => node,
            Err(Fault::Node(pointer)) => return missing.note(pointer),
            Err(_) => return,
        };
        let within = node.route(range.start())..=node.route(range.end());
        for (index, child) in node.children().iter().enumerate() {
            if within.contains(&index) {
                let place = Self::below(&node, index, place);
                self.note_missing(child, &place, range, missing, looks);
            }
        }
    }

    #[cfg(feature = "sim")]
    fn for_each_node(
        &self,
        child: &Child,
        place: &Expected,
        visit: &mut dyn FnMut(Option<BlockIndex>),
    ) -> Result<(), Fault> {
        visit(match child {
            Child::Dirty(_) => None,
            Child::Stored(pointer) => Some(pointer.block),
        });
        let node = self.load(child, place)?;
        for (index, child) in node.children().iter().enumerate() {
            let place = Self::below(&node, index, place);
            self.for_each_node(child, &place, visit)?;
        }
        Ok(())
    }

    fn visit_from(
        &self,
        child: &Child,
        place: &Expected,
        key: &Key,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>, Fault> {
        let node = self.load(child, place)?;
        if node.level() == 0 {
            for index in node.lower_bound(key)..node.len() {
                self.look();
                if let Some((key, item)) = node.item(index)
                    && visit(key, item).is_break()
                {
                    return Ok(ControlFlow::Break(()));
                }
            }
            return Ok(ControlFlow::Continue(()));
        }
        for (index, child) in node.children().iter().enumerate().skip(node.route(key)) {
            let place = Self::below(&node, index, place);
            if self.visit_from(child, &place, key, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn last(
        &self,
        child: &Child,
        place: &Expected,
        key: &Key,
        inclusive: bool,
    ) -> Result<Option<(Key, Item)>, Fault> {
        let node = self.load(child, place)?;
        if node.level() == 0 {
            let above = match node.search(key) {
                Ok(index) if inclusive => index + 1,
                Ok(index) | Err(index) => index,
            };
            let item = above.checked_sub(1).and_then(|index| node.item(index));
            return Ok(item.map(|(key, item)| (key, item.to_item())));
        }
        // What is below an entry with this very key is at or above it.
        let latest = if inclusive {
            node.route(key)
        } else {
            node.lower_bound(key).saturating_sub(1)
        };
        for (index, child) in node.children().iter().enumerate().take(latest + 1).rev() {
            let place = Self::below(&node, index, place);
            if let Some(found) = self.last(child, &place, key, inclusive)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
