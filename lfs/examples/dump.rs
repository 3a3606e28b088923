//! A small reader of images, written from `SPEC.md` alone: it shares no code with the library, so that the two can be
//! compared. It finds the checkpoint, reads both trees, replays the log, and lists files or prints one.
//!
//!     cargo run -p lfs --example dump -- IMAGE[@SNAPSHOT] [PATH]
//!
//! It keeps everything in memory and gives up at the first thing that is not as it must be. File systems with a
//! key are not read.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::trivially_copy_pass_by_ref,
    clippy::explicit_counter_loop,
    clippy::missing_errors_doc,
    missing_docs,
    dead_code,
    reason = "an example reads more easily; a test uses it as a module"
)]

use std::collections::BTreeMap;
use std::error::Error;

const BLOCK: usize = 4096;
type Fallible<T> = Result<T, Box<dyn Error>>;

/// An item: its birth and value.
pub type Item = (u64, Vec<u8>);
/// Object, kind, position.
pub type Key = (u64, u8, u64);

const INODE: u8 = 1;
const INLINE: u8 = 2;
const ENTRY: u8 = 3;
const EXTENT: u8 = 5;
const SNAPSHOT: u8 = 7;

/// All that an image says.
pub struct Reader {
    image: Vec<u8>,
    id: [u8; 16],
    segment_blocks: u64,
    segment_count: u32,
    first_segment_block: u64,
    /// The newest state.
    live: BTreeMap<Key, Item>,
    /// Keys with the commit at which the item died.
    history: BTreeMap<(Key, u64), Item>,
    /// The newest commit.
    pub last_commit: u64,
    /// Groups that were replayed, for whoever is curious.
    pub groups: usize,
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

struct Root {
    block: u64,
    checksum: u32,
    level: u32,
}

fn crc(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::OnceLock<[u32; 256]> = std::sync::OnceLock::new();
    let table = TABLE.get_or_init(|| {
        std::array::from_fn(|at| {
            (0..8).fold(at as u32, |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
            })
        })
    });
    !bytes.iter().fold(!0, |crc, &byte| {
        table[((crc ^ u32::from(byte)) & 0xFF) as usize] ^ (crc >> 8)
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Fallible<u32> {
    let bytes = bytes.get(at..at + 4).ok_or("too short")?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Fallible<u64> {
    let bytes = bytes.get(at..at + 8).ok_or("too short")?;
    Ok(u64::from_le_bytes(bytes.try_into()?))
}

/// Takes bytes apart from the front.
struct Taker<'a>(&'a [u8]);

impl<'a> Taker<'a> {
    fn bytes(&mut self, len: usize) -> Fallible<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or("ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Fallible<u8> {
        Ok(self.bytes(1)?[0])
    }

    fn u32(&mut self) -> Fallible<u32> {
        u32_at(self.bytes(4)?, 0)
    }

    fn u64(&mut self) -> Fallible<u64> {
        u64_at(self.bytes(8)?, 0)
    }

    fn varint(&mut self) -> Fallible<u64> {
        let mut value = 0_u128;
        for at in 0..10 {
            let byte = self.byte()?;
            value |= u128::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                if byte == 0 && at > 0 {
                    return Err("a varint is longer than needed".into());
                }
                return Ok(u64::try_from(value)?);
            }
        }
        Err("a varint does not end".into())
    }

    fn signed(&mut self) -> Fallible<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }
}

impl Reader {
    /// Reads an image.
    ///
    /// # Errors
    /// At the first thing that is not as `SPEC.md` says.
    pub fn open(image: Vec<u8>) -> Fallible<Self> {
        let (superblock, slot_blocks, log_segments) = superblock(&image)?;
        let mut reader = superblock;
        reader.image = image;
        let slots = [16, 16 + slot_blocks];
        let newest = slots
            .into_iter()
            .filter_map(|block| reader.slot(block, slot_blocks).ok())
            .max_by_key(|slot| u64_at(slot, 32).unwrap_or(0));
        let slot = newest.ok_or("no valid checkpoint")?;
        reader.segment_count = u32_at(&slot, 44)?;
        let tree_commit = u64_at(&slot, 120)?;
        for (tree, at) in [(1, 176), (2, 192)] {
            let root = Root {
                block: u64_at(&slot, at)?,
                checksum: u32_at(&slot, at + 8)?,
                level: u32_at(&slot, at + 12)?,
            };
            if root.block != 0 {
                reader.tree(tree, &root)?;
            }
        }
        reader.last_commit = tree_commit;
        reader.replay(&slot, tree_commit, log_segments)?;
        Ok(reader)
    }

