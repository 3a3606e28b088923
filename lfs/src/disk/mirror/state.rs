//! Who is in, what the other one lacks, and what the leader's record has to say before work goes on.
//!
//! Invariants, while one disk is not in:
//! - `stale` holds every region that has to be copied to it;
//! - `marks` holds `stale` and every region written since the last flush that both completed;
//! - the leader's record on its disk has the mark of a region before that region is written.
//!
//! Whatever is written to a disk, be it new, mended or copied, counts as uncertain there until both have completed a flush that
//! began after it: should the disk go out before, it may have lost that.

use alloc::collections::{BTreeMap, BTreeSet};
use core::ops::Range;

use super::record::{Other, Record};
use super::regions::{Cut, Regions};
use super::{MemberState, MirrorStatus};
use crate::{BLOCK_SIZE, BlockIndex, DeviceError};

/// What use is made of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Standing {
    #[default]
    Absent,
    /// It has everything.
    In,
    /// It is attached, but nothing is sent to it.
    Out,
    /// It gets what is written, and what it lacks is copied.
    Resync,
}

#[derive(Default)]
struct Member {
    standing: Standing,
    record: Option<Record>,
    /// How often it went out.
    departures: u64,
    /// What it was asked and has not answered, by number, in the order it was asked.
    requests: BTreeMap<u64, Request>,
    read_errors: u32,
    /// It did not answer for too long: requests may still be with it.
    silent: bool,
    /// It is new here: its record is not on it yet.
    adopted: bool,
}

/// What a request means for what is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// A read or a flush: it may be forgotten.
    Asks,
    /// A write or a discard: as long as it was not answered, it may still take effect.
    Changes,
}

/// A record that is being written.
pub(super) struct Writing {
    pub member: usize,
    pub record: Record,
    version: u64,
}

/// The state of a mirror, or of a disk that is part of none.
pub(super) struct State {
    members: [Member; 2],
    lead: usize,
    cut: Cut,
    /// Regions that count as different whenever a disk has been away: superblock, slots, table.
    head: Range<u32>,
    /// What the leader's record should say has changed so often, and which of that is on its disk.
    version: u64,
    recorded: u64,
    record_busy: bool,
    marks: Regions,
    durable_marks: Regions,
    stale: Regions,
    /// Regions with blocks that could not be read to be copied.
    unread: Regions,
    /// The file system is to write anew what counts for being the newest: the number of that wish.
    renewal: Option<u64>,
    locked: Option<Range<u64>>,
    writes: BTreeMap<u64, Range<u64>>,
    next_number: u64,
    /// Regions written since the last flush began, and those that flushes under way are to cover.
    unflushed: BTreeSet<u32>,
    flushing: BTreeMap<u64, BTreeSet<u32>>,
    /// Both start together and have not begun an epoch yet: that comes before the first write.
    epoch_due: bool,
    epoch_busy: bool,
    /// The leader's record could not be written.
    broken: Option<DeviceError>,
    resynced_bytes: u64,
    repaired: u64,
    failures: u64,
    unread_blocks: u64,
}

impl State {
    /// A disk alone, part of no mirror.
    pub(super) fn alone(block_count: u64) -> Self {
        let mut state = Self::new(Cut::new(block_count, 16), 0);
        state.set_standing(0, Standing::In);
        state
    }

    /// A mirror of which nobody is in yet. The first `head_blocks` blocks count as different when a disk
    /// was away.
    pub(super) fn new(cut: Cut, head_blocks: u64) -> Self {
        Self {
            members: Default::default(),
            lead: 0,
            cut,
            head: cut.touched(BlockIndex(0), head_blocks),
            version: 0,
            recorded: 0,
            record_busy: false,
            marks: Regions::default(),
            durable_marks: Regions::default(),
            stale: Regions::default(),
            unread: Regions::default(),
            renewal: None,
            locked: None,
            writes: BTreeMap::new(),
            next_number: 0,
            unflushed: BTreeSet::new(),
            flushing: BTreeMap::new(),
            epoch_due: false,
            epoch_busy: false,
            broken: None,
            resynced_bytes: 0,
            repaired: 0,
            failures: 0,
            unread_blocks: 0,
        }
    }

