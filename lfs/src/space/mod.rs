//! Space: which segments are free, where what is written next, and how what is not meant any more comes back.
//!
//! - `segments`: the segment table; `heads`: the open segments;
//! - `cleaner`: makes segments empty that are mostly not meant any more; `history`: lets go of what nobody sees any more;
//! - `growth`: more segments when the device has become larger.
//!
//! Invariant: a segment that was left is only free again once a durable checkpoint refers to nothing in it, whoever
//! emptied it.
//!
//! Not here: which segments the log goes through (`log::cursor`), and what a checkpoint does to the table.

mod cleaner;
mod growth;
mod heads;
mod history;
mod segments;

pub(crate) use cleaner::CleanerState;
pub use growth::Span;
pub(crate) use heads::{Head, Heads};
pub(crate) use segments::{Segment, SegmentKind, Segments, is_table_block};