    fn block(&self, block: u64, blocks: u64) -> Fallible<&[u8]> {
        let range = block as usize * BLOCK..(block + blocks) as usize * BLOCK;
        Ok(self.image.get(range).ok_or("beyond the device")?)
    }

    /// Whether a structure of `bytes` that begins with magic and checksum is valid at `block`.
    fn is_valid(&self, magic: &[u8; 4], bytes: &[u8], block: u64) -> bool {
        bytes.len() >= 32
            && bytes[..4] == magic[..]
            && bytes[8..24] == self.id
            && u64_at(bytes, 24).ok() == Some(block)
            && u32_at(bytes, 4).ok() == Some(crc(&bytes[8..]))
    }

    fn slot(&self, block: u64, blocks: u64) -> Fallible<Vec<u8>> {
        let bytes = self.block(block, blocks)?;
        let end = 240 + u32_at(bytes, 40)? as usize;
        let bytes = bytes.get(..end).ok_or("a body that is too long")?;
        if !self.is_valid(b"SiCp", bytes, block) {
            return Err("no valid checkpoint".into());
        }
        Ok(bytes.to_vec())
    }

    fn tree(&mut self, tree: u8, root: &Root) -> Fallible<()> {
        let node = self.block(root.block, 1)?.to_vec();
        let valid = self.is_valid(b"SiTn", &node, root.block)
            && u32_at(&node, 4)? == root.checksum
            && node[72] == tree
            && u32::from(node[73]) == root.level;
        if !valid {
            return Err(format!("no valid node at block {}", root.block).into());
        }
        let count = u16::from_le_bytes([node[74], node[75]]);
        let used = usize::from(u16::from_le_bytes([node[76], node[77]]));
        let base = u64_at(&node, 88)?;
        let mut taker = Taker(node.get(96..96 + used).ok_or("too many bytes of entries")?);
        let (mut object, mut kind, mut position, mut version) = (0_u64, 0_u8, 0_u64, 0_u64);
        let (mut birth, mut len) = (base, 0);
        for _ in 0..count {
            let flags = taker.byte()?;
            let before = (object, kind);
            if flags & 1 != 0 {
                object = object.wrapping_add(taker.varint()?);
            }
            if flags & 2 != 0 {
                kind = taker.byte()?;
            }
            let mut p = if flags & 8 != 0 {
                taker.u64()?
            } else {
                taker.varint()?
            };
            if flags & 16 != 0 {
                p = p.wrapping_mul(4096);
            }
            position = if before == (object, kind) {
                position.wrapping_add(p)
            } else {
                p
            };
            if flags & 4 != 0 {
                version = version.wrapping_add(taker.signed()?.cast_unsigned());
            }
            if flags & 32 != 0 {
                birth = base.wrapping_add(taker.varint()?);
            }
            if flags & 64 != 0 {
                len = taker.varint()?;
            }
            if root.level > 0 {
                let child = Root {
                    block: taker.u64()?,
                    checksum: taker.u32()?,
                    level: root.level - 1,
                };
                self.tree(tree, &child)?;
                continue;
            }
            let value = taker.bytes(len as usize)?.to_vec();
            let key = (object, kind, position);
            if tree == 1 {
                self.live.insert(key, (birth, value));
            } else {
                self.history.insert((key, version), (birth, value));
            }
        }
        Ok(())
    }

