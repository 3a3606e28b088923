//! What is on a disk, told structure by structure: superblock, slots, segment table, the log record by record,
//! and the groups of survivors. For people who look into an image, and for programs.
//!
//! Reads only. Whatever is on the disk, it ends, does not panic, and takes the memory of one segment and of the segment
//! table. Nothing it tells was checked for sense beyond its checksum; [`check`](crate::check()) does that.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::checkpoint::{Checkpoint, read_slot};
use crate::disk::superblock::{
    KEY_SLOT_BLOCKS, SegmentId, State, Superblock, SuperblockFault, table_blocks_for,
};
use crate::extent::{COMPRESSION_PROPERTY, Compression};
use crate::log::{GROUP_HEADER_BYTES, GroupHeader, GroupKind, Record, take_frame};
use crate::mount::{Unlock, unlock};
use crate::namespace::{AttributeValue, Inode, OrphanState, decode_attribute, decode_entry};
use crate::seal::Vault;
use crate::space::{SegmentKind, Segments};
use crate::transaction::decode_snapshot;
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, FileKind, ItemKey, ItemKind,
    NodePointer, Suite,
};

/// What to tell.
#[derive(Debug, Clone, Copy)]
pub struct DumpOptions<'k> {
    /// What opens a file system that has a key; without it no more than the superblock is told.
    pub key: Option<Unlock<'k>>,
    /// Every segment that is not free.
    pub segments: bool,
    /// Groups outside of what a mount would replay: what is left of older log, and survivors.
    pub older_groups: bool,
}

impl Default for DumpOptions<'_> {
    fn default() -> Self {
        Self {
            key: None,
            segments: true,
            older_groups: true,
        }
    }
}

/// One structure. As text: a line for people.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum DumpEvent<'e> {
    /// A valid copy of the superblock.
    Superblock {
        /// Where.
        block: BlockIndex,
        /// Whether a format got to its end.
        ready: bool,
        /// Blocks of a segment.
        segment_blocks: u32,
        /// Segments that it can grow to.
        segment_count_max: u32,
        /// Where they begin.
        first_segment_block: u64,
        /// Segments the log goes through between two checkpoints at most.
        log_segments: u32,
        /// The cipher, if it is encrypted.
        suite: Option<Suite>,
    },
    /// A valid checkpoint.
    Checkpoint {
        /// Where.
        block: BlockIndex,
        /// Its number.
        sequence: u64,
        /// Segments there are.
        segment_count: u32,
        /// Whether it is the newest.
        in_force: bool,
        /// The last commit in the trees.
        tree_commit: CommitNumber,
        /// The last commit in the objects of the layer above.
        horizon: CommitNumber,
        /// The last group known to be durable.
        durable_group: u64,
        /// The group that replay begins with.
        start_group: u64,
        /// Segments of the log, from there on.
        log_segments: Vec<u32>,
        /// Root of the tree of the newest state.
        live_root: Option<NodePointer>,
        /// Root of the tree of what only snapshots see.
        history_root: Option<NodePointer>,
        /// Objects, with their lengths in bytes.
        objects: Vec<(u64, u64)>,
        /// Bytes that the layer above left.
        manifest_bytes: usize,
    },
    /// A segment that is not free.
    Segment {
        /// Its number.
        segment: u32,
        /// Its first block.
        block: BlockIndex,
        /// What is in it.
        kind: &'static str,
        /// Bytes in use.
        live_bytes: u32,
        /// How often its content has survived cleaning, less one.
        generation: u8,
        /// Its age: blocks of log there were when its content was new.
        written_at: u64,
    },
    /// A group of commits or survivors.
    Group {
        /// Where.
        block: BlockIndex,
        /// Survivors, not commits.
        survivors: bool,
        /// Whether a mount would replay it.
        replayed: bool,
        /// Its number; of survivors the checkpoint's.
        sequence: u64,
        /// The commit its first record belongs to.
        first_commit: u64,
        /// Commits that end in it.
        commits_ending: u32,
        /// It begins inside a commit.
        continued: bool,
        /// It ends inside a commit.
        continues: bool,
        /// The checkpoint that was in force.
        checkpoint: u64,
        /// Blocks it takes.
        blocks: u32,
        /// Bytes of file data in it.
        data_bytes: u32,
        /// Bytes of records in it.
        records_bytes: u32,
        /// Its header's checksum, which the next one names.
        checksum: u32,
        /// The checksum of the one before.
        previous_checksum: u32,
    },
    /// The records of a commit, or a part of them, follow.
    Commit {
        /// Its number.
        number: u64,
        /// Bytes of records.
        records_bytes: usize,
        /// Bytes of file data.
        data_bytes: u64,
    },
    /// One record.
    Record(DumpRecord<'e>),
    /// Something is not valid, or ends.
    Note {
        /// Where.
        block: BlockIndex,
        /// What.
        text: &'static str,
    },
}

