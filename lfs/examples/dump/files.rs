//! "Items" of `SPEC.md`: what they say of files, and "Stored extents": their data.

use std::collections::BTreeMap;

use super::bytes::{BLOCK, Fallible, Taker, crc, lz4, u32_at};
use super::keys::{self, Keys};

/// An item: its birth and value.
pub type Item = (u64, Vec<u8>);
/// Object, kind, position.
pub type Key = (u64, u8, u64);
pub type Items = BTreeMap<Key, Item>;

pub const INODE: u8 = 1;
pub const INLINE: u8 = 2;
pub const ENTRY: u8 = 3;
pub const ATTRIBUTE: u8 = 4;
pub const EXTENT: u8 = 5;
pub const ORPHAN: u8 = 6;
pub const SNAPSHOT: u8 = 7;

/// Where the data are that extent items name.
pub trait Data {
    /// How many bytes a piece has.
    fn len(&self, item: &Item) -> Fallible<u64>;
    fn bytes(&self, key: &Key, item: &Item) -> Fallible<Vec<u8>>;
}

/// All items there are at one time, and their data.
pub struct State<'a> {
    pub items: Items,
    pub data: &'a dyn Data,
}

/// What an inode says, as far as it is of interest here.
pub struct Inode {
    pub kind: u8,
    pub links: u64,
    pub size: u64,
    /// Bytes of room that its data take.
    pub allocated: u64,
    data_object: u64,
    cuts: Vec<(u64, u64)>,
}

/// A file or directory.
pub struct Found {
    pub path: Vec<u8>,
    pub kind: u8,
    pub inode: u64,
    pub size: u64,
}

