//! Siltstone's server as a library: RESP, sessions, commands, limits. No hardware, no ArceOS.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
