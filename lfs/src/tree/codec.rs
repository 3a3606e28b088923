//! Nodes on disk (SPEC.md, "Trees", has the byte tables; the size asserted here pins the header).
//!
//! Decoding takes bytes from anywhere: it allocates at most what the largest node needs, and accepts
//! only what encoding makes. There is one way to code a node, so the bytes that the entries take must be
//! those that the decoded node would take.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::key::{Defect, Expected, Key, TreeKind};
use super::node::{Child, Entry, NODE_ENTRIES_MAX, Node};
use crate::disk::layout::{NUMBER_MAX, SEAL_AT, SEAL_BYTES, VALUE_OBJECT, checksum_after_head};
use crate::seal::{Purpose, Vault};
use crate::{BLOCK_SIZE, BlockIndex, ITEM_BYTES_MAX, ItemKey, ItemKind, NodePointer};

pub(crate) const NODE_MAGIC: [u8; 4] = *b"SiTn";

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct NodeLayout {
    magic: [u8; 4],
    /// CRC-32 of everything after this field to the end of the block.
    checksum: U32,
    filesystem_id: [u8; 16],
    own_block: U64,
    seal: [u8; SEAL_BYTES],
    tree: u8,
    level: u8,
    entry_count: U16,
    /// Bytes of entries after this header; the rest of the block is zero.
    used: U16,
    padding: [u8; 2],
    generation: U64,
    /// Least birth of the items.
    base_birth: U64,
}
const _: () = assert!(size_of::<NodeLayout>() == 96);
const _: () = assert!(offset_of!(NodeLayout, seal) == SEAL_AT);

/// Room for entries.
pub(crate) const NODE_PAYLOAD_BYTES: usize = BLOCK_SIZE - size_of::<NodeLayout>();
/// Most an entry takes besides its value: flags, object, kind, position, version, birth, length.
pub(super) const ENTRY_OVERHEAD_BYTES_MAX: usize = 1 + 10 + 1 + 8 + 10 + 10 + 2;
const _: () = assert!(3 * (ENTRY_OVERHEAD_BYTES_MAX + ITEM_BYTES_MAX) <= NODE_PAYLOAD_BYTES);

/// What follows the flags of an entry. Absent fields are those of the entry before.
mod flags {
    pub(super) const OBJECT: u8 = 1;
    pub(super) const KIND: u8 = 2;
    pub(super) const VERSION: u8 = 4;
    /// The position takes eight bytes.
    pub(super) const POSITION_WIDE: u8 = 8;
    /// The position counts blocks.
    pub(super) const POSITION_BLOCKS: u8 = 16;
    pub(super) const BIRTH: u8 = 32;
    pub(super) const LENGTH: u8 = 64;
}

/// A position from which on eight plain bytes are shorter than a varint.
const POSITION_WIDE_MIN: u64 = 1 << 56;

/// What a node says of itself besides its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeHeader {
    /// Where it was written.
    pub block: BlockIndex,
    /// Its checksum, which a pointer to it holds too.
    pub checksum: u32,
    /// The tree it belongs to.
    pub tree: TreeKind,
    /// Distance from the leaves.
    pub level: u8,
    /// Number of the checkpoint that wrote it.
    pub generation: u64,
    /// Entries.
    pub entries: usize,
    /// Bytes they take.
    pub used_bytes: usize,
}

