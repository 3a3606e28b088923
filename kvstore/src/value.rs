//! Keys and values as they are kept in memory.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Deref;

/// A key; cloning is cheap.
pub type Key = Rc<[u8]>;

/// An immutable value; cloning is cheap (a reference count).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Value(Rc<Vec<u8>>);

impl Value {
    /// Appends `tail`; in place when nobody else holds this value.
    ///
    /// Leaves room for an eighth more: growing by small tails stays cheap, and what is not counted as
    /// memory stays small.
    pub(crate) fn append(&mut self, tail: &[u8]) {
        let bytes = Rc::make_mut(&mut self.0);
        if bytes.capacity() - bytes.len() < tail.len() {
            bytes.reserve_exact(tail.len() + bytes.len() / 8);
        }
        bytes.extend_from_slice(tail);
    }

    /// Makes it as long as it was.
    pub(crate) fn truncate(&mut self, len: usize) {
        Rc::make_mut(&mut self.0).truncate(len);
    }

    /// Memory that goes with the last of its clones.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.capacity()
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Rc::new(bytes))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(Rc::new(bytes.to_vec()))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What a read finds: a live (not expired) value and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Unix milliseconds; `None` lives for ever.
    pub expires_at_ms: Option<i64>,
}
