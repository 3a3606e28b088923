//! A vector that grows and shrinks by pieces of one size: what is there never moves, so no step copies more than it adds.

use alloc::vec::Vec;

use crate::engine::types::OutOfMemory;

/// Items of a piece.
const PIECE_ITEMS: usize = 128;

/// Items by number.
pub(crate) struct Chunked<T> {
    /// All full but the last one that is begun; behind it there may be one more.
    pieces: Vec<Vec<T>>,
    len: usize,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Chunked<T> {
    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.len).unwrap_or(u32::MAX)
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        self.pieces.get(at / PIECE_ITEMS)?.get(at % PIECE_ITEMS)
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut T> {
        let at = at as usize;
        let piece = self.pieces.get_mut(at / PIECE_ITEMS)?;
        piece.get_mut(at % PIECE_ITEMS)
    }

    /// Adds an item behind all others: its number.
    pub(crate) fn push(&mut self, item: T) -> Result<u32, OutOfMemory> {
        let at = u32::try_from(self.len).map_err(|_| OutOfMemory)?;
        let begun = self.len / PIECE_ITEMS;
        if begun == self.pieces.len() {
            let mut piece = Vec::new();
            piece.try_reserve_exact(PIECE_ITEMS)?;
            self.pieces.try_reserve(1)?;
            self.pieces.push(piece);
        }
        let piece = self.pieces.get_mut(begun).ok_or(OutOfMemory)?;
        piece.push(item);
        self.len += 1;
        Ok(at)
    }

    /// Sets the item of number `at`. Those before it that were not there become the same.
    pub(crate) fn set(&mut self, at: u32, item: T) -> Result<(), OutOfMemory>
    where
        T: Copy,
    {
        loop {
            if let Some(there) = self.get_mut(at) {
                *there = item;
                return Ok(());
            }
            self.push(item)?;
        }
    }

    /// Takes the item out; the last one is in its place then.
    pub(crate) fn swap_remove(&mut self, at: u32) -> Option<T> {
        if at as usize >= self.len {
            return None;
        }
        let last = self.pop()?;
        match self.get_mut(at) {
            Some(place) => Some(core::mem::replace(place, last)),
            None => Some(last),
        }
    }

    /// Leaves the first `len`.
    pub(crate) fn truncate(&mut self, len: u32) {
        while self.len > len as usize && self.pop().is_some() {}
    }

    fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        let item = self.pieces.get_mut(self.len / PIECE_ITEMS)?.pop();
        // An empty piece stays until the one before it is half empty: the next item may be for it.
        let kept = (self.len + PIECE_ITEMS / 2) / PIECE_ITEMS + 1;
        self.pieces.truncate(kept);
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn is_a_vector_that_gives_memory_back() {
        let mut random = random(13);
        let (mut chunked, mut model) = (Chunked::default(), Vec::new());
        for round in 0..40 {
            for _ in 0..random.index(1000) {
                let at = random.index(model.len() + 1);
                if random.below(10) < 4 + round % 4 {
                    let number = random.next_u64();
                    assert_eq!(chunked.push(number).unwrap() as usize, model.len());
                    model.push(number);
                } else if at < model.len() {
                    let at_u32 = u32::try_from(at).unwrap();
                    assert_eq!(chunked.swap_remove(at_u32), Some(model.swap_remove(at)));
                } else {
                    assert_eq!(chunked.swap_remove(chunked.len()), None);
                    assert_eq!(chunked.get(chunked.len()), None);
                }
                assert_eq!(chunked.len() as usize, model.len());
                assert!(chunked.pieces.len() <= model.len() / PIECE_ITEMS + 2);
            }
            let left = random.index(model.len() + 1);
            if random.one_in(3) {
                chunked.truncate(u32::try_from(left).unwrap());
                model.truncate(left);
            }
            for (at, number) in (0..).zip(&model) {
                assert_eq!(chunked.get(at), Some(number));
            }
        }
    }
}
