//! Orphans: what is left to free when a transaction has taken away a name or much data at once.
//!
//! An orphan item says so; it is removed with the last of what it stands for. So a crash leaves nothing
//! behind: whoever runs the transactions goes through [`Namespace::orphans`] after a mount and then whenever
//! there can be new ones, and calls [`Namespace::reclaim_orphan`], one transaction for each call.

use alloc::vec::Vec;

use super::Namespace;
use super::codec::{DAMAGED, Reader, put_varint};
use super::cuts::Cuts;
use super::directory::decode_entry;
use super::inode::{Inode, inode_key};
use super::named;
use super::types::{InodeNumber, Orphan, Sought};
use crate::{FileError, ItemKey, ItemKind, View};

/// What an item stands for is taken for as much work as this many bytes of data.
const ITEM_COST_BYTES: u64 = 64 << 10;

/// What an orphan item says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The inode with this number has no name.
    Nameless,
    /// The directory with this number has no name, but entries.
    Tree,
    /// The inode with this number has cuts.
    Cuts,
    /// An object that nothing else names: its number, its size, and up to where it is free.
    Data { object: u64, size: u64, from: u64 },
}

impl State {
    fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Nameless => out.push(1),
            Self::Tree => out.push(2),
            Self::Cuts => out.push(3),
            Self::Data { object, size, from } => {
                out.push(4);
                for value in [object, size, from] {
                    put_varint(&mut out, value);
                }
            }
        }
        out
    }

    /// Reads an orphan item.
    ///
    /// # Errors
    /// [`FileError::Damaged`].
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            let state = match reader.byte()? {
                1 => Self::Nameless,
                2 => Self::Tree,
                3 => Self::Cuts,
                4 => Self::Data {
                    object: reader.object()?,
                    size: reader
                        .varint()
                        .filter(|&size| i64::try_from(size).is_ok())?,
                    from: reader.varint()?,
                },
                _ => return None,
            };
            reader.end()?;
            Some(state)
        };
        read().ok_or(DAMAGED)
    }
}

fn orphan_key(id: u64) -> ItemKey {
    ItemKey::new(0, ItemKind::Orphan, id)
}

