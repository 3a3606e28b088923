//! The tool as its users run it: the built binary, images in temporary directories, real mounts, real programs.
//!
//! Everything ends by itself: each process has a limit, and a mount is taken down also when a test panics. What a
//! test needs and does not find is a failure that says what to do (`scripts/setup-test --cli` installs it all).
//! Mounts need root.

mod backup;
mod careful;
mod commands;
mod copy;
mod damaged;
mod encryption;
mod files;
mod fsx;
mod grow;
mod harness;
mod hostile;
mod mirror;
mod pjdfstest;
mod programs;
mod progress;
