//! Keys by slot number, for SCAN and RANDOMKEY.
//!
//! A key keeps its slot from its creation to its removal, so a walk over slot numbers meets every
//! key that is there all along exactly once, whatever else comes and goes; the cursor is the number.

use alloc::vec::Vec;

use crate::Key;

/// Slots looked at for a random key before the caller must find one another way.
const RANDOM_TRIES: u64 = 64;

#[derive(Default)]
pub(crate) struct Slots {
    keys: Vec<Option<Key>>,
    /// Slots that were freed; numbers past the end of `keys` are stale.
    free: Vec<u32>,
}

impl Slots {
    /// Bytes a slot takes.
    pub(crate) const BYTES: usize = size_of::<Option<Key>>() + size_of::<u32>();

    pub(crate) fn insert(&mut self, key: Key) -> u32 {
        while let Some(slot) = self.free.pop() {
            if let Some(place) = self.keys.get_mut(slot as usize)
                && place.is_none()
            {
                *place = Some(key);
                return slot;
            }
        }
        self.keys.push(Some(key));
        // More than 2^32 keys do not fit into any memory this runs in.
        u32::try_from(self.keys.len() - 1).unwrap_or(u32::MAX)
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(place) = self.keys.get_mut(slot as usize) {
            *place = None;
            self.free.push(slot);
        }
        while self.keys.last().is_some_and(Option::is_none) {
            self.keys.pop();
        }
        if self.keys.is_empty() {
            self.free.clear();
        }
    }

    /// Visits up to `count` slots from `cursor`; the next cursor, or 0 at the end.
    pub(crate) fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&Key)) -> u64 {
        let start = usize::try_from(cursor)
            .unwrap_or(usize::MAX)
            .min(self.keys.len());
        let end = start.saturating_add(count).min(self.keys.len());
        self.keys
            .get(start..end)
            .unwrap_or_default()
            .iter()
            .flatten()
            .for_each(&mut visit);
        if end == self.keys.len() {
            0
        } else {
            end as u64
        }
    }

    /// Keys at random places, in the order in which they are tried.
    pub(crate) fn random(&self, random: u64) -> impl Iterator<Item = &Key> {
        (0..RANDOM_TRIES).filter_map(move |round| {
            let number = random.wrapping_add(round.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let at = number.checked_rem(self.keys.len() as u64)?;
            self.keys.get(usize::try_from(at).ok()?)?.as_ref()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_keeps_its_slot_and_freed_slots_are_used_again() {
        let mut slots = Slots::default();
        let key = |name: &str| Key::from(name.as_bytes());
        assert_eq!(
            [
                slots.insert(key("a")),
                slots.insert(key("b")),
                slots.insert(key("c"))
            ],
            [0, 1, 2]
        );
        slots.remove(1);
        assert_eq!(slots.insert(key("d")), 1);
        let mut seen = Vec::new();
        assert_eq!(slots.scan(0, 2, |k| seen.push(k.clone())), 2);
        assert_eq!(slots.scan(2, 2, |k| seen.push(k.clone())), 0);
        assert_eq!(seen, [key("a"), key("d"), key("c")]);
        slots.remove(2);
        slots.remove(1);
        slots.remove(0);
        assert_eq!(
            (slots.insert(key("e")), slots.keys.len(), slots.free.len()),
            (0, 1, 0)
        );
        assert_eq!(slots.random(77).next(), Some(&key("e")));
    }
}
