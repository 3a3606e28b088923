//! How often hashes were seen lately, in a few bits: a count-min sketch (Cormode and Muthukrishnan, 2005) of four rows with counts up to 15. All are halved, a word with each hash that is
//! seen, when there were ten times as many as there is room for.

use alloc::vec::Vec;

/// Entries for each word of 16 counts: two counts of each row for each entry.
const ENTRIES_PER_WORD: usize = 2;

/// The least there is.
const WORDS_MIN: usize = 64;

/// 4 MiB, good for a million entries. With more it counts less exactly, and no step copies more.
const WORDS_MAX: usize = 1 << 19;

/// For each row what hashes are multiplied with: odd, without a pattern.
const ROWS: [u64; 4] = [
    0x9E37_79B9_7F4A_7C15,
    0xBF58_476D_1CE4_E5B9,
    0x94D0_49BB_1331_11EB,
    0xD6E8_FEB8_6659_FD93,
];

/// Keeps the top bit of no count, after a shift of all of them by one.
const HALVED: u64 = 0x7777_7777_7777_7777;

#[derive(Default)]
pub(crate) struct Sketch {
    /// A power of two; each row has its own quarter of a word's counts.
    words: Vec<u64>,
    seen: usize,
    /// The next word to be halved; behind the last one when nothing is.
    halving: usize,
}

impl Sketch {
    /// Has room for `entries`. To grow keeps the counts.
    pub(crate) fn make_room(&mut self, entries: usize) {
        while self.words.len() < (entries / ENTRIES_PER_WORD).clamp(WORDS_MIN, WORDS_MAX) {
            let len = self.words.len();
            // Without memory it counts less exactly.
            if self.words.try_reserve_exact(len.max(WORDS_MIN)).is_err() {
                return;
            }
            if len == 0 {
                self.words.resize(WORDS_MIN, 0);
                self.halving = WORDS_MIN;
            } else {
                // A hash's word is said by its low bits: those that one more bit tells apart begin with the same counts.
                self.words.extend_from_within(..);
                // Halving would go on in the copies of what was halved.
                self.halving = self.words.len();
            }
        }
    }

    /// Is for `entries` only: gives memory back when it has room for far more. Counts are as good as they were, of half of all hashes.
    pub(crate) fn shrink(&mut self, entries: usize) {
        let half = self.words.len() / 2;
        if half >= WORDS_MIN && half > 4 * entries / ENTRIES_PER_WORD {
            self.words.truncate(half);
            self.words.shrink_to_fit();
            self.seen /= 2;
            self.halving = self.halving.min(half);
        }
    }

    /// Counts one more of `hash`.
    pub(crate) fn add(&mut self, hash: u64) {
        let Some(mask) = self.words.len().checked_sub(1) else {
            return;
        };
        let mut added = false;
        for row in 0..ROWS.len() {
            let (at, shift) = place(hash, row, mask);
            if let Some(word) = self.words.get_mut(at)
                && (*word >> shift) & 15 < 15
            {
                *word += 1 << shift;
                added = true;
            }
        }
        self.seen += usize::from(added);
        if self.seen >= 10 * ENTRIES_PER_WORD * self.words.len() {
            self.seen /= 2;
            self.halving = 0;
        }
        if let Some(word) = self.words.get_mut(self.halving) {
            *word = (*word >> 1) & HALVED;
            self.halving += 1;
        }
    }

    /// How often `hash` was seen, 0 … 15; rather too often than too seldom.
    pub(crate) fn count(&self, hash: u64) -> u8 {
        let Some(mask) = self.words.len().checked_sub(1) else {
            return 0;
        };
        let counts = (0..ROWS.len()).map(|row| {
            let (at, shift) = place(hash, row, mask);
            let word = self.words.get(at).copied().unwrap_or(0);
            (word >> shift).to_le_bytes()[0] & 15
        });
        counts.min().unwrap_or(0)
    }
}

/// Of a row: the word, and the count in it, as the shift to it.
fn place(hash: u64, row: usize, mask: usize) -> (usize, u32) {
    let mixed = hash.wrapping_mul(ROWS.get(row).copied().unwrap_or(1));
    let [.., in_row] = mixed.to_le_bytes();
    let at = usize::try_from(mixed >> 32).unwrap_or(0) & mask;
    let count = row * 4 + usize::from(in_row >> 6);
    (at, u32::try_from(count).unwrap_or(0) * 4)
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;
    use crate::testing::random;

    #[test]
    fn never_counts_too_little_and_hardly_ever_too_much() {
        let mut random = random(7);
        let mut sketch = Sketch::default();
        let mut exact = BTreeMap::<u64, u8>::new();
        for entries in 1..=2000 {
            // It grows between, and forgets nothing.
            sketch.make_room(entries);
            let hash = random.next_u64();
            for _ in 0..=random.below(20) {
                sketch.add(hash);
                let count = exact.entry(hash).or_default();
                *count = (*count + 1).min(15);
            }
        }
        assert!(sketch.seen < 10 * ENTRIES_PER_WORD * sketch.words.len());
        let mut wrong = 0;
        for (hash, count) in &exact {
            assert!(sketch.count(*hash) >= *count);
            wrong += usize::from(sketch.count(*hash) > *count);
        }
        // Growing copies what collided.
        assert!(wrong < 700, "{wrong} of {}", exact.len());
        let mut grown_at_once = Sketch::default();
        grown_at_once.make_room(2000);
        for (hash, count) in &exact {
            (0..*count).for_each(|_| grown_at_once.add(*hash));
        }
        let wrong = exact
            .iter()
            .filter(|(hash, count)| grown_at_once.count(**hash) != **count);
        assert!(wrong.count() < 100);
    }

    #[test]
    fn forgets_what_is_not_seen_again() {
        let mut random = random(8);
        let mut sketch = Sketch::default();
        sketch.make_room(256);
        let (old, now) = (random.next_u64(), random.next_u64());
        (0..15).for_each(|_| sketch.add(old));
        assert_eq!(sketch.count(old), 15);
        for _ in 0..20_000 {
            sketch.add(random.next_u64());
            sketch.add(now);
        }
        assert!(sketch.count(old) < 8, "{}", sketch.count(old));
        assert!(sketch.count(now) > 8);
    }

    #[test]
    fn without_room_it_counts_nothing() {
        let mut sketch = Sketch::default();
        sketch.add(5);
        assert_eq!(sketch.count(5), 0);
    }
}
