//! Where nodes and survivors are written next: one open segment for each kind of content, so that what lives
//! about as long lies together.

use super::segments::{SegmentKind, Segments};
use crate::BlockIndex;
use crate::disk::superblock::{SegmentId, Superblock};

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
    /// segment that was left is let go. `None`, and nothing has happened, when that would leave fewer than `leave` free
    /// segments.
    pub(crate) fn take(
        head: &mut Option<Self>,
        superblock: &Superblock,
        segments: &mut Segments,
        leave: u32,
        (kind, written_at): (SegmentKind, u64),
        blocks: u32,
    ) -> Option<(SegmentId, BlockIndex)> {
        let fits = |open: &&mut Self| superblock.segment_blocks - open.next_block >= blocks;
        let open = if let Some(open) = head.as_mut().filter(fits) {
            open
        } else {
            if segments.free() <= leave {
                return None;
            }
            let segment = segments.allocate(kind, written_at)?;
            if let Some(left) = head {
                segments.set_pinned(left.segment, false);
            }
            head.insert(Self {
                segment,
                next_block: 0,
            })
        };
        let start = superblock.segment_start(open.segment).0 + u64::from(open.next_block);
        open.next_block += blocks;
        Some((open.segment, BlockIndex(start)))
    }
}
