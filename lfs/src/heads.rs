//! Where nodes and survivors are written next: one open segment for each kind of content, so that what lives
//! about as long lies together.

use crate::BlockIndex;
use crate::segments::{SegmentKind, Segments};
use crate::superblock::{SegmentId, Superblock};

/// Heads for survivors, by how often they have survived.
pub(crate) const SURVIVOR_HEADS: usize = 3;

/// An open segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub segment: SegmentId,
    pub next_block: u32,
}

/// All heads but the log's.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    pub nodes: Option<Head>,
    pub survivors: [Option<Head>; SURVIVOR_HEADS],
}

impl Head {
    /// Takes `blocks` blocks in a row from `head`, in a new segment when the one at hand does not have them; a
    /// segment that was left is let go. `None` when no segment is free.
    pub(crate) fn take(
        head: &mut Option<Self>,
        superblock: &Superblock,
        segments: &mut Segments,
        (kind, written_at): (SegmentKind, u64),
        blocks: u32,
    ) -> Option<(SegmentId, BlockIndex)> {
        if let Some(open) = *head
            && superblock.segment_blocks - open.next_block < blocks
        {
            segments.set_pinned(open.segment, false);
            *head = None;
        }
        let open = match head {
            Some(open) => open,
            None => head.insert(Self {
                segment: segments.allocate(kind, written_at)?,
                next_block: 0,
            }),
        };
        let start = superblock.segment_start(open.segment).0 + u64::from(open.next_block);
        open.next_block += blocks;
        Some((open.segment, BlockIndex(start)))
    }
}
