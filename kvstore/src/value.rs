//! Keys and values as they are kept in memory.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::ops::Deref;

/// A key; cloning is cheap.
pub type Key = Rc<[u8]>;

/// An immutable value; cloning is cheap (a reference count).
#[derive(Debug, Clone)]
pub struct Value(Bytes);

#[derive(Debug, Clone)]
enum Bytes {
    /// As long as they were made.
    Fixed(Rc<[u8]>),
    /// With room for more.
    Growing(Rc<Vec<u8>>),
}

impl Value {
    /// Appends `tail`; in place when nobody else holds this value.
    ///
    /// Leaves room for an eighth more: growing by small tails stays cheap, and what is not counted as
    /// memory stays small.
    pub(crate) fn append(&mut self, tail: &[u8]) {
        let Some(bytes) = self.growing() else {
            return;
        };
        if bytes.capacity() - bytes.len() < tail.len() {
            bytes.reserve_exact(tail.len() + bytes.len() / 8);
        }
        bytes.extend_from_slice(tail);
    }

    /// Makes it as long as it was.
    pub(crate) fn truncate(&mut self, len: usize) {
        if let Some(bytes) = self.growing() {
            bytes.truncate(len);
        }
    }

    /// Memory that goes with the last of its clones.
    pub(crate) fn memory_bytes(&self) -> usize {
        match &self.0 {
            Bytes::Fixed(bytes) => bytes.len(),
            Bytes::Growing(bytes) => bytes.capacity(),
        }
    }

    /// Its bytes, to be changed; nobody else holds them. They always are there.
    fn growing(&mut self) -> Option<&mut Vec<u8>> {
        if let Bytes::Fixed(bytes) = &self.0 {
            self.0 = Bytes::Growing(Rc::new(bytes.to_vec()));
        }
        match &mut self.0 {
            Bytes::Fixed(_) => None,
            Bytes::Growing(bytes) => Some(Rc::make_mut(bytes)),
        }
    }
}

impl Default for Value {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Value {}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Bytes::Growing(Rc::new(bytes)))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::Fixed(Rc::from(bytes)))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Fixed(bytes) => bytes,
            Bytes::Growing(bytes) => bytes,
        }
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
