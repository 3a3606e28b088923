//! `siltstone`: the host tool for Siltstone's images.
//!
//! From the outside in: [`arguments`] is the command line and its manual; [`commands`] has one module for each command;
//! [`mount`] is the FUSE side; [`image`] opens and closes images, [`device`] is the file or block device
//! under them; [`key`] is what opens encrypted ones; [`backup`] is where backups come from and go to. [`location`], [`output`], [`error`]
//! and [`clock`] are what all of them share.
//!
//! One thread runs everything that touches a file system, as `lfs` wants it; requests to the device run on the
//! runtime's blocking threads.
#![forbid(unsafe_code)]

mod arguments;
mod backup;
mod clock;
mod commands;
mod device;
mod error;
mod image;
mod key;
mod location;
mod mount;
mod output;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::task::LocalSet;

use crate::error::complain;

/// Requests to devices that run at the same time.
const BLOCKING_THREADS_MAX: usize = 16;

fn main() -> ExitCode {
    let arguments = match arguments::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misused(&error),
    };
    key::choose(arguments.origin());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match LocalSet::new().block_on(&runtime, commands::run(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(message) = error.message() {
                complain(message);
            }
            ExitCode::from(error.status())
        }
    }
}

/// Prints help, or what is wrong with the arguments. Of `fsck` the exit status is e2fsck's, also then.
fn misused(error: &clap::Error) -> ExitCode {
    // Whoever read it has gone.
    let _ = error.print();
    let of_fsck = std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "fsck");
    match u8::try_from(error.exit_code()).unwrap_or(2) {
        0 => ExitCode::SUCCESS,
        _ if of_fsck => ExitCode::from(commands::fsck::USAGE),
        status => ExitCode::from(status),
    }
}
