//! Checkpoints: writing what has changed while the tree goes on changing.
//!
//! ```text
//! freeze -> Frozen::next_batch ... -> (device flush, slot written) -> settle -> settle_step ...
//! ```
//!
//! A frozen tree shares its nodes with the live one, which copies what it changes from then on. Writing
//! changes neither. Only when the checkpoint is in force are the nodes that have not been changed since
//! replaced, in the live tree, by pointers to where they were written. A frozen tree that is dropped
//! before that leaves everything dirty: the next checkpoint writes it again.
//!
//! **Accounting.** The blocks of a checkpoint that is in force are those of the one before, without
//! [`Frozen::freed`], and with those it wrote. Every block that was written is thus freed exactly once or still in use:
//!
//! - when the live tree makes a stored node dirty, its block is freed by the next freeze;
//! - when a node that was written has changed since the freeze, the live tree has never used its block,
//!   but the checkpoint does: it is freed by the freeze after.

use alloc::rc::Rc;
use alloc::vec::Vec;

use super::key::Key;
use super::node::{Child, Node};
use super::{Ledger, Tree, TreeRoot, codec};
use crate::seal::SharedVault;
use crate::{BLOCK_SIZE, BlockIndex, NodePointer};

/// There is no block for the next node. The frozen tree can be written on when there is one, or dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no block for a tree node")]
pub(crate) struct NoSpace;

/// The state of a tree at one moment, on its way to the disk.
#[derive(Debug)]
pub(crate) struct Frozen {
    vault: SharedVault,
    freeze: u64,
    generation: u64,
    root: Option<TreeRoot>,
    #[cfg(test)]
    dirty_nodes: usize,
    freed: Vec<BlockIndex>,
    /// The nodes being written, each below the one before.
    path: Vec<Writing>,
    written: Vec<Written>,
    block: Vec<u8>,
}

/// A node whose children are being written.
#[derive(Debug)]
struct Writing {
    node: Rc<Node>,
    low: Key,
    /// The child to look at next.
    next: usize,
    /// Where its changed children have been written, as far as they are.
    pointers: Vec<NodePointer>,
    /// Length of `Frozen::written` before the first of them.
    start: usize,
}

/// A node that has been written, after all below it.
#[derive(Debug)]
struct Written {
    node: Rc<Node>,
    /// The same with stored children.
    clean: Rc<Node>,
    pointer: NodePointer,
    /// A key that leads to it.
    low: Key,
    /// Index of the first node below it, or its own.
    start: usize,
}

/// A checkpoint in force whose nodes are becoming clean.
#[derive(Debug)]
pub(super) struct Settling {
    written: Vec<Written>,
    /// From this index on all nodes are below one that has become clean.
    covered: usize,
}

impl Frozen {
    /// Writes up to `nodes_max` nodes; returns whether there are more. `allocate` says where the next node
    /// goes, and right after that `write` gets it, and the block that belongs there.
    ///
    /// # Errors
    /// When `allocate` has nothing.
    pub(crate) fn next_batch(
        &mut self,
        nodes_max: usize,
        mut allocate: impl FnMut() -> Option<BlockIndex>,
        mut write: impl FnMut(BlockIndex, &[u8; BLOCK_SIZE]),
    ) -> Result<bool, NoSpace> {
        let mut batch = 0;
        while batch < nodes_max
            && let Some(top) = self.path.last_mut()
        {
            if let Some(below) = top.next_changed(self.written.len()) {
                self.path.push(below);
                continue;
            }
            let own = allocate().ok_or(NoSpace)?;
            if let Some(top) = self.path.pop() {
                self.write(top, own, &mut write);
            }
            batch += 1;
        }
        Ok(!self.is_written())
    }

    /// Whether all has been handed over to be written.
    pub(crate) fn is_written(&self) -> bool {
        self.path.is_empty()
    }

    /// Nodes to write in all, written ones included.
    #[cfg(test)]
    pub(crate) fn dirty_nodes(&self) -> usize {
        self.dirty_nodes
    }

    /// Where the tree is, once everything is written; `None` when it has no items.
    pub(crate) fn root(&self) -> Option<TreeRoot> {
        self.root
    }

    /// Blocks that the checkpoint in force uses and this one will not.
    pub(crate) fn freed(&self) -> &[BlockIndex] {
        &self.freed
    }

    fn write(
        &mut self,
        top: Writing,
        own: BlockIndex,
        write: &mut impl FnMut(BlockIndex, &[u8; BLOCK_SIZE]),
    ) {
        let clean = match top.node.level() {
            0 => Rc::clone(&top.node),
            _ => Rc::new(top.node.with_stored(&top.pointers)),
        };
        self.block.resize(BLOCK_SIZE, 0);
        let Some(block) = self.block.first_chunk_mut::<BLOCK_SIZE>() else {
            return;
        };
        let pointer = codec::encode(&clean, &self.vault, own, self.generation, block);
        write(own, block);
        if let Some(above) = self.path.last_mut() {
            above.pointers.push(pointer);
        } else {
            let level = top.node.level();
            self.root = Some(TreeRoot { pointer, level });
        }
        self.written.push(Written {
            node: top.node,
            clean,
            pointer,
            low: top.low,
            start: top.start,
        });
    }
}

