//! Whether a file system holds together: checking one that is not mounted, repairing what can be repaired safely, and
//! verifying one in use.
//!
//! [`check`] only reads. It goes through superblock, slots, segment table, the log, both trees and all their items,
//! and compares what they say of each other: what is on the disk, and the state after the log is replayed in
//! memory. Whatever is on the disk, it ends, does not panic, and takes no more memory than a mount and
//! [`CheckOptions::table_bytes_max`]. What is damaged in one place does not keep it from checking the rest.
//!
//! - `report`: findings; `head`: the structures at the start of the device;
//! - `items`: what is told from an object's own items; `graph`: links, names and parents;
//! - `trees`: the way through both trees; this file: what comes first and in the end; `repair`;
//! - `dump`: what is on a disk, structure by structure; `scrub`: a mounted file system, in the background; `audit`, for
//!   tests: whether one in memory counts right.
//!
//! Each node is read once, unless there are more inodes than the tables hold: then the tree is read once
//! for each part of them. With [`CheckOptions::data`] each stored extent is read once for each piece that names it.
//!
//! Not here: whether what snapshots show hangs together as directories do; whether the content of files makes sense.

#[cfg(feature = "sim")]
mod audit;
mod dump;
mod graph;
mod head;
mod items;
mod repair;
mod report;
mod scrub;
mod trees;

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;

#[cfg(feature = "sim")]
pub use audit::{Audit, Contradiction};
pub use dump::{DumpEvent, DumpField, DumpFields, DumpOptions, DumpRecord, dump};
pub(crate) use items::PieceAt;
pub use repair::{RepairError, RepairOutcome, repair};
pub use report::{Finding, NodeDefect, Part, Problem, Repair, Severity, Summary};
pub use scrub::{ScrubError, ScrubOptions, ScrubStatus};
pub(crate) use trees::{damaged_bytes, node_finding};

use crate::checkpoint::Checkpoint;
use crate::disk::superblock::{SegmentId, Superblock};
use crate::mount::Unlock;
use crate::seal::SharedVault;
use crate::space::{SegmentKind, Segments};
use crate::transaction::Volume;
use crate::{BlockDevice, CommitNumber, MountError, Recovery, Structure};
use head::Head;
use items::Space;
use trees::Checker;

/// Findings kept back until a path can be said with them.
const PENDING_MAX: usize = 4096;
/// Damaged ranges of objects that are told apart.
const DAMAGED_RANGES_MAX: usize = 1024;

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct CheckOptions<'k> {
    /// What opens a file system that has a key; one without is refused then.
    pub key: Option<Unlock<'k>>,
    /// Also read and verify all file data and objects.
    pub data: bool,
    /// Memory for the tables of inodes and names. 64 bytes suffice for a file, so the default holds a million files; with
    /// more, the tree is gone through more than once. Another quarter of it is for directories.
    pub table_bytes_max: usize,
}

impl Default for CheckOptions<'_> {
    fn default() -> Self {
        Self {
            key: None,
            data: false,
            table_bytes_max: 128 << 20,
        }
    }
}

/// What a check says on its way.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum CheckEvent<'e> {
    /// Something was found.
    Finding(&'e Finding),
    /// So far: bytes of `total` gone through, as far as that is known.
    Progress {
        /// Bytes gone through.
        done: u64,
        /// Of so many.
        total: u64,
    },
}

/// Where findings go.
pub(crate) struct Sink<'e> {
    events: &'e mut dyn FnMut(CheckEvent<'_>),
    pub(crate) summary: Summary,
    /// Findings that wait for their path.
    pending: Vec<Finding>,
    /// Objects of which something cannot be read, as ranges.
    damaged: Vec<(u64, u64)>,
    done: u64,
    total: u64,
}

