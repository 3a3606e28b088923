//! What two disks are to each other (DESIGN.md, "Mirror").
//!
//! Nothing is ever merged: one disk has everything and the other one gets it, or opening is refused. A disk that holds
//! anything else is not touched.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::record::{MemberId, Other, Reading, Record};
use super::regions::{Cut, Regions};
use super::state::{Standing, State};
use super::{Inner, Mirror};
use crate::checkpoint::{Checkpoint, read_slot};
use crate::disk::superblock::{State as FormatState, Superblock, SuperblockFault};
use crate::mount::read_superblock;
use crate::{
    BlockDevice, BlockIndex, Buffer, Content, DeviceError, DeviceGeometry, MountError, Notify,
    probe,
};

/// One of two disks, in the order given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    First,
    /// The second.
    Second,
}

impl Side {
    fn of(member: usize) -> Self {
        if member == 0 {
            Self::First
        } else {
            Self::Second
        }
    }
}

impl core::fmt::Display for Side {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::First => "the first disk",
            Self::Second => "the second disk",
        })
    }
}

/// Why disks are no mirror. Nothing was written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// Neither holds anything: there is nothing to mirror yet.
    #[error("both disks are blank")]
    Blank,
    /// One holds something unknown, which is not overwritten.
    #[error("{0} holds something this system does not know; blank it to have it become the mirror")]
    Foreign(Side),
    /// One holds a file system of its own.
    #[error(
        "{0} holds a file system that is not the other's mirror; blank the disk whose content may go"
    )]
    Stranger(Side),
    /// One is a copy, made outside, of the other.
    #[error("both disks are copies of one disk of a mirror; blank one of them")]
    Twins,
    /// Each was written while the other was away.
    #[error(
        "each of the two disks was written while the other was away, and their contents cannot be joined; decide \
         which one to keep and blank the other"
    )]
    SplitBrain,
    /// It was being brought up to date and the disk with everything is away.
    #[error(
        "{0} was being brought up to date from the other disk of its mirror and is not complete; attach that disk too"
    )]
    Incomplete(Side),
    /// It cannot hold what the other one does.
    #[error("{0} is smaller than the file system on the other")]
    TooSmall(Side),
    /// It failed.
    #[error("{0} failed: {1}")]
    Device(Side, DeviceError),
    /// It may have to serve only together with the other one, or not at all, and that cannot be read.
    #[error("whether {0} has everything, or is part of a mirror at all, cannot be read: {1}")]
    Unclear(Side, DeviceError),
    /// Not enough memory.
    #[error("not enough memory")]
    OutOfMemory,
}

/// What a disk holds.
enum Found {
    Blank,
    Foreign,
    /// A file system that is part of no mirror, and what number the next record must have to count.
    Single(Superblock, u64),
    /// Part of a mirror, of which the superblock need not be readable.
    Member(Option<Superblock>, Record),
    /// The same, but that it may have a newer record, which cannot be read for this reason.
    Blurred(Option<Superblock>, Record, DeviceError),
    /// It holds a file system, but whether that is part of a mirror cannot be read.
    Unclear(DeviceError),
    /// As good as absent.
    Failed(DeviceError),
}

/// What a disk lacks that was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// What the leader's record marks.
    Marked,
    /// Everything.
    All,
}

/// Who leads of two disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    Leads(usize),
}

/// The beginning of a disk, no longer than another one: what is formatted where both are to become a mirror.
pub struct CommonPart<'d, A> {
    device: &'d A,
    block_count: u64,
}

impl<'d, A: BlockDevice> CommonPart<'d, A> {
    /// Of `devices`, the part of the first that all have.
    pub fn of(devices: &'d [A]) -> Option<Self> {
        let sizes = devices.iter().map(|device| device.geometry().block_count);
        Some(Self {
            device: devices.first()?,
            block_count: sizes.min()?,
        })
    }
}

