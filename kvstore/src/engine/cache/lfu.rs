//! LFU, as W-TinyLFU (Einziger, Friedman, Manes, "`TinyLFU`: a highly efficient cache admission policy", 2017).
//!
//! What is new waits in a window, a hundredth of all. Who leaves it is let in only if it was used more often, as a sketch remembers, than the one that would have to go. What is in
//! is a segmented LRU: used once more, it is protected (four fifths at most).

use super::Policy;
use super::list::{List, Nodes};
use super::sketch::Sketch;

const WINDOW: u8 = 0;
const PROBATION: u8 = 1;
const PROTECTED: u8 = 2;

#[derive(Default)]
pub(crate) struct Lfu {
    nodes: Nodes,
    window: List,
    probation: List,
    protected: List,
    sketch: Sketch,
}

impl Policy for Lfu {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u32) -> bool {
        if !self.nodes.set(slot, hash, cost) {
            return false;
        }
        let entries = self.window.len + self.probation.len + self.protected.len;
        self.sketch.make_room(entries + 1);
        self.sketch.add(hash);
        // Had there been need for a victim, it would have been asked for first: while there is room, everything is let in.
        while self.window_is_full()
            && let Some(oldest) = self.window.pop(&mut self.nodes)
        {
            self.put(oldest, PROBATION);
        }
        self.put(slot, WINDOW);
        true
    }

    fn touched(&mut self, slot: u32) {
        let Some(node) = self.nodes.get(slot).copied() else {
            return;
        };
        self.sketch.add(node.hash);
        match node.list {
            WINDOW => self.window.refresh(&mut self.nodes, slot),
            PROTECTED => self.protected.refresh(&mut self.nodes, slot),
            _ => {
                self.probation.remove(&mut self.nodes, slot);
                self.put(slot, PROTECTED);
                // One comes in, so a few at most have to leave: as many as have its cost.
                while self.protected.cost * 5 > (self.probation.cost + self.protected.cost) * 4 {
                    let Some(oldest) = self.protected.pop(&mut self.nodes) else {
                        break;
                    };
                    self.put(oldest, PROBATION);
                    if oldest == slot {
                        break;
                    }
                }
            }
        }
    }

    fn removed(&mut self, slot: u32) {
        match self.nodes.get(slot).map(|node| node.list) {
            Some(WINDOW) => self.window.remove(&mut self.nodes, slot),
            Some(PROTECTED) => self.protected.remove(&mut self.nodes, slot),
            Some(_) => self.probation.remove(&mut self.nodes, slot),
            None => {}
        }
    }

    fn victim(&mut self) -> Option<u32> {
        let from_main = if self.probation.len > 0 {
            self.probation.oldest()
        } else {
            self.protected.oldest()
        };
        let is_due = self.window_is_full() || from_main.is_none();
        let from_window = self.window.oldest().filter(|_| is_due);
        let victim = match (from_window, from_main) {
            (Some(candidate), Some(oldest)) => {
                if self.uses(candidate) > self.uses(oldest) {
                    self.window.remove(&mut self.nodes, candidate);
                    self.put(candidate, PROBATION);
                    oldest
                } else {
                    candidate
                }
            }
            (candidate, oldest) => candidate.or(oldest)?,
        };
        self.removed(victim);
        Some(victim)
    }

    fn moved(&mut self, from: u32, to: u32) {
        let list = match self.nodes.get(from).map(|node| node.list) {
            Some(WINDOW) => &mut self.window,
            Some(PROTECTED) => &mut self.protected,
            _ => &mut self.probation,
        };
        list.moved(&mut self.nodes, from, to);
    }

    fn shrink(&mut self, slots: u32) {
        self.nodes.shrink(slots);
        self.sketch.shrink(slots as usize);
    }
}

impl Lfu {
    /// One more would be too much.
    fn window_is_full(&self) -> bool {
        let main = self.probation.cost + self.protected.cost;
        self.window.cost * 100 >= self.window.cost + main
    }

    fn uses(&self, slot: u32) -> u8 {
        let hash = self.nodes.get(slot).map(|node| node.hash);
        hash.map_or(0, |hash| self.sketch.count(hash))
    }

    fn put(&mut self, slot: u32, list: u8) {
        if let Some(node) = self.nodes.get_mut(slot) {
            node.list = list;
        }
        match list {
            WINDOW => self.window.push(&mut self.nodes, slot),
            PROTECTED => self.protected.push(&mut self.nodes, slot),
            _ => self.probation.push(&mut self.nodes, slot),
        }
    }
}