    /// Applies what the log has after `tree_commit`.
    fn replay(&mut self, slot: &[u8], tree_commit: u64, log_segments: u32) -> Fallible<()> {
        let listed = u32_at(slot, 88)? as usize;
        let mut segments = (0..listed)
            .map(|at| u32_at(slot, 240 + 4 * at))
            .collect::<Fallible<Vec<_>>>()?;
        let mut sequence = u64_at(slot, 136)?;
        let mut commit = u64_at(slot, 144)?;
        let mut previous = u32_at(slot, 108)?;
        // Parts of a commit whose beginning was not seen are of no interest.
        let mut skipping = u32_at(slot, 104)? & 1 != 0;
        let mut parts: Vec<(Vec<u8>, u64)> = Vec::new();
        let mut at = 0;
        while at < segments.len() && at < log_segments as usize {
            let start = self.first_segment_block + u64::from(segments[at]) * self.segment_blocks;
            let mut next = 0;
            while next < self.segment_blocks {
                let block = start + next;
                let group = self.block(block, self.segment_blocks - next)?.to_vec();
                if !self.is_valid(b"SiGr", &group[..160], block)
                    || u64_at(&group, 32)? != sequence
                    || u32_at(&group, 64)? != previous
                {
                    break;
                }
                let (data_len, len) = (u32_at(&group, 68)? as usize, u32_at(&group, 76)? as usize);
                let data = group.get(160..160 + data_len).ok_or("too much data")?;
                let records = group.get(160 + data_len..160 + data_len + len);
                let records = records.ok_or("too many records")?;
                let durable = sequence <= u64_at(slot, 128)?;
                if u32_at(&group, 84)? != crc(records)
                    || (u32_at(&group, 72)? != crc(data) && !durable)
                {
                    break;
                }
                let flags = u32_at(&group, 60)?;
                if flags & 1 == 0 {
                    parts.clear();
                    skipping = false;
                }
                let unpacked;
                let records = if flags & 4 == 0 {
                    records
                } else {
                    unpacked = lz4(records, u32_at(&group, 80)? as usize)?;
                    &unpacked
                };
                let mut frames = Taker(records);
                let mut address = block * BLOCK as u64 + 160;
                while !frames.0.is_empty() {
                    let (len, data_len) = (frames.varint()?, frames.varint()?);
                    let own = frames.bytes(len as usize)?;
                    let ends = !(frames.0.is_empty() && flags & 2 != 0);
                    if !skipping && commit > tree_commit {
                        parts.push((own.to_vec(), address));
                    }
                    if ends {
                        self.apply(&core::mem::take(&mut parts), commit)?;
                        self.last_commit = self.last_commit.max(commit);
                        commit += 1;
                        skipping = false;
                    }
                    address += data_len;
                }
                for (ahead, field) in [88, 92].into_iter().enumerate() {
                    let segment = u32_at(&group, field)?;
                    if segment < self.segment_count && segments.len() == at + 1 + ahead {
                        segments.push(segment);
                    }
                }
                sequence += 1;
                previous = u32_at(&group, 4)?;
                next += (160 + data_len + len).div_ceil(BLOCK) as u64;
                self.groups += 1;
            }
            if next == 0 {
                break;
            }
            at += 1;
        }
        Ok(())
    }

    /// Applies a commit whose records are in these parts, with where the data of each begin.
    fn apply(&mut self, parts: &[(Vec<u8>, u64)], commit: u64) -> Fallible<()> {
        let mut puts = Vec::new();
        let newest = self.snapshots().last().map_or(0, |snapshot| snapshot.0);
        for (records, address) in parts {
            let mut address = *address;
            let mut taker = Taker(records);
            while !taker.0.is_empty() {
                match taker.byte()? {
                    which @ (1 | 2) => {
                        let kind = taker.byte()?;
                        let key = (taker.varint()?, kind, taker.varint()?);
                        if let Some(old) = self.live.remove(&key)
                            && old.0 <= newest
                        {
                            self.history.insert((key, commit), old);
                        }
                        if which == 1 {
                            let len = taker.varint()?;
                            puts.push((key, taker.bytes(len as usize)?.to_vec()));
                        }
                    }
                    3 => {
                        let (object, offset) = (taker.varint()?, taker.varint()?);
                        let len = taker.varint()?;
                        let encoding = taker.byte()?;
                        let stored_len = taker.varint()?;
                        self.free(object, offset, offset + len, commit, newest)?;
                        let piece = Piece {
                            address,
                            extent_len: len,
                            stored_len,
                            encoding,
                            first_unit: 0,
                            skip: 0,
                            len,
                        };
                        puts.push(((object, EXTENT, offset), piece.encode()));
                        address += stored_len;
                    }
                    4 => {
                        let (object, from, to) =
                            (taker.varint()?, taker.varint()?, taker.varint()?);
                        let to = if to == 0 { u64::MAX } else { to };
                        self.free(object, from, to, commit, newest)?;
                    }
                    5 => {
                        let len = taker.varint()?;
                        taker.bytes(len as usize)?;
                    }
                    other => return Err(format!("no record {other} in a commit").into()),
                }
            }
        }
        for (key, value) in puts {
            self.live.insert(key, (commit, value));
        }
        Ok(())
    }