/// Writes `node`, whose children are all stored, into `block`; returns the pointer to it.
pub(super) fn encode(
    node: &Node,
    vault: &Vault,
    own: BlockIndex,
    generation: u64,
    block: &mut [u8; BLOCK_SIZE],
) -> NodePointer {
    let mut sink = Vec::with_capacity(NODE_PAYLOAD_BYTES);
    // The node's own base may be below all births.
    let base = node
        .entries()
        .iter()
        .map(|entry| entry.birth)
        .min()
        .unwrap_or(0);
    let mut previous = None;
    for (index, entry) in node.entries().iter().enumerate() {
        put_entry(node.level(), base, previous, entry, &mut sink);
        match node.child(index) {
            Some(Child::Stored(pointer)) => {
                sink.extend_from_slice(&pointer.block.0.to_le_bytes());
                sink.extend_from_slice(&pointer.checksum.to_le_bytes());
            }
            Some(Child::Dirty(_)) => debug_assert!(false, "a child has no place yet"),
            None => sink.extend_from_slice(node.value(entry)),
        }
        previous = Some(entry);
    }
    debug_assert!(sink.len() <= node.size() && sink.len() <= NODE_PAYLOAD_BYTES);
    let narrow = |number| U16::new(u16::try_from(number).unwrap_or(u16::MAX));
    let layout = NodeLayout {
        magic: NODE_MAGIC,
        checksum: 0.into(),
        filesystem_id: vault.id().0,
        own_block: own.0.into(),
        seal: [0; SEAL_BYTES],
        tree: node.tree() as u8,
        level: node.level(),
        entry_count: narrow(node.len()),
        used: narrow(sink.len()),
        padding: [0; 2],
        generation: generation.into(),
        base_birth: base.into(),
    };
    let (head, rest) = block.split_at_mut(size_of::<NodeLayout>());
    let (used, free) = rest.split_at_mut(sink.len().min(NODE_PAYLOAD_BYTES));
    head.copy_from_slice(layout.as_bytes());
    used.copy_from_slice(sink.get(..used.len()).unwrap_or_default());
    free.fill(0);
    vault.close(Purpose::Node, block, SEAL_AT);
    let checksum = block
        .get(4..8)
        .and_then(|sum| sum.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    NodePointer {
        block: own,
        checksum,
    }
}

/// Reads what is at `pointer` and must be `expected`, as far as that is known.
pub(super) fn decode(
    block: &[u8],
    vault: &Vault,
    pointer: NodePointer,
    expected: Option<&Expected>,
) -> Result<(NodeHeader, Node), Defect> {
    let opened = opened(block, vault, pointer.block)?;
    let (layout, payload) = split(&opened)?;
    if layout.checksum.get() != pointer.checksum {
        return Err(Defect::Checksum);
    }
    let tree = TreeKind::from_number(layout.tree).ok_or(Defect::Malformed)?;
    if expected.is_some_and(|expected| expected.tree != tree) {
        return Err(Defect::OtherTree);
    }
    if expected.is_some_and(|expected| expected.level != layout.level) {
        return Err(Defect::OtherLevel);
    }
    let header = NodeHeader {
        block: pointer.block,
        checksum: pointer.checksum,
        tree,
        level: layout.level,
        generation: layout.generation.get(),
        entries: layout.entry_count.get().into(),
        used_bytes: layout.used.get().into(),
    };
    let node = decode_entries(&layout, tree, payload).ok_or(Defect::Malformed)?;
    if expected.is_some_and(|expected| !node.is_within(&expected.range)) {
        return Err(Defect::OutOfRange);
    }
    Ok((header, node))
}

/// What the node at `own` says of itself, and its first key; `None` when it is no intact node. For
/// who finds blocks by their place and not by a pointer.
pub(crate) fn inspect(block: &[u8], vault: &Vault, own: BlockIndex) -> Option<(NodeHeader, Key)> {
    let (layout, _) = split(block).ok()?;
    let pointer = NodePointer {
        block: own,
        checksum: layout.checksum.get(),
    };
    let (header, node) = decode(block, vault, pointer, None).ok()?;
    Some((header, node.key(0)?))
}

/// The node that is all of `block`, which was read at `own`, with its seal opened.
fn opened<'b>(block: &'b [u8], vault: &Vault, own: BlockIndex) -> Result<Cow<'b, [u8]>, Defect> {
    let (layout, _) = split(block)?;
    if block.len() != BLOCK_SIZE || layout.magic != NODE_MAGIC {
        return Err(Defect::NotANode);
    }
    if layout.checksum.get() != checksum_after_head(block) {
        return Err(Defect::Checksum);
    }
    if layout.filesystem_id != vault.id().0 {
        return Err(Defect::OtherFileSystem);
    }
    if layout.own_block.get() != own.0 {
        return Err(Defect::OtherPlace);
    }
    vault
        .opened(Purpose::Node, block, SEAL_AT)
        .ok_or(Defect::Seal)
}