/// A record as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DumpRecord<'e> {
    /// An item gets this value.
    Put {
        /// Which.
        key: ItemKey,
        /// Its bytes.
        value: &'e [u8],
        /// The commit, which is its birth.
        commit: u64,
    },
    /// An item goes.
    Remove {
        /// Which.
        key: ItemKey,
    },
    /// Data of an object.
    Extent {
        /// The cleaner moved it here; else a commit wrote it.
        moved: bool,
        /// The object.
        object: u64,
        /// The first byte in it.
        offset: u64,
        /// Bytes of data.
        len: u32,
        /// How it is stored.
        encoding: u8,
        /// Bytes it takes.
        stored_len: u32,
        /// Its first byte on the device.
        address: u64,
        /// The commit that wrote it.
        birth: u64,
    },
    /// A range of an object's data goes.
    Free {
        /// The object.
        object: u64,
        /// First byte.
        from: u64,
        /// Up to here, or all behind.
        to: Option<u64>,
    },
    /// Bytes of the layer above.
    Layer(&'e [u8]),
}

type Events<'e> = &'e mut dyn FnMut(DumpEvent<'_>);

/// Tells what is on `device`.
pub async fn dump<D: BlockDevice>(device: &D, options: DumpOptions<'_>, events: Events<'_>) {
    let Some(superblock) = superblocks(device, events).await else {
        return;
    };
    let Ok(vault) = unlock(device, &superblock, options.key.as_ref()).await else {
        let block = KEY_SLOT_BLOCKS[0];
        let text = "it cannot be unlocked: the key is wrong or missing, or there should be none";
        events(DumpEvent::Note { block, text });
        return;
    };
    let Some(checkpoint) = slots(device, &superblock, &vault, events).await else {
        return;
    };
    let ground = (&superblock, &*vault);
    let table = table(device, ground, &checkpoint, options, events).await;
    let replayed = log(device, ground, &checkpoint, events).await;
    if !options.older_groups {
        return;
    }
    let Some(table) = table else { return };
    for (id, segment) in table.iter() {
        let kind = match segment.kind {
            SegmentKind::Log if !replayed.contains(&id) => GroupKind::Commits,
            SegmentKind::Survivors => GroupKind::Survivors,
            _ => continue,
        };
        older(device, ground, id, kind, events).await;
    }
}

async fn read<D: BlockDevice>(
    device: &D,
    block: BlockIndex,
    blocks: usize,
    events: Events<'_>,
) -> Option<Buffer> {
    let Ok(buffer) = Buffer::zeroed(blocks) else {
        let text = "not enough memory to read it";
        events(DumpEvent::Note { block, text });
        return None;
    };
    let (buffer, read) = device.read(block, buffer).await;
    if read.is_err() {
        let text = "cannot be read";
        events(DumpEvent::Note { block, text });
        return None;
    }
    Some(buffer)
}

async fn superblocks<D: BlockDevice>(device: &D, events: Events<'_>) -> Option<Superblock> {
    let mut found = None;
    for block in Superblock::copy_blocks() {
        let Some(buffer) = read(device, block, 1, events).await else {
            continue;
        };
        match Superblock::decode(buffer.bytes(), block) {
            Ok(superblock) => {
                let ready = superblock.state == State::Ready;
                events(DumpEvent::Superblock {
                    block,
                    ready,
                    segment_blocks: superblock.segment_blocks,
                    segment_count_max: superblock.segment_count_max,
                    first_segment_block: superblock.first_segment_block,
                    log_segments: superblock.log_segments,
                    suite: superblock.suite,
                });
                found = found.or(Some(superblock).filter(|_| ready));
            }
            Err(fault) => {
                let text = match fault {
                    SuperblockFault::Invalid => "no valid copy of the superblock",
                    SuperblockFault::Unknown { .. } => "a superblock of an unknown version",
                };
                events(DumpEvent::Note { block, text });
            }
        }
    }
    found
}

async fn slots<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
    vault: &Vault,
    events: Events<'_>,
) -> Option<Checkpoint> {
    let mut found = Vec::new();
    for slot in 0..2 {
        let block = superblock.slot_block(slot);
        let Ok(buffer) = read_slot(device, superblock, block, 0).await else {
            let text = "cannot be read";
            events(DumpEvent::Note { block, text });
            continue;
        };
        let device_blocks = device.geometry().block_count;
        let decoded = Checkpoint::decode(superblock, vault, block, buffer.bytes(), device_blocks);
        if let Some(checkpoint) = decoded {
            found.push((block, checkpoint));
        } else {
            let text = "no valid checkpoint in this slot";
            events(DumpEvent::Note { block, text });
        }
    }
    found.sort_by_key(|(_, checkpoint)| checkpoint.sequence);
    let newest = found.last().map(|(_, checkpoint)| checkpoint.sequence);
    for (block, checkpoint) in &found {
        let objects = checkpoint.objects.iter();
        events(DumpEvent::Checkpoint {
            block: *block,
            sequence: checkpoint.sequence,
            segment_count: checkpoint.segment_count,
            in_force: newest == Some(checkpoint.sequence),
            tree_commit: checkpoint.tree_commit,
            horizon: checkpoint.horizon,
            durable_group: checkpoint.durable_group,
            start_group: checkpoint.start.group,
            log_segments: checkpoint.log_segments.iter().map(|s| s.0).collect(),
            live_root: checkpoint.live_root.map(|root| root.pointer),
            history_root: checkpoint.history_root.map(|root| root.pointer),
            objects: objects.map(|(id, info)| (id.0, info.len_bytes)).collect(),
            manifest_bytes: checkpoint.manifest.len(),
        });
    }
    found.pop().map(|(_, checkpoint)| checkpoint)
}