impl<A: BlockDevice> BlockDevice for CommonPart<'_, A> {
    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry {
            block_count: self.block_count,
            ..self.device.geometry()
        }
    }

    fn read(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.device.read(start, buffer)
    }

    fn write(
        &self,
        start: BlockIndex,
        buffer: Buffer,
    ) -> impl Future<Output = (Buffer, Result<(), DeviceError>)> {
        self.device.write(start, buffer)
    }

    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>> {
        self.device.flush()
    }

    fn discard(
        &self,
        start: BlockIndex,
        count: u64,
    ) -> impl Future<Output = Result<(), DeviceError>> {
        self.device.discard(start, count)
    }
}

async fn look<A: BlockDevice>(device: &A) -> Found {
    let Reading { record, unread } = Record::read(device).await;
    let superblock = match read_superblock(device).await {
        Ok(Ok(superblock)) if superblock.state == FormatState::Ready => Some(superblock),
        Ok(Err(SuperblockFault::Unknown { .. })) => return Found::Foreign,
        Err(error) if record.is_none() => return Found::Failed(error),
        // What it is to the other one may be known nevertheless.
        Ok(_) | Err(_) => None,
    };
    let next = record.as_ref().map_or(0, |record| record.generation + 1);
    let own = record.filter(|record| superblock.is_none_or(|own| record.filesystem == own.id));
    match (superblock, own, unread) {
        (superblock, Some(record), None) => Found::Member(superblock, record),
        (superblock, Some(record), Some(error)) => Found::Blurred(superblock, record, error),
        (Some(_), None, Some(error)) => Found::Unclear(error),
        (None, None, Some(error)) => Found::Failed(error),
        (Some(superblock), None, None) => Found::Single(superblock, next),
        (None, None, None) => match probe(device).await {
            Ok(Content::Blank) => Found::Blank,
            Ok(_) => Found::Foreign,
            Err(error) => Found::Failed(error),
        },
    }
}

/// What one disk of a mirror lacks of another that has everything.
pub(super) fn lack(lead: &Record, follower: &Record) -> Lack {
    if lead.other != Other::In && follower.epoch >= lead.base {
        Lack::Marked
    } else {
        Lack::All
    }
}

/// The record of a disk whose newest one cannot be read, if by what the other one says it has everything: who says that the
/// other one is in, or joins, acknowledges nothing that that does not have.
fn unblur(blurred: Record, other: &Record) -> Option<Record> {
    let acquainted = blurred.filesystem == other.filesystem
        && blurred.other_id == other.id
        && other.other_id == blurred.id;
    let epoch = blurred.epoch.max(other.epoch) + 2;
    (acquainted && (other.incomplete || other.other != Other::Out)).then_some(Record {
        epoch,
        base: epoch - 1,
        other: Other::Out,
        incomplete: false,
        ..blurred
    })
}

/// Who has everything.
pub(super) fn judge(records: [&Record; 2]) -> Result<Verdict, MirrorError> {
    let [one, two] = records;
    if one.id == two.id {
        return Err(MirrorError::Twins);
    }
    if one.filesystem != two.filesystem || one.other_id != two.id || two.other_id != one.id {
        return Err(MirrorError::Stranger(Side::Second));
    }
    let lead = match (one.incomplete, two.incomplete) {
        (true, true) => return Err(MirrorError::Incomplete(Side::First)),
        (true, false) => 1,
        (false, true) => 0,
        (false, false) => {
            let (higher, lower) = if one.epoch >= two.epoch {
                (one, two)
            } else {
                (two, one)
            };
            match (one.other, two.other) {
                (Other::In, Other::In | Other::Joining) | (Other::Joining, Other::In)
                    if one.epoch == two.epoch =>
                {
                    return Ok(Verdict::Whole);
                }
                // The power went while they began an epoch. Whoever says that the other joins has acknowledged
                // nothing without it; that one has gone on alone since.
                (Other::Joining, Other::Out) => return Ok(Verdict::Leads(1)),
                (Other::Out, Other::Joining) => return Ok(Verdict::Leads(0)),
                _ if one.epoch == two.epoch => return Err(MirrorError::SplitBrain),
                _ => {}
            }
            // It went on alone from an epoch before the higher one.
            if lower.other == Other::Out {
                return Err(MirrorError::SplitBrain);
            }
            usize::from(higher.id == two.id)
        }
    };
    Ok(Verdict::Leads(lead))
}