    /// Both have everything.
    pub(super) fn both_in(&mut self, records: [Record; 2]) {
        for (member, record) in self.members.iter_mut().zip(records) {
            member.standing = Standing::In;
            member.record = Some(record);
        }
        self.epoch_due = true;
    }

    /// Whether it falls to the caller to begin the epoch that is due; `None` while somebody does.
    pub(super) fn take_epoch(&mut self) -> Option<bool> {
        if self.epoch_busy {
            return None;
        }
        // One that has failed meanwhile is out, and that is an epoch of its own.
        self.epoch_due &= self.is_whole();
        self.epoch_busy = self.epoch_due;
        Some(self.epoch_due)
    }

    /// `begun`: or else it is still due.
    pub(super) fn release_epoch(&mut self, begun: bool) {
        self.epoch_busy = false;
        self.epoch_due &= !begun;
    }

    /// One has everything; the other stands as said and lacks what the leader's record marks.
    pub(super) fn one_leads(&mut self, lead: usize, record: Record, other: Standing) {
        self.lead = lead;
        self.durable_marks = record.marks.clone();
        self.set_standing(lead, Standing::In);
        self.set_standing(1 - lead, other);
        self.set_record(lead, record);
        if self
            .record(lead)
            .is_some_and(|record| record.other != Other::Out)
        {
            self.say_out();
            let head = self.head.clone();
            self.durable_marks = Regions::default();
            self.marks.extend(head);
        }
        if let Some(record) = self.record(lead) {
            let marks = record.marks.clone();
            self.marks.unite(&marks);
        }
        self.stale = self.marks.clone();
    }

    /// The other one lacks everything.
    pub(super) fn lacks_all(&mut self) {
        self.marks.extend(0..self.cut.count());
        self.stale = self.marks.clone();
        self.version += 1;
    }

    /// The other one is new: it was blank, and nothing was written to it.
    pub(super) fn adopt(&mut self) {
        if let Some(member) = self.members.get_mut(1 - self.lead) {
            member.adopted = true;
        }
    }

    /// The record of a disk that has none on it yet.
    pub(super) fn adopted_record(&self, member: usize) -> Option<Record> {
        let member = self.members.get(member).filter(|m| m.adopted)?;
        member.record.clone()
    }

