//! `siltstone`: the host tool for Siltstone's images.
//!
//! From the outside in: [`arguments`] is the command line and its manual; [`commands`] has one module for each command;
//! [`mount`] is the FUSE side; [`image`] opens and closes images, [`device`] is the file or block device
//! under them. [`location`], [`output`], [`error`] and [`clock`] are what all of them share.
//!
//! One thread runs everything that touches a file system, as `lfs` wants it; requests to the device run on the
//! runtime's blocking threads.
#![forbid(unsafe_code)]

mod arguments;
mod clock;
mod commands;
mod device;
mod error;
mod image;
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
    let arguments = arguments::Arguments::parse();
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