impl<'e> Sink<'e> {
    fn new(events: &'e mut dyn FnMut(CheckEvent<'_>)) -> Self {
        Self {
            events,
            summary: Summary::default(),
            pending: Vec::new(),
            damaged: Vec::new(),
            done: 0,
            total: 0,
        }
    }

    fn report(&mut self, finding: Finding) {
        self.summary.count(&finding);
        if finding.inode.is_some() && self.pending.len() < PENDING_MAX {
            self.pending.push(finding);
        } else {
            (self.events)(CheckEvent::Finding(&finding));
        }
    }

    fn emit(&mut self, finding: &Finding) {
        (self.events)(CheckEvent::Finding(finding));
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.total = self.total.max(self.done);
        (self.events)(CheckEvent::Progress {
            done: self.done,
            total: self.total,
        });
    }

    /// What belongs to these objects cannot be read in part.
    fn note_damage(&mut self, first: u64, last: u64) {
        if self.damaged.len() >= DAMAGED_RANGES_MAX {
            self.damaged.clear();
            self.damaged.push((0, u64::MAX));
            return;
        }
        self.damaged.push((first, last));
    }

    /// Whether something of this object may be missing.
    fn is_damaged(&self, object: u64) -> bool {
        let within = |&(first, last): &(u64, u64)| (first..=last).contains(&object);
        self.damaged.iter().any(within)
    }

    /// Whether anything may be missing: names, among others.
    fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }
}