async fn table<D: BlockDevice>(
    device: &D,
    (superblock, vault): (&Superblock, &Vault),
    checkpoint: &Checkpoint,
    options: DumpOptions<'_>,
    events: Events<'_>,
) -> Option<Segments> {
    let mut segments = Segments::new(superblock, checkpoint.segment_count)?;
    for index in 0..table_blocks_for(checkpoint.segment_count) {
        let home = checkpoint.table_homes.get(index as usize).copied();
        let home = home.unwrap_or(0);
        let block = superblock.table_block(index, home);
        let Some(buffer) = read(device, block, 1, events).await else {
            continue;
        };
        if !segments.load_block(superblock, vault, index, home, buffer.bytes()) {
            let text = "a damaged block of the segment table";
            events(DumpEvent::Note { block, text });
        }
    }
    let in_use = segments.iter().filter(|(_, s)| s.kind != SegmentKind::Free);
    for (id, segment) in in_use.filter(|_| options.segments) {
        events(DumpEvent::Segment {
            segment: id.0,
            block: superblock.segment_start(id),
            kind: match segment.kind {
                SegmentKind::Free => "free",
                SegmentKind::Log => "log",
                SegmentKind::Survivors => "survivors",
                SegmentKind::Nodes => "nodes",
                SegmentKind::Object => "object",
            },
            live_bytes: segment.live_bytes,
            generation: segment.generation,
            written_at: segment.written_at,
        });
    }
    Some(segments)
}

