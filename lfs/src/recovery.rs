//! Mounting: the newest valid checkpoint, then the log from there (SPEC.md, "Recovery").
//!
//! The layer above drives it: it looks at the manifest, reads its objects, then takes the commits
//! after the horizon one by one with [`Recovery::next_commit`], and [`Recovery::finish`]es.
//!
//! **Torn tail or damage.** The log ends at the first place where the next group of the chain is not
//! valid. Since a group is written only after the one before it was durable, a header with a *higher*
//! sequence number anywhere ahead proves that the missing group was durable, and maybe acknowledged:
//! that is damage, and the mount is refused. Otherwise the group was never acknowledged, and the log
//! ends before it. The checkpoint also names a group known to be durable: ending before it is damage.
//!
//! Nothing is written to the device before [`Recovery::finish`], which only flushes.

use alloc::vec::Vec;

use crate::budget::LogBudget;
use crate::checkpoint::{Checkpoint, ObjectInfo};
use crate::cursor::LogCursor;
use crate::filesystem::FileSystem;
use crate::format::read_superblock;
use crate::group::{COMMIT_FRAME_BYTES, GroupHeader};
use crate::log::Log;
use crate::object::{ObjectReader, segments_for};
use crate::segments::Segments;
use crate::superblock::{State, Superblock, SuperblockFault};
use crate::{
    BLOCK_SIZE, BlockDevice, BlockIndex, Buffer, CommitNumber, Counters, MountError, ObjectId,
    ObjectReadError, Structure,
};

/// A mount under way.
pub struct Recovery<D: BlockDevice> {
    device: D,
    superblock: Superblock,
    checkpoint: Checkpoint,
    segments: Segments,
    cursor: LogCursor,
    /// Content of the segment the cursor is in, and of the next one once it was looked at.
    current: Buffer,
    ahead: Buffer,
    current_loaded: bool,
    stream: CommitStream,
    counters: Counters,
}

/// Puts commits together from the payloads of groups.
struct CommitStream {
    bytes: Vec<u8>,
    /// Bytes at the front of `bytes` that were handed out.
    taken: usize,
    /// The commit that begins at `taken`.
    next: u64,
    /// Replay begins inside a commit that is older than the horizon: its parts are passed over.
    skipping: bool,
}

struct Group {
    header: GroupHeader,
    checksum: u32,
}

impl<D: BlockDevice> Recovery<D> {
    /// Reads superblock and checkpoint and prepares to replay.
    ///
    /// # Errors
    /// When there is no file system, or one that must not be mounted; see [`MountError`].
    pub async fn open(device: D) -> Result<Self, MountError> {
        let superblock = match read_superblock(&device).await? {
            Ok(superblock) if superblock.state == State::Ready => superblock,
            Ok(_) | Err(SuperblockFault::Invalid) => return Err(MountError::NotFound),
            Err(SuperblockFault::Unknown { version, features }) => {
                return Err(MountError::Unknown { version, features });
            }
        };
        let checkpoint = read_checkpoint(&device, &superblock).await?;
        let reserve = LogBudget::new(&superblock).segments_in_reserve();
        let reserve = u32::try_from(reserve).unwrap_or(u32::MAX);
        let segments = Segments::new(superblock.segment_count, reserve);
        let mut segments = segments.ok_or(MountError::OutOfMemory)?;
        if !claim_segments(&superblock, &checkpoint, &mut segments) {
            return Err(MountError::Damaged {
                structure: Structure::Checkpoint,
                block: superblock.slot_block(Checkpoint::slot(checkpoint.sequence)),
            });
        }
        let segment_blocks = superblock.segment_blocks as usize;
        Ok(Self {
            cursor: LogCursor::at_start(&checkpoint.log_segments, checkpoint.start),
            current: Buffer::zeroed(segment_blocks)?,
            ahead: Buffer::zeroed(segment_blocks)?,
            current_loaded: false,
            stream: CommitStream {
                bytes: Vec::new(),
                taken: 0,
                next: checkpoint.start.commit,
                skipping: checkpoint.start.continued,
            },
            counters: Counters::default(),
            device,
            superblock,
            checkpoint,
            segments,
        })
    }

