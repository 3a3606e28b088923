//! Open transactions: what they read, what they lock (`ENGINE.md`, section 4).
//!
//! Under construction: its parts are here and tested, and nothing of the store uses them yet.

pub mod changes;
pub mod digest;
pub mod locks;
pub mod reads;
