//! A vector that grows by pieces of one size: what is there never moves, so no step copies more than it adds.

use alloc::vec::Vec;

use crate::engine::types::OutOfMemory;

/// Items of a piece.
const PIECE_ITEMS: usize = 1024;

/// Items by number.
pub(crate) struct Chunked<T> {
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Chunked<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Chunked<T> {
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
        let full = |piece: &Vec<T>| piece.len() == PIECE_ITEMS;
        if self.pieces.last().is_none_or(full) {
            let mut piece = Vec::new();
            let room = piece.try_reserve_exact(PIECE_ITEMS);
            room.and_then(|()| self.pieces.try_reserve(1))
                .map_err(|_| OutOfMemory)?;
            self.pieces.push(piece);
        }
        let before = (self.pieces.len() - 1) * PIECE_ITEMS;
        let piece = self.pieces.last_mut().ok_or(OutOfMemory)?;
        let at = u32::try_from(before + piece.len()).map_err(|_| OutOfMemory)?;
        piece.push(item);
        Ok(at)
    }
}
