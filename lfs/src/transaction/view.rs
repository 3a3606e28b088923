//! What an operation sees of the file system, and how it changes it.

use alloc::vec::Vec;

use crate::{FileError, ItemKey, Sought};

/// Items with their keys, and where to go on.
pub type SomeItems = (Vec<(ItemKey, Vec<u8>)>, Option<ItemKey>);

/// One consistent state, with the changes made through it on top. Implemented by
/// [`Transaction`](crate::Transaction), and in tests by plain maps.
///
/// Every function may return [`FileError::Fault`]: see [`Fault`](crate::Fault). After that the view
/// must not be committed; the operation is run again on a new one.
pub trait View {
    /// The item's value.
    ///
    /// # Errors
    /// [`FileError::Fault`], or what is damaged.
    fn get(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError>;

    /// As [`get`](Self::get), of an inode of which the caller needs only what it is, whether it has a name, and which
    /// directory it is in; or that it changes: then it puts back what it got, with counts made larger or smaller, or single
    /// values set to what does not depend on what they were. So others may do the same at the same time.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn glance(&mut self, key: ItemKey) -> Result<Option<Vec<u8>>, FileError> {
        self.get(key)
    }

    /// The first items in `from..=to`, which are keys of one kind and object, in the order of keys: up to `limit`, perhaps
    /// fewer, none only when there are none. With where to go on, unless it is known that these are the last.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn some(&mut self, from: ItemKey, to: ItemKey, limit: usize) -> Result<SomeItems, FileError>;

    /// The first of them.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn first(
        &mut self,
        from: ItemKey,
        to: ItemKey,
    ) -> Result<Option<(ItemKey, Vec<u8>)>, FileError> {
        let (items, _) = self.some(from, to, 1)?;
        Ok(items.into_iter().next())
    }

    /// Sets an item. Its value has at most [`ITEM_BYTES_MAX`](crate::ITEM_BYTES_MAX) bytes.
    fn put(&mut self, key: ItemKey, value: Vec<u8>);

    /// Removes an item, if it is there.
    fn remove(&mut self, key: ItemKey);

    /// The number of an object that was never used before.
    fn new_object(&mut self) -> u64;

    /// Now, in nanoseconds since the Unix epoch.
    fn now_ns(&self) -> i64;

    /// A hash of `name` that only this file system knows how to compute, so that nobody chooses
    /// names that collide.
    fn hash_name(&self, name: &[u8]) -> u64;

    /// Reads the data of `object`, which is `size` bytes long, from `offset` on, into all of `target`. What
    /// was never written reads as zeros. `offset + target.len()` is at most `size`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn read_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        target: &mut [u8],
    ) -> Result<(), FileError>;

    /// Writes `bytes` at `offset` of the data of `object`, which is `size` bytes long before; what lies
    /// between `size` and `offset` reads as zeros from then on. Returns by how much room more the data take,
    /// as [`Stat::allocated_bytes`](crate::Stat::allocated_bytes) counts it.
    ///
    /// # Errors
    /// As [`get`](Self::get), or [`FileError::TransactionTooLarge`].
    fn write_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<i64, FileError>;

    /// Frees the data of `object`, which is `size` bytes long, from `from` up to `to` (or, without it, all that is
    /// behind): it reads as zeros. With `to` absent the caller sets the size to `from` in the same transaction.
    /// Returns by how much room more (so, in general, a negative number) the data take.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn free_data(
        &mut self,
        object: u64,
        size: u64,
        from: u64,
        to: Option<u64>,
    ) -> Result<i64, FileError>;

    /// Room that was freed so far, for those who bound the work of a transaction.
    fn freed_bytes(&self) -> u64 {
        0
    }

    /// The first offset at or after `offset` where there is data (`data`: true) or a hole (false) in
    /// `object`, which is `size` bytes long. Before the end only: the end is a hole where data are before it.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn seek_data(
        &mut self,
        object: u64,
        size: u64,
        offset: u64,
        data: bool,
    ) -> Result<Sought, FileError>;
}
