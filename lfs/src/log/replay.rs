//! Putting commits together from the groups of the log.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use super::group::{GROUP_HEADER_BYTES, GroupHeader};
use super::record::{ExtentRecord, Record};
use crate::disk::layout::VALUE_OBJECT;
use crate::varint::{take_bytes, take_varint};
use crate::{BLOCK_SIZE, BlockIndex, ItemKey};

/// A change that a commit makes to items or file data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    Put(ItemKey, Vec<u8>),
    Remove(ItemKey),
    /// A range of a file is in this stored extent, which begins at that address.
    Write(ExtentRecord, u64),
    /// A range of a file, or all of it from there on, holds nothing.
    Free {
        object: u64,
        from: u64,
        to: Option<u64>,
    },
}

impl Change {
    /// Whether it is to the value file.
    pub(crate) fn is_of_values(&self) -> bool {
        match self {
            Self::Write(ExtentRecord { object, .. }, _) | Self::Free { object, .. } => {
                *object == VALUE_OBJECT
            }
            Self::Put(..) | Self::Remove(_) => false,
        }
    }
}

/// A commit as the log has it.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub number: u64,
    pub changes: Vec<Change>,
    /// What the layer above recorded.
    pub layer: Vec<u8>,
}

/// What groups say does not fit together, or memory does not suffice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayFault {
    Broken,
    OutOfMemory,
}

/// The commits of the log, in order.
pub(crate) struct Replay {
    /// Whole commits.
    ready: VecDeque<Commit>,
    /// A commit of which the groups so far have the beginning.
    partial: Option<Commit>,
    partial_bytes: usize,
    commit_bytes_max: usize,
    /// The commit that begins next, or that `partial` is.
    next: u64,
    /// Replay begins inside a commit that nobody needs: its parts are passed over.
    skipping: bool,
    /// Commits up to this one are of no interest.
    horizon: u64,
}

impl Replay {
    /// Begins at `next`, or inside it when `continued`. Commits up to `horizon` are passed over.
    pub(crate) fn new(next: u64, continued: bool, horizon: u64, commit_bytes_max: usize) -> Self {
        Self {
            ready: VecDeque::new(),
            partial: None,
            partial_bytes: 0,
            commit_bytes_max,
            next,
            skipping: continued,
            horizon,
        }
    }

    /// The commit after the last whole one.
    pub(crate) fn next_number(&self) -> u64 {
        self.next
    }

    /// The next commit, if the groups so far have all of it.
    pub(crate) fn take(&mut self) -> Option<Commit> {
        self.ready.pop_front()
    }

    /// The commits that the groups so far have all of, in order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &Commit> {
        self.ready.iter()
    }

    /// Whether they are, and make, fewer than so many changes, and fewer than so many bytes of the layer above.
    pub(crate) fn has_room(&self, changes: usize, bytes: usize) -> bool {
        let of_items = self.waiting().map(|commit| commit.changes.len().max(1));
        let of_layer = self.waiting().map(|commit| commit.layer.len());
        of_items.sum::<usize>() < changes && of_layer.sum::<usize>() < bytes
    }

    /// Takes the records of the next group, which begins at `block`.
    pub(crate) fn push(
        &mut self,
        block: BlockIndex,
        header: &GroupHeader,
        records: &[u8],
    ) -> Result<(), ReplayFault> {
        if header.first_commit != self.next {
            return Err(ReplayFault::Broken);
        }
        if header.continued {
            if !self.skipping && self.partial.is_none() {
                return Err(ReplayFault::Broken);
            }
        } else {
            // Parts of a commit that a crash cut short: the log went on without it.
            self.partial = None;
            self.partial_bytes = 0;
            self.skipping = false;
        }
        let data_start = block.0 * BLOCK_SIZE as u64 + GROUP_HEADER_BYTES as u64;
        let mut address = data_start;
        let mut rest = records;
        let mut ending = 0;
        while !rest.is_empty() {
            let (own, data_len) = take_frame(&mut rest).ok_or(ReplayFault::Broken)?;
            let last = rest.is_empty();
            let ends = !(last && header.continues);
            let data_end = address
                .checked_add(data_len)
                .filter(|end| end - data_start <= u64::from(header.data_len))
                .ok_or(ReplayFault::Broken)?;
            self.add(own, address..data_end, ends)?;
            ending += u32::from(ends);
            address = data_end;
        }
        if ending != header.commits_ending {
            return Err(ReplayFault::Broken);
        }
        Ok(())
    }

    /// Takes what a group has of one commit, whose data are at these addresses.
    fn add(
        &mut self,
        mut records: &[u8],
        mut data: Range<u64>,
        ends: bool,
    ) -> Result<(), ReplayFault> {
        let number = self.next;
        if ends {
            self.next += 1;
        }
        if self.skipping || number <= self.horizon {
            // Until its end; then what follows counts again.
            self.skipping = !ends;
            return Ok(());
        }
        self.partial_bytes += records.len();
        if self.partial_bytes > self.commit_bytes_max {
            return Err(ReplayFault::Broken);
        }
        let mut commit = self.partial.take().unwrap_or_default();
        commit.number = number;
        while let Some(record) =
            Record::take(&mut records, number).map_err(|_| ReplayFault::Broken)?
        {
            let change = match record {
                Record::Put { key, value } => Change::Put(key, value.to_vec()),
                Record::Remove { key } => Change::Remove(key),
                Record::Write(extent) => {
                    let at = data.start;
                    data.start += u64::from(extent.stored_len);
                    if data.start > data.end {
                        return Err(ReplayFault::Broken);
                    }
                    Change::Write(extent, at)
                }
                Record::Free { object, from, to } => Change::Free { object, from, to },
                Record::Layer(bytes) => {
                    commit
                        .layer
                        .try_reserve(bytes.len())
                        .map_err(|_| ReplayFault::OutOfMemory)?;
                    commit.layer.extend_from_slice(bytes);
                    continue;
                }
                Record::Moved(_) => return Err(ReplayFault::Broken),
            };
            commit
                .changes
                .try_reserve(1)
                .map_err(|_| ReplayFault::OutOfMemory)?;
            commit.changes.push(change);
        }
        if data.start != data.end {
            // Of what nothing is said.
            return Err(ReplayFault::Broken);
        }
        if ends {
            self.partial_bytes = 0;
            self.ready
                .try_reserve(1)
                .map_err(|_| ReplayFault::OutOfMemory)?;
            self.ready.push_back(commit);
        } else {
            self.partial = Some(commit);
        }
        Ok(())
    }
}

/// Takes what a group has of one commit off the front of `records`: its records, and how many bytes of the
/// group's data are theirs.
pub(crate) fn take_frame<'r>(records: &mut &'r [u8]) -> Option<(&'r [u8], u64)> {
    let len = usize::try_from(take_varint(records)?).ok()?;
    let data_len = take_varint(records)?;
    let own = take_bytes(records, len)?;
    Some((own, data_len))
}
