//! Extended attributes: named values of an inode of any kind.
//!
//! A value that makes its item too large for the tree is the content of an object of its own.

use alloc::vec::Vec;

use super::Namespace;
use super::codec::{DAMAGED, Reader, put_varint};
use super::inode::Inode;
use super::named::{self, Place};
use super::types::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTE_NAMES_BYTES_MAX, InodeNumber, NAME_BYTES_MAX, XattrMode,
};
use crate::{FileError, ITEM_BYTES_MAX, ItemKey, ItemKind, View};

/// Names that are listed in one go, for a list of all.
const NAMES_AT_ONCE: usize = 256;

/// Bytes of an item that holds a value besides the name and the value.
const INLINE_OVERHEAD_BYTES: usize = 2;

/// The value of an attribute as its item holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In an object of this number and size.
    Stored { object: u64, size: u64 },
}

impl<'a> Value<'a> {
    fn encode(self) -> Vec<u8> {
        match self {
            Self::Inline(bytes) => [&[1], bytes].concat(),
            Self::Stored { object, size } => {
                let mut out = alloc::vec![2];
                put_varint(&mut out, object);
                put_varint(&mut out, size);
                out
            }
        }
    }

    fn decode(payload: &'a [u8]) -> Result<Self, FileError> {
        let mut reader = Reader::new(payload);
        let stored = match reader.byte() {
            Some(1) => return Ok(Self::Inline(reader.rest())),
            Some(2) => reader.object().zip(reader.varint()).zip(reader.end()),
            _ => None,
        };
        let ((object, size), ()) = stored.ok_or(DAMAGED)?;
        if size == 0 || size > ATTRIBUTE_BYTES_MAX as u64 {
            return Err(DAMAGED);
        }
        Ok(Self::Stored { object, size })
    }
}

/// An attribute as an item holds it.
///
/// # Errors
/// [`FileError::Damaged`].
pub(crate) fn decode_attribute(value: &[u8]) -> Result<(&[u8], Value<'_>), FileError> {
    let (name, payload) = named::split(value)?;
    check_attribute_name(name).map_err(|_| DAMAGED)?;
    Ok((name, Value::decode(payload)?))
}