impl State<'_> {
    /// All files and directories of a state, sorted by path.
    pub fn files(&self) -> Fallible<Vec<Found>> {
        let mut found = Vec::new();
        let mut waiting = vec![(1_u64, Vec::new())];
        let mut seen = 0;
        while let Some((directory, path)) = waiting.pop() {
            seen += 1;
            if seen > self.items.len() {
                return Err("directories in a circle".into());
            }
            for (_, (_, value)) in self.of(directory, ENTRY) {
                let mut taker = Taker(value);
                let path = [&path[..], b"/", taker.name()?].concat();
                let kind = taker.byte()?;
                let inode = taker.varint()?;
                let size = self.inode(inode)?.size;
                if kind == 2 {
                    waiting.push((inode, path.clone()));
                }
                found.push(Found {
                    path,
                    kind,
                    inode,
                    size,
                });
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// What an inode says.
    pub fn inode(&self, number: u64) -> Fallible<Inode> {
        let (_, value) = self.items.get(&(number, INODE, 0)).ok_or("no such inode")?;
        let mut taker = Taker(value);
        if taker.byte()? != 1 {
            return Err("an inode of another version".into());
        }
        let (kind, has) = (taker.byte()?, taker.byte()?);
        let (_mode, _owner, _group) = (taker.varint()?, taker.varint()?, taker.varint()?);
        let (links, size) = (taker.varint()?, taker.varint()?);
        taker.bytes(8)?;
        for _ in 0..3 {
            taker.signed()?;
        }
        if kind == 2 {
            taker.varint()?;
        }
        let mut optional = |bit| {
            if has & bit == 0 {
                Ok(0)
            } else {
                taker.varint()
            }
        };
        let _device = optional(1)?;
        let data_object = optional(2)?;
        let _names = optional(4)?;
        let mut cuts = Vec::new();
        if has & 8 != 0 {
            let mut end = 0;
            for _ in 0..taker.varint()? {
                let start = end + taker.varint()?;
                end = start + taker.varint()?;
                cuts.push((start, end));
            }
        }
        let allocated = match (has & 16 != 0, kind) {
            (true, _) => taker.varint()?,
            (false, 1 | 3) if size > 1024 => size.next_multiple_of(BLOCK as u64),
            (false, 1 | 3) => size,
            _ => 0,
        };
        Ok(Inode {
            kind,
            links,
            size,
            allocated,
            data_object: if data_object == 0 {
                number
            } else {
                data_object
            },
            cuts,
        })
    }

    /// The room that the data of an inode take, counted.
    pub fn room(&self, number: u64) -> Fallible<u64> {
        let object = self.inode(number)?.data_object;
        let inline = self.items.get(&(object, INLINE, 0));
        let mut room = inline.map_or(0, |(_, content)| content.len() as u64);
        let mut counted_to = 0;
        for (key, item) in self.of(object, EXTENT) {
            // What was cut within a block is in two pieces in a snapshot.
            let first = (key.2 / BLOCK as u64).max(counted_to);
            counted_to = (key.2 + self.data.len(item)?).div_ceil(BLOCK as u64);
            room += (counted_to - first) * BLOCK as u64;
        }
        Ok(room)
    }

    /// The content of a file, or the target of a symbolic link.
    pub fn content(&self, number: u64) -> Fallible<Vec<u8>> {
        let inode = self.inode(number)?;
        let mut content = self.object(inode.data_object, usize::try_from(inode.size)?)?;
        let size = content.len();
        for (from, to) in inode.cuts {
            let range = (from as usize).min(size)..(to as usize).min(size);
            content[range].fill(0);
        }
        Ok(content)
    }

    /// Names and values of the extended attributes, sorted.
    pub fn attributes(&self, inode: u64) -> Fallible<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = Vec::new();
        for (_, (_, value)) in self.of(inode, ATTRIBUTE) {
            let mut taker = Taker(value);
            let name = taker.name()?.to_vec();
            let value = match taker.byte()? {
                1 => taker.0.to_vec(),
                2 => self.object(taker.varint()?, usize::try_from(taker.varint()?)?)?,
                other => return Err(format!("an attribute in form {other}").into()),
            };
            found.push((name, value));
        }
        found.sort();
        Ok(found)
    }

    /// The first bytes of an object's data.
    fn object(&self, object: u64, size: usize) -> Fallible<Vec<u8>> {
        let mut content = vec![0; size];
        if let Some((_, inline)) = self.items.get(&(object, INLINE, 0)) {
            let len = inline.len().min(size);
            content[..len].copy_from_slice(&inline[..len]);
        }
        for (key, item) in self.of(object, EXTENT) {
            let bytes = self.data.bytes(key, item)?;
            let start = usize::try_from(key.2)?.min(size);
            let end = (start + bytes.len()).min(size);
            content[start..end].copy_from_slice(&bytes[..end - start]);
        }
        Ok(content)
    }

    fn of(&self, object: u64, kind: u8) -> impl Iterator<Item = (&Key, &Item)> {
        self.items
            .range((object, kind, 0)..=(object, kind, u64::MAX))
    }
}

/// The value of an extent item.
#[derive(Clone, Copy)]
pub struct Piece {
    pub address: u64,
    pub extent_len: u64,
    pub stored_len: u64,
    pub encoding: u8,
    pub first_unit: u64,
    pub skip: u64,
    pub len: u64,
}

impl Piece {
    pub fn decode(value: &[u8]) -> Fallible<Self> {
        let mut taker = Taker(value);
        let form = taker.byte()?;
        let encoding = form & !(4 | 8 | 16);
        let address = taker.varint()?;
        let extent_len = if form & 4 != 0 { 4096 } else { taker.varint()? };
        let units = extent_len.div_ceil(4096);
        let stored_len = match (encoding & 0x7F, encoding & 0x80) {
            (0, 0) => 4 * units + extent_len,
            (0, _) => 20 + 16 * units + extent_len,
            _ => taker.varint()?,
        };
        let (mut first_unit, mut skip, mut len) = (0, 0, extent_len);
        if form & 8 == 0 {
            (first_unit, skip, len) = (taker.varint()?, taker.varint()?, taker.varint()?);
        }
        Ok(Self {
            address,
            extent_len,
            stored_len,
            encoding,
            first_unit,
            skip,
            len,
        })
    }

    /// Always in the long form: nobody but this reader sees it.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![self.encoding];
        let compressed = self.encoding & 0x7F != 0;
        let stored_len = compressed.then_some(self.stored_len);
        let piece = [self.first_unit, self.skip, self.len];
        let numbers = [self.address, self.extent_len]
            .into_iter()
            .chain(stored_len);
        for mut number in numbers.chain(piece) {
            while number >= 0x80 {
                value.push(number as u8 | 0x80);
                number >>= 7;
            }
            value.push(number as u8);
        }
        value
    }

    pub fn part(&self, from: u64, len: u64) -> Self {
        Self {
            skip: self.skip + from,
            len,
            ..*self
        }
    }

    /// What it takes of the room of the stored extent.
    pub fn share(&self) -> u64 {
        let up_to = |at| self.stored_len * at / self.extent_len;
        (up_to(self.skip + self.len) - up_to(self.skip)).max(1)
    }

    /// The bytes, verified, of the piece at this position of the object.
    pub fn read(
        &self,
        image: &[u8],
        keys: Option<&Keys>,
        (object, _, position): &Key,
        birth: u64,
    ) -> Fallible<Vec<u8>> {
        let start = usize::try_from(self.address)?;
        let stored = image.get(start..start + self.stored_len as usize);
        let stored = stored.ok_or("beyond the device")?;
        if (self.encoding & 0x80 != 0) != keys.is_some() {
            return Err("encrypted data without a key, or plain data with one".into());
        }
        let offset = position
            .wrapping_sub(self.skip)
            .wrapping_sub(4096 * self.first_unit);
        let len = self.extent_len as usize;
        let compressed = self.encoding & 0x7F != 0;
        let units = if compressed { 1 } else { len.div_ceil(BLOCK) };
        let prefix_len = if keys.is_some() {
            20 + 16 * units
        } else {
            4 * units
        };
        let (prefix, data) = stored.split_at_checked(prefix_len).ok_or("too short")?;
        let mut data = data.to_vec();
        let unit_bytes = if compressed { data.len() } else { BLOCK };
        for (at, unit) in data.chunks_mut(unit_bytes).enumerate() {
            let number = self.first_unit as u32 + at as u32;
            let covered = if compressed { len } else { unit.len() };
            let context = [
                &object.to_le_bytes()[..],
                &offset.to_le_bytes(),
                &birth.to_le_bytes(),
                &[number as u8, self.encoding, 0, 0],
                &(covered as u32).to_le_bytes(),
            ]
            .concat();
            let good = if let Some(keys) = keys {
                let nonce = [&prefix[..20], &number.to_le_bytes()].concat();
                let tag = &prefix[20 + 16 * at..][..16];
                keys.open(keys::UNIT, &nonce, tag, &context, unit).is_ok()
            } else {
                u32_at(prefix, 4 * at)? == crc(&[&context, &*unit].concat())
            };
            if !good {
                return Err(format!("damaged data of object {object} at {position}").into());
            }
        }
        let data = match self.encoding & 0x7F {
            0 => data,
            1 => lz4(&data, len)?,
            2 => miniz_oxide::inflate::decompress_to_vec_with_limit(&data, len)
                .map_err(|_| "damaged deflate stream")?,
            other => return Err(format!("no encoding {other:#x}").into()),
        };
        let range = self.skip as usize..(self.skip + self.len) as usize;
        Ok(data.get(range).ok_or("a piece beyond its extent")?.to_vec())
    }
}
