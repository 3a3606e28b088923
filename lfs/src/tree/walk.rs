//! Every node of a tree on disk, once: for checks, scrubbing and dumps.
//!
//! The caller reads the blocks, in any way it likes. Parents come before what is below them, keys ascend.
//! A walk [over a tree in memory](Walk::over) takes what is in memory from there and does not read it again.
//! Memory is bounded by the tree's height. Because a node must lie in the range of keys its parent
//! gives it and never is empty, no node can be met twice, whatever an image says.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::codec::{self, NodeHeader};
use super::key::{Damaged, Expected, ItemRef, Key, KeyRange, TreeKind};
use super::node::{Child, Node};
use super::{LEVEL_MAX, SharedCache, Tree, TreeRoot};
use crate::NodePointer;
use crate::seal::SharedVault;

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
    #[cfg_attr(not(test), expect(dead_code, reason = "tests look at it"))]
    pub header: NodeHeader,
    node: Node,
}

/// What comes next in a walk over a tree in memory.
#[derive(Debug)]
pub(crate) enum Step {
    /// A node to be read, and given to [`Walk::enter`].
    Read(Place),
    /// A node that is in memory: as it is on the disk there, or changed since the checkpoint.
    Here(Option<NodePointer>, Rc<Node>),
}

/// The items of a node; none when it is no leaf.
pub(crate) fn items_of(node: &Node) -> impl Iterator<Item = (Key, ItemRef<'_>)> {
    let len = if node.level() == 0 { node.len() } else { 0 };
    (0..len).filter_map(|index| node.item(index))
}

impl Visited {
    /// Its items; none when it is no leaf.
    pub(crate) fn items(&self) -> impl Iterator<Item = (Key, ItemRef<'_>)> {
        items_of(&self.node)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Walk {
    tree: TreeKind,
    vault: SharedVault,
    /// What is still to be visited, the last first.
    rest: Vec<Pending>,
    /// Where nodes may be in memory.
    cache: Option<SharedCache>,
}

#[derive(Debug)]
enum Pending {
    Stored(Place),
    Dirty(Rc<Node>, KeyRange),
}

impl Walk {
    /// A walk over the tree at `root`.
    pub(crate) fn new(tree: TreeKind, root: Option<TreeRoot>, vault: SharedVault) -> Self {
        let place = |root: TreeRoot| Place {
            pointer: root.pointer,
            level: root.level.min(LEVEL_MAX),
            range: KeyRange::ALL,
        };
        Self {
            tree,
            vault,
            rest: root.map(place).map(Pending::Stored).into_iter().collect(),
            cache: None,
        }
    }

    /// A walk over a tree with all that changed since its checkpoint. The tree must not change meanwhile.
    pub(crate) fn over(tree: &Tree) -> Self {
        let pending = tree
            .root
            .as_ref()
            .map(|root| pend(root, tree.level.min(LEVEL_MAX), KeyRange::ALL));
        let vault = tree.ledger.cache.borrow().vault().clone();
        Self {
            tree: tree.ledger.kind,
            vault,
            rest: pending.into_iter().collect(),
            cache: Some(tree.ledger.cache.clone()),
        }
    }

    /// For tests of the tree alone: the next node, of a walk over what is on the disk; the walk goes on behind it and what is below it unless
    /// [`enter`](Self::enter) is called.
    #[cfg(test)]
    pub(crate) fn next_place(&mut self) -> Option<Place> {
        loop {
            if let Pending::Stored(place) = self.rest.pop()? {
                return Some(place);
            }
        }
    }

    /// The next node; with a [`Step::Read`] the walk goes on as with `next_place`.
    pub(crate) fn next_step(&mut self) -> Option<Step> {
        match self.rest.pop()? {
            Pending::Dirty(node, range) => {
                self.push_children(&node, node.level(), &range);
                Some(Step::Here(None, node))
            }
            Pending::Stored(place) => {
                let expected = self.expected(&place);
                let cache = self.cache.clone();
                let found =
                    cache.and_then(|cache| cache.borrow_mut().find(place.pointer, &expected));
                Some(match found {
                    Some(node) => {
                        self.push_children(&node, place.level, &place.range);
                        Step::Here(Some(place.pointer), node)
                    }
                    None => Step::Read(place),
                })
            }
        }
    }

    fn expected(&self, place: &Place) -> Expected {
        Expected {
            tree: self.tree,
            level: place.level,
            range: place.range,
        }
    }

    fn push_children(&mut self, node: &Node, level: u8, range: &KeyRange) {
        for (index, child) in node.children().iter().enumerate().rev() {
            let range = node.child_range(index, range);
            self.rest.push(pend(child, level.saturating_sub(1), range));
        }
    }

    /// Checks the block at `place` and goes on with what is below it.
    ///
    /// # Errors
    /// When the block is not the node it should be; what is below it is passed over.
    pub(crate) fn enter(&mut self, place: &Place, block: &[u8]) -> Result<Visited, Damaged> {
        let expected = self.expected(place);
        let decoded = codec::decode(block, &self.vault, place.pointer, Some(&expected));
        let (header, node) = decoded.map_err(|defect| Damaged {
            block: place.pointer.block,
            defect,
        })?;
        self.push_children(&node, place.level, &place.range);
        Ok(Visited { header, node })
    }
}

fn pend(child: &Child, level: u8, range: KeyRange) -> Pending {
    match child {
        Child::Dirty(node) => Pending::Dirty(Rc::clone(node), range),
        Child::Stored(pointer) => Pending::Stored(Place {
            pointer: *pointer,
            level,
            range,
        }),
    }
}