/// The log from the checkpoint on, as recovery would go through it; returns its segments.
async fn log<D: BlockDevice>(
    device: &D,
    (superblock, vault): (&Superblock, &Vault),
    checkpoint: &Checkpoint,
    events: Events<'_>,
) -> Vec<SegmentId> {
    let mut segments = checkpoint.log_segments.clone();
    let window_max = superblock.log_segments as usize + 2;
    segments.truncate(window_max);
    let mut sequence = checkpoint.start.group;
    let mut previous = checkpoint.start.previous_checksum;
    let mut end = superblock.segment_start(SegmentId(0));
    let mut at = 0;
    while let Some(&id) = segments.get(at) {
        at += 1;
        let start = superblock.segment_start(id);
        let blocks = superblock.segment_blocks as usize;
        let Some(segment) = read(device, start, blocks, events).await else {
            break;
        };
        let mut next = 0;
        while let Some(rest) = segment.bytes().get(next * BLOCK_SIZE..) {
            let block = BlockIndex(start.0 + next as u64);
            end = block;
            let decoded = GroupHeader::decode(GroupKind::Commits, superblock.id, block, rest);
            let Some((header, checksum)) = decoded.filter(|(header, _)| {
                header.sequence == sequence
                    && header.previous_checksum == previous
                    && header.has_records(rest)
                    && (header.has_data(rest) || header.sequence <= checkpoint.durable_group)
            }) else {
                break;
            };
            let ground = (superblock, vault, block);
            group(&header, checksum, ground, rest, true, events);
            for (ahead, id) in header.next_segments.iter().enumerate() {
                // Those that it names follow this one.
                if let Some(id) = id.filter(|id| id.0 < superblock.segment_count_max)
                    && segments.len() == at + ahead
                    && segments.len() < window_max
                {
                    segments.push(id);
                }
            }
            sequence = sequence.saturating_add(1);
            previous = checksum;
            next += header.blocks() as usize;
        }
        if next == 0 {
            break;
        }
    }
    let text = "the log ends here";
    events(DumpEvent::Note { block: end, text });
    segments.truncate(at);
    segments
}

/// The groups in a segment that replay does not need.
async fn older<D: BlockDevice>(
    device: &D,
    (superblock, vault): (&Superblock, &Vault),
    id: SegmentId,
    kind: GroupKind,
    events: Events<'_>,
) {
    let start = superblock.segment_start(id);
    let blocks = superblock.segment_blocks as usize;
    let Some(segment) = read(device, start, blocks, events).await else {
        return;
    };
    let mut next = 0;
    while let Some(rest) = segment.bytes().get(next * BLOCK_SIZE..) {
        let block = BlockIndex(start.0 + next as u64);
        let decoded = GroupHeader::decode(kind, superblock.id, block, rest);
        let Some((header, checksum)) = decoded else {
            return;
        };
        let ground = (superblock, vault, block);
        group(&header, checksum, ground, rest, false, events);
        next += header.blocks() as usize;
    }
}

fn group(
    header: &GroupHeader,
    checksum: u32,
    (superblock, vault, block): (&Superblock, &Vault, BlockIndex),
    bytes: &[u8],
    replayed: bool,
    events: Events<'_>,
) {
    events(DumpEvent::Group {
        block,
        survivors: header.kind == GroupKind::Survivors,
        replayed,
        sequence: header.sequence,
        first_commit: header.first_commit,
        commits_ending: header.commits_ending,
        continued: header.continued,
        continues: header.continues,
        checkpoint: header.checkpoint,
        blocks: header.blocks(),
        data_bytes: header.data_len,
        records_bytes: header.records_len,
        checksum,
        previous_checksum: header.previous_checksum,
    });
    let told = header
        .records(superblock, vault, block, bytes)
        .and_then(|records| tell_records(header, block, &records, events));
    if told.is_none() {
        let text = "its records are damaged";
        events(DumpEvent::Note { block, text });
    }
}