impl<A: BlockDevice> Mirror<A> {
    /// Opens one disk or two. Of two, one may be blank, and becomes the mirror of the other; of both blank, one has to be
    /// formatted first. `seed`: random, for what a new disk of a mirror is known by. [`run`](Self::run) has to run beside
    /// it, from when the file system on it is mounted. Nothing is written before that: a mount that is refused, for want of
    /// the key, leaves both disks as they are.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub async fn open(devices: Vec<A>, seed: [u8; 16]) -> Result<Self, MirrorError> {
        let mut devices = devices.into_iter();
        match (devices.next(), devices.next()) {
            (Some(first), None) => Self::open_one(first, false).await,
            (Some(first), Some(second)) => Self::open_two(first, second, Some(seed)).await,
            _ => Err(MirrorError::Blank),
        }
    }

    /// Opens one disk on which nothing is to be written, part of a mirror or not.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub async fn open_read_only(device: A) -> Result<Self, MirrorError> {
        Self::open_one(device, true).await
    }

    /// Opens two disks of one mirror that both have everything, or two copies of one disk that is part of no mirror and was
    /// not used since it was copied: for a look at both that repairs either from the other. Neither may be blank.
    ///
    /// # Errors
    /// See [`MirrorError`].
    pub async fn open_copies(devices: [A; 2]) -> Result<Self, MirrorError> {
        let [first, second] = devices;
        let found = [look(&first).await, look(&second).await];
        if let [Found::Single(one, _), Found::Single(two, _)] = &found
            && one == two
        {
            let same = same_slots(one, &first, &second).await;
            if !same.map_err(|error| MirrorError::Device(Side::Second, error))? {
                return Err(MirrorError::Stranger(Side::Second));
            }
            let sizes = [&first, &second].map(|device| device.geometry().block_count);
            let [size_one, size_two] = sizes;
            let block_count = size_one.min(size_two);
            let mut state = State::alone(block_count);
            state.set_standing(1, Standing::In);
            let devices = [Some(first), Some(second)];
            return Ok(Self::new(devices, state, false, block_count));
        }
        if let Some(blank) = found.iter().position(|found| matches!(found, Found::Blank)) {
            return Err(MirrorError::Stranger(Side::of(blank)));
        }
        Self::open_two(first, second, None).await
    }

    /// Damaged places written again from the other disk, since it was opened.
    pub fn repaired(&self) -> u64 {
        self.state(|state| state.repaired_count())
    }

    /// Whether both disks have everything.
    pub fn is_whole(&self) -> bool {
        self.state(|state| state.is_whole())
    }

    async fn open_one(device: A, mut read_only: bool) -> Result<Self, MirrorError> {
        let mut block_count = device.geometry().block_count;
        let state = match look(&device).await {
            Found::Member(_, record) if record.incomplete => {
                return Err(MirrorError::Incomplete(Side::First));
            }
            Found::Member(Some(superblock), record) => {
                let (mut state, record) = prepare(&superblock, record, block_count);
                state.one_leads(0, record, Standing::Absent);
                // The other one need not be larger, when it is back.
                let taken = blocks_taken(&device, &superblock).await;
                block_count = block_count.min(taken.unwrap_or(u64::MAX));
                state
            }
            // Written, it would have to say that the other one lacks that, or it may lack something itself.
            Found::Blurred(_, _, error) | Found::Unclear(error) if !read_only => {
                return Err(MirrorError::Unclear(Side::First, error));
            }
            Found::Failed(error) if !read_only => {
                return Err(MirrorError::Device(Side::First, error));
            }
            // What is wrong with it shows when it is mounted. Of a mirror, nothing is written.
            found => {
                read_only |= matches!(found, Found::Member(..));
                State::alone(block_count)
            }
        };
        Ok(Self::new(
            [Some(device), None],
            state,
            read_only,
            block_count,
        ))
    }

    /// `seed`: of the id of a disk that is taken in anew; without one, none is.
    async fn open_two(first: A, second: A, seed: Option<[u8; 16]>) -> Result<Self, MirrorError> {
        let devices = [first, second];
        let [one, two] = &devices;
        let sizes = [one, two].map(|device| device.geometry().block_count);
        let [size_one, size_two] = sizes;
        let block_count = size_one.min(size_two);
        let found = [look(one).await, look(two).await];
        let mut is_new = false;
        let (lead, superblock, record, follower) = match pair(found)? {
            Pair::Both(superblock, records) => {
                let [one, two] = records;
                match judge([&one, &two])? {
                    Verdict::Whole => {
                        return Self::open_whole(devices, sizes, superblock, [one, two]).await;
                    }
                    Verdict::Leads(0) => (0, superblock, one, Some(two)),
                    Verdict::Leads(_) => (1, superblock, two, Some(one)),
                }
            }
            Pair::New(lead, superblock, own) => {
                is_new = true;
                let seed = seed.ok_or(MirrorError::Stranger(Side::of(1 - lead)))?;
                let leader = if lead == 0 { one } else { two };
                check_size(blocks_taken(leader, &superblock).await, sizes)?;
                let (record, follower) = adopt(&superblock, own, seed, block_count);
                (lead, superblock, record, Some(follower))
            }
            Pair::Leads(lead, superblock, record, follower) => (lead, superblock, record, follower),
        };
        let [one, two] = &devices;
        let leader = if lead == 0 { one } else { two };
        let taken = blocks_taken(leader, &superblock).await;
        if follower.is_some() {
            check_size(taken, sizes)?;
        }
        let (mut state, record) = prepare(&superblock, record, block_count);
        let lacks = follower.as_ref().map(|follower| lack(&record, follower));
        state.one_leads(lead, record, Standing::Out);
        if let Some(follower) = follower {
            // What lacks everything may hold anything, whatever it says of itself.
            let epoch = if lacks == Some(Lack::All) {
                0
            } else {
                follower.epoch
            };
            state.set_record(1 - lead, Record { epoch, ..follower });
        }
        if is_new {
            state.adopt();
        }
        if is_new || lacks == Some(Lack::All) {
            state.lacks_all();
        }
        let [one, two] = devices;
        let devices = [Some(one), Some(two)];
        Ok(Self::new(
            devices,
            state,
            false,
            taken.unwrap_or(block_count),
        ))
    }

    /// Both have everything. Before anything is written they begin a new epoch together, so that a copy of one that was taken before shows.
    async fn open_whole(
        devices: [A; 2],
        sizes: [u64; 2],
        superblock: Superblock,
        records: [Record; 2],
    ) -> Result<Self, MirrorError> {
        for device in &devices {
            check_size(blocks_taken(device, &superblock).await, sizes)?;
        }
        let [size_one, size_two] = sizes;
        let block_count = size_one.min(size_two);
        let (mut state, _) = prepare(&superblock, records[0].clone(), block_count);
        let records = records.map(|record| Record {
            cut: state.cut(),
            marks: Regions::default(),
            ..record
        });
        state.both_in(records);
        let [one, two] = devices;
        Ok(Self::new([Some(one), Some(two)], state, false, block_count))
    }

    fn new(devices: [Option<A>; 2], state: State, read_only: bool, block_count: u64) -> Self {
        let inner = Inner {
            devices,
            block_count: Cell::new(block_count),
            read_only,
            state: RefCell::new(state),
            changed: Notify::default(),
            gone: Notify::default(),
            mends: Cell::new(false),
            order: RefCell::new(None),
        };
        Self {
            inner: Rc::new(inner),
        }
    }
}

