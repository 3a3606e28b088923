//! Entries by slot number.
//!
//! A key keeps its slot from its creation to its removal, so a walk over slot numbers meets every
//! key that is there all along exactly once, whatever else comes and goes: SCAN's cursor is the number.
//!
//! Memory comes in chunks, so growing never moves what is there and takes no longer the more there is.

use alloc::vec::Vec;

/// Slots of a chunk.
const CHUNK_SLOTS: usize = 256;

/// Slots looked at for a random entry before the caller must find one another way.
const RANDOM_TRIES: u64 = 64;

pub(crate) struct Slots<T> {
    chunks: Vec<Vec<Option<T>>>,
    /// Slots that were freed; numbers past the end of `chunks` are stale.
    free: Vec<u32>,
    occupied: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            occupied: 0,
        }
    }
}

impl<T> Slots<T> {
    pub(crate) fn get(&self, slot: u32) -> Option<&T> {
        let slot = slot as usize;
        self.chunks
            .get(slot / CHUNK_SLOTS)?
            .get(slot % CHUNK_SLOTS)?
            .as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.place(slot)?.as_mut()
    }

    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        self.occupied += 1;
        while let Some(slot) = self.free.pop() {
            if let Some(place) = self.place(slot)
                && place.is_none()
            {
                *place = Some(entry);
                return slot;
            }
        }
        if self
            .chunks
            .last()
            .is_none_or(|chunk| chunk.len() == CHUNK_SLOTS)
        {
            self.chunks.push(Vec::new());
        }
        let full = (self.chunks.len() - 1) * CHUNK_SLOTS;
        let in_last = self.chunks.last_mut().map_or(0, |chunk| {
            chunk.push(Some(entry));
            chunk.len() - 1
        });
        // More than 2^32 entries do not fit into any memory this runs in.
        u32::try_from(full + in_last).unwrap_or(u32::MAX)
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.place(slot)?.take()?;
        self.free.push(slot);
        self.occupied -= 1;
        if self.occupied == 0 {
            *self = Self::default();
        }
        Some(entry)
    }

    /// All entries with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let places = (0..).zip(self.chunks.iter().flatten());
        places.filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// Visits up to `count` slots from `cursor`; the next cursor, or 0 at the end.
    pub(crate) fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&T)) -> u64 {
        let end = self.end();
        let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(end);
        let stop = start.saturating_add(count).min(end);
        for slot in start..stop {
            if let Some(entry) = u32::try_from(slot).ok().and_then(|slot| self.get(slot)) {
                visit(entry);
            }
        }
        if stop == end { 0 } else { stop as u64 }
    }

    /// Entries at random places, in the order in which they are tried.
    pub(crate) fn random(&self, random: u64) -> impl Iterator<Item = &T> {
        (0..RANDOM_TRIES).filter_map(move |round| {
            let number = random.wrapping_add(round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let at = number.checked_rem(self.end() as u64)?;
            self.get(u32::try_from(at).ok()?)
        })
    }

    /// Any one entry, taken out.
    pub(crate) fn pop(&mut self) -> Option<T> {
        loop {
            let chunk = self.chunks.last_mut()?;
            match chunk.pop() {
                Some(Some(entry)) => {
                    self.occupied -= 1;
                    return Some(entry);
                }
                Some(None) => {}
                None => {
                    self.chunks.pop();
                }
            }
        }
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<T>> {
        let slot = slot as usize;
        self.chunks
            .get_mut(slot / CHUNK_SLOTS)?
            .get_mut(slot % CHUNK_SLOTS)
    }

    fn end(&self) -> usize {
        self.chunks
            .last()
            .map_or(0, |last| (self.chunks.len() - 1) * CHUNK_SLOTS + last.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_keeps_its_slot_and_freed_slots_are_used_again() {
        let mut slots = Slots::default();
        assert_eq!(["a", "b", "c"].map(|entry| slots.insert(entry)), [0, 1, 2]);
        assert_eq!(slots.remove(1), Some("b"));
        assert_eq!((slots.remove(1), slots.get(1)), (None, None));
        assert_eq!(slots.insert("d"), 1);
        let mut seen = Vec::new();
        assert_eq!(slots.scan(0, 2, |entry| seen.push(*entry)), 2);
        assert_eq!(slots.scan(2, 2, |entry| seen.push(*entry)), 0);
        assert_eq!(seen, ["a", "d", "c"]);
        for slot in 0..3 {
            slots.remove(slot);
        }
        assert_eq!((slots.insert("e"), slots.free.len()), (0, 0));
        assert_eq!(slots.random(77).next(), Some(&"e"));
    }

    #[test]
    fn entries_spread_over_chunks() {
        let mut slots = Slots::default();
        let count = u32::try_from(3 * CHUNK_SLOTS + 5).unwrap();
        for number in 0..count {
            assert_eq!(slots.insert(number), number);
        }
        assert!((0..count).all(|slot| slots.get(slot) == Some(&slot)));
        let mut seen = 0;
        assert_eq!(slots.scan(0, usize::MAX, |_| seen += 1), 0);
        assert_eq!(seen, count);
        slots.remove(7);
        let popped = core::iter::from_fn(|| slots.pop()).count();
        assert_eq!(popped, 3 * CHUNK_SLOTS + 4);
    }
}