fn tell_records(
    header: &GroupHeader,
    block: BlockIndex,
    mut records: &[u8],
    events: Events<'_>,
) -> Option<()> {
    let start = block.0.checked_mul(BLOCK_SIZE as u64)?;
    let mut data = start + GROUP_HEADER_BYTES as u64;
    let mut number = header.first_commit;
    while !records.is_empty() {
        let (mut own, data_bytes) = take_frame(&mut records)?;
        if header.kind == GroupKind::Commits {
            events(DumpEvent::Commit {
                number,
                records_bytes: own.len(),
                data_bytes,
            });
        }
        let mut address = data;
        while let Some(record) = Record::take(&mut own, number).ok()? {
            let record = match record {
                Record::Put { key, value } => DumpRecord::Put {
                    key,
                    value,
                    commit: number,
                },
                Record::Remove { key } => DumpRecord::Remove { key },
                Record::Free { object, from, to } => DumpRecord::Free { object, from, to },
                Record::Layer(bytes) => DumpRecord::Layer(bytes),
                Record::Write(extent) | Record::Moved(extent) => {
                    let at = address;
                    address = address.checked_add(extent.stored_len.into())?;
                    DumpRecord::Extent {
                        moved: matches!(record, Record::Moved(_)),
                        object: extent.object,
                        offset: extent.offset,
                        len: extent.len,
                        encoding: extent.encoding,
                        stored_len: extent.stored_len,
                        address: at,
                        birth: extent.birth,
                    }
                }
            };
            events(DumpEvent::Record(record));
        }
        data = data.checked_add(data_bytes)?;
        number = number.checked_add(1)?;
    }
    Some(())
}

impl fmt::Display for DumpEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock {
                block,
                ready,
                segment_blocks,
                segment_count_max,
                first_segment_block,
                suite,
                ..
            } => {
                let state = if *ready { "ready" } else { "formatting" };
                write!(
                    f,
                    "superblock at block {}: {state}, up to {segment_count_max} segments of \
                     {segment_blocks} blocks from block {first_segment_block}",
                    block.0
                )?;
                suite.map_or(Ok(()), |suite| write!(f, ", encrypted with {suite}"))
            }
            Self::Checkpoint {
                block,
                sequence,
                segment_count,
                in_force,
                tree_commit,
                horizon,
                start_group,
                log_segments,
                live_root,
                history_root,
                objects,
                ..
            } => {
                let force = if *in_force { ", in force" } else { "" };
                write!(
                    f,
                    "checkpoint {sequence} at block {}{force}: {segment_count} segments, trees to commit {}, objects to {}, \
                     log from group {start_group} in segments {log_segments:?}, {} objects, tree ",
                    block.0,
                    tree_commit.0,
                    horizon.0,
                    objects.len()
                )?;
                write_root(f, *live_root)?;
                f.write_str(", history ")?;
                write_root(f, *history_root)
            }
            Self::Segment {
                segment,
                block,
                kind,
                live_bytes,
                generation,
                written_at,
            } => write!(
                f,
                "segment {segment} at block {}: {kind}, {live_bytes} bytes in use, age {written_at}, \
                 generation {generation}",
                block.0
            ),
            Self::Group { .. } => self.write_group(f),
            Self::Commit {
                number,
                records_bytes,
                data_bytes,
            } => write!(
                f,
                "  commit {number}: {records_bytes} bytes of records, {data_bytes} of data"
            ),
            Self::Record(record) => write!(f, "    {record}"),
            Self::Note { block, text } => write!(f, "block {}: {text}", block.0),
        }
    }
}

impl DumpEvent<'_> {
    fn write_group(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Group {
            block,
            survivors,
            sequence,
            first_commit,
            commits_ending,
            continued,
            continues,
            checkpoint,
            blocks,
            data_bytes,
            records_bytes,
            checksum,
            previous_checksum,
            replayed,
        } = self
        else {
            return Ok(());
        };
        if *survivors {
            return write!(
                f,
                "survivors at block {}: {blocks} blocks, {data_bytes} bytes of data, under \
                 checkpoint {checkpoint}",
                block.0
            );
        }
        let name = if *replayed { "group" } else { "older group" };
        write!(
            f,
            "{name} {sequence} at block {}: {blocks} blocks, from commit {first_commit}, \
             {commits_ending} end here, {data_bytes} bytes of data, {records_bytes} of records, \
             checkpoint {checkpoint}, chain {previous_checksum:08x} to {checksum:08x}",
            block.0
        )?;
        if *continued {
            f.write_str(", begins inside a commit")?;
        }
        if *continues {
            f.write_str(", ends inside a commit")?;
        }
        Ok(())
    }
}

fn write_root(f: &mut fmt::Formatter<'_>, root: Option<NodePointer>) -> fmt::Result {
    match root {
        Some(root) => write!(f, "at block {}", root.block.0),
        None => f.write_str("empty"),
    }
}