/// Whether no checkpoint slot is valid on both disks and different.
async fn same_slots<A: BlockDevice>(
    superblock: &Superblock,
    one: &A,
    two: &A,
) -> Result<bool, DeviceError> {
    for slot in 0..2 {
        let own = superblock.slot_block(slot);
        let mut heads = Vec::new();
        for device in [one, two] {
            let slot = match read_slot(device, superblock, own, 0).await {
                Ok(slot) => slot,
                Err(MountError::Device(_)) => continue,
                Err(_) => return Err(DeviceError::Io),
            };
            heads.extend(Checkpoint::head_of(superblock, own, slot.bytes()));
        }
        if let [one, two] = heads.as_slice()
            && one != two
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What two disks make together, before their records are compared.
enum Pair {
    Both(Superblock, [Record; 2]),
    /// The one that leads, and its record if it has one; the other one is blank.
    New(usize, Superblock, Own),
    /// The one that leads, and the other one's record if that answers.
    Leads(usize, Superblock, Record, Option<Record>),
}

/// What a disk that gets a new partner has been so far.
enum Own {
    Single(u64),
    Member(Record),
}

/// Whether a disk is being made the mirror of another one that need not know it yet.
pub(super) fn is_filled_from(disk: &Record, other: &Record) -> bool {
    disk.incomplete
        && !other.incomplete
        && disk.other_id == other.id
        && disk.filesystem == other.filesystem
}

fn pair(found: [Found; 2]) -> Result<Pair, MirrorError> {
    let [one, two] = found;
    match (one, two) {
        (Found::Blank, Found::Blank) => Err(MirrorError::Blank),
        (Found::Foreign, _) => Err(MirrorError::Foreign(Side::First)),
        (_, Found::Foreign) => Err(MirrorError::Foreign(Side::Second)),
        (Found::Blurred(of_one, one, error), Found::Member(of_two, two)) => {
            let superblock = of_one.or(of_two);
            let lead = superblock.zip(unblur(one, &two));
            let (superblock, one) = lead.ok_or(MirrorError::Unclear(Side::First, error))?;
            Ok(Pair::Leads(0, superblock, one, Some(two)))
        }
        (Found::Member(of_one, one), Found::Blurred(of_two, two, error)) => {
            let superblock = of_two.or(of_one);
            let lead = superblock.zip(unblur(two, &one));
            let (superblock, two) = lead.ok_or(MirrorError::Unclear(Side::Second, error))?;
            Ok(Pair::Leads(1, superblock, two, Some(one)))
        }
        // It may be the one with everything.
        (Found::Blurred(_, _, error) | Found::Unclear(error), _) => {
            Err(MirrorError::Unclear(Side::First, error))
        }
        (_, Found::Blurred(_, _, error) | Found::Unclear(error)) => {
            Err(MirrorError::Unclear(Side::Second, error))
        }
        (Found::Member(of_one, one), Found::Member(of_two, two)) => {
            let acquainted = one.other_id == two.id && two.other_id == one.id;
            // A disk that was being taken in when the power went, before the other one's record said so.
            match (of_one, of_two) {
                (Some(superblock), _) if !acquainted && is_filled_from(&two, &one) => {
                    Ok(Pair::New(0, superblock, Own::Member(one)))
                }
                (_, Some(superblock)) if !acquainted && is_filled_from(&one, &two) => {
                    Ok(Pair::New(1, superblock, Own::Member(two)))
                }
                (Some(superblock), _) | (None, Some(superblock)) => {
                    Ok(Pair::Both(superblock, [one, two]))
                }
                (None, None) => Err(MirrorError::Incomplete(Side::First)),
            }
        }
        // Who fills a disk says so first: another one does.
        (Found::Member(_, record), Found::Single(..)) if record.incomplete => {
            Err(MirrorError::Stranger(Side::First))
        }
        (Found::Single(..), Found::Member(_, record)) if record.incomplete => {
            Err(MirrorError::Stranger(Side::Second))
        }
        (Found::Single(superblock, next), Found::Blank) => {
            Ok(Pair::New(0, superblock, Own::Single(next)))
        }
        (Found::Blank, Found::Single(superblock, next)) => {
            Ok(Pair::New(1, superblock, Own::Single(next)))
        }
        (Found::Member(Some(superblock), record), Found::Blank) if !record.incomplete => {
            Ok(Pair::New(0, superblock, Own::Member(record)))
        }
        (Found::Blank, Found::Member(Some(superblock), record)) if !record.incomplete => {
            Ok(Pair::New(1, superblock, Own::Member(record)))
        }
        (Found::Member(Some(superblock), record), Found::Failed(_)) if !record.incomplete => {
            Ok(Pair::Leads(0, superblock, record, None))
        }
        (Found::Failed(_), Found::Member(Some(superblock), record)) if !record.incomplete => {
            Ok(Pair::Leads(1, superblock, record, None))
        }
        (Found::Failed(error), _) => Err(MirrorError::Device(Side::First, error)),
        (_, Found::Failed(error)) => Err(MirrorError::Device(Side::Second, error)),
        (Found::Member(..), Found::Blank) => Err(MirrorError::Incomplete(Side::First)),
        (Found::Blank, Found::Member(..)) => Err(MirrorError::Incomplete(Side::Second)),
        (_, Found::Single(..)) => Err(MirrorError::Stranger(Side::Second)),
        (Found::Single(..), _) => Err(MirrorError::Stranger(Side::First)),
    }
}

/// Blocks that the file system on a disk takes, as its newest checkpoint says; also without its key. `None` where that
/// cannot be told: what is wrong shows when it is mounted.
async fn blocks_taken<A: BlockDevice>(device: &A, superblock: &Superblock) -> Option<u64> {
    let mut newest = None;
    for slot in 0..2 {
        let own = superblock.slot_block(slot);
        let slot = read_slot(device, superblock, own, 0).await.ok()?;
        let head = Checkpoint::head_of(superblock, own, slot.bytes());
        let head = head.filter(|head| superblock.allows(head.segment_count));
        newest = newest.max(head.map(|head| (head.sequence, head.segment_count)));
    }
    newest.map(|(_, count)| superblock.blocks_for(count))
}

fn check_size(taken: Option<u64>, sizes: [u64; 2]) -> Result<(), MirrorError> {
    let taken = taken.unwrap_or(0);
    let small = sizes.iter().position(|size| *size < taken);
    small.map_or(Ok(()), |member| {
        Err(MirrorError::TooSmall(Side::of(member)))
    })
}

/// The state of a mirror with this file system, and the leader's record in its terms.
fn prepare(superblock: &Superblock, mut record: Record, block_count: u64) -> (State, Record) {
    let blocks_min = superblock.segment_blocks.max(record.cut.region_blocks);
    let cut = Cut::new(block_count, blocks_min);
    record.marks = Regions::from_bytes(record.marks.bytes(), record.cut.region_blocks, cut);
    record.cut = cut;
    (State::new(cut, superblock.first_segment_block), record)
}

/// The records of a disk that gets a new partner, and of that.
fn adopt(superblock: &Superblock, own: Own, seed: [u8; 16], block_count: u64) -> (Record, Record) {
    let cut = Cut::new(block_count, superblock.segment_blocks);
    let new_id = MemberId(seed);
    let (id, generation, epoch) = match own {
        Own::Single(next) => (MemberId(seed.map(|byte| !byte)), next, 0),
        Own::Member(record) => (record.id, record.generation, record.epoch),
    };
    let mut marks = Regions::default();
    marks.extend(0..cut.count());
    let lead = Record {
        filesystem: superblock.id,
        generation,
        id,
        other_id: new_id,
        epoch: epoch + 1,
        // Marks say all that the new one lacks, from the beginning.
        base: 0,
        other: Other::Out,
        incomplete: false,
        cut,
        marks,
    };
    let follower = Record {
        generation: 1,
        id: new_id,
        other_id: id,
        epoch: 0,
        other: Other::In,
        incomplete: true,
        marks: Regions::default(),
        ..lead.clone()
    };
    (lead, follower)
}
