//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023).
//!
//! What is new waits in a small queue, a tenth of all. Most of it is never used again and leaves from there, so a scan passes through without
//! pushing out what is in use. What was used again moves to the main queue, where each use (three at most are counted) is another round. A ghost list
//! remembers hashes of what left the small queue, as many as the main queue has entries: what comes back while it is
//! remembered goes to the main queue at once.

use alloc::vec::Vec;

use super::Policy;
use super::chunked::Chunked;
use super::list::{List, Nodes};

/// Uses that are counted.
const USES_MAX: u8 = 3;

/// Entries that are looked at for one victim. Beyond, the one at hand goes, whatever its uses.
const LOOKS: usize = 64;

const SMALL: u8 = 0;
const MAIN: u8 = 1;

#[derive(Default)]
pub(crate) struct S3Fifo {
    nodes: Nodes,
    /// How often entries were used. Apart, so that a use looks at little memory, which is in a processor's cache.
    uses: Chunked<u8>,
    small: List,
    main: List,
    ghosts: Ghosts,
}

/// Hashes of what left. A hint: a hash can be overwritten early by four others that fall to the same place, or be taken for another one.
#[derive(Default)]
struct Ghosts {
    /// A power of two of places for four hashes each.
    places: Vec<[Ghost; 4]>,
    added: u32,
}

#[derive(Clone, Copy, Default)]
struct Ghost {
    /// The upper half of the hash, and a bit: not 0.
    mark: u32,
    /// How many had been added by then.
    added: u32,
}

/// The fewest places there are.
const PLACES_MIN: usize = 64;

/// 4 MiB, good for half a million hashes, so that no step copies more.
const PLACES_MAX: usize = 1 << 17;

impl Ghosts {
    /// Has room for `hashes`.
    fn make_room(&mut self, hashes: usize) {
        while self.places.len() < (hashes / 2).clamp(PLACES_MIN, PLACES_MAX) {
            let len = self.places.len();
            if self.places.try_reserve_exact(len.max(PLACES_MIN)).is_err() {
                return;
            }
            if len == 0 {
                self.places.resize(PLACES_MIN, [Ghost::default(); 4]);
            } else {
                // A hash's place is said by its low bits: it is in both that one more bit tells apart.
                self.places.extend_from_within(..);
            }
        }
    }

    /// Is for `hashes` only: gives memory back when it has room for far more, and with it half of what it remembers.
    fn shrink(&mut self, hashes: usize) {
        let half = self.places.len() / 2;
        if half >= PLACES_MIN && half > 2 * hashes {
            self.places.truncate(half);
            self.places.shrink_to_fit();
        }
    }

    fn place(&self, hash: u64) -> usize {
        usize::try_from(hash).unwrap_or(0) & self.places.len().saturating_sub(1)
    }

    fn add(&mut self, hash: u64) {
        self.added = self.added.wrapping_add(1);
        let (at, mark, added) = (self.place(hash), mark_of(hash), self.added);
        let Some(place) = self.places.get_mut(at) else {
            return;
        };
        let oldest = |ghost: &&mut Ghost| (ghost.mark == mark, added.wrapping_sub(ghost.added));
        if let Some(oldest) = place.iter_mut().max_by_key(oldest) {
            *oldest = Ghost { mark, added };
        }
    }

    /// Whether `hash` is among the `most` that were added last.
    fn contains(&self, hash: u64, most: usize) -> bool {
        let is = |ghost: &Ghost| {
            let age = self.added.wrapping_sub(ghost.added);
            ghost.mark == mark_of(hash) && (age as usize) < most
        };
        let place = self.places.get(self.place(hash));
        place.is_some_and(|place| place.iter().any(is))
    }
}

fn mark_of(hash: u64) -> u32 {
    u32::try_from(hash >> 32).unwrap_or(0) | 1
}

impl Policy for S3Fifo {
    fn inserted(&mut self, slot: u32, hash: u64, cost: u32) -> bool {
        if !self.nodes.set(slot, hash, cost) || self.uses.set(slot, 0).is_err() {
            return false;
        }
        let remembered = self.ghosts_max();
        self.ghosts.make_room(remembered);
        if self.ghosts.contains(hash, remembered) {
            self.put(slot, MAIN, 0);
        } else {
            self.put(slot, SMALL, 0);
        }
        true
    }