impl fmt::Display for DumpRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Put { key, value, commit } => {
                f.write_str("put ")?;
                write_key(f, key)?;
                f.write_str(": ")?;
                write_value(f, key, value, commit)
            }
            Self::Remove { key } => {
                f.write_str("remove ")?;
                write_key(f, key)
            }
            Self::Extent {
                moved,
                object,
                offset,
                len,
                encoding,
                stored_len,
                address,
                birth,
            } => {
                let verb = if moved { "moved" } else { "write" };
                write!(
                    f,
                    "{verb} object {object} from {offset}: {len} bytes, stored in {stored_len} at \
                     byte {address}, encoding {encoding:#04x}, born {birth}"
                )
            }
            Self::Free { object, from, to } => match to {
                Some(to) => write!(f, "free object {object} from {from} to {to}"),
                None => write!(f, "free object {object} from {from} on"),
            },
            Self::Layer(bytes) => write!(f, "layer above: {} bytes", bytes.len()),
        }
    }
}

fn write_key(f: &mut fmt::Formatter<'_>, key: ItemKey) -> fmt::Result {
    let (object, position) = (key.object, key.position);
    match key.kind {
        ItemKind::Inode => write!(f, "inode {object}"),
        ItemKind::Inline => write!(f, "content of object {object}"),
        ItemKind::Entry => write!(f, "entry {position:#x} of directory {object}"),
        ItemKind::Attribute => write!(f, "attribute {position:#x} of inode {object}"),
        ItemKind::Extent => write!(f, "extent {position} of object {object}"),
        ItemKind::Orphan => write!(f, "orphan {position}"),
        ItemKind::Snapshot => write!(f, "snapshot {position}"),
        ItemKind::Property => write!(f, "property {position}"),
    }
}

fn write_value(f: &mut fmt::Formatter<'_>, key: ItemKey, value: &[u8], commit: u64) -> fmt::Result {
    match key.kind {
        ItemKind::Inode => {
            if let Ok(inode) = Inode::decode(value) {
                let (kind, mode) = (kind_name(inode.kind), inode.mode);
                let (links, size) = (inode.links, inode.size);
                return write!(f, "{kind}, mode {mode:04o}, {links} links, size {size}");
            }
        }
        ItemKind::Entry => {
            if let Ok((name, named)) = decode_entry(value) {
                let kind = kind_name(named.kind);
                let inode = named.inode.0;
                return write!(f, "\"{}\" is {kind} {inode}", name.escape_ascii());
            }
        }
        ItemKind::Attribute => {
            if let Ok((name, attribute)) = decode_attribute(value) {
                write!(f, "\"{}\", ", name.escape_ascii())?;
                return match attribute {
                    AttributeValue::Inline(bytes) => write!(f, "{} bytes", bytes.len()),
                    AttributeValue::Stored { object, size } => {
                        write!(f, "{size} bytes in object {object}")
                    }
                };
            }
        }
        ItemKind::Orphan => {
            if let Ok(state) = OrphanState::decode(value) {
                return match state {
                    OrphanState::Nameless => f.write_str("an inode without a name"),
                    OrphanState::Tree => f.write_str("a directory without a name"),
                    OrphanState::Cuts => f.write_str("an inode with ranges to free"),
                    OrphanState::Data { object, size, from } => {
                        write!(
                            f,
                            "data of object {object}, {size} bytes, free up to {from}"
                        )
                    }
                };
            }
        }
        ItemKind::Snapshot => {
            if let Some(info) = decode_snapshot(key.position, commit, value) {
                return write!(f, "\"{}\"", info.name.escape_debug());
            }
        }
        ItemKind::Property => {
            if key == COMPRESSION_PROPERTY
                && let Some(setting) = Compression::decode(value)
            {
                return write!(f, "compression {setting}");
            }
        }
        ItemKind::Inline | ItemKind::Extent => {
            return write!(f, "{} bytes", value.len());
        }
    }
    let hex = value.iter().take(32).fold(String::new(), |mut text, byte| {
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    });
    write!(
        f,
        "{} bytes that are not as they should be: {hex}",
        value.len()
    )
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symbolic link",
        FileKind::Fifo => "named pipe",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}