impl<V: View> Namespace<'_, V> {
    /// Up to `limit` orphans with numbers above `after`, in their order.
    ///
    /// # Errors
    /// [`FileError::Damaged`].
    pub fn orphans(&mut self, after: u64, limit: usize) -> Result<Vec<Orphan>, FileError> {
        let mut orphans = Vec::new();
        let mut id = after;
        while orphans.len() < limit {
            let next = named::next(self.view, 0, ItemKind::Orphan, id)?;
            let Some((position, value)) = next else {
                break;
            };
            id = position;
            let nameless = State::decode(&value)? == State::Nameless;
            orphans.push(Orphan {
                id,
                nameless: nameless.then_some(InodeNumber(id)),
            });
        }
        Ok(orphans)
    }

    /// Frees some of what an orphan stands for: data of about `budget_bytes` of file at most, where an item
    /// counts as 64 KiB, and at least something. True when this is done, or it was not there. Reclaiming makes
    /// new orphans: of what was in a removed tree, and of a directory that is empty now its inode, under
    /// the same number. So list them again until there are none.
    ///
    /// # Errors
    /// [`FileError::Damaged`].
    pub fn reclaim_orphan(&mut self, id: u64, budget_bytes: u64) -> Result<bool, FileError> {
        let Some(value) = self.view.get(orphan_key(id))? else {
            return Ok(true);
        };
        let mut budget = Budget(budget_bytes.max(1));
        let done = match State::decode(&value)? {
            State::Nameless => self.reclaim_inode(InodeNumber(id), &mut budget)?,
            State::Tree => {
                let done = self.empty_directory(InodeNumber(id), &mut budget)?;
                if done {
                    self.note_nameless(InodeNumber(id));
                }
                return Ok(done);
            }
            State::Cuts => self.free_cuts(InodeNumber(id), budget_bytes)?,
            State::Data { object, size, from } => {
                let (from, _) = self.free_some(object, size, (from, size), &mut budget)?;
                if from >= size {
                    self.view.free_data(object, size, 0, None)?;
                } else {
                    let state = State::Data { object, size, from };
                    self.view.put(orphan_key(id), state.encode());
                }
                from >= size
            }
        };
        if done {
            self.view.remove(orphan_key(id));
        }
        Ok(done)
    }

    /// Frees some of what large truncations of a file and large holes in it have left, as
    /// [`reclaim_orphan`](Self::reclaim_orphan) does, but whether or not the file has a name. True when nothing
    /// is left.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; [`FileError::Damaged`].
    pub fn free_cuts(&mut self, number: InodeNumber, budget_bytes: u64) -> Result<bool, FileError> {
        let mut budget = Budget(budget_bytes.max(1));
        let mut inode = self.load(number)?;
        let object = inode.data(number);
        while let Some(&(low, high)) = inode.cuts.ranges().first() {
            let size = inode.data_size();
            let (from, room) = self.free_some(object, size, (low, high), &mut budget)?;
            inode.takes_more(room);
            inode.cuts.subtract(low, from);
            if inode.data_size() < size {
                let size_now = inode.data_size();
                inode.takes_more(self.view.free_data(object, size, size_now, None)?);
            }
            if from < high {
                break;
            }
        }
        self.store(number, &inode);
        Ok(inode.cuts.is_empty())
    }

    /// Notes that an inode has no name left.
    pub(super) fn note_nameless(&mut self, inode: InodeNumber) {
        self.view.put(orphan_key(inode.0), State::Nameless.encode());
    }

    /// Notes that a directory that is not empty has no name left.
    pub(super) fn note_tree(&mut self, inode: InodeNumber) {
        self.view.put(orphan_key(inode.0), State::Tree.encode());
    }

    /// Notes that an inode with a name has cuts.
    pub(super) fn note_cuts(&mut self, inode: InodeNumber) {
        self.view.put(orphan_key(inode.0), State::Cuts.encode());
    }

    /// Notes that nothing names an object any more.
    pub(super) fn note_data_to_free(&mut self, object: u64, size: u64) {
        let id = self.view.new_object();
        let from = 0;
        let state = State::Data { object, size, from };
        self.view.put(orphan_key(id), state.encode());
    }

    fn reclaim_inode(
        &mut self,
        number: InodeNumber,
        budget: &mut Budget,
    ) -> Result<bool, FileError> {
        let mut inode = self.load_named(number)?;
        if inode.links != 0 || (inode.is_directory() && inode.size != 0) {
            return Err(DAMAGED);
        }
        let size = inode.data_size();
        let from = match inode.cuts.ranges() {
            // So far an earlier step has come.
            [(from, _)] if inode.size == 0 => *from,
            _ => 0,
        };
        let object = inode.data(number);
        let (from, room) = self.free_some(object, size, (from, size), budget)?;
        inode.takes_more(room);
        let done = from >= size;
        (inode.size, inode.cuts) = (0, Cuts::default());
        if !done {
            inode.cuts.add(from, size);
        } else if size > 0 {
            inode.takes_more(self.view.free_data(object, size, 0, None)?);
        }
        if !done || !self.remove_attributes(number, &mut inode, budget)? {
            self.store(number, &inode);
            return Ok(false);
        }
        self.view.remove(inode_key(number));
        Ok(true)
    }

    /// Takes the names out of a removed directory that was not empty.
    fn empty_directory(
        &mut self,
        number: InodeNumber,
        budget: &mut Budget,
    ) -> Result<bool, FileError> {
        let mut inode = self.load_named(number)?;
        if inode.links != 0 || !inode.is_directory() {
            return Err(DAMAGED);
        }
        let mut after = 0;
        while inode.size > 0 && budget.take(ITEM_COST_BYTES) {
            let first = named::next(self.view, number.0, ItemKind::Entry, after)?;
            let (position, value) = first.ok_or(DAMAGED)?;
            let (_, named) = decode_entry(&value)?;
            self.lose_name(named)?;
            self.remove_entry(number, position);
            inode.size -= 1;
            // Not to go through what is removed again.
            after = position;
        }
        self.store(number, &inode);
        Ok(inode.size == 0)
    }

    fn remove_attributes(
        &mut self,
        number: InodeNumber,
        inode: &mut Inode,
        budget: &mut Budget,
    ) -> Result<bool, FileError> {
        let mut after = 0;
        while let Some((position, value)) =
            named::next(self.view, number.0, ItemKind::Attribute, after)?
        {
            if !budget.take(ITEM_COST_BYTES) {
                return Ok(false);
            }
            self.remove_attribute_at(number, inode, position, &value)?;
            after = position;
        }
        Ok(true)
    }

    /// Frees data within a range as long as the budget lasts, from its start on. Returns up to where it is
    /// free, and by how much room more the data take.
    fn free_some(
        &mut self,
        object: u64,
        size: u64,
        (from, to): (u64, u64),
        budget: &mut Budget,
    ) -> Result<(u64, i64), FileError> {
        let mut at = from;
        let mut room = 0;
        while at < to {
            let place = match self.view.seek_data(object, size, at, true)? {
                Sought::At(place) if place < to => place,
                Sought::Further(place) if place < to => {
                    return Ok((place, room));
                }
                _ => break,
            };
            if !budget.take(self.limits.chunk_bytes) {
                return Ok((at, room));
            }
            at = self.limits.chunk_end(place).min(to);
            room += self.view.free_data(object, size, place, Some(at))?;
        }
        Ok((to, room))
    }
}

/// Work that may still be done.
struct Budget(u64);

impl Budget {
    /// Whether there is any left for a piece of work that costs `bytes`; the last piece may cost more
    /// than is left.
    fn take(&mut self, bytes: u64) -> bool {
        let left = self.0 > 0;
        self.0 = self.0.saturating_sub(bytes);
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_item_comes_back_from_its_bytes_and_others_are_damaged() {
        let data = State::Data {
            object: 9,
            size: 1 << 40,
            from: 4096,
        };
        for state in [State::Nameless, State::Tree, State::Cuts, data] {
            assert_eq!(State::decode(&state.encode()), Ok(state));
        }
        for bad in [&[][..], &[0], &[1, 0], &[5], &[4, 0, 1, 1], &[4, 1, 1]] {
            assert_eq!(State::decode(bad), Err(DAMAGED));
        }
    }
}