    /// Takes a range out of an object's extents.
    fn free(&mut self, object: u64, from: u64, to: u64, commit: u64, newest: u64) -> Fallible<()> {
        let reach = from.saturating_sub(65_536);
        let keys = self
            .live
            .range((object, EXTENT, reach)..(object, EXTENT, to));
        let keys = keys.map(|(key, _)| *key).collect::<Vec<_>>();
        for key in keys {
            let (birth, value) = self.live[&key].clone();
            let piece = Piece::decode(&value)?;
            let (start, end) = (key.2, key.2 + piece.len);
            if end <= from {
                continue;
            }
            self.live.remove(&key);
            let mut keep = |low: u64, high: u64| {
                if low < high {
                    let part = piece.part(low - start, high - low);
                    let item = (birth, part.encode());
                    self.live.insert((object, EXTENT, low), item);
                }
            };
            keep(start, from.max(start));
            keep(to.min(end), end);
            if birth <= newest {
                let (low, high) = (from.max(start), to.min(end));
                let part = piece.part(low - start, high - low);
                let dead = ((object, EXTENT, low), commit);
                self.history.insert(dead, (birth, part.encode()));
            }
        }
        Ok(())
    }

    /// Commit and name of each snapshot, oldest first.
    pub fn snapshots(&self) -> Vec<(u64, Vec<u8>)> {
        let items = self.live.range((0, SNAPSHOT, 0)..=(0, SNAPSHOT, u64::MAX));
        let mut found = items
            .map(|(_, (birth, value))| (*birth, value.get(8..).unwrap_or_default().to_vec()))
            .collect::<Vec<_>>();
        found.sort();
        found
    }

    /// All items as they were after `commit`, which a snapshot shows; or the newest.
    pub fn state(&self, commit: Option<u64>) -> BTreeMap<Key, Item> {
        let Some(commit) = commit else {
            return self.live.clone();
        };
        let live = self.live.iter().map(|(key, item)| (*key, item));
        let live = live.filter(|(_, item)| item.0 <= commit);
        let dead = self.history.iter();
        let dead = dead.filter(|((_, version), item)| item.0 <= commit && commit < *version);
        let dead = dead.map(|((key, _), item)| (*key, item));
        live.chain(dead)
            .map(|(key, item)| (key, item.clone()))
            .collect()
    }

