//! What is on a disk, told structure by structure: superblock, slots, segment table, the log record by record,
//! and the groups of survivors. For people who look into an image, and for programs.
//!
//! Reads only. Whatever is on the disk, it ends, does not panic, and takes the memory of one segment and of the segment
//! table. Nothing it tells was checked for sense beyond its checksum; [`check`](crate::check()) does that.

use alloc::string::ToString as _;
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
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, ItemKey, ItemKind, NodePointer,
    Suite,
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

/// One structure. As text: a line that has all of its [`fields`](DumpEvent::fields).
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

/// What is said of a structure under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DumpField<'e> {
    /// Whether it is so. As text only its name, and nothing when it is not.
    Flag(bool),
    /// A number.
    Number(u64),
    /// A number that can be negative.
    Signed(i64),
    /// Permissions, which are read in octal digits.
    Mode(u16),
    /// A checksum, which is read in hexadecimal digits.
    Checksum(u32),
    /// One of a few words.
    Word(&'e str),
    /// A name that somebody chose: any bytes.
    Name(&'e [u8]),
    /// Bytes that are no text.
    Bytes(&'e [u8]),
    /// Numbers, in order.
    Numbers(&'e [u64]),
}

/// Takes the fields of an event, in order, with their names: lower case, words joined by `_`.
pub type DumpFields<'f> = &'f mut dyn FnMut(&'static str, DumpField<'_>);

/// Hands on numbers that are there.
fn number(put: DumpFields<'_>, name: &'static str, value: impl Into<Option<u64>>) {
    if let Some(value) = value.into() {
        put(name, DumpField::Number(value));
    }
}

impl DumpEvent<'_> {
    /// What kind of structure it is, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Superblock { .. } => "superblock",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Segment { .. } => "segment",
            Self::Group { .. } => "group",
            Self::Commit { .. } => "commit",
            Self::Record(_) => "record",
            Self::Note { .. } => "note",
        }
    }

    /// All that it says: the text of an event is these fields and nothing else.
    pub fn fields(&self, put: DumpFields<'_>) {
        use DumpField::{Checksum, Flag, Word};
        match *self {
            Self::Superblock {
                block,
                ready,
                segment_blocks,
                segment_count_max,
                first_segment_block,
                log_segments,
                suite,
            } => {
                number(put, "block", block.0);
                put("ready", Flag(ready));
                number(put, "segment_blocks", u64::from(segment_blocks));
                number(put, "segment_count_max", u64::from(segment_count_max));
                number(put, "first_segment_block", first_segment_block);
                number(put, "log_segments", u64::from(log_segments));
                if let Some(suite) = suite {
                    put("cipher", Word(&suite.to_string()));
                }
            }
            Self::Checkpoint { .. } => self.checkpoint_fields(put),
            Self::Segment {
                segment,
                block,
                kind,
                live_bytes,
                generation,
                written_at,
            } => {
                number(put, "segment", u64::from(segment));
                number(put, "block", block.0);
                put("content", Word(kind));
                number(put, "live_bytes", u64::from(live_bytes));
                number(put, "generation", u64::from(generation));
                number(put, "written_at", written_at);
            }
            Self::Group {
                block,
                survivors,
                replayed,
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
            } => {
                number(put, "sequence", sequence);
                number(put, "block", block.0);
                put("survivors", Flag(survivors));
                put("replayed", Flag(replayed));
                number(put, "blocks", u64::from(blocks));
                number(put, "first_commit", first_commit);
                number(put, "commits_ending", u64::from(commits_ending));
                put("begins_inside_commit", Flag(continued));
                put("ends_inside_commit", Flag(continues));
                number(put, "data_bytes", u64::from(data_bytes));
                number(put, "records_bytes", u64::from(records_bytes));
                number(put, "checkpoint", checkpoint);
                put("previous_checksum", Checksum(previous_checksum));
                put("checksum", Checksum(checksum));
            }
            Self::Commit {
                number: commit,
                records_bytes,
                data_bytes,
            } => {
                number(put, "commit", commit);
                number(put, "records_bytes", records_bytes as u64);
                number(put, "data_bytes", data_bytes);
            }
            Self::Record(record) => record.fields(put),
            Self::Note { block, text } => {
                number(put, "block", block.0);
                put("note", Word(text));
            }
        }
    }

    fn checkpoint_fields(&self, put: DumpFields<'_>) {
        let Self::Checkpoint {
            block,
            sequence,
            segment_count,
            in_force,
            tree_commit,
            horizon,
            durable_group,
            start_group,
            log_segments,
            live_root,
            history_root,
            objects,
            manifest_bytes,
        } = self
        else {
            return;
        };
        number(put, "sequence", *sequence);
        number(put, "block", block.0);
        put("in_force", DumpField::Flag(*in_force));
        number(put, "segment_count", u64::from(*segment_count));
        number(put, "tree_commit", tree_commit.0);
        number(put, "horizon", horizon.0);
        number(put, "durable_group", *durable_group);
        number(put, "start_group", *start_group);
        let segments: Vec<_> = log_segments.iter().copied().map(u64::from).collect();
        put("log_segments", DumpField::Numbers(&segments));
        let roots = [
            ("live_root_block", "live_root_checksum", live_root),
            ("history_root_block", "history_root_checksum", history_root),
        ];
        for (block, checksum, root) in roots {
            if let Some(root) = root {
                number(put, block, root.block.0);
                put(checksum, DumpField::Checksum(root.checksum));
            }
        }
        let (numbers, bytes): (Vec<_>, Vec<_>) = objects.iter().copied().unzip();
        number(put, "objects", numbers.len() as u64);
        put("object_numbers", DumpField::Numbers(&numbers));
        put("object_bytes", DumpField::Numbers(&bytes));
        number(put, "manifest_bytes", *manifest_bytes as u64);
    }
}

