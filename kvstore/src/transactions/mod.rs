//! Transactions that stay open (`ENGINE.md`, section 4).
//!
//! - `open`: begin, statements, savepoints; `commit`: how they end; `registry`: those there are, their limits, who waits for locks;
//! - `changes`, `digest`: what was written since a commit; `reads`: what was read; `locks`.

pub mod changes;
mod commit;
pub mod digest;
pub mod locks;
pub(crate) mod open;
pub mod reads;
pub(crate) mod registry;

pub use commit::{CommitStop, Committed, Conflict, TOKEN_BYTES_MAX};
pub(crate) use commit::{is_token_key, is_token_len};
pub use open::{
    BeginError, BeginOptions, Ended, Isolation, LockStop, OpenTransaction, SavepointError,
};
pub use registry::{OpenTransactions, TransactionLimits};