fn split(block: &[u8]) -> Result<(NodeLayout, &[u8]), Defect> {
    NodeLayout::read_from_prefix(block).map_err(|_| Defect::NotANode)
}

fn decode_entries(layout: &NodeLayout, tree: TreeKind, payload: &[u8]) -> Option<Node> {
    let count = usize::from(layout.entry_count.get());
    let (used, free) = payload.split_at_checked(layout.used.get().into())?;
    let reserved_is_zero = layout.padding == [0; 2];
    if !(1..=NODE_ENTRIES_MAX).contains(&count)
        || !reserved_is_zero
        || free.iter().any(|&byte| byte != 0)
    {
        return None;
    }
    let (level, base) = (layout.level, layout.base_birth.get());
    let mut entries = Vec::with_capacity(count);
    let mut values = Vec::with_capacity(if level == 0 { used.len() } else { 0 });
    let mut children = Vec::with_capacity(if level == 0 { 0 } else { count });
    let mut reader = Reader(used);
    for _ in 0..count {
        let previous = entries.last();
        let mut entry = take_entry(level, base, previous, &mut reader)?;
        let ordered = previous.is_none_or(|previous: &Entry| previous.key() < entry.key());
        if !ordered || !is_possible(tree, level, &entry) {
            return None;
        }
        if level == 0 {
            entry.offset = u16::try_from(values.len()).ok()?;
            values.extend_from_slice(reader.take(entry.len.into())?);
        } else {
            let block = BlockIndex(u64::from_le_bytes(reader.array()?));
            let checksum = u32::from_le_bytes(reader.array()?);
            children.push(Child::Stored(NodePointer { block, checksum }));
        }
        entries.push(entry);
    }
    values.shrink_to_fit();
    let node = Node::from_parts(tree, level, entries, values, children);
    let canonical = reader.0.is_empty() && node.size() == used.len() && node.base() == base;
    canonical.then_some(node)
}

/// Whether an entry's numbers are such as are given out: then the key that follows its own can be named.
fn is_possible(tree: TreeKind, level: u8, entry: &Entry) -> bool {
    let versions = match tree {
        TreeKind::Live => 1,
        TreeKind::History => NUMBER_MAX,
    };
    let key = entry.key();
    // What leads to the values is a key of theirs, or what `Key::separator` makes of it behind another object.
    let leads_to_values = Key::live(ItemKey::new(VALUE_OBJECT, Key::MIN.kind, 0));
    let is_key = key.item_key().is_possible() || (level > 0 && key == leads_to_values);
    // Values have no history.
    let is_here = tree == TreeKind::Live || entry.object != VALUE_OBJECT;
    is_key && is_here && entry.version < versions && entry.birth < NUMBER_MAX
}

/// Bytes that `entry` takes behind `previous`, with its value or pointer.
pub(super) fn entry_bytes(level: u8, base: u64, previous: Option<&Entry>, entry: &Entry) -> usize {
    let mut counter = Counter(0);
    put_entry(level, base, previous, entry, &mut counter);
    counter.0
        + if level == 0 {
            usize::from(entry.len)
        } else {
            12
        }
}

/// The part of an entry before its value or pointer.
fn put_entry(level: u8, base: u64, previous: Option<&Entry>, entry: &Entry, sink: &mut impl Sink) {
    let before = Before::of(previous, base);
    let mut flags = 0;
    let object = entry.object.wrapping_sub(before.object);
    let kind = entry.kind as u8;
    let version = zigzag(entry.version.wrapping_sub(before.version));
    let birth = entry.birth.wrapping_sub(base);
    let mut position = entry.position;
    if object == 0 && kind == before.kind {
        position = position.wrapping_sub(before.position);
    }
    flags |= if object == 0 { 0 } else { flags::OBJECT };
    flags |= if kind == before.kind { 0 } else { flags::KIND };
    flags |= if version == 0 { 0 } else { flags::VERSION };
    if position != 0 && position.is_multiple_of(BLOCK_SIZE as u64) {
        flags |= flags::POSITION_BLOCKS;
        position /= BLOCK_SIZE as u64;
    } else if position >= POSITION_WIDE_MIN {
        flags |= flags::POSITION_WIDE;
    }
    if level == 0 {
        flags |= if entry.birth == before.birth {
            0
        } else {
            flags::BIRTH
        };
        flags |= if entry.len == before.len {
            0
        } else {
            flags::LENGTH
        };
    }
    sink.put(&[flags]);
    if object != 0 {
        sink.varint(object);
    }
    if kind != before.kind {
        sink.put(&[kind]);
    }
    if flags & flags::POSITION_WIDE == 0 {
        sink.varint(position);
    } else {
        sink.put(&position.to_le_bytes());
    }
    if version != 0 {
        sink.varint(version);
    }
    if flags & flags::BIRTH != 0 {
        sink.varint(birth);
    }
    if flags & flags::LENGTH != 0 {
        sink.varint(entry.len.into());
    }
}