impl DumpRecord<'_> {
    fn fields(&self, put: DumpFields<'_>) {
        use DumpField::{Bytes, Flag, Word};
        match *self {
            Self::Put { key, value, commit } => {
                put("record", Word("put"));
                key_fields(key, put);
                number(put, "commit", commit);
                let told = value_fields(key, value, commit, put);
                put("malformed", Flag(told.is_none()));
                put("value_hex", Bytes(value));
            }
            Self::Remove { key } => {
                put("record", Word("remove"));
                key_fields(key, put);
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
                put("record", Word("extent"));
                put("moved", Flag(moved));
                number(put, "object", object);
                number(put, "offset", offset);
                number(put, "len", u64::from(len));
                number(put, "encoding", u64::from(encoding));
                number(put, "stored_len", u64::from(stored_len));
                number(put, "address", address);
                number(put, "birth", birth);
            }
            Self::Free { object, from, to } => {
                put("record", Word("free"));
                number(put, "object", object);
                number(put, "from", from);
                number(put, "to", to);
            }
            Self::Layer(bytes) => {
                put("record", Word("layer"));
                number(put, "bytes", bytes.len() as u64);
            }
        }
    }
}

fn key_fields(key: ItemKey, put: DumpFields<'_>) {
    let item = match key.kind {
        ItemKind::Inode => "inode",
        ItemKind::Inline => "inline",
        ItemKind::Entry => "entry",
        ItemKind::Attribute => "attribute",
        ItemKind::Extent => "extent",
        ItemKind::Orphan => "orphan",
        ItemKind::Snapshot => "snapshot",
        ItemKind::Property => "property",
    };
    put("item", DumpField::Word(item));
    number(put, "object", key.object);
    number(put, "position", key.position);
}

