//! LRU: the least recently used goes. The simplest there is; one scan empties it of all that is in use.

use super::Policy;
use super::list::{List, Nodes};

#[derive(Default)]
pub(crate) struct Lru {
    nodes: Nodes,
    list: List,
}

impl Policy for Lru {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u32) -> bool {
        let set = self.nodes.set(slot, hash, cost);
        if set {
            self.list.push(&mut self.nodes, slot);
        }
        set
    }

    fn touched(&mut self, slot: u32) {
        self.list.refresh(&mut self.nodes, slot);
    }

    fn removed(&mut self, slot: u32) {
        self.list.remove(&mut self.nodes, slot);
    }

    fn victim(&mut self) -> Option<u32> {
        self.list.pop(&mut self.nodes)
    }

    fn moved(&mut self, from: u32, to: u32) {
        self.list.moved(&mut self.nodes, from, to);
    }

    fn shrink(&mut self, slots: u32) {
        self.nodes.shrink(slots);
    }
}