    /// All files and directories of a state, sorted by path.
    pub fn files(&self, state: &BTreeMap<Key, Item>) -> Fallible<Vec<Found>> {
        let mut found = Vec::new();
        let mut waiting = vec![(1_u64, Vec::new())];
        let mut seen = 0;
        while let Some((directory, path)) = waiting.pop() {
            seen += 1;
            if seen > state.len() {
                return Err("directories in a circle".into());
            }
            for (_, (_, value)) in state.range((directory, ENTRY, 0)..=(directory, ENTRY, u64::MAX))
            {
                let mut taker = Taker(value);
                let len = taker.byte()?;
                let path = [&path[..], b"/", taker.bytes(len.into())?].concat();
                let kind = taker.byte()?;
                let inode = taker.varint()?;
                let size = self.inode(state, inode)?.size;
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
    #[allow(clippy::unused_self, reason = "it reads as the others do")]
    pub fn inode(&self, state: &BTreeMap<Key, Item>, number: u64) -> Fallible<Inode> {
        let (_, value) = state.get(&(number, INODE, 0)).ok_or("no such inode")?;
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
    pub fn room(&self, state: &BTreeMap<Key, Item>, number: u64) -> Fallible<u64> {
        let object = self.inode(state, number)?.data_object;
        let inline = state.get(&(object, INLINE, 0));
        let mut room = inline.map_or(0, |(_, content)| content.len() as u64);
        let mut counted_to = 0;
        for (key, (_, value)) in state.range((object, EXTENT, 0)..=(object, EXTENT, u64::MAX)) {
            // What was cut within a block is in two pieces in a snapshot.
            let first = (key.2 / BLOCK as u64).max(counted_to);
            counted_to = (key.2 + Piece::decode(value)?.len).div_ceil(BLOCK as u64);
            room += (counted_to - first) * BLOCK as u64;
        }
        Ok(room)
    }

    /// The content of a file, or the target of a symbolic link.
    pub fn content(&self, state: &BTreeMap<Key, Item>, number: u64) -> Fallible<Vec<u8>> {
        let inode = self.inode(state, number)?;
        let object = inode.data_object;
        let size = usize::try_from(inode.size)?;
        let mut content = vec![0; size];
        if let Some((_, inline)) = state.get(&(object, INLINE, 0)) {
            let len = inline.len().min(size);
            content[..len].copy_from_slice(&inline[..len]);
        }
        for (key, (birth, value)) in state.range((object, EXTENT, 0)..=(object, EXTENT, u64::MAX)) {
            let piece = Piece::decode(value)?;
            let bytes = self.extent(object, key.2, *birth, &piece)?;
            let start = usize::try_from(key.2)?.min(size);
            let end = (start + bytes.len()).min(size);
            content[start..end].copy_from_slice(&bytes[..end - start]);
        }
        for (from, to) in inode.cuts {
            let range = (from as usize).min(size)..(to as usize).min(size);
            content[range].fill(0);
        }
        Ok(content)
    }

    /// The bytes of a piece, verified.
    fn extent(&self, object: u64, position: u64, birth: u64, piece: &Piece) -> Fallible<Vec<u8>> {
        let start = usize::try_from(piece.address)?;
        let stored = self.image.get(start..start + piece.stored_len as usize);
        let stored = stored.ok_or("beyond the device")?;
        let offset = position
            .wrapping_sub(piece.skip)
            .wrapping_sub(4096 * piece.first_unit);
        let len = piece.extent_len as usize;
        let compressed = piece.encoding != 0;
        let units = if compressed { 1 } else { len.div_ceil(BLOCK) };
        let (prefix, data) = stored.split_at_checked(4 * units).ok_or("too short")?;
        let unit_bytes = if compressed { data.len() } else { BLOCK };
        for (number, unit) in data.chunks(unit_bytes).enumerate() {
            let covered = if compressed { len } else { unit.len() };
            let mut context = Vec::new();
            context.extend_from_slice(&object.to_le_bytes());
            context.extend_from_slice(&offset.to_le_bytes());
            context.extend_from_slice(&birth.to_le_bytes());
            context.push(piece.first_unit as u8 + number as u8);
            context.push(piece.encoding);
            context.extend_from_slice(&[0; 2]);
            context.extend_from_slice(&(covered as u32).to_le_bytes());
            context.extend_from_slice(unit);
            if u32_at(prefix, 4 * number)? != crc(&context) {
                return Err(format!("damaged data of object {object} at {position}").into());
            }
        }
        let data = match piece.encoding {
            0 => data.to_vec(),
            1 => lz4(data, len)?,
            2 => miniz_oxide::inflate::decompress_to_vec_with_limit(data, len)
                .map_err(|_| "damaged deflate stream")?,
            other => return Err(format!("encoding {other:#x} needs a key").into()),
        };
        let range = piece.skip as usize..(piece.skip + piece.len) as usize;
        Ok(data.get(range).ok_or("a piece beyond its extent")?.to_vec())
    }
}

/// The superblock that counts, in a reader without anything else; `slot_blocks`, `log_segments`.
fn superblock(image: &[u8]) -> Fallible<(Reader, u64, u32)> {
    for block in [0_usize, 15] {
        let Some(bytes) = image.get(block * BLOCK..block * BLOCK + 512) else {
            continue;
        };
        let valid = &bytes[..8] == b"SILTSTON"
            && u32_at(bytes, 8)? == crc(&bytes[12..])
            && u64_at(bytes, 32)? == block as u64
            && u32_at(bytes, 12)? == 0
            && u64_at(bytes, 96)? == 0
            && u64_at(bytes, 104)? == 0
            && u32_at(bytes, 52)? == 1;
        if !valid {
            continue;
        }
        let reader = Reader {
            image: Vec::new(),
            id: bytes[16..32].try_into()?,
            segment_blocks: u64::from(u32_at(bytes, 56)?),
            segment_count: 0,
            first_segment_block: u64_at(bytes, 64)?,
            live: BTreeMap::new(),
            history: BTreeMap::new(),
            last_commit: 0,
            groups: 0,
        };
        let slot_blocks = u64::from(u32_at(bytes, 72)?);
        return Ok((reader, slot_blocks, u32_at(bytes, 76)?));
    }
    Err("no valid superblock".into())
}

/// The value of an extent item.
#[derive(Clone, Copy)]
struct Piece {
    address: u64,
    extent_len: u64,
    stored_len: u64,
    encoding: u8,
    first_unit: u64,
    skip: u64,
    len: u64,
}

impl Piece {
    fn decode(value: &[u8]) -> Fallible<Self> {
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
    fn encode(&self) -> Vec<u8> {
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

    fn part(&self, from: u64, len: u64) -> Self {
        Self {
            skip: self.skip + from,
            len,
            ..*self
        }
    }
}

/// An LZ4 block.
fn lz4(block: &[u8], len: usize) -> Fallible<Vec<u8>> {
    let mut taker = Taker(block);
    let mut out = Vec::new();
    let more = |taker: &mut Taker<'_>, mut count: usize| -> Fallible<usize> {
        if count == 15 {
            loop {
                let byte = taker.byte()?;
                count += usize::from(byte);
                if byte != 255 {
                    break;
                }
            }
        }
        Ok(count)
    };
    while !taker.0.is_empty() {
        let token = taker.byte()?;
        let literals = more(&mut taker, usize::from(token >> 4))?;
        out.extend_from_slice(taker.bytes(literals)?);
        if taker.0.is_empty() {
            break;
        }
        let distance = taker.bytes(2)?;
        let distance = usize::from(u16::from_le_bytes([distance[0], distance[1]]));
        let count = more(&mut taker, usize::from(token & 15))? + 4;
        let mut from = out
            .len()
            .checked_sub(distance)
            .ok_or("a match too far back")?;
        if distance == 0 || out.len() + count > len {
            return Err("damaged LZ4 block".into());
        }
        for _ in 0..count {
            out.push(out[from]);
            from += 1;
        }
    }
    if out.len() != len {
        return Err("damaged LZ4 block".into());
    }
    Ok(out)
}

fn main() -> Fallible<()> {
    use std::io::Write as _;

    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .ok_or("usage: dump IMAGE[@SNAPSHOT] [PATH]")?;
    let (name, snapshot) = match name.split_once('@') {
        Some((name, snapshot)) => (name.to_owned(), Some(snapshot.to_owned())),
        None => (name, None),
    };
    let reader = Reader::open(std::fs::read(name)?)?;
    let commit = match snapshot {
        None => None,
        Some(snapshot) => {
            let snapshots = reader.snapshots();
            let found = snapshots
                .iter()
                .find(|(_, name)| *name == snapshot.as_bytes());
            Some(found.ok_or("no such snapshot")?.0)
        }
    };
    let state = reader.state(commit);
    let files = reader.files(&state)?;
    let mut out = std::io::stdout().lock();
    match arguments.next() {
        None => {
            for file in &files {
                let kind = [' ', '-', 'd', 'l', 'p', 's', 'c', 'b'];
                let kind = kind.get(usize::from(file.kind)).copied().unwrap_or('?');
                write!(out, "{kind} {:>12} ", file.size)?;
                out.write_all(&file.path)?;
                writeln!(out)?;
            }
            writeln!(
                out,
                "commit {}, {} groups replayed, {} snapshots",
                reader.last_commit,
                reader.groups,
                reader.snapshots().len()
            )?;
        }
        Some(path) => {
            let found = files.iter().find(|file| file.path == path.as_bytes());
            let inode = found.ok_or("no such file")?.inode;
            out.write_all(&reader.content(&state, inode)?)?;
        }
    }
    Ok(())
}
