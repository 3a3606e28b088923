//! The value file and its cleaner, as sizes: segments, what of them is dead, leaves of the tree.

/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 256 << 10;

/// Items of a full leaf, and bytes of one.
const LEAF_ITEMS: u32 = 340;
const LEAF_BYTES: u64 = 4096;

/// Leaves that together have so few items become one.
const LEAF_JOINED: u32 = LEAF_ITEMS / 8 * 7;

/// One that has fewer is joined with a neighbour.
const LEAF_SMALL: u32 = LEAF_ITEMS / 4;

/// Nodes above leaves, what dead ones take until their segments are clean: of leaves, in hundredths.
const NODES_PERCENT: u64 = 130;

const NONE: u32 = u32::MAX;

struct Segment {
    bytes: u64,
    live: u64,
    /// When it was filled, in segments.
    filled: u64,
    /// How often what is in it has survived.
    generation: usize,
    slots: Vec<u32>,
    is_open: bool,
}

struct Leaf {
    items: u32,
    previous: u32,
    next: u32,
    /// What it has become part of.
    parent: u32,
    is_changed: bool,
}

pub struct Values {
    value_bytes: u64,
    garbage_percent: u64,
    segments: Vec<Segment>,
    free: Vec<u32>,
    /// Of each slot its segment; none when it is freed.
    places: Vec<u32>,
    /// Open segments: of the log, of survivors, of those that survived again.
    heads: [u32; 3],
    clock: u64,
    used: u64,
    live: u64,
    leaves: Vec<Leaf>,
    leaf_count: u64,
    pub moved_bytes: u64,
    pub tree_bytes: u64,
    /// Segments filled since the last checkpoint are not touched.
    window: u64,
}

impl Values {
    pub fn new(value_bytes: u64, garbage_percent: u64) -> Self {
        Self {
            value_bytes,
            garbage_percent,
            segments: Vec::new(),
            free: Vec::new(),
            places: Vec::new(),
            heads: [NONE; 3],
            clock: 0,
            used: 0,
            live: 0,
            leaves: Vec::new(),
            leaf_count: 0,
            moved_bytes: 0,
            tree_bytes: 0,
            window: 0,
        }
    }

    /// Writes a value, with `rest` bytes of the log besides: its slot.
    pub fn put(&mut self, rest: u64) -> u32 {
        let slot = u32::try_from(self.places.len()).unwrap();
        self.places.push(NONE);
        if slot.is_multiple_of(LEAF_ITEMS) {
            let leaf = u32::try_from(self.leaves.len()).unwrap();
            let previous = self.last_leaf();
            if previous != NONE {
                self.leaves[previous as usize].next = leaf;
            }
            self.leaves.push(Leaf {
                items: 0,
                previous,
                next: NONE,
                parent: NONE,
                is_changed: true,
            });
            self.leaf_count += 1;
        }
        let leaf = self.leaf_of(slot);
        self.leaves[leaf].items += 1;
        self.leaves[leaf].is_changed = true;
        self.place(slot, 0, rest);
        slot
    }

    /// Frees a slot.
    pub fn free(&mut self, slot: u32) {
        let segment = std::mem::replace(&mut self.places[slot as usize], NONE);
        assert_ne!(segment, NONE, "freed twice");
        let bytes = self.stored();
        self.segments[segment as usize].live -= bytes;
        self.live -= bytes;
        let leaf = self.leaf_of(slot);
        self.leaves[leaf].items -= 1;
        self.leaves[leaf].is_changed = true;
        self.join(leaf);
    }

    /// A leaf that has got small is joined with a neighbour, if both fit into one; an empty one goes.
    fn join(&mut self, leaf: usize) {
        if self.leaves[leaf].items >= LEAF_SMALL || self.leaves[leaf].next == NONE {
            return;
        }
        let (previous, next) = (self.leaves[leaf].previous, self.leaves[leaf].next);
        let fits = |first: u32, second: u32| {
            let items = self.leaves[first as usize].items + self.leaves[second as usize].items;
            // The last leaf is the one that grows.
            items <= LEAF_JOINED && self.leaves[second as usize].next != NONE
        };
        let this = u32::try_from(leaf).unwrap();
        let (left, right) =
            if fits(this, next) || (self.leaves[leaf].items == 0 && previous == NONE) {
                (this, next)
            } else if previous != NONE && (fits(previous, this) || self.leaves[leaf].items == 0) {
                (previous, this)
            } else {
                return;
            };
        let (into, gone) = (left as usize, right as usize);
        self.leaves[into].items += self.leaves[gone].items;
        self.leaves[into].is_changed = true;
        let after = self.leaves[gone].next;
        self.leaves[into].next = after;
        if after != NONE {
            self.leaves[after as usize].previous = left;
        }
        self.leaves[gone].parent = left;
        self.leaf_count -= 1;
    }

