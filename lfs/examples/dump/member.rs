//! "Member record" of `SPEC.md`: a disk that is one of two.

use std::fmt;

use super::bytes::{BLOCK, Fallible, crc, u32_at, u64_at};
use super::image::Superblock;

/// What a disk says of the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    In,
    Out,
    Joining,
}

/// What the newest record on a disk says.
pub struct Member {
    pub file_system: [u8; 16],
    pub generation: u64,
    pub disk: [u8; 16],
    pub other_disk: [u8; 16],
    pub epoch: u64,
    pub base: u64,
    pub other: Other,
    pub incomplete: bool,
    pub region_blocks: u64,
    marks: Vec<u8>,
}

impl Member {
    /// The record that counts on a disk, or `None` on one that is not one of two.
    pub fn newest(image: &[u8]) -> Fallible<Option<Self>> {
        let mut newest: Option<Self> = None;
        for block in [7, 8] {
            let start = block as usize * BLOCK;
            let record = image.get(start..start + BLOCK).ok_or("too short")?;
            let Ok(member) = Self::decode(record, block) else {
                continue;
            };
            let newer = newest.as_ref();
            if newer.is_none_or(|other| other.generation < member.generation) {
                newest = Some(member);
            }
        }
        let id = Superblock::find(image).ok().map(|superblock| superblock.id);
        Ok(newest.filter(|member| id.is_none_or(|id| id == member.file_system)))
    }

    fn decode(record: &[u8], block: u64) -> Fallible<Self> {
        let valid = record[..4] == *b"SiMm"
            && u32_at(record, 4)? == crc(&record[8..])
            && u64_at(record, 24)? == block
            && record[89] <= 1;
        if !valid {
            return Err("no valid member record".into());
        }
        let member = Self {
            file_system: record[8..24].try_into()?,
            generation: u64_at(record, 32)?,
            disk: record[40..56].try_into()?,
            other_disk: record[56..72].try_into()?,
            epoch: u64_at(record, 72)?,
            base: u64_at(record, 80)?,
            other: match record[88] {
                0 => Other::In,
                1 => Other::Out,
                2 => Other::Joining,
                other => return Err(format!("the other disk is {other}").into()),
            },
            incomplete: record[89] == 1,
            region_blocks: u32_at(record, 92)?.into(),
            marks: record[128..].to_vec(),
        };
        let numbers = [member.generation, member.epoch, member.base];
        if numbers.iter().any(|number| *number >= 1 << 62)
            || !member.region_blocks.is_power_of_two()
            || member.generation % 2 != block - 7
        {
            return Err("a member record with impossible numbers".into());
        }
        Ok(member)
    }

    /// Whether the region with this block is marked.
    pub fn marks(&self, block: u64) -> bool {
        let region = block / self.region_blocks;
        let byte = usize::try_from(region / 8).ok();
        let byte = byte.and_then(|byte| self.marks.get(byte));
        byte.is_some_and(|byte| byte >> (region % 8) & 1 == 1)
    }

    /// How many regions are marked.
    pub fn marked(&self) -> u32 {
        self.marks.iter().map(|byte| byte.count_ones()).sum()
    }

    fn names(&self, other: &Self) -> bool {
        self.other_disk == other.disk
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = match self.other {
            Other::In => "in",
            Other::Out => "out",
            Other::Joining => "joining",
        };
        let incomplete = if self.incomplete { ", incomplete" } else { "" };
        let (generation, epoch, base) = (self.generation, self.epoch, self.base);
        write!(
            f,
            "one of two disks{incomplete}: generation {generation}, epoch {epoch}, "
        )?;
        let (marked, blocks) = (self.marked(), self.region_blocks);
        write!(
            f,
            "the other is {other}; {marked} regions of {blocks} blocks marked since epoch {base}"
        )
    }
}

/// Which of two disks counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Both,
    First,
    Second,
    Neither,
}

/// Which of two disks that name each other counts.
pub fn counts(first: &Member, second: &Member) -> Counts {
    let members = [first, second];
    let only = |index: usize| [Counts::First, Counts::Second][index];
    let incomplete = members.map(|member| member.incomplete);
    if first.file_system != second.file_system || !first.names(second) || !second.names(first) {
        let gets_all = |to: usize| {
            let (to, from) = (members[to], members[1 - to]);
            to.incomplete && to.names(from) && !from.incomplete
        };
        return match [gets_all(0), gets_all(1)] {
            [true, _] => Counts::Second,
            [_, true] => Counts::First,
            _ => Counts::Neither,
        };
    }
    match incomplete {
        [true, true] => return Counts::Neither,
        [true, false] => return Counts::Second,
        [false, true] => return Counts::First,
        [false, false] => {}
    }
    match members.map(|member| member.other) {
        [Other::Out, Other::Joining] => return Counts::First,
        [Other::Joining, Other::Out] => return Counts::Second,
        [Other::In, Other::In | Other::Joining] | [Other::Joining, Other::In]
            if first.epoch == second.epoch =>
        {
            return Counts::Both;
        }
        _ if first.epoch == second.epoch => return Counts::Neither,
        _ => {}
    }
    let higher = usize::from(first.epoch < second.epoch);
    if members[1 - higher].other == Other::Out {
        return Counts::Neither;
    }
    only(higher)
}

/// What a disk lacks that does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    Marked,
    Everything,
}

/// What `other` lacks, where `counting` counts alone.
pub fn lacks(counting: &Member, other: &Member) -> Lacks {
    let named = counting.names(other);
    if named && counting.other != Other::In && counting.base <= other.epoch {
        Lacks::Marked
    } else {
        Lacks::Everything
    }
}
