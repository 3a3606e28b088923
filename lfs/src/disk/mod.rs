//! The disk: what it does, and what lies where on it.
//!
//! - `device`: the seam to hardware; `buffer`: memory that a request may work on;
//! - `layout`, `superblock`: every fixed structure, and where the parts of a file system lie (SPEC.md);
//! - `copies`: reading what there are several copies of; `mirror`: two disks as one.
//!
//! Invariant: no structure is taken for what it says it is before its checksum, its place and its file system's id agree.
//!
//! Not here: which parts of the disk are free (`space`), the segment table with them, and what the slots of checkpoints say
//! (`checkpoint`).

mod buffer;
mod copies;
mod device;
pub(crate) mod layout;
mod mirror;
pub(crate) mod superblock;

pub(crate) use buffer::SpareBuffers;
pub use buffer::{BLOCK_SIZE, Buffer, BufferAllocError};
pub(crate) use copies::{
    OneCopy, PARTS_MAX, chosen_parts, put_together, read_both, read_checked, read_checked_within,
    read_in_part, read_together, take_parts,
};
pub use device::{Advice, BlockDevice, BlockIndex, Clock, DeviceError, DeviceGeometry, Durable};
pub(crate) use mirror::RECORD_BLOCKS;
pub use mirror::{CommonPart, MemberState, Mirror, MirrorError, MirrorStatus, Side};
pub use superblock::FileSystemId;
