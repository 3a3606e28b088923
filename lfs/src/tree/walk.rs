//! Every node of a tree on disk, once: for checks, scrubbing and dumps.
//!
//! The caller reads the blocks, in any way it likes. Parents come before what is below them, keys ascend.
//! Memory is bounded by the tree's height. Because a node must lie in the range of keys its parent
//! gives it and never is empty, no node can be met twice, whatever an image says.

use alloc::vec::Vec;

use super::codec::{self, NodeHeader};
use super::key::{Damaged, Expected, ItemRef, Key, KeyRange, TreeKind};
use super::node::{Child, Node};
use super::{LEVEL_MAX, TreeRoot};
use crate::{FileSystemId, NodePointer};

/// A node to visit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where it is.
    pub pointer: NodePointer,
    /// The level it must be at.
    pub level: u8,
    /// The keys it may hold: what is lost when it is damaged.
    pub range: KeyRange,
}

/// A node that is as it should be.
#[derive(Debug)]
pub(crate) struct Visited {
    /// What it says of itself.
    pub header: NodeHeader,
    node: Node,
}

impl Visited {
    /// Its items; none when it is no leaf.
    pub(crate) fn items(&self) -> impl Iterator<Item = (Key, ItemRef<'_>)> {
        let len = if self.node.level() == 0 {
            self.node.len()
        } else {
            0
        };
        (0..len).filter_map(|index| self.node.item(index))
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Walk {
    tree: TreeKind,
    id: FileSystemId,
    /// What is still to be visited, the last first.
    rest: Vec<Place>,
}

impl Walk {
    /// A walk over the tree at `root`.
    pub(crate) fn new(tree: TreeKind, root: Option<TreeRoot>, id: FileSystemId) -> Self {
        let place = |root: TreeRoot| Place {
            pointer: root.pointer,
            level: root.level.min(LEVEL_MAX),
            range: KeyRange::ALL,
        };
        Self {
            tree,
            id,
            rest: root.map(place).into_iter().collect(),
        }
    }

    /// The next node; the walk goes on behind it and what is below it unless [`enter`](Self::enter) is called.
    pub(crate) fn next_place(&mut self) -> Option<Place> {
        self.rest.pop()
    }

    /// Checks the block at `place` and goes on with what is below it.
    ///
    /// # Errors
    /// When the block is not the node it should be; what is below it is passed over.
    pub(crate) fn enter(&mut self, place: &Place, block: &[u8]) -> Result<Visited, Damaged> {
        let expected = Expected {
            tree: self.tree,
            level: place.level,
            range: place.range,
        };
        let decoded = codec::decode(block, self.id, place.pointer, Some(&expected));
        let (header, node) = decoded.map_err(|defect| Damaged {
            block: place.pointer.block,
            defect,
        })?;
        for (index, child) in node.children().iter().enumerate().rev() {
            if let Child::Stored(pointer) = *child {
                self.rest.push(Place {
                    pointer,
                    level: place.level.saturating_sub(1),
                    range: node.child_range(index, &place.range),
                });
            }
        }
        Ok(Visited { header, node })
    }
}
