//! Lists of slots, linked by number: a slot is in one list at most, and can be taken out wherever it is.

use super::chunked::Chunked;

/// No slot.
const NONE: u32 = u32::MAX;

/// What policies know of each slot.
#[derive(Default)]
pub(crate) struct Nodes(Chunked<Node>);

#[derive(Clone, Copy)]
pub(crate) struct Node {
    newer: u32,
    older: u32,
    pub cost: u32,
    pub hash: u64,
    /// Which of its policy's lists it is in.
    pub list: u8,
}

/// A list, from the newest to the oldest.
#[derive(Clone, Copy)]
pub(crate) struct List {
    newest: u32,
    oldest: u32,
    pub len: usize,
    pub cost: u64,
}

impl Default for List {
    fn default() -> Self {
        Self {
            newest: NONE,
            oldest: NONE,
            len: 0,
            cost: 0,
        }
    }
}

impl Nodes {
    pub(crate) fn get(&self, slot: u32) -> Option<&Node> {
        self.0.get(slot)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Node> {
        self.0.get_mut(slot)
    }

    /// Slots come in the order of their numbers, or were there before, but for a policy that came later than the first of them: those that it was not told of are
    /// there, in no list. `false`: there is no memory for it.
    pub(crate) fn set(&mut self, slot: u32, hash: u64, cost: u32) -> bool {
        let node = Node {
            newer: NONE,
            older: NONE,
            cost,
            hash,
            list: 0,
        };
        self.0.set(slot, node).is_ok()
    }

    /// Forgets those from `slots` on, which are in no list.
    pub(crate) fn shrink(&mut self, slots: u32) {
        self.0.truncate(slots);
    }
}

impl List {
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Puts `slot`, which is in no list, in front.
    pub(crate) fn push(&mut self, nodes: &mut Nodes, slot: u32) {
        let Some(node) = nodes.get_mut(slot) else {
            return;
        };
        (node.newer, node.older) = (NONE, self.newest);
        self.cost += u64::from(node.cost);
        self.len += 1;
        match nodes.get_mut(self.newest) {
            Some(second) => second.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
    }

    /// Takes `slot`, which is in this list, out.
    pub(crate) fn remove(&mut self, nodes: &mut Nodes, slot: u32) {
        let Some(node) = nodes.get(slot).copied() else {
            return;
        };
        self.cost -= u64::from(node.cost);
        self.len -= 1;
        match nodes.get_mut(node.newer) {
            Some(newer) => newer.older = node.older,
            None => self.newest = node.older,
        }
        match nodes.get_mut(node.older) {
            Some(older) => older.newer = node.newer,
            None => self.oldest = node.newer,
        }
    }

    /// Takes the oldest out.
    pub(crate) fn pop(&mut self, nodes: &mut Nodes) -> Option<u32> {
        let oldest = self.oldest()?;
        self.remove(nodes, oldest);
        Some(oldest)
    }

    /// `to`, which is in no list, takes the place of `from`, which is in this one.
    pub(crate) fn moved(&mut self, nodes: &mut Nodes, from: u32, to: u32) {
        let Some(node) = nodes.get(from).copied() else {
            return;
        };
        if let Some(place) = nodes.get_mut(to) {
            *place = node;
        }
        match nodes.get_mut(node.newer) {
            Some(newer) => newer.older = to,
            None => self.newest = to,
        }
        match nodes.get_mut(node.older) {
            Some(older) => older.newer = to,
            None => self.oldest = to,
        }
    }

    /// Puts `slot`, which is in this list, in front.
    pub(crate) fn refresh(&mut self, nodes: &mut Nodes, slot: u32) {
        self.remove(nodes, slot);
        self.push(nodes, slot);
    }
}