    /// What the layer above left in the checkpoint; empty after a format.
    pub fn manifest(&self) -> &[u8] {
        &self.checkpoint.manifest
    }

    /// The last commit that is in the objects; replay yields those after it.
    pub fn horizon(&self) -> CommitNumber {
        self.checkpoint.horizon
    }

    /// The device, for [`ObjectReader::next_frame`].
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Opens an object of the checkpoint.
    ///
    /// # Errors
    /// [`ObjectReadError::NotFound`] when the checkpoint does not name it.
    pub fn open_object(&self, id: ObjectId) -> Result<ObjectReader, ObjectReadError> {
        let info = self
            .checkpoint
            .objects
            .get(&id)
            .ok_or(ObjectReadError::NotFound)?;
        Ok(ObjectReader::new(self.superblock, id, info.clone()))
    }

    /// The next commit after the horizon: its number and its payload, or `None` at the log's end.
    ///
    /// # Errors
    /// [`MountError::Damaged`] when commits that were acknowledged cannot be read any more.
    pub async fn next_commit(&mut self) -> Result<Option<(CommitNumber, &[u8])>, MountError> {
        loop {
            let limit = self.superblock.commit_bytes_max();
            let next = self
                .stream
                .next_commit(limit)
                .map_err(|()| self.damaged_group())?;
            if let Some((number, range)) = next {
                if number <= self.checkpoint.horizon {
                    continue;
                }
                self.counters.replayed_commits += 1;
                return Ok(Some((
                    number,
                    self.stream.bytes.get(range).unwrap_or_default(),
                )));
            }
            let Some(group) = self.next_group().await? else {
                self.check_end().await?;
                return Ok(None);
            };
            if group.header.checkpoint > self.checkpoint.sequence {
                // There was a newer checkpoint, and what it no longer named may be overwritten.
                return Err(MountError::Damaged {
                    structure: Structure::Checkpoint,
                    block: self
                        .superblock
                        .slot_block(Checkpoint::slot(group.header.checkpoint)),
                });
            }
            let start = self.cursor.next_block as usize * BLOCK_SIZE;
            let bytes = self.current.bytes().get(start..).unwrap_or_default();
            let payload = group.header.payload(bytes).unwrap_or_default();
            self.stream
                .push(&group.header, payload)
                .map_err(|fault| match fault {
                    StreamFault::Broken => self.damaged_group(),
                    StreamFault::OutOfMemory => MountError::OutOfMemory,
                })?;
            let header = group.header;
            self.cursor.step(
                header.blocks(),
                header.first_commit,
                header.continued,
                group.checksum,
            );
        }
    }

    /// Ends the mount: from here on the log goes on after the last commit found.
    ///
    /// What was replayed is made durable first: after a crash of the machine but not of the disk, a
    /// group can be readable that no flush covered yet.
    ///
    /// # Errors
    /// When the flush fails, or memory does not suffice. Must follow a `next_commit` that was `None`.
    pub async fn finish(self) -> Result<FileSystem<D>, MountError> {
        self.device.flush().await?;
        let last = CommitNumber(self.stream.next - 1);
        let log = Log::new(
            self.superblock,
            self.cursor,
            last,
            self.checkpoint.sequence,
            self.counters,
        )?;
        Ok(FileSystem::new(
            self.device,
            self.superblock,
            self.segments,
            log,
            self.checkpoint,
        ))
    }

