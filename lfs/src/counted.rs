//! Counting those who do something just now.

use core::cell::Cell;

/// One of them, until it is dropped.
pub(crate) struct Counted<'c>(&'c Cell<u32>);

impl<'c> Counted<'c> {
    /// One more than there were.
    pub(crate) fn among(count: &'c Cell<u32>) -> Self {
        count.update(|count| count + 1);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.update(|count| count - 1);
    }
}