impl Writing {
    fn new(node: Rc<Node>, low: Key, start: usize) -> Self {
        Self {
            node,
            low,
            next: 0,
            pointers: Vec::new(),
            start,
        }
    }

    /// The next changed child.
    fn next_changed(&mut self, written: usize) -> Option<Self> {
        while let Some(child) = self.node.child(self.next) {
            let low = match self.next {
                0 => self.low,
                index => self.node.key(index).unwrap_or(self.low),
            };
            self.next += 1;
            if let Child::Dirty(node) = child {
                return Some(Self::new(Rc::clone(node), low, written));
            }
        }
        None
    }
}

impl Tree {
    /// Takes the state of this moment, to be written as part of checkpoint number `generation`. An earlier
    /// frozen tree that was not settled is void from here on.
    pub(crate) fn freeze(&mut self, generation: u64) -> Frozen {
        self.settle_all();
        self.tidy();
        self.freezes += 1;
        self.ledger.frozen = self.ledger.freed.len();
        let mut frozen = Frozen {
            vault: self.ledger.cache.borrow().vault().clone(),
            freeze: self.freezes,
            generation,
            root: None,
            #[cfg(test)]
            dirty_nodes: self.ledger.dirty_nodes,
            freed: self.ledger.freed.clone(),
            path: Vec::new(),
            written: Vec::new(),
            block: Vec::new(),
        };
        match &self.root {
            None => {}
            Some(Child::Stored(pointer)) => {
                frozen.root = Some(TreeRoot {
                    pointer: *pointer,
                    level: self.level,
                });
            }
            Some(Child::Dirty(root)) => {
                frozen.path.push(Writing::new(Rc::clone(root), Key::MIN, 0));
            }
        }
        frozen
    }

    /// Says that the checkpoint with what was frozen last has failed: what it was to free is not free.
    pub(crate) fn give_up_freeze(&mut self) {
        self.ledger.frozen = 0;
    }

    /// Says that the checkpoint with `frozen` is in force. Its nodes become clean in the steps that
    /// [`settle_step`](Self::settle_step) takes.
    ///
    /// # Panics
    /// When `frozen` is not written yet, or not the latest of this tree: a mistake of the caller's.
    pub(crate) fn settle(&mut self, frozen: Frozen) {
        assert!(
            frozen.is_written(),
            "a checkpoint of a tree that is not written"
        );
        assert!(
            frozen.freeze == self.freezes,
            "a checkpoint of an older state"
        );
        self.ledger.freed.drain(..self.ledger.frozen);
        self.ledger.frozen = 0;
        let covered = frozen.written.len();
        self.settling = Some(Settling {
            written: frozen.written,
            covered,
        });
    }

    /// Lets up to `nodes_max` nodes of the checkpoint become clean; returns whether there are more.
    pub(crate) fn settle_step(&mut self, nodes_max: usize) -> bool {
        let Some(mut settling) = self.settling.take() else {
            return false;
        };
        for _ in 0..nodes_max {
            // Parents come before what is below them.
            let Some(written) = settling.written.pop() else {
                return false;
            };
            let index = settling.written.len();
            if index < settling.covered {
                let found = self.root.as_ref().is_some_and(|root| is_at(root, &written));
                if !found {
                    self.ledger.freed.push(written.pointer.block);
                    continue;
                }
                if let Some(root) = &mut self.root {
                    store_at(root, &written);
                }
                settling.covered = written.start;
            }
            self.ledger.settled(written);
        }
        let more = !settling.written.is_empty();
        self.settling = more.then_some(settling);
        more
    }

    /// Finishes what [`settle`](Self::settle) began.
    pub(super) fn settle_all(&mut self) {
        while self.settle_step(usize::MAX) {}
    }
}

impl Ledger {
    fn settled(&mut self, written: Written) {
        let Written { clean, pointer, .. } = written;
        self.dirty_nodes -= 1;
        self.cache.borrow_mut().adopt(pointer, clean);
    }
}

/// Whether the node is still where it was, unchanged: then it is the same in memory.
fn is_at(child: &Child, written: &Written) -> bool {
    match child {
        Child::Dirty(node) if Rc::ptr_eq(node, &written.node) => true,
        Child::Dirty(node) if node.level() > written.node.level() => node
            .child(node.route(&written.low))
            .is_some_and(|child| is_at(child, written)),
        _ => false,
    }
}

/// Replaces the node by the pointer to it. What is above has been changed since the freeze.
fn store_at(child: &mut Child, written: &Written) {
    if let Child::Dirty(node) = child {
        if Rc::ptr_eq(node, &written.node) {
            *child = Child::Stored(written.pointer);
            return;
        }
        let node = Rc::make_mut(node);
        if let Some(child) = node.child_mut(node.route(&written.low)) {
            store_at(child, written);
        }
    }
}