    /// The next group of the chain, with the cursor moved to where it begins.
    async fn next_group(&mut self) -> Result<Option<Group>, MountError> {
        if !self.current_loaded {
            self.current = self.read_segment(self.cursor.current, 0).await?;
            self.current_loaded = true;
        }
        if let Some(group) = self.group_at_cursor(&self.cursor, &self.current) {
            return Ok(Some(group));
        }
        let mut next = self.cursor.clone();
        // A segment is only left for the next once it has a group, and the next one did not fit.
        if self.cursor.next_block == 0 || !next.advance() {
            return Ok(None);
        }
        self.ahead = self.read_segment(next.current, 1).await?;
        let Some(group) = self.group_at_cursor(&next, &self.ahead) else {
            return Ok(None);
        };
        core::mem::swap(&mut self.current, &mut self.ahead);
        self.cursor = next;
        Ok(Some(group))
    }

    fn group_at_cursor(&self, cursor: &LogCursor, segment: &Buffer) -> Option<Group> {
        let start = cursor.next_block as usize * BLOCK_SIZE;
        let bytes = segment.bytes().get(start..)?;
        let block = cursor.block(&self.superblock)?;
        let (header, checksum) = GroupHeader::decode(self.superblock.id, block, bytes)?;
        let valid = header.sequence == cursor.sequence
            && header.previous_checksum == cursor.previous_checksum
            && header.payload(bytes).is_some();
        valid.then_some(Group { header, checksum })
    }

    /// The chain ends at the cursor: makes sure that nothing acknowledged lies behind.
    async fn check_end(&mut self) -> Result<(), MountError> {
        let damaged = Err(self.damaged_group());
        if self.cursor.sequence <= self.checkpoint.durable_group {
            return damaged;
        }
        let listed = self.cursor.current..self.cursor.listed.len();
        for index in listed {
            let (segment, first) = if index == self.cursor.current {
                (core::mem::take(&mut self.current), self.cursor.next_block)
            } else if index == self.cursor.current + 1 {
                (self.read_segment(index, 1).await?, 0)
            } else {
                // Only its first block: a segment is filled from there, and a first group that is
                // damaged has its successor in the same or, seen above, the segment before.
                (self.read_blocks(index, Buffer::zeroed(1)?).await?, 0)
            };
            let later = self.has_later_group(index, first, &segment);
            if index == self.cursor.current {
                self.current = segment;
            }
            if later {
                return damaged;
            }
        }
        Ok(())
    }

    /// Whether `segment` holds, from its block `first` on, a header after the one that is missing.
    fn has_later_group(&self, index: usize, first: u32, segment: &Buffer) -> bool {
        let Some(listed) = self.cursor.listed.get(index) else {
            return false;
        };
        let start = self.superblock.segment_start(listed.id).0;
        let blocks = segment.bytes().chunks_exact(BLOCK_SIZE).zip(start..);
        blocks.skip(first as usize).any(|(bytes, block)| {
            GroupHeader::decode(self.superblock.id, BlockIndex(block), bytes)
                .is_some_and(|(header, _)| header.sequence > self.cursor.sequence)
        })
    }

    fn damaged_group(&self) -> MountError {
        MountError::Damaged {
            structure: Structure::CommitGroup,
            block: self.cursor.block(&self.superblock).unwrap_or(BlockIndex(0)),
        }
    }

    /// Reads listed segment `index` whole, into the memory of the current (0) or next (1) segment.
    async fn read_segment(&mut self, index: usize, memory: u8) -> Result<Buffer, MountError> {
        let buffer = core::mem::take(if memory == 0 {
            &mut self.current
        } else {
            &mut self.ahead
        });
        self.read_blocks(index, buffer).await
    }

    async fn read_blocks(
        &mut self,
        index: usize,
        mut buffer: Buffer,
    ) -> Result<Buffer, MountError> {
        if buffer.is_empty() {
            buffer.grow(self.superblock.segment_blocks as usize)?;
        }
        let Some(segment) = self.cursor.listed.get(index) else {
            return Ok(buffer);
        };
        let start = self.superblock.segment_start(segment.id);
        self.counters.bytes_read += buffer.bytes().len() as u64;
        let (buffer, read) = self.device.read(start, buffer).await;
        read?;
        Ok(buffer)
    }
}

