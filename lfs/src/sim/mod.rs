//! Simulation for tests of every layer: a disk that can lose its power, a clock that only moves when
//! everybody waits, and an executor whose choices follow a seed.
//!
//! What the disk does is the media model of `SPEC.md`: a sector is written whole or not at all; of the
//! writes that no completed flush covers, any subset of sectors survives; a failed request says
//! nothing. The same seed gives the same run.

mod damage;
mod disk;
mod executor;
mod random;
mod view;

pub use damage::{Damage, forge};
pub use disk::{Crash, Fate, Flushing, Request, SimDisk};
pub use executor::{Executor, SimClock};
pub use random::{Random, seed_from};
pub use view::MemoryView;