    fn touched(&mut self, slot: u32) {
        if let Some(uses) = self.uses.get_mut(slot)
            && *uses < USES_MAX
        {
            *uses += 1;
        }
    }

    fn removed(&mut self, slot: u32) {
        let Some(node) = self.nodes.get(slot).copied() else {
            return;
        };
        if node.list == SMALL {
            self.small.remove(&mut self.nodes, slot);
        } else {
            self.main.remove(&mut self.nodes, slot);
            // It has not left for want of use: what takes its place goes where it was.
            self.ghosts.add(node.hash);
        }
    }

    fn victim(&mut self) -> Option<u32> {
        for look in 1.. {
            let all = self.small.cost + self.main.cost;
            let from_small = self.small.len > 0 && self.small.cost * 10 >= all;
            let list = if from_small || self.main.len == 0 {
                &mut self.small
            } else {
                &mut self.main
            };
            let oldest = list.pop(&mut self.nodes)?;
            let node = self.nodes.get(oldest).copied()?;
            let uses = self.uses.get(oldest).copied().unwrap_or(0);
            if node.list == SMALL {
                if uses == 0 || look > LOOKS {
                    self.ghosts.add(node.hash);
                    return Some(oldest);
                }
                self.put(oldest, MAIN, 0);
            } else {
                if uses == 0 || look > LOOKS {
                    return Some(oldest);
                }
                self.put(oldest, MAIN, uses - 1);
            }
        }
        None
    }

    fn moved(&mut self, from: u32, to: u32) {
        let list = match self.nodes.get(from).map(|node| node.list) {
            Some(SMALL) => &mut self.small,
            _ => &mut self.main,
        };
        list.moved(&mut self.nodes, from, to);
        let uses = self.uses.get(from).copied();
        if let (Some(uses), Some(place)) = (uses, self.uses.get_mut(to)) {
            *place = uses;
        }
    }

    fn shrink(&mut self, slots: u32) {
        self.nodes.shrink(slots);
        self.uses.truncate(slots);
        self.ghosts.shrink(slots as usize);
    }
}

impl S3Fifo {
    /// As many as the main queue has entries; while there is hardly any, as many as there are at all.
    fn ghosts_max(&self) -> usize {
        self.main.len.max(self.small.len)
    }

    fn put(&mut self, slot: u32, list: u8, uses: u8) {
        if let Some(node) = self.nodes.get_mut(slot) {
            node.list = list;
        }
        if let Some(place) = self.uses.get_mut(slot) {
            *place = uses;
        }
        match list {
            SMALL => self.small.push(&mut self.nodes, slot),
            _ => self.main.push(&mut self.nodes, slot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    /// Of those that were added last nearly all are known, of others nearly none.
    #[test]
    fn ghosts_remember_the_last_ones() {
        let mut random = random(12);
        let mut ghosts = Ghosts::default();
        let mut all = Vec::new();
        for most in [100, 1000, 5000] {
            ghosts.make_room(most);
            for _ in 0..2 * most {
                all.push(random.next_u64());
                ghosts.add(all[all.len() - 1]);
            }
            let known = |hash: &&u64| ghosts.contains(**hash, most);
            let (old, last) = all.split_at(all.len() - most);
            assert!(last.iter().filter(known).count() * 20 > most * 19);
            assert_eq!(old.iter().filter(known).count(), 0);
            let others = (0..10_000).filter(|_| ghosts.contains(random.next_u64(), most));
            assert_eq!(others.count(), 0);
        }
    }

    #[test]
    fn a_victim_is_found_in_a_bounded_number_of_looks() {
        let mut policy = S3Fifo::default();
        for slot in 0..10_000 {
            assert!(policy.inserted(slot, u64::from(slot), 1));
            policy.touched(slot);
        }
        // All were used, so all would go another round.
        assert_eq!(policy.victim(), Some(64));
        assert_eq!(policy.main.len, 64);
    }
}