enum StreamFault {
    /// Groups that are each valid do not fit together.
    Broken,
    OutOfMemory,
}

impl CommitStream {
    /// Takes the payload of the next group.
    fn push(&mut self, header: &GroupHeader, payload: &[u8]) -> Result<(), StreamFault> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if header.first_commit != self.next {
            return Err(StreamFault::Broken);
        }
        if !header.continued {
            // Parts of a commit that a crash cut short: the log went on without it.
            self.bytes.clear();
            self.skipping = false;
        } else if self.skipping {
            if header.commits_ending > 0 {
                self.next += 1;
                self.skipping = false;
            }
            return Ok(());
        } else if self.bytes.is_empty() {
            return Err(StreamFault::Broken);
        }
        self.bytes
            .try_reserve(payload.len())
            .map_err(|_| StreamFault::OutOfMemory)?;
        self.bytes.extend_from_slice(payload);
        Ok(())
    }

    /// The next whole commit: its number and where in `bytes` its payload is.
    fn next_commit(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<(CommitNumber, core::ops::Range<usize>)>, ()> {
        let rest = self.bytes.get(self.taken..).unwrap_or_default();
        let Some((frame, payload)) = rest.split_first_chunk::<COMMIT_FRAME_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(*frame) as usize;
        if len > bytes_max {
            return Err(());
        }
        if payload.len() < len {
            return Ok(None);
        }
        let start = self.taken + COMMIT_FRAME_BYTES;
        let number = CommitNumber(self.next);
        self.taken = start + len;
        self.next += 1;
        Ok(Some((number, start..start + len)))
    }
}

/// The valid checkpoint with the highest sequence number.
async fn read_checkpoint<D: BlockDevice>(
    device: &D,
    superblock: &Superblock,
) -> Result<Checkpoint, MountError> {
    let mut newest: Option<Checkpoint> = None;
    for slot in 0..2 {
        let own = superblock.slot_block(slot);
        let buffer = Buffer::zeroed(superblock.slot_blocks as usize)?;
        // A slot that cannot be read may be the newer one: going on with the other is not safe.
        let (buffer, read) = device.read(own, buffer).await;
        read?;
        if let Some(found) = Checkpoint::decode(superblock, own, buffer.bytes())
            && newest
                .as_ref()
                .is_none_or(|best| found.sequence > best.sequence)
        {
            newest = Some(found);
        }
    }
    newest.ok_or(MountError::Damaged {
        structure: Structure::Checkpoint,
        block: superblock.slot_block(0),
    })
}

/// No count on disk gets here in the life of a disk; beyond, adding could overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Takes the segments that a checkpoint names; whether it does not contradict itself.
fn claim_segments(
    superblock: &Superblock,
    checkpoint: &Checkpoint,
    segments: &mut Segments,
) -> bool {
    let objects = checkpoint.objects.values();
    let mut named = checkpoint
        .log_segments
        .iter()
        .chain(objects.clone().flat_map(|object| &object.segments));
    let long_enough = |object: &ObjectInfo| {
        object.segments.len() as u64 == segments_for(superblock, object.len_bytes)
    };
    named.all(|&segment| segments.claim(segment))
        && objects.clone().all(long_enough)
        && (1..=superblock.log_segments as usize).contains(&checkpoint.log_segments.len())
        && (1..NUMBER_MAX).contains(&checkpoint.start.commit)
        && (1..NUMBER_MAX).contains(&checkpoint.start.group)
        && checkpoint.sequence < NUMBER_MAX
        && checkpoint.next_object < NUMBER_MAX
        && checkpoint
            .objects
            .keys()
            .all(|id| id.0 < checkpoint.next_object)
}