/// Checks the file system on `device`, which must not be mounted for writing; nothing is written. What is found goes
/// to `events`, in no particular order.
pub async fn check<D: BlockDevice>(
    device: &D,
    options: CheckOptions<'_>,
    events: &mut dyn FnMut(CheckEvent<'_>),
) -> Summary {
    let mut sink = Sink::new(events);
    let found = check_all(device, options, &mut sink).await;
    for finding in core::mem::take(&mut sink.pending) {
        sink.emit(&finding);
    }
    drop(found);
    sink.summary
}

/// What a check knows in the end that a repair needs.
pub(crate) struct Found {
    pub superblock: Superblock,
    pub vault: SharedVault,
    pub checkpoint: Checkpoint,
    pub table: Segments,
    pub damaged_table: Vec<u32>,
    /// What the segments were found to hold; `None` when not all could be counted.
    pub counted: Option<Vec<u64>>,
    /// Segments that nodes were found in.
    pub node_segments: Vec<SegmentId>,
}

async fn check_all<D: BlockDevice>(
    device: &D,
    options: CheckOptions<'_>,
    sink: &mut Sink<'_>,
) -> Option<Found> {
    let Head {
        superblock,
        vault,
        checkpoint,
        segments,
        damaged_table,
    } = head::check(device, options.key.as_ref(), sink).await?;
    let (checkpoint, table) = (checkpoint?, segments?);
    let recovery = if damaged_table.is_empty() {
        replay(device, &superblock, &vault, &checkpoint, &table, sink).await
    } else {
        None
    };
    // Without a replay: the trees of the checkpoint, as they are on the disk.
    let bare;
    let (volume, last_commit) = if let Some(recovery) = &recovery {
        let last = recovery.last_commit().max(checkpoint.tree_commit);
        (recovery.volume(), last)
    } else {
        bare = bare_volume(&superblock, &vault, &checkpoint, sink)?;
        // What the log has after it is not known.
        (&bare, CommitNumber(u64::MAX))
    };
    let whole = recovery.is_some() && sink.summary.mounts;
    let mut checker = Checker {
        device,
        volume,
        table: damaged_table.is_empty().then_some(&table),
        space: Space::new(table.count())?,
        node_segments: Vec::new(),
        data: options.data,
        last_commit,
        nodes_counted: true,
    };
    // Those that the log took since are not in the table on the disk.
    let replayed = volume.segments.borrow().clone();
    if checker.table.is_some() && recovery.is_some() {
        checker.table = Some(&replayed);
    }
    sink.total = expected_bytes(&replayed, &table, options.data);
    checker.count_objects(&checkpoint);
    checker.trees(options, sink).await;
    if options.data {
        checker.objects(&superblock, &checkpoint, sink).await;
    }
    let counted = checker.nodes_counted.then_some(checker.space.0);
    let node_segments = checker.node_segments;
    if let Some(counted) = &counted
        && whole
    {
        compare_space(&superblock, &replayed, counted, sink);
    }
    sink.summary.live_bytes = replayed.live_bytes();
    Some(Found {
        superblock,
        vault,
        checkpoint,
        table,
        damaged_table,
        counted,
        node_segments,
    })
}

fn expected_bytes(replayed: &Segments, table: &Segments, data: bool) -> u64 {
    let nodes = |segments: &Segments| {
        let of_nodes = segments
            .iter()
            .filter(|(_, s)| s.kind == SegmentKind::Nodes);
        of_nodes.map(|(_, s)| u64::from(s.live_bytes)).sum::<u64>()
    };
    if data {
        replayed.live_bytes().max(table.live_bytes())
    } else {
        nodes(replayed).max(nodes(table))
    }
}

/// Replays the log in memory; says what is wrong with it. What there is when it ends early is the state as far as
/// it could be replayed.
async fn replay<'d, D: BlockDevice>(
    device: &'d D,
    superblock: &Superblock,
    vault: &SharedVault,
    checkpoint: &Checkpoint,
    table: &Segments,
    sink: &mut Sink<'_>,
) -> Option<Recovery<&'d D>> {
    let begun = Recovery::begin(
        device,
        *superblock,
        Rc::clone(vault),
        checkpoint.clone(),
        table.clone(),
    )
    .await;
    let mut recovery = match begun {
        Ok(recovery) => recovery,
        Err(error) => {
            let slot = superblock.slot_block(Checkpoint::slot(checkpoint.sequence));
            let problem = match error {
                MountError::Device(error) => Problem::Unreadable(error),
                MountError::OutOfMemory => Problem::OutOfMemory,
                // The walk through the trees says where.
                MountError::Damaged {
                    structure: Structure::Node | Structure::Item,
                    ..
                } => return None,
                _ => Problem::CheckpointNonsense,
            };
            sink.report(Finding::new(Part::Checkpoint, problem).at(slot));
            return None;
        }
    };
    let mut commits = 0;
    let ended = loop {
        match recovery.next_commit().await {
            Ok(Some(_)) => commits += 1,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let last = recovery.last_commit();
    if commits > 0 {
        sink.summary.replayed_commits = commits;
        sink.report(Finding::new(
            Part::Log,
            Problem::LogReplayed { commits, last },
        ));
    }
    match ended {
        Ok(()) => sink.summary.mounts = true,
        Err(MountError::Damaged { structure, block }) => {
            let problem = match structure {
                Structure::CommitGroup => Some(Problem::LogDamaged { last }),
                Structure::Checkpoint => Some(Problem::NewerCheckpointLost),
                // The walk through the trees says where.
                _ => None,
            };
            if let Some(problem) = problem {
                sink.report(Finding::new(Part::Log, problem).at(block));
            }
        }
        Err(MountError::Device(error)) => {
            sink.report(Finding::new(Part::Log, Problem::Unreadable(error)));
        }
        Err(_) => sink.report(Finding::new(Part::Log, Problem::OutOfMemory)),
    }
    Some(recovery)
}

/// The trees of the checkpoint without anything else.
fn bare_volume(
    superblock: &Superblock,
    vault: &SharedVault,
    checkpoint: &Checkpoint,
    sink: &mut Sink<'_>,
) -> Option<Volume> {
    let Some(segments) = Segments::new(superblock, checkpoint.segment_count) else {
        sink.report(Finding::new(Part::SegmentTable, Problem::OutOfMemory));
        return None;
    };
    let segments = Rc::new(RefCell::new(segments));
    match Volume::new(*superblock, Rc::clone(vault), segments, checkpoint) {
        Ok(volume) => Some(volume),
        Err(damaged) => {
            let problem = Problem::Node {
                level: u8::MAX,
                reason: NodeDefect(damaged.defect),
                first: 0,
                last: u64::MAX,
            };
            sink.report(Finding::new(Part::LiveTree, problem).at(damaged.block));
            None
        }
    }
}

fn compare_space(
    superblock: &Superblock,
    replayed: &Segments,
    counted: &[u64],
    sink: &mut Sink<'_>,
) {
    for ((id, segment), &counted) in replayed.iter().zip(counted) {
        let recorded = u64::from(segment.live_bytes);
        if recorded != counted {
            let problem = Problem::LiveBytes {
                segment: id.0,
                recorded,
                counted,
            };
            let finding = Finding::new(Part::SegmentTable, problem)
                .at(superblock.segment_start(id))
                .by(Repair::LiveBytes);
            sink.report(finding);
        }
    }
}