/// What the value of an item says; `None` when it is not as it should be.
fn value_fields(key: ItemKey, value: &[u8], commit: u64, put: DumpFields<'_>) -> Option<()> {
    use DumpField::{Name, Signed, Word};
    match key.kind {
        ItemKind::Inode => inode_fields(&Inode::decode(value).ok()?, put),
        ItemKind::Entry => {
            let (name, named) = decode_entry(value).ok()?;
            put("name", Name(name));
            put("type", Word(named.kind.name()));
            number(put, "inode", named.inode.0);
        }
        ItemKind::Attribute => {
            let (name, attribute) = decode_attribute(value).ok()?;
            put("name", Name(name));
            match attribute {
                AttributeValue::Inline(bytes) => number(put, "size", bytes.len() as u64),
                AttributeValue::Stored { object, size } => {
                    number(put, "size", size);
                    number(put, "stored_object", object);
                }
            }
        }
        ItemKind::Orphan => match OrphanState::decode(value).ok()? {
            OrphanState::Nameless => put("orphan", Word("an inode without a name")),
            OrphanState::Tree => put("orphan", Word("a directory without a name")),
            OrphanState::Cuts => put("orphan", Word("an inode with ranges to free")),
            OrphanState::Data { object, size, from } => {
                put("orphan", Word("data of an object"));
                number(put, "stored_object", object);
                number(put, "size", size);
                number(put, "free_up_to", from);
            }
        },
        ItemKind::Snapshot => {
            let info = decode_snapshot(key.position, commit, value)?;
            put("name", Name(info.name.as_bytes()));
            put("created_ns", Signed(info.created_ns));
        }
        ItemKind::Property if key == COMPRESSION_PROPERTY => {
            put("compression", Word(Compression::decode(value)?.name()));
        }
        // Extents are not put.
        ItemKind::Property | ItemKind::Extent => return None,
        ItemKind::Inline => number(put, "size", value.len() as u64),
    }
    Some(())
}

fn inode_fields(inode: &Inode, put: DumpFields<'_>) {
    use DumpField::{Mode, Signed, Word};
    let Inode {
        kind,
        mode,
        uid,
        gid,
        links,
        size,
        atime_ns,
        mtime_ns,
        ctime_ns,
        btime_ns,
        parent,
        device,
        data_object,
        attribute_names_bytes,
        allocated,
        ref cuts,
    } = *inode;
    let unless_zero = |value: u64| Some(value).filter(|&value| value != 0);
    put("type", Word(kind.name()));
    put("mode", Mode(mode));
    number(put, "uid", u64::from(uid));
    number(put, "gid", u64::from(gid));
    number(put, "links", u64::from(links));
    number(put, "size", size);
    for (name, time) in [
        ("accessed_ns", atime_ns),
        ("modified_ns", mtime_ns),
        ("changed_ns", ctime_ns),
        ("created_ns", btime_ns),
    ] {
        put(name, Signed(time));
    }
    number(put, "allocated_bytes", unless_zero(allocated));
    number(put, "parent", unless_zero(parent));
    number(put, "device", unless_zero(device));
    number(put, "data_object", unless_zero(data_object));
    let names = unless_zero(attribute_names_bytes.into());
    number(put, "attribute_names_bytes", names);
    if !cuts.is_empty() {
        let ends = cuts.ranges().iter().flat_map(|&(from, to)| [from, to]);
        put("cuts", DumpField::Numbers(&ends.collect::<Vec<_>>()));
    }
}

impl fmt::Display for DumpEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is inside of something is indented.
        f.write_str(match self {
            Self::Commit { .. } => "  ",
            Self::Record(_) => "    ",
            _ => "",
        })?;
        let kind = self.kind();
        f.write_str(kind)?;
        let mut outcome = Ok(());
        let mut between = ": ";
        self.fields(&mut |name, field| {
            if outcome.is_err() || field == DumpField::Flag(false) {
                return;
            }
            let words = name.replace('_', " ");
            outcome = match field {
                DumpField::Flag(_) => write!(f, "{between}{words}"),
                _ if name == kind => write!(f, "{between}{field}"),
                _ => write!(f, "{between}{words} {field}"),
            };
            between = ", ";
        });
        outcome
    }
}

impl fmt::Display for DumpField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flag(yes) => yes.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Mode(mode) => write!(f, "{mode:04o}"),
            Self::Checksum(checksum) => write!(f, "{checksum:08x}"),
            Self::Word(word) => f.write_str(word),
            Self::Name(name) => write!(f, "\"{}\"", name.escape_ascii()),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::Numbers(numbers) => write!(f, "{numbers:?}"),
        }
    }
}
