//! Siltstone's server as a library: the Redis protocol, sessions, commands, limits. No hardware, no ArceOS.
//!
//! The way of a command, and the module that looks after each part:
//!
//! | part | module |
//! |---|---|
//! | bytes become arguments, replies become bytes | `resp` |
//! | one connection: reads, executes, queues replies, sends them once they may leave | `session` |
//! | what each command is and does | `command` |
//! | connections as CLIENT LIST sees them, and their buffers' memory | `clients` |
//! | every limit and switch | [`config`] |
//! | from disks to an open store | [`disks`] |
//! | what all sessions share; the counters behind INFO | `env`, `info` |
//! | the whole, as a binary uses it | [`Server`] |
//!
//! A session is two loops that run side by side. One reads and executes, back to back, whatever has arrived;
//! each reply is marked with the commit it depends on. The other sends: it waits until the newest commit
//! a batch of replies depends on is durable, so replies leave in order and never too early, while the next commands
//! are executed already. The queue between the two is bounded, and so is everything else.
//!
//! Invariants:
//! - One thread. No `RefCell` stays borrowed over an await, so no borrow can fail.
//! - A transaction begins and commits between two awaits: commands are atomic by construction.
//! - Bytes from outside never reach an assertion; lengths from outside reserve no memory.
//!
//! What is not here: replication, scripts, publish/subscribe, and types other than strings.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod clients;
mod command;
pub mod config;
pub mod disks;
mod env;
mod glob;
mod info;
mod number;
mod resp;
mod server;
mod session;

pub use config::{AppendFsync, Config, ConfigError, Limit};
pub use server::Server;

/// The Redis version whose behaviour clients can expect.
pub(crate) const REDIS_VERSION: &str = "7.2.0";
/// What HELLO says; client libraries look for this very word.
pub(crate) const SERVER_NAME: &str = "redis";
/// Siltstone's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