    pub fn is_live(&self, slot: u32) -> bool {
        self.places[slot as usize] != NONE
    }

    /// How many dead bytes are allowed from now on.
    pub fn set_garbage(&mut self, percent: u64) {
        self.garbage_percent = percent;
    }

    /// Bytes of values that are not freed.
    pub fn stored_live(&self) -> u64 {
        self.live / self.stored() * self.value_bytes
    }

    pub fn leaves(&self) -> u64 {
        self.leaf_count
    }

    /// Cleans until there is no more garbage than there may be.
    pub fn clean(&mut self) {
        while (self.used - self.live) * 100 > self.used * self.garbage_percent {
            let now = self.clock;
            let settled = self.segments.iter().enumerate().filter(|(_, segment)| {
                segment.bytes > 0 && !segment.is_open && segment.filled < self.window
            });
            // Cost-benefit with the root of the age, as the file system has it.
            let worth = settled.map(|(at, segment)| {
                let live = segment.live as f64 / SEGMENT_BYTES as f64;
                let age = ((now - segment.filled + 1) as f64).sqrt();
                ((1.0 - live) * age / (1.0 + live), at)
            });
            let best = worth.max_by(|one, other| one.0.total_cmp(&other.0));
            let Some((_, victim)) = best else {
                return;
            };
            if self.segments[victim].live * 16 > SEGMENT_BYTES * 15 {
                return;
            }
            self.empty(victim);
        }
    }

    /// A checkpoint writes the leaves that changed.
    pub fn checkpoint(&mut self) {
        let mut changed = 0;
        for leaf in &mut self.leaves {
            if std::mem::take(&mut leaf.is_changed) && leaf.parent == NONE {
                changed += 1;
            }
        }
        self.tree_bytes += changed * LEAF_BYTES * 11 / 10;
        self.window = self.clock;
    }

    /// Room that it takes: segments, and the tree.
    pub fn room(&self) -> u64 {
        let segments = self.segments.iter().filter(|segment| segment.bytes > 0);
        let segments = segments.count() as u64 * SEGMENT_BYTES;
        segments + self.leaf_count * LEAF_BYTES * NODES_PERCENT / 100
    }

    /// With a check for each 4 KiB, the extent's head, and its item's place in the group.
    fn stored(&self) -> u64 {
        self.value_bytes + 16
    }

    fn leaf_of(&mut self, slot: u32) -> usize {
        let mut leaf = (slot / LEAF_ITEMS) as usize;
        while self.leaves[leaf].parent != NONE {
            let parent = self.leaves[leaf].parent as usize;
            // Halve the way for the next one.
            if self.leaves[parent].parent != NONE {
                self.leaves[leaf].parent = self.leaves[parent].parent;
            }
            leaf = parent;
        }
        leaf
    }

    fn last_leaf(&self) -> u32 {
        match self.leaves.len() {
            0 => NONE,
            // The leaf that grows is never joined.
            len => u32::try_from(len).unwrap() - 1,
        }
    }

    fn place(&mut self, slot: u32, head: usize, rest: u64) {
        let bytes = self.stored() + rest;
        let open = self.heads[head];
        let full = open == NONE || self.segments[open as usize].bytes + bytes > SEGMENT_BYTES;
        if full {
            self.clock += 1;
            if open != NONE {
                let segment = &mut self.segments[open as usize];
                segment.is_open = false;
                segment.filled = self.clock;
                self.used += SEGMENT_BYTES - segment.bytes;
            }
            let segment = Segment {
                bytes: 0,
                live: 0,
                filled: 0,
                generation: head,
                slots: Vec::new(),
                is_open: true,
            };
            self.heads[head] = if let Some(free) = self.free.pop() {
                self.segments[free as usize] = segment;
                free
            } else {
                self.segments.push(segment);
                u32::try_from(self.segments.len()).unwrap() - 1
            };
        }
        let open = self.heads[head];
        let stored = self.stored();
        let segment = &mut self.segments[open as usize];
        segment.bytes += bytes;
        segment.live += stored;
        segment.slots.push(slot);
        self.used += bytes;
        self.live += stored;
        self.places[slot as usize] = open;
    }

    fn empty(&mut self, victim: usize) {
        let segment = &mut self.segments[victim];
        let slots = std::mem::take(&mut segment.slots);
        let head = (segment.generation + 1).min(2);
        let live = std::mem::take(&mut segment.live);
        segment.bytes = 0;
        self.live -= live;
        self.used -= SEGMENT_BYTES;
        let at = u32::try_from(victim).unwrap();
        for slot in slots {
            if self.places[slot as usize] == at {
                self.place(slot, head, 0);
                let leaf = self.leaf_of(slot);
                self.leaves[leaf].is_changed = true;
                self.moved_bytes += self.stored() * 104 / 100;
            }
        }
        self.free.push(at);
    }
}