fn take_entry(
    level: u8,
    base: u64,
    previous: Option<&Entry>,
    reader: &mut Reader<'_>,
) -> Option<Entry> {
    let before = Before::of(previous, base);
    let [flags] = reader.array()?;
    let has = |flag| flags & flag != 0;
    let mut object = before.object;
    if has(flags::OBJECT) {
        object = object.checked_add(reader.varint()?)?;
    }
    let mut kind = before.kind;
    if has(flags::KIND) {
        [kind] = reader.array()?;
    }
    let mut position = if has(flags::POSITION_WIDE) {
        u64::from_le_bytes(reader.array()?)
    } else {
        reader.varint()?
    };
    // Neither is used where another form is as short.
    let wide_in_vain = has(flags::POSITION_WIDE) && position < POSITION_WIDE_MIN;
    let blocks_in_vain = has(flags::POSITION_BLOCKS) && position == 0;
    if wide_in_vain || blocks_in_vain {
        return None;
    }
    if has(flags::POSITION_BLOCKS) {
        position = position.checked_mul(BLOCK_SIZE as u64)?;
    }
    if object == before.object && kind == before.kind {
        position = position.checked_add(before.position)?;
    }
    let mut version = before.version;
    if has(flags::VERSION) {
        version = version.wrapping_add(unzigzag(reader.varint()?));
    }
    let (mut birth, mut len) = (before.birth, before.len);
    if level != 0 {
        birth = 0;
    }
    if has(flags::BIRTH) {
        birth = base.checked_add(reader.varint()?)?;
    }
    if has(flags::LENGTH) {
        len = u16::try_from(reader.varint()?).ok()?;
    }
    let interior_with_item = level != 0 && has(flags::BIRTH | flags::LENGTH);
    if has(0x80) || interior_with_item || usize::from(len) > ITEM_BYTES_MAX {
        return None;
    }
    let key = Key {
        object,
        kind: ItemKind::from_number(kind)?,
        position,
        version,
    };
    Some(Entry::leaf(key, birth, 0, len))
}

/// What an entry is coded relative to.
struct Before {
    object: u64,
    position: u64,
    version: u64,
    birth: u64,
    len: u16,
    kind: u8,
}

impl Before {
    fn of(previous: Option<&Entry>, base: u64) -> Self {
        Self {
            object: previous.map_or(0, |entry| entry.object),
            position: previous.map_or(0, |entry| entry.position),
            version: previous.map_or(0, |entry| entry.version),
            birth: previous.map_or(base, |entry| entry.birth),
            len: previous.map_or(0, |entry| entry.len),
            kind: previous.map_or(0, |entry| entry.kind as u8),
        }
    }
}

/// Small numbers for small differences of either sign.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ if difference >> 63 == 0 { 0 } else { u64::MAX }
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ if number & 1 == 0 { 0 } else { u64::MAX }
}

/// Where an entry is written to, or only counted.
trait Sink {
    fn put(&mut self, bytes: &[u8]);
    /// Seven bits in each byte, the lowest first; the high bit says that more follow.
    fn varint(&mut self, number: u64);
}

struct Counter(usize);

impl Sink for Counter {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn varint(&mut self, number: u64) {
        let bits = 64 - (number | 1).leading_zeros();
        self.0 += bits.div_ceil(7) as usize;
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.push(number.to_le_bytes()[0]);
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    #[inline]
    fn varint(&mut self) -> Option<u64> {
        // Nearly all have one byte.
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Some(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}
