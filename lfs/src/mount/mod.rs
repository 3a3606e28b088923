//! From a disk to a mounted file system, and what keeps that going.
//!
//! - `format`: making a file system, and telling what is on a device; `unlock`: who may open it;
//! - `recovery`: mounting, with `read_ahead` for the log that it replays;
//! - `filesystem`: what is mounted; `maintenance`: what that does in the background until it is shut down; `renewal`: writing
//!   anew what counts for being the newest.
//!
//! Invariant: until a mount is finished nothing on the device has changed but copies that proved damaged; a file system
//! that cannot be trusted is refused, never begun anew.
//!
//! Not here: what one does with a mounted file system. Its methods are where their subject is: transactions in
//! `transaction`, checkpoints in `checkpoint`, and so on.

mod filesystem;
mod format;
mod maintenance;
mod read_ahead;
mod recovery;
mod renewal;
mod unlock;

pub use filesystem::FileSystem;
pub(crate) use filesystem::LayerState;
pub(crate) use format::read_superblock;
pub use format::{
    Content, DEVICE_BYTES_MIN, FormatOptions, finish_format, format, format_encrypted,
    format_encrypted_unfinished, format_unfinished, probe,
};
pub(crate) use maintenance::SEGMENTS_PER_CHECKPOINT;
pub use recovery::Recovery;
pub use unlock::{
    Encryption, Entropy, KeyChange, KeySlotInfo, Unlock, change_keys, key_slots, verify_key,
};
pub(crate) use unlock::{damaged_copies, slots_block, unlock};