impl<V: View> Namespace<'_, V> {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`FileError::NotFound`] for the inode, [`FileError::NoAttribute`]; for the name
    /// [`FileError::AttributeTooLarge`] above 255 bytes, [`FileError::Invalid`] when it is empty or has NUL.
    pub fn get_xattr(&mut self, inode: InodeNumber, name: &[u8]) -> Result<Vec<u8>, FileError> {
        self.glance(inode)?;
        check_attribute_name(name)?;
        let Place::Taken(_, payload) = self.find_attribute(inode, name)? else {
            return Err(FileError::NoAttribute);
        };
        match Value::decode(&payload)? {
            Value::Inline(bytes) => Ok(bytes.to_vec()),
            Value::Stored { object, size } => {
                let mut bytes = alloc::vec![0; usize::try_from(size).map_err(|_| DAMAGED)?];
                self.view.read_data(object, size, 0, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    /// Sets an extended attribute. Which names a caller may use is up to the caller.
    ///
    /// # Errors
    /// For the name as [`get_xattr`](Self::get_xattr); [`FileError::AttributeTooLarge`] above 65,536 bytes of
    /// value; [`FileError::Exists`] or [`FileError::NoAttribute`] as `mode` asks;
    /// [`FileError::NoSpace`] when the names of the inode's attributes, one byte more for each, would
    /// be longer than 65,536 bytes.
    pub fn set_xattr(
        &mut self,
        inode: InodeNumber,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Result<(), FileError> {
        let mut found = self.glance(inode)?;
        check_attribute_name(name)?;
        if value.len() > ATTRIBUTE_BYTES_MAX {
            return Err(FileError::AttributeTooLarge);
        }
        let position = match self.find_attribute(inode, name)? {
            Place::Taken(..) if mode == XattrMode::Create => return Err(FileError::Exists),
            Place::Free(_) if mode == XattrMode::Replace => return Err(FileError::NoAttribute),
            Place::Free(None) => return Err(FileError::NoSpace),
            Place::Taken(position, payload) => {
                self.free_value(&payload)?;
                position
            }
            Place::Free(Some(position)) => {
                found.attribute_names_bytes += listed_bytes(name);
                if found.attribute_names_bytes as usize > ATTRIBUTE_NAMES_BYTES_MAX {
                    return Err(FileError::NoSpace);
                }
                position
            }
        };
        let encoded = if name.len() + value.len() + INLINE_OVERHEAD_BYTES <= ITEM_BYTES_MAX {
            Value::Inline(value).encode()
        } else {
            let object = self.view.new_object();
            self.view.write_data(object, 0, 0, value)?;
            let size = value.len() as u64;
            Value::Stored { object, size }.encode()
        };
        let key = ItemKey::new(inode.0, ItemKind::Attribute, position);
        self.view.put(key, named::join(name, &encoded));
        found.ctime_ns = self.view.now_ns();
        self.store(inode, &found);
        Ok(())
    }

    /// The names of all extended attributes, in an order of the inode's own; with one byte more for each
    /// at most 65,536 bytes.
    ///
    /// # Errors
    /// [`FileError::NotFound`] for the inode.
    pub fn list_xattrs(&mut self, inode: InodeNumber) -> Result<Vec<Vec<u8>>, FileError> {
        let found = self.glance(inode)?;
        let mut left = found.attribute_names_bytes;
        let mut names = Vec::new();
        let mut after = Some(0);
        while let Some(position) = after {
            let items;
            (items, after) = named::some(
                self.view,
                inode.0,
                ItemKind::Attribute,
                position,
                NAMES_AT_ONCE,
            )?;
            for (_, value) in items {
                let (name, _) = decode_attribute(&value)?;
                left = left.checked_sub(listed_bytes(name)).ok_or(DAMAGED)?;
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// As [`get_xattr`](Self::get_xattr).
    pub fn remove_xattr(&mut self, inode: InodeNumber, name: &[u8]) -> Result<(), FileError> {
        let mut found = self.glance(inode)?;
        check_attribute_name(name)?;
        let Place::Taken(position, payload) = self.find_attribute(inode, name)? else {
            return Err(FileError::NoAttribute);
        };
        self.take_attribute(inode, &mut found, position, (name, &payload))?;
        found.ctime_ns = self.view.now_ns();
        self.store(inode, &found);
        Ok(())
    }

    /// Removes the attribute whose item has this value, of an inode that the caller stores.
    pub(super) fn remove_attribute_at(
        &mut self,
        inode: InodeNumber,
        found: &mut Inode,
        position: u64,
        value: &[u8],
    ) -> Result<(), FileError> {
        self.take_attribute(inode, found, position, named::split(value)?)
    }

    fn take_attribute(
        &mut self,
        inode: InodeNumber,
        found: &mut Inode,
        position: u64,
        (name, payload): (&[u8], &[u8]),
    ) -> Result<(), FileError> {
        let bytes = found.attribute_names_bytes.checked_sub(listed_bytes(name));
        found.attribute_names_bytes = bytes.ok_or(DAMAGED)?;
        self.free_value(payload)?;
        let key = ItemKey::new(inode.0, ItemKind::Attribute, position);
        self.view.remove(key);
        Ok(())
    }

    fn find_attribute(&mut self, inode: InodeNumber, name: &[u8]) -> Result<Place, FileError> {
        named::find(self.view, inode.0, ItemKind::Attribute, name)
    }

    fn free_value(&mut self, payload: &[u8]) -> Result<(), FileError> {
        if let Value::Stored { object, size } = Value::decode(payload)? {
            self.view.free_data(object, size, 0, None)?;
        }
        Ok(())
    }
}

fn check_attribute_name(name: &[u8]) -> Result<(), FileError> {
    if name.len() > NAME_BYTES_MAX {
        Err(FileError::AttributeTooLarge)
    } else if name.is_empty() || name.contains(&0) {
        Err(FileError::Invalid)
    } else {
        Ok(())
    }
}

/// What a name takes in a list of names that end with NUL.
fn listed_bytes(name: &[u8]) -> u32 {
    u32::try_from(name.len() + 1).unwrap_or(u32::MAX)
}