    /// A record of it is on it.
    pub(super) fn end_adoption(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            member.adopted = false;
        }
    }

    /// Whether it is no mirror but a disk alone.
    pub(super) fn is_alone(&self) -> bool {
        self.record(self.lead).is_none()
    }

    pub(super) fn lead(&self) -> usize {
        self.lead
    }

    pub(super) fn cut(&self) -> Cut {
        self.cut
    }

    pub(super) fn record(&self, member: usize) -> Option<&Record> {
        self.members.get(member)?.record.as_ref()
    }

    pub(super) fn set_record(&mut self, member: usize, record: Record) {
        if let Some(member) = self.members.get_mut(member) {
            member.record = Some(record);
        }
    }

    pub(super) fn standing(&self, member: usize) -> Standing {
        let member = self.members.get(member);
        member.map_or(Standing::Absent, |member| member.standing)
    }

    pub(super) fn set_standing(&mut self, member: usize, standing: Standing) {
        if let Some(member) = self.members.get_mut(member) {
            member.standing = standing;
            member.read_errors = 0;
        }
    }

    pub(super) fn departures(&self, member: usize) -> u64 {
        self.members
            .get(member)
            .map_or(0, |member| member.departures)
    }

    /// The number of a request that is about to be sent.
    pub(super) fn begin_request(&mut self, member: usize, request: Request) -> u64 {
        let number = self.take_number();
        if let Some(member) = self.members.get_mut(member) {
            member.requests.insert(number, request);
        }
        number
    }

    pub(super) fn end_request(&mut self, member: usize, number: u64) {
        if let Some(member) = self.members.get_mut(member) {
            member.requests.remove(&number);
        }
    }

    /// The request that it has not answered for longest.
    pub(super) fn oldest_request(&self, member: usize) -> Option<u64> {
        let (number, _) = self.members.get(member)?.requests.first_key_value()?;
        Some(*number)
    }

    /// Whether something that was sent to it may still take effect.
    pub(super) fn is_changing(&self, member: usize) -> bool {
        let requests = self.members.get(member).map(|member| &member.requests);
        requests.is_some_and(|requests| requests.values().any(|one| *one == Request::Changes))
    }

    /// It does not answer: nobody waits for it any more, unless it is the last that has everything. True if so.
    pub(super) fn give_up(&mut self, member: usize) -> bool {
        let used = matches!(self.standing(member), Standing::In | Standing::Resync);
        let given_up = !used || self.fail(member);
        if given_up {
            self.set_silent(member);
        }
        given_up
    }

    pub(super) fn is_silent(&self, member: usize) -> bool {
        self.members.get(member).is_some_and(|member| member.silent)
    }

    pub(super) fn set_silent(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            member.silent = true;
        }
    }

    /// Those that writes and flushes go to.
    pub(super) fn written_members(&self) -> [Option<usize>; 2] {
        self.members_that(|standing| matches!(standing, Standing::In | Standing::Resync))
    }

    /// Those that may be read, the leader first.
    pub(super) fn read_members(&self) -> [Option<usize>; 2] {
        let [first, second] = self.members_that(|standing| standing == Standing::In);
        if self.lead == 1 {
            [second, first]
        } else {
            [first, second]
        }
    }

    fn members_that(&self, wanted: impl Fn(Standing) -> bool) -> [Option<usize>; 2] {
        [0, 1].map(|member| wanted(self.standing(member)).then_some(member))
    }

    pub(super) fn is_whole(&self) -> bool {
        [0, 1].map(|member| self.standing(member)) == [Standing::In; 2]
    }

    pub(super) fn read_well(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            member.read_errors = 0;
        }
    }

    /// How many reads have failed in a row.
    pub(super) fn read_badly(&mut self, member: usize) -> u32 {
        let Some(member) = self.members.get_mut(member) else {
            return 0;
        };
        member.read_errors += 1;
        member.read_errors
    }

    /// Puts a disk out; false when it is the last one that has everything, or is out already.
    pub(super) fn fail(&mut self, failed: usize) -> bool {
        let other = 1 - failed.min(1);
        let uncertain = self.uncertain();
        match (self.standing(failed), self.standing(other)) {
            (Standing::In, Standing::In) => {
                self.lead = other;
                self.marks = uncertain;
                self.marks.extend(self.head.clone());
                self.durable_marks = Regions::default();
                self.stale = self.marks.clone();
                self.say_out();
            }
            (Standing::Resync, Standing::In) => {
                self.stale.unite(&uncertain);
                self.stale.unite(&self.unread);
                self.marks.unite(&uncertain);
                self.say_out();
            }
            _ => return false,
        }
        self.renewal = None;
        self.failures += 1;
        self.set_standing(failed, Standing::Out);
        if let Some(member) = self.members.get_mut(failed) {
            member.departures += 1;
        }
        true
    }

    /// The leader's record is to say that the other one is out.
    fn say_out(&mut self) {
        self.version += 1;
        let Some(record) = self
            .members
            .get_mut(self.lead)
            .and_then(|m| m.record.as_mut())
        else {
            return;
        };
        match record.other {
            Other::In => {
                record.base = record.epoch;
                record.epoch += 1;
            }
            // It may have taken that epoch for its own.
            Other::Joining => record.epoch += 1,
            Other::Out => {}
        }
        record.other = Other::Out;
    }

    /// Regions that a disk which goes out now may have or not.
    fn uncertain(&self) -> Regions {
        let mut regions = Regions::default();
        let sets = self.flushing.values().chain([&self.unflushed]);
        sets.flatten().for_each(|region| regions.insert(*region));
        for blocks in self.writes.values() {
            regions.extend(self.touched(blocks));
        }
        regions
    }

    fn touched(&self, blocks: &Range<u64>) -> Range<u32> {
        let count = blocks.end - blocks.start;
        self.cut.touched(BlockIndex(blocks.start), count)
    }

    /// Whether nothing has to be recorded before these blocks are written, or before anything is acknowledged.
    pub(super) fn is_settled(&self, blocks: Option<&Range<u64>>) -> bool {
        if self.record(self.lead).is_none() {
            return true;
        }
        let current = self.recorded == self.version;
        match blocks {
            Some(blocks) if !self.is_whole() => {
                let regions = self.touched(blocks);
                // What is being written there now may say less than what is there.
                let said = self.marks.contains_all(regions.clone());
                current && said && self.durable_marks.contains_all(regions)
            }
            _ => current,
        }
    }

    pub(super) fn broken(&self) -> Option<DeviceError> {
        self.broken
    }

    /// A flush of the last disk has failed: what it lost is not known, and the next flush would not tell. Nothing becomes durable any more.
    pub(super) fn break_with(&mut self, error: DeviceError) {
        self.broken.get_or_insert(error);
    }

    /// The record to write, unless one is being written.
    pub(super) fn begin_record(&mut self, blocks: Option<&Range<u64>>) -> Option<Writing> {
        if self.record_busy {
            return None;
        }
        if let Some(blocks) = blocks
            && !self.is_whole()
        {
            let regions = self.touched(blocks);
            self.marks.extend(regions);
        }
        let mut record = self.record(self.lead)?.clone();
        record.generation += 1;
        record.marks = if self.is_whole() {
            Regions::default()
        } else {
            self.marks.clone()
        };
        self.record_busy = true;
        Some(Writing {
            member: self.lead,
            record,
            version: self.version,
        })
    }

    /// The record is on the disk, or that failed.
    pub(super) fn end_record(&mut self, writing: Writing, written: Result<(), DeviceError>) {
        let leads = writing.member == self.lead;
        if let Some(own) = self
            .members
            .get_mut(writing.member)
            .and_then(|m| m.record.as_mut())
        {
            own.generation = writing.record.generation;
        }
        match written {
            Ok(()) if leads => {
                self.recorded = writing.version;
                self.durable_marks = writing.record.marks;
            }
            Err(error) if leads => self.broken = Some(error),
            _ => {}
        }
    }

    /// `ended`: or else the one who wrote it went away in the middle, and what is on the disk is not known.
    pub(super) fn release_record(&mut self, ended: bool) {
        self.record_busy = false;
        if !ended {
            self.broken = Some(DeviceError::Gone);
        }
    }

    /// A write begins, unless the blocks belong to somebody; its number.
    pub(super) fn begin_write(&mut self, blocks: &Range<u64>) -> Option<u64> {
        let taken = self
            .locked
            .as_ref()
            .is_some_and(|locked| overlap(locked, blocks));
        if taken {
            return None;
        }
        let lacks =
            self.members_that(|standing| matches!(standing, Standing::Out | Standing::Absent));
        if self.record(self.lead).is_some() && lacks != [None; 2] {
            let regions = self.touched(blocks);
            self.stale.extend(regions);
        }
        Some(self.note_write(blocks.clone()))
    }

    /// Notes that these blocks are about to be written, by whoever has them to himself; its number.
    pub(super) fn note_write(&mut self, blocks: Range<u64>) -> u64 {
        let number = self.take_number();
        self.writes.insert(number, blocks);
        number
    }

    fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn end_write(&mut self, number: u64) {
        if let Some(blocks) = self.writes.remove(&number)
            && self.record(self.lead).is_some()
        {
            let regions = self.touched(&blocks);
            self.unflushed.extend(regions);
        }
    }

    /// Takes blocks for oneself; false when others have some.
    pub(super) fn lock(&mut self, blocks: &Range<u64>) -> bool {
        if self.locked.is_some() {
            return false;
        }
        self.locked = Some(blocks.clone());
        true
    }

    pub(super) fn unlock(&mut self) {
        self.locked = None;
    }

    pub(super) fn writes_in(&self, blocks: &Range<u64>) -> bool {
        self.writes.values().any(|other| overlap(other, blocks))
    }

    pub(super) fn begin_flush(&mut self) -> u64 {
        let number = self.take_number();
        self.flushing
            .insert(number, core::mem::take(&mut self.unflushed));
        number
    }

    /// `covered`: every disk in use has completed it.
    pub(super) fn end_flush(&mut self, number: u64, covered: bool) {
        let regions = self.flushing.remove(&number).unwrap_or_default();
        if !covered {
            self.unflushed.extend(regions);
        }
    }

    /// Nothing in these blocks is meant.
    pub(super) fn forget(&mut self, start: BlockIndex, count: u64) {
        for region in self.cut.inside(start, count) {
            self.stale.remove(region);
        }
    }

    /// The disk that is not in may hold something here that misleads.
    pub(super) fn doubt(&mut self, start: BlockIndex, count: u64) {
        if self.record(self.lead).is_some() && !self.is_whole() {
            let regions = self.cut.touched(start, count);
            self.stale.extend(regions.clone());
            self.marks.extend(regions);
            self.version += 1;
        }
    }

    /// The first region to copy from `from` on, then from the start.
    pub(super) fn next_stale(&self, from: u32) -> Option<u32> {
        self.stale.next(from).or_else(|| self.stale.next(0))
    }

    pub(super) fn copied(&mut self, region: u32) {
        self.stale.remove(region);
    }

    /// The other one is about to be brought up to date.
    pub(super) fn begin_resync(&mut self, record: Record, lacks_all: bool) {
        let member = 1 - self.lead;
        self.set_record(member, record);
        if lacks_all {
            self.lacks_all();
        }
        self.forget_unread();
        self.set_standing(member, Standing::Resync);
    }

    /// A block could not be read to be copied; how many that makes.
    pub(super) fn note_unread(&mut self, block: u64) -> u64 {
        let regions = self.touched(&(block..block + 1));
        self.unread.extend(regions);
        self.unread_blocks += 1;
        self.unread_blocks
    }

    pub(super) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// What could not be read is tried once more.
    pub(super) fn retry_unread(&mut self) {
        self.stale.unite(&self.unread);
        self.forget_unread();
    }

    fn forget_unread(&mut self) {
        self.unread = Regions::default();
        self.unread_blocks = 0;
    }

    pub(super) fn want_renewal(&mut self) {
        self.renewal = Some(self.take_number());
    }

    pub(super) fn renewal(&self) -> Option<u64> {
        self.renewal
    }

    /// The wish of this number was granted.
    pub(super) fn renewed(&mut self, number: u64) {
        self.renewal = self.renewal.filter(|wanted| *wanted != number);
    }

    pub(super) fn count_copied(&mut self, blocks: u64) {
        self.resynced_bytes += blocks * BLOCK_SIZE as u64;
    }

    /// Only what still differs is to be marked. After a flush of both.
    pub(super) fn tighten_marks(&mut self) {
        let mut marks = self.stale.clone();
        marks.unite(&self.uncertain());
        marks.unite(&self.unread);
        self.marks = marks;
        self.version += 1;
    }

    /// The other one has everything: the leader's record is to say that it joins. The epoch it joins.
    pub(super) fn begin_joining(&mut self) -> Option<u64> {
        let epochs = [0, 1].map(|member| self.record(member).map_or(0, |record| record.epoch));
        let epoch = epochs.into_iter().max()? + 1;
        let record = self.members.get_mut(self.lead)?.record.as_mut()?;
        if record.other == Other::In {
            record.base = record.epoch;
        }
        record.other = Other::Joining;
        record.epoch = epoch;
        self.version += 1;
        Some(epoch)
    }

    /// The other one's record says that it has joined.
    pub(super) fn end_joining(&mut self) {
        self.set_standing(1 - self.lead, Standing::In);
        self.marks = Regions::default();
        self.stale = Regions::default();
        self.unread = Regions::default();
        self.version += 1;
        if let Some(record) = self
            .members
            .get_mut(self.lead)
            .and_then(|m| m.record.as_mut())
        {
            record.other = Other::In;
            record.base = record.epoch;
        }
    }

    /// Whether what is used of the disks may become more: nothing is on its way that counts in regions of today.
    pub(super) fn may_grow(&self) -> bool {
        let mirrored = self.record(self.lead).is_some();
        !mirrored || (self.is_whole() && !self.record_busy)
    }

    /// The disks have `block_count` blocks now. Regions become larger if there are too few bits for them.
    pub(super) fn grow(&mut self, block_count: u64) {
        let old = self.cut;
        let cut = Cut::new(block_count, old.region_blocks);
        let recut =
            |regions: &Regions| Regions::from_bytes(regions.bytes(), old.region_blocks, cut);
        let all = [&mut self.marks, &mut self.durable_marks, &mut self.stale];
        for regions in all {
            *regions = recut(regions);
        }
        let ratio = cut.region_blocks / old.region_blocks;
        self.head = self.head.start / ratio..self.head.end.div_ceil(ratio);
        let unflushed = core::iter::once(&mut self.unflushed);
        for regions in unflushed.chain(self.flushing.values_mut()) {
            *regions = regions.iter().map(|region| region / ratio).collect();
        }
        for record in self.members.iter_mut().filter_map(|m| m.record.as_mut()) {
            record.marks = recut(&record.marks);
            record.cut = cut;
        }
        self.cut = cut;
    }

    pub(super) fn is_level(&self) -> bool {
        self.stale.is_empty()
    }

    pub(super) fn repaired_count(&self) -> u64 {
        self.repaired
    }

    pub(super) fn repaired(&mut self) {
        self.repaired += 1;
    }

    pub(super) fn status(&self) -> Option<MirrorStatus> {
        self.record(self.lead)?;
        let state = |member| match self.standing(member) {
            Standing::Absent => MemberState::Absent,
            Standing::In => MemberState::In,
            Standing::Out => MemberState::Out,
            Standing::Resync => MemberState::Resync,
        };
        let region_bytes = u64::from(self.cut.region_blocks) * BLOCK_SIZE as u64;
        Some(MirrorStatus {
            members: [state(0), state(1)],
            member_bytes: [0; 2],
            behind_bytes: self.stale.len() * region_bytes,
            resynced_bytes: self.resynced_bytes,
            repaired: self.repaired,
            failures: self.failures,
            unread_blocks: self.unread_blocks,
        })
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FileSystemId;
    use crate::disk::mirror::record::MemberId;

    /// Both in, on disks of `block_count` blocks.
    fn whole(block_count: u64) -> State {
        let cut = Cut::new(block_count, 16);
        let mut state = State::new(cut, 100);
        let record = |id: u8| Record {
            filesystem: FileSystemId([1; 16]),
            generation: 1,
            id: MemberId([id; 16]),
            other_id: MemberId([1 - id; 16]),
            epoch: 1,
            base: 1,
            other: Other::In,
            incomplete: false,
            cut,
            marks: Regions::default(),
        };
        state.both_in([record(0), record(1)]);
        state
    }

    #[test]
    fn what_was_written_before_disks_grew_counts_in_larger_regions_after() {
        // As many regions as there are bits: more blocks need larger ones.
        let before = 16 * 31_744;
        let mut state = whole(before);
        assert_eq!(state.cut().region_blocks, 16);
        for block in [1000, before - 1] {
            let number = state.begin_write(&(block..block + 1)).unwrap();
            state.end_write(number);
        }
        let flushing = state.begin_flush();
        let number = state.begin_write(&(5000..5040)).unwrap();
        state.grow(4 * before);
        assert_eq!(state.cut().region_blocks, 64);
        assert!(state.fail(1));
        // The head, what no flush covers yet and what is being written: and nothing else.
        let is_marked = |block: u64| state.stale.contains(u32::try_from(block / 64).unwrap());
        for block in [0, 99, 1000, before - 1, 5000, 5039] {
            assert!(is_marked(block), "block {block}");
        }
        for block in [192, 900, 1088, 5100, before, 4 * before - 1] {
            assert!(!is_marked(block), "block {block}");
        }
        state.end_write(number);
        state.end_flush(flushing, false);
        let record = state.begin_record(None).unwrap().record;
        let read = |marks: &Regions, block: u64| marks.contains(u32::try_from(block / 64).unwrap());
        assert_eq!(record.cut.region_blocks, 64);
        assert!(read(&record.marks, 1000) && !read(&record.marks, 1088));
    }

    #[test]
    fn disks_do_not_grow_while_one_is_out_or_the_record_is_written() {
        let mut state = whole(1 << 16);
        assert!(state.may_grow());
        assert!(state.begin_record(None).is_some());
        assert!(!state.may_grow());
        state.release_record(true);
        assert!(state.may_grow() && state.fail(0) && !state.may_grow());
    }
}
